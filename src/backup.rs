//! Source -> chunks -> repository -> snapshot: the conductor of taking a snapshot.
//!
//! Three stages, joined by short queues. This thread walks the sources and cuts the walk into *groups* of neighbouring entries. `read`
//! has some threads that make each group's entries whole: metadata, content cut and stored. `assemble`
//! is one thread that takes the groups in the order of the walk and builds the trees. `state` remembers
//! what need not be read next time. Memory is bounded by the groups under way, whatever the size of the source.

mod assemble;
mod content;
mod place;
mod read;
mod state;

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::{Sender, bounded};

use crate::chunk::Chunker;
use crate::codec::Bytes;
use crate::error::{Error, Result};
use crate::event::{Event, Observer};
use crate::id::{SnapshotId, host_id};
use crate::pack::Compression;
use crate::repository::{Repository, WriteOptions, Writer};
use crate::session::machine_id;
use crate::snapshot::{Entry, Snapshot, Source, State, Time, Why, counter};
use crate::source::{FileKind, FileSystem, Filter, Found, SourceRoot, Step, Walk, WalkOptions};

use assemble::Assembled;
use place::Move;
use state::LocalState;

/// A group has at most so many entries,
const GROUP_ENTRIES: usize = 256;
/// or so many bytes to read, or one longer file.
const GROUP_BYTES: u64 = 2 << 20;
/// Groups under way.
const GROUPS_UNDER_WAY: usize = 16;
/// So many lines of errors are kept for the notes of a snapshot.
const NOTED_ERRORS: usize = 10_000;

/// A stream to be saved as a file.
pub struct StreamSource {
    /// Where it is stored in the snapshot, slashes allowed.
    pub path: Vec<u8>,
    /// Its bytes.
    pub reader: Box<dyn Read + Send>,
    /// Asked after the last byte: whether what wrote the stream was successful.
    pub finish: Box<dyn FnOnce() -> Result<()> + Send>,
}

/// What to save, and how.
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
    keys: crate::id::IdKeys,
    observer: &'a dyn Observer,
    stop: &'a AtomicBool,
    tally: Tally,
    start: Time,
    force: bool,
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

    fn notice(&self, path: &Path, text: &str) {
        self.observer.event(&Event::Notice { path, text });
    }
}

/// Counts of a run.
#[derive(Default)]
struct Tally {
    files: AtomicU64,
    directories: AtomicU64,
    others: AtomicU64,
    bytes: AtomicU64,
    new: AtomicU64,
    changed: AtomicU64,
    unchanged: AtomicU64,
    errors: AtomicU64,
    left_out: AtomicU64,
    files_read: AtomicU64,
    bytes_read: AtomicU64,
    raced: AtomicU64,
    noted: Mutex<Vec<String>>,
}

impl Tally {
    fn add(counter: &AtomicU64, value: u64) {
        counter.fetch_add(value, Ordering::Relaxed);
    }

    fn problem(&self, path: &Path, error: &Error) {
        use std::error::Error as _;
        Self::add(&self.errors, 1);
        let mut text = format!("{}: {error}", path.display());
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        if let Ok(mut noted) = self.noted.lock() {
            if noted.len() < NOTED_ERRORS {
                noted.push(text.replace('\n', "\\n"));
            }
        }
    }

    fn counters(&self, written: crate::repository::Written) -> Vec<(u32, u64)> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        vec![
            (counter::FILES, load(&self.files)),
            (counter::DIRECTORIES, load(&self.directories)),
            (counter::OTHERS, load(&self.others)),
            (counter::BYTES, load(&self.bytes)),
            (counter::FILES_NEW, load(&self.new)),
            (counter::FILES_CHANGED, load(&self.changed)),
            (counter::FILES_UNCHANGED, load(&self.unchanged)),
            (counter::CHUNKS_ADDED, written.chunks),
            (counter::PLAIN_ADDED, written.plain_bytes),
            (counter::STORED_ADDED, written.stored_bytes),
            (counter::ERRORS, load(&self.errors)),
            (counter::LEFT_OUT, load(&self.left_out)),
            (counter::FILES_READ, load(&self.files_read)),
            (counter::BYTES_READ, load(&self.bytes_read)),
            (counter::FILES_RACED, load(&self.raced)),
        ]
    }
}

/// A step of the walk on its way to a tree.
enum Node {
    /// A directory above a source.
    Implied(Vec<u8>),
    /// A directory begins; with its name in the snapshot.
    Enter(Found, Vec<u8>),
    /// Anything else, to be made whole; with its name in the snapshot and the file system it is on.
    Entry(Found, Vec<u8>, Arc<FileSystem>),
    /// A stream, to be stored as the file of this name.
    Stream(Vec<u8>, StreamSource),
    /// A name of which nothing is saved.
    LeftOut(Vec<u8>, Why, u32),
    /// The directory is done.
    Leave,
    /// From here on, entries belong to the source of this number.
    Source(usize),
}

/// Takes a snapshot. On return with a snapshot it is durable.
///
/// An interruption (`stop`) ends the walk, keeps what was read, and leaves a partial snapshot.
///
/// # Errors
/// A source that is missing, or any error of the repository. Errors of single files are not: see `errors`.
pub fn backup(
    repository: &Repository,
    mut options: BackupOptions,
    observer: &Arc<dyn Observer>,
    stop: &AtomicBool,
) -> Result<BackupSummary> {
    let stream = options.stream.take();
    let sources = place::resolve(&options, stream.as_ref())?;
    let start = Time::now();
    let mut write_options = WriteOptions::new(observer.clone());
    write_options.compression = options.compression;
    write_options.pack_len = options.pack_len;
    write_options.cache_folder.clone_from(&options.cache_folder);
    write_options.dry_run = options.dry_run;
    // Snapshots are listed before packs: one that is listed here cannot lose its packs to a listing that is older.
    let snapshots = repository.snapshots()?;
    let mut writer = repository.writer(write_options)?;
    let chunker = Chunker::new(repository.config().chunker).map_err(Error::damaged("config"))?;
    let predecessor = find_predecessor(&snapshots, &options, &sources);
    plan(observer, predecessor.map(|(_, snapshot)| snapshot));

    let listed: HashSet<SnapshotId> = snapshots.iter().map(|(id, _)| *id).collect();
    let state = LocalState::open(&options, repository, &sources, &listed, &writer, &**observer);
    let shared = Shared {
        writer: &writer,
        repository: repository.backend().place().to_owned(),
        chunker,
        keys: repository.keys().clone(),
        observer: &**observer,
        stop,
        tally: Tally::default(),
        start,
        force: options.force,
        rate: options.read_rate.map(crate::rate::RateLimit::new),
    };
    let assembled = run(&shared, &state, &options, &sources, stream)?;
    let notes = assemble::write_notes(&shared, &options.rules)?;
    let Shared { tally, .. } = shared;

    let interrupted = stop.load(Ordering::Relaxed);
    let written = writer.finish()?;
    let unchanged = predecessor.is_some_and(|(_, before)| before.root == assembled.root);
    let snapshot = Snapshot {
        state: if interrupted { State::Partial } else { State::Complete },
        root: assembled.root,
        notes,
        sources: assembled.sources,
        label: options.label.clone(),
        tags: options.tags.clone(),
        description: options.description.clone(),
        host: host_of(&options),
        host_id: host_id_here(),
        user: current_user(),
        program: concat!("vault ", env!("CARGO_PKG_VERSION")).into(),
        start: options.time.unwrap_or(start),
        end: options.time.unwrap_or_else(Time::now),
        utc_offset_secs: options.utc_offset_secs,
        predecessor: predecessor.map(|(id, _)| *id),
        made_from: Vec::new(),
        counters: tally.counters(written),
        fields: Vec::new(),
    };
    let mut summary = BackupSummary {
        snapshot: None,
        state: snapshot.state,
        counters: snapshot.counters.clone(),
        errors: tally.errors.load(Ordering::Relaxed),
        skipped: options.skip_if_unchanged && unchanged && !interrupted,
        predecessor: snapshot.predecessor,
    };
    if options.dry_run || summary.skipped {
        return Ok(summary);
    }
    let id = writer.publish_snapshot(&snapshot)?;
    summary.snapshot = Some(id);
    // Acknowledged from here on: what follows only makes the next run quicker.
    let comforts = [state.commit(id, writer.used_packs()), writer.merge_segments()];
    for error in comforts.into_iter().filter_map(Result::err) {
        observer.event(&Event::Notice { path: Path::new(""), text: &error.to_string() });
    }
    Ok(summary)
}

/// Runs the three stages and returns the root.
fn run(
    shared: &Shared<'_>,
    state: &LocalState,
    options: &BackupOptions,
    sources: &[place::Placed],
    stream: Option<StreamSource>,
) -> Result<Assembled> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (groups, waiting_groups) = bounded::<read::Group>(GROUPS_UNDER_WAY);
    let (ordered, in_order) = bounded::<read::Answer>(GROUPS_UNDER_WAY);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let groups = waiting_groups.clone();
            scope.spawn(move || read::run(shared, state, &groups));
        }
        drop(waiting_groups);
        let assembler = scope.spawn(move || assemble::run(shared, state, sources, &in_order));
        let mut conductor =
            Conductor { shared, weak: HashSet::new(), groups, ordered, group: Vec::new(), bytes: 0 };
        let walked = conductor.walk(options, sources, stream).and_then(|()| conductor.send());
        drop(conductor);
        let assembled =
            assembler.join().unwrap_or_else(|_| Err(Error::Usage("the assembling thread failed".into())));
        // The assembler's error is the cause where both have one: the walk only notices that nobody takes its groups.
        match (assembled, walked) {
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(assembled), Ok(())) => Ok(assembled),
        }
    })
}

/// Walks the sources and sends groups on.
struct Conductor<'a> {
    shared: &'a Shared<'a>,
    /// File systems without a meaningful ctime that were spoken of.
    weak: HashSet<PathBuf>,
    groups: Sender<read::Group>,
    ordered: Sender<read::Answer>,
    group: Vec<Node>,
    bytes: u64,
}

impl Conductor<'_> {
    fn walk(
        &mut self,
        options: &BackupOptions,
        sources: &[place::Placed],
        mut stream: Option<StreamSource>,
    ) -> Result<()> {
        let mut covered = HashSet::new();
        for step in place::moves(sources) {
            match step {
                Move::Down(name) => self.push(Node::Implied(name), 0)?,
                Move::Up => self.push(Node::Leave, 0)?,
                Move::Source(number) => {
                    let Some(placed) = sources.get(number) else { continue };
                    self.push(Node::Source(number), 0)?;
                    match (&placed.root, stream.take()) {
                        (Some(root), _) => {
                            self.walk_source(options, sources, root, &placed.name, &mut covered)?
                        }
                        (None, Some(stream)) => {
                            self.push(Node::Stream(placed.name.clone(), stream), GROUP_BYTES)?
                        }
                        (None, None) => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Walks one source. Where it comes upon another source that it would leave out, that one is walked in its place.
    fn walk_source(
        &mut self,
        options: &BackupOptions,
        sources: &[place::Placed],
        root: &SourceRoot,
        name: &[u8],
        covered: &mut HashSet<PathBuf>,
    ) -> Result<()> {
        let walk_options = WalkOptions {
            filter: options.filter.clone(),
            one_file_system: options.one_file_system,
            repository: Some(self.shared.repository.clone()),
            // Pending writes through old memory maps move ctime now rather than after we looked.
            sync: true,
        };
        let mut walks = vec![(Walk::new(root, &walk_options)?, Some(name.to_vec()))];
        let mut stopped = false;
        while let Some((walk, root_name)) = walks.last_mut() {
            if !stopped && self.shared.stopped() {
                stopped = true;
                walk.skip_rest();
            }
            let Some(step) = walk.next() else {
                walks.pop();
                if let (true, Some((walk, _))) = (stopped, walks.last_mut()) {
                    walk.skip_rest();
                }
                continue;
            };
            match step {
                Step::Enter(found) => {
                    let name = root_name.take().unwrap_or_else(|| found.name.clone());
                    self.push(Node::Enter(found, name), 0)?;
                }
                Step::Entry(found) => {
                    let name = root_name.take().unwrap_or_else(|| found.name.clone());
                    let file_system = walk.file_system(found.stat.dev);
                    self.meet(&file_system);
                    let bytes = if found.stat.kind == FileKind::Regular { found.stat.size } else { 0 };
                    self.push(Node::Entry(found, name, file_system), bytes)?;
                }
                Step::Leave => self.push(Node::Leave, 0)?,
                Step::Problem { path, error } => self.shared.problem(&path, &error),
                Step::LeftOut { name, path, why, errno, error } => {
                    let inner =
                        place::inner_source(sources, &path).filter(|_| covered.insert(path.to_path_buf()));
                    if let (Some(inner), false) = (inner, stopped) {
                        walks.push((Walk::new(inner, &walk_options)?, Some(name)));
                        continue;
                    }
                    let name = root_name.take().unwrap_or(name);
                    self.left_out(name, &path, why, errno, error)?;
                }
            }
        }
        Ok(())
    }

    /// Says once per file system where only size and mtime can tell that a file changed.
    fn meet(&mut self, file_system: &FileSystem) {
        if !file_system.ctime_is_meaningful && !self.weak.contains(&file_system.mount) {
            self.weak.insert(file_system.mount.clone());
            let text = format!(
                "{} keeps no reliable change times: a file that changed but kept its size and modification time is \
                 only noticed with --force",
                file_system.type_name
            );
            self.shared.notice(&file_system.mount, &text);
        }
    }

    fn left_out(
        &mut self,
        name: Vec<u8>,
        path: &Path,
        why: Why,
        errno: u32,
        error: Option<Error>,
    ) -> Result<()> {
        if let Some(error) = error {
            self.shared.problem(path, &error);
        }
        if why == Why::Repository {
            self.shared.notice(path, "this is the repository itself: it is left out");
        }
        self.push(Node::LeftOut(name, why, errno), 0)
    }

    fn push(&mut self, node: Node, bytes: u64) -> Result<()> {
        // A long file goes alone, so that the files around it do not wait for it.
        if bytes >= GROUP_BYTES {
            self.send()?;
        }
        self.group.push(node);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes >= GROUP_BYTES || self.group.len() >= GROUP_ENTRIES { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<()> {
        if self.group.is_empty() {
            return Ok(());
        }
        let (reply, answer) = bounded(1);
        let group = read::Group { nodes: std::mem::take(&mut self.group), reply };
        self.bytes = 0;
        // The answer is queued first: an assembler that has given up ends the walk.
        let sent = self.ordered.send(answer).is_ok() && self.groups.send(group).is_ok();
        if sent { Ok(()) } else { Err(Error::Interrupted) }
    }
}

/// The newest snapshot of the same host, label and places: complete ones only.
fn find_predecessor<'a>(
    snapshots: &'a [(SnapshotId, Result<Snapshot>)],
    options: &BackupOptions,
    sources: &[place::Placed],
) -> Option<(&'a SnapshotId, &'a Snapshot)> {
    let host = host_of(options);
    let places: HashSet<&[u8]> = sources.iter().map(|source| source.stored_at.as_slice()).collect();
    snapshots.iter().rev().filter_map(|(id, read)| Some((id, read.as_ref().ok()?))).find(|(_, snapshot)| {
        snapshot.state == State::Complete
            && snapshot.host == host
            && snapshot.label == options.label
            && snapshot.sources.len() == places.len()
            && snapshot.sources.iter().all(|source| places.contains(&source.stored_at.0[..]))
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
    let here = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    options.host.clone().unwrap_or_else(here)
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

/// An entry for something of which only the name is known.
fn left_out_entry(name: Vec<u8>, why: Why, errno: u32) -> Entry {
    Entry {
        name: Bytes(name),
        kind: crate::snapshot::Kind::LeftOut(why, errno),
        meta: crate::snapshot::Meta::default(),
        fields: Vec::new(),
    }
}
