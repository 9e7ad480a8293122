//! What the verbs do: one file each. Here: what they share, and the way from a verb to its file.

mod cat;
mod check;
mod copy;
mod diff;
mod du;
mod find;
mod forget;
mod heal;
mod init;
mod key;
mod ls;
mod manual;
mod merge;
mod mirror;
mod parity;
mod prune;
mod repair;
mod restore;
mod rewrite;
mod snapshot;
mod snapshots;
mod stats;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use jiff::tz::TimeZone;
use vault::backend::{Backend, LocalFolder};
use vault::browse;
use vault::chunk::GetChunk;
use vault::error::{Error, Result};
use vault::id::{RepositoryId, SnapshotId};
use vault::repository::{Lacking, Reader, Repository, Seen};
use vault::snapshot::{Entry, Snapshot};

use crate::args::{Global, Verb};
use crate::exit::Outcome;
use crate::medium::{Medium, ReadErrors};
use crate::passphrase::Secret;
use crate::render::{self, Screen};
use crate::select::{self, Selector};
use crate::{passphrase, places};

/// The file that says which copy of the repository this is.
const COPY: &str = "copy";

/// What every verb has at hand.
pub struct Context {
    pub global: Global,
    pub screen: Arc<Screen>,
    pub stop: Arc<AtomicBool>,
    pub zone: TimeZone,
    gone: AtomicU64,
}

/// The snapshots of a repository, oldest first.
#[derive(Default)]
pub struct Snapshots {
    /// Those that can be read.
    pub whole: Vec<(SnapshotId, Snapshot)>,
    /// Those that could be, but were forgotten.
    pub forgotten: Vec<(SnapshotId, Snapshot)>,
    /// Those that cannot.
    pub damaged: Vec<(SnapshotId, Error)>,
}

/// Runs a verb.
pub fn run(context: &Context, verb: Verb) -> Result<Outcome> {
    // The others show progress, and say then what they do.
    context.screen.set_during(match &verb {
        Verb::Snapshots(_) => "snapshots",
        Verb::Ls(_) => "ls",
        Verb::Find(_) => "find",
        Verb::Diff(_) => "diff",
        Verb::Cat(_) => "cat",
        Verb::Stats(_) => "stats",
        Verb::Du(_) => "du",
        Verb::Key(_) => "key",
        Verb::Forget(_) => "forget",
        Verb::Hold(_) => "hold",
        Verb::Unhold(_) => "unhold",
        Verb::Undo(_) => "undo",
        Verb::Prune(_) => "prune",
        Verb::Parity(_) => "parity",
        _ => "",
    });
    match verb {
        Verb::Init(args) => init::run(context, &args),
        Verb::Snapshot(args) => snapshot::run(context, &args),
        Verb::Snapshots(args) => snapshots::run(context, &args),
        Verb::Ls(args) => ls::run(context, &args),
        Verb::Find(args) => find::run(context, args),
        Verb::Diff(args) => diff::run(context, &args),
        Verb::Cat(args) => cat::run(context, &args),
        Verb::Restore(args) => restore::run(context, &args),
        Verb::Check(args) => check::run(context, &args),
        Verb::Heal(args) => heal::run(context, &args),
        Verb::Repair(args) => repair::run(context, &args),
        Verb::Stats(args) => stats::run(context, &args),
        Verb::Du(args) => du::run(context, &args),
        Verb::Forget(args) => forget::run(context, &args),
        Verb::Hold(args) => forget::hold(context, &args),
        Verb::Unhold(args) => forget::unhold(context, &args),
        Verb::Undo(args) => forget::undo(context, &args),
        Verb::Rewrite(args) => rewrite::run(context, &args),
        Verb::Merge(args) => merge::run(context, &args),
        Verb::Copy(args) => copy::run(context, &args),
        Verb::Prune(args) => prune::run(context, &args),
        Verb::Key(args) => key::run(context, &args),
        Verb::Mirror(args) => mirror::run(context, &args),
        Verb::Parity(args) => parity::run(context, &args),
        Verb::Completions(args) => manual::completions(context, &args),
        Verb::Man(args) => manual::man(context, &args),
        Verb::Version => manual::version(context),
    }
}

impl Context {
    /// What the command line and the environment say.
    pub fn new(global: Global, screen: Arc<Screen>, stop: Arc<AtomicBool>) -> Self {
        Self { global, screen, stop, zone: TimeZone::system(), gone: AtomicU64::new(0) }
    }

    /// The folder of the repository, and whether it is the default one.
    pub fn repository_folder(&self) -> Result<(PathBuf, bool)> {
        if let Some(folder) = self.global.repository.clone().or_else(places::named_repository) {
            return Ok((folder, false));
        }
        let default = places::default_repository();
        let missing =
            || Error::Usage("no repository is named and there is no home folder: use -r".to_owned());
        Ok((default.ok_or_else(missing)?, true))
    }

    /// The medium of the repository.
    pub fn backend(&self) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(self.medium(self.repository_folder()?.0)))
    }

    /// The same, and each error of reading is noted in `errors`.
    pub fn backend_noting(&self, errors: &Arc<ReadErrors>) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(self.medium(self.repository_folder()?.0).noting(errors)))
    }

    fn medium(&self, folder: PathBuf) -> Medium<LocalFolder> {
        let (read, write) = (self.global.read_rate(), self.global.write_rate());
        Medium::new(LocalFolder::new(folder), read, write, self.stop.clone())
    }

    /// Opens the repository, and says what was found damaged though something else stood in for it, and what it lacks of what this
    /// computer saw in it.
    pub fn open(&self) -> Result<Repository> {
        let repository = self.open_locked()?;
        self.unlocked(repository, passphrase::given(self)?, self.global.key.as_deref())
    }

    /// The same, with this passphrase.
    pub fn open_with(&self, given: Option<Secret>) -> Result<Repository> {
        self.unlocked(self.open_locked()?, given, self.global.key.as_deref())
    }

    /// Opens another repository likewise.
    pub fn open_other(&self, folder: &Path, given: Option<Secret>, key: Option<&str>) -> Result<Repository> {
        let repository = self.open_locked_at(Arc::new(self.medium(folder.to_owned())))?;
        let gone = self.snapshots_gone();
        let opened = self.unlocked(repository, given, key)?;
        self.gone.fetch_add(gone, Ordering::Relaxed);
        Ok(opened)
    }

    fn unlocked(
        &self,
        mut repository: Repository,
        given: Option<Secret>,
        key: Option<&str>,
    ) -> Result<Repository> {
        passphrase::unlock_with(self, &mut repository, given, key)?;
        for problem in repository.problems() {
            self.screen.problem(b"", problem);
            if let Error::Damaged { file, .. } | Error::Repository { file, .. } = problem
                && file == COPY
            {
                self.screen.note("`vault check --repair-copy` makes a new one");
            }
        }
        let lacking = self.lacking(&repository)?;
        self.say_lacking(&lacking);
        for seen in &lacking.gone {
            self.screen.problem(b"", &Error::SnapshotGone { snapshot: seen.id });
        }
        self.gone.store(lacking.gone.len() as u64, Ordering::Relaxed);
        self.offer_acceptance(&lacking);
        Ok(repository)
    }

    /// Opens the repository without its keys. One that was encrypted is refused if it says that it is not.
    pub fn open_locked(&self) -> Result<Repository> {
        self.open_locked_at(self.backend()?)
    }

    /// The same of the repository on this medium.
    pub fn open_locked_at(&self, backend: Arc<dyn Backend>) -> Result<Repository> {
        let repository = Repository::open(backend)?.with_budget(self.global.budget()?);
        if let Some(folder) = places::states() {
            Seen::recall(&folder, &repository)?;
            if let Ok(Some(before)) = Seen::place(&folder, &repository) {
                self.screen.warn(&format!(
                    "the encrypted repository {before} was here before; this is another one, and it is not encrypted"
                ));
            }
        }
        Ok(repository)
    }

    /// What the repository lacks of what this computer saw in it. Remembers what is new in it.
    pub fn lacking(&self, repository: &Repository) -> Result<Lacking> {
        let Some(folder) = places::states() else { return Ok(Lacking::default()) };
        match Seen::recall(&folder, repository)?.compare(repository) {
            Err(error @ Error::Path { .. }) => {
                self.screen.warn(&format!(
                    "what was seen of the repository is not remembered: {}",
                    render::chain(&error)
                ));
                Ok(Lacking::default())
            }
            other => other,
        }
    }

    /// Remembers what was just published, so that it is missed if it is gone the next time. It is safe whatever becomes of that.
    pub fn remember(&self, repository: &Repository) {
        if let Err(error) = self.lacking(repository) {
            self.screen.warn(&render::chain(&error));
        }
    }

    /// Says what it lacks, but for snapshots that are gone.
    pub fn say_lacking(&self, lacking: &Lacking) {
        if let Some(newest) = lacking.elsewhere.last() {
            let count = lacking.elsewhere.len() as u64;
            let snapshots = render::text::counted(count, "snapshot", "snapshots");
            let text = format!(
                "it lacks {snapshots} that this computer saw in another copy, {} among them",
                short(&newest.id)
            );
            if lacking.copy_is_new {
                self.screen.warn(&format!(
                    "this copy of the repository was never seen by this computer: {text}. A mirror may be behind; the \
                     repository itself would have been set back, and its file `copy` exchanged"
                ));
            } else {
                self.screen.note(&format!("this copy of the repository is not up to date: {text}"));
            }
        }
        for key in &lacking.keys {
            self.screen.warn(&format!("the key {key} was here and is gone, and nobody removed it"));
        }
        for key in &lacking.keys_elsewhere {
            self.screen
                .note(&format!("the key {key} was seen in another copy of this repository and is not here"));
        }
        for record in &lacking.records {
            self.screen.warn(&format!("the record {record} was here and is gone, and what it said with it"));
        }
    }

    /// Says how what is gone is settled.
    pub fn offer_acceptance(&self, lacking: &Lacking) {
        if !lacking.gone.is_empty() || !lacking.keys.is_empty() || !lacking.records.is_empty() {
            self.screen.note("if that is right, `vault check --accept-loss` expects it no longer");
        }
    }

    /// How many of the problems so far are snapshots that are gone.
    pub fn snapshots_gone(&self) -> u64 {
        self.gone.load(Ordering::Relaxed)
    }

    /// The way to the chunks.
    pub fn reader(&self, repository: &Repository) -> Result<Reader> {
        let reader = repository.reader()?;
        for problem in reader.problems() {
            self.screen.problem(b"", problem);
        }
        Ok(reader)
    }

    /// Where files may lie that are gone when the run is.
    pub fn scratch(&self, repository: &Repository) -> PathBuf {
        self.cache_folder(repository.id()).unwrap_or_else(std::env::temp_dir)
    }

    /// The folder for the caches of this repository, made if need be, if there may be any.
    pub fn cache_folder(&self, repository: RepositoryId) -> Option<PathBuf> {
        if self.global.no_cache {
            return None;
        }
        let caches = self.global.cache_dir.clone().or_else(places::caches)?;
        let folder = caches.join(repository.to_string());
        if let Err(error) = places::make_cache(&caches, &folder) {
            let text = format!("cannot make {}: {error}: every file is read", folder.display());
            self.screen.warn(&text);
            return None;
        }
        Some(folder)
    }

    /// Reads all snapshots, and says which cannot be read. If some of them are selected, what is in the others does not matter
    /// where an id selects; for anything else a damaged one might have been the answer, as its time is not known.
    pub fn snapshots(&self, repository: &Repository, selectors: &[&Selector]) -> Result<Snapshots> {
        let by_id = |selector: &&Selector| matches!(selector.which, select::Which::Id(_));
        let all_by_id = !selectors.is_empty() && selectors.iter().all(by_id);
        let mut snapshots = Snapshots::default();
        // Before the snapshots: what is forgotten meanwhile is shown once more.
        let forgotten = repository.forgotten()?;
        for (id, read) in repository.snapshots()? {
            match read {
                Ok(snapshot) if forgotten.contains(&id) => snapshots.forgotten.push((id, snapshot)),
                Ok(snapshot) => snapshots.whole.push((id, snapshot)),
                // Whatever became of it, nobody wants it.
                Err(_) if forgotten.contains(&id) => {}
                Err(error) => {
                    if all_by_id {
                        self.screen.warn(&render::chain(&error));
                    } else {
                        self.screen.problem(b"", &error);
                    }
                    snapshots.damaged.push((id, error));
                }
            }
        }
        Ok(snapshots)
    }

    /// How a verb ends that found `snapshots`, and met no other trouble than is counted as problems.
    pub fn outcome(&self) -> Outcome {
        Outcome::damage_if(self.screen.tally().problems() > 0)
    }
}

impl Snapshots {
    /// The damaged snapshot that an id names, if it is none of a whole one.
    pub fn damaged_by_id(&self, selector: &Selector) -> Option<SnapshotId> {
        let select::Which::Id(prefix) = &selector.which else { return None };
        let fits = |id: &SnapshotId| id.to_string().starts_with(prefix);
        let is_whole = self.whole.iter().any(|(id, _)| fits(id));
        self.damaged.iter().map(|(id, _)| *id).find(fits).filter(|_| !is_whole)
    }

    /// The snapshot that is meant. If that one is damaged, this is an error. That any other one is damaged was said when they
    /// were read, and is in the exit code where it may matter: an older snapshot must not pass for the latest.
    pub fn select(&self, selector: &Selector, zone: &TimeZone) -> Result<&(SnapshotId, Snapshot)> {
        if let Some(id) = self.damaged_by_id(selector) {
            let source = vault::error::Corruption::WrongHash;
            return Err(Error::Damaged { file: format!("snapshots/{id}"), source });
        }
        if let select::Which::Id(prefix) = &selector.which {
            let fits = |id: &SnapshotId| id.to_string().starts_with(prefix);
            let forgotten = self.forgotten.iter().find(|(id, _)| fits(id));
            if let Some((id, _)) = forgotten.filter(|_| !self.whole.iter().any(|(id, _)| fits(id))) {
                let id = short(id);
                let what =
                    format!("snapshot {id} any more, it was forgotten; `vault undo {id}` brings it back");
                return Err(Error::NotFound { what });
            }
        }
        let index = select::select(selector, &self.whole, zone)?;
        self.whole.get(index).ok_or_else(|| Error::NotFound { what: format!("snapshot {}", selector.which) })
    }
}

/// What a selector names inside of its snapshot.
pub fn entry_at(get: &dyn GetChunk, snapshot: &(SnapshotId, Snapshot), path: &[u8]) -> Result<Entry> {
    let (id, snapshot) = snapshot;
    browse::lookup(get, &snapshot.root, path)?.ok_or_else(|| Error::NotFound {
        what: format!("/{} in snapshot {}", render::text::escape(path), short(id)),
    })
}

/// The id of a snapshot as people write it.
pub fn short(id: &SnapshotId) -> String {
    select::short_of(id, 8)
}
