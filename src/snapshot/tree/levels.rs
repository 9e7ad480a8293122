//! The directories of a path under way, each read and made anew. Those far out are packed: a path may have a million levels.

use std::collections::VecDeque;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::chunk::{GetChunk, PutChunk};
use crate::codec::{self, Bytes};
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::snapshot::tree::entries::{Entries, MAX_HOLDING, let_rest};
use crate::snapshot::tree::{Open, TreeWriter};
use crate::snapshot::{Entry, Kind};

/// A directory of which more is pending than that stays as it is: it is no longer for its depth that a path takes memory.
const MAX_PACKED: usize = 64 << 10;
/// So much is set aside at once for what is packed.
const BLOCK_LEN: usize = 1 << 20;

/// A directory under way, and what else is known of it.
pub struct Level<'a, S> {
    /// Its entry, but for the root node, which is that of before.
    pub entry: Entry,
    /// What it becomes.
    pub tree: TreeWriter<'a>,
    /// What it is made of: its entries, or those of several that become one.
    pub listings: Vec<Entries<'a>>,
    /// The length of its path.
    pub path_len: usize,
    /// Whatever else there is to say of it.
    pub state: S,
}

/// What is written down of a directory. A listing whose root node the entry names does not name it again.
type Packed<S> = (Entry, Open, Vec<(Option<ChunkId>, Bytes)>, usize, S);

/// The directories from the root to where a walk is.
pub struct Levels<'a, S> {
    ends: (&'a dyn GetChunk, &'a dyn PutChunk),
    outer: usize,
    packed: Stack,
    /// Those of the outer ones that are not packed, and which they are.
    whole: Vec<(usize, Box<Level<'a, S>>)>,
    inner: VecDeque<Level<'a, S>>,
}

/// Pieces of bytes, each with its length behind it, in blocks: one of each would take a third more.
#[derive(Default)]
struct Stack {
    blocks: Vec<Vec<u8>>,
}

impl Stack {
    fn push(&mut self, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        let needed = bytes.len() + len.len();
        if self.blocks.last().is_none_or(|block| block.capacity() - block.len() < needed) {
            self.blocks.push(Vec::with_capacity(BLOCK_LEN.max(needed)));
        }
        if let Some(block) = self.blocks.last_mut() {
            block.extend_from_slice(bytes);
            block.extend_from_slice(&len);
        }
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let block = self.blocks.last_mut()?;
        let (_, len) = block.split_last_chunk::<4>()?;
        let end = block.len() - 4;
        let start = end.checked_sub(u32::from_le_bytes(*len) as usize)?;
        let bytes = block.get(start..end)?.to_vec();
        block.truncate(start);
        if block.is_empty() {
            let _ = self.blocks.pop();
        }
        Some(bytes)
    }
}

impl<'a, S> Level<'a, S> {
    /// A directory without entries so far, made of those with these root nodes.
    pub fn new(
        (get, put): (&'a dyn GetChunk, &'a dyn PutChunk),
        entry: &Entry,
        nodes: impl IntoIterator<Item = ChunkId>,
        path_len: usize,
        state: S,
    ) -> Self {
        let listings = nodes.into_iter().map(|node| Entries::new(get, node)).collect();
        Self { entry: entry.clone(), tree: TreeWriter::new(put), listings, path_len, state }
    }

    /// The next entry of the one directory that this is made of.
    pub fn next_entry(&mut self) -> Option<Result<Entry>> {
        self.listings.first_mut().and_then(Iterator::next)
    }
}

impl<'a, S: Serialize + DeserializeOwned> Levels<'a, S> {
    /// None so far.
    #[must_use]
    pub fn new(get: &'a dyn GetChunk, put: &'a dyn PutChunk) -> Self {
        let (packed, whole) = (Stack::default(), Vec::new());
        Self { ends: (get, put), outer: 0, packed, whole, inner: VecDeque::new() }
    }

    /// The innermost directory.
    pub fn last_mut(&mut self) -> Option<&mut Level<'a, S>> {
        self.inner.back_mut()
    }

    /// Goes into a directory. Those further out let go of what they have read.
    pub fn push(&mut self, level: Level<'a, S>) {
        self.inner.push_back(level);
        let_rest(self.inner.iter_mut().rev().map(|level| &mut level.listings));
        if self.inner.len() > MAX_HOLDING
            && let Some(level) = self.inner.pop_front()
        {
            match pack(&level) {
                Some(bytes) => self.packed.push(&bytes),
                None => self.whole.push((self.outer, Box::new(level))),
            }
            self.outer += 1;
        }
    }

    /// Leaves the innermost directory.
    ///
    /// # Errors
    /// None that is to be expected: what was packed cannot be unpacked.
    pub fn pop(&mut self) -> Result<Option<Level<'a, S>>> {
        let level = self.inner.pop_back();
        if self.inner.is_empty() && self.outer > 0 {
            self.outer -= 1;
            let next = match self.whole.pop_if(|(number, _)| *number == self.outer) {
                Some((_, level)) => *level,
                None => self.unpack()?,
            };
            self.inner.push_back(next);
        }
        Ok(level)
    }

    fn unpack(&mut self) -> Result<Level<'a, S>> {
        let (get, put) = self.ends;
        let bytes = self.packed.pop().unwrap_or_default();
        let decoded = codec::decode::<Packed<S>>(&bytes).map_err(Error::damaged("a directory under way"));
        let (entry, open, places, path_len, state) = decoded?;
        let own = entry.kind.directory();
        let listing =
            |(root, last): (Option<ChunkId>, Bytes)| Some(Entries::behind(get, (root.or(own)?, last)));
        let listings = places.into_iter().map(listing).collect::<Option<_>>().ok_or(Error::Stopped)?;
        Ok(Level { entry, tree: TreeWriter { put, open }, listings, path_len, state })
    }
}

/// What there is of a directory of which nothing that was read is held; nothing if that is much.
fn pack<S: Serialize>(level: &Level<'_, S>) -> Option<Vec<u8>> {
    let own = level.entry.kind.directory();
    let place = |entries: &Entries<'_>| {
        let (root, last) = entries.place()?;
        Some((Some(root).filter(|root| Some(*root) != own), last.clone()))
    };
    let places: Vec<_> = level.listings.iter().map(place).collect::<Option<_>>()?;
    let bytes = codec::encode(&(&level.entry, &level.tree.open, places, level.path_len, &level.state));
    (bytes.len() <= MAX_PACKED).then_some(bytes)
}

impl Entry {
    /// The entry of a directory of either kind with another root node.
    #[must_use]
    pub fn with_node(self, node: ChunkId) -> Self {
        let is_implied = matches!(self.kind, Kind::Implied(_));
        Self { kind: if is_implied { Kind::Implied(node) } else { Kind::Directory(node) }, ..self }
    }
}
