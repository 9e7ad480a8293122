//! The arguments of `rewrite`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueHint};

use super::{AmongArgs, StatementArgs};
use crate::select::Selector;

/// Arguments of `rewrite`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("Which").args(["selectors", "all"])))]
#[command(group(ArgGroup::new("What").args(["exclude", "iexclude", "exclude_file"]).multiple(true).required(true)))]
pub struct RewriteArgs {
    /// Which snapshots
    #[arg(value_name = "SNAPSHOT", conflicts_with = "Among")]
    pub selectors: Vec<Selector>,
    /// All snapshots; or all with that label, those tags, of that host
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub among: AmongArgs,
    /// Leave out what matches this pattern (may be given again; `!PATTERN` takes back)
    #[arg(short, long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// The same, upper and lower case being the same
    #[arg(long, value_name = "PATTERN")]
    pub iexclude: Vec<String>,
    /// Leave out what matches a line of this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub exclude_file: Vec<PathBuf>,
    /// Forget the old snapshots once the new ones are stored
    #[arg(long)]
    pub forget: bool,
    /// Only show what would be left out of which snapshots
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub statement: StatementArgs,
}

impl RewriteArgs {
    /// Whether something says which snapshots are meant.
    pub fn says_which(&self) -> bool {
        !self.selectors.is_empty() || self.all || self.among.is_given()
    }
}
