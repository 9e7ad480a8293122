//! What is where the mirror is to be. Nothing is written here.

use std::io;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::id::{CopyId, RepositoryId};
use crate::repository::{CopyInfo, is_free, read_config, read_copy};
use crate::transfer::is_gone;

/// What is at the place of the mirror.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// Nothing that anyone would miss; how that shows.
    Free(&'static str),
    /// A copy of the repository.
    Mirror(CopyInfo),
    /// A copy of the repository that does not say which one; why.
    Nameless(String),
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
    Ok(match (config, problems.pop()) {
        (_, None) => Found::Mirror(copy),
        (Some(()), Some(error)) => {
            let source = std::error::Error::source(&error);
            Found::Nameless(source.map_or_else(|| error.to_string(), ToString::to_string))
        }
        (None, Some(_)) => Found::Foreign("there are other files and no repository"),
    })
}
