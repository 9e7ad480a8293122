//! A medium in memory, whose operations can be made to fail, and whose files can be damaged.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vault::backend::{Backend, Listed, NewFile, StoredFile};

/// Each medium is at another place.
static PLACES: AtomicU64 = AtomicU64::new(0);

/// What is done to a medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    List,
    Open,
    Read,
    Create,
    Write,
    Publish,
    Remove,
    Sync,
}

impl Op {
    pub const ALL: [Self; 8] = [
        Self::List,
        Self::Open,
        Self::Read,
        Self::Create,
        Self::Write,
        Self::Publish,
        Self::Remove,
        Self::Sync,
    ];
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Once, with this error.
    Once(i32),
    /// The file has its name all the same: the error came after that.
    Late(i32),
    /// From then on nothing is done any more, as if the process had been killed.
    Killed,
}

/// A fault that is to come: at the so-manieth operation of a kind.
#[derive(Debug, Clone, Copy)]
pub struct Coming {
    pub op: Op,
    pub nth: u32,
    pub fault: Fault,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Arc<Vec<u8>>>,
    coming: Option<Coming>,
    is_dead: bool,
    /// Something went wrong since the fault was armed.
    has_failed: bool,
}

impl State {
    /// Does an operation, or fails. Whether it fails after it was done.
    fn step(&mut self, op: Op) -> io::Result<Option<io::Error>> {
        if self.is_dead {
            return Err(io::Error::other("killed"));
        }
        let Some(coming) = self.coming.as_mut().filter(|coming| coming.op == op) else { return Ok(None) };
        if coming.nth > 0 {
            coming.nth -= 1;
            return Ok(None);
        }
        let fault = coming.fault;
        self.coming = None;
        self.has_failed = true;
        match fault {
            Fault::Once(errno) => Err(io::Error::from_raw_os_error(errno)),
            Fault::Late(errno) => Ok(Some(io::Error::from_raw_os_error(errno))),
            Fault::Killed => {
                self.is_dead = true;
                Err(io::Error::other("killed"))
            }
        }
    }
}

/// The medium. Clones are the same one.
#[derive(Clone)]
pub struct Memory {
    place: PathBuf,
    state: Arc<Mutex<State>>,
}

impl Default for Memory {
    fn default() -> Self {
        let place = PathBuf::from(format!("/memory/{}", PLACES.fetch_add(1, Ordering::Relaxed)));
        Self { place, state: Arc::default() }
    }
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another medium with the same files.
    #[must_use]
    pub fn copied(&self) -> Self {
        let copy = Self::default();
        copy.lock().files = self.lock().files.clone();
        copy
    }

    pub fn backend(&self) -> Arc<dyn Backend> {
        Arc::new(self.clone())
    }

    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        self.lock().files.insert(name.to_owned(), Arc::new(bytes));
    }

    pub fn get(&self, name: &str) -> Option<Arc<Vec<u8>>> {
        self.lock().files.get(name).cloned()
    }

    pub fn take(&self, name: &str) {
        self.lock().files.remove(name);
    }

    /// The names of all files, ascending.
    pub fn names(&self) -> Vec<String> {
        self.lock().files.keys().cloned().collect()
    }

    /// Has something go wrong from now on.
    pub fn arm(&self, coming: Coming) {
        self.lock().coming = Some(coming);
    }

    /// Nothing goes wrong any more. Whether anything did.
    pub fn disarm(&self) -> bool {
        let mut state = self.lock();
        state.coming = None;
        state.is_dead = false;
        std::mem::take(&mut state.has_failed)
    }
}

impl Backend for Memory {
    fn place(&self) -> &Path {
        &self.place
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        let mut state = self.lock();
        state.step(Op::List)?;
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let mut listed: Vec<Listed> = Vec::new();
        for (name, bytes) in state.files.range(prefix.clone()..) {
            let Some(rest) = name.strip_prefix(&prefix) else { break };
            let (name, is_file) = rest.split_once('/').map_or((rest, true), |(folder, _)| (folder, false));
            if listed.last().is_some_and(|last| last.name == name) {
                continue;
            }
            let len = if is_file { bytes.len() as u64 } else { 0 };
            listed.push(Listed { name: name.to_owned(), len, is_file, modified: 0 });
        }
        Ok(listed)
    }

    fn open(&self, file: &str) -> io::Result<Box<dyn StoredFile>> {
        let mut state = self.lock();
        state.step(Op::Open)?;
        let bytes = state.files.get(file).ok_or(io::ErrorKind::NotFound)?.clone();
        Ok(Box::new(Stored { bytes, medium: self.clone() }))
    }

    fn create(&self, temporary: &str) -> io::Result<Box<dyn NewFile>> {
        let mut state = self.lock();
        state.step(Op::Create)?;
        if state.files.insert(temporary.to_owned(), Arc::default()).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(Box::new(New { medium: self.clone(), temporary: temporary.to_owned() }))
    }

    fn make_folder(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_folder(&self, _: &str) -> io::Result<()> {
        self.lock().step(Op::Sync).map(drop)
    }

    fn remove(&self, file: &str) -> io::Result<()> {
        let mut state = self.lock();
        let late = state.step(Op::Remove)?;
        state.files.remove(file).ok_or(io::ErrorKind::NotFound)?;
        late.map_or(Ok(()), Err)
    }

    fn sync(&self, _: &str) -> io::Result<()> {
        self.lock().step(Op::Sync).map(drop)
    }
}

struct Stored {
    bytes: Arc<Vec<u8>>,
    medium: Memory,
}

impl StoredFile for Stored {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.medium.lock().step(Op::Read)?;
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(self.bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn drop_cached(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Under its temporary name it can be read already, as in a folder.
struct New {
    medium: Memory,
    temporary: String,
}

impl Write for New {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.medium.lock();
        state.step(Op::Write)?;
        let file = state.files.entry(self.temporary.clone()).or_default();
        Arc::make_mut(file).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewFile for New {
    fn publish(self: Box<Self>, name: &str) -> io::Result<()> {
        let mut state = self.medium.lock();
        let late = state.step(Op::Publish)?;
        let bytes = state.files.remove(&self.temporary).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(name.to_owned(), bytes);
        late.map_or(Ok(()), Err)
    }
}

impl Drop for New {
    fn drop(&mut self) {
        let mut state = self.medium.lock();
        // Who was killed cleans nothing up.
        if !state.is_dead {
            state.files.remove(&self.temporary);
        }
    }
}
