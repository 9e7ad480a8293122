//! The arguments of `check`.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use super::values::{Subset, parse_size};
use crate::select::Selector;

/// Arguments of `check`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct CheckArgs {
    /// Check only what this snapshot, or this path of it, needs
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub selector: Option<Selector>,
    /// Read and verify every byte, not only the structure
    #[arg(long)]
    pub read_data: bool,
    /// Read and verify a part: `10%` (at random), `3/7` (the third of seven), `5G` (so many bytes)
    #[arg(long, value_name = "PART", conflicts_with = "read_data")]
    pub read_data_subset: Option<Subset>,
    /// Read and verify the packs that were not verified on this copy for so long: `30d`, `2w`, `1y`, `36h`. Of which pack that was when is remembered in `$XDG_STATE_HOME/vault`
    #[arg(long, value_name = "AGE", conflicts_with_all = ["read_data_subset", "selector"])]
    pub max_age: Option<MaxAge>,
    /// Read and verify no more than that, the packs first that were verified longest ago: `10m` or `2h` (no pack is begun after that), `10%` of all bytes, `50GiB`
    #[arg(long, value_name = "BUDGET", conflicts_with_all = ["read_data_subset", "selector"])]
    pub budget: Option<ReadBudget>,
    /// Note damaged packs, so that later snapshots store anew what was in them
    #[arg(long)]
    pub mark_damaged: bool,
    /// Without a passphrase: verify the hash of every file, and nothing that is sealed
    #[arg(long, conflicts_with_all = ["selector", "read_data", "read_data_subset", "max_age", "budget", "mark_damaged", "accept_loss", "repair_copy"])]
    pub without_key: bool,
    /// Expect no longer the snapshots, keys and records that were here and are gone
    #[arg(long)]
    pub accept_loss: bool,
    /// If the file `copy` is missing or damaged, make a new one first: this copy of the repository gets a new id
    #[arg(long)]
    pub repair_copy: bool,
}

impl CheckArgs {
    /// Whether all packs are read, or those of a part.
    pub fn reads_packs(&self) -> bool {
        self.read_data || self.read_data_subset.is_some() || self.is_by_age()
    }

    /// Whether packs are chosen by when they were verified.
    pub fn is_by_age(&self) -> bool {
        self.max_age.is_some() || self.budget.is_some()
    }
}

/// How long ago a pack may have been verified: a sum of hours, days, weeks and years of 365 days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaxAge {
    /// How long.
    pub age: Duration,
    /// As it was given.
    pub text: String,
}

impl FromStr for MaxAge {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let secs = |unit: &str| match unit {
            "h" => Ok(3600),
            "d" => Ok(86_400),
            "w" => Ok(7 * 86_400),
            "y" => Ok(365 * 86_400),
            // Months in the ages of `forget`, minutes in the budget beside this.
            "m" => Err("m could be months or minutes: say it in d or h".to_owned()),
            _ => Err("it is a number of hours, days, weeks or years, as 36h, 30d, 2w, 1y".to_owned()),
        };
        Ok(Self { age: parse_sum(text, secs)?, text: text.to_owned() })
    }
}

/// How much to read at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReadBudget(pub vault::check::ReadBudget);

impl FromStr for ReadBudget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        use vault::check::ReadBudget::{Bytes, Percent, Time};
        const FORMS: &str = "it is a time (90s, 10m, 1h30m), a percentage (10%) or a size (50GiB, 500MiB)";
        if let Some(percent) = text.strip_suffix('%') {
            return match percent.parse::<f64>() {
                Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(Self(Percent(percent))),
                _ => Err("a percentage is above 0 and at most 100".to_owned()),
            };
        }
        if text.ends_with('M') {
            return Err("M could be minutes or MiB: write 10m or 10MiB".to_owned());
        }
        if !text.ends_with(|last: char| last.is_ascii_alphabetic()) {
            return Err(FORMS.to_owned());
        }
        let secs = |unit: &str| match unit {
            "s" => Ok(1),
            "m" | "min" => Ok(60),
            "h" => Ok(3600),
            _ => Err(FORMS.to_owned()),
        };
        let time = parse_sum(text, secs);
        let budget = time.map(Time).or_else(|_| parse_size(text).map(Bytes)).map_err(|_| FORMS.to_owned())?;
        match budget {
            Time(Duration::ZERO) | Bytes(0) => Err("it is more than nothing".to_owned()),
            budget => Ok(Self(budget)),
        }
    }
}

/// A sum of numbers, each with a unit behind it.
fn parse_sum(text: &str, secs: impl Fn(&str) -> Result<u64, String>) -> Result<Duration, String> {
    let (mut rest, mut sum) = (text, 0u64);
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, behind) = rest.split_at(digits);
        let letters = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(letters);
        let each = secs(unit)?;
        let number: u64 = number.parse().map_err(|_| format!("{text:?} has no number before {unit:?}"))?;
        let part = number.checked_mul(each);
        sum = part.and_then(|part| sum.checked_add(part)).ok_or_else(|| format!("{text:?} is too long"))?;
        if behind.is_empty() {
            return Ok(Duration::from_secs(sum));
        }
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_sums_and_an_m_is_refused_as_it_might_mean_two_things() {
        let hours = |text: &str| text.parse::<MaxAge>().map(|age| age.age.as_secs() / 3600);
        assert_eq!(hours("30d"), Ok(720));
        assert_eq!(hours("1y2w3d4h"), Ok(365 * 24 + 14 * 24 + 72 + 4));
        assert_eq!(hours("0d"), Ok(0));
        assert!(hours("5m").is_err_and(|why| why.contains("months or minutes")));
        for text in
            ["", "30", "d", "30d5", "-3d", "3 d", "99999999999999999999d", "300000000000000000y", "1.5d"]
        {
            assert!(hours(text).is_err(), "{text}");
        }
    }

    #[test]
    fn budgets_are_times_percentages_and_sizes_that_cannot_be_taken_for_one_another() {
        use vault::check::ReadBudget::{Bytes, Percent, Time};
        for (text, budget) in [
            ("10m", Time(Duration::from_secs(600))),
            ("10min", Time(Duration::from_secs(600))),
            ("1h30m", Time(Duration::from_secs(5400))),
            ("90s", Time(Duration::from_secs(90))),
            ("10%", Percent(10.0)),
            ("50GiB", Bytes(50 << 30)),
            ("1.5G", Bytes(3 << 29)),
            ("10MiB", Bytes(10 << 20)),
            ("64k", Bytes(64 << 10)),
        ] {
            assert_eq!(text.parse(), Ok(ReadBudget(budget)), "{text}");
        }
        assert!("10M".parse::<ReadBudget>().is_err_and(|why| why.contains("minutes or MiB")));
        for text in ["", "10", "0m", "0%", "101%", "NaN%", "0G", "m", "10x", "1.5h", "10mb5", "1d"] {
            assert!(text.parse::<ReadBudget>().is_err(), "{text}");
        }
    }
}
