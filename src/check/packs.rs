//! Packs read whole, by two threads: each takes the next pack of the list, holds it against every rule and against the segments.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::check::due::not_remembered;
use crate::check::hashes::sidecar_faults;
use crate::check::{Check, PackFacts, ReadBudget};
use crate::error::{Corruption, Error, Result};
use crate::event::{Change, Event, Item};
use crate::id::PackId;
use crate::index::{Index, is_deleted, is_vanished};
use crate::pack::{ScannedPack, pack_file_name, scan_pack};
use crate::sidecar::sidecar_name;

/// One hashes and decodes while the other waits for the medium; a drive is slower than two.
const THREADS: usize = 2;
/// What each takes.
const THREAD_BYTES: usize = 16 << 20;

impl Check<'_> {
    /// Reads the packs that are to be read.
    pub(super) fn read_packs(&mut self) -> Result<()> {
        self.pack_facts.sort_unstable_by_key(|of| of.pack);
        let packs = self.chosen();
        let bytes = packs.iter().map(|(_, len)| len).sum();
        self.observer.event(&Event::Planned { items: packs.len() as u64, bytes });
        let scanned = self.scan(&packs);
        let is_there = |pack: &PackId| self.reader.index().present().packs.contains_key(pack);
        let failed = self.remembered.as_ref().and_then(|remembered| remembered.finish(is_there));
        if let Some(error) = failed {
            self.notice(not_remembered(&error));
        }
        for (pack, scanned) in scanned? {
            self.judge(pack, scanned);
        }
        Ok(())
    }

    fn scan(&self, packs: &[(PackId, u64)]) -> Result<Vec<(PackId, Outcome)>> {
        let next = AtomicUsize::new(0);
        let outcomes = Mutex::new(Vec::new());
        let failure = Mutex::new(None);
        let begun = Instant::now();
        let is_late =
            || matches!(self.options.budget, Some(ReadBudget::Time(most)) if begun.elapsed() >= most);
        std::thread::scope(|scope| {
            for _ in 0..self.repository.budget().threads(THREAD_BYTES).min(THREADS).min(packs.len()) {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some((pack, _)) = packs.get(at).filter(|_| at == 0 || !is_late()) else { break };
                        match self.scan_one(*pack) {
                            Ok(outcome) => {
                                if let Ok(mut outcomes) = outcomes.lock() {
                                    outcomes.push((*pack, outcome));
                                }
                            }
                            Err(error) => {
                                if let Ok(mut failure) = failure.lock() {
                                    failure.get_or_insert(error);
                                }
                                next.store(packs.len(), Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        if let Some(error) = failure.into_inner().ok().flatten() {
            return Err(error);
        }
        outcomes.into_inner().map_err(|_| Error::Thread("reading packs"))
    }

    fn scan_one(&self, pack: PackId) -> Result<Outcome> {
        let name = pack_file_name(&pack);
        self.observer.event(&Event::Started { path: Path::new(&name) });
        let mut progress = |bytes| {
            self.observer.event(&Event::Advanced { bytes });
            self.go_on().is_ok()
        };
        let backend = self.repository.backend();
        if self.remembered.is_some() {
            // What is verified is what the medium holds, not what memory has of it.
            match backend.open(&name).and_then(|file| file.drop_cached()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    let error = Error::repository("read", &name)(error);
                    if !error.is_damage() {
                        return Err(error);
                    }
                }
                _ => {}
            }
        }
        let scanned = scan_pack(&**backend, pack, self.repository.keys(), &mut progress);
        let scanned = match scanned {
            // Removed since it was listed: whether someone misses it is seen when chunks are asked for.
            Err(error) if error.is_damage() => ScannedPack { faults: vec![error], ..ScannedPack::default() },
            other => other?,
        };
        self.observer.event(&Event::Done {
            path: Path::new(&name),
            item: Item::RepositoryFile,
            change: Change::Unchanged,
            bytes: scanned.len,
        });
        if let Some(remembered) = &self.remembered {
            let is_there = |pack: &PackId| self.reader.index().present().packs.contains_key(pack);
            remembered.add(pack, scanned.faults.is_empty(), is_there);
        }
        let parity_faults = self.parity_faults(pack)?;
        let agrees = scanned.chunks_are_sound.then(|| agrees(self.reader.index(), pack, &scanned));
        Ok(Outcome {
            len: scanned.len,
            faults: scanned.faults,
            parity_faults,
            chunks_are_sound: scanned.chunks_are_sound,
            chunks: scanned.chunks.len() as u64,
            index_agrees: agrees.transpose()?.unwrap_or(true),
        })
    }

    /// Reads the parity of a pack, if it has some.
    fn parity_faults(&self, pack: PackId) -> Result<Vec<Error>> {
        if !self.parity.contains(&pack) {
            return Ok(Vec::new());
        }
        sidecar_faults(self.repository, pack, self.stop)
    }

    fn judge(&mut self, pack: PackId, outcome: Outcome) {
        let name = pack_file_name(&pack);
        self.report.packs_read += 1;
        self.report.bytes_read += outcome.len;
        let backend = &**self.repository.backend();
        if matches!(&outcome.faults[..], [error] if is_deleted(backend, error)) {
            self.notice(format!("{name} was deleted while this went on"));
            self.doubted.insert(pack);
            return;
        }
        if outcome.faults.is_empty() {
            self.confirmed.insert(pack);
        }
        for error in outcome.parity_faults {
            self.damages.add(&sidecar_name(&pack), error);
        }
        let vanished = matches!(&outcome.faults[..], [error] if is_vanished(error));
        for error in outcome.faults {
            self.damages.add(&name, error);
        }
        if !outcome.chunks_are_sound {
            self.doubted.insert(pack);
            if !vanished {
                self.undecodable.insert(pack);
            }
            return;
        }
        if self.reader.index().present().damaged.contains(&pack) {
            self.notice(format!("a record says that {name} is damaged, but its bytes are right"));
            self.healed.insert(pack);
        }
        // [SEG-5]
        let start = self.pack_facts.partition_point(|of| of.pack < pack);
        let of_pack = self.pack_facts.iter().skip(start).take_while(|of| of.pack == pack);
        for PackFacts { facts, segment, .. } in of_pack {
            if *facts != outcome.chunks || !outcome.index_agrees {
                let Some(segment) = self.segments.get(*segment as usize) else { continue };
                let segment = format!("index/{segment}");
                let what = Corruption::rule("SEG-5", "its facts about a pack are not what the pack holds");
                self.damages.add(&segment, Error::damaged(&segment)(what));
            }
        }
    }
}

/// What became of one pack.
struct Outcome {
    len: u64,
    faults: Vec<Error>,
    /// What is wrong with its parity, if it has some.
    parity_faults: Vec<Error>,
    chunks_are_sound: bool,
    chunks: u64,
    index_agrees: bool,
}

/// Whether the index knows every chunk of the pack where it lies.
fn agrees(index: &Index, pack: PackId, scanned: &ScannedPack) -> Result<bool> {
    let mut chunks: Vec<_> = scanned.chunks.iter().collect();
    // In the order of the segments, so that neighbours are found in one block.
    chunks.sort_unstable_by_key(|(id, _)| *id);
    for (id, location) in chunks {
        if location.pack != pack || !index.has(id, location)? {
            return Ok(false);
        }
    }
    Ok(true)
}
