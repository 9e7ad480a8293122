//! A file or a folder of a snapshot as one stream: the bytes of a file, or a tar archive.
//!
//! The archive is GNU tar with PAX records for what that cannot say: times to the nanosecond, extended attributes. Names and
//! targets are raw bytes of any length. What tar does not know (sockets, what was left out, holes as holes) is said, not invented. Memory: the paths of
//! files with more than one name.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::browse::{self, ContentReader, Walk};
use crate::chunk::GetChunk;
use crate::error::{Error, Result};
use crate::id::LinkGroup;
use crate::snapshot::list::Pieces;
use crate::snapshot::{Content, Entry, Kind, Piece, Snapshot, Source, Time};

/// Where the stream goes, for messages.
const OUTPUT: &str = "the output";

/// Writes the bytes of a file.
///
/// # Errors
/// `Usage` if the entry is no file; damage; an output that takes no more; `Interrupted`.
pub fn export_file(get: &dyn GetChunk, entry: &Entry, out: &mut dyn Write, stop: &AtomicBool) -> Result<u64> {
    if !matches!(entry.kind, Kind::File(..)) {
        return Err(Error::Usage("only files and folders have bytes to show".to_owned()));
    }
    let mut content = Stoppable { inner: ContentReader::new(get, entry), stop };
    let failed = |error| browse::into_error(error, "write", Path::new(OUTPUT));
    let len = io::copy(&mut content, out).map_err(failed)?;
    out.flush().map_err(failed)?;
    Ok(len)
}

/// Writes a folder and all below it as a tar archive; names in it are relative to the folder, which is `./`. `path` is where the folder lies in
/// the snapshot. What is missing from the archive goes, with its path, to `notice`.
///
/// # Errors
/// Damage (the archive then ends in the middle, so that it cannot be taken for whole); an output that takes no more;
/// `Interrupted`.
pub fn export_tar(
    get: &dyn GetChunk,
    snapshot: &Snapshot,
    (path, folder): (&[u8], &Entry),
    out: &mut dyn Write,
    notice: &mut dyn FnMut(&[u8], &str),
    stop: &AtomicBool,
) -> Result<()> {
    let Some(root) = folder.kind.directory() else {
        return Err(Error::Usage("only a folder can be a tar archive".to_owned()));
    };
    let mut archive = Archive {
        get,
        sources: &snapshot.sources,
        prefix_len: path.len(),
        links: HashMap::new(),
        stop,
        tar: tar::Builder::new(out),
    };
    archive.append(path, folder, notice)?;
    let mut walk = Walk::new(get, root, path);
    while let Some(entry) = walk.next() {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let entry = entry?;
        archive.append(walk.path(), &entry, notice)?;
        walk.descend(&entry);
    }
    let failed = |error| browse::into_error(error, "write", Path::new(OUTPUT));
    archive.tar.into_inner().and_then(Write::flush).map_err(failed)
}

struct Archive<'a, 'o> {
    get: &'a dyn GetChunk,
    sources: &'a [Source],
    prefix_len: usize,
    /// The first name in the archive of each file with several.
    links: HashMap<LinkGroup, Vec<u8>>,
    stop: &'a AtomicBool,
    tar: tar::Builder<&'o mut dyn Write>,
}

impl Archive<'_, '_> {
    fn append(&mut self, path: &[u8], entry: &Entry, notice: &mut dyn FnMut(&[u8], &str)) -> Result<()> {
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
                notice(path, "is a socket, which a tar archive cannot hold");
                return Ok(());
            }
            Kind::LeftOut(..) => {
                notice(path, "was left out of the snapshot");
                return Ok(());
            }
        };
        header.set_entry_type(kind);
        self.set_meta(&mut header, path, entry).map_err(Self::failed)?;
        self.append_entry(&mut header, &name, entry).map_err(Self::failed)
    }

    fn failed(error: io::Error) -> Error {
        browse::into_error(error, "write", Path::new(OUTPUT))
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

    fn append_entry(&mut self, header: &mut tar::Header, name: &[u8], entry: &Entry) -> io::Result<()> {
        let mut target: Option<Vec<u8>> = None;
        if let Kind::Symlink(link) = &entry.kind {
            target = Some(link.to_vec());
        } else if let (Some(group), None) = (entry.meta.link_group, entry.kind.directory()) {
            if let Some(first) = self.links.get(&group) {
                header.set_entry_type(tar::EntryType::Link);
                target = Some(first.clone());
            } else {
                self.links.insert(group, name.to_vec());
            }
        }
        self.append_pax(entry)?;
        self.append_long(tar::EntryType::GNULongName, name)?;
        if let Some(target) = &target {
            self.append_long(tar::EntryType::GNULongLink, target)?;
        }
        if let Some(gnu) = header.as_gnu_mut() {
            put(&mut gnu.name, name);
            put(&mut gnu.linkname, target.as_deref().unwrap_or_default());
        }
        match &entry.kind {
            Kind::File(size, _) if target.is_none() => {
                header.set_size(*size);
                header.set_cksum();
                let content = ContentReader::new(self.get, entry);
                // Exactly as many bytes as the header says: the format makes sure of it, this of the archive.
                self.tar.append(header, Stoppable { inner: content, stop: self.stop }.take(*size))
            }
            _ => {
                header.set_size(0);
                header.set_cksum();
                self.tar.append(header, io::empty())
            }
        }
    }

    /// A record for what the header has no room for.
    fn append_pax(&mut self, entry: &Entry) -> io::Result<()> {
        if matches!(entry.kind, Kind::Implied(_)) {
            return Ok(());
        }
        let mut records = Vec::new();
        let mtime = entry.meta.mtime;
        if mtime.nanos != 0 || mtime.secs < 0 {
            records.push(("mtime".to_owned(), decimal(mtime).into_bytes()));
        }
        for xattr in &entry.meta.xattrs {
            // The name of an attribute is part of a record's key, which is text up to the first `=`.
            let Ok(name) = std::str::from_utf8(&xattr.name) else { continue };
            if !name.contains('=') {
                records.push((format!("SCHILY.xattr.{name}"), self.value(&xattr.value)?));
            }
        }
        self.tar.append_pax_extensions(records.iter().map(|(key, value)| (key.as_str(), value.as_slice())))
    }

    /// The value of an attribute: at most 16 MiB.
    fn value(&self, content: &Content) -> io::Result<Vec<u8>> {
        if let Content::Inline(bytes) = content {
            return Ok(bytes.to_vec());
        }
        let mut value = Vec::new();
        for piece in Pieces::new(self.get, content, 0) {
            if let Piece::Data(id, _) = piece.map_err(io::Error::other)? {
                value.extend(self.get.get(crate::id::ChunkKind::Data, &id).map_err(io::Error::other)?);
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
        header.set_cksum();
        self.tar.append(&header, name.chain(&b"\0"[..]))
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
