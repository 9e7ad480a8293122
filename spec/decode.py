"""What the files of a vault repository are made of: structures, frames and packs, from spec/format.md alone.

The other half of reader.py. A message names the rule that is broken, as [PACK-1].
`decode.py vectors/v1/structures.txt vectors/v1/invalid.txt` decodes the vectors; exit code 1 if one is not as it should be.
"""
import collections, os, struct, sys
import zstandard
from blake3 import blake3

HEADER, FRAME = struct.Struct("<8sHBBIQ16s128s8s16s"), struct.Struct("<4sIB3sIII8s")
TAIL, DIR_FRAME, DIR_CHUNK = struct.Struct("<QQ128s24s16s8s"), struct.Struct("<IIIB3s"), struct.Struct("<32sBIII")
FACT, BLOCK_FACTS = struct.Struct("<32sBIIIII"), 1236
MAX_CHUNK, MAX_STRUCT, MAX_PLAIN, CACHE = 16 << 20, 16 << 20, (32 << 20) + (64 << 10), 256 << 20
DATA, TREE, LIST = 1, 2, 3
KEYS = {kind: blake3(b"", derive_key_context=f"vault 2026 plain {word} chunk").digest()
        for kind, word in ((DATA, "data"), (TREE, "tree"), (LIST, "list"))}
found = collections.Counter()

class Damage(Exception):
    """Bytes that break a rule of the format."""

def need(condition, rule, what="it breaks this rule of the format"):
    if not condition:
        raise Damage(f"[{rule}] {what}")

def say(kind, message):
    found[kind] += 1
    print(f"{kind}: {message}", file=sys.stderr)

def show(name):  # as text, without anything that could control a terminal
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode()
                   for c in name.decode("utf-8", "backslashreplace"))

def fingerprint(facts):
    return blake3(b"".join(sorted(struct.pack("<32sBIIII", *fact) for fact in facts))).digest()

def stop(code, message):
    print(message, file=sys.stderr)
    sys.exit(code)

def ascends(items):
    return all(a < b for a, b in zip(items, items[1:]))

# Structures (format.md §1.1): each type is a function from a cursor to a value.

class Cursor:
    def __init__(self, data):
        need(len(data) <= MAX_STRUCT, "OBJ-3")
        self.data, self.at = data, 0

    def take(self, count):
        need(count <= len(self.data) - self.at, "CODEC-3")
        self.at += count
        return self.data[self.at - count:self.at]

def uint(bits):
    def decode(cursor):
        first = cursor.take(1)[0]
        if first < 251:
            return first
        need(first <= 253, "CODEC-3")
        value = int.from_bytes(cursor.take(2 << (first - 251)), "little")
        need(value >= (251, 1 << 16, 1 << 32)[first - 251], "CODEC-1")
        need(value >> bits == 0, "CODEC-3")
        return value
    return decode

def sint(bits):
    return lambda cursor: (lambda value: value >> 1 if value & 1 == 0 else -(value >> 1) - 1)(uint(bits)(cursor))

def array(count):
    return lambda cursor: cursor.take(count)

def u8(cursor):
    return cursor.take(1)[0]

def flag(cursor):
    value = u8(cursor)
    need(value < 2, "CODEC-3")
    return value == 1

def blob(cursor):
    return cursor.take(u64(cursor))

def text(cursor):
    try:
        return blob(cursor).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Damage("[CODEC-3] a text is not UTF-8") from error

def many(item):
    def decode(cursor):
        count = u64(cursor)
        need(count <= len(cursor.data) - cursor.at, "CODEC-3")
        return [item(cursor) for _ in range(count)]
    return decode

def option(item):
    return lambda cursor: item(cursor) if flag(cursor) else None

def fields_of(*items):
    return lambda cursor: tuple([item(cursor) for item in items])

def enum(*items):
    def decode(cursor):
        number = u32(cursor)
        need(number < len(items), "CODEC-3")
        return number, items[number](cursor)
    return decode

def checked(item, check):
    def decode(cursor):
        value = item(cursor)
        check(value)
        return value
    return decode

def decode(data, item):
    cursor = Cursor(data)
    value = item(cursor)
    need(cursor.at == len(data), "CODEC-2")
    return value

def fields(*known):
    def check(value):
        need(ascends([tag for tag, _, _ in value]), "FIELD-1")
        need(all(tag in known for tag, critical, _ in value if critical), "FIELD-2", "a critical field is unknown")
    return checked(many(fields_of(u32, flag, blob)), check)

def valid_name(name):
    return 1 <= len(name) <= 4096 and name not in (b".", b"..") and b"/" not in name and b"\0" not in name

def piece_len(piece):
    return piece[1][1] if piece[0] == 0 else piece[1]

def pieces_len(pieces):
    need(all(piece_len(piece) > 0 and (piece[0] == 1 or piece[1][1] <= MAX_CHUNK) for piece in pieces), "ENTRY-5")
    total = sum(map(piece_len, pieces))
    need(total < 1 << 64, "ENTRY-5")
    return total

def check_content(size, content):
    form, value = content
    need(form != 0 or len(value) <= 65536 and len(value) == size, "ENTRY-4")
    need(form != 1 or 1 <= len(value) <= 64 and pieces_len(value) == size, "ENTRY-5")

def check_xattr(xattr):
    name, (form, value) = xattr
    size = len(value) if form == 0 else pieces_len(value) if form == 1 else 0
    need(1 <= len(name) <= 255 and b"\0" not in name and form < 2 and size <= 16 << 20, "ENTRY-3")
    need(form == 0 or all(piece[0] == 0 for piece in value), "ENTRY-3")
    check_content(size, (form, value))

def check_entry(entry):
    _, (kind, value), (mode, _, _, _, _, xattrs, _), _ = entry
    need(mode <= 0o7777 and (kind < 7 or entry[2] == (0, 0, 0, (0, 0), None, [], None)), "ENTRY-1")
    need(kind != 2 or 1 <= len(value) <= 65536 and b"\0" not in value, "ENTRY-2")
    need(ascends([name for name, _ in xattrs]), "ENTRY-3")
    if kind == 1:
        check_content(*value)

def check_tree_node(node):
    form, value = node
    level, items = (0, value) if form == 0 else value
    need(form == 0 or items and 1 <= level <= 16, "TREE-2")
    need(ascends([item[0] for item in items]), "TREE-1")

def check_list_node(node):
    form, value = node
    level, items = (0, value) if form == 0 else value
    need(items and (pieces_len(items) if form == 0 else 1 <= level <= 16 and all(size > 0 for size, _ in items)), "LIST-1")

def check_chunker(chunker):
    low, avg, high, level = chunker
    need(64 <= low <= 1 << 20 and 256 <= avg <= 4 << 20 and 1024 <= high <= 16 << 20 and low < avg < high
         and low % 2 == high % 2 == 0 and avg & (avg - 1) == 0 and level <= 3, "CUT-1")

def check_config(config):
    need(config[0] == 1, "CONF-1")
    need(config[2] < 2, "CONF-3")

def check_snapshot(snapshot):
    name, (kind, _), _, _ = snapshot[1]
    need(name == b"" and kind in (0, 7), "SNAP-2")
    for source in snapshot[3]:
        need(not source[3] or all(map(valid_name, source[3].split(b"/"))), "SNAP-3")

def nothing(_):
    return None

u32, u64, i32, i64, name_id = uint(32), uint(64), sint(32), sint(64), array(32)
TIME = checked(fields_of(i64, u32), lambda time: need(time[1] < 10**9, "TIME-1"))
CHUNKER = checked(fields_of(u32, u32, u32, u8), check_chunker)
CONFIG = checked(fields_of(u32, CHUNKER, u32, TIME, fields()), check_config)
COPY = fields_of(array(16), text, fields())
RECORD_OUTER = fields_of(u32, flag, enum(nothing, array(16)), many(name_id))
RECORD_BODY = fields_of(TIME, text, text, fields())
PIECE = enum(fields_of(name_id, u32), u64)
CONTENT = enum(blob, many(PIECE), name_id)
XATTR = checked(fields_of(blob, CONTENT), check_xattr)
META = fields_of(u32, u32, u32, TIME, option(TIME), many(XATTR), option(array(16)))
KIND = enum(name_id, fields_of(u64, CONTENT), blob, nothing, nothing, fields_of(u32, u32), fields_of(u32, u32), name_id,
            fields_of(enum(*[nothing] * 7), u32))
ROOT = checked(fields_of(blob, KIND, META, fields(1)), check_entry)
ENTRY = checked(ROOT, lambda entry: need(valid_name(entry[0]), "TREE-3"))
TREE_NODE = checked(enum(many(ENTRY), fields_of(u8, many(fields_of(blob, u64, name_id)))), check_tree_node)
LIST_NODE = checked(enum(many(PIECE), fields_of(u8, many(fields_of(u64, name_id)))), check_list_node)
NAMES = many(fields_of(u32, blob))
SOURCE = fields_of(text, blob, blob, blob, many(fields_of(blob, name_id)), NAMES, NAMES)
SNAPSHOT = checked(fields_of(
    enum(*[nothing] * 4), ROOT, option(name_id), many(SOURCE), text, many(text), text, text, array(16), text, text, TIME, TIME, i32,
    option(name_id), many(fields_of(enum(*[nothing] * 3), name_id)), many(fields_of(u32, u64)), fields()), check_snapshot)
SEGMENT = fields_of(many(fields_of(name_id, u32, u8)), u64, many(name_id), fields())

class Pack:
    def __init__(self, place, name, size):
        self.path, self.name, self.id, self.size, self.walked = os.path.join(place, name), name, bytes.fromhex(name[-64:]), size, False

    def read(self, offset, length):
        with open(self.path, "rb", buffering=0) as file:
            data = bytearray()
            while len(data) < length and (part := os.pread(file.fileno(), length - len(data), offset + len(data))):
                data += part
        need(len(data) == length, "PACK-4", f"{self.name} ends too early")
        return bytes(data)

    def frame(self, offset):
        """Number, codec, stored_len and plain bytes of the frame at `offset`."""
        where = f"{self.name}, frame at {offset}"
        head = self.read(offset, FRAME.size)
        magic, number, codec, zero, plain_len, stored_len, zeros, checksum = FRAME.unpack(head)
        need(magic == b"VFRM", "FRAME-1", where)
        need(stored_len <= plain_len <= MAX_PLAIN, "FRAME-3", where)
        stored = plain = self.read(offset + FRAME.size, stored_len)
        need(blake3(head[:24] + stored).digest(8) == checksum, "FRAME-2", where)
        need(zero == b"\0\0\0" and zeros == 0, "FRAME-7", where)
        if codec == 1:
            try:
                need(zstandard.frame_content_size(stored) == plain_len, "FRAME-4", where)
                plain = zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False)
            except zstandard.ZstdError as error:
                raise Damage(f"[FRAME-4] {where}: {error}") from error
        need(codec < 2 and len(plain) == plain_len, "FRAME-4", where)
        return number, codec, stored_len, plain

    def chunks(self, offset, plain, kinds=(DATA, TREE, LIST)):
        """(id, kind, offset, length) of the chunks in the frame at `offset`."""
        count, at, chunks = int.from_bytes(plain[:4], "little"), 0, []
        need(1 <= count <= 13107 and 4 + 5 * count <= len(plain), "FRAME-5", f"{self.name}, frame at {offset}")
        at = 4 + 5 * count
        for kind, length in struct.iter_unpack("<BI", plain[4:at]):
            need(kind in kinds and 1 <= length <= MAX_CHUNK, "FRAME-5", f"{self.name}, frame at {offset}")
            chunks.append((blake3(plain[at:at + length], key=KEYS[kind]).digest(), kind, at, length))
            at += length
        need(at == len(plain), "FRAME-5", f"{self.name}, frame at {offset}")
        return chunks

    def directory(self):
        """Offset, rows of frames, rows of chunks."""
        need(HEADER.size + TAIL.size <= self.size <= (1 << 32) - 64, "PACK-4", f"{self.name} has no possible length")
        tail = self.read(self.size - TAIL.size, TAIL.size)
        offset, length, box, zero, checksum, magic = TAIL.unpack(tail)
        need(magic == b"VLTPKEND" and offset + length + TAIL.size == self.size, "PACK-4", f"{self.name}, tail")
        rows = self.read(offset, length)
        need(blake3(rows + tail[:168]).digest(16) == checksum, "PACK-4", f"{self.name}, checksum of the directory")
        need(box == self.read(40, 128) and zero == bytes(24), "PACK-5", f"{self.name}, tail")
        frames, chunks = struct.unpack("<II", rows[:8]) if length >= 8 else (0, 0)
        need(length == 8 + 16 * frames + 45 * chunks and 1 <= chunks <= 1 << 20 and offset % 64 == 0, "PACK-1", self.name)
        rows, chunks = list(DIR_FRAME.iter_unpack(rows[8:8 + 16 * frames])), list(DIR_CHUNK.iter_unpack(rows[8 + 16 * frames:]))
        need(all(frame < frames for _, _, frame, _, _ in chunks), "PACK-2", f"{self.name}, directory")
        return offset, rows, chunks

    def locations(self):
        """(id, kind, frame offset, frame stored_len, offset, length) of each chunk, as the directory has it."""
        _, frames, chunks = self.directory()
        return [(id, kind, frames[frame][0], frames[frame][1], at, length) for id, kind, frame, at, length in chunks]

    def verify(self, repository):
        """Every rule of a pack; the facts of its chunks, as the frames have them."""
        hasher = blake3()
        with open(self.path, "rb") as file:
            while block := file.read(4 << 20):
                hasher.update(block)
        need(hasher.digest() == self.id, "REPO-1", "its hash is not its name")
        kind, outer_len, body_len = header(self.read(0, min(self.size, HEADER.size)), b"VLTPACK1", repository)
        need(outer_len == body_len == 0, "HEAD-6")
        end, rows, chunk_rows = self.directory()
        at, frames, chunks, facts = HEADER.size, [], [], []
        while at < end:
            number, codec, stored_len, plain = self.frame(at)
            need(number == len(frames), "FRAME-7", f"the frame at {at} has the number {number}")
            frames.append((at, stored_len, len(plain), codec, bytes(3)))
            for id, chunk_kind, offset, length in self.chunks(at, plain, (DATA,) if kind == 1 else (TREE, LIST)):
                chunks.append((id, chunk_kind, number, offset, length))
                facts.append((id, chunk_kind, at, stored_len, offset, length))
            at, data_end = (at + FRAME.size + stored_len + 63) & ~63, at + FRAME.size + stored_len
            need(at <= end and self.read(data_end, at - data_end) == bytes(at - data_end), "PACK-3")
        need((frames, chunks) == (rows, chunk_rows), "PACK-2", "directory and frames differ")
        return facts

    def walk(self):
        """The same as the frames say it; behind damage every multiple of 64 is tried."""
        self.walked, offset, facts = True, HEADER.size, []
        while offset + FRAME.size <= self.size:
            try:
                _, _, stored_len, plain = self.frame(offset)
                facts += [(id, kind, offset, stored_len, at, length) for id, kind, at, length in self.chunks(offset, plain)]
                offset += (FRAME.size + stored_len + 63) & ~63
            except Damage:
                offset += 64
        return facts

def header(data, magic, repository):
    need(len(data) >= HEADER.size, "HEAD-3", "it is too short")
    got, version, kind, seal, outer_len, body_len, id, box, zero, checksum = HEADER.unpack(data[:HEADER.size])
    need(got == magic, "HEAD-1")
    need(blake3(data[:176]).digest(16) == checksum, "HEAD-3")
    need(version == 1, "HEAD-2")
    need(id == repository, "HEAD-4", f"it belongs to the repository {id.hex()}")
    need(seal == 0 and box == bytes(128), "HEAD-5")
    need(zero == bytes(8) and (kind in (1, 2) if magic == b"VLTPACK1" else kind == 0), "HEAD-6")
    return kind, outer_len, body_len

def object_file(name, data, magic, repository):
    """Outer and body of an object file."""
    need("/" not in name or blake3(data).hexdigest() == name[-64:], "REPO-1", "its hash is not its name")
    _, outer_len, body_len = header(data, magic, repository)
    middle, end = HEADER.size + outer_len, HEADER.size + outer_len + body_len
    need(outer_len + body_len <= MAX_STRUCT, "OBJ-3")
    need(len(data) == end + 32, "OBJ-1", "it has the wrong length")
    need(blake3(data[:end]).digest() == data[end:], "OBJ-2", "the hash at its end is wrong")
    return data[HEADER.size:middle], data[middle:end]

def segment(name, data, repository):
    """Rows of packs, and facts."""
    need(blake3(data).hexdigest() == name[-64:], "REPO-1", "its hash is not its name")
    _, outer_len, body_len = header(data, b"VLTINDEX", repository)
    body, at, facts = data[HEADER.size:HEADER.size + body_len], HEADER.size + body_len + 16, []
    need(outer_len == 0 and at <= len(data), "SEG-1")
    need(blake3(body).digest(16) == data[at - 16:at], "SEG-2")
    rows, count, first_ids, _ = decode(body, SEGMENT)
    blocks = -(-count // BLOCK_FACTS)
    need(len(data) == at + FACT.size * count + 16 * blocks <= 68 << 20, "SEG-1")
    need(len(first_ids) == blocks, "SEG-4")
    for first in first_ids:
        end = at + FACT.size * min(BLOCK_FACTS, count - len(facts))
        need(blake3(data[at:end]).digest(16) == data[end:end + 16], "SEG-2")
        need(data[at:at + 32] == first, "SEG-4")
        facts.extend(FACT.iter_unpack(data[at:end]))
        at = end + 16
    need(ascends([id for id, _, _ in rows]) and all(fact[2] < len(rows) for fact in facts), "SEG-3")
    need(ascends([(fact[0], rows[fact[2]][0], fact[3], fact[5]) for fact in facts]), "SEG-3")
    return rows, facts

def check_vectors(file):
    types = {"Entry": ENTRY, "TreeNode": TREE_NODE, "ListNode": LIST_NODE, "Snapshot": SNAPSHOT, "Chunker": CHUNKER,
             "Config": CONFIG, "CopyInfo": COPY, "RecordOuter": RECORD_OUTER, "RecordBody": RECORD_BODY}
    wrong = 0
    with open(file, encoding="ascii") as lines:
        for line in lines:
            head, data = line.split(": ")
            words, got = head.split(" "), None
            try:
                decode(bytes.fromhex(data), types[words[0]])
            except Damage as error:
                got = str(error)[1:].split("]")[0]
            if got != (words[1] if len(words) == 3 else None):
                wrong += 1
                print(f"{head}: {got}", file=sys.stderr)
    return wrong

if __name__ == "__main__":
    sys.exit(1 if sum(map(check_vectors, sys.argv[1:])) else 0)
