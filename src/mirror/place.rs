//! Where the mirror is to be: whether that is apart from the repository, and what is there. Nothing is written here.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::id::{CopyId, RepositoryId};
use crate::repository::{CopyInfo, is_free, read_config, read_copy};

/// What is at the place of the mirror.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// Nothing that anyone would miss; how that shows.
    Free(&'static str),
    /// A copy of the repository.
    Mirror(CopyInfo),
    /// A copy of the repository that does not say which one.
    Nameless,
    /// A copy of another repository.
    Other(RepositoryId),
    /// Something else.
    Foreign(&'static str),
}

/// Whether it is a certain copy, as before.
pub(super) fn is_still(destination: &dyn Backend, repository: RepositoryId, copy: CopyId) -> bool {
    matches!(look(destination, repository), Ok(Found::Mirror(found)) if found.copy == copy)
}

/// Looks what is there. A damaged `config` does not hide a mirror whose `copy` is whole.
///
/// # Errors
/// Any error of the medium.
pub(super) fn look(mirror: &dyn Backend, repository: RepositoryId) -> Result<Found> {
    let listed = match mirror.list("") {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Found::Free("there is no such folder"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Ok(Found::Foreign("it is not a folder"));
        }
        Err(error) if is_gone(&error) => return Ok(Found::Foreign("the medium is gone")),
        Err(error) => return Err(Error::path("list", mirror.place())(error)),
    };
    let mut problems = Vec::new();
    let config = match read_config(mirror, &mut problems) {
        Ok((found, ..)) if found != repository => return Ok(Found::Other(found)),
        Ok(_) => Some(()),
        Err(Error::NoRepository { .. })
            if is_free(mirror).map_err(Error::path("list", mirror.place()))? =>
        {
            return Ok(Found::Free(if listed.iter().any(|entry| entry.name == "packs") {
                "only what an interrupted `mirror --new` leaves is there: repeat that"
            } else {
                "the folder is empty"
            }));
        }
        Err(Error::NoRepository { .. } | Error::Damaged { .. }) => None,
        Err(error) => return Err(error),
    };
    let mut problems = Vec::new();
    let copy = read_copy(mirror, repository, &mut problems)?;
    Ok(match (config, problems.is_empty()) {
        (_, true) => Found::Mirror(copy),
        (Some(()), false) => Found::Nameless,
        (None, false) => Found::Foreign("there are other files and no repository"),
    })
}

/// Whether the system says that there is no medium any more.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ENODEV | libc::ENXIO | libc::ENOMEDIUM))
}

/// Refuses a mirror in the repository, a repository in the mirror, and a mirror that is the repository under another name.
///
/// # Errors
/// `Nested`; a folder that cannot be looked at.
pub(super) fn check_apart(repository: &Path, mirror: &Path) -> Result<()> {
    let (inner, outer) = (resolve(repository)?, resolve(mirror)?);
    let nested = |inner: &Path, outer: &Path, reason| {
        Err(Error::Nested { inner: inner.to_owned(), outer: outer.to_owned(), reason })
    };
    match (lies_in(&outer, &inner), lies_in(&inner, &outer)) {
        (true, true) => nested(mirror, repository, "they are the same folder"),
        (true, false) => nested(mirror, repository, "a mirror inside of the repository is no second copy"),
        (false, true) => nested(repository, mirror, "a mirror takes over nothing but a folder of its own"),
        (false, false) => Ok(()),
    }
}

/// Compares folders, not names: a bind mount has another name.
fn lies_in(path: &Path, folder: &Path) -> bool {
    let number = |path: &Path| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    let folder_number = number(folder);
    path.ancestors().any(|above| above == folder || folder_number.is_some() && number(above) == folder_number)
}

/// The path without symlinks; what does not exist yet stays as it is.
fn resolve(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).map_err(Error::path("find", path))?;
    for above in absolute.ancestors() {
        match fs::canonicalize(above) {
            Ok(found) => {
                let below = absolute.strip_prefix(above).unwrap_or(Path::new(""));
                return Ok(descend(found, below));
            }
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
                    || is_gone(&error) => {}
            Err(error) => return Err(Error::path("find", path)(error)),
        }
    }
    Ok(absolute)
}

/// Goes on from a folder by names that do not exist yet. Were `x/..` made, it would be where `x` is.
fn descend(mut folder: PathBuf, below: &Path) -> PathBuf {
    for name in below.components() {
        match name {
            Component::ParentDir => drop(folder.pop()),
            name => folder.push(name),
        }
    }
    folder
}
