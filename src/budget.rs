//! One budget for the memory of the whole process, and for its threads: what each part may take of it.
//!
//! Half of it goes to threads, each with its buffers and frames; caches and batches have a share each, which their constants give for
//! a budget of [`DEFAULT_MEMORY`]. The tables of the index are not in a cache: they take 40 MiB for 100 million chunks.

use std::num::NonZero;
use std::thread::available_parallelism;

use crate::error::{Error, Result};

/// The memory of a process, in bytes, unless the user says otherwise.
pub const DEFAULT_MEMORY: u64 = 256 << 20;
/// The least with which every operation works: two frames, one thread, and an index.
pub const MIN_MEMORY: u64 = 96 << 20;
/// What a program with one thread takes besides that.
const OTHER_MEMORY: u64 = 48 << 20;
/// Caches and batches do not gain from being so many times as large as in a budget of the default size.
const MOST_TIMES: u64 = 8;

/// What a process may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    memory: u64,
    cores: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { memory: DEFAULT_MEMORY, cores: cores() }
    }
}

/// How many threads can run at once.
fn cores() -> usize {
    available_parallelism().map_or(1, NonZero::get)
}

impl Budget {
    /// A budget of so many bytes, and so many threads that compute: one for each core if nothing is said.
    ///
    /// # Errors
    /// `Usage` for less than [`MIN_MEMORY`].
    pub fn new(memory: u64, threads: Option<NonZero<usize>>) -> Result<Self> {
        if memory < MIN_MEMORY {
            let least = MIN_MEMORY >> 20;
            return Err(Error::Usage(format!("a budget of memory is at least {least} MiB")));
        }
        Ok(Self { memory, cores: threads.map_or_else(cores, NonZero::get) })
    }

    /// Refuses what takes so many bytes of memory all the time, if there is no room for it.
    ///
    /// # Errors
    /// `Usage`, with how much there has to be.
    pub fn check_room(self, bytes: usize, what: &str) -> Result<()> {
        let least = bytes as u64 + OTHER_MEMORY;
        if least <= self.memory {
            return Ok(());
        }
        let (has, least) = (self.memory >> 20, least.div_ceil(1 << 20));
        Err(Error::Usage(format!(
            "{what} takes a budget of {least} MiB of memory, and this one is {has} MiB"
        )))
    }

    /// How many threads there is memory for where each takes so many bytes: as many as compute at most, and one at least.
    #[must_use]
    pub fn threads(self, bytes_each: usize) -> usize {
        let room = usize::try_from(self.memory / 2).unwrap_or(usize::MAX) / bytes_each.max(1);
        room.clamp(1, self.cores.max(1))
    }

    /// How large a cache is, in whatever it counts, that has this size in a budget of [`DEFAULT_MEMORY`].
    #[must_use]
    pub fn share(self, by_default: usize) -> usize {
        let memory = self.memory.min(DEFAULT_MEMORY * MOST_TIMES);
        let share = by_default as u128 * u128::from(memory) / u128::from(DEFAULT_MEMORY);
        usize::try_from(share).unwrap_or(usize::MAX).max(1)
    }

    /// The same for a batch, which gains nothing from being larger than that.
    #[must_use]
    pub fn share_at_most(self, by_default: usize) -> usize {
        self.share(by_default).min(by_default)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn budget(mib: u64, threads: usize) -> Budget {
        Budget::new(mib << 20, NonZero::new(threads)).unwrap()
    }

    #[test]
    fn threads_are_as_many_as_half_of_the_memory_has_room_for() {
        assert_eq!(budget(256, 64).threads(32 * MIB), 4);
        assert_eq!(budget(256, 2).threads(32 * MIB), 2);
        assert_eq!(budget(4096, 64).threads(32 * MIB), 64);
        assert_eq!(budget(96, 64).threads(100 * MIB), 1);
    }

    #[test]
    fn shares_follow_the_memory() {
        assert_eq!(budget(256, 1).share(1000), 1000);
        assert_eq!(budget(128, 1).share(1000), 500);
        assert_eq!(budget(1024, 1).share(1000), 4000);
        assert_eq!(budget(1 << 20, 1).share(1000), 8000);
        assert_eq!(budget(1024, 1).share_at_most(1000), 1000);
        assert_eq!(budget(96, 1).share(1), 1);
    }

    #[test]
    fn less_than_every_operation_needs_is_refused() {
        assert!(Budget::new(MIN_MEMORY - 1, None).is_err() && Budget::new(MIN_MEMORY, None).is_ok());
        let error = budget(96, 1).check_room(80 * MIB, "this").unwrap_err();
        assert!(error.to_string().contains("128 MiB"), "{error}");
        assert!(budget(128, 1).check_room(80 * MIB, "this").is_ok());
    }
}
