//! An encrypted repository of two snapshots, and what becomes of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vault::backend::{Backend, LocalFolder};
use vault::backup::{BackupOptions, backup};
use vault::check::{CheckOptions, CheckReport, check};
use vault::chunk::ChunkerParams;
use vault::error::Error;
use vault::event::{Observer, Silent};
use vault::id::{SnapshotId, hash};
use vault::repository::{InitOptions, Kdf, NewKey, Repository};
use vault::restore::{RestoreOptions, restore};

use crate::support::scratch::Scratch;

pub const PASSPHRASE: &[u8] = b"correct horse";
/// As little as is allowed: nobody tries to guess.
pub const KDF: Kdf = Kdf { memory_kib: 8, passes: 1, lanes: 1 };
const CHUNKER: ChunkerParams = ChunkerParams { min_len: 64, avg_len: 256, max_len: 1024, normalization: 2 };

pub struct World {
    pub scratch: Scratch,
    pub snapshots: Vec<SnapshotId>,
}

/// A key with this passphrase that is quick to try.
pub fn key(passphrase: &[u8]) -> NewKey {
    NewKey { kdf: KDF, ..NewKey::new(passphrase) }
}

/// Bytes that do not repeat.
pub fn noise(seed: u8, len: usize) -> Vec<u8> {
    let blocks = (0..len.div_ceil(32)).map(|number| hash(&[&[seed][..], &number.to_le_bytes()].concat()));
    let mut bytes: Vec<u8> = blocks.flatten().collect();
    bytes.truncate(len);
    bytes
}

impl World {
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let source = scratch.dir("source");
        for number in 0..8u8 {
            fs::write(source.join(format!("file-{number}")), noise(number, 3000)).unwrap();
        }
        fs::create_dir(source.join("folder")).unwrap();
        fs::write(source.join("folder/secret name"), "a secret line, written again and again\n".repeat(100))
            .unwrap();
        let mut world = Self { scratch, snapshots: Vec::new() };
        world.init("repository");
        world.snapshot();
        fs::write(source.join("file-new"), noise(100, 5000)).unwrap();
        world.snapshot();
        world
    }

    /// Makes an encrypted repository with the passphrase of all.
    pub fn init(&self, name: &str) {
        let options = InitOptions { chunker: CHUNKER, key: Some(key(PASSPHRASE)), ..InitOptions::default() };
        Repository::init(&LocalFolder::new(self.scratch.join(name)), &options).unwrap();
    }

    pub fn place(&self) -> PathBuf {
        self.scratch.join("repository")
    }

    pub fn backend(&self) -> Arc<dyn Backend> {
        Arc::new(LocalFolder::new(self.place()))
    }

    pub fn locked(&self) -> Repository {
        Repository::open(self.backend()).unwrap()
    }

    pub fn open(&self) -> Repository {
        self.try_open().unwrap()
    }

    pub fn try_open(&self) -> Result<Repository, Error> {
        let mut repository = Repository::open(self.backend())?;
        repository.unlock(PASSPHRASE, None)?;
        Ok(repository)
    }

    /// Takes a snapshot of the source, and says what was heard meanwhile.
    pub fn snapshot(&mut self) {
        let observer: Arc<dyn Observer> = Arc::new(Silent);
        self.snapshots.push(snapshot_to(&self.open(), &self.scratch.join("source"), &observer));
    }

    /// The files of a folder of the repository, ascending.
    pub fn files(&self, folder: &str) -> Vec<PathBuf> {
        files_below(&self.place().join(folder))
    }

    /// Checks all of it.
    pub fn check(&self) -> CheckReport {
        let options = CheckOptions { read_data: true, ..CheckOptions::default() };
        check(&self.open(), &options, &Silent, &AtomicBool::new(false)).unwrap()
    }

    /// What a full check says of each damaged object.
    pub fn damages(&self) -> BTreeMap<String, String> {
        let chain = |error: &Error| match error {
            Error::Damaged { source, .. } => source.to_string(),
            Error::Repository { source, .. } => source.to_string(),
            other => other.to_string(),
        };
        let text = |damage: &vault::check::Damage| {
            let errors = std::iter::once(&damage.error).chain(&damage.more_errors);
            errors.map(chain).collect::<Vec<_>>().join("; ")
        };
        self.check().damages.iter().map(|damage| (damage.object.clone(), text(damage))).collect()
    }

    /// Restores the first snapshot, and says how many files came back, all of which are what they were, and how many were damaged.
    pub fn restore(&self, snapshot: SnapshotId) -> (u64, u64) {
        let repository = self.open();
        let target = self.scratch.join(format!("out-{}", self.scratch.path().read_dir().unwrap().count()));
        let snapshot = repository.snapshot(&snapshot).unwrap();
        let reader = repository.reader().unwrap();
        let stop = AtomicBool::new(false);
        let options = RestoreOptions::default();
        let _ = restore(&reader, &snapshot, b"saved", &target, &options, &Silent, &stop);
        let (mut right, mut missing) = (0, 0);
        for file in files_below(&self.scratch.join("source")) {
            let below = file.strip_prefix(self.scratch.join("source")).unwrap();
            match fs::read(target.join(below)) {
                Ok(found) => {
                    assert_eq!(found, fs::read(&file).unwrap(), "{}", below.display());
                    right += 1;
                }
                Err(_) => missing += 1,
            }
        }
        (right, missing)
    }
}

/// Takes a snapshot in small packs.
pub fn snapshot_to(repository: &Repository, source: &Path, observer: &Arc<dyn Observer>) -> SnapshotId {
    let mut options = BackupOptions::new(vec![source.to_owned()]);
    options.as_path = Some(b"saved".to_vec());
    options.pack_len = 16 << 10;
    backup(repository, options, observer, &AtomicBool::new(false)).unwrap().snapshot.unwrap()
}

/// All files below a folder, ascending.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = walkdir::WalkDir::new(folder)
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
        .collect();
    files.sort();
    files
}

/// What an attacker does who alters a file: its name is the hash of its bytes again. Returns the new file.
pub fn replace(file: &Path, bytes: &[u8]) -> PathBuf {
    let name = SnapshotId::from_bytes(hash(bytes)).to_string();
    let is_pack = file.parent().and_then(Path::parent).is_some_and(|above| above.ends_with("packs"));
    let folder = if is_pack {
        file.parent().unwrap().parent().unwrap().join(&name[..2])
    } else {
        file.parent().unwrap().to_owned()
    };
    fs::remove_file(file).unwrap();
    let new = folder.join(name);
    fs::write(&new, bytes).unwrap();
    new
}

/// Makes the checksum of a header right.
pub fn finish_header(bytes: &mut [u8]) {
    let checksum = vault::id::checksum_128(&[&bytes[..176]]);
    bytes[176..192].copy_from_slice(&checksum);
}

/// Makes all that needs no key right in an object file.
pub fn finish_object(bytes: &mut [u8]) {
    finish_header(bytes);
    let end = bytes.len() - 32;
    let hash = hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&hash);
}

/// The name of a file in the repository.
pub fn name_of(world: &World, file: &Path) -> String {
    file.strip_prefix(world.place()).unwrap().to_str().unwrap().to_owned()
}
