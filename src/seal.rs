//! Sealing: what makes the files of an encrypted repository unreadable and unforgeable. The only file that knows the cipher.
//!
//! One master secret gives four keys that tell nothing of one another: for ids, for the gear table, for the index, for data. Every sealed file
//! has a random key of its own in the *key box* of its header `[BOX-1]`, sealed under the index key (segments) or the data key (all
//! others). Under it everything is AES-256-GCM with a number as nonce, and a number is used once: [`Sealer`] counts
//! and cannot be rewound, and its key is known to no other sealer `[SEAL-1]`. What a pack has between its sealed parts is masked with a stream
//! `[SEAL-3]`. `spec/format.md` §12, `spec/security.md`.
//!
//! Secrets are wiped when they are dropped, and have no `Debug`.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::error::Corruption;
use crate::id::{self, IdKeys, RepositoryId};
use crate::session::random;

/// The length of the key box in headers and tails.
pub const KEY_BOX_LEN: usize = 128;
/// How many bytes a seal adds.
pub const TAG_LEN: usize = 16;
/// The first bytes of a header, which every seal in the file vouches for: magic to repository id.
pub const SEALED_HEADER_LEN: usize = 40;
/// The number under which the directory of a pack is sealed, instead of a nonce of its own: 2^96 - 1.
const DIRECTORY_NONCE: [u8; 12] = [0xff; 12];
/// The shortest length that anything sealed is padded to.
const MIN_PADDED_LEN: u64 = 1024;
/// Ends the structure in a sealed body; zeros follow.
const END_OF_BODY: u8 = 0x80;

/// A secret of 32 bytes. Wiped when it is dropped.
pub type Secret = Zeroizing<[u8; 32]>;

/// The keys of a repository, as far as they are known. They do not show in a message:
///
/// ```compile_fail,E0277
/// fn is_shown<T: std::fmt::Debug>() {}
/// is_shown::<vault::seal::Keys>();
/// ```
///
/// ```
/// fn is_shown<T: std::fmt::Debug>() {}
/// is_shown::<vault::seal::BoxKey>();
/// ```
#[derive(Clone)]
pub struct Keys {
    repository: RepositoryId,
    ids: IdKeys,
    sealing: Sealing,
}

#[derive(Clone)]
enum Sealing {
    /// Not encrypted.
    None,
    /// Encrypted, and no key is known: only what is outside of the seals can be read.
    Locked,
    /// Encrypted and open.
    Open { index: Secret, data: Secret, gear: Secret },
}

/// Which of the repository's keys a key box is sealed under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoxKey {
    /// Packs, snapshots, records.
    Data,
    /// Segments.
    Index,
}

impl BoxKey {
    fn number(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Index => 2,
        }
    }
}

impl Keys {
    /// The keys of a plain repository: there are none but the public ones that name chunks.
    #[must_use]
    pub fn plain(repository: RepositoryId) -> Self {
        Self { repository, ids: IdKeys::plain(), sealing: Sealing::None }
    }

    /// Of an encrypted repository whose keys are not known.
    #[must_use]
    pub fn locked(repository: RepositoryId) -> Self {
        Self { repository, ids: IdKeys::plain(), sealing: Sealing::Locked }
    }

    /// The keys that a master secret gives `[KEY-1]`.
    #[must_use]
    pub fn from_master(repository: RepositoryId, master: &Secret) -> Self {
        let key = |context| Secret::new(id::derive_key(context, &[&master[..]]));
        let sealing = Sealing::Open {
            index: key("vault 2026 index key"),
            data: key("vault 2026 data key"),
            gear: key("vault 2026 gear key"),
        };
        Self { repository, ids: IdKeys::secret(&key("vault 2026 id key")), sealing }
    }

    /// The repository they belong to.
    #[must_use]
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// The keys that name chunks.
    #[must_use]
    pub fn ids(&self) -> &IdKeys {
        &self.ids
    }

    /// Whether the repository is encrypted.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        !matches!(self.sealing, Sealing::None)
    }

    /// Whether the repository is encrypted and its keys are not known.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        matches!(self.sealing, Sealing::Locked)
    }

    /// The secret that the chunker's table is made from; none in a plain repository.
    #[must_use]
    pub fn gear(&self) -> Option<&Secret> {
        match &self.sealing {
            Sealing::Open { gear, .. } => Some(gear),
            _ => None,
        }
    }

    fn key(&self, which: BoxKey) -> Result<&Secret, Corruption> {
        match (&self.sealing, which) {
            (Sealing::Open { data, .. }, BoxKey::Data) => Ok(data),
            (Sealing::Open { index, .. }, BoxKey::Index) => Ok(index),
            (Sealing::Locked, _) => Err(Corruption::Locked),
            (Sealing::None, _) => Err(Corruption::UnexpectedSeal),
        }
    }

    /// A new key for a file whose header starts like this, and the key box to put into it; none in a plain repository.
    ///
    /// # Errors
    /// `Locked`.
    pub fn new_file(
        &self,
        which: BoxKey,
        header: &[u8; SEALED_HEADER_LEN],
    ) -> Result<Option<NewSeal>, Corruption> {
        if !self.is_sealed() {
            return Ok(None);
        }
        let (salt, file_key) = (random::<32>(), Secret::new(random()));
        let outer = Aead::new(&Secret::new(id::keyed_hash(self.key(which)?, &[&salt])));
        let mut bytes = [0; KEY_BOX_LEN];
        bytes[0] = 1;
        bytes[1] = which.number();
        bytes[16..48].copy_from_slice(&salt);
        bytes[48..96].copy_from_slice(&outer.seal(nonce(0), header, &file_key[..]));
        // [DUR-4]: without its key the whole file could not be read.
        if *self.open_box(which, header, &bytes)? != *file_key {
            return Err(Corruption::BrokenSeal { part: "key box just sealed" });
        }
        let (mask, directory) = self.pack_keys(&salt)?;
        let sealer = Sealer { aead: Aead::new(&file_key), next: 0, opened: Vec::new() };
        Ok(Some(NewSeal { key_box: bytes, sealer, directory: DirectorySealer(directory), mask }))
    }

    /// Opens the key box of a file whose header starts like this `[BOX-1]` `[BOX-2]`.
    ///
    /// # Errors
    /// `BrokenSeal`: the box, or the header it vouches for, is not what a holder of the key wrote. `Locked`.
    pub fn open_file(
        &self,
        which: BoxKey,
        header: &[u8; SEALED_HEADER_LEN],
        key_box: &[u8; KEY_BOX_LEN],
    ) -> Result<Opener, Corruption> {
        Ok(Opener(Aead::new(&self.open_box(which, header, key_box)?)))
    }

    fn open_box(
        &self,
        which: BoxKey,
        header: &[u8; SEALED_HEADER_LEN],
        key_box: &[u8; KEY_BOX_LEN],
    ) -> Result<Secret, Corruption> {
        let zeros = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        if key_box[..2] != [1, which.number()] || !zeros(&key_box[2..16]) || !zeros(&key_box[96..]) {
            return Err(Corruption::rule("BOX-2", "its key box is of an unknown kind"));
        }
        let outer = Aead::new(&Secret::new(id::keyed_hash(self.key(which)?, &[&key_box[16..48]])));
        let opened = outer.open_new(nonce(0), header, &key_box[48..96]).map(Zeroizing::new);
        let mut key = Secret::default();
        key.copy_from_slice(&opened.ok_or(Corruption::BrokenSeal { part: "key box" })?);
        Ok(key)
    }

    /// What masks a pack with this key box, and opens its directory. The index key is enough for both.
    ///
    /// # Errors
    /// `Locked`.
    pub fn open_pack(&self, key_box: &[u8; KEY_BOX_LEN]) -> Result<(Mask, DirectoryOpener), Corruption> {
        let (mask, directory) = self.pack_keys(&key_box[16..48])?;
        Ok((mask, DirectoryOpener(directory)))
    }

    fn pack_keys(&self, salt: &[u8]) -> Result<(Mask, Aead), Corruption> {
        let index = self.key(BoxKey::Index)?;
        let key = |what: &[u8]| Secret::new(id::keyed_hash(index, &[salt, what]));
        Ok((Mask(key(b"mask")), Aead::new(&key(b"directory"))))
    }
}

/// The seal of a new file.
pub struct NewSeal {
    /// Goes into the header, and of a pack also into the tail.
    pub key_box: [u8; KEY_BOX_LEN],
    /// Seals the parts of the file.
    pub sealer: Sealer,
    /// Seals the directory of a pack.
    pub directory: DirectorySealer,
    /// Masks what a pack has between its sealed parts.
    pub mask: Mask,
}

/// Seals the parts of one file, in order: each gets the next number as its nonce, so that none is used twice `[SEAL-1]`.
///
/// There is no other way to seal than this, and none to get a number again. A sealer is not copied:
///
/// ```compile_fail,E0277
/// fn is_copied<T: Clone>() {}
/// is_copied::<vault::seal::Sealer>();
/// ```
///
/// It is not set back:
///
/// ```compile_fail,E0616
/// fn set_back(sealer: &mut vault::seal::Sealer) {
///     sealer.next = 0;
/// }
/// ```
///
/// And it is not made but by [`Keys::new_file`], with a key that is random and given to nobody else:
///
/// ```compile_fail,E0451
/// fn made(of: vault::seal::Sealer) -> vault::seal::Sealer {
///     vault::seal::Sealer { next: 0, ..of }
/// }
/// ```
///
/// What does not compile there is only that:
///
/// ```
/// fn is_copied<T: Clone>() {}
/// is_copied::<vault::seal::Mask>();
/// fn sealed(sealer: &mut vault::seal::Sealer) -> u32 {
///     let _ = sealer.seal(b"beside", b"part");
///     sealer.next_number()
/// }
/// ```
pub struct Sealer {
    aead: Aead,
    next: u32,
    opened: Vec<u8>,
}

impl Sealer {
    /// The number that the next part gets.
    #[must_use]
    pub fn next_number(&self) -> u32 {
        self.next
    }

    /// A part sealed, with its tag behind it; `beside` is vouched for, and has to be known for opening.
    ///
    /// The result is opened again before it is returned: what cannot be opened must not reach the disk.
    ///
    /// # Errors
    /// `BrokenSeal` if this machine computes wrongly; a rule of the format for more than 2^32 - 1 parts.
    pub fn seal(&mut self, beside: &[u8], part: &[u8]) -> Result<Vec<u8>, Corruption> {
        let number = self.next;
        self.next = number.checked_add(1).ok_or(Corruption::rule("SEAL-1", "it has too many parts"))?;
        let sealed = self.aead.seal(nonce(number), beside, part);
        if self.aead.open(nonce(number), beside, &sealed, &mut self.opened) && self.opened == part {
            Ok(sealed)
        } else {
            Err(Corruption::BrokenSeal { part: "part just sealed" })
        }
    }
}

/// Seals the directory of a pack, and is used up by that: its nonce is a constant `[SEAL-1]`. So there is none for a second time:
///
/// ```compile_fail,E0382
/// fn twice(sealer: vault::seal::DirectorySealer) {
///     let _ = sealer.seal(b"beside", b"one");
///     let _ = sealer.seal(b"beside", b"another");
/// }
/// ```
///
/// ```compile_fail,E0277
/// fn is_copied<T: Clone>() {}
/// is_copied::<vault::seal::DirectorySealer>();
/// ```
///
/// ```
/// fn once(sealer: vault::seal::DirectorySealer) {
///     let _ = sealer.seal(b"beside", b"one");
/// }
/// ```
pub struct DirectorySealer(Aead);

impl DirectorySealer {
    /// The directory sealed, with its tag behind it. It is opened again before it is returned.
    ///
    /// # Errors
    /// `BrokenSeal` if this machine computes wrongly.
    pub fn seal(self, beside: &[u8], directory: &[u8]) -> Result<Vec<u8>, Corruption> {
        let sealed = self.0.seal(DIRECTORY_NONCE, beside, directory);
        match self.0.open_new(DIRECTORY_NONCE, beside, &sealed) {
            Some(opened) if opened == directory => Ok(sealed),
            _ => Err(Corruption::BrokenSeal { part: "directory just sealed" }),
        }
    }
}

/// Opens the parts of one file. It cannot seal.
pub struct Opener(Aead);

impl Opener {
    /// The part that was sealed as this number of its file.
    ///
    /// # Errors
    /// `BrokenSeal`: it is not what a holder of the key wrote, in this place of this file.
    pub fn open(
        &self,
        number: u32,
        beside: &[u8],
        sealed: &[u8],
        part: &'static str,
    ) -> Result<Vec<u8>, Corruption> {
        self.0.open_new(nonce(number), beside, sealed).ok_or(Corruption::BrokenSeal { part })
    }
}

/// Opens the directory of a pack. It cannot seal.
pub struct DirectoryOpener(Aead);

impl DirectoryOpener {
    /// The directory.
    ///
    /// # Errors
    /// `BrokenSeal`.
    pub fn open(&self, beside: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Corruption> {
        let opened = self.0.open_new(DIRECTORY_NONCE, beside, sealed);
        opened.ok_or(Corruption::BrokenSeal { part: "directory" })
    }
}

/// The mask over what a pack has between its sealed parts: frame headers, padding, tail. The index key is enough for it.
#[derive(Clone)]
pub struct Mask(Secret);

impl Mask {
    /// Puts the mask on bytes that stand at `offset` of the pack, or takes it off `[SEAL-3]`.
    pub fn apply(&self, offset: u64, bytes: &mut [u8]) {
        id::xor_stream(&self.0, offset, bytes);
    }
}

/// The number of a part as a nonce: little-endian, zeros behind.
fn nonce(number: u32) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&number.to_le_bytes());
    nonce
}

/// AES-256-GCM under one key.
struct Aead(LessSafeKey);

impl Aead {
    fn new(key: &Secret) -> Self {
        #[expect(clippy::expect_used, reason = "the only error is a key of another length than 32")]
        let key = UnboundKey::new(&AES_256_GCM, &key[..]).expect("the key has 32 bytes");
        Self(LessSafeKey::new(key))
    }

    fn seal(&self, nonce: [u8; 12], beside: &[u8], part: &[u8]) -> Vec<u8> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let mut sealed = Vec::with_capacity(part.len() + TAG_LEN);
        sealed.extend_from_slice(part);
        #[expect(clippy::expect_used, reason = "the only error is a part of more than 64 GiB")]
        self.0.seal_in_place_append_tag(nonce, Aad::from(beside), &mut sealed).expect("parts are short");
        sealed
    }

    /// Opens into a buffer, and says whether the seal was whole.
    fn open(&self, nonce: [u8; 12], beside: &[u8], sealed: &[u8], into: &mut Vec<u8>) -> bool {
        let Some((part, tag)) = sealed.split_last_chunk::<TAG_LEN>() else { return false };
        into.resize(part.len(), 0);
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.open_separate_gather(nonce, Aad::from(beside), part, tag, into).is_ok()
    }

    fn open_new(&self, nonce: [u8; 12], beside: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut opened = Vec::new();
        self.open(nonce, beside, sealed, &mut opened).then_some(opened)
    }
}

/// The length that `len` bytes are padded to, so that it says little (PADMÉ): at most 6.25 % more, and only the leading
/// bits of the length remain `[SEAL-4]`.
#[must_use]
pub fn padded_len(len: u64) -> u64 {
    let len = len.max(MIN_PADDED_LEN);
    let exponent = len.ilog2();
    let kept = exponent.ilog2() + 1;
    let mask = (1u64 << exponent.saturating_sub(kept)) - 1;
    len.saturating_add(mask) & !mask
}

/// A structure as the body that is sealed: its end marked, and padded.
#[must_use]
pub fn pad_body(structure: &[u8]) -> Vec<u8> {
    let len = usize::try_from(padded_len(structure.len() as u64 + 1)).unwrap_or(structure.len());
    // In one piece: growing it would leave copies behind, and there are secrets among the structures.
    let mut body = Vec::with_capacity(len);
    body.extend_from_slice(structure);
    body.push(END_OF_BODY);
    body.resize(len, 0);
    body
}

/// The structure in a body that was sealed.
///
/// # Errors
/// `[SEAL-4]`.
pub fn unpad_body(body: &[u8]) -> Result<&[u8], Corruption> {
    let end = body.iter().rposition(|byte| *byte != 0);
    let structure = end.and_then(|end| body.get(..end).filter(|_| body.get(end) == Some(&END_OF_BODY)));
    structure.ok_or(Corruption::rule("SEAL-4", "the end of its structure is not marked"))
}

/// What seals a key file: made from a passphrase and the salt of that file alone, so that it seals once, and is used up by that.
///
/// ```compile_fail,E0382
/// fn twice(key: vault::seal::PassphraseKey) {
///     let _ = key.seal(b"beside", b"one");
///     let _ = key.seal(b"beside", b"another");
/// }
/// ```
pub struct PassphraseKey(Aead);

impl PassphraseKey {
    /// The key from what Argon2id made of the passphrase `[KEY-3]`.
    #[must_use]
    pub fn new(root: &Secret) -> Self {
        Self(Aead::new(&Secret::new(id::derive_key("vault 2026 passphrase key", &[&root[..]]))))
    }

    /// Seals the one body that this key is for.
    #[must_use]
    pub fn seal(self, beside: &[u8], body: &[u8]) -> Vec<u8> {
        self.0.seal(nonce(0), beside, body)
    }

    /// Opens it.
    ///
    /// # Errors
    /// `BrokenSeal`: with the right passphrase, somebody altered it.
    pub fn open(&self, beside: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Corruption> {
        self.0.open_new(nonce(0), beside, sealed).ok_or(Corruption::BrokenSeal { part: "key" })
    }
}
