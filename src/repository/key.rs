//! Passphrases and the key files that they open; the recovery key, which needs none: `spec/format.md` §12.
//!
//! A key file holds the master secret, sealed with a key that Argon2id makes from a passphrase. Before the seal is tried, a commitment tells
//! whether the passphrase is the right one `[KEY-3]`; so a wrong passphrase, a file that was altered and a config that was exchanged
//! are three different errors.

use argon2::{Algorithm, Argon2, Block, Params};
use data_encoding::BASE32_NOPAD;
use rustix::mm::{Advice, madvise};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::codec;
use crate::error::{Corruption, Error, Result};
use crate::header::{Magic, Object, Seal, decode_object, encode_object, object_header};
use crate::id::{self, KeyId, RepositoryId};
use crate::repository::NewKey;
use crate::seal::{self, PassphraseKey, Secret};
use crate::session::random;
use crate::snapshot::{Field, Time, validate_fields};

/// How hard it is to try a passphrase, as Argon2id has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kdf {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// How often it is passed over.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for Kdf {
    fn default() -> Self {
        Self { memory_kib: 128 << 10, passes: 4, lanes: 1 }
    }
}

impl Kdf {
    /// Checks `[KEY-2]`: a file that asks for more would stop whoever opens it.
    ///
    /// # Errors
    /// Names the rule.
    pub fn validate(&self) -> Result<(), Corruption> {
        let is_possible = (8..=1 << 20).contains(&self.memory_kib)
            && (1..=16).contains(&self.passes)
            && (1..=8).contains(&self.lanes)
            && self.memory_kib >= 8 * self.lanes
            && u64::from(self.memory_kib) * u64::from(self.passes) <= 4 << 20;
        if is_possible {
            Ok(())
        } else {
            Err(Corruption::rule(
                "KEY-2",
                "it asks for more memory or passes than is allowed, or for too little",
            ))
        }
    }

    fn derive(&self, passphrase: &[u8], salt: &[u8; 32]) -> Result<Secret, Corruption> {
        const IMPOSSIBLE: Corruption = Corruption::rule("KEY-2", "Argon2id does not take its parameters");
        let params =
            Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).map_err(|_| IMPOSSIBLE)?;
        let mut root = Secret::default();
        let mut memory = working_memory(self.memory_kib as usize)?;
        let done = Argon2::new(Algorithm::Argon2id, argon2::Version::V0x13, params)
            .hash_password_into_with_memory(passphrase, salt, &mut root[..], &mut memory[..]);
        memory.iter_mut().for_each(Zeroize::zeroize);
        done.map_err(|_| IMPOSSIBLE).map(|()| root)
    }
}

/// Memory for Argon2id, by the KiB, in large pages where the system has some: it is read at random, and with small ones a quarter of the
/// time goes into making and finding pages (128 MiB and 4 passes: 0.33 s instead of 0.26).
fn working_memory(blocks: usize) -> Result<Vec<Block>, Corruption> {
    /// The large pages of x86-64 and, mostly, of aarch64.
    const LARGE_PAGE: usize = 2 << 20;
    const TOO_LITTLE: Corruption =
        Corruption::rule("KEY-2", "there is not enough memory for what it asks for");
    let mut memory = Vec::new();
    memory.try_reserve_exact(blocks).map_err(|_| TOO_LITTLE)?;
    let room = memory.spare_capacity_mut();
    let (start, len) = (room.as_mut_ptr().cast::<u8>(), size_of_val(room));
    let before = start.align_offset(LARGE_PAGE);
    if let Some(len) = len.checked_sub(before) {
        #[expect(unsafe_code, reason = "there is no safe way to ask for large pages")]
        // SAFETY: the range lies in memory that was just reserved and that nobody else knows, and the advice changes nothing that is in it.
        // If the system does not take it, all goes on as before.
        let _ = unsafe { madvise(start.wrapping_add(before).cast(), len, Advice::LinuxHugepage) };
    }
    memory.resize(blocks, Block::new());
    Ok(memory)
}

/// What a key file says to everybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyOuter {
    /// What its owner calls it, or empty.
    #[serde(deserialize_with = "crate::codec::text")]
    pub name: String,
    /// When it was made.
    pub created: Time,
    /// How the key is made from the passphrase.
    pub kdf: Kdf,
    /// Random.
    pub salt: [u8; 32],
    /// Tells whether a passphrase is the right one.
    pub commitment: [u8; 32],
    /// BLAKE3 of `config`.
    pub config: [u8; 32],
    /// Further fields, tags ascending.
    pub fields: Vec<Field>,
}

/// What comes before the master secret in the body: the number of the only variant of `KeyBody`.
const MASTER: u8 = 0;

/// What a key file gives to whoever opens it. Not by `codec`: that would leave copies of the secret behind.
fn encode_body(master: &Secret) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([&[MASTER], &master[..]].concat())
}

fn decode_body(body: &[u8]) -> Result<Secret, Corruption> {
    let mut secret = Secret::default();
    match body.split_first() {
        Some((&MASTER, master)) if master.len() == secret.len() => {
            secret.copy_from_slice(master);
            Ok(secret)
        }
        _ => Err(Corruption::Undecodable { reason: "it holds no master secret".to_owned() }),
    }
}

/// Makes a key file.
pub(super) fn encode(
    repository: RepositoryId,
    config: &[u8],
    master: &Secret,
    new: &NewKey,
) -> Result<Vec<u8>, Corruption> {
    new.kdf.validate()?;
    let salt = random();
    let root = new.kdf.derive(&new.passphrase, &salt)?;
    let outer = codec::encode(&KeyOuter {
        name: new.name.clone(),
        created: Time::now(),
        kdf: new.kdf,
        salt,
        commitment: commitment(&root),
        config: id::hash(config),
        fields: Vec::new(),
    });
    let encoded = encode_body(master);
    let body = Zeroizing::new(seal::pad_body(&encoded));
    let header = object_header(repository, Seal::Passphrase, &outer, body.len() + seal::TAG_LEN);
    let beside = [&header.sealed_part(Magic::Key)[..], &outer].concat();
    let sealed = PassphraseKey::new(&root).seal(&beside, &body);
    Ok(encode_object(Magic::Key, repository, Seal::Passphrase, &outer, &sealed))
}

/// What a key file says to everybody.
pub(super) fn decode_outer(bytes: &[u8], repository: RepositoryId) -> Result<KeyOuter, Corruption> {
    let Object { outer, .. } = decode_object(bytes, Magic::Key, Some(repository))?;
    let outer: KeyOuter = codec::decode(outer)?;
    outer.kdf.validate()?;
    outer.created.validate()?;
    validate_fields(&outer.fields, &[])?;
    Ok(outer)
}

/// Opens a key file with a passphrase; nothing if it is not the right one.
pub(super) fn open(
    bytes: &[u8],
    repository: RepositoryId,
    config: &[u8],
    passphrase: &[u8],
) -> Result<Option<Secret>, Corruption> {
    let outer = decode_outer(bytes, repository)?;
    let root = outer.kdf.derive(passphrase, &outer.salt)?;
    if commitment(&root) != outer.commitment {
        return Ok(None);
    }
    // [KEY-4]
    if outer.config != id::hash(config) {
        return Err(Corruption::KeyOfOtherConfig);
    }
    let Object { header, outer, body } = decode_object(bytes, Magic::Key, Some(repository))?;
    let beside = [&header.sealed_part(Magic::Key)[..], outer].concat();
    let opened = Zeroizing::new(PassphraseKey::new(&root).open(&beside, body)?);
    decode_body(seal::unpad_body(&opened)?).map(Some)
}

fn commitment(root: &Secret) -> [u8; 32] {
    id::derive_key("vault 2026 passphrase commitment", &[&root[..]])
}

const RECOVERY_PREFIX: &str = "VAULT-RECOVERY-1";
const RECOVERY_CHECK_LEN: usize = 3;
/// Letters between two dashes.
const GROUP_LEN: usize = 4;

/// The master secret as text to be printed: a prefix, then base32 of the secret and of a checksum, in groups `[KEY-5]`.
#[must_use]
pub(super) fn recovery_text(master: &Secret) -> Zeroizing<String> {
    let bytes = Zeroizing::new([&master[..], &recovery_check(master)].concat());
    let letters = Zeroizing::new(BASE32_NOPAD.encode(&bytes));
    // In one piece: growing it would leave copies behind.
    let len = RECOVERY_PREFIX.len() + letters.len() + letters.len().div_ceil(GROUP_LEN);
    let mut text = Zeroizing::new(String::with_capacity(len));
    text.push_str(RECOVERY_PREFIX);
    for group in letters.as_bytes().chunks(GROUP_LEN) {
        text.push('-');
        text.extend(group.iter().copied().map(char::from));
    }
    text
}

/// Whether this is meant to be a recovery key.
#[must_use]
pub fn is_recovery_text(text: &[u8]) -> bool {
    fold(text).starts_with(&fold(RECOVERY_PREFIX.as_bytes()))
}

/// The master secret in a recovery key. Spaces, dashes and case do not matter, nor 0 for O and 1 for I.
pub(super) fn parse_recovery(text: &[u8]) -> Result<Secret> {
    let wrong = || Error::Usage("this recovery key has a typing error: its checksum does not fit".into());
    let folded = fold(text);
    let letters = folded.strip_prefix(&fold(RECOVERY_PREFIX.as_bytes())[..]).ok_or_else(wrong)?;
    let bytes = Zeroizing::new(BASE32_NOPAD.decode(letters).map_err(|_| wrong())?);
    let Some((master, check)) = bytes.split_first_chunk::<32>() else { return Err(wrong()) };
    let master = Secret::new(*master);
    if check == recovery_check(&master) { Ok(master) } else { Err(wrong()) }
}

/// The text without what does not matter, and each letter as base32 has it; in one piece, as growing it would leave copies behind.
fn fold(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let letters = text.iter().filter(|byte| !matches!(byte, b'-' | b' ' | b'\n' | b'\r' | b'\t'));
    let folded = letters.map(|byte| match byte.to_ascii_uppercase() {
        b'0' => b'O',
        b'1' => b'I',
        other => other,
    });
    let mut letters = Zeroizing::new(Vec::with_capacity(text.len()));
    letters.extend(folded);
    letters
}

fn recovery_check(master: &Secret) -> [u8; RECOVERY_CHECK_LEN] {
    let [a, b, c, ..] = id::derive_key("vault 2026 recovery key checksum", &[&master[..]]);
    [a, b, c]
}

/// What `config` has so that a master secret can be told from that of another repository, and a config from an altered one `[CONF-4]`.
#[must_use]
pub(super) fn config_check(repository: RepositoryId, master: &Secret, rest: &[u8]) -> [u8; 32] {
    let key = Secret::new(id::derive_key("vault 2026 config check", &[&master[..]]));
    id::keyed_hash(&key, &[repository.as_bytes(), rest])
}

/// The name of a key file.
pub(super) fn file_name(key: &KeyId) -> String {
    format!("keys/{key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_one_master_secret_and_nothing_else() {
        let master = Secret::new([7; 32]);
        let body = encode_body(&master);
        assert_eq!(body.len(), 33);
        assert!(decode_body(&body) == Ok(master));
        let mut other = body.clone();
        other[0] = 1;
        let longer = [&body[..], &[0]].concat();
        for wrong in [&body[..32], &body[1..], &[], &other, &longer] {
            assert!(matches!(decode_body(wrong), Err(Corruption::Undecodable { .. })));
        }
    }

    #[test]
    fn key_5_the_text_of_a_recovery_key_is_made_in_one_piece_and_read_again() {
        let master = Secret::new([0xa5; 32]);
        let text = recovery_text(&master);
        assert_eq!(text.len(), text.capacity());
        assert!(parse_recovery(text.as_bytes()).is_ok_and(|read| read == master));
        assert_eq!(fold(text.as_bytes()).capacity(), text.len());
    }
}
