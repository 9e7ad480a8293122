//! Whether a snapshot has room for all that is to be said in it `[OBJ-3]` `[SNAP-5]`.

use std::path::Path;

use crate::backup::{BackupOptions, assemble, current_host, described, place, source_record};
use crate::codec;
use crate::error::{Error, Result};
use crate::event::{Event, Observer};
use crate::header::MAX_STRUCTURE_LEN;
use crate::id::SnapshotId;
use crate::repository::{Repository, Writer};
use crate::snapshot::{Snapshot, Time};

/// What a snapshot needs for its counters and the like.
const COUNTERS_LEN: u64 = 512;

/// Refuses sources whose list alone is longer than a snapshot may be: now, and not after all of them were read.
pub(super) fn refuse_too_many(options: &BackupOptions, start: Time, sources: &[place::Placed]) -> Result<()> {
    let origin = current_host();
    let at_least = |placed: &place::Placed| source_record(placed, &origin, &assemble::Numbers::of(placed));
    let list = sources.iter().map(at_least).collect();
    let snapshot = Snapshot { sources: list, ..described(options, start) };
    let len = codec::encode(&snapshot).len() as u64;
    if len + COUNTERS_LEN <= MAX_STRUCTURE_LEN && !snapshot.lists_too_much() {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "a snapshot has no room for the paths of {} sources, which take {} MiB: name the folders that they are in, and \
         leave out the rest with rules; or save them in several snapshots, each with a label of its own",
        sources.len(),
        len.div_ceil(1 << 20),
    )))
}

/// Publishes a snapshot; without the names of owners, which are known only now, if it has no room for them.
pub(super) fn publish(
    repository: &Repository,
    writer: &Writer,
    snapshot: &mut Snapshot,
    observer: &dyn Observer,
) -> Result<SnapshotId> {
    let len = |snapshot: &Snapshot| codec::encode(snapshot).len() as u64;
    let is_too_long = |snapshot: &Snapshot| snapshot.lists_too_much() || len(snapshot) > MAX_STRUCTURE_LEN;
    if is_too_long(snapshot) {
        for source in &mut snapshot.sources {
            (source.users, source.groups) = (Vec::new(), Vec::new());
        }
        let text =
            "owners and groups are saved by their numbers alone: the snapshot has no room for so many names";
        observer.event(&Event::Notice { path: Path::new(""), text });
    }
    if is_too_long(snapshot) {
        let what = "what a snapshot says of its sources".into();
        return Err(Error::TooLong { what, len: len(snapshot), most: MAX_STRUCTURE_LEN });
    }
    repository.publish_snapshot(writer, snapshot)
}
