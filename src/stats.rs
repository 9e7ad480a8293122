//! What each snapshot alone holds, and what all of them hold together: which chunks are reachable from which snapshots.
//!
//! Memory: about 40 bytes for each chunk that any snapshot refers to (4 million, 160 MB, for 1 TiB of unlike data). It
//! takes that knowledge to tell what a single snapshot holds alone; nothing else needs this module. Each tree and list node
//! is read at most twice: a second snapshot that comes to it makes all below it shared, a third finds that done.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::chunk::GetChunk;
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind, SnapshotId};
use crate::snapshot::{Content, Entry, Kind, ListNode, Piece, Snapshot, TreeNode, list, tree};

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

    fn remove(&mut self, plain_len: u64) {
        self.chunks = self.chunks.saturating_sub(1);
        self.plain_bytes = self.plain_bytes.saturating_sub(plain_len);
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

/// The mark of a chunk that more than one snapshot holds.
const SHARED: u32 = u32::MAX;

/// Something to look at: a node to be read, or a data chunk and its length.
type Pending = (ChunkKind, ChunkId, u32);

/// Who holds a chunk, by the first half of its id: 128 bits of a hash do not collide, and it halves the memory.
type Owners = HashMap<[u8; 16], u32>;

/// Walks all snapshots. Nodes that cannot be read go to `problem`; what is below them is not counted.
///
/// # Errors
/// `Interrupted`.
pub fn stats(
    get: &dyn GetChunk,
    snapshots: &[(SnapshotId, Snapshot)],
    problem: &mut dyn FnMut(&SnapshotId, Error),
    stop: &AtomicBool,
) -> Result<Stats> {
    let mut stats = Stats { alone: vec![Amount::default(); snapshots.len()], ..Stats::default() };
    let mut owners = Owners::new();
    let mut pending: Vec<Pending> = Vec::new();
    for (number, (id, snapshot)) in (0u32..).zip(snapshots) {
        let roots = snapshot.root.kind.directory().into_iter().chain(snapshot.notes);
        pending.extend(roots.map(|node| (ChunkKind::Tree, node, 0)));
        refer_xattrs(&snapshot.root, &mut pending);
        while let Some((kind, chunk, len)) = pending.pop() {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let before = match claim(&mut owners, &chunk, number) {
                Before::Known => continue,
                Before::Nobody => None,
                Before::Only(owner) => Some(owner),
            };
            let len = match open(get, kind, &chunk, len, &mut pending) {
                Ok(len) => len,
                Err(error) => {
                    problem(id, error);
                    continue;
                }
            };
            stats.count(kind, len, number, before);
        }
    }
    Ok(stats)
}

impl Stats {
    fn count(&mut self, kind: ChunkKind, len: u64, number: u32, before: Option<u32>) {
        let index = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(owner) = before {
            if let Some(amount) = self.alone.get_mut(index(owner)) {
                amount.remove(len);
            }
            return;
        }
        let all = if kind == ChunkKind::Data { &mut self.data } else { &mut self.trees };
        all.add(len);
        if let Some(amount) = self.alone.get_mut(index(number)) {
            amount.add(len);
        }
    }
}

/// Who held a chunk before another snapshot came to it.
enum Before {
    Nobody,
    Only(u32),
    /// Several, or the same one: nothing changes.
    Known,
}

/// Notes that `number` holds the chunk.
fn claim(owners: &mut Owners, chunk: &ChunkId, number: u32) -> Before {
    let Some((half, _)) = chunk.as_bytes().split_first_chunk::<16>() else { return Before::Known };
    match owners.entry(*half) {
        Slot::Vacant(slot) => {
            slot.insert(number);
            Before::Nobody
        }
        Slot::Occupied(slot) if *slot.get() == SHARED || *slot.get() == number => Before::Known,
        Slot::Occupied(mut slot) => Before::Only(slot.insert(SHARED)),
    }
}

/// The length of a chunk; of a node, what it refers to is put on `pending`.
fn open(
    get: &dyn GetChunk,
    kind: ChunkKind,
    id: &ChunkId,
    len: u32,
    pending: &mut Vec<Pending>,
) -> Result<u64> {
    if kind == ChunkKind::Data {
        return Ok(u64::from(len));
    }
    let bytes = get.get(kind, id)?;
    let file = format!("{kind} node {id}");
    if kind == ChunkKind::Tree {
        match tree::decode_node(&bytes).map_err(Error::damaged(&file))? {
            TreeNode::Leaf(entries) => entries.iter().rev().for_each(|entry| refer(entry, pending)),
            TreeNode::Branch(_, children) => {
                pending.extend(children.iter().rev().map(|child| (ChunkKind::Tree, child.node, 0)));
            }
        }
    } else {
        match list::decode_node(&bytes).map_err(Error::damaged(&file))? {
            ListNode::Leaf(pieces) => refer_pieces(&pieces, pending),
            ListNode::Branch(_, children) => {
                pending.extend(children.iter().rev().map(|child| (ChunkKind::List, child.node, 0)));
            }
        }
    }
    Ok(bytes.len() as u64)
}

fn refer(entry: &Entry, pending: &mut Vec<Pending>) {
    if let Some(node) = entry.kind.directory() {
        pending.push((ChunkKind::Tree, node, 0));
    }
    if let Kind::File(_, content) = &entry.kind {
        refer_content(content, pending);
    }
    refer_xattrs(entry, pending);
}

fn refer_xattrs(entry: &Entry, pending: &mut Vec<Pending>) {
    entry.meta.xattrs.iter().for_each(|xattr| refer_content(&xattr.value, pending));
}

fn refer_content(content: &Content, pending: &mut Vec<Pending>) {
    match content {
        Content::Inline(_) => {}
        Content::Pieces(pieces) => refer_pieces(pieces, pending),
        Content::List(node) => pending.push((ChunkKind::List, *node, 0)),
    }
}

fn refer_pieces(pieces: &[Piece], pending: &mut Vec<Pending>) {
    pending.extend(pieces.iter().filter_map(|piece| match piece {
        Piece::Data(id, len) => Some((ChunkKind::Data, *id, *len)),
        Piece::Hole(_) => None,
    }));
}
