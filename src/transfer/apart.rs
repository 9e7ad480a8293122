//! Two copies of a repository lie apart from one another: else what is done to one is done to the other.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};

/// Refuses a copy inside of another one, and one that is the other under another name.
///
/// # Errors
/// `Nested`; a folder that cannot be looked at.
pub(crate) fn check_apart(repository: &Path, other: &Path) -> Result<()> {
    let (inner, outer) = (resolve(repository)?, resolve(other)?);
    let nested = |inner: &Path, outer: &Path, reason| {
        Err(Error::Nested { inner: inner.to_owned(), outer: outer.to_owned(), reason })
    };
    match (lies_in(&outer, &inner), lies_in(&inner, &outer)) {
        (true, true) => nested(other, repository, "they are the same folder"),
        (true, false) => nested(other, repository, "a copy inside of the repository is no second one"),
        (false, true) => nested(repository, other, "a copy takes over nothing but a folder of its own"),
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

/// Whether the system says that there is no medium any more.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ENODEV | libc::ENXIO | libc::ENOMEDIUM))
}
