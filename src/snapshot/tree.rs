//! Directories as nodes: [`TreeWriter`] cuts a stream of entries into nodes at content-defined points, [`Entries`] reads it back.
//!
//! Both keep one node per level in memory, so a directory of any length passes through. `[TREE-1]` and `[TREE-2]` are
//! checked while reading, across nodes. That a node is short `[TREE-5]` bounds what it takes in memory, which is many times what it
//! has in bytes.

mod entries;
mod levels;

pub use entries::{Entries, let_rest};
pub use levels::{Level, Levels};

use serde::{Deserialize, Serialize};

use crate::chunk::PutChunk;
use crate::codec::{self, Bytes, MAX_STRUCT_LEN};
use crate::error::{Corruption, Error, Result};
use crate::id::{self, ChunkId, ChunkKind};
use crate::snapshot::{Entry, MAX_LEVEL, TreeChild, TreeNode};

/// A node is closed at a content-defined point from this length on.
const NODE_MIN_LEN: usize = 16 << 10;
/// A node is closed at any point from this length on.
const NODE_MAX_LEN: usize = 256 << 10;
/// An entry of this length still fits into a node that is about to be closed `[TREE-4]`.
const MAX_ENTRY_LEN: usize = MAX_STRUCT_LEN - NODE_MAX_LEN - 64;
/// One in so many names ends a node.
const NODE_ENDS_EVERY: u32 = 128;

/// Writes one directory. Entries come in strictly ascending order of their names.
pub struct TreeWriter<'a> {
    put: &'a dyn PutChunk,
    open: Open,
}

/// What was not written yet of a directory.
#[derive(Default, Serialize, Deserialize)]
struct Open {
    leaf: Leaf,
    last_name: Option<Bytes>,
    branches: Vec<Branch>,
}

/// The open node of entries: how many they are, the first name, and their bytes.
#[derive(Default, Serialize, Deserialize)]
struct Leaf {
    count: u64,
    first: Bytes,
    bytes: Bytes,
}

impl Leaf {
    /// The node, as [`TreeNode::Leaf`] encodes: the number of that variant, the number of entries, the entries.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = codec::encode(&(0u32, self.count));
        bytes.extend_from_slice(&self.bytes);
        bytes
    }
}

/// An entry in the form that nodes have it in.
pub struct EncodedEntry {
    name: Bytes,
    bytes: Vec<u8>,
}

impl EncodedEntry {
    /// Encodes an entry.
    ///
    /// # Errors
    /// `TooLong` for an entry that no node has room for; one that breaks a rule of the format.
    pub fn new(entry: &Entry) -> Result<Self> {
        entry.validate().map_err(Error::damaged("an entry to be written"))?;
        let bytes = codec::encode(entry);
        if bytes.len() > MAX_ENTRY_LEN {
            let what = format!("the entry {}", entry.name.escape_ascii());
            return Err(too_long(what, bytes.len(), MAX_ENTRY_LEN));
        }
        Ok(Self { name: entry.name.clone(), bytes })
    }

    /// The bytes that an earlier one of this name had; none if these are of another name.
    #[must_use]
    pub fn again(name: &[u8], bytes: &[u8]) -> Option<Self> {
        let name = Bytes::from(name);
        (bytes.len() <= MAX_ENTRY_LEN && bytes.starts_with(&codec::encode(&name)))
            .then(|| Self { name, bytes: bytes.to_vec() })
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// An open node above the leaves.
#[derive(Default, Serialize, Deserialize)]
struct Branch {
    children: Vec<TreeChild>,
    len: usize,
}

impl<'a> TreeWriter<'a> {
    /// A directory without entries so far.
    #[must_use]
    pub fn new(put: &'a dyn PutChunk) -> Self {
        Self { put, open: Open::default() }
    }

    /// Adds the next entry.
    ///
    /// # Errors
    /// `TooLong` for an entry that no node has room for, after which another one may be added in its place; an entry that breaks a rule
    /// of the format or is out of order; any error of the repository.
    pub fn push(&mut self, entry: &Entry) -> Result<()> {
        self.push_encoded(EncodedEntry::new(entry)?)
    }

    /// The same of an entry that is encoded.
    ///
    /// # Errors
    /// An entry that is out of order; any error of the repository.
    pub fn push_encoded(&mut self, entry: EncodedEntry) -> Result<()> {
        if self.open.last_name.as_ref().is_some_and(|last| *last >= entry.name) {
            return Err(Error::damaged("an entry to be written")(Corruption::rule(
                "TREE-1",
                "it is out of order",
            )));
        }
        let EncodedEntry { name, bytes } = entry;
        if self.open.leaf.count == 0 {
            self.open.leaf.first = name.clone();
        }
        self.open.leaf.count += 1;
        self.open.leaf.bytes.0.extend_from_slice(&bytes);
        let ends = ends_node(self.open.leaf.bytes.len(), &[&name]);
        self.open.last_name = Some(name);
        if ends { self.close_leaf() } else { Ok(()) }
    }

    /// Writes what is still open and returns the root node.
    ///
    /// # Errors
    /// Any error of the repository.
    pub fn finish(mut self) -> Result<ChunkId> {
        if self.open.branches.is_empty() {
            return put_node(self.put, &self.open.leaf.encode(), &self.open.leaf.first);
        }
        if self.open.leaf.count > 0 {
            self.close_leaf()?;
        }
        let mut level = 0;
        // A level may get its last child from the one below, so go up; the highest one with a single child is the root.
        loop {
            let top = level + 1 == self.open.branches.len();
            let branch = &mut self.open.branches[level];
            if top && branch.children.len() == 1 {
                return Ok(branch.children[0].node);
            }
            if !branch.children.is_empty() {
                self.close_branch(level)?;
            }
            level += 1;
        }
    }

    fn close_leaf(&mut self) -> Result<()> {
        let leaf = std::mem::take(&mut self.open.leaf);
        let node = put_node(self.put, &leaf.encode(), &leaf.first)?;
        self.add_child(0, TreeChild { first: leaf.first, entries: leaf.count, node })
    }

    /// Adds a closed node to the branch above it; `index` 0 is the branch of level 1.
    fn add_child(&mut self, mut index: usize, mut child: TreeChild) -> Result<()> {
        loop {
            if self.open.branches.len() == index {
                self.open.branches.push(Branch::default());
            }
            let branch = &mut self.open.branches[index];
            branch.len += codec::encode(&child).len();
            let level = level_of(index)?;
            let ends = !branch.children.is_empty() && ends_node(branch.len, &[&[level], &child.first]);
            branch.children.push(child);
            if !ends {
                return Ok(());
            }
            child = self.take_branch(index)?;
            index += 1;
        }
    }

    fn close_branch(&mut self, index: usize) -> Result<()> {
        let child = self.take_branch(index)?;
        self.add_child(index + 1, child)
    }

    /// Writes the open branch and returns it as a child of the next level.
    fn take_branch(&mut self, index: usize) -> Result<TreeChild> {
        let Branch { children, .. } = std::mem::take(&mut self.open.branches[index]);
        let first = children.first().map(|child| child.first.clone()).unwrap_or_default();
        let entries = children.iter().map(|child| child.entries).sum();
        let node = codec::encode(&TreeNode::Branch(level_of(index)?, children));
        let node = put_node(self.put, &node, &first)?;
        Ok(TreeChild { first, entries, node })
    }
}

fn level_of(index: usize) -> Result<u8> {
    u8::try_from(index + 1).ok().filter(|level| *level <= MAX_LEVEL).ok_or_else(|| {
        Error::damaged("a directory to be written")(Corruption::rule(
            "TREE-2",
            "it needs more levels than there may be",
        ))
    })
}

fn ends_node(len: usize, name: &[&[u8]]) -> bool {
    if len < NODE_MIN_LEN {
        return false;
    }
    let [a, b, c, d, ..] = id::checksum_64(name);
    len >= NODE_MAX_LEN || u32::from_le_bytes([a, b, c, d]) % NODE_ENDS_EVERY == 0
}

/// Writes a node, if a reader will take it `[TREE-4]`.
fn put_node(put: &dyn PutChunk, bytes: &[u8], first: &Bytes) -> Result<ChunkId> {
    if bytes.len() > MAX_STRUCT_LEN {
        let what = format!("the part of a directory from {} on", first.escape_ascii());
        return Err(too_long(what, bytes.len(), MAX_STRUCT_LEN));
    }
    put.put(ChunkKind::Tree, bytes)
}

fn too_long(what: String, len: usize, most: usize) -> Error {
    Error::TooLong { what, len: len as u64, most: most as u64 }
}

/// Decodes a node and checks all that can be seen in it and against its parent.
fn check_node(bytes: &[u8], expected: Option<&(u8, TreeChild)>) -> Result<TreeNode, Corruption> {
    let node = decode_node(bytes)?;
    let (level, first, entries) = match &node {
        TreeNode::Leaf(entries) => (0, entries.first().map(|entry| &entry.name), entries.len() as u64),
        TreeNode::Branch(level, children) => {
            let total = children.iter().try_fold(0u64, |sum, child| sum.checked_add(child.entries));
            let total = total.ok_or(Corruption::rule("TREE-2", "counts of entries overflow"))?;
            (*level, children.first().map(|child| &child.first), total)
        }
    };
    if let Some((expected_level, child)) = expected {
        if level != *expected_level {
            return Err(Corruption::rule("TREE-2", "a node is not of the level below its parent"));
        }
        if first != Some(&child.first) || entries != child.entries {
            return Err(Corruption::rule("TREE-2", "a node is not what its parent says"));
        }
    }
    Ok(node)
}

fn encoded_len<T: serde::Serialize>(item: &T) -> usize {
    codec::encode(item).len()
}

/// Decodes a node and checks all that can be seen in it alone.
///
/// # Errors
/// Names the rule it breaks.
pub fn decode_node(bytes: &[u8]) -> Result<TreeNode, Corruption> {
    let node: TreeNode = codec::decode(bytes)?;
    // What the node has besides: its head, and the last item, with which it may have become as long as it likes.
    let rest = match &node {
        TreeNode::Leaf(entries) => {
            codec::encode(&(0u32, entries.len() as u64)).len() + entries.last().map_or(0, encoded_len)
        }
        TreeNode::Branch(level, children) => {
            codec::encode(&(1u32, level, children.len() as u64)).len()
                + children.last().map_or(0, encoded_len)
        }
    };
    if bytes.len().saturating_sub(rest) >= NODE_MAX_LEN {
        return Err(Corruption::rule("TREE-5", "a node goes on though it is long enough"));
    }
    match &node {
        TreeNode::Leaf(entries) => {
            entries.iter().try_for_each(Entry::validate)?;
            if entries.windows(2).any(|pair| pair[0].name >= pair[1].name) {
                return Err(Corruption::rule("TREE-1", "names do not ascend"));
            }
        }
        TreeNode::Branch(level, children) => {
            if *level == 0 || *level > MAX_LEVEL || children.is_empty() {
                return Err(Corruption::rule("TREE-2", "a branch has no children or no possible level"));
            }
            if children.windows(2).any(|pair| pair[0].first >= pair[1].first) {
                return Err(Corruption::rule("TREE-1", "names do not ascend"));
            }
        }
    }
    Ok(node)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;
    use crate::snapshot::{Kind, Meta};

    #[test]
    fn a_leaf_put_together_from_its_entries_is_what_the_structure_encodes_to() {
        for count in [0, 1, 250, 251, 70_000] {
            let name = |number: u32| Bytes(format!("{number:08}").into_bytes());
            let entry = |number| Entry {
                name: name(number),
                kind: Kind::Fifo,
                meta: Meta::default(),
                fields: Vec::new(),
            };
            let entries: Vec<Entry> = (0..count).map(entry).collect();
            let mut leaf = Leaf::default();
            for entry in &entries {
                leaf.count += 1;
                leaf.bytes.0.extend_from_slice(EncodedEntry::new(entry).unwrap().bytes());
            }
            assert!(leaf.encode() == codec::encode(&TreeNode::Leaf(entries)), "{count}");
        }
    }

    #[test]
    fn the_bytes_of_an_entry_are_not_those_of_another_name() {
        let entry = Entry {
            name: b"name".as_slice().into(),
            kind: Kind::Fifo,
            meta: Meta::default(),
            fields: Vec::new(),
        };
        let encoded = EncodedEntry::new(&entry).unwrap();
        assert!(EncodedEntry::again(b"name", encoded.bytes()).is_some());
        for other in [&b"nam"[..], b"names", b"", b"Name"] {
            assert!(EncodedEntry::again(other, encoded.bytes()).is_none());
        }
    }
}
