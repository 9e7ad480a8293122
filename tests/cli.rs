//! The program as its users meet it: every verb, every flag that changes what is done, every exit code.

mod age;
mod basics;
mod copy;
mod damaged;
mod encrypted;
mod forget;
mod gaps;
mod health;
mod look;
mod merge;
mod odd;
mod output;
mod prune;
mod restore;
mod rewrite;
mod save;
mod selectors;
mod stream;
mod surroundings;
mod terminal;
mod usage;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::torture::Random;
use crate::support::vault::{Output, Vault};

/// A user with a repository and something to save.
struct World {
    vault: Vault,
}

impl World {
    /// Files of all sorts in `src`, and an empty repository in `repo` that `VAULT_REPOSITORY` names.
    fn new() -> Self {
        let mut vault = Vault::new();
        vault.env("VAULT_REPOSITORY", vault.join("repo"));
        let src = vault.join("src");
        fs::create_dir_all(src.join("dir/sub")).unwrap();
        fs::create_dir(src.join("empty")).unwrap();
        fs::write(src.join("a.txt"), "alpha\n").unwrap();
        fs::write(src.join("dir/b.bin"), Random(1).bytes(200_000)).unwrap();
        fs::write(src.join("dir/sub/c.txt"), "gamma\n".repeat(1000)).unwrap();
        std::os::unix::fs::symlink("a.txt", src.join("link")).unwrap();
        let world = Self { vault };
        world.run(&["init", "-q"]).ok();
        world
    }

    /// The same, with one snapshot of `src`.
    fn saved() -> Self {
        let world = Self::new();
        world.save(&[]);
        world
    }

    fn run(&self, args: &[&str]) -> Output {
        self.vault.run(args)
    }

    fn src(&self) -> PathBuf {
        self.vault.join("src")
    }

    fn repo(&self) -> PathBuf {
        self.vault.join("repo")
    }

    /// A path of the test, as text.
    fn path(&self, name: &str) -> String {
        self.vault.join(name).to_str().unwrap().to_owned()
    }

    /// `latest:` and a path of the test.
    fn latest(&self, name: &str) -> String {
        format!("latest:{}", self.path(name))
    }

    /// Takes a snapshot of `src` and returns its id.
    fn save(&self, more: &[&str]) -> String {
        let src = self.path("src");
        let args = [&["snapshot", src.as_str(), "--json"], more].concat();
        summary(&self.run(&args).ok())["snapshot_id"].as_str().unwrap().to_owned()
    }

    /// The ids of all snapshots, oldest first.
    fn ids(&self) -> Vec<String> {
        let lines = json(&self.run(&["snapshots", "--json"]).ok().stdout);
        lines.iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect()
    }

    /// What the latest snapshot has below `src`, sorted.
    fn saved_paths(&self) -> Vec<String> {
        let listed = self.run(&["ls", "-R", &self.latest("src")]).ok();
        let prefix = format!("{}/", self.path("src"));
        let lines = listed.text().lines();
        let mut paths: Vec<String> =
            lines.map(|line| line.strip_prefix(&prefix).unwrap().to_owned()).collect();
        paths.sort();
        paths
    }
}

/// The lines of JSON.
#[track_caller]
fn json(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// The line that sums up.
#[track_caller]
fn summary(output: &Output) -> Value {
    let lines = json(&output.stdout);
    let mut found = lines.into_iter().filter(|line| line["message_type"] == "summary");
    let summary = found.next().unwrap_or_else(|| panic!("no summary in {:?}", output.stdout));
    assert!(found.next().is_none(), "two summaries");
    summary
}

/// Changes one byte in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().map(Result::unwrap);
    walk.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}
