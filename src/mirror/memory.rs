//! What is remembered about a copy, in a file of this host: `<state folder>/<copy id>`, a checksum and a structure.
//!
//! It serves to notice that an older copy was put in the place. Nothing depends on it: damaged or lost, it is begun anew.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::backend::{Backend, LocalFolder, read_whole};
use crate::codec;
use crate::error::{Error, Result};
use crate::id::{self, CopyId, RepositoryId, SnapshotId};
use crate::repository::Repository;
use crate::snapshot::Time;

/// Raised whenever the structure changes.
const VERSION: u32 = 1;
const CHECKSUM_LEN: usize = 16;
const MAX_LEN: u64 = 64 << 10;

/// What is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memory {
    version: u32,
    repository: RepositoryId,
    /// When it was last refreshed to the end.
    pub refreshed: Time,
    /// When every file on it was last read and right.
    pub verified: Option<Time>,
    /// The snapshot there that began last.
    pub newest: Option<SnapshotId>,
    /// How many packs were there.
    pub packs: u64,
}

impl Memory {
    pub fn new(repository: RepositoryId, newest: Option<SnapshotId>, packs: u64) -> Self {
        Self { version: VERSION, repository, refreshed: Time::now(), verified: None, newest, packs }
    }

    /// What is remembered about a copy; nothing if that is not readable as it was written.
    pub fn recall(folder: &Path, repository: RepositoryId, copy: CopyId) -> Option<Self> {
        let bytes = read_whole(&LocalFolder::new(folder), &copy.to_string(), MAX_LEN).ok()?;
        let (checksum, body) = bytes.split_at_checked(CHECKSUM_LEN)?;
        if id::checksum_128(&[copy.as_bytes(), body]) != checksum {
            return None;
        }
        codec::decode(body)
            .ok()
            .filter(|found: &Self| found.version == VERSION && found.repository == repository)
    }

    /// Remembers it in place of what was remembered before.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn keep(&self, folder: &Path, copy: CopyId) -> Result<()> {
        let body = codec::encode(self);
        let bytes = [&id::checksum_128(&[copy.as_bytes(), &body])[..], &body].concat();
        let (name, temporary) = (copy.to_string(), format!("{copy}.new"));
        let state = LocalFolder::new(folder);
        let write = || {
            state.make_folder("")?;
            // Left by a run that was killed here; missing otherwise.
            let _ = state.remove(&temporary);
            let mut file = state.create(&temporary)?;
            file.write_all(&bytes)?;
            file.publish(&name)
        };
        let path: PathBuf = folder.join(&name);
        write().map_err(|source| Error::Path { action: "write", path, source })
    }
}

/// Remembers that packs of a copy were pruned, if anything is remembered of it: so that they are not missed.
///
/// # Errors
/// Any error of the medium or of the file system.
pub fn remember_pruned(folder: &Path, copy: &Repository) -> Result<()> {
    let id = copy.copy().copy;
    let Some(mut memory) = Memory::recall(folder, copy.id(), id) else { return Ok(()) };
    memory.packs = copy.listed_packs()?.len() as u64;
    memory.keep(folder, id)
}
