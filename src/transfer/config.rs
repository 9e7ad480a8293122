//! `config` and `config.2` of a copy, as the other one has them.

use std::io;

use crate::backend::{Backend, read_whole};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::repository::is_whole_config;
use crate::transfer::Copier;

/// The longest `config` that is compared; a longer one differs.
const MAX_CONFIG_LEN: u64 = 17 << 20;

/// Puts `config` and `config.2` right, and returns which of them was there and damaged; writes nothing in a dry run. `config` comes last, as in
/// `init`: half of a repository is none.
///
/// # Errors
/// `MediumMissing` if one was exchanged; any error of the medium.
pub(crate) fn put_config(copier: &Copier<'_>, config: &[u8], dry_run: bool) -> Result<Vec<String>> {
    let mut mended = Vec::new();
    for name in ["config.2", "config"] {
        let found = read(copier, name);
        if found.as_ref().is_ok_and(|found| *found == config) {
            continue;
        }
        refuse_exchanged(copier.to, name, found.as_deref().unwrap_or_default())?;
        if !dry_run {
            copier.put(name, config)?;
        }
        // An interruption in between leaves one of them missing.
        let is_missing = found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        mended.extend((!is_missing).then(|| name.to_owned()));
    }
    Ok(mended)
}

/// Puts that of `config` and `config.2` right that is damaged or missing, as the other one is whole and says `config`. Returns which was missing and
/// which was damaged. Two that are whole and differ stay: one of them was exchanged, and which does not show.
///
/// # Errors
/// Any error of the medium.
pub(crate) fn mend_config(copier: &Copier<'_>, config: &[u8], dry_run: bool) -> Result<[Vec<String>; 2]> {
    let (mut missing, mut damaged) = (Vec::new(), Vec::new());
    for name in ["config.2", "config"] {
        let found = read(copier, name);
        if found.as_ref().is_ok_and(|found| is_whole_config(found)) {
            continue;
        }
        if !dry_run {
            copier.put(name, config)?;
        }
        let is_missing = found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if is_missing { &mut missing } else { &mut damaged }.push(name.to_owned());
    }
    Ok([missing, damaged])
}

/// Reads one of the two; an error of the medium is told, though what cannot be read is written anew.
fn read(copier: &Copier<'_>, name: &str) -> io::Result<Vec<u8>> {
    let read = read_whole(copier.to, name, MAX_CONFIG_LEN);
    if let Err(error) = &read
        && error.kind() != io::ErrorKind::NotFound
    {
        let path = copier.to.place().join(name);
        copier.observer.event(&Event::Notice { path: &path, text: &format!("cannot be read: {error}") });
    }
    read
}

/// Refuses a copy whose `config` is whole and says something else: it never changes, so one of the two was exchanged, and that of the copy
/// may be the last one that fits its keys.
fn refuse_exchanged(copy: &dyn Backend, name: &str, found: &[u8]) -> Result<()> {
    if is_whole_config(found) {
        let reason = format!("its {name} is whole and not that of the other copy: one of them was exchanged");
        return Err(Error::MediumMissing { path: copy.place().to_owned(), reason });
    }
    Ok(())
}
