//! A file or a folder of a snapshot as one stream: the bytes of a file, or a tar archive.
//!
//! The archive is GNU tar with PAX records for what that cannot say: times to the nanosecond, extended attributes. Names and
//! targets are raw bytes of any length. What tar does not know (sockets, what was left out, holes as holes) is said, not invented.
//!
//! What is damaged is named and left out, and all else follows; but only a whole archive gets the mark at its end (`blocks`). A file
//! of up to `AHEAD_LEN` is read before its header is written. In a longer one damage is met too late to take the header back: the
//! archive ends there. Memory: such a file, as many attributes of an entry, and the paths of files with more than one name.

mod blocks;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::browse::{self, ContentReader, Walk};
use crate::chunk::GetChunk;
use crate::codec;
use crate::error::{Corruption, Error, Result};
use crate::id::{self, ChunkKind, LinkGroup};
use crate::snapshot::list::Pieces;
use crate::snapshot::{Content, Entry, Kind, Piece, Snapshot, Source, Time};

use blocks::Blocks;

/// Where the stream goes, for messages.
const OUTPUT: &str = "the output";
/// Files up to this length, and attributes of an entry as long together, are read before anything of them is written.
const AHEAD_LEN: u64 = 32 << 20;

/// Writes the bytes of a file.
///
/// # Errors
/// `Usage` if the entry is no file; damage; an output that takes no more; `Interrupted`.
pub fn export_file(get: &dyn GetChunk, entry: &Entry, out: &mut dyn Write, stop: &AtomicBool) -> Result<u64> {
    if !matches!(entry.kind, Kind::File(..)) {
        return Err(Error::Usage("only files and folders have bytes to show".to_owned()));
    }
    let mut content = Stoppable { inner: ContentReader::new(get, entry), stop };
    let len = io::copy(&mut content, out).map_err(failed)?;
    out.flush().map_err(failed)?;
    Ok(len)
}

/// What an archive lacks, as it is found; each with its path in the snapshot.
pub struct Sinks<'a> {
    /// Takes what a tar archive cannot hold, and what the snapshot left out.
    pub notice: &'a mut dyn FnMut(&[u8], &str),
    /// Takes what is damaged.
    pub problem: &'a mut dyn FnMut(&[u8], Error),
}

/// Writes a folder and all below it as a tar archive; names in it are relative to the folder, which is `./`. `path` is where the folder lies in
/// the snapshot. Returns whether the archive is whole: one that lacks what is damaged has no end mark and cannot be unpacked without an
/// error.
///
/// # Errors
/// An output that takes no more; any error of the repository that is no damage; `Interrupted`. The archive then ends in the middle.
pub fn export_tar(
    get: &dyn GetChunk,
    snapshot: &Snapshot,
    (path, folder): (&[u8], &Entry),
    out: &mut dyn Write,
    sinks: &mut Sinks<'_>,
    stop: &AtomicBool,
) -> Result<bool> {
    if folder.kind.directory().is_none() {
        return Err(Error::Usage("only a folder can be a tar archive".to_owned()));
    }
    let mut archive = Archive {
        get,
        sources: &snapshot.sources,
        prefix_len: path.len(),
        links: HashMap::new(),
        stop,
        sinks,
        is_whole: true,
        blocks: Blocks::new(out),
    };
    let written = archive.append_all(path, folder);
    let Archive { is_whole, blocks, .. } = archive;
    if let Err(error) = written {
        // Whatever the output says to that: the error counts.
        let _ = blocks.break_off();
        return Err(error);
    }
    if is_whole { blocks.finish() } else { blocks.break_off() }.map_err(failed)?;
    Ok(is_whole)
}

fn failed(error: io::Error) -> Error {
    browse::into_error(error, "write", Path::new(OUTPUT))
}

struct Archive<'a, 'o, 's> {
    get: &'a dyn GetChunk,
    sources: &'a [Source],
    prefix_len: usize,
    /// The first name in the archive of each file with several. A number that was used again during the snapshot makes one group of
    /// two files, so what they are counts as well.
    links: HashMap<(LinkGroup, [u8; 16]), Vec<u8>>,
    stop: &'a AtomicBool,
    sinks: &'a mut Sinks<'s>,
    is_whole: bool,
    blocks: Blocks<'o>,
}

/// Whether there is a way on.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    /// The archive ends in the middle of a file.
    Ends,
}

impl Archive<'_, '_, '_> {
    fn append_all(&mut self, path: &[u8], folder: &Entry) -> Result<()> {
        self.append(path, folder)?;
        let Some(root) = folder.kind.directory() else { return Ok(()) };
        let mut walk = Walk::new(self.get, root, path);
        while let Some(entry) = walk.next() {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            match entry {
                Ok(entry) => {
                    if self.append(walk.path(), &entry)? == Next::Ends {
                        return Ok(());
                    }
                    walk.descend(&entry);
                }
                Err(error) => self.lose(walk.path(), error)?,
            }
        }
        Ok(())
    }

    /// The archive goes on without something that is damaged.
    fn lose(&mut self, path: &[u8], error: Error) -> Result<()> {
        if !error.is_damage() {
            return Err(error);
        }
        self.is_whole = false;
        (self.sinks.problem)(path, error);
        Ok(())
    }

    fn append(&mut self, path: &[u8], entry: &Entry) -> Result<Next> {
        let mut name = path.get(self.prefix_len..).unwrap_or_default();
        name = name.strip_prefix(b"/").unwrap_or(name);
        let mut name = [b"./", name].concat();
        let mut header = tar::Header::new_gnu();
        let kind = match &entry.kind {
            Kind::Directory(_) | Kind::Implied(_) => {
                if !name.ends_with(b"/") {
                    name.push(b'/');
                }
                tar::EntryType::Directory
            }
            Kind::File(..) => tar::EntryType::Regular,
            Kind::Symlink(_) => tar::EntryType::Symlink,
            Kind::Fifo => tar::EntryType::Fifo,
            Kind::BlockDevice(..) => tar::EntryType::Block,
            Kind::CharDevice(..) => tar::EntryType::Char,
            Kind::Socket => {
                (self.sinks.notice)(path, "is a socket, which a tar archive cannot hold");
                return Ok(Next::GoOn);
            }
            Kind::LeftOut(..) => {
                (self.sinks.notice)(path, "was left out of the snapshot");
                return Ok(Next::GoOn);
            }
        };
        header.set_entry_type(kind);
        self.set_meta(&mut header, path, entry).map_err(failed)?;
        self.append_entry(&mut header, path, &name, entry)
    }

    fn set_meta(&self, header: &mut tar::Header, path: &[u8], entry: &Entry) -> io::Result<()> {
        let mode = if matches!(entry.kind, Kind::Implied(_)) { 0o755 } else { entry.meta.mode };
        header.set_mode(mode);
        header.set_uid(u64::from(entry.meta.uid));
        header.set_gid(u64::from(entry.meta.gid));
        header.set_mtime(u64::try_from(entry.meta.mtime.secs).unwrap_or(0));
        if let Kind::BlockDevice(major, minor) | Kind::CharDevice(major, minor) = entry.kind {
            header.set_device_major(major)?;
            header.set_device_minor(minor)?;
        }
        let source = self
            .sources
            .iter()
            .filter(|source| is_below(path, &source.stored_at))
            .max_by_key(|source| source.stored_at.len());
        if let (Some(source), Some(gnu)) = (source, header.as_gnu_mut()) {
            put(&mut gnu.uname, name_of(&source.users, entry.meta.uid));
            put(&mut gnu.gname, name_of(&source.groups, entry.meta.gid));
        }
        Ok(())
    }

    fn append_entry(
        &mut self,
        header: &mut tar::Header,
        path: &[u8],
        name: &[u8],
        entry: &Entry,
    ) -> Result<Next> {
        let group = match (entry.meta.link_group, &entry.kind) {
            (Some(group), Kind::File(..) | Kind::Fifo | Kind::BlockDevice(..) | Kind::CharDevice(..)) => {
                let file = codec::encode(&(&entry.kind, &entry.meta.xattrs));
                Some((group, id::checksum_128(&[&file])))
            }
            _ => None,
        };
        let first = group.and_then(|group| self.links.get(&group).cloned());
        let target = match &entry.kind {
            Kind::Symlink(target) => Some(target.to_vec()),
            _ => first,
        };
        let mut content: Box<dyn Read + '_> = Box::new(io::empty());
        header.set_size(0);
        match &entry.kind {
            Kind::File(size, _) if target.is_none() => {
                header.set_size(*size);
                let mut stored = Stoppable { inner: ContentReader::new(self.get, entry), stop: self.stop };
                content = if *size > AHEAD_LEN {
                    Box::new(stored)
                } else {
                    let mut bytes = Vec::new();
                    if let Err(error) = stored.read_to_end(&mut bytes) {
                        return self.lose(path, failed(error)).map(|()| Next::GoOn);
                    }
                    Box::new(io::Cursor::new(bytes))
                };
            }
            Kind::Symlink(_) => {}
            _ if target.is_some() => header.set_entry_type(tar::EntryType::Link),
            _ => {}
        }
        self.append_pax(path, entry)?;
        self.append_long(tar::EntryType::GNULongName, name).map_err(failed)?;
        if let Some(target) = &target {
            self.append_long(tar::EntryType::GNULongLink, target).map_err(failed)?;
        }
        if let Some(gnu) = header.as_gnu_mut() {
            put(&mut gnu.name, name);
            put(&mut gnu.linkname, target.as_deref().unwrap_or_default());
        }
        if let Err(error) = self.blocks.entry(header, &mut *content) {
            self.lose(path, failed(error))?;
            (self.sinks.notice)(path, "ends in the middle, and the archive with it: `vault restore` goes on");
            return Ok(Next::Ends);
        }
        if let (Some(group), None) = (group, target) {
            self.links.insert(group, name.to_vec());
        }
        Ok(Next::GoOn)
    }

    /// A record for what the header has no room for.
    fn append_pax(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        if matches!(entry.kind, Kind::Implied(_)) {
            return Ok(());
        }
        let (mut records, mut room) = (Vec::new(), AHEAD_LEN);
        let mtime = entry.meta.mtime;
        if mtime.nanos != 0 || mtime.secs < 0 {
            records.push(("mtime".to_owned(), decimal(mtime).into_bytes()));
        }
        for xattr in &entry.meta.xattrs {
            // The name of an attribute is part of a record's key, which is text up to the first `=`.
            let Ok(name) = std::str::from_utf8(&xattr.name) else { continue };
            if name.contains('=') {
                continue;
            }
            match self.value(&xattr.value) {
                Ok(value) if value.len() as u64 <= room => {
                    room -= value.len() as u64;
                    records.push((format!("SCHILY.xattr.{name}"), value));
                }
                Ok(_) => {
                    let text = format!("has more attributes than an archive takes, {name} among them");
                    (self.sinks.notice)(path, &text);
                }
                Err(error) => self.lose(path, error)?,
            }
        }
        self.blocks.pax(&records).map_err(failed)
    }

    /// The value of an attribute: at most 16 MiB.
    fn value(&self, content: &Content) -> Result<Vec<u8>> {
        if let Content::Inline(bytes) = content {
            return Ok(bytes.to_vec());
        }
        let mut value = Vec::new();
        for piece in Pieces::new(self.get, content, 0) {
            if let Piece::Data(id, len) = piece? {
                let chunk = self.get.get(ChunkKind::Data, &id)?;
                if chunk.len() as u64 != u64::from(len) {
                    let rule = Corruption::rule("LIST-2", "a data chunk has not the length its piece gives");
                    return Err(Error::damaged(&format!("data chunk {id}"))(rule));
                }
                value.extend(chunk);
            }
        }
        Ok(value)
    }

    /// GNU's way to have a name of more than 100 bytes: an entry before the entry.
    fn append_long(&mut self, kind: tar::EntryType, name: &[u8]) -> io::Result<()> {
        if name.len() <= 100 {
            return Ok(());
        }
        let mut header = tar::Header::new_gnu();
        if let Some(gnu) = header.as_gnu_mut() {
            put(&mut gnu.name, b"././@LongLink");
        }
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_entry_type(kind);
        header.set_size(name.len() as u64 + 1);
        self.blocks.entry(&mut header, &mut name.chain(&b"\0"[..]))
    }
}

/// Ends with `Interrupted` once the user asks for it.
struct Stoppable<'a, R> {
    inner: R,
    stop: &'a AtomicBool,
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other(Error::Interrupted));
        }
        self.inner.read(buffer)
    }
}

fn put(field: &mut [u8], bytes: &[u8]) {
    field.fill(0);
    field.iter_mut().zip(bytes).for_each(|(field, byte)| *field = *byte);
}

fn is_below(path: &[u8], folder: &[u8]) -> bool {
    folder.is_empty()
        || path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// The name behind a number, if it is known and fits.
fn name_of(names: &[(u32, crate::codec::Bytes)], number: u32) -> &[u8] {
    let found =
        names.binary_search_by_key(&number, |(number, _)| *number).ok().and_then(|index| names.get(index));
    found.map(|(_, name)| &**name).filter(|name| name.len() < 32).unwrap_or_default()
}

/// A time as PAX writes it: seconds with a fraction, below zero as well.
fn decimal(time: Time) -> String {
    let nanos = i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    format!("{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_count_down() {
        assert_eq!(decimal(Time { secs: 1, nanos: 5 }), "1.000000005");
        assert_eq!(decimal(Time { secs: -1, nanos: 500_000_000 }), "-0.500000000");
        assert_eq!(decimal(Time { secs: -2, nanos: 250_000_000 }), "-1.750000000");
    }

    #[test]
    fn a_path_is_below_a_folder_by_whole_names() {
        assert!(is_below(b"a/b", b"a") && is_below(b"a", b"a") && is_below(b"x", b""));
        assert!(!is_below(b"ab", b"a"));
    }
}
