//! When each pack of a copy was last read whole from its medium and found right, in a file of this host: `<state folder>/<copy id>.verified`,
//! a checksum, a version, the repository, then 40 bytes for each pack.
//!
//! Nothing depends on it: damaged or lost, it only means that packs are read again. Two runs at a time lose nothing but what both write in
//! the same moment.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::backend::{Backend, LocalFolder, read_whole};
use crate::error::{Error, Result};
use crate::header::array;
use crate::id::{self, CopyId, PackId, RepositoryId};
use crate::repository::Repository;
use crate::snapshot::Time;

/// Raised whenever the layout changes.
const VERSION: u32 = 1;
const CHECKSUM_LEN: usize = 16;
const HEAD_LEN: usize = CHECKSUM_LEN + 4 + 16;
const ROW_LEN: usize = 40;
/// More than that is not read: six million packs.
const MAX_LEN: u64 = 256 << 20;

/// What is remembered about the packs of one copy.
#[derive(Debug)]
pub struct Verified {
    folder: PathBuf,
    repository: RepositoryId,
    copy: CopyId,
    /// Seconds since 1970, by pack.
    packs: BTreeMap<PackId, i64>,
    /// Found to be damaged since: what another run has written of them does not count.
    refuted: BTreeSet<PackId>,
}

impl Verified {
    /// What is remembered about this copy. That nothing can be read is as if nothing were remembered.
    #[must_use]
    pub fn recall(folder: &Path, repository: &Repository) -> Self {
        let (id, copy) = (repository.id(), repository.copy().copy);
        let packs = read(folder, id, copy).unwrap_or_default();
        Self { folder: folder.to_owned(), repository: id, copy, packs, refuted: BTreeSet::new() }
    }

    /// When a pack was last verified, in seconds since 1970. What is said to be in the future is not known.
    #[must_use]
    pub fn when(&self, pack: &PackId, now: i64) -> Option<i64> {
        self.packs.get(pack).copied().filter(|secs| *secs <= now)
    }

    /// Its bytes were right, at that time.
    pub fn confirm(&mut self, pack: PackId, secs: i64) {
        self.refuted.remove(&pack);
        self.packs.insert(pack, secs);
    }

    /// Its bytes are not right.
    pub fn refute(&mut self, pack: PackId) {
        self.packs.remove(&pack);
        self.refuted.insert(pack);
    }

    /// Remembers it, and what another run has found meanwhile; only of packs that are still there.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn keep(&mut self, is_there: impl Fn(&PackId) -> bool) -> Result<()> {
        let now = Time::now().secs;
        for (pack, secs) in read(&self.folder, self.repository, self.copy).unwrap_or_default() {
            let known = self.packs.get(&pack).copied();
            if secs <= now && !self.refuted.contains(&pack) && known.is_none_or(|known| known < secs) {
                self.packs.insert(pack, secs);
            }
        }
        self.packs.retain(|pack, _| is_there(pack));
        let mut bytes = vec![0; CHECKSUM_LEN];
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.repository.as_bytes());
        for (pack, secs) in &self.packs {
            bytes.extend(pack.as_bytes());
            bytes.extend(secs.to_le_bytes());
        }
        let (checksum, body) = bytes.split_at_mut(CHECKSUM_LEN);
        checksum.copy_from_slice(&id::checksum_128(&[self.copy.as_bytes(), body]));
        self.write(&bytes)
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        let name = name(self.copy);
        let temporary = format!("{name}.{}", std::process::id());
        let state = LocalFolder::new(&self.folder);
        let write = || {
            state.make_folder("")?;
            // Left by a process of that number that was killed here; missing otherwise.
            let _ = state.remove(&temporary);
            let mut file = state.create(&temporary)?;
            file.write_all(bytes)?;
            file.publish(&name)
        };
        let path = self.folder.join(&name);
        write().map_err(|source| Error::Path { action: "write", path, source })
    }
}

fn name(copy: CopyId) -> String {
    format!("{copy}.verified")
}

fn read(folder: &Path, repository: RepositoryId, copy: CopyId) -> Option<BTreeMap<PackId, i64>> {
    let bytes = read_whole(&LocalFolder::new(folder), &name(copy), MAX_LEN).ok()?;
    let (checksum, body) = bytes.split_at_checked(CHECKSUM_LEN)?;
    let (head, rows) = body.split_at_checked(HEAD_LEN - CHECKSUM_LEN)?;
    let expected = [&VERSION.to_le_bytes()[..], repository.as_bytes()].concat();
    let is_right = id::checksum_128(&[copy.as_bytes(), body]) == checksum && head == expected;
    if !is_right || rows.len() % ROW_LEN != 0 {
        return None;
    }
    let row = |row: &[u8]| (PackId::from_bytes(array(row)), i64::from_le_bytes(array(&row[32..])));
    Some(rows.chunks_exact(ROW_LEN).map(row).collect())
}
