//! What the walk will come to next, listed and asked about by threads beside it.
//!
//! The walk says which directories it may enter soon; a thread opens and lists them and asks about what is in them, the nearest first. The
//! walk takes what is ready, waits for what is under way, and does the rest itself: it gives the same steps with and without.
//! Only directories of the file system that the one above is on are opened here, since others are to be written out first, or left out.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::directory::{Directory, stat_in};
use super::names::Names;
use super::stat::{Device, Stat};

/// So many directories are open ahead of the walk, fewer than may be open in all.
const MAX_DIRECTORIES: usize = 24;
/// Nothing more is listed while so many entries wait for the walk.
const MAX_ENTRIES: usize = 8192;
/// Of one directory, so many entries are asked about ahead.
const MAX_ENTRIES_OF_ONE: usize = 2048;

/// A directory of more names is left to the walk: there is memory for the names of one such.
const MAX_NAMES: usize = 100_000;

/// What was seen longer ago is looked at again: a walk that waits for slow files needs no help, and what vanished or came meanwhile is to be
/// told as it is.
const FRESH: Duration = Duration::from_millis(200);

/// A directory that was listed ahead.
pub(super) struct Listing {
    /// When.
    pub(super) seen: Instant,
    /// What it was before it was opened.
    pub(super) found: Stat,
    pub(super) directory: Arc<Directory>,
    /// What it was then.
    pub(super) opened: Stat,
    pub(super) names: Names,
    /// What stopped the listing.
    pub(super) failure: Option<io::Error>,
    /// What the first names are, as far as that could be told.
    pub(super) stats: Vec<Option<Stat>>,
}

/// Whether what was seen then can be taken for what is now.
pub(super) fn is_fresh(seen: Instant) -> bool {
    seen.elapsed() < FRESH
}

/// The threads that list ahead of one walk.
pub(super) struct Ahead {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// A thread that waits may go on.
    room: Condvar,
    /// Something is done.
    done: Condvar,
}

#[derive(Default)]
struct Queue {
    /// What may be entered soon, by the directory it is in: the innermost one last.
    wanted: Vec<Wanted>,
    /// What is under way (none) or done, by the directory it is in and its name.
    slots: HashMap<(u64, Vec<u8>), Option<Done>>,
    /// The entries in what is done.
    entries: usize,
    /// The threads that wait for something to do.
    idle: usize,
    /// Whether the walk waits for what is under way.
    walk_waits: bool,
    ended: bool,
}

/// A file system and the mount through which it is seen.
type Place = (Device, Option<u64>);

struct Wanted {
    parent: Arc<Directory>,
    /// The file system of the parent.
    place: Place,
    names: VecDeque<Vec<u8>>,
}

/// What came of a directory; nothing where the walk is to see for itself.
struct Done(Option<Listing>);

impl Done {
    fn entries(&self) -> usize {
        self.0.as_ref().map_or(0, |listing| listing.names.len())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the threads once there is enough for them to do: a system call for each directory would cost more than it saves.
    fn wake(&self, queue: &Queue) {
        if queue.idle > 0 && queue.slots.len() <= MAX_DIRECTORIES / 2 && queue.entries <= MAX_ENTRIES / 2 {
            self.room.notify_all();
        }
    }
}

impl Queue {
    /// The next directory to be listed, if there is room for another one. It is under way then.
    fn begin_next(&mut self) -> Option<(Arc<Directory>, Place, Vec<u8>)> {
        if self.slots.len() >= MAX_DIRECTORIES || self.entries >= MAX_ENTRIES {
            return None;
        }
        let wanted = self.wanted.iter_mut().rev().find(|wanted| !wanted.names.is_empty())?;
        let name = wanted.names.pop_front()?;
        let next = (wanted.parent.clone(), wanted.place, name.clone());
        self.slots.insert((next.0.serial(), name), None);
        Some(next)
    }
}

impl Ahead {
    /// Starts so many threads. Without any, all is left to the walk.
    pub(super) fn new(threads: usize) -> Self {
        let shared = Arc::<Shared>::default();
        let run = |_| {
            let shared = shared.clone();
            std::thread::spawn(move || run(&shared))
        };
        let threads = (0..threads).map(run).collect();
        Self { shared, threads }
    }

    /// The walk may come to these names in a directory, in this order, after those that it was said before of the same.
    pub(super) fn want(&self, parent: &Arc<Directory>, stat: &Stat, names: Vec<Vec<u8>>) {
        if self.threads.is_empty() {
            return;
        }
        let mut queue = self.shared.lock();
        match queue.wanted.iter_mut().find(|wanted| wanted.parent.serial() == parent.serial()) {
            Some(wanted) => wanted.names.extend(names),
            None => queue.wanted.push(Wanted {
                parent: parent.clone(),
                place: (stat.dev, stat.mount),
                names: names.into(),
            }),
        }
        self.shared.wake(&queue);
    }

    /// The walk comes to a directory: what is known of it.
    pub(super) fn take(&self, parent: &Directory, name: &[u8]) -> Option<Listing> {
        let mut queue = self.shared.lock();
        let key = (parent.serial(), name.to_vec());
        loop {
            match queue.slots.get(&key) {
                Some(None) => {
                    queue.walk_waits = true;
                    queue = self.shared.done.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
                Some(Some(done)) => {
                    queue.entries -= done.entries();
                    let done = queue.slots.remove(&key).flatten();
                    self.shared.wake(&queue);
                    return done?.0.filter(|listing| is_fresh(listing.seen));
                }
                None => {
                    let wanted =
                        queue.wanted.iter_mut().rev().find(|wanted| wanted.parent.serial() == key.0)?;
                    while wanted.names.front().is_some_and(|front| **front <= *name) {
                        wanted.names.pop_front();
                    }
                    return None;
                }
            }
        }
    }

    /// The walk leaves a directory, and comes to nothing in it any more.
    pub(super) fn forget(&self, parent: &Directory) {
        let mut queue = self.shared.lock();
        let serial = parent.serial();
        queue.wanted.retain(|wanted| wanted.parent.serial() != serial);
        let mut entries = 0;
        queue.slots.retain(|(of, _), slot| {
            let is_kept = *of != serial;
            entries += if is_kept { 0 } else { slot.as_ref().map_or(0, Done::entries) };
            is_kept
        });
        queue.entries -= entries;
        self.shared.wake(&queue);
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.room.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared) {
    let mut queue = shared.lock();
    while !queue.ended {
        let Some((parent, place, name)) = queue.begin_next() else {
            queue.idle += 1;
            queue = shared.room.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
            continue;
        };
        drop(queue);
        let done = Done(list(&parent, place, &name));
        queue = shared.lock();
        let entries = done.entries();
        // The walk may have left the parent meanwhile.
        if let Some(slot) = queue.slots.get_mut(&(parent.serial(), name)) {
            *slot = Some(done);
            queue.entries += entries;
        }
        if std::mem::take(&mut queue.walk_waits) {
            shared.done.notify_all();
        }
    }
}

/// Lists a directory on this file system, and asks about what is in it. What is odd in any way is left to the walk.
fn list(parent: &Arc<Directory>, place: Place, name: &[u8]) -> Option<Listing> {
    let seen = Instant::now();
    let found = stat_in(&*parent.descriptor().ok()?, name).ok()?;
    if !found.is_dir() || (found.dev, found.mount) != place {
        return None;
    }
    let (directory, opened) = parent.enter(name).ok()?;
    if opened.id() != found.id() || opened.mount != found.mount {
        return None;
    }
    let fd = directory.descriptor().ok()?;
    let (names, failure) = Names::list(&fd, &opened, MAX_NAMES)?;
    let stats = names.iter().take(MAX_ENTRIES_OF_ONE).map(|name| stat_in(&fd, name).ok()).collect();
    Some(Listing { seen, found, directory, opened, names, failure, stats })
}
