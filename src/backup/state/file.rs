//! The file of the local state: values by folder and name, written once in the order of the walk, and read in the same order.
//!
//! Blocks | header | table | tail. A block holds `(name length, value length, name, value)` of one folder, names ascending, about 64 KiB
//! of them. The table has a row for each block, by folder and by its number there; it is all of the file that is held in memory. Each block has a
//! checksum in its row; header and table have one in the tail. A file that is not whole has no tail, and is no state.

use std::cmp::Ordering;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::id;
use crate::index::open_private;

/// Names a folder: a hash of its path.
pub(in crate::backup) type FolderKey = [u8; 16];

const MAGIC: [u8; 8] = *b"VLTSTATE";
const TAIL_LEN: usize = 48;
const ROW_LEN: usize = 40;
/// A block is closed at this length.
const BLOCK_LEN: usize = 64 << 10;
/// No block is longer: an entry has at most 16 MiB.
const MAX_BLOCK_LEN: u32 = 32 << 20;
const BUFFER_LEN: usize = 256 << 10;

/// Where a block is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    folder: FolderKey,
    /// The how manieth of its folder it is.
    number: u32,
    len: u32,
    offset: u64,
    checksum: [u8; 8],
}

impl Row {
    fn encode(&self) -> [u8; ROW_LEN] {
        let mut bytes = [0; ROW_LEN];
        bytes[..16].copy_from_slice(&self.folder);
        bytes[16..20].copy_from_slice(&self.number.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.len.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.offset.to_le_bytes());
        bytes[32..].copy_from_slice(&self.checksum);
        bytes
    }

    fn decode(bytes: &[u8; ROW_LEN]) -> Self {
        let (folder, rest) = take(bytes);
        let (number, rest) = take(rest);
        let (len, rest) = take(rest);
        let (offset, rest) = take(rest);
        let (checksum, _) = take(rest);
        let number = u32::from_le_bytes(number);
        Self { folder, number, len: u32::from_le_bytes(len), offset: u64::from_le_bytes(offset), checksum }
    }
}

/// The first bytes, and the rest; zeros where there are not so many.
fn take<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    bytes.split_first_chunk().map_or(([0; N], &[]), |(first, rest)| (*first, rest))
}

/// A state that was written whole.
pub(super) struct StateFile {
    file: File,
    header: Vec<u8>,
    rows: Vec<Row>,
}

impl StateFile {
    /// Opens a file; none if it is not there or not what was written.
    pub(super) fn open(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        let len = file.metadata().ok()?.len();
        let mut tail = [0; TAIL_LEN];
        let tail_at = len.checked_sub(TAIL_LEN as u64)?;
        file.read_exact_at(&mut tail, tail_at).ok()?;
        let (magic, rest) = take::<8>(&tail);
        let (blocks_len, rest) = take(rest);
        let (header_len, rest) = take(rest);
        let (row_count, rest) = take(rest);
        let (checksum, _) = take::<16>(rest);
        let blocks_len = u64::from_le_bytes(blocks_len);
        let body_len = usize::try_from(tail_at.checked_sub(blocks_len)?).ok()?;
        let header_len = usize::try_from(u64::from_le_bytes(header_len)).ok()?;
        let table_len = usize::try_from(u64::from_le_bytes(row_count)).ok()?.checked_mul(ROW_LEN)?;
        if magic != MAGIC || header_len.checked_add(table_len)? != body_len {
            return None;
        }
        let mut body = vec![0; body_len];
        file.read_exact_at(&mut body, blocks_len).ok()?;
        if id::checksum_128(&[&tail[..32], &body]) != checksum {
            return None;
        }
        let (header, table) = body.split_at_checked(header_len)?;
        let (rows, _) = table.as_chunks::<ROW_LEN>();
        let rows: Vec<Row> = rows.iter().map(Row::decode).collect();
        Some(Self { file, header: header.to_vec(), rows })
    }

    /// What was written as its header.
    pub(super) fn header(&self) -> &[u8] {
        &self.header
    }

    /// The rows of a folder.
    fn rows_of(&self, folder: &FolderKey) -> &[Row] {
        let start = self.rows.partition_point(|row| row.folder < *folder);
        let rows = self.rows.get(start..).unwrap_or_default();
        rows.get(..rows.partition_point(|row| row.folder == *folder)).unwrap_or_default()
    }

    /// Reads a block into `block`; whether it is what was written.
    fn read(&self, row: &Row, block: &mut Vec<u8>) -> bool {
        if row.len > MAX_BLOCK_LEN {
            return false;
        }
        block.resize(row.len as usize, 0);
        self.file.read_exact_at(block, row.offset).is_ok() && id::checksum_64(&[block]) == row.checksum
    }
}

/// A block is not what was written: nothing of the file is to be believed.
pub(super) struct Spoilt;

/// A name and its value.
type Record<'b> = (&'b [u8], &'b [u8]);

/// Where in a block a record is.
struct Place {
    name: Range<usize>,
    value: Range<usize>,
}

/// A way through a file: quick for names that ascend in a folder, and for folders in the order of the walk.
pub(super) struct Cursor<'f> {
    file: &'f StateFile,
    folder: Option<FolderKey>,
    /// The blocks of the folder that are still to come.
    rows: &'f [Row],
    block: Vec<u8>,
    at: usize,
    /// The name that was asked for last.
    last: Vec<u8>,
}

impl<'f> Cursor<'f> {
    pub(super) fn new(file: &'f StateFile) -> Self {
        Self { file, folder: None, rows: &[], block: Vec::new(), at: 0, last: Vec::new() }
    }

    fn go_to(&mut self, folder: &FolderKey) {
        self.folder = Some(*folder);
        self.rows = self.file.rows_of(folder);
        self.block.clear();
        self.at = 0;
    }

    /// The value of a name in a folder.
    pub(super) fn get(&mut self, folder: &FolderKey, name: &[u8]) -> Result<Option<&[u8]>, Spoilt> {
        if self.folder != Some(*folder) || *name < self.last[..] {
            self.go_to(folder);
        }
        self.last.clear();
        self.last.extend_from_slice(name);
        loop {
            let Some(place) = self.here()? else { return Ok(None) };
            match self.block.get(place.name).unwrap_or_default().cmp(name) {
                Ordering::Less => self.at = place.value.end,
                Ordering::Equal => return Ok(self.block.get(place.value)),
                Ordering::Greater => return Ok(None),
            }
        }
    }

    /// The next name of the folder behind `after`, and its value.
    pub(super) fn next_after(
        &mut self,
        folder: &FolderKey,
        after: &[u8],
    ) -> Result<Option<Record<'_>>, Spoilt> {
        // Looking for it leaves the cursor at it, or where it would be.
        if self.get(folder, after)?.is_some()
            && let Some(place) = self.here()?
        {
            self.at = place.value.end;
        }
        let Some(place) = self.here()? else { return Ok(None) };
        Ok(self.block.get(place.name).zip(self.block.get(place.value)))
    }

    /// Where the record is that comes next.
    fn here(&mut self) -> Result<Option<Place>, Spoilt> {
        if self.at >= self.block.len() {
            let Some((row, rest)) = self.rows.split_first() else { return Ok(None) };
            self.rows = rest;
            self.at = 0;
            if !self.file.read(row, &mut self.block) {
                return Err(Spoilt);
            }
        }
        let (name_len, rest) = take(self.block.get(self.at..).unwrap_or_default());
        let (value_len, _) = take(rest);
        let name = self.at + 8;
        let value = name.saturating_add(u32::from_le_bytes(name_len) as usize);
        let end = value.saturating_add(u32::from_le_bytes(value_len) as usize);
        // Only an empty block, which is never written, has less.
        if end > self.block.len() {
            Err(Spoilt)
        } else {
            Ok(Some(Place { name: name..value, value: value..end }))
        }
    }
}

/// Values of one folder that wait to be written.
#[derive(Default)]
pub(super) struct OpenFolder {
    pub(super) key: Option<FolderKey>,
    block: Vec<u8>,
    blocks: u32,
    /// The name written last.
    pub(super) last: Vec<u8>,
}

impl OpenFolder {
    pub(super) fn new(key: Option<FolderKey>) -> Self {
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

    /// Adds a value, in parts, to a folder. Names of a folder ascend.
    pub(super) fn add(&mut self, folder: &mut OpenFolder, name: &[u8], value: &[&[u8]]) -> io::Result<()> {
        let encode = |len: usize| u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
        folder.block.extend_from_slice(&encode(name.len()));
        folder.block.extend_from_slice(&encode(value.iter().map(|part| part.len()).sum()));
        folder.block.extend_from_slice(name);
        for part in value {
            folder.block.extend_from_slice(part);
        }
        folder.last.clear();
        folder.last.extend_from_slice(name);
        if folder.block.len() >= BLOCK_LEN { self.close_block(folder) } else { Ok(()) }
    }

    /// Writes what waits of a folder.
    pub(super) fn close_block(&mut self, folder: &mut OpenFolder) -> io::Result<()> {
        let Some(key) = folder.key.filter(|_| !folder.block.is_empty()) else { return Ok(()) };
        self.write_block(key, folder.blocks, &folder.block)?;
        folder.blocks += 1;
        folder.block.clear();
        Ok(())
    }

    fn write_block(&mut self, folder: FolderKey, number: u32, block: &[u8]) -> io::Result<()> {
        let len = u32::try_from(block.len()).unwrap_or(u32::MAX);
        let row = Row { folder, number, len, offset: self.len, checksum: id::checksum_64(&[block]) };
        self.file.write_all(block)?;
        self.len += u64::from(len);
        self.rows.push(row);
        Ok(())
    }

    /// Takes over the folders of an older file that this one says nothing of.
    pub(super) fn take_over(&mut self, old: &StateFile) -> io::Result<()> {
        self.rows.sort_unstable();
        let is_new = |row: &Row| self.rows.binary_search_by(|own| own.folder.cmp(&row.folder)).is_ok();
        let missing: Vec<Row> = old.rows.iter().filter(|row| !is_new(row)).copied().collect();
        let mut block = Vec::new();
        for row in missing {
            if !old.read(&row, &mut block) {
                break;
            }
            self.write_block(row.folder, row.number, &block)?;
        }
        Ok(())
    }

    /// Ends the file and puts it in place.
    pub(super) fn keep(mut self, header: &[u8]) -> io::Result<()> {
        self.rows.sort_unstable();
        let table = self.rows.iter().flat_map(Row::encode).collect::<Vec<u8>>();
        let mut tail = [0; TAIL_LEN];
        tail[..8].copy_from_slice(&MAGIC);
        tail[8..16].copy_from_slice(&self.len.to_le_bytes());
        tail[16..24].copy_from_slice(&(header.len() as u64).to_le_bytes());
        tail[24..32].copy_from_slice(&(self.rows.len() as u64).to_le_bytes());
        let checksum = id::checksum_128(&[&tail[..32], header, &table]);
        tail[32..].copy_from_slice(&checksum);
        [header, &table, &tail].iter().try_for_each(|part| self.file.write_all(part))?;
        self.file.flush()?;
        fs::rename(&self.new_path, &self.path)?;
        self.is_kept = true;
        Ok(())
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
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    fn key(number: u8) -> FolderKey {
        [number; 16]
    }

    /// Names of a folder, and what each has: the name, 100 times. Folder 1 takes several blocks.
    fn content(folder: u8) -> Records {
        let count = if folder == 1 { 500 } else { 5 };
        (0..count)
            .map(|number| format!("{folder}-{number:04}").into_bytes())
            .map(|name| (name.clone(), name.repeat(100)))
            .collect()
    }

    fn write(path: &Path, folders: &[u8]) {
        let mut new = NewStateFile::create(path).unwrap();
        for folder in folders {
            let mut open = OpenFolder::new(Some(key(*folder)));
            for (name, value) in content(*folder) {
                new.add(&mut open, &name, &[&value]).unwrap();
            }
            new.close_block(&mut open).unwrap();
        }
        new.keep(b"header").unwrap();
    }

    type Records = Vec<(Vec<u8>, Vec<u8>)>;

    fn all(file: &StateFile, folder: u8) -> Result<Records, Spoilt> {
        let (mut cursor, mut found) = (Cursor::new(file), Vec::new());
        let mut after = Vec::new();
        while let Some((name, value)) = cursor.next_after(&key(folder), &after)? {
            found.push((name.to_vec(), value.to_vec()));
            after = name.to_vec();
        }
        Ok(found)
    }

    #[test]
    fn what_was_written_is_found_in_any_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        // Folders come in the order of the walk, not of their keys.
        write(&path, &[7, 1, 3]);
        let file = StateFile::open(&path).unwrap();
        assert_eq!(file.header(), b"header");
        assert!(file.rows_of(&key(1)).len() > 3);
        let mut cursor = Cursor::new(&file);
        for folder in [7, 1, 3, 1, 1, 7] {
            for (name, value) in content(folder) {
                assert!(cursor.get(&key(folder), &name).ok().unwrap() == Some(&value[..]));
                assert!(cursor.get(&key(folder), &name).ok().unwrap() == Some(&value[..]), "once more");
            }
            for missing in [&b""[..], b"1-0250x", b"zz"] {
                assert!(cursor.get(&key(folder), missing).ok().unwrap().is_none());
            }
            for (name, value) in content(folder).into_iter().rev().step_by(50) {
                assert!(cursor.get(&key(folder), &name).ok().unwrap() == Some(&value[..]), "backwards");
            }
            assert!(all(&file, folder).ok().unwrap() == content(folder));
        }
        assert!(cursor.get(&key(2), b"1-0000").ok().unwrap().is_none());
    }

    #[test]
    fn the_folders_that_a_new_file_does_not_have_are_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write(&path, &[1, 2, 3]);
        let old = StateFile::open(&path).unwrap();
        let mut new = NewStateFile::create(&path).unwrap();
        let mut open = OpenFolder::new(Some(key(2)));
        new.add(&mut open, b"new", &[b"val", b"ue"]).unwrap();
        new.close_block(&mut open).unwrap();
        new.take_over(&old).unwrap();
        new.keep(b"").unwrap();
        let file = StateFile::open(&path).unwrap();
        assert!(all(&file, 1).ok().unwrap() == content(1));
        assert!(all(&file, 2).ok().unwrap() == [(b"new".to_vec(), b"value".to_vec())]);
        assert!(all(&file, 3).ok().unwrap() == content(3));
    }

    #[test]
    fn what_is_not_what_was_written_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write(&path, &[1, 2]);
        let good = fs::read(&path).unwrap();
        for len in (0..good.len()).step_by(997).chain(good.len() - 100..good.len()) {
            fs::write(&path, &good[..len]).unwrap();
            assert!(StateFile::open(&path).is_none(), "cut off at {len}");
        }
        for at in (0..good.len()).step_by(997).chain(good.len() - 600..good.len()) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(&path, &bad).unwrap();
            let Some(file) = StateFile::open(&path) else { continue };
            assert!(all(&file, 1).is_err() || all(&file, 2).is_err(), "byte {at}");
        }
    }

    #[test]
    fn two_do_not_write_one_file_and_what_is_not_kept_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let one = NewStateFile::create(&path).unwrap();
        let two = NewStateFile::create(&path).err().unwrap();
        assert_eq!(two.kind(), io::ErrorKind::WouldBlock);
        drop(one);
        assert!(NewStateFile::create(&path).is_ok());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
