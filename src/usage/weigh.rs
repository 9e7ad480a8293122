//! What the chunks of each row weigh: the index in the order of ids beside what was found in the same order, then frame by frame.

use std::collections::HashMap;

use crate::error::Result;
use crate::header::array;
use crate::id::{ChunkId, PackId};
use crate::pack::Location;
use crate::sorted::{Gathered, Rows, Sorted};
use crate::usage::owners::{ALL, Owners};
use crate::usage::walk::FOUND_LEN;
use crate::usage::{Asking, Held};

/// Pack, frame, chunk, what the row says, whose it is, stored length of the frame, length of the chunk.
const ROW_LEN: usize = 25;
/// So many rows are held in memory, in a budget of the default size: 12 MiB of them.
const ROWS_AT_ONCE: usize = 1 << 19;
/// The row is the chunk itself, of which the owner is what all its owners have in common.
const CHUNK: u8 = 0;
/// The row names one of the owners.
const OWNER: u8 = 1;
/// Nobody needs the chunk.
const NOBODY: u32 = u32::MAX;

/// What all rows weigh.
pub(super) struct Weighed {
    held: Vec<Held>,
    pub(super) shared: Held,
    pub(super) missing: u64,
}

impl Weighed {
    pub(super) fn held(&self, owner: usize) -> Held {
        self.held.get(owner).copied().unwrap_or_default()
    }

    pub(super) fn add_sizes(&mut self, owners: &Owners, sizes: &HashMap<u32, u64>) {
        for (owner, size) in sizes {
            climb(owners, *owner, |owner| {
                if let Some(held) = self.held.get_mut(owner as usize) {
                    held.size = held.size.saturating_add(*size);
                }
                true
            });
        }
    }
}

/// Visits a row and those above it, while `go_on` says so.
fn climb(owners: &Owners, mut owner: u32, mut go_on: impl FnMut(u32) -> bool) {
    while go_on(owner) && owner != ALL {
        owner = owners.above(owner);
    }
}

/// Weighs what was found.
pub(super) fn weigh(asking: &Asking<'_>, owners: &Owners, found: &Sorted<FOUND_LEN>) -> Result<Weighed> {
    let index = asking.reader.index();
    let mut numbered: Vec<PackId> = index.present().packs.keys().copied().collect();
    numbered.sort_unstable();
    let number_of = |place: &Location| numbered.binary_search(&place.pack).ok();
    let mut is_wanted = vec![false; numbered.len()];
    let missing = for_each(asking, found, |_, places, of| {
        let place = keeper(asking, places).filter(|_| !of.is_empty());
        if let Some(wanted) = place.and_then(number_of).and_then(|number| is_wanted.get_mut(number)) {
            *wanted = true;
        }
        Ok(())
    })?;
    // Of these all chunks: what a frame is shared by.
    let most = asking.reader.budget().share(ROWS_AT_ONCE);
    let mut rows = Gathered::new(&asking.scratch, most);
    for_each(asking, found, |_, places, of| {
        let kept = keeper(asking, places).copied();
        for place in places {
            let Some(number) = number_of(place).filter(|number| is_wanted.get(*number) == Some(&true)) else {
                continue;
            };
            let is_kept = kept == Some(*place);
            let common = of.iter().copied().reduce(|one, other| owners.common(one, other));
            let common = common.filter(|_| is_kept).unwrap_or(NOBODY);
            rows.add(encode(number, place, CHUNK, common))?;
            for owner in of.iter().filter(|owner| is_kept && owners.is_chosen(**owner)) {
                rows.add(encode(number, place, OWNER, *owner))?;
            }
        }
        Ok(())
    })?;
    let mut sums = Sums::new(owners);
    let rows = rows.sort();
    let mut rows = rows.rows();
    while let Some(row) = rows.next()? {
        sums.take(&row);
    }
    sums.close();
    Ok(sums.finish(missing))
}

/// Visits all chunks of the index, with who owns them. Returns how many are owned and not there.
fn for_each(
    asking: &Asking<'_>,
    found: &Sorted<FOUND_LEN>,
    mut each: impl FnMut(&ChunkId, &[Location], &[u32]) -> Result<()>,
) -> Result<u64> {
    let mut rows = found.rows();
    let mut next = rows.next()?;
    let mut missing = 0;
    let mut of = Vec::new();
    asking.reader.index().for_each(|id, places| {
        while let Some(before) = next.filter(|row| row[..32] < id.as_bytes()[..]) {
            missing += 1;
            next = skip(&mut rows, &before)?;
        }
        of.clear();
        while let Some(row) = next.filter(|row| row[..32] == id.as_bytes()[..]) {
            of.push(u32::from_be_bytes(array(&row[32..])));
            next = rows.next()?;
        }
        each(id, places, &of)
    })?;
    while let Some(row) = next {
        missing += 1;
        next = skip(&mut rows, &row)?;
    }
    Ok(missing)
}

/// The first row of the chunk after this one.
fn skip(rows: &mut Rows<'_, FOUND_LEN>, row: &[u8; FOUND_LEN]) -> Result<Option<[u8; FOUND_LEN]>> {
    loop {
        match rows.next()? {
            Some(next) if next[..32] == row[..32] => {}
            other => return Ok(other),
        }
    }
}

/// The place that stands for a chunk: pruning keeps that one.
fn keeper<'p>(asking: &Asking<'_>, places: &'p [Location]) -> Option<&'p Location> {
    places.iter().find(|place| asking.reader.index().is_sound_pack(&place.pack)).or(places.first())
}

fn encode(number: usize, place: &Location, says: u8, owner: u32) -> [u8; ROW_LEN] {
    let mut row = [0; ROW_LEN];
    row[0..4].copy_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes());
    row[4..8].copy_from_slice(&place.frame_offset.to_be_bytes());
    row[8..12].copy_from_slice(&place.offset.to_be_bytes());
    row[12] = says;
    row[13..17].copy_from_slice(&owner.to_be_bytes());
    row[17..21].copy_from_slice(&place.frame_stored_len.to_be_bytes());
    row[21..25].copy_from_slice(&place.len.to_be_bytes());
    row
}

/// Sums that are under way.
struct Sums<'a> {
    owners: &'a Owners,
    held: Vec<Held>,
    /// Pack, frame and chunk of the last row.
    at: [u8; 12],
    /// Which chunk it is, from 1, and for each row of the result the last one it was counted for.
    chunk: u64,
    counted: Vec<u64>,
    stored: u64,
    plain: u64,
    /// Plain bytes of the frame by row: of its own or below it, and of that row alone.
    of_frame: HashMap<u32, (u64, u64)>,
}

impl<'a> Sums<'a> {
    fn new(owners: &'a Owners) -> Self {
        Self {
            owners,
            held: vec![Held::default(); owners.len()],
            at: [0; 12],
            chunk: 0,
            counted: vec![0; owners.len()],
            stored: 0,
            plain: 0,
            of_frame: HashMap::new(),
        }
    }

    fn take(&mut self, row: &[u8; ROW_LEN]) {
        let number = |at: usize| u32::from_be_bytes(array(&row[at..]));
        let (owner, len) = (number(13), u64::from(number(21)));
        if row[..8] != self.at[..8] {
            self.close();
        }
        self.at = array(row);
        self.stored = number(17).into();
        if row[12] == CHUNK {
            self.chunk += 1;
            self.plain += len;
            if owner != NOBODY {
                self.of_frame.entry(owner).or_default().1 += len;
            }
            return;
        }
        let Self { owners, counted, of_frame, chunk, .. } = self;
        climb(owners, owner, |owner| {
            let Some(last) = counted.get_mut(owner as usize).filter(|last| **last != *chunk) else {
                return false;
            };
            *last = *chunk;
            of_frame.entry(owner).or_default().0 += len;
            true
        });
    }

    /// The frame is done.
    fn close(&mut self) {
        let share = |bytes: u64| self.stored.saturating_mul(bytes) / self.plain.max(1);
        for (owner, (all, alone)) in &self.of_frame {
            if let Some(held) = self.held.get_mut(*owner as usize) {
                held.plain += all;
                held.stored += share(*all);
                held.unique_plain += alone;
                held.unique += share(*alone);
            }
        }
        self.of_frame.clear();
        self.plain = 0;
    }

    /// What is below a row is its own, too.
    fn finish(mut self, missing: u64) -> Weighed {
        let shared = self.held.first().copied().unwrap_or_default();
        for owner in (1..self.held.len()).rev() {
            let above = self.owners.above(u32::try_from(owner).unwrap_or(ALL)) as usize;
            let Some(Held { unique, unique_plain, .. }) = self.held.get(owner).copied() else { continue };
            if let Some(held) = self.held.get_mut(above) {
                held.unique += unique;
                held.unique_plain += unique_plain;
            }
        }
        Weighed { held: self.held, shared, missing }
    }
}
