//! Deletes what no snapshot needs, while others go on writing: `spec/concurrency.md` has the rules, and why nothing is lost.
//!
//! `listed` says which snapshots are wanted, `plan` decides about each pack, `repack` packs anew what is needed of those that are mostly
//! unused. A pack is deleted in `sweep` only: it is condemned first, for everybody to see; then snapshots and
//! sessions are listed again, and only what still nobody needs goes.
//!
//! Packs of which nothing is needed go first, which takes no room but that of a few small files; where there is none for these either, the
//! reserve is deleted for them.

mod listed;
mod plan;
mod repack;
mod sweep;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::event::{Event, Observer};
use crate::id::{PackId, SnapshotId};
use crate::index::is_vanished;
use crate::pack::{Compression, pack_file_name};
use crate::repository::{
    Lacking, Needed, PRUNE_TRIES, Presence, Reader, Repository, Work, WriteOptions, Writer, make_reserve,
    with_reserve,
};
use crate::session;
use crate::snapshot::{Snapshot, Time};

use listed::Listed;
use plan::{Plan, Planner};

/// Media with coarse clocks: a pack that is so much older than a session may be one of it.
const CLOCK_SECONDS: i64 = 10;
/// A session of another host that is older than that is not spared any more: it loses nothing by that but time.
const SESSION_SECONDS: i64 = 7 * 86_400;

/// As [`PruneOptions::kept_since`]: whatever is forgotten is wanted no more.
pub const NO_GRACE: Time = Time { secs: i64::MAX, nanos: 0 };

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
    /// What was forgotten later than this counts as wanted, so that it can still be brought back.
    pub kept_since: Time,
    /// Packs that rather stay than others with the same chunks: on a mirror, those that the repository has.
    pub preferred: HashSet<PackId>,
    /// Go on though no snapshot is left, more than half of all bytes goes, or a snapshot is missed.
    pub force: bool,
    /// What this host misses: what only a snapshot needs that is not found is not deleted `[PRUNE-9]`.
    pub lacking: Lacking,
    /// For files that are gone when the run is.
    pub scratch: PathBuf,
    /// How frames are compressed that cannot be taken as they are.
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
    /// Packs that were to be packed anew and stay, as there was no room for what is needed of them.
    pub without_room: u64,
    /// In a dry run: whether that is more than is done without `force`.
    pub needs_force: bool,
}

/// Deletes what no wanted snapshot needs.
///
/// # Errors
/// - `Busy`: another run prunes.
/// - `SnapshotGone`: one is missed, without `force`.
/// - `Usage`: what would go is implausible, or a record is missed, without `force`.
/// - Anything that cannot be read, or is damaged: then nothing more is deleted.
/// - `PrunedMeanwhile`; `Interrupted`; any error of the medium.
pub fn prune(
    repository: &Repository,
    options: &PruneOptions,
    observer: &Arc<dyn Observer>,
    stop: &AtomicBool,
) -> Result<PruneSummary> {
    repository.check_writable(repository.copy().copy)?;
    let mut run = Run {
        repository,
        options,
        observer,
        stop,
        presence: None,
        known: HashSet::new(),
        holding: HashSet::new(),
        deleted: HashSet::new(),
        lost: HashSet::new(),
        done: PruneSummary::default(),
    };
    if !options.dry_run {
        let announced =
            with_reserve(&**repository.backend(), || Presence::announce(repository, Work::Pruning));
        run.presence = Some(announced?);
    }
    let mut tries = 1;
    loop {
        let outcome = run.all();
        let in_order = run.finish();
        match outcome {
            // Others have merged segments or pruned since they were listed: what was planned holds no more.
            Err(error) if is_old(&error) && in_order.is_ok() && tries < PRUNE_TRIES => tries += 1,
            outcome => {
                outcome.and(in_order)?;
                break;
            }
        }
    }
    if !options.dry_run {
        make_reserve(&**repository.backend())?;
    }
    Ok(run.done)
}

fn is_old(error: &Error) -> bool {
    matches!(error, Error::PrunedMeanwhile { .. }) || is_vanished(error)
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
    /// The packs that are gone, and that segments may name yet.
    deleted: HashSet<PackId>,
    /// The packs that segments name and that are gone though nobody condemned them.
    lost: HashSet<PackId>,
    done: PruneSummary,
}

impl Run<'_> {
    fn all(&mut self) -> Result<()> {
        self.refuse_another()?;
        // Sessions before packs: whose packs are listed is known.
        let spared = self.spared()?;
        let listed = self.listed()?;
        if !self.options.force {
            listed.if_complete(self.repository, &self.options.lacking)?;
        }
        let Listed { wanted: snapshots, forgotten } = listed;
        let reader = self.reader_in_order()?;
        self.known = snapshots.iter().map(|(id, _)| *id).collect();
        self.done.snapshots = snapshots.len() as u64;
        let plan = self.plan(&reader, &snapshots, &spared)?;
        let len = |pack: &PackId| reader.index().present().packs.get(pack).copied().unwrap_or(0);
        self.done.before_bytes = self.done.before_bytes.max(plan.total);
        self.done.chunks = plan.chunks;
        self.done.unused_bytes = plan.unused - plan.repacked.iter().map(|(_, unused)| unused).sum::<u64>();
        let implausible = self.implausible(&plan, plan.dead.iter().map(len).sum());
        if self.options.dry_run {
            self.done.needs_force = implausible.is_some();
            self.done.forgotten = forgotten.len() as u64;
            self.done.dead_packs = plan.dead.len() as u64;
            self.done.repacked_packs = plan.repacked.len() as u64;
            self.done.deleted_bytes =
                plan.dead.iter().chain(plan.repacked.iter().map(|(pack, _)| pack)).map(len).sum();
            return Ok(());
        }
        if let Some(what) = implausible {
            return Err(Error::Usage(format!("{what}: `vault prune --force` permits that")));
        }
        self.holding = plan.kept.iter().copied().chain(plan.repacked.iter().map(|(pack, _)| *pack)).collect();
        self.verify_stand_ins(&reader, &plan)?;
        // What follows lists everything anew: both at a time would be much memory.
        drop(reader);
        // Nothing in them is needed.
        let lost = std::mem::take(&mut self.lost);
        self.take_for_deleted(lost)?;
        self.done.dead_packs += self.sweep_dead(&plan.dead, &forgotten)?;
        self.repack(&plan)
    }

    fn plan(
        &self,
        reader: &Reader,
        snapshots: &[(SnapshotId, Snapshot)],
        spared: &HashSet<PackId>,
    ) -> Result<Plan> {
        self.observer.event(&Event::Phase("reading snapshots"));
        let mut needed = Needed::new(self.repository, &self.options.scratch);
        for (_, snapshot) in snapshots {
            needed.add(reader, snapshot, self.stop)?;
        }
        let needed = needed.sort();
        self.observer.event(&Event::Phase("reading the index"));
        let planner = Planner {
            index: reader.index(),
            needed: &needed,
            spared,
            options: self.options,
            rows_at_once: plan::rows_at_once(self.repository.budget()),
            scratch: &self.options.scratch,
        };
        planner.plan()
    }

    /// Takes what was deleted out of the index, and then the marks back.
    fn finish(&mut self) -> Result<()> {
        let in_order = if self.deleted.is_empty() { Ok(()) } else { self.drop_facts() };
        let Some(presence) = &mut self.presence else { return Ok(()) };
        match in_order {
            Ok(()) => {
                self.deleted.clear();
                presence.withdraw("marks")
            }
            Err(error) => {
                // While its marks are there, nobody misses what was deleted; the next run takes it out.
                presence.leave();
                Err(error)
            }
        }
    }

    fn drop_facts(&self) -> Result<()> {
        self.observer.event(&Event::Phase("writing the index"));
        // Also after an interruption.
        let stop = AtomicBool::new(false);
        // Its own marks condemn them.
        let options = self.write_options(&HashSet::new());
        // Nothing more is deleted under these: what was spared stays in the index.
        let is_void = |name: &str| self.is_own(name);
        let once = || {
            let mut writer = self.repository.writer_until(&options, &stop)?;
            writer.finish()?;
            writer.drop_packs(&self.deleted, &is_void)
        };
        (1..PRUNE_TRIES).map(|_| once()).find(|done| !done.as_ref().is_err_and(is_old)).unwrap_or_else(once)
    }

    /// A reader. What a run that was killed has deleted and not taken out of the index is deleted by this one now, so to speak.
    fn reader_in_order(&mut self) -> Result<Reader> {
        let reader = self.reader()?;
        if self.presence.is_none() {
            return Ok(reader);
        }
        let condemned = &reader.index().present().condemned;
        // What nobody condemned is lost, or only not listed: the index goes on naming it until it is known that nothing in it is needed.
        let (deleted, lost) =
            reader.index().absent_packs().into_iter().partition(|pack| condemned.contains(pack));
        self.lost = lost;
        self.take_for_deleted(deleted)?;
        if !self.repository.remove_left_over_marks()? {
            return Ok(reader);
        }
        drop(reader);
        self.reader()
    }

    /// Condemns packs that are gone, so that nobody misses them, and has them taken out of the index in the end.
    fn take_for_deleted(&mut self, packs: HashSet<PackId>) -> Result<()> {
        let Some(presence) = self.presence.as_mut().filter(|_| !packs.is_empty()) else { return Ok(()) };
        let list: Vec<PackId> = packs.iter().copied().collect();
        with_reserve(&**self.repository.backend(), || presence.condemn(&list, &[]))?;
        self.deleted.extend(packs);
        Ok(())
    }

    fn go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Two that prune at a time would only condemn each other's packs, and both withdraw `[PRUNE-4]`.
    fn refuse_another(&self) -> Result<()> {
        let sessions = self.repository.sessions()?;
        let other = sessions.iter().find(|notice| {
            notice.body.work == Work::Pruning
                && !self.is_own(&notice.name)
                && !session::is_left_over(&notice.name)
        });
        match other {
            Some(notice) => Err(Error::Busy { session: notice.name.clone() }),
            None => Ok(()),
        }
    }

    fn is_own(&self, name: &str) -> bool {
        self.presence.as_ref().is_some_and(|presence| presence.is_own(name))
    }

    /// The snapshots, those among the wanted ones that were forgotten within the time of grace.
    fn listed(&self) -> Result<Listed> {
        Listed::read(self.repository, self.options.kept_since)
    }

    fn reader(&self) -> Result<Reader> {
        // Nothing is deleted while the index is damaged.
        self.repository.reader()?.if_sound()
    }

    /// The packs that running sessions may be writing just now `[PRUNE-7]`: those that are as young as the oldest of them.
    fn spared(&self) -> Result<HashSet<PackId>> {
        let sessions = self.repository.sessions()?;
        let now = sessions.iter().map(|notice| notice.modified).max().unwrap_or(0);
        let is_running = |name: &str, modified: i64| {
            !self.is_own(name) && !session::is_left_over(name) && now - modified < SESSION_SECONDS
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

    /// What nobody may have meant.
    fn implausible(&self, plan: &Plan, dead: u64) -> Option<String> {
        if self.options.force || plan.total == 0 {
            None
        } else if let Some(pack) = plan.unindexed {
            // A segment that is not listed would name what is deleted for ever.
            let name = pack_file_name(&pack);
            Some(format!(
                "some of the index is lost, or is not listed: {name}, for one, is needed and in none of its segments. \
                 `vault repair` writes them anew"
            ))
        } else if self.known.is_empty() {
            Some("no snapshot is left, so that all packs would go".to_owned())
        } else if dead > plan.total / 2 {
            Some(format!("more than half of all bytes would go ({dead} of {})", plan.total))
        } else {
            None
        }
    }

    /// A writer for which these packs do not count.
    fn writer(&self, condemned: &HashSet<PackId>) -> Result<Writer> {
        self.repository.writer_until(&self.write_options(condemned), self.stop)
    }

    fn write_options(&self, condemned: &HashSet<PackId>) -> WriteOptions {
        WriteOptions {
            compression: self.options.compression,
            pack_len: self.options.pack_len,
            condemned: condemned.clone(),
            ..WriteOptions::new(self.observer.clone())
        }
    }
}
