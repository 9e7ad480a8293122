//! What snapshots and paths in them hold, and what would be free without them.
//!
//! Each chunk has *owners*: rows of the result that stand in a tree, as folders do, below one that is everything. What all owners of a chunk have
//! in common is the lowest row above them: that one alone needs the chunk. `walk` finds the owners and `weigh` sums up what is theirs. The owners of
//! data chunks are rows on disk, so memory does not grow with their number; of each node that is not below a target 20 bytes are kept.

mod owners;
mod walk;
mod weigh;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use crate::browse;
use crate::error::{Error, Result};
use crate::id::SnapshotId;
use crate::repository::Reader;
use crate::snapshot::Snapshot;
use crate::snapshot::references::of_snapshot;

use owners::{CHOSEN, OTHERS, Owners};
use walk::Walker;

/// So many rows are told apart.
pub const MAX_ROWS: usize = 100_000;

/// What is asked about: a snapshot, by its place in the list of all, and a path in it, empty for all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Which of the snapshots.
    pub snapshot: usize,
    /// Where in it.
    pub path: Vec<u8>,
}

/// What something holds, in bytes. What is stored is counted as the share of a compressed frame that its chunks have in the plain bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// The sizes of its files.
    pub size: u64,
    /// Its chunks, each once, before compression.
    pub plain: u64,
    /// The same as stored.
    pub stored: u64,
    /// The chunks that nothing else needs, before compression.
    pub unique_plain: u64,
    /// The same as stored: what is free when it is gone.
    pub unique: u64,
}

/// A target, or a folder in one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Which target it belongs to.
    pub target: usize,
    /// Its path in the snapshot.
    pub path: Vec<u8>,
    /// What it holds.
    pub held: Held,
}

/// The result of [`Asking::of_targets`].
#[derive(Debug, Default)]
pub struct Usage {
    /// The targets in their order, each followed by the folders in it.
    pub rows: Vec<Row>,
    /// All targets together.
    pub together: Held,
    /// Chunks that are needed and not there.
    pub missing: u64,
}

/// The result of [`Asking::of_all`].
#[derive(Debug, Default)]
pub struct Alone {
    /// What each snapshot alone holds, in their order; only `unique` and `unique_plain` are known.
    pub alone: Vec<Held>,
    /// What more than one of them needs, likewise.
    pub shared: Held,
    /// Chunks that are needed and not there.
    pub missing: u64,
}

/// What is told of nodes that cannot be read; what is below them is not counted.
pub type OnProblem<'a> = &'a mut dyn FnMut(&SnapshotId, Error);

/// What it takes to find out.
pub struct Asking<'a> {
    /// The way to the chunks.
    pub reader: &'a Reader,
    /// All snapshots that count.
    pub snapshots: &'a [(SnapshotId, Snapshot)],
    /// For files that are gone when the run is.
    pub scratch: PathBuf,
    /// Ends it soon.
    pub stop: &'a AtomicBool,
}

impl Asking<'_> {
    /// What each snapshot alone holds. Reads the trees of all of them.
    ///
    /// # Errors
    /// `Interrupted`; damage to the index; any error of the medium.
    pub fn of_all(&self, problem: OnProblem<'_>) -> Result<Alone> {
        let mut owners = Owners::new();
        let mut walker = Walker::new(self, problem);
        for (id, snapshot) in self.snapshots {
            let owner = owners.add(owners::ALL)?;
            walker.of = *id;
            let mut pending = Vec::new();
            of_snapshot(snapshot, &mut pending);
            walker.claim(&owners, owner, &mut pending)?;
        }
        let weighed = weigh::weigh(self, &owners, &walker.found.sort())?;
        let alone = (0..self.snapshots.len()).map(|index| weighed.held(index + 1 + owners::FIXED)).collect();
        Ok(Alone { alone, shared: weighed.shared, missing: weighed.missing })
    }

    /// What targets hold, and the folders in them to so many levels. Reads the trees of all snapshots.
    ///
    /// # Errors
    /// `NotFound`; `Usage` if one target lies in another, or for more than [`MAX_ROWS`]; `Interrupted`; damage to the index, and to what leads to
    /// a target; any error of the medium.
    pub fn of_targets(&self, targets: &[Target], depth: usize, problem: OnProblem<'_>) -> Result<Usage> {
        refuse_nested(targets)?;
        let mut owners = Owners::new();
        let mut walker = Walker::new(self, problem);
        let mut rows: Vec<(u32, Row)> = Vec::new();
        for (number, target) in targets.iter().enumerate() {
            let Some((id, snapshot)) = self.snapshots.get(target.snapshot) else { continue };
            let found = browse::lookup(self.reader, &snapshot.root, &target.path)?;
            let entry = found.ok_or_else(|| not_found(&target.path, id))?;
            walker.of = *id;
            let row = owners.add(CHOSEN)?;
            let new = |path: &[u8]| Row { target: number, path: path.to_vec(), held: Held::default() };
            rows.push((row, new(&target.path)));
            walker.whole(&mut owners, (&entry, &target.path, row), depth, &mut |owner, path| {
                rows.push((owner, new(path)));
            })?;
            if target.path.is_empty() {
                let notes = snapshot.notes.into_iter().map(|node| (crate::id::ChunkKind::Tree, node, 0));
                walker.exactly(row, &mut notes.collect())?;
            }
        }
        for (index, (id, snapshot)) in self.snapshots.iter().enumerate() {
            let paths: Vec<&[u8]> = targets
                .iter()
                .filter(|target| target.snapshot == index)
                .map(|target| target.path.as_slice())
                .collect();
            walker.of = *id;
            walker.all_but(&owners, OTHERS, snapshot, &paths)?;
        }
        let (sizes, found) = (std::mem::take(&mut walker.sizes), walker.found.sort());
        let mut weighed = weigh::weigh(self, &owners, &found)?;
        weighed.add_sizes(&owners, &sizes);
        let rows =
            rows.into_iter().map(|(owner, row)| Row { held: weighed.held(owner as usize), ..row }).collect();
        Ok(Usage { rows, together: weighed.held(CHOSEN as usize), missing: weighed.missing })
    }
}

fn not_found(path: &[u8], id: &SnapshotId) -> Error {
    let id: String = id.to_string().chars().take(8).collect();
    Error::NotFound { what: format!("/{} in snapshot {id}", String::from_utf8_lossy(path)) }
}

/// What lies in another target would be asked about twice, and be unique to neither.
fn refuse_nested(targets: &[Target]) -> Result<()> {
    let is_in = |inner: &Target, outer: &Target| {
        let rest = inner.path.strip_prefix(&outer.path[..]);
        inner.snapshot == outer.snapshot
            && rest.is_some_and(|rest| rest.is_empty() || outer.path.is_empty() || rest.starts_with(b"/"))
    };
    for (number, inner) in targets.iter().enumerate() {
        let outer = targets.iter().enumerate().find(|(other, outer)| *other != number && is_in(inner, outer));
        if let Some((_, outer)) = outer {
            return Err(Error::Usage(format!(
                "/{} lies in /{}, which is asked about as well: --depth shows what is in a folder",
                String::from_utf8_lossy(&inner.path),
                String::from_utf8_lossy(&outer.path),
            )));
        }
    }
    Ok(())
}
