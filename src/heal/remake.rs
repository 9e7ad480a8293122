//! New snapshots of what is left of damaged ones. The damaged ones stay.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::chunk::GetChunk;
use crate::error::{Error, Result};
use crate::event::{Event, Observer};
use crate::heal::notes::Notes;
use crate::heal::rebuild::{Rebuilder, Rebuilt};
use crate::id::{ChunkId, ChunkKind, SnapshotId};
use crate::repository::{Reader, Repository, Writer};
use crate::snapshot::made;
use crate::snapshot::references::{of_node, of_snapshot};
use crate::snapshot::{Entry, How, Kind, Snapshot, State, TreeNode, counter, tree};

pub use crate::heal::rebuild::Lost;

/// So many paths are kept for each snapshot; the others are counted.
const KEPT_PATHS: usize = 100;
/// The tag of a signature, which vouches for what is changed now.
const SIGNATURE: u32 = u32::MAX;

/// A path at which something is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostPath {
    /// Names joined by slashes; empty for the root.
    pub path: Vec<u8>,
    /// What is lost.
    pub lost: Lost,
}

/// A damaged snapshot, and what is left of it.
#[derive(Debug)]
pub struct Remade {
    /// The damaged one.
    pub from: SnapshotId,
    /// The new one, or one that says the same already; none in a dry run, or if nothing is left.
    pub snapshot: Option<SnapshotId>,
    /// Whether it was there already.
    pub was_there: bool,
    /// Whether there is nothing left to make one of.
    pub is_nothing_left: bool,
    /// Files that are lost.
    pub files: u64,
    /// Folders of which entries are lost.
    pub folders: u64,
    /// Entries that lose attributes.
    pub attributes: u64,
    /// The first paths.
    pub paths: Vec<LostPath>,
}

impl Remade {
    fn of(from: SnapshotId) -> Self {
        Self {
            from,
            snapshot: None,
            was_there: false,
            is_nothing_left: false,
            files: 0,
            folders: 0,
            attributes: 0,
            paths: Vec::new(),
        }
    }

    /// How many paths lose something.
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.files + self.folders + self.attributes
    }

    fn lose(&mut self, path: &[u8], lost: Lost) {
        let count = match lost {
            Lost::Content => &mut self.files,
            Lost::Entries => &mut self.folders,
            Lost::Attributes => &mut self.attributes,
        };
        *count += 1;
        if self.paths.len() < KEPT_PATHS {
            self.paths.push(LostPath { path: path.to_vec(), lost });
        }
    }
}

fn words(lost: Lost) -> &'static str {
    match lost {
        Lost::Content => "its content is lost",
        Lost::Entries => "entries of the folder are lost",
        Lost::Attributes => "extended attributes are lost",
    }
}

/// A damaged snapshot, and the root of what is left of it.
pub(super) struct Damaged {
    pub remade: Remade,
    root: Entry,
}

/// Looks whether a snapshot is damaged; nothing of a whole one.
///
/// # Errors
/// `Interrupted`; any error of the repository.
pub(super) fn look(
    rebuilder: &mut Rebuilder<'_>,
    (id, snapshot): &(SnapshotId, Snapshot),
    observer: &dyn Observer,
) -> Result<Option<Damaged>> {
    use std::os::unix::ffi::OsStrExt;
    let mut remade = Remade::of(*id);
    let Rebuilt { root, kept, is_hit } = rebuilder.rebuild(&snapshot.root, &mut |path, lost| {
        remade.lose(path, lost);
        let text = format!("{}, of snapshot {id}", words(lost));
        let shown = Path::new(std::ffi::OsStr::from_bytes(path));
        observer.event(&Event::Notice { path: shown, text: &text });
        Ok(())
    })?;
    remade.is_nothing_left = kept == 0;
    Ok(is_hit.then_some(Damaged { remade, root }))
}

impl Damaged {
    /// Writes the trees and notes of a snapshot of what is left.
    ///
    /// # Errors
    /// `Interrupted`; any error of the repository.
    pub(super) fn write(self, rebuilder: &mut Rebuilder<'_>, old: &Snapshot) -> Result<Draft> {
        let mut notes = Notes::new(rebuilder.put);
        let rebuilt = rebuilder.rebuild(&old.root, &mut |path, lost| notes.line(path, words(lost)))?;
        let notes = notes.finish(old.notes, rebuilder)?;
        Ok(Draft { damaged: Self { root: rebuilt.root, ..self }, old: old.clone(), notes })
    }

    /// The snapshot that says the same already, if there is one: made of the same damaged one, or of one that this was made of.
    pub(super) fn find_same(&self, snapshots: &[(SnapshotId, Snapshot)]) -> Option<SnapshotId> {
        let origin = origin(&self.remade.from, snapshots);
        let is_same = |(id, snapshot): &&(SnapshotId, Snapshot)| {
            snapshot.root == self.root
                && parent(snapshot).is_some_and(|from| origin == self::origin(&from, snapshots))
                && *id != self.remade.from
        };
        snapshots.iter().find(is_same).map(|(id, _)| *id)
    }
}

/// What is to become a snapshot once all its chunks are durable.
pub(super) struct Draft {
    pub damaged: Damaged,
    old: Snapshot,
    notes: ChunkId,
}

impl Draft {
    /// Publishes it `[REPAIR-3]`, after every chunk that it needs was seen present and its pack noted as used `[REPAIR-1]`.
    ///
    /// # Errors
    /// `ChunkMissing`: then nothing was published; `PrunedMeanwhile`; any error of the repository.
    pub(super) fn publish(
        &self,
        repository: &Repository,
        reader: &Reader,
        writer: &Writer,
        stop: &AtomicBool,
    ) -> Result<SnapshotId> {
        let Damaged { remade, root } = &self.damaged;
        let mut snapshot = Snapshot {
            state: State::Partial,
            root: root.clone(),
            notes: Some(self.notes),
            made_from: vec![(How::Repair, remade.from)],
            program: concat!("vault ", env!("CARGO_PKG_VERSION")).into(),
            ..self.old.clone()
        };
        let counted = rely(reader, writer, &snapshot, stop)?;
        snapshot.counters = vec![
            (counter::FILES, counted.files),
            (counter::DIRECTORIES, counted.directories),
            (counter::OTHERS, counted.others),
            (counter::BYTES, counted.bytes),
            (counter::ERRORS, self.old.counter(counter::ERRORS) + remade.losses()),
            (counter::LEFT_OUT, counted.left_out),
        ];
        let listed: HashSet<SnapshotId> = repository.snapshot_ids()?.into_iter().collect();
        let seen = made::seen(&listed);
        snapshot.fields.retain(|field| field.tag != SIGNATURE && field.tag != seen.tag);
        snapshot.fields.push(seen);
        snapshot.fields.sort_by_key(|field| field.tag);
        repository.publish_snapshot(writer, &snapshot)
    }
}

/// What a snapshot was repaired from.
fn parent(snapshot: &Snapshot) -> Option<SnapshotId> {
    let mut from = snapshot.made_from.iter().filter(|(how, _)| *how == How::Repair);
    from.next().map(|(_, id)| *id)
}

/// What a snapshot was repaired from in the first place.
fn origin(id: &SnapshotId, snapshots: &[(SnapshotId, Snapshot)]) -> SnapshotId {
    let find = |id: &SnapshotId| snapshots.iter().find(|(other, _)| other == id);
    // Ids are hashes: nothing was made from what came after it.
    let mut id = *id;
    while let Some(before) = find(&id).and_then(|(_, snapshot)| parent(snapshot)) {
        id = before;
    }
    id
}

#[derive(Default)]
struct Counted {
    files: u64,
    directories: u64,
    others: u64,
    bytes: u64,
    left_out: u64,
}

impl Counted {
    fn entry(&mut self, entry: &Entry) {
        match &entry.kind {
            Kind::File(size, _) => {
                self.files += 1;
                self.bytes = self.bytes.saturating_add(*size);
            }
            Kind::Directory(_) => self.directories += 1,
            Kind::Implied(_) => {}
            Kind::LeftOut(..) => self.left_out += 1,
            _ => self.others += 1,
        }
    }
}

/// Asks for every chunk of a snapshot, and counts what is in it.
fn rely(reader: &Reader, writer: &Writer, snapshot: &Snapshot, stop: &AtomicBool) -> Result<Counted> {
    let mut counted = Counted::default();
    counted.entry(&snapshot.root);
    let mut todo = Vec::new();
    of_snapshot(snapshot, &mut todo);
    while let Some((kind, id, _)) = todo.pop() {
        if stop.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        if !writer.has_chunk(kind, &id)? {
            return Err(Error::ChunkMissing { kind, id });
        }
        if kind == ChunkKind::Data {
            continue;
        }
        if kind == ChunkKind::Tree && Some(id) != snapshot.notes {
            let bytes = reader.get(kind, &id)?;
            let node = tree::decode_node(&bytes).map_err(Error::damaged(&format!("tree node {id}")))?;
            if let TreeNode::Leaf(entries) = node {
                for entry in &entries {
                    counted.entry(entry);
                }
            }
        }
        of_node(reader, kind, &id, &mut todo)?;
    }
    Ok(counted)
}
