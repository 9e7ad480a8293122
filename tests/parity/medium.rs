//! A folder on which somebody prunes in the worst moment, or which has bad sectors.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use vault::backend::{Backend, Listed, LocalFolder, NewFile, StoredFile};

/// A medium with faults.
pub struct Medium {
    folder: LocalFolder,
    /// This file is deleted just before a new one gets its name.
    pub deleted: Option<PathBuf>,
    /// Reading these bytes of files whose names end so is an I/O error.
    pub bad: Vec<(String, Range<u64>)>,
}

impl Medium {
    pub fn new(folder: &Path) -> Self {
        Self { folder: LocalFolder::new(folder), deleted: None, bad: Vec::new() }
    }
}

impl Backend for Medium {
    fn place(&self) -> &Path {
        self.folder.place()
    }
    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        self.folder.list(folder)
    }
    fn open(&self, file: &str) -> io::Result<Box<dyn StoredFile>> {
        let inner = self.folder.open(file)?;
        let bad = self.bad.iter().filter(|(name, _)| file.ends_with(name)).map(|(_, range)| range.clone());
        Ok(Box::new(Sectors { inner, bad: bad.collect() }))
    }
    fn create(&self, temporary: &str) -> io::Result<Box<dyn NewFile>> {
        self.folder.create(temporary)
    }
    fn make_folder(&self, folder: &str) -> io::Result<()> {
        self.folder.make_folder(folder)
    }
    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.folder.sync_folder(folder)
    }
    fn remove(&self, file: &str) -> io::Result<()> {
        self.folder.remove(file)
    }
    fn sync(&self, file: &str) -> io::Result<()> {
        self.deleted.iter().try_for_each(fs::remove_file)?;
        self.folder.sync(file)
    }
}

struct Sectors {
    inner: Box<dyn StoredFile>,
    bad: Vec<Range<u64>>,
}

impl StoredFile for Sectors {
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        if self.bad.iter().any(|bad| bad.start < end && offset < bad.end) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.inner.read_exact_at(buffer, offset)
    }
    fn drop_cached(&self) -> io::Result<()> {
        self.inner.drop_cached()
    }
}
