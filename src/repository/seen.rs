//! What this host remembers of a repository, in `<state folder>/<repository id>.seen`: its mode, the keys, records and snapshots it saw,
//! each in which copy. Whoever sets a repository back, or takes a snapshot out of it, cannot change this file as well.
//!
//! Lines of words, each with a checksum at its end, only ever appended; a line that is not as it was written is left out, and whoever deletes
//! the file begins anew. It holds ids and no names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::backend::{make_folders_to, open_regular};
use crate::error::{Corruption, Error, Result};
use crate::id::{self, CopyId, KeyId, RecordId, RepositoryId, SnapshotId};
use crate::repository::{Repository, record_kind};
use crate::snapshot::Time;

/// More than that is not read: some 600,000 snapshots.
const MAX_LEN: u64 = 64 << 20;

/// What is remembered of one repository.
pub struct Seen {
    path: PathBuf,
    was_encrypted: bool,
    keys: BTreeSet<(KeyId, CopyId)>,
    records: BTreeSet<(RecordId, CopyId)>,
    /// When it was first seen, in seconds, by snapshot and copy.
    snapshots: BTreeMap<(SnapshotId, CopyId), i64>,
    accepted: BTreeSet<SnapshotId>,
    accepted_keys: BTreeSet<KeyId>,
    accepted_records: BTreeSet<RecordId>,
}

/// A snapshot that was here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenSnapshot {
    /// Which.
    pub id: SnapshotId,
    /// When it was seen first.
    pub first_seen: Time,
}

/// What a repository lacks of what was seen of it, and no record says that it was forgotten or removed.
#[derive(Debug, Default, Clone)]
pub struct Lacking {
    /// Snapshots seen in this very copy: it was set back, or they were deleted.
    pub gone: Vec<SeenSnapshot>,
    /// Snapshots seen in other copies only: this one is not up to date.
    pub elsewhere: Vec<SeenSnapshot>,
    /// Keys seen in this very copy.
    pub keys: Vec<KeyId>,
    /// Keys seen in other copies only.
    pub keys_elsewhere: Vec<KeyId>,
    /// Records seen in this very copy: what they say is forgotten with them. One that speaks of another copy only is never here.
    pub records: Vec<RecordId>,
    /// Whether nothing was ever seen of this copy.
    pub copy_is_new: bool,
    /// Snapshots that are expected no longer.
    pub accepted: BTreeSet<SnapshotId>,
}

impl Seen {
    /// What is remembered of a repository. That nothing can be read is as if nothing were remembered.
    ///
    /// # Errors
    /// `Damaged`: `config` says that it is not encrypted, and it was seen encrypted `[CONF-5]`.
    pub fn recall(folder: &Path, repository: &Repository) -> Result<Self> {
        let path = folder.join(format!("{}.seen", repository.id()));
        let lines = read_lines(&path);
        let mut seen = Self {
            path,
            was_encrypted: false,
            keys: BTreeSet::new(),
            records: BTreeSet::new(),
            snapshots: BTreeMap::new(),
            accepted: BTreeSet::new(),
            accepted_keys: BTreeSet::new(),
            accepted_records: BTreeSet::new(),
        };
        for line in &lines {
            seen.line(line);
        }
        if seen.was_encrypted && !repository.config().is_encrypted() {
            return Err(Error::damaged("config")(Corruption::SeenEncrypted));
        }
        Ok(seen)
    }

    /// Which encrypted repository was seen in the place of this one, if this one is another and is not encrypted. Remembers encrypted ones,
    /// by a hash of where they are.
    ///
    /// # Errors
    /// Any error of writing the file.
    pub fn place(folder: &Path, repository: &Repository) -> Result<Option<RepositoryId>> {
        let path = folder.join("places.seen");
        let place = repository.backend().place();
        let place = std::fs::canonicalize(place).map_err(Error::path("find", place))?;
        let place = SnapshotId::from_bytes(id::hash(place.as_os_str().as_bytes())).to_string();
        let lines = read_lines(&path);
        let ids = lines.iter().filter_map(|line| line.strip_prefix(&place)?.strip_prefix(' '));
        let last = ids.filter_map(RepositoryId::from_hex).next_back();
        let is_new = last != Some(repository.id());
        if repository.config().is_encrypted() && is_new {
            append(&path, &format!("{place} {}\n", repository.id()))?;
        }
        Ok(last.filter(|_| is_new && !repository.config().is_encrypted()))
    }

    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["encrypted"] => self.was_encrypted = true,
            ["key", key, copy] => self.keys.extend(KeyId::from_hex(key).zip(CopyId::from_hex(copy))),
            ["record", record, copy] => {
                self.records.extend(RecordId::from_hex(record).zip(CopyId::from_hex(copy)));
            }
            ["gone-record", record] => self.accepted_records.extend(RecordId::from_hex(record)),
            ["gone-key", key] => self.accepted_keys.extend(KeyId::from_hex(key)),
            ["gone", snapshot] => self.accepted.extend(SnapshotId::from_hex(snapshot)),
            ["snapshot", snapshot, copy, secs] => {
                let ids = SnapshotId::from_hex(snapshot).zip(CopyId::from_hex(copy));
                self.snapshots.extend(ids.zip(secs.parse().ok()));
            }
            // Of a later version.
            _ => {}
        }
    }

    /// Compares the repository with it, and remembers what is new.
    ///
    /// # Errors
    /// Any error of listing the repository, or of writing the file.
    pub fn compare(&mut self, repository: &Repository) -> Result<Lacking> {
        let copy = repository.copy().copy;
        let listed: BTreeSet<SnapshotId> = repository.snapshot_ids()?.into_iter().collect();
        let keys: BTreeSet<KeyId> = repository.key_ids()?.into_iter().collect();
        let forgotten = repository.stated(record_kind::FORGOTTEN, copy)?;
        let removed = repository.stated(record_kind::KEY_REMOVED, copy)?;
        let is_here = self.snapshots.keys().map(|(_, of)| of).chain(self.keys.iter().map(|(_, of)| of));
        let mut lacking = Lacking {
            copy_is_new: !is_here.into_iter().any(|of| *of == copy),
            accepted: self.accepted.clone(),
            ..Lacking::default()
        };
        let missed = self.snapshots.iter().filter(|((id, _), _)| {
            !listed.contains(id) && !forgotten.contains(id.as_bytes()) && !self.accepted.contains(id)
        });
        let mut by_id = BTreeMap::<SnapshotId, (bool, i64)>::new();
        for ((id, of), secs) in missed {
            let (here, first) = by_id.entry(*id).or_insert((false, *secs));
            *here |= *of == copy;
            *first = (*first).min(*secs);
        }
        for (id, (here, secs)) in by_id {
            let seen = SeenSnapshot { id, first_seen: Time { secs, nanos: 0 } };
            if here { lacking.gone.push(seen) } else { lacking.elsewhere.push(seen) }
        }
        lacking.gone.sort_by_key(|seen| seen.first_seen);
        lacking.elsewhere.sort_by_key(|seen| seen.first_seen);
        let is_gone = |key: &KeyId| {
            !keys.contains(key) && !removed.contains(key.as_bytes()) && !self.accepted_keys.contains(key)
        };
        let gone: BTreeSet<KeyId> = self.keys.iter().map(|(key, _)| *key).filter(is_gone).collect();
        (lacking.keys, lacking.keys_elsewhere) =
            gone.into_iter().partition(|key| self.keys.contains(&(*key, copy)));
        let records: BTreeSet<RecordId> = repository.record_ids()?.into_iter().collect();
        let missed: BTreeSet<RecordId> = self
            .records
            .iter()
            .filter(|(id, of)| *of == copy && !records.contains(id) && !self.accepted_records.contains(id))
            .map(|(id, _)| *id)
            .collect();
        lacking.records = missed.into_iter().collect();
        self.remember(repository, &listed, &keys, &records)?;
        Ok(lacking)
    }

    fn remember(
        &mut self,
        repository: &Repository,
        listed: &BTreeSet<SnapshotId>,
        keys: &BTreeSet<KeyId>,
        records: &BTreeSet<RecordId>,
    ) -> Result<()> {
        let copy = repository.copy().copy;
        let now = Time::now().secs;
        let mut lines = String::new();
        if repository.config().is_encrypted() && !self.was_encrypted {
            lines.push_str("encrypted\n");
        }
        // What cannot be written to a string does not exist.
        for key in keys.iter().filter(|key| !self.keys.contains(&(**key, copy))) {
            let _ = writeln!(lines, "key {key} {copy}");
        }
        for record in records.iter().filter(|record| !self.records.contains(&(**record, copy))) {
            let _ = writeln!(lines, "record {record} {copy}");
        }
        for id in listed.iter().filter(|id| !self.snapshots.contains_key(&(**id, copy))) {
            let _ = writeln!(lines, "snapshot {id} {copy} {now}");
        }
        self.append(&lines)
    }

    /// Expects no longer the snapshots, keys and records that are gone from this copy, nor those that others follow.
    ///
    /// # Errors
    /// Any error of writing the file.
    pub fn accept(&mut self, lacking: &Lacking, followed: &[SnapshotId]) -> Result<()> {
        let mut lines = String::new();
        let gone = lacking.gone.iter().map(|seen| &seen.id);
        let all: BTreeSet<&SnapshotId> = gone.chain(followed).collect();
        for id in all.into_iter().filter(|id| !self.accepted.contains(id)) {
            let _ = writeln!(lines, "gone {id}");
        }
        for key in &lacking.keys {
            let _ = writeln!(lines, "gone-key {key}");
        }
        for record in &lacking.records {
            let _ = writeln!(lines, "gone-record {record}");
        }
        self.append(&lines)
    }

    fn append(&mut self, lines: &str) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        append(&self.path, lines)?;
        lines.lines().for_each(|line| self.line(line));
        Ok(())
    }
}

/// The lines of a file that are as they were written. What cannot be read is as if nothing were remembered.
fn read_lines(path: &Path) -> Vec<String> {
    let mut bytes = Vec::new();
    if open_regular(path, OpenOptions::new().read(true))
        .and_then(|file| file.take(MAX_LEN).read_to_end(&mut bytes))
        .is_err()
    {
        return Vec::new();
    }
    let whole = |line: &[u8]| {
        let (line, found) = std::str::from_utf8(line).ok()?.rsplit_once(' ')?;
        (checksum(line) == found).then(|| line.to_owned())
    };
    bytes.split(|byte| *byte == b'\n').filter_map(whole).collect()
}

/// What stands at the end of a line.
fn checksum(line: &str) -> String {
    let [a, b, c, d, ..] = id::hash(line.as_bytes());
    format!("{:08x}", u32::from_be_bytes([a, b, c, d]))
}

/// Appends lines, each with its checksum.
fn append(path: &Path, lines: &str) -> Result<()> {
    let lines: Vec<String> = lines.lines().map(|line| format!("{line} {}\n", checksum(line))).collect();
    let lines = lines.concat();
    let write = || -> io::Result<()> {
        if let Some(folder) = path.parent() {
            make_folders_to(folder, 0o700)?;
        }
        let mut file = open_regular(path, OpenOptions::new().create(true).append(true).mode(0o600))?;
        // A crash may have torn the last line.
        file.write_all(format!("\n{lines}").as_bytes())?;
        file.sync_data()
    };
    write().map_err(Error::path("write", path))
}
