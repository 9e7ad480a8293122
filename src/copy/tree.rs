//! The trees of a copy, made directory by directory without recursion.

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
use crate::snapshot::tree::{self, Levels};
use crate::snapshot::{Entry, Kind, Snapshot};

/// So many directories are remembered, in a budget of the default size: as many as a table of 6 MiB holds.
const REMEMBERED: usize = 7 << 14;

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

/// The root directory of a copy, and that of its notes.
pub(super) type Roots = (Entry, Option<ChunkId>);

/// A directory under way, and whether some of it is damaged.
type Level<'a> = tree::Level<'a, bool>;

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
    pub(super) fn snapshot(&mut self, snapshot: &Snapshot) -> Result<Option<Roots>> {
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
        let mut levels = Levels::new(self.reader, self.writer);
        let Some(entry) = self.own(root, &path)? else { return Ok(None) };
        if let Some(first) = self.enter(&entry, &path) {
            levels.push(first);
        }
        loop {
            self.check()?;
            let Some(level) = levels.last_mut() else { return Err(Error::Stopped) };
            path.truncate(level.path_len);
            match level.next_entry() {
                Some(Err(error)) => {
                    level.state = true;
                    match of_reading(self.reader)(error) {
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
                    }
                }
                None => {
                    let Some(level) = levels.pop()? else { return Err(Error::Stopped) };
                    let entry = self.leave(level)?;
                    match (levels.last_mut(), entry) {
                        (None, entry) => return Ok(entry),
                        (Some(above), Some(entry)) => above.tree.push(&entry)?,
                        (Some(above), None) => above.state = true,
                    }
                }
            }
        }
    }

    /// Adds an entry; or, if it is a directory that is not known, makes it the next one under way.
    fn add(&mut self, level: &mut Level<'a>, entry: &Entry, path: &[u8]) -> Result<Option<Level<'a>>> {
        let Some(copied) = self.own(entry, path)? else {
            level.state = true;
            return Ok(None);
        };
        let Some(node) = entry.kind.directory() else {
            level.tree.push(&copied)?;
            return Ok(None);
        };
        match self.known.get(&node.half()).copied() {
            Some(node) => {
                level.tree.push(&copied.with_node(node))?;
                Ok(None)
            }
            None => Ok(self.enter(&copied, path)),
        }
    }

    fn enter(&self, entry: &Entry, path: &[u8]) -> Option<Level<'a>> {
        let node = entry.kind.directory()?;
        Some(Level::new((self.reader, self.writer), entry, [node], path.len(), false))
    }

    fn leave(&mut self, level: Level<'a>) -> Result<Option<Entry>> {
        let Level { entry, tree, state: is_damaged, .. } = level;
        if is_damaged {
            return Ok(None);
        }
        let node = tree.finish()?;
        if self.known.len() >= self.most {
            self.known.clear();
        }
        self.known.extend(entry.kind.directory().map(|before| (before.half(), node)));
        Ok(Some(entry.with_node(node)))
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
