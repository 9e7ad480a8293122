//! Who owns which chunk: a row on disk for each that is found.
//!
//! Below a target every entry is looked at, for its own row. Of all else each node is read once for each row that it turns out to be shared
//! by, and no more often than the rows are deep: what is below a node that is known to be shared is so too.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::chunk::GetChunk;
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind, SnapshotId};
use crate::snapshot::references::{Reference, of_contents, of_entry, of_node};
use crate::snapshot::tree::{Entries, let_rest};
use crate::snapshot::{Entry, Snapshot};
use crate::sorted::Gathered;
use crate::usage::owners::Owners;
use crate::usage::{Asking, OnProblem};

/// A chunk and one of its owners.
pub(super) const FOUND_LEN: usize = 36;
/// So many of these are held in memory, in a budget of the default size: 18 MiB of them.
const FOUND_AT_ONCE: usize = 1 << 19;

pub(super) struct Walker<'a> {
    get: &'a dyn GetChunk,
    stop: &'a AtomicBool,
    problem: OnProblem<'a>,
    /// The snapshot that is walked.
    pub(super) of: SnapshotId,
    pub(super) found: Gathered<FOUND_LEN>,
    /// The sizes of the files of each row.
    pub(super) sizes: HashMap<u32, u64>,
    /// What the owners of each node have in common, by the first half of its id.
    nodes: HashMap<[u8; 16], u32>,
    unreadable: HashSet<[u8; 16]>,
}

/// Notes which nodes are read through it.
struct Noting<'a> {
    get: &'a dyn GetChunk,
    noted: Mutex<Vec<ChunkId>>,
}

impl GetChunk for Noting<'_> {
    fn get(&self, kind: ChunkKind, id: &ChunkId) -> Result<Vec<u8>> {
        if let Ok(mut noted) = self.noted.lock() {
            noted.push(*id);
        }
        self.get.get(kind, id)
    }
}

impl Noting<'_> {
    fn take(&self) -> Vec<ChunkId> {
        self.noted.lock().map(|mut noted| std::mem::take(&mut *noted)).unwrap_or_default()
    }
}

/// A folder that is being walked.
struct Level<'a> {
    entries: Entries<'a>,
    row: u32,
    path_len: usize,
}

impl<'a> Walker<'a> {
    pub(super) fn new(asking: &Asking<'a>, problem: OnProblem<'a>) -> Self {
        let most = asking.reader.budget().share(FOUND_AT_ONCE);
        Self {
            get: asking.reader,
            stop: asking.stop,
            problem,
            of: SnapshotId::from_bytes([0; 32]),
            found: Gathered::new(&asking.scratch, most),
            sizes: HashMap::new(),
            nodes: HashMap::new(),
            unreadable: HashSet::new(),
        }
    }

    fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn owns(&mut self, owner: u32, id: &ChunkId) -> Result<()> {
        let mut row = [0; FOUND_LEN];
        row[..32].copy_from_slice(id.as_bytes());
        row[32..].copy_from_slice(&owner.to_be_bytes());
        self.found.add(row)
    }

    fn unreadable(&mut self, id: &ChunkId, error: Error) {
        if self.unreadable.insert(id.half()) {
            (self.problem)(&self.of, error);
        }
    }

    /// Takes what is pending, and all below it, for a row; but for what is known to be of that one, or of one above it.
    pub(super) fn claim(&mut self, owners: &Owners, owner: u32, pending: &mut Vec<Reference>) -> Result<()> {
        while let Some((kind, id, _)) = pending.pop() {
            self.check()?;
            if kind != ChunkKind::Data {
                let known = self.nodes.get(&id.half()).copied();
                let common = known.map_or(owner, |known| owners.common(known, owner));
                if known == Some(common) {
                    continue;
                }
                self.nodes.insert(id.half(), common);
            }
            self.owns(owner, &id)?;
            self.open(kind, &id, pending);
        }
        Ok(())
    }

    /// Takes what is pending, and all below it, for a row.
    pub(super) fn exactly(&mut self, owner: u32, pending: &mut Vec<Reference>) -> Result<()> {
        while let Some((kind, id, _)) = pending.pop() {
            self.check()?;
            self.owns(owner, &id)?;
            self.open(kind, &id, pending);
        }
        Ok(())
    }

    /// Adds what a node refers to.
    fn open(&mut self, kind: ChunkKind, id: &ChunkId, pending: &mut Vec<Reference>) {
        if kind != ChunkKind::Data
            && let Err(error) = of_node(self.get, kind, id, pending)
        {
            self.unreadable(id, error);
        }
    }

    /// Takes a target for its row, and the folders in it to so many levels for rows of their own, which are told to `new`.
    pub(super) fn whole(
        &mut self,
        owners: &mut Owners,
        (entry, path, row): (&Entry, &[u8], u32),
        depth: usize,
        new: &mut dyn FnMut(u32, &[u8]),
    ) -> Result<()> {
        self.contents(entry, row)?;
        let Some(node) = entry.kind.directory() else { return Ok(()) };
        let noting = Noting { get: self.get, noted: Mutex::default() };
        let mut path = path.to_vec();
        let mut levels = vec![Level { entries: Entries::new(&noting, node), row, path_len: path.len() }];
        while let Some(level) = levels.last_mut() {
            self.check()?;
            let (item, row) = (level.entries.next(), level.row);
            path.truncate(level.path_len);
            let read = noting.take();
            for id in &read {
                self.owns(row, id)?;
            }
            match item {
                None => {
                    levels.pop();
                }
                Some(Err(error)) => {
                    let id = read.last().copied().unwrap_or(ChunkId::from_bytes([0; 32]));
                    self.unreadable(&id, error);
                }
                Some(Ok(entry)) => {
                    let Some(node) = entry.kind.directory() else {
                        self.contents(&entry, row)?;
                        continue;
                    };
                    if !path.is_empty() {
                        path.push(b'/');
                    }
                    path.extend_from_slice(&entry.name);
                    let row = if levels.len() <= depth { owners.add(row)? } else { row };
                    if levels.len() <= depth {
                        new(row, &path);
                    }
                    self.contents(&entry, row)?;
                    let entries = Entries::new(&noting, node);
                    levels.push(Level { entries, row, path_len: path.len() });
                    let_rest(levels.iter_mut().rev().map(|level| Some(&mut level.entries)));
                }
            }
        }
        Ok(())
    }

    /// Takes the content and the attributes of an entry.
    fn contents(&mut self, entry: &Entry, row: u32) -> Result<()> {
        let size = self.sizes.entry(row).or_default();
        *size = size.saturating_add(entry.size());
        let mut pending = Vec::new();
        of_contents(entry, &mut pending);
        self.exactly(row, &mut pending)
    }

    /// Takes a snapshot for a row, but for what is at these paths.
    pub(super) fn all_but(
        &mut self,
        owners: &Owners,
        owner: u32,
        snapshot: &Snapshot,
        paths: &[&[u8]],
    ) -> Result<()> {
        if paths.iter().any(|path| path.is_empty()) {
            return Ok(());
        }
        let mut pending = Vec::new();
        pending.extend(snapshot.notes.map(|node| (ChunkKind::Tree, node, 0)));
        // What leads to the paths, and these from there.
        let mut ways: Vec<(Entry, Vec<&[u8]>)> = vec![(snapshot.root.clone(), paths.to_vec())];
        while let Some((entry, below)) = ways.pop() {
            of_contents(&entry, &mut pending);
            let Some(node) = entry.kind.directory() else { continue };
            if below.is_empty() {
                pending.push((ChunkKind::Tree, node, 0));
                self.claim(owners, owner, &mut pending)?;
                continue;
            }
            let noting = Noting { get: self.get, noted: Mutex::default() };
            for item in Entries::new(&noting, node) {
                match item {
                    Err(error) => {
                        let id = noting.take().last().copied().unwrap_or(node);
                        self.unreadable(&id, error);
                    }
                    Ok(entry) => {
                        let rests: Vec<&[u8]> =
                            below.iter().filter_map(|path| rest_below(path, &entry.name)).collect();
                        if rests.is_empty() {
                            of_entry(&entry, &mut pending);
                        } else if !rests.iter().any(|rest| rest.is_empty()) {
                            ways.push((entry, rests));
                        }
                    }
                }
                for id in noting.take() {
                    self.owns(owner, &id)?;
                }
                self.claim(owners, owner, &mut pending)?;
            }
        }
        self.claim(owners, owner, &mut pending)
    }
}

/// What is left of a path behind its first name, if that is this one.
fn rest_below<'p>(path: &'p [u8], name: &[u8]) -> Option<&'p [u8]> {
    let rest = path.strip_prefix(name)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
}
