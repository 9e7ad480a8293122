//! Which snapshots are wanted, and which are not any more.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::id::SnapshotId;
use crate::repository::{Lacking, Record, Repository, forgotten_by, in_force_of, record_kind};
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
        // Each is read once: one that cannot be read the second time may be what holds a snapshot.
        let (mut late, mut outers) = (HashSet::new(), Vec::new());
        for (id, read) in repository.records()? {
            let Record { outer, body } = read?;
            if outer.kind == record_kind::FORGOTTEN && body.created > since {
                late.extend(outer.ids.iter().copied());
            }
            outers.push((id, outer));
        }
        let forgotten = forgotten_by(&in_force_of(outers.into_iter(), repository.copy().copy));
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

    /// Whether no snapshot is missed, nor a record that may bring one back `[PRUNE-9]`: nobody forgot it, so it was lost, or the listing is short.
    ///
    /// # Errors
    /// `SnapshotGone`; `Usage` for a record; any error of reading records.
    pub(super) fn if_complete(&self, repository: &Repository, lacking: &Lacking) -> Result<()> {
        // After the listing: who has forgotten one meanwhile said so before it was deleted.
        let forgotten = repository.stated(record_kind::FORGOTTEN, repository.copy().copy)?;
        let here: HashSet<SnapshotId> =
            self.wanted.iter().map(|(id, _)| *id).chain(self.forgotten.iter().copied()).collect();
        let followed = self.wanted.iter().filter_map(|(_, snapshot)| snapshot.predecessor);
        let mut expected = lacking.gone.iter().map(|seen| seen.id).chain(followed);
        let is_missed = |id: &SnapshotId| {
            !here.contains(id) && !forgotten.contains(id.as_bytes()) && !lacking.accepted.contains(id)
        };
        if let Some(snapshot) = expected.find(is_missed) {
            return Err(Error::SnapshotGone { snapshot });
        }
        match lacking.records.first() {
            Some(record) => Err(Error::Usage(format!(
                "the record {record} was here and is gone: it may have held or brought back what seems to be forgotten. `vault heal --from` takes it \
                 from another copy; if it is not to come back, `vault check --accept-loss` expects it no longer"
            ))),
            None => Ok(()),
        }
    }
}
