//! A way through the file of the local state: quick for names that ascend in a folder, and for folders in the order of the walk.

use std::cmp::Ordering;
use std::ops::Range;

use super::file::{FolderKey, Long, Row, STAMP_LEN, Spoilt, StateFile, Summary, take, value_len};

/// So many folders are held with a block of each: the walk comes back to those that it was in.
const MAX_FOLDERS: usize = 8;

/// A record: its name, its stamp and its value.
pub(super) struct Record<'b> {
    pub(super) name: &'b [u8],
    pub(super) stamp: [u8; STAMP_LEN],
    pub(super) value: &'b [u8],
}

/// Where in a block a record is.
struct Place {
    name: Range<usize>,
    stamp: usize,
    /// In the block, or among its long values.
    value: Range<usize>,
    is_long: bool,
    /// Where in the block the next record is.
    end: usize,
}

/// Reads a file, mostly forwards.
pub(super) struct Cursor<'f> {
    file: &'f StateFile,
    /// The folders asked about, the latest one last.
    folders: Vec<Folder<'f>>,
}

/// A folder, and how far in it the cursor is.
#[derive(Default)]
struct Folder<'f> {
    key: FolderKey,
    /// All its blocks.
    rows: &'f [Row],
    /// The number of the block that comes after this one.
    next_row: usize,
    /// The records of this block.
    block: Vec<u8>,
    /// Where its long values are, and these, once they are read.
    long: Long,
    long_values: Option<Vec<u8>>,
    at: usize,
    /// Where among the long values the next one is.
    at_long: usize,
    /// The number of the record that is there.
    number: u32,
    /// The name that was asked for last.
    last: Vec<u8>,
}

impl<'f> Cursor<'f> {
    pub(super) fn new(file: &'f StateFile) -> Self {
        Self { file, folders: Vec::new() }
    }

    /// The folder, where it was left.
    fn folder(&mut self, key: &FolderKey) -> &mut Folder<'f> {
        let last = self.folders.len();
        if let Some(found) = self.folders.iter().rposition(|folder| folder.key == *key) {
            self.folders[found..].rotate_left(1);
        } else if last < MAX_FOLDERS {
            let rows = self.file.rows_of(key);
            self.folders.push(Folder { key: *key, rows, ..Folder::default() });
        } else {
            self.folders.rotate_left(1);
            let folder = &mut self.folders[last - 1];
            (folder.key, folder.rows) = (*key, self.file.rows_of(key));
            folder.rewind();
        }
        let last = self.folders.len() - 1;
        &mut self.folders[last]
    }

    /// The number and the stamp of a name in a folder.
    pub(super) fn stamp(
        &mut self,
        key: &FolderKey,
        name: &[u8],
    ) -> Result<Option<(u32, [u8; STAMP_LEN])>, Spoilt> {
        let place = self.seek(key, name)?;
        let folder = self.folder(key);
        Ok(place.map(|place| (folder.number, folder.stamp(&place))))
    }

    /// The record of a name in a folder.
    pub(super) fn get(&mut self, key: &FolderKey, name: &[u8]) -> Result<Option<Record<'_>>, Spoilt> {
        let place = self.seek(key, name)?;
        let file = self.file;
        place.map(|place| self.folder(key).record(file, place)).transpose()
    }

    /// Goes to a name in a folder, or to where it would be.
    fn seek(&mut self, key: &FolderKey, name: &[u8]) -> Result<Option<Place>, Spoilt> {
        let file = self.file;
        let folder = self.folder(key);
        if *name < folder.last[..] {
            folder.rewind();
        }
        if folder.next_row == 0 {
            folder.go_near(file, name)?;
        }
        folder.last.clear();
        folder.last.extend_from_slice(name);
        loop {
            let Some(place) = folder.here(file)? else { return Ok(None) };
            match folder.block.get(place.name.clone()).unwrap_or_default().cmp(name) {
                Ordering::Less => folder.pass(&place),
                Ordering::Equal => return Ok(Some(place)),
                Ordering::Greater => return Ok(None),
            }
        }
    }

    /// The next record of a folder behind a name.
    pub(super) fn next_after(&mut self, key: &FolderKey, name: &[u8]) -> Result<Option<Record<'_>>, Spoilt> {
        let there = self.seek(key, name)?;
        let file = self.file;
        let folder = self.folder(key);
        if let Some(place) = there {
            folder.pass(&place);
        }
        folder.here(file)?.map(|place| folder.record(file, place)).transpose()
    }

    /// The record of this number in a folder.
    pub(super) fn at(&mut self, key: &FolderKey, number: u32) -> Result<Option<Record<'_>>, Spoilt> {
        let file = self.file;
        let folder = self.folder(key);
        let row = folder.rows.partition_point(|row| row.first <= number).saturating_sub(1);
        if folder.next_row != row + 1 || number < folder.number {
            folder.rewind();
            folder.next_row = row;
        }
        loop {
            let Some(place) = folder.here(file)? else { return Ok(None) };
            if folder.number == number {
                folder.last = folder.block.get(place.name.clone()).unwrap_or_default().to_vec();
                return folder.record(file, place).map(Some);
            }
            folder.pass(&place);
        }
    }

    /// What a folder was, if that is known whole.
    pub(super) fn summary(&mut self, key: &FolderKey) -> Result<Option<Summary>, Spoilt> {
        let file = self.file;
        let folder = self.folder(key);
        let Some(row) = folder.rows.last().filter(|row| row.has_summary()) else { return Ok(None) };
        folder.rewind();
        let (long, summary) = file.read(row, &mut folder.block)?;
        folder.long = long;
        if folder.rows.len() == 1 {
            folder.next_row = 1;
        } else {
            folder.rewind();
        }
        Ok(summary)
    }
}

impl Folder<'_> {
    /// Goes to the beginning.
    fn rewind(&mut self) {
        self.next_row = 0;
        self.block.clear();
        self.long_values = None;
        (self.at, self.at_long) = (0, 0);
        self.number = 0;
        self.last.clear();
    }

    /// Goes to the block that a name is in, if there are many.
    fn go_near(&mut self, file: &StateFile, name: &[u8]) -> Result<(), Spoilt> {
        let (mut low, mut high) = (0, self.rows.len());
        while high - low > 2 {
            let middle = low + (high - low) / 2;
            self.rewind();
            self.next_row = middle;
            let Some(place) = self.here(file)? else { return Err(Spoilt) };
            if self.block.get(place.name).unwrap_or_default() <= name {
                low = middle;
            } else {
                high = middle;
            }
        }
        self.rewind();
        self.next_row = low;
        Ok(())
    }

    /// Where the record is that comes next.
    fn here(&mut self, file: &StateFile) -> Result<Option<Place>, Spoilt> {
        while self.at >= self.block.len() {
            let Some(row) = self.rows.get(self.next_row) else { return Ok(None) };
            self.next_row += 1;
            (self.at, self.at_long) = (0, 0);
            self.number = row.first;
            self.long_values = None;
            (self.long, _) = file.read(row, &mut self.block)?;
        }
        let (name_len, rest) = take(self.block.get(self.at..).unwrap_or_default());
        let (encoded_len, _) = take(rest);
        let (value_len, is_long) = value_len(encoded_len);
        let name = self.at.saturating_add(8);
        let stamp = name.saturating_add(u32::from_le_bytes(name_len) as usize);
        let short = stamp.saturating_add(STAMP_LEN);
        let start = if is_long { self.at_long } else { short };
        let value = start..start.saturating_add(value_len);
        let end = if is_long { short } else { value.end };
        if end > self.block.len() {
            Err(Spoilt)
        } else {
            Ok(Some(Place { name: name..stamp, stamp, value, is_long, end }))
        }
    }

    fn pass(&mut self, place: &Place) {
        self.at = place.end;
        if place.is_long {
            self.at_long = place.value.end;
        }
        self.number += 1;
    }

    fn stamp(&self, place: &Place) -> [u8; STAMP_LEN] {
        take(self.block.get(place.stamp..).unwrap_or_default()).0
    }

    fn record(&mut self, file: &StateFile, place: Place) -> Result<Record<'_>, Spoilt> {
        if place.is_long && self.long_values.is_none() {
            let mut values = Vec::new();
            file.read_long(&self.long, &mut values)?;
            self.long_values = Some(values);
        }
        let stamp = self.stamp(&place);
        let values = if place.is_long { self.long_values.as_ref() } else { Some(&self.block) };
        let value = values.and_then(|values| values.get(place.value)).ok_or(Spoilt)?;
        let name = self.block.get(place.name).ok_or(Spoilt)?;
        Ok(Record { name, stamp, value })
    }
}
