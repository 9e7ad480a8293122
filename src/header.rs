//! The 192 bytes that every file of a repository starts with, and the small *object files* (config, copy, key,
//! snapshot, record): header | outer | body | hash of all before. `spec/format.md` §3.

use crate::error::Corruption;
use crate::id::{self, RepositoryId};
use crate::seal::{self, BoxKey, Keys, SEALED_HEADER_LEN};

pub use crate::seal::KEY_BOX_LEN;

/// The length of the header.
pub const HEADER_LEN: usize = 192;
/// The most bytes that outer and body of an object file may have together `[OBJ-3]`.
pub const MAX_OBJECT_LEN: u64 = 16 << 20;
/// The longest structure of an object file that fits into it sealed as well, whatever it is padded to `[OBJ-3]`.
pub const MAX_STRUCTURE_LEN: u64 = MAX_OBJECT_LEN - (256 << 10) - 1;
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
    /// `sessions/…`
    Session,
    /// `marks/…`
    Mark,
    /// `packs/….par`
    Parity,
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
            Self::Session => b"VLTSESSN",
            Self::Mark => b"VLTMARKS",
            Self::Parity => b"VLTPARTY",
        }
    }
}

/// How a file is protected: the byte `seal` and the key box of its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    /// It can be read without a key.
    Plain,
    /// It is sealed with the key in this key box.
    Sealed([u8; KEY_BOX_LEN]),
    /// It is sealed with a key made from a passphrase: only key files are.
    Passphrase,
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
    /// How the file is protected.
    pub seal: Seal,
    /// Of a plain pack, what tells it from one with the same chunks; else 0.
    pub salt: u64,
}

impl Header {
    /// The part of the header that the seals of the file vouch for.
    #[must_use]
    pub fn sealed_part(&self, magic: Magic) -> [u8; SEALED_HEADER_LEN] {
        let mut bytes = [0; SEALED_HEADER_LEN];
        bytes[0..8].copy_from_slice(magic.bytes());
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = self.kind;
        bytes[11] = u8::from(self.seal != Seal::Plain);
        bytes[12..16].copy_from_slice(&self.outer_len.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[24..40].copy_from_slice(self.repository.as_bytes());
        bytes
    }

    /// The header of a file of this kind.
    #[must_use]
    pub fn encode(&self, magic: Magic) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..SEALED_HEADER_LEN].copy_from_slice(&self.sealed_part(magic));
        if let Seal::Sealed(key_box) = &self.seal {
            bytes[40..168].copy_from_slice(key_box);
        }
        bytes[168..176].copy_from_slice(&self.salt.to_le_bytes());
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
        let seal = decode_seal(bytes, magic)?;
        let is_pack = magic == Magic::Pack;
        let kind_fits = if is_pack { matches!(bytes[10], 1 | 2) } else { bytes[10] == 0 };
        // Only a plain pack may be like another one but for its salt.
        let is_salted = bytes[168..176].iter().any(|byte| *byte != 0);
        if !kind_fits || is_salted && !(is_pack && seal == Seal::Plain) {
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
            seal,
            salt: u64::from_le_bytes(array(&bytes[168..176])),
        };
        if is_pack && (header.outer_len, header.body_len) != (0, 0) {
            return Err(Corruption::rule("HEAD-6", "a pack's header has lengths"));
        }
        Ok(header)
    }
}

impl Header {
    /// Checks that the file is sealed exactly if the repository is encrypted `[HEAD-5]`.
    ///
    /// # Errors
    /// `UnexpectedSeal`, `MissingSeal`.
    pub fn fits(&self, keys: &Keys) -> Result<(), Corruption> {
        match (self.seal, keys.is_sealed()) {
            (Seal::Plain, false) | (Seal::Sealed(_), true) => Ok(()),
            (Seal::Plain, true) => Err(Corruption::MissingSeal),
            (Seal::Sealed(_) | Seal::Passphrase, _) => Err(Corruption::UnexpectedSeal),
        }
    }
}

/// `[HEAD-5]`: what is not sealed has no key box, and key files have none either.
fn decode_seal(bytes: &[u8; HEADER_LEN], magic: Magic) -> Result<Seal, Corruption> {
    let is_empty = bytes[40..168].iter().all(|byte| *byte == 0);
    match (bytes[11], magic) {
        (0, _) if !is_empty => Err(Corruption::rule("HEAD-5", "it has a key box and is not sealed")),
        (0, Magic::Key) => Err(Corruption::MissingSeal),
        (0, _) => Ok(Seal::Plain),
        (1, Magic::Key) if is_empty => Ok(Seal::Passphrase),
        (1, Magic::Config | Magic::Copy | Magic::Key | Magic::Session | Magic::Mark | Magic::Parity) => {
            Err(Corruption::UnexpectedSeal)
        }
        (1, _) => Ok(Seal::Sealed(array(&bytes[40..168]))),
        _ => Err(Corruption::rule("HEAD-5", "its seal is of an unknown kind")),
    }
}

/// The first `N` bytes of a slice that has at least as many: for fields at fixed places in checked buffers.
pub(crate) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

/// The bytes of an object file that is never sealed with a key box: config, copy, notices, and, sealed already, key files.
#[must_use]
pub fn encode_object(
    magic: Magic,
    repository: RepositoryId,
    seal: Seal,
    outer: &[u8],
    body: &[u8],
) -> Vec<u8> {
    let header = object_header(repository, seal, outer, body.len());
    assemble(&header.encode(magic), outer, body)
}

/// The header of an object file with such an outer and a body of this length.
#[must_use]
pub fn object_header(repository: RepositoryId, seal: Seal, outer: &[u8], body_len: usize) -> Header {
    let outer_len = u32::try_from(outer.len()).unwrap_or(u32::MAX);
    Header { kind: 0, outer_len, body_len: body_len as u64, repository, seal, salt: 0 }
}

fn assemble(header: &[u8; HEADER_LEN], outer: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = [&header[..], outer, body].concat();
    let hash = id::hash(&bytes);
    bytes.extend_from_slice(&hash);
    bytes
}

/// The bytes of an object file that is sealed where the repository is encrypted: snapshots and records.
///
/// # Errors
/// `Locked`.
pub fn seal_object(magic: Magic, keys: &Keys, outer: &[u8], body: &[u8]) -> Result<Vec<u8>, Corruption> {
    if !keys.is_sealed() {
        return Ok(encode_object(magic, keys.repository(), Seal::Plain, outer, body));
    }
    let padded = seal::pad_body(body);
    let unboxed = Seal::Sealed([0; KEY_BOX_LEN]);
    let mut header = object_header(keys.repository(), unboxed, outer, padded.len() + seal::TAG_LEN);
    let head = header.sealed_part(magic);
    let mut new = keys.new_file(BoxKey::Data, &head)?.ok_or(Corruption::Locked)?;
    let sealed = new.sealer.seal(&[&head[..], outer].concat(), &padded)?;
    header.seal = Seal::Sealed(new.key_box);
    Ok(assemble(&header.encode(magic), outer, &sealed))
}

/// An object file taken apart.
#[derive(Debug)]
pub struct Object<'a> {
    /// What its header says.
    pub header: Header,
    /// What can be read without a key.
    pub outer: &'a [u8],
    /// The rest, as stored.
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

/// Takes an object file apart that is sealed where the repository is encrypted, and opens it. Returns outer and body.
///
/// # Errors
/// Names the rule; `Locked`.
pub fn open_object<'a>(
    bytes: &'a [u8],
    magic: Magic,
    keys: &Keys,
) -> Result<(&'a [u8], Vec<u8>), Corruption> {
    let Object { header, outer, body } = decode_object(bytes, magic, Some(keys.repository()))?;
    header.fits(keys)?;
    let Seal::Sealed(key_box) = &header.seal else { return Ok((outer, body.to_vec())) };
    let head = header.sealed_part(magic);
    let opener = keys.open_file(BoxKey::Data, &head, key_box)?;
    let padded = opener.open(0, &[&head[..], outer].concat(), body, "body")?;
    Ok((outer, seal::unpad_body(&padded)?.to_vec()))
}
