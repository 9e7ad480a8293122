//! From chunks to published packs, segments and snapshots.
//!
//! Threads: any number of callers `put`; those that gather data compress and verify their own frames while all cores are busy, and else leave that
//! to others; one lays frames into packs and publishes packs and segments. Channels are short, so memory is bounded by a few frames per thread. `batch` gathers the data of one thread, `compress` has the threads that compress, `adopt` takes over packs that no segment names,
//! `dedup` decides what is new, `taken` has what comes from other packs, `packer` is the publishing thread, `segments` publishes and merges segments, `damage` says what is damaged.
//!
//! Nothing is acknowledged before [`Writer::finish`] and the publishing of a snapshot have returned `[DUR-6]`.

mod adopt;
mod batch;
mod compress;
mod damage;
mod dedup;
mod dry;
mod options;
mod packer;
mod segments;
mod taken;

pub use batch::DataBatch;
pub use compress::Working;
pub use options::{DEFAULT_PACK_LEN, WriteOptions, Written};
pub(crate) use segments::clean_up;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::backend::Backend;
use crate::budget::Budget;
use crate::chunk::PutChunk;
use crate::codec;
use crate::error::{Corruption, Error, Result};
use crate::event::{Event, Observer};
use crate::header::{Magic, seal_object};
use crate::id::{self, ChunkId, ChunkKind, PackId, SnapshotId};
use crate::index::{ChunkCache, Facts, Index, Problems};
use crate::pack::{Compression, FrameBuilder, MAX_PACK_LEN, PackKind, ReadyFrame};
use crate::repository::{Reliance, Repository, decode_snapshot, object};
use crate::seal::Keys;
use crate::session::{self, Session};
use crate::snapshot::Snapshot;

use compress::{Compressors, Spare};
use damage::Said;
use dedup::Claims;

/// A data frame is closed at so many bytes of chunks. Two kernel trees take 379 MiB, 1 % more at 2 MiB and 2 % more at 1 MiB, and a frame of
/// 4 MiB is decoded in about two milliseconds.
const DATA_FRAME_LEN: usize = 4 << 20;
/// One of long chunks, which gain little from each other, is closed at so many.
const LONG_CHUNKS_FRAME_LEN: usize = 2 << 20;
/// Chunks are long if they have so many bytes on average.
const LONG_CHUNK_LEN: usize = 128 << 10;
/// A tree frame is closed at so many: trees are read one at a time.
const TREE_FRAME_LEN: usize = 128 << 10;
/// Frames waiting for a thread.
const WAITING_FRAMES: usize = 2;

/// A run that writes.
pub struct Writer {
    shared: Arc<Shared>,
    open_trees: Mutex<FrameBuilder>,
    open_data: Mutex<FrameBuilder>,
    jobs: Option<Sender<Job>>,
    /// The frames in the order of their jobs, for the packer: which thread is quicker must not decide what a pack holds.
    ordered: Option<Sender<Waiting>>,
    compressors: Vec<JoinHandle<()>>,
    packer: Option<JoinHandle<Facts>>,
    adopted: Vec<Facts>,
}

/// Chunks for the compressors, and where to send the frame.
type Job = (FrameBuilder, Sender<ReadyFrame>);

/// Where a frame will come.
type Waiting = (PackKind, Receiver<ReadyFrame>);

/// What all threads of a run share.
struct Shared {
    backend: Arc<dyn Backend>,
    keys: Keys,
    session: Session,
    observer: Arc<dyn Observer>,
    said: Said,
    dry_run: bool,
    pack_len: u64,
    /// What others see of this run.
    reliance: Arc<Mutex<Reliance>>,
    /// Not 0 while packs are condemned `[PRUNE-3]`: one that is written now must not be one of them.
    salt: u64,
    index: RwLock<Index>,
    cache: RwLock<Option<ChunkCache>>,
    claims: Claims,
    used_packs: Mutex<HashSet<PackId>>,
    failure: Mutex<Option<Error>>,
    spare: Spare,
    compressors: Compressors,
    compression: Compression,
    budget: Budget,
    /// The threads that read, or compress, just now.
    working: AtomicUsize,
    /// How many of these there are at most: each has memory, and a core.
    threads: usize,
    chunks: AtomicU64,
    plain_bytes: AtomicU64,
    stored_bytes: AtomicU64,
}

impl Shared {
    /// Keeps the first failure of any thread: later ones follow from it.
    fn fail(&self, error: Error) {
        if let Ok(mut failure) = self.failure.lock() {
            failure.get_or_insert(error);
        }
    }

    fn take_failure(&self) -> Option<Error> {
        self.failure.lock().ok()?.take()
    }

    fn added(&self, plain_len: u64) {
        self.chunks.fetch_add(1, Ordering::Relaxed);
        self.plain_bytes.fetch_add(plain_len, Ordering::Relaxed);
        self.observer.event(&Event::ChunkAdded { plain_len });
    }

    fn published(&self, file: &str, len: u64) {
        self.stored_bytes.fetch_add(len, Ordering::Relaxed);
        self.observer.event(&Event::Published { file, len });
    }

    fn damage(&self, error: &Error) {
        self.said.damage(&*self.observer, error);
    }

    fn rely(&self, packs: impl IntoIterator<Item = PackId>) -> Result<HashSet<PackId>> {
        self.reliance.lock().map_err(|_| Error::Stopped)?.rely(packs)
    }

    fn uses(&self, pack: PackId) {
        if let Ok(mut packs) = self.used_packs.lock() {
            packs.insert(pack);
        }
    }
}

impl Writer {
    pub(super) fn begin(
        repository: &Repository,
        mut index: Index,
        mut problems: Problems,
        (options, reliance): (&WriteOptions, &Arc<Mutex<Reliance>>),
        stop: &AtomicBool,
    ) -> Result<Self> {
        index.condemn(options.condemned.iter().copied());
        let is_salted = !index.present().condemned.is_empty();
        let salt = if is_salted { u64::from_le_bytes(session::random()) } else { 0 };
        let threads = compress::threads(repository, options.compression)?;
        let backend: Arc<dyn Backend> = if options.dry_run {
            Arc::new(dry::DryRun(repository.backend().clone()))
        } else {
            repository.backend().clone()
        };
        damage::refuse_sealed(&mut problems)?;
        problems.extend(index.unfit_packs()?);
        // What is damaged in the index is known before anything is relied on.
        let cache = dedup::open_cache(options, &mut index, repository.budget(), stop)?;
        problems.extend(index.take_problems());
        let said = Said::default();
        for problem in &problems {
            said.damage(&*options.observer, problem);
        }
        if !options.dry_run {
            segments::clean_up(&*backend)?;
        }
        let adopting =
            adopt::Adopting { backend: &*backend, observer: &*options.observer, said: &said, stop };
        let adopted = adopting.adopt(&mut index, repository.keys())?;
        let shared = Arc::new(Shared {
            backend,
            keys: repository.keys().clone(),
            session: Session::begin(),
            observer: options.observer.clone(),
            said,
            dry_run: options.dry_run,
            pack_len: options.pack_len.min(MAX_PACK_LEN),
            reliance: reliance.clone(),
            salt,
            index: RwLock::new(index),
            cache: RwLock::new(cache),
            claims: Claims::default(),
            used_packs: Mutex::default(),
            failure: Mutex::new(None),
            spare: Spare::new(threads + WAITING_FRAMES),
            compressors: Compressors::new(threads),
            compression: options.compression,
            working: AtomicUsize::new(0),
            threads,
            budget: repository.budget(),
            chunks: AtomicU64::new(0),
            plain_bytes: AtomicU64::new(0),
            stored_bytes: AtomicU64::new(0),
        });
        Ok(Self::spawn(shared, adopted))
    }

    fn spawn(shared: Arc<Shared>, adopted: Vec<Facts>) -> Self {
        let (jobs, waiting_jobs) = bounded::<Job>(WAITING_FRAMES);
        let (ordered, in_order) = bounded::<Waiting>(WAITING_FRAMES + shared.threads);
        let compressors = (0..shared.threads)
            .map(|_| {
                let (shared, jobs) = (shared.clone(), waiting_jobs.clone());
                std::thread::spawn(move || compress::run(&shared, &jobs))
            })
            .collect();
        let packer = {
            let shared = shared.clone();
            std::thread::spawn(move || packer::run(&shared, &in_order))
        };
        Self {
            shared,
            open_trees: Mutex::default(),
            open_data: Mutex::default(),
            jobs: Some(jobs),
            ordered: Some(ordered),
            compressors,
            packer: Some(packer),
            adopted,
        }
    }

    /// Whether all these packs are present in this run's listing, and none recorded as damaged.
    #[must_use]
    pub fn has_packs<'a>(&self, mut packs: impl Iterator<Item = &'a PackId>) -> bool {
        self.shared.index.read().is_ok_and(|index| packs.all(|pack| index.is_sound_pack(pack)))
    }

    /// Whether a chunk is present; its pack counts as used by this run.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn has_chunk(&self, kind: ChunkKind, id: &ChunkId) -> Result<bool> {
        dedup::is_stored(&self.shared, kind, id)
    }

    /// Counts packs as used by this run without asking for single chunks.
    pub fn use_packs(&self, packs: impl Iterator<Item = PackId>) {
        if let Ok(mut used) = self.shared.used_packs.lock() {
            used.extend(packs);
        }
    }

    /// The packs that hold chunks which this run wrote or found again. Whole only after `finish`.
    #[must_use]
    pub fn used_packs(&self) -> Vec<PackId> {
        self.shared.used_packs.lock().map(|packs| packs.iter().copied().collect()).unwrap_or_default()
    }

    /// A gatherer of data chunks for one thread, so that neighbouring files share a frame.
    #[must_use]
    pub fn batch(&self) -> DataBatch<'_> {
        DataBatch { writer: self, open: FrameBuilder::default(), added: 0 }
    }

    /// The keys that name chunks and link groups.
    #[must_use]
    pub fn id_keys(&self) -> &id::IdKeys {
        self.shared.keys.ids()
    }

    /// How many threads may read for it, as many as compress.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Counts the calling thread as one that keeps a core busy, until the value is dropped.
    #[must_use]
    pub fn working(&self) -> Working<'_> {
        Working::begin(&self.shared)
    }

    /// What has been written so far.
    #[must_use]
    pub fn written(&self) -> Written {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Written {
            chunks: load(&self.shared.chunks),
            plain_bytes: load(&self.shared.plain_bytes),
            stored_bytes: load(&self.shared.stored_bytes),
        }
    }

    /// Publishes all packs and then the segment that names them. On return every chunk that was put is durable.
    ///
    /// # Errors
    /// The first error of any thread; then nothing that was put may be referred to.
    pub fn finish(&mut self) -> Result<Written> {
        let flushed = self
            .flush(PackKind::Tree, &self.open_trees)
            .and_then(|()| self.flush(PackKind::Data, &self.open_data));
        // A thread that failed is why nobody took what was flushed: its error comes first.
        let facts = self.join()?;
        flushed?;
        segments::publish_all(&self.shared, std::mem::take(&mut self.adopted), facts)?;
        segments::remove_damaged(&self.shared, false)?;
        let late = self.shared.index.read().map(|index| index.take_problems()).unwrap_or_default();
        for problem in &late {
            self.shared.damage(problem);
        }
        Ok(self.written())
    }

    /// Publishes a snapshot of chunks that are durable. On return the snapshot is.
    ///
    /// # Errors
    /// Any error of the medium; `Usage` if `finish` has not returned before.
    pub fn publish_snapshot(&self, snapshot: &Snapshot) -> Result<SnapshotId> {
        if self.packer.is_some() {
            return Err(Error::Usage("a snapshot is published after its chunks".into()));
        }
        let unmade = || Error::damaged("a snapshot to be written");
        let keys = &self.shared.keys;
        let bytes = seal_object(Magic::Snapshot, keys, &[], &codec::encode(snapshot)).map_err(unmade())?;
        // [DUR-4], [LIMIT-1]: one that could not be read back, as too long, must not be acknowledged.
        if decode_snapshot(&bytes, keys).map_err(unmade())? != *snapshot {
            return Err(unmade()(Corruption::NotCanonical));
        }
        let id = SnapshotId::from_bytes(id::hash(&bytes));
        let name = format!("snapshots/{id}");
        object::publish(&*self.shared.backend, &self.shared.session, &name, &bytes)?;
        self.shared.published(&name, bytes.len() as u64);
        Ok(id)
    }

    /// What others see of this run.
    pub(super) fn reliance(&self) -> Result<MutexGuard<'_, Reliance>> {
        self.shared.reliance.lock().map_err(|_| Error::Stopped)
    }

    /// Takes the facts about packs out of the index that are gone for good. `is_void` says which marks condemn nothing any more: those of the
    /// run that deleted all it could under them.
    ///
    /// # Errors
    /// `PrunedMeanwhile`: a pack that the same segment names is gone as well, or not listed; any error of the medium.
    pub fn drop_packs(&self, packs: &HashSet<PackId>, is_void: &dyn Fn(&str) -> bool) -> Result<()> {
        segments::drop_packs(&self.shared, packs, is_void)
    }

    /// Brings the index into order where many small segments lie: after the acknowledgement, since nothing waits for it.
    ///
    /// # Errors
    /// Any error of the medium; the snapshot is safe all the same.
    pub fn merge_segments(&self) -> Result<()> {
        segments::remove_superseded(&self.shared)?;
        segments::merge_small(&self.shared)
    }

    fn join(&mut self) -> Result<Facts> {
        self.jobs = None;
        self.ordered = None;
        let mut panicked = false;
        for compressor in self.compressors.drain(..) {
            panicked |= compressor.join().is_err();
        }
        let facts = self.packer.take().map(JoinHandle::join);
        // What follows needs none of the memory of frames.
        self.shared.spare.clear();
        self.shared.compressors.clear();
        match (self.shared.take_failure(), facts) {
            (Some(error), _) => Err(error),
            (None, Some(Ok(facts))) if !panicked => Ok(facts),
            _ => Err(Error::Stopped),
        }
    }

    /// Gives the run up, and returns why it failed if it did: the cause of any [`Error::Stopped`].
    pub fn give_up(&mut self) -> Option<Error> {
        self.join().err()
    }

    /// Takes a chunk that was claimed; `send` gets its frame when that is full.
    fn gather(
        &self,
        open: &mut FrameBuilder,
        chunk: (ChunkKind, ChunkId, &[u8]),
        mut send: impl FnMut(Job) -> Result<()>,
    ) -> Result<()> {
        let (chunk_kind, id, plain) = chunk;
        let kind = PackKind::of(chunk_kind);
        self.shared.added(plain.len() as u64);
        if !open.has_room_for(plain.len()) {
            send(self.job(kind, open)?)?;
        }
        // Only now, so that a thread which compresses its frame itself has its memory back.
        if !open.has_buffer() {
            *open = self.shared.spare.builder();
        }
        open.push(chunk_kind, id, plain);
        let is_full =
            open.chunk_bytes() as u64 >= self.full_len(kind, open.chunk_bytes(), open.chunk_count());
        if is_full { send(self.job(kind, open)?) } else { Ok(()) }
    }

    /// The bytes of chunks at which a frame is closed that has so many now, in so many chunks.
    fn full_len(&self, kind: PackKind, bytes: usize, count: usize) -> u64 {
        let full = match kind {
            PackKind::Tree => TREE_FRAME_LEN,
            PackKind::Data if bytes >= count * LONG_CHUNK_LEN => LONG_CHUNKS_FRAME_LEN,
            PackKind::Data => DATA_FRAME_LEN,
        };
        // Small packs have small frames.
        self.shared.pack_len.min(full as u64)
    }

    /// A frame to be compressed, of what was gathered, and its place among the others.
    fn job(&self, kind: PackKind, open: &mut FrameBuilder) -> Result<Job> {
        // Its place first: who compresses waits for nobody, so the frame comes.
        let place = self.place(kind)?;
        Ok((std::mem::take(open), place))
    }

    /// A place for a frame, behind those of all others.
    fn place(&self, kind: PackKind) -> Result<Sender<ReadyFrame>> {
        let (frame, waiting) = bounded(1);
        match self.ordered.as_ref().map(|ordered| ordered.send((kind, waiting))) {
            Some(Ok(())) => Ok(frame),
            _ => Err(Error::Stopped),
        }
    }

    /// Leaves a frame to the threads that compress.
    fn send(&self, job: Job) -> Result<()> {
        match self.jobs.as_ref().map(|jobs| jobs.send(job)) {
            Some(Ok(())) => Ok(()),
            _ => Err(Error::Stopped),
        }
    }

    /// The same if a core has nothing to do; or else the frame is back.
    fn offer(&self, job: Job) -> Option<Job> {
        if self.shared.working.load(Ordering::Relaxed) >= self.shared.threads {
            return Some(job);
        }
        let Some(jobs) = &self.jobs else { return Some(job) };
        jobs.try_send(job).err().map(TrySendError::into_inner)
    }

    fn flush(&self, kind: PackKind, open: &Mutex<FrameBuilder>) -> Result<()> {
        match open.lock() {
            Ok(open) if open.is_empty() => Ok(()),
            Ok(mut open) => self.send(self.job(kind, &mut open)?),
            Err(_) => Err(Error::Stopped),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A run that is given up: the threads end, and unfinished packs are removed.
        self.shared.fail(Error::Stopped);
        let _ = self.join();
    }
}

impl PutChunk for Writer {
    fn put(&self, kind: ChunkKind, plain: &[u8]) -> Result<ChunkId> {
        let id = self.shared.keys.ids().chunk_id(kind, plain);
        self.put_known(kind, id, plain)?;
        Ok(id)
    }
}

fn notice(observer: &dyn Observer, error: &Error) {
    observer.event(&Event::Notice { path: std::path::Path::new(""), text: &error.to_string() });
}
