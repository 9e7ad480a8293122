//! A folder of one test: `vault-test-<pid>-…` in the system's folder for temporary files, removed on drop.
//!
//! The process id is in the name so that `.ci/run` can clean up after a killed run, and only after that.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// What every folder's name begins with.
pub const PREFIX: &str = "vault-test-";

/// A folder that lives as long as this value. Mode 0700.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new, empty folder.
    pub fn new() -> Self {
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let folder =
            tempfile::Builder::new().prefix(&prefix).tempdir().expect("cannot make a temporary folder");
        // `TempDir` would remove it by recursion, with an open descriptor per level: too much for deep trees.
        Self { path: folder.keep() }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in the folder. Nothing is created.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// A new folder in the folder.
    pub fn dir(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.join(name);
        std::fs::create_dir_all(&path).expect("cannot make a folder");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            let text = format!("cannot remove {}: {error}", self.path.display());
            // A panic while panicking would abort the run and hide the first one.
            assert!(std::thread::panicking(), "{text}");
            eprintln!("{text}");
        }
    }
}

/// Opens the directory that `path` names.
pub fn open_dir(path: &Path) -> OwnedFd {
    File::open(path).unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display())).into()
}

/// Removes the directory `path` and all below it: one descriptor and no recursion, however deep it is.
///
/// # Errors
/// Whatever the system says; a `path` that is not there is no error.
pub fn remove_tree(path: &Path) -> Result<(), Errno> {
    let mut at = match rustix::fs::open(path, DIRECTORY, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error),
    };
    // Per level from the top to `at`: the folders in it that still stand.
    let mut levels = vec![remove_files(&at)?];
    while let Some(level) = levels.last() {
        if let Some(name) = level.last() {
            at = rustix::fs::openat(&at, name.as_c_str(), DIRECTORY, Mode::empty())?;
            levels.push(remove_files(&at)?);
        } else {
            levels.pop();
            let Some(name) = levels.last_mut().and_then(Vec::pop) else { break };
            at = rustix::fs::openat(&at, c"..", DIRECTORY, Mode::empty())?;
            rustix::fs::unlinkat(&at, name.as_c_str(), AtFlags::REMOVEDIR)?;
        }
    }
    rustix::fs::rmdir(path)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes the entries of a directory that are no directories, and returns the names of those that are.
fn remove_files(dir: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut folders = Vec::new();
    for name in names(dir)? {
        let stat = rustix::fs::statat(dir, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            folders.push(name);
        } else {
            rustix::fs::unlinkat(dir, name.as_c_str(), AtFlags::empty())?;
        }
    }
    Ok(folders)
}

/// The names in a directory, sorted by their bytes.
///
/// # Errors
/// Whatever the system says.
pub fn names(dir: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for item in Dir::read_from(dir)? {
        let name = item?.file_name().to_owned();
        if name.as_bytes() != b"." && name.as_bytes() != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
