//! Records about damaged packs `[REPO-6]`: published where one was found, undone where its bytes are right again, as after a mirror
//! or a later snapshot has put the same pack in its place.

use std::collections::HashSet;

use crate::check::Check;
use crate::error::Result;
use crate::id::PackId;
use crate::pack::pack_file_name;
use crate::repository::{Record, RecordBody, RecordOuter, Scope, record_kind};
use crate::snapshot::Time;

impl Check<'_> {
    /// Brings the records of this copy in line with what was found. One record for each pack, so that each can be undone.
    pub(super) fn mark(&mut self) -> Result<()> {
        let present = self.reader.index().present();
        let to_mark = |pack: &&PackId| present.packs.contains_key(pack) && !present.damaged.contains(pack);
        let packs = sorted(self.undecodable.iter().filter(to_mark));
        if packs.is_empty() && self.healed.is_empty() {
            return Ok(());
        }
        if self.damages.has("copy") {
            self.notice("damaged packs are not recorded: the file that names this copy is damaged".into());
            return Ok(());
        }
        for pack in packs {
            let reason = self.damages.reason(&pack_file_name(&pack));
            self.publish(record_kind::PACK_DAMAGED, vec![*pack.as_bytes()], reason)?;
            self.report.marked.push(pack);
        }
        self.unmark()
    }

    /// Undoes the records that name nothing but packs that are whole.
    fn unmark(&mut self) -> Result<()> {
        if self.healed.is_empty() {
            return Ok(());
        }
        let copy = self.repository.copy().copy;
        let is_healed = |id: &[u8; 32]| self.healed.contains(&PackId::from_bytes(*id));
        let mut records = Vec::new();
        let mut packs = HashSet::new();
        for (id, outer) in self.repository.statements()? {
            let Ok(outer) = outer else { continue };
            if outer.kind == record_kind::PACK_DAMAGED
                && outer.speaks_of(copy)
                && outer.ids.iter().all(is_healed)
            {
                records.push(*id.as_bytes());
                packs.extend(outer.ids.iter().map(|id| PackId::from_bytes(*id)));
            }
        }
        if !records.is_empty() {
            self.publish(record_kind::UNDONE, records, "the packs are whole".into())?;
            self.report.unmarked = sorted(packs.iter());
        }
        Ok(())
    }

    fn publish(&self, kind: u32, ids: Vec<[u8; 32]>, reason: String) -> Result<()> {
        let record = Record {
            outer: RecordOuter {
                kind,
                // Who overlooks it relies on chunks that are gone.
                must_understand: true,
                scope: Scope::Copy(self.repository.copy().copy),
                ids,
            },
            body: RecordBody { created: Time::now(), host: String::new(), reason, fields: Vec::new() },
        };
        self.repository.publish_record(&record)?;
        Ok(())
    }
}

fn sorted<'a>(packs: impl Iterator<Item = &'a PackId>) -> Vec<PackId> {
    let mut packs: Vec<PackId> = packs.copied().collect();
    packs.sort_unstable();
    packs
}
