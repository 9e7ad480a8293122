//! What several structures share: times, and the tagged fields at their ends. `spec/format.md` §1.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::codec::Bytes;
use crate::error::Corruption;

/// A time: seconds since 1970 and nanoseconds, before 1970 and after 2106 too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Time {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub secs: i64,
    /// Below 1,000,000,000.
    pub nanos: u32,
}

impl Time {
    /// The time on this machine's clock.
    #[must_use]
    pub fn now() -> Self {
        let secs = |since: Duration| i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => Self { secs: secs(since), nanos: since.subsec_nanos() },
            // A clock that was never set may stand before 1970; nobody needs the parts of a second then.
            Err(before) => Self { secs: -secs(before.duration()), nanos: 0 },
        }
    }

    /// Nanoseconds since another time.
    #[must_use]
    pub fn nanos_since(self, other: Self) -> i128 {
        let nanos = |time: Self| i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
        nanos(self) - nanos(other)
    }

    /// Checks `[TIME-1]`.
    ///
    /// # Errors
    /// Names the rule.
    pub fn validate(self) -> Result<(), Corruption> {
        if self.nanos < 1_000_000_000 {
            Ok(())
        } else {
            Err(Corruption::rule("TIME-1", "a time has a billion nanoseconds or more"))
        }
    }
}

/// A tagged field at the end of a structure: what a later version may add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Which field.
    pub tag: u32,
    /// Whether a program that does not know it must refuse the structure.
    pub critical: bool,
    /// Its value.
    pub value: Bytes,
}

/// Checks `[FIELD-1]` and, with the tags that are known, `[FIELD-2]`.
///
/// # Errors
/// Names the rule.
pub fn validate_fields(fields: &[Field], known: &[u32]) -> Result<(), Corruption> {
    if fields.windows(2).any(|pair| pair[0].tag >= pair[1].tag) {
        return Err(Corruption::rule("FIELD-1", "the tags of its fields do not ascend"));
    }
    match fields.iter().find(|field| field.critical && !known.contains(&field.tag)) {
        Some(field) => Err(Corruption::UnknownField { tag: field.tag }),
        None => Ok(()),
    }
}
