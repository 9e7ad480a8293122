//! What a snapshot says of its making, and its notes: the same whoever makes it.

use std::collections::HashSet;
use std::hash::BuildHasher;

use crate::chunk::PutChunk;
use crate::codec::Bytes;
use crate::error::{Corruption, Result};
use crate::field;
use crate::header::array;
use crate::id::{ChunkKind, RepositoryId, SnapshotId, hash};
use crate::snapshot::list::ListWriter;
use crate::snapshot::{Entry, Field, Kind, Meta, Piece, SNAPSHOT_SEEN, Snapshot, Source, counter};

/// The most sources of a snapshot `[SNAP-5]`.
pub const MAX_SOURCES: usize = 65536;
/// The most elements that the other lists of a snapshot may have together `[SNAP-5]`.
pub const MAX_LISTED: usize = 262_144;

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

/// The tag of the field that says which snapshot, of which repository, this one is a copy of.
const COPIED_FROM: u32 = 2;
const COPIED_FROM_LEN: usize = RepositoryId::LEN + SnapshotId::LEN;

impl Snapshot {
    /// Whether its lists are longer than they may be `[SNAP-5]`.
    #[must_use]
    pub fn lists_too_much(&self) -> bool {
        let of_source = |source: &Source| source.carried.len() + source.users.len() + source.groups.len();
        let listed = self.sources.iter().map(of_source).sum::<usize>()
            + self.root.meta.xattrs.len()
            + self.root.fields.len()
            + self.tags.len()
            + self.made_from.len()
            + self.counters.len()
            + self.fields.len();
        self.sources.len() > MAX_SOURCES || listed > MAX_LISTED
    }
}

/// Checks the fields of a snapshot `[SNAP-4]`.
///
/// # Errors
/// Names the rule.
pub fn validate_fields(fields: &[Field]) -> Result<(), Corruption> {
    field::validate_fields(fields, &[SNAPSHOT_SEEN, COPIED_FROM])?;
    let is_wrong = |field: &Field| field.tag == COPIED_FROM && field.value.len() != COPIED_FROM_LEN;
    if fields.iter().any(is_wrong) {
        return Err(Corruption::rule("SNAP-4", "what it is a copy of has not the length of two ids"));
    }
    Ok(())
}

/// Which snapshot of which repository this one is: that of which it is a copy, or itself, in the repository where it lies.
#[must_use]
pub fn origin(repository: RepositoryId, id: SnapshotId, snapshot: &Snapshot) -> (RepositoryId, SnapshotId) {
    let field = snapshot.fields.iter().find(|field| field.tag == COPIED_FROM);
    let value = field.filter(|field| field.value.len() == COPIED_FROM_LEN).map(|field| &field.value);
    value.map_or((repository, id), |value| {
        (
            RepositoryId::from_bytes(array(value)),
            SnapshotId::from_bytes(array(value.get(RepositoryId::LEN..).unwrap_or_default())),
        )
    })
}

/// Says which snapshot of which repository one is a copy of.
#[must_use]
pub fn copied_from((repository, id): (RepositoryId, SnapshotId)) -> Field {
    let value = [&repository.as_bytes()[..], id.as_bytes()].concat();
    Field { tag: COPIED_FROM, critical: false, value: value.into() }
}

/// The fields of a snapshot that was made from another one: without those that speak of its making, and with these.
#[must_use]
pub fn lasting_fields(old: &Snapshot, new: Vec<Field>) -> Vec<Field> {
    let mut fields = old.fields.clone();
    // A signature is one over the old one.
    fields.retain(|field| {
        field.tag != SNAPSHOT_SEEN && field.tag != u32::MAX && !new.iter().any(|new| new.tag == field.tag)
    });
    fields.extend(new);
    fields.sort_by_key(|field| field.tag);
    fields
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snap_4_what_a_copy_was_made_from_has_the_length_of_its_ids() {
        let whole = copied_from((RepositoryId::from_bytes([1; 16]), SnapshotId::from_bytes([2; 32])));
        assert_eq!(validate_fields(std::slice::from_ref(&whole)), Ok(()));
        for len in [0, 47, 49] {
            let mut bytes = whole.value.0.clone();
            bytes.resize(len, 0);
            let error = validate_fields(&[Field { value: bytes.into(), ..whole.clone() }]);
            assert!(error.is_err_and(|error| error.to_string().contains("SNAP-4")), "{len}");
        }
    }
}
