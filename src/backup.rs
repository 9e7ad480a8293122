//! Source -> chunks -> repository -> snapshot: the conductor of taking a snapshot.
//!
//! Three stages, joined by short queues. This thread walks the sources and cuts the walk into *groups* of neighbouring entries. `read`
//! has some threads that make each group's entries whole: metadata, content cut and stored. `assemble`
//! is one thread that takes the groups in the order of the walk and builds the trees. `state` remembers
//! what need not be read next time, and `room` what a snapshot has no room for. Memory is bounded by the groups under way, whatever the size of the source.

mod assemble;
mod conduct;
mod content;
mod count;
mod entry;
mod links;
mod place;
mod read;
mod room;
mod series;
mod state;
mod tally;

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::bounded;

use crate::backend::WEAK_FOLDER_SYNC;
use crate::chunk::Chunker;
use crate::codec::Bytes;
use crate::error::{Error, Result};
use crate::event::{Event, Observer};
use crate::id::{SnapshotId, host_id};
use crate::pack::Compression;
use crate::repository::{PRUNE_TRIES, Repository, WriteOptions, Writer, Written};
use crate::session::machine_id;
use crate::snapshot::{Snapshot, Source, State, Time, counter, made};
use crate::source::{Filter, SourceRoot, WalkOptions};

use assemble::Assembled;
use conduct::{Conductor, Node};
use links::LinkedFiles;
use series::{find_predecessor, say_damaged};
use state::LocalState;
use tally::Tally;

/// Groups under way.
const GROUPS_UNDER_WAY: usize = 16;

/// A stream to be saved as a file.
pub struct StreamSource {
    /// Where it is stored in the snapshot, slashes allowed.
    pub path: Vec<u8>,
    /// Its bytes. It fails soon after the run was asked to stop, for nothing else can wake up who waits for it.
    pub reader: Box<dyn Read + Send>,
    /// Asked after the last byte: whether what wrote the stream was successful.
    pub finish: Box<dyn FnOnce() -> Result<()> + Send>,
}

/// What to save, and how.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct BackupOptions {
    /// Paths to be saved.
    pub sources: Vec<PathBuf>,
    /// A stream to be saved instead of paths.
    pub stream: Option<StreamSource>,
    /// What to leave out.
    pub filter: Filter,
    /// Stay on the file systems of the sources.
    pub one_file_system: bool,
    /// Where the one source is stored, instead of its own path.
    pub as_path: Option<Vec<u8>>,
    /// The user's name for a series of snapshots.
    pub label: String,
    /// The user's tags.
    pub tags: Vec<String>,
    /// The host, instead of this one's name.
    pub host: Option<String>,
    /// The time, instead of now.
    pub time: Option<Time>,
    /// The user's words.
    pub description: String,
    /// Offset of local time from UTC.
    pub utc_offset_secs: i32,
    /// Read every file, whatever its stamps say.
    pub force: bool,
    /// Do everything but write.
    pub dry_run: bool,
    /// Publish no snapshot if its tree equals the predecessor's.
    pub skip_if_unchanged: bool,
    /// How to compress.
    pub compression: Compression,
    /// Where packs are closed, in bytes.
    pub pack_len: u64,
    /// The folder for the redb cache and the local state of this repository, if they may be used.
    pub cache_folder: Option<PathBuf>,
    /// At most so many bytes per second are read from the sources.
    pub read_rate: Option<u64>,
    /// The rules as the user gave them, for the notes.
    pub rules: Vec<String>,
    /// Count what there is to save, beside saving it, where no snapshot before tells how much it may be.
    pub count_ahead: bool,
}

impl BackupOptions {
    /// The defaults for these sources.
    #[must_use]
    pub fn new(sources: Vec<PathBuf>) -> Self {
        Self {
            sources,
            stream: None,
            filter: Filter::default(),
            one_file_system: false,
            as_path: None,
            label: String::new(),
            tags: Vec::new(),
            host: None,
            time: None,
            description: String::new(),
            utc_offset_secs: 0,
            force: false,
            dry_run: false,
            skip_if_unchanged: false,
            compression: Compression::default(),
            pack_len: crate::repository::DEFAULT_PACK_LEN,
            cache_folder: None,
            read_rate: None,
            rules: Vec::new(),
            count_ahead: false,
        }
    }

    /// How the sources are walked.
    fn walk_options(&self, repository: &Path, threads: usize) -> WalkOptions {
        WalkOptions {
            filter: self.filter.clone(),
            one_file_system: self.one_file_system,
            repository: Some(repository.to_owned()),
            cache: self.cache_folder.clone(),
            // Pending writes through old memory maps move ctime now rather than after we looked.
            sync: true,
            ahead: threads.saturating_sub(1).min(3),
        }
    }
}

/// What became of it.
#[derive(Debug)]
pub struct BackupSummary {
    /// The snapshot; none after a dry run, or if nothing had changed and that was asked for.
    pub snapshot: Option<SnapshotId>,
    /// Whether it is whole.
    pub state: State,
    /// Its counters.
    pub counters: Vec<(u32, u64)>,
    /// Things that could not be read.
    pub errors: u64,
    /// The tree equals the predecessor's, and no snapshot was wanted then.
    pub skipped: bool,
    /// The snapshot before.
    pub predecessor: Option<SnapshotId>,
}

impl BackupSummary {
    /// What came of a run that is to publish this snapshot.
    fn of(snapshot: &Snapshot, tally: &Tally) -> Self {
        Self {
            snapshot: None,
            state: snapshot.state,
            counters: snapshot.counters.clone(),
            errors: tally.errors.load(Ordering::Relaxed),
            skipped: false,
            predecessor: snapshot.predecessor,
        }
    }

    /// One of the counters.
    #[must_use]
    pub fn counter(&self, tag: u32) -> u64 {
        self.counters.iter().find(|(found, _)| *found == tag).map_or(0, |(_, value)| *value)
    }
}

/// What all threads of a run share.
struct Shared<'a> {
    writer: &'a Writer,
    repository: PathBuf,
    chunker: Chunker,
    keys: &'a crate::id::IdKeys,
    observer: &'a dyn Observer,
    stop: &'a AtomicBool,
    tally: Tally,
    linked: LinkedFiles,
    start: Time,
    force: bool,
    has_predecessor: bool,
    rate: Option<crate::rate::RateLimit>,
}

impl Shared<'_> {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn problem(&self, path: &Path, error: &Error) {
        self.tally.problem(path, error);
        self.observer.event(&Event::Problem { path, error });
    }

    fn problems(&self, problems: &[(PathBuf, Error)]) {
        for (path, error) in problems {
            self.problem(path, error);
        }
    }

    fn notice(&self, path: &Path, text: &str) {
        self.observer.event(&Event::Notice { path, text });
    }
}

/// Takes a snapshot. On return with a snapshot it is durable.
///
/// An interruption (`stop`) ends the walk, keeps what was read, and leaves a partial snapshot `[DUR-12]`; of a stream it keeps the packs,
/// and leaves no snapshot. Damage in the repository that the snapshot can do without is sent to `observer` as `Damage`.
///
/// # Errors
/// That no source is there, or any error of the repository; `Interrupted` before the walk has begun, or for a stream. Errors of single
/// files and sources are not: see `errors`.
pub fn backup(
    repository: &Repository,
    mut options: BackupOptions,
    observer: &Arc<dyn Observer>,
    stop: &AtomicBool,
) -> Result<BackupSummary> {
    let mut stream = options.stream.take();
    let is_stream = stream.is_some();
    for _ in 1..PRUNE_TRIES {
        match save(repository, &options, stream.take(), observer, stop) {
            // The local state is not what was written, and is gone now; or somebody pruned. What this try has packed is adopted by the
            // next one. A stream has gone by.
            Err(error @ (Error::Cache { .. } | Error::PrunedMeanwhile { .. })) if !is_stream => {
                observer.event(&Event::Notice { path: Path::new(""), text: &error.to_string() });
            }
            other => return other,
        }
    }
    save(repository, &options, stream, observer, stop)
}

/// Takes a snapshot, once.
fn save(
    repository: &Repository,
    options: &BackupOptions,
    stream: Option<StreamSource>,
    observer: &Arc<dyn Observer>,
    stop: &AtomicBool,
) -> Result<BackupSummary> {
    let start = Time::now();
    let is_stream = stream.is_some();
    let (sources, missing) = place::resolve(options, stream.as_ref())?;
    place::refuse_inside_repository(&sources, repository.backend().place())?;
    room::refuse_too_many(options, start, &sources)?;
    // Snapshots are listed before packs: one that is listed here cannot lose its packs to a listing that is older.
    let snapshots = repository.snapshots()?;
    let mut writer = repository.writer_until(&write_options(options, observer), stop)?;
    say_damaged(&**observer, &snapshots)?;
    let predecessor = find_predecessor(&snapshots, &repository.forgotten()?, options, &sources);
    plan(observer, predecessor.map(|(_, snapshot)| snapshot));

    let listed: HashSet<SnapshotId> = snapshots.iter().map(|(id, _)| *id).collect();
    let state = LocalState::open(options, repository, &sources, &listed, &writer, &**observer);
    let shared = Shared {
        writer: &writer,
        repository: repository.backend().place().to_owned(),
        chunker: Chunker::new(repository.config().chunker, repository.keys().gear().map(|gear| &**gear))
            .map_err(Error::damaged("config"))?,
        keys: repository.keys().ids(),
        observer: &**observer,
        stop,
        tally: Tally::default(),
        linked: LinkedFiles::default(),
        start,
        force: options.force,
        has_predecessor: predecessor.is_some(),
        rate: options.read_rate.map(crate::rate::RateLimit::new),
    };
    shared.problems(&missing);
    let assembled = run(&shared, &state, options, &sources, stream)
        .and_then(|assembled| Ok((assemble::write_notes(&shared, &options.rules)?, assembled)));
    let Shared { tally, .. } = shared;
    let (notes, assembled) = assembled.map_err(|error| given_up(&mut writer, error))?;

    let interrupted = stop.load(Ordering::Relaxed);
    let written = finish(&mut writer, is_stream.then_some(stop))?;
    let unchanged = predecessor.is_some_and(|(_, before)| before.root == assembled.root);
    let mut snapshot = Snapshot {
        state: if interrupted { State::Partial } else { State::Complete },
        root: assembled.root,
        notes,
        sources: assembled.sources,
        predecessor: predecessor.map(|(id, _)| *id),
        counters: tally.counters(written),
        fields: vec![made::seen(&listed)],
        ..described(options, start)
    };
    let mut summary = BackupSummary::of(&snapshot, &tally);
    summary.skipped = options.skip_if_unchanged && unchanged && !interrupted;
    if options.dry_run || summary.skipped {
        return Ok(summary);
    }
    let id = room::publish(repository, &writer, &mut snapshot, &**observer)?;
    summary.snapshot = Some(id);
    // Acknowledged from here on: what follows only makes the next run quicker.
    let comforts = [state.commit(id, writer.used_packs()), writer.merge_segments()];
    say_afterwards(repository, &**observer, comforts);
    Ok(summary)
}

/// Says what made no difference to the snapshot: comforts that failed, and a medium that does less than others.
fn say_afterwards(repository: &Repository, observer: &dyn Observer, comforts: [Result<()>; 2]) {
    for error in comforts.into_iter().filter_map(Result::err) {
        observer.event(&Event::Notice { path: Path::new(""), text: &error.to_string() });
    }
    let backend = repository.backend();
    if backend.folder_sync_is_weak() {
        observer.event(&Event::Notice { path: backend.place(), text: WEAK_FOLDER_SYNC });
    }
}

/// Why a run is given up that failed with this error.
fn given_up(writer: &mut Writer, error: Error) -> Error {
    match error {
        Error::Stopped => writer.give_up().unwrap_or(Error::Stopped),
        // What was packed until then is kept.
        Error::Interrupted => writer.finish().err().unwrap_or(Error::Interrupted),
        other => other,
    }
}

/// Makes all chunks durable. A stream that was interrupted until then ends here.
fn finish(writer: &mut Writer, stop_of_stream: Option<&AtomicBool>) -> Result<Written> {
    let written = writer.finish()?;
    // What wrote it may have been interrupted with us, so that its end was none.
    let is_cut_off = stop_of_stream.is_some_and(|stop| stop.load(Ordering::Relaxed));
    if is_cut_off { Err(Error::Interrupted) } else { Ok(written) }
}

fn write_options(options: &BackupOptions, observer: &Arc<dyn Observer>) -> WriteOptions {
    WriteOptions {
        compression: options.compression,
        pack_len: options.pack_len,
        cache_folder: options.cache_folder.clone(),
        dry_run: options.dry_run,
        ..WriteOptions::new(observer.clone())
    }
}

/// What a snapshot says of its making: who, where, when, and the user's words.
fn described(options: &BackupOptions, start: Time) -> Snapshot {
    Snapshot {
        state: State::Suspect,
        root: entry::implied(Vec::new()),
        notes: None,
        sources: Vec::new(),
        label: options.label.clone(),
        tags: options.tags.clone(),
        description: options.description.clone(),
        host: host_of(options),
        host_id: host_id_here(),
        user: current_user(),
        program: made::PROGRAM.into(),
        start: options.time.unwrap_or(start),
        end: options.time.unwrap_or_else(Time::now),
        utc_offset_secs: options.utc_offset_secs,
        predecessor: None,
        made_from: Vec::new(),
        counters: Vec::new(),
        fields: Vec::new(),
    }
}

/// Runs the three stages and returns the root.
fn run(
    shared: &Shared<'_>,
    state: &LocalState,
    options: &BackupOptions,
    sources: &[place::Placed],
    stream: Option<StreamSource>,
) -> Result<Assembled> {
    let threads = shared.writer.threads();
    let (groups, waiting_groups) = bounded::<read::Group>(GROUPS_UNDER_WAY);
    let (ordered, in_order) = bounded::<read::Answer>(GROUPS_UNDER_WAY);
    let is_saved = &AtomicBool::new(false);
    // A disk that turns is read by one thread, in the order of the walk; others compress what was read.
    let (roots, mut disks) = (sources.iter().filter_map(place::Placed::found), HashSet::new());
    let turns = roots.filter(|root| disks.insert(root.stat.dev)).any(SourceRoot::is_on_a_turning_disk);
    std::thread::scope(|scope| {
        for _ in 0..if turns { 1 } else { threads } {
            let groups = waiting_groups.clone();
            scope.spawn(move || read::run(shared, state, &groups));
        }
        drop(waiting_groups);
        let assembling = scope.spawn(move || assemble::run(shared, state, sources, &in_order));
        if options.count_ahead && !shared.has_predecessor {
            let walk_options = options.walk_options(&shared.repository, threads);
            scope.spawn(move || count::run(shared, walk_options, sources, is_saved));
        }
        let mut conductor = Conductor::new(shared, groups, ordered);
        let walked = conductor.walk(options, sources, stream).and_then(|()| conductor.send());
        drop(conductor);
        let assembled = assembling.join().unwrap_or(Err(Error::Thread("building the trees")));
        is_saved.store(true, Ordering::Relaxed);
        // The assembler's error is the cause where both have one: the walk only notices that nobody takes its groups.
        match (assembled, walked) {
            // A walk that broke off leaves the assembler with half a tree, which says only that much.
            (Err(Error::Stopped) | Ok(_), Err(error)) | (Err(error), _) => Err(error),
            (Ok(assembled), Ok(())) => Ok(assembled),
        }
    })
}

/// Says what is to come, going by the last time.
fn plan(observer: &Arc<dyn Observer>, predecessor: Option<&Snapshot>) {
    observer.event(&Event::Phase("saving"));
    if let Some(before) = predecessor {
        let (items, bytes) = (before.counter(counter::FILES), before.counter(counter::BYTES));
        observer.event(&Event::Planned { items, bytes });
    }
}

fn host_of(options: &BackupOptions) -> String {
    options.host.clone().unwrap_or_else(current_host)
}

/// The name of this host, as snapshots note it.
#[must_use]
pub fn current_host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn host_id_here() -> [u8; 16] {
    let machine = machine_id();
    if machine.is_empty() { [0; 16] } else { host_id(&machine) }
}

fn current_user() -> String {
    let uid = rustix::process::getuid().as_raw();
    crate::source::user_name(uid)
        .map_or_else(|| uid.to_string(), |name| String::from_utf8_lossy(&name).into_owned())
}

/// The table of a source in the snapshot.
fn source_record(placed: &place::Placed, origin: &str, numbers: &assemble::Numbers) -> Source {
    let names = |numbers: &std::collections::BTreeSet<u32>, name: fn(u32) -> Option<Vec<u8>>| {
        numbers.iter().filter_map(|number| Some((*number, Bytes(name(*number)?)))).collect()
    };
    Source {
        origin: origin.to_owned(),
        given: Bytes(placed.given.clone()),
        resolved: Bytes(placed.resolved.clone()),
        stored_at: Bytes(placed.stored_at.clone()),
        carried: Vec::new(),
        users: names(&numbers.users, crate::source::user_name),
        groups: names(&numbers.groups, crate::source::group_name),
    }
}
