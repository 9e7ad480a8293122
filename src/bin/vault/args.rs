//! The command line, as clap reads it. What words mean is decided here (`values`), what they do in `commands`.

mod check;
mod copy;
mod du;
mod forget;
mod heal;
mod key;
mod look;
mod merge;
mod parity;
mod prune;
mod rewrite;
mod snapshot;
mod values;

use std::num::NonZero;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use vault::budget::{Budget, DEFAULT_MEMORY, MIN_MEMORY};
use vault::error::Result;
use vault::snapshot::Snapshot;

pub use check::CheckArgs;
pub use copy::CopyArgs;
pub use du::DuArgs;
pub use forget::{ForgetArgs, HoldArgs, StatementArgs, TakeBackArgs};
pub use heal::{HealArgs, RepairArgs};
pub use key::{AddKeyArgs, ExportKeyArgs, InitArgs, KeyArgs, KeyVerb, RemoveKeyArgs};
pub use look::{CatArgs, DiffArgs, FindArgs, LsArgs};
pub use merge::{MergeArgs, PreferArg};
pub use parity::{AddParityArgs, DropParityArgs, ParityArgs, ParityVerb, RepairParityArgs};
pub use prune::{MaxUnused, PruneArgs};
pub use rewrite::RewriteArgs;
pub use snapshot::SnapshotArgs;
pub use values::{Memory, Rate, Subset, from_timestamp, parse_time};

use crate::select::Selector;

/// What the exit codes mean, at the end of every help.
const EXIT_CODES: &str = "Exit codes:
  0    done
  1    failed
  2    the command line makes no sense
  3    done, but some source files could not be read
  10   there is no repository
  11   the repository is busy
  12   wrong passphrase, or none
  13   damage found
  14   no space left
  15   the medium is missing, or another one is in its place
  130  interrupted";

/// A selector, as every help of a verb that takes one explains it.
const SELECTORS: &str = "A snapshot is named by:
  3f2a             the beginning of its id, as far as it is unique
  latest           the newest complete one
  latest~2         the second one before it
  previous         the newest one whose content differs from the latest's
  2026-11-20       the newest one until the end of that day
  '2026-11-20 14:10'  the newest one until the end of that minute
  work@latest      LABEL@ before any of these: only snapshots with that label
  latest:/etc      :PATH after any of these: what is at that path in it";

/// Takes snapshots of folders into a repository, and gives them back: deduplicated, compressed, verified.
#[derive(Debug, Parser)]
#[command(
    name = "vault",
    version,
    disable_version_flag = false,
    propagate_version = false,
    max_term_width = 110
)]
#[command(after_help = EXIT_CODES, arg_required_else_help = true, disable_help_subcommand = false)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What every verb understands.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The folder of the repository [default: `$VAULT_REPOSITORY`, or else `$XDG_DATA_HOME/vault/default`]
    #[arg(short, long, global = true, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub repository: Option<PathBuf>,
    /// The file that has the passphrase of the repository [default: `$VAULT_PASSPHRASE_FILE`]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub passphrase_file: Option<PathBuf>,
    /// The shell command that prints the passphrase
    #[arg(long, global = true, value_name = "COMMAND", conflicts_with = "passphrase_file", value_hint = ValueHint::CommandString)]
    pub passphrase_command: Option<String>,
    /// The file that has a recovery key, as `vault key export` wrote it: no passphrase is needed then
    #[arg(long, global = true, value_name = "FILE", conflicts_with_all = ["passphrase_file", "passphrase_command"], value_hint = ValueHint::FilePath)]
    pub recovery_key_file: Option<PathBuf>,
    /// Try the passphrase on this key only (the beginning of its id)
    #[arg(long, global = true, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub key: Option<String>,
    /// Print results, warnings and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print a line for each file
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// Append all that happens to this file, with times
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub log_file: Option<PathBuf>,
    /// The folder for caches [default: `$XDG_CACHE_HOME/vault`]
    #[arg(long, global = true, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub cache_dir: Option<PathBuf>,
    /// Neither use nor write caches: slower, the same result
    #[arg(long, global = true, conflicts_with = "cache_dir")]
    pub no_cache: bool,
    /// Take at most so much memory (suffixes M, G), 96M at least: fewer threads and smaller caches, or more of them [default: 256M]. A passphrase takes what its key was made with, at first
    #[arg(long, global = true, value_name = "SIZE")]
    pub memory: Option<Memory>,
    /// Read and compute with at most so many threads at a time; a restore with several has one more that walks through the snapshot [default: one for each core]
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<NonZero<usize>>,
    /// Read and write at most so many bytes a second (suffixes K, M, G)
    #[arg(long, global = true, value_name = "RATE")]
    pub limit_rate: Option<Rate>,
    /// Read at most so many bytes a second
    #[arg(long, global = true, value_name = "RATE")]
    pub limit_read: Option<Rate>,
    /// Write at most so many bytes a second
    #[arg(long, global = true, value_name = "RATE")]
    pub limit_write: Option<Rate>,
}

impl Global {
    /// Bytes a second to read at most.
    pub fn read_rate(&self) -> Option<u64> {
        self.limit_read.or(self.limit_rate).map(|rate| rate.0)
    }

    /// What the verb may take of memory and threads.
    pub fn budget(&self) -> Result<Budget> {
        Budget::new(self.memory.map_or(DEFAULT_MEMORY, |memory| memory.0), self.threads)
    }

    /// The same where two repositories are open at a time: half of the memory for each.
    pub fn half_budget(&self) -> Result<Budget> {
        let memory = self.memory.map_or(DEFAULT_MEMORY, |memory| memory.0);
        Budget::new((memory / 2).max(MIN_MEMORY), self.threads)
    }

    /// Bytes a second to write at most.
    pub fn write_rate(&self) -> Option<u64> {
        self.limit_write.or(self.limit_rate).map(|rate| rate.0)
    }
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make an empty repository, encrypted unless you say otherwise
    #[command(after_help = EXIT_CODES)]
    Init(InitArgs),
    /// Take a snapshot of files and folders
    #[command(visible_aliases = ["backup", "create"], after_help = EXIT_CODES)]
    Snapshot(Box<SnapshotArgs>),
    /// List the snapshots
    #[command(visible_alias = "list", after_help = EXIT_CODES)]
    Snapshots(SnapshotsArgs),
    /// List what is in a snapshot
    #[command(after_help = with_selectors())]
    Ls(LsArgs),
    /// Find files by name in all snapshots
    #[command(after_help = EXIT_CODES)]
    Find(FindArgs),
    /// Show what differs between two snapshots, or a snapshot and a folder as it is now
    #[command(after_help = with_selectors())]
    Diff(DiffArgs),
    /// Write a file to the standard output, or a folder as a tar archive
    #[command(after_help = with_selectors())]
    Cat(CatArgs),
    /// Restore a snapshot, or a part of it
    #[command(after_help = with_selectors())]
    Restore(RestoreArgs),
    /// Verify that the repository is whole
    #[command(visible_alias = "verify", after_help = with_selectors())]
    Check(CheckArgs),
    /// Replace what is damaged or missing with what another copy has whole
    #[command(after_help = EXIT_CODES)]
    Heal(HealArgs),
    /// Put in order what is left: the index anew, and new snapshots of what is left of damaged ones
    #[command(after_help = with_selectors())]
    Repair(RepairArgs),
    /// Show what the repository and each snapshot hold
    #[command(after_help = with_selectors())]
    Stats(StatsArgs),
    /// Show what snapshots, or paths in them, hold, and what forgetting them would free
    #[command(after_help = with_selectors())]
    Du(DuArgs),
    /// Forget snapshots: those that are named, or all that no rule keeps
    #[command(after_help = with_selectors())]
    Forget(Box<ForgetArgs>),
    /// Hold snapshots, so that none of them can be forgotten
    #[command(after_help = with_selectors())]
    Hold(HoldArgs),
    /// Let go of snapshots that are held
    #[command(after_help = with_selectors())]
    Unhold(TakeBackArgs),
    /// Bring back snapshots that were forgotten
    #[command(after_help = with_selectors())]
    Undo(TakeBackArgs),
    /// Take paths out of snapshots: new ones without them are made
    #[command(after_help = with_selectors())]
    Rewrite(Box<RewriteArgs>),
    /// Make one snapshot of several, with all that is in any of them
    #[command(after_help = with_selectors())]
    Merge(MergeArgs),
    /// Delete what no snapshot needs any more; others may go on writing meanwhile
    #[command(after_help = EXIT_CODES)]
    Prune(PruneArgs),
    /// Add, use, check or drop parity: with it packs mend that rot in a few places, without a second copy
    #[command(after_help = EXIT_CODES)]
    Parity(ParityArgs),
    /// Manage the passphrases of an encrypted repository
    #[command(after_help = EXIT_CODES)]
    Key(KeyArgs),
    /// Copy snapshots into another repository, which may have other keys and another way of cutting files
    #[command(after_help = with_selectors())]
    Copy(Box<CopyArgs>),
    /// Make or refresh a copy of the repository on another medium
    #[command(after_help = EXIT_CODES)]
    Mirror(MirrorArgs),
    /// Print the completions for a shell
    #[command(after_help = EXIT_CODES)]
    Completions(CompletionsArgs),
    /// Print the manual page, or write all of them into a folder
    #[command(after_help = EXIT_CODES)]
    Man(ManArgs),
    /// Print the version of the program and of the formats it knows
    #[command(after_help = EXIT_CODES)]
    Version,
}

fn with_selectors() -> String {
    format!("{SELECTORS}\n\n{EXIT_CODES}")
}

/// Which snapshots are looked at.
#[derive(Debug, Args)]
#[group(id = "Among", multiple = true)]
pub struct AmongArgs {
    /// Only snapshots with this label
    #[arg(long, value_name = "LABEL")]
    label: Option<String>,
    /// Only snapshots with this tag (may be given again: with all of them)
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Only snapshots of this host
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

impl AmongArgs {
    /// Whether it says something.
    pub fn is_given(&self) -> bool {
        self.label.is_some() || self.host.is_some() || !self.tag.is_empty()
    }

    /// Whether a snapshot is one of them.
    pub fn takes(&self, snapshot: &Snapshot) -> bool {
        self.label.as_ref().is_none_or(|label| *label == snapshot.label)
            && self.host.as_ref().is_none_or(|host| *host == snapshot.host)
            && self.tag.iter().all(|tag| snapshot.tags.contains(tag))
    }
}

/// Arguments of `snapshots`.
#[derive(Debug, Args)]
pub struct SnapshotsArgs {
    #[command(flatten)]
    pub among: AmongArgs,
    /// Only the newest so many
    #[arg(long, value_name = "N")]
    pub last: Option<usize>,
    /// Only those that were forgotten, and can be brought back yet
    #[arg(long, conflicts_with = "alone")]
    pub forgotten: bool,
    /// Show too what each one alone holds: reads the trees of all snapshots
    #[arg(long)]
    pub alone: bool,
}

/// Arguments of `restore`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct RestoreArgs {
    /// Which snapshot, and what of it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub selector: Selector,
    /// Restore into this folder [default: a new one in the current folder, named after the snapshot]
    #[arg(short, long, value_name = "FOLDER", conflicts_with = "in_place", value_hint = ValueHint::DirPath)]
    pub target: Option<PathBuf>,
    /// Restore to where it came from, after showing what would change and asking
    #[arg(long)]
    pub in_place: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Which existing files to replace
    #[arg(long, value_name = "WHEN", default_value = "if-changed")]
    pub overwrite: OverwriteArg,
    /// Remove what the snapshot does not have
    #[arg(long)]
    pub delete: bool,
    /// Only show what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Read back what was written and compare
    #[arg(long)]
    pub verify: bool,
    /// Make holes of all blocks of zeros, not only where there were holes
    #[arg(long)]
    pub sparse: bool,
    /// Whom the files shall belong to
    #[arg(long, value_name = "BY", default_value = "name")]
    pub owner: OwnerArg,
    /// Only what matches this pattern (may be given again)
    #[arg(short, long, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// The same, upper and lower case being the same
    #[arg(long, value_name = "PATTERN")]
    pub iinclude: Vec<String>,
    /// All but what matches this pattern (may be given again)
    #[arg(short, long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// The same, upper and lower case being the same
    #[arg(long, value_name = "PATTERN")]
    pub iexclude: Vec<String>,
    /// Write what is left of damaged files as NAME.damaged
    #[arg(long)]
    pub keep_damaged: bool,
}

/// When an existing file is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OverwriteArg {
    /// Whenever its bytes differ; all are read
    Always,
    /// If its size or time differ, or then its bytes
    IfChanged,
    /// If the snapshot's is newer
    IfNewer,
    /// Never
    Never,
}

/// Whom restored files belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OwnerArg {
    /// The user and group of the same name, or else number
    Name,
    /// The user and group of the same number
    Number,
    /// Whoever restores
    None,
}

/// Arguments of `stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Only these snapshots, beside the others
    #[arg(value_name = "SNAPSHOT")]
    pub selectors: Vec<Selector>,
}

/// Arguments of `mirror`.
#[derive(Debug, Args)]
pub struct MirrorArgs {
    /// The folder of the copy
    #[arg(value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub destination: PathBuf,
    /// There is no copy yet: make one
    #[arg(long)]
    pub new: bool,
    /// A name for the copy, such as that of the drive
    #[arg(long, value_name = "NAME", requires = "new")]
    pub name: Option<String>,
    /// Read all that is on the copy already too, and replace what is damaged there
    #[arg(long)]
    pub verify: bool,
    /// Then delete from the copy what is forgotten there, and what no snapshot needs, as `prune` does
    #[arg(long)]
    pub prune: bool,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell
    pub shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write the pages of the program and of all verbs into this folder
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_ends_with_the_exit_codes() {
        let mut command = Cli::command();
        assert!(command.render_long_help().to_string().trim_end().ends_with(EXIT_CODES));
        for verb in command.get_subcommands_mut() {
            if verb.get_name() != "help" {
                let help = verb.render_long_help().to_string();
                assert!(help.trim_end().ends_with(EXIT_CODES), "{}", verb.get_name());
            }
        }
    }

    #[test]
    fn global_flags_may_stand_behind_the_verb() {
        let cli = Cli::try_parse_from(["vault", "ls", "latest:/a", "-r", "/x", "--json"])
            .map_err(|error| error.to_string());
        assert!(cli.is_ok_and(|cli| cli.global.json && cli.global.repository == Some("/x".into())));
    }
}
