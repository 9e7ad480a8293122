//! Deletes what no snapshot needs, while others go on writing: `spec/concurrency.md` has the rules, and why nothing is lost.
//!
//! `needed` walks the snapshots, `plan` decides about each pack, `sorted` keeps what there is no memory for. A pack is deleted only here, in
//! [`Run::sweep`]: it is condemned first, for everybody to see; then snapshots and sessions are listed again, and only what still nobody
//! needs goes. Packs of which nothing is needed go first: that takes no room.

mod needed;
mod plan;
mod sorted;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::chunk::PutChunk;
use crate::error::{Error, Result};
use crate::event::{Event, Observer};
use crate::id::{PackId, SnapshotId};
use crate::pack::{Compression, Frame, pack_file_name};
use crate::repository::{Presence, Reader, Repository, Work, WriteOptions, Writer};
use crate::session;

use needed::{Listed, Needed};
use plan::{Part, Plan, Planner};

/// What is packed anew before the packs that it came from are deleted: so much room is needed beside them at most.
const ROUND_BYTES: u64 = 4 << 30;
/// What decoding a frame may take.
const MAX_FRAME_BYTES: usize = 64 << 20;
/// Media with coarse clocks: a pack that is so much older than a session may be one of it.
const CLOCK_SECONDS: i64 = 10;
/// A session of another host that is older than that is not spared any more: it loses nothing by that but time.
const SESSION_SECONDS: i64 = 7 * 86_400;

/// How much may stay unused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// So many bytes.
    Bytes(u64),
    /// So many thousandths of what is used.
    PerMille(u32),
    /// Whatever it is.
    Unlimited,
}

/// How to prune.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// How much may stay unused in packs that hold something else.
    pub max_unused: Limit,
    /// Pack anew at most so many bytes of packs.
    pub max_repack: Option<u64>,
    /// Go on though no snapshot is left, or more than half of all bytes goes.
    pub force: bool,
    /// For files that are gone when the run is.
    pub scratch: PathBuf,
    /// How frames are compressed.
    pub compression: Compression,
    /// Where packs are closed.
    pub pack_len: u64,
}

/// What was done, or would be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PruneSummary {
    /// Snapshots that are wanted.
    pub snapshots: u64,
    /// Forgotten ones whose files were deleted.
    pub forgotten: u64,
    /// Chunks that they need.
    pub chunks: u64,
    /// Packs of which nothing was needed, and that are deleted.
    pub dead_packs: u64,
    /// Packs of which a part was needed, that was packed anew.
    pub repacked_packs: u64,
    /// Packs that were condemned, and are needed again, or that somebody relies on.
    pub spared_packs: u64,
    /// Bytes of the packs that were deleted.
    pub deleted_bytes: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// Bytes of all packs before.
    pub before_bytes: u64,
    /// Bytes of packs that nothing needs, and that stay.
    pub unused_bytes: u64,
}

/// Deletes what no wanted snapshot needs.
///
/// # Errors
/// - `Usage`: another run prunes; what would go is implausible, without `force`.
/// - Anything that cannot be read, or is damaged: then nothing more is deleted.
/// - `PrunedMeanwhile`; `Interrupted`; any error of the medium.
pub fn prune(
    repository: &Repository,
    options: &PruneOptions,
    observer: &Arc<dyn Observer>,
    stop: &AtomicBool,
) -> Result<PruneSummary> {
    repository.check_writable(repository.copy().copy)?;
    let presence = if options.dry_run { None } else { Some(Presence::announce(repository, Work::Pruning)?) };
    refuse_another(repository, presence.as_ref())?;
    let mut run = Run {
        repository,
        options,
        observer,
        stop,
        presence,
        known: HashSet::new(),
        holding: HashSet::new(),
        done: PruneSummary::default(),
    };
    run.all()?;
    Ok(run.done)
}

/// Two that prune at a time would only condemn each other's packs, and both withdraw.
fn refuse_another(repository: &Repository, presence: Option<&Presence>) -> Result<()> {
    let is_own = |name: &str| presence.is_some_and(|presence| presence.is_own(name));
    let sessions = repository.sessions()?;
    let other = sessions.iter().find(|notice| {
        notice.body.work == Work::Pruning && !is_own(&notice.name) && !session::is_left_over(&notice.name)
    });
    match other {
        Some(notice) => Err(Error::Usage(format!(
            "another run prunes this repository: session {}; if its machine is gone for good, `vault prune --ended {}` goes on without it",
            notice.name, notice.name
        ))),
        None => Ok(()),
    }
}

struct Run<'a> {
    repository: &'a Repository,
    options: &'a PruneOptions,
    observer: &'a Arc<dyn Observer>,
    stop: &'a AtomicBool,
    presence: Option<Presence>,
    /// The snapshots that the plan knows of.
    known: HashSet<SnapshotId>,
    /// The packs that hold what these need.
    holding: HashSet<PackId>,
    done: PruneSummary,
}

impl Run<'_> {
    fn all(&mut self) -> Result<()> {
        // Sessions before packs: whose packs are listed is known.
        let spared = self.spared()?;
        let Listed { wanted: snapshots, forgotten } = Listed::read(self.repository)?;
        let reader = self.reader()?;
        self.known = snapshots.iter().map(|(id, _)| *id).collect();
        self.done.snapshots = snapshots.len() as u64;
        self.observer.event(&Event::Phase("reading snapshots"));
        let mut needed = Needed::new(self.repository, &self.options.scratch);
        for (_, snapshot) in &snapshots {
            needed.add(&reader, snapshot, self.stop)?;
        }
        let needed = needed.sort();
        self.observer.event(&Event::Phase("reading the index"));
        let planner = Planner {
            index: reader.index(),
            needed: &needed,
            spared: &spared,
            options: self.options,
            rows_at_once: plan::rows_at_once(self.repository.budget()),
            scratch: &self.options.scratch,
        };
        let plan = planner.plan()?;
        let len = |pack: &PackId| reader.index().present().packs.get(pack).copied().unwrap_or(0);
        self.done.before_bytes = plan.total;
        self.done.chunks = plan.chunks;
        self.done.unused_bytes = plan.unused - plan.repacked.iter().map(|(_, unused)| unused).sum::<u64>();
        self.refuse_implausible(&plan, plan.dead.iter().map(len).sum())?;
        if self.options.dry_run {
            self.done.dead_packs = plan.dead.len() as u64;
            self.done.repacked_packs = plan.repacked.len() as u64;
            self.done.deleted_bytes =
                plan.dead.iter().chain(plan.repacked.iter().map(|(pack, _)| pack)).map(len).sum();
            return Ok(());
        }
        self.holding = plan.kept.iter().copied().chain(plan.repacked.iter().map(|(pack, _)| *pack)).collect();
        let dead: HashSet<PackId> = plan.dead.iter().copied().collect();
        self.done.dead_packs = self.sweep(&dead, &forgotten, None)?;
        self.repack(&reader, &plan)
    }

    fn reader(&self) -> Result<Reader> {
        let reader = self.repository.reader()?;
        match reader.problems().first() {
            Some(problem) => Err(Error::Usage(format!(
                "nothing is deleted while the index is damaged: {problem}; `vault check` names what is"
            ))),
            None => Ok(reader),
        }
    }

    /// The packs that running sessions may be writing just now: those that are as young as the oldest of them.
    fn spared(&self) -> Result<HashSet<PackId>> {
        let sessions = self.repository.sessions()?;
        let own = |name: &str| self.presence.as_ref().is_some_and(|presence| presence.is_own(name));
        let now = sessions.iter().map(|notice| notice.modified).max().unwrap_or(0);
        let is_running = |name: &str, modified: i64| {
            !own(name) && !session::is_left_over(name) && now - modified < SESSION_SECONDS
        };
        let running = sessions.iter().filter(|notice| is_running(&notice.name, notice.modified));
        let oldest = running.map(|notice| notice.modified).min();
        let mut spared: HashSet<PackId> = sessions
            .iter()
            .filter(|notice| !session::is_left_over(&notice.name))
            .flat_map(|notice| notice.body.packs.iter().copied())
            .collect();
        if let Some(since) = oldest {
            spared.extend(self.repository.packs_since(since - CLOCK_SECONDS)?);
        }
        Ok(spared)
    }

    fn refuse_implausible(&self, plan: &Plan, dead: u64) -> Result<()> {
        if self.options.force || plan.total == 0 {
            return Ok(());
        }
        let what = if self.known.is_empty() {
            "no snapshot is left, so that all packs would go".to_owned()
        } else if dead > plan.total / 2 {
            format!("more than half of all bytes would go ({} of {} MiB)", dead >> 20, plan.total >> 20)
        } else {
            return Ok(());
        };
        Err(Error::Usage(format!("{what}: --force permits that")))
    }

    /// Packs anew what is needed of packs that are mostly unused, and deletes these; a part of them after the other.
    fn repack(&mut self, reader: &Reader, plan: &Plan) -> Result<()> {
        let chosen: HashSet<PackId> = plan.repacked.iter().map(|(pack, _)| *pack).collect();
        let len = |pack: &PackId| reader.index().present().packs.get(pack).copied().unwrap_or(0);
        let mut rounds: Vec<HashSet<PackId>> = vec![HashSet::new()];
        let mut bytes = 0;
        for (pack, _) in &plan.repacked {
            if bytes > ROUND_BYTES {
                rounds.push(HashSet::new());
                bytes = 0;
            }
            bytes += len(pack);
            rounds.last_mut().into_iter().for_each(|round| {
                round.insert(*pack);
            });
        }
        for round in rounds.iter().filter(|round| !round.is_empty()) {
            self.observer.event(&Event::Phase("packing anew"));
            self.observer
                .event(&Event::Planned { items: round.len() as u64, bytes: round.iter().map(len).sum() });
            let mut writer = self.writer(&chosen)?;
            plan.parts_by_pack(|pack, parts| {
                if round.contains(&pack) { self.copy(reader, &writer, parts) } else { Ok(()) }
            })?;
            let written = writer.finish()?;
            self.done.written_bytes += written.stored_bytes;
            self.holding.retain(|pack| !round.contains(pack));
            self.holding.extend(writer.used_packs());
            self.done.repacked_packs += self.sweep(round, &[], Some(&writer))?;
        }
        Ok(())
    }

    /// A writer for which these packs do not count.
    fn writer(&self, condemned: &HashSet<PackId>) -> Result<Writer> {
        let options = WriteOptions {
            compression: self.options.compression,
            pack_len: self.options.pack_len,
            condemned: condemned.clone(),
            ..WriteOptions::new(self.observer.clone())
        };
        self.repository.writer_until(&options, self.stop)
    }

    /// Stores what is needed of a pack once more.
    fn copy(&self, reader: &Reader, writer: &Writer, parts: &[Part]) -> Result<()> {
        let frames: Vec<&[Part]> = parts
            .chunk_by(|one, other| one.place.frame_offset == other.place.frame_offset)
            .filter(|frame| frame.iter().any(|part| part.is_needed))
            .collect();
        let at_once = self.repository.budget().threads(MAX_FRAME_BYTES);
        for frames in frames.chunks(at_once) {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let decoded = decode(reader, frames)?;
            for (frame, decoded) in frames.iter().zip(decoded) {
                for part in frame.iter().filter(|part| part.is_needed) {
                    // Its id is computed before it is stored under it.
                    let plain = reader.chunk(&decoded, &part.place, part.place.kind, &part.id)?;
                    writer.put(part.place.kind, plain)?;
                }
                let stored = frame.first().map_or(0, |part| part.place.frame_stored_len);
                self.observer.event(&Event::Advanced { bytes: stored.into() });
            }
        }
        Ok(())
    }

    /// Condemns packs and forgotten snapshots, asks once more who needs them, and deletes those that nobody does. Returns how many packs.
    fn sweep(
        &mut self,
        packs: &HashSet<PackId>,
        unwanted: &[SnapshotId],
        writer: Option<&Writer>,
    ) -> Result<u64> {
        if packs.is_empty() && unwanted.is_empty() {
            return Ok(0);
        }
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        self.observer.event(&Event::Phase("deleting packs"));
        let Some(presence) = &mut self.presence else { return Ok(0) };
        let list: Vec<PackId> = packs.iter().copied().collect();
        presence.condemn(&list, unwanted)?;
        // From here on whoever publishes a snapshot sees the mark, or is seen.
        let mut doomed = packs.clone();
        let wanted_now = self.spare(&mut doomed, unwanted)?;
        self.delete_snapshots(unwanted.iter().filter(|id| !wanted_now.contains(id)))?;
        let own;
        let writer = match writer {
            Some(writer) => writer,
            None => {
                let mut new = self.writer(packs)?;
                new.finish()?;
                own = new;
                &own
            }
        };
        writer.drop_packs(&doomed)?;
        let backend = self.repository.backend();
        for pack in &doomed {
            let name = pack_file_name(pack);
            let len = backend.open(&name).map_or(0, |file| file.len());
            match backend.remove(&name) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(Error::repository("remove", &name))?,
            }
            self.done.deleted_bytes += len;
        }
        self.done.spared_packs += (packs.len() - doomed.len()) as u64;
        if let Some(presence) = &mut self.presence {
            presence.withdraw("marks")?;
        }
        Ok(doomed.len() as u64)
    }

    /// Takes out what is needed after all `[PRUNE-2]`: by running sessions, and by snapshots that were published or brought back since the
    /// plan was made, each time all of them; also by forgotten ones that are not condemned, as whoever brings them back does not see that they
    /// might be deleted. Returns the snapshots that are wanted now.
    fn spare(&self, doomed: &mut HashSet<PackId>, condemned: &[SnapshotId]) -> Result<HashSet<SnapshotId>> {
        for pack in self.repository.sessions()?.iter().flat_map(|notice| &notice.body.packs) {
            doomed.remove(pack);
        }
        let Listed { wanted: mut new, forgotten } = Listed::read(self.repository)?;
        let wanted_now = new.iter().map(|(id, _)| *id).collect();
        new.retain(|(id, _)| !self.known.contains(id));
        for id in forgotten.iter().filter(|id| !self.known.contains(id) && !condemned.contains(id)) {
            new.push((*id, self.repository.snapshot(id)?));
        }
        // Marks and packs after that.
        let reader = self.reader()?;
        let own: HashSet<PackId> = doomed.iter().copied().collect();
        let present = reader.index().present();
        let is_safe = |pack: &PackId| {
            present.packs.contains_key(pack) && (!present.condemned.contains(pack) || own.contains(pack))
        };
        if let Some(lost) = self.holding.iter().find(|pack| !is_safe(pack)) {
            return Err(Error::PrunedMeanwhile { pack: pack_file_name(lost) });
        }
        if new.is_empty() {
            return Ok(wanted_now);
        }
        let mut needed = Needed::new(self.repository, &self.options.scratch);
        for (_, snapshot) in &new {
            needed.add(&reader, snapshot, self.stop)?;
        }
        let needed = needed.sort();
        let mut ids = needed.rows();
        let mut next = ids.next()?;
        reader.index().for_each(|id, places| {
            while next.is_some_and(|next| next < *id.as_bytes()) {
                next = ids.next()?;
            }
            let is_needed = next == Some(*id.as_bytes());
            if is_needed && !places.iter().any(|place| reader.index().is_sound_pack(&place.pack)) {
                for place in places {
                    doomed.remove(&place.pack);
                }
            }
            Ok(())
        })?;
        Ok(wanted_now)
    }

    /// Deletes the files of forgotten snapshots: what they need is about to go.
    fn delete_snapshots<'s>(&mut self, unwanted: impl Iterator<Item = &'s SnapshotId>) -> Result<()> {
        for id in unwanted {
            let name = format!("snapshots/{id}");
            match self.repository.backend().remove(&name) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(Error::repository("remove", &name))?,
            }
            self.done.forgotten += 1;
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

/// Where rows go that there is no memory for, unless the user says otherwise.
#[must_use]
pub fn scratch_in(cache_folder: Option<&Path>, otherwise: &Path) -> PathBuf {
    cache_folder.unwrap_or(otherwise).to_owned()
}
