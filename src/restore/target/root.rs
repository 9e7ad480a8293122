//! The target as a whole: making it, and refusing one that a repository is involved with.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use crate::backend::make_folders_to;
use crate::error::{Error, Result};

use super::{Dir, Inode};

/// Makes the target folder and those above it, and says whether it was not there. A private one is open to nobody else until it
/// has its mode.
pub(in crate::restore) fn make_root(path: &Path, private: bool) -> io::Result<bool> {
    if path.is_dir() {
        return Ok(false);
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_folders_to(parent, 0o777)?;
    }
    match fs::DirBuilder::new().mode(if private { 0o700 } else { 0o777 }).create(path) {
        // It could not be asked before.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && fs::metadata(path)?.is_dir() => {
            Ok(false)
        }
        made => made.map(|()| true),
    }
}

/// Refuses a target that is a repository or lies in one, whichever it is: what is restored would lie among its files, and
/// `delete` would remove these.
pub(in crate::restore) fn check_no_repository(target: &Path) -> Result<()> {
    let absolute = std::path::absolute(target).map_err(Error::path("look up", target))?;
    let existing = absolute.ancestors().find_map(|place| fs::canonicalize(place).ok());
    for place in existing.as_deref().into_iter().flat_map(Path::ancestors) {
        // One that may be passed through and not be opened is not ours to look into.
        let Ok(dir) = Dir::open_root(place) else { continue };
        if dir.is_repository().map_err(Error::path("look for a repository in", place))? {
            return Err(Error::Nested {
                inner: target.to_owned(),
                outer: place.to_owned(),
                reason: "that is a repository, and nothing is restored into one",
            });
        }
    }
    Ok(())
}

/// Refuses a target inside of the repository, and a repository inside of the target, by inodes and not by names.
pub(in crate::restore) fn check_not_nested(repository: &Path, target: &Path) -> Result<()> {
    let nested = |inner: &Path, outer: &Path, reason| Error::Nested {
        inner: inner.to_owned(),
        outer: outer.to_owned(),
        reason,
    };
    let Some(repository_inodes) = inodes_above(repository)? else { return Ok(()) };
    let mut existing = std::path::absolute(target).map_err(Error::path("look up", target))?;
    let whole = existing.clone();
    let target_inodes = loop {
        if let Some(inodes) = inodes_above(&existing)? {
            break inodes;
        }
        if !existing.pop() {
            return Ok(());
        }
    };
    let [repository_inode, ..] = repository_inodes[..] else { return Ok(()) };
    if target_inodes.contains(&repository_inode) {
        return Err(nested(
            target,
            repository,
            "what is restored would lie among the files of the repository",
        ));
    }
    if existing == whole && target_inodes.first().is_some_and(|inode| repository_inodes.contains(inode)) {
        return Err(nested(repository, target, "restoring could replace or remove files of the repository"));
    }
    Ok(())
}

/// The inodes of a path and of all directories above it, the path's own first; none if it does not exist.
fn inodes_above(path: &Path) -> Result<Option<Vec<Inode>>> {
    let real = match fs::canonicalize(path) {
        Ok(real) => real,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::path("look up", path)(error)),
    };
    let mut inodes = Vec::new();
    for place in real.ancestors() {
        let metadata = fs::metadata(place).map_err(Error::path("look up", place))?;
        inodes.push((metadata.dev(), metadata.ino()));
    }
    Ok(Some(inodes))
}
