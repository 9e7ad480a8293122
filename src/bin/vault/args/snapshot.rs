//! The arguments of `snapshot`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::values::{Level, parse_label, parse_mark, parse_size};

/// Arguments of `snapshot`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct SnapshotArgs {
    /// The files and folders to save; with --stdin-from-command, the command and its arguments
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<OsString>,

    /// Leave out what matches this pattern (may be given again; `!PATTERN` takes back)
    #[arg(short, long, value_name = "PATTERN", help_heading = "What to save")]
    pub exclude: Vec<String>,
    /// The same, upper and lower case being the same
    #[arg(long, value_name = "PATTERN", help_heading = "What to save")]
    pub iexclude: Vec<String>,
    /// Leave out what matches a line of this file
    #[arg(long, value_name = "FILE", help_heading = "What to save", value_hint = ValueHint::FilePath)]
    pub exclude_file: Vec<PathBuf>,
    /// Leave out what is in folders marked as caches by CACHEDIR.TAG
    #[arg(long, help_heading = "What to save")]
    pub exclude_caches: bool,
    /// Leave out what is in folders that have a file of this name (that begins with HEADER)
    #[arg(long, value_name = "NAME[:HEADER]", value_parser = parse_mark, help_heading = "What to save")]
    pub exclude_if_present: Vec<String>,
    /// Leave out files longer than this (suffixes K, M, G, T)
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "What to save")]
    pub exclude_larger_than: Option<u64>,
    /// Leave out what .gitignore files say
    #[arg(long, help_heading = "What to save")]
    pub git_ignore: bool,
    /// Do not go into other file systems
    #[arg(short = 'x', long, help_heading = "What to save")]
    pub one_file_system: bool,
    /// Save too the paths in this file, one a line but for blank ones and those that start with `#` (`-` is the standard input)
    #[arg(long, value_name = "FILE", help_heading = "What to save", value_hint = ValueHint::FilePath)]
    pub files_from: Vec<PathBuf>,
    /// The same, separated by NUL bytes and taken exactly as they are
    #[arg(long, value_name = "FILE", help_heading = "What to save", value_hint = ValueHint::FilePath)]
    pub files_from_raw: Vec<PathBuf>,
    /// Save the standard input as a file
    #[arg(long, help_heading = "What to save", conflicts_with_all = ["paths", "files_from", "files_from_raw", "as_path"])]
    pub stdin: bool,
    /// Save what a command prints, if it succeeds
    #[arg(long, help_heading = "What to save", conflicts_with_all = ["stdin", "files_from", "files_from_raw", "as_path"])]
    pub stdin_from_command: bool,
    /// The path of that file in the snapshot
    #[arg(long, value_name = "NAME", default_value = "stdin", help_heading = "What to save")]
    pub stdin_filename: OsString,
    /// Store the one source under this path in the snapshot (a stream is placed by --stdin-filename)
    #[arg(long, value_name = "PATH", help_heading = "What to save")]
    pub as_path: Option<OsString>,

    /// A name for the series that this snapshot belongs to
    #[arg(long, value_name = "LABEL", default_value = "", value_parser = parse_label, help_heading = "What to note")]
    pub label: String,
    /// A tag (may be given again, or several with commas)
    #[arg(long, value_name = "TAG", value_delimiter = ',', help_heading = "What to note")]
    pub tag: Vec<String>,
    /// The name of the host, if not this one's
    #[arg(long, value_name = "HOST", help_heading = "What to note")]
    pub host: Option<String>,
    /// The time of the snapshot, if not now
    #[arg(long, value_name = "TIME", help_heading = "What to note")]
    pub time: Option<String>,
    /// A few words about it
    #[arg(long, value_name = "TEXT", default_value = "", help_heading = "What to note")]
    pub description: String,

    /// Read every file, even if its size and times are as they were
    #[arg(short, long, help_heading = "How to save")]
    pub force: bool,
    /// Only show what would be saved and how much it would take
    #[arg(short = 'n', long, help_heading = "How to save")]
    pub dry_run: bool,
    /// Write no snapshot if nothing differs from the last one
    #[arg(long, help_heading = "How to save")]
    pub skip_if_unchanged: bool,
    /// How hard to compress: off, fast, default, best, or 1 to 19
    #[arg(long, value_name = "LEVEL", default_value = "default", help_heading = "How to save")]
    pub compression: Level,
}
