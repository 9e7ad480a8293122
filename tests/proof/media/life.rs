//! A repository on a medium: a whole life, with a mirror on another one, on a full one, on one that is read-only, and on one that is pulled out.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::published::Column;
use crate::proof::Counts;
use crate::proof::place::Place;
use crate::support::mount::{FileSystem, Mount};
use crate::support::torture::Random;
use crate::support::tracer::{Act, traced};
use crate::support::vault::Output;

/// A user whose repository lies on a medium.
pub struct Life {
    kind: FileSystem,
    place: Place,
    mount: Mount,
    repository: String,
    violations: Vec<String>,
}

impl Life {
    /// A repository with two snapshots, taken before and after the medium was away.
    pub fn new(kind: FileSystem, size_mb: u64) -> Self {
        let mount = Mount::new(kind, size_mb);
        let repository = mount.join("repository").to_str().unwrap().to_owned();
        let mut place = Place::new();
        place.vault.env("VAULT_REPOSITORY", &repository);
        place.run(&["init", "-q"]).ok();
        place.snapshot();
        let mut life = Self { kind, place, mount, repository, violations: Vec::new() };
        life.remount();
        life.place.change(10);
        life.place.snapshot();
        life.holds("with two snapshots");
        life
    }

    fn remount(&mut self) {
        if self.kind != FileSystem::Tmpfs {
            self.mount.remount();
        }
    }

    fn note(&mut self, when: &str, what: Vec<String>) {
        self.violations.extend(what.into_iter().map(|what| format!("{:?}, {when}: {what}", self.kind)));
    }

    /// All that was told comes back, and each byte of the repository is right.
    fn holds(&mut self, when: &str) {
        let found = self.place.violations(&self.repository, &self.place.told);
        self.note(when, found);
    }

    fn run(&mut self, when: &str, args: &[&str]) {
        let output = self.place.run(args);
        if !output.status.success() {
            self.note(when, vec![output.report().to_owned()]);
        }
    }

    /// Forgets, prunes, and goes on.
    pub fn goes_on(&mut self) {
        let first = self.place.told.remove(0).id;
        self.run("forgetting", &["forget", "-q", &first]);
        self.run("pruning", &["prune", "-q", "--force", "--max-unused", "0"]);
        self.holds("pruned");
        self.remount();
        self.holds("pruned and mounted again");
    }

    /// A mirror on another medium, refreshed, used by itself.
    pub fn is_mirrored_on(&mut self, mirror: &mut Mount, kind: FileSystem) {
        let at = mirror.join("mirror").to_str().unwrap().to_owned();
        let when = format!("mirrored on {kind:?}");
        self.run(&when, &["mirror", "-q", "--new", &at]);
        if kind != FileSystem::Tmpfs {
            mirror.remount();
        }
        let found = self.place.violations(&at, &self.place.told);
        self.note(&when, found);
        self.place.change(30);
        self.place.snapshot();
        self.run(&when, &["mirror", "-q", &at]);
        let found = self.place.violations(&at, &self.place.told);
        self.note(&when, found);
        // A mirror is a repository, which goes on if it has to.
        self.place.change(31);
        let source = self.place.text("source");
        self.run(&when, &["-r", &at, "snapshot", "-q", &source]);
        let found = self.place.violations(&at, &self.place.told);
        self.note(&when, found);
    }

    /// Where nothing can be written, all that reads works, and what writes says why not.
    pub fn is_read_only(&mut self) -> String {
        self.mount.set_read_only(true);
        self.run("read-only", &["snapshots", "-q"]);
        self.holds("read-only");
        self.place.change(40);
        let source = self.place.text("source");
        let output = self.place.run(&["snapshot", &source]);
        self.mount.set_read_only(false);
        let is_said = output.stderr.contains("Read-only file system");
        if output.status.code() != Some(1) || !is_said {
            self.note("read-only", vec![output.report().to_owned()]);
        }
        self.place.snapshot();
        self.holds("writable again");
        "lists, checks, restores".into()
    }

    /// On a full medium; how a snapshot ends there.
    pub fn is_full(&mut self) -> Column {
        fs::write(self.place.join("source/more"), Random(50).bytes(400_000)).unwrap();
        self.place.snapshot();
        fs::remove_file(self.place.join("source/more")).unwrap();
        self.place.snapshot();
        let ballast = fill(&self.mount.path());
        fs::write(self.place.join("source/large"), Random(51).bytes(3 << 20)).unwrap();
        let source = self.place.text("source");
        let refused = self.place.run(&["snapshot", "-q", &source]);
        let is_full = ended(&refused);
        self.run("full", &["snapshots", "-q"]);
        self.holds("full");
        let forgotten = self.place.told.remove(self.place.told.len() - 2).id;
        let forget = self.place.run(&["forget", "-q", &forgotten]);
        let prune = self.place.run(&["prune", "-q", "--force", "--max-unused", "0"]);
        let made_room = match (forget.status.success(), prune.status.success()) {
            (true, true) => "done".to_owned(),
            (false, _) => format!("`forget`: {}", ended(&forget)),
            (true, false) => format!("`prune`: {}", ended(&prune)),
        };
        self.holds("full, after a prune");
        for path in ballast {
            fs::remove_file(path).unwrap();
        }
        self.place.snapshot();
        self.run("with room again", &["prune", "-q", "--force", "--max-unused", "0"]);
        self.holds("with room again");
        vec![("full: `snapshot`".to_owned(), is_full), ("full: `forget` and `prune`".to_owned(), made_room)]
    }

    /// Pulled out at so many moments of a snapshot: what was told of is there, and it goes on.
    pub fn is_pulled_out(&mut self, moments: &[usize]) -> Counts {
        let mut counts = Counts::default();
        for at in moments {
            self.place.change(60 + u64::try_from(*at).unwrap());
            let source = self.place.text("source");
            let (mut changes, mut is_out) = (0, false);
            let (mount, repository) = (&mut self.mount, self.repository.clone());
            let output = traced(&self.place.vault, &["snapshot", &source], |call| {
                let is_there = call.file().is_some_and(|file| file.starts_with(&repository));
                changes += usize::from(is_there && call.changes());
                if changes > *at && !is_out {
                    is_out = mount.pull_out();
                }
                Act::Go
            });
            if !is_out {
                break;
            }
            counts.tried += 1;
            let said = output.stderr.contains("panicked") || output.status.success();
            self.mount.remount();
            let before = self.violations.len();
            if said {
                self.note("pulled out", vec![output.report().to_owned()]);
            }
            self.holds("pulled out");
            self.place.snapshot();
            self.holds("plugged in again");
            counts.failed += usize::from(self.violations.len() > before);
        }
        counts.violations.append(&mut self.violations);
        counts
    }

    /// What the medium can do of which a repository makes use.
    pub fn abilities(&self) -> Column {
        let at = self.mount.path();
        let (one, other) = (at.join("one"), at.join("other"));
        fs::write(&one, "one").unwrap();
        fs::write(&other, "other").unwrap();
        let is_replaced = fs::rename(&one, &other).is_ok() && fs::read(&other).unwrap() == b"one";
        fs::write(&one, "one").unwrap();
        let [source, target] = [File::open(&one).unwrap(), File::create(at.join("clone")).unwrap()];
        let is_cloned = rustix::fs::ioctl_ficlone(&target, &source).is_ok();
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        let is_spared =
            rustix::fs::renameat_with(rustix::fs::CWD, &one, rustix::fs::CWD, at.join("free"), flags);
        let is_linked = fs::hard_link(&other, at.join("hard")).is_ok();
        let blocks = rustix::fs::statvfs(&at).unwrap().f_blocks;
        let mut column = Vec::new();
        for (what, is) in [
            ("a rename replaces a file", is_replaced),
            ("a rename can be told not to", is_spared.is_ok()),
            ("hard links, which no repository needs", is_linked),
            ("reflinks, which restore makes use of", is_cloned),
            ("a folder can be synced", File::open(&at).unwrap().sync_all().is_ok()),
            ("it says how much is free", blocks > 0),
        ] {
            column.push((what.to_owned(), if is { "yes" } else { "no" }.to_owned()));
        }
        for name in ["one", "other", "clone", "free", "hard"] {
            // Some were never made.
            let _ = fs::remove_file(at.join(name));
        }
        column
    }

    /// What was wrong so far.
    pub fn violations(&mut self) -> Vec<String> {
        std::mem::take(&mut self.violations)
    }
}

/// How a run ended that could not do what it was to do: its exit code and what the system said.
fn ended(output: &Output) -> String {
    let texts = ["No space left on device", "Operation not permitted", "Input/output error"];
    let said = texts.into_iter().find(|text| output.stderr.contains(text));
    match (output.status.code(), said) {
        (Some(0), _) => "done".into(),
        (Some(code), Some(text)) => format!("exit code {code}, {}", text.to_lowercase()),
        _ => panic!("{}", output.report()),
    }
}

/// Writes until nothing can be written any more, and returns the files.
fn fill(folder: &Path) -> Vec<PathBuf> {
    let (mut random, mut files) = (Random(99), Vec::new());
    for (number, len) in [8 << 20, 1 << 20, 64 << 10, 4096].into_iter().enumerate() {
        let block = random.bytes(len);
        for part in 0..2000 {
            let path = folder.join(format!("filler-{number}-{part}"));
            let Ok(mut file) = File::create(&path) else { break };
            files.push(path);
            if file.write_all(&block).and_then(|()| file.sync_all()).is_err() {
                break;
            }
        }
    }
    files
}
