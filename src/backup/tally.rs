//! What a run has counted so far.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;
use crate::repository::Written;
use crate::snapshot::counter;

/// So many lines of errors are kept for the notes of a snapshot.
const NOTED_ERRORS: usize = 10_000;

/// Counts of a run.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) files: AtomicU64,
    pub(super) directories: AtomicU64,
    pub(super) others: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) new: AtomicU64,
    pub(super) changed: AtomicU64,
    pub(super) unchanged: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) left_out: AtomicU64,
    pub(super) files_read: AtomicU64,
    pub(super) bytes_read: AtomicU64,
    pub(super) raced: AtomicU64,
    pub(super) noted: Mutex<Vec<String>>,
}

impl Tally {
    pub(super) fn add(counter: &AtomicU64, value: u64) {
        counter.fetch_add(value, Ordering::Relaxed);
    }

    pub(super) fn problem(&self, path: &Path, error: &Error) {
        use std::error::Error as _;
        Self::add(&self.errors, 1);
        let mut text = format!("{}: {error}", path.display());
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        if let Ok(mut noted) = self.noted.lock()
            && noted.len() < NOTED_ERRORS
        {
            noted.push(text.replace('\n', "\\n"));
        }
    }

    pub(super) fn counters(&self, written: Written) -> Vec<(u32, u64)> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        vec![
            (counter::FILES, load(&self.files)),
            (counter::DIRECTORIES, load(&self.directories)),
            (counter::OTHERS, load(&self.others)),
            (counter::BYTES, load(&self.bytes)),
            (counter::FILES_NEW, load(&self.new)),
            (counter::FILES_CHANGED, load(&self.changed)),
            (counter::FILES_UNCHANGED, load(&self.unchanged)),
            (counter::CHUNKS_ADDED, written.chunks),
            (counter::PLAIN_ADDED, written.plain_bytes),
            (counter::STORED_ADDED, written.stored_bytes),
            (counter::ERRORS, load(&self.errors)),
            (counter::LEFT_OUT, load(&self.left_out)),
            (counter::FILES_READ, load(&self.files_read)),
            (counter::BYTES_READ, load(&self.bytes_read)),
            (counter::FILES_RACED, load(&self.raced)),
        ]
    }
}
