#!/usr/bin/env python3
"""Verifies and restores a vault repository. Written from spec/format.md alone, whose rules ([SEG-2]) the messages name.

    reader.py REPOSITORY                                  lists the snapshots
    reader.py REPOSITORY verify                           verifies every file and every tree
    reader.py REPOSITORY restore SNAPSHOT[:PATH] TARGET   restores into a new or empty folder

SNAPSHOT is `latest` or the beginning of an id. An encrypted repository is opened with the passphrase in the variable
VAULT_PASSPHRASE, or with the first line of a file: --passphrase-file FILE. A recovery key will do in its place.
Needs Linux, Python 3.8, reader_bytes.py beside it, and the packages `blake3` and `zstandard`; for what is encrypted
also `cryptography` and `argon2-cffi`. Nothing is written to the repository.
Exit codes: 0 done, 1 failed, 2 usage, 10 no repository, 12 wrong passphrase, 13 damage found.
"""
import collections, datetime, itertools, os, re, stat, sys
from blake3 import blake3
sys.dont_write_bytecode = True
import reader_bytes
from reader_bytes import DATA, ENUMS, LIST, STRUCTS, TREE, Damage, Pack, decode, need, object_file

DIRECTORY, FILE, SYMLINK, FIFO, SOCKET, BLOCK, CHARACTER, IMPLIED, LEFT_OUT = range(9)
FOLDERS = (DIRECTORY, IMPLIED)

found = collections.Counter()

def say(kind, message):
    found[kind] += 1
    print(f"{kind}: {message}", file=sys.stderr)

def stop(code, message):
    print(message, file=sys.stderr)
    sys.exit(code)

def show(name):  # as text, without anything that could control a terminal
    text = name.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

class Repository:
    def __init__(self, place, secret, verify):
        self.place, self.where, self.skip, self.failed = os.path.abspath(place), "", set(), None
        read = lambda data: (data, *reader_bytes.config_file(data))
        configs = [self.sound(name, read) for name in ("config", "config.2")]
        none = "without config and config.2 it is no repository"
        data, id, config, checked = configs[0] or configs[1] or stop(10, none)
        if None not in configs and configs[0][0] != configs[1][0]:
            say("damage", "[REPO-4] config and config.2 differ")
            if configs[0][2].encryption != configs[1][2].encryption:
                stop(13, "damage: config: [CONF-5] config and config.2 differ in whether anything is encrypted")
        if self.listed("features", "read-.*"):
            stop(1, "it has a feature that this reader does not know")
        self.key, key_files = None, self.listed("keys", optional=True)
        if config.encryption:
            self.keys = reader_bytes.Keys(id, self.unlock(id, data, (config, checked), secret, key_files))
        else:
            if key_files:
                stop(13, "damage: config: [CONF-5] there are keys, and it says that nothing is encrypted")
            if secret is not None:
                stop(1, "a passphrase was given, and the repository says that it is not encrypted")
            self.keys = reader_bytes.Keys(id)
        self.heed_records()
        snapshots, segments = self.listed("snapshots"), self.listed("index")  # in this order: [DUR-9]
        packs = [Pack(os.path.join(self.place, name), name, bytes.fromhex(name[-64:]), size, self.keys)
                 for first in range(256) for name, size in self.listed(f"packs/{first:02x}")]
        read = [(name[-64:], self.sound(name, object_file, b"VLTSNAP1", self.keys, "Snapshot"))
                for name, _ in snapshots]
        self.snapshots = sorted([(body[1].start, id, body[1]) for id, body in read if body])
        self.load_index([self.sound(name, reader_bytes.segment, self.keys) for name, _ in segments], packs, verify)

    def unlock(self, id, config_bytes, config, secret, key_files):  # the master secret
        if secret is None:
            stop(12, "it is encrypted: give the passphrase in VAULT_PASSPHRASE, or --passphrase-file FILE")
        tried, master = 0, None
        if reader_bytes.is_recovery(secret):
            master = reader_bytes.recovery_master(secret)
            tried = master or stop(12, "[KEY-5] this recovery key has a typing error: its checksum does not fit")
        else:
            for self.key, _ in key_files:
                opened = self.sound(self.key, lambda data: (reader_bytes.open_key(data, id, config_bytes, secret),))
                master, tried = opened and opened[0], tried + (opened is not None)
                if master:
                    break
        if master is None:
            if not tried:
                stop(13, "no key can be read" if key_files else "it is encrypted, and all its keys are missing")
            stop(12, f"wrong passphrase: it opens none of the {tried} keys that were tried")
        if not reader_bytes.is_of(*config, master):
            stop(13, "damage: config: [CONF-4] it was altered or exchanged, or the key is that of another repository")
        return master

    def heed_records(self):
        copy = self.sound("copy", object_file, b"VLTCOPY1", self.keys, "CopyInfo")
        read = [(name, self.sound(name, object_file, b"VLTRECRD", self.keys, "RecordBody", "RecordOuter"))
                for name, _ in self.listed("records", optional=True)]
        says = [(name[-64:], record[0]) for name, record in read
                if record and record[0].scope in ((0, None), (1, copy and copy[1].copy))]
        undone = {id.hex() for _, record in says if record.kind == 2 for id in record.ids}
        said = lambda kind: {id.hex() for name, record in says if record.kind == kind and name not in undone
                             for id in record.ids}
        if self.key and self.key[-64:] in said(5):
            stop(12, f"the key {self.key} that this passphrase opens was removed from the repository")
        self.forgotten = said(1) - said(3)  # [REC-3]

    def sound(self, name, read, *args):  # what `read` makes of the bytes of a file; if it is damaged, that is said
        try:
            with open(os.path.join(self.place, name), "rb") as file:
                data = file.read()
            need("/" not in name or blake3(data).hexdigest() == name[-64:], "REPO-1", "its hash is not its name")
            return read(data, *args)
        except OSError as error:
            say("damage", f"{name}: {error}")

    def listed(self, folder, pattern="[0-9a-f]{64}", optional=False):
        if optional and not os.path.exists(os.path.join(self.place, folder)):
            return []  # a tool that skips empty folders made this copy
        try:
            names = sorted(filter(re.compile(pattern).fullmatch, os.listdir(os.path.join(self.place, folder))))
            return [(f"{folder}/{name}", os.stat(f"{self.place}/{folder}/{name}").st_size) for name in names]
        except OSError as error:
            say("damage", f"the folder {folder}: {error}")
            return []

    def load_index(self, segments, packs, verify):
        # Chunk id -> places: from the segments; of packs that none covers, or to verify, from their frames.
        self.index, covered = collections.defaultdict(list), set()
        known = {(pack.id, pack.size): pack for pack in packs}
        for rows, facts in () if verify else filter(None, segments):
            rows = [known.get((id, size)) for id, size, _ in rows]
            covered.update(rows)
            for id, _, row, frame, _, at, length in facts:
                if rows[row]:
                    self.index[id].append((rows[row], frame, at, length))
        for pack in set(packs) - covered:
            if verify:
                self.sound(pack.name, pack.check)
            for id, *place in pack.chunks():
                self.index[id].append((pack, *place))

    def chunk(self, kind, id):
        error = f"chunk {id.hex()} is in no pack"
        for pack, frame, at, length in self.index.get(id, ()):
            try:
                plain = pack.frame(frame)[3][at:at + length]
                need(blake3(plain, key=self.keys.chunk[kind]).digest() == id, "FRAME-6", pack.path)
                return plain
            except OSError as caught:
                error = caught
        raise Damage(error)

    def lost(self, names, error):
        say("damage", f"{self.where}{show(b'/'.join(names)) or '/'}: {error}")

    def nodes(self, kind, root, total, names):
        """The items of all leaves below `root`. What cannot be read is reported, and the rest follows."""
        pending = [(root, total)]
        while pending:
            id, total = pending.pop()
            try:
                form, value = decode(self.chunk(kind, id), "TreeNode" if kind == TREE else "ListNode")
            except OSError as error:
                self.lost(names, error)
                form, value = 0, [(1, total)] if kind == LIST else []  # as if a hole: what follows keeps its place
            if form == 0:
                yield from value
            else:
                pending.extend((node, count) for *_, count, node in reversed(value.children))

    def entries(self, root, names):
        last = b""
        for entry in self.nodes(TREE, root, None, names):
            if entry.name <= last or entry.name in (b".", b"..") or {0, 47} & set(entry.name):
                self.lost(names, f"[TREE-3] the name {show(entry.name)} is not possible here")
            else:
                yield entry
            last = entry.name

    def content(self, size, content, names, read=True):  # (offset, bytes) of what is no hole; damage is reported
        (form, value), at = content, 0
        if form == 0:
            yield 0, value
        for hole, piece in () if form == 0 else value if form == 1 else self.nodes(LIST, value, size, names):
            try:
                if not hole and (read or piece[0] not in self.index):
                    yield at, self.chunk(DATA, piece[0])
            except OSError as error:
                self.lost(names, error)
            at += piece if hole else piece[1]

    def walk(self, root):
        """(names, entry, whether it is left) of all below but folders in `skip`. Depth costs memory, not stack."""
        names, stack = [], [(root, self.entries(root.kind[1], []))]
        while stack:
            entry = next(stack[-1][1], None)
            if entry is None:
                yield names, stack.pop()[0], True
                del names[-1:]
                continue
            names.append(entry.name)
            yield names, entry, False
            if entry.kind[0] in FOLDERS and entry.kind[1] not in self.skip and entry is not self.failed:
                stack.append((entry, self.entries(entry.kind[1], names)))
            else:
                names.pop()

    def verify_parity(self):  # nothing needs it, and its name is not its hash
        for first in range(256):
            for name, _ in self.listed(f"packs/{first:02x}", "[0-9a-f]{64}[.]par"):
                try:
                    with open(os.path.join(self.place, name), "rb") as file:
                        reader_bytes.parity(file.read(), self.keys.repository, bytes.fromhex(name[-68:-4]))
                except OSError as error:
                    say("damage", f"{name}: {error}")

    def verify(self):
        """The trees, each folder once. All other files were read on opening, and the index has whole chunks only."""
        for _, id, snapshot in self.snapshots:
            self.where = f"snapshot {id[:16]}, "
            notes = [snapshot.root._replace(kind=(DIRECTORY, snapshot.notes))] if snapshot.notes else []
            for names, entry, left in itertools.chain(*map(self.walk, [snapshot.root, *notes])):
                contents = [(0, value) for _, value in entry.meta.xattrs] + [entry.kind[1]] * (entry.kind[0] == FILE)
                for size, content in () if left else contents:
                    collections.deque(self.content(size, content, names, False), 0)
                if left:
                    self.skip.add(entry.kind[1])

    def restore(self, top, target):
        os.makedirs(target, mode=0o700, exist_ok=True)
        if os.listdir(target):
            stop(1, f"{target} is not empty")
        os.umask(0o077)
        os.chdir(target)  # and from here on always into the folder that is filled: no path grows too long
        self.top, self.links = os.getcwdb(), {}
        for names, entry, left in self.walk(top) if top.kind[0] in FOLDERS else [([top.name], top, False)]:
            try:
                if left:
                    os.chdir(".." if names else ".")
                    if entry.kind[0] != IMPLIED:
                        self.metadata(names, entry)
                elif entry.kind[0] in FOLDERS:
                    os.mkdir(entry.name)
                    os.chdir(entry.name)
                elif entry.kind[0] != LEFT_OUT:
                    self.create(names, entry)
            except OSError as error:
                say("error", f"{show(b'/'.join(names))}: {error}")
                self.failed = entry
                if entry.kind[0] == FILE and os.path.lexists(entry.name):
                    os.unlink(entry.name)

    def create(self, names, entry):
        damage, name, (kind, value), group = found["damage"], entry.name, entry.kind, entry.meta.link_group
        if group in self.links:
            *above, first = self.links[group]
            path = first if above == names[:-1] else os.path.join(self.top, *above, first)
            try:
                return os.link(path, name, follow_symlinks=False)
            except OSError:
                pass  # the path is too long for the system: a copy will do
        if kind == FILE:
            with open(name, "xb") as file:
                for at, data in self.content(*value, names):
                    file.seek(at)
                    file.write(data)
                file.truncate(value[0])
        elif kind == SYMLINK:
            os.symlink(value, name)
        else:
            form = {FIFO: stat.S_IFIFO, SOCKET: stat.S_IFSOCK, BLOCK: stat.S_IFBLK, CHARACTER: stat.S_IFCHR}[kind]
            os.mknod(name, form | 0o600, os.makedev(*value) if value else 0)
        self.metadata(names, entry)
        if found["damage"] > damage:
            os.unlink(name)
        elif group:
            self.links[group] = list(names)

    def metadata(self, names, entry):
        """The order matters: a new owner takes away set-user-id and capabilities, and a mode may forbid attributes."""
        meta, name, damage = entry.meta, entry.name if names else b".", found["damage"]
        def attempt(what, call, *args, **more):
            try:
                call(name, *args, **more)
            except (OSError, OverflowError) as error:
                say("note", f"{show(b'/'.join(names))}: cannot set its {what}: {error}")
        if os.geteuid() == 0:
            attempt("owner", os.chown, meta.uid, meta.gid, follow_symlinks=False)
        for key, content in meta.xattrs:
            value = b"".join(data for _, data in self.content(0, content, names))
            if found["damage"] == damage:
                attempt(f"attribute {show(key)}", os.setxattr, key, value, follow_symlinks=False)
        if entry.kind[0] != SYMLINK:
            attempt("mode", os.chmod, meta.mode)
        attempt("time", os.utime, ns=(meta.mtime.secs * 10**9 + meta.mtime.nanos,) * 2, follow_symlinks=False)

    def find(self, wanted):  # the entry of SNAPSHOT[:PATH]
        prefix, _, path = os.fsencode(wanted).partition(b":")
        fitting = [snapshot for _, id, snapshot in self.snapshots
                   if id.startswith(os.fsdecode(prefix))
                   or prefix == b"latest" and snapshot.state == 0 and id not in self.forgotten]
        fitting = fitting[-1:] if prefix == b"latest" else fitting
        entry = fitting[0].root if len(fitting) == 1 else None
        for name in filter(None, path.split(b"/")):
            below = self.entries(entry.kind[1], [path]) if entry and entry.kind[0] in FOLDERS else ()
            entry = next((item for item in below if item.name == name), None)
        return entry or stop(13 if found["damage"] else 1, f"{wanted} is not there, or not one snapshot only")

def main(args):
    secret = os.environb.get(b"VAULT_PASSPHRASE")
    if "--passphrase-file" in args[:-1]:
        at = args.index("--passphrase-file")
        with open(args[at + 1], "rb") as file:
            secret = re.match(rb"[^\r\n]*", file.read()).group()
        del args[at:at + 2]
    if not (len(args) == 1 or args[1:] == ["verify"] or len(args) == 4 and args[1] == "restore"):
        stop(2, __doc__)
    repository = Repository(args[0], secret, args[1:] == ["verify"])
    if len(args) == 1:
        for start, id, snapshot in repository.snapshots:
            state = ("complete", "partial", "suspect", "part of plan")[snapshot.state]
            state += ", forgotten" * (id in repository.forgotten)
            when = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=max(0, min(start.secs, 1 << 37)))
            print(f"{id[:16]}  {when}  {state}  {show(b' '.join(source.resolved for source in snapshot.sources))}")
    elif len(args) == 2:
        repository.verify()
        repository.verify_parity()
    else:
        repository.restore(repository.find(args[2]), args[3])
    stop(13 if found["damage"] else 1 if found["error"] else 0, f"{found['damage']} damaged, {found['error']} failed")

if __name__ == "__main__":
    main(sys.argv[1:])
