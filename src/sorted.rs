//! More rows than there is memory for, in order: sorted runs in files without a name, merged when they are read.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::session;

/// So many bytes of a run are read at once.
const READ_AT_ONCE: usize = 64 << 10;

/// Rows of `N` bytes that are being gathered.
pub(crate) struct Gathered<const N: usize> {
    folder: PathBuf,
    most: usize,
    held: Vec<[u8; N]>,
    runs: Vec<Run>,
}

/// Rows in order, each once. They can be read any number of times.
pub(crate) struct Sorted<const N: usize> {
    folder: PathBuf,
    held: Vec<[u8; N]>,
    runs: Vec<Run>,
}

struct Run {
    file: File,
    rows: u64,
}

impl<const N: usize> Gathered<N> {
    /// Keeps at most so many rows in memory, the others in `folder`.
    pub(crate) fn new(folder: &Path, most: usize) -> Self {
        Self { folder: folder.to_owned(), most: most.max(1), held: Vec::new(), runs: Vec::new() }
    }

    /// Adds a row.
    ///
    /// # Errors
    /// Any error of the folder.
    pub(crate) fn add(&mut self, row: [u8; N]) -> Result<()> {
        self.held.push(row);
        if self.held.len() < self.most {
            return Ok(());
        }
        self.held.sort_unstable();
        self.held.dedup();
        // What is there often is cheaper to forget than to write.
        if self.held.len() > self.most / 2 {
            self.spill().map_err(|source| Error::Path {
                action: "write",
                path: self.folder.clone(),
                source,
            })?;
        }
        Ok(())
    }

    /// All of them, in order.
    pub(crate) fn sort(mut self) -> Sorted<N> {
        self.held.sort_unstable();
        self.held.dedup();
        self.held.shrink_to_fit();
        Sorted { folder: self.folder, held: self.held, runs: self.runs }
    }

    fn spill(&mut self) -> std::io::Result<()> {
        let name = format!("sorted-{:016x}.tmp", u64::from_le_bytes(session::random()));
        let path = self.folder.join(name);
        fs::create_dir_all(&self.folder)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        fs::remove_file(&path)?;
        let mut writer = BufWriter::with_capacity(1 << 20, &file);
        self.held.iter().try_for_each(|row| writer.write_all(row))?;
        writer.flush()?;
        drop(writer);
        self.runs.push(Run { file, rows: self.held.len() as u64 });
        self.held.clear();
        Ok(())
    }
}

impl<const N: usize> Sorted<N> {
    /// The rows, from the first one on.
    pub(crate) fn rows(&self) -> Rows<'_, N> {
        let runs =
            self.runs.iter().map(|run| Reading { run, next: 0, block: Vec::new().into_iter() }).collect();
        Rows { sorted: self, runs, held: 0, next: BinaryHeap::new(), begun: false, last: None }
    }
}

struct Reading<'s, const N: usize> {
    run: &'s Run,
    next: u64,
    block: std::vec::IntoIter<[u8; N]>,
}

impl<const N: usize> Reading<'_, N> {
    fn next(&mut self) -> std::io::Result<Option<[u8; N]>> {
        if let Some(row) = self.block.next() {
            return Ok(Some(row));
        }
        let rows = (self.run.rows - self.next).min((READ_AT_ONCE / N).max(1) as u64);
        if rows == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(rows).unwrap_or(0) * N];
        self.run.file.read_exact_at(&mut bytes, self.next * N as u64)?;
        self.next += rows;
        self.block = bytes.as_chunks().0.to_vec().into_iter();
        Ok(self.block.next())
    }
}

/// Rows that are being read, each once.
pub(crate) struct Rows<'s, const N: usize> {
    sorted: &'s Sorted<N>,
    runs: Vec<Reading<'s, N>>,
    held: usize,
    next: BinaryHeap<Reverse<([u8; N], usize)>>,
    begun: bool,
    last: Option<[u8; N]>,
}

impl<const N: usize> Rows<'_, N> {
    /// The next one.
    ///
    /// # Errors
    /// Any error of the folder.
    pub(crate) fn next(&mut self) -> Result<Option<[u8; N]>> {
        if !self.begun {
            self.begun = true;
            (0..=self.runs.len()).try_for_each(|number| self.advance(number))?;
        }
        while let Some(Reverse((row, number))) = self.next.pop() {
            self.advance(number)?;
            if self.last.replace(row) != Some(row) {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// Puts the next row of a run among the others; those in memory are the last run.
    fn advance(&mut self, number: usize) -> Result<()> {
        let row = if let Some(run) = self.runs.get_mut(number) {
            run.next().map_err(|source| Error::Path {
                action: "read",
                path: self.sorted.folder.clone(),
                source,
            })?
        } else {
            self.held += 1;
            self.sorted.held.get(self.held - 1).copied()
        };
        self.next.extend(row.map(|row| Reverse((row, number))));
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    #[test]
    fn rows_come_in_order_and_once_however_many_runs_they_are_in() {
        let folder = tempfile::tempdir().unwrap();
        for most in [1, 7, 100, 100_000] {
            let mut gathered = Gathered::<4>::new(folder.path(), most);
            for number in 0..10_000u32 {
                gathered.add((number.wrapping_mul(2_654_435_761) % 5_000).to_be_bytes()).unwrap();
            }
            let sorted = gathered.sort();
            assert_eq!(sorted.runs.is_empty(), most > 10_000);
            // Twice: what was read can be read again.
            for _ in 0..2 {
                let mut rows = sorted.rows();
                let found: Vec<u32> =
                    std::iter::from_fn(|| rows.next().unwrap()).map(u32::from_be_bytes).collect();
                assert_eq!(found.len(), found.iter().collect::<std::collections::HashSet<_>>().len());
                assert!(found.is_sorted() && found.len() > 3_000, "{}", found.len());
            }
        }
        // Nothing is left, whatever becomes of the process.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
