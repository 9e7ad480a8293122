//! Where each source lies in the snapshot, and the way through the directories above them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::backup::{BackupOptions, StreamSource};
use crate::error::{Error, Result};
use crate::snapshot::validate_name;
use crate::source::SourceRoot;

/// A source and its place in the snapshot.
pub(super) struct Placed {
    /// The source, or nothing for a stream.
    pub root: Option<SourceRoot>,
    /// The path as the user wrote it.
    pub given: Vec<u8>,
    /// The absolute path.
    pub resolved: Vec<u8>,
    /// Where it is stored: no leading slash, empty for the root itself.
    pub stored_at: Vec<u8>,
    /// The last part of that: its name in the snapshot.
    pub name: Vec<u8>,
    /// It lies below another source, which walks it.
    inside_another: bool,
}

/// A move through the directories of a snapshot above its sources.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// Into the directory of this name.
    Down(Vec<u8>),
    /// The source of this number.
    Source(usize),
    /// Out of the directory.
    Up,
}

/// Resolves the sources and finds their places.
pub(super) fn resolve(options: &BackupOptions, stream: Option<&StreamSource>) -> Result<Vec<Placed>> {
    let mut placed = Vec::new();
    if let Some(stream) = stream {
        let given = stream.path.clone();
        placed.push(place(None, given.clone(), given.clone(), &given)?);
    }
    if options.as_path.is_some() && options.sources.len() + placed.len() != 1 {
        return Err(Error::Usage("--as-path needs exactly one source".into()));
    }
    let mut by_path = BTreeMap::new();
    for given in &options.sources {
        let root = SourceRoot::open(given)?;
        by_path.entry(root.resolved.clone()).or_insert(root);
    }
    for (path, root) in by_path {
        let resolved = path.as_os_str().as_bytes().to_vec();
        let given = root.given.as_os_str().as_bytes().to_vec();
        let absolute = root.absolute.as_os_str().as_bytes().to_vec();
        let stored_at = options.as_path.as_ref().unwrap_or(&absolute).clone();
        let mut next = place(Some(root), given, resolved, &stored_at)?;
        next.inside_another =
            placed.iter().any(|other: &Placed| lies_below(Path::new(&path), &other.resolved));
        placed.push(next);
    }
    if placed.is_empty() {
        return Err(Error::Usage("there is nothing to save: name at least one path".into()));
    }
    Ok(placed)
}

fn place(root: Option<SourceRoot>, given: Vec<u8>, resolved: Vec<u8>, stored_at: &[u8]) -> Result<Placed> {
    let names: Vec<&[u8]> =
        stored_at.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
    for name in &names {
        validate_name(name)
            .map_err(|error| Error::Usage(format!("it cannot be stored at that path: {error}")))?;
    }
    if names.is_empty() && root.as_ref().is_none_or(|root| !root.stat.is_dir()) {
        return Err(Error::Usage("only a folder can be the root of a snapshot".into()));
    }
    let name = names.last().map(|name| name.to_vec()).unwrap_or_default();
    Ok(Placed { root, given, resolved, stored_at: names.join(&b'/'), name, inside_another: false })
}

fn lies_below(path: &Path, folder: &[u8]) -> bool {
    path.as_os_str().as_bytes() != folder && path.starts_with(Path::new(OsStr::from_bytes(folder)))
}

/// The source with this path, if another source walks it: it is walked there even where it would be left out.
pub(super) fn inner_source<'a>(sources: &'a [Placed], path: &Path) -> Option<&'a SourceRoot> {
    let bytes = path.as_os_str().as_bytes();
    sources.iter().find(|source| source.inside_another && source.resolved == bytes)?.root.as_ref()
}

/// The sources that another source walks and that lie below `path`.
pub(super) fn sources_below(sources: &[Placed], path: &Path) -> Vec<PathBuf> {
    let below = |source: &&Placed| {
        let resolved = Path::new(OsStr::from_bytes(&source.resolved));
        source.inside_another && lies_below(resolved, path.as_os_str().as_bytes())
    };
    sources.iter().filter(below).map(|source| PathBuf::from(OsStr::from_bytes(&source.resolved))).collect()
}

/// A repository that saves itself grows with every snapshot.
pub(super) fn refuse_inside_repository(sources: &[Placed], repository: &Path) -> Result<()> {
    let Ok(repository) = std::fs::canonicalize(repository) else { return Ok(()) };
    for root in sources.iter().filter_map(|source| source.root.as_ref()) {
        let path = std::fs::canonicalize(&root.resolved).map_err(Error::path("open", &root.resolved))?;
        if path.starts_with(&repository) {
            return Err(Error::Nested {
                inner: root.given.clone(),
                outer: repository,
                reason: "a repository is not saved into itself",
            });
        }
    }
    Ok(())
}

/// The moves that visit all sources that no other one walks, names ascending in each directory.
pub(super) fn moves(sources: &[Placed]) -> Vec<Move> {
    let mut order: Vec<(Vec<&[u8]>, usize)> = sources
        .iter()
        .enumerate()
        .filter(|(_, source)| !source.inside_another)
        .map(|(number, source)| (source.stored_at.split(|byte| *byte == b'/').collect(), number))
        .collect();
    order.sort();
    let mut moves = Vec::new();
    let mut open: Vec<&[u8]> = Vec::new();
    for (names, number) in &order {
        let above = names.split_last().map_or(&[][..], |(_, above)| above);
        let common = open.iter().zip(above).take_while(|(open, name)| open == name).count();
        moves.extend(open.drain(common..).map(|_| Move::Up));
        for name in &above[common..] {
            moves.push(Move::Down(name.to_vec()));
            open.push(name);
        }
        moves.push(Move::Source(*number));
    }
    moves.extend(open.iter().map(|_| Move::Up));
    moves
}
