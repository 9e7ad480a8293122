//! The largest whole part of a damaged tree, as a tree `[REPAIR-2]`.
//!
//! A file of which a chunk is lost is left out, as one that could not be read: half of it would pass for the file. A folder of which nodes are
//! lost keeps its other entries, and says that it has more. An attribute that is lost is dropped. What is whole stays as it is, node for node.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::chunk::{GetChunk, PutChunk};
use crate::codec::Bytes;
use crate::error::{Error, Result};
use crate::heal::rescue::LostChunks;
use crate::snapshot::list::Pieces;
use crate::snapshot::tree::{Level, Levels};
use crate::snapshot::{Content, ENTRY_INCOMPLETE, Entry, Field, Kind, Meta, Piece, Why};

/// What is lost at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// A file.
    Content,
    /// Entries of a folder, whose names are not known.
    Entries,
    /// Attributes of an entry, which is whole but for them.
    Attributes,
}

/// Makes whole trees of damaged ones.
pub(super) struct Rebuilder<'r> {
    pub get: &'r dyn GetChunk,
    pub put: &'r dyn PutChunk,
    pub lost: &'r LostChunks,
    pub stop: &'r AtomicBool,
    /// Folders below which nothing is lost, by half of the id of their root node.
    pub whole: HashSet<[u8; 16]>,
}

/// What became of a tree.
pub(super) struct Rebuilt {
    /// Its root; the same as before if nothing is lost.
    pub root: Entry,
    /// Entries but folders that are kept, and folders that are whole: 0 says that nothing is left.
    pub kept: u64,
    /// Whether something is lost.
    pub is_hit: bool,
}

/// A folder on the way from the root to where the walk is.
type Folder<'r> = Level<'r, Hit>;

/// What is lost of a folder.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Hit {
    is_hit: bool,
    lacks_entries: bool,
}

/// Hears what is lost at which path.
pub(super) type Losing<'l> = dyn FnMut(&[u8], Lost) -> Result<()> + 'l;

impl<'r> Rebuilder<'r> {
    /// Makes the tree below a root.
    ///
    /// # Errors
    /// `Interrupted`; any error of the medium that is no damage; that of `losing`.
    pub(super) fn rebuild(&mut self, root: &Entry, losing: &mut Losing<'_>) -> Result<Rebuilt> {
        let (mut path, mut kept) = (Vec::new(), 0);
        let mut root = root.clone();
        let mut is_hit = self.drop_lost_attributes(&mut root, b"", losing)?;
        let Some(first) = self.folder(&root, 0) else { return Ok(Rebuilt { root, kept, is_hit }) };
        let mut open = Levels::new(self.get, self.put);
        open.push(first);
        while let Some(folder) = open.last_mut() {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            path.truncate(folder.path_len);
            match folder.next_entry() {
                Some(Ok(mut entry)) => {
                    push_name(&mut path, &entry.name);
                    folder.state.is_hit |= self.drop_lost_attributes(&mut entry, &path, losing)?;
                    let is_whole =
                        entry.kind.directory().is_none_or(|node| self.whole.contains(&node.half()));
                    if !is_whole && let Some(below) = self.folder(&entry, path.len()) {
                        open.push(below);
                        continue;
                    }
                    if self.is_content_lost(&entry)? {
                        folder.state.is_hit = true;
                        losing(&path, Lost::Content)?;
                        entry = left_out(entry.name);
                    } else if !matches!(entry.kind, Kind::LeftOut(..)) {
                        kept += 1;
                    }
                    folder.tree.push(&entry)?;
                }
                Some(Err(error)) if error.is_damage() => {
                    if !folder.state.lacks_entries {
                        losing(&path, Lost::Entries)?;
                    }
                    (folder.state.is_hit, folder.state.lacks_entries) = (true, true);
                }
                Some(Err(error)) => return Err(error),
                None => {
                    let Some(done) = open.pop()? else { break };
                    let is_done_hit = done.state.is_hit;
                    let entry = self.close(done)?;
                    kept += u64::from(!is_done_hit);
                    if let Some(above) = open.last_mut() {
                        above.state.is_hit |= is_done_hit;
                        above.tree.push(&entry)?;
                    } else {
                        is_hit |= is_done_hit;
                        root = entry;
                    }
                }
            }
        }
        Ok(Rebuilt { root, kept, is_hit })
    }

    fn folder(&self, entry: &Entry, path_len: usize) -> Option<Folder<'r>> {
        let node = entry.kind.directory()?;
        Some(Level::new((self.get, self.put), entry, [node], path_len, Hit::default()))
    }

    /// The entry of a folder that was read to its end: with another node only if something in it is lost.
    fn close(&mut self, folder: Folder<'r>) -> Result<Entry> {
        let Level { mut entry, tree, state: Hit { is_hit, lacks_entries }, .. } = folder;
        let new = tree.finish()?;
        if !is_hit {
            self.whole.extend(entry.kind.directory().map(|node| node.half()));
            return Ok(entry);
        }
        entry = entry.with_node(new);
        if lacks_entries && !entry.is_incomplete() {
            entry.fields.push(Field { tag: ENTRY_INCOMPLETE, critical: false, value: Bytes::default() });
            entry.fields.sort_by_key(|field| field.tag);
        }
        Ok(entry)
    }

    fn drop_lost_attributes(&self, entry: &mut Entry, path: &[u8], losing: &mut Losing<'_>) -> Result<bool> {
        let before = entry.meta.xattrs.len();
        entry
            .meta
            .xattrs
            .retain(|xattr| !matches!(&xattr.value, Content::Pieces(pieces) if self.has_lost(pieces)));
        let is_hit = entry.meta.xattrs.len() < before;
        if is_hit {
            losing(path, Lost::Attributes)?;
        }
        Ok(is_hit)
    }

    fn is_content_lost(&self, entry: &Entry) -> Result<bool> {
        let Kind::File(size, content) = &entry.kind else { return Ok(false) };
        self.is_lost(content, *size)
    }

    /// Whether something of a content is lost.
    pub(super) fn is_lost(&self, content: &Content, size: u64) -> Result<bool> {
        for piece in Pieces::new(self.get, content, size) {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            match piece {
                Ok(piece) if self.has_lost(&[piece]) => return Ok(true),
                Ok(_) => {}
                Err(error) if error.is_damage() => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn has_lost(&self, pieces: &[Piece]) -> bool {
        pieces.iter().any(|piece| matches!(piece, Piece::Data(id, len) if self.lost.contains(&(*id, *len))))
    }
}

/// What says that something of this name was there and could not be read.
fn left_out(name: Bytes) -> Entry {
    let errno = u32::try_from(libc::EIO).unwrap_or(0);
    Entry { name, kind: Kind::LeftOut(Why::Unreadable, errno), meta: Meta::default(), fields: Vec::new() }
}

fn push_name(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}
