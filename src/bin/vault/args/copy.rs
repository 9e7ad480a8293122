//! The arguments of `copy`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::AmongArgs;
use super::values::Level;
use crate::select::Selector;

/// Arguments of `copy`.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// Which snapshots [default: all]
    #[arg(value_name = "SNAPSHOT", conflicts_with = "Among")]
    pub selectors: Vec<Selector>,
    #[command(flatten)]
    pub among: AmongArgs,
    /// The folder of the repository that is copied to
    #[arg(long, value_name = "FOLDER", required = true, value_hint = ValueHint::DirPath)]
    pub to: PathBuf,
    /// The file that has the passphrase of that repository [default: `$VAULT_TO_PASSPHRASE_FILE`]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub to_passphrase_file: Option<PathBuf>,
    /// The shell command that prints it
    #[arg(long, value_name = "COMMAND", conflicts_with = "to_passphrase_file", value_hint = ValueHint::CommandString)]
    pub to_passphrase_command: Option<String>,
    /// The file that has its recovery key
    #[arg(long, value_name = "FILE", conflicts_with_all = ["to_passphrase_file", "to_passphrase_command"], value_hint = ValueHint::FilePath)]
    pub to_recovery_key_file: Option<PathBuf>,
    /// Try the passphrase on this key of it only (the beginning of its id)
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub to_key: Option<String>,
    /// Only show what would be copied and how much it would take
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// How hard to compress: off, fast, default, best, or 1 to 19
    #[arg(long, value_name = "LEVEL", default_value = "default")]
    pub compression: Level,
}
