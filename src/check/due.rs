//! Which packs are read when not all are: a part of them, or those that were verified longest ago; and what is remembered of that.

use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::check::damage::{Damages, chain};
use crate::check::{Ages, Check, ReadBudget, Subset};
use crate::error::Error;
use crate::id::PackId;
use crate::repository::{Repository, Verified};
use crate::snapshot::Time;

/// What was verified is remembered so often while packs are read, so that it outlives a run that is killed.
const KEEP_EVERY: Duration = Duration::from_secs(5);

/// What is remembered of packs, while several threads add to it.
pub(super) struct Remembered {
    state: Mutex<State>,
}

struct State {
    verified: Verified,
    kept: Instant,
    /// The first error of keeping it.
    failed: Option<Error>,
}

impl Remembered {
    /// What is remembered of this copy. Nothing can be of one that has lost its id.
    pub fn of(repository: &Repository, folder: Option<&Path>, damages: &Damages<'_>) -> Option<Self> {
        let verified = Verified::recall(folder.filter(|_| !damages.has("copy"))?, repository);
        Some(Self { state: Mutex::new(State { verified, kept: Instant::now(), failed: None }) })
    }

    /// When the pack was last verified, in seconds since 1970.
    fn when(&self, pack: &PackId, now: i64) -> Option<i64> {
        self.state.lock().ok()?.verified.when(pack, now)
    }

    /// Adds what was found of a pack that was read from the medium.
    pub fn add(&self, pack: PackId, is_right: bool, is_there: impl Fn(&PackId) -> bool) {
        let Ok(mut state) = self.state.lock() else { return };
        if is_right {
            state.verified.confirm(pack, Time::now().secs);
        } else {
            state.verified.refute(pack);
        }
        if state.kept.elapsed() >= KEEP_EVERY {
            state.keep(is_there);
        }
    }

    /// Keeps what was added. The error, if that could not be done at some time.
    pub fn finish(&self, is_there: impl Fn(&PackId) -> bool) -> Option<Error> {
        let mut state = self.state.lock().ok()?;
        state.keep(is_there);
        state.failed.take()
    }
}

/// What is said where something could not be remembered.
pub(super) fn not_remembered(error: &Error) -> String {
    format!("when packs were verified is not remembered: {}", chain(error))
}

impl State {
    fn keep(&mut self, is_there: impl Fn(&PackId) -> bool) {
        if let Err(error) = self.verified.keep(is_there) {
            self.failed.get_or_insert(error);
        }
        self.kept = Instant::now();
    }
}

impl Check<'_> {
    /// The packs to be read, in this order.
    pub(super) fn chosen(&self) -> Vec<(PackId, u64)> {
        let present = self.reader.index().present();
        let mut packs: Vec<(PackId, u64)> = present.packs.iter().map(|(id, len)| (*id, *len)).collect();
        packs.sort_unstable();
        let all = sum(&packs);
        if self.options.max_age.is_some() || self.options.budget.is_some() {
            self.longest_ago_first(&mut packs);
            match self.options.budget {
                Some(ReadBudget::Percent(percent)) => first(&mut packs, share(all, percent)),
                Some(ReadBudget::Bytes(bytes)) => first(&mut packs, bytes),
                Some(ReadBudget::Time(_)) | None => {}
            }
            return packs;
        }
        match self.options.subset {
            None => {}
            Some(Subset::Part { n, of }) => {
                packs.retain(|(id, _)| u64::from(leading(id)) % of.max(1) == n.max(1) - 1);
            }
            Some(Subset::Percent(percent)) => {
                self.shuffle(&mut packs);
                first(&mut packs, share(all, percent));
            }
            Some(Subset::Bytes(bytes)) => {
                self.shuffle(&mut packs);
                first(&mut packs, bytes);
            }
        }
        packs
    }

    /// Ids are spread evenly, so what the seed makes of them is a shuffled order.
    fn shuffle(&self, packs: &mut [(PackId, u64)]) {
        packs.sort_unstable_by_key(|(id, _)| leading(id) ^ self.options.seed);
    }

    /// Leaves those that were not verified within the greatest age, those before all others that never were.
    fn longest_ago_first(&self, packs: &mut Vec<(PackId, u64)>) {
        let now = Time::now().secs;
        let mut dated: Vec<_> =
            packs.iter().map(|(id, len)| (self.verified_at(id, now), *id, *len)).collect();
        dated.retain(|(when, ..)| self.is_due(*when, now));
        dated.sort_unstable();
        *packs = dated.into_iter().map(|(_, id, len)| (id, len)).collect();
    }

    fn verified_at(&self, pack: &PackId, now: i64) -> Option<i64> {
        self.remembered.as_ref()?.when(pack, now)
    }

    /// Whether a pack that was verified then is to be read again; any is where no age is given.
    fn is_due(&self, when: Option<i64>, now: i64) -> bool {
        let Some(age) = self.options.max_age else { return true };
        let age = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
        when.is_none_or(|when| now.saturating_sub(when) >= age)
    }

    /// Packs that were found to be damaged, in whatever way, are not remembered as verified.
    pub(super) fn refute_damaged(&mut self) {
        let Some(remembered) = &self.remembered else { return };
        let is_there = |pack: &PackId| self.reader.index().present().packs.contains_key(pack);
        let ids = self.damages.objects().filter_map(|object| object.strip_prefix("packs/")?.get(3..));
        let damaged: Vec<PackId> = ids.filter_map(PackId::from_hex).collect();
        for pack in &damaged {
            remembered.add(*pack, false, is_there);
        }
        let failed = if damaged.is_empty() { None } else { remembered.finish(is_there) };
        if let Some(error) = failed {
            self.notice(not_remembered(&error));
        }
    }

    /// What is remembered of the packs, once they were read. Nothing, if nothing may be remembered.
    pub(super) fn ages(&self) -> Option<Ages> {
        self.remembered.as_ref().filter(|_| self.options.only.is_none())?;
        let (now, mut ages) = (Time::now().secs, Ages::default());
        let has_age = self.options.max_age.is_some();
        for (pack, len) in &self.reader.index().present().packs {
            let when = self.verified_at(pack, now);
            ages.never += u64::from(when.is_none());
            let is_overdue = when.is_none() || has_age && self.is_due(when, now) && !self.was_read(pack);
            if is_overdue {
                ages.overdue += 1;
                ages.overdue_bytes += len;
            }
            let oldest = ages.oldest.into_iter().chain(when.map(|secs| Time { secs, nanos: 0 }));
            ages.oldest = oldest.min();
        }
        Some(ages)
    }

    /// Whether it was read just now and was right, however small the greatest age is.
    fn was_read(&self, pack: &PackId) -> bool {
        self.confirmed.contains(pack)
    }
}

/// Leaves the first of the packs until they have so many bytes, and one at least.
fn first(packs: &mut Vec<(PackId, u64)>, wanted: u64) {
    let mut sum = 0u64;
    packs.retain(|(_, len)| {
        let is_one = sum < wanted.max(1);
        sum = sum.saturating_add(*len);
        is_one
    });
}

fn sum(packs: &[(PackId, u64)]) -> u64 {
    packs.iter().fold(0, |sum, (_, len)| sum.saturating_add(*len))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of the bytes, and not to the byte"
)]
fn share(all: u64, percent: f64) -> u64 {
    (all as f64 * percent.clamp(0.0, 100.0) / 100.0).ceil() as u64
}

fn leading(id: &PackId) -> u32 {
    let [a, b, c, d, ..] = *id.as_bytes();
    u32::from_be_bytes([a, b, c, d])
}
