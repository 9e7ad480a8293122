//! What was found damaged: one entry per object, its errors without repetition, its costs up to a limit.

use std::collections::HashMap;
use std::path::Path;

use crate::check::{Cost, Damage, Loss};
use crate::error::Error;
use crate::event::{Event, Observer};
use crate::id::{ChunkId, ChunkKind, SnapshotId};

/// So many errors are kept for each object.
const KEPT_ERRORS: usize = 16;

/// The damages so far.
pub(super) struct Damages<'a> {
    observer: &'a dyn Observer,
    kept_costs: usize,
    list: Vec<Damage>,
    by_object: HashMap<String, u32>,
}

impl<'a> Damages<'a> {
    pub fn new(observer: &'a dyn Observer, kept_costs: usize) -> Self {
        Self { observer, kept_costs, list: Vec::new(), by_object: HashMap::new() }
    }

    /// Notes an error about an object, and returns the number of its damage.
    pub fn add(&mut self, object: &str, error: Error) -> u32 {
        if let Some(number) = self.by_object.get(object) {
            if let Some(damage) = self.list.get_mut(*number as usize) {
                let text = chain(&error);
                let known = chain(&damage.error) == text
                    || damage.more_errors.iter().any(|known| chain(known) == text);
                if !known && damage.more_errors.len() < KEPT_ERRORS {
                    self.observer.event(&Event::Problem { path: Path::new(object), error: &error });
                    damage.more_errors.push(error);
                }
            }
            return *number;
        }
        self.observer.event(&Event::Problem { path: Path::new(object), error: &error });
        let number = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        self.by_object.insert(object.to_owned(), number);
        self.list.push(Damage {
            object: object.to_owned(),
            error,
            more_errors: Vec::new(),
            chunks: Vec::new(),
            more_chunks: 0,
            costs: Vec::new(),
            more_costs: 0,
        });
        number
    }

    /// Notes damage to the file that the error is about.
    pub fn add_error(&mut self, error: Error) -> u32 {
        let object = match &error {
            Error::Damaged { file, .. } | Error::Repository { file, .. } => file.clone(),
            Error::ChunkMissing { kind, id } => chunk_name(&kind.to_string(), &id.to_string()),
            _ => "the repository".to_owned(),
        };
        self.add(&object, error)
    }

    /// Whether the object is damaged.
    pub fn has(&self, object: &str) -> bool {
        self.by_object.contains_key(object)
    }

    /// What is damaged.
    pub fn objects(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|damage| damage.object.as_str())
    }

    /// The number of the object's damage, if it is damaged.
    pub fn number(&self, object: &str) -> Option<u32> {
        self.by_object.get(object).copied()
    }

    /// What is wrong with the object.
    pub fn reason(&self, object: &str) -> String {
        let number = self.by_object.get(object).copied();
        number.and_then(|number| self.list.get(number as usize)).map_or(String::new(), |d| chain(&d.error))
    }

    /// Adds what a damage costs.
    pub fn cost(&mut self, number: u32, snapshot: &SnapshotId, path: &[u8], loss: Loss) {
        use std::os::unix::ffi::OsStrExt;
        let Some(damage) = self.list.get_mut(number as usize) else { return };
        let what = match loss {
            Loss::Content => "content is lost",
            Loss::Entries => "entries of the directory are lost",
            Loss::Snapshot => "the snapshot is lost",
            Loss::Notes => "notes are lost, and no data",
        };
        let text = format!("{what}, of snapshot {snapshot}: {} is damaged", damage.object);
        let shown = Path::new(std::ffi::OsStr::from_bytes(path));
        self.observer.event(&Event::Notice { path: shown, text: &text });
        if damage.costs.len() < self.kept_costs {
            damage.costs.push(Cost { snapshot: *snapshot, path: path.to_vec(), loss });
        } else {
            damage.more_costs += 1;
        }
    }

    /// Adds a chunk that is lost by a damage.
    pub fn chunk(&mut self, number: u32, kind: ChunkKind, id: ChunkId) {
        let Some(damage) = self.list.get_mut(number as usize) else { return };
        if damage.chunks.len() < self.kept_costs {
            damage.chunks.push((kind, id));
        } else {
            damage.more_chunks += 1;
        }
    }

    /// The damages, by object.
    pub fn finish(mut self) -> Vec<Damage> {
        self.list.sort_by(|a, b| a.object.cmp(&b.object));
        self.list
    }
}

/// What a damage to a chunk that lies nowhere is about.
pub(super) fn chunk_name(kind: &str, id: &str) -> String {
    format!("{kind} chunk {id}")
}

/// An error and its causes.
pub(super) fn chain(error: &Error) -> String {
    use std::error::Error as _;
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
