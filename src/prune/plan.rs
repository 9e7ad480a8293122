//! What becomes of each pack: it stays, it goes, or what is needed of it is packed anew.

use std::collections::HashSet;
use std::path::Path;

use crate::error::{Error, Result};
use crate::header::array;
use crate::id::{ChunkId, ChunkKind, PackId};
use crate::index::Index;
use crate::pack::Location;
use crate::prune::{Limit, PruneOptions};
use crate::sorted::{Gathered, Sorted};

/// The bytes of a row: pack, frame, chunk, its kind, whether it is needed, its id.
const ROW_LEN: usize = 54;
/// So many rows are held in memory, in a budget of the default size: 27 MiB of them.
const ROWS_AT_ONCE: usize = 1 << 19;

/// A chunk of a pack of which only a part is needed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub id: ChunkId,
    pub place: Location,
    pub is_needed: bool,
}

/// What is to be done.
pub(super) struct Plan {
    /// Packs of which nothing is needed, ascending.
    pub dead: Vec<PackId>,
    /// Packs of which what is needed is packed anew, ascending; and the bytes that this frees.
    pub repacked: Vec<(PackId, u64)>,
    /// Packs that stay and hold something that is needed.
    pub kept: HashSet<PackId>,
    /// Bytes in `kept` and `repacked` packs that nothing needs.
    pub unused: u64,
    /// Bytes of all packs.
    pub total: u64,
    /// Chunks that are needed.
    pub chunks: u64,
    /// A pack that holds what is needed, and that no segment has nor any other pack with it.
    pub unindexed: Option<PackId>,
    parts: Sorted<ROW_LEN>,
    /// The places that stay of chunks that are needed and lie in packs that go as well.
    stand_ins: Sorted<ROW_LEN>,
    numbered: Vec<PackId>,
}

/// How many chunks a pack has.
#[derive(Default, Clone, Copy)]
struct Tally {
    chunks: u32,
    /// Those that are needed, wherever else they lie too.
    wanted: u32,
    /// Those for which this pack stands.
    needed: u32,
}

impl Tally {
    /// Of several packs that hold a chunk, the one of which most is needed stands for it: so that one of which a part was packed anew
    /// before, by a run that was killed then, can go.
    fn share(self) -> u64 {
        u64::from(self.wanted) * 1_000_000 / u64::from(self.chunks.max(1))
    }
}

/// What was counted.
struct Tallied {
    tallies: Vec<Tally>,
    /// That are needed.
    chunks: u64,
    /// Whether each chunk that is needed lies in one place only.
    is_plain: bool,
    unindexed: Option<PackId>,
}

/// What makes a plan.
pub(super) struct Planner<'a> {
    pub index: &'a Index,
    pub needed: &'a Sorted<32>,
    /// Packs that somebody is just writing, or relies on: they stay as they are.
    pub spared: &'a HashSet<PackId>,
    pub options: &'a PruneOptions,
    pub rows_at_once: usize,
    pub scratch: &'a Path,
}

impl Planner<'_> {
    /// # Errors
    /// `ChunkMissing` if something that is needed is nowhere; damage to the index; any error of the medium.
    pub(super) fn plan(&self) -> Result<Plan> {
        let present = self.index.present();
        let mut numbered: Vec<PackId> = present.packs.keys().copied().collect();
        numbered.sort_unstable();
        let number_of = |pack: &PackId| numbered.binary_search(pack).ok();
        let Tallied { mut tallies, chunks, is_plain, unindexed } = self.tally(numbered.len(), number_of)?;
        if is_plain {
            for tally in &mut tallies {
                tally.needed = tally.wanted;
            }
        } else {
            self.count_keepers(&mut tallies, number_of)?;
        }
        let is_part = |number: usize| {
            let pack = numbered.get(number);
            tallies.get(number).zip(pack).is_some_and(|(tally, pack)| {
                let is_partly = tally.needed < tally.chunks || present.condemned.contains(pack);
                tally.needed > 0
                    && is_partly
                    && !self.spared.contains(pack)
                    && !present.damaged.contains(pack)
            })
        };
        let mut parts = Gathered::new(self.scratch, self.rows_at_once);
        self.for_each(|id, places, is_needed| {
            let keeper = if is_needed { self.keeper(places, &tallies, number_of) } else { None };
            for (at, place) in places.iter().enumerate() {
                if let Some(number) = number_of(&place.pack).filter(|number| is_part(*number)) {
                    parts.add(encode(number, id, place, keeper == Some(at)))?;
                }
            }
            Ok(())
        })?;
        let mut plan = Plan {
            dead: Vec::new(),
            repacked: Vec::new(),
            kept: HashSet::new(),
            unused: 0,
            total: present.packs.values().sum(),
            chunks,
            unindexed,
            parts: parts.sort(),
            stand_ins: Gathered::new(self.scratch, 1).sort(),
            numbered: Vec::new(),
        };
        for (pack, tally) in numbered.iter().zip(&tallies) {
            if tally.needed > 0 {
                plan.kept.insert(*pack);
            } else if !self.spared.contains(pack) {
                plan.dead.push(*pack);
            }
        }
        plan.numbered.clone_from(&numbered);
        self.choose(&mut plan)?;
        if !is_plain {
            plan.stand_ins = self.stand_ins(&plan, &tallies, number_of)?;
        }
        Ok(plan)
    }

    /// Counts the chunks of each pack.
    fn tally(&self, packs: usize, number_of: impl Fn(&PackId) -> Option<usize>) -> Result<Tallied> {
        let mut found =
            Tallied { tallies: vec![Tally::default(); packs], chunks: 0, is_plain: true, unindexed: None };
        let is_uncovered = |pack: &PackId| self.index.uncovered_packs().binary_search(pack).is_ok();
        self.for_each(|_, places, is_needed| {
            if is_needed && places.iter().all(|place| is_uncovered(&place.pack)) {
                found.unindexed = found.unindexed.or(places.first().map(|place| place.pack));
            }
            for place in places {
                let tally = number_of(&place.pack).and_then(|number| found.tallies.get_mut(number));
                let Some(tally) = tally else { continue };
                tally.chunks += 1;
                tally.wanted += u32::from(is_needed);
            }
            found.chunks += u64::from(is_needed);
            found.is_plain &= !is_needed || places.len() == 1;
            Ok(())
        })?;
        Ok(found)
    }

    fn stand_ins(
        &self,
        plan: &Plan,
        tallies: &[Tally],
        number_of: impl Fn(&PackId) -> Option<usize> + Copy,
    ) -> Result<Sorted<ROW_LEN>> {
        let goes: HashSet<&PackId> =
            plan.dead.iter().chain(plan.repacked.iter().map(|(pack, _)| pack)).collect();
        let mut found = Gathered::new(self.scratch, self.rows_at_once);
        self.for_each(|id, places, is_needed| {
            let Some(keeper) = self.keeper(places, tallies, number_of).filter(|_| is_needed) else {
                return Ok(());
            };
            let is_other = |at: usize| at != keeper;
            let is_doubled =
                places.iter().enumerate().any(|(at, place)| is_other(at) && goes.contains(&place.pack));
            let place = places.get(keeper).filter(|_| is_doubled);
            match place.and_then(|place| Some((number_of(&place.pack)?, place))) {
                Some((number, place)) => found.add(encode(number, id, place, true)),
                None => Ok(()),
            }
        })?;
        Ok(found.sort())
    }

    /// Chooses which packs to pack anew: those of which most is unused first, until what is left unused is little enough.
    fn choose(&self, plan: &mut Plan) -> Result<()> {
        let present = self.index.present();
        let len = |pack: &PackId| present.packs.get(pack).copied().unwrap_or(0);
        let mut candidates = Vec::new();
        plan.parts_by_pack(|pack, parts| {
            let unused = unused(parts);
            candidates.push((unused * 1000 / len(&pack).max(1), unused, pack));
            Ok(())
        })?;
        plan.unused = candidates.iter().map(|(_, unused, _)| unused).sum();
        candidates.sort_unstable_by(|one, other| other.cmp(one));
        let kept: u64 = plan.kept.iter().map(len).sum();
        let used = kept.saturating_sub(plan.unused);
        let allowed = match self.options.max_unused {
            Limit::Bytes(bytes) => bytes,
            Limit::PerMille(share) => used / 1000 * u64::from(share),
            Limit::Unlimited => u64::MAX,
        };
        let (mut left, mut repacked) = (plan.unused, 0);
        for (_, unused, pack) in candidates {
            let is_condemned = present.condemned.contains(&pack);
            let is_over = self.options.max_repack.is_some_and(|most| repacked + len(&pack) > most);
            if is_condemned || left > allowed && !is_over {
                left -= unused;
                repacked += len(&pack);
                plan.kept.remove(&pack);
                plan.repacked.push((pack, unused));
            }
        }
        plan.repacked.sort_unstable();
        Ok(())
    }

    fn count_keepers(
        &self,
        tallies: &mut [Tally],
        number_of: impl Fn(&PackId) -> Option<usize> + Copy,
    ) -> Result<()> {
        self.for_each(|_, places, is_needed| {
            let keeper = if is_needed { self.keeper(places, tallies, number_of) } else { None };
            let number = keeper.and_then(|at| places.get(at)).and_then(|place| number_of(&place.pack));
            if let Some(tally) = number.and_then(|number| tallies.get_mut(number)) {
                tally.needed += 1;
            }
            Ok(())
        })
    }

    /// Which of the places of a chunk stands for it.
    fn keeper(
        &self,
        places: &[Location],
        tallies: &[Tally],
        number_of: impl Fn(&PackId) -> Option<usize>,
    ) -> Option<usize> {
        let rank = |at: &usize| {
            let pack = places.get(*at).map(|place| place.pack)?;
            let share = number_of(&pack).and_then(|number| tallies.get(number)).map(|tally| tally.share());
            // What no segment covers may be a pack whose name a loss of power takes away again [DUR-11].
            let is_covered = self.index.uncovered_packs().binary_search(&pack).is_err();
            let is_preferred = self.options.preferred.contains(&pack);
            Some((self.index.is_sound_pack(&pack), is_covered, is_preferred, share, pack))
        };
        if places.len() < 2 { Some(0) } else { (0..places.len()).max_by_key(rank) }
    }

    /// Visits all chunks, each with its places, and whether it is needed.
    fn for_each(&self, mut each: impl FnMut(&ChunkId, &[Location], bool) -> Result<()>) -> Result<()> {
        let mut needed = self.needed.rows();
        let mut next = needed.next()?;
        let missing =
            |id: [u8; 32]| Error::ChunkMissing { kind: ChunkKind::Data, id: ChunkId::from_bytes(id) };
        self.index.for_each(|id, places| {
            if let Some(before) = next.filter(|next| next < id.as_bytes()) {
                return Err(missing(before));
            }
            let is_needed = next.as_ref() == Some(id.as_bytes());
            if is_needed {
                next = needed.next()?;
            }
            each(id, places, is_needed)
        })?;
        next.map_or(Ok(()), |id| Err(missing(id)))
    }
}

impl Plan {
    /// Visits the chunks of the packs of which only a part is needed, pack by pack, in the order in which they lie there.
    pub(super) fn parts_by_pack(&self, each: impl FnMut(PackId, &[Part]) -> Result<()>) -> Result<()> {
        self.by_pack(&self.parts, each)
    }

    /// The same of the chunks that stand for others in packs that go.
    pub(super) fn stand_ins_by_pack(&self, each: impl FnMut(PackId, &[Part]) -> Result<()>) -> Result<()> {
        self.by_pack(&self.stand_ins, each)
    }

    fn by_pack(
        &self,
        rows: &Sorted<ROW_LEN>,
        mut each: impl FnMut(PackId, &[Part]) -> Result<()>,
    ) -> Result<()> {
        let mut rows = rows.rows();
        let mut parts: Vec<Part> = Vec::new();
        loop {
            let part = rows.next()?.and_then(|row| decode(&row, &self.numbered));
            let pack = parts.first().map(|part| part.place.pack);
            if let Some(pack) = pack.filter(|pack| part.is_none_or(|part| part.place.pack != *pack)) {
                each(pack, &parts)?;
                parts.clear();
            }
            match part {
                Some(part) => parts.push(part),
                None => return Ok(()),
            }
        }
    }
}

/// The bytes of a pack that nothing needs: of each frame the share of the chunks that are not.
fn unused(parts: &[Part]) -> u64 {
    let frames = parts.chunk_by(|one, other| one.place.frame_offset == other.place.frame_offset);
    frames
        .map(|frame| {
            let stored = frame.first().map_or(0, |part| u64::from(part.place.frame_stored_len));
            let plain: u64 = frame.iter().map(|part| u64::from(part.place.len)).sum();
            let dead: u64 =
                frame.iter().filter(|part| !part.is_needed).map(|part| u64::from(part.place.len)).sum();
            stored * dead / plain.max(1)
        })
        .sum()
}

fn encode(number: usize, id: &ChunkId, place: &Location, is_needed: bool) -> [u8; ROW_LEN] {
    let mut row = [0; ROW_LEN];
    row[0..4].copy_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes());
    row[4..8].copy_from_slice(&place.frame_offset.to_be_bytes());
    row[8..12].copy_from_slice(&place.offset.to_be_bytes());
    row[12..16].copy_from_slice(&place.frame_stored_len.to_be_bytes());
    row[16..20].copy_from_slice(&place.len.to_be_bytes());
    row[20] = place.kind.number();
    row[21] = u8::from(is_needed);
    row[22..54].copy_from_slice(id.as_bytes());
    row
}

fn decode(row: &[u8; ROW_LEN], numbered: &[PackId]) -> Option<Part> {
    let number = |at: usize| u32::from_be_bytes(array(&row[at..]));
    let place = Location {
        pack: *numbered.get(number(0) as usize)?,
        frame_offset: number(4),
        offset: number(8),
        frame_stored_len: number(12),
        len: number(16),
        kind: ChunkKind::from_number(row[20])?,
    };
    Some(Part { id: ChunkId::from_bytes(array(&row[22..])), place, is_needed: row[21] == 1 })
}

/// How many rows are held in memory.
pub(super) fn rows_at_once(budget: crate::budget::Budget) -> usize {
    budget.share(ROWS_AT_ONCE)
}
