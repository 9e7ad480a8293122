//! A source, a repository and the program; and the one question of all these tests, whether a tree came back.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use vault::backend::LocalFolder;
use vault::check::{CheckOptions, check};
use vault::event::Silent;

use crate::support::manifest::Manifest;
use crate::support::mount;
use crate::support::repository;
use crate::support::scratch;
use crate::support::torture::{self, Random};
use crate::support::vault::{Output, Vault};

/// So many files of a torture tree have times in the future, which never count as settled: they are read each time.
pub const NEVER_SETTLED: u64 = 3;

/// A time long ago, the same for each file.
pub const LONG_AGO: SystemTime = SystemTime::UNIX_EPOCH;

/// A source, a repository, and the program in a home of its own.
pub struct World {
    pub vault: Vault,
    pub source: PathBuf,
    pub repository: PathBuf,
}

impl World {
    /// An empty source and an empty repository.
    pub fn new() -> Self {
        let vault = Vault::new();
        let (source, repository) = (vault.join("source"), vault.join("repository"));
        Self::at(vault, source, repository)
    }

    /// The same at these places.
    pub fn at(mut vault: Vault, source: PathBuf, repository: PathBuf) -> Self {
        fs::create_dir_all(&source).unwrap();
        vault.env("VAULT_REPOSITORY", &repository);
        vault.run(&["init"]).ok();
        Self { vault, source, repository }
    }

    /// Writes a file of the source, with a modification time of long ago.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.source.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        age(&path);
        path
    }

    /// Writes a file of so many bytes that do not compress.
    pub fn write_random(&self, name: &str, seed: u64, len: usize) -> PathBuf {
        self.write(name, &Random(seed).bytes(len))
    }

    /// Takes a snapshot, which has to be without any trouble.
    pub fn snapshot(&self, more: &[&str]) -> Summary {
        self.snapshot_with(more, 0)
    }

    /// Takes a snapshot, which has to end with this exit code.
    pub fn snapshot_with(&self, more: &[&str], code: i32) -> Summary {
        Summary::of(self.vault.run(&self.snapshot_args(more)), code)
    }

    /// The arguments for a snapshot.
    pub fn snapshot_args(&self, more: &[&str]) -> Vec<OsString> {
        let words = ["snapshot", "--json"].into_iter().chain(more.iter().copied());
        words.map(OsString::from).chain([self.source.clone().into()]).collect()
    }

    /// Where in a snapshot the source is.
    pub fn selector(&self, snapshot: &str) -> OsString {
        let mut selector = OsString::from(format!("{snapshot}:"));
        selector.push(&self.source);
        selector
    }

    /// Restores the source from a snapshot into a folder that is removed when the value is dropped.
    pub fn restore(&self, snapshot: &str, more: &[&str]) -> Restored {
        let beside = self.source.parent().unwrap();
        let folder = tempfile::Builder::new().prefix("restored-").tempdir_in(beside).unwrap();
        let restored = Restored(folder.keep());
        let target = restored.0.join("target");
        let mut args: Vec<OsString> = vec!["restore".into(), self.selector(snapshot)];
        args.extend(["--target".into(), target.into()]);
        args.extend(more.iter().map(OsString::from));
        quiet(&self.vault.run(&args).ok());
        restored
    }

    /// Asserts that the latest snapshot gives the source back.
    pub fn comes_back(&self) {
        self.comes_back_from("latest", &[]);
    }

    /// The same of any snapshot, and with more arguments.
    pub fn comes_back_from(&self, snapshot: &str, more: &[&str]) {
        same(&self.source, &self.restore(snapshot, more).target());
    }

    /// What the latest snapshot has of a file of the source.
    pub fn cat(&self, name: &str) -> Vec<u8> {
        let mut selector = self.selector("latest");
        selector.push("/");
        selector.push(name);
        self.vault.run(&[OsStr::new("cat"), &selector]).ok().stdout
    }

    /// Asserts that nothing is wrong with the repository, down to each byte.
    pub fn is_sound(&self) {
        assert_eq!(damages(&self.repository), [""; 0]);
    }

    /// The names of the files in a folder of the repository, at any depth.
    pub fn files(&self, folder: &str) -> Vec<PathBuf> {
        files_below(&self.repository.join(folder))
    }

    /// The files that the program keeps for itself: the cache of the index and the local state.
    pub fn caches(&self) -> Vec<PathBuf> {
        let mut files = files_below(&self.vault.join("cache"));
        files.retain(|path| path.file_name() != Some(OsStr::new("CACHEDIR.TAG")));
        files
    }
}

/// What is wrong with a repository, down to each byte.
pub fn damages(repository: &Path) -> Vec<String> {
    let repository = repository::open(Arc::new(LocalFolder::new(repository))).unwrap();
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    let report = check(&repository, &options, &Silent, &AtomicBool::new(false)).unwrap();
    report.damages.iter().map(|damage| format!("{}: {}", damage.object, damage.error)).collect()
}

/// The regular files below a folder, sorted.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().map(Result::unwrap);
    entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

/// A restored tree. Removed on drop, however deep it is.
pub struct Restored(PathBuf);

impl Restored {
    /// Its top.
    pub fn target(&self) -> PathBuf {
        self.0.join("target")
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        let removed = scratch::remove_tree(&self.0);
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

/// What a snapshot said of itself.
pub struct Summary {
    pub output: Output,
    value: Value,
}

impl Summary {
    /// Reads the last line of a run that ended with this exit code.
    pub fn of(output: Output, code: i32) -> Self {
        let output = output.code(code);
        quiet(&output);
        let value = output
            .text()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|value| value["message_type"] == "summary")
            .unwrap_or_else(|| panic!("no summary: {}\n{}", output.text(), output.stderr));
        Self { output, value }
    }

    /// A counter.
    pub fn count(&self, name: &str) -> u64 {
        self.value[name].as_u64().unwrap_or_else(|| panic!("no {name} in {}", self.value))
    }

    /// Files whose content was read.
    pub fn read(&self) -> u64 {
        self.count("files_read")
    }

    /// Bytes that were new.
    pub fn added(&self) -> u64 {
        self.count("data_added")
    }

    /// The id of the snapshot.
    pub fn id(&self) -> String {
        self.value["snapshot_id"].as_str().expect("a snapshot was taken").to_owned()
    }

    /// Whether no snapshot was taken since nothing had changed.
    pub fn is_skipped(&self) -> bool {
        self.value["skipped_unchanged"] == true
    }

    /// Whether it is whole.
    pub fn state(&self) -> &str {
        self.value["state"].as_str().unwrap()
    }
}

/// Asserts that no panic was told to the user.
pub fn quiet(output: &Output) {
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
}

/// Asserts that two trees are the same in every respect, by two oracles.
pub fn same(one: &Path, other: &Path) {
    let differences = Manifest::of(one).diff(&Manifest::of(other));
    assert!(differences.is_empty(), "{}", differences[..differences.len().min(50)].join("\n"));
    assert_eq!(rsync(one, other), "");
}

/// What rsync would do to make the second tree like the first.
pub fn rsync(one: &Path, other: &Path) -> String {
    let with_slash = |path: &Path| [path.as_os_str(), OsStr::new("/")].concat_os();
    let mut command = Command::new("rsync");
    command.args(["-naiHAXSc", "--delete", "--modify-window=-1"]);
    mount::run(command.arg(with_slash(one)).arg(with_slash(other)))
}

trait ConcatOs {
    fn concat_os(self) -> OsString;
}

impl ConcatOs for [&OsStr; 2] {
    fn concat_os(self) -> OsString {
        let mut whole = self[0].to_owned();
        whole.push(self[1]);
        whole
    }
}

/// Gives a file a modification time of long ago.
pub fn age(path: &Path) {
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_times(FileTimes::new().set_modified(LONG_AGO))
        .unwrap();
}

/// Waits until what was changed until now is old enough to be remembered.
pub fn settle() {
    std::thread::sleep(Duration::from_millis(3100));
}

/// Options for a torture tree that does not take long.
pub fn small_torture() -> torture::Options {
    torture::Options { depth: 20, wide: 200, sparse_gb: 0, ..torture::Options::default() }
}
