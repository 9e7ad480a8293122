//! Files made byte by byte, from the tables of `spec/format.md` and not by the code that writes them; in an encrypted repository
//! only the seals are those of the code.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use vault::backend::{Backend, LocalFolder};
use vault::header::{Header, Magic, Seal};
use vault::id::{self, ChunkKind, IdKeys, RepositoryId, SegmentId};
use vault::repository::Repository;
use vault::seal::{BoxKey, Keys, NewSeal, TAG_LEN};

use crate::support::repository;
use crate::support::scratch::Scratch;

/// An empty repository whose files can be replaced.
pub struct Place {
    scratch: Scratch,
    pub backend: Arc<dyn Backend>,
    pub id: RepositoryId,
    pub keys: Keys,
}

impl Place {
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let backend: Arc<dyn Backend> = Arc::new(LocalFolder::new(scratch.join("repository")));
        let id = repository::init(&*backend).unwrap();
        let keys = repository::open(backend.clone()).unwrap().keys().clone();
        Self { scratch, backend, id, keys }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.join("repository").join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Writes a file under the hash of its bytes, and returns the hash.
    pub fn write_hashed(&self, folder: &str, bytes: &[u8]) -> [u8; 32] {
        let hash = id::hash(bytes);
        let name = SegmentId::from_bytes(hash).to_string();
        let folder = if folder == "packs" { format!("packs/{}", &name[..2]) } else { folder.to_owned() };
        self.write(&format!("{folder}/{name}"), bytes);
        hash
    }

    pub fn open(&self) -> Repository {
        repository::open(self.backend.clone()).unwrap()
    }
}

/// Makes the checksum of a header right.
pub fn finish_header(bytes: &mut [u8]) {
    let checksum = id::checksum_128(&[&bytes[..176]]);
    bytes[176..192].copy_from_slice(&checksum);
}

/// Makes the hash at the end of an object file right, and the checksum of its header.
pub fn finish_object(bytes: &mut [u8]) {
    finish_header(bytes);
    let end = bytes.len() - 32;
    let hash = id::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&hash);
}

/// A frame, field by field.
#[derive(Clone)]
pub struct Frame {
    pub magic: [u8; 4],
    pub number: u32,
    pub codec: u8,
    pub reserved: [u8; 7],
    pub plain_len: u32,
    pub stored: Vec<u8>,
    pub checksum: u8,
    /// What the padding is made of.
    pub padding: u8,
    /// Bytes of padding above what is needed.
    pub gap: usize,
    /// The chunks that the directory has of it: kind, id, offset, length.
    pub chunks: Vec<(u8, [u8; 32], u32, u32)>,
}

impl Frame {
    /// A raw frame of these chunks.
    pub fn raw(keys: &IdKeys, number: u32, chunks: &[(ChunkKind, &[u8])]) -> Self {
        let mut plain = u32::try_from(chunks.len()).unwrap().to_le_bytes().to_vec();
        for (kind, bytes) in chunks {
            plain.push(kind.number());
            plain.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
        }
        let mut rows = Vec::new();
        for (kind, bytes) in chunks {
            let chunk = keys.chunk_id(*kind, bytes);
            let (offset, len) = (u32::try_from(plain.len()).unwrap(), u32::try_from(bytes.len()).unwrap());
            rows.push((kind.number(), *chunk.as_bytes(), offset, len));
            plain.extend_from_slice(bytes);
        }
        Self {
            magic: *b"VFRM",
            number,
            codec: 0,
            reserved: [0; 7],
            plain_len: u32::try_from(plain.len()).unwrap(),
            stored: plain,
            checksum: 0,
            padding: 0,
            gap: 0,
            chunks: rows,
        }
    }

    /// The same compressed.
    pub fn compressed(mut self) -> Self {
        self.stored = zstd::bulk::compress(&self.stored, 3).unwrap();
        self.codec = 1;
        self
    }

    /// The frame as it stands at `offset` of a pack; sealed and masked where that has a seal.
    fn bytes(&self, offset: u64, seal: &mut Option<NewSeal>) -> Vec<u8> {
        let tag_len = if seal.is_some() { TAG_LEN } else { 0 };
        let stored_len = u32::try_from(self.stored.len() + tag_len).unwrap();
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.number.to_le_bytes());
        bytes.push(self.codec);
        bytes.extend_from_slice(&self.reserved[..3]);
        bytes.extend(self.plain_len.to_le_bytes());
        bytes.extend(stored_len.to_le_bytes());
        bytes.extend_from_slice(&self.reserved[3..]);
        let stored = match seal {
            Some(seal) => seal.sealer.seal(&bytes, &self.stored).unwrap(),
            None => self.stored.clone(),
        };
        let mut checksum = id::checksum_64(&[&bytes, &stored]);
        checksum[0] ^= self.checksum;
        bytes.extend(checksum);
        let end = bytes.len() + stored.len();
        let mut padding = vec![self.padding; end.next_multiple_of(64) + self.gap - end];
        if let Some(seal) = seal {
            seal.mask.apply(offset, &mut bytes);
            seal.mask.apply(offset + end as u64, &mut padding);
        }
        [bytes, stored, padding].concat()
    }
}

/// A change to some bytes.
type Change = Box<dyn Fn(&mut [u8])>;

/// A pack: frames, and changes to the directory and the tail before they are sealed and their checksum is made.
pub struct Pack {
    pub kind: u8,
    pub frames: Vec<Frame>,
    pub directory: fn(&mut Vec<u8>),
    pub tail: Change,
}

impl Pack {
    /// Data: one raw frame of two chunks, and one compressed one.
    pub fn new(keys: &Keys) -> Self {
        let first = Frame::raw(keys.ids(), 0, &[(ChunkKind::Data, b"one"), (ChunkKind::Data, &[7; 300])]);
        let second = Frame::raw(keys.ids(), 1, &[(ChunkKind::Data, &[8; 5000])]).compressed();
        Self { kind: 1, frames: vec![first, second], directory: |_| (), tail: Box::new(|_| ()) }
    }

    pub fn bytes(&self, keys: &Keys) -> Vec<u8> {
        let unboxed = if keys.is_sealed() { Seal::Sealed([0; 128]) } else { Seal::Plain };
        let mut header = Header {
            kind: self.kind,
            outer_len: 0,
            body_len: 0,
            repository: keys.repository(),
            seal: unboxed,
            salt: 0,
        };
        let beside = header.sealed_part(Magic::Pack);
        let mut seal = keys.new_file(BoxKey::Data, &beside).unwrap();
        let key_box = seal.as_ref().map_or([0; 128], |seal| seal.key_box);
        header.seal = if seal.is_some() { Seal::Sealed(key_box) } else { Seal::Plain };
        let mut bytes = header.encode(Magic::Pack).to_vec();
        let mut directory = Vec::new();
        let frames: Vec<u32> = self
            .frames
            .iter()
            .map(|frame| {
                let offset = bytes.len();
                bytes.extend(frame.bytes(offset as u64, &mut seal));
                u32::try_from(offset).unwrap()
            })
            .collect();
        self.fill_directory(&mut directory, &frames, if seal.is_some() { TAG_LEN } else { 0 });
        (self.directory)(&mut directory);
        let (mask, directory) = match seal {
            Some(NewSeal { mask, directory: sealer, .. }) => {
                (Some(mask), sealer.seal(&beside, &directory).unwrap())
            }
            None => (None, directory),
        };
        let mut tail = vec![0; 192];
        tail[..8].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        tail[8..16].copy_from_slice(&(directory.len() as u64).to_le_bytes());
        tail[16..144].copy_from_slice(&key_box);
        tail[184..].copy_from_slice(b"VLTPKEND");
        (self.tail)(&mut tail);
        let checksum = id::checksum_128(&[&directory, &tail[..168]]);
        for (byte, right) in tail[168..184].iter_mut().zip(checksum) {
            *byte ^= right;
        }
        if let Some(mask) = mask {
            let offset = (bytes.len() + directory.len()) as u64;
            mask.apply(offset, &mut tail[..16]);
            mask.apply(offset + 144, &mut tail[144..184]);
        }
        [bytes, directory, tail].concat()
    }

    /// The rows of frames that stand at these offsets, and of their chunks.
    fn fill_directory(&self, directory: &mut Vec<u8>, offsets: &[u32], tag_len: usize) {
        let (mut frame_rows, mut chunk_rows) = (Vec::new(), Vec::new());
        let mut chunk_count = 0u32;
        for (index, (frame, offset)) in self.frames.iter().zip(offsets).enumerate() {
            frame_rows.extend(offset.to_le_bytes());
            frame_rows.extend(u32::try_from(frame.stored.len() + tag_len).unwrap().to_le_bytes());
            frame_rows.extend(frame.plain_len.to_le_bytes());
            frame_rows.extend([frame.codec, 0, 0, 0]);
            for (kind, id, offset, len) in &frame.chunks {
                chunk_rows.extend_from_slice(id);
                chunk_rows.push(*kind);
                chunk_rows.extend(u32::try_from(index).unwrap().to_le_bytes());
                chunk_rows.extend(offset.to_le_bytes());
                chunk_rows.extend(len.to_le_bytes());
                chunk_count += 1;
            }
        }
        directory.extend(u32::try_from(self.frames.len()).unwrap().to_le_bytes());
        directory.extend(chunk_count.to_le_bytes());
        directory.extend(frame_rows);
        directory.extend(chunk_rows);
    }
}
