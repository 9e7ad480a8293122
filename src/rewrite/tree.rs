//! The new trees, made directory by directory without recursion: one node for each open one is in memory.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::browse::Walk;
use crate::chunk::{GetChunk, PutChunk};
use crate::error::{Error, Result};
use crate::event::{Change, Event, Item, Observer};
use crate::id::{ChunkId, checksum_128};
use crate::pattern::Patterns;
use crate::repository::Keeper;
use crate::rewrite::Removed;
use crate::rewrite::paths::Paths;
use crate::snapshot::tree::{self, Levels};
use crate::snapshot::{ENTRY_INCOMPLETE, Entry, Kind, Meta, Snapshot, Why};

/// So many directories are remembered with what became of them, in a budget of the default size: 24 MiB.
const REMEMBERED: usize = 1 << 18;
/// The tags of fields from here on do not speak of the content of an entry.
const LASTING_TAGS: u32 = 128;

/// A snapshot in which something was left out.
pub(super) struct New {
    pub root: Entry,
    pub notes: Option<ChunkId>,
    pub removed: Removed,
    pub matched_sources: Vec<Vec<u8>>,
}

/// Makes the trees of one run.
pub(super) struct Rewriter<'a> {
    keeper: Keeper<'a>,
    excludes: &'a Patterns,
    observer: &'a dyn Observer,
    /// What became of directories, by their node and the paths that patterns know them by.
    known: HashMap<[u8; 16], (ChunkId, Removed)>,
    most: usize,
}

/// A directory under way.
type Level<'a> = tree::Level<'a, State>;

/// What is known of a directory under way.
#[derive(Serialize, Deserialize)]
struct State {
    /// The sources that it is, or lies in.
    covering: Vec<usize>,
    removed: Removed,
    key: Option<[u8; 16]>,
}

impl<'a> Rewriter<'a> {
    pub(super) fn new(keeper: Keeper<'a>, excludes: &'a Patterns, observer: &'a dyn Observer) -> Self {
        let most = keeper.reader().budget().share(REMEMBERED);
        Self { keeper, excludes, observer, known: HashMap::new(), most }
    }

    /// Makes a snapshot anew; nothing if nothing in it matches.
    ///
    /// # Errors
    /// `Interrupted`; damage to what is to stay; any error of the medium.
    pub(super) fn snapshot(&mut self, snapshot: &Snapshot, rules: &[String]) -> Result<Option<New>> {
        let paths = Paths::of(snapshot);
        let (root, removed) = self.root(&snapshot.root, &paths)?;
        if removed == Removed::default() {
            return Ok(None);
        }
        let notes = self.keeper.notes(snapshot.notes.as_slice(), rules)?;
        Ok(Some(New { root, notes, removed, matched_sources: paths.matched(self.excludes) }))
    }

    fn root(&mut self, root: &Entry, paths: &Paths) -> Result<(Entry, Removed)> {
        let mut path: Vec<u8> = Vec::new();
        let Some(first) = self.enter(root, &path, paths.at(b""), None)? else {
            return Ok((root.clone(), Removed::default()));
        };
        let mut levels = Levels::new(self.keeper.reader(), self.keeper.writer());
        levels.push(first);
        loop {
            self.keeper.check()?;
            let Some(level) = levels.last_mut() else { return Err(Error::Stopped) };
            path.truncate(level.path_len);
            let Some(entry) = level.next_entry().transpose()? else {
                let Some(level) = levels.pop()? else { return Err(Error::Stopped) };
                let (entry, removed) = self.leave(level)?;
                match levels.last_mut() {
                    None => return Ok((entry, removed)),
                    Some(above) => {
                        above.tree.push(&entry)?;
                        above.state.removed.add(removed);
                    }
                }
                continue;
            };
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&entry.name);
            if let Some(below) = self.entry(level, entry, &path, paths)? {
                levels.push(below);
            }
        }
    }

    /// Adds an entry to its directory; or, if there is something to be done in it, makes it the next one under way.
    fn entry(
        &mut self,
        level: &mut Level<'a>,
        entry: Entry,
        path: &[u8],
        paths: &Paths,
    ) -> Result<Option<Level<'a>>> {
        let is_dir = entry.kind.directory().is_some();
        // What leads to a source, and the source itself, is never left out.
        let known_as = paths.known_as(&level.state.covering, path);
        let is_matched = known_as.iter().any(|path| self.excludes.matches(path, is_dir) == Some(true));
        if is_matched && !matches!(entry.kind, Kind::LeftOut(..)) {
            level.state.removed.add(self.leave_out(&entry, path)?);
            level.tree.push(&Entry {
                name: entry.name,
                kind: Kind::LeftOut(Why::Excluded, 0),
                meta: Meta::default(),
                fields: Vec::new(),
            })?;
            return Ok(None);
        }
        self.keeper.contents(&entry)?;
        let Some(node) = entry.kind.directory() else {
            level.tree.push(&entry)?;
            return Ok(None);
        };
        let mut covering = level.state.covering.clone();
        covering.extend(paths.at(path));
        let are_below = paths.are_below(path);
        let known_as = paths.known_as(&covering, path);
        if !are_below && !known_as.iter().any(|path| self.excludes.may_contain(path)) {
            self.keeper.directory(node)?;
            level.tree.push(&entry)?;
            return Ok(None);
        }
        // What lies below sources in sources is known by further paths.
        let key = (!are_below).then(|| key_of(node, &known_as));
        if let Some((node, removed)) = key.and_then(|key| self.known.get(&key).copied()) {
            level.state.removed.add(removed);
            level.tree.push(&changed(entry.with_node(node), removed))?;
            return Ok(None);
        }
        self.enter(&entry, path, covering, key)
    }

    fn enter(
        &self,
        entry: &Entry,
        path: &[u8],
        covering: Vec<usize>,
        key: Option<[u8; 16]>,
    ) -> Result<Option<Level<'a>>> {
        self.keeper.check()?;
        let Some(node) = entry.kind.directory() else { return Ok(None) };
        let ends: (&dyn GetChunk, &dyn PutChunk) = (self.keeper.reader(), self.keeper.writer());
        let state = State { covering, removed: Removed::default(), key };
        Ok(Some(Level::new(ends, entry, [node], path.len(), state)))
    }

    /// The new entry of a directory of which all came.
    fn leave(&mut self, level: Level<'a>) -> Result<(Entry, Removed)> {
        let Level { entry, tree, state: State { removed, key, .. }, .. } = level;
        let node = tree.finish()?;
        let entry = entry.with_node(node);
        if let Some(key) = key {
            if self.known.len() >= self.most {
                self.known.clear();
            }
            self.known.insert(key, (node, removed));
        }
        Ok((changed(entry, removed), removed))
    }

    /// Counts what is left out with an entry. What of it cannot be read is not counted: that is a reason to leave it out.
    fn leave_out(&self, entry: &Entry, path: &[u8]) -> Result<Removed> {
        let mut removed = Removed { entries: 1, ..Removed::default() };
        count(entry, &mut removed);
        if let Some(node) = entry.kind.directory() {
            let mut walk = Walk::new(self.keeper.reader(), node, path);
            while let Some(item) = walk.next() {
                self.keeper.check()?;
                if let Ok(entry) = item {
                    count(&entry, &mut removed);
                    walk.descend(&entry);
                }
            }
        }
        let item = match entry.kind {
            Kind::File(..) => Item::File,
            Kind::Directory(_) | Kind::Implied(_) => Item::Directory,
            _ => Item::Other,
        };
        let path = Path::new(OsStr::from_bytes(path));
        self.observer.event(&Event::Done { path, item, change: Change::LeftOut, bytes: removed.bytes });
        Ok(removed)
    }
}

fn count(entry: &Entry, removed: &mut Removed) {
    match entry.kind {
        Kind::File(size, _) => {
            removed.files += 1;
            removed.bytes = removed.bytes.saturating_add(size);
        }
        Kind::Directory(_) => removed.directories += 1,
        Kind::Implied(_) | Kind::LeftOut(..) => {}
        _ => removed.others += 1,
    }
}

/// The entry of a directory of which so much was removed.
fn changed(mut entry: Entry, removed: Removed) -> Entry {
    if removed != Removed::default() {
        entry.fields.retain(|field| field.tag >= LASTING_TAGS || field.tag == ENTRY_INCOMPLETE);
    }
    entry
}

fn key_of(node: ChunkId, known_as: &[Vec<u8>]) -> [u8; 16] {
    let mut parts: Vec<&[u8]> = vec![node.as_bytes()];
    for path in known_as {
        parts.extend([&path[..], b"\0"]);
    }
    checksum_128(&parts)
}
