//! Which paths of which snapshots need what is lost. Walks by path, so a node that is shared is visited once for each place it
//! has, unless all below it is whole: that is remembered.

use std::collections::HashSet;

use crate::check::{Check, Loss, Start};
use crate::chunk::GetChunk;
use crate::codec::Bytes;
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind, SnapshotId};
use crate::snapshot::{Content, Entry, Kind, ListNode, Piece, TreeNode, list, tree};

/// A node on the way from the root to where the walk is.
struct Level {
    node: ChunkId,
    /// The length of the path of the directory that the node belongs to.
    path_len: usize,
    /// What is still to be visited below it, the next one last.
    todo: Vec<Child>,
    /// Whether something below it is lost.
    is_hit: bool,
}

/// What a node of a directory leads to.
enum Child {
    /// A further node of the same directory.
    Node(ChunkId),
    /// The root node of a directory of this name.
    Directory(Bytes, ChunkId),
}

/// The walk through one snapshot.
struct Place<'a> {
    snapshot: &'a SnapshotId,
    path: Vec<u8>,
    levels: Vec<Level>,
    in_notes: bool,
}

impl Place<'_> {
    fn loss(&self, loss: Loss) -> Loss {
        if self.in_notes { Loss::Notes } else { loss }
    }
}

impl Check<'_> {
    /// Names every path that is lost.
    pub(super) fn costs(&mut self, starts: &[Start]) -> Result<()> {
        let mut whole = HashSet::new();
        for start in starts {
            let mut place = Place {
                snapshot: &start.snapshot,
                path: start.path.clone(),
                levels: Vec::new(),
                in_notes: false,
            };
            self.entry_costs(&mut whole, &place, &start.entry)?;
            if let Some(node) = start.entry.kind.directory() {
                self.costs_below(&mut whole, &mut place, node)?;
            }
            if let Some(notes) = start.notes {
                place.path.clear();
                place.in_notes = true;
                self.costs_below(&mut whole, &mut place, notes)?;
            }
        }
        Ok(())
    }

    fn costs_below(
        &mut self,
        whole: &mut HashSet<ChunkId>,
        place: &mut Place<'_>,
        root: ChunkId,
    ) -> Result<()> {
        self.enter(whole, place, root)?;
        while let Some(level) = place.levels.last_mut() {
            self.go_on()?;
            place.path.truncate(level.path_len);
            match level.todo.pop() {
                Some(Child::Node(node)) => {
                    self.enter(whole, place, node)?;
                }
                Some(Child::Directory(name, node)) => {
                    push_name(&mut place.path, &name);
                    self.enter(whole, place, node)?;
                }
                None => {
                    let done = place.levels.pop();
                    match (done, place.levels.last_mut()) {
                        (Some(done), Some(parent)) if done.is_hit => parent.is_hit = true,
                        (Some(done), _) if !done.is_hit => {
                            whole.insert(done.node);
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Opens a node of the directory at `place.path`.
    fn enter(&mut self, whole: &mut HashSet<ChunkId>, place: &mut Place<'_>, node: ChunkId) -> Result<()> {
        if whole.contains(&node) {
            return Ok(());
        }
        let opened = if self.lost.contains_key(&node) {
            None
        } else {
            let read = self.reader.get(ChunkKind::Tree, &node).and_then(|bytes| {
                tree::decode_node(&bytes)
                    .map_err(|broken| Error::damaged(&format!("tree node {node}"))(broken))
            });
            match read {
                Ok(opened) => Some(opened),
                // It was read a moment ago: a medium that is failing now.
                Err(error) => {
                    self.lose(ChunkKind::Tree, &node, error)?;
                    self.attribute()?;
                    None
                }
            }
        };
        let Some(opened) = opened else {
            self.charge(place, &[node], Loss::Entries);
            place.levels.last_mut().into_iter().for_each(|parent| parent.is_hit = true);
            return Ok(());
        };
        let mut level = Level { node, path_len: place.path.len(), todo: Vec::new(), is_hit: false };
        match opened {
            TreeNode::Branch(_, children) => {
                level.todo = children.into_iter().rev().map(|child| Child::Node(child.node)).collect();
            }
            TreeNode::Leaf(entries) => {
                for entry in entries {
                    push_name(&mut place.path, &entry.name);
                    level.is_hit |= self.entry_costs(whole, place, &entry)?;
                    place.path.truncate(level.path_len);
                    if let Some(node) = entry.kind.directory() {
                        level.todo.push(Child::Directory(entry.name, node));
                    }
                }
                level.todo.reverse();
            }
        }
        place.levels.push(level);
        Ok(())
    }

    /// Names the entry at `place.path` if its content or an attribute is lost.
    fn entry_costs(
        &mut self,
        whole: &mut HashSet<ChunkId>,
        place: &Place<'_>,
        entry: &Entry,
    ) -> Result<bool> {
        let mut lost = Vec::new();
        for xattr in &entry.meta.xattrs {
            self.lost_in(whole, &xattr.value, &mut lost)?;
        }
        if let Kind::File(_, content) = &entry.kind {
            self.lost_in(whole, content, &mut lost)?;
        }
        self.charge(place, &lost, Loss::Content);
        Ok(!lost.is_empty())
    }

    /// Gathers what is lost of a content.
    fn lost_in(
        &mut self,
        whole: &mut HashSet<ChunkId>,
        content: &Content,
        lost: &mut Vec<ChunkId>,
    ) -> Result<()> {
        let mut nodes = match content {
            Content::Inline(_) => return Ok(()),
            Content::Pieces(pieces) => {
                self.lost_pieces(pieces, lost);
                return Ok(());
            }
            Content::List(root) => vec![*root],
        };
        // A file may have a node in very many places.
        let mut seen = HashSet::new();
        while let Some(node) = nodes.pop() {
            self.go_on()?;
            if whole.contains(&node) || !seen.insert(node) {
                continue;
            }
            if self.lost.contains_key(&node) {
                lost.push(node);
                continue;
            }
            let read = self.reader.get(ChunkKind::List, &node).and_then(|bytes| {
                list::decode_node(&bytes)
                    .map_err(|broken| Error::damaged(&format!("list node {node}"))(broken))
            });
            match read {
                Ok(ListNode::Leaf(pieces)) => {
                    if !self.lost_pieces(&pieces, lost) {
                        whole.insert(node);
                    }
                }
                Ok(ListNode::Branch(_, children)) => {
                    nodes.extend(children.iter().rev().map(|child| child.node));
                }
                Err(error) => {
                    self.lose(ChunkKind::List, &node, error)?;
                    self.attribute()?;
                    lost.push(node);
                }
            }
        }
        Ok(())
    }

    fn lost_pieces(&self, pieces: &[Piece], lost: &mut Vec<ChunkId>) -> bool {
        let before = lost.len();
        lost.extend(pieces.iter().filter_map(|piece| match piece {
            Piece::Data(id, _) if self.lost.contains_key(id) => Some(*id),
            _ => None,
        }));
        lost.len() > before
    }

    /// Adds the place to the costs of every damage that these losses are due to, once to each.
    fn charge(&mut self, place: &Place<'_>, chunks: &[ChunkId], loss: Loss) {
        let mut numbers: Vec<u32> = chunks
            .iter()
            .filter_map(|id| self.lost.get(id))
            .flat_map(|lost| &lost.damages)
            .copied()
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        for number in numbers {
            self.damages.cost(number, place.snapshot, &place.path, place.loss(loss));
        }
    }
}

fn push_name(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}
