//! The arguments of `heal` and `repair`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::select::Selector;

/// Arguments of `heal`.
#[derive(Debug, Args)]
pub struct HealArgs {
    /// The folder of another copy of the repository, which is only read
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub from: PathBuf,
    /// Believe packs that have the right length and are not recorded as damaged, and read no other ones
    #[arg(long)]
    pub quick: bool,
    /// Only show what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Without a passphrase: whole files only, and all that the other copy has beyond this one
    #[arg(long)]
    pub without_key: bool,
}

/// Arguments of `repair`.
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// Make new ones of these snapshots only, if they are damaged [default: of all]
    #[arg(value_name = "SNAPSHOT")]
    pub selectors: Vec<Selector>,
    /// Believe packs that have the right length and are not recorded as damaged, and read no other ones
    #[arg(long)]
    pub quick: bool,
    /// Only show what would be done, and what is lost
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}
