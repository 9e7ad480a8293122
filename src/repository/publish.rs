//! Publishing a snapshot while others may be pruning: `spec/concurrency.md`.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::id::{PackId, SnapshotId};
use crate::pack::pack_file_name;
use crate::repository::{Repository, Writer};
use crate::snapshot::Snapshot;

/// So often something is tried while somebody prunes.
pub(crate) const PRUNE_TRIES: usize = 5;

impl Repository {
    /// Publishes a snapshot of chunks that are durable. On return the snapshot is, and nobody deletes what it needs `[PRUNE-2]`.
    ///
    /// # Errors
    /// `PrunedMeanwhile`: nothing was published, and what is missing is stored by another try; `Usage` before the writer has finished; any
    /// error of the medium.
    pub fn publish_snapshot(&self, writer: &Writer, snapshot: &Snapshot) -> Result<SnapshotId> {
        let used = writer.used_packs();
        let mut presence = writer.presence.lock().map_err(|_| Error::Stopped)?;
        let presence = presence.as_mut().ok_or(Error::Stopped)?;
        presence.rely(&used)?;
        self.check_reliance(&used)?;
        let id = writer.publish_snapshot(snapshot)?;
        // Somebody has declared this run ended, so that nobody heeds it any more.
        if !presence.is_heard()?
            && let Err(error) = self.check_reliance(&used)
        {
            let name = format!("snapshots/{id}");
            self.backend.remove(&name).map_err(Error::repository("remove", &name))?;
            return Err(error);
        }
        Ok(id)
    }

    /// Whether these packs are here and not condemned: marks are listed first, then packs.
    ///
    /// # Errors
    /// `PrunedMeanwhile`; any error of the medium.
    pub(crate) fn check_reliance(&self, used: &[PackId]) -> Result<()> {
        let condemned = self.condemned()?;
        let prefixes: HashSet<u8> = used.iter().map(|pack| pack.as_bytes()[0]).collect();
        let listed = self.list_packs(|prefix| prefixes.contains(&prefix))?;
        let is_lost = |pack: &&PackId| !listed.contains_key(pack) || condemned.contains(pack);
        match used.iter().find(is_lost) {
            Some(pack) => Err(Error::PrunedMeanwhile { pack: pack_file_name(pack) }),
            None => Ok(()),
        }
    }
}
