//! Files with several names whose holes may be others the next time that they are read.
//!
//! Where room is set aside for a file, what of it reads as a hole depends on what is in memory at that moment. Read by each of its names,
//! such a file would be several that differ, and come back as several: it is read by the first one, and is under the others what it was.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::snapshot::Content;
use crate::source::{Device, FileSystem, Stat, Xattrs};

use super::content::INLINE_LEN;
use super::state::Stamp;

/// Of more at a time the others are read by each name.
const MAX_FILES: usize = 1 << 14;

/// The files of which not all names came up yet.
#[derive(Default)]
pub(super) struct LinkedFiles(Mutex<HashMap<(Device, u64), Linked>>);

struct Linked {
    /// How many of its names came up.
    names: u32,
    file: Arc<LinkedFile>,
}

/// One file: locked while it is read.
#[derive(Default)]
pub(super) struct LinkedFile(Mutex<Option<ReadBefore>>);

/// What was read of a file, and when it is that.
pub(super) struct ReadBefore {
    pub stamp: Stamp,
    pub len: u64,
    pub content: Content,
    pub xattrs: Xattrs,
    pub stat: Stat,
}

impl LinkedFiles {
    /// The file, if it may read differently by each name. Where ctime means nothing, nobody knows that it is still what it was.
    pub(super) fn get(&self, stat: &Stat, file_system: &FileSystem) -> Option<Arc<LinkedFile>> {
        let is_one = stat.nlink > 1 && file_system.ctime_is_meaningful;
        if !is_one || stat.size <= INLINE_LEN || stat.has_just_its_blocks() {
            return None;
        }
        let mut files = lock(&self.0);
        let (id, has_room) = ((stat.dev, stat.inode), files.len() < MAX_FILES);
        let Some(linked) = files.get_mut(&id) else {
            let file = Arc::new(LinkedFile::default());
            if has_room {
                files.insert(id, Linked { names: 1, file: file.clone() });
            }
            return has_room.then_some(file);
        };
        linked.names += 1;
        let (file, is_last) = (linked.file.clone(), linked.names >= stat.nlink);
        if is_last {
            files.remove(&id);
        }
        Some(file)
    }
}

impl LinkedFile {
    /// What is known of it. While this is held, whoever comes upon it by another name waits.
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<ReadBefore>> {
        lock(&self.0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
