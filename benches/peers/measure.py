"""How it is measured: a round takes each program through the stages of a corpus, in a repository of its own.

A sample is a dictionary: `corpus`, `stage`, `program`, `round`, and then `seconds` with `mib` (the peak memory of the
largest process) and `floor` (what of that the measuring itself may be), or `failed`, or `wrong` beside them. For the
stages `size` and `sizes`, the repository after the first and after all versions, `mib` is its size.
"""
import os, resource, shlex, signal, subprocess, sys, tempfile, threading, time

SAVING = ("first", "unchanged", "changed")
PATIENCE_SECONDS = 1800
# A repository of many snapshots is made only by programs that need no longer than this.
MANY_SECONDS = 120

class Failed(Exception):
    pass

class Bench:
    def __init__(self, work, place, binaries, many, report):
        self.source, self.place, self.binaries, self.many = work / "peers-source", place, binaries, many
        self.target, self.report, self.mounted = place / "target", report, False
        self.source.mkdir(exist_ok=True)

    def close(self):
        self.show(None)
        self.source.rmdir()
        remove(self.place)

    def show(self, version):
        """Lets a version of the corpus appear at the path that all programs save."""
        if self.mounted:
            subprocess.run(["umount", self.source], check=True)
        self.mounted = version is not None
        if self.mounted:
            subprocess.run(["mount", "-o", "bind,ro", version, self.source], check=True)

    def run(self, program, words, n=0):
        """Runs a command line of a program; its wall time and peak memory, or `Failed` with its last word."""
        state = self.place / program.key
        names = {"source": self.source, "target": self.target, "state": state, "n": n,
                 "repository": state / "repository"}
        command = [word.format(**names) for word in shlex.split(words)]
        command[0] = self.binaries.get(command[0], command[0])
        env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(state), "TMPDIR": str(state)}
        env |= {f"XDG_{kind}_HOME": f"{state}/{kind.lower()}" for kind in ("CACHE", "CONFIG", "DATA", "STATE")}
        env |= {name: value.format(**names) for name, value in program.env.items()}
        with tempfile.TemporaryFile() as stderr:
            try:
                status, result = spawn(command, env=env, cwd=self.target, stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=stderr)
            except OSError as error:
                raise Failed(f"{os.path.basename(command[0])}: {error.strerror}") from None
            if status:
                stderr.seek(0)
                lines = stderr.read().decode(errors="replace").strip().splitlines() or ["without a word"]
                shown = lines[-1].replace(str(self.source), "SOURCE").replace(str(self.place), "PLACE")
                raise Failed(f"exit {status}: {shown.strip()[:200]}")
        return result

    def begin(self, program):
        """An empty repository, and nothing kept of what was before."""
        state = self.place / program.key
        remove(state)
        remove(self.target)
        state.mkdir(parents=True)
        self.target.mkdir(parents=True)
        for name in ("cache", "config", "data", "state"):
            (state / name).mkdir()
        for name, text in program.files.items():
            (state / name).write_text(text.format(state=state, repository=state / "repository", source=self.source))
        for words in program.init:
            self.run(program, words)

    def round(self, corpus, program, number, wanted):
        """All stages for one program; whether everything could be saved, so that a further round makes sense."""
        def say(stage, **result):
            self.report({"corpus": corpus.name, "stage": stage, "program": program.key, "round": number, **result})
        stage, n, version = "first", 0, corpus.versions[0]
        self.show(version)
        try:
            self.begin(program)
            for stage in corpus.stages:
                words = program.command(stage)
                # Without the first nothing can follow.
                if not words or stage not in wanted and stage != "first":
                    continue
                if stage == "changed":
                    version = corpus.versions[1]
                    self.show(version)
                n += stage in SAVING
                try:
                    make_memory_ready()
                    parts = [self.run(program, part, n) for part in words.split(" && ")]
                    seconds = sum(part["seconds"] for part in parts)
                    result = max(parts, key=lambda part: part["mib"]) | {"seconds": seconds}
                except Failed as failed:
                    if stage in SAVING:
                        raise
                    result = {"failed": str(failed)}
                if stage == "restore" and number == 1 and "failed" not in result:
                    result |= self.difference(program, version)
                say(stage, **result)
                if size := {"first": "size", "changed": "sizes", "prune": "pruned"}.get(stage):
                    say(size, mib=stored(self.place / program.key / "repository"))
        except Failed as failed:
            say(stage, failed=str(failed))
            return False
        finally:
            self.show(None)
            remove(self.place)
        return True

    def difference(self, program, version):
        """What rsync finds between source and restored, but for the attributes of the top folder itself."""
        restored = program.restored.format(target=self.target, source=self.source)
        rsync = ["rsync", "-naiHAXSc", "--delete", "--modify-window=-1", f"{version}/", f"{restored}/"]
        count, first = 0, ""
        with subprocess.Popen(rsync, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as found:
            for line in (line.decode(errors="replace") for line in found.stdout):
                if not (line.startswith(".d") and line.endswith(" ./\n")):
                    count, first = count + 1, first or line.strip()
        if found.returncode and not count:
            return {"wrong": f"rsync: exit {found.returncode}"}
        return {"wrong": f"{count} differences, the first: {first}"} if count else {}

    def start_up(self, corpus, programs, runs, wanted):
        """The stages of the corpus `start`: each program has one repository of many snapshots, listed in turn."""
        def say(program, stage, number, **result):
            self.report({"corpus": corpus.name, "stage": stage, "program": program.key, "round": number, **result})
        self.show(corpus.versions[0])
        ready = {"version": [program for program in programs if program.version], "snapshots": []}
        for program in (program for program in ready["version"] if "snapshots" in wanted):
            try:
                self.begin(program)
                self.take_many(program)
                ready["snapshots"].append(program)
            except Failed as failed:
                say(program, "snapshots", 0, left_out=f"such a repository was not made: {failed}")
        for number in range(1, runs + 1):
            for stage in (stage for stage in corpus.stages if stage in wanted):
                for program in ready[stage]:
                    try:
                        say(program, stage, number, **self.run(program, program.command(stage)))
                    except Failed as failed:
                        say(program, stage, number, failed=str(failed))
        self.show(None)
        remove(self.place)

    def take_many(self, program):
        self.run(program, program.save, 1)
        began, count = time.monotonic(), 1
        while count < self.many:
            self.run(program, program.double or program.again or program.save, count + 1)
            count += count if program.double else 1
            seconds = (time.monotonic() - began) / count * self.many
            if count >= 10 and seconds > MANY_SECONDS:
                raise Failed(f"it would have taken {seconds:.0f} s")

# Where the host of a virtual machine lends its memory, a page that is touched first costs thirty times as much as one that
# was in use a second ago, and who pays would be chance: so a process maps this much, and gives it back at once.
READY_BYTES = 6 << 30
READY = (f"import mmap; memory = mmap.mmap(-1, {READY_BYTES}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); "
         "memory.madvise(14); memory.madvise(23)")  # MADV_HUGEPAGE, MADV_POPULATE_WRITE

def make_memory_ready():
    subprocess.run([sys.executable, "-c", READY], check=True)

def spawn(command, **settings):
    """Runs a command; its exit status (negative for a signal), and what it took."""
    floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    child = subprocess.Popen(command, start_new_session=True, **settings)
    timer = threading.Timer(PATIENCE_SECONDS, os.killpg, (child.pid, signal.SIGKILL))
    timer.start()
    try:
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)
        raise
    finally:
        timer.cancel()
    child.returncode = os.waitstatus_to_exitcode(status)
    # A new process inherits the peak of the one that starts it.
    return child.returncode, {"seconds": wall, "mib": usage.ru_maxrss / 1024, "floor": floor / 1024}

def stored(repository):
    """What the files take, in MiB; the holes of sparse ones do not count."""
    stats = (os.lstat(f"{folder}/{name}") for folder, _, names in os.walk(repository) for name in names)
    return sum(min(stat.st_size, stat.st_blocks * 512) for stat in stats) / 1048576

def remove(folder):
    # Nothing is ever mounted in it. A million files are too many for shutil.
    subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)

def warm(corpus):
    for version in corpus.versions:
        words = ["find", version, "-type", "f", "-exec", "cat", "{}", "+"]
        subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
