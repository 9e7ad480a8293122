//! The file of the local state: values by folder and name, written once in the order of the walk, and read in the same order.
//!
//! Blocks | table | tail. A block holds `(name length, value length, name, stamp, value)` of one folder, names ascending, about 64 KiB
//! of them. Values that are long, as entries with the content of a small file, stand behind the block instead, together: who only compares stamps does not
//! read them. The last block of a folder that is known whole ends with a [`Summary`], each one with where its long values end. The table has a row for each block, by folder and by the number of its first
//! record there; it is all of the file that is held in memory. Each block has a checksum in its row; the table has one in the tail. A file that is not
//! whole has no tail, and is no state.
//!
//! A header lies beside it, in a file of its own that names the checksum of the tail: where nothing has changed, only that is written anew.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::backend::open_regular;
use crate::id::{self, ChunkId};
use crate::index::open_private;

/// Names a folder: a hash of its path.
pub(in crate::backup) type FolderKey = [u8; 16];

const MAGIC: [u8; 8] = *b"VLTSTATE";
const TAIL_LEN: usize = 40;
const ROW_LEN: usize = 40;
const SUMMARY_LEN: usize = 40;
/// What a block says of its long values: their length and checksum.
const LONG_LEN: usize = 12;
/// A stamp, as it is kept with each value.
pub(super) const STAMP_LEN: usize = 56;
/// In the length of a value: it is among the long ones.
const IS_LONG: u32 = 1 << 31;
/// A value is long if it has more bytes.
const SHORT_VALUE_LEN: usize = 256;
/// In the length of a block: a summary ends it.
const HAS_SUMMARY: u32 = 1 << 31;
/// A block is closed at this length …
const BLOCK_LEN: usize = 64 << 10;
/// … or if its long values have this length.
const LONG_VALUES_LEN: usize = 256 << 10;
/// No block is longer: an entry has at most 16 MiB.
const MAX_BLOCK_LEN: u32 = 32 << 20;
const BUFFER_LEN: usize = 256 << 10;

/// What a folder was that is known whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backup) struct Summary {
    /// How many records it has: one for each entry.
    pub count: u32,
    /// Its tree.
    pub node: ChunkId,
}

impl Summary {
    fn encode(&self) -> [u8; SUMMARY_LEN] {
        let mut bytes = [0; SUMMARY_LEN];
        bytes[..4].copy_from_slice(&self.count.to_le_bytes());
        bytes[8..].copy_from_slice(self.node.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Self {
        let (count, rest) = take(bytes);
        let (_, rest) = take::<4>(rest);
        Self { count: u32::from_le_bytes(count), node: ChunkId::from_bytes(take(rest).0) }
    }
}

/// Where the long values of a block are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Long {
    offset: u64,
    len: u32,
    checksum: [u8; 8],
}

impl Long {
    fn encode(bytes: &[u8]) -> [u8; LONG_LEN] {
        let mut encoded = [0; LONG_LEN];
        encoded[..4].copy_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        encoded[4..].copy_from_slice(&id::checksum_64(&[bytes]));
        encoded
    }

    /// From the end of a block of this row.
    fn of(row: &Row, block: &[u8]) -> Self {
        let (len, rest) = take(block.get(block.len().saturating_sub(LONG_LEN)..).unwrap_or_default());
        let offset = row.offset + u64::from(row.bytes());
        Self { offset, len: u32::from_le_bytes(len), checksum: take(rest).0 }
    }
}

/// The length of a value, and whether it is among the long ones.
pub(super) fn value_len(encoded: [u8; 4]) -> (usize, bool) {
    let len = u32::from_le_bytes(encoded);
    ((len & !IS_LONG) as usize, len & IS_LONG != 0)
}

/// Where a block is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    folder: FolderKey,
    /// The number of its first record in the folder.
    pub(super) first: u32,
    len: u32,
    offset: u64,
    checksum: [u8; 8],
}

impl Row {
    fn encode(&self) -> [u8; ROW_LEN] {
        let mut bytes = [0; ROW_LEN];
        bytes[..16].copy_from_slice(&self.folder);
        bytes[16..20].copy_from_slice(&self.first.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.len.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.offset.to_le_bytes());
        bytes[32..].copy_from_slice(&self.checksum);
        bytes
    }

    fn decode(bytes: &[u8; ROW_LEN]) -> Self {
        let (folder, rest) = take(bytes);
        let (first, rest) = take(rest);
        let (len, rest) = take(rest);
        let (offset, rest) = take(rest);
        let (checksum, _) = take(rest);
        let first = u32::from_le_bytes(first);
        Self { folder, first, len: u32::from_le_bytes(len), offset: u64::from_le_bytes(offset), checksum }
    }

    fn bytes(&self) -> u32 {
        self.len & !HAS_SUMMARY
    }

    pub(super) fn has_summary(&self) -> bool {
        self.len & HAS_SUMMARY != 0
    }
}

/// The first bytes, and the rest; zeros where there are not so many.
pub(super) fn take<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    bytes.split_first_chunk().map_or(([0; N], &[]), |(first, rest)| (*first, rest))
}

/// A state that was written whole.
pub(super) struct StateFile {
    file: File,
    header: Vec<u8>,
    rows: Vec<Row>,
    checksum: [u8; 16],
}

impl StateFile {
    /// Opens a file; none if it is not there or not what was written.
    pub(super) fn open(path: &Path) -> Option<Self> {
        let file = open_regular(path, OpenOptions::new().read(true)).ok()?;
        let len = file.metadata().ok()?.len();
        let mut tail = [0; TAIL_LEN];
        let tail_at = len.checked_sub(TAIL_LEN as u64)?;
        file.read_exact_at(&mut tail, tail_at).ok()?;
        let (magic, rest) = take::<8>(&tail);
        let (blocks_len, rest) = take(rest);
        let (row_count, rest) = take(rest);
        let (checksum, _) = take::<16>(rest);
        let blocks_len = u64::from_le_bytes(blocks_len);
        let table_len = usize::try_from(tail_at.checked_sub(blocks_len)?).ok()?;
        let row_count = usize::try_from(u64::from_le_bytes(row_count)).ok()?;
        if magic != MAGIC || row_count.checked_mul(ROW_LEN)? != table_len {
            return None;
        }
        let mut table = vec![0; table_len];
        file.read_exact_at(&mut table, blocks_len).ok()?;
        if id::checksum_128(&[&tail[..24], &table]) != checksum {
            return None;
        }
        let (rows, _) = table.as_chunks::<ROW_LEN>();
        let rows: Vec<Row> = rows.iter().map(Row::decode).collect();
        let header = read_header(path, &checksum)?;
        Some(Self { file, header, rows, checksum })
    }

    /// What was written as its header.
    pub(super) fn header(&self) -> &[u8] {
        &self.header
    }

    /// The rows of a folder.
    pub(super) fn rows_of(&self, folder: &FolderKey) -> &[Row] {
        let start = self.rows.partition_point(|row| row.folder < *folder);
        let rows = self.rows.get(start..).unwrap_or_default();
        rows.get(..rows.partition_point(|row| row.folder == *folder)).unwrap_or_default()
    }

    /// Reads so many bytes, whatever they are.
    fn read_unchecked(&self, (offset, len): (u64, u32), bytes: &mut Vec<u8>) -> bool {
        if len > MAX_BLOCK_LEN {
            return false;
        }
        bytes.resize(len as usize, 0);
        self.file.read_exact_at(bytes, offset).is_ok()
    }

    /// Reads the long values of a block.
    pub(super) fn read_long(&self, long: &Long, bytes: &mut Vec<u8>) -> Result<(), Spoilt> {
        if self.read_unchecked((long.offset, long.len), bytes) && id::checksum_64(&[bytes]) == long.checksum {
            Ok(())
        } else {
            Err(Spoilt)
        }
    }

    /// Reads a block, if it is what was written: its records. With where its long values are, and the summary that it may have.
    pub(super) fn read(&self, row: &Row, block: &mut Vec<u8>) -> Result<(Long, Option<Summary>), Spoilt> {
        if !self.read_unchecked((row.offset, row.bytes()), block) || id::checksum_64(&[block]) != row.checksum
        {
            return Err(Spoilt);
        }
        let long = Long::of(row, block);
        block.truncate(block.len().checked_sub(LONG_LEN).ok_or(Spoilt)?);
        if !row.has_summary() {
            return Ok((long, None));
        }
        let records_len = block.len().checked_sub(SUMMARY_LEN).ok_or(Spoilt)?;
        let summary = Summary::decode(block.get(records_len..).unwrap_or_default());
        block.truncate(records_len);
        Ok((long, Some(summary)))
    }
}

/// Where the header of a file is.
fn header_path(path: &Path) -> PathBuf {
    path.with_extension("head")
}

/// The header of the file with this checksum in its tail.
fn read_header(path: &Path, checksum: &[u8; 16]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(&header_path(path), OpenOptions::new().read(true)).ok()?.read_to_end(&mut bytes).ok()?;
    let (own, header) = bytes.split_first_chunk::<16>()?;
    (id::checksum_128(&[checksum, header]) == *own).then(|| header.to_vec())
}

/// A block is not what was written: nothing of the file is to be believed.
#[derive(Debug)]
pub(super) struct Spoilt;

/// Values of one folder that wait to be written.
#[derive(Default)]
pub(in crate::backup) struct OpenFolder {
    pub(in crate::backup) key: Option<FolderKey>,
    block: Vec<u8>,
    long_values: Vec<u8>,
    /// The number of the first record in the block.
    first: u32,
    count: u32,
    /// The name written last.
    pub(super) last: Vec<u8>,
}

impl OpenFolder {
    pub(in crate::backup) fn new(key: Option<FolderKey>) -> Self {
        Self { key, ..Self::default() }
    }
}

/// A state being written, beside the one that it will take the place of.
pub(super) struct NewStateFile {
    path: PathBuf,
    new_path: PathBuf,
    file: BufWriter<File>,
    len: u64,
    rows: Vec<Row>,
    is_kept: bool,
}

impl NewStateFile {
    /// Begins a file that is to become `path`. `WouldBlock` if another process does the same.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let new_path = path.with_extension("new");
        let file = open_private(&new_path)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        file.set_len(0)?;
        let file = BufWriter::with_capacity(BUFFER_LEN, file);
        Ok(Self { path: path.to_owned(), new_path, file, len: 0, rows: Vec::new(), is_kept: false })
    }

    /// Adds a value with its stamp to a folder. Names of a folder ascend.
    pub(super) fn add(
        &mut self,
        folder: &mut OpenFolder,
        name: &[u8],
        stamp: &[u8; STAMP_LEN],
        value: &[u8],
    ) -> io::Result<()> {
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let is_long = value.len() > SHORT_VALUE_LEN;
        folder.block.extend_from_slice(&len(name).to_le_bytes());
        let flag = if is_long { IS_LONG } else { 0 };
        folder.block.extend_from_slice(&(len(value) | flag).to_le_bytes());
        folder.block.extend_from_slice(name);
        folder.block.extend_from_slice(stamp);
        if is_long { &mut folder.long_values } else { &mut folder.block }.extend_from_slice(value);
        folder.count += 1;
        folder.last.clear();
        folder.last.extend_from_slice(name);
        let is_full = folder.block.len() >= BLOCK_LEN || folder.long_values.len() >= LONG_VALUES_LEN;
        if is_full { self.close_block(folder) } else { Ok(()) }
    }

    /// Writes what waits of a folder.
    pub(super) fn close_block(&mut self, folder: &mut OpenFolder) -> io::Result<()> {
        let Some(key) = folder.key.filter(|_| !folder.block.is_empty()) else { return Ok(()) };
        self.write_block(key, folder, 0)
    }

    /// Writes what waits of a folder that is known whole, with the tree that it has.
    pub(super) fn close_whole(&mut self, folder: &mut OpenFolder, node: ChunkId) -> io::Result<()> {
        let Some(key) = folder.key else { return Ok(()) };
        folder.block.extend_from_slice(&Summary { count: folder.count, node }.encode());
        self.write_block(key, folder, HAS_SUMMARY)
    }

    fn write_block(&mut self, key: FolderKey, folder: &mut OpenFolder, flags: u32) -> io::Result<()> {
        folder.block.extend_from_slice(&Long::encode(&folder.long_values));
        let len = u32::try_from(folder.block.len()).unwrap_or(u32::MAX) | flags;
        let checksum = id::checksum_64(&[&folder.block]);
        let row = Row { folder: key, first: folder.first, len, offset: 0, checksum };
        self.append(row, &folder.block, &folder.long_values)?;
        folder.first = folder.count;
        folder.block.clear();
        folder.long_values.clear();
        Ok(())
    }

    /// Writes a block and its long values; it gets its place here.
    fn append(&mut self, row: Row, block: &[u8], long_values: &[u8]) -> io::Result<()> {
        self.file.write_all(block)?;
        self.file.write_all(long_values)?;
        self.rows.push(Row { offset: self.len, ..row });
        self.len += (block.len() + long_values.len()) as u64;
        Ok(())
    }

    /// Takes over from an older file the folders that `wanted` names and this one says nothing of.
    pub(super) fn take_over(
        &mut self,
        old: &StateFile,
        wanted: impl Fn(&FolderKey) -> bool,
    ) -> io::Result<()> {
        self.rows.sort_unstable();
        let is_new = |row: &Row| self.rows.binary_search_by(|own| own.folder.cmp(&row.folder)).is_ok();
        let missing = old.rows.iter().filter(|row| wanted(&row.folder) && !is_new(row));
        let mut missing: Vec<Row> = missing.copied().collect();
        missing.sort_unstable_by_key(|row| row.offset);
        let (mut block, mut long_values) = (Vec::new(), Vec::new());
        for row in missing {
            // The checksums go with it, so what is damaged there is known as damaged here.
            if !old.read_unchecked((row.offset, row.bytes()), &mut block) {
                break;
            }
            let long = Long::of(&row, &block);
            if !old.read_unchecked((long.offset, long.len), &mut long_values) {
                break;
            }
            self.append(row, &block, &long_values)?;
        }
        Ok(())
    }

    /// Whether this one, with the folders `same` of the older file, would have in it just what that has.
    pub(super) fn adds_nothing_to(&self, old: &StateFile, same: &HashSet<FolderKey>) -> bool {
        self.rows.is_empty() && old.rows.iter().all(|row| same.contains(&row.folder))
    }

    /// Gives the older file this header, instead of this one.
    pub(super) fn keep_old(mut self, old: &StateFile, header: &[u8]) -> io::Result<()> {
        self.write_header(&old.checksum, header)
    }

    /// Ends the file and puts it in place.
    pub(super) fn keep(mut self, header: &[u8]) -> io::Result<()> {
        self.rows.sort_unstable();
        let table = self.rows.iter().flat_map(Row::encode).collect::<Vec<u8>>();
        let mut tail = [0; TAIL_LEN];
        tail[..8].copy_from_slice(&MAGIC);
        tail[8..16].copy_from_slice(&self.len.to_le_bytes());
        tail[16..24].copy_from_slice(&(self.rows.len() as u64).to_le_bytes());
        let checksum = id::checksum_128(&[&tail[..24], &table]);
        tail[24..].copy_from_slice(&checksum);
        [&table[..], &tail].iter().try_for_each(|part| self.file.write_all(part))?;
        self.file.flush()?;
        fs::rename(&self.new_path, &self.path)?;
        self.is_kept = true;
        // Where it ends here, the file has no header, and is no state.
        self.write_header(&checksum, header)
    }

    fn write_header(&mut self, checksum: &[u8; 16], header: &[u8]) -> io::Result<()> {
        let new_path = self.path.with_extension("head.new");
        let mut file = open_private(&new_path)?;
        file.set_len(0)?;
        file.write_all(&id::checksum_128(&[checksum, header]))?;
        file.write_all(header)?;
        fs::rename(new_path, header_path(&self.path))
    }
}

impl Drop for NewStateFile {
    fn drop(&mut self) {
        if !self.is_kept {
            // What is left of it is written over the next time.
            let _ = fs::remove_file(&self.new_path);
        }
    }
}

#[cfg(test)]
mod tests;
