//! The threads that compress and verify frames, and the memory that frames are gathered in.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::error::{Error, FrameError, Result};
use crate::pack::{Compression, Compressor, FrameBuilder};
use crate::repository::Repository;
use crate::repository::writer::{DATA_FRAME_LEN, Job, Shared};

/// What a reading and a compressing thread take together, with their frames, up to level 3 …
const THREAD_BYTES: usize = 20 << 20;
/// … and how much more from this level on: zstd's tables.
const MORE_BYTES: [(i32, usize); 5] =
    [(17, 78 << 20), (13, 60 << 20), (10, 38 << 20), (6, 12 << 20), (4, 5 << 20)];

/// The memory of frames that are done: to get it from the system anew costs a page fault for every 4 KiB.
pub(super) struct Spare {
    buffers: Mutex<Vec<Vec<u8>>>,
    most: usize,
}

impl Spare {
    /// One that keeps at most so many buffers.
    pub(super) fn new(most: usize) -> Self {
        Self { buffers: Mutex::default(), most }
    }

    /// A frame to be gathered.
    pub(super) fn builder(&self) -> FrameBuilder {
        let spare = self.buffers.lock().ok().and_then(|mut spare| spare.pop());
        FrameBuilder::with_buffer(spare.unwrap_or_default())
    }

    /// Gives all of it back to the system.
    pub(super) fn clear(&self) {
        if let Ok(mut buffers) = self.buffers.lock() {
            *buffers = Vec::new();
        }
    }

    /// Keeps the memory of a frame that is done, unless it is too small for the next one.
    pub(super) fn take_back(&self, buffer: Vec<u8>) {
        if let Ok(mut spare) = self.buffers.lock()
            && buffer.capacity() >= DATA_FRAME_LEN
            && spare.len() < self.most
        {
            spare.push(buffer);
        }
    }
}

/// A thread counts as one that keeps a core busy while this lives: it cuts, hashes or compresses, and does not wait for a file.
pub struct Working<'a>(&'a AtomicUsize);

impl<'a> Working<'a> {
    pub(super) fn begin(shared: &'a Shared) -> Self {
        shared.working.fetch_add(1, Ordering::Relaxed);
        Self(&shared.working)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many threads read, and as many compress: as the budget has room for.
///
/// # Errors
/// `Usage` if there is none for a single one.
pub(super) fn threads(repository: &Repository, compression: Compression) -> Result<usize> {
    let (level, more) = match compression {
        Compression::Off => (0, 0),
        Compression::Level(level) => {
            (level, MORE_BYTES.iter().find(|(from, _)| level >= *from).map_or(0, |(_, bytes)| *bytes))
        }
    };
    // A reader's buffer has room for three of the longest chunks, its open frame for one too many.
    let buffers = repository.config().chunker.max_len as usize * 4;
    let bytes = THREAD_BYTES + more + buffers;
    repository.budget().check_room(bytes, &format!("compressing at level {level}"))?;
    Ok(repository.budget().threads(bytes))
}

/// The compressors, which have most of a thread's memory: no more than so many, each made when it is first needed.
pub(super) struct Compressors {
    idle: Receiver<Option<Compressor>>,
    back: Sender<Option<Compressor>>,
}

impl Compressors {
    pub(super) fn new(most: usize) -> Self {
        let (back, idle) = bounded(most);
        for _ in 0..most {
            let _ = back.send(None);
        }
        Self { idle, back }
    }

    /// Gives the memory of the idle ones back to the system.
    pub(super) fn clear(&self) {
        for _ in self.idle.try_iter().collect::<Vec<_>>() {
            let _ = self.back.send(None);
        }
    }

    /// Has work done with one of them, as soon as one is idle. Who has one waits for nobody.
    fn with<T>(
        &self,
        shared: &Shared,
        work: impl FnOnce(&mut Compressor) -> Result<T, FrameError>,
    ) -> Result<T, FrameError> {
        let mut lent = Lent { compressor: self.idle.recv().ok().flatten(), back: &self.back };
        match &mut lent.compressor {
            Some(compressor) => work(compressor),
            none => work(none.insert(Compressor::new(shared.compression, shared.keys.ids().clone())?)),
        }
    }
}

/// A compressor at work. It goes back even if the work panics: others may wait for it.
struct Lent<'a> {
    compressor: Option<Compressor>,
    back: &'a Sender<Option<Compressor>>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let _ = self.back.send(self.compressor.take());
    }
}

/// Compresses what was gathered, and sends the frame to its place.
///
/// # Errors
/// `Stopped`: why is kept as the failure of the run.
pub(super) fn compress(shared: &Shared, (mut builder, waiting): Job) -> Result<()> {
    match shared.compressors.with(shared, |compressor| compressor.compress(&mut builder)) {
        Ok(frame) => {
            shared.spare.take_back(builder.into_buffer());
            waiting.send(frame).map_err(|_| Error::Stopped)
        }
        Err(source) => {
            // Before its place is given up, so that this is the first failure.
            shared.fail(Error::Frame { source });
            Err(Error::Stopped)
        }
    }
}

/// A compressing thread.
pub(super) fn run(shared: &Shared, jobs: &Receiver<Job>) {
    for job in jobs {
        let working = Working::begin(shared);
        let compressed = compress(shared, job);
        drop(working);
        if compressed.is_err() {
            return;
        }
    }
}
