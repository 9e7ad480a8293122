//! What every input is held against: one plain and one encrypted repository with ids and keys that never change, and how files of theirs
//! are made from parts, checksums, hashes and seals right, so that an input gets behind these.

use std::rc::Rc;
use std::sync::LazyLock;

use argon2::{Algorithm, Argon2, Params, Version};
use vault::chunk::ChunkerParams;
use vault::codec::{self, Bytes};
use vault::field::{Field, Time};
use vault::header::{
    HEADER_LEN, KEY_BOX_LEN, Magic, Seal, decode_object, encode_object, object_header, seal_object,
};
use vault::id::{self, ChunkId, CopyId, KeyId, RepositoryId, SnapshotId};
use vault::repository::{Config, CopyInfo, Kdf, KeyOuter, Repository};
use vault::seal::{self, BoxKey, Keys, PassphraseKey, Secret};
use vault::snapshot::{Entry, Kind, Meta, Snapshot, State};

use super::memory::Memory;

/// The id of both.
pub const ID: RepositoryId = RepositoryId::from_bytes([7; 16]);
/// What opens the encrypted one.
pub const PASSPHRASE: &[u8] = b"correct horse";
/// All that is secret of it.
pub const MASTER: [u8; 32] = [0xa5; 32];
/// As little as is allowed: nobody tries to guess.
pub const KDF: Kdf = Kdf { memory_kib: 8, passes: 1, lanes: 1 };

/// The keys of the plain one, or of the encrypted one.
#[must_use]
pub fn keys(is_sealed: bool) -> &'static Keys {
    static PLAIN: LazyLock<Keys> = LazyLock::new(|| Keys::plain(ID));
    static SEALED: LazyLock<Keys> = LazyLock::new(|| Keys::from_master(ID, &Secret::new(MASTER)));
    if is_sealed { &SEALED } else { &PLAIN }
}

/// A config, the check of its keys right if it says that there are some.
#[must_use]
pub fn checked(mut config: Config) -> Config {
    config.fields.retain(|field| field.tag != 1);
    if config.is_encrypted() {
        let key = id::derive_key("vault 2026 config check", &[&MASTER]);
        let check = id::keyed_hash(&key, &[ID.as_bytes(), &codec::encode(&config)]);
        config.fields.insert(0, Field { tag: 1, critical: true, value: check[..].into() });
    }
    config
}

/// The config of the plain one, or of the encrypted one.
#[must_use]
pub fn config(is_sealed: bool) -> Config {
    checked(Config {
        version: 1,
        chunker: ChunkerParams { min_len: 64, avg_len: 256, max_len: 1024, normalization: 2 },
        encryption: u32::from(is_sealed),
        created: Time { secs: 1_700_000_000, nanos: 5 },
        fields: Vec::new(),
    })
}

/// What the key file of the encrypted one says to everybody, but for its commitment.
#[must_use]
pub fn key_outer() -> KeyOuter {
    KeyOuter {
        name: "of all".to_owned(),
        created: Time { secs: 1_700_000_000, nanos: 0 },
        kdf: KDF,
        salt: [3; 32],
        commitment: [0; 32],
        config: id::hash(&config(true).encode(ID)),
        fields: Vec::new(),
    }
}

/// A key file with this outer part and this padded body, committed and sealed as somebody does who knows the passphrase. Nothing if Argon2id does
/// not take its parameters.
#[must_use]
pub fn key_file(mut outer: KeyOuter, body: &[u8]) -> Option<Vec<u8>> {
    let Kdf { memory_kib, passes, lanes } = outer.kdf;
    let params = Params::new(memory_kib, passes, lanes, Some(32)).ok()?;
    let mut root = Secret::default();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into(PASSPHRASE, &outer.salt, &mut root[..]).ok()?;
    outer.commitment = id::derive_key("vault 2026 passphrase commitment", &[&root[..]]);
    let outer = codec::encode(&outer);
    let header = object_header(ID, Seal::Passphrase, &outer, body.len() + seal::TAG_LEN);
    let beside = [&header.sealed_part(Magic::Key)[..], &outer].concat();
    let sealed = PassphraseKey::new(&root).seal(&beside, body);
    Some(encode_object(Magic::Key, ID, Seal::Passphrase, &outer, &sealed))
}

/// The master secret as the body of a key file, padded.
#[must_use]
pub fn key_body() -> Vec<u8> {
    seal::pad_body(&[&[0][..], &MASTER].concat())
}

/// A medium with the files that a repository has from the start.
#[must_use]
pub fn medium(is_sealed: bool) -> Memory {
    let medium = Memory::default();
    let config = config(is_sealed).encode(ID);
    medium.put("config", config.clone());
    medium.put("config.2", config);
    let copy = CopyInfo { copy: CopyId::from_bytes([9; 16]), name: "copy".to_owned(), fields: Vec::new() };
    medium.put("copy", copy.encode(ID));
    if let (true, Some(key)) = (is_sealed, key_file(key_outer(), &key_body())) {
        medium.put(&format!("keys/{}", KeyId::from_bytes(id::hash(&key))), key);
    }
    medium
}

/// One of the two repositories, open.
pub struct World {
    pub medium: Memory,
    pub repository: Repository,
}

impl World {
    #[expect(clippy::expect_used, reason = "what cannot be set up is no target")]
    fn new(is_sealed: bool) -> Self {
        let medium = medium(is_sealed);
        let mut repository = Repository::open(medium.backend()).expect("it is a repository");
        if is_sealed {
            repository.unlock(PASSPHRASE, None).expect("it is the passphrase");
        }
        Self { medium, repository }
    }

    /// The plain one, or the encrypted one. Each thread has its own: targets put files in, list what is there and take them out.
    #[must_use]
    pub fn get(is_sealed: bool) -> Rc<Self> {
        thread_local! {
            static PLAIN: Rc<World> = Rc::new(World::new(false));
            static SEALED: Rc<World> = Rc::new(World::new(true));
        }
        if is_sealed { SEALED.with(Rc::clone) } else { PLAIN.with(Rc::clone) }
    }
}

/// The name of bytes in a folder of the repository.
#[must_use]
pub fn named(folder: &str, bytes: &[u8]) -> String {
    format!("{folder}/{}", SnapshotId::from_bytes(id::hash(bytes)))
}

/// Makes the checksum of a header right.
pub fn finish_header(bytes: &mut [u8]) {
    if let Some((head, rest)) = bytes.split_at_mut_checked(176)
        && let Some(checksum) = rest.get_mut(..16)
    {
        checksum.copy_from_slice(&id::checksum_128(&[head]));
    }
}

/// An object file: checksum and hash of these bytes made right, and its length by its header where that is possible.
#[must_use]
pub fn finish_object(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    finish_header(&mut bytes);
    if bytes.len() >= HEADER_LEN + 32 {
        let end = bytes.len() - 32;
        let hash = id::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(&hash);
    }
    bytes
}

/// How an input becomes an object file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// It is the file, but for checksum and hash.
    File,
    /// It is the structure in it.
    Structure,
    /// It is the body before it is sealed, padding included.
    Padded,
}

impl Form {
    /// By two bits of a byte.
    #[must_use]
    pub fn of(byte: u8) -> Self {
        match byte & 3 {
            0 => Self::File,
            1 => Self::Padded,
            _ => Self::Structure,
        }
    }

    /// The object file.
    #[must_use]
    pub fn object(self, magic: Magic, is_sealed: bool, (outer, body): (&[u8], &[u8])) -> Vec<u8> {
        let keys = keys(is_sealed);
        let made = match self {
            Self::File => return finish_object(body),
            Self::Padded if is_sealed => seal_padded(magic, keys, outer, body),
            _ => seal_object(magic, keys, outer, body).ok(),
        };
        made.unwrap_or_default()
    }
}

/// As [`seal_object`], of a body that is padded already.
fn seal_padded(magic: Magic, keys: &Keys, outer: &[u8], padded: &[u8]) -> Option<Vec<u8>> {
    let unboxed = Seal::Sealed([0; KEY_BOX_LEN]);
    let mut header = object_header(keys.repository(), unboxed, outer, padded.len() + seal::TAG_LEN);
    let head = header.sealed_part(magic);
    let mut new = keys.new_file(BoxKey::Data, &head).ok()??;
    let sealed = new.sealer.seal(&[&head[..], outer].concat(), padded).ok()?;
    header.seal = Seal::Sealed(new.key_box);
    let mut bytes = [&header.encode(magic)[..], outer, &sealed].concat();
    let hash = id::hash(&bytes);
    bytes.extend_from_slice(&hash);
    Some(bytes)
}

/// A snapshot of this directory.
#[must_use]
pub fn snapshot(root: ChunkId, secs: i64) -> Snapshot {
    let (name, meta, time) = (Bytes::default(), Meta::default(), Time { secs, nanos: 0 });
    Snapshot {
        state: State::Complete,
        root: Entry { name, kind: Kind::Directory(root), meta, fields: Vec::new() },
        notes: None,
        sources: Vec::new(),
        label: String::new(),
        tags: Vec::new(),
        description: String::new(),
        host: "host".to_owned(),
        host_id: [0; 16],
        user: String::new(),
        program: String::new(),
        start: time,
        end: time,
        utc_offset_secs: 0,
        predecessor: None,
        made_from: Vec::new(),
        counters: Vec::new(),
        fields: Vec::new(),
    }
}

/// Whether these are the very bytes of an object file of the plain repository with such an outer part and body: nothing in it is slack.
#[must_use]
pub fn is_object(bytes: &[u8], magic: Magic, (outer, body): (&[u8], &[u8])) -> bool {
    let header = decode_object(bytes, magic, None).map(|object| object.header);
    header.is_ok_and(|header| encode_object(magic, header.repository, Seal::Plain, outer, body) == bytes)
}

/// Takes a length of two bytes, and so many bytes, from the front; what is too long ends where the input does.
#[must_use]
pub fn part(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some((len, rest)) = bytes.split_first_chunk::<2>() else { return (&[], &[]) };
    rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()))
}

/// Such a part.
#[must_use]
pub fn as_part(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes()[..], bytes].concat()
}
