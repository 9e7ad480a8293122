//! Where each source lies in the snapshot, and the way through the directories above them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::backup::{BackupOptions, StreamSource};
use crate::error::{Corruption, Error, Result};
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
    pub inside_another: bool,
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

/// Sources that are not there, and why.
pub(super) type Missing = Vec<(PathBuf, Error)>;

/// Resolves the sources and finds their places. Those that are missing beside others are no reason not to save these.
pub(super) fn resolve(
    options: &BackupOptions,
    stream: Option<&StreamSource>,
) -> Result<(Vec<Placed>, Missing)> {
    let mut missing = Missing::new();
    let mut placed = Vec::new();
    if let Some(stream) = stream {
        let stored_at = options.as_path.as_ref().unwrap_or(&stream.path);
        // It came from no place: whatever its name, it has no absolute path.
        let resolved = stream.path.iter().copied().skip_while(|byte| *byte == b'/').collect();
        placed.push(place(None, stream.path.clone(), resolved, stored_at)?);
    }
    if options.as_path.is_some() && options.sources.len() + placed.len() != 1 {
        return Err(Error::Usage("--as-path needs exactly one source".into()));
    }
    let mut by_path = BTreeMap::new();
    for given in &options.sources {
        match SourceRoot::open(given) {
            Ok(root) => drop(by_path.entry(root.resolved.clone()).or_insert(root)),
            Err(error) => missing.push((given.clone(), error)),
        }
    }
    for (path, root) in by_path {
        let resolved = path.as_os_str().as_bytes().to_vec();
        let given = root.given.as_os_str().as_bytes().to_vec();
        let absolute = root.absolute.as_os_str().as_bytes().to_vec();
        let stored_at = options.as_path.as_ref().unwrap_or(&absolute).clone();
        let mut next = place(Some(root), given, resolved, &stored_at)?;
        let outer = placed.iter().find(|other: &&Placed| lies_below(&path, &other.resolved));
        if let Some(outer) = outer {
            // It is found where the outer one has it, under whatever name the user came to it.
            next.inside_another = true;
            next.stored_at = below(&outer.stored_at, &path, &outer.resolved);
        }
        placed.push(next);
    }
    refuse_overlap(&placed)?;
    if placed.is_empty() {
        let nothing = || Error::Usage("there is nothing to save: name at least one path".into());
        return Err(missing.into_iter().next().map_or_else(nothing, |(_, error)| error));
    }
    Ok((placed, missing))
}

fn place(root: Option<SourceRoot>, given: Vec<u8>, resolved: Vec<u8>, stored_at: &[u8]) -> Result<Placed> {
    let names: Vec<&[u8]> =
        stored_at.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
    for name in &names {
        validate_name(name).map_err(|error| {
            let what = match &error {
                Corruption::Rule { what, .. } => (*what).to_owned(),
                other => other.to_string(),
            };
            Error::Usage(format!("it cannot be stored at that path: {what}"))
        })?;
    }
    if names.is_empty() && root.as_ref().is_none_or(|root| !root.stat.is_dir()) {
        return Err(Error::Usage("only a folder can be the root of a snapshot".into()));
    }
    let name = names.last().map(|name| name.to_vec()).unwrap_or_default();
    Ok(Placed { root, given, resolved, stored_at: names.join(&b'/'), name, inside_another: false })
}

/// Where `path`, which lies below the folder `outer`, is stored if that folder is stored at `stored_at`.
fn below(stored_at: &[u8], path: &Path, outer: &[u8]) -> Vec<u8> {
    let rest = path.strip_prefix(OsStr::from_bytes(outer)).unwrap_or(path).as_os_str().as_bytes();
    if stored_at.is_empty() { rest.to_vec() } else { [stored_at, rest].join(&b'/') }
}

/// Two sources that are walked apart cannot be stored one inside of the other, as a symlink in the one might have it.
fn refuse_overlap(placed: &[Placed]) -> Result<()> {
    let apart = || placed.iter().filter(|source| !source.inside_another);
    for outer in apart() {
        let is_inside = |inner: &&Placed| {
            Path::new(OsStr::from_bytes(&inner.stored_at)).starts_with(OsStr::from_bytes(&outer.stored_at))
        };
        if let Some(inner) = apart().filter(|inner| !std::ptr::eq(*inner, outer)).find(is_inside) {
            let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            return Err(Error::Usage(format!(
                "{} would be stored inside of {}, where it is a symlink: name {} instead",
                shown(&inner.given),
                shown(&outer.given),
                shown(&inner.resolved),
            )));
        }
    }
    Ok(())
}

/// The number of the source that walks this one: itself, or the one that it lies below.
pub(super) fn walker(sources: &[Placed], number: usize) -> usize {
    let Some(inner) = sources.get(number).filter(|source| source.inside_another) else { return number };
    let path = Path::new(OsStr::from_bytes(&inner.resolved));
    sources
        .iter()
        .position(|outer| !outer.inside_another && lies_below(path, &outer.resolved))
        .unwrap_or(number)
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
