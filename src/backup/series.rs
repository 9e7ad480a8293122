//! The snapshots that are there already: which of them this one follows.

use std::collections::HashSet;

use crate::backup::{BackupOptions, host_of, place};
use crate::error::{Corruption, Error, Result};
use crate::event::{Event, Observer};
use crate::id::SnapshotId;
use crate::snapshot::{Snapshot, State};

/// The newest snapshot of the same host, label and places: complete ones only, and none that is forgotten.
pub(super) fn find_predecessor<'a>(
    snapshots: &'a [(SnapshotId, Result<Snapshot>)],
    forgotten: &HashSet<SnapshotId>,
    options: &BackupOptions,
    sources: &[place::Placed],
) -> Option<(&'a SnapshotId, &'a Snapshot)> {
    let host = host_of(options);
    let places: HashSet<&[u8]> = sources.iter().map(|source| source.stored_at.as_slice()).collect();
    snapshots.iter().rev().filter_map(|(id, read)| Some((id, read.as_ref().ok()?))).find(|(id, snapshot)| {
        snapshot.state == State::Complete
            && !forgotten.contains(id)
            && snapshot.host == host
            && snapshot.label == options.label
            && snapshot.sources.len() == places.len()
            && snapshot.sources.iter().all(|source| places.contains(&source.stored_at.0[..]))
    })
}

/// Damaged snapshots stay what they are, and this one is whole without them, but whoever saves shall know.
///
/// # Errors
/// A sealed one in a plain repository: its `config` was exchanged, and what was saved now could be read by whoever did that `[CONF-5]`.
pub(super) fn say_damaged(
    observer: &dyn Observer,
    snapshots: &[(SnapshotId, Result<Snapshot>)],
) -> Result<()> {
    for (_, read) in snapshots {
        match read {
            Err(Error::Damaged { file, source: Corruption::UnexpectedSeal }) => {
                return Err(Error::damaged(file)(Corruption::UnexpectedSeal));
            }
            Err(error) => observer.event(&Event::Damage { error }),
            Ok(_) => {}
        }
    }
    Ok(())
}
