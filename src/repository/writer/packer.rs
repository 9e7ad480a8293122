//! The publishing thread: lays frames into packs, one open pack per kind, and publishes full packs and segments.

use crossbeam_channel::Receiver;

use crate::error::{Error, Result};
use crate::index::Facts;
use crate::pack::{PackKind, PackWriter, ReadyFrame, pack_file_name};
use crate::repository::writer::{Shared, Waiting, segments};

/// So many facts are published as a segment of their own, so that memory does not grow with a first snapshot: in a budget of the default size.
const FACTS_IN_MEMORY: usize = 400_000;

/// Runs until no more frames come, and returns the facts that no segment has yet. After a failure it ends; whoever
/// sends it frames then ends too.
pub(super) fn run(shared: &Shared, in_order: &Receiver<Waiting>) -> Facts {
    let mut packer = Packer { shared, data: None, trees: None, facts: Facts::default() };
    let mut outcome = Ok(());
    for (kind, waiting) in in_order {
        // A thread that failed has said why.
        let Ok(frame) = waiting.recv() else {
            outcome = Err(Error::Stopped);
            break;
        };
        outcome = packer.add(kind, &frame);
        shared.spare.take_back(frame.into_buffer());
        if outcome.is_err() {
            break;
        }
    }
    let failed = shared.failure.lock().map_or(true, |failure| failure.is_some());
    if outcome.is_ok() && !failed {
        outcome = packer.close(PackKind::Data).and_then(|()| packer.close(PackKind::Tree));
    }
    if let Err(error) = outcome {
        shared.fail(error);
    }
    packer.facts
}

struct Packer<'a> {
    shared: &'a Shared,
    data: Option<PackWriter>,
    trees: Option<PackWriter>,
    facts: Facts,
}

impl Packer<'_> {
    fn open(&mut self, kind: PackKind) -> &mut Option<PackWriter> {
        match kind {
            PackKind::Data => &mut self.data,
            PackKind::Tree => &mut self.trees,
        }
    }

    fn add(&mut self, kind: PackKind, frame: &ReadyFrame) -> Result<()> {
        if self.open(kind).as_ref().is_some_and(|pack| !pack.has_room_for(frame)) {
            self.close(kind)?;
        }
        let shared = self.shared;
        let open = self.open(kind);
        let pack = if let Some(pack) = open {
            pack
        } else {
            let temporary = shared.session.temporary();
            let how = (shared.pack_len, shared.salt);
            open.insert(PackWriter::new(&*shared.backend, &temporary, kind, &shared.keys, how)?)
        };
        pack.add(frame)?;
        if pack.is_full() { self.close(kind) } else { Ok(()) }
    }

    fn close(&mut self, kind: PackKind) -> Result<()> {
        let Some(pack) = self.open(kind).take() else { return Ok(()) };
        let pack = pack.finish()?;
        self.shared.published(&pack_file_name(&pack.id), pack.stored_len);
        self.shared.uses(pack.id);
        self.facts.add_pack(pack.id, pack.stored_len, pack.kind, pack.chunks.into_iter());
        if self.facts.len() >= self.shared.budget.share_at_most(FACTS_IN_MEMORY) {
            segments::publish(self.shared, std::mem::take(&mut self.facts))?;
        }
        Ok(())
    }
}
