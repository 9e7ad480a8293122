//! A medium that takes everything and keeps nothing: for a run that only wants to know.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use crate::backend::{Backend, Listed, NewFile, StoredFile};

/// Reads from the real medium, writes nowhere.
pub(super) struct DryRun(pub(super) Arc<dyn Backend>);

impl Backend for DryRun {
    fn place(&self) -> &Path {
        self.0.place()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        self.0.list(folder)
    }

    fn open(&self, file: &str) -> io::Result<Box<dyn StoredFile>> {
        self.0.open(file)
    }

    fn create(&self, _: &str) -> io::Result<Box<dyn NewFile>> {
        Ok(Box::new(Nowhere))
    }

    fn make_folder(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_folder(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
}

struct Nowhere;

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewFile for Nowhere {
    fn publish(self: Box<Self>, _: &str) -> io::Result<()> {
        Ok(())
    }
}
