//! Adopting packs that no segment names: what an interrupted run left, what another run has just published, and what a damaged
//! segment covered. Each is hashed whole and made durable before its chunks count as present `[DUR-11]`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backend::Backend;
use crate::error::{Corruption, Error, Result};
use crate::event::{Event, Observer};
use crate::id::PackId;
use crate::index::{Facts, Index};
use crate::pack::{PackFile, pack_file_name};
use crate::repository::writer::damage::Said;
use crate::seal::Keys;

/// What adopting needs at hand.
pub(super) struct Adopting<'a> {
    pub backend: &'a dyn Backend,
    pub observer: &'a dyn Observer,
    pub said: &'a Said,
    pub stop: &'a AtomicBool,
}

impl Adopting<'_> {
    /// Adopts all of them and returns their facts: those of a damaged segment apart, so that it is written again in its place. Damaged
    /// packs are said, and do not count as present from now on.
    ///
    /// # Errors
    /// `Interrupted`: nothing has changed then. Any error of the medium.
    pub(super) fn adopt(&self, index: &mut Index, keys: &Keys) -> Result<Vec<Facts>> {
        let is_condemned = |pack: &PackId| index.present().condemned.contains(pack);
        let packs: Vec<PackId> =
            index.uncovered_packs().iter().filter(|pack| !is_condemned(pack)).copied().collect();
        if packs.is_empty() {
            return Ok(Vec::new());
        }
        let groups = index.packs_set_aside();
        let group_of: HashMap<PackId, usize> = (1..)
            .zip(groups)
            .flat_map(|(number, packs)| packs.iter().map(move |pack| (*pack, number)))
            .collect();
        let mut facts = BTreeMap::<usize, Facts>::new();
        let mut adopted = 0;
        let bytes = packs.iter().filter_map(|pack| index.present().packs.get(pack)).sum();
        self.observer.event(&Event::Phase("adopting packs"));
        self.observer.event(&Event::Planned { items: packs.len() as u64, bytes });
        for pack in packs {
            let name = pack_file_name(&pack);
            let group = facts.entry(group_of.get(&pack).copied().unwrap_or(0)).or_default();
            match self.adopt_one(keys, pack, group) {
                Ok(()) => {
                    self.backend.sync(&name).map_err(Error::repository("sync", &name))?;
                    adopted += 1;
                }
                Err(error) if error.is_damage() => {
                    self.said.damage(self.observer, &error);
                    index.drop_pack(&pack);
                }
                Err(error) => return Err(error),
            }
        }
        if adopted > 0 {
            let text = format!(
                "packs in no whole segment of the index, as after an interrupted run, were read and are used: {adopted}"
            );
            self.observer.event(&Event::Notice { path: Path::new(""), text: &text });
        }
        Ok(facts.into_values().collect())
    }

    fn adopt_one(&self, keys: &Keys, pack: PackId, facts: &mut Facts) -> Result<()> {
        self.go_on()?;
        let file = PackFile::open(self.backend, pack, keys)?;
        let hash = file.hash(|piece| {
            self.observer.event(&Event::Advanced { bytes: piece.len() as u64 });
            self.go_on()
        })?;
        if hash != pack {
            return Err(Error::damaged(&pack_file_name(&pack))(Corruption::WrongHash));
        }
        let directory = file.directory()?;
        facts.add_pack(pack, file.len(), file.kind(), directory.placed(pack));
        Ok(())
    }

    fn go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}
