//! Names that the target's file system takes for one, or changes: each that cannot be had is said, and no file takes the place of another.
//!
//! Which names are one is only guessed at here; whether they are is asked once the other one has its name. What is not guessed
//! shows when a file gets its name, and somebody has it.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;

use crate::error::Result;
use crate::restore::target::{Folding, alike, fold, may_be_short};

use super::{Here, Walk};

/// The names of a directory so far.
pub(super) struct Folded {
    folding: Folding,
    /// Hashes of them, folded.
    seen: HashSet<u64>,
}

impl Folded {
    pub(super) fn new(folding: Folding) -> Self {
        Self { folding, seen: HashSet::new() }
    }

    /// Whether another name before may be the same.
    fn is_seen(&mut self, name: &[u8]) -> bool {
        let mut hasher = DefaultHasher::new();
        fold(name).hash(&mut hasher);
        !self.seen.insert(hasher.finish())
    }
}

impl Walk<'_, '_> {
    /// Why nothing can have this name in the current directory.
    pub(super) fn cannot_be_called(&mut self, name: &[u8]) -> Result<Option<io::Error>> {
        let Some(folded) = self.levels.last_mut().and_then(|level| level.folded.as_mut()) else {
            return Ok(None);
        };
        let may_be_twin = folded.is_seen(name);
        if folded.folding.changes(name) {
            let text = "this file system drops the dot at the end of a name";
            return Ok(Some(io::Error::new(io::ErrorKind::InvalidFilename, text)));
        }
        if !may_be_twin && !may_be_short(name) {
            return Ok(None);
        }
        if self.run.options.dry_run {
            return Ok(may_be_twin.then(alike));
        }
        // The other one may wait for its name.
        self.flusher.flush(&mut self.batch)?;
        self.flusher.wait()?;
        let Here::Open(dir) = self.here()? else { return Ok(None) };
        Ok(dir.has_otherwise(name, may_be_twin)?.then(alike))
    }
}
