//! What a file carries besides its bytes: owner, attributes, mode, time, set in the order in which they survive each other.
//!
//! A change of owner clears setuid bits and capabilities, and an access control list changes the mode; so: owner, then
//! attributes, then mode, then time. Only what differs is touched. What the system refuses is counted by kind.

use std::collections::HashMap;
use std::io;

use rustix::fs::{FileType, Stat};

use crate::error::{Corruption, Error, Result};
use crate::id::ChunkKind;
use crate::snapshot::{Content, Meta, Piece, Snapshot, Xattr};

use super::target::{Handle, mtime_of, type_of};
use super::{NotSet, Owner, Run};

/// The numbers that users and groups of the snapshot have here.
pub(super) struct Owners {
    owner: Owner,
    /// Per source: where it lies in the snapshot, and the numbers here of its users and groups.
    sources: Vec<(Vec<u8>, Numbers, Numbers)>,
}

/// From numbers in the snapshot to numbers here.
type Numbers = HashMap<u32, u32>;

impl Owners {
    pub(super) fn new(owner: Owner, snapshot: &Snapshot) -> Self {
        let mut sources = Vec::new();
        if owner == Owner::Name {
            let (users, groups) = (local_numbers("/etc/passwd"), local_numbers("/etc/group"));
            let translate = |table: &[(u32, crate::codec::Bytes)], here: &HashMap<Vec<u8>, u32>| {
                let known = table.iter().filter_map(|(number, name)| Some((*number, *here.get(&name.0)?)));
                known.collect::<Numbers>()
            };
            for source in &snapshot.sources {
                let users = translate(&source.users, &users);
                let groups = translate(&source.groups, &groups);
                sources.push((source.stored_at.0.clone(), users, groups));
            }
            // Where one source lies inside of another, the inner one's table holds.
            sources.sort_by_key(|(stored_at, ..)| std::cmp::Reverse(stored_at.len()));
        }
        Self { owner, sources }
    }

    /// Whom the entry at this path of the snapshot is to belong to, if it is to belong to anyone but whoever restores.
    pub(super) fn of(&self, path: &[u8], meta: &Meta) -> Option<(u32, u32)> {
        if self.owner == Owner::None {
            return None;
        }
        let below = |stored_at: &[u8]| {
            path.strip_prefix(stored_at)
                .is_some_and(|rest| stored_at.is_empty() || rest.is_empty() || rest.starts_with(b"/"))
        };
        let Some((_, users, groups)) = self.sources.iter().find(|(stored_at, ..)| below(stored_at)) else {
            return Some((meta.uid, meta.gid));
        };
        let here = |table: &Numbers, number| table.get(&number).copied().unwrap_or(number);
        Some((here(users, meta.uid), here(groups, meta.gid)))
    }
}

/// Names and numbers in a file like `/etc/passwd`; the first line of a name counts.
fn local_numbers(file: &str) -> HashMap<Vec<u8>, u32> {
    let mut numbers = HashMap::new();
    for line in std::fs::read(file).unwrap_or_default().split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        let (Some(name), Some(number)) = (fields.next(), fields.nth(1)) else { continue };
        if let Some(number) = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok()) {
            numbers.entry(name.to_vec()).or_insert(number);
        }
    }
    numbers
}

/// The metadata that an entry is to have.
pub(super) struct Wanted<'m> {
    /// Of which entry.
    pub(super) path: &'m [u8],
    pub(super) meta: &'m Meta,
    pub(super) owner: Option<(u32, u32)>,
}

impl Run<'_> {
    /// Whether the metadata differ from what they are to be, as far as this user could set them.
    pub(super) fn metadata_differ(&self, handle: &Handle<'_>, wanted: &Wanted<'_>) -> Result<bool, Fault> {
        let stat = handle.stat()?;
        let symlink = type_of(&stat) == FileType::Symlink;
        if self.root_user && wanted.owner.is_some_and(|owner| owner != (stat.st_uid, stat.st_gid))
            || !symlink && stat.st_mode & 0o7777 != possible_mode(&stat, wanted)
            || mtime_of(&stat) != wanted.meta.mtime
        {
            return Ok(true);
        }
        if !superfluous(handle, wanted.meta)?.is_empty() {
            return Ok(true);
        }
        for xattr in wanted.meta.xattrs.iter().filter(|xattr| self.root_user || !only_roots(&xattr.name)) {
            if handle.xattr(&xattr.name)?.as_deref() != Some(&*self.xattr_value(xattr)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sets all metadata that differ. What a new file was `at_first` need not be asked; only its times have moved since.
    pub(super) fn set_metadata(
        &self,
        handle: &Handle<'_>,
        wanted: &Wanted<'_>,
        at_first: Option<Stat>,
    ) -> Result<(), Fault> {
        let mut stat = match at_first {
            Some(stat) => stat,
            None => handle.stat()?,
        };
        let owner_moved = self.set_owner(handle, &stat, wanted);
        if self.set_xattrs(handle, wanted)? || owner_moved {
            stat = handle.stat()?;
        }
        let mode = possible_mode(&stat, wanted);
        let is_symlink = type_of(&stat) == FileType::Symlink;
        if mode != wanted.meta.mode && !is_symlink {
            self.not_set(NotSet::SetId, wanted.path, None);
        }
        let mode_differs = stat.st_mode & 0o7777 != mode && !is_symlink;
        let time_differs = at_first.is_some() || mtime_of(&stat) != wanted.meta.mtime;
        let mode_set = if mode_differs { handle.chmod(mode) } else { Ok(()) };
        let mut time_set = if time_differs { handle.set_mtime(wanted.meta.mtime) } else { Ok(()) };
        if mode_differs || time_differs {
            stat = handle.stat()?;
        }
        if time_set.is_ok() && mtime_of(&stat) != wanted.meta.mtime {
            time_set = handle.set_mtime_with_access(wanted.meta.mtime, &stat);
            stat = handle.stat()?;
        }
        // An ordinary user's setgid bit may vanish silently, and a FAT has no modes to set.
        let mode_set = mode_set.map(|()| stat.st_mode & 0o7777 == mode || is_symlink);
        self.count_unless(mode_set, NotSet::Mode, wanted.path);
        self.count_unless(time_set.map(|()| mtime_of(&stat) == wanted.meta.mtime), NotSet::Time, wanted.path);
        Ok(())
    }

    /// Sets owner and group; whether that was tried.
    fn set_owner(&self, handle: &Handle<'_>, stat: &Stat, wanted: &Wanted<'_>) -> bool {
        let Some((uid, gid)) = wanted.owner else { return false };
        if (uid, gid) == (stat.st_uid, stat.st_gid) {
            return false;
        }
        if let Err(error) = handle.chown(Some(uid), Some(gid)) {
            // An ordinary user may still give a file to another of the own groups.
            let group = gid == stat.st_gid || handle.chown(None, Some(gid)).is_ok();
            let set = if group && uid == stat.st_uid { Ok(true) } else { Err(error) };
            self.count_unless(set, NotSet::Owner, wanted.path);
        }
        true
    }

    /// Removes and sets attributes; whether there were any.
    fn set_xattrs(&self, handle: &Handle<'_>, wanted: &Wanted<'_>) -> Result<bool, Fault> {
        let meta = wanted.meta;
        let superfluous = superfluous(handle, meta)?;
        for name in &superfluous {
            self.count_unless(handle.remove_xattr(name).map(|()| true), kind_of(name), wanted.path);
        }
        for xattr in &meta.xattrs {
            let value = self.xattr_value(xattr)?;
            let right = || handle.xattr(&xattr.name).is_ok_and(|found| found.as_deref() == Some(&*value));
            // An error here is never the end of the restore: some file systems say "no space" for a long value.
            let set = if right() { Ok(()) } else { handle.set_xattr(&xattr.name, &value) };
            self.count_unless(set.map(|()| true), kind_of(&xattr.name), wanted.path);
        }
        Ok(!superfluous.is_empty() || !meta.xattrs.is_empty())
    }

    fn xattr_value(&self, xattr: &Xattr) -> Result<Vec<u8>, Fault> {
        match &xattr.value {
            Content::Inline(bytes) => Ok(bytes.0.clone()),
            Content::Pieces(pieces) => {
                let mut value = Vec::new();
                for piece in pieces {
                    if let Piece::Data(id, len) = piece {
                        let chunk = self.reader.get(ChunkKind::Data, id).map_err(Fault::Repository)?;
                        if chunk.len() != *len as usize {
                            let rule =
                                Corruption::rule("LIST-2", "a chunk has not the length that its piece gives");
                            let error = Error::damaged(&format!("data chunk {id}"))(rule);
                            return Err(Fault::Repository(error));
                        }
                        value.extend(chunk);
                    }
                }
                Ok(value)
            }
            Content::List(_) => Ok(Vec::new()),
        }
    }

    /// Counts what was refused, or is not as it was set, as some file systems round or leave out.
    fn count_unless(&self, set: io::Result<bool>, kind: NotSet, path: &[u8]) {
        match set {
            Ok(true) => {}
            Ok(false) => self.not_set(kind, path, None),
            Err(error) => self.not_set(kind, path, Some(&error)),
        }
    }
}

/// The mode to set: without setuid and setgid if the file belongs to somebody else than it did, who would lend
/// out rights of their own.
fn possible_mode(stat: &Stat, wanted: &Wanted<'_>) -> u32 {
    let mut mode = wanted.meta.mode;
    let (uid, gid) = wanted.owner.unwrap_or((wanted.meta.uid, wanted.meta.gid));
    if type_of(stat) == FileType::RegularFile {
        if uid != stat.st_uid {
            mode &= !0o4000;
        }
        if gid != stat.st_gid {
            mode &= !0o2000;
        }
    }
    mode
}

/// Why metadata could not be read or set at all.
pub(super) enum Fault {
    /// A value could not be read from the repository.
    Repository(Error),
    /// The target's file system failed.
    Target(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Target(error)
    }
}

impl Fault {
    /// The error about a path below the target.
    pub(super) fn at(self, run: &Run<'_>, path: &[u8]) -> Error {
        match self {
            Self::Repository(error) => error,
            Self::Target(error) => run.error("set the metadata of", path)(error),
        }
    }
}

/// Attributes that a thing has and is not to have. Labels that the system gives (`security.selinux`, `security.ima`) are its own business.
fn superfluous(handle: &Handle<'_>, meta: &Meta) -> io::Result<Vec<Vec<u8>>> {
    let mut names = handle.xattr_names()?;
    names.retain(|name| {
        // XFS shows each access control list a second time under such a name.
        let ours = name.starts_with(b"user.")
            || name.starts_with(b"trusted.") && !name.starts_with(b"trusted.SGI_ACL_")
            || name.starts_with(b"system.posix_acl_")
            || name == b"security.capability";
        ours && meta.xattrs.binary_search_by(|xattr| xattr.name.0.cmp(name)).is_err()
    });
    Ok(names)
}

fn only_roots(name: &[u8]) -> bool {
    name.starts_with(b"trusted.") || name.starts_with(b"security.")
}

fn kind_of(name: &[u8]) -> NotSet {
    if name.starts_with(b"system.posix_acl_") {
        NotSet::Acl
    } else if name == b"security.capability" {
        NotSet::Capability
    } else {
        NotSet::Xattr
    }
}
