//! Names of things: one newtype per kind of id, and the only file that knows BLAKE3.
//!
//! A [`ChunkId`] is a *keyed* hash, with one key per [`ChunkKind`], so that the bytes of a file can never pass for
//! those of a tree `[FRAME-6]`. All other ids are the plain BLAKE3 of a file's bytes `[REPO-1]`.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Defines a newtype over a byte array that prints as lower-case hex.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; $len]);

        impl $name {
            /// How many bytes an id has.
            pub const LEN: usize = $len;

            /// The id with these bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes of the id.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The id written as exactly `2 * LEN` lower-case hex digits, or nothing if `text` is not that.
            #[must_use]
            pub fn from_hex(text: &str) -> Option<Self> {
                let mut bytes = [0; $len];
                decode_hex(text.as_bytes(), &mut bytes).then_some(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

id!(
    /// The name of a chunk: the keyed BLAKE3 of its plain bytes.
    ChunkId, 32
);
id!(
    /// The name of a pack: the BLAKE3 of its stored bytes.
    PackId, 32
);
id!(
    /// The name of a segment: the BLAKE3 of its stored bytes.
    SegmentId, 32
);
id!(
    /// The name of a snapshot: the BLAKE3 of its stored bytes.
    SnapshotId, 32
);
id!(
    /// The name of a record: the BLAKE3 of its stored bytes.
    RecordId, 32
);
id!(
    /// The name of a repository, random, shared by all its copies.
    RepositoryId, 16
);
id!(
    /// The name of one physical copy of a repository, random.
    CopyId, 16
);
id!(
    /// The name of a key file: the BLAKE3 of its stored bytes.
    KeyId, 32
);
id!(
    /// Which names in a snapshot are one file: a keyed hash of mount path and inode.
    LinkGroup, 16
);

fn decode_hex(text: &[u8], out: &mut [u8]) -> bool {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != out.len() * 2 {
        return false;
    }
    for (pair, out) in text.chunks_exact(2).zip(out) {
        match (digit(pair[0]), digit(pair[1])) {
            (Some(high), Some(low)) => *out = high << 4 | low,
            _ => return false,
        }
    }
    true
}

/// What the bytes of a chunk are. The numbers are those of the format.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum ChunkKind {
    /// A piece of a file.
    Data = 1,
    /// A node of a directory.
    Tree = 2,
    /// A node of a long list of pieces.
    List = 3,
}

impl ChunkKind {
    /// The kind with this number in the format.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Data),
            2 => Some(Self::Tree),
            3 => Some(Self::List),
            _ => None,
        }
    }

    /// The number of this kind in the format.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for ChunkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Data => "data",
            Self::Tree => "tree",
            Self::List => "list",
        })
    }
}

/// The keys that name chunks and link groups: public constants in a plain repository. Wiped when they are dropped.
#[derive(Clone)]
pub struct IdKeys {
    data: Zeroizing<[u8; 32]>,
    tree: Zeroizing<[u8; 32]>,
    list: Zeroizing<[u8; 32]>,
    link: Zeroizing<[u8; 32]>,
}

impl IdKeys {
    /// The public keys of a plain repository `[FRAME-6]`.
    #[must_use]
    pub fn plain() -> Self {
        Self {
            data: blake3::derive_key("vault 2026 plain data chunk", b"").into(),
            tree: blake3::derive_key("vault 2026 plain tree chunk", b"").into(),
            list: blake3::derive_key("vault 2026 plain list chunk", b"").into(),
            link: blake3::derive_key("vault 2026 plain link group", b"").into(),
        }
    }

    /// The keys of an encrypted repository, from its secret for ids `[KEY-1]`.
    #[must_use]
    pub fn secret(ids: &[u8; 32]) -> Self {
        Self {
            data: blake3::derive_key("vault 2026 secret data chunk", ids).into(),
            tree: blake3::derive_key("vault 2026 secret tree chunk", ids).into(),
            list: blake3::derive_key("vault 2026 secret list chunk", ids).into(),
            link: blake3::derive_key("vault 2026 secret link group", ids).into(),
        }
    }

    /// The name of a chunk.
    #[must_use]
    pub fn chunk_id(&self, kind: ChunkKind, plain: &[u8]) -> ChunkId {
        let key = match kind {
            ChunkKind::Data => &self.data,
            ChunkKind::Tree => &self.tree,
            ChunkKind::List => &self.list,
        };
        ChunkId(*blake3::keyed_hash(key, plain).as_bytes())
    }

    /// The link group of an inode of the file system mounted at `mount`.
    #[must_use]
    pub fn link_group(&self, mount: &[u8], inode: u64) -> LinkGroup {
        let mut hasher = blake3::Hasher::new_keyed(&self.link);
        hasher.update(mount).update(&[0]).update(&inode.to_le_bytes());
        LinkGroup(first(hasher.finalize()))
    }
}

/// The id of a host, from the text of its machine id: never the machine id itself.
#[must_use]
pub fn host_id(machine_id: &[u8]) -> [u8; 16] {
    first(blake3::keyed_hash(&blake3::derive_key("vault 2026 host id", b""), machine_id))
}

/// BLAKE3 of `bytes`.
#[must_use]
pub fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// BLAKE3-64 of the parts, one after the other.
#[must_use]
pub fn checksum_64(parts: &[&[u8]]) -> [u8; 8] {
    first(hash_parts(parts))
}

/// BLAKE3-128 of the parts, one after the other.
#[must_use]
pub fn checksum_128(parts: &[&[u8]]) -> [u8; 16] {
    first(hash_parts(parts))
}

/// A key made from other secrets, for one purpose that `context` names.
#[must_use]
pub fn derive_key(context: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// Keyed BLAKE3 of the parts, one after the other.
#[must_use]
pub fn keyed_hash(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// XORs bytes with the endless output of keyed BLAKE3 of nothing, from `offset` on.
pub fn xor_stream(key: &[u8; 32], offset: u64, bytes: &mut [u8]) {
    let mut stream = blake3::Hasher::new_keyed(key).finalize_xof();
    stream.set_position(offset);
    let mut mask = [0; 64];
    for piece in bytes.chunks_mut(mask.len()) {
        stream.fill(&mut mask);
        piece.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    }
}

fn hash_parts(parts: &[&[u8]]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

fn first<const N: usize>(hash: blake3::Hash) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&hash.as_bytes()[..N]);
    out
}

/// BLAKE3 of bytes that come one piece after the other.
#[derive(Clone, Default)]
pub struct FileHasher(blake3::Hasher);

impl FileHasher {
    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all bytes taken in so far.
    #[must_use]
    pub fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

impl ChunkId {
    /// 128 bits of it, which do not collide either, and halve the memory of a set.
    #[must_use]
    pub fn half(&self) -> [u8; 16] {
        self.as_bytes().first_chunk().copied().unwrap_or_default()
    }
}
