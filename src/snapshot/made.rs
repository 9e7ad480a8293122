//! What a snapshot says of its making, and its notes: the same whoever makes it.

use std::collections::HashSet;
use std::hash::BuildHasher;

use crate::chunk::PutChunk;
use crate::codec::Bytes;
use crate::error::Result;
use crate::id::{ChunkKind, SnapshotId, hash};
use crate::snapshot::list::ListWriter;
use crate::snapshot::{Entry, Field, Kind, Meta, Piece, SNAPSHOT_SEEN, Snapshot, counter};

/// The notes are cut into chunks of this length.
const NOTE_CHUNK_LEN: usize = 256 << 10;
/// What still holds of a snapshot that was made from another one: what is in it, and what it lacks.
const LASTING: [u32; 7] = [
    counter::FILES,
    counter::DIRECTORIES,
    counter::OTHERS,
    counter::BYTES,
    counter::ERRORS,
    counter::LEFT_OUT,
    counter::FILES_RACED,
];

/// This program and its version, as snapshots note them.
pub const PROGRAM: &str = concat!("vault ", env!("CARGO_PKG_VERSION"));
/// The note about what could not be read.
pub const ERRORS_NOTE: &[u8] = b"errors";
/// The note about what the user asked to leave out.
pub const RULES_NOTE: &[u8] = b"rules";

/// The set of snapshots that a run saw, so that it can be told later when one of them is missing.
#[must_use]
pub fn seen<S: BuildHasher>(listed: &HashSet<SnapshotId, S>) -> Field {
    let mut ids: Vec<[u8; 32]> = listed.iter().map(|id| *id.as_bytes()).collect();
    ids.sort_unstable();
    let value = Bytes(hash(ids.as_flattened()).to_vec());
    Field { tag: SNAPSHOT_SEEN, critical: false, value }
}

/// Writes a note.
///
/// # Errors
/// Any error of the repository.
pub fn note(put: &dyn PutChunk, name: &[u8], text: &[u8]) -> Result<Entry> {
    let mut list = ListWriter::new(put);
    for chunk in text.chunks(NOTE_CHUNK_LEN) {
        let id = put.put(ChunkKind::Data, chunk)?;
        list.push(Piece::Data(id, u32::try_from(chunk.len()).unwrap_or(u32::MAX)))?;
    }
    Ok(Entry {
        name: name.into(),
        kind: Kind::File(text.len() as u64, list.finish()?),
        meta: Meta { mode: 0o600, ..Meta::default() },
        fields: Vec::new(),
    })
}

/// The counters that a snapshot has which was made from this one: not what was new in it or was read for it.
#[must_use]
pub fn lasting_counters(snapshot: &Snapshot) -> Vec<(u32, u64)> {
    snapshot.counters.iter().copied().filter(|(tag, _)| LASTING.contains(tag)).collect()
}
