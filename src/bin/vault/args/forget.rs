//! The arguments of `forget`, `hold`, `unhold` and `undo`.

use std::str::FromStr;

use clap::Args;
use vault::forget::{Age, Count, GroupBy, Period, Policy};

use super::AmongArgs;

use crate::select::Selector;

/// Arguments of `forget`.
#[derive(Debug, Args)]
pub struct ForgetArgs {
    /// These snapshots, instead of those that no rule keeps
    #[arg(value_name = "SNAPSHOT", conflicts_with_all = ["Keep", "Among", "group_by"])]
    pub selectors: Vec<Selector>,
    #[command(flatten)]
    pub among: AmongArgs,
    /// Judge snapshots together that have these in common: any of host, label, paths, tags; nothing for all together
    #[arg(short, long, value_name = "WORDS", default_value = "host,label,paths")]
    pub group_by: Grouping,
    /// Only show what would be forgotten
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Forget the last complete snapshot of a group too
    #[arg(long)]
    pub allow_empty: bool,
    #[command(flatten)]
    pub statement: StatementArgs,
    // What stands behind a heading of its own.
    #[command(flatten)]
    pub keep: KeepArgs,
}

/// What is kept.
#[derive(Debug, Args)]
#[group(id = "Keep", multiple = true)]
#[command(next_help_heading = "What is kept")]
#[expect(clippy::struct_field_names, reason = "each is a flag of the command line")]
pub struct KeepArgs {
    /// The last N snapshots (`unlimited` for all)
    #[arg(short = 'l', long, value_name = "N")]
    pub keep_last: Option<Newest>,
    /// The last one of each of the last N hours that have one
    #[arg(short = 'H', long, value_name = "N")]
    pub keep_hourly: Option<Newest>,
    /// The last one of each of the last N days that have one
    #[arg(short = 'd', long, value_name = "N")]
    pub keep_daily: Option<Newest>,
    /// The last one of each of the last N weeks that have one
    #[arg(short = 'w', long, value_name = "N")]
    pub keep_weekly: Option<Newest>,
    /// The last one of each of the last N months that have one
    #[arg(short = 'm', long, value_name = "N")]
    pub keep_monthly: Option<Newest>,
    /// The last one of each of the last N years that have one
    #[arg(short = 'y', long, value_name = "N")]
    pub keep_yearly: Option<Newest>,
    /// All that are at most so much older than the last one, as `1y5m7d2h`
    #[arg(long, value_name = "AGE")]
    pub keep_within: Option<Age>,
    /// The last one of each hour, of those
    #[arg(long, value_name = "AGE")]
    pub keep_within_hourly: Option<Age>,
    /// The last one of each day, of those
    #[arg(long, value_name = "AGE")]
    pub keep_within_daily: Option<Age>,
    /// The last one of each week, of those
    #[arg(long, value_name = "AGE")]
    pub keep_within_weekly: Option<Age>,
    /// The last one of each month, of those
    #[arg(long, value_name = "AGE")]
    pub keep_within_monthly: Option<Age>,
    /// The last one of each year, of those
    #[arg(long, value_name = "AGE")]
    pub keep_within_yearly: Option<Age>,
    /// Those with this tag, or with all of `TAG,TAG` (may be given again)
    #[arg(long, value_name = "TAGS")]
    pub keep_tag: Vec<String>,
}

/// What is said beside.
#[derive(Debug, Args)]
pub struct StatementArgs {
    /// Only in this copy of the repository: its mirrors stay as they are
    #[arg(long)]
    pub this_copy: bool,
    /// Why, for later
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// Arguments of `hold`.
#[derive(Debug, Args)]
pub struct HoldArgs {
    /// Which snapshots
    #[arg(value_name = "SNAPSHOT", required = true)]
    pub selectors: Vec<Selector>,
    #[command(flatten)]
    pub statement: StatementArgs,
}

/// Arguments of `unhold` and `undo`.
#[derive(Debug, Args)]
pub struct TakeBackArgs {
    /// Which snapshots
    #[arg(value_name = "SNAPSHOT", required = true)]
    pub selectors: Vec<Selector>,
    /// Why, for later
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// How many of the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newest(pub Count);

impl FromStr for Newest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "unlimited" | "-1" => Ok(Self(Count::All)),
            number => number
                .parse()
                .map(|number| Self(Count::AtMost(number)))
                .map_err(|_| "it is a number, or unlimited".to_owned()),
        }
    }
}

/// What snapshots that are judged together have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grouping(pub GroupBy);

impl FromStr for Grouping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut by = GroupBy { host: false, label: false, paths: false, tags: false };
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "host" => by.host = true,
                "label" => by.label = true,
                "path" | "paths" => by.paths = true,
                "tag" | "tags" => by.tags = true,
                other => return Err(format!("{other:?} is none of host, label, paths, tags")),
            }
        }
        Ok(Self(by))
    }
}

impl KeepArgs {
    /// The policy that they make.
    pub fn policy(&self) -> Policy {
        let newest = [
            (Period::Any, self.keep_last),
            (Period::Hour, self.keep_hourly),
            (Period::Day, self.keep_daily),
            (Period::Week, self.keep_weekly),
            (Period::Month, self.keep_monthly),
            (Period::Year, self.keep_yearly),
        ];
        let within = [
            (Period::Any, self.keep_within),
            (Period::Hour, self.keep_within_hourly),
            (Period::Day, self.keep_within_daily),
            (Period::Week, self.keep_within_weekly),
            (Period::Month, self.keep_within_monthly),
            (Period::Year, self.keep_within_yearly),
        ];
        let words = |list: &String| list.split(',').map(|tag| tag.trim().to_owned()).collect();
        Policy {
            newest: newest.into_iter().filter_map(|(period, newest)| Some((period, newest?.0))).collect(),
            within: within.into_iter().filter_map(|(period, age)| Some((period, age?))).collect(),
            tags: self.keep_tag.iter().map(words).collect(),
        }
    }
}
