//! A new `copy` for a repository that has lost its own.

use crate::error::{Error, Result};
use crate::id::{CopyId, PackId, RecordId};
use crate::repository::config::{self, CopyInfo};
use crate::repository::{Record, RecordBody, RecordOuter, Repository, Scope, object, record_kind};
use crate::session::Session;
use crate::snapshot::Time;

/// What this copy is now.
#[derive(Debug)]
pub struct RenewedCopy {
    /// Its new id, and its name.
    pub copy: CopyInfo,
    /// Packs that count as damaged here from now on, because a record says so of some copy: it may have been this one.
    pub doubted: Vec<PackId>,
}

impl Repository {
    /// Gives this copy a new random id if its file `copy` is missing or damaged; nothing if it is whole. What was opened before
    /// still has the old one: open it again.
    ///
    /// Which records spoke of this copy is not known any more. A pack that counts as damaged costs no more than being stored again,
    /// one that wrongly counts as whole costs snapshots: so all such records count `[COPY-1]`. They can be undone, as any.
    ///
    /// # Errors
    /// A feature, or a record about any copy, that forbids writing; any error of the medium.
    pub fn renew_copy(&self, name: &str) -> Result<Option<RenewedCopy>> {
        let mut problems = Vec::new();
        config::read_copy(&*self.backend, self.id(), &mut problems)?;
        if problems.is_empty() {
            return Ok(None);
        }
        let records = self.readable_statements()?;
        let forbids = |(_, outer): &&(RecordId, RecordOuter)| outer.must_understand && !outer.is_known();
        if let Some((id, _)) = records.iter().find(forbids) {
            return Err(Error::UnknownRecord { record: id.to_string() });
        }
        let copy = CopyInfo::new(name);
        self.check_writable(copy.copy)?;
        // What takes away a file may have taken folders.
        config::make_folders(&*self.backend)?;
        let present = self.listed_packs()?;
        let mut doubted = damaged_somewhere(&records);
        doubted.retain(|pack| present.contains_key(pack));
        // Before the id is in use: whoever reads it finds them.
        for pack in &doubted {
            self.publish_record(&statement(copy.copy, *pack))?;
        }
        object::publish(&*self.backend, &Session::begin(), "copy", &copy.encode(self.id()))?;
        Ok(Some(RenewedCopy { copy, doubted }))
    }
}

/// The packs that a record in force calls damaged in a single copy, whichever, ascending.
fn damaged_somewhere(records: &[(RecordId, RecordOuter)]) -> Vec<PackId> {
    let is_undone = |id: &RecordId, copy: CopyId| {
        records.iter().any(|(_, other)| {
            other.kind == record_kind::UNDONE && other.speaks_of(copy) && other.ids.contains(id.as_bytes())
        })
    };
    let mut packs: Vec<PackId> = records
        .iter()
        .filter(|(id, record)| match record.scope {
            Scope::Copy(copy) => record.kind == record_kind::PACK_DAMAGED && !is_undone(id, copy),
            Scope::AllCopies => false,
        })
        .flat_map(|(_, record)| record.ids.iter().map(|id| PackId::from_bytes(*id)))
        .collect();
    packs.sort_unstable();
    packs.dedup();
    packs
}

/// One for each pack, so that each can be undone.
fn statement(copy: CopyId, pack: PackId) -> Record {
    let reason = "a record says so of a copy whose id may have been this one's before".to_owned();
    Record {
        outer: RecordOuter {
            kind: record_kind::PACK_DAMAGED,
            must_understand: true,
            scope: Scope::Copy(copy),
            ids: vec![*pack.as_bytes()],
        },
        body: RecordBody { created: Time::now(), host: String::new(), reason, fields: Vec::new() },
    }
}
