//! Records about damaged packs `[REPO-6]`, brought in line with what was found.

use crate::check::Check;
use crate::error::Result;
use crate::id::PackId;
use crate::pack::pack_file_name;

impl Check<'_> {
    /// Brings the records of this copy in line with what was found.
    pub(super) fn mark(&mut self) -> Result<()> {
        let present = self.reader.index().present();
        let to_mark = |pack: &&PackId| present.packs.contains_key(pack) && !present.damaged.contains(pack);
        let mut packs: Vec<PackId> = self.undecodable.iter().filter(to_mark).copied().collect();
        packs.sort_unstable();
        if packs.is_empty() && self.healed.is_empty() {
            return Ok(());
        }
        if self.damages.has("copy") {
            self.notice("damaged packs are not recorded: the file that names this copy is damaged".into());
            return Ok(());
        }
        for pack in packs {
            let reason = self.damages.reason(&pack_file_name(&pack));
            self.repository.mark_damaged(pack, reason)?;
            self.report.marked.push(pack);
        }
        self.report.unmarked = self.repository.unmark_damaged(&self.healed)?;
        Ok(())
    }
}
