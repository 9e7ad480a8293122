//! Makes the place of the mirror a repository, or puts right what makes it one.

use std::sync::Arc;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::id::CopyId;
use crate::mirror::relying::on_mirror;
use crate::repository::{CopyInfo, Repository, claim, make_folders, make_reserve, refuse_inside_another};
use crate::transfer::{Copier, Listing, check_apart, put_config};

/// Refuses a mirror with a feature or record that forbids this program to write there. What is damaged there is put right later.
pub(super) fn refuse_unknown(destination: &Arc<dyn Backend>, copy: CopyId) -> Result<()> {
    match Repository::open(destination.clone()) {
        Ok(mirror) => mirror.check_writable(copy),
        Err(error @ Error::UnknownFeature { .. }) => Err(error),
        Err(_) => Ok(()),
    }
}

/// Makes the place a repository with a `copy` of its own if it is new, puts `config` right, and lists what is there; and which
/// of the files of `config` was damaged. `config` comes last, as in `init`: half of a repository is none; and
/// no other run makes a repository there meanwhile.
pub(super) fn establish(
    repository: &Repository,
    copier: &Copier<'_>,
    copy: &CopyInfo,
    is_new: bool,
) -> Result<(Listing, Vec<String>)> {
    let mut ours = None;
    if is_new {
        refuse_inside_another(copier.to.place())?;
        ours = claim(copier.to).map_err(|error| on_mirror(copier.to.place(), error))?;
        make_folders(copier.to).map_err(|error| on_mirror(copier.to.place(), error))?;
        // Again, now that the folder is there: a mistake would overwrite the repository's own `copy`.
        check_apart(copier.from.place(), copier.to.place())?;
        make_reserve(copier.to).map_err(|error| on_mirror(copier.to.place(), error))?;
        copier.put("copy", &copy.encode(repository.id()))?;
    }
    let there = match Listing::of(copier.to, false) {
        // Someone, or a tool that skips empty folders, took folders away. The place has just said that it is the mirror.
        Err((_, error)) if error.kind() == std::io::ErrorKind::NotFound => {
            make_folders(copier.to).map_err(|error| on_mirror(copier.to.place(), error))?;
            Listing::of(copier.to, false)
        }
        other => other,
    };
    let there =
        there.map_err(|(folder, error)| Error::path("list", &copier.to.place().join(folder))(error))?;
    let mended = put_config(copier, &repository.config().encode(repository.id()), false)?;
    drop(ours);
    Ok((there, mended))
}
