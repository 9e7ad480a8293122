//! A repository in memory that several actors use at a time, one operation after the other in an order that a seed decides; any of them may be
//! killed or sleep between two operations. After each one it is verified that what was promised is there.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use vault::backend::{Backend, Listed, NewFile, StoredFile};
use vault::id::{ChunkId, PackId, SnapshotId};
use vault::pack::PackFile;
use vault::repository::Repository;
use vault::snapshot::Snapshot;

use crate::support::repository;
use crate::support::torture::Random;

/// A rule of the protocol that an actor does not keep, in a run that shows what the rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// Who writes does not read marks again before the snapshot is published.
    WriterReadsNoMarks,
    /// Who writes does not list packs again before the snapshot is published.
    WriterListsPacksOnce,
    /// Who prunes publishes no marks.
    NoMarks,
    /// Who prunes does not list snapshots again after the mark.
    PrunerListsSnapshotsOnce,
    /// Who prunes does not read again, after the mark, what running sessions rely on.
    PrunerReadsSessionsOnce,
    /// Who prunes heeds nobody else's marks.
    PrunerReadsNoMarks,
    /// Who brings a snapshot back does not look whether it is condemned.
    UndoReadsNoMarks,
    /// Who mirrors says nothing of what it relies on, and does not look whether that is condemned.
    MirrorReliesOnNothing,
}

/// What an actor does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Writer,
    Pruner,
    /// Forgets, and brings back.
    Forgetter,
    /// Copies another repository to this place.
    Mirror,
}

/// So many worlds were made: each is another place.
static WORLDS: AtomicU64 = AtomicU64::new(0);

/// A run takes a thousand.
const MOST_STEPS: u64 = 100_000;

#[derive(Default, Clone)]
struct Actor {
    /// How many of its threads wait to do an operation.
    waiting: usize,
    is_done: bool,
    is_dead: bool,
    /// It is not chosen before that step.
    asleep_until: u64,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, (Arc<Vec<u8>>, i64)>,
    actors: Vec<Actor>,
    granted: Option<usize>,
    steps: u64,
    /// The chunks of each pack.
    packs: HashMap<PackId, HashSet<ChunkId>>,
    /// The chunks below each root, said before it is stored.
    roots: HashMap<ChunkId, HashSet<ChunkId>>,
    /// The roots of snapshots that are listed.
    listed: HashMap<SnapshotId, ChunkId>,
    /// Snapshots that somebody was told of.
    acknowledged: HashSet<SnapshotId>,
    /// Those that somebody has begun to forget.
    forgotten: HashSet<SnapshotId>,
    violations: Vec<String>,
    /// What was done, the last operations only.
    trace: VecDeque<String>,
}

/// All of it.
pub struct World {
    place: PathBuf,
    /// How fast the clock of the medium goes.
    steps_a_second: u64,
    state: Mutex<State>,
    turn: Condvar,
}

impl World {
    pub fn new() -> Arc<Self> {
        Self::with_clock(50)
    }

    pub fn with_clock(steps_a_second: u64) -> Arc<Self> {
        let place = PathBuf::from(format!("/memory/{}", WORLDS.fetch_add(1, Ordering::Relaxed)));
        Arc::new(Self { place, steps_a_second, state: Mutex::default(), turn: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The medium as one that takes no turns sees it.
    pub fn free(self: &Arc<Self>) -> Arc<dyn Backend> {
        Arc::new(self.view(None, Role::Writer, None))
    }

    /// The medium as a further actor sees it.
    pub fn actor(self: &Arc<Self>, role: Role, broken: Option<Broken>) -> (usize, Arc<dyn Backend>) {
        let mut state = self.lock();
        state.actors.push(Actor::default());
        let actor = state.actors.len() - 1;
        (actor, Arc::new(self.view(Some(actor), role, broken)))
    }

    fn view(self: &Arc<Self>, actor: Option<usize>, role: Role, broken: Option<Broken>) -> View {
        View { world: self.clone(), actor, broken, role, seen: Arc::default(), relies: Arc::default() }
    }

    pub fn done(&self, actor: usize) {
        self.lock().actors[actor].is_done = true;
        self.turn.notify_all();
    }

    pub fn root(&self, root: ChunkId, chunks: HashSet<ChunkId>) {
        self.lock().roots.insert(root, chunks);
    }

    pub fn acknowledge(&self, id: SnapshotId) {
        let mut state = self.lock();
        state.acknowledged.insert(id);
        state.verify();
    }

    /// The same of one that was copied: that it is there again, if it was forgotten here, is no promise.
    pub fn acknowledge_unless_forgotten(&self, id: SnapshotId) {
        if !self.lock().forgotten.contains(&id) {
            self.acknowledge(id);
        }
    }

    /// A snapshot that was acknowledged and that nobody has begun to forget.
    pub fn pick(&self, random: &mut Random) -> Option<SnapshotId> {
        let state = self.lock();
        let mut ids: Vec<_> = state.acknowledged.difference(&state.forgotten).copied().collect();
        ids.sort_unstable();
        if ids.is_empty() { None } else { Some(ids[random.below(ids.len())]) }
    }

    pub fn forget(&self, id: SnapshotId) {
        self.lock().forgotten.insert(id);
    }

    pub fn bring_back(&self, id: SnapshotId) {
        let mut state = self.lock();
        state.forgotten.remove(&id);
        state.verify();
    }

    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// The last operations.
    pub fn trace(&self) -> Vec<String> {
        self.lock().trace.iter().cloned().collect()
    }

    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// What the packs hold, and what the snapshots need that are not forgotten.
    pub fn held_and_needed(&self, forgotten: &HashSet<SnapshotId>) -> (HashSet<ChunkId>, HashSet<ChunkId>) {
        let state = self.lock();
        let wanted = state.listed.iter().filter(|(id, _)| !forgotten.contains(id));
        let needed = wanted.flat_map(|(_, root)| state.roots[root].iter().copied()).collect();
        (state.packs.values().flatten().copied().collect(), needed)
    }

    /// The names in a folder.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let state = self.lock();
        let prefix = format!("{folder}/");
        state.files.keys().filter_map(|name| Some(name.strip_prefix(&prefix)?.to_owned())).collect()
    }

    /// Lets the actors work until all are done: who is next, who sleeps and who is killed is random. Some are `drowsy`: they sleep more
    /// often, and longer than others take for all that they do.
    pub fn run(&self, random: &mut Random, kills: usize, is_drowsy: bool) {
        let (often, long) = if is_drowsy { (16, 4_000) } else { (8, 400) };
        let mut kills_left = kills;
        loop {
            let mut state = self.lock();
            while state.granted.is_some()
                || state.actors.iter().any(|actor| !actor.is_done && actor.waiting == 0)
            {
                state = self.turn.wait(state).unwrap();
            }
            let alive: Vec<usize> =
                (0..state.actors.len()).filter(|actor| !state.actors[*actor].is_done).collect();
            if alive.is_empty() {
                return;
            }
            state.steps += 1;
            assert!(state.steps < MOST_STEPS, "it does not end");
            let now = state.steps;
            let awake: Vec<usize> =
                alive.iter().copied().filter(|actor| state.actors[*actor].asleep_until <= now).collect();
            let chosen = if awake.is_empty() {
                alive[random.below(alive.len())]
            } else {
                awake[random.below(awake.len())]
            };
            match random.below(400) {
                0 if kills_left > 0 => {
                    kills_left -= 1;
                    state.actors[chosen].is_dead = true;
                }
                number if (1..=often).contains(&number) => {
                    state.actors[chosen].asleep_until = now + random.below(long) as u64;
                    continue;
                }
                _ => {}
            }
            state.granted = Some(chosen);
            drop(state);
            self.turn.notify_all();
        }
    }
}

impl State {
    /// What was promised is there.
    fn verify(&mut self) {
        let held: HashSet<ChunkId> = self.packs.values().flatten().copied().collect();
        let mut found = Vec::new();
        for (id, root) in self.listed.iter().filter(|(id, _)| !self.forgotten.contains(id)) {
            if !self.roots[root].is_subset(&held) {
                let what = if self.acknowledged.contains(id) { "acknowledged" } else { "listed" };
                let lost: Vec<String> = self.roots[root].difference(&held).map(ChunkId::to_string).collect();
                found.push(format!("step {}: the {what} snapshot {id} lacks {lost:?}", self.steps));
            }
        }
        for id in self.acknowledged.difference(&self.forgotten).filter(|id| !self.listed.contains_key(id)) {
            found.push(format!("step {}: the acknowledged snapshot {id} is gone", self.steps));
        }
        self.violations.extend(found);
    }
}

/// The medium as one actor sees it.
#[derive(Clone)]
struct View {
    world: Arc<World>,
    actor: Option<usize>,
    broken: Option<Broken>,
    role: Role,
    /// The first listing of folders in this run, for who does not list again.
    seen: Arc<Mutex<HashMap<String, Vec<Listed>>>>,
    /// Whether this run has said what it relies on.
    relies: Arc<AtomicBool>,
}

impl View {
    /// Waits for its turn.
    fn turn(&self, what: &str, name: &str) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.world.lock();
        let Some(actor) = self.actor else { return Ok(state) };
        let killed = || io::Error::other("killed");
        if state.actors[actor].is_dead {
            return Err(killed());
        }
        state.actors[actor].waiting += 1;
        self.world.turn.notify_all();
        while state.granted != Some(actor) {
            state = self.world.turn.wait(state).unwrap();
        }
        state.granted = None;
        state.actors[actor].waiting -= 1;
        self.world.turn.notify_all();
        if state.actors[actor].is_dead {
            return Err(killed());
        }
        if state.trace.len() > 2_000 {
            state.trace.pop_front();
        }
        let line = format!("{}: {actor} {what} {name}", state.steps);
        state.trace.push_back(line);
        Ok(state)
    }

    /// Whether this actor does not list a folder again though it should.
    fn lists_once(&self, folder: &str) -> bool {
        match self.broken {
            Some(Broken::WriterListsPacksOnce) => {
                self.role == Role::Writer
                    && folder.starts_with("packs")
                    && self.relies.load(Ordering::Relaxed)
            }
            Some(Broken::PrunerListsSnapshotsOnce) => self.role == Role::Pruner && folder == "snapshots",
            Some(Broken::PrunerReadsSessionsOnce) => self.role == Role::Pruner && folder == "sessions",
            _ => false,
        }
    }

    fn is_blind(&self, folder: &str) -> bool {
        folder == "marks"
            && match self.broken {
                Some(Broken::WriterReadsNoMarks) => self.role == Role::Writer,
                Some(Broken::PrunerReadsNoMarks) => self.role == Role::Pruner,
                Some(Broken::UndoReadsNoMarks) => self.role == Role::Forgetter,
                Some(Broken::MirrorReliesOnNothing) => self.role == Role::Mirror,
                _ => false,
            }
    }
}

impl Backend for View {
    fn place(&self) -> &Path {
        &self.world.place
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        let state = self.turn("list", folder)?;
        if self.is_blind(folder) {
            return Ok(Vec::new());
        }
        if self.lists_once(folder)
            && let Some(seen) = self.seen.lock().unwrap().get(folder)
        {
            return Ok(seen.clone());
        }
        let prefix = format!("{folder}/");
        let mut listed: BTreeMap<String, Listed> = BTreeMap::new();
        for (name, (bytes, modified)) in &state.files {
            let Some(rest) = name.strip_prefix(&prefix) else { continue };
            let (name, is_file) = rest.split_once('/').map_or((rest, true), |(folder, _)| (folder, false));
            let len = if is_file { bytes.len() as u64 } else { 0 };
            let entry = Listed { name: name.to_owned(), len, is_file, modified: *modified };
            listed.insert(name.to_owned(), entry);
        }
        let listed: Vec<Listed> = listed.into_values().collect();
        self.seen.lock().unwrap().insert(folder.to_owned(), listed.clone());
        Ok(listed)
    }

    fn open(&self, file: &str) -> io::Result<Box<dyn StoredFile>> {
        let state = self.turn("open", file)?;
        let (bytes, _) = state.files.get(file).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Stored(bytes.clone())))
    }

    fn create(&self, temporary: &str) -> io::Result<Box<dyn NewFile>> {
        Ok(Box::new(New { view: self.clone(), temporary: temporary.to_owned(), bytes: Vec::new() }))
    }

    fn make_folder(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_folder(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, file: &str) -> io::Result<()> {
        let mut state = self.turn("remove", file)?;
        if state.files.remove(file).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let name = file.rsplit('/').next().unwrap();
        if file.starts_with("packs/") {
            state.packs.remove(&PackId::from_hex(name).unwrap());
        } else if file.starts_with("snapshots/") {
            state.listed.remove(&SnapshotId::from_hex(name).unwrap());
        }
        state.verify();
        Ok(())
    }

    fn sync(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
}

struct New {
    view: View,
    temporary: String,
    bytes: Vec<u8>,
}

impl Drop for New {
    fn drop(&mut self) {
        self.view.world.lock().files.remove(&self.temporary);
    }
}

impl Write for New {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        // Who copies reads it back before it has its name.
        if self.view.role == Role::Mirror || self.view.actor.is_none() {
            let bytes = Arc::new(self.bytes.clone());
            self.view.world.lock().files.insert(self.temporary.clone(), (bytes, 0));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewFile for New {
    fn publish(self: Box<Self>, name: &str) -> io::Result<()> {
        if self.view.broken == Some(Broken::NoMarks) && name.starts_with("marks/") {
            return Ok(());
        }
        let says_nothing =
            self.view.broken == Some(Broken::MirrorReliesOnNothing) && self.view.role == Role::Mirror;
        if says_nothing && name.starts_with("sessions/") {
            return Ok(());
        }
        if name.starts_with("sessions/") {
            self.view.relies.store(!name.ends_with("-0"), Ordering::Relaxed);
            if name.ends_with("-0") {
                self.view.seen.lock().unwrap().clear();
            }
        }
        let world = &self.view.world;
        let bytes = Arc::new(self.bytes.clone());
        let id = name.rsplit('/').next().unwrap();
        // What is in it is found out by who takes no turn.
        let chunks = PackId::from_hex(id).filter(|_| name.starts_with("packs/")).map(|pack| {
            let single = World::new();
            single.lock().files.insert(name.to_owned(), (bytes.clone(), 0));
            let file = PackFile::open(&*single.free(), pack, &world.keys()).unwrap();
            (pack, file.directory().unwrap().chunks.iter().map(|(id, ..)| *id).collect::<HashSet<_>>())
        });
        let root = name.starts_with("snapshots/").then(|| world.root_of(&bytes));
        let mut state = self.view.turn("publish", name)?;
        let now = i64::try_from(state.steps / self.view.world.steps_a_second).unwrap();
        state.files.insert(name.to_owned(), (bytes, now));
        if let Some((pack, chunks)) = chunks {
            let of: Vec<String> = chunks.iter().map(|id| id.to_string()[..6].to_owned()).collect();
            state.trace.push_back(format!("        {pack} holds {of:?}"));
            state.packs.insert(pack, chunks);
        }
        if let Some(root) = root {
            state.listed.insert(SnapshotId::from_hex(id).unwrap(), root);
            state.verify();
        }
        Ok(())
    }
}

impl World {
    fn keys(self: &Arc<Self>) -> vault::seal::Keys {
        repository::open(self.free()).unwrap().keys().clone()
    }

    fn root_of(self: &Arc<Self>, bytes: &[u8]) -> ChunkId {
        let keys = self.keys();
        let (_, body) = vault::header::open_object(bytes, vault::header::Magic::Snapshot, &keys).unwrap();
        let snapshot: Snapshot = vault::codec::decode(&body).unwrap();
        snapshot.root.kind.directory().unwrap()
    }
}

struct Stored(Arc<Vec<u8>>);

impl StoredFile for Stored {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let bytes = self.0.get(start..start.saturating_add(buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn drop_cached(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens the repository as an actor does, one operation after the other.
pub fn open(backend: &Arc<dyn Backend>) -> vault::error::Result<Repository> {
    repository::open(backend.clone())
}
