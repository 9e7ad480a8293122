//! Blocks of facts that were read lately.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::budget::Budget;
use crate::id::SegmentId;
use crate::index::facts::Row;

/// How many blocks are kept in memory, in each of two generations, in a budget of the default size: 32 MiB together.
const CACHED_BLOCKS: usize = 256;

/// Blocks read lately, shared by the segments of an index.
pub(super) struct BlockCache {
    generations: Mutex<[Blocks; 2]>,
    /// Blocks in each.
    most: usize,
}

type Blocks = HashMap<(SegmentId, usize), Arc<Vec<Row>>>;

impl BlockCache {
    pub(super) fn new(budget: Budget) -> Self {
        Self { generations: Mutex::default(), most: budget.share(CACHED_BLOCKS) }
    }

    pub(super) fn get(&self, key: (SegmentId, usize)) -> Option<Arc<Vec<Row>>> {
        let mut generations = self.generations.lock().ok()?;
        if let Some(block) = generations[0].get(&key) {
            return Some(block.clone());
        }
        let block = generations[1].remove(&key)?;
        self.keep(&mut generations, key, &block);
        Some(block)
    }

    pub(super) fn put(&self, key: (SegmentId, usize), block: &Arc<Vec<Row>>) {
        let Ok(mut generations) = self.generations.lock() else { return };
        self.keep(&mut generations, key, block);
    }

    fn keep(&self, [young, old]: &mut [Blocks; 2], key: (SegmentId, usize), block: &Arc<Vec<Row>>) {
        if young.len() >= self.most {
            *old = std::mem::take(young);
        }
        young.insert(key, block.clone());
    }
}
