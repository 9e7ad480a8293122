//! Makes the place of the mirror a repository, or puts right what makes it one.

use std::sync::Arc;

use crate::backend::{Backend, read_whole};
use crate::error::{Error, Result};
use crate::id::CopyId;
use crate::mirror::copy::Copier;
use crate::mirror::listing::Listing;
use crate::mirror::place;
use crate::mirror::relying::on_mirror;
use crate::repository::{
    CopyInfo, Repository, is_whole_config, make_folders, make_reserve, refuse_inside_another,
};

/// The longest `config` that is compared; a longer one differs.
const MAX_CONFIG_LEN: u64 = 17 << 20;

/// Refuses a mirror with a feature or record that forbids this program to write there. What is damaged there is put right later.
pub(super) fn refuse_unknown(destination: &Arc<dyn Backend>, copy: CopyId) -> Result<()> {
    match Repository::open(destination.clone()) {
        Ok(mirror) => mirror.check_writable(copy),
        Err(error @ Error::UnknownFeature { .. }) => Err(error),
        Err(_) => Ok(()),
    }
}

/// Refuses a mirror whose `config` is whole and says something else: it never changes, so one of the two was exchanged, and the mirror's
/// may be the last one that fits its keys.
fn refuse_exchanged(mirror: &dyn Backend, name: &str, found: &[u8]) -> Result<()> {
    if is_whole_config(found) {
        let reason = format!("its {name} is whole and not that of the repository: one of them was exchanged");
        return Err(Error::MediumMissing { path: mirror.place().to_owned(), reason });
    }
    Ok(())
}

/// Makes the place a repository with a `copy` of its own if it is new, puts `config` right, and lists what is there; and which
/// of the files of `config` was damaged. `config` comes last, as in `init`: half of a repository is none.
pub(super) fn establish(
    repository: &Repository,
    copier: &Copier<'_>,
    copy: &CopyInfo,
    is_new: bool,
) -> Result<(Listing, Vec<String>)> {
    if is_new {
        refuse_inside_another(copier.to.place())?;
        make_folders(copier.to)?;
        // Again, now that the folder is there: a mistake would overwrite the repository's own `copy`.
        place::check_apart(copier.from.place(), copier.to.place())?;
        make_reserve(copier.to).map_err(|error| on_mirror(copier.to.place(), error))?;
        copier.put("copy", &copy.encode(repository.id()))?;
    }
    let there = match Listing::of(copier.to, false) {
        // Someone, or a tool that skips empty folders, took folders away. The place has just said that it is the mirror.
        Err((_, error)) if error.kind() == std::io::ErrorKind::NotFound => {
            make_folders(copier.to)?;
            Listing::of(copier.to, false)
        }
        other => other,
    };
    let there =
        there.map_err(|(folder, error)| Error::path("list", &copier.to.place().join(folder))(error))?;
    let config = repository.config().encode(repository.id());
    let mut mended = Vec::new();
    for name in ["config.2", "config"] {
        let found = read_whole(copier.to, name, MAX_CONFIG_LEN);
        if found.as_ref().is_ok_and(|found| *found == config) {
            continue;
        }
        refuse_exchanged(copier.to, name, found.as_deref().unwrap_or_default())?;
        copier.put(name, &config)?;
        // An interruption in between leaves one of them missing.
        let is_missing = found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        mended.extend((!is_missing).then(|| name.to_owned()));
    }
    Ok((there, mended))
}
