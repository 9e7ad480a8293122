//! What restoring asks of a repository, and how a [`Reader`] answers.

use crate::budget::Budget;
use crate::chunk::GetChunk;
use crate::error::Result;
use crate::id::{ChunkId, ChunkKind, IdKeys};
use crate::pack::Location;
use crate::repository::Reader;

/// What restoring asks of a repository: chunks, and where they lie, so that each frame is read once.
pub trait Frames: GetChunk {
    /// Where a data chunk lies.
    ///
    /// # Errors
    /// `ChunkMissing`.
    fn locate(&self, id: &ChunkId) -> Result<Location>;

    /// Reads one frame and hands over those of its chunks that are wanted, by their place in `wanted`, each one verified
    /// against its id.
    ///
    /// # Errors
    /// The damage or error of the frame as a whole; then nothing was handed over.
    fn read_frame(
        &self,
        wanted: &[(ChunkId, Location)],
        take: &mut dyn FnMut(usize, Result<&[u8]>),
    ) -> Result<()>;

    /// The keys that name chunks.
    fn keys(&self) -> &IdKeys;

    /// What restoring may take of memory and threads.
    fn budget(&self) -> Budget {
        Budget::default()
    }
}

impl Frames for Reader {
    fn locate(&self, id: &ChunkId) -> Result<Location> {
        self.locate(ChunkKind::Data, id)
    }

    fn read_frame(
        &self,
        wanted: &[(ChunkId, Location)],
        take: &mut dyn FnMut(usize, Result<&[u8]>),
    ) -> Result<()> {
        let Some((_, location)) = wanted.first() else { return Ok(()) };
        let frame = self.frame(location)?;
        for (index, (id, location)) in wanted.iter().enumerate() {
            take(index, self.chunk(&frame, location, ChunkKind::Data, id));
        }
        Ok(())
    }

    fn keys(&self) -> &IdKeys {
        self.keys().ids()
    }

    fn budget(&self) -> Budget {
        self.budget()
    }
}
