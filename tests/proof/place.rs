//! A repository with its drive, its source and its state, that can be put back to what it was, and the question whether anything is lost.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::manifest::Manifest;
use crate::support::mount;
use crate::support::repository::{PASSPHRASE, is_encrypted};
use crate::support::scratch;
use crate::support::torture::Random;
use crate::support::vault::{Output, Vault};
use crate::whole::world::{age, files_below};

/// The passphrase that is changed to.
pub const OTHER_PASSPHRASE: &str = "another passphrase of all tests";
/// What a run may change.
const CHANGED: [&str; 6] = ["repository", "drive", "target", "cache", "state", "data"];

/// A snapshot that somebody was told of, and what it holds.
#[derive(Clone)]
pub struct Told {
    pub id: String,
    pub manifest: Manifest,
}

pub struct Place {
    pub vault: Vault,
    pub told: Vec<Told>,
    /// How many of them the drive has, if there is one.
    pub on_drive: Option<usize>,
}

impl Place {
    /// A source with a few of everything, and no repository.
    pub fn new() -> Self {
        let mut vault = Vault::new();
        vault.env("VAULT_REPOSITORY", vault.join("repository"));
        let place = Self { vault, told: Vec::new(), on_drive: None };
        fs::create_dir_all(place.join("source/folder/deeper")).unwrap();
        place.write("folder/text", &Random(1).text(300_000));
        place.write("folder/random", &Random(2).bytes(200_000));
        place.write("folder/deeper/small", b"a few bytes");
        place.write("empty", b"");
        fs::hard_link(place.join("source/empty"), place.join("source/folder/linked")).unwrap();
        symlink("folder/text", place.join("source/link")).unwrap();
        place
    }

    /// The same with a repository.
    pub fn with_repository() -> Self {
        let place = Self::new();
        place.run(&["init", "-q"]).ok();
        place
    }

    /// The same with two snapshots.
    pub fn with_snapshots() -> Self {
        let mut place = Self::with_repository();
        place.snapshot();
        place.change(10);
        place.snapshot();
        place
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.vault.join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.join("source").join(name);
        fs::write(&path, bytes).unwrap();
        age(&path);
    }

    /// Changes the source: of what was there before, a part remains.
    pub fn change(&self, seed: u64) {
        self.write("folder/random", &Random(seed).bytes(150_000));
        self.write(&format!("folder/new-{seed}"), &Random(seed + 1).text(100_000));
        fs::write(self.join("source/folder/deeper/small"), format!("other bytes, {seed}")).unwrap();
    }

    pub fn run(&self, args: &[&str]) -> Output {
        let mut command = self.vault.command(args);
        if is_encrypted() && self.other_opens() {
            command.env("VAULT_PASSPHRASE", OTHER_PASSPHRASE);
        }
        self.vault.start(command).wait()
    }

    /// Whether the repository is opened by the passphrase that is changed to.
    pub fn other_opens(&self) -> bool {
        let is_changed = self.join("other-passphrase").exists();
        is_changed && !self.vault.run(&["key", "test", "-q"]).status.success()
    }

    /// What the source holds now, taken and told.
    pub fn snapshot(&mut self) -> String {
        let output = self.run(&["snapshot", "--json", &self.text("source")]).ok();
        let id = told_id(&output).unwrap();
        self.tell(id.clone());
        id
    }

    /// Somebody was told that this snapshot holds what the source has now.
    pub fn tell(&mut self, id: String) {
        self.told.push(Told { id, manifest: Manifest::of(&self.join("source")) });
    }

    /// Remembers how all is now.
    pub fn save(&self) {
        let saved = self.vault.path().join("saved");
        fs::create_dir(&saved).unwrap();
        copy(CHANGED.map(|name| self.join(name)).into_iter().filter(|path| path.exists()), &saved);
    }

    /// Puts all back to how it was when it was saved.
    pub fn reset(&self) {
        for name in CHANGED {
            if let Ok(metadata) = fs::symlink_metadata(self.join(name)) {
                assert!(metadata.is_dir());
                scratch::remove_tree(&self.join(name)).unwrap();
            }
        }
        let saved = fs::read_dir(self.join("saved")).unwrap().map(|entry| entry.unwrap().path());
        copy(saved, self.vault.path());
    }

    /// Which of these snapshots a copy gives back.
    pub fn restorable(&self, copy: &str, told: &[Told]) -> BTreeSet<String> {
        let repository = self.text(copy);
        let comes_back = |told: &&Told| {
            let target = self.vault.path().join("restored");
            let selector = format!("{}:{}", told.id, self.text("source"));
            let args = ["-r", &repository, "restore", "-q", &selector, "--target", target.to_str().unwrap()];
            let output = self.run(&args);
            let same = output.status.success() && told.manifest.diff(&Manifest::of(&target)).is_empty();
            if target.exists() {
                scratch::remove_tree(&target).unwrap();
            }
            same
        };
        told.iter().filter(comes_back).map(|told| told.id.clone()).collect()
    }

    /// What is wrong with a copy: with a byte of it, or with a snapshot that it should give back.
    pub fn violations(&self, copy: &str, told: &[Told]) -> Vec<String> {
        let repository = self.text(copy);
        let check = self.run(&["-r", &repository, "check", "-q", "--read-data"]);
        let mut violations = Vec::new();
        if !check.status.success() {
            violations.push(format!("{copy} is not sound: {}", check.report()));
        }
        let restorable = self.restorable(copy, told);
        let lost = told.iter().filter(|told| !restorable.contains(&told.id));
        violations.extend(lost.map(|told| format!("{copy} does not give back {}", told.id)));
        violations
    }

    /// How many snapshots lie in a copy.
    pub fn snapshots_in(&self, copy: &str) -> usize {
        files_below(&self.join(copy).join("snapshots")).len()
    }

    /// What is wrong with another repository that these were copied to, where they have other ids.
    pub fn violations_of_copies(&self, repository: &str, told: &[Told]) -> Vec<String> {
        let mut violations = self.violations(repository, &[]);
        if self.snapshots_in(repository) != told.len() {
            violations.push(format!("{repository} has {} snapshots", self.snapshots_in(repository)));
        }
        let newest = told.iter().map(|told| Told { id: "latest".to_owned(), ..told.clone() });
        if self.restorable(repository, &newest.rev().take(1).collect::<Vec<_>>()).is_empty() {
            violations.push(format!("{repository} does not give back the newest"));
        }
        violations
    }

    /// Files that a run should have taken away again.
    pub fn left_over(&self) -> Vec<PathBuf> {
        let mut left = Vec::new();
        for copy in ["repository", "drive"] {
            for folder in ["tmp", "sessions", "marks"] {
                let folder = self.join(copy).join(folder);
                if folder.exists() {
                    left.extend(files_below(&folder));
                }
            }
        }
        for folder in ["target", "cache", "state", "repository", "drive"] {
            let folder = self.join(folder);
            if folder.exists() {
                left.extend(files_below(&folder).into_iter().filter(|path| {
                    path.file_name().is_some_and(|name| name.to_str().unwrap().starts_with(".vault-"))
                }));
            }
        }
        left
    }

    pub fn use_other_passphrase(&self) {
        fs::write(self.join("other-passphrase"), OTHER_PASSPHRASE).unwrap();
        assert_ne!(OTHER_PASSPHRASE, PASSPHRASE);
    }
}

/// The snapshot that a run said it has taken.
pub fn told_id(output: &Output) -> Option<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let values = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut ids = values.filter_map(|value| value["snapshot_id"].as_str().map(str::to_owned));
    ids.next_back()
}

fn copy(from: impl Iterator<Item = PathBuf>, into: &Path) {
    let from: Vec<PathBuf> = from.collect();
    if !from.is_empty() {
        mount::run(Command::new("cp").arg("-a").args(from).arg(into));
    }
}
