//! The data chunks of one thread, gathered into frames.

use crate::error::Result;
use crate::id::{ChunkId, ChunkKind};
use crate::pack::{FrameBuilder, MAX_CHUNK_LEN, PackKind};
use crate::repository::writer::{Job, Writer, compress, dedup};

/// Gathers the data chunks of one thread.
pub struct DataBatch<'a> {
    pub(super) writer: &'a Writer,
    pub(super) open: FrameBuilder,
    pub(super) added: u64,
}

impl DataBatch<'_> {
    /// Stores a data chunk unless it is stored already.
    ///
    /// # Errors
    /// Any error of the repository.
    pub fn put(&mut self, plain: &[u8]) -> Result<ChunkId> {
        debug_assert!(plain.len() <= MAX_CHUNK_LEN);
        let id = self.writer.shared.keys.ids().chunk_id(ChunkKind::Data, plain);
        if dedup::claim(&self.writer.shared, ChunkKind::Data, id)? {
            self.added += 1;
            let writer = self.writer;
            writer.gather(&mut self.open, (ChunkKind::Data, id, plain), |job| send(writer, job))?;
        }
        Ok(id)
    }

    /// How many of the chunks put here were new.
    #[must_use]
    pub fn added(&self) -> u64 {
        self.added
    }

    /// Sends what is gathered on. Must be called at the end.
    ///
    /// # Errors
    /// Any error of the repository.
    pub fn flush(&mut self) -> Result<()> {
        if self.open.is_empty() {
            return Ok(());
        }
        send(self.writer, self.writer.job(PackKind::Data, &mut self.open)?)
    }
}

/// Has a frame compressed by another thread if a core is free for it, and else here: what was just gathered is in the cache of this core.
fn send(writer: &Writer, job: Job) -> Result<()> {
    match writer.offer(job) {
        None => Ok(()),
        Some(job) => compress::compress(&writer.shared, job),
    }
}
