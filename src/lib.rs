//! vault: a content-addressed snapshot store.
//!
//! Files are cut into chunks where their content says so, chunks are named by their BLAKE3, compressed together in frames, and kept
//! in packs; a snapshot is a tree of chunks. `spec/format.md` has every byte.
//!
//! # Reading order
//!
//! One file's bytes from disk to disk, through six files: [`source`] (what there is to save), [`chunk`] (bytes to chunks),
//! [`pack`] (chunks to frames to packs), [`index`] (where every chunk lies), [`snapshot`] (what a snapshot says), [`restore`] (back to
//! disk). Two conductors lead through them: [`repository`] (open, get, put, publish; the order of durability) and [`backup`].
//!
//! # Layers
//!
//! A module imports only from layers above it in this table; operations do not import one another, except that `backup` and
//! `diff` read a [`source`]. `tests/tidy.rs` holds it so.
//!
//! | layer | modules |
//! |---|---|
//! | leaves | [`id`] [`error`] [`codec`] [`field`] [`header`] [`event`] [`backend`] [`pattern`] [`rate`] [`session`] [`guard`] [`seal`] [`budget`] `sorted` |
//! | bytes | [`chunk`], then [`pack`], then [`sidecar`], then [`index`] |
//! | trees | [`snapshot`], then [`browse`] |
//! | the store | [`repository`], then `transfer` |
//! | operations | [`source`] [`backup`] [`restore`] [`check`] [`mirror`] [`heal`] [`find`] [`diff`] [`export`] [`stats`] [`usage`] [`forget`] [`rewrite`] [`merge`] [`copy`] [`prune`] [`parity`] |
//!
//! The library never prints, exits or reads the environment. What happens is told to an [`event::Observer`]. Long operations take a flag and
//! end soon after it is set.
//!
//! # Example
//!
//! ```
//! use std::sync::{Arc, atomic::AtomicBool};
//! use vault::backend::{Backend, LocalFolder};
//! use vault::backup::{BackupOptions, backup};
//! use vault::event::{Observer, Silent};
//! use vault::repository::{InitOptions, Repository};
//! use vault::restore::{RestoreOptions, restore};
//!
//! # let folder = tempfile::tempdir()?;
//! # let (place, source, target) = (folder.path().join("r"), folder.path().join("s"), folder.path().join("t"));
//! # std::fs::create_dir(&source)?;
//! # std::fs::write(source.join("a"), "kept")?;
//! let backend: Arc<dyn Backend> = Arc::new(LocalFolder::new(place));
//! Repository::init(&*backend, &InitOptions::default())?;
//! let repository = Repository::open(backend)?;
//!
//! let (observer, stop): (Arc<dyn Observer>, _) = (Arc::new(Silent), AtomicBool::new(false));
//! let mut options = BackupOptions::new(vec![source]);
//! options.as_path = Some(b"documents".to_vec());
//! let summary = backup(&repository, options, &observer, &stop)?;
//!
//! let snapshot = repository.snapshot(&summary.snapshot.expect("it was no dry run"))?;
//! restore(&repository.reader()?, &snapshot, b"documents", &target, &RestoreOptions::default(), &*observer, &stop)?;
//! assert_eq!(std::fs::read(target.join("a"))?, b"kept");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod backend;
pub mod backup;
pub mod browse;
pub mod budget;
pub mod check;
pub mod chunk;
pub mod codec;
pub mod copy;
pub mod diff;
pub mod error;
pub mod event;
pub mod export;
pub mod field;
pub mod find;
pub mod forget;
pub mod guard;
pub mod header;
pub mod heal;
pub mod id;
pub mod index;
pub mod merge;
pub mod mirror;
pub mod pack;
pub mod parity;
pub mod pattern;
pub mod prune;
pub mod rate;
pub mod repository;
pub mod restore;
pub mod rewrite;
pub mod seal;
pub mod session;
pub mod sidecar;
pub mod snapshot;
mod sorted;
pub mod source;
pub mod stats;
mod transfer;
pub mod usage;
