//! The files of a repository against one another: names, snapshots, segments, and the listing of packs.

use std::io;

use crate::check::{Check, Loss, PackFacts, Start, series};
use crate::error::{Corruption, Error, Result};
use crate::id::{ChunkId, FileHasher, PackId, SegmentId, SnapshotId};
use crate::index::{PackRow, Segment, is_vanished};
use crate::pack::pack_file_name;
use crate::repository::record_kind;
use crate::snapshot::tree::Entries;
use crate::snapshot::{Entry, Kind, SNAPSHOT_SEEN};

/// The bytes read at a time.
const PIECE_LEN: usize = 1 << 20;

/// So many segments that were replaced are named.
const KEPT_SUPERSEDED: usize = 10;
/// Of more snapshots the order is not looked for.
const MOST_IN_ORDER: usize = 5000;

/// What snapshots say of others.
#[derive(Default)]
struct Said {
    predecessors: Vec<SnapshotId>,
    /// What each was there with, as a hash.
    seen: Vec<(SnapshotId, [u8; 32])>,
}

impl Check<'_> {
    /// What opening the repository and loading its index found.
    pub(super) fn opened(&mut self) {
        let (repository, reader) = (self.repository, self.reader);
        for error in repository.problems() {
            self.damages.add_error(again(error));
        }
        if self.options.only.is_some() {
            return;
        }
        for error in reader.problems() {
            self.damages.add_error(again(error));
        }
        let uncovered = reader.index().uncovered_packs().len();
        if uncovered > 0 {
            self.notice(format!(
                "packs in no segment of the index, which were read instead: {uncovered}; the next snapshot adds them"
            ));
        }
    }

    /// Every key file whole, as far as that shows without its passphrase.
    pub(super) fn keys(&mut self) -> Result<()> {
        for (id, read) in self.repository.keys_listed()? {
            match read {
                Err(error) if is_vanished(&error) => {}
                Err(error) if error.is_damage() => {
                    self.damages.add(&format!("keys/{id}"), error);
                }
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Every segment whole: its hash, its header, every block; and that the packs it names are there.
    pub(super) fn segments(&mut self) -> Result<()> {
        for id in self.repository.segment_ids()? {
            self.go_on()?;
            let name = format!("index/{id}");
            match self.segment(&id, &name) {
                Ok(()) => self.report.segments += 1,
                // Merged into another one since it was listed.
                Err(error) if is_vanished(&error) && !self.repository.segment_ids()?.contains(&id) => {}
                Err(error) if error.is_damage() => {
                    self.damages.add(&name, error);
                }
                Err(error) => return Err(error),
            }
        }
        let superseded = self.reader.index().superseded();
        let texts: Vec<String> = superseded
            .iter()
            .take(KEPT_SUPERSEDED)
            .map(|(segment, by)| {
                format!(
                    "index/{} was merged into index/{by} and is here again, or still, as on a mirror",
                    segment.id()
                )
            })
            .collect();
        for text in texts {
            self.notice(text);
        }
        Ok(())
    }

    fn segment(&mut self, id: &SegmentId, name: &str) -> Result<()> {
        let backend = self.repository.backend();
        let file = backend.open(name).map_err(Error::repository("read", name))?;
        let mut hasher = FileHasher::default();
        let mut buffer = vec![0; usize::try_from(file.len()).map_or(PIECE_LEN, |len| len.min(PIECE_LEN))];
        let mut at = 0;
        while at < file.len() {
            let rest = usize::try_from(file.len() - at).unwrap_or(usize::MAX);
            let len = rest.min(buffer.len());
            let piece = buffer.get_mut(..len).unwrap_or_default();
            file.read_exact_at(piece, at).map_err(Error::repository("read", name))?;
            hasher.update(piece);
            at += len as u64;
        }
        drop(buffer);
        if hasher.finish() != *id.as_bytes() {
            self.damages.add(name, Error::damaged(name)(Corruption::WrongHash));
        }
        let segment = Segment::open(backend, *id, self.repository.keys())?;
        let rows = segment.packs();
        // One that was published since packs were listed may speak of others.
        let was_loaded = self.reader.index().segments().any(|loaded| loaded.id() == *id);
        for row in rows.iter().filter(|_| was_loaded) {
            self.row(row);
        }
        let mut counts = vec![0u64; rows.len()];
        segment.for_each(|(_, location)| {
            let at = rows.binary_search_by_key(&location.pack, |row| row.pack);
            if let Some(count) = at.ok().and_then(|at| counts.get_mut(at)) {
                *count += 1;
            }
        })?;
        if self.options.read_data {
            let number = u32::try_from(self.segments.len()).unwrap_or(u32::MAX);
            self.segments.push(*id);
            let facts = rows.iter().zip(counts).map(|(row, facts)| PackFacts {
                pack: row.pack,
                facts,
                segment: number,
            });
            self.pack_facts.extend(facts);
        }
        Ok(())
    }

    /// A pack that a segment names is listed, with the length it names `[REPO-6]`.
    fn row(&mut self, row: &PackRow) {
        let name = pack_file_name(&row.pack);
        let expected = u64::from(row.stored_len);
        match self.reader.index().present().packs.get(&row.pack) {
            Some(found) if *found == expected => {}
            // Who deletes it has not come to the segments yet.
            None if self.reader.index().present().condemned.contains(&row.pack) => {}
            Some(found) => {
                let error = Error::damaged(&name)(Corruption::WrongLength { expected, found: *found });
                self.damages.add(&name, error);
                self.doubted.insert(row.pack);
                self.undecodable.insert(row.pack);
            }
            None => {
                let error = Error::repository("read", &name)(io::ErrorKind::NotFound.into());
                self.damages.add(&name, error);
            }
        }
    }

    /// Packs that a record calls damaged, and those that were found so before this.
    pub(super) fn listed_packs(&mut self) {
        let present = self.reader.index().present();
        let mut listed: Vec<PackId> = present.packs.keys().copied().collect();
        listed.sort_unstable();
        for pack in listed {
            let name = pack_file_name(&pack);
            if self.damages.has(&name) {
                self.doubted.insert(pack);
                self.undecodable.insert(pack);
            }
            // Whoever reads the packs finds out whether it still is.
            if present.damaged.contains(&pack) && !(self.options.read_data && self.options.subset.is_none()) {
                let what = Corruption::rule("REPO-6", "a record says that it is damaged");
                self.damages.add(&name, Error::damaged(&name)(what));
                self.doubted.insert(pack);
            }
        }
    }

    /// The snapshots that can be read, or the one place that the check is about.
    pub(super) fn starts(&mut self, snapshots: &[SnapshotId]) -> Result<Vec<Start>> {
        if let Some((snapshot, path)) = &self.options.only {
            let found = self.start_at(snapshot, path)?;
            return Ok(found.into_iter().collect());
        }
        let mut starts = Vec::new();
        let mut said = Said::default();
        // Whatever only they need may be deleted at any time, and is no loss.
        let forgotten = self.repository.forgotten()?;
        for id in snapshots.iter().filter(|id| !forgotten.contains(id)) {
            self.go_on()?;
            let Some(start) = self.start(id, &mut said)? else { continue };
            starts.push(start);
        }
        self.missing(snapshots, said)?;
        Ok(starts)
    }

    /// Snapshots that others speak of and that are not here, unless they were forgotten.
    fn missing(&mut self, snapshots: &[SnapshotId], mut said: Said) -> Result<()> {
        let forgotten = self.repository.stated(record_kind::FORGOTTEN, self.repository.copy().copy)?;
        said.predecessors.sort_unstable();
        said.predecessors.dedup();
        let is_here = |id: &SnapshotId| snapshots.binary_search(id).is_ok();
        let is_missing = |id: &&SnapshotId| !is_here(id) && !forgotten.contains(id.as_bytes());
        let mut knows_one = false;
        for predecessor in said.predecessors.iter().filter(is_missing) {
            knows_one = true;
            self.report.missed.push(*predecessor);
            self.notice(format!("snapshot {predecessor}, named as a predecessor, is not here"));
        }
        // With forgotten ones, or damaged ones, the order cannot be found any more.
        if knows_one
            || !forgotten.is_empty()
            || said.seen.len() != snapshots.len()
            || snapshots.len() > MOST_IN_ORDER
        {
            return Ok(());
        }
        if let Some(first) = series::unexplained(&said.seen).first() {
            self.notice(format!(
                "snapshot {first} was taken when others were here than are now: some were removed, or came from another copy"
            ));
        }
        Ok(())
    }

    fn start(&mut self, id: &SnapshotId, said: &mut Said) -> Result<Option<Start>> {
        match self.repository.snapshot(id) {
            Ok(snapshot) => {
                self.report.snapshots += 1;
                said.predecessors.extend(snapshot.predecessor);
                let seen = snapshot.fields.iter().find(|field| field.tag == SNAPSHOT_SEEN);
                let seen = seen.and_then(|field| field.value.first_chunk::<32>());
                said.seen.extend(seen.map(|seen| (*id, *seen)));
                let (entry, notes) = (snapshot.root, snapshot.notes);
                Ok(Some(Start { snapshot: *id, path: Vec::new(), entry, notes }))
            }
            // Removed since it was listed.
            Err(error) if is_vanished(&error) && !self.repository.snapshot_ids()?.contains(id) => Ok(None),
            Err(error) if error.is_damage() => {
                let number = self.damages.add(&format!("snapshots/{id}"), error);
                self.damages.cost(number, id, b"", Loss::Snapshot);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The entry at a path of a snapshot.
    fn start_at(&mut self, snapshot: &SnapshotId, path: &[u8]) -> Result<Option<Start>> {
        let Some(mut start) = self.start(snapshot, &mut Said::default())? else { return Ok(None) };
        if path.is_empty() {
            return Ok(Some(start));
        }
        start.notes = None;
        let absent =
            || Error::NotFound { what: format!("/{} in the snapshot", String::from_utf8_lossy(path)) };
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let directory = start.entry.kind.directory().ok_or_else(absent)?;
            match find_entry(self, directory, name)? {
                Ok(Some(entry)) => start.entry = entry,
                Ok(None) => return Err(absent()),
                Err(error) => {
                    let number = self.damages.add_error(error);
                    self.damages.cost(number, snapshot, &start.path, Loss::Entries);
                    return Ok(None);
                }
            }
            if !start.path.is_empty() {
                start.path.push(b'/');
            }
            start.path.extend_from_slice(name);
        }
        // Nothing of it was saved: that nothing of it is damaged would say that it is there.
        if let Kind::LeftOut(..) = start.entry.kind {
            return Err(absent());
        }
        Ok(Some(start))
    }
}

/// Looks for a name in a directory: what it is, or the damage that keeps it from being found.
fn find_entry(check: &Check<'_>, directory: ChunkId, name: &[u8]) -> Result<Result<Option<Entry>>> {
    let mut damage = None;
    for entry in Entries::new(check.reader, directory) {
        check.go_on()?;
        match entry {
            Ok(entry) if *entry.name == *name => return Ok(Ok(Some(entry))),
            Ok(_) => {}
            Err(error) if error.is_damage() => damage = Some(error),
            Err(error) => return Err(error),
        }
    }
    Ok(damage.map_or(Ok(None), Err))
}

/// The same error once more: causes that the system gave are kept by their kind and number.
pub(super) fn again(error: &Error) -> Error {
    match error {
        Error::Damaged { file, source } => Error::Damaged { file: file.clone(), source: source.clone() },
        Error::Repository { action, file, place, source } => {
            let source =
                source.raw_os_error().map_or_else(|| source.kind().into(), io::Error::from_raw_os_error);
            Error::Repository { action, file: file.clone(), place: place.clone(), source }
        }
        Error::ChunkMissing { kind, id } => Error::ChunkMissing { kind: *kind, id: *id },
        other => Error::Usage(other.to_string()),
    }
}
