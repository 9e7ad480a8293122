//! The medium of a repository as a command has it: read and written at most at given rates (`--limit-rate`), and, where it is asked for, with
//! each error of reading noted, also one that healing takes for damage and makes up for: a user wants to know that a disk is dying.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use vault::backend::{Backend, Listed, NewFile, StoredFile};
use vault::rate::RateLimit;

/// The errors of reading files, the first of each, by their paths.
#[derive(Default)]
pub struct ReadErrors(Mutex<BTreeMap<PathBuf, String>>);

impl ReadErrors {
    fn note(&self, path: &Path, error: &io::Error) {
        // What is missing, or shorter than it was, is told as damage.
        if error.raw_os_error().is_some()
            && error.kind() != io::ErrorKind::NotFound
            && let Ok(mut errors) = self.0.lock()
        {
            errors.entry(path.to_owned()).or_insert_with(|| error.to_string());
        }
    }

    /// What was noted so far, in words.
    pub fn take(&self) -> Vec<String> {
        let errors = self.0.lock().map(|mut errors| std::mem::take(&mut *errors)).unwrap_or_default();
        errors.into_iter().map(|(path, error)| format!("cannot read {}: {error}", path.display())).collect()
    }
}

/// Passes everything on, some of it later.
pub struct Medium<B> {
    inner: B,
    read: Option<Arc<RateLimit>>,
    write: Option<Arc<RateLimit>>,
    stop: Arc<AtomicBool>,
    errors: Option<Arc<ReadErrors>>,
}

impl<B: Backend> Medium<B> {
    /// The medium `inner` with limits in bytes per second, which nobody waits for once `stop` is set.
    pub fn new(inner: B, read_rate: Option<u64>, write_rate: Option<u64>, stop: Arc<AtomicBool>) -> Self {
        let limit = |rate: Option<u64>| rate.map(|rate| Arc::new(RateLimit::new(rate)));
        Self { inner, read: limit(read_rate), write: limit(write_rate), stop, errors: None }
    }

    /// The same, and each error of reading is noted in `errors`.
    pub fn noting(self, errors: &Arc<ReadErrors>) -> Self {
        Self { errors: Some(errors.clone()), ..self }
    }
}

impl<B: Backend> Backend for Medium<B> {
    fn place(&self) -> &Path {
        self.inner.place()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        self.inner.list(folder)
    }

    fn open(&self, file: &str) -> io::Result<Box<dyn StoredFile>> {
        let path = self.place().join(file);
        let opened = self.inner.open(file);
        let inner =
            opened.inspect_err(|error| self.errors.iter().for_each(|errors| errors.note(&path, error)))?;
        let (limit, stop, errors) = (self.read.clone(), self.stop.clone(), self.errors.clone());
        Ok(Box::new(MediumFile { inner, limit, stop, path, errors }))
    }

    fn create(&self, temporary: &str) -> io::Result<Box<dyn NewFile>> {
        let inner = self.inner.create(temporary)?;
        Ok(match &self.write {
            Some(limit) => Box::new(LimitedNewFile { inner, limit: limit.clone(), stop: self.stop.clone() }),
            None => inner,
        })
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

struct MediumFile {
    inner: Box<dyn StoredFile>,
    limit: Option<Arc<RateLimit>>,
    stop: Arc<AtomicBool>,
    path: PathBuf,
    errors: Option<Arc<ReadErrors>>,
}

impl MediumFile {
    fn note(&self, error: &io::Error) {
        self.errors.iter().for_each(|errors| errors.note(&self.path, error));
    }
}

impl StoredFile for MediumFile {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if let Some(limit) = &self.limit {
            limit.pass_or_stop(buffer.len() as u64, &self.stop);
        }
        self.inner.read_exact_at(buffer, offset).inspect_err(|error| self.note(error))
    }

    fn drop_cached(&self) -> io::Result<()> {
        self.inner.drop_cached().inspect_err(|error| self.note(error))
    }
}

struct LimitedNewFile {
    inner: Box<dyn NewFile>,
    limit: Arc<RateLimit>,
    stop: Arc<AtomicBool>,
}

impl Write for LimitedNewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.limit.pass_or_stop(written as u64, &self.stop);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl NewFile for LimitedNewFile {
    fn publish(self: Box<Self>, name: &str) -> io::Result<()> {
        self.inner.publish(name)
    }
}
