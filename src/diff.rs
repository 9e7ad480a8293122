//! What differs between two trees of snapshots, or (`live`) between a tree and a folder as it is now.
//!
//! Differences come path by path, in the order of names, a directory before what is in it. What two trees share is not read.

mod live;

pub use live::{LiveOptions, diff_live};

use std::sync::atomic::{AtomicBool, Ordering};

use crate::browse::{Together, Version};
use crate::chunk::GetChunk;
use crate::error::{Error, Result};
use crate::event::Item;
use crate::snapshot::{Entry, Kind, Time};

/// A path that differs.
#[derive(Debug)]
pub struct Difference<'a> {
    /// The path below what was compared.
    pub path: &'a [u8],
    /// How.
    pub how: How,
    /// What it was, unless it was not there.
    pub old: Option<Side>,
    /// What it is, unless it is not there.
    pub new: Option<Side>,
}

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// The content of the file, the target of the link or the numbers of the device differ.
    Content,
    /// Only the metadata differ.
    Metadata,
    /// It is another kind of thing.
    Type,
    /// One of the snapshots left it out, or could not read it.
    LeftOut,
}

/// One side of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// What it is.
    pub item: Item,
    /// The bytes of its content.
    pub size: u64,
    /// The lower 12 bits of its mode.
    pub mode: u32,
    /// Its owner's number.
    pub uid: u32,
    /// Its group's number.
    pub gid: u32,
    /// When it was last modified.
    pub mtime: Time,
}

impl Side {
    /// What an entry of a snapshot is.
    #[must_use]
    pub fn of(entry: &Entry) -> Self {
        let (item, size) = match &entry.kind {
            Kind::File(size, _) => (Item::File, *size),
            Kind::Directory(_) | Kind::Implied(_) => (Item::Directory, 0),
            _ => (Item::Other, 0),
        };
        let meta = &entry.meta;
        Self { item, size, mode: meta.mode, uid: meta.uid, gid: meta.gid, mtime: meta.mtime }
    }
}

/// A number of entries and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Everything else.
    pub others: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

impl Totals {
    fn add(&mut self, side: &Side) {
        match side.item {
            Item::File => self.files += 1,
            Item::Directory => self.directories += 1,
            Item::Other | Item::RepositoryFile => self.others += 1,
        }
        self.bytes = self.bytes.saturating_add(side.size);
    }
}

/// The differences counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiffSummary {
    /// What is new.
    pub added: Totals,
    /// What is gone.
    pub removed: Totals,
    /// What is there on both sides and differs in content or kind, as it is now.
    pub changed: Totals,
    /// Entries of which only the metadata differ.
    pub metadata: u64,
    /// Entries that one side left out.
    pub left_out: u64,
    /// Things that could not be compared.
    pub problems: u64,
}

impl DiffSummary {
    /// Whether there was no difference and everything could be compared.
    #[must_use]
    pub fn is_same(&self) -> bool {
        *self == Self::default()
    }

    fn count(&mut self, difference: &Difference<'_>) {
        match (difference.how, &difference.old, &difference.new) {
            (How::Added, _, Some(new)) => self.added.add(new),
            (How::Removed, Some(old), _) => self.removed.add(old),
            (How::Content | How::Type, _, Some(new)) => self.changed.add(new),
            (How::LeftOut, ..) => self.left_out += 1,
            _ => self.metadata += 1,
        }
    }
}

/// Where differences go, as they are found.
pub struct Sinks<'a> {
    /// Takes each difference; what it returns ends the comparison.
    pub difference: &'a mut dyn FnMut(&Difference<'_>) -> Result<()>,
    /// Takes what could not be compared, with its path; the comparison goes on.
    pub problem: &'a mut dyn FnMut(&[u8], Error),
}

impl Sinks<'_> {
    fn report(&mut self, summary: &mut DiffSummary, difference: &Difference<'_>) -> Result<()> {
        summary.count(difference);
        (self.difference)(difference)
    }

    fn fail(&mut self, summary: &mut DiffSummary, path: &[u8], error: Error) {
        summary.problems += 1;
        (self.problem)(path, error);
    }
}

/// Compares what two entries, of one snapshot or two, are and hold. With `metadata`, entries that differ in nothing else count
/// as well.
///
/// # Errors
/// `Interrupted`, and what the sink returns.
pub fn diff(
    get: &dyn GetChunk,
    old: &Entry,
    new: &Entry,
    metadata: bool,
    sinks: &mut Sinks<'_>,
    stop: &AtomicBool,
) -> Result<DiffSummary> {
    let mut summary = DiffSummary::default();
    let (mut one, mut other) = (old.clone(), new.clone());
    // What the two are called is no difference: the user chose to compare them.
    one.name = Vec::new().into();
    other.name = Vec::new().into();
    compare(Some(&one), Some(&other), b"", metadata, &mut summary, sinks)?;
    let roots: Vec<_> = [(0, &one), (1, &other)]
        .iter()
        .filter_map(|(tree, entry)| Some((*tree, entry.kind.directory()?)))
        .collect();
    if matches!(roots.as_slice(), [(_, one), (_, other)] if one == other) {
        return Ok(summary);
    }
    let mut together = Together::new(get, &roots, b"");
    while let Some(item) = together.next() {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let versions = match item {
            Ok(versions) => versions,
            Err(error) => {
                sinks.fail(&mut summary, together.path(), error);
                continue;
            }
        };
        let side =
            |tree: u32| versions.iter().find(|version| version.trees.contains(&tree)).map(|it| &it.entry);
        compare(side(0), side(1), together.path(), metadata, &mut summary, sinks)?;
        if !is_same_directory(&versions) {
            together.descend(&versions);
        }
    }
    Ok(summary)
}

/// Whether both sides hold one directory here, whatever is to be said of the directory itself.
fn is_same_directory(versions: &[Version]) -> bool {
    match versions {
        [both] => both.trees.len() == 2,
        [one, other] => one.entry.kind.directory() == other.entry.kind.directory(),
        _ => false,
    }
}

fn compare(
    old: Option<&Entry>,
    new: Option<&Entry>,
    path: &[u8],
    metadata: bool,
    summary: &mut DiffSummary,
    sinks: &mut Sinks<'_>,
) -> Result<()> {
    let Some(how) = how(old, new) else { return Ok(()) };
    if how == How::Metadata && !metadata {
        return Ok(());
    }
    let difference = Difference { path, how, old: old.map(Side::of), new: new.map(Side::of) };
    sinks.report(summary, &difference)
}

fn how(old: Option<&Entry>, new: Option<&Entry>) -> Option<How> {
    let (old, new) = match (old, new) {
        (None, None) => return None,
        (None, Some(new)) if matches!(new.kind, Kind::LeftOut(..)) => return None,
        (Some(old), None) if matches!(old.kind, Kind::LeftOut(..)) => return None,
        (None, Some(_)) => return Some(How::Added),
        (Some(_), None) => return Some(How::Removed),
        (Some(old), Some(new)) => (old, new),
    };
    let same_content = match (&old.kind, &new.kind) {
        (Kind::LeftOut(..), Kind::LeftOut(..)) => return None,
        (Kind::LeftOut(..), _) | (_, Kind::LeftOut(..)) => return Some(How::LeftOut),
        (Kind::Directory(_) | Kind::Implied(_), Kind::Directory(_) | Kind::Implied(_)) => true,
        (one, other) if std::mem::discriminant(one) != std::mem::discriminant(other) => {
            return Some(How::Type);
        }
        (one, other) => one == other,
    };
    if !same_content {
        Some(How::Content)
    } else if old.meta != new.meta {
        Some(How::Metadata)
    } else {
        None
    }
}
