//! What each snapshot alone holds, and what all of them hold together: which chunks are reachable from which snapshots.
//!
//! To tell what a single snapshot holds alone, it takes to know of each chunk who holds it: about 40 bytes for each. Of more data chunks
//! than there is memory for, only those whose ids begin low enough are kept, and the trees are walked again for the others. In each of
//! these passes a tree or list node is read at most twice: a second snapshot that comes to it makes all below it shared, a third finds
//! that done.

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::chunk::GetChunk;
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind, SnapshotId};
use crate::snapshot::Snapshot;
use crate::snapshot::references::{Reference, of_node, of_snapshot};

/// A number of chunks and their plain bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub chunks: u64,
    /// Their bytes before compression.
    pub plain_bytes: u64,
}

impl Amount {
    fn add(&mut self, plain_len: u64) {
        self.chunks += 1;
        self.plain_bytes += plain_len;
    }
}

/// The result of [`stats`].
#[derive(Debug, Default)]
pub struct Stats {
    /// What each snapshot alone holds, in the order they were given.
    pub alone: Vec<Amount>,
    /// Distinct data chunks of all snapshots.
    pub data: Amount,
    /// Distinct tree and list chunks of all snapshots.
    pub trees: Amount,
}

/// So many data chunks at once take 64 MiB: what there is room for in a budget of the default size.
pub const CHUNKS_AT_ONCE: usize = 1_800_000;

/// The mark of a chunk that more than one snapshot holds.
const SHARED: u32 = u32::MAX;
/// Stands for the length of a node that cannot be read: it is not counted.
const UNREADABLE: u32 = u32::MAX;

/// Who holds a chunk, and its length; by the first half of its id: 128 bits of a hash do not collide, and it halves the memory.
type Owners = HashMap<[u8; 16], (u32, u32)>;

/// Walks all snapshots, and once more for each half of `at_once` distinct data chunks or so that they have beyond that. Nodes that cannot be read go to `problem`; what is below them is not
/// counted.
///
/// # Errors
/// `Interrupted`.
pub fn stats(
    get: &dyn GetChunk,
    snapshots: &[(SnapshotId, Snapshot)],
    at_once: usize,
    problem: &mut dyn FnMut(&SnapshotId, Error),
    stop: &AtomicBool,
) -> Result<Stats> {
    let mut stats = Stats { alone: vec![Amount::default(); snapshots.len()], ..Stats::default() };
    let (mut range, mut unreadable) = (0..=u64::MAX, HashSet::new());
    loop {
        let is_first = *range.start() == 0;
        let mut pass = Pass { get, at_once, range, nodes: Owners::new(), data: Owners::new() };
        pass.walk(snapshots, stop, &mut |id, node, error| {
            // What was unreadable before was said before.
            if unreadable.insert(node.half()) || is_first {
                problem(id, error);
            }
        })?;
        stats.count(&pass.data, |stats| &mut stats.data);
        if is_first {
            stats.count(&pass.nodes, |stats| &mut stats.trees);
        }
        match pass.range.end().checked_add(1) {
            Some(rest) => range = rest..=u64::MAX,
            None => return Ok(stats),
        }
    }
}

impl Stats {
    fn count(&mut self, owners: &Owners, all: fn(&mut Self) -> &mut Amount) {
        for (owner, len) in owners.values().filter(|(_, len)| *len != UNREADABLE) {
            all(self).add(u64::from(*len));
            let alone = usize::try_from(*owner).ok().and_then(|owner| self.alone.get_mut(owner));
            if let Some(amount) = alone {
                amount.add(u64::from(*len));
            }
        }
    }
}

/// A walk through all snapshots that keeps the data chunks of one range.
struct Pass<'a> {
    get: &'a dyn GetChunk,
    at_once: usize,
    /// Where their ids begin.
    range: RangeInclusive<u64>,
    nodes: Owners,
    data: Owners,
}

impl Pass<'_> {
    fn walk(
        &mut self,
        snapshots: &[(SnapshotId, Snapshot)],
        stop: &AtomicBool,
        problem: &mut dyn FnMut(&SnapshotId, &ChunkId, Error),
    ) -> Result<()> {
        let mut pending: Vec<Reference> = Vec::new();
        for (number, (id, snapshot)) in (0u32..).zip(snapshots) {
            of_snapshot(snapshot, &mut pending);
            while let Some((kind, chunk, len)) = pending.pop() {
                if stop.load(Ordering::Relaxed) {
                    return Err(Error::Interrupted);
                }
                if kind == ChunkKind::Data {
                    self.data(&chunk, len, number);
                } else if let Err(error) = self.node(kind, &chunk, number, &mut pending) {
                    problem(id, &chunk, error);
                }
            }
        }
        Ok(())
    }

    /// Notes that a snapshot holds a data chunk, if it is one of this pass.
    fn data(&mut self, chunk: &ChunkId, len: u32, number: u32) {
        if !self.range.contains(&leading(chunk)) {
            return;
        }
        claim(&mut self.data, chunk, len, number);
        let (start, end) = (*self.range.start(), *self.range.end());
        if self.data.len() > self.at_once && end > start {
            self.range = start..=start + (end - start) / 2;
            let Self { data, range, .. } = self;
            data.retain(|half, _| {
                half.first_chunk().is_some_and(|lead| range.contains(&u64::from_be_bytes(*lead)))
            });
        }
    }

    /// Notes that a snapshot holds a node, and what it refers to as what is to be looked at.
    fn node(
        &mut self,
        kind: ChunkKind,
        chunk: &ChunkId,
        number: u32,
        pending: &mut Vec<Reference>,
    ) -> Result<()> {
        if !claim(&mut self.nodes, chunk, 0, number) {
            return Ok(());
        }
        let opened = of_node(self.get, kind, chunk, pending);
        let len = opened.as_ref().ok().and_then(|len| u32::try_from(*len).ok()).unwrap_or(UNREADABLE);
        self.nodes.entry(chunk.half()).and_modify(|(_, known)| *known = len);
        opened.map(|_| ())
    }
}

fn leading(chunk: &ChunkId) -> u64 {
    u64::from_be_bytes(chunk.as_bytes().first_chunk().copied().unwrap_or_default())
}

/// Notes that `number` holds the chunk; whether that says something new about what is below it.
fn claim(owners: &mut Owners, chunk: &ChunkId, len: u32, number: u32) -> bool {
    match owners.entry(chunk.half()) {
        Slot::Vacant(slot) => {
            slot.insert((number, len));
            true
        }
        Slot::Occupied(slot) if slot.get().0 == SHARED || slot.get().0 == number => false,
        Slot::Occupied(mut slot) => {
            slot.get_mut().0 = SHARED;
            true
        }
    }
}
