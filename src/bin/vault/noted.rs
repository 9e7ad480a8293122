//! A medium of which each error of reading is noted, also one that healing takes for damage and makes up for: a user wants to know that a disk is
//! dying.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use vault::backend::{Backend, Listed, NewFile, StoredFile};

/// The errors of reading files, the first of each, by their paths.
#[derive(Default)]
pub struct ReadErrors(Mutex<BTreeMap<PathBuf, String>>);

impl ReadErrors {
    fn note(&self, path: impl FnOnce() -> PathBuf, error: &io::Error) {
        // What is missing, or shorter than it was, is told as damage.
        if error.raw_os_error().is_some()
            && error.kind() != io::ErrorKind::NotFound
            && let Ok(mut errors) = self.0.lock()
        {
            errors.entry(path()).or_insert_with(|| error.to_string());
        }
    }

    /// What was noted so far, in words.
    pub fn take(&self) -> Vec<String> {
        let errors = self.0.lock().map(|mut errors| std::mem::take(&mut *errors)).unwrap_or_default();
        errors.into_iter().map(|(path, error)| format!("cannot read {}: {error}", path.display())).collect()
    }
}

/// Passes everything on.
pub struct Noted {
    inner: Arc<dyn Backend>,
    errors: Arc<ReadErrors>,
}

impl Noted {
    /// The medium `inner`, whose errors are noted.
    pub fn wrap(inner: Arc<dyn Backend>, errors: &Arc<ReadErrors>) -> Arc<dyn Backend> {
        Arc::new(Self { inner, errors: errors.clone() })
    }
}

impl Backend for Noted {
    fn place(&self) -> &Path {
        self.inner.place()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        self.inner.list(folder)
    }

    fn open(&self, file: &str) -> io::Result<Box<dyn StoredFile>> {
        let path = self.place().join(file);
        match self.inner.open(file) {
            Ok(inner) => Ok(Box::new(NotedFile { inner, path, errors: self.errors.clone() })),
            Err(error) => {
                self.errors.note(|| path, &error);
                Err(error)
            }
        }
    }

    fn create(&self, temporary: &str) -> io::Result<Box<dyn NewFile>> {
        self.inner.create(temporary)
    }

    fn make_folder(&self, folder: &str) -> io::Result<()> {
        self.inner.make_folder(folder)
    }

    fn remove(&self, file: &str) -> io::Result<()> {
        self.inner.remove(file)
    }

    fn sync(&self, file: &str) -> io::Result<()> {
        self.inner.sync(file)
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.inner.sync_folder(folder)
    }

    fn free_space(&self) -> io::Result<Option<u64>> {
        self.inner.free_space()
    }

    fn folder_sync_is_weak(&self) -> bool {
        self.inner.folder_sync_is_weak()
    }
}

struct NotedFile {
    inner: Box<dyn StoredFile>,
    path: PathBuf,
    errors: Arc<ReadErrors>,
}

impl StoredFile for NotedFile {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let read = self.inner.read_exact_at(buffer, offset);
        read.inspect_err(|error| self.errors.note(|| self.path.clone(), error))
    }

    fn drop_cached(&self) -> io::Result<()> {
        self.inner.drop_cached().inspect_err(|error| self.errors.note(|| self.path.clone(), error))
    }
}
