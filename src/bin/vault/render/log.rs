//! The log file: a line for each thing that is said, with the time, appended.
//!
//! What is there already is only opened: neither its mode is changed nor is it replaced, so a device or a FIFO will do.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use vault::error::{Error, Result};

use super::locked;

/// A log file, open for appending. Cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    file: Mutex<File>,
    path: PathBuf,
    has_failed: AtomicBool,
    /// The first failure, until it is told.
    failure: Mutex<Option<Error>>,
}

impl Log {
    /// Opens the file, or makes it: names of files are nobody else's business.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        Ok(Self(Arc::new(Inner {
            file: Mutex::new(file.map_err(Error::path("open", path))?),
            path: path.to_owned(),
            has_failed: AtomicBool::new(false),
            failure: Mutex::new(None),
        })))
    }

    /// Appends a line. A full disk must not end a run over its log: what cannot be written is missing there, which is told once.
    pub fn line(&self, level: &str, text: &str) {
        let now = jiff::Zoned::now();
        let time = now.timestamp().display_with_offset(now.offset());
        let line = format!("{time:.3} {level:<7} {text}\n");
        let written = locked(&self.0.file).write_all(line.as_bytes());
        if let Err(error) = written
            && !self.0.has_failed.swap(true, Ordering::SeqCst)
        {
            *locked(&self.0.failure) = Some(Error::path("write", &self.0.path)(error));
        }
    }

    /// The first failure, if it was not told yet.
    pub fn news_of_failure(&self) -> Option<Error> {
        if self.has_failed() { locked(&self.0.failure).take() } else { None }
    }

    /// Whether a line could not be written.
    pub fn has_failed(&self) -> bool {
        self.0.has_failed.load(Ordering::SeqCst)
    }
}
