//! All commands that read a repository, each run over a hostile one with bounds on memory and time, and what is wrong with how it ended.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::Duration;

use rustix::process::Signal;

use super::craft::{Case, Craft, Expects};
use crate::proof::is_nightly;
use crate::support::manifest::Manifest;
use crate::support::mount;
use crate::support::repository::{PASSPHRASE, is_encrypted};
use crate::support::scratch;
use crate::support::vault::{Output, Vault};

/// The most address space that a run may have, in KiB, as `ulimit -v` takes it.
pub const MEMORY_KIB: u32 = 512 << 10;
/// How long a run may take that is no endless one. All of them are over in seconds, but for those over a million levels.
fn patience() -> Duration {
    Duration::from_secs(if is_nightly() { 1800 } else { 120 })
}

/// How soon a run ends after it was interrupted: a segment of a million facts is taken over in one go.
fn stops_within() -> Duration {
    Duration::from_secs(if is_nightly() { 120 } else { 20 })
}

/// How long an endless run goes on before it is interrupted; some of these end after minutes or hours.
fn endless() -> Duration {
    if let Ok(seconds) = std::env::var("VAULT_ENDLESS") {
        return Duration::from_secs(seconds.parse().unwrap());
    }
    Duration::from_millis(if is_nightly() { 3000 } else { 1500 })
}

/// A command: what it is called here, and its words. Those in capitals stand for places.
pub type Command = (&'static str, &'static [&'static str]);

/// The commands that show the tree of the newest snapshot, or all that there is: something wrong with it must not pass.
pub const SHOWING: [Command; 4] = [
    ("restore", &["restore", "latest", "--target", "TARGET"]),
    ("check of all data", &["check", "--read-data"]),
    ("ls", &["ls", "-R", "-l", "latest"]),
    ("cat", &["cat", "latest:/"]),
];

/// All others.
pub const OTHERS: [Command; 40] = [
    (
        "restore over what is there",
        &["restore", "latest", "--target", "TARGET", "--delete", "--overwrite", "always", "--verify"],
    ),
    (
        "restore of what is damaged",
        &["restore", "latest", "--target", "TARGET", "--keep-damaged", "--sparse", "--owner", "number"],
    ),
    ("restore in a dry run", &["restore", "latest", "--target", "TARGET", "-n", "-v"]),
    ("restore of a part", &["restore", "latest", "--target", "TARGET", "--include", "**/*f*"]),
    ("check", &["check"]),
    ("check without a key", &["check", "--without-key"]),
    ("check of a snapshot", &["check", "latest", "--read-data"]),
    ("check that marks", &["check", "--read-data", "--mark-damaged"]),
    ("snapshots", &["snapshots"]),
    ("snapshots alone", &["snapshots", "--alone", "-v"]),
    ("snapshots as JSON", &["snapshots", "--json"]),
    ("ls as JSON", &["ls", "-R", "latest", "--json"]),
    ("find", &["find", "*"]),
    ("find one", &["find", "no such name", "-i"]),
    ("diff", &["diff", "latest~1", "latest", "--metadata"]),
    ("diff back", &["diff", "latest", "latest~1"]),
    ("diff with a folder", &["diff", "latest:/", "VICTIM", "--content", "--metadata"]),
    ("stats", &["stats"]),
    ("du", &["du"]),
    ("du of folders", &["du", "latest", "-d", "2"]),
    ("copy", &["copy", "--to", "OTHER"]),
    ("copy in a dry run", &["copy", "--to", "OTHER", "-n"]),
    ("first mirror", &["mirror", "--new", "NEW"]),
    ("mirror", &["mirror", "DRIVE", "--verify"]),
    ("mirror that prunes", &["mirror", "DRIVE", "--prune"]),
    ("heal", &["heal", "--from", "DRIVE"]),
    ("heal in a dry run", &["heal", "--from", "DRIVE", "-n"]),
    ("heal from it", &["-r", "DRIVE", "heal", "--from", "REPOSITORY"]),
    ("repair", &["repair"]),
    ("repair in a dry run", &["repair", "-n"]),
    ("prune", &["prune", "--force", "--max-unused", "0"]),
    ("prune in a dry run", &["prune", "-n"]),
    ("rewrite", &["rewrite", "--all", "-e", "*f*", "--forget"]),
    ("rewrite of a path", &["rewrite", "--all", "-e", "/folder/file", "-n"]),
    ("merge", &["merge", "latest", "latest~1"]),
    ("forget", &["forget", "--keep-last", "1"]),
    ("hold", &["hold", "latest"]),
    ("parity add", &["parity", "add"]),
    ("parity repair", &["parity", "repair"]),
    ("snapshot", &["snapshot", "SOURCE"]),
];

/// How it is said that something is lost.
const LOST: [&str; 3] = ["lost", "loses", "costs"];

/// The verbs that write nothing to the repository, but for with this flag.
const READING: [&str; 9] = ["restore", "ls", "cat", "check", "snapshots", "find", "diff", "stats", "du"];
const MARKING: &str = "--mark-damaged";

/// A sound repository with a mirror and another one beside it, from which hostile ones are made.
pub struct Arena {
    pub vault: Vault,
    /// Nothing has written to the repository since it was made.
    is_as_made: Cell<bool>,
}

/// What a run came to.
pub struct Ran {
    pub output: Output,
    pub was_stopped: bool,
    pub has_hung: bool,
}

impl Arena {
    pub fn new() -> Self {
        let mut vault = Vault::new();
        vault.env("VAULT_REPOSITORY", vault.join("repository"));
        if is_encrypted() {
            vault.env("VAULT_TO_PASSPHRASE", PASSPHRASE);
        }
        let arena = Self { vault, is_as_made: Cell::new(false) };
        let source = arena.vault.join("source");
        fs::create_dir_all(source.join("folder")).unwrap();
        fs::write(source.join("folder/file"), "sound".repeat(1000)).unwrap();
        fs::write(source.join("small"), "sound").unwrap();
        let place = |name: &str| arena.vault.join(name).to_str().unwrap().to_owned();
        arena.vault.run(&["init", "-q"]).ok();
        arena.vault.run(&["snapshot", "-q", &place("source")]).ok();
        arena.vault.run(&["mirror", "-q", "--new", &place("drive")]).ok();
        arena.vault.run(&["-r", &place("other"), "init", "-q"]).ok();
        fs::create_dir(arena.vault.join("sound")).unwrap();
        for name in ["repository", "drive", "other"] {
            fs::rename(arena.vault.join(name), arena.vault.join("sound").join(name)).unwrap();
        }
        arena
    }

    fn place(&self, word: &str) -> String {
        let name = match word {
            "TARGET" => "arena/target",
            "VICTIM" => "arena/victim/",
            "SOURCE" => "source",
            "DRIVE" => "drive",
            "OTHER" => "other",
            "NEW" => "new",
            "REPOSITORY" => "repository",
            word => return word.to_owned(),
        };
        self.vault.join(name).to_str().unwrap().to_owned()
    }

    /// Makes the hostile repository of a case, from which each run gets its own.
    pub fn make(&self, case: &Case) {
        let place = self.vault.join("hostile");
        remove(&place);
        mount::run(Process::new("cp").arg("-a").arg(self.vault.join("sound/repository")).arg(&place));
        let mut craft = Craft::new(&place);
        (case.make)(&mut craft);
        craft.publish();
        self.is_as_made.set(false);
    }

    /// Puts all back to how it is before a run.
    pub fn reset(&self, words: &[&str]) {
        for name in ["drive", "other", "new", "arena", "cache", "state", "runs", "cwd"] {
            remove(&self.vault.join(name));
        }
        for name in ["cache", "state", "runs", "cwd"] {
            fs::create_dir(self.vault.join(name)).unwrap();
        }
        // Two hundred folders, for those that may change something.
        let is_read = words.first().is_some_and(|verb| READING.contains(verb)) && !words.contains(&MARKING);
        if !self.is_as_made.replace(is_read) {
            remove(&self.vault.join("repository"));
            link(&self.vault.join("hostile"), &self.vault.join("repository"));
        }
        for (word, name) in [("DRIVE", "drive"), ("OTHER", "other")] {
            if words.contains(&word) {
                link(&self.vault.join("sound").join(name), &self.vault.join(name));
            }
        }
        lay_out(&self.vault.join("arena"));
    }

    /// Runs a command within its bounds.
    pub fn run(&self, words: &[&str], expects: Expects) -> Ran {
        let is_endless = expects == Expects::Endless;
        let script = format!(
            "ulimit -v {MEMORY_KIB}; exec \"$@\"{}",
            // It may be more than there is room for.
            if is_endless { " > /dev/null" } else { "" }
        );
        let args: Vec<String> = words.iter().map(|word| self.place(word)).collect();
        let command = self.vault.command_under(&["sh", "-c", &script, "sh"], &args);
        self.bounded(command, if is_endless { endless() } else { patience() })
    }

    /// Waits for the end of a command; asks it to end after a time, and makes it end if it does not.
    pub fn bounded(&self, command: Process, time: Duration) -> Ran {
        let mut running = self.vault.start(command);
        let was_stopped = !running.ends_within(time);
        if was_stopped {
            running.signal(Signal::INT);
        }
        let has_hung = was_stopped && !running.ends_within(stops_within());
        if has_hung {
            running.signal(Signal::KILL);
        }
        Ran { output: running.wait(), was_stopped, has_hung }
    }

    /// What is wrong with how a command does over the hostile repository of a case.
    pub fn violations(&self, case: &Case, command: &Command) -> Vec<String> {
        let (name, words) = command;
        self.reset(words);
        let victim = self.vault.join("arena/victim");
        let before = Manifest::of(&victim);
        let ran = self.run(words, case.expects);
        let mut found: Vec<String> = unfit(case, name, &ran).into_iter().collect();
        found.extend(touched(&before, &victim));
        found.extend(self.strangers());
        let what = |what: String| format!("{}, {name}: {what}\n{}", case.name, ends(ran.output.report()));
        found.into_iter().map(what).collect()
    }

    /// Names where none should have come up.
    fn strangers(&self) -> Option<String> {
        let names = |folder: &str| {
            let entries = fs::read_dir(self.vault.join(folder)).unwrap();
            entries.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
        };
        let mut found = names("arena");
        found.retain(|name| name != "target" && name != "victim");
        found.extend(names("cwd"));
        found.extend(names("home"));
        (!found.is_empty()).then(|| format!("it has made {found:?}"))
    }
}

/// How a victim differs from what it was.
pub fn touched(before: &Manifest, victim: &Path) -> Option<String> {
    let differs = before.diff(&Manifest::of(victim));
    (!differs.is_empty()).then(|| format!("the victim was touched: {}", differs.join("; ")))
}

/// What is wrong with how a run has ended.
pub fn unfit(case: &Case, command: &str, ran: &Ran) -> Option<String> {
    let stderr = &ran.output.stderr;
    let said = String::from_utf8_lossy(&ran.output.stdout).into_owned() + stderr;
    let code = ran.output.status.code();
    let words = match case.expects {
        // What cannot be taken over from it is said, and why.
        Expects::Refused(words) if command == "heal from it" => [words, &LOST].concat(),
        // These say what is lost, and `check` why.
        Expects::Refused(_) if command.starts_with("repair") || command.starts_with("heal") => LOST.to_vec(),
        Expects::Refused(words) => words.to_vec(),
        Expects::Found(words) if command.starts_with("check") && command != "check without a key" => {
            words.to_vec()
        }
        _ => Vec::new(),
    };
    let is_shown = SHOWING.iter().any(|(name, _)| *name == command);
    let must_fail = match case.expects {
        Expects::Refused(_) => is_shown,
        Expects::Found(_) => command == "check of all data",
        Expects::Harmless | Expects::Endless => false,
    };
    if ran.has_hung {
        return Some("it goes on after it was interrupted".to_owned());
    }
    if ran.was_stopped && case.expects != Expects::Endless {
        return Some("it takes too long".to_owned());
    }
    if said.contains("panicked at") || code == Some(101) {
        return Some("it panicked".to_owned());
    }
    // What an archive holds is nobody's business but that of who unpacks it.
    let has_escapes = |text: &str| text.contains(['\u{1b}', '\u{7}']);
    if has_escapes(stderr) || command != "cat" && has_escapes(&said) {
        return Some("it sends a name to the terminal as it is".to_owned());
    }
    match code {
        None => Some("it did not end by itself".to_owned()),
        Some(0) if must_fail => Some("it is content".to_owned()),
        Some(0) => None,
        Some(130) if ran.was_stopped => None,
        // On a mirror as well nothing is deleted on a doubt.
        Some(2) if command == "mirror that prunes" && stderr.contains("permits that") => None,
        Some(1 | 3 | 13) if stderr.trim().is_empty() => Some("it says nothing".to_owned()),
        Some(1 | 3 | 13) if words.is_empty() || words.iter().any(|word| said.contains(word)) => None,
        // Who looks at one snapshot, or at the structure alone, may find only that a chunk is not there.
        Some(13)
            if matches!(command, "check" | "check of a snapshot") && said.contains(" is missing from ") =>
        {
            None
        }
        Some(1 | 3 | 13) => Some(format!("it says nothing of {words:?}")),
        Some(_) => Some("it ended in a way of its own".to_owned()),
    }
}

/// A victim, and a target that leads to it in every way.
fn lay_out(arena: &Path) {
    let (victim, target) = (arena.join("victim"), arena.join("target"));
    fs::create_dir_all(victim.join("folder")).unwrap();
    for name in ["passwd", "folder/passwd", "folder/file", "hard", "file"] {
        fs::write(victim.join(name), format!("precious {name}")).unwrap();
        fs::set_permissions(victim.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    symlink("passwd", victim.join("link")).unwrap();
    fs::create_dir_all(target.join("dir")).unwrap();
    for (name, to) in
        [("folder", "folder"), ("link", ""), ("a", ""), ("file", "passwd"), ("dir/file", "file")]
    {
        symlink(victim.join(to), target.join(name)).unwrap();
    }
    // Of several names, so that it does not show in the victim if the target's goes.
    fs::hard_link(victim.join("hard"), victim.join("hard-2")).unwrap();
    for name in ["hard", "dir/hard"] {
        fs::hard_link(victim.join("hard"), target.join(name)).unwrap();
    }
}

/// The same files under further names: what a repository holds is never written to in place.
fn link(from: &Path, to: &Path) {
    mount::run(Process::new("cp").arg("-al").arg(from).arg(to));
}

fn remove(path: &PathBuf) {
    if let Ok(metadata) = fs::symlink_metadata(path) {
        assert!(metadata.is_dir());
        scratch::remove_tree(path).unwrap();
    }
}

/// The ends of a long text.
fn ends(text: &str) -> String {
    let count = text.chars().count();
    if count < 4000 {
        return text.to_owned();
    }
    let start: String = text.chars().take(2000).collect();
    let end: String = text.chars().skip(count - 2000).collect();
    format!("{start} … {end}")
}
