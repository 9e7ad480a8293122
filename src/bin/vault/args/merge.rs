//! The arguments of `merge`.

use clap::{Args, ValueEnum};

use super::values::parse_label;
use crate::select::Selector;

/// Arguments of `merge`.
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// Which snapshots, two at least
    #[arg(value_name = "SNAPSHOT", required = true, num_args = 2..)]
    pub selectors: Vec<Selector>,
    /// Whose version of a file is taken where several have it
    #[arg(long, value_name = "WHOSE", default_value = "newest")]
    pub prefer: PreferArg,
    /// The label of the new snapshot [default: that of all, if they have the same]
    #[arg(long, value_name = "LABEL", value_parser = parse_label)]
    pub label: Option<String>,
    /// A tag, beside those of the snapshots (may be given again, or several with commas)
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    pub tag: Vec<String>,
    /// A few words about it
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub description: String,
    /// Only show what would be in it
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Whose version is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PreferArg {
    /// That of the newest snapshot
    Newest,
    /// That of the snapshot that is named first
    First,
}
