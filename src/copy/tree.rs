//! The trees of a copy, made directory by directory without recursion: one node for each open one is in memory.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::chunk::Chunker;
use crate::copy::content::{Contents, Failure, of_reading};
use crate::error::{Error, Result};
use crate::event::{Change, Event, Item, Observer};
use crate::id::ChunkId;
use crate::repository::{Reader, Writer};
use crate::snapshot::tree::{Entries, NewDirectory, let_rest};
use crate::snapshot::{Entry, Kind, Snapshot};

/// So many directories are remembered, in a budget of the default size: 16 MiB.
const REMEMBERED: usize = 1 << 18;

/// Copies the trees of snapshots.
pub(super) struct Copier<'a> {
    reader: &'a Reader,
    writer: &'a Writer,
    contents: Contents<'a>,
    /// Both name link groups alike.
    are_plain: bool,
    observer: &'a dyn Observer,
    stop: &'a AtomicBool,
    /// What directories became, by the first half of the id of their root node.
    known: HashMap<[u8; 16], ChunkId>,
    most: usize,
}

struct Level<'a> {
    new: NewDirectory<'a>,
    entries: Entries<'a>,
    path_len: usize,
    /// The first half of the id of its root node.
    node: [u8; 16],
    is_damaged: bool,
}

impl<'a> Copier<'a> {
    pub(super) fn new(
        (reader, writer): (&'a Reader, &'a Writer),
        chunker: Chunker,
        (is_alike, are_plain): (bool, bool),
        observer: &'a dyn Observer,
        stop: &'a AtomicBool,
    ) -> Self {
        let contents = Contents::new((reader, writer), chunker, is_alike, observer);
        let most = reader.budget().share(REMEMBERED);
        Self { reader, writer, contents, are_plain, observer, stop, known: HashMap::new(), most }
    }

    /// Sends what is gathered on.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.contents.flush()
    }

    /// The root and the notes of a copy; nothing if some of it is damaged.
    ///
    /// # Errors
    /// `Interrupted`; any error of either medium.
    pub(super) fn snapshot(&mut self, snapshot: &Snapshot) -> Result<Option<(Entry, Option<ChunkId>)>> {
        let root = self.directory(&snapshot.root)?;
        let notes = match snapshot.notes {
            None => Some(None),
            Some(node) => {
                let entry = Entry { kind: Kind::Implied(node), ..snapshot.root.clone() };
                let entry = Entry { meta: crate::snapshot::Meta::default(), fields: Vec::new(), ..entry };
                self.directory(&entry)?.map(|entry| entry.kind.directory())
            }
        };
        Ok(root.zip(notes))
    }

    fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn problem(&self, path: &[u8], error: &Error) {
        let path = [b"/", path].concat();
        self.observer.event(&Event::Problem { path: Path::new(OsStr::from_bytes(&path)), error });
    }

    /// Copies a directory with all in it; nothing if some of that is damaged. All that is was told then.
    fn directory(&mut self, root: &Entry) -> Result<Option<Entry>> {
        let mut path: Vec<u8> = Vec::new();
        let mut levels = Vec::new();
        match self.own(root, &path)? {
            Some(entry) => levels.extend(self.enter(&entry, &path)),
            None => return Ok(None),
        }
        loop {
            self.check()?;
            let Some(level) = levels.last_mut() else { return Err(Error::Stopped) };
            path.truncate(level.path_len);
            match level.entries.next() {
                Some(Err(error)) => {
                    level.is_damaged = true;
                    match of_reading(error) {
                        Failure::Damage(error) => self.problem(&path, &error),
                        Failure::Fatal(error) => return Err(error),
                    }
                }
                Some(Ok(entry)) => {
                    if !path.is_empty() {
                        path.push(b'/');
                    }
                    path.extend_from_slice(&entry.name);
                    if let Some(below) = self.add(level, &entry, &path)? {
                        levels.push(below);
                        let_rest(levels.iter_mut().rev().map(|level| Some(&mut level.entries)));
                    }
                }
                None => {
                    let Some(level) = levels.pop() else { return Err(Error::Stopped) };
                    let entry = self.leave(level)?;
                    match (levels.last_mut(), entry) {
                        (None, entry) => return Ok(entry),
                        (Some(above), Some(entry)) => above.new.push(&entry)?,
                        (Some(above), None) => above.is_damaged = true,
                    }
                }
            }
        }
    }

    /// Adds an entry; or, if it is a directory that is not known, makes it the next one under way.
    fn add(&mut self, level: &mut Level<'a>, entry: &Entry, path: &[u8]) -> Result<Option<Level<'a>>> {
        let Some(copied) = self.own(entry, path)? else {
            level.is_damaged = true;
            return Ok(None);
        };
        let Some(node) = entry.kind.directory() else {
            level.new.push(&copied)?;
            return Ok(None);
        };
        match self.known.get(&node.half()).copied() {
            Some(node) => {
                level.new.push(&copied.with_node(node))?;
                Ok(None)
            }
            None => Ok(self.enter(&copied, path)),
        }
    }

    fn enter(&self, entry: &Entry, path: &[u8]) -> Option<Level<'a>> {
        let node = entry.kind.directory()?;
        let (new, entries) = (NewDirectory::new(self.writer, entry), Entries::new(self.reader, node));
        Some(Level { new, entries, path_len: path.len(), node: node.half(), is_damaged: false })
    }

    fn leave(&mut self, level: Level<'a>) -> Result<Option<Entry>> {
        if level.is_damaged {
            return Ok(None);
        }
        let (entry, node) = level.new.finish()?;
        if self.known.len() >= self.most {
            self.known.clear();
        }
        self.known.insert(level.node, node);
        Ok(Some(entry))
    }

    /// An entry with the content and attributes of the copy; a directory still has its old node. Nothing if it is damaged.
    fn own(&mut self, entry: &Entry, path: &[u8]) -> Result<Option<Entry>> {
        match self.try_own(entry) {
            Ok(copied) => {
                if let Kind::File(size, _) = &copied.kind {
                    let path = Path::new(OsStr::from_bytes(path));
                    let (item, change) = (Item::File, Change::Unchanged);
                    self.observer.event(&Event::Done { path, item, change, bytes: *size });
                }
                Ok(Some(copied))
            }
            Err(Failure::Damage(error)) => {
                self.problem(path, &error);
                Ok(None)
            }
            Err(Failure::Fatal(error)) => Err(error),
        }
    }

    fn try_own(&mut self, entry: &Entry) -> Result<Entry, Failure> {
        let mut copied = entry.clone();
        if let Kind::File(size, content) = &entry.kind {
            let stop = self.stop;
            let check = || if stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) };
            copied.kind = Kind::File(*size, self.contents.file(*size, content, &check)?);
        }
        for xattr in &mut copied.meta.xattrs {
            xattr.value = self.contents.xattr(&xattr.value)?;
        }
        if !self.are_plain {
            let keys = self.writer.id_keys();
            copied.meta.link_group = copied.meta.link_group.map(|group| keys.link_group(group.as_bytes(), 0));
        }
        Ok(copied)
    }
}
