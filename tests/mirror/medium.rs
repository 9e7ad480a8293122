//! A medium that a test looks into: it asks a hook before each operation, which may refuse, and it can lie.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vault::backend::{Backend, Listed, LocalFolder, NewFile, StoredFile};

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    List,
    Open,
    Create,
    Write,
    Publish,
    MakeFolder,
    SyncFolder,
    Remove,
    Sync,
}

impl Op {
    /// Whether it changes what lies on the medium, or what of it lasts.
    pub fn is_change(self) -> bool {
        !matches!(self, Self::List | Self::Open)
    }
}

type Hook = dyn Fn(Op, &str) -> io::Result<()> + Send + Sync;

/// A folder behind a hook.
pub struct Watched {
    inner: LocalFolder,
    hook: Arc<Hook>,
    /// Give back other bytes than were written.
    pub lies: AtomicBool,
}

impl Watched {
    /// The folder at `path`; the hook is asked before each operation, with the file's name.
    pub fn new(path: &Path, hook: impl Fn(Op, &str) -> io::Result<()> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { inner: LocalFolder::new(path), hook: Arc::new(hook), lies: AtomicBool::new(false) })
    }
}

impl Backend for Watched {
    fn place(&self) -> &Path {
        self.inner.place()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        (self.hook)(Op::List, folder)?;
        self.inner.list(folder)
    }

    fn open(&self, file: &str) -> io::Result<Box<dyn StoredFile>> {
        (self.hook)(Op::Open, file)?;
        let inner = self.inner.open(file)?;
        Ok(Box::new(WatchedFile { inner, lies: self.lies.load(Ordering::Relaxed) }))
    }

    fn create(&self, temporary: &str) -> io::Result<Box<dyn NewFile>> {
        (self.hook)(Op::Create, temporary)?;
        let inner = Some(self.inner.create(temporary)?);
        let path = self.inner.place().join(temporary);
        Ok(Box::new(WatchedNew { inner, path, hook: self.hook.clone() }))
    }

    fn make_folder(&self, folder: &str) -> io::Result<()> {
        (self.hook)(Op::MakeFolder, folder)?;
        self.inner.make_folder(folder)
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        (self.hook)(Op::SyncFolder, folder)?;
        self.inner.sync_folder(folder)
    }

    fn remove(&self, file: &str) -> io::Result<()> {
        (self.hook)(Op::Remove, file)?;
        self.inner.remove(file)
    }

    fn sync(&self, file: &str) -> io::Result<()> {
        (self.hook)(Op::Sync, file)?;
        self.inner.sync(file)
    }
}

struct WatchedFile {
    inner: Box<dyn StoredFile>,
    lies: bool,
}

impl StoredFile for WatchedFile {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_exact_at(buffer, offset)?;
        if let Some(last) = buffer.last_mut().filter(|_| self.lies) {
            *last ^= 1;
        }
        Ok(())
    }

    fn drop_cached(&self) -> io::Result<()> {
        self.inner.drop_cached()
    }
}

struct WatchedNew {
    inner: Option<Box<dyn NewFile>>,
    path: PathBuf,
    hook: Arc<Hook>,
}

impl WatchedNew {
    /// After a refusal nothing more happens: a killed program does not remove its temporary files either.
    fn ask(&mut self, op: Op, name: &str) -> io::Result<()> {
        (self.hook)(op, name).inspect_err(|_| self.die())
    }

    /// Lets go of the file without removing it. It would not be found under another name.
    fn die(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        let aside = self.path.with_extension("aside");
        fs::rename(&self.path, &aside).unwrap();
        drop(inner);
        fs::rename(&aside, &self.path).unwrap();
    }

    fn dead() -> io::Error {
        io::Error::from_raw_os_error(libc::EIO)
    }
}

impl Write for WatchedNew {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.ask(Op::Write, "")?;
        self.inner.as_mut().ok_or_else(Self::dead)?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewFile for WatchedNew {
    fn publish(mut self: Box<Self>, name: &str) -> io::Result<()> {
        self.ask(Op::Publish, name)?;
        self.inner.take().ok_or_else(Self::dead)?.publish(name)
    }
}

impl Drop for WatchedNew {
    fn drop(&mut self) {
        // As above: were the medium dead, removing would not reach it.
        if self.inner.is_some() && (self.hook)(Op::Remove, "").is_err() {
            self.die();
        }
    }
}
