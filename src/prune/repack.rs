//! Packs anew what is needed of packs that are mostly unused, and deletes these; a part of them after the other, never more at a time than
//! there is room for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::chunk::PutChunk;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::id::PackId;
use crate::pack::Frame;
use crate::prune::Run;
use crate::prune::plan::{Part, Plan};
use crate::repository::{Reader, Writer};

/// What is packed anew before the packs that it came from are deleted: so much room is needed beside them at most.
const ROUND_BYTES: u64 = 4 << 30;
/// What stays free for directories, segments and others: so much, and an eighth of what is free.
const MARGIN: u64 = 1 << 20;
/// What decoding a frame may take.
const MAX_FRAME_BYTES: usize = 64 << 20;

/// Packs that are deleted together, once what is needed of them is in others.
struct Round {
    writer: Writer,
    packs: HashSet<PackId>,
    /// What is needed of them, about.
    bytes: u64,
    /// The most that it may become.
    most: u64,
}

impl Run<'_> {
    /// Packs anew what the plan says.
    pub(super) fn repack(&mut self, reader: &Reader, plan: &Plan) -> Result<()> {
        let len = |pack: &PackId| reader.index().present().packs.get(pack).copied().unwrap_or(0);
        let needed: HashMap<PackId, u64> =
            plan.repacked.iter().map(|(pack, unused)| (*pack, len(pack).saturating_sub(*unused))).collect();
        if needed.is_empty() {
            return Ok(());
        }
        let chosen: HashSet<PackId> = needed.keys().copied().collect();
        self.observer.event(&Event::Phase("packing anew"));
        self.observer.event(&Event::Planned { items: chosen.len() as u64, bytes: needed.values().sum() });
        let mut round: Option<Round> = None;
        plan.parts_by_pack(|pack, parts| {
            let Some(bytes) = needed.get(&pack) else { return Ok(()) };
            if round.as_ref().is_some_and(|round| round.bytes + bytes > round.most) {
                self.end(round.take())?;
            }
            if round.is_none() {
                let most = self.room().min(ROUND_BYTES.max(*bytes));
                if *bytes > most {
                    self.done.without_room += 1;
                    return Ok(());
                }
                round = Some(Round { writer: self.writer(&chosen)?, packs: HashSet::new(), bytes: 0, most });
            }
            let Some(round) = &mut round else { return Ok(()) };
            self.copy(reader, &round.writer, parts)?;
            round.packs.insert(pack);
            round.bytes += bytes;
            Ok(())
        })?;
        self.end(round)
    }

    fn room(&self) -> u64 {
        let free = self.repository.backend().free_space().ok().flatten();
        free.map_or(u64::MAX, |free| free.saturating_sub(free / 8 + MARGIN))
    }

    /// Publishes what was packed anew, and deletes the packs that it came from.
    fn end(&mut self, round: Option<Round>) -> Result<()> {
        let Some(mut round) = round else { return Ok(()) };
        let written = round.writer.finish()?;
        self.done.written_bytes += written.stored_bytes;
        self.holding.retain(|pack| !round.packs.contains(pack));
        self.holding.extend(round.writer.used_packs());
        self.done.repacked_packs += self.sweep(&round.packs, &[])?;
        Ok(())
    }

    /// Reads what stands for chunks in packs that go, before any of these does `[PRUNE-8]`.
    pub(super) fn verify_stand_ins(&self, reader: &Reader, plan: &Plan) -> Result<()> {
        self.observer.event(&Event::Phase("verifying what stays"));
        plan.stand_ins_by_pack(|_, parts| self.read(reader, parts, |_, _| Ok(())))
    }

    /// Stores what is needed of a pack once more.
    fn copy(&self, reader: &Reader, writer: &Writer, parts: &[Part]) -> Result<()> {
        self.read(reader, parts, |part, plain| writer.put(part.place.kind, plain).map(drop))
    }

    /// Reads what is needed of a pack, each chunk verified.
    fn read(
        &self,
        reader: &Reader,
        parts: &[Part],
        mut each: impl FnMut(&Part, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let frames: Vec<&[Part]> = parts
            .chunk_by(|one, other| one.place.frame_offset == other.place.frame_offset)
            .filter(|frame| frame.iter().any(|part| part.is_needed))
            .collect();
        let at_once = self.repository.budget().threads(MAX_FRAME_BYTES);
        for frames in frames.chunks(at_once) {
            self.go_on()?;
            let decoded = decode(reader, frames)?;
            for (frame, decoded) in frames.iter().zip(decoded) {
                for part in frame.iter().filter(|part| part.is_needed) {
                    each(part, reader.chunk(&decoded, &part.place, part.place.kind, &part.id)?)?;
                }
                let stored = frame.first().map_or(0, |part| part.place.frame_stored_len);
                self.observer.event(&Event::Advanced { bytes: stored.into() });
            }
        }
        Ok(())
    }
}

/// Decodes a few frames, each on a thread of its own.
fn decode(reader: &Reader, frames: &[&[Part]]) -> Result<Vec<Arc<Frame>>> {
    std::thread::scope(|scope| {
        let first = |frame: &&[Part]| frame.first().map(|part| part.place);
        let threads: Vec<_> =
            frames.iter().filter_map(first).map(|place| scope.spawn(move || reader.frame(&place))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Err(Error::Stopped))).collect()
    })
}
