#!/usr/bin/env python3
"""Verifies and restores a vault repository. Written from spec/format.md alone, whose rules ([PACK-1]) the messages name.

    reader.py REPOSITORY                                                  lists the snapshots
    reader.py REPOSITORY verify                                           verifies every file and every tree
    reader.py REPOSITORY restore [--keep-damaged] SNAPSHOT[:PATH] TARGET  restores into a new or empty folder

SNAPSHOT is `latest` or the beginning of an id. Needs Linux, Python 3.8 and the packages `blake3` and `zstandard`.
Nothing is written to the repository. Exit codes: 0 done, 1 failed, 2 usage, 10 no repository, 13 damage found.
"""
import collections, datetime, os, re, stat, struct, sys
from blake3 import blake3
from decode import *

class Repository:
    def __init__(self, place):
        self.place, self.id, self.index, self.cache, self.cached = place, None, {}, collections.OrderedDict(), 0
        whole = {}
        for name in ("config", "config.2"):
            try:
                data = self.load(name)
                self.id = data[24:40]
                whole[name] = (data, decode(object_file(name, data, b"VLTCONFG", self.id)[1], CONFIG))
            except (Damage, OSError) as error:
                say("damage", f"{name}: {error}")
        if not os.path.isdir(os.path.join(place, "packs")):
            stop(10, f"{place} is no repository")
        if len({data for data, _ in whole.values()}) > 1:
            say("damage", "[REPO-4] config and config.2 differ")
        self.id, config = next(((data[24:40], config) for data, config in whole.values()), (None, (0, 0, 0)))
        features = [name for name, _ in self.list("features") if name.startswith("read-")]
        if config[2] or features:
            stop(1, f"encrypted, or of a feature that this reader does not know: {features}")
        self.snapshots = self.ids("snapshots")  # the order matters: what a listed snapshot needs is there already
        self.segments = self.ids("index")
        self.packs = {}
        for name, size in [item for first in range(256) for item in self.ids(f"packs/{first:02x}")]:
            self.packs[bytes.fromhex(name[-64:])] = pack = Pack(place, name, size)
            if self.id is None and size >= HEADER.size:  # no config is left: any sound pack says the id too
                head = pack.read(0, HEADER.size)
                self.id = head[24:40] if blake3(head[:176]).digest(16) == head[176:] else None

    def load(self, name):
        with open(os.path.join(self.place, name), "rb") as file:
            return file.read()

    def list(self, folder):
        try:
            with os.scandir(os.path.join(self.place, folder)) as entries:
                return sorted((entry.name, entry.stat().st_size) for entry in entries)
        except FileNotFoundError:
            say("damage", f"the folder {folder} is missing")
            return []

    def ids(self, folder):
        listed = [(f"{folder}/{name}", size) for name, size in self.list(folder)]
        valid = re.compile(re.escape(folder) + "/" + (folder[6:] if "/" in folder else "") + r"[0-9a-f]*(?<=/[0-9a-f]{64})\Z")
        for name, _ in listed:
            if not valid.match(name):
                say("note", f"[REPO-3] {name} is no file of a repository")
        return [item for item in listed if valid.match(item[0])]

    def all_snapshots(self):
        """(id, snapshot), oldest first."""
        loaded = []
        for name, _ in self.snapshots:
            try:
                loaded.append((name[-64:], decode(object_file(name, self.load(name), b"VLTSNAP1", self.id)[1], SNAPSHOT)))
            except (Damage, OSError) as error:
                say("damage", f"{name}: {error}")
        return sorted(loaded, key=lambda pair: (pair[1][11], pair[0]))

    def add(self, pack, facts):
        for id, kind, *where in facts:
            places = self.index.setdefault((kind, id), [])
            if (pack, *where) not in places:
                places.append((pack, *where))

    def load_index(self):
        """Segments; the directories of packs that no segment covers; the frames of packs without a directory."""
        covered = set()
        for name, _ in self.segments:
            try:
                rows, facts = segment(name, self.load(name), self.id)
            except (Damage, OSError) as error:
                say("damage", f"{name}: {error}")
                continue
            present = [self.packs.get(id) if id in self.packs and self.packs[id].size == size else None for id, size, _ in rows]
            covered.update(present)
            for id, kind, row, *where in facts:
                if present[row]:
                    self.add(present[row], [(id, kind, *where)])
        for pack in set(self.packs.values()) - covered:
            try:
                self.add(pack, pack.locations())
            except (Damage, OSError) as error:
                say("damage", f"{error}; the frames are read instead")
                self.add(pack, pack.walk())

    def frame(self, pack, offset):
        if (pack, offset) not in self.cache:
            self.cache[pack, offset] = plain = pack.frame(offset)[3]
            self.cached += len(plain)
            while self.cached > CACHE and len(self.cache) > 1:
                self.cached -= len(self.cache.popitem(last=False)[1])
        self.cache.move_to_end((pack, offset))
        return self.cache[pack, offset]

    def chunk(self, kind, id):
        error = f"chunk {id.hex()} of kind {kind} is in no pack"
        for _ in range(2):
            places = self.index.get((kind, id), [])
            for pack, frame_offset, _, at, length in places:
                try:
                    plain = self.frame(pack, frame_offset)[at:at + length]
                    need(blake3(plain, key=KEYS[kind]).digest() == id, "FRAME-6", f"{pack.name} has not chunk {id.hex()}")
                    return plain
                except (Damage, OSError) as caught:
                    error = str(caught)
            for pack in {place[0] for place in places if not place[0].walked}:
                self.add(pack, pack.walk())  # the frame may lie elsewhere, or twice
        raise Damage(error)

    def nodes(self, kind, root, total, lost):
        """The items of all leaves below `root`; what cannot be read is told to `lost`, and the rest follows."""
        rule, pending = ("TREE-2" if kind == TREE else "LIST-1"), [(root, None, None, total)]
        while pending:
            id, level, first, total = pending.pop()
            try:
                form, value = decode(self.chunk(kind, id), TREE_NODE if kind == TREE else LIST_NODE)
                got, items = (0, value) if form == 0 else value
                if form == 1:  # (first name, count or length, node)
                    items = [item if kind == TREE else (None, *item) for item in items]
                count = sum(item[1] for item in items) if form else len(items) if kind == TREE else pieces_len(items)
                need(items or level is None, rule, f"node {id.hex()} is empty")
                begins = items[0][0] if items and kind == TREE else None
                need(level in (None, got) and total in (None, count) and (level is None or first == begins), rule,
                     f"node {id.hex()} is not what its parent says")
            except (Damage, OSError) as error:
                lost(error)
                if kind == LIST:
                    yield (1, total)  # goes for a hole, so that what follows keeps its place
                continue
            if form == 0:
                yield from items
            else:
                pending.extend((node, got - 1, begin, size) for begin, size, node in reversed(items))

    def entries(self, root, lost):
        last = b""
        for entry in self.nodes(TREE, root, None, lost):
            if entry[0] > last:
                yield entry
            else:
                lost(f"[TREE-1] the name {show(entry[0])} is out of order")
            last = entry[0]

    def content(self, size, content, lost, read=True):
        """(offset, bytes) of what is no hole. What cannot be read is told to `lost`."""
        form, value = content
        if form == 0:
            yield 0, value
        at = 0
        for hole, piece in [] if form == 0 else value if form == 1 else self.nodes(LIST, value, size, lost):
            if not hole and not read and not any(place[4] == piece[1] for place in self.index.get((DATA, piece[0]), ())):
                lost(f"chunk {piece[0].hex()} is in no pack, or has another length")
            elif not hole and read:
                try:
                    data = self.chunk(DATA, piece[0])
                    need(len(data) == piece[1], "LIST-2", f"chunk {piece[0].hex()} has another length")
                    yield at, data
                except (Damage, OSError) as error:
                    lost(error)
            at += piece if hole else piece[1]

    def walk(self, root, enter, item, leave, lost):
        """Calls `enter` and `leave` for directories, `item` for the rest. Depth costs memory, not stack."""
        names, stack = [], [(root, self.entries(root[1][1], lambda error: lost(names, error)))]
        while stack:
            entry = next(stack[-1][1], None)
            if entry is None:
                leave(names, stack.pop()[0])
                names and names.pop()
            elif entry[1][0] not in (0, 7):
                item(names, entry)
            elif enter(names, entry):
                names.append(entry[0])
                stack.append((entry, self.entries(entry[1][1], lambda error: lost(names, error))))

def path_of(names, entry=None):
    return b"/".join([*names, entry[0]] if entry else names)

def verify(repository):
    truth, kinds = {}, {"copy": b"VLTCOPY1", **{name: b"VLTRECRD" for name, _ in repository.ids("records")}}
    for name, magic in kinds.items():
        try:
            outer, body = object_file(name, repository.load(name), magic, repository.id)
            if magic == b"VLTRECRD":
                decode(outer, RECORD_OUTER)
            decode(body, RECORD_BODY if outer else COPY)
        except (Damage, OSError) as error:
            say("damage", f"{name}: {error}")
    for pack in repository.packs.values():
        try:
            facts = pack.verify(repository.id)
            truth[pack.id] = fingerprint(facts)
        except (Damage, OSError) as error:
            say("damage", f"{pack.name}: {error}")
            facts = pack.walk()
        repository.add(pack, facts)
    for name, _ in repository.segments:
        try:
            rows, facts = segment(name, repository.load(name), repository.id)
            for row, (id, size, kind) in enumerate(rows):
                need(id in repository.packs, "REPO-6", f"it names the pack {id.hex()}, which is not there")
                mine = fingerprint((fact[0], fact[1], *fact[3:]) for fact in facts if fact[2] == row)
                need(mine == truth.get(id, mine) and repository.packs[id].size == size, "SEG-5", f"of pack {id.hex()} it has other chunks")
        except (Damage, OSError) as error:
            say("damage", f"{name}: {error}")
    clean = set()
    for id, snapshot in repository.all_snapshots():
        before = []
        def lost(names, error, entry=None):
            say("damage", f"snapshot {id[:16]}, {show(path_of(names, entry)) or '/'}: {error}")
        def enter(names, entry):
            before.append(found["damage"])
            return entry[1][1] not in clean or before.pop() < 0
        def leave(names, entry):
            if before.pop() == found["damage"]:
                clean.add(entry[1][1])
        def item(names, entry):
            contents = [(0, content) for _, content in entry[2][5]] + ([entry[1][1]] if entry[1][0] == 1 else [])
            for size, content in contents:
                collections.deque(repository.content(size, content, lambda error: lost(names, error, entry), False), 0)
        roots = [snapshot[1]] + ([snapshot[1][:1] + ((0, snapshot[2]),) + snapshot[1][2:]] if snapshot[2] else [])
        for root in roots:
            before.append(found["damage"])
            item([], root)
            repository.walk(root, lambda names, entry: item(names, entry) or enter(names, entry), item, leave, lost)

class Restore:
    """Writes entries below an empty folder, always relative to the open folder `fd`: no path grows too long."""

    def __init__(self, repository, target, keep_damaged):
        os.makedirs(target, mode=0o700, exist_ok=True)
        if os.listdir(target):
            stop(1, f"{target} is not empty")
        self.repository, self.target, self.keep, self.links, self.unset = repository, target, keep_damaged, {}, collections.Counter()
        self.fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)

    def lost(self, names, error, entry=None):
        say("damage", f"{show(path_of(names, entry)) or '/'}: {error}")

    def enter(self, names, entry):
        try:
            os.mkdir(entry[0], 0o700, dir_fd=self.fd)
            self.step(entry[0])
            return True
        except OSError as error:
            say("error", f"{show(path_of(names, entry))} and all below it: {error}")
            return False

    def step(self, name):
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self.fd)
        os.close(self.fd)
        self.fd = fd

    def leave(self, names, entry):
        if entry[1][0] == 0:
            self.metadata(names[:-1], entry, self.fd, None)
        if names:
            self.step("..")

    def item(self, names, entry):
        name, (kind, value), meta, _ = entry
        try:
            if kind == 8:
                found["left out"] += 1
                return
            if meta[6] and self.link(names, entry):
                return
            if kind == 1:
                self.file(names, entry, *value)
            elif kind == 2:
                os.symlink(value, name, dir_fd=self.fd)
            else:
                form = {3: stat.S_IFIFO, 4: stat.S_IFSOCK, 5: stat.S_IFBLK, 6: stat.S_IFCHR}[kind]
                os.mknod(name, form | 0o600, os.makedev(*value) if value else 0, dir_fd=self.fd)
            if kind != 1:
                self.metadata(names, entry, None, name)
            if meta[6]:
                self.links.setdefault(meta[6], path_of(names, entry))
        except (OSError, Damage) as error:
            say("damage" if isinstance(error, Damage) else "error", f"{show(path_of(names, entry))}: {error}")

    def link(self, names, entry):
        """Makes another name for a file that is there already, if it is."""
        first = self.links.get(entry[2][6])
        if first is None:
            return False
        fd = os.open(self.target, os.O_RDONLY | os.O_DIRECTORY)
        try:
            *folders, name = first.split(b"/")
            for folder in folders:
                fd, above = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd), fd
                os.close(above)
            os.link(name, entry[0], src_dir_fd=fd, dst_dir_fd=self.fd, follow_symlinks=False)
            return True
        except OSError:
            return False  # a copy then: each name has the content in full
        finally:
            os.close(fd)

    def file(self, names, entry, size, content):
        damage, name = found["damage"], entry[0]
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=self.fd)
        try:
            for at, data in self.repository.content(size, content, lambda error: self.lost(names, error, entry)):
                while data:
                    written = os.pwrite(fd, data, at)
                    at, data = at + written, data[written:]
            os.ftruncate(fd, size)
            self.metadata(names, entry, fd, None)
        finally:
            os.close(fd)
        if found["damage"] != damage:
            if self.keep:
                os.link(name, name + b".damaged", src_dir_fd=self.fd, dst_dir_fd=self.fd)
            os.unlink(name, dir_fd=self.fd)
            raise Damage("it is not restored" + (", but for NAME.damaged" if self.keep else ""))

    def metadata(self, names, entry, fd, name):
        """Of the open file `fd`, or of `name` in the current folder. The order matters: a new owner takes away set-user-id
        bits and capabilities, a read-only mode forbids xattrs."""
        mode, uid, gid, (secs, nanos), _, xattrs, _ = entry[2]
        at = {} if name is None else {"dir_fd": self.fd, "follow_symlinks": False}
        place = fd if name is None else b"/proc/self/fd/%d/%s" % (self.fd, name)
        def attempt(what, call, *args, **more):
            try:
                call(*args, **more)
            except (OSError, OverflowError) as error:
                self.unset[what, str(getattr(error, "strerror", error))] += 1
        if os.geteuid() == 0:
            attempt("owner", os.chown, fd if name is None else name, uid, gid, **at)
        for key, content in xattrs:
            before, size = found["damage"], len(content[1]) if content[0] == 0 else pieces_len(content[1])
            value = b"".join(data for _, data in self.repository.content(size, content, lambda error: self.lost(names, error, entry)))
            if before == found["damage"]:
                attempt(f"attribute {show(key)}", os.setxattr, place, key, value, **({} if name is None else {"follow_symlinks": False}))
        if entry[1][0] != 2:
            attempt("mode", os.chmod, fd if name is None else name, mode, **({} if name is None else {"dir_fd": self.fd}))
        attempt("time", os.utime, fd if name is None else name, ns=(secs * 10**9 + nanos,) * 2, **at)

def restore(repository, wanted, target, keep_damaged):
    prefix, _, path = os.fsencode(wanted).partition(b":")
    snapshots = repository.all_snapshots()
    fitting = [(id, snapshot) for id, snapshot in snapshots if id.startswith(os.fsdecode(prefix))]
    if prefix == b"latest":
        fitting = [(id, snapshot) for id, snapshot in snapshots if snapshot[0][0] == 0][-1:]
    if len(fitting) != 1:
        stop(13 if found["damage"] else 1, f"{len(fitting)} snapshots are named {wanted}")
    repository.load_index()
    entry = fitting[0][1][1]
    for name in filter(None, path.split(b"/")):
        below = repository.entries(entry[1][1], lambda error: say("damage", error)) if entry[1][0] in (0, 7) else ()
        entry = next((item for item in below if item[0] == name), None)
        if entry is None:
            stop(13 if found["damage"] else 1, f"{show(path)} is not in the snapshot")
    to = Restore(repository, target, keep_damaged)
    if entry[1][0] in (0, 7):
        repository.walk(entry, to.enter, to.item, to.leave, to.lost)
    else:
        to.item([], entry)
    for (what, why), count in sorted(to.unset.items()):
        print(f"not set on {count} entries: {what}: {why}", file=sys.stderr)
    if found["left out"]:
        print(f"{found['left out']} entries were left out when the snapshot was taken", file=sys.stderr)

def main(args):
    keep = "--keep-damaged" in args
    args = [arg for arg in args if arg != "--keep-damaged"]
    if not (len(args) == 1 or args[1:] == ["verify"] or len(args) == 4 and args[1] == "restore"):
        stop(2, __doc__)
    repository = Repository(args[0])
    if len(args) == 1:
        for id, snapshot in repository.all_snapshots():
            state = ("complete", "partial", "suspect", "part of plan")[snapshot[0][0]]
            start = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=max(0, min(snapshot[11][0], 1 << 37)))
            paths = " ".join(show(source[2]) for source in snapshot[3])
            print(f"{id[:16]}  {start:%Y-%m-%d %H:%M:%S}  {state}  {show(snapshot[7].encode())}  {paths}")
    elif len(args) == 2:
        verify(repository)
    else:
        restore(repository, args[2], args[3], keep)
    stop(13 if found["damage"] else 1 if found["error"] else 0, f"{found['damage']} damaged, {found['error']} failed")

if __name__ == "__main__":
    main(sys.argv[1:])
