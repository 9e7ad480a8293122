"""From the bytes of files to what they say: structures, headers, seals, segments, packs. What reader.py stands on.

Written from spec/format.md alone: §1, §3 to §7, §12, §13. Seals need the packages `cryptography` and `argon2-cffi`.
"""
import base64, collections, functools, struct
import zstandard
from blake3 import blake3

HEADER = struct.Struct("<8sHBBIQ16s128s8s16s")
FACT, FACTS_PER_BLOCK = struct.Struct("<32sBIIIII"), 1236
PARITY = struct.Struct("<8s32s16sQIIII16s16s")
FRAME, MAX_PLAIN, FRAMES_KEPT = struct.Struct("<4sIB3sIII8s"), (32 << 20) + (64 << 10), 100
DATA, TREE, LIST = 1, 2, 3
DATA_KEY, INDEX_KEY, DIRECTORY_NONCE = 1, 2, (1 << 96) - 1
RECOVERY = b"VAULT-RECOVERY-1"

# Structures (format.md §1.1): names and types in turn. [T] is a list, ?T an option, 16 or 32 are bytes, - is nothing.
STRUCTS = {name: (collections.namedtuple(name, items.split()[::2]), items.split()[1::2]) for name, items in {
    "Time": "secs i64 nanos u32", "Field": "tag u32 critical bool value bytes",
    "Config": "version u32 chunker (u32,u32,u32,u8) encryption u32 created Time fields [Field]",
    "CopyInfo": "copy 16 name text fields [Field]",
    "KeyOuter": "name text created Time kdf (u32,u32,u32) salt 32 commitment 32 config 32 fields [Field]",
    "RecordOuter": "kind u32 must_understand bool scope Scope ids [32]",
    "RecordBody": "created Time host text reason text fields [Field]",
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
    "Piece": "(32,u32) u64", "TreeNode": "[Entry] TreeBranch", "ListNode": "[Piece] ListBranch",
    "Scope": "- 16", "KeyBody": "32"}.items()}

class Damage(OSError):
    """Bytes that break a rule of the format, or cannot be read."""

def need(condition, rule, what=""):
    if not condition:
        raise Damage(f"[{rule}] {what}")

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

# Keys and seals (format.md §12).

def derive(context, *parts):
    return blake3(b"".join(parts), derive_key_context=f"vault 2026 {context}").digest()

def keyed(key, *parts):
    return blake3(b"".join(parts), key=key)

def unseal(key, number, beside, sealed, what, rule="SEAL-2"):  # AES-256-GCM; the number is the nonce
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    try:
        return AESGCM(key).decrypt(number.to_bytes(12, "little"), sealed, beside)
    except (InvalidTag, ValueError):
        raise Damage(f"[{rule}] the seal of its {what} is broken") from None

def padded(n):
    n = max(n, 1024)
    e = n.bit_length() - 1
    m = (1 << (e - e.bit_length())) - 1
    return (n + m) & ~m

def unpad(body):
    marked = body.rstrip(b"\0")
    need(marked[-1:] == b"\x80", "SEAL-4", "the end of its structure is not marked")
    return marked[:-1]

class Keys:
    """The keys of a repository: from its master secret, or the public ones of a plain repository."""
    def __init__(self, repository, master=None):
        self.repository, self.sealed = repository, master is not None
        word, ids = ("secret", derive("id key", master)) if self.sealed else ("plain", b"")
        self.chunk = {kind: derive(f"{word} {name} chunk", ids)
                      for kind, name in ((DATA, "data"), (TREE, "tree"), (LIST, "list"))}
        if self.sealed:
            self.boxes = {DATA_KEY: derive("data key", master), INDEX_KEY: derive("index key", master)}

    def open_box(self, head, box, which):  # the file key
        need(box[:16] == bytes([1, which]) + bytes(14) and box[96:] == bytes(32), "BOX-2", "its key box is unknown")
        return unseal(keyed(self.boxes[which], box[16:48]).digest(), 0, head[:40], box[48:96], "key box", "BOX-1")

    def of_pack(self, box, what):  # for its mask or its directory
        return keyed(self.boxes[INDEX_KEY], box[16:48], what).digest()

def header(data, magic, repository, sealed):  # its fields; `sealed`: whether it has to be
    need(len(data) >= HEADER.size, "OBJ-1", "it ends within its header")
    need(blake3(data[:176]).digest(16) == data[176:192], "HEAD-3", "the checksum of its header is wrong")
    got, version, kind, seal, outer_len, body_len, id, box, zero, _ = HEADER.unpack_from(data)
    need(got == magic, "HEAD-1", "it is another kind of file")
    need(version == 1, "HEAD-2", f"its version is {version}")
    is_pack = magic == b"VLTPACK1"
    salted = is_pack and not seal  # a plain pack may have a salt
    need((zero == bytes(8) or salted) and kind in ((1, 2) if is_pack else (0,)), "HEAD-6", "its header is not possible")
    need(not (is_pack and body_len or outer_len and magic in (b"VLTPACK1", b"VLTINDEX")), "HEAD-6", "it has lengths")
    need(repository in (None, id), "HEAD-4", f"it belongs to the repository {id.hex()}")
    need(seal < 2 and seal == sealed, "HEAD-5", "it is sealed and should not be" if seal else "it is not sealed")
    need(box == bytes(128) or sealed and magic != b"VLTKEYS1", "HEAD-5", "it has a key box and should not")
    return kind, outer_len, body_len, id, box

def parts(data, magic, repository, sealed):  # of an object file: id, key box, outer and body as stored
    _, outer_len, body_len, id, box = header(data, magic, repository, sealed)
    end = HEADER.size + outer_len + body_len
    need(outer_len + body_len <= 16 << 20, "OBJ-3", "it is too long")
    need(len(data) == end + 32, "OBJ-1", "it has the wrong length")
    need(blake3(data[:end]).digest() == data[end:], "OBJ-2", "the hash at its end is wrong")
    return id, box, data[HEADER.size:end - body_len], data[end - body_len:end]

def object_file(data, magic, keys, form, outer_form=None):  # outer and body of a snapshot, a record or `copy`
    sealed = keys.sealed and magic != b"VLTCOPY1"
    _, box, outer, body = parts(data, magic, keys.repository, sealed)
    if sealed:
        body = unpad(unseal(keys.open_box(data, box, DATA_KEY), 0, data[:40] + outer, body, "body"))
    need(outer_form or not outer, "CODEC-2", "it has an outer part")
    value = decode(body, form)
    if form == "Snapshot":
        lists = [value.tags, value.made_from, value.counters, value.fields, value.root.meta.xattrs, value.root.fields]
        lists += [part for source in value.sources for part in (source.carried, source.users, source.groups)]
        need(len(value.sources) <= 1 << 16 and sum(map(len, lists)) <= 1 << 18, "SNAP-5", "it lists too much")
    return outer_form and decode(outer, outer_form), value

def config_file(data):  # the repository's id, the config, and what its check is over: all but field 1
    id, _, outer, body = parts(data, b"VLTCONFG", None, False)
    config = decode(body, "Config")
    need(not outer, "CODEC-2", "it has an outer part")
    need(config.version == 1, "CONF-1", f"its version is {config.version}")
    need(config.encryption < 2, "CONF-3", f"its encryption {config.encryption} is unknown")
    checks = [field for field in config.fields if field.tag == 1]
    need(len(checks) == config.encryption, "CONF-4", "the check of its keys is missing, or it has one without keys")
    need(all(field.critical and len(field.value) == 32 for field in checks), "CONF-4", "the check is not possible")
    cursor, rest = Cursor(body), []
    for form in STRUCTS["Config"][1][:-1]:
        cursor.value(form)
    before = body[:cursor.at]
    for _ in range(cursor.uint(64)):
        at = cursor.at
        if cursor.value("Field").tag != 1:
            rest.append(body[at:cursor.at])
    need(len(rest) < 250, "CODEC-3", "it has more fields than this reader takes")
    return id, config, id + before + bytes([len(rest)]) + b"".join(rest)

def is_of(config, checked, master):  # [CONF-4]
    return config.fields[0].value == keyed(derive("config check", master), checked).digest()

def open_key(data, repository, config_bytes, passphrase):  # the master secret, or nothing for another passphrase
    from argon2.low_level import Type, hash_secret_raw
    _, _, outer, body = parts(data, b"VLTKEYS1", repository, True)
    says = decode(outer, "KeyOuter")
    memory, passes, lanes = says.kdf
    need(8 <= memory <= 1 << 20 and 1 <= passes <= 16 and 1 <= lanes <= 8 and memory >= 8 * lanes
         and memory * passes <= 4 << 20, "KEY-2", "it asks for more than is allowed, or for too little")
    root = hash_secret_raw(passphrase, says.salt, passes, memory, lanes, 32, Type.ID, 0x13)
    if derive("passphrase commitment", root) != says.commitment:  # [KEY-3]
        return None
    need(blake3(config_bytes).digest() == says.config, "KEY-4", "config is not the one that it was made for")
    opened = unseal(derive("passphrase key", root), 0, data[:40] + outer, body, "body")
    return decode(unpad(opened), "KeyBody")[1]

def folded(text):
    return text.upper().translate(bytes.maketrans(b"01", b"OI"), b"- \t\r\n")

def is_recovery(text):
    return folded(text).startswith(folded(RECOVERY))

def recovery_master(text):  # [KEY-5]
    letters = folded(text)[len(folded(RECOVERY)):]
    try:
        data = base64.b32decode(letters)
    except ValueError:
        data = b""
    return data[:32] if len(data) == 35 and derive("recovery key checksum", data[:32])[:3] == data[32:] else None

def parity(data, repository, pack):  # of a pack: its length, and the length of shards, groups, recovery shards of each
    _, outer_len, body_len, _, _ = header(data, b"VLTPARTY", repository, False)
    first, last = data[HEADER.size:HEADER.size + PARITY.size], data[-PARITY.size:]
    need(len(first) == PARITY.size and first == last, "PAR-3", "its two descriptions differ")
    magic, of, id, pack_len, shard_len, groups, recovery, zero, table_hash, check = PARITY.unpack(first)
    need(magic == b"VLTPARND" and blake3(first[:96]).digest(16) == check, "PAR-1", "its description is damaged")
    need(of == pack and id == repository and zero == 0, "PAR-1", "it is the parity of another pack")
    need(shard_len in [512 << shift for shift in range(8)] and 1 <= pack_len <= (1 << 32) - 64, "PAR-2")
    shards = -(-pack_len // shard_len)
    need(shards <= 65536 and 1 <= groups <= shards, "PAR-2")
    most = -(-shards // groups)
    need(most * shard_len <= 16 << 20 and 1 <= recovery <= most, "PAR-2")
    table_len, at = 16 * (shards + recovery * groups), HEADER.size + PARITY.size
    end = at + table_len + recovery * groups * shard_len
    need(len(data) == end + table_len + PARITY.size, "PAR-3", "it has the wrong length")
    need((outer_len, body_len) == (PARITY.size, len(data) - at), "PAR-3", "its header has other lengths")
    table = data[at:at + table_len]
    need(blake3(table).digest(16) == table_hash and data[end:end + table_len] == table, "PAR-3", "a table is damaged")
    for number in range(recovery * groups):
        shard = data[at + table_len + number * shard_len:][:shard_len]
        need(blake3(shard).digest(16) == table[16 * (shards + number):][:16], "PAR-4", "a recovery shard is damaged")
    return pack_len, shard_len, groups, recovery

def segment(data, keys):  # rows of packs, and facts
    _, _, body_len, _, box = header(data, b"VLTINDEX", keys.repository, keys.sealed)
    key = keys.sealed and keys.open_box(data, box, INDEX_KEY)
    def part(number, at, length):
        stored = data[at:at + length + 16]
        need(len(stored) == length + 16, "SEG-1", "it ends too early")
        if keys.sealed:
            return unseal(key, number, data[:40], stored, f"block {number}" if number else "body")
        need(blake3(stored[:-16]).digest(16) == stored[-16:], "SEG-2", "a checksum is wrong")
        return stored[:-16]
    need(body_len <= 4 << 20, "SEG-1", "its body is too long")
    body, at, facts = part(0, HEADER.size, body_len), HEADER.size + body_len + 16, []
    head = decode(unpad(body) if keys.sealed else body, "SegmentHeader")
    need(not any(len(field.value) % 32 for field in head.fields if field.tag == 1), "SEG-6", "half of an id")
    need(len(head.first_ids) == -(-head.fact_count // FACTS_PER_BLOCK), "SEG-4", "it has another number of blocks")
    for number, first in enumerate(head.first_ids, 1):
        length = FACT.size * min(FACTS_PER_BLOCK, head.fact_count - len(facts))
        stored_len = min(padded(length), FACTS_PER_BLOCK * FACT.size) if keys.sealed else length
        block = part(number, at, stored_len)
        need(not any(block[length:]), "SEAL-4", "the padding of a block is not zero")
        need(block[:32] == first, "SEG-4", "a first id is not that of its block")
        facts.extend(FACT.iter_unpack(block[:length]))
        at += stored_len + 16
    need(at == len(data), "SEG-1", "it has the wrong length")
    order = [(id, pack, frame, at) for id, _, pack, frame, _, at, _ in facts]
    packs = [id for id, _, _ in head.packs]
    need(all(a < b for rows in (order, packs) for a, b in zip(rows, rows[1:])), "SEG-3", "it is not in order")
    need(all(fact[2] < len(packs) and 1 <= fact[1] <= 3 for fact in facts), "SEG-3", "a fact names no pack or kind")
    return head.packs, facts

class Pack(collections.namedtuple("Pack", "path name id size keys")):
    def read(self, offset, length):
        with open(self.path, "rb", buffering=0) as file:
            file.seek(offset)
            data = file.read(length)
        need(len(data) == length, "PACK-4", f"{self.path} ends too early")
        return data

    @functools.lru_cache(None)
    def opened(self):  # key box and file key of a sealed pack; from its tail if the header is damaged
        head = self.read(0, HEADER.size)
        try:
            header(head, b"VLTPACK1", self.keys.repository, True)
            return head[40:168], self.keys.open_box(head, head[40:168], DATA_KEY)
        except Damage as error:
            box = self.read(self.size - 176, 128)
            for kind in (1, 2):
                head = struct.pack("<8sHBBIQ16s", b"VLTPACK1", 1, kind, 1, 0, 0, self.keys.repository)
                try:
                    return box, self.keys.open_box(head, box, DATA_KEY)
                except Damage:
                    pass
            raise Damage(f"{self.name}: {error}") from None

    def unmasked(self, offset, data):
        if not self.keys.sealed:
            return data
        mask = keyed(self.keys.of_pack(self.opened()[0], b"mask")).digest(len(data), seek=offset)
        return bytes(a ^ b for a, b in zip(data, mask))

    @functools.lru_cache(FRAMES_KEPT)
    def frame(self, offset):  # number, codec, stored_len and plain bytes of the frame at `offset`
        where, head = f"{self.path}, frame at {offset}", self.unmasked(offset, self.read(offset, FRAME.size))
        magic, number, codec, zero, plain_len, stored_len, zeros, checksum = FRAME.unpack(head)
        need(magic == b"VFRM", "FRAME-1", where)
        need(zero == bytes(3) and zeros == 0, "FRAME-7", where)
        need(stored_len <= plain_len + 16 * self.keys.sealed and plain_len <= MAX_PLAIN, "FRAME-3", where)
        stored = self.read(offset + FRAME.size, stored_len)
        need(blake3(head[:24] + stored).digest(8) == checksum, "FRAME-2", where)
        if self.keys.sealed:
            stored = unseal(self.opened()[1], number, head[:24], stored, f"frame at {offset}: {self.path}")
        try:
            if codec == 1 and zstandard.frame_content_size(stored) == plain_len:
                stored = zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise Damage(f"[FRAME-4] {where}: {error}") from None
        need(codec < 2 and len(stored) == plain_len, "FRAME-4", where)
        return number, codec, stored_len, stored

    def chunks_of(self, offset):  # (kind, id, offset, length) of all in a frame
        plain = self.frame(offset)[3]
        at = end = 4 + 5 * int.from_bytes(plain[:4], "little")
        need(4 < end <= len(plain), "FRAME-5", self.path)
        for kind, length in struct.iter_unpack("<BI", plain[4:end]):
            need(kind in self.keys.chunk and 0 < length <= len(plain) - at, "FRAME-5", self.path)
            yield kind, blake3(plain[at:at + length], key=self.keys.chunk[kind]).digest(), at, length
            at += length
        need(at == len(plain), "FRAME-5", self.path)

    def chunks(self):  # (id, frame offset, offset, length) of all; behind damage each multiple of 64 is tried
        offset = HEADER.size
        while offset + FRAME.size <= self.size:
            try:
                for _, id, at, length in self.chunks_of(offset):
                    yield id, offset, at, length
                offset = (offset + FRAME.size + self.frame(offset)[2] + 63) & ~63
            except OSError:
                offset += 64

    def check(self, data):  # header, directory and tail against the frames
        kind, _, _, _, box = header(data, b"VLTPACK1", self.keys.repository, self.keys.sealed)
        need(len(data) >= 2 * HEADER.size, "PACK-4", "it ends too early")
        tail = self.unmasked(len(data) - 192, data[-192:])
        tail = tail[:16] + data[-176:-48] + tail[144:184] + data[-8:]  # key box and magic have no mask
        need(tail[184:] == b"VLTPKEND", "PACK-4", "its tail has the wrong magic")
        end, length = struct.unpack_from("<QQ", tail)
        need(end + length + 192 == len(data) and end % 64 == 0, "PACK-4", "its tail does not fit its length")
        rows = data[end:end + length]
        need(blake3(rows + tail[:168]).digest(16) == tail[168:184], "PACK-4", "the checksum of its directory is wrong")
        need(tail[16:144] == box and tail[144:168] == bytes(24), "PACK-5", "its two key boxes differ")
        if self.keys.sealed:
            self.keys.open_box(data, box, DATA_KEY)
            rows = unseal(self.keys.of_pack(box, b"directory"), DIRECTORY_NONCE, data[:40], rows, "directory")
        frames, chunks, offset = [], [], HEADER.size
        while offset < end:
            number, codec, stored_len, plain = self.frame(offset)
            need(number == len(frames), "FRAME-7", "its frames do not count up by one")
            frames.append(struct.pack("<IIIB3s", offset, stored_len, len(plain), codec, b""))
            for form, id, at, size in self.chunks_of(offset):
                need((form == DATA) == (kind == 1), "FRAME-5", "a chunk is in a pack of the wrong kind")
                chunks.append(id + struct.pack("<BIII", form, number, at, size))
            behind = offset + FRAME.size + stored_len
            offset = (behind + 63) & ~63
            need(not any(self.unmasked(behind, data[behind:offset])), "PACK-3", "its padding is not zero")
        need(offset == end, "PACK-3", "its frames do not end where its directory starts")
        wanted = struct.pack("<II", len(frames), len(chunks)) + b"".join(frames + chunks)
        need(1 <= len(chunks) <= 1 << 20, "PACK-1", "it has no chunk, or too many")
        need(rows[:len(wanted)] == wanted, "PACK-2", "its directory is not what its frames say")
        most = (8 << 20) if self.keys.sealed else 0
        need(not any(rows[len(wanted):]) and len(rows) <= len(wanted) + most, "PACK-1", "bytes follow")
