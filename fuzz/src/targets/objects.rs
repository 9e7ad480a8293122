//! Targets: the object files, `config` and `copy`, keys, snapshots, records and notices.

use std::sync::LazyLock;

use vault::chunk::Chunker;
use vault::codec;
use vault::error::{Corruption, Error};
use vault::header::{Magic, Seal, decode_object, encode_object};
use vault::id::{self, SnapshotId};
use vault::repository::{Config, KeyOuter, Record, RecordOuter, Repository, is_recovery_text};
use vault::seal;

use super::Defect;
use super::fixed::{self, Form, ID, MASTER, PASSPHRASE, World, named, part};

/// Whether the error is that this file is damaged.
fn names(error: &Error, file: &str) -> bool {
    matches!(error, Error::Damaged { file: found, .. } if found == file)
}

/// `config`, `config.2` and `copy`: whatever opens says what its bytes say.
pub fn config(input: &[u8], defect: Defect) {
    let Some((mode, rest)) = input.split_first() else { return };
    let plain = |magic, body: &[u8]| encode_object(magic, ID, Seal::Plain, &[], body);
    let medium = fixed::medium(false);
    let (first, second) = match mode % 5 {
        0 => (fixed::finish_object(rest), fixed::finish_object(rest)),
        1 => (plain(Magic::Config, rest), plain(Magic::Config, rest)),
        2 => {
            let (one, other) = part(rest);
            (plain(Magic::Config, one), plain(Magic::Config, other))
        }
        3 => {
            let Ok(config) = codec::decode::<Config>(rest) else { return };
            let bytes = fixed::checked(config).encode(ID);
            (bytes.clone(), bytes)
        }
        _ => {
            medium.put("copy", plain(Magic::Copy, rest));
            (fixed::config(false).encode(ID), fixed::config(false).encode(ID))
        }
    };
    medium.put("config", first.clone());
    medium.put("config.2", second.clone());
    let mut repository = match Repository::open(medium.backend()) {
        Ok(repository) => repository,
        Err(error) => return assert!(names(&error, "config") || names(&error, "config.2"), "{error}"),
    };
    let config = repository.config().clone();
    let mut bytes = config.encode(repository.id());
    defect.spoil(config.chunker.normalization == 1, &mut bytes);
    assert!(bytes == first || bytes == second, "another config was read than is there");
    assert!(first == second || !repository.problems().is_empty(), "they differ, and nobody says so");
    cuts(&config);
    if mode % 5 == 4 && !repository.problems().iter().any(|problem| names(problem, "copy")) {
        let bytes = repository.copy().encode(repository.id());
        assert!(bytes == **medium.get("copy").unwrap_or_default(), "another copy was read than is there");
    }
    if config.is_encrypted() {
        let is_right = config == fixed::checked(config.clone()) && repository.id() == ID;
        let opened = repository.unlock(recovery_text(), None);
        assert_eq!(opened.is_ok(), is_right, "{:?}", opened.err());
    }
}

/// Whatever lengths are allowed cut any stream.
fn cuts(config: &Config) {
    static STREAM: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..1000u64).flat_map(|number| id::hash(&number.to_le_bytes())).collect());
    let chunker = Chunker::new(config.chunker, None).unwrap_or_else(|error| panic!("{error}"));
    let mut rest = &STREAM[..];
    while !rest.is_empty() {
        let len = chunker.cut(rest);
        let most = config.chunker.max_len as usize;
        assert!(len > 0 && len <= rest.len().min(most), "{len} of {}", rest.len());
        rest = &rest[len..];
    }
}

/// The recovery key of the encrypted repository.
#[expect(clippy::expect_used, reason = "what cannot be set up is no target")]
fn recovery_text() -> &'static [u8] {
    static TEXT: LazyLock<String> =
        LazyLock::new(|| World::get(true).repository.recovery_key().expect("it is open").to_string());
    TEXT.as_bytes()
}

/// Key files, and the text of recovery keys: what opens is what somebody made who knows the secret.
pub fn key(input: &[u8], defect: Defect) {
    let Some((mode, rest)) = input.split_first() else { return };
    let medium = fixed::medium(true);
    if mode % 4 == 0 {
        return recovery(&medium, rest);
    }
    let (outer, body) = part(rest);
    let decoded = codec::decode::<KeyOuter>(outer);
    let is_cheap = |outer: &KeyOuter| outer.kdf.memory_kib <= 64 && outer.kdf.passes <= 2;
    let key_file = match &decoded {
        Ok(outer) if mode % 4 > 1 && outer.kdf.validate().is_ok() && is_cheap(outer) => {
            fixed::key_file(outer.clone(), body)
        }
        _ => None,
    };
    let is_made = key_file.is_some();
    let file = key_file.unwrap_or_else(|| match mode % 4 {
        1 => fixed::finish_object(rest),
        _ => encode_object(Magic::Key, ID, Seal::Passphrase, outer, body),
    });
    for name in medium.names().iter().filter(|name| name.starts_with("keys/")) {
        medium.take(name);
    }
    let name = named("keys", &file);
    medium.put(&name, file.clone());
    let mut repository = Repository::open(medium.backend()).unwrap_or_else(|error| panic!("{error}"));
    let listed = repository.keys_listed().unwrap_or_else(|error| panic!("{error}"));
    let [(_, read)] = &listed[..] else { panic!("{} keys", listed.len()) };
    match read {
        Err(error) => assert!(names(error, &name), "{error}"),
        Ok(found) => {
            let stored = decode_object(&file, Magic::Key, Some(ID)).map(|object| object.outer.to_vec());
            let mut bytes = codec::encode(found);
            defect.spoil(found.kdf.passes > 1, &mut bytes);
            assert_eq!(Ok(bytes), stored, "it says something else than is there");
        }
    }
    if is_made {
        let is_whole = seal::unpad_body(body).is_ok_and(|body| body == [&[0][..], &MASTER].concat());
        let says_whose = |outer: &KeyOuter| outer.config == fixed::key_outer().config;
        let opens = is_whole && read.is_ok() && decoded.is_ok_and(|outer| says_whose(&outer));
        let opened = repository.unlock(PASSPHRASE, None);
        assert_eq!(opened.is_ok(), opens, "{:?}", opened.err());
        if let Err(error) = opened {
            assert!(names(&error, &name) || names(&error, "config"), "{error}");
        }
    }
}

fn recovery(medium: &super::memory::Memory, text: &[u8]) {
    if !is_recovery_text(text) {
        return;
    }
    let letters = |text: &[u8]| -> Vec<u8> {
        let kept = text.iter().filter(|byte| !matches!(byte, b'-' | b' ' | b'\n' | b'\r' | b'\t'));
        let upper = kept.map(u8::to_ascii_uppercase);
        upper
            .map(|byte| {
                if byte == b'0' {
                    b'O'
                } else if byte == b'1' {
                    b'I'
                } else {
                    byte
                }
            })
            .collect()
    };
    let mut repository = Repository::open(medium.backend()).unwrap_or_else(|error| panic!("{error}"));
    let is_right = letters(text) == letters(recovery_text());
    match repository.unlock(text, None) {
        Ok(_) => assert!(is_right, "another recovery key opens it"),
        Err(Error::Usage(_)) => assert!(!is_right, "its own recovery key does not open it"),
        // Of another repository.
        Err(Error::Damaged { source: Corruption::OtherConfig, .. }) => assert!(!is_right),
        Err(error) => panic!("{error}"),
    }
}

/// Snapshots: what is accepted encodes to the same bytes.
pub fn snapshot(input: &[u8], defect: Defect) {
    let Some((mode, rest)) = input.split_first() else { return };
    let (form, is_sealed) = (Form::of(*mode), mode & 4 != 0);
    let file = form.object(Magic::Snapshot, is_sealed, (&[], rest));
    let (world, name) = (World::get(is_sealed), named("snapshots", &file));
    world.medium.put(&name, file.clone());
    let read = world.repository.snapshot(&SnapshotId::from_bytes(id::hash(&file)));
    world.medium.take(&name);
    let snapshot = match read {
        Ok(snapshot) => snapshot,
        Err(error) => return assert!(names(&error, &name), "{error}"),
    };
    let mut bytes = codec::encode(&snapshot);
    defect.spoil(snapshot.host_id.contains(&0xff), &mut bytes);
    assert_body(form, is_sealed, (&file, Magic::Snapshot), (&[], rest), (&[], &bytes));
}

/// What was read of an object file encodes to what is there.
fn assert_body(
    form: Form,
    is_sealed: bool,
    (file, magic): (&[u8], Magic),
    (outer, body): (&[u8], &[u8]),
    read: (&[u8], &[u8]),
) {
    match form {
        Form::Structure => assert!((outer, body) == read, "another structure was read than is there"),
        Form::Padded if is_sealed => {
            let body = seal::unpad_body(body).unwrap_or_else(|error| panic!("{error}"));
            assert!((outer, body) == read, "another structure was read than is there");
        }
        // Nobody without the key makes one that opens.
        Form::File if is_sealed => panic!("a file that nobody sealed was read"),
        _ => assert!(fixed::is_object(file, magic, read), "some of its bytes mean nothing"),
    }
}

/// Records, and the notices in `sessions/` and `marks/`.
pub fn record(input: &[u8], defect: Defect) {
    let Some((mode, rest)) = input.split_first() else { return };
    if mode & 8 != 0 {
        return notice(*mode, rest);
    }
    let (form, is_sealed) = (Form::of(*mode), mode & 4 != 0);
    let (outer, body) = if form == Form::File { (&[][..], rest) } else { part(rest) };
    let file = form.object(Magic::Record, is_sealed, (outer, body));
    let keys = fixed::keys(is_sealed);
    let (world, name) = (World::get(is_sealed), named("records", &file));
    world.medium.put(&name, file.clone());
    let listed = world.repository.records().unwrap_or_else(|error| panic!("{error}"));
    let is_writable = world.repository.check_writable(world.repository.copy().copy);
    world.medium.take(&name);
    let [(_, read)] = &listed[..] else { panic!("{} records", listed.len()) };
    let record = match read {
        Ok(record) => record,
        Err(error) => {
            // It came after the repository was opened [REC-4].
            let is_told = is_writable.as_ref().is_err_and(|error| names(error, &name));
            assert!(names(error, &name) && is_told, "{error}");
            // Without the key it may say something all the same.
            return drop(RecordOuter::decode(&file, keys));
        }
    };
    assert_eq!(RecordOuter::decode(&file, keys).as_ref(), Ok(&record.outer), "it says two things");
    let is_heeded = record.outer.must_understand
        && !record.outer.is_known()
        && record.outer.speaks_of(world.repository.copy().copy);
    assert_eq!(matches!(is_writable, Err(Error::UnknownRecord { .. })), is_heeded);
    let again = record.encode(keys).and_then(|bytes| Record::decode(&bytes, keys));
    assert_eq!(again.as_ref(), Ok(record), "it does not come back");
    let mut bytes = codec::encode(&record.body);
    defect.spoil(record.outer.kind > 10, &mut bytes);
    let read = (&codec::encode(&record.outer)[..], &bytes[..]);
    assert_body(form, is_sealed, (&file, Magic::Record), (outer, body), read);
}

fn notice(mode: u8, rest: &[u8]) {
    let form = if mode & 1 == 0 { Form::File } else { Form::Structure };
    let (magic, folder) = if mode & 2 == 0 { (Magic::Session, "sessions") } else { (Magic::Mark, "marks") };
    let file = form.object(magic, false, (&[], rest));
    let (world, name) = (World::get(mode & 4 != 0), format!("{folder}/00000000-00000000-1-1-00000000-0"));
    world.medium.put(&name, file.clone());
    let read = if mode & 2 == 0 { world.repository.sessions() } else { world.repository.marks() };
    world.medium.take(&name);
    match read.as_deref() {
        Ok([notice]) => {
            let bytes = codec::encode(&notice.body);
            assert_body(form, false, (&file, magic), (&[], rest), (&[], &bytes));
        }
        Ok(notices) => panic!("{} notices", notices.len()),
        Err(error) => assert!(names(error, &name), "{error}"),
    }
}
