//! The chunks that snapshots need and that are in no pack here that can be relied on, by where they can be had, so that each frame is read
//! once. Of forgotten snapshots nothing is needed.

use std::collections::HashSet;

use crate::chunk::GetChunk;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::heal::{Run, pruned};
use crate::id::{ChunkId, ChunkKind, PackId, SnapshotId};
use crate::index::is_vanished;
use crate::pack::Location;
use crate::repository::Reader;
use crate::snapshot::Snapshot;
use crate::snapshot::references::{Reference, of_node, of_snapshot};
use crate::sorted::{Gathered, Rows, Sorted};
use crate::transfer::{FileId, Folder};

/// So many rows are held in memory, in a budget of the default size: 20 MiB of them.
const ROWS_AT_ONCE: usize = 1 << 18;
/// So many references to data chunks are gathered, then sorted and asked for: 36 MiB.
const DATA_AT_ONCE: usize = 1 << 20;
/// Side, pack, frame, offset in it, kind, id, length.
const ROW_LEN: usize = 1 + 32 + 4 + 4 + 1 + 32 + 4;

/// Where a chunk may be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// In a pack of the other copy.
    There,
    /// In a pack here that is damaged.
    Here,
    /// No index knows it.
    Nowhere,
}

/// A chunk that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MissingChunk {
    pub side: Side,
    /// Where it lies on that side: zeros if nowhere.
    pub pack: PackId,
    pub kind: ChunkKind,
    pub id: ChunkId,
    /// Of a data chunk, the length that the snapshots give it; else 0.
    pub len: u32,
}

/// All of them, in the order of the bytes on either side.
pub(super) struct Missing(Sorted<ROW_LEN>);

impl Missing {
    pub(super) fn is_empty(&self) -> Result<bool> {
        Ok(self.0.rows().next()?.is_none())
    }

    pub(super) fn chunks(&self) -> MissingChunks<'_> {
        MissingChunks(self.0.rows())
    }
}

/// Missing chunks that are being read.
pub(super) struct MissingChunks<'m>(Rows<'m, ROW_LEN>);

impl MissingChunks<'_> {
    pub(super) fn next(&mut self) -> Result<Option<MissingChunk>> {
        Ok(self.0.next()?.map(|row| decode(&row)))
    }
}

fn encode(side: Side, place: Option<&Location>, (kind, id, len): Reference) -> [u8; ROW_LEN] {
    let mut row = [0; ROW_LEN];
    row[0] = side as u8;
    if let Some(place) = place {
        row[1..33].copy_from_slice(place.pack.as_bytes());
        row[33..37].copy_from_slice(&place.frame_offset.to_be_bytes());
        row[37..41].copy_from_slice(&place.offset.to_be_bytes());
    }
    row[41] = kind.number();
    row[42..74].copy_from_slice(id.as_bytes());
    row[74..78].copy_from_slice(&len.to_be_bytes());
    row
}

fn decode(row: &[u8; ROW_LEN]) -> MissingChunk {
    let part = |at: usize| {
        let mut id = [0; 32];
        id.copy_from_slice(&row[at..at + 32]);
        id
    };
    MissingChunk {
        side: match row[0] {
            0 => Side::There,
            1 => Side::Here,
            _ => Side::Nowhere,
        },
        pack: PackId::from_bytes(part(1)),
        kind: ChunkKind::from_number(row[41]).unwrap_or(ChunkKind::Data),
        id: ChunkId::from_bytes(part(42)),
        len: u32::from_be_bytes([row[74], row[75], row[76], row[77]]),
    }
}

/// This copy, and where it cannot give a chunk, the other one.
pub(super) struct Either<'r> {
    pub here: &'r Reader,
    pub there: Option<&'r Reader>,
}

impl GetChunk for Either<'_> {
    fn get(&self, kind: ChunkKind, id: &ChunkId) -> Result<Vec<u8>> {
        match (self.here.get(kind, id), self.there) {
            (Err(error), Some(there)) if error.is_damage() => there.get(kind, id).map_err(|_| error),
            (read, _) => read,
        }
    }
}

/// Which chunks are in a pack here that can be relied on.
pub(super) struct Soundly<'r> {
    pub reader: &'r Reader,
    pub bad: HashSet<PackId>,
}

impl Soundly<'_> {
    pub(super) fn has(&self, kind: ChunkKind, id: &ChunkId, len: u32) -> Result<bool> {
        let index = self.reader.index();
        let condemned = &index.present().condemned;
        let is_sound = |place: &Location| {
            let fits = kind != ChunkKind::Data || place.len == len;
            fits && !self.bad.contains(&place.pack) && !condemned.contains(&place.pack)
        };
        match index.locate_any(kind, id)? {
            None => Ok(false),
            Some(place) if is_sound(&place) => Ok(true),
            Some(_) => Ok(index.locate_all(kind, id)?.iter().any(is_sound)),
        }
    }
}

/// A walk through the trees under way.
struct Walk<'w> {
    soundly: Soundly<'w>,
    either: Either<'w>,
    nodes: HashSet<[u8; 16]>,
    data: Vec<(ChunkId, u32)>,
    found: Gathered<ROW_LEN>,
    /// Packs that were thought whole, and of which a frame cannot be read.
    doubted: Vec<PackId>,
}

impl Run<'_> {
    /// Finds what is missing. A pack that turns out to be damaged is replaced if it can be, and then all is looked at once more.
    pub(super) fn missing(&mut self, other: Option<&Reader>) -> Result<Missing> {
        let mut tried = HashSet::new();
        loop {
            let (missing, doubted) = self.walk(other)?;
            // In a dry run those that would be replaced are still what they were.
            let is_known = |pack: &PackId| self.options.dry_run && self.new_packs.contains(pack);
            let doubted = doubted.into_iter().filter(|pack| !is_known(pack));
            let new: Vec<PackId> = doubted.filter(|pack| tried.insert(*pack)).collect();
            if new.is_empty() {
                return Ok(missing);
            }
            let file = |pack: &PackId| FileId { folder: Folder::Packs, hash: *pack.as_bytes() };
            self.damaged.extend(new.iter().map(file));
            self.replace_damaged()?;
            self.mark()?;
        }
    }

    fn walk(&mut self, other: Option<&Reader>) -> Result<(Missing, Vec<PackId>)> {
        let snapshots = self.wanted_snapshots()?;
        let reader = self.repository.reader()?;
        let present = reader.index().present();
        self.relied =
            present.packs.keys().filter(|pack| !present.condemned.contains(pack)).copied().collect();
        let budget = self.repository.budget();
        let found = Gathered::new(&self.options.scratch, budget.share(ROWS_AT_ONCE));
        let mut walk = Walk {
            soundly: Soundly { reader: &reader, bad: self.bad_packs(&reader) },
            either: Either { here: &reader, there: other },
            nodes: HashSet::new(),
            data: Vec::new(),
            found,
            doubted: Vec::new(),
        };
        self.observer.event(&Event::Phase("reading snapshots"));
        let most = budget.share_at_most(DATA_AT_ONCE);
        let mut todo = Vec::new();
        for (_, snapshot) in &snapshots {
            of_snapshot(snapshot, &mut todo);
            while let Some((kind, id, len)) = todo.pop() {
                self.copier.check_stop()?;
                if kind == ChunkKind::Data {
                    walk.data.push((id, len));
                } else if walk.nodes.insert(id.half()) {
                    walk.node(kind, &id, &mut todo)?;
                }
                if walk.data.len() >= most {
                    walk.ask()?;
                }
            }
        }
        walk.ask()?;
        Ok((Missing(walk.found.sort()), walk.doubted))
    }

    /// The snapshots here that are not forgotten and can be read, and those that are to come. One of these that cannot be read is not to come
    /// any more: what it needs is not known.
    fn wanted_snapshots(&mut self) -> Result<Vec<(SnapshotId, Snapshot)>> {
        let mut wanted = self.readable_snapshots()?;
        let Some(other) = self.other else { return Ok(wanted) };
        // In a dry run a damaged one is still what it was.
        for file in self.damaged.iter().filter(|file| file.folder == Folder::Snapshots) {
            let id = SnapshotId::from_bytes(file.hash);
            wanted.extend(other.snapshot(&id).ok().map(|snapshot| (id, snapshot)));
        }
        for file in self.snapshots_to_come()? {
            let id = SnapshotId::from_bytes(file.hash);
            match other.snapshot(&id) {
                Ok(snapshot) => wanted.push((id, snapshot)),
                // Forgotten and pruned there meanwhile.
                Err(error) if is_vanished(&error) => {}
                Err(error) if error.is_damage() => self.is_damaged_there(&file.name(), error),
                Err(error) => return Err(Error::about(other.backend().place())(error)),
            }
        }
        Ok(wanted)
    }

    /// The snapshots here that are not forgotten and can be read. Which files are damaged was found before: one that could be read then, and
    /// cannot be now, is not passed over.
    pub(super) fn readable_snapshots(&self) -> Result<Vec<(SnapshotId, Snapshot)>> {
        let forgotten = self.repository.forgotten()?;
        let is_damaged = |id: &SnapshotId| {
            self.damaged.contains(&FileId { folder: Folder::Snapshots, hash: *id.as_bytes() })
        };
        let mut readable = Vec::new();
        for (id, read) in self.repository.snapshots()? {
            match read {
                _ if forgotten.contains(&id) => {}
                Ok(snapshot) => readable.push((id, snapshot)),
                Err(Error::Damaged { .. }) => {}
                Err(_) if is_damaged(&id) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(readable)
    }
}

impl Walk<'_> {
    fn node(&mut self, kind: ChunkKind, id: &ChunkId, todo: &mut Vec<Reference>) -> Result<()> {
        let is_sound = self.soundly.has(kind, id, 0)?;
        let mut is_missing = !is_sound;
        if is_sound && let Err(error) = of_node(self.either.here, kind, id, todo) {
            let places = self.either.here.index().locate_all(kind, id)?;
            if let Some(place) = places.first().filter(|_| is_vanished(&error)) {
                return Err(pruned(&place.pack));
            }
            if !error.is_damage() {
                return Err(error);
            }
            // A node that was written wrong lies in packs that are right.
            if error.file().is_some_and(|file| !file.starts_with("packs/")) {
                return Ok(());
            }
            // Nobody has read the pack, or the medium is failing now.
            self.doubted.extend(places.iter().map(|place| place.pack));
            is_missing = true;
        }
        if is_missing {
            self.add((kind, *id, 0))?;
            match of_node(&self.either, kind, id, todo) {
                // Lost, if nobody else has it: what is below it cannot be known.
                Err(error) if error.is_damage() => {}
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Asks for the data chunks that were gathered.
    fn ask(&mut self) -> Result<()> {
        self.data.sort_unstable();
        self.data.dedup();
        for (id, len) in std::mem::take(&mut self.data) {
            if !self.soundly.has(ChunkKind::Data, &id, len)? {
                self.add((ChunkKind::Data, id, len))?;
            }
        }
        Ok(())
    }

    fn add(&mut self, chunk: Reference) -> Result<()> {
        let (kind, id, _) = chunk;
        if let Some(there) = self.either.there
            && let Some(place) = there.index().locate_any(kind, &id)?
        {
            return self.found.add(encode(Side::There, Some(&place), chunk));
        }
        match self.soundly.reader.index().locate_any(kind, &id)? {
            Some(place) => self.found.add(encode(Side::Here, Some(&place), chunk)),
            None => self.found.add(encode(Side::Nowhere, None, chunk)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_it_was_made_of_and_rows_are_in_the_order_of_the_bytes() {
        let place = |pack: u8, frame_offset: u32, offset: u32| Location {
            pack: PackId::from_bytes([pack; 32]),
            frame_offset,
            frame_stored_len: 9,
            offset,
            len: 7,
            kind: ChunkKind::List,
        };
        let chunk = (ChunkKind::List, ChunkId::from_bytes([3; 32]), 70_000);
        let row = encode(Side::Here, Some(&place(5, 1, 2)), chunk);
        let found = decode(&row);
        assert_eq!((found.kind, found.id, found.len), chunk);
        assert_eq!((found.side, found.pack), (Side::Here, PackId::from_bytes([5; 32])));
        let rows = [
            encode(Side::There, Some(&place(9, 9, 9)), chunk),
            encode(Side::Here, Some(&place(1, 255, 0)), chunk),
            encode(Side::Here, Some(&place(1, 256, 0)), chunk),
            encode(Side::Here, Some(&place(1, 256, 1)), chunk),
            encode(Side::Here, Some(&place(2, 0, 0)), chunk),
            encode(Side::Nowhere, None, chunk),
        ];
        assert!(rows.is_sorted());
    }
}
