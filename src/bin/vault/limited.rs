//! A medium that is read and written at most at given rates: `--limit-rate`.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vault::backend::{Backend, Listed, NewFile, StoredFile};
use vault::rate::RateLimit;

/// Passes everything on, some of it later.
pub struct Limited {
    inner: Arc<dyn Backend>,
    read: Option<Arc<RateLimit>>,
    write: Option<Arc<RateLimit>>,
    stop: Arc<AtomicBool>,
}

impl Limited {
    /// The medium `inner` with these limits, which nobody waits for once `stop` is set; itself if there are none.
    pub fn wrap(
        inner: Arc<dyn Backend>,
        read_rate: Option<u64>,
        write_rate: Option<u64>,
        stop: Arc<AtomicBool>,
    ) -> Arc<dyn Backend> {
        if read_rate.is_none() && write_rate.is_none() {
            return inner;
        }
        let limit = |rate: Option<u64>| rate.map(|rate| Arc::new(RateLimit::new(rate)));
        Arc::new(Self { inner, read: limit(read_rate), write: limit(write_rate), stop })
    }
}

impl Backend for Limited {
    fn place(&self) -> &Path {
        self.inner.place()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        self.inner.list(folder)
    }

    fn open(&self, file: &str) -> io::Result<Box<dyn StoredFile>> {
        let inner = self.inner.open(file)?;
        Ok(match &self.read {
            Some(limit) => Box::new(LimitedFile { inner, limit: limit.clone(), stop: self.stop.clone() }),
            None => inner,
        })
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

struct LimitedFile {
    inner: Box<dyn StoredFile>,
    limit: Arc<RateLimit>,
    stop: Arc<AtomicBool>,
}

impl StoredFile for LimitedFile {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.limit.pass_or_stop(buffer.len() as u64, &self.stop);
        self.inner.read_exact_at(buffer, offset)
    }

    fn drop_cached(&self) -> io::Result<()> {
        self.inner.drop_cached()
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
