//! The pieces of a file: [`ListWriter`] keeps few in the entry and puts many into nodes, [`Pieces`] reads either back.
//!
//! Both keep one node per level in memory, so a file of any length passes through.

use crate::chunk::{GetChunk, PutChunk};
use crate::codec;
use crate::error::{Corruption, Error, Result};
use crate::id::{ChunkId, ChunkKind};
use crate::snapshot::{Content, ListChild, ListNode, MAX_LEVEL, Piece};

/// More pieces than this go into nodes.
const INLINE_PIECES: usize = 8;
/// A node is closed at a content-defined point from this many items on.
const NODE_MIN_ITEMS: usize = 64;
/// A node is closed at any point from this many items on.
const NODE_MAX_ITEMS: usize = 1024;
/// One in so many ids ends a node.
const NODE_ENDS_EVERY: u32 = 256;

/// Writes the pieces of one file.
pub struct ListWriter<'a> {
    put: &'a dyn PutChunk,
    leaf: Vec<Piece>,
    branches: Vec<Vec<ListChild>>,
}

impl<'a> ListWriter<'a> {
    /// A file without pieces so far.
    #[must_use]
    pub fn new(put: &'a dyn PutChunk) -> Self {
        Self { put, leaf: Vec::new(), branches: Vec::new() }
    }

    /// Adds the next piece. Neighbouring holes become one.
    ///
    /// # Errors
    /// Any error of the repository.
    pub fn push(&mut self, piece: Piece) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        if let (Some(Piece::Hole(last)), Piece::Hole(len)) = (self.leaf.last_mut(), piece) {
            *last = last.saturating_add(len);
            return Ok(());
        }
        self.leaf.push(piece);
        let ends = match piece {
            Piece::Data(id, _) => ends_node(self.leaf.len(), &id),
            Piece::Hole(_) => self.leaf.len() >= NODE_MAX_ITEMS,
        };
        if ends { self.close_leaf() } else { Ok(()) }
    }

    /// The content: empty, a few pieces, or the root of the nodes.
    ///
    /// # Errors
    /// Any error of the repository.
    pub fn finish(mut self) -> Result<Content> {
        if self.branches.is_empty() && self.leaf.len() <= INLINE_PIECES {
            return Ok(if self.leaf.is_empty() {
                Content::Inline(Vec::new().into())
            } else {
                Content::Pieces(self.leaf)
            });
        }
        if !self.leaf.is_empty() {
            self.close_leaf()?;
        }
        let mut level = 0;
        loop {
            let top = level + 1 == self.branches.len();
            let branch = &self.branches[level];
            if let (true, [only]) = (top, branch.as_slice()) {
                return Ok(Content::List(only.node));
            }
            if !branch.is_empty() {
                let child = self.take_branch(level)?;
                self.add_child(level + 1, child)?;
            }
            level += 1;
        }
    }

    fn close_leaf(&mut self) -> Result<()> {
        let pieces = std::mem::take(&mut self.leaf);
        let len = pieces.iter().map(Piece::len).sum();
        let node = self.put.put(ChunkKind::List, &codec::encode(&ListNode::Leaf(pieces)))?;
        self.add_child(0, ListChild { len, node })
    }

    fn add_child(&mut self, mut index: usize, mut child: ListChild) -> Result<()> {
        loop {
            if self.branches.len() == index {
                self.branches.push(Vec::new());
            }
            let branch = &mut self.branches[index];
            branch.push(child);
            let [.., last] = branch.as_slice() else { return Ok(()) };
            if !ends_node(branch.len(), &last.node) {
                return Ok(());
            }
            child = self.take_branch(index)?;
            index += 1;
        }
    }

    fn take_branch(&mut self, index: usize) -> Result<ListChild> {
        let children = std::mem::take(&mut self.branches[index]);
        let len = children.iter().map(|child| child.len).sum();
        let level = u8::try_from(index + 1).ok().filter(|level| *level <= MAX_LEVEL).ok_or_else(|| {
            Error::damaged("a list to be written")(Corruption::rule(
                "LIST-1",
                "it needs more levels than there may be",
            ))
        })?;
        let node = self.put.put(ChunkKind::List, &codec::encode(&ListNode::Branch(level, children)))?;
        Ok(ListChild { len, node })
    }
}

fn ends_node(items: usize, last: &ChunkId) -> bool {
    let [a, b, c, d, ..] = *last.as_bytes();
    items >= NODE_MAX_ITEMS
        || items >= NODE_MIN_ITEMS && u32::from_le_bytes([a, b, c, d]) % NODE_ENDS_EVERY == 0
}

/// Reads the pieces of one file, in order. Ends after the first error.
pub struct Pieces<'a> {
    get: &'a dyn GetChunk,
    pending: Vec<Pending>,
    leaf: std::vec::IntoIter<Piece>,
}

/// A node to be read, its length, and its level if a parent said so.
struct Pending {
    node: ChunkId,
    len: u64,
    level: Option<u8>,
}

impl<'a> Pieces<'a> {
    /// The pieces of a content that is not inline; `size` is that of the file. An inline content has no pieces.
    #[must_use]
    pub fn new(get: &'a dyn GetChunk, content: &Content, size: u64) -> Self {
        let (pending, leaf) = match content {
            Content::Inline(_) => (Vec::new(), Vec::new()),
            Content::Pieces(pieces) => (Vec::new(), pieces.clone()),
            Content::List(root) => (vec![Pending { node: *root, len: size, level: None }], Vec::new()),
        };
        Self { get, pending, leaf: leaf.into_iter() }
    }

    fn read(&mut self, pending: &Pending) -> Result<()> {
        let bytes = self.get.get(ChunkKind::List, &pending.node)?;
        let file = format!("list node {}", pending.node);
        let node = decode_node(&bytes).map_err(Error::damaged(&file))?;
        let (level, len) = match &node {
            ListNode::Leaf(pieces) => (0, sum_pieces(pieces).map_err(Error::damaged(&file))?),
            ListNode::Branch(level, children) => {
                (*level, children.iter().fold(0u64, |sum, child| sum.saturating_add(child.len)))
            }
        };
        if pending.level.is_some_and(|expected| expected != level) || len != pending.len {
            return Err(Error::damaged(&file)(Corruption::rule("LIST-1", "it is not what its parent says")));
        }
        match node {
            ListNode::Leaf(pieces) => self.leaf = pieces.into_iter(),
            ListNode::Branch(level, children) => {
                self.pending.extend(children.into_iter().rev().map(|child| Pending {
                    node: child.node,
                    len: child.len,
                    level: Some(level - 1),
                }));
            }
        }
        Ok(())
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(piece) = self.leaf.next() {
                return Some(Ok(piece));
            }
            let pending = self.pending.pop()?;
            if let Err(error) = self.read(&pending) {
                self.pending.clear();
                return Some(Err(error));
            }
        }
    }
}

/// Checks the number of items of a node `[LIST-3]`, of which one for each level is in memory.
fn is_short(items: usize) -> Result<(), Corruption> {
    if items <= NODE_MAX_ITEMS {
        return Ok(());
    }
    Err(Corruption::rule("LIST-3", "a list node has more items than there may be"))
}

/// Decodes a node and checks all that can be seen in it alone.
///
/// # Errors
/// Names the rule it breaks.
pub fn decode_node(bytes: &[u8]) -> Result<ListNode, Corruption> {
    let node: ListNode = codec::decode(bytes)?;
    let sound = match &node {
        ListNode::Leaf(pieces) => {
            sum_pieces(pieces)?;
            is_short(pieces.len())?;
            !pieces.is_empty()
        }
        ListNode::Branch(level, children) => {
            is_short(children.len())?;
            *level > 0
                && *level <= MAX_LEVEL
                && !children.is_empty()
                && children.iter().all(|child| child.len > 0)
                && children.iter().try_fold(0u64, |sum, child| sum.checked_add(child.len)).is_some()
        }
    };
    if sound {
        Ok(node)
    } else {
        Err(Corruption::rule("LIST-1", "a list node is empty, overflows, or has no possible level"))
    }
}

/// The bytes of some pieces, none of them empty `[ENTRY-5]`.
///
/// # Errors
/// An empty piece, one longer than a chunk may be, or an overflow.
pub fn sum_pieces(pieces: &[Piece]) -> Result<u64, Corruption> {
    pieces.iter().try_fold(0u64, |sum, piece| {
        if piece.is_empty()
            || matches!(piece, Piece::Data(_, len) if *len as usize > crate::pack::MAX_CHUNK_LEN)
        {
            return Err(Corruption::rule("ENTRY-5", "a piece is empty or longer than a chunk"));
        }
        sum.checked_add(piece.len()).ok_or(Corruption::rule("ENTRY-5", "the pieces overflow"))
    })
}
