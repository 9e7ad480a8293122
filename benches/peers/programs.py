"""What is measured: the command lines of each program, as a user would type them.

In them, {source} is the folder to be saved, {target} an empty one to restore into, {repository} and {state} folders of
the program's own, and {n} counts what was saved. The first word stands for the program that `--peer` names, or else is
found in PATH. Compression is zstd level 3 in all, or what the program takes for about that.
"""
import dataclasses, pathlib, types

@dataclasses.dataclass
class Program:
    key: str
    kind: str  # vault, peer or baseline
    title: str = ""  # if not the key
    version: str = ""
    init: tuple = ()
    save: str = ""
    check: str = ""
    restore: str = ""
    restored: str = "{target}"  # where the source is after that
    list: str = ""
    again: str = ""  # a cheap way to take the same snapshot once more: see `save`
    double: str = ""  # or to double the number of snapshots
    prune: str = ""  # keep the last snapshot only, and free what no other needs: commands with ` && ` between them
    env: dict = dataclasses.field(default_factory=dict)
    files: dict = dataclasses.field(default_factory=dict)  # to be written before `init`, below {state}
    only: tuple = ()  # the stages that say anything, if not all

    def command(self, stage):
        """The command line of a stage, or nothing if the program has none."""
        if self.only and stage not in self.only:
            return ""
        return {"check": self.check, "restore": self.restore, "prune": self.prune, "version": self.version,
                "snapshots": self.list}.get(
            stage, self.save)

    @property
    def binary(self):
        return self.save.split()[0]

VAULT = Program(
    "vault", "vault", version="vault version", init=("vault init --unencrypted",),
    save="vault -q snapshot --as-path /source {source}", check="vault -q check --read-data",
    restore="vault -q restore latest:source --target {target}", list="vault snapshots",
    prune="vault -q forget --keep-last 1 && vault -q prune --force", env={"VAULT_REPOSITORY": "{repository}"})

ENCRYPTED = dataclasses.replace(
    VAULT, key="vault-encrypted", title="vault, encrypted", init=("vault init", "vault key export -o {state}/key"),
    # Without trying the passphrase, which takes long on purpose.
    again="vault -q --recovery-key-file {state}/key snapshot --as-path /source {source}",
    env={**VAULT.env, "VAULT_PASSPHRASE": "correct horse"})

RESTIC = Program(
    "restic", "peer", version="restic version", init=("restic -q init",), save="restic -q backup {source}",
    check="restic -q check --read-data", restore="restic -q restore latest --target {target}",
    restored="{target}{source}", list="restic snapshots", double="restic -q rewrite --new-host host-{n}",
    prune="restic -q forget --keep-last 1 --prune",
    env={"RESTIC_REPOSITORY": "{repository}", "RESTIC_PASSWORD": "correct horse", "RESTIC_CACHE_DIR": "{state}/cache"})

RUSTIC = Program(
    "rustic", "peer", version="rustic --version", init=("rustic init --set-compression 3",),
    save="rustic backup {source}", check="rustic check --read-data", restore="rustic restore latest {target}",
    restored="{target}{source}", list="rustic snapshots", double=RESTIC.double,  # its repositories are restic's
    prune="rustic forget --keep-last 1 && rustic prune --instant-delete --keep-pack 0s",
    env={**RESTIC.env, "RUSTIC_REPOSITORY": "{repository}", "RUSTIC_PASSWORD": "correct horse",
         "RUSTIC_CACHE_DIR": "{state}/cache", "RUSTIC_NO_PROGRESS": "true", "RUSTIC_LOG_LEVEL": "warn"})

# The faster one, as its manual says: SHA-256 where the processor has it.
BORG_MODE = "repokey" if " sha_ni " in pathlib.Path("/proc/cpuinfo").read_text() else "repokey-blake2"
BORG = Program(
    "borg", "peer", version="borg --version", init=(f"borg init --encryption {BORG_MODE}",),
    save="borg create --compression zstd,3 ::{n} {source}", check="borg check --verify-data",
    restore="borg extract ::{n}", restored="{target}{source}", list="borg list",
    prune="borg prune --keep-last 1 && borg compact --threshold 5",
    env={"BORG_REPO": "{repository}", "BORG_PASSPHRASE": "correct horse", "BORG_BASE_DIR": "{state}"})

BUPSTASH = Program(
    "bupstash", "peer", version="bupstash version", init=("bupstash init", "bupstash new-key -o {state}/key"),
    save="bupstash put -q n={n} {source}", restore="bupstash restore -q --ownership --xattrs --into {target} n={n}",
    list="bupstash list",
    env={"BUPSTASH_REPOSITORY": "{repository}", "BUPSTASH_KEY": "{state}/key",
         "BUPSTASH_SEND_LOG": "{state}/sent", "BUPSTASH_QUERY_CACHE": "{state}/queries"})

VYKAR = Program(
    "vykar", "peer", version="vykar --version", init=("vykar init",), save="vykar backup",
    check="vykar check --verify-data", restore="vykar restore latest {target}", list="vykar list",
    prune="vykar prune && vykar compact --threshold 5",
    env={"VYKAR_CONFIG": "{state}/vykar.yaml", "VYKAR_PASSPHRASE": "correct horse"},
    files={"vykar.yaml": """\
cache_dir: "{state}/cache"
repositories:
  - url: "{repository}"
sources:
  - "{source}"
compression:
  algorithm: "zstd"
  zstd_level: 3
retention:
  keep_last: 1
"""})

CONSERVE = Program(
    "conserve", "peer", version="conserve --version", init=("conserve init {repository}",),
    save="conserve backup --no-progress {repository} {source}", check="conserve validate --no-progress {repository}",
    restore="conserve restore --no-progress {repository} {target}", list="conserve versions {repository}")

CP = Program(
    "cp", "baseline", "`cp -a`", init=("mkdir {repository}",), save="cp -a {source} {repository}/{n}",
    restore="cp -a {repository}/{n}/. {target}", only=("first", "restore"))

TAR = Program(
    "tar", "baseline", "`tar \\| zstd -3 -T0`", init=("mkdir {repository}",),
    save="tar --format=posix -I 'zstd -3 -T0' -cf {repository}/{n}.tar.zst -C {source} .",
    check="zstd -tq {repository}/{n}.tar.zst", restore="tar -I zstd -xpf {repository}/{n}.tar.zst -C {target}",
    only=("first", "check", "restore"))

FIND = Program(
    "find", "baseline", "`find -printf`", save="find {source} -printf '%p %s %T@ %C@ %i\\n'", only=("unchanged",))

ALL = types.MappingProxyType({program.key: program for program in (
    VAULT, ENCRYPTED, RESTIC, RUSTIC, BORG, BUPSTASH, VYKAR, CONSERVE, CP, TAR, FIND)})
