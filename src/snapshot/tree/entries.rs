//! Reads one directory, and finds its place in it again where a walk is so deep that not all directories of the path can be held.

use crate::chunk::GetChunk;
use crate::codec::Bytes;
use crate::error::{Corruption, Error, Result};
use crate::id::{ChunkId, ChunkKind};
use crate::snapshot::{Entry, TreeChild, TreeNode};

use super::check_node;

/// Of the directories of a path so many hold what they have read …
pub(super) const MAX_HOLDING: usize = 64;
/// … as long as their nodes have no more bytes than that together. In memory it is some times as much.
const MAX_HELD: usize = 8 << 20;

/// Reads one directory: its entries in order. After an error about a node the entries behind that node follow.
pub struct Entries<'a> {
    get: &'a dyn GetChunk,
    root: ChunkId,
    held: Held,
    peeked: Option<Box<Result<Entry>>>,
    /// The name that was read last.
    last: Bytes,
}

/// What is read already of a directory and not taken yet.
enum Held {
    /// Nothing: the next entry is the one behind the last name.
    Nothing,
    Nodes(Box<Nodes>),
    /// There is nothing more.
    End,
}

#[derive(Default)]
struct Nodes {
    /// Nodes still to be read, the next one last.
    pending: Vec<Pending>,
    leaf: std::vec::IntoIter<Entry>,
    /// The bytes of its node.
    leaf_len: usize,
    last_name: Option<Bytes>,
}

/// A node to be read and what its parent says of it.
struct Pending {
    node: ChunkId,
    expected: Option<(u8, TreeChild)>,
}

/// Has the outer directories of a path let go of what they have read: so a path of any depth takes little memory, whatever the length of
/// its directories. They come level by level, the innermost one first; of each level there may be several, side by side.
pub fn let_rest<'e, 'a: 'e, L>(innermost_first: impl Iterator<Item = L>)
where
    L: IntoIterator<Item = &'e mut Entries<'a>>,
{
    let mut held = 0;
    // Those further out rest since they were this far out.
    for (number, level) in innermost_first.take(MAX_HOLDING + 1).enumerate() {
        for entries in level {
            let len = entries.held_len();
            if number > 0 && (number == MAX_HOLDING || held + len > MAX_HELD) {
                entries.rest();
            } else {
                held += len;
            }
        }
    }
}

impl<'a> Entries<'a> {
    /// The directory with this root node.
    #[must_use]
    pub fn new(get: &'a dyn GetChunk, root: ChunkId) -> Self {
        let first = Pending { node: root, expected: None };
        let nodes = Nodes { pending: vec![first], ..Nodes::default() };
        Self { get, root, held: Held::Nodes(Box::new(nodes)), peeked: None, last: Bytes::default() }
    }

    /// The directory with this root node, behind the name that was read last.
    pub(super) fn behind(get: &'a dyn GetChunk, (root, last): (ChunkId, Bytes)) -> Self {
        Self { get, root, held: Held::Nothing, peeked: None, last }
    }

    /// Its root node and the name that was read last, if nothing more is held.
    pub(super) fn place(&self) -> Option<(ChunkId, &Bytes)> {
        let is_at_rest = !matches!(self.held, Held::Nodes(_)) && self.peeked.is_none();
        is_at_rest.then_some((self.root, &self.last))
    }

    /// What comes next, which is not taken.
    pub fn peek(&mut self) -> Option<&Result<Entry>> {
        if self.peeked.is_none() {
            self.peeked = self.read_next().map(Box::new);
        }
        self.peeked.as_deref()
    }

    /// Takes what comes next if it is this.
    pub fn next_if(&mut self, is_it: impl FnOnce(&Result<Entry>) -> bool) -> Option<Result<Entry>> {
        if self.peek().is_some_and(is_it) { self.next() } else { None }
    }

    /// About how many bytes of nodes it holds.
    fn held_len(&self) -> usize {
        match &self.held {
            Held::Nodes(nodes) => nodes.leaf_len + nodes.pending.len() * size_of::<TreeChild>(),
            Held::Nothing | Held::End => 0,
        }
    }

    /// Lets go of what was read. The next entry is looked for again.
    fn rest(&mut self) {
        // Before the first name there is nothing to be found again.
        if let (Held::Nodes(_), false) = (&self.held, self.last.is_empty()) {
            self.held = Held::Nothing;
        }
    }

    fn read_next(&mut self) -> Option<Result<Entry>> {
        loop {
            let nodes = match &mut self.held {
                Held::End => return None,
                Held::Nodes(nodes) => nodes,
                Held::Nothing => {
                    let mut nodes = Box::new(Nodes::default());
                    let found = nodes.find(self.get, self.root, &self.last);
                    self.held = Held::Nodes(nodes);
                    match found {
                        Ok(()) => continue,
                        Err(error) => return Some(Err(error)),
                    }
                }
            };
            if let Some(entry) = nodes.leaf.next() {
                self.last.0.clear();
                self.last.0.extend_from_slice(&entry.name);
                return Some(Ok(entry));
            }
            match nodes.pending.pop() {
                None => self.held = Held::End,
                Some(pending) => {
                    if let Err(error) = nodes.read(self.get, pending) {
                        return Some(Err(error));
                    }
                }
            }
        }
    }
}

impl Nodes {
    fn read(&mut self, get: &dyn GetChunk, Pending { node, expected }: Pending) -> Result<()> {
        let bytes = get.get(ChunkKind::Tree, &node)?;
        let file = format!("tree node {node}");
        let decoded = check_node(&bytes, expected.as_ref()).map_err(Error::damaged(&file))?;
        match decoded {
            TreeNode::Leaf(entries) => {
                // Within the node they do.
                let ascend = entries.first().is_none_or(|first| self.last_name.as_ref() < Some(&first.name));
                if let Some(last) = entries.last() {
                    self.last_name = self.last_name.take().max(Some(last.name.clone()));
                }
                if !ascend {
                    return Err(Error::damaged(&file)(Corruption::rule("TREE-1", "names do not ascend")));
                }
                (self.leaf, self.leaf_len) = (entries.into_iter(), bytes.len());
            }
            TreeNode::Branch(level, children) => self.put_off(level, children),
        }
        Ok(())
    }

    fn put_off(&mut self, level: u8, children: Vec<TreeChild>) {
        let pending = children.into_iter().rev();
        self.pending
            .extend(pending.map(|child| Pending { node: child.node, expected: Some((level - 1, child)) }));
    }

    /// Goes to the first entry behind a name, which was read before.
    fn find(&mut self, get: &dyn GetChunk, root: ChunkId, name: &Bytes) -> Result<()> {
        let mut next = Pending { node: root, expected: None };
        loop {
            let bytes = get.get(ChunkKind::Tree, &next.node)?;
            let file = format!("tree node {}", next.node);
            let decoded = check_node(&bytes, next.expected.as_ref()).map_err(Error::damaged(&file))?;
            match decoded {
                TreeNode::Leaf(mut entries) => {
                    let behind = entries.partition_point(|entry| entry.name <= *name);
                    self.last_name = entries.last().map(|entry| entry.name.clone().max(name.clone()));
                    (self.leaf, self.leaf_len) = (entries.split_off(behind).into_iter(), bytes.len());
                    return Ok(());
                }
                TreeNode::Branch(level, mut children) => {
                    let behind = children.partition_point(|child| child.first <= *name);
                    self.put_off(level, children.split_off(behind));
                    let Some(child) = children.pop() else { return Ok(()) };
                    next = Pending { node: child.node, expected: Some((level - 1, child)) };
                }
            }
        }
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.peeked.take() {
            Some(peeked) => Some(*peeked),
            None => self.read_next(),
        }
    }
}
