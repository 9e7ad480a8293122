#!/usr/bin/env python3
"""Verifies and restores a vault repository. Written from spec/format.md alone, whose rules ([SEG-2]) the messages name.

    reader.py REPOSITORY                                  lists the snapshots
    reader.py REPOSITORY verify                           verifies every file and every tree
    reader.py REPOSITORY restore SNAPSHOT[:PATH] TARGET   restores into a new or empty folder

SNAPSHOT is `latest` or the beginning of an id. Needs Linux, Python 3.8 and the packages `blake3` and `zstandard`.
Nothing is written to the repository. Exit codes: 0 done, 1 failed, 2 usage, 10 no repository, 13 damage found.
"""
import collections, datetime, functools, itertools, os, re, stat, struct, sys
import zstandard
from blake3 import blake3

HEADER, FRAME = struct.Struct("<8sHBBIQ16s128s8s16s"), struct.Struct("<4sIB3sIII8s")
FACT, BLOCK_LEN = struct.Struct("<32sBIIIII"), 1236 * 53 + 16
MAX_PLAIN, FRAMES_KEPT = (32 << 20) + (64 << 10), 100
DATA, TREE, LIST = 1, 2, 3
KEYS = {kind: blake3(b"", derive_key_context=f"vault 2026 plain {word} chunk").digest()
        for kind, word in ((DATA, "data"), (TREE, "tree"), (LIST, "list"))}
DIRECTORY, FILE, SYMLINK, FIFO, SOCKET, BLOCK, CHARACTER, IMPLIED, LEFT_OUT = range(9)
FOLDERS = (DIRECTORY, IMPLIED)

# Structures (format.md §1.1): names and types in turn. [T] is a list, ?T an option, 16 or 32 are bytes, - is nothing.
STRUCTS = {name: (collections.namedtuple(name, items.split()[::2]), items.split()[1::2]) for name, items in {
    "Time": "secs i64 nanos u32", "Field": "tag u32 critical bool value bytes",
    "Config": "version u32 chunker (u32,u32,u32,u8) encryption u32 created Time fields [Field]",
    "SegmentHeader": "packs [(32,u32,u8)] fact_count u64 first_ids [32] fields [Field]",
    "Snapshot": "state u32 root Entry notes ?32 sources [Source] label text tags [text] description text host text"
                " host_id 16 user text program text start Time end Time utc_offset_secs i32 predecessor ?32"
                " made_from [(u32,32)] counters [(u32,u64)] fields [Field]",
    "Source": "origin text given bytes resolved bytes stored_at bytes carried [(bytes,32)]"
              " users [(u32,bytes)] groups [(u32,bytes)]",
    "Entry": "name bytes kind Kind meta Meta fields [Field]",
    "Meta": "mode u32 uid u32 gid u32 mtime Time btime ?Time xattrs [(bytes,Content)] link_group ?16",
    "TreeBranch": "level u8 children [(bytes,u64,32)]", "ListBranch": "level u8 children [(u64,32)]"}.items()}
ENUMS = {name: variants.split() for name, variants in {
    "Kind": "32 (u64,Content) bytes - - (u32,u32) (u32,u32) 32 (u32,u32)", "Content": "bytes [Piece] 32",
    "Piece": "(32,u32) u64", "TreeNode": "[Entry] TreeBranch", "ListNode": "[Piece] ListBranch"}.items()}
found = collections.Counter()

class Damage(OSError):
    """Bytes that break a rule of the format, or cannot be read."""

def need(condition, rule, what=""):
    if not condition:
        raise Damage(f"[{rule}] {what}")

def say(kind, message):
    found[kind] += 1
    print(f"{kind}: {message}", file=sys.stderr)

def stop(code, message):
    print(message, file=sys.stderr)
    sys.exit(code)

def show(name):  # as text, without anything that could control a terminal
    text = name.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        need(count <= len(self.data) - self.at, "CODEC-3")
        self.at += count
        return self.data[self.at - count:self.at]

    def uint(self, bits):
        first = self.take(1)[0]
        if first < 251:
            return first
        value = int.from_bytes(self.take(2 << (first - 251)), "little")
        need(first <= 253 and value >> bits == 0, "CODEC-3")
        need(value >= (251, 1 << 16, 1 << 32)[first - 251], "CODEC-1")
        return value

    def value(self, form):
        if form in BASIC:
            return BASIC[form](self)
        if form in STRUCTS:
            make, forms = STRUCTS[form]
            return make(*map(self.value, forms))
        if form in ENUMS:  # (number, value)
            number = self.uint(32)
            need(number < len(ENUMS[form]), "CODEC-3")
            return number, self.value(ENUMS[form][number])
        if form[0] == "(":
            return tuple(map(self.value, form[1:-1].split(",")))
        if form[0] == "?":
            return self.value(form[1:]) if self.value("bool") else None
        count = self.uint(64)
        need(count <= len(self.data) - self.at, "CODEC-3")
        items = [self.value(form[1:-1]) for _ in range(count)]
        if items and form == "[Field]":
            need(all(a.tag < b.tag for a, b in zip(items, items[1:])), "FIELD-1")
            need(not any(item.critical and item.tag != 1 for item in items), "FIELD-2", "a critical field is unknown")
        return items

BASIC = {"16": lambda c: c.take(16), "32": lambda c: c.take(32), "-": lambda c: None, "u8": lambda c: c.take(1)[0],
         "u32": lambda c: c.uint(32), "u64": lambda c: c.uint(64), "bool": lambda c: c.uint(1) == 1,
         "i32": lambda c: ((value := c.uint(32)) >> 1) ^ -(value & 1),
         "i64": lambda c: ((value := c.uint(64)) >> 1) ^ -(value & 1),
         "bytes": lambda c: c.take(c.uint(64)), "text": lambda c: c.take(c.uint(64)).decode("utf-8", "replace")}

def decode(data, form):
    cursor = Cursor(data)
    value = cursor.value(form)
    need(cursor.at == len(data), "CODEC-2")
    return value

def header(data, magic, repository):  # the repository's id, outer_len and body_len
    need(blake3(data[:176]).digest(16) == data[176:192], "HEAD-3", "the checksum of its header is wrong")
    got, version, kind, seal, outer_len, body_len, id, box, zero, _ = HEADER.unpack_from(data)
    need(got == magic, "HEAD-1", "it is another kind of file")
    need(version == 1 and kind == 0 and zero == bytes(8), "HEAD-2")
    need(repository in (None, id), "HEAD-4", f"it belongs to the repository {id.hex()}")
    need(seal == 0 and box == bytes(128), "HEAD-5", "it is encrypted")
    return id, outer_len, body_len

def object_file(data, magic, repository, form=None):  # the repository's id, and the body decoded
    id, outer_len, body_len = header(data, magic, repository)
    end = HEADER.size + outer_len + body_len
    need(len(data) == end + 32, "OBJ-1", "it has the wrong length")
    need(blake3(data[:end]).digest() == data[end:], "OBJ-2", "the hash at its end is wrong")
    return id, form and decode(data[end - body_len:end], form)

def segment(data, repository):  # rows of packs, and facts
    _, _, body_len = header(data, b"VLTINDEX", repository)
    head, begin = decode(data[HEADER.size:HEADER.size + body_len], "SegmentHeader"), HEADER.size + body_len + 16
    blocks = [data[at:at + BLOCK_LEN] for at in range(begin, len(data), BLOCK_LEN)]
    need(all(blake3(block[:-16]).digest(16) == block[-16:] for block in blocks), "SEG-2")
    facts = [fact for block in blocks for fact in FACT.iter_unpack(block[:-16])]
    need(len(facts) == head.fact_count and all(fact[2] < len(head.packs) for fact in facts), "SEG-3")
    return head.packs, facts

class Pack(collections.namedtuple("Pack", "path name id size")):
    def read(self, offset, length):
        with open(self.path, "rb", buffering=0) as file:
            file.seek(offset)
            data = file.read(length)
        need(len(data) == length, "PACK-4", f"{self.path} ends too early")
        return data

    @functools.lru_cache(FRAMES_KEPT)
    def frame(self, offset):  # stored_len and plain bytes of the frame at `offset`
        where, head = f"{self.path}, frame at {offset}", self.read(offset, FRAME.size)
        magic, _, codec, zero, plain_len, stored_len, zeros, checksum = FRAME.unpack(head)
        need(magic == b"VFRM" and zero == bytes(3) and zeros == 0, "FRAME-1", where)
        need(stored_len <= plain_len <= MAX_PLAIN, "FRAME-3", where)
        stored = plain = self.read(offset + FRAME.size, stored_len)
        need(blake3(head[:24] + stored).digest(8) == checksum, "FRAME-2", where)
        if codec == 1 and zstandard.frame_content_size(stored) == plain_len:
            plain = zstandard.ZstdDecompressor().decompress(stored)
        need(codec < 2 and len(plain) == plain_len, "FRAME-4", where)
        return stored_len, plain

    def chunks(self):  # (id, frame offset, offset, length) of all; behind damage each multiple of 64 is tried
        offset = HEADER.size
        while offset + FRAME.size <= self.size:
            try:
                stored_len, plain = self.frame(offset)
                at = end = 4 + 5 * int.from_bytes(plain[:4], "little")
                for kind, length in struct.iter_unpack("<BI", plain[4:end]):
                    need(kind in KEYS and 0 < length <= len(plain) - at, "FRAME-5", self.path)
                    yield blake3(plain[at:at + length], key=KEYS[kind]).digest(), offset, at, length
                    at += length
                offset = (offset + FRAME.size + stored_len + 63) & ~63
            except OSError:
                offset += 64

class Repository:
    def __init__(self, place, verify):
        self.place, self.where, self.skip, self.failed = os.path.abspath(place), "", set(), None
        configs = [self.sound(name, object_file, b"VLTCONFG", None, "Config") for name in ("config", "config.2")]
        self.id, config = configs[0] or configs[1] or stop(10, "without config and config.2 it is no repository")
        if None not in configs and configs[0] != configs[1]:
            say("damage", "[REPO-4] config and config.2 differ")
        if config.encryption or self.listed("features", "read-.*"):
            stop(1, "it is encrypted, or has a feature that this reader does not know")
        snapshots, segments = self.listed("snapshots"), self.listed("index")  # in this order: [DUR-9]
        packs = [Pack(os.path.join(self.place, name), name, bytes.fromhex(name[-64:]), size)
                 for first in range(256) for name, size in self.listed(f"packs/{first:02x}")]
        read = [(name[-64:], self.sound(name, object_file, b"VLTSNAP1", self.id, "Snapshot")) for name, _ in snapshots]
        self.snapshots = sorted([(body[1].start, id, body[1]) for id, body in read if body])
        self.load_index([self.sound(name, segment, self.id) for name, _ in segments], packs, verify)

    def sound(self, name, read, *args):  # what `read` makes of the bytes of a file; if it is damaged, that is said
        try:
            with open(os.path.join(self.place, name), "rb") as file:
                data = file.read()
            need("/" not in name or blake3(data).hexdigest() == name[-64:], "REPO-1", "its hash is not its name")
            return read(data, *args)
        except OSError as error:
            say("damage", f"{name}: {error}")

    def listed(self, folder, pattern="[0-9a-f]{64}"):
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
                self.sound(pack.name, len)
            for id, *place in pack.chunks():
                self.index[id].append((pack, *place))

    def chunk(self, kind, id):
        error = f"chunk {id.hex()} is in no pack"
        for pack, frame, at, length in self.index.get(id, ()):
            try:
                plain = pack.frame(frame)[1][at:at + length]
                need(blake3(plain, key=KEYS[kind]).digest() == id, "FRAME-6", pack.path)
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

    def verify(self):
        """The trees, each folder once. All other files were read on opening, and the index has whole chunks only."""
        self.sound("copy", object_file, b"VLTCOPY1", self.id)
        for name, _ in self.listed("records"):
            self.sound(name, object_file, b"VLTRECRD", self.id)
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
                   if id.startswith(os.fsdecode(prefix)) or prefix == b"latest" and snapshot.state == 0]
        fitting = fitting[-1:] if prefix == b"latest" else fitting
        entry = fitting[0].root if len(fitting) == 1 else None
        for name in filter(None, path.split(b"/")):
            below = self.entries(entry.kind[1], [path]) if entry and entry.kind[0] in FOLDERS else ()
            entry = next((item for item in below if item.name == name), None)
        return entry or stop(13 if found["damage"] else 1, f"{wanted} is not there, or not one snapshot only")

def main(args):
    if not (len(args) == 1 or args[1:] == ["verify"] or len(args) == 4 and args[1] == "restore"):
        stop(2, __doc__)
    repository = Repository(args[0], args[1:] == ["verify"])
    if len(args) == 1:
        for start, id, snapshot in repository.snapshots:
            state = ("complete", "partial", "suspect", "part of plan")[snapshot.state]
            when = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=max(0, min(start.secs, 1 << 37)))
            print(f"{id[:16]}  {when}  {state}  {show(b' '.join(source.resolved for source in snapshot.sources))}")
    elif len(args) == 2:
        repository.verify()
    else:
        repository.restore(repository.find(args[2]), args[3])
    stop(13 if found["damage"] else 1 if found["error"] else 0, f"{found['damage']} damaged, {found['error']} failed")

if __name__ == "__main__":
    main(sys.argv[1:])
