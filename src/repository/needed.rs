//! What the snapshots need: every node and data chunk that can be reached from them. Whatever cannot be read ends it: nothing is known then
//! of what lies below.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::chunk::GetChunk;
use crate::error::{Error, Result};
use crate::id::ChunkKind;
use crate::repository::Repository;
use crate::snapshot::Snapshot;
use crate::snapshot::references::{of_node, of_snapshot};
use crate::sorted::{Gathered, Sorted};

/// So many ids are held in memory, in a budget of the default size: 32 MiB of them.
const IDS_AT_ONCE: usize = 1 << 20;

/// The ids of all chunks that can be reached from snapshots.
pub(crate) struct Needed {
    /// The first half of the id of each node that was read.
    nodes: HashSet<[u8; 16]>,
    ids: Gathered<32>,
}

impl Needed {
    pub(crate) fn new(repository: &Repository, scratch: &Path) -> Self {
        let most = repository.budget().share(IDS_AT_ONCE);
        Self { nodes: HashSet::new(), ids: Gathered::new(scratch, most) }
    }

    /// Adds what a snapshot needs.
    ///
    /// # Errors
    /// `Interrupted`; damage to a node; any error of the medium.
    pub(crate) fn add(&mut self, get: &dyn GetChunk, snapshot: &Snapshot, stop: &AtomicBool) -> Result<()> {
        let mut pending = Vec::new();
        of_snapshot(snapshot, &mut pending);
        while let Some((kind, id, _)) = pending.pop() {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            if kind == ChunkKind::Data {
                self.ids.add(*id.as_bytes())?;
            } else if self.nodes.insert(id.half()) {
                self.ids.add(*id.as_bytes())?;
                of_node(get, kind, &id, &mut pending)?;
            }
        }
        Ok(())
    }

    pub(crate) fn sort(self) -> Sorted<32> {
        self.ids.sort()
    }
}
