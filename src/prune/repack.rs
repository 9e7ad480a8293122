//! Packs anew what is needed of packs that are mostly unused, and deletes these; a part of them after the other, never more at a time than
//! there is room for.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::error::{Error, Result};
use crate::event::Event;
use crate::id::{ChunkId, PackId};
use crate::pack::{Frame, FrameChunk, Location, NamedFrame, pack_file_name};
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
    packs: Vec<PackId>,
    /// What is needed of them, about.
    bytes: u64,
    /// The most that it may become.
    most: u64,
}

impl Run<'_> {
    /// Packs anew what the plan says.
    pub(super) fn repack(&mut self, plan: &Plan) -> Result<()> {
        if plan.repacked.is_empty() {
            return Ok(());
        }
        let reader = self.reader()?;
        let len = |pack: &PackId| reader.index().present().packs.get(pack).copied().unwrap_or(0);
        let needed: HashMap<PackId, u64> =
            plan.repacked.iter().map(|(pack, unused)| (*pack, len(pack).saturating_sub(*unused))).collect();
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
                round = Some(Round { writer: self.writer(&chosen)?, packs: Vec::new(), bytes: 0, most });
            }
            let Some(round) = &mut round else { return Ok(()) };
            self.copy(&reader, &round.writer, parts)?;
            round.packs.push(pack);
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
        for pack in &round.packs {
            self.holding.remove(pack);
        }
        self.holding.extend(round.writer.used_packs());
        self.done.repacked_packs += self.sweep(&round.packs, &[])?;
        Ok(())
    }

    /// Reads what stands for chunks in packs that go, before any of these does `[PRUNE-8]`.
    pub(super) fn verify_stand_ins(&self, reader: &Reader, plan: &Plan) -> Result<()> {
        self.observer.event(&Event::Phase("verifying what stays"));
        plan.stand_ins_by_pack(|_, parts| self.read(reader, parts, |_, _| Ok(())))
    }

    /// Stores what is needed of a pack once more: of a frame of which all is needed, the stored bytes.
    fn copy(&self, reader: &Reader, writer: &Writer, parts: &[Part]) -> Result<()> {
        self.read(reader, parts, |parts, read| match read {
            Read::Named(frame) => writer.put_frame(frame),
            Read::Parts(frame) => parts.iter().filter(|part| part.is_needed).try_for_each(|part| {
                writer.put_known(part.place.kind, part.id, bytes(&frame, part).unwrap_or_default())
            }),
        })
    }

    /// Reads what is needed of a pack, each chunk verified, some frames ahead.
    fn read(
        &self,
        reader: &Reader,
        parts: &[Part],
        mut each: impl FnMut(&[Part], Read) -> Result<()>,
    ) -> Result<()> {
        let mut frames = parts
            .chunk_by(|one, other| one.place.frame_offset == other.place.frame_offset)
            .filter(|frame| frame.iter().any(|part| part.is_needed));
        let at_once = self.repository.budget().threads(MAX_FRAME_BYTES);
        std::thread::scope(|scope| {
            let mut read = |parts| (parts, scope.spawn(move || verified(reader, parts)));
            let mut ahead: VecDeque<_> = frames.by_ref().take(at_once).map(&mut read).collect();
            while let Some((parts, thread)) = ahead.pop_front() {
                self.go_on()?;
                let frame = thread.join().unwrap_or(Err(Error::Stopped))?;
                ahead.extend(frames.next().map(&mut read));
                each(parts, frame)?;
                let stored = parts.first().map_or(0, |part| part.place.frame_stored_len);
                self.observer.event(&Event::Advanced { bytes: stored.into() });
            }
            Ok(())
        })
    }
}

/// A frame that was read.
enum Read {
    /// All of it is needed.
    Named(NamedFrame),
    Parts(Frame),
}

/// Reads a frame and verifies those of its chunks that are needed.
fn verified(reader: &Reader, parts: &[Part]) -> Result<Read> {
    let Some(first) = parts.first() else { return Err(Error::Stopped) };
    let whole = reader.whole_frame(&first.place)?;
    let ids = reader.keys().ids();
    let damaged = |corruption| Error::damaged(&pack_file_name(&first.place.pack))(corruption);
    if parts.iter().all(|part| part.is_needed) && parts.len() == whole.frame().chunks().len() {
        let named: Vec<ChunkId> = parts.iter().map(|part| part.id).collect();
        return whole.named(ids, &named).map(Read::Named).map_err(damaged);
    }
    let frame = whole.into_frame();
    for part in parts.iter().filter(|part| part.is_needed) {
        reader.chunk(&frame, &part.place, part.place.kind, &part.id)?;
    }
    Ok(Read::Parts(frame))
}

fn bytes<'f>(frame: &'f Frame, part: &Part) -> Option<&'f [u8]> {
    let Location { kind, offset, len, .. } = part.place;
    frame.bytes(&FrameChunk { kind, offset, len })
}
