//! The records of a repository: reading them, which are in force, and what these say.
//!
//! One that cannot be read may hold a snapshot, or bring it back. What was damaged when the repository was opened was told then, and whoever
//! deletes something asks for all of them (`prune`, `forget`); anything else goes on without it. One that could be read before, and cannot be
//! now, ends whatever asks: the answer would be another one, and nobody would know `[REC-4]`.

use std::collections::HashSet;

use crate::error::{Corruption, Error, Result};
use crate::id::{self, CopyId, PackId, RecordId, SnapshotId};
use crate::repository::{
    Record, RecordOuter, Repository, clean_up, object, record_kind, sorted, with_reserve,
};
use crate::session::Session;

impl Repository {
    /// The records, in the order of their ids.
    ///
    /// # Errors
    /// Any error of listing; those of single records are in the list.
    pub fn records(&self) -> Result<Vec<(RecordId, Result<Record>)>> {
        let read = |id: &RecordId| {
            let bytes = self.record_bytes(id)?;
            Record::decode(&bytes, &self.keys).map_err(Error::damaged(&record_name(id)))
        };
        Ok(self.record_ids()?.into_iter().map(|id| (id, read(&id))).collect())
    }

    /// What the records say to everybody: all that is needed of them. Where the keys are known, only what was written by someone who
    /// has them.
    pub(crate) fn statements(&self) -> Result<Vec<(RecordId, Result<RecordOuter>)>> {
        let read = |id: RecordId, bytes: Vec<u8>| {
            let outer = if self.keys.is_locked() {
                RecordOuter::decode(&bytes, &self.keys)
            } else {
                Record::decode(&bytes, &self.keys).map(|record| record.outer)
            };
            outer.map_err(Error::damaged(&record_name(&id)))
        };
        Ok(self
            .record_ids()?
            .into_iter()
            .map(|id| (id, self.record_bytes(&id).and_then(|bytes| read(id, bytes))))
            .collect())
    }

    /// The same without those that were damaged when the repository was opened.
    pub(crate) fn readable_statements(&self) -> Result<Vec<(RecordId, RecordOuter)>> {
        let was_told = |id: &RecordId| {
            let name = record_name(id);
            self.problems.iter().any(|problem| problem.file() == Some(&name))
        };
        let mut readable = Vec::new();
        for (id, read) in self.statements()? {
            match read {
                Ok(outer) => readable.push((id, outer)),
                Err(_) if was_told(&id) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(readable)
    }

    pub(crate) fn record_ids(&self) -> Result<Vec<RecordId>> {
        let listed = self.list_or_none("records")?;
        Ok(sorted(listed.iter().filter_map(|listed| RecordId::from_hex(&listed.name))))
    }

    fn record_bytes(&self, id: &RecordId) -> Result<Vec<u8>> {
        self.read_named(&record_name(id), id.as_bytes())
    }

    /// The packs that a record in force calls damaged in this copy.
    pub(crate) fn damaged_packs(&self) -> Result<HashSet<PackId>> {
        let ids = self.stated(record_kind::PACK_DAMAGED, self.copy.copy)?;
        Ok(ids.into_iter().map(PackId::from_bytes).collect())
    }

    /// The snapshots that records in force call forgotten in this copy, unless they are held `[REC-3]`.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn forgotten(&self) -> Result<HashSet<SnapshotId>> {
        // From one listing, so that what is said between two is not half heeded.
        Ok(forgotten_by(&self.all_in_force(self.copy.copy)?))
    }

    /// The same, once the records of another copy are here too.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn forgotten_with(&self, other: &Self) -> Result<HashSet<SnapshotId>> {
        let read = |one: &Self| one.readable_statements().map_err(Error::about(one.backend.place()));
        let all = read(self)?.into_iter().chain(read(other)?);
        Ok(forgotten_by(&in_force_of(all, self.copy.copy)))
    }

    /// The snapshots that records in force hold in this copy.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn held(&self) -> Result<HashSet<SnapshotId>> {
        let held = self.stated(record_kind::HELD, self.copy.copy)?;
        Ok(held.into_iter().map(SnapshotId::from_bytes).collect())
    }

    /// What the records in force of one kind say of a copy.
    pub(crate) fn stated(&self, kind: u32, copy: CopyId) -> Result<HashSet<[u8; 32]>> {
        Ok(self.in_force(kind, copy)?.into_iter().flat_map(|(_, outer)| outer.ids).collect())
    }

    /// The records of one kind that speak of a copy, and that none has undone.
    pub(crate) fn in_force(&self, kind: u32, copy: CopyId) -> Result<Vec<(RecordId, RecordOuter)>> {
        let mut records = self.all_in_force(copy)?;
        records.retain(|(_, outer)| outer.kind == kind);
        Ok(records)
    }

    /// The records that speak of a copy, and that none has undone.
    fn all_in_force(&self, copy: CopyId) -> Result<Vec<(RecordId, RecordOuter)>> {
        Ok(in_force_of(self.readable_statements()?.into_iter(), copy))
    }

    /// Publishes a record.
    ///
    /// # Errors
    /// A feature or record that forbids writing; any error of the medium.
    pub fn publish_record(&self, record: &Record) -> Result<RecordId> {
        self.check_writable(self.copy.copy)?;
        let unmade = Error::damaged("a record to be written");
        // [DUR-4]
        let bytes = record.encode(&self.keys).and_then(|bytes| {
            if Record::decode(&bytes, &self.keys)? == *record {
                Ok(bytes)
            } else {
                Err(Corruption::NotCanonical)
            }
        });
        let bytes = bytes.map_err(unmade)?;
        let id = RecordId::from_bytes(id::hash(&bytes));
        clean_up(&*self.backend)?;
        // On a full disk it is what makes room in the end.
        let session = Session::begin();
        with_reserve(&*self.backend, || {
            object::publish(&*self.backend, &session, &record_name(&id), &bytes)
        })?;
        Ok(id)
    }
}

/// Those of some records that speak of a copy, and that none has undone.
pub(crate) fn in_force_of(
    records: impl Iterator<Item = (RecordId, RecordOuter)>,
    copy: CopyId,
) -> Vec<(RecordId, RecordOuter)> {
    let mut statements: Vec<_> = records.filter(|(_, outer)| outer.speaks_of(copy)).collect();
    let undone: HashSet<[u8; 32]> = statements
        .iter()
        .filter(|(_, outer)| outer.kind == record_kind::UNDONE)
        .flat_map(|(_, outer)| outer.ids.iter().copied())
        .collect();
    statements.retain(|(id, _)| !undone.contains(id.as_bytes()));
    statements
}

/// The snapshots that records in force call forgotten, unless they are held.
pub(crate) fn forgotten_by(records: &[(RecordId, RecordOuter)]) -> HashSet<SnapshotId> {
    let ids_of = |kind| {
        let of_kind = records.iter().filter(move |(_, outer)| outer.kind == kind);
        of_kind.flat_map(|(_, outer)| &outer.ids).copied().collect::<HashSet<_>>()
    };
    let (forgotten, held) = (ids_of(record_kind::FORGOTTEN), ids_of(record_kind::HELD));
    forgotten.difference(&held).copied().map(SnapshotId::from_bytes).collect()
}

fn record_name(id: &RecordId) -> String {
    format!("records/{id}")
}
