//! The medium that a repository lies on: a folder of write-once files. The only file that touches it.
//!
//! A new file is written under `tmp/`, made durable, renamed to its name, and its folder made durable
//! (`spec/durability.md`). [`Backend`] is small so that a test can record, refuse or lie.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

/// What the user is told of a medium whose folder sync is weak `[DUR-5]`.
pub const WEAK_FOLDER_SYNC: &str =
    "the medium cannot make single folders durable: it was synced as a whole instead";

/// A medium for one repository. Names are relative paths with `/`, as `packs/0a/0a…`.
pub trait Backend: Send + Sync {
    /// Where it is, for messages and for telling whether paths lie inside of it.
    fn place(&self) -> &Path;

    /// What lies in a folder, in no order. A failed or short listing is an error, never an empty one.
    ///
    /// # Errors
    /// Any error of the medium, `NotFound` for a missing folder.
    fn list(&self, folder: &str) -> io::Result<Vec<Listed>>;

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// Any error of the medium; `InvalidData` if the name is something else than a regular file.
    fn open(&self, file: &str) -> io::Result<Box<dyn StoredFile>>;

    /// Starts a new file under a temporary name. It must not exist.
    ///
    /// # Errors
    /// Any error of the medium.
    fn create(&self, temporary: &str) -> io::Result<Box<dyn NewFile>>;

    /// Makes a folder, and those above it. It may exist. It is durable after `sync_folder` of the folder it is in.
    ///
    /// # Errors
    /// Any error of the medium.
    fn make_folder(&self, folder: &str) -> io::Result<()>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// Any error of the medium.
    fn sync_folder(&self, folder: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Any error of the medium.
    fn remove(&self, file: &str) -> io::Result<()>;

    /// Makes a file that someone else wrote, and its name, durable.
    ///
    /// # Errors
    /// Any error of the medium.
    fn sync(&self, file: &str) -> io::Result<()>;

    /// How many bytes may still be written, if that is known.
    ///
    /// # Errors
    /// Any error of the medium.
    fn free_space(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// Whether a folder could not be made durable on its own and the whole file system was synced instead.
    fn folder_sync_is_weak(&self) -> bool {
        false
    }
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name in the folder; lossy if it is not UTF-8, and then no name of the format.
    pub name: String,
    /// The length in bytes, of a regular file.
    pub len: u64,
    /// Whether it is a regular file.
    pub is_file: bool,
    /// When it was written, in seconds by the clock of the medium. Nothing that could lose data is decided by it.
    pub modified: i64,
}

/// A file of the repository, open for reading.
pub trait StoredFile: Send + Sync {
    /// Its length when it was opened.
    fn len(&self) -> u64;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` with the bytes at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if there are fewer; any error of the medium.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Drops what the system has cached of the file, so that the next read comes from the medium.
    ///
    /// # Errors
    /// Any error of the system.
    fn drop_cached(&self) -> io::Result<()>;
}

/// A file that is being written. Dropped without `publish`, it is removed.
pub trait NewFile: Write + Send {
    /// Makes the bytes durable, gives the file its name in place of any file of that name, and makes the name durable `[DUR-1]`. What
    /// is published is never opened for writing again: it is replaced in the same way `[DUR-2]`.
    ///
    /// # Errors
    /// Any error of the medium; then the file is not to be relied on, and syncing is not tried again `[DUR-3]`.
    fn publish(self: Box<Self>, name: &str) -> io::Result<()>;
}

/// Reads a whole file of the repository.
///
/// # Errors
/// Any error of the medium; `FileTooLarge` over `max_len`.
pub fn read_whole(backend: &dyn Backend, file: &str, max_len: u64) -> io::Result<Vec<u8>> {
    let stored = backend.open(file)?;
    if stored.len() > max_len {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let len = usize::try_from(stored.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; len];
    stored.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// A folder of a mounted file system.
pub struct LocalFolder {
    root: PathBuf,
    weak_folder_sync: std::sync::Arc<AtomicBool>,
}

impl LocalFolder {
    /// The folder `root`, which need not exist yet.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), weak_folder_sync: std::sync::Arc::default() }
    }
}

fn sync_file_system(folder: &File) -> io::Result<()> {
    Ok(rustix::io::retry_on_intr(|| rustix::fs::syncfs(folder))?)
}

/// Opens a file if it is a regular one: whatever else has its name is neither followed nor waited for, nor read without end.
///
/// # Errors
/// `InvalidData` if it is something else; any error of the file system.
pub(crate) fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"))
    }
}

/// Makes a folder and those above it; they may be there.
///
/// # Errors
/// Any error of the file system. Where it could not be asked whether what is there is a folder, that is the error, and not that it is there.
pub(crate) fn make_folders_to(path: &Path, mode: u32) -> io::Result<()> {
    let make = || fs::DirBuilder::new().mode(mode).recursive(true).create(path);
    match make() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let unknown =
                |above: &Path| fs::metadata(above).err().filter(|e| e.kind() != io::ErrorKind::NotFound);
            let mut above = path.ancestors().filter(|above| !above.as_os_str().is_empty());
            match above.find_map(unknown) {
                Some(error) => Err(error),
                None if path.is_dir() => Ok(()),
                None => make(),
            }
        }
        other => other,
    }
}

/// Opens a folder to be listed. The standard library does that again after a signal for files only, and a FUSE ends an open then.
fn read_dir(folder: &Path) -> io::Result<fs::ReadDir> {
    loop {
        match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

impl Backend for LocalFolder {
    fn place(&self) -> &Path {
        &self.root
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for entry in read_dir(&self.root.join(folder))? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                // The name vanished between listing and asking: as if it had gone before.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            listed.push(Listed {
                name: entry.file_name().to_string_lossy().into_owned(),
                len: metadata.len(),
                is_file: metadata.is_file(),
                modified: metadata.mtime(),
            });
        }
        Ok(listed)
    }

    fn open(&self, file: &str) -> io::Result<Box<dyn StoredFile>> {
        let file = open_regular(&self.root.join(file), OpenOptions::new().read(true))?;
        let len = file.metadata()?.len();
        Ok(Box::new(LocalFile { file, len }))
    }

    fn create(&self, temporary: &str) -> io::Result<Box<dyn NewFile>> {
        let path = self.root.join(temporary);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        // Whatever the umask. A medium without modes may refuse, and nothing relies on them.
        let _ = file.set_permissions(fs::Permissions::from_mode(0o600));
        Ok(Box::new(LocalNewFile {
            file,
            temporary: Some(path),
            root: self.root.clone(),
            weak_folder_sync: self.weak_folder_sync.clone(),
        }))
    }

    fn make_folder(&self, folder: &str) -> io::Result<()> {
        let path = self.root.join(folder);
        // Of the repository's own folder and those above it, nobody but this syncs the names.
        let above: Vec<PathBuf> = if folder.is_empty() { unnamed_yet(&path) } else { Vec::new() };
        let is_new = !path.exists();
        make_folders_to(&path, 0o700)?;
        if is_new {
            let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o700));
        }
        above.iter().try_for_each(|folder| match sync_folder(folder, &self.weak_folder_sync) {
            // One that may be written to and not read.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                sync_file_system(&File::open(&self.root)?)
            }
            other => other,
        })
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        sync_folder(&self.root.join(folder), &self.weak_folder_sync)
    }

    fn remove(&self, file: &str) -> io::Result<()> {
        fs::remove_file(self.root.join(file))
    }

    fn sync(&self, file: &str) -> io::Result<()> {
        let path = self.root.join(file);
        File::open(&path)?.sync_all()?;
        path.parent().map_or(Ok(()), |parent| sync_folder(parent, &self.weak_folder_sync))
    }

    fn free_space(&self) -> io::Result<Option<u64>> {
        let found = rustix::fs::statvfs(&self.root)?;
        // FAT over FUSE says that it has no blocks at all.
        Ok((found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize)))
    }

    fn folder_sync_is_weak(&self) -> bool {
        self.weak_folder_sync.load(Ordering::Relaxed)
    }
}

/// The folders that get a new name if `path` is made with all folders above it.
fn unnamed_yet(path: &Path) -> Vec<PathBuf> {
    path.ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && fs::symlink_metadata(folder).is_err())
        .filter_map(Path::parent)
        .map(|above| if above.as_os_str().is_empty() { PathBuf::from(".") } else { above.to_owned() })
        .collect()
}

/// Makes the names in a folder durable. Media without that (exFAT over FUSE, SMB) get a sync of the whole file system `[DUR-5]`.
fn sync_folder(path: &Path, weak: &AtomicBool) -> io::Result<()> {
    let folder = File::open(path)?;
    match folder.sync_all() {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOTTY | libc::ENOTSUP)) => {
            weak.store(true, Ordering::Relaxed);
            sync_file_system(&folder)
        }
        other => other,
    }
}

struct LocalFile {
    file: File,
    len: u64,
}

impl StoredFile for LocalFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn drop_cached(&self) -> io::Result<()> {
        match rustix::fs::fadvise(self.file.as_fd(), 0, None, rustix::fs::Advice::DontNeed) {
            // File systems without a page cache of their own have nothing to drop.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

struct LocalNewFile {
    file: File,
    temporary: Option<PathBuf>,
    root: PathBuf,
    weak_folder_sync: std::sync::Arc<AtomicBool>,
}

impl Write for LocalNewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewFile for LocalNewFile {
    fn publish(mut self: Box<Self>, name: &str) -> io::Result<()> {
        self.file.sync_data()?;
        let path = self.root.join(name);
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, &path)?;
        }
        self.temporary = None;
        path.parent().map_or(Ok(()), |parent| sync_folder(parent, &self.weak_folder_sync))
    }
}

impl Drop for LocalNewFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nobody refers to it; the next session cleans up what cannot be removed now.
            let _ = fs::remove_file(temporary);
        }
    }
}
