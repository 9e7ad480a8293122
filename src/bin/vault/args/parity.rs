//! The arguments of `parity`.

use clap::{Args, Subcommand};

use super::EXIT_CODES;

/// Arguments of `parity`.
#[derive(Debug, Args)]
pub struct ParityArgs {
    #[command(subcommand)]
    pub verb: ParityVerb,
}

/// What is to be done with parity.
#[derive(Debug, Subcommand)]
pub enum ParityVerb {
    /// Make parity of all packs that have none yet, in this copy of the repository
    #[command(after_help = EXIT_CODES)]
    Add(AddParityArgs),
    /// Read all parity, and say which packs have none
    #[command(after_help = EXIT_CODES)]
    Check,
    /// Read the packs that have parity, and mend those that are damaged
    #[command(after_help = EXIT_CODES)]
    Repair(RepairParityArgs),
    /// Remove parity
    #[command(after_help = EXIT_CODES)]
    Drop(DropParityArgs),
}

/// Arguments of `parity add`.
#[derive(Debug, Args)]
pub struct AddParityArgs {
    /// Only of these packs (the beginnings of their ids), anew if they have some
    #[arg(value_name = "PACK")]
    pub packs: Vec<String>,
    /// So many of a hundred bytes of a pack may be lost, in one place or in many; what has less parity gets more
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100), default_value = "5")]
    pub percent: u32,
    /// Read the parity that is there too, and make it anew where it is damaged
    #[arg(long)]
    pub verify: bool,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Arguments of `parity repair`.
#[derive(Debug, Args)]
pub struct RepairParityArgs {
    /// Only these packs (the beginnings of their ids)
    #[arg(value_name = "PACK")]
    pub packs: Vec<String>,
    /// Only say what can be mended
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Arguments of `parity drop`.
#[derive(Debug, Args)]
pub struct DropParityArgs {
    /// Only of these packs (the beginnings of their ids)
    #[arg(value_name = "PACK")]
    pub packs: Vec<String>,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}
