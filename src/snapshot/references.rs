//! Which chunks snapshots and nodes refer to, whatever the paths: for what asks of whole repositories.

use crate::chunk::GetChunk;
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind};
use crate::snapshot::{Content, Entry, Kind, ListNode, Piece, Snapshot, TreeNode, list, tree};

/// A node that is referred to, or a data chunk and its length.
pub type Reference = (ChunkKind, ChunkId, u32);

/// What a snapshot refers to itself.
pub fn of_snapshot(snapshot: &Snapshot, found: &mut Vec<Reference>) {
    let roots = snapshot.root.kind.directory().into_iter().chain(snapshot.notes);
    found.extend(roots.map(|node| (ChunkKind::Tree, node, 0)));
    of_xattrs(&snapshot.root, found);
}

/// Reads a node of a tree or list and returns its length; what it refers to is added to `found`, the first one last.
///
/// # Errors
/// Damage; any error of `get`.
pub fn of_node(
    get: &dyn GetChunk,
    kind: ChunkKind,
    id: &ChunkId,
    found: &mut Vec<Reference>,
) -> Result<usize> {
    let bytes = get.get(kind, id)?;
    let file = format!("{kind} node {id}");
    if kind == ChunkKind::Tree {
        match tree::decode_node(&bytes).map_err(Error::damaged(&file))? {
            TreeNode::Leaf(entries) => entries.iter().rev().for_each(|entry| of_entry(entry, found)),
            TreeNode::Branch(_, children) => {
                found.extend(children.iter().rev().map(|child| (ChunkKind::Tree, child.node, 0)));
            }
        }
    } else {
        match list::decode_node(&bytes).map_err(Error::damaged(&file))? {
            ListNode::Leaf(pieces) => of_pieces(&pieces, found),
            ListNode::Branch(_, children) => {
                found.extend(children.iter().rev().map(|child| (ChunkKind::List, child.node, 0)));
            }
        }
    }
    Ok(bytes.len())
}

/// What an entry refers to itself.
pub fn of_entry(entry: &Entry, found: &mut Vec<Reference>) {
    if let Some(node) = entry.kind.directory() {
        found.push((ChunkKind::Tree, node, 0));
    }
    of_contents(entry, found);
}

/// What an entry refers to itself, but for the root node of a directory.
pub fn of_contents(entry: &Entry, found: &mut Vec<Reference>) {
    if let Kind::File(_, content) = &entry.kind {
        of_content(content, found);
    }
    of_xattrs(entry, found);
}

fn of_xattrs(entry: &Entry, found: &mut Vec<Reference>) {
    entry.meta.xattrs.iter().for_each(|xattr| of_content(&xattr.value, found));
}

fn of_content(content: &Content, found: &mut Vec<Reference>) {
    match content {
        Content::Inline(_) => {}
        Content::Pieces(pieces) => of_pieces(pieces, found),
        Content::List(node) => found.push((ChunkKind::List, *node, 0)),
    }
}

fn of_pieces(pieces: &[Piece], found: &mut Vec<Reference>) {
    found.extend(pieces.iter().filter_map(|piece| match piece {
        Piece::Data(id, len) => Some((ChunkKind::Data, *id, *len)),
        Piece::Hole(_) => None,
    }));
}
