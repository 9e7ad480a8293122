//! Target: whole packs, by directory and tail, by a scan, and by their frames after the directory was damaged.

use vault::error::{Error, Result};
use vault::header::{HEADER_LEN, Header, Magic, Seal};
use vault::id::{self, ChunkKind, IdKeys, PackId};
use vault::pack::{
    Directory, FrameChunk, PackFile, PackKind, ScannedPack, WalkedFrame, pack_file_name, scan_pack,
};
use vault::seal::{BoxKey, Keys, NewSeal, TAG_LEN};

use super::Defect;
use super::fixed::{self, finish_header};
use super::memory::Memory;

const TAIL_LEN: usize = 192;
const FRAME_LEN: usize = 32;

/// The number at a place, 0 beyond the end.
fn number(bytes: &[u8], at: usize) -> usize {
    let found = bytes.get(at..).and_then(|bytes| bytes.first_chunk::<4>());
    found.map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
}

fn set(bytes: &mut [u8], at: usize, new: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + new.len()) {
        place.copy_from_slice(new);
    }
}

/// A plain pack taken apart as far as it is one: where its frames are, and its directory and tail.
struct Parts {
    /// Offset and stored length.
    frames: Vec<(usize, usize)>,
    directory: usize,
    tail: usize,
}

impl Parts {
    fn of(bytes: &[u8]) -> Option<Self> {
        let tail = bytes.len().checked_sub(TAIL_LEN).filter(|tail| *tail >= HEADER_LEN)?;
        let directory = number(bytes, tail);
        let directory = if (HEADER_LEN..=tail).contains(&directory) { directory } else { tail };
        let (mut frames, mut at) = (Vec::new(), HEADER_LEN);
        while at + FRAME_LEN <= directory && bytes.get(at..at + 4) == Some(b"VFRM") {
            let stored_len = number(bytes, at + 16);
            let end = at + FRAME_LEN + stored_len;
            if end > directory {
                break;
            }
            frames.push((at, stored_len));
            at = end.next_multiple_of(64);
        }
        Some(Self { frames, directory, tail })
    }

    /// The ids of the chunks, where the frames can be decoded.
    fn ids(&self, bytes: &[u8], keys: &IdKeys) -> Vec<[u8; 32]> {
        let mut ids = Vec::new();
        for (at, stored_len) in &self.frames {
            let stored = bytes.get(at + FRAME_LEN..at + FRAME_LEN + stored_len).unwrap_or_default();
            let (plain_len, codec) = (number(bytes, at + 12), bytes.get(at + 8));
            let plain = if codec == Some(&1) && plain_len <= 1 << 20 {
                zstd::bulk::decompress(stored, plain_len).unwrap_or_default()
            } else {
                stored.to_vec()
            };
            let count = number(&plain, 0).min(plain.len() / 5);
            let mut offset = 4 + 5 * count;
            for row in (0..count).map(|row| 4 + 5 * row) {
                let kind = plain.get(row).and_then(|kind| ChunkKind::from_number(*kind));
                let end = offset.saturating_add(number(&plain, row + 1));
                if let (Some(kind), Some(chunk)) = (kind, plain.get(offset..end)) {
                    ids.push(*keys.chunk_id(kind, chunk).as_bytes());
                }
                offset = end;
            }
        }
        ids
    }

    /// Makes the ids in the directory those of the chunks.
    fn name_chunks(&self, bytes: &mut [u8], keys: &IdKeys) {
        let rows = self.directory + 8 + 16 * number(bytes, self.directory);
        for (row, id) in self.ids(bytes, keys).iter().enumerate() {
            let at = rows.saturating_add(45 * row);
            if at.saturating_add(45) <= self.tail {
                set(bytes, at, id);
            }
        }
    }

    /// Makes all checksums right.
    fn finish(&self, bytes: &mut [u8]) {
        finish_header(bytes);
        for (at, stored_len) in &self.frames {
            let stored = at + FRAME_LEN..at + FRAME_LEN + stored_len;
            let checksum = id::checksum_64(&[&bytes[*at..at + 24], &bytes[stored]]);
            set(bytes, at + 24, &checksum);
        }
        let end = self.tail + 168;
        let checksum = id::checksum_128(&[&bytes[self.directory..end]]);
        set(bytes, end, &checksum);
    }

    /// The same pack sealed: every frame, the directory with the places that the frames have then, the tail.
    fn sealed(&self, plain: &[u8], keys: &Keys) -> Option<Vec<u8>> {
        let kind = *plain.get(10)?;
        let repository = keys.repository();
        let unboxed = Seal::Sealed([0; 128]);
        let mut header = Header { kind, outer_len: 0, body_len: 0, repository, seal: unboxed, salt: 0 };
        let beside = header.sealed_part(Magic::Pack);
        let NewSeal { key_box, mut sealer, directory: seal_directory, mask } =
            keys.new_file(BoxKey::Data, &beside).ok()??;
        header.seal = Seal::Sealed(key_box);
        let mut bytes = header.encode(Magic::Pack).to_vec();
        let mut directory = plain.get(self.directory..self.tail)?.to_vec();
        for (row, (at, stored_len)) in self.frames.iter().enumerate() {
            let offset = bytes.len();
            let mut head: [u8; 24] = *plain.get(*at..)?.first_chunk()?;
            let len = u32::try_from(stored_len + TAG_LEN).ok()?.to_le_bytes();
            head[16..20].copy_from_slice(&len);
            let stored = plain.get(at + FRAME_LEN..at + FRAME_LEN + stored_len)?;
            let stored = sealer.seal(&head, stored).ok()?;
            let mut frame = [&head[..], &id::checksum_64(&[&head, &stored])].concat();
            mask.apply(offset as u64, &mut frame);
            bytes.extend(frame);
            bytes.extend(stored);
            // What stands between the frames of the plain one is not taken over: its padding is.
            let end = (at + FRAME_LEN + stored_len).next_multiple_of(64).min(self.directory);
            let byte = plain.get(at + FRAME_LEN + stored_len..end)?.iter().fold(0, |one, byte| one | byte);
            let mut padding = vec![byte; bytes.len().next_multiple_of(64) - bytes.len()];
            mask.apply(bytes.len() as u64, &mut padding);
            bytes.extend(padding);
            let place = 8 + 16 * row;
            if number(&directory, place) == *at && number(&directory, place + 4) == *stored_len {
                set(&mut directory, place, &u32::try_from(offset).ok()?.to_le_bytes());
                set(&mut directory, place + 4, &len);
            }
        }
        let directory_offset = bytes.len() as u64;
        let directory = seal_directory.seal(&beside, &directory).ok()?;
        bytes.extend_from_slice(&directory);
        let mut tail = plain.get(self.tail..)?.to_vec();
        set(&mut tail, 0, &directory_offset.to_le_bytes());
        set(&mut tail, 8, &(directory.len() as u64).to_le_bytes());
        set(&mut tail, 16, &key_box);
        let checksum = id::checksum_128(&[&directory, &tail[..168]]);
        set(&mut tail, 168, &checksum);
        mask.apply(bytes.len() as u64, &mut tail[..16]);
        mask.apply(bytes.len() as u64 + 144, &mut tail[144..184]);
        bytes.extend(tail);
        Some(bytes)
    }
}

/// A pack: the input but for its checksums, and if the mode says so, for the ids and sealed.
pub fn pack(input: &[u8], defect: Defect) {
    let Some((mode, rest)) = input.split_first() else { return };
    let mut bytes = rest.to_vec();
    let (is_sealed, mut where_damaged) = (mode & 4 != 0, None);
    let keys = fixed::keys(is_sealed);
    if let Some(parts) = Parts::of(&bytes) {
        if mode & 2 != 0 {
            parts.name_chunks(&mut bytes, keys.ids());
        }
        if mode & 1 == 0 {
            parts.finish(&mut bytes);
        }
        if let Some(sealed) = parts.sealed(&bytes, keys).filter(|_| is_sealed) {
            bytes = sealed;
        }
        where_damaged = Some(bytes.len() - 1 - usize::from(*mode) % 8);
    }
    let medium = Memory::default();
    let id = PackId::from_bytes(id::hash(&bytes));
    let name = pack_file_name(&id);
    medium.put(&name, bytes.clone());
    let scanned = scan(&medium, id, keys);
    let opened = PackFile::open(&medium, id, keys).and_then(|file| Ok((file.kind(), file.directory()?)));
    if let Err(error) = &opened {
        assert_damaged(error, &name);
    }
    for kind in [PackKind::Data, PackKind::Tree] {
        let walked = walked(&medium, id, kind, keys);
        if let (Ok((found, directory)), true) = (&opened, scanned.faults.is_empty())
            && *found == kind
        {
            sound(&medium, (id, keys), directory, &scanned, defect);
            // The last bytes are the magic of the tail: without them the frames are found all the same.
            let Some(at) = where_damaged else { continue };
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            medium.put(&name, damaged);
            let again = self::walked(&medium, id, kind, keys);
            let places = |walked: &[WalkedFrame]| -> Vec<_> {
                walked.iter().map(|frame| (frame.number, frame.offset, frame.stored_len)).collect()
            };
            assert!(places(&walked) == places(&again) && walked.len() == directory.frames.len());
            assert!(!scan(&medium, id, keys).faults.is_empty(), "damage is not noticed");
            medium.put(&name, bytes.clone());
        }
    }
}

fn assert_damaged(error: &Error, name: &str) {
    assert!(matches!(error, Error::Damaged { file, .. } if file == name), "{error}");
}

fn scan(medium: &Memory, id: PackId, keys: &Keys) -> ScannedPack {
    let scanned = scan_pack(medium, id, keys, &mut |_| true).unwrap_or_else(|error| panic!("{error}"));
    for fault in &scanned.faults {
        assert_damaged(fault, &pack_file_name(&id));
    }
    assert!(scanned.chunks_are_sound || !scanned.faults.is_empty());
    scanned
}

/// The frames that are found without directory and header; each is one that a reader takes.
fn walked(medium: &Memory, id: PackId, kind: PackKind, keys: &Keys) -> Vec<WalkedFrame> {
    let walk = || -> Result<Vec<WalkedFrame>> {
        let file = PackFile::open_damaged(medium, id, kind, keys)?;
        let (mut frames, mut offset) = (Vec::new(), 0);
        while let Some(frame) = file.next_frame(offset)? {
            assert!(u64::from(frame.offset) >= offset, "it goes back");
            let same = file.frame(frame.offset, frame.stored_len)?;
            let lens = |chunks: &[FrameChunk]| chunks.iter().map(|chunk| chunk.len).collect::<Vec<_>>();
            assert!(lens(same.chunks()) == lens(frame.frame.chunks()));
            offset = u64::from(frame.offset) + FRAME_LEN as u64 + u64::from(frame.stored_len);
            frames.push(frame);
        }
        Ok(frames)
    };
    walk().unwrap_or_else(|error| {
        assert_damaged(&error, &pack_file_name(&id));
        Vec::new()
    })
}

/// A pack in which no fault was found is right to the last byte.
fn sound(
    medium: &Memory,
    (id, keys): (PackId, &Keys),
    directory: &Directory,
    scanned: &ScannedPack,
    defect: Defect,
) {
    assert!(directory.placed(id).eq(scanned.chunks.iter().copied()), "[PACK-2]");
    let file = PackFile::open(medium, id, keys).unwrap_or_else(|error| panic!("{error}"));
    let stored = medium.get(&pack_file_name(&id)).unwrap_or_default();
    let is_salted = !keys.is_sealed() && stored[168..176].iter().any(|byte| *byte != 0);
    for (chunk_id, location) in &scanned.chunks {
        let frame = file.frame(location.frame_offset, location.frame_stored_len);
        let frame = frame.unwrap_or_else(|error| panic!("{error}"));
        let found = frame.chunks().iter().find(|chunk| chunk.offset == location.offset);
        let mut bytes = found.and_then(|chunk| frame.bytes(chunk)).unwrap_or_default().to_vec();
        defect.spoil(is_salted, &mut bytes);
        assert_eq!(keys.ids().chunk_id(location.kind, &bytes), *chunk_id, "[FRAME-6]");
    }
    if keys.is_sealed() {
        return;
    }
    // Every byte of a plain one follows from what was read.
    let mut made = match Header::decode(&stored, Magic::Pack, None) {
        Ok(header) => header.encode(Magic::Pack).to_vec(),
        Err(error) => panic!("{error}"),
    };
    for (frame, number) in directory.frames.iter().zip(0u32..) {
        let bytes = frame.offset as usize + FRAME_LEN..;
        let bytes = &stored[bytes][..frame.stored_len as usize];
        let lens = [frame.plain_len.to_le_bytes(), frame.stored_len.to_le_bytes()].concat();
        let head = [b"VFRM", &number.to_le_bytes()[..], &[frame.codec, 0, 0, 0], &lens, &[0; 4]].concat();
        made.extend([&head[..], &id::checksum_64(&[&head, bytes]), bytes].concat());
        made.resize(made.len().next_multiple_of(64), 0);
    }
    let offset = made.len();
    made.extend(encoded(directory));
    let len = made.len() - offset;
    let mut tail = [&(offset as u64).to_le_bytes()[..], &(len as u64).to_le_bytes(), &[0; 152]].concat();
    tail.extend(id::checksum_128(&[&made[offset..], &tail]));
    made.extend([&tail[..], b"VLTPKEND"].concat());
    assert!(made == **stored, "some of its bytes mean nothing");
}

/// A directory as the specification has it.
fn encoded(directory: &Directory) -> Vec<u8> {
    let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = [count(directory.frames.len()), count(directory.chunks.len())].concat();
    for frame in &directory.frames {
        bytes.extend([frame.offset, frame.stored_len, frame.plain_len].map(u32::to_le_bytes).concat());
        bytes.extend([frame.codec, 0, 0, 0]);
    }
    for (id, frame, chunk) in &directory.chunks {
        bytes.extend_from_slice(id.as_bytes());
        bytes.push(chunk.kind.number());
        bytes.extend([*frame, chunk.offset, chunk.len].map(u32::to_le_bytes).concat());
    }
    bytes
}
