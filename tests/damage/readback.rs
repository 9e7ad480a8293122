//! Everything that all snapshots of a repository yield, read as a restore reads it, and held against what was saved.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use vault::check::{CheckReport, Loss};
use vault::chunk::GetChunk;
use vault::codec;
use vault::error::Result;
use vault::id::ChunkKind;
use vault::repository::Reader;
use vault::snapshot::list::Pieces;
use vault::snapshot::tree::Entries;
use vault::snapshot::{Content, Entry, Kind, Piece};

use super::covers;
use super::medium::Medium;

use crate::support::repository;

/// A snapshot as read.
#[derive(Debug)]
pub struct Reading {
    pub snapshot: String,
    pub predecessor: Option<String>,
    /// None if not even the snapshot's own file could be read.
    pub entries: Option<Tree>,
}

/// All entries of a snapshot.
#[derive(Debug, Default)]
pub struct Tree {
    /// By path, the entry with all its bytes, or that it cannot be had.
    found: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Directories that could not be listed to the end.
    cut: BTreeSet<Vec<u8>>,
}

/// What was saved.
pub struct Baseline(Vec<Reading>);

/// Reads all that can be read. `spoil` is given every data chunk.
pub fn read_all(medium: &Medium, spoil: &dyn Fn(&mut Vec<u8>)) -> Vec<Reading> {
    let repository = repository::open(medium.share()).unwrap();
    let reader = repository.reader().unwrap();
    let snapshots = repository.snapshots().unwrap().into_iter();
    snapshots
        .map(|(id, read)| {
            let predecessor = read.as_ref().ok().and_then(|snapshot| snapshot.predecessor);
            let entries = read.ok().map(|snapshot| read_tree(&reader, snapshot.root, spoil));
            Reading {
                snapshot: id.to_string(),
                predecessor: predecessor.map(|predecessor| predecessor.to_string()),
                entries,
            }
        })
        .collect()
}

fn read_tree(reader: &Reader, root: Entry, spoil: &dyn Fn(&mut Vec<u8>)) -> Tree {
    let mut tree = Tree::default();
    let mut pending = vec![(Vec::new(), root)];
    while let Some((path, entry)) = pending.pop() {
        if let Some(directory) = entry.kind.directory() {
            for below in Entries::new(reader, directory) {
                let Ok(below) = below else {
                    tree.cut.insert(path.clone());
                    continue;
                };
                let mut below_path = path.clone();
                if !path.is_empty() {
                    below_path.push(b'/');
                }
                below_path.extend_from_slice(&below.name);
                pending.push((below_path, below));
            }
        }
        tree.found.insert(path, read_entry(reader, &entry, spoil).ok());
    }
    tree
}

/// The entry and all bytes it stands for.
fn read_entry(reader: &Reader, entry: &Entry, spoil: &dyn Fn(&mut Vec<u8>)) -> Result<Vec<u8>> {
    let mut bytes = codec::encode(entry);
    for xattr in &entry.meta.xattrs {
        read_content(reader, &xattr.value, 0, spoil, &mut bytes)?;
    }
    if let Kind::File(size, content) = &entry.kind {
        read_content(reader, content, *size, spoil, &mut bytes)?;
    }
    Ok(bytes)
}

fn read_content(
    reader: &Reader,
    content: &Content,
    size: u64,
    spoil: &dyn Fn(&mut Vec<u8>),
    bytes: &mut Vec<u8>,
) -> Result<()> {
    for piece in Pieces::new(reader, content, size) {
        match piece? {
            Piece::Data(id, len) => {
                let mut plain = reader.get(ChunkKind::Data, &id)?;
                assert_eq!(plain.len(), len as usize);
                spoil(&mut plain);
                bytes.extend_from_slice(&plain);
            }
            Piece::Hole(len) => bytes.resize(bytes.len() + usize::try_from(len).unwrap(), 0),
        }
    }
    Ok(())
}

impl Baseline {
    /// Takes what can be read now as what was saved.
    pub fn of(medium: &Medium) -> Self {
        let readings = read_all(medium, &|_| ());
        for reading in &readings {
            let tree = reading.entries.as_ref().unwrap();
            assert!(tree.cut.is_empty() && tree.found.values().all(Option::is_some));
        }
        Self(readings)
    }

    /// Whether another snapshot names this one as its predecessor.
    pub fn is_predecessor(&self, id: &str) -> bool {
        self.0.iter().any(|reading| reading.predecessor.as_deref() == Some(id))
    }

    /// Every path.
    pub fn paths(&self) -> impl Iterator<Item = &[u8]> {
        self.0
            .iter()
            .filter_map(|reading| reading.entries.as_ref())
            .flat_map(|tree| tree.found.keys().map(Vec::as_slice))
    }

    /// Holds what was read against what was saved and against what a report says is lost.
    pub fn compare(
        &self,
        readings: &[Reading],
        report: &CheckReport,
        gone: &HashSet<String>,
    ) -> std::result::Result<(), String> {
        if report.damages.iter().any(|damage| damage.more_costs > 0) {
            return Err("more paths than this can judge".into());
        }
        for saved in self.0.iter().filter(|saved| !gone.contains(&saved.snapshot)) {
            let read = readings.iter().find(|reading| reading.snapshot == saved.snapshot);
            let read = read.ok_or("a snapshot is not listed")?;
            let costs: Vec<(Loss, &[u8])> = report
                .damages
                .iter()
                .flat_map(|damage| &damage.costs)
                .filter(|cost| cost.snapshot.to_string() == saved.snapshot)
                .map(|cost| (cost.loss, cost.path.as_slice()))
                .collect();
            compare_snapshot(saved, read, &costs)?;
        }
        Ok(())
    }
}

fn compare_snapshot(
    saved: &Reading,
    read: &Reading,
    costs: &[(Loss, &[u8])],
) -> std::result::Result<(), String> {
    let saved = &saved.entries.as_ref().ok_or("the baseline has a damaged snapshot")?.found;
    let unreadable = Tree::default();
    let Tree { found: entries, cut } = read.entries.as_ref().unwrap_or(&unreadable);
    let is_named = |path: &[u8]| costs.iter().any(|(loss, cost)| covers(*loss, cost, path));
    for (path, bytes) in saved {
        let shown = String::from_utf8_lossy(path);
        let found = entries.get(path).and_then(Option::as_ref);
        match found {
            None if !is_named(path) => {
                return Err(format!("{shown:?} cannot be read, but is not among the costs {costs:?}"));
            }
            Some(found) if Some(found) != bytes.as_ref() => return Err(format!("{shown:?}: wrong bytes")),
            Some(_) if costs.contains(&(Loss::Content, path.as_slice())) => {
                return Err(format!("{shown:?} is named, but reads back as it was"));
            }
            _ => {}
        }
    }
    let named: BTreeSet<&[u8]> =
        costs.iter().filter(|(loss, _)| *loss == Loss::Entries).map(|(_, path)| *path).collect();
    if !cut.iter().map(Vec::as_slice).eq(named.iter().copied()) {
        return Err(format!("the directories {cut:?} cannot be listed whole, but named are {named:?}"));
    }
    let added = entries.keys().find(|path| !saved.contains_key(*path));
    added.map_or(Ok(()), |path| Err(format!("{path:?} was never saved")))
}
