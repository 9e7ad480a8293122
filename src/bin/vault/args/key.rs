//! The arguments of `init` and `key`.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueHint};
use vault::error::{Error, Result};
use vault::repository::Kdf;

use super::EXIT_CODES;
use super::values::parse_size;

/// The least memory that a passphrase is protected with, in KiB.
const MIN_MEMORY_KIB: u64 = 8 << 10;

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// A name for this copy of the repository, such as that of the drive it is on
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Do not encrypt: whoever holds the drive can read everything
    #[arg(long, conflicts_with_all = ["passphrase_file", "passphrase_command", "recovery_key_file", "key_name", "kdf_memory", "kdf_passes"])]
    pub unencrypted: bool,
    #[command(flatten)]
    pub new: NewKeyArgs,
}

/// How a new key is made.
#[derive(Debug, Args)]
pub struct NewKeyArgs {
    /// A name for the key; everybody can read it
    #[arg(long, value_name = "NAME", help_heading = "The new key")]
    pub key_name: Option<String>,
    /// Memory that each try of the passphrase takes: 8M to 1G (less is guessed faster)
    #[arg(long, value_name = "SIZE", value_parser = parse_memory, default_value = "128M", help_heading = "The new key")]
    pub kdf_memory: u32,
    /// How often a try of the passphrase passes over the memory, 1 to 16
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16), default_value = "4", help_heading = "The new key")]
    pub kdf_passes: u32,
}

impl NewKeyArgs {
    /// What Argon2id is to do.
    pub fn kdf(&self) -> Result<Kdf> {
        let kdf = Kdf { memory_kib: self.kdf_memory, passes: self.kdf_passes, lanes: 1 };
        let too_much = "--kdf-memory times --kdf-passes must not be above 4G: more is not read again either";
        kdf.validate().map(|()| kdf).map_err(|_| Error::Usage(too_much.to_owned()))
    }
}

fn parse_memory(text: &str) -> std::result::Result<u32, String> {
    let kib = parse_size(text)? >> 10;
    match u32::try_from(kib) {
        Ok(short) if (MIN_MEMORY_KIB..=1 << 20).contains(&kib) => Ok(short),
        _ => Err("it must be 8M to 1G".to_owned()),
    }
}

/// Arguments of `key`.
#[derive(Debug, Args)]
pub struct KeyArgs {
    #[command(subcommand)]
    pub verb: KeyVerb,
}

/// What is to be done with keys.
#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// List the keys: each opens the repository with a passphrase of its own
    #[command(after_help = EXIT_CODES)]
    List,
    /// Add a key with a further passphrase
    #[command(after_help = EXIT_CODES)]
    Add(AddKeyArgs),
    /// Replace the key that the repository is opened with by one with another passphrase
    #[command(after_help = EXIT_CODES)]
    Change(AddKeyArgs),
    /// Remove a key. It does not become unknown to whoever has used it
    #[command(after_help = EXIT_CODES)]
    Remove(RemoveKeyArgs),
    /// Print a recovery key: it opens the repository without a passphrase, when all else is lost
    #[command(after_help = EXIT_CODES)]
    Export(ExportKeyArgs),
    /// Try a passphrase: which key does it open?
    #[command(after_help = EXIT_CODES)]
    Test,
}

/// Arguments of `key add` and `key change`.
#[derive(Debug, Args)]
pub struct AddKeyArgs {
    #[command(flatten)]
    pub new: NewKeyArgs,
    /// The file that has the new passphrase
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub new_passphrase_file: Option<PathBuf>,
    /// The shell command that prints the new passphrase
    #[arg(long, value_name = "COMMAND", conflicts_with = "new_passphrase_file", value_hint = ValueHint::CommandString)]
    pub new_passphrase_command: Option<String>,
}

/// Arguments of `key remove`.
#[derive(Debug, Args)]
pub struct RemoveKeyArgs {
    /// The beginning of the id of the key, as far as it is unique
    #[arg(value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    pub id: String,
}

/// Arguments of `key export`.
#[derive(Debug, Args)]
pub struct ExportKeyArgs {
    /// Write it into this new file, which only you can read
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
}
