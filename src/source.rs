//! Disk to entries: what there is to save, and how to read it.
//!
//! A [`SourceRoot`] is what the user named; a [`Walk`] goes through it, and gives a [`Found`] for each entry, from which content, link
//! target and extended attributes are read. Only Linux is known here, and only here (and in `restore`):
//!
//! - Entries are reached by the descriptor of their directory. A symlink at the end of the source's path is followed once; no other symlink is.
//! - FIFOs, sockets and devices are never opened.
//! - Within a directory, names ascend by their bytes and none comes twice.
//! - Depth costs memory for the names on the way and nothing else: no recursion, at most [`MAX_OPEN`] open directories.
//!
//! Next: `chunk.rs`.

mod account;
mod ahead;
mod directory;
mod file;
mod filesystem;
mod filter;
mod names;
mod stat;
mod walk;

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD};

pub use account::{Accounts, group_name, groups, user_name, users};
pub use directory::MAX_OPEN;
pub use file::{Extents, Found, SourceFile, Xattrs};
pub use filesystem::{FileSystem, sync_source};
pub use filter::Filter;
pub use stat::{Device, FileKind, Stat};
pub use walk::{Step, Walk, WalkOptions};

use crate::error::{Error, Result};

/// What the user wants saved.
#[derive(Debug, Clone)]
pub struct SourceRoot {
    /// The path as the user wrote it.
    pub given: PathBuf,
    /// The same from the root, without `.` and `..`.
    pub absolute: PathBuf,
    /// The same, or where the symlink at its end leads, without any symlink then.
    pub resolved: PathBuf,
    /// What is there.
    pub stat: Stat,
}

impl SourceRoot {
    /// Looks up a source.
    ///
    /// # Errors
    /// There is nothing of this name, or it cannot be looked at.
    pub fn open(given: &Path) -> Result<Self> {
        let look_up = || -> io::Result<Self> {
            let absolute = Self::absolute_of(given)?;
            let is_symlink = fs::symlink_metadata(&absolute)?.is_symlink();
            let resolved = if is_symlink { fs::canonicalize(&absolute)? } else { absolute.clone() };
            let stat = stat::of_name(CWD, resolved.as_os_str().as_bytes(), AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(Self { given: given.to_owned(), absolute, resolved, stat })
        };
        look_up().map_err(Error::path("open", given))
    }

    /// Whether it is on a disk that turns, as far as the system tells.
    #[must_use]
    pub fn is_on_a_turning_disk(&self) -> bool {
        filesystem::is_rotational(self.stat.dev)
    }

    /// The path from the root, whether or not there is anything. What stands before a `..` is resolved, for the name before it
    /// may be a symlink.
    ///
    /// # Errors
    /// Any error of the system.
    pub fn absolute_of(given: &Path) -> io::Result<PathBuf> {
        let path: PathBuf = std::path::absolute(given)?.components().collect();
        if !path.components().any(|name| name == Component::ParentDir) {
            return Ok(path);
        }
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => Ok(fs::canonicalize(parent)?.join(name)),
            _ => fs::canonicalize(&path),
        }
    }
}
