//! A repository of many small packs, other copies of it, and ways to damage them.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use vault::backend::{Backend, LocalFolder};
use vault::backup::{BackupOptions, backup};
use vault::event::{Observer, Silent};
use vault::heal::HealOptions;
use vault::id::{ChunkId, ChunkKind, SnapshotId};
use vault::pack::Location;
use vault::repository::Repository;

use crate::support::manifest::Manifest;
use crate::support::repository;
use crate::support::torture::Random;
use crate::support::vault::{Output, Vault};

/// A user with a source, and a repository of which there may be more copies.
pub struct World {
    pub vault: Vault,
    pub random: Mutex<Random>,
}

impl World {
    /// An empty repository, and a source of some folders with files.
    pub fn new() -> Self {
        let vault = Vault::new();
        let world = Self { vault, random: Mutex::new(Random(7)) };
        repository::init(&LocalFolder::new(world.repo())).unwrap();
        for folder in ["one", "two", "two/deep"] {
            fs::create_dir_all(world.src().join(folder)).unwrap();
        }
        for (name, len) in [("one/a", 90_000), ("one/b", 300_000), ("two/c", 700), ("two/deep/d", 500_000)] {
            world.write(name, len);
        }
        world
    }

    /// The same with a few snapshots of a source that changes.
    pub fn saved() -> Self {
        let world = Self::new();
        for number in 0..4 {
            world.save();
            world.write(&format!("one/new{number}"), 150_000);
        }
        world.save();
        world
    }

    pub fn src(&self) -> PathBuf {
        self.vault.join("src")
    }

    pub fn repo(&self) -> PathBuf {
        self.vault.join("repo")
    }

    /// Writes a file of the source, of bytes that do not compress.
    pub fn write(&self, name: &str, len: usize) {
        fs::write(self.src().join(name), self.random.lock().unwrap().bytes(len)).unwrap();
    }

    /// Takes a snapshot in small packs.
    pub fn save(&self) -> SnapshotId {
        self.save_in(&self.repo(), 200 << 10)
    }

    /// Takes a snapshot in a copy, in packs of this length.
    pub fn save_in(&self, copy: &Path, pack_len: u64) -> SnapshotId {
        let mut options = BackupOptions::new(vec![self.src()]);
        options.as_path = Some(b"s".to_vec());
        options.pack_len = pack_len;
        let observer: Arc<dyn Observer> = Arc::new(Silent);
        backup(&open(copy), options, &observer, &AtomicBool::new(false)).unwrap().snapshot.unwrap()
    }

    /// Makes a mirror.
    pub fn mirror(&self, name: &str) -> PathBuf {
        let at = self.vault.join(name);
        self.run(&self.repo(), &["mirror", "--new", at.to_str().unwrap()]).ok();
        at
    }

    /// Runs the program on a copy.
    pub fn run(&self, copy: &Path, args: &[&str]) -> Output {
        self.vault.run(&[&["-r", copy.to_str().unwrap()], args].concat())
    }

    /// Heals a copy from another one.
    pub fn heal(&self, copy: &Path, from: &Path, more: &[&str]) -> Output {
        self.run(copy, &[&["heal", "--from", from.to_str().unwrap()], more].concat())
    }

    /// Asserts that a copy is whole, and that its snapshots restore to what the library reads.
    #[track_caller]
    pub fn assert_whole(&self, copy: &Path) {
        self.run(copy, &["check", "--read-data"]).ok();
    }

    /// Asserts that the newest snapshot of a copy restores to the source as it is now.
    #[track_caller]
    pub fn assert_restores(&self, copy: &Path, selector: &str) {
        let target = self.vault.join(format!("restored-{}", self.random.lock().unwrap().bytes(4)[0]));
        let _ = fs::remove_dir_all(&target);
        self.run(copy, &["restore", &format!("{selector}:s"), "--target", target.to_str().unwrap()]).ok();
        assert_eq!(Manifest::of(&self.src()).diff(&Manifest::of(&target)), [""; 0]);
    }

    /// Options for the library.
    pub fn options(&self) -> HealOptions {
        HealOptions::new(self.vault.join("cache"))
    }
}

/// Opens a copy.
#[track_caller]
pub fn open(path: &Path) -> Repository {
    repository::open(backend(path)).unwrap()
}

pub fn backend(path: &Path) -> Arc<dyn Backend> {
    Arc::new(LocalFolder::new(path))
}

/// The summary of a run with `--json`.
#[track_caller]
pub fn summary(output: &Output) -> Value {
    let lines = output.text().lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.into_iter().find(|line| line["message_type"] == "summary").expect("no summary")
}

/// All files of a copy that two copies share, and their bytes.
pub fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    const OWN: [&str; 5] = ["copy", "reserve", "tmp", "sessions", "marks"];
    let walk = walkdir::WalkDir::new(root).into_iter().map(std::result::Result::unwrap);
    walk.filter(|entry| entry.file_type().is_file())
        .map(|entry| (entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned(), entry))
        .filter(|(name, _)| !OWN.contains(&name.split('/').next().unwrap()))
        .map(|(name, entry)| (name, fs::read(entry.path()).unwrap()))
        .collect()
}

/// Their names, below a folder.
pub fn names(root: &Path, folder: &str) -> Vec<String> {
    files(root).into_keys().filter(|name| name.starts_with(folder)).collect()
}

/// The files of a copy whose bytes are those of their names.
pub fn sound(root: &Path) -> HashSet<String> {
    let is_sound = |name: &str, bytes: &[u8]| {
        blake3::hash(bytes).to_hex().as_str() == name.rsplit('/').next().unwrap()
            || name.starts_with("config")
    };
    files(root).into_iter().filter(|(name, bytes)| is_sound(name, bytes)).map(|(name, _)| name).collect()
}

/// Damages a file in one of several ways.
pub fn damage(path: &Path, way: u64, random: &mut Random) {
    let mut bytes = fs::read(path).unwrap();
    let at = usize::from_le_bytes(random.bytes(8).try_into().unwrap()) % bytes.len();
    match way % 4 {
        0 => bytes[at] ^= 1 << (at % 8),
        1 => bytes.truncate(at),
        2 => return fs::remove_file(path).unwrap(),
        _ => bytes.fill(0),
    }
    fs::write(path, bytes).unwrap();
}

/// Changes one byte.
pub fn flip_at(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Where a chunk lies in a copy.
#[track_caller]
pub fn place(copy: &Path, kind: ChunkKind, id: &ChunkId) -> Location {
    open(copy).reader().unwrap().locate(kind, id).unwrap()
}

/// Damages the frame that holds a chunk.
#[track_caller]
pub fn lose(copy: &Path, kind: ChunkKind, id: &ChunkId) {
    let place = place(copy, kind, id);
    let file = copy.join(vault::pack::pack_file_name(&place.pack));
    flip_at(&file, u64::from(place.frame_offset) + 32 + u64::from(place.frame_stored_len) / 2);
}
