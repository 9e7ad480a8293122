//! Encrypted repositories as their users meet them, whatever mode the suite runs in: passphrases asked for and given, keys, what a computer
//! remembers of a repository, and that no secret gets out.
//!
//! Each run writes a log. When a test ends, all that was printed, logged and kept beside the repository is searched for the secrets.

mod keys;
mod loss;
mod opening;
mod secrets;
mod terminal;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{files, json};
use crate::support::vault::{Output, Vault};

const PASSPHRASE: &str = "four-words-in-a-row";
const OTHER: &str = "quite-another-phrase";
/// What recovery keys begin with.
const RECOVERY: &str = "VAULT-RECOVERY-1-";
/// What makes a new key quick to try.
const FAST: [&str; 4] = ["--kdf-memory", "8M", "--kdf-passes", "1"];

/// A user with something to save.
struct Home {
    vault: Vault,
}

impl Home {
    /// Some files in `src`, and no repository yet. Passphrases in the files `pw` and `pw2`.
    fn new() -> Self {
        let mut vault = Vault::new();
        vault.env("VAULT_REPOSITORY", vault.join("repo"));
        vault.env_remove("VAULT_PASSPHRASE");
        fs::create_dir(vault.join("src")).unwrap();
        fs::write(vault.join("src/a"), "alpha\n").unwrap();
        fs::write(vault.join("src/long"), "beta\n".repeat(5000)).unwrap();
        fs::write(vault.join("pw"), format!("{PASSPHRASE}\n")).unwrap();
        fs::write(vault.join("pw2"), format!("{OTHER}\r\nwhat is below does not count\n")).unwrap();
        Self { vault }
    }

    /// With an encrypted repository in `repo` that `PASSPHRASE` opens.
    fn made() -> Self {
        let home = Self::new();
        home.run(&home.init("repo")).ok();
        home
    }

    /// With one snapshot in it.
    fn saved() -> Self {
        let home = Self::made();
        home.save();
        home
    }

    fn init(&self, name: &str) -> Vec<String> {
        let folder = self.path(name);
        ["init", "-r", &folder].into_iter().chain(FAST).map(str::to_owned).collect()
    }

    fn path(&self, name: &str) -> String {
        self.vault.join(name).to_str().unwrap().to_owned()
    }

    /// The program, without any passphrase.
    fn command<S: AsRef<str>>(&self, args: &[S]) -> Command {
        // Not as arguments of the usual way: that has its own of whether repositories are encrypted.
        let mut command = self.vault.command::<&str>(&[]);
        command.args(args.iter().map(AsRef::as_ref)).arg("--log-file").arg(self.vault.join("log"));
        command
    }

    /// Runs it without any passphrase.
    fn bare<S: AsRef<str>>(&self, args: &[S]) -> Output {
        self.vault.start(self.command(args)).wait()
    }

    /// Runs it with the passphrase of the repository.
    fn run<S: AsRef<str>>(&self, args: &[S]) -> Output {
        self.with(PASSPHRASE, args)
    }

    /// Runs it with a passphrase.
    fn with<S: AsRef<str>>(&self, passphrase: &str, args: &[S]) -> Output {
        let mut command = self.command(args);
        command.env("VAULT_PASSPHRASE", passphrase);
        self.vault.start(command).wait()
    }

    /// Takes a snapshot and returns its id.
    fn save(&self) -> String {
        let saved = self.run(&["snapshot", &self.path("src"), "--json"]).ok();
        super::summary(&saved)["snapshot_id"].as_str().unwrap().to_owned()
    }

    /// The ids of the keys, as `key list` has them.
    fn keys(&self) -> Vec<String> {
        let listed = json(&self.bare(&["key", "list", "--json"]).ok().stdout);
        listed.iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Adds a key that `OTHER` opens, and returns its id.
    fn add_other(&self) -> String {
        let args = ["key", "add", "--json", "--key-name", "the other", "--new-passphrase-file"];
        let pw2 = self.path("pw2");
        let added = self.run(&[&args[..], &[pw2.as_str()], &FAST[..]].concat()).ok();
        json(&added.stdout)[0]["id"].as_str().unwrap().to_owned()
    }

    /// Copies a folder of the test.
    fn copy(&self, from: &str, to: &str) {
        let copied =
            Command::new("cp").arg("-a").arg(self.vault.join(from)).arg(self.vault.join(to)).status();
        assert!(copied.unwrap().success());
    }

    fn remove(&self, folder: &str) {
        fs::remove_dir_all(self.vault.join(folder)).unwrap();
    }

    /// That what was restored is what was saved.
    fn is_restored(&self, target: &str) {
        let below = self.path("src");
        for name in ["a", "long"] {
            let saved = fs::read(self.vault.join("src").join(name)).unwrap();
            let restored = self.vault.join(target).join(&below[1..]).join(name);
            assert_eq!(fs::read(restored).unwrap(), saved, "{name}");
        }
    }

    /// What the program printed here was asked for: the recovery key.
    fn may_have(&self, printed: &[u8]) {
        for file in files(&self.vault.join("runs")) {
            if fs::read(&file).unwrap() == printed {
                fs::remove_file(file).unwrap();
            }
        }
    }

    /// The files that hold a secret, of all that the program left behind.
    fn leaks(&self) -> Vec<PathBuf> {
        let all = ["runs", "log", "state", "cache", "repo"].map(|name| self.vault.join(name));
        let there = all.iter().filter(|path| path.exists()).flat_map(|path| files(path));
        let has_secret = |path: &PathBuf| {
            let bytes = fs::read(path).unwrap();
            [PASSPHRASE, OTHER, RECOVERY]
                .iter()
                .any(|secret| bytes.windows(secret.len()).any(|window| window == secret.as_bytes()))
        };
        there.filter(has_secret).collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let leaks = if std::thread::panicking() { Vec::new() } else { self.leaks() };
        assert!(leaks.is_empty(), "secrets in {leaks:?}");
    }
}

/// Whether a repository was made there.
fn is_repository(place: &Path) -> bool {
    place.join("config").exists()
}
