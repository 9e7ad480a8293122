//! Where each source lies in the snapshot, and the way through the directories above them.
//!
//! Sources are sorted by their resolved paths, so that what is below a folder stands right after it. There may be very many: none is
//! ever compared with each other one. A source that is missing beside others has a place as well: there the snapshot says that
//! it was left out, so that nobody takes it for gone.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::backup::{BackupOptions, StreamSource};
use crate::error::{Corruption, Error, Result};
use crate::snapshot::{Why, validate_name};
use crate::source::SourceRoot;

/// A source and its place in the snapshot.
pub(super) struct Placed {
    /// What is there.
    pub root: Root,
    /// The path as the user wrote it.
    pub given: Vec<u8>,
    /// The absolute path.
    pub resolved: Vec<u8>,
    /// Where it is stored: no leading slash, empty for the root itself.
    pub stored_at: Vec<u8>,
    /// The last part of that: its name in the snapshot.
    pub name: Vec<u8>,
    /// The number of the source that it lies below, which walks it.
    outer: Option<usize>,
}

/// What is at the place of a source.
#[expect(clippy::large_enum_variant, reason = "nearly all are of the large one")]
pub(super) enum Root {
    /// Something to walk.
    Found(SourceRoot),
    /// A stream.
    Stream,
    /// Nothing that could be looked at; with the system's error number or 0.
    Missing(Why, u32),
}

impl Placed {
    fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.resolved))
    }

    /// What there is to walk.
    pub(super) fn found(&self) -> Option<&SourceRoot> {
        match &self.root {
            Root::Found(root) => Some(root),
            Root::Stream | Root::Missing(..) => None,
        }
    }
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
        placed.push(place(Root::Stream, stream.path.clone(), resolved, stored_at)?);
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
        placed.push(place(Root::Found(root), given, resolved, &stored_at)?);
    }
    if placed.is_empty() {
        let nothing = || Error::Usage("there is nothing to save: name at least one path".into());
        return Err(missing.into_iter().next().map_or_else(nothing, |(_, error)| error));
    }
    sort(&mut placed);
    refuse_overlap(&placed)?;
    let absent = absent(&placed, &missing);
    if !absent.is_empty() {
        placed.extend(absent);
        sort(&mut placed);
    }
    Ok((placed, missing))
}

/// Sorts sources by their paths, and finds the outermost one that each lies below.
fn sort(placed: &mut [Placed]) {
    placed.sort_by(|one, other| one.path().cmp(other.path()));
    let numbers = numbers(placed);
    let outers: Vec<Option<usize>> =
        placed.iter().map(|source| source.found().and_then(|_| outermost(&numbers, source.path()))).collect();
    for (number, outer) in outers.into_iter().enumerate() {
        // It is found where the outer one has it, under whatever name the user came to it.
        let stored_at = outer
            .and_then(|outer| placed.get(outer))
            .zip(placed.get(number))
            .map(|(outer, inner)| below(&outer.stored_at, inner.path(), &outer.resolved));
        if let Some(source) = placed.get_mut(number) {
            source.outer = outer;
            source.stored_at = stored_at.unwrap_or_else(|| std::mem::take(&mut source.stored_at));
        }
    }
}

/// The numbers of the sources that can be walked, by their paths.
fn numbers(placed: &[Placed]) -> HashMap<&OsStr, usize> {
    let found = placed.iter().enumerate().filter(|(_, source)| source.found().is_some());
    found.map(|(number, source)| (source.path().as_os_str(), number)).collect()
}

/// The outermost of the sources that a path lies below.
fn outermost(numbers: &HashMap<&OsStr, usize>, path: &Path) -> Option<usize> {
    path.ancestors().skip(1).filter_map(|above| numbers.get(above.as_os_str()).copied()).last()
}

/// The places of missing sources: of those that lie apart from all others, so that it is known what would be there.
fn absent(placed: &[Placed], missing: &Missing) -> Vec<Placed> {
    let mut candidates = BTreeMap::new();
    for (given, error) in missing {
        let (Ok(path), Error::Path { source, .. }) = (SourceRoot::absolute_of(given), error) else {
            continue;
        };
        let why = if source.kind() == io::ErrorKind::NotFound { Why::Vanished } else { Why::Unreadable };
        let errno = source.raw_os_error().and_then(|errno| u32::try_from(errno).ok()).unwrap_or(0);
        let resolved = path.as_os_str().as_bytes().to_vec();
        let given = given.as_os_str().as_bytes().to_vec();
        if let Ok(next) = place(Root::Missing(why, errno), given, resolved.clone(), &resolved) {
            candidates.entry(path).or_insert(next);
        }
    }
    let numbers = numbers(placed);
    candidates.retain(|path, _| outermost(&numbers, path).is_none());
    let mut taken = Places::default();
    for source in apart(placed) {
        // None overlap: that was refused.
        let _ = taken.add(source);
    }
    let is_apart: Vec<bool> = candidates.values().map(|source| taken.add(source).is_ok()).collect();
    candidates.into_values().zip(is_apart).filter_map(|(source, apart)| apart.then_some(source)).collect()
}

fn place(root: Root, given: Vec<u8>, resolved: Vec<u8>, stored_at: &[u8]) -> Result<Placed> {
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
    if names.is_empty() && !matches!(&root, Root::Found(root) if root.stat.is_dir()) {
        return Err(Error::Usage("only a folder can be the root of a snapshot".into()));
    }
    let name = names.last().map(|name| name.to_vec()).unwrap_or_default();
    Ok(Placed { root, given, resolved, stored_at: names.join(&b'/'), name, outer: None })
}

/// Where `path`, which lies below the folder `outer`, is stored if that folder is stored at `stored_at`.
fn below(stored_at: &[u8], path: &Path, outer: &[u8]) -> Vec<u8> {
    let rest = path.strip_prefix(OsStr::from_bytes(outer)).unwrap_or(path).as_os_str().as_bytes();
    if stored_at.is_empty() { rest.to_vec() } else { [stored_at, rest].join(&b'/') }
}

/// The sources that no other one walks.
pub(super) fn apart(placed: &[Placed]) -> impl Iterator<Item = &Placed> {
    placed.iter().filter(|source| source.outer.is_none())
}

/// Where sources are stored that are walked apart: none inside of another.
#[derive(Default)]
struct Places<'a> {
    sources: HashMap<&'a [u8], &'a Placed>,
    /// The directories above these, each with one that is below it.
    above: HashMap<&'a [u8], &'a Placed>,
}

impl<'a> Places<'a> {
    /// Adds a source; or returns the inner and the outer of two that overlap.
    fn add(&mut self, source: &'a Placed) -> Result<(), (&'a Placed, &'a Placed)> {
        let place: &[u8] = &source.stored_at;
        if let Some(outer) = above(place).chain([place]).find_map(|place| self.sources.get(place)) {
            return Err((source, outer));
        }
        if let Some(inner) = self.above.get(place) {
            return Err((inner, source));
        }
        self.above.extend(above(place).map(|above| (above, source)));
        self.sources.insert(place, source);
        Ok(())
    }
}

/// The directories above a place in a snapshot, the root first.
fn above(place: &[u8]) -> impl Iterator<Item = &[u8]> {
    let root = (!place.is_empty()).then_some(&b""[..]);
    let slashes = place.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    root.into_iter().chain(slashes.filter_map(|(at, _)| place.get(..at)))
}

/// Two sources that are walked apart cannot be stored one inside of the other, as a symlink in the one might have it.
fn refuse_overlap(placed: &[Placed]) -> Result<()> {
    let mut taken = Places::default();
    apart(placed).try_for_each(|source| taken.add(source)).map_err(|(inner, outer)| {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Error::Usage(format!(
            "{} would be stored inside of {}, where it is a symlink: name {} instead",
            shown(&inner.given),
            shown(&outer.given),
            shown(&inner.resolved),
        ))
    })
}

/// The number of the source that walks this one: itself, or the one that it lies below.
pub(super) fn walker(sources: &[Placed], number: usize) -> usize {
    sources.get(number).and_then(|source| source.outer).unwrap_or(number)
}

/// The source with this path, if another source walks it: it is walked there even where it would be left out.
pub(super) fn inner_source<'a>(sources: &'a [Placed], path: &Path) -> Option<&'a SourceRoot> {
    let at = sources.partition_point(|source| source.path() < path);
    sources.get(at).filter(|source| source.path() == path && source.outer.is_some())?.found()
}

/// The sources that another source walks and that lie below `path`.
pub(super) fn sources_below(sources: &[Placed], path: &Path) -> Vec<PathBuf> {
    let at = sources.partition_point(|source| source.path() <= path);
    let below = sources.iter().skip(at).take_while(|source| source.path().starts_with(path));
    below.filter(|source| source.outer.is_some()).map(|source| source.path().to_owned()).collect()
}

/// A repository that saves itself grows with every snapshot.
pub(super) fn refuse_inside_repository(sources: &[Placed], repository: &Path) -> Result<()> {
    let Ok(repository) = std::fs::canonicalize(repository) else { return Ok(()) };
    for root in sources.iter().filter_map(Placed::found) {
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
        .filter(|(_, source)| source.outer.is_none())
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    fn resolved(folder: &Path, names: &[&str]) -> Result<(Vec<Placed>, Missing)> {
        resolve(&BackupOptions::new(names.iter().map(|name| folder.join(name)).collect()), None)
    }

    #[test]
    fn the_outer_source_of_each_is_the_one_that_a_search_of_all_would_find() {
        let folder = tempfile::tempdir().unwrap();
        let at = std::fs::canonicalize(folder.path()).unwrap();
        let names = ["a", "a.b", "a/b", "a/b/c", "a/b.c", "ab", "b/c", "b/c/d", "b.c", "c"];
        for name in names {
            std::fs::create_dir_all(at.join(name)).unwrap();
        }
        // Every subset, by its bits.
        for subset in 1..1u32 << names.len() {
            let chosen = (0..names.len()).filter(|bit| subset >> bit & 1 == 1).rev().map(|bit| names[bit]);
            let (placed, missing) = resolved(&at, &chosen.collect::<Vec<_>>()).unwrap();
            assert!(missing.is_empty());
            for (number, source) in placed.iter().enumerate() {
                let is_outer =
                    |other: &Placed| source.path() != other.path() && source.path().starts_with(other.path());
                let found = placed.iter().position(is_outer);
                assert_eq!(source.outer, found);
                assert_eq!(walker(&placed, number), found.unwrap_or(number));
                assert_eq!(inner_source(&placed, source.path()).is_some(), found.is_some());
                let below: Vec<PathBuf> = placed
                    .iter()
                    .filter(|other| other.path() != source.path() && other.path().starts_with(source.path()))
                    .map(|other| other.path().to_owned())
                    .collect();
                assert_eq!(sources_below(&placed, source.path()), below);
            }
        }
    }

    #[test]
    fn a_missing_source_has_a_place_unless_another_source_covers_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = std::fs::canonicalize(folder.path()).unwrap();
        std::fs::create_dir(at.join("a")).unwrap();
        std::os::unix::fs::symlink(at.join("a"), at.join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", at.join("dangling")).unwrap();
        let names = ["link", "a/gone", "link/gone", "gone/x", "gone", "gone", "x/../gone", "dangling"];
        let (placed, missing) = resolved(&at, &names).unwrap();
        assert_eq!(missing.len(), 7);
        let left: Vec<&[u8]> = placed.iter().map(|source| &source.stored_at[..]).collect();
        let place = |name: &str| at.join(name).as_os_str().as_bytes()[1..].to_vec();
        assert_eq!(left, [place("link"), place("dangling"), place("gone")]);
        let is_missing = |source: &Placed| matches!(source.root, Root::Missing(Why::Vanished, 2));
        assert!(placed[1..].iter().all(is_missing) && placed[0].found().is_some());
        assert!(resolved(&at, &["gone", "dangling"]).is_err());
    }

    #[test]
    fn two_sources_stored_one_inside_of_the_other_are_refused_whichever_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let at = std::fs::canonicalize(folder.path()).unwrap();
        for name in ["a", "z"] {
            std::fs::create_dir_all(at.join("m")).unwrap();
            std::fs::create_dir(at.join(name)).unwrap();
            std::os::unix::fs::symlink(at.join(name), at.join("m").join(name)).unwrap();
            let error = resolved(&at, &["m", &format!("m/{name}")]).err().unwrap();
            assert!(matches!(&error, Error::Usage(text) if text.contains("inside of")), "{error:?}");
        }
    }
}
