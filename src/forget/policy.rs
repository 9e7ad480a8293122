//! Which snapshots a policy keeps, and why: restic's words, with their meaning there.
//!
//! Neither repository nor clock: [`Policy::judge`] is told what there is and what time it is. Hours, days and weeks are those of the host
//! that took a snapshot, by its offset from UTC then. Where it differs from restic: snapshots that claim to be of the future, and those that
//! are not complete, are no reason to forget another one. The former are kept, the latter until a complete one follows.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use jiff::tz::{Offset, TimeZone};
use jiff::{Span, Timestamp, Zoned};

use crate::snapshot::{Snapshot, State, Time};

/// What is to be kept. Without any rule nothing is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest snapshot of each of so many periods that have one.
    pub newest: Vec<(Period, Count)>,
    /// The newest snapshot of each period, as far as it is not older than that before the newest of all.
    pub within: Vec<(Period, Age)>,
    /// Those with all tags of one of these lists; an empty tag stands for having none.
    pub tags: Vec<Vec<String>>,
}

/// A length of time of which one snapshot is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// None: each snapshot is kept.
    Any,
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week, from Monday on (ISO 8601).
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

/// How many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// As many as there are.
    All,
    /// So many at most.
    AtMost(u32),
}

/// A length of time by the calendar: `1y5m7d2h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Age {
    /// Years.
    pub years: u32,
    /// Months.
    pub months: u32,
    /// Days.
    pub days: u32,
    /// Hours.
    pub hours: u32,
}

/// Why a snapshot is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It has these tags.
    Tags(Vec<String>),
    /// It is the newest of a period; or the oldest of all, where more might be kept than there are.
    Newest(Period, Oldest),
    /// The same, among those that are not older than that.
    Within(Period, Age, Oldest),
    /// It claims to be of the future.
    Future,
    /// It is not complete, and no complete one is newer.
    NotFollowed,
    /// It is held.
    Held,
    /// Others were named to be forgotten.
    NotNamed,
}

/// Whether a snapshot is kept only as the oldest there is.
pub type Oldest = bool;

impl Policy {
    /// Whether there is no rule in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.newest.is_empty() && self.within.is_empty() && self.tags.is_empty()
    }

    /// Why each of these snapshots is kept; for no reason at all if it is not. They are those of one group, in any order.
    #[must_use]
    pub fn judge(&self, snapshots: &[&Snapshot], now: Time) -> Vec<Vec<Reason>> {
        let mut order: Vec<(usize, &Snapshot)> = snapshots.iter().copied().enumerate().collect();
        order.sort_by_key(|(_, snapshot)| Reverse(snapshot.start));
        let counts = |snapshot: &Snapshot| snapshot.state == State::Complete && snapshot.start <= now;
        let latest = order.iter().map(|(_, snapshot)| *snapshot).find(|snapshot| counts(snapshot));
        let oldest = order.iter().rev().find(|(_, snapshot)| counts(snapshot)).map(|(index, _)| *index);
        let mut buckets = self.buckets(latest);
        let mut reasons = vec![Vec::new(); snapshots.len()];
        for (index, snapshot) in order {
            let Some(reasons) = reasons.get_mut(index) else { continue };
            let tagged = self.tags.iter().filter(|tags| has_tags(snapshot, tags));
            reasons.extend(tagged.map(|tags| Reason::Tags(tags.clone())));
            if counts(snapshot) {
                let is_oldest = oldest == Some(index);
                reasons.extend(buckets.iter_mut().filter_map(|bucket| bucket.take(snapshot, is_oldest)));
            } else if snapshot.start > now {
                reasons.push(Reason::Future);
            } else {
                if latest.is_none_or(|latest| latest.start < snapshot.start) {
                    reasons.push(Reason::NotFollowed);
                }
                // What is kept whatever else there is pushes nothing out.
                let any = buckets.iter_mut().filter(|bucket| bucket.keeps_any());
                reasons.extend(any.filter_map(|bucket| bucket.take(snapshot, false)));
            }
        }
        reasons
    }

    fn buckets(&self, latest: Option<&Snapshot>) -> Vec<Bucket> {
        let within = self.within.iter().map(|(period, age)| Bucket {
            period: *period,
            left: Count::All,
            within: Some((*age, latest.map_or(Timestamp::MIN, |latest| age.before(&zoned(latest))))),
            last: None,
        });
        let newest = self.newest.iter().map(|(period, count)| Bucket {
            period: *period,
            left: *count,
            within: None,
            last: None,
        });
        let (any, periods): (Vec<_>, Vec<_>) = within.partition(|bucket| bucket.period == Period::Any);
        any.into_iter().chain(newest).chain(periods).collect()
    }
}

/// A rule at work, from the newest snapshot to the oldest.
struct Bucket {
    period: Period,
    /// How many more it keeps.
    left: Count,
    /// Only what is newer than that.
    within: Option<(Age, Timestamp)>,
    /// The period of the one that it kept last.
    last: Option<i64>,
}

impl Bucket {
    /// Whether it keeps each snapshot that is new enough.
    fn keeps_any(&self) -> bool {
        self.period == Period::Any && self.left == Count::All
    }

    /// Why it keeps the snapshot, if it does. The oldest one is kept while there is room, for the longest history.
    fn take(&mut self, snapshot: &Snapshot, is_oldest: bool) -> Option<Reason> {
        if self.left == Count::AtMost(0)
            || self.within.is_some_and(|(_, since)| timestamp(snapshot.start) <= since)
        {
            return None;
        }
        let number = self.period.number(snapshot);
        let is_next = number.is_none() || number != self.last;
        if !is_next && !is_oldest {
            return None;
        }
        self.last = number;
        if let Count::AtMost(left) = &mut self.left {
            *left -= 1;
        }
        let oldest = !is_next;
        Some(match self.within {
            Some((age, _)) => Reason::Within(self.period, age, oldest),
            None => Reason::Newest(self.period, oldest),
        })
    }
}

impl Period {
    /// The number of the period that a snapshot falls into, on the calendar of its host; none where each is for itself.
    fn number(self, snapshot: &Snapshot) -> Option<i64> {
        let local = zoned(snapshot);
        let date = local.date();
        let year = i64::from(date.year());
        Some(match self {
            Self::Any => return None,
            Self::Hour => {
                ((year * 12 + i64::from(date.month())) * 31 + i64::from(date.day())) * 24
                    + i64::from(local.hour())
            }
            Self::Day => (year * 12 + i64::from(date.month())) * 31 + i64::from(date.day()),
            Self::Week => {
                let week = date.iso_week_date();
                i64::from(week.year()) * 100 + i64::from(week.week())
            }
            Self::Month => year * 12 + i64::from(date.month()),
            Self::Year => year,
        })
    }
}

impl Age {
    /// The moment so long before another one, by the calendar of UTC.
    #[must_use]
    pub fn before_time(self, time: Time) -> Time {
        let timestamp = Timestamp::new(time.secs, i32::try_from(time.nanos).unwrap_or(0));
        let before = self.before(&timestamp.unwrap_or(Timestamp::MIN).to_zoned(TimeZone::UTC));
        Time { secs: before.as_second(), nanos: 0 }
    }

    fn before(self, zoned: &Zoned) -> Timestamp {
        let span = || {
            let span = Span::new().try_years(self.years)?.try_months(self.months)?.try_days(self.days)?;
            let day = zoned.checked_sub(span)?;
            day.timestamp().checked_sub(Span::new().try_hours(self.hours)?)
        };
        span().unwrap_or(Timestamp::MIN)
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [(self.years, 'y'), (self.months, 'm'), (self.days, 'd'), (self.hours, 'h')];
        parts
            .iter()
            .filter(|(number, _)| *number > 0)
            .try_for_each(|(number, unit)| write!(f, "{number}{unit}"))
    }
}

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut age = Self::default();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let number = number.parse().map_err(|_| format!("a number is to stand before {tail:?}"))?;
            let unit = match tail.chars().next() {
                Some('y') => &mut age.years,
                Some('m') => &mut age.months,
                Some('d') => &mut age.days,
                Some('h') => &mut age.hours,
                _ => return Err(format!("behind {number}, one of y, m, d or h is to stand, as in 1y5m7d2h")),
            };
            *unit = number;
            rest = &tail[1..];
        }
        if age == Self::default() {
            return Err("it is a length of time, as 1y5m7d2h".to_owned());
        }
        Ok(age)
    }
}

/// Whether a snapshot has all of these tags.
fn has_tags(snapshot: &Snapshot, tags: &[String]) -> bool {
    tags.iter().all(|tag| if tag.is_empty() { snapshot.tags.is_empty() } else { snapshot.tags.contains(tag) })
}

/// When a snapshot was begun, on the clock of its host.
fn zoned(snapshot: &Snapshot) -> jiff::Zoned {
    let offset = Offset::from_seconds(snapshot.utc_offset_secs).unwrap_or(Offset::UTC);
    timestamp(snapshot.start).to_zoned(TimeZone::fixed(offset))
}

/// A time that is on the calendar, which ends with the year 9999.
fn timestamp(time: Time) -> Timestamp {
    let nanos = i32::try_from(time.nanos).unwrap_or(0);
    let end = if time.secs < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::new(time.secs, nanos).unwrap_or(end)
}
