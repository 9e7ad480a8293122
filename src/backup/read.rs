//! The threads that make entries whole: metadata, link targets, contents.
//!
//! A group's entries are neighbours in the walk, so their chunks share frames. What the local state knows is taken over unread.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use crate::backup::content::{ContentWriter, Failure, INLINE_LEN};
use crate::backup::entry::{directory, implied, left_out};
use crate::backup::links::ReadBefore;
use crate::backup::state::{FolderKey, Known, LocalState, Lookup, Remembered, Stamp, Summary};
use crate::backup::{Node, Shared, StreamSource, Tally};
use crate::chunk::PutChunk;
use crate::codec::{self, Bytes};
use crate::error::{Error, Result};
use crate::event::{Change, Event, Item};
use crate::id::{ChunkId, ChunkKind, LinkGroup};
use crate::snapshot::tree::EncodedEntry;
use crate::snapshot::{Content, ENTRY_CHANGED_WHILE_READ, Entry, Field, Kind, Meta, Piece, Time, Why, Xattr};
use crate::source::{FileKind, FileSystem, Found, SourceFile, Stat, Xattrs};

/// Values of extended attributes up to this length are kept in the entry `[ENTRY-4]`.
const INLINE_XATTR_LEN: usize = 4096;
/// All of those of an entry have at most so many bytes.
const INLINE_XATTRS_LEN: usize = 64 << 10;
/// Longer ones become chunks of this length.
const XATTR_CHUNK_LEN: usize = 1 << 20;
/// A file up to this length is written in no time; of a longer one, half of a call may be done.
const QUICK_LEN: u64 = 64 << 10;
/// So long each thread waits in all for files to be at rest: 20 ms for each that was written to a moment ago.
const PATIENCE: Duration = Duration::from_secs(5);
/// So often a file is opened whose name another one has taken meanwhile.
const MAX_OPENINGS: usize = 10;

/// Neighbouring nodes, and where to send them when they are whole.
pub(super) struct Group {
    pub nodes: Vec<Node>,
    pub reply: Sender<Result<Vec<Made>>>,
}

/// Where the answer to a group will come.
pub(super) type Answer = Receiver<Result<Vec<Made>>>;

/// A node made whole.
pub(super) enum Made {
    /// A directory begins; its content is not known yet. And by what its entries are remembered, and what it was.
    Enter(Entry, Option<FolderKey>, Option<Summary>),
    /// A regular file that is what it was: the number of its record in a folder; its owner and group.
    Same(FolderKey, u32, (u32, u32)),
    /// A regular file, its owner and group, and as what to remember it.
    File(EncodedEntry, (u32, u32), Remembered),
    /// Any other entry.
    Entry(Entry),
    /// The directory has more entries, whose names are not known.
    Incomplete,
    /// The directory is done.
    Leave,
    /// From here on, entries belong to this source.
    Source(usize),
}

/// A reading thread. Ends when no more groups come, or with the first error of the repository.
pub(super) fn run<'a>(shared: &'a Shared<'a>, state: &'a LocalState, groups: &Receiver<Group>) {
    let contents = ContentWriter::new(shared);
    let mut reader = Reader { shared, lookup: state.lookup(), contents, patience: PATIENCE };
    for group in groups {
        let made = group.nodes.into_iter().map(|node| reader.make(node)).collect::<Result<Vec<_>>>();
        let failed = made.is_err();
        // Nobody waits for it if the assembler has given up; then the walk ends soon.
        if group.reply.send(made).is_err() || failed {
            return;
        }
    }
    if let Err(error) = reader.contents.flush() {
        // The writer keeps the error and `finish` returns it.
        shared.notice(Path::new(""), &error.to_string());
    }
}

struct Reader<'a> {
    shared: &'a Shared<'a>,
    lookup: Lookup<'a>,
    contents: ContentWriter<'a>,
    /// For how long to wait yet, in all, for files to be at rest.
    patience: Duration,
}

/// A file read once: its length, content and attributes, and whether it changed meanwhile.
struct ReadOnce {
    len: u64,
    content: Content,
    xattrs: io::Result<Xattrs>,
    stat: Stat,
    raced: bool,
}

impl Reader<'_> {
    fn make(&mut self, node: Node) -> Result<Made> {
        Ok(match node {
            Node::Implied(name) => Made::Enter(implied(name), None, None),
            Node::Enter(found, name) => {
                Tally::add(&self.shared.tally.directories, 1);
                let (meta, _) = self.meta_of(&found.path(), &found.stat, found.xattrs())?;
                let before = self.lookup.folder(&found, self.shared);
                Made::Enter(directory(name, meta), Some(found.folder_hash()), before)
            }
            Node::Entry(found, name, file_system) => {
                let made = if found.stat.kind == FileKind::Regular {
                    self.file(&found, name, &file_system)?
                } else {
                    Made::Entry(self.other(&found, name, &file_system)?)
                };
                if matches!(&made, Made::Entry(entry) if matches!(entry.kind, Kind::LeftOut(..))) {
                    Tally::add(&self.shared.tally.left_out, 1);
                }
                made
            }
            Node::Stream(name, stream) => Made::Entry(self.stream(name, stream)?),
            Node::LeftOut(name, why, errno) => {
                Tally::add(&self.shared.tally.left_out, 1);
                Made::Entry(left_out(name, why, errno))
            }
            Node::Incomplete => Made::Incomplete,
            Node::Leave => Made::Leave,
            Node::Source(number) => Made::Source(number),
        })
    }

    /// A regular file: as remembered, or read.
    fn file(&mut self, found: &Found, name: Vec<u8>, file_system: &Arc<FileSystem>) -> Result<Made> {
        let path = found.path();
        let stamp = Stamp::of(&found.stat, file_system);
        let mut old = None;
        match self.lookup.get(found, &stamp, file_system, self.shared) {
            None => {}
            Some(Known::Same(number)) => {
                self.done_unchanged(&path, found.stat.size);
                return Ok(Made::Same(found.folder_hash(), number, (found.stat.uid, found.stat.gid)));
            }
            Some(Known::Kept(kept)) => {
                if let Some(entry) = kept.unchanged(&name, self.shared) {
                    return self.unchanged(found, entry, file_system, &stamp);
                }
                old = kept.entry();
            }
        }
        let before = self.contents.added();
        let read = match self.read(found, &stamp, file_system) {
            Ok(read) => read,
            Err(Failure::Repository(error)) => return Err(error),
            Err(Failure::Stopped) => return Ok(Made::Entry(left_out(name, Why::Interrupted, 0))),
            Err(Failure::Source(error)) => return Ok(Made::Entry(self.unreadable(name, &path, error))),
        };
        let (mut meta, is_whole) = self.meta_of(&path, &read.stat, read.xattrs)?;
        if read.stat.nlink > 1 {
            meta.link_group = Some(self.link_group(&read.stat, file_system));
        }
        let mut entry =
            Entry { name: Bytes(name), kind: Kind::File(read.len, read.content), meta, fields: Vec::new() };
        if read.raced {
            Tally::add(&self.shared.tally.raced, 1);
            entry.fields.push(Field {
                tag: ENTRY_CHANGED_WHILE_READ,
                critical: false,
                value: Bytes::default(),
            });
            self.shared.problem(&path, &Error::ChangedWhileRead);
        }
        // Without a memory of the file, chunks of its own say that it is new; small files have none to tell by.
        let change = match old {
            Some(old) if is_same(&old, &entry) => Change::Unchanged,
            Some(_) => Change::Changed,
            None if self.contents.added() > before || read.len <= INLINE_LEN => Change::New,
            None => Change::Unchanged,
        };
        self.done_file(&path, entry.size(), change);
        let stamp = Stamp::of(&read.stat, file_system);
        // Unless the file system was synced, a later write through an old memory map may move no time; and the stamps of a
        // file that does not know its size know nothing else of its content either.
        let settled = is_whole
            && !read.raced
            && read.len == read.stat.size
            && file_system.is_synced
            && stamp.is_settled(since(self.shared));
        let stamp = if settled { stamp } else { Stamp::void() };
        made_file(entry, Remembered::new(found, &stamp))
    }

    /// A regular file that is what it was, going by its stamp: it is not read.
    fn unchanged(
        &self,
        found: &Found,
        known: EncodedEntry,
        file_system: &FileSystem,
        stamp: &Stamp,
    ) -> Result<Made> {
        let path = found.path();
        self.done_unchanged(&path, found.stat.size);
        if file_system.ctime_is_meaningful {
            let owner = (found.stat.uid, found.stat.gid);
            return Ok(Made::File(known, owner, Remembered::new(found, stamp)));
        }
        // Such a stamp says nothing of owner, mode and attributes; asking for them costs no reading of the file.
        let (mut meta, is_whole) = self.meta_of(&path, &found.stat, found.xattrs())?;
        meta.link_group = (found.stat.nlink > 1).then(|| self.link_group(&found.stat, file_system));
        let entry: Entry = codec::decode(known.bytes()).map_err(Error::damaged("the local state"))?;
        let stamp = if is_whole { stamp } else { &Stamp::void() };
        made_file(Entry { meta, ..entry }, Remembered::new(found, stamp))
    }

    /// Reads a file, unless it was read by another of its names and may read differently by this one.
    fn read(&mut self, found: &Found, stamp: &Stamp, file_system: &FileSystem) -> Result<ReadOnce, Failure> {
        let linked = self.shared.linked.get(&found.stat, file_system);
        let mut known = linked.as_ref().map(|file| file.lock());
        if let Some(known) = known.as_deref().and_then(Option::as_ref).filter(|known| known.stamp == *stamp) {
            self.shared.observer.event(&Event::Advanced { bytes: known.len });
            let (content, xattrs) = (known.content.clone(), Ok(known.xattrs.clone()));
            return Ok(ReadOnce { len: known.len, content, xattrs, stat: known.stat, raced: false });
        }
        let read = self.read_file(found, file_system)?;
        Tally::add(&self.shared.tally.files_read, 1);
        if let (Some(known), Ok(xattrs), false) = (known.as_deref_mut(), &read.xattrs, read.raced) {
            let (content, xattrs) = (read.content.clone(), xattrs.clone());
            let stamp = Stamp::of(&read.stat, file_system);
            *known = Some(ReadBefore { stamp, len: read.len, content, xattrs, stat: read.stat });
        }
        Ok(read)
    }

    /// Reads a file, and once more if it changed meanwhile.
    fn read_file(&mut self, found: &Found, file_system: &FileSystem) -> Result<ReadOnce, Failure> {
        if let Some(once) = self.read_as_found(found, file_system)? {
            return Ok(once);
        }
        let mut again = None;
        for is_first in [true, false] {
            let mut file = open(found).map_err(Failure::Source)?;
            // What changed once while it was waited for and read does so all the time.
            let mut none = Duration::ZERO;
            let patience = if is_first { &mut self.patience } else { &mut none };
            let is_steady = steady(&mut file, file_system, since(self.shared), patience);
            let is_steady = is_steady.map_err(Failure::Source)?;
            let once = self.read_once(&file)?;
            if is_steady && !once.raced {
                return Ok(once);
            }
            again = Some(ReadOnce { raced: true, ..once });
        }
        again.ok_or_else(|| Failure::Source(io::ErrorKind::Other.into()))
    }

    /// Reads a file that says it is so small that its entry holds it, and asks only afterwards whether it is what the walk found: a system
    /// call less for each of a million. None if it is not, or cannot be read.
    fn read_as_found(
        &mut self,
        found: &Found,
        file_system: &FileSystem,
    ) -> Result<Option<ReadOnce>, Failure> {
        let is_settled = Stamp::of(&found.stat, file_system).is_settled(since(self.shared));
        if found.stat.size > INLINE_LEN || !is_settled {
            return Ok(None);
        }
        let Ok(file) = found.open_unasked() else { return Ok(None) };
        match self.read_once(&file) {
            Ok(once) => Ok(Some(once).filter(|once| !once.raced && found.is(&once.stat))),
            Err(Failure::Source(_)) => Ok(None),
            Err(other) => Err(other),
        }
    }

    fn read_once(&mut self, file: &SourceFile) -> Result<ReadOnce, Failure> {
        let xattrs = file.xattrs();
        // Who cannot read them does not know.
        let has_xattrs = !xattrs.as_ref().is_ok_and(Vec::is_empty);
        let (len, content) = self.contents.store_file(file, has_xattrs)?;
        let stat = file.stat().map_err(Failure::Source)?;
        let raced = len < file.opened().size || !stat.has_stamps_of(file.opened());
        Ok(ReadOnce { len, content, xattrs, stat, raced })
    }

    fn done_unchanged(&self, path: &Path, bytes: u64) {
        self.done_file(path, bytes, Change::Unchanged);
        self.shared.observer.event(&Event::Advanced { bytes });
    }

    fn done_file(&self, path: &Path, bytes: u64, change: Change) {
        let tally = &self.shared.tally;
        // What another series of snapshots knows of the file is no reason to call it old in this one.
        let change = if self.shared.has_predecessor { change } else { Change::New };
        Tally::add(&tally.files, 1);
        Tally::add(&tally.bytes, bytes);
        Tally::add(
            match change {
                Change::New => &tally.new,
                Change::Changed => &tally.changed,
                _ => &tally.unchanged,
            },
            1,
        );
        self.shared.observer.event(&Event::Done { path, item: Item::File, change, bytes });
    }

    /// A symlink, FIFO, socket or device.
    fn other(&self, found: &Found, name: Vec<u8>, file_system: &FileSystem) -> Result<Entry> {
        let path = found.path();
        let (major, minor) = (found.stat.rdev.major, found.stat.rdev.minor);
        let kind = match found.stat.kind {
            FileKind::Symlink => match found.link_target() {
                // Some file systems in user space have such; no symlink can be made of it.
                Ok(target) if target.is_empty() => {
                    return Ok(self.unreadable(name, &path, io::ErrorKind::InvalidData.into()));
                }
                Ok(target) => Kind::Symlink(Bytes(target)),
                Err(error) => return Ok(self.unreadable(name, &path, error)),
            },
            FileKind::Fifo => Kind::Fifo,
            FileKind::Socket => Kind::Socket,
            FileKind::BlockDevice => Kind::BlockDevice(major, minor),
            FileKind::CharDevice => Kind::CharDevice(major, minor),
            FileKind::Regular | FileKind::Directory | FileKind::Unknown => {
                return Ok(left_out(name, Why::Unsupported, 0));
            }
        };
        let (mut meta, _) = self.meta_of(&path, &found.stat, found.xattrs())?;
        if found.stat.nlink > 1 {
            meta.link_group = Some(self.link_group(&found.stat, file_system));
        }
        Tally::add(&self.shared.tally.others, 1);
        self.shared.observer.event(&Event::Done {
            path: &path,
            item: Item::Other,
            change: Change::New,
            bytes: 0,
        });
        Ok(Entry { name: Bytes(name), kind, meta, fields: Vec::new() })
    }

    /// A stream as a file of this name.
    fn stream(&mut self, name: Vec<u8>, stream: StreamSource) -> Result<Entry> {
        let StreamSource { path, mut reader, finish } = stream;
        let (len, content) = match self.contents.store_reader(&mut *reader) {
            Ok(stored) => stored,
            Err(Failure::Repository(error)) => return Err(error),
            // Half of a stream is not a backup of it.
            Err(Failure::Stopped) => return Err(Error::Interrupted),
            Err(Failure::Source(_)) if self.shared.stopped() => return Err(Error::Interrupted),
            Err(Failure::Source(source)) => {
                let path = Path::new("the standard input").to_owned();
                return Err(Error::Path { action: "read", path, source });
            }
        };
        // A command that failed fails the run; one that was stopped with us did not.
        finish().map_err(|error| if self.shared.stopped() { Error::Interrupted } else { error })?;
        let meta = Meta {
            mode: 0o600,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            mtime: self.shared.start,
            ..Meta::default()
        };
        let entry = Entry { name: Bytes(name), kind: Kind::File(len, content), meta, fields: Vec::new() };
        self.done_file(Path::new(OsStr::from_bytes(&path)), entry.size(), Change::New);
        Ok(entry)
    }

    fn link_group(&self, stat: &Stat, file_system: &FileSystem) -> LinkGroup {
        self.shared.keys.link_group(file_system.mount.as_os_str().as_bytes(), stat.inode)
    }

    fn unreadable(&self, name: Vec<u8>, path: &Path, source: io::Error) -> Entry {
        let errno = u32::try_from(source.raw_os_error().unwrap_or(0)).unwrap_or(0);
        let why = if source.kind() == io::ErrorKind::NotFound { Why::Vanished } else { Why::Unreadable };
        self.shared.problem(path, &Error::Path { action: "read", path: path.to_owned(), source });
        left_out(name, why, errno)
    }

    /// The metadata of an entry, and whether it is whole. Attributes that cannot be read are a problem of their own; the
    /// entry is saved all the same, but a file is not to be taken over from the local state without them.
    fn meta_of(&self, path: &Path, stat: &Stat, xattrs: io::Result<Xattrs>) -> Result<(Meta, bool)> {
        let (xattrs, is_whole) = match xattrs {
            Ok(xattrs) => (xattrs, true),
            Err(source) => {
                let action = "read the extended attributes of";
                self.shared.problem(path, &Error::Path { action, path: path.to_owned(), source });
                (Vec::new(), false)
            }
        };
        let mut room = INLINE_XATTRS_LEN;
        let xattrs = xattrs
            .into_iter()
            .map(|(name, value)| Ok(Xattr { name: Bytes(name), value: self.xattr_value(value, &mut room)? }))
            .collect::<Result<Vec<_>>>()?;
        let meta = Meta {
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            mtime: stat.mtime,
            btime: stat.btime,
            xattrs,
            link_group: None,
        };
        Ok((meta, is_whole))
    }

    /// The value of an attribute: in the entry, while there is room in it `[ENTRY-4]`.
    fn xattr_value(&self, value: Vec<u8>, room: &mut usize) -> Result<Content> {
        if value.len() <= INLINE_XATTR_LEN.min(*room) {
            *room -= value.len();
            return Ok(Content::Inline(Bytes(value)));
        }
        let put = |chunk: &[u8]| -> Result<Piece> {
            let id: ChunkId = self.shared.writer.put(ChunkKind::Data, chunk)?;
            Ok(Piece::Data(id, u32::try_from(chunk.len()).unwrap_or(u32::MAX)))
        };
        Ok(Content::Pieces(value.chunks(XATTR_CHUNK_LEN).map(put).collect::<Result<_>>()?))
    }
}

/// A file, encoded while several threads do so. One that no node has room for is the assembler's to say.
fn made_file(entry: Entry, remembered: Remembered) -> Result<Made> {
    let owner = (entry.meta.uid, entry.meta.gid);
    match EncodedEntry::new(&entry) {
        Ok(encoded) => Ok(Made::File(encoded, owner, remembered)),
        Err(Error::TooLong { .. }) => Ok(Made::Entry(entry)),
        Err(error) => Err(error),
    }
}

/// Whether a file is what it was, as far as its user can tell.
fn is_same(old: &Entry, new: &Entry) -> bool {
    let seen = |meta: &Meta| (meta.mode, meta.uid, meta.gid, meta.mtime);
    old.kind == new.kind && seen(&old.meta) == seen(&new.meta) && old.meta.xattrs == new.meta.xattrs
}

/// The start of the run, by a clock that may have been set back since.
fn since(shared: &Shared<'_>) -> Time {
    shared.start.min(Time::now())
}

/// Whether the times of a file will tell if it changes while it is read; with what it takes for that.
fn steady(
    file: &mut SourceFile,
    file_system: &FileSystem,
    since: Time,
    patience: &mut Duration,
) -> io::Result<bool> {
    if file_system.ctime_is_meaningful && !Stamp::of(file.opened(), file_system).is_settled(since) {
        return file.steady(since, patience);
    }
    if file.opened().size > QUICK_LEN {
        file.wait_for_writes();
    }
    Ok(true)
}

/// Opens a file, or the one that took its name since the walk saw it, as when an editor saves. Where others take it again and again, the
/// next one may be in time.
fn open(found: &Found) -> io::Result<SourceFile> {
    let mut opened = found.open();
    for _ in 1..MAX_OPENINGS {
        match opened {
            Err(error) if error.kind() == io::ErrorKind::StaleNetworkFileHandle => {
                opened = found.again()?.open();
            }
            other => return other,
        }
    }
    opened
}
