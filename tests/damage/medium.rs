//! A repository in memory, with at most one file changed.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;

use vault::backend::{Backend, Listed, NewFile, StoredFile};

/// What is done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Flip {
        at: usize,
        bit: u8,
    },
    Truncate {
        len: usize,
    },
    Append {
        byte: u8,
    },
    Remove,
    /// A block is as if it had never been written.
    Zero {
        at: usize,
        len: usize,
    },
    /// Two blocks stand in one another's place.
    Swap {
        at: usize,
        other: usize,
        len: usize,
    },
    /// A block is what another file, by its number, has at the same place.
    Stale {
        at: usize,
        len: usize,
        from: usize,
    },
    /// All bytes are those of another file, by its number.
    Other {
        from: usize,
    },
}

/// The files of a repository; shared, but for one.
#[derive(Clone)]
pub struct Medium {
    files: Arc<BTreeMap<String, Arc<Vec<u8>>>>,
    folders: Arc<HashMap<String, Vec<Listed>>>,
    changed: Option<(String, Option<Arc<Vec<u8>>>)>,
}

impl Medium {
    /// All of a folder.
    pub fn load(root: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut folders: HashMap<String, Vec<Listed>> = HashMap::new();
        let mut pending = vec![String::new()];
        while let Some(folder) = pending.pop() {
            let mut listed = Vec::new();
            for entry in std::fs::read_dir(root.join(&folder)).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
                let is_file = entry.file_type().unwrap().is_file();
                let mut len = 0;
                if is_file {
                    let bytes = std::fs::read(entry.path()).unwrap();
                    len = bytes.len() as u64;
                    files.insert(path, Arc::new(bytes));
                } else {
                    pending.push(path);
                }
                listed.push(Listed { name, len, is_file, modified: 0 });
            }
            folders.insert(folder, listed);
        }
        Self { files: Arc::new(files), folders: Arc::new(folders), changed: None }
    }

    /// The names and lengths of the files.
    pub fn files(&self) -> Vec<(String, usize)> {
        self.files.iter().map(|(name, bytes)| (name.clone(), bytes.len())).collect()
    }

    /// The same with one file changed.
    pub fn with(&self, file: &str, change: Change) -> Self {
        let mut bytes = self.files[file].to_vec();
        let end = |at: usize, len: usize| bytes.len().min(at + len);
        match change {
            Change::Remove => {
                return Self { changed: Some((file.to_owned(), None)), ..self.clone() };
            }
            Change::Flip { at, bit } => bytes[at] ^= bit,
            Change::Truncate { len } => bytes.truncate(len),
            Change::Append { byte } => bytes.push(byte),
            Change::Zero { at, len } => {
                let end = end(at, len);
                bytes[at..end].fill(0);
            }
            Change::Swap { at, other, len } => {
                let (before, after) = bytes.split_at_mut(other);
                before[at..at + len].swap_with_slice(&mut after[..len]);
            }
            Change::Stale { at, len, from } => {
                let other = self.number(from);
                let end = end(at, len).min(other.len()).max(at);
                bytes[at..end].copy_from_slice(other.get(at..end).unwrap_or_default());
            }
            Change::Other { from } => bytes = self.number(from).to_vec(),
        }
        Self { changed: Some((file.to_owned(), Some(Arc::new(bytes)))), ..self.clone() }
    }

    /// The bytes of the file of a number in [`Self::files`].
    fn number(&self, number: usize) -> &[u8] {
        self.files.values().nth(number).unwrap()
    }

    /// Whether the change that was made to this file has left it as it was.
    pub fn is_unchanged(&self, file: &str) -> bool {
        self.bytes(file) == self.files.get(file)
    }

    /// As a medium for a repository.
    pub fn share(&self) -> Arc<dyn Backend> {
        Arc::new(self.clone())
    }

    /// The bytes of a file.
    pub fn bytes(&self, file: &str) -> Option<&Arc<Vec<u8>>> {
        match &self.changed {
            Some((changed, bytes)) if changed == file => bytes.as_ref(),
            _ => self.files.get(file),
        }
    }
}

impl Backend for Medium {
    fn place(&self) -> &Path {
        Path::new("memory")
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        let mut listed = self.folders.get(folder).ok_or(io::ErrorKind::NotFound)?.clone();
        if let Some((changed, bytes)) = &self.changed {
            let (parent, name) = changed.rsplit_once('/').unwrap_or(("", changed));
            if parent == folder {
                match bytes {
                    None => listed.retain(|entry| entry.name != name),
                    Some(bytes) => listed
                        .iter_mut()
                        .filter(|entry| entry.name == name)
                        .for_each(|entry| entry.len = bytes.len() as u64),
                }
            }
        }
        Ok(listed)
    }

    fn open(&self, file: &str) -> io::Result<Box<dyn StoredFile>> {
        let bytes = self.bytes(file).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Stored(bytes.clone())))
    }

    fn create(&self, _: &str) -> io::Result<Box<dyn NewFile>> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn make_folder(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_folder(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

struct Stored(Arc<Vec<u8>>);

impl StoredFile for Stored {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let bytes = self.0.get(start..start.saturating_add(buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn drop_cached(&self) -> io::Result<()> {
        Ok(())
    }
}
