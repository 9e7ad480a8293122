//! The arguments of the verbs that look into snapshots: `ls`, `find`, `diff`, `cat`.

use std::path::PathBuf;

use clap::Args;

use crate::select::Selector;

/// Arguments of `ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Which snapshot, and where in it
    #[arg(value_name = "SNAPSHOT[:PATH]", default_value = "latest")]
    pub selector: Selector,
    /// All that is below, at any depth
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// With mode, owner, size and time
    #[arg(short, long)]
    pub long: bool,
}

/// Arguments of `find`.
#[derive(Debug, Args)]
pub struct FindArgs {
    /// Shell patterns: for names, or for whole paths if they have a slash
    #[arg(required = true, value_name = "PATTERN")]
    pub patterns: Vec<String>,
    /// Upper and lower case are the same
    #[arg(short, long)]
    pub ignore_case: bool,
    /// Modified at this time or later
    #[arg(long, value_name = "TIME")]
    pub newer: Option<String>,
    /// Modified at this time or earlier
    #[arg(long, value_name = "TIME")]
    pub older: Option<String>,
    /// Only below this path of the snapshots
    #[arg(long, value_name = "PATH")]
    pub below: Option<PathBuf>,
    /// Only in snapshots with this label
    #[arg(long, value_name = "LABEL")]
    pub label: Option<String>,
}

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The older side
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub old: Selector,
    /// The newer side: a snapshot, or a path with a slash in it (`./here`) as it is now
    #[arg(value_name = "SNAPSHOT[:PATH]|FOLDER")]
    pub new: std::ffi::OsString,
    /// Compare with the folder by reading all files, not by size and time
    #[arg(long)]
    pub content: bool,
    /// Show as well what differs only in mode, owner or time
    #[arg(long)]
    pub metadata: bool,
}

/// Arguments of `cat`.
#[derive(Debug, Args)]
pub struct CatArgs {
    /// Which snapshot, and which file or folder of it
    #[arg(value_name = "SNAPSHOT:PATH")]
    pub selector: Selector,
    /// Write a tar archive of a folder to a terminal too
    #[arg(long)]
    pub force: bool,
}
