//! A repository: open it, read chunks from it, write chunks and publish snapshots into it.
//!
//! The order of durability lives here and nowhere else (`spec/durability.md`): packs, then the segment that names them, then the
//! snapshot, then the acknowledgement. `config` has what the repository says of itself, `record` the statements
//! about it, `key` what passphrases open, `lock` the opening, `seen` what this host remembers, `verified` when it read packs, `renew` a new `copy` in
//! place of a lost one, `reader` the way from ids to bytes, `writer` the way back, `keeper` what new snapshots take over from older ones.
//!
//! An encrypted repository is opened locked: what stands outside of the seals can be read, and everything can be hashed.

mod config;
mod damaged;
mod keeper;
mod key;
mod lock;
mod needed;
mod object;
mod presence;
mod publish;
mod reader;
mod record;
mod renew;
mod reserve;
mod seen;
mod statements;
mod verified;
mod writer;

pub use config::{Config, CopyInfo, InitOptions};
pub(crate) use config::{
    claim, is_feature, is_free, is_of_the_medium, is_whole_config, make_folders, read_config, read_copy,
    refuse_inside_another,
};
pub use keeper::Keeper;
pub use key::{Kdf, KeyOuter, is_recovery_text};
pub(crate) use lock::remove_key_file;
pub use lock::{NewKey, OpenedWith};
pub(crate) use needed::Needed;
pub use presence::{Notice, NoticeBody, Presence, Work};
use publish::{Loss, Reliance};
pub(crate) use publish::{PRUNE_TRIES, refuse, while_pruned};
pub use reader::Reader;
pub use record::{Record, RecordBody, RecordOuter, Scope, record_kind};
pub use renew::RenewedCopy;
pub(crate) use reserve::{make_reserve, with_reserve};
pub use seen::{Lacking, Seen, SeenSnapshot};
pub(crate) use statements::{forgotten_by, in_force_of};
pub use verified::Verified;
pub(crate) use writer::clean_up;
pub use writer::{DEFAULT_PACK_LEN, DataBatch, WriteOptions, Writer, Written};

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use crate::backend::{Backend, Listed, read_whole};
use crate::budget::Budget;
use crate::codec;
use crate::error::{Corruption, Error, Result};
use crate::header::{HEADER_LEN, MAX_OBJECT_LEN, Magic, open_object};
use crate::id::{self, CopyId, KeyId, PackId, RepositoryId, SegmentId, SnapshotId};
use crate::index::{Index, PresentPacks, Problems, is_vanished};
use crate::seal::{Keys, Secret};
use crate::snapshot::Snapshot;

/// The folders of a repository, in the order they are made.
const FOLDERS: [&str; 9] =
    ["packs", "index", "snapshots", "records", "features", "keys", "sessions", "marks", "tmp"];
/// How often a reader lists again because names vanished meanwhile.
const LISTING_TRIES: usize = 10;
/// The longest object file.
const MAX_OBJECT_FILE: u64 = MAX_OBJECT_LEN + HEADER_LEN as u64 + 32;

/// An open repository.
pub struct Repository {
    backend: Arc<dyn Backend>,
    config: Config,
    /// The bytes of `config`, which key files vouch for.
    config_bytes: Vec<u8>,
    copy: CopyInfo,
    keys: Keys,
    budget: Budget,
    /// What the keys are made from, and the key file that it was in, once the repository is unlocked.
    master: Option<(Secret, Option<KeyId>)>,
    problems: Problems,
}

impl Repository {
    /// Makes a new repository. The place must be empty or not exist; what an interrupted `init` left is taken over.
    ///
    /// # Errors
    /// `NotEmpty`, `BeingMade`, an impossible chunker, or any error of the medium.
    pub fn init(backend: &dyn Backend, options: &InitOptions) -> Result<RepositoryId> {
        config::init(backend, options)
    }

    /// Whether a repository can be made there: there is nothing yet, or what an `init` left that was interrupted.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn is_free(backend: &dyn Backend) -> Result<bool> {
        config::is_free(backend).map_err(Error::repository("list", "the folder"))
    }

    /// Opens a repository: reads `config`, `copy`, `features` and `records`. An encrypted one is locked then: see
    /// [`Repository::unlock`].
    ///
    /// # Errors
    /// `NoRepository`; damage to both copies of `config`; a plain `config` beside keys; a feature that is unknown; any error of the medium.
    pub fn open(backend: Arc<dyn Backend>) -> Result<Self> {
        let mut problems = Vec::new();
        let (id, config, config_bytes) = config::read_config(&*backend, &mut problems)?;
        let copy = config::read_copy(&*backend, id, &mut problems)?;
        // A feature that forbids writing is met again when something is to be written.
        let _ = config::check_features(&*backend)?;
        let keys = if config.is_encrypted() { Keys::locked(id) } else { Keys::plain(id) };
        let (budget, master) = (Budget::default(), None);
        let repository =
            Self { backend, config, config_bytes, copy, keys, budget, master, problems: Vec::new() };
        if !repository.config.is_encrypted() && !repository.key_ids()?.is_empty() {
            return Err(Error::damaged("config")(Corruption::KeysBesidePlain));
        }
        problems.extend(repository.statements()?.into_iter().filter_map(|(_, read)| read.err()));
        Ok(Self { problems, ..repository })
    }

    /// The repository's id, shared by all its copies.
    #[must_use]
    pub fn id(&self) -> RepositoryId {
        self.keys.repository()
    }

    /// What all copies share.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What is this copy's own.
    #[must_use]
    pub fn copy(&self) -> &CopyInfo {
        &self.copy
    }

    /// The medium it lies on.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Its keys, as far as they are known.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// What operations on it may take of memory and threads.
    #[must_use]
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// Gives it another budget than the default.
    #[must_use]
    pub fn with_budget(self, budget: Budget) -> Self {
        Self { budget, ..self }
    }

    /// The same repository, to be listed anew by who reads it.
    fn to_read_again(&self) -> Self {
        Self {
            backend: self.backend.clone(),
            config: self.config.clone(),
            config_bytes: Vec::new(),
            copy: self.copy.clone(),
            keys: self.keys.clone(),
            budget: self.budget,
            master: None,
            problems: Vec::new(),
        }
    }

    /// What was found damaged on opening, though something else stood in for it.
    #[must_use]
    pub fn problems(&self) -> &[Error] {
        &self.problems
    }

    /// The ids of all snapshots, ascending.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn snapshot_ids(&self) -> Result<Vec<SnapshotId>> {
        Ok(sorted(self.list("snapshots")?.iter().filter_map(|listed| SnapshotId::from_hex(&listed.name))))
    }

    /// Reads one snapshot, verified.
    ///
    /// # Errors
    /// Damage; any error of the medium.
    pub fn snapshot(&self, id: &SnapshotId) -> Result<Snapshot> {
        let name = format!("snapshots/{id}");
        let bytes = self.read_named(&name, id.as_bytes())?;
        decode_snapshot(&bytes, &self.keys).map_err(Error::damaged(&name))
    }

    /// Reads all snapshots, oldest first; damaged ones come first of all. One that vanished since the listing is passed over.
    ///
    /// # Errors
    /// Any error of listing; those of single snapshots are in the list.
    pub fn snapshots(&self) -> Result<Vec<(SnapshotId, Result<Snapshot>)>> {
        let mut read: Vec<_> = self
            .snapshot_ids()?
            .into_iter()
            .map(|id| (id, self.snapshot(&id)))
            .filter(|(_, read)| !matches!(read, Err(error) if is_vanished(error)))
            .collect();
        read.sort_by_key(|(id, read)| (read.as_ref().ok().map(|snapshot| snapshot.start), *id));
        Ok(read)
    }

    /// The ids of all segments, ascending.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn segment_ids(&self) -> Result<Vec<SegmentId>> {
        // Anything but a file is no segment, and no reason to do without the others.
        let files = self.list_or_none("index")?.into_iter().filter(|listed| listed.is_file);
        Ok(sorted(files.filter_map(|listed| SegmentId::from_hex(&listed.name))))
    }

    /// The packs that are listed, with their lengths.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn listed_packs(&self) -> Result<HashMap<PackId, u64>> {
        self.list_packs(|_| true)
    }

    /// Those whose ids begin with certain bytes: only the folders where these lie are listed.
    fn list_packs(&self, is_asked_for: impl Fn(u8) -> bool) -> Result<HashMap<PackId, u64>> {
        let mut packs = HashMap::new();
        // A copy made by a tool that skips empty folders lacks some of the 256; without `packs` itself nothing is believed.
        let folders = self.list("packs")?;
        let folders: HashSet<&str> = folders.iter().map(|listed| listed.name.as_str()).collect();
        for prefix in (0..=255u8).filter(|prefix| is_asked_for(*prefix)) {
            let name = format!("{prefix:02x}");
            if !folders.contains(name.as_str()) {
                continue;
            }
            for listed in self.list(&format!("packs/{name}"))? {
                let id =
                    PackId::from_hex(&listed.name).filter(|id| id.as_bytes()[0] == prefix && listed.is_file);
                packs.extend(id.map(|id| (id, listed.len)));
            }
        }
        Ok(packs)
    }

    /// The packs that were written at that time or later, by the clock of the medium.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn packs_since(&self, since: i64) -> Result<Vec<PackId>> {
        let mut packs = Vec::new();
        for folder in self.list("packs")? {
            let listed = self.list(&format!("packs/{}", folder.name))?;
            let young = listed.iter().filter(|listed| listed.modified >= since);
            packs.extend(young.filter_map(|listed| PackId::from_hex(&listed.name)));
        }
        Ok(packs)
    }

    /// Loads the index and returns the way to the chunks. Lists segments, then packs `[DUR-9]`; again if names vanish meanwhile
    /// `[DUR-10]`.
    ///
    /// # Errors
    /// Any error of the medium. Damage to the index is none: see [`Reader::problems`].
    pub fn reader(&self) -> Result<Reader> {
        let (index, problems) = self.load_index(false)?;
        Ok(Reader::new(self, index, problems))
    }

    /// A mark that is damaged keeps nobody from reading, as `is_to_write` says.
    fn load_index(&self, is_to_write: bool) -> Result<(Index, Problems)> {
        let mut tries = 0;
        loop {
            let segments = self.segment_ids()?;
            // Marks before packs: who deletes a pack condemns it before, and until it is gone [PRUNE-5].
            let (condemned, mut problems) = match self.condemned() {
                Err(error) if error.is_damage() && !is_to_write => (HashSet::new(), vec![error]),
                other => (other?, Vec::new()),
            };
            let (packs, damaged) = (self.listed_packs()?, self.damaged_packs()?);
            let present = PresentPacks { packs, damaged, condemned };
            match Index::load(&self.backend, &self.keys, &segments, present, self.budget) {
                Err(error) if is_vanished(&error) && tries < LISTING_TRIES => tries += 1,
                other => {
                    let (index, found) = other?;
                    problems.extend(found);
                    return Ok((index, problems));
                }
            }
        }
    }

    /// Checks that no feature and no record here forbids this program to write to one copy of the repository `[REPO-2]` `[REC-1]`.
    ///
    /// # Errors
    /// `UnknownFeature`, `UnknownRecord`; any error of the medium.
    pub fn check_writable(&self, copy: CopyId) -> Result<()> {
        if let Err(name) = config::check_features(&*self.backend)? {
            return Err(Error::UnknownFeature { name });
        }
        let forbids =
            |outer: &RecordOuter| outer.must_understand && !outer.is_known() && outer.speaks_of(copy);
        let unknown = self.readable_statements()?.into_iter().find(|(_, outer)| forbids(outer));
        unknown.map_or(Ok(()), |(record, _)| Err(Error::UnknownRecord { record: record.to_string() }))
    }

    /// Begins to write: cleans up after ended sessions, loads the index, and adopts whole packs that no segment names.
    ///
    /// # Errors
    /// A feature or record that forbids writing; any error of the medium.
    pub fn writer(&self, options: &WriteOptions) -> Result<Writer> {
        self.writer_until(options, &AtomicBool::new(false))
    }

    /// The same, but it ends soon after `stop` is set.
    ///
    /// # Errors
    /// `Interrupted`; a feature or record that forbids writing; any error of the medium.
    pub fn writer_until(&self, options: &WriteOptions, stop: &AtomicBool) -> Result<Writer> {
        self.check_writable(self.copy.copy)?;
        // Before anything is listed: who prunes sees that a run goes on.
        let reliance = Arc::new(Mutex::new(Reliance::begin(self, options.dry_run)?));
        let mut tries = 0;
        loop {
            let (index, problems) = self.load_index(true)?;
            match Writer::begin(self, index, problems, (options, &reliance), stop) {
                Err(error) if is_vanished(&error) && tries < LISTING_TRIES => tries += 1,
                other => return other,
            }
        }
    }

    /// Lists a folder.
    fn list(&self, folder: &str) -> Result<Vec<Listed>> {
        self.backend.list(folder).map_err(Error::repository("list", folder))
    }

    /// Lists a folder that may be empty, and is then not there in a copy made by a tool that skips empty folders.
    fn list_or_none(&self, folder: &str) -> Result<Vec<Listed>> {
        match self.backend.list(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other.map_err(Error::repository("list", folder)),
        }
    }

    /// Reads a file whose name is the hash of its bytes `[REPO-1]`.
    fn read_named(&self, name: &str, hash: &[u8; 32]) -> Result<Vec<u8>> {
        let bytes =
            read_whole(&*self.backend, name, MAX_OBJECT_FILE).map_err(|error| match error.kind() {
                io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                    Error::damaged(name)(Corruption::WrongHash)
                }
                _ => Error::repository("read", name)(error),
            })?;
        if id::hash(&bytes) == *hash { Ok(bytes) } else { Err(Error::damaged(name)(Corruption::WrongHash)) }
    }
}

/// The snapshot in the bytes of its file.
fn decode_snapshot(bytes: &[u8], keys: &Keys) -> Result<Snapshot, Corruption> {
    let (outer, body) = open_object(bytes, Magic::Snapshot, keys)?;
    let snapshot: Snapshot = codec::decode(&body)?;
    snapshot.validate()?;
    if outer.is_empty() { Ok(snapshot) } else { Err(Corruption::TrailingBytes { len: outer.len() as u64 }) }
}

fn sorted<T: Ord>(ids: impl Iterator<Item = T>) -> Vec<T> {
    let mut ids: Vec<T> = ids.collect();
    ids.sort_unstable();
    ids
}
