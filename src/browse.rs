//! Looking into snapshots: one path ([`lookup`]), everything below one ([`Walk`]), several trees side by side
//! ([`Together`]), and the bytes of a file ([`ContentReader`]).
//!
//! Paths are raw bytes relative to the root of the snapshot, names joined by single slashes. Nothing here recurses, and only the inner
//! directories of a path hold nodes in memory, so depth and length of directories do not matter. What cannot be read is
//! an item of its own, and what lies behind it follows.

use std::io::{self, Read};

use crate::chunk::GetChunk;
use crate::error::{Corruption, Error, Result};
use crate::id::{ChunkId, ChunkKind};
use crate::snapshot::list::Pieces;
use crate::snapshot::tree::{self, Entries, let_rest};
use crate::snapshot::{Content, Entry, Kind, Piece, TreeNode};

/// A path as snapshots know it: no leading, trailing or double slashes, no `.`, and `..` taken literally as one up.
#[must_use]
pub fn normalize(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names.join(&b'/')
}

/// The entry at `path` below the directory or file `root`; nothing if there is none. An empty path is `root` itself.
///
/// # Errors
/// Damaged or missing tree nodes on the way.
pub fn lookup(get: &dyn GetChunk, root: &Entry, path: &[u8]) -> Result<Option<Entry>> {
    let mut entry = root.clone();
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        let Some(node) = entry.kind.directory() else { return Ok(None) };
        match lookup_in(get, node, name)? {
            Some(found) => entry = found,
            None => return Ok(None),
        }
    }
    Ok(Some(entry))
}

/// The entry of that name in the directory with this root node. Reads one node of each level.
///
/// # Errors
/// As [`lookup`].
pub fn lookup_in(get: &dyn GetChunk, root: ChunkId, name: &[u8]) -> Result<Option<Entry>> {
    let mut node = root;
    let mut above = u8::MAX;
    loop {
        let bytes = get.get(ChunkKind::Tree, &node)?;
        let file = format!("tree node {node}");
        match tree::decode_node(&bytes).map_err(Error::damaged(&file))? {
            TreeNode::Leaf(mut entries) => {
                let found = entries.binary_search_by(|entry| (*entry.name).cmp(name));
                return Ok(found.ok().map(|index| entries.swap_remove(index)));
            }
            TreeNode::Branch(level, children) => {
                if level >= above {
                    let corruption =
                        Corruption::rule("TREE-2", "a node is not of the level below its parent");
                    return Err(Error::damaged(&file)(corruption));
                }
                above = level;
                let behind = children.partition_point(|child| *child.first <= *name);
                match behind.checked_sub(1).and_then(|index| children.get(index)) {
                    Some(child) => node = child.node,
                    None => return Ok(None),
                }
            }
        }
    }
}

/// A path that grows and shrinks by one name while directories are entered and left.
#[derive(Default)]
struct PathStack {
    path: Vec<u8>,
}

impl PathStack {
    /// Keeps the first `len` bytes, those of a directory, and adds a name below it.
    fn set(&mut self, len: usize, name: &[u8]) {
        self.path.truncate(len);
        if !self.path.is_empty() && !name.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
    }
}

/// Everything below a directory, each directory before what is in it, in the order of names. Goes into a directory only when
/// told to by [`Walk::descend`].
pub struct Walk<'a> {
    get: &'a dyn GetChunk,
    levels: Vec<(Entries<'a>, usize)>,
    stack: PathStack,
}

impl<'a> Walk<'a> {
    /// The entries of the directory with the root node `root`, which lies at `path`.
    #[must_use]
    pub fn new(get: &'a dyn GetChunk, root: ChunkId, path: &[u8]) -> Self {
        let stack = PathStack { path: path.to_vec() };
        Self { get, levels: vec![(Entries::new(get, root), path.len())], stack }
    }

    /// The path of the entry that came last; after an error that of the directory it is about.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        &self.stack.path
    }

    /// Has the entries of the entry that came last follow next, if it is a directory.
    pub fn descend(&mut self, entry: &Entry) {
        if let Some(node) = entry.kind.directory() {
            self.levels.push((Entries::new(self.get, node), self.stack.path.len()));
            let_rest(self.levels.iter_mut().rev().map(|(entries, _)| Some(entries)));
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (entries, path_len) = self.levels.last_mut()?;
            let path_len = *path_len;
            match entries.next() {
                Some(Ok(entry)) => {
                    self.stack.set(path_len, &entry.name);
                    return Some(Ok(entry));
                }
                Some(Err(error)) => {
                    self.stack.set(path_len, b"");
                    return Some(Err(error));
                }
                None => {
                    self.levels.pop();
                }
            }
        }
    }
}

/// What is at one path in some of the trees that are walked together.
#[derive(Debug, Clone)]
pub struct Version {
    /// Which trees have it so, by their numbers, ascending.
    pub trees: Vec<u32>,
    /// The entry.
    pub entry: Entry,
}

/// Several trees side by side, path by path. A directory that many trees share is read once.
///
/// Memory: one node for each of the inner levels and each different directory of this path.
pub struct Together<'a> {
    get: &'a dyn GetChunk,
    levels: Vec<(Vec<Lane<'a>>, usize)>,
    stack: PathStack,
}

/// One directory, and the trees that have it.
struct Lane<'a> {
    trees: Vec<u32>,
    entries: Entries<'a>,
}

impl<'a> Together<'a> {
    /// The directories with these root nodes; each with the number of its tree.
    #[must_use]
    pub fn new(get: &'a dyn GetChunk, roots: &[(u32, ChunkId)], path: &[u8]) -> Self {
        let mut together = Self { get, levels: Vec::new(), stack: PathStack { path: path.to_vec() } };
        together.enter(roots);
        together
    }

    /// The path of the versions that came last; after an error that of the directory it is about.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        &self.stack.path
    }

    /// Has what is in these directories, at the path that came last, follow next.
    pub fn descend(&mut self, versions: &[Version]) {
        let roots: Vec<(u32, ChunkId)> = versions
            .iter()
            .filter_map(|version| version.entry.kind.directory().map(|node| (version, node)))
            .flat_map(|(version, node)| version.trees.iter().map(move |tree| (*tree, node)))
            .collect();
        if !roots.is_empty() {
            self.enter(&roots);
        }
    }

    fn enter(&mut self, roots: &[(u32, ChunkId)]) {
        let mut sorted = roots.to_vec();
        sorted.sort_unstable_by_key(|(tree, node)| (*node, *tree));
        let lanes = sorted
            .chunk_by(|one, other| one.1 == other.1)
            .filter_map(|group| {
                let (_, node) = group.first()?;
                let trees = group.iter().map(|(tree, _)| *tree).collect();
                Some(Lane { trees, entries: Entries::new(self.get, *node) })
            })
            .collect();
        self.levels.push((lanes, self.stack.path.len()));
        let_rest(
            self.levels.iter_mut().rev().map(|(lanes, _)| lanes.iter_mut().map(|lane| &mut lane.entries)),
        );
    }

    /// What the lanes of the innermost level have under the next name; an error of the first lane that has one.
    fn take_next(lanes: &mut [Lane<'_>]) -> Option<Result<Vec<Version>>> {
        let mut name: Option<Vec<u8>> = None;
        for lane in lanes.iter_mut() {
            if let Some(error) = lane.entries.next_if(Result::is_err) {
                return Some(Err(error.err()?));
            }
            if let Some(Ok(entry)) = lane.entries.peek()
                && name.as_ref().is_none_or(|name| *entry.name < **name)
            {
                name = Some(entry.name.to_vec());
            }
        }
        let name = name?;
        let mut versions: Vec<Version> = Vec::new();
        for lane in lanes {
            let same_name = |item: &Result<Entry>| item.as_ref().is_ok_and(|entry| *entry.name == *name);
            let Some(Ok(entry)) = lane.entries.next_if(same_name) else { continue };
            match versions.iter_mut().find(|version| version.entry == entry) {
                Some(version) => version.trees.extend_from_slice(&lane.trees),
                None => versions.push(Version { trees: lane.trees.clone(), entry }),
            }
        }
        for version in &mut versions {
            version.trees.sort_unstable();
        }
        versions.sort_by(|one, other| one.trees.cmp(&other.trees));
        Some(Ok(versions))
    }
}

impl Iterator for Together<'_> {
    type Item = Result<Vec<Version>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (lanes, path_len) = self.levels.last_mut()?;
            let path_len = *path_len;
            match Self::take_next(lanes) {
                Some(Ok(versions)) => {
                    let name = versions.first().map(|version| version.entry.name.clone()).unwrap_or_default();
                    self.stack.set(path_len, &name);
                    return Some(Ok(versions));
                }
                Some(Err(error)) => {
                    self.stack.set(path_len, b"");
                    return Some(Err(error));
                }
                None => {
                    self.levels.pop();
                }
            }
        }
    }
}

/// The bytes of a file, in order, holes as zeros. Errors of the repository come as `io::Error`s around an [`Error`]:
/// see [`into_error`].
pub struct ContentReader<'a> {
    get: &'a dyn GetChunk,
    pieces: Pieces<'a>,
    bytes: Vec<u8>,
    used: usize,
    zeros: u64,
}

impl<'a> ContentReader<'a> {
    /// The content of this entry; of nothing but a file it has no bytes.
    #[must_use]
    pub fn new(get: &'a dyn GetChunk, entry: &Entry) -> Self {
        let empty = Content::Inline(Vec::new().into());
        let (size, content) = match &entry.kind {
            Kind::File(size, content) => (*size, content),
            _ => (0, &empty),
        };
        let bytes = match content {
            Content::Inline(bytes) => bytes.to_vec(),
            Content::Pieces(_) | Content::List(_) => Vec::new(),
        };
        Self { get, pieces: Pieces::new(get, content, size), bytes, used: 0, zeros: 0 }
    }

    /// Makes the next piece available. False at the end.
    fn advance(&mut self) -> Result<bool> {
        match self.pieces.next().transpose()? {
            None => return Ok(false),
            Some(Piece::Hole(len)) => self.zeros = len,
            Some(Piece::Data(id, len)) => {
                self.bytes = self.get.get(ChunkKind::Data, &id)?;
                self.used = 0;
                if self.bytes.len() as u64 != u64::from(len) {
                    let corruption =
                        Corruption::rule("LIST-2", "a data chunk has not the length its piece gives");
                    return Err(Error::damaged(&format!("data chunk {id}"))(corruption));
                }
            }
        }
        Ok(true)
    }
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let remaining = self.bytes.get(self.used..).unwrap_or_default();
            if !remaining.is_empty() {
                let len = remaining.len().min(buffer.len());
                buffer[..len].copy_from_slice(&remaining[..len]);
                self.used += len;
                return Ok(len);
            }
            if self.zeros > 0 {
                let len = usize::try_from(self.zeros).unwrap_or(usize::MAX).min(buffer.len());
                buffer[..len].fill(0);
                self.zeros -= len as u64;
                return Ok(len);
            }
            if !self.advance().map_err(io::Error::other)? {
                return Ok(0);
            }
        }
    }
}

/// The library's error inside of an `io::Error`, or else one about writing what `action` and `path` say.
#[must_use]
pub fn into_error(error: io::Error, action: &'static str, path: &std::path::Path) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::path(action, path)(error),
    }
}

#[cfg(test)]
mod tests {
    use super::normalize;

    #[test]
    fn paths_are_normalized_by_their_letters_only() {
        for (path, expected) in [
            ("", ""),
            ("/", ""),
            ("/a//b/", "a/b"),
            ("./a/./b", "a/b"),
            ("a/../b", "b"),
            ("../..", ""),
            ("/a b/..c", "a b/..c"),
        ] {
            assert_eq!(normalize(path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }
}
