//! Where a restore goes: a new folder, or where the sources came from.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use vault::browse;
use vault::chunk::GetChunk;
use vault::error::{Error, Result};
use vault::id::SnapshotId;
use vault::snapshot::{Kind, Snapshot, Source};

use crate::commands::{Context, short};
use crate::render::text::{self, escape};

/// A part of a snapshot, and the folder it goes to.
#[derive(Debug, PartialEq, Eq)]
pub struct Job {
    /// The path in the snapshot.
    pub path: Vec<u8>,
    /// A folder: of a folder the content goes there, anything else goes there under its name.
    pub target: PathBuf,
}

/// A folder in the current one that does not exist yet, named after the snapshot.
pub fn new_folder(context: &Context, (id, snapshot): &(SnapshotId, Snapshot)) -> Result<PathBuf> {
    let time = text::time(snapshot.start, &context.zone, "%Y-%m-%dT%H%M");
    let name = format!("{time}-{}", short(id));
    let names = std::iter::once(name.clone()).chain((2..1000).map(|number| format!("{name}-{number}")));
    let mut free = names.map(PathBuf::from).filter(|folder| folder.symlink_metadata().is_err());
    let folder = free.next().ok_or_else(|| {
        Error::Usage(format!("{name} exists already, and many more: name a folder with --target"))
    })?;
    context.screen.note(&format!("restoring into {}", folder.display()));
    Ok(folder)
}

/// The sources of a snapshot that lie at or below a path: those that can be restored, and those that cannot, with their
/// paths in the snapshot.
pub type Sources = (Vec<Job>, Vec<(Vec<u8>, Error)>);

/// The places that what is at `path` of the snapshot came from.
pub fn in_place(get: &dyn GetChunk, snapshot: &Snapshot, path: &[u8]) -> Result<Sources> {
    let (mut jobs, mut lost) = (Vec::new(), Vec::new());
    for source in &snapshot.sources {
        let Some((path, place)) = origin(source, path) else { continue };
        if !place.starts_with(b"/") {
            let given = escape(&source.given);
            return Err(Error::Usage(format!("{given} came from no folder: restore it with --target")));
        }
        match browse::lookup(get, &snapshot.root, &path) {
            Ok(Some(entry)) if !matches!(entry.kind, Kind::LeftOut(..)) => {
                jobs.push(job(path, &place, entry.kind.directory().is_some())?);
            }
            Ok(_) => {
                let what = format!("/{} in the snapshot: it was left out when that was taken", escape(&path));
                lost.push((path, Error::NotFound { what }));
            }
            Err(error) => lost.push((path, error)),
        }
    }
    if let ([], [_]) = (jobs.as_slice(), lost.as_slice()) {
        return Err(lost.remove(0).1);
    }
    if jobs.is_empty() && lost.is_empty() {
        let what = format!("place that /{} came from", escape(path));
        return Err(Error::NotFound { what });
    }
    Ok((jobs, lost))
}

/// Which path of a snapshot comes from a source, if `wanted` is asked for, and from where on the disk.
fn origin(source: &Source, wanted: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let stored_at: &[u8] = &source.stored_at;
    if let Some(rest) = below(wanted, stored_at) {
        let place = if rest.is_empty() {
            source.resolved.to_vec()
        } else {
            [&source.resolved, &b"/"[..], rest].concat()
        };
        return Some((wanted.to_vec(), place));
    }
    below(stored_at, wanted).map(|_| (stored_at.to_vec(), source.resolved.to_vec()))
}

/// What of `path` is below `folder`.
fn below<'p>(path: &'p [u8], folder: &[u8]) -> Option<&'p [u8]> {
    let rest = path.strip_prefix(folder)?;
    if folder.is_empty() || rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
}

fn job(path: Vec<u8>, place: &[u8], is_folder: bool) -> Result<Job> {
    let place = Path::new(OsStr::from_bytes(place));
    if is_folder {
        return Ok(Job { path, target: place.to_owned() });
    }
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    match (place.parent(), place.file_name()) {
        (Some(parent), Some(own)) if own.as_bytes() == name => Ok(Job { path, target: parent.to_owned() }),
        _ => {
            let (stored, place) = (escape(&path), place.display());
            Err(Error::Usage(format!(
                "/{stored} came from {place}, under another name: restore it with --target"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(resolved: &str, stored_at: &str) -> Source {
        Source {
            origin: String::new(),
            given: Vec::new().into(),
            resolved: resolved.as_bytes().into(),
            stored_at: stored_at.as_bytes().into(),
            carried: Vec::new(),
            users: Vec::new(),
            groups: Vec::new(),
        }
    }

    fn origin_of(resolved: &str, stored_at: &str, wanted: &str) -> Option<(String, String)> {
        let text = |bytes| String::from_utf8(bytes).unwrap_or_default();
        origin(&source(resolved, stored_at), wanted.as_bytes()).map(|(path, place)| (text(path), text(place)))
    }

    #[test]
    fn each_path_goes_back_to_the_source_it_is_below() {
        let some = |path: &str, place: &str| Some((path.to_owned(), place.to_owned()));
        assert_eq!(origin_of("/home/u", "home/u", ""), some("home/u", "/home/u"));
        assert_eq!(origin_of("/home/u", "home/u", "home/u/a/b"), some("home/u/a/b", "/home/u/a/b"));
        assert_eq!(origin_of("/home/u", "elsewhere", "elsewhere/a"), some("elsewhere/a", "/home/u/a"));
        assert_eq!(origin_of("/home/u", "", "a"), some("a", "/home/u/a"));
        assert_eq!(origin_of("/home/u", "home/u", "home"), some("home/u", "/home/u"));
        assert_eq!(origin_of("/home/u", "home/u", "home/u2"), None);
        assert_eq!(origin_of("/home/u", "home/u", "etc"), None);
    }

    #[test]
    fn a_file_goes_to_its_folder_and_only_under_its_own_name() {
        let job = |path: &[u8], place: &[u8]| job(path.to_vec(), place, false).map(|job| job.target);
        assert_eq!(job(b"a/f", b"/x/f").ok(), Some(PathBuf::from("/x")));
        assert!(job(b"a/f", b"/x/g").is_err());
    }
}
