//! The log file: a line for each thing that is said, with the time, appended.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use vault::error::{Error, Result};

use super::locked;

/// A log file, open for appending. Cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<Mutex<File>>);

impl Log {
    /// Opens the file, or makes it.
    pub fn open(path: &Path) -> Result<Self> {
        let file =
            OpenOptions::new().append(true).create(true).open(path).map_err(Error::path("open", path))?;
        Ok(Self(Arc::new(Mutex::new(file))))
    }

    /// Appends a line. A full disk must not end a run over its log: what cannot be written is missing there.
    pub fn line(&self, level: &str, text: &str) {
        let now = jiff::Zoned::now();
        let time = now.timestamp().display_with_offset(now.offset());
        let line = format!("{time:.3} {level:<7} {text}\n");
        let _ = locked(&self.0).write_all(line.as_bytes());
    }
}
