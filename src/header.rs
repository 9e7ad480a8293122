//! The 192 bytes that every file of a repository starts with, and the small *object files* (config, copy, key,
//! snapshot, record): header | outer | body | hash of all before. `spec/format.md` §3.

use crate::error::Corruption;
use crate::id::{self, RepositoryId};

/// The length of the header.
pub const HEADER_LEN: usize = 192;
/// The length of the key box in headers and tails.
pub const KEY_BOX_LEN: usize = 128;
/// The most bytes that outer and body of an object file may have together `[OBJ-3]`.
pub const MAX_OBJECT_LEN: u64 = 16 << 20;
/// The version of the format.
pub const VERSION: u16 = 1;

const HASH_LEN: usize = 32;

/// Which kind of file: the first eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Magic {
    /// `config`, `config.2`
    Config,
    /// `copy`
    Copy,
    /// `keys/…`
    Key,
    /// `packs/…`
    Pack,
    /// `index/…`
    Segment,
    /// `snapshots/…`
    Snapshot,
    /// `records/…`
    Record,
}

impl Magic {
    /// Its bytes.
    #[must_use]
    pub const fn bytes(self) -> &'static [u8; 8] {
        match self {
            Self::Config => b"VLTCONFG",
            Self::Copy => b"VLTCOPY1",
            Self::Key => b"VLTKEYS1",
            Self::Pack => b"VLTPACK1",
            Self::Segment => b"VLTINDEX",
            Self::Snapshot => b"VLTSNAP1",
            Self::Record => b"VLTRECRD",
        }
    }
}

/// What a header says, but for magic and checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Of a pack its kind, else 0.
    pub kind: u8,
    /// Bytes of the outer part.
    pub outer_len: u32,
    /// Bytes of the body as stored; 0 in a pack.
    pub body_len: u64,
    /// The repository the file belongs to.
    pub repository: RepositoryId,
}

impl Header {
    /// The header of a file of this kind.
    #[must_use]
    pub fn encode(&self, magic: Magic) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..8].copy_from_slice(magic.bytes());
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = self.kind;
        bytes[12..16].copy_from_slice(&self.outer_len.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[24..40].copy_from_slice(self.repository.as_bytes());
        let checksum = id::checksum_128(&[&bytes[..176]]);
        bytes[176..192].copy_from_slice(&checksum);
        bytes
    }

    /// Reads a header and checks `[HEAD-1]` to `[HEAD-6]`; `repository` is unknown only to the reader of `config`.
    ///
    /// # Errors
    /// Names the rule.
    pub fn decode(bytes: &[u8], magic: Magic, repository: Option<RepositoryId>) -> Result<Self, Corruption> {
        let Some(bytes) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(Corruption::WrongLength { expected: HEADER_LEN as u64, found: bytes.len() as u64 });
        };
        if bytes[0..8] != *magic.bytes() {
            return Err(Corruption::WrongMagic { part: "header" });
        }
        if bytes[176..192] != id::checksum_128(&[&bytes[..176]]) {
            return Err(Corruption::WrongChecksum { part: "header" });
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(Corruption::WrongVersion { found: version.into() });
        }
        if bytes[11] != 0 || bytes[40..168].iter().any(|byte| *byte != 0) {
            return Err(Corruption::UnexpectedSeal);
        }
        let is_pack = magic == Magic::Pack;
        let kind_fits = if is_pack { matches!(bytes[10], 1 | 2) } else { bytes[10] == 0 };
        if !kind_fits || bytes[168..176].iter().any(|byte| *byte != 0) {
            return Err(Corruption::rule(
                "HEAD-6",
                "a reserved byte of the header is set, or its kind unknown",
            ));
        }
        let found = RepositoryId::from_bytes(array(&bytes[24..40]));
        if repository.is_some_and(|expected| expected != found) {
            return Err(Corruption::WrongRepository { found });
        }
        let header = Self {
            kind: bytes[10],
            outer_len: u32::from_le_bytes(array(&bytes[12..16])),
            body_len: u64::from_le_bytes(array(&bytes[16..24])),
            repository: found,
        };
        if is_pack && (header.outer_len, header.body_len) != (0, 0) {
            return Err(Corruption::rule("HEAD-6", "a pack's header has lengths"));
        }
        Ok(header)
    }
}

/// The first `N` bytes of a slice that has at least as many: for fields at fixed places in checked buffers.
pub(crate) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

/// The bytes of an object file.
#[must_use]
pub fn encode_object(magic: Magic, repository: RepositoryId, outer: &[u8], body: &[u8]) -> Vec<u8> {
    let header = Header {
        kind: 0,
        outer_len: u32::try_from(outer.len()).unwrap_or(u32::MAX),
        body_len: body.len() as u64,
        repository,
    };
    let mut bytes = header.encode(magic).to_vec();
    bytes.extend_from_slice(outer);
    bytes.extend_from_slice(body);
    let hash = id::hash(&bytes);
    bytes.extend_from_slice(&hash);
    bytes
}

/// An object file taken apart.
#[derive(Debug)]
pub struct Object<'a> {
    /// What its header says.
    pub header: Header,
    /// What can be read without a key.
    pub outer: &'a [u8],
    /// The rest.
    pub body: &'a [u8],
}

/// Takes an object file apart and checks `[OBJ-1]` to `[OBJ-3]`.
///
/// # Errors
/// Names the rule.
pub fn decode_object(
    bytes: &[u8],
    magic: Magic,
    repository: Option<RepositoryId>,
) -> Result<Object<'_>, Corruption> {
    let header = Header::decode(bytes, magic, repository)?;
    let inner = u64::from(header.outer_len).saturating_add(header.body_len);
    if inner > MAX_OBJECT_LEN {
        return Err(Corruption::StructTooLong { len: inner });
    }
    let expected = (HEADER_LEN + HASH_LEN) as u64 + inner;
    if bytes.len() as u64 != expected {
        return Err(Corruption::WrongLength { expected, found: bytes.len() as u64 });
    }
    let (rest, hash) = bytes.split_at(bytes.len() - HASH_LEN);
    if id::hash(rest) != hash {
        return Err(Corruption::WrongChecksum { part: "body" });
    }
    let (outer, body) = rest[HEADER_LEN..].split_at(header.outer_len as usize);
    Ok(Object { header, outer, body })
}
