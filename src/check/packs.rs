//! Packs read whole, by two threads: each takes the next pack of the list, holds it against every rule and against the segments.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::check::{Check, PackFacts, Subset};
use crate::error::{Corruption, Error, Result};
use crate::event::{Change, Event, Item};
use crate::id::PackId;
use crate::index::{Index, is_deleted, is_vanished};
use crate::pack::{ScannedPack, pack_file_name, scan_pack};

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
        for (pack, scanned) in self.scan(&packs)? {
            self.judge(pack, scanned);
        }
        Ok(())
    }

    fn scan(&self, packs: &[(PackId, u64)]) -> Result<Vec<(PackId, Outcome)>> {
        let next = AtomicUsize::new(0);
        let outcomes = Mutex::new(Vec::new());
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..self.repository.budget().threads(THREAD_BYTES).min(THREADS).min(packs.len()) {
                scope.spawn(|| {
                    while let Some((pack, _)) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
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
        let agrees = scanned.chunks_are_sound.then(|| agrees(self.reader.index(), pack, &scanned));
        Ok(Outcome {
            len: scanned.len,
            faults: scanned.faults,
            chunks_are_sound: scanned.chunks_are_sound,
            chunks: scanned.chunks.len() as u64,
            index_agrees: agrees.transpose()?.unwrap_or(true),
        })
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

    /// The packs to be read, by id.
    fn chosen(&self) -> Vec<(PackId, u64)> {
        let present = self.reader.index().present();
        let mut packs: Vec<(PackId, u64)> = present.packs.iter().map(|(id, len)| (*id, *len)).collect();
        packs.sort_unstable();
        let Some(subset) = self.options.subset else { return packs };
        if let Subset::Part { n, of } = subset {
            packs.retain(|(id, _)| u64::from(leading(id)) % of.max(1) == n.max(1) - 1);
            return packs;
        }
        // Ids are spread evenly, so what the seed makes of them is a shuffled order.
        packs.sort_unstable_by_key(|(id, _)| leading(id) ^ self.options.seed);
        let all = packs.iter().fold(0u64, |sum, (_, len)| sum.saturating_add(*len));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of the bytes, and not to the byte"
        )]
        let wanted = match subset {
            Subset::Percent(percent) => (all as f64 * percent.clamp(0.0, 100.0) / 100.0).ceil() as u64,
            Subset::Bytes(bytes) => bytes,
            Subset::Part { .. } => 0,
        };
        let mut sum = 0u64;
        packs.retain(|(_, len)| {
            let begun = sum < wanted;
            sum = sum.saturating_add(*len);
            begun
        });
        packs
    }
}

/// What became of one pack.
struct Outcome {
    len: u64,
    faults: Vec<Error>,
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

fn leading(id: &PackId) -> u32 {
    let [a, b, c, d, ..] = *id.as_bytes();
    u32::from_be_bytes([a, b, c, d])
}
