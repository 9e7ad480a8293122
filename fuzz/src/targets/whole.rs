//! Target: a whole repository against a map. Four bytes of the input are a step: files change, snapshots are taken, forgotten, brought back
//! and pruned, copied to a mirror and healed from it, while the medium fails, the process is killed, and files are damaged.
//!
//! What was acknowledged reads back equal; where files were damaged it may be lost, and is then named. A wrong byte is never given, and
//! where nothing went wrong no step fails.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};

use vault::backup::{BackupOptions, StreamSource, backup};
use vault::browse::{ContentReader, Walk, into_error};
use vault::budget::{Budget, MIN_MEMORY};
use vault::check::{CheckOptions, CheckReport, check};
use vault::error::{Error, Result};
use vault::event::{Observer, Silent};
use vault::forget::{self, Statement};
use vault::heal::{HealOptions, heal, repair};
use vault::id::SnapshotId;
use vault::mirror::{MirrorOptions, mirror};
use vault::pack::Compression;
use vault::parity;
use vault::prune::{Limit, NO_GRACE, PruneOptions, prune};
use vault::repository::{Lacking, Repository, Scope, WriteOptions};
use vault::restore::{RestoreOptions, restore};
use vault::snapshot::Kind;

use super::Defect;
use super::fixed::{self, PASSPHRASE, World as Fixed};
use super::memory::{Coming, Fault, Memory, Op};

mod damage;
mod tree;

use tree::{Files, write_tree};

/// So many steps are made.
const MOST_STEPS: usize = 48;

static STOP: AtomicBool = AtomicBool::new(false);

/// What became of what was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Kept,
    Forgotten,
    /// Forgetting it, or bringing it back, failed: it may be either.
    Unsure,
    /// Its file was removed from the medium.
    Removed,
}

/// A repository and what is known of it.
struct World {
    medium: Memory,
    mirror: Option<Memory>,
    /// Whether the mirror was made of a sound repository, and is whole.
    mirror_is_whole: bool,
    is_sealed: bool,
    pack_len: u64,
    /// The source.
    files: Files,
    acknowledged: BTreeMap<SnapshotId, (Files, State)>,
    /// Files of the repository were damaged.
    is_damaged: bool,
    /// The next step meets with it.
    coming: Option<Coming>,
    clock: i64,
    defect: Defect,
}

/// A repository as steps change it.
pub fn repository(input: &[u8], defect: Defect) {
    let Some((mode, steps)) = input.split_first() else { return };
    let mut world = World {
        medium: Fixed::get(mode & 1 != 0).medium.copied(),
        mirror: None,
        mirror_is_whole: false,
        is_sealed: mode & 1 != 0,
        pack_len: if mode & 2 == 0 { 4096 } else { 64 << 10 },
        files: Files::new(),
        acknowledged: BTreeMap::new(),
        is_damaged: false,
        coming: None,
        clock: 1_700_000_000,
        defect,
    };
    for step in steps.as_chunks::<4>().0.iter().take(MOST_STEPS) {
        world.step(*step);
    }
    world.coming = None;
    world.verify();
}

fn observer() -> Arc<dyn Observer> {
    static SILENT: LazyLock<Arc<dyn Observer>> = LazyLock::new(|| Arc::new(Silent));
    SILENT.clone()
}

fn statement() -> Statement {
    Statement { scope: Scope::AllCopies, host: String::new(), reason: String::new() }
}

fn heal_options() -> HealOptions {
    HealOptions { pack_len: 4096, ..HealOptions::new(std::env::temp_dir()) }
}

impl World {
    fn step(&mut self, [what, a, b, c]: [u8; 4]) {
        match what % 16 {
            0 | 1 => drop(self.files.insert(tree::path(a), tree::content(b, c))),
            2 => drop(self.files.remove(&tree::path(a))),
            3 | 4 => self.save(),
            5 => self.save_stream(tree::content(b, c)),
            6 => self.forget(a),
            7 => self.unforget(a),
            8 => self.prune(a),
            9 => self.restore(a),
            10 => self.damage([a, b, c]),
            11 => {
                let op = Op::ALL[usize::from(a) % Op::ALL.len()];
                let errno = if c & 1 == 0 { 5 } else { 28 };
                let fault = match c >> 1 & 3 {
                    0 => Fault::Killed,
                    1 => Fault::Late(errno),
                    _ => Fault::Once(errno),
                };
                self.coming = Some(Coming { op, nth: u32::from(b), fault });
            }
            12 => self.mirror(),
            13 => self.heal(),
            14 if a & 1 == 0 => self.parity(a),
            14 => self.repair(),
            _ => self.verify(),
        }
    }

    fn open(&self, medium: &Memory) -> Result<Repository> {
        let mut repository = Repository::open(medium.backend())?;
        if self.is_sealed {
            repository.unlock(PASSPHRASE, None)?;
        }
        Ok(repository.with_budget(Budget::new(MIN_MEMORY, std::num::NonZero::new(1))?))
    }

    /// Does something that the coming fault may meet. Where nothing went wrong it has to succeed, but with errors that may be.
    fn attempt<T>(
        &mut self,
        may_be: fn(&Error) -> bool,
        act: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Option<T> {
        let coming = self.coming.take();
        if let Some(coming) = coming {
            self.medium.arm(coming);
        }
        let outcome = act(self);
        let has_failed = self.medium.disarm();
        if has_failed {
            self.end_sessions();
        }
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                let is_fit = has_failed || self.is_damaged || may_be(&error);
                assert!(is_fit, "nothing was wrong: {}", chain(&error));
                None
            }
        }
    }

    /// What failed runs left in `sessions/` and `marks/`: here they all are of this very process, which has not ended.
    fn end_sessions(&self) {
        let Ok(repository) = self.open(&self.medium) else { return };
        let names = self.medium.names();
        let notices = names.iter().filter_map(|name| {
            let name = name.strip_prefix("sessions/").or_else(|| name.strip_prefix("marks/"))?;
            name.rsplit_once('-').map(|(session, _)| session)
        });
        for session in notices.collect::<HashSet<_>>() {
            drop(repository.declare_ended(session));
        }
    }

    fn save(&mut self) {
        self.clock += 1;
        let files = self.files.clone();
        let saved = self.attempt(never, |world| {
            let repository = world.open(&world.medium)?;
            let options = WriteOptions { pack_len: world.pack_len, ..WriteOptions::new(observer()) };
            let mut writer = repository.writer(&options)?;
            let root = write_tree(&repository, &writer, &world.files)?;
            writer.finish()?;
            let id = repository.publish_snapshot(&writer, &fixed::snapshot(root, world.clock))?;
            // It is acknowledged whatever becomes of this.
            drop(writer.merge_segments());
            Ok(id)
        });
        self.acknowledge(saved, files);
    }

    fn save_stream(&mut self, content: Vec<u8>) {
        self.clock += 1;
        let bytes = content.clone();
        let saved = self.attempt(never, |world| {
            let mut options = BackupOptions::new(Vec::new());
            let (reader, finish) = (Box::new(std::io::Cursor::new(bytes)), Box::new(|| Ok(())));
            options.stream = Some(StreamSource { path: b"stream".to_vec(), reader, finish });
            options.host = Some("host".to_owned());
            options.time = Some(vault::snapshot::Time { secs: world.clock, nanos: 0 });
            options.pack_len = world.pack_len;
            Ok(backup(&world.open(&world.medium)?, options, &observer(), &STOP)?.snapshot)
        });
        self.acknowledge(saved.flatten(), Files::from([(b"stream".to_vec(), content)]));
    }

    fn acknowledge(&mut self, saved: Option<SnapshotId>, files: Files) {
        if let Some(id) = saved {
            self.acknowledged.insert(id, (files, State::Kept));
        }
    }

    fn pick(&self, number: u8) -> Option<SnapshotId> {
        let count = self.acknowledged.len().max(1);
        self.acknowledged.keys().nth(usize::from(number) % count).copied()
    }

    fn set(&mut self, id: SnapshotId, state: State) {
        if let Some((_, found)) = self.acknowledged.get_mut(&id).filter(|(_, found)| *found != State::Removed)
        {
            *found = state;
        }
    }

    fn forget(&mut self, number: u8) {
        let Some(id) = self.pick(number) else { return };
        self.set(id, State::Unsure);
        let done =
            self.attempt(never, |world| forget::forget(&world.open(&world.medium)?, &[id], &statement()));
        if done.is_some() {
            self.set(id, State::Forgotten);
        }
    }

    fn unforget(&mut self, number: u8) {
        let Some(id) = self.pick(number) else { return };
        let before = self.acknowledged.get(&id).map(|(_, state)| *state);
        if !matches!(before, Some(State::Forgotten | State::Unsure)) {
            return;
        }
        self.set(id, State::Unsure);
        // It may have been pruned.
        let may_be = |error: &Error| matches!(error, Error::NotFound { .. });
        let done =
            self.attempt(may_be, |world| forget::unforget(&world.open(&world.medium)?, &[id], &statement()));
        if done.is_some() {
            self.set(id, State::Kept);
        }
    }

    fn prune(&mut self, how: u8) {
        self.attempt(never, |world| {
            let options = PruneOptions {
                dry_run: how & 1 != 0,
                max_unused: if how & 2 == 0 { Limit::Bytes(0) } else { Limit::PerMille(500) },
                max_repack: None,
                kept_since: NO_GRACE,
                preferred: HashSet::new(),
                force: !world.is_damaged,
                lacking: Lacking::default(),
                scratch: std::env::temp_dir(),
                compression: if how & 4 == 0 { Compression::Off } else { Compression::Level(1) },
                pack_len: world.pack_len,
            };
            prune(&world.open(&world.medium)?, &options, &observer(), &STOP)
        });
    }

    fn mirror(&mut self) {
        let is_new = self.mirror.is_none();
        let destination = self.mirror.get_or_insert_default().clone();
        self.mirror_is_whole = false;
        let done = self.attempt(never, |world| {
            let options = |new: bool| MirrorOptions {
                new,
                scratch: Some(std::env::temp_dir()),
                ..MirrorOptions::default()
            };
            let (repository, backend) = (world.open(&world.medium)?, destination.backend());
            // What was begun and failed is begun again, unless it is one already.
            match mirror(&repository, &backend, &options(is_new), &Silent, &STOP) {
                Err(_) if !is_new => mirror(&repository, &backend, &options(true), &Silent, &STOP),
                other => other,
            }
        });
        if done.is_some_and(|summary| summary.damaged.is_empty()) && !self.is_damaged {
            self.mirror_is_whole = true;
            self.verify_on(&destination, false);
        }
    }

    fn heal(&mut self) {
        let Some(mirror) = self.mirror.clone().filter(|_| self.mirror_is_whole) else { return };
        self.attempt(never, |world| {
            heal(&world.open(&world.medium)?, &mirror.backend(), &heal_options(), &observer(), &STOP)
        });
        self.verify();
    }

    fn repair(&mut self) {
        self.attempt(never, |world| {
            repair(&world.open(&world.medium)?, None, &heal_options(), &observer(), &STOP)
        });
    }

    fn parity(&mut self, how: u8) {
        self.attempt(never, |world| {
            let repository = world.open(&world.medium)?;
            if how & 2 == 0 {
                let options = parity::AddOptions { percent: 20, ..parity::AddOptions::default() };
                return parity::add(&repository, &options, &Silent, &STOP).map(drop);
            }
            parity::repair(&repository, &[], false, &Silent, &STOP).map(drop)
        });
    }

    /// All that was acknowledged is there, or something names what is lost.
    fn verify(&mut self) {
        self.verify_on(&self.medium, self.is_damaged);
    }

    fn verify_on(&self, medium: &Memory, is_damaged: bool) {
        let mut is_lost = false;
        let mut fail = |error: &Error| {
            assert!(is_damaged, "nothing was wrong: {}", chain(error));
            is_lost = true;
        };
        let repository = match self.open(medium) {
            Ok(repository) => repository,
            Err(error) => return fail(&error),
        };
        let reader = match repository.reader() {
            Ok(reader) => reader,
            Err(error) => return fail(&error),
        };
        for (id, (files, _)) in self.acknowledged.iter().filter(|(_, (_, state))| *state == State::Kept) {
            let snapshot = match repository.snapshot(id) {
                Ok(snapshot) => snapshot,
                Err(error) => {
                    fail(&error);
                    continue;
                }
            };
            let Some(root) = snapshot.root.kind.directory() else { panic!("{id} has no root") };
            let (mut walk, mut missing, mut knows_all) = (Walk::new(&reader, root, b""), files.clone(), true);
            while let Some(entry) = walk.next() {
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(error) => {
                        fail(&error);
                        knows_all = false;
                        continue;
                    }
                };
                walk.descend(&entry);
                if !matches!(entry.kind, Kind::File(..)) {
                    continue;
                }
                let wanted = missing.remove(walk.path());
                let wanted = wanted.unwrap_or_else(|| panic!("{id} has {} too", walk.path().escape_ascii()));
                let mut found = Vec::new();
                match ContentReader::new(&reader, &entry).read_to_end(&mut found) {
                    Ok(_) => {
                        self.defect.spoil((17..400).contains(&wanted.len()), &mut found);
                        assert!(found == wanted, "{id}: {} is another one", walk.path().escape_ascii());
                    }
                    Err(error) => fail(&into_error(error, "read", std::path::Path::new("a file"))),
                }
            }
            assert!(missing.is_empty() || !knows_all, "{id} lacks {} files", missing.len());
        }
        drop(reader);
        let report = self.check(&repository);
        match report {
            Err(error) => assert!(is_damaged, "nothing was wrong: {}", chain(&error)),
            Ok(report) => {
                assert!(is_damaged || report.damages.is_empty(), "nothing was wrong: {:?}", report.damages);
                assert!(!is_lost || !report.damages.is_empty(), "something is lost that nobody names");
            }
        }
    }

    fn check(&self, repository: &Repository) -> Result<CheckReport> {
        let options =
            CheckOptions { read_data: true, seed: u32::from(self.is_sealed), ..CheckOptions::default() };
        check(repository, &options, &Silent, &STOP)
    }

    /// Restores to disk; what is there then under a name of the snapshot is right.
    #[expect(clippy::expect_used, reason = "without a folder to restore to there is no target")]
    fn restore(&mut self, number: u8) {
        let Some(id) = self.pick(number).filter(|id| self.acknowledged[id].1 == State::Kept) else { return };
        let target = tempfile::tempdir().expect("a folder can be made");
        let done = self.attempt(never, |world| {
            let repository = world.open(&world.medium)?;
            let (snapshot, reader) = (repository.snapshot(&id)?, repository.reader()?);
            restore(&reader, &snapshot, b"", target.path(), &RestoreOptions::default(), &Silent, &STOP)
        });
        let is_whole = done.is_some_and(|summary| summary.is_success());
        for (path, wanted) in &self.acknowledged[&id].0 {
            match std::fs::read(target.path().join(String::from_utf8_lossy(path).as_ref())) {
                Ok(found) => {
                    assert!(found == *wanted, "{id}: {} was restored as another", path.escape_ascii());
                }
                Err(_) => assert!(!is_whole, "{id}: {} is missing", path.escape_ascii()),
            }
        }
    }
}

fn never(_: &Error) -> bool {
    false
}

/// An error with its causes.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
