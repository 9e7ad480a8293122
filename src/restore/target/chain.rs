//! A chain of directories of any depth, of which a bounded number is open.

use std::io;
use std::sync::{Arc, Weak};

use super::{Dir, Inode};
use crate::restore::joined;

/// A chain keeps at most so many directories open.
const MAX_OPEN_DIRS: usize = 64;
/// So many of the last directories of a chain are opened again together, so that going up does not search for each one.
const REOPENED_DIRS: usize = 32;

/// A chain of directories from a root down to the current one.
pub(in crate::restore) struct Dirs {
    root: Arc<Dir>,
    steps: Vec<Step>,
}

struct Step {
    name: Vec<u8>,
    inode: Inode,
    /// Held while it is one of the last ones.
    held: Option<Arc<Dir>>,
    /// Open as long as anybody holds it, as those do that are hidden.
    dir: Weak<Dir>,
}

impl Dirs {
    /// The chain that consists of its root.
    pub(in crate::restore) fn new(root: Arc<Dir>) -> Self {
        Self { root, steps: Vec::new() }
    }

    /// Goes down into `dir`, which is called `name` in the current directory.
    pub(in crate::restore) fn push(&mut self, name: &[u8], dir: Arc<Dir>) {
        self.steps.push(Step {
            name: name.to_vec(),
            inode: dir.inode,
            dir: Arc::downgrade(&dir),
            held: Some(dir),
        });
        if let Some(far) = self.steps.len().checked_sub(MAX_OPEN_DIRS + 1) {
            self.steps[far].held = None;
        }
    }

    /// Goes up.
    pub(in crate::restore) fn pop(&mut self) {
        self.steps.pop();
    }

    /// The current directory, opened again if need be.
    pub(in crate::restore) fn top(&mut self) -> io::Result<Arc<Dir>> {
        let Some(last) = self.steps.last() else { return Ok(self.root.clone()) };
        if let Some(dir) = &last.held {
            return Ok(dir.clone());
        }
        let mut open = self.steps.iter().enumerate().rev();
        let open = open.find_map(|(index, step)| Some((index + 1, step.dir.upgrade()?)));
        let (mut from, mut current) = open.unwrap_or_else(|| (0, self.root.clone()));
        let first = from.max(self.steps.len().saturating_sub(REOPENED_DIRS));
        for to in first..self.steps.len() {
            let names: Vec<&[u8]> = self.steps[from..=to].iter().map(|step| step.name.as_slice()).collect();
            let path = joined(&current.path, &names.join(&b'/'));
            current = Arc::new(current.walk_to(&names, path, self.steps[to].inode)?);
            self.steps[to].dir = Arc::downgrade(&current);
            self.steps[to].held = Some(current.clone());
            from = to + 1;
        }
        Ok(current)
    }
}
