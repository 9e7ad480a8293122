//! A directory that is written anew while a walk is in it, as are all others on the path of the walk.

use crate::chunk::PutChunk;
use crate::codec;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::snapshot::tree::TreeWriter;
use crate::snapshot::{Entry, Kind};

/// Writes one directory of which the own entry is known and the root node is not. It takes little before it has entries: a path may have
/// very many levels.
pub struct NewDirectory<'a> {
    put: &'a dyn PutChunk,
    /// Encoded: in memory it takes several times as much.
    entry: Box<[u8]>,
    tree: Option<Box<TreeWriter<'a>>>,
}

impl<'a> NewDirectory<'a> {
    /// A directory without entries so far, which is to have this entry, whatever the root node in that.
    #[must_use]
    pub fn new(put: &'a dyn PutChunk, entry: &Entry) -> Self {
        Self { put, entry: codec::encode(entry).into(), tree: None }
    }

    /// Adds the next entry.
    ///
    /// # Errors
    /// As [`TreeWriter::push`].
    pub fn push(&mut self, entry: &Entry) -> Result<()> {
        self.tree.get_or_insert_with(|| Box::new(TreeWriter::new(self.put))).push(entry)
    }

    /// Writes what is still open. Returns its entry, and the root node, which that has now.
    ///
    /// # Errors
    /// Any error of the repository.
    pub fn finish(self) -> Result<(Entry, ChunkId)> {
        let node = self.tree.map_or_else(|| TreeWriter::new(self.put), |tree| *tree).finish()?;
        let entry: Entry = codec::decode(&self.entry).map_err(Error::damaged("an entry to be written"))?;
        Ok((entry.with_node(node), node))
    }
}

impl Entry {
    /// The entry of a directory of either kind with another root node.
    #[must_use]
    pub fn with_node(self, node: ChunkId) -> Self {
        let is_implied = matches!(self.kind, Kind::Implied(_));
        Self { kind: if is_implied { Kind::Implied(node) } else { Kind::Directory(node) }, ..self }
    }
}
