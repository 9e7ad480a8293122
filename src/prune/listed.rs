//! Which snapshots are wanted, and which are not any more.

use std::collections::HashSet;

use crate::error::Result;
use crate::id::SnapshotId;
use crate::repository::{Repository, record_kind};
use crate::snapshot::{Snapshot, Time};

/// The snapshots that are listed.
pub(super) struct Listed {
    /// Those that are wanted.
    pub wanted: Vec<(SnapshotId, Snapshot)>,
    /// Those that are forgotten.
    pub forgotten: Vec<SnapshotId>,
}

impl Listed {
    /// Reads records and then snapshots: one that is brought back after this is verified by who brings it back. What was forgotten since some
    /// time is wanted still.
    ///
    /// # Errors
    /// Damage to a record, which may hold one or bring it back, or to a snapshot that is not forgotten; any error of the medium.
    pub(super) fn read(repository: &Repository, since: Time) -> Result<Self> {
        let mut late = HashSet::new();
        for (_, read) in repository.records()? {
            let record = read?;
            if record.outer.kind == record_kind::FORGOTTEN && record.body.created > since {
                late.extend(record.outer.ids);
            }
        }
        let forgotten = repository.forgotten()?;
        let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
        for (id, read) in repository.snapshots()? {
            if forgotten.contains(&id) && !late.contains(id.as_bytes()) {
                unwanted.push(id);
            } else {
                wanted.push((id, read?));
            }
        }
        Ok(Self { wanted, forgotten: unwanted })
    }
}
