//! What comes from other packs, and whose ids are known.

use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind};
use crate::pack::{NamedFrame, PackKind, ReadyFrame};
use crate::repository::writer::{Writer, dedup};

impl Writer {
    /// Stores a chunk of this id unless it is stored already. With another id than its own it fails the run before it is written `[DUR-4]`.
    ///
    /// # Errors
    /// Any error of the repository.
    pub fn put_known(&self, kind: ChunkKind, id: ChunkId, plain: &[u8]) -> Result<()> {
        if dedup::claim(&self.shared, kind, id)? { self.put_claimed(kind, id, plain) } else { Ok(()) }
    }

    fn put_claimed(&self, kind: ChunkKind, id: ChunkId, plain: &[u8]) -> Result<()> {
        let open = if PackKind::of(kind) == PackKind::Tree { &self.open_trees } else { &self.open_data };
        let mut open = open.lock().map_err(|_| Error::Stopped)?;
        self.gather(&mut open, (kind, id, plain), |job| self.send(job))
    }

    /// Stores the chunks of a frame: as they are compressed already, where all of them are new and the frame is not so short that it would
    /// better be put together with others.
    ///
    /// # Errors
    /// Any error of the repository.
    pub fn put_frame(&self, frame: NamedFrame) -> Result<()> {
        let mut new = Vec::new();
        for (id, chunk) in frame.chunks() {
            if dedup::claim(&self.shared, chunk.kind, *id)? {
                new.push((*id, *chunk));
            }
        }
        let bytes: usize = new.iter().map(|(_, chunk)| chunk.len as usize).sum();
        let kind = new.first().map_or(PackKind::Data, |(_, chunk)| PackKind::of(chunk.kind));
        let is_long = bytes as u64 >= self.full_len(kind, bytes, new.len()) / 2;
        if new.len() == frame.chunks().len() && is_long {
            return self.put_ready(kind, frame.into_ready());
        }
        for (id, chunk) in new {
            self.put_claimed(chunk.kind, id, frame.bytes(&chunk).unwrap_or_default())?;
        }
        Ok(())
    }

    fn put_ready(&self, kind: PackKind, frame: ReadyFrame) -> Result<()> {
        for chunk in frame.chunk_lens() {
            self.shared.added(chunk.into());
        }
        self.place(kind)?.send(frame).map_err(|_| Error::Stopped)
    }
}
