//! What lies in a copy of the repository: every file that is named by its content, by folder and hash, with its length.
//!
//! Folders are in the order in which their files are copied. They are listed the other way round: a writer publishes packs
//! first and snapshots last, so what a listed snapshot needs is listed after it.

use std::collections::BTreeMap;
use std::io;

use crate::backend::{Backend, Listed};
use crate::id::{PackId, SnapshotId};
use crate::pack::pack_file_name;
use crate::repository::is_of_the_medium;

/// A folder of files that are named by their content, in the order of copying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Folder {
    Keys,
    Packs,
    Index,
    Records,
    Snapshots,
}

const LISTED: [Folder; 5] = [Folder::Snapshots, Folder::Records, Folder::Index, Folder::Packs, Folder::Keys];

/// What else the format has at the top.
const OTHER_NAMES: [&str; 8] =
    ["config", "config.2", "copy", "reserve", "features", "sessions", "marks", "tmp"];

impl Folder {
    const fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Packs => "packs",
            Self::Index => "index",
            Self::Records => "records",
            Self::Snapshots => "snapshots",
        }
    }
}

/// A file that is named by its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileId {
    pub folder: Folder,
    pub hash: [u8; 32],
}

impl FileId {
    /// Its name in the repository.
    pub fn name(&self) -> String {
        let id = PackId::from_bytes(self.hash);
        match self.folder {
            Folder::Packs => pack_file_name(&id),
            folder => format!("{}/{id}", folder.name()),
        }
    }
}

/// The folder that could not be listed, and what the medium said.
pub(crate) type ListError = (String, io::Error);

/// The files of one copy.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Their lengths, in the order of copying.
    pub files: BTreeMap<FileId, u64>,
    /// Names of no kind that the format has `[REPO-3]`.
    pub unknown: Vec<String>,
}

impl Listing {
    /// Whether a file is listed.
    pub fn has(&self, folder: Folder, hash: &[u8; 32]) -> bool {
        self.files.contains_key(&FileId { folder, hash: *hash })
    }

    /// Lists a copy. A folder that is missing is an error: a short listing would pass for a small copy. But with `may_lack_folders` those that
    /// are empty may be missing, as in a copy made by a tool that skips them: neither `packs` nor `snapshots`, and none that a listing of
    /// the folder above it has.
    ///
    /// # Errors
    /// The folder, and what the medium said.
    pub fn of(backend: &dyn Backend, may_lack_folders: bool) -> Result<Self, ListError> {
        let list = |folder: &str| backend.list(folder).map_err(|error| (folder.to_owned(), error));
        let (mut listing, mut lacking) = (Self::default(), Vec::new());
        for folder in LISTED {
            let may_lack = may_lack_folders && !matches!(folder, Folder::Packs | Folder::Snapshots);
            let listed = match list(folder.name()) {
                Err((_, error)) if may_lack && error.kind() == io::ErrorKind::NotFound => {
                    lacking.push((folder.name(), error));
                    continue;
                }
                other => other?,
            };
            if folder == Folder::Packs {
                listing.add_packs(&listed, may_lack_folders, &list)?;
            } else {
                for file in &listed {
                    listing.add(folder, folder.name(), file);
                }
            }
        }
        let is_known = |name: &str| {
            OTHER_NAMES.contains(&name)
                || LISTED.iter().any(|folder| folder.name() == name)
                || is_of_the_medium(name)
        };
        let top: Vec<String> = list("")?.into_iter().map(|found| found.name).collect();
        // A drive that went away meanwhile lacks all of them.
        let is_there = |name: &str| top.iter().any(|found| found == name);
        let still_there = [Folder::Packs, Folder::Snapshots].iter().all(|folder| is_there(folder.name()));
        if let Some((folder, error)) = lacking.into_iter().find(|(name, _)| is_there(name) || !still_there) {
            return Err((folder.to_owned(), error));
        }
        listing.unknown.extend(top.into_iter().filter(|name| !is_known(name)));
        listing.unknown.sort_unstable();
        Ok(listing)
    }

    fn add_packs(
        &mut self,
        listed: &[Listed],
        may_lack_folders: bool,
        list: &dyn Fn(&str) -> Result<Vec<Listed>, ListError>,
    ) -> Result<(), ListError> {
        let prefixes: Vec<String> = (0..=255u8).map(|prefix| format!("{prefix:02x}")).collect();
        for prefix in &prefixes {
            if may_lack_folders && !listed.iter().any(|found| found.name == *prefix) {
                continue;
            }
            let folder = format!("packs/{prefix}");
            // Parity is reserved, and no unknown name.
            for file in list(&folder)?.iter().filter(|file| file.name.strip_suffix(".par").is_none()) {
                self.add(Folder::Packs, &folder, file);
            }
        }
        let unknown = listed.iter().map(|found| &found.name).filter(|name| !prefixes.contains(name));
        self.unknown.extend(unknown.map(|name| format!("packs/{name}")));
        Ok(())
    }

    fn add(&mut self, folder: Folder, within: &str, file: &Listed) {
        let name = format!("{within}/{}", file.name);
        let id = PackId::from_hex(&file.name).map(|id| FileId { folder, hash: *id.as_bytes() });
        match id.filter(|id| file.is_file && id.name() == name) {
            Some(id) => drop(self.files.insert(id, file.len)),
            None => self.unknown.push(name),
        }
    }

    /// The snapshots, ascending.
    pub fn snapshots(&self) -> impl Iterator<Item = SnapshotId> {
        let files = self.files.keys().filter(|file| file.folder == Folder::Snapshots);
        files.map(|file| SnapshotId::from_bytes(file.hash))
    }

    /// How many packs there are.
    pub fn pack_count(&self) -> u64 {
        self.files.keys().filter(|file| file.folder == Folder::Packs).count() as u64
    }
}
