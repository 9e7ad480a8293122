//! New directories under a temporary name: what is in them can have its own name at once, and is seen when all of it is durable.
//!
//! One `rename` for a directory in place of one for each file in it. Only the name of the directory itself is put off: those inside of
//! it are made beneath its descriptor, which a change of the name does not touch.

use std::io;
use std::sync::Arc;

use rustix::fs::Mode;

use crate::restore::lock;

use super::{Dir, temporary_name};

/// File systems of Linux itself, where a directory that is open, with open files in it, is renamed like any other: ext2 to ext4, XFS,
/// Btrfs, tmpfs, F2FS, ZFS, bcachefs.
const RENAMING: [i64; 7] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0xf2f5_2010, 0x2fc1_2fc1, 0xca45_1a4e];

/// Under which name a directory is for now, and which one it is to get.
pub(super) struct Hidden {
    parent: Arc<Dir>,
    temporary: Vec<u8>,
    name: Vec<u8>,
    /// Something in it that is not whole could not be removed: it must not be seen.
    is_spoiled: bool,
}

impl Dir {
    /// Makes a directory as `make_dir` does, and opens it. Where the file system takes well to that it is hidden, and gets its
    /// name from [`Dir::show`].
    pub(in crate::restore) fn make_hidden_dir(
        self: &Arc<Self>,
        name: &[u8],
        path: Vec<u8>,
    ) -> io::Result<Self> {
        let magic = rustix::fs::fstatfs(&self.fd)?.f_type;
        if !RENAMING.contains(&(magic & 0xffff_ffff)) {
            return self.make_dir(name, path);
        }
        let temporary = temporary_name();
        rustix::fs::mkdirat(&self.fd, &temporary, Mode::RWXU)?;
        let dir = self.open_dir(&temporary, path).inspect_err(|_| {
            let _ = self.remove_dir(&temporary);
        })?;
        let hidden = Hidden { parent: self.clone(), temporary, name: name.to_vec(), is_spoiled: false };
        *lock(&dir.hidden) = Some(hidden);
        Ok(Self { is_own: true, ..dir })
    }

    /// Whether it has a temporary name.
    pub(in crate::restore) fn is_hidden(&self) -> bool {
        lock(&self.hidden).is_some()
    }

    /// Gives a hidden directory its name, which must not exist. Not in a directory that did not get its own: nobody would see it.
    pub(in crate::restore) fn show(&self) -> io::Result<()> {
        let parent = lock(&self.hidden).as_ref().map(|hidden| hidden.parent.clone());
        if parent.is_some_and(|parent| parent.is_hidden()) {
            return Err(io::Error::other("the directory above did not get its name"));
        }
        self.give_name()
    }

    /// The same, whatever has become of the directory above.
    pub(in crate::restore) fn give_name(&self) -> io::Result<()> {
        let mut hidden = lock(&self.hidden);
        if let Some(Hidden { parent, temporary, name, is_spoiled }) = &*hidden {
            if *is_spoiled {
                return Err(io::Error::other("a file in it could not be written, nor removed"));
            }
            parent.rename_new(temporary, name)?;
            *hidden = None;
        }
        Ok(())
    }

    /// Keeps a hidden directory from being shown.
    pub(super) fn spoil(&self) {
        if let Some(hidden) = &mut *lock(&self.hidden) {
            hidden.is_spoiled = true;
        }
    }
}
