//! How a run writes, and what it has written.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::event::Observer;
use crate::id::PackId;
use crate::pack::Compression;

/// How a writer writes.
pub struct WriteOptions {
    /// How frames are compressed.
    pub compression: Compression,
    /// Where packs are closed, in bytes; at most `MAX_PACK_LEN`.
    pub pack_len: u64,
    /// The folder of the redb cache of this repository, if there may be one.
    pub cache_folder: Option<PathBuf>,
    /// Do everything but write: sizes are true, nothing is stored.
    pub dry_run: bool,
    /// Packs that do not count as present, though nobody has condemned them yet.
    pub condemned: HashSet<PackId>,
    /// Hears of packs published, adopted, and so on.
    pub observer: Arc<dyn Observer>,
}

/// The length of packs unless the user says otherwise.
pub const DEFAULT_PACK_LEN: u64 = 64 << 20;

impl WriteOptions {
    /// The defaults, with this observer.
    #[must_use]
    pub fn new(observer: Arc<dyn Observer>) -> Self {
        Self {
            compression: Compression::default(),
            pack_len: DEFAULT_PACK_LEN,
            cache_folder: None,
            dry_run: false,
            condemned: HashSet::new(),
            observer,
        }
    }
}

/// What a run has written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Chunks that were new.
    pub chunks: u64,
    /// Their plain bytes.
    pub plain_bytes: u64,
    /// Bytes of the packs and segments published.
    pub stored_bytes: u64,
}
