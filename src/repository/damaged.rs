//! Records about damaged packs `[REPO-6]`: published where one was found, undone where its bytes are right again, as after a mirror,
//! healing or a later snapshot has put the same pack in its place.

use std::collections::HashSet;

use crate::error::Result;
use crate::id::{PackId, RecordId};
use crate::repository::{Record, RecordBody, RecordOuter, Repository, Scope, record_kind, sorted};
use crate::snapshot::Time;

impl Repository {
    /// Records that a pack is damaged in this copy: one record for each pack, so that each can be undone.
    ///
    /// # Errors
    /// What forbids writing; any error of the medium.
    pub fn mark_damaged(&self, pack: PackId, reason: String) -> Result<RecordId> {
        self.say_of_packs(record_kind::PACK_DAMAGED, vec![*pack.as_bytes()], reason)
    }

    /// Undoes the records about this copy that name nothing but packs that are whole. Returns which these were, ascending.
    ///
    /// # Errors
    /// What forbids writing; any error of the medium.
    pub(crate) fn unmark_damaged(&self, whole: &HashSet<PackId>) -> Result<Vec<PackId>> {
        if whole.is_empty() {
            return Ok(Vec::new());
        }
        let mut records = Vec::new();
        let mut packs = HashSet::new();
        for (id, outer) in self.in_force(record_kind::PACK_DAMAGED, self.copy.copy)? {
            if outer.ids.iter().all(|id| whole.contains(&PackId::from_bytes(*id))) {
                records.push(*id.as_bytes());
                packs.extend(outer.ids.iter().map(|id| PackId::from_bytes(*id)));
            }
        }
        if !records.is_empty() {
            self.say_of_packs(record_kind::UNDONE, records, "the packs are whole".into())?;
        }
        Ok(sorted(packs.into_iter()))
    }

    fn say_of_packs(&self, kind: u32, ids: Vec<[u8; 32]>, reason: String) -> Result<RecordId> {
        self.publish_record(&Record {
            outer: RecordOuter {
                kind,
                // Who overlooks it relies on chunks that are gone.
                must_understand: true,
                scope: Scope::Copy(self.copy.copy),
                ids,
            },
            body: RecordBody { created: Time::now(), host: String::new(), reason, fields: Vec::new() },
        })
    }
}
