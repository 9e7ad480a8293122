//! Each distinct node of the trees once: what its parent says of it, what it says itself, and every chunk it needs.
//!
//! A node is visited again only if another parent says something else of it. All that the rules ask for across nodes is in that
//! *claim*: level, first name, number of entries, and the name that its last one must stay below `[TREE-1]` `[TREE-2]`, or the length
//! `[LIST-1]`. So a node of a huge directory that many snapshots share is read once.

use std::collections::HashSet;

use crate::check::damage::chunk_name;
use crate::check::{Check, Lost, Start};
use crate::chunk::GetChunk;
use crate::codec::Bytes;
use crate::error::{Corruption, Error, Result};
use crate::event::Event;
use crate::header::array;
use crate::id::{self, ChunkId, ChunkKind};
use crate::pack::{Location, pack_file_name};
use crate::snapshot::list;
use crate::snapshot::tree;
use crate::snapshot::{Content, Entry, Kind, ListNode, Piece, TreeChild, TreeNode, sum_pieces};
use crate::sorted::Gathered;

/// So many references to data chunks are held in memory, in a budget of the default size: 36 MiB.
const REFERENCES_AT_ONCE: usize = 1 << 20;
/// The bytes of one: an id and a length.
const REFERENCE_LEN: usize = 36;
/// So many of them are looked up together.
const LOCATED_AT_ONCE: usize = 1 << 12;
/// So many missing chunks that nothing accounts for have a damage of their own.
const MISSING_NAMED: usize = 1000;
/// What the others are reported under.
const MISSING_OTHERS: &str = "further chunks";

/// A node to be visited, and what its parent says of it.
struct Task {
    kind: ChunkKind,
    node: ChunkId,
    /// None for a root.
    level: Option<u8>,
    /// Entries of a child in a tree, bytes in a list.
    count: Option<u64>,
    first: Option<Bytes>,
    below: Option<Bytes>,
}

impl Task {
    fn root(node: ChunkId) -> Self {
        Self { kind: ChunkKind::Tree, node, level: None, count: None, first: None, below: None }
    }

    fn list(node: ChunkId, level: Option<u8>, len: u64) -> Self {
        Self { kind: ChunkKind::List, node, level, count: Some(len), first: None, below: None }
    }

    /// What tells this visit from others.
    fn key(&self) -> [u8; 16] {
        let level = self.level.unwrap_or(u8::MAX);
        let count = self.count.unwrap_or(u64::MAX).to_le_bytes();
        let first = self.first.as_deref().unwrap_or_default();
        // Names have no NUL, so what is joined by one is told apart.
        let below = self.below.as_deref().unwrap_or_default();
        id::checksum_128(&[self.node.as_bytes(), &[level], &count, first, &[0], below])
    }
}

/// A walk under way.
struct Walk {
    seen: HashSet<[u8; 16]>,
    stack: Vec<Task>,
    /// The data chunks that the node needs that is just visited.
    data: Vec<(ChunkId, u32)>,
}

impl Walk {
    fn push(&mut self, task: Task) {
        if self.seen.insert(task.key()) {
            self.stack.push(task);
        }
    }

    fn entry(&mut self, entry: &Entry) {
        for xattr in &entry.meta.xattrs {
            self.content(&xattr.value, 0);
        }
        match &entry.kind {
            Kind::File(size, content) => self.content(content, *size),
            Kind::Directory(node) | Kind::Implied(node) => self.push(Task::root(*node)),
            _ => {}
        }
    }

    fn content(&mut self, content: &Content, size: u64) {
        match content {
            Content::Inline(_) => {}
            Content::Pieces(pieces) => self.pieces(pieces),
            Content::List(node) => self.push(Task::list(*node, None, size)),
        }
    }

    fn pieces(&mut self, pieces: &[Piece]) {
        self.data.extend(pieces.iter().filter_map(|piece| match piece {
            Piece::Data(id, len) => Some((*id, *len)),
            Piece::Hole(_) => None,
        }));
    }
}

impl Check<'_> {
    /// Visits everything that the snapshots need.
    pub(super) fn walk(&mut self, starts: &[Start]) -> Result<()> {
        let mut walk = Walk { seen: HashSet::new(), stack: Vec::new(), data: Vec::new() };
        let mut references = self.no_references();
        for start in starts {
            walk.entry(&start.entry);
            if let Some(notes) = start.notes {
                walk.push(Task::root(notes));
            }
            self.gather(&mut walk, &mut references)?;
            while let Some(task) = walk.stack.pop() {
                self.go_on()?;
                self.visit(&mut walk, &task)?;
                self.gather(&mut walk, &mut references)?;
            }
        }
        self.data_chunks(references)
    }

    fn no_references(&self) -> Gathered<REFERENCE_LEN> {
        let folder = self.options.scratch.clone().unwrap_or_else(std::env::temp_dir);
        Gathered::new(&folder, self.repository.budget().share_at_most(REFERENCES_AT_ONCE))
    }

    /// Puts what the last node needs to the rest, which is asked for all at once in the end: so the index is read once.
    fn gather(&mut self, walk: &mut Walk, references: &mut Gathered<REFERENCE_LEN>) -> Result<()> {
        for (id, len) in walk.data.drain(..) {
            if references.add(encode_reference(&id, len)).is_err() {
                // There is no room for more than memory has: part by part, then.
                let others = std::mem::replace(references, self.no_references());
                self.data_chunks(others)?;
            }
        }
        Ok(())
    }

    fn visit(&mut self, walk: &mut Walk, task: &Task) -> Result<()> {
        let read = self.reader.get(task.kind, &task.node).and_then(|bytes| {
            match task.kind {
                ChunkKind::List => open_list(walk, task, &bytes).map(|()| 0),
                _ => open_tree(walk, task, &bytes),
            }
            .map_err(|broken| Error::damaged(&format!("{} node {}", task.kind, task.node))(broken))
        });
        match read {
            Ok(entries) => {
                self.report.chunks += 1;
                self.report.entries += entries;
                Ok(())
            }
            Err(error) => self.lose(task.kind, &task.node, error),
        }
    }

    /// Asks for data chunks.
    fn data_chunks(&mut self, references: Gathered<REFERENCE_LEN>) -> Result<()> {
        let most = self.repository.budget().share_at_most(REFERENCES_AT_ONCE);
        let references = references.sort();
        let mut rows = references.rows();
        let mut to_read = Vec::new();
        loop {
            let mut some = Vec::with_capacity(LOCATED_AT_ONCE);
            while some.len() < LOCATED_AT_ONCE
                && let Some(row) = rows.next()?
            {
                some.push(decode_reference(&row));
            }
            if some.is_empty() {
                return self.read_chunks(&mut to_read);
            }
            self.locate(&some, &mut to_read)?;
            if to_read.len() >= most {
                self.read_chunks(&mut to_read)?;
            }
        }
    }

    /// Looks for data chunks, which ascend, and adds those that have to be read to be believed.
    fn locate(
        &mut self,
        references: &[(ChunkId, u32)],
        to_read: &mut Vec<(Location, ChunkId, u32)>,
    ) -> Result<()> {
        let read_all = self.options.read_data && self.options.only.is_some();
        // Each id once: pieces may give it very many lengths, and it may have very many places.
        let mut ids: Vec<ChunkId> = references.iter().map(|(id, _)| *id).collect();
        ids.dedup();
        let each = self.reader.index().locate_each(ChunkKind::Data, &ids, &|| self.go_on())?;
        for &(id, len) in references {
            self.go_on()?;
            let places = ids.binary_search(&id).map_or(&[][..], |number| &each[number]);
            self.report.chunks += 1;
            let is_sound = |place: &Location| place.len == len && !self.doubted.contains(&place.pack);
            match places.first() {
                None => {
                    self.lose(ChunkKind::Data, &id, Error::ChunkMissing { kind: ChunkKind::Data, id })?;
                }
                Some(_) if !read_all && places.iter().any(is_sound) => {}
                Some(first) => to_read.push((*first, id, len)),
            }
        }
        Ok(())
    }

    /// Reads chunks, each frame once.
    fn read_chunks(&mut self, to_read: &mut Vec<(Location, ChunkId, u32)>) -> Result<()> {
        to_read.sort_unstable();
        for (location, id, len) in to_read.drain(..) {
            self.go_on()?;
            let read = self.reader.get(ChunkKind::Data, &id).and_then(|plain| {
                if plain.len() as u64 == u64::from(len) {
                    return Ok(());
                }
                // [LIST-2]
                let what = Corruption::rule("LIST-2", "a piece gives another length than its chunk has");
                Err(Error::damaged(&chunk_name("data", &id.to_string()))(what))
            });
            self.observer.event(&Event::Advanced { bytes: location.len.into() });
            if let Err(error) = read {
                self.lose(ChunkKind::Data, &id, error)?;
            }
        }
        Ok(())
    }

    /// A chunk cannot be had, or is not what it should be.
    pub(super) fn lose(&mut self, kind: ChunkKind, id: &ChunkId, error: Error) -> Result<()> {
        if !error.is_damage() {
            return Err(error);
        }
        let mut damages = Vec::new();
        match &error {
            // Attributed to a pack later, if a segment knows of one.
            Error::ChunkMissing { .. } => {}
            Error::Damaged { file, .. } | Error::Repository { file, .. } if file.starts_with("packs/") => {
                for place in self.reader.index().locate_all(kind, id)? {
                    damages.extend(self.fault_of(&place, kind, id));
                }
                if damages.is_empty() {
                    // It can be read now: a medium that fails now and then.
                    damages.push(self.damages.add_error(error));
                }
            }
            _ => damages.push(self.damages.add_error(error)),
        }
        damages.sort_unstable();
        damages.dedup();
        self.lost.entry(*id).or_insert(Lost { kind, damages });
        Ok(())
    }

    /// What keeps a chunk from being read at one of its places.
    fn fault_of(&mut self, place: &Location, kind: ChunkKind, id: &ChunkId) -> Option<u32> {
        let name = pack_file_name(&place.pack);
        let read = self.reader.frame(place).and_then(|frame| {
            self.reader.chunk(&frame, place, kind, id)?;
            Ok(())
        });
        let error = read.err()?;
        self.doubted.insert(place.pack);
        self.undecodable.insert(place.pack);
        Some(self.damages.add(&name, error))
    }

    /// Finds what the loss of chunks is due to: packs that a segment names for them and that are missing or damaged.
    pub(super) fn attribute(&mut self) -> Result<()> {
        let (damages, lost) = (&self.damages, &mut self.lost);
        for segment in self.reader.index().segments() {
            let read = segment.for_each(|(id, location)| {
                let Some(lost) = lost.get_mut(&id) else { return };
                let number = damages.number(&pack_file_name(&location.pack));
                lost.damages.extend(number.filter(|number| !lost.damages.contains(number)));
            });
            match read {
                Err(error) if !error.is_damage() => return Err(error),
                // A damaged segment was reported when it was checked; what only it could explain is named by itself.
                _ => {}
            }
        }
        let mut unexplained: Vec<(ChunkId, ChunkKind)> = self
            .lost
            .iter()
            .filter(|(_, lost)| lost.damages.is_empty())
            .map(|(id, lost)| (*id, lost.kind))
            .collect();
        unexplained.sort_unstable();
        for (at, (id, kind)) in unexplained.into_iter().enumerate() {
            let name = chunk_name(&kind.to_string(), &id.to_string());
            let name = if at < MISSING_NAMED { name.as_str() } else { MISSING_OTHERS };
            let number = match self.damages.number(name) {
                Some(number) => number,
                None => self.damages.add(name, Error::ChunkMissing { kind, id }),
            };
            self.lost.insert(id, Lost { kind, damages: vec![number] });
        }
        Ok(())
    }
}

impl Check<'_> {
    /// Says of each damage which chunks are lost by it.
    pub(super) fn name_chunks(&mut self) {
        let mut lost: Vec<_> = self.lost.iter().collect();
        lost.sort_unstable_by_key(|(id, _)| **id);
        for (id, lost) in &lost {
            lost.damages.iter().for_each(|number| self.damages.chunk(*number, lost.kind, **id));
        }
        self.report.chunks_lost = lost.len() as u64;
    }
}

fn encode_reference(id: &ChunkId, len: u32) -> [u8; REFERENCE_LEN] {
    let mut row = [0; REFERENCE_LEN];
    row[..32].copy_from_slice(id.as_bytes());
    row[32..].copy_from_slice(&len.to_be_bytes());
    row
}

fn decode_reference(row: &[u8; REFERENCE_LEN]) -> (ChunkId, u32) {
    (ChunkId::from_bytes(array(row)), u32::from_be_bytes(array(&row[32..])))
}

/// Holds a node of a directory against its claim, and notes what it needs.
fn open_tree(walk: &mut Walk, task: &Task, bytes: &[u8]) -> Result<u64, Corruption> {
    let node = tree::decode_node(bytes)?;
    let (level, first, last, count) = match &node {
        TreeNode::Leaf(entries) => {
            let name = |entry: Option<&Entry>| entry.map(|entry| entry.name.clone());
            (0, name(entries.first()), name(entries.last()), entries.len() as u64)
        }
        TreeNode::Branch(level, children) => {
            let sum = children.iter().try_fold(0u64, |sum, child| sum.checked_add(child.entries));
            let sum = sum.ok_or(Corruption::rule("TREE-2", "counts of entries overflow"))?;
            let name = |child: Option<&TreeChild>| child.map(|child| child.first.clone());
            (*level, name(children.first()), name(children.last()), sum)
        }
    };
    if task.level.is_some_and(|claim| claim != level) {
        return Err(Corruption::rule("TREE-2", "a node is not of the level below its parent"));
    }
    if task.count.is_some_and(|claim| claim != count) || task.first.is_some() && task.first != first {
        return Err(Corruption::rule("TREE-2", "a node is not what its parent says"));
    }
    if task.below.is_some() && last >= task.below {
        return Err(Corruption::rule("TREE-1", "names do not ascend"));
    }
    match node {
        TreeNode::Leaf(entries) => {
            // The first one is pushed last and visited first: in the order in which the nodes were written.
            entries.iter().rev().for_each(|entry| walk.entry(entry));
            Ok(count)
        }
        TreeNode::Branch(level, children) => {
            let mut below = task.below.clone();
            for child in children.into_iter().rev() {
                let first = child.first.clone();
                walk.push(Task {
                    kind: ChunkKind::Tree,
                    node: child.node,
                    level: Some(level - 1),
                    count: Some(child.entries),
                    first: Some(child.first),
                    below,
                });
                below = Some(first);
            }
            Ok(0)
        }
    }
}

/// Holds a node of a list against its claim, and notes what it needs.
fn open_list(walk: &mut Walk, task: &Task, bytes: &[u8]) -> Result<(), Corruption> {
    let node = list::decode_node(bytes)?;
    let (level, len) = match &node {
        ListNode::Leaf(pieces) => (0, sum_pieces(pieces)?),
        ListNode::Branch(level, children) => {
            (*level, children.iter().fold(0u64, |sum, child| sum.saturating_add(child.len)))
        }
    };
    if task.level.is_some_and(|claim| claim != level) || task.count != Some(len) {
        return Err(Corruption::rule("LIST-1", "it is not what its parent says"));
    }
    match node {
        ListNode::Leaf(pieces) => walk.pieces(&pieces),
        ListNode::Branch(level, children) => {
            for child in children.iter().rev() {
                walk.push(Task::list(child.node, Some(level - 1), child.len));
            }
        }
    }
    Ok(())
}
