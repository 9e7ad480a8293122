//! What happens, as it happens: one stream of events, from which the progress bar, the summary, the log and the JSON
//! are all made. The library never prints.

use std::path::Path;

use crate::error::Error;

/// Takes events. Called from several threads, often: it must be quick.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn event(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Send + Sync> Observer for F {
    fn event(&self, event: &Event<'_>) {
        self(event);
    }
}

/// An observer that looks away.
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: &Event<'_>) {}
}

/// Something that happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// An operation entered a phase: `scanning`, `checking packs`, …
    Phase(&'static str),
    /// What is to be done in this phase, as far as is known: an estimate that may come again.
    Planned {
        /// Files, packs, or whatever the operation counts.
        items: u64,
        /// Bytes of them.
        bytes: u64,
    },
    /// Work on this path began.
    Started {
        /// Below the source, the target or the repository.
        path: &'a Path,
    },
    /// So many bytes more were done (read from the source, restored, verified, copied).
    Advanced {
        /// How many.
        bytes: u64,
    },
    /// An item is done.
    Done {
        /// Its path.
        path: &'a Path,
        /// What it is.
        item: Item,
        /// What became of it.
        change: Change,
        /// The bytes of its content.
        bytes: u64,
    },
    /// A new chunk was put into the repository.
    ChunkAdded {
        /// Its plain length.
        plain_len: u64,
    },
    /// A file of the repository is published: whole, synced, and under its name.
    Published {
        /// Its name in the repository.
        file: &'a str,
        /// Its length.
        len: u64,
    },
    /// Something the user should know; the result is whole all the same.
    Notice {
        /// What it is about, or empty.
        path: &'a Path,
        /// The text.
        text: &'a str,
    },
    /// A file of the repository is damaged or missing. The result is whole all the same, but not all is well. Each file comes once.
    Damage {
        /// What is wrong with it.
        error: &'a Error,
    },
    /// Something that the result lacks because of this.
    Problem {
        /// What it is about.
        path: &'a Path,
        /// What went wrong.
        error: &'a Error,
    },
}

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Any other entry: symlink, FIFO, socket, device.
    Other,
    /// A pack, segment, snapshot or other file of a repository.
    RepositoryFile,
}

/// What became of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was not there before.
    New,
    /// It was there and differed.
    Changed,
    /// It was there and is the same.
    Unchanged,
    /// It was there and is gone.
    Removed,
    /// It was passed over because the user or the situation asked for it.
    LeftOut,
}
