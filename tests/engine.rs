//! The engine when things go wrong: a medium that fails at each of its calls, packs that vanish, sources in odd places.

mod long;
mod stored;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use vault::backend::{Backend, Listed, LocalFolder, NewFile, StoredFile};
use vault::backup::{BackupOptions, BackupSummary, backup};
use vault::chunk::GetChunk;
use vault::error::{Error, Result};
use vault::event::{Observer, Silent};
use vault::id::{ChunkId, ChunkKind};
use vault::repository::Reader;
use vault::snapshot::list::Pieces;
use vault::snapshot::tree::Entries;
use vault::snapshot::{Kind, Piece};

use crate::support::repository;
use crate::support::scratch::Scratch;

/// What is counted, and fails at one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    List,
    Open,
    Create,
    Write,
    Publish,
}

/// A medium whose `number`th call of a kind finds no space.
struct Failing {
    inner: LocalFolder,
    call: Call,
    left: Arc<AtomicU64>,
}

impl Failing {
    fn pass(&self, call: Call) -> io::Result<()> {
        if call == self.call { count(&self.left) } else { Ok(()) }
    }
}

/// Fails at the last call that is left, and no more after it.
fn count(left: &AtomicU64) -> io::Result<()> {
    match left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) {
        Ok(1) => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    }
}

impl Backend for Failing {
    fn place(&self) -> &Path {
        self.inner.place()
    }
    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        self.pass(Call::List)?;
        self.inner.list(folder)
    }
    fn open(&self, file: &str) -> io::Result<Box<dyn StoredFile>> {
        self.pass(Call::Open)?;
        self.inner.open(file)
    }
    fn create(&self, temporary: &str) -> io::Result<Box<dyn NewFile>> {
        self.pass(Call::Create)?;
        let inner = self.inner.create(temporary)?;
        Ok(Box::new(FailingFile { inner, call: self.call, left: self.left.clone() }))
    }
    fn make_folder(&self, folder: &str) -> io::Result<()> {
        self.inner.make_folder(folder)
    }
    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.inner.sync_folder(folder)
    }
    fn remove(&self, file: &str) -> io::Result<()> {
        self.inner.remove(file)
    }
    fn sync(&self, file: &str) -> io::Result<()> {
        self.inner.sync(file)
    }
}

struct FailingFile {
    inner: Box<dyn NewFile>,
    call: Call,
    left: Arc<AtomicU64>,
}

impl Write for FailingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.call == Call::Write {
            count(&self.left)?;
        }
        self.inner.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl NewFile for FailingFile {
    fn publish(self: Box<Self>, name: &str) -> io::Result<()> {
        if self.call == Call::Publish {
            count(&self.left)?;
        }
        self.inner.publish(name)
    }
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .collect()
}

fn new_repository(scratch: &Scratch) -> PathBuf {
    let place = scratch.join("repository");
    repository::init(&LocalFolder::new(&place)).unwrap();
    place
}

/// Saves, and fails the test if that does not come to an end.
fn save(backend: Arc<dyn Backend>, options: BackupOptions) -> Result<BackupSummary> {
    let (done, outcome) = mpsc::channel();
    std::thread::spawn(move || {
        let observer: Arc<dyn Observer> = Arc::new(Silent);
        let saved = repository::open(backend)
            .and_then(|repository| backup(&repository, options, &observer, &AtomicBool::new(false)));
        let _ = done.send(saved);
    });
    outcome.recv_timeout(Duration::from_secs(60)).expect("the run hangs")
}

fn options(sources: &[PathBuf]) -> BackupOptions {
    BackupOptions { pack_len: 1 << 20, ..BackupOptions::new(sources.to_vec()) }
}

/// Reads all that each snapshot needs; how many there are.
fn read_all(place: &Path) -> usize {
    let repository = repository::open(Arc::new(LocalFolder::new(place))).unwrap();
    let reader = repository.reader().unwrap();
    let snapshots = repository.snapshots().unwrap();
    for (_, snapshot) in &snapshots {
        read_folder(&reader, snapshot.as_ref().unwrap().root.kind.directory().unwrap());
    }
    snapshots.len()
}

fn read_folder(reader: &Reader, node: ChunkId) {
    for entry in Entries::new(reader, node) {
        let entry = entry.unwrap();
        if let Some(node) = entry.kind.directory() {
            read_folder(reader, node);
        }
        if let Kind::File(size, content) = &entry.kind {
            for piece in Pieces::new(reader, content, *size) {
                if let Piece::Data(id, _) = piece.unwrap() {
                    reader.get(ChunkKind::Data, &id).unwrap();
                }
            }
        }
    }
}

#[test]
fn the_error_of_a_failing_medium_is_the_one_returned_and_nothing_acknowledged_is_lost() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    for number in 0..6 {
        fs::write(source.join(format!("{number}")), noise(number, 1_500_000)).unwrap();
    }
    for call in [Call::List, Call::Open, Call::Create, Call::Write, Call::Publish] {
        // The first two files opened are `config` and `config.2`, which stand in for one another [REPO-4].
        let (mut number, mut fired) = (if call == Call::Open { 3 } else { 1 }, 0);
        loop {
            let place = scratch.join(format!("repository-{call:?}-{number}"));
            repository::init(&LocalFolder::new(&place)).unwrap();
            let left = Arc::new(AtomicU64::new(number));
            let medium = Failing { inner: LocalFolder::new(&place), call, left: left.clone() };
            let outcome = save(Arc::new(medium), options(std::slice::from_ref(&source)));
            if left.load(Ordering::Relaxed) > 0 {
                assert!(outcome.unwrap().snapshot.is_some());
                break;
            }
            fired += 1;
            let error =
                outcome.expect_err(&format!("{call:?} {number}: a failing medium looks like success"));
            assert!(error.is_no_space(), "{call:?} {number}: {error:?}");
            assert_eq!(fs::read_dir(place.join("tmp")).unwrap().count(), 0, "{call:?} {number}");
            read_all(&place);
            // The next run adopts what is there, and comes to its end.
            save(Arc::new(LocalFolder::new(&place)), options(std::slice::from_ref(&source))).unwrap();
            assert!(read_all(&place) > 0);
            fs::remove_dir_all(&place).unwrap();
            // The 256 folders of packs are one case.
            number += if call == Call::List && number > 8 { 97 } else { 1 + number / 6 };
        }
        assert!(fired > 1, "{call:?}");
    }
}

#[test]
fn what_a_run_does_not_come_past_is_not_believed_once_packs_were_lost() {
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    fs::write(source.join("a"), noise(1, 3_000_000)).unwrap();
    fs::write(source.join("b"), noise(2, 3_500_000)).unwrap();
    let place = new_repository(&scratch);
    let cache = scratch.join("cache");
    // What changed less than two seconds before a run is not remembered by it.
    std::thread::sleep(Duration::from_millis(3200));
    let run = |with_b: bool| {
        let mut options = options(std::slice::from_ref(&source));
        options.cache_folder = Some(cache.clone());
        if !with_b {
            options.filter.exclude_larger_than = Some(3_200_000);
        }
        save(Arc::new(LocalFolder::new(&place)), options).unwrap()
    };
    let packs = || -> BTreeSet<PathBuf> {
        fs::read_dir(place.join("packs"))
            .unwrap()
            .flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap())
            .map(|pack| pack.unwrap().path())
            .collect()
    };
    run(false);
    let of_a = packs();
    run(true);
    let second = packs().difference(&of_a).cloned().collect::<Vec<_>>();
    assert!(!second.is_empty());
    let before = fs::read_dir(place.join("snapshots")).unwrap().count();
    for pack in &second {
        fs::remove_file(pack).unwrap();
    }
    run(false);
    let summary = run(true);
    assert_eq!(summary.counter(vault::snapshot::counter::FILES_READ), 1, "b is read again, a is not");
    assert_eq!(before + 2, read_all(&place));
}

#[test]
fn init_leaves_packs_alone_that_lost_their_config() {
    let scratch = Scratch::new();
    let place = new_repository(&scratch);
    fs::remove_file(place.join("config")).unwrap();
    fs::remove_file(place.join("config.2")).unwrap();
    fs::write(place.join("packs/3c").join("3c".repeat(32)), "chunks").unwrap();
    let again = repository::init(&LocalFolder::new(&place));
    assert!(matches!(again, Err(Error::NotEmpty { .. })), "{again:?}");
    fs::remove_file(place.join("packs/3c").join("3c".repeat(32))).unwrap();
    repository::init(&LocalFolder::new(&place)).unwrap();
}

#[test]
fn a_source_reached_by_a_link_into_another_one_is_stored_where_that_one_has_it() {
    let scratch = Scratch::new();
    let (data, elsewhere) = (scratch.dir("data"), scratch.dir("elsewhere"));
    fs::create_dir(data.join("inner")).unwrap();
    fs::write(data.join("inner/file"), "x").unwrap();
    symlink(data.join("inner"), scratch.join("link")).unwrap();
    symlink(&elsewhere, data.join("out")).unwrap();
    let place = new_repository(&scratch);
    let backend: Arc<dyn Backend> = Arc::new(LocalFolder::new(&place));

    let saved = save(backend.clone(), options(&[data.clone(), scratch.join("link")])).unwrap();
    let snapshot = repository::open(backend.clone()).unwrap().snapshot(&saved.snapshot.unwrap()).unwrap();
    let [outer, inner] = &snapshot.sources[..] else { panic!("{:?}", snapshot.sources) };
    assert_eq!(inner.stored_at.0, [&outer.stored_at.0[..], b"inner"].join(&b'/'));
    assert_eq!((&inner.users, &inner.groups), (&outer.users, &outer.groups));
    assert!(!inner.users.is_empty());

    let error = save(backend, options(&[data.clone(), data.join("out")])).unwrap_err();
    assert!(matches!(&error, Error::Usage(text) if text.contains("inside of")), "{error:?}");
}
