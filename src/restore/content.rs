//! The content of one regular file: what is right already, what is fetched, and how the new file takes the old one's place.
//!
//! A [`Writing`] is a file on its way: pieces that an older version has at the same place are taken from there once their
//! hash agrees; all others arrive verified, in any order, from any thread. The last one to arrive sets the
//! metadata; the file gets its name with its batch. A piece that is lost costs this file, and the older version stays.

mod writing;

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{FileType, Stat};

use crate::error::{Corruption, Error, Result};
use crate::event::{Change, Event, Item};
use crate::id::ChunkKind;
use crate::snapshot::list::Pieces;
use crate::snapshot::{Content, Piece};

use super::batch::Job;
use super::metadata::Wanted;
use super::place::link_key;
use super::plan::Need;
use super::target::{self, Dir, Handle, Temp};
use super::{Overwrite, Run, Sparse, joined, lock};

pub(super) use writing::Writing;

/// Blocks of this size that are all zero become holes, if asked for.
const BLOCK_LEN: usize = 4096;
/// How much is read at once where only zeros are looked for.
const SCAN_LEN: usize = 256 << 10;

impl Run<'_> {
    /// Looks at what exists under the name of a file. None if that settles it.
    pub(super) fn begin(&self, job: Job, may_be_tried_again: bool) -> Result<Option<Arc<Writing>>> {
        let (path, size) = (job.path.clone(), job.size);
        let looked = self.look_at_existing(&job);
        if self.options.dry_run || !matches!(looked, Ok(Some(_))) {
            self.observer.event(&Event::Advanced { bytes: size });
        }
        match looked {
            Ok(Some(change)) if self.options.dry_run => {
                self.pretend(&job, change)?;
                Ok(None)
            }
            Ok(Some(change)) => Ok(Some(Arc::new(Writing::new(job, change, may_be_tried_again)))),
            Ok(None) => Ok(None),
            Err(error) => {
                self.problem_or_end(&path, error)?;
                Ok(None)
            }
        }
    }

    /// What writing the file would change; none if nothing needs to be written.
    fn look_at_existing(&self, job: &Job) -> Result<Option<Change>> {
        let Some(dir) = &job.dir else { return Ok(Some(Change::New)) };
        let name = &job.entry.name;
        if dir.is_own() {
            return Ok(Some(Change::New));
        }
        let Some(stat) = dir.stat(name).map_err(self.error("look at", &job.path))? else {
            return Ok(Some(Change::New));
        };
        if !self.may_replace(&stat, job.entry.meta.mtime) {
            self.done(&job.path, Item::File, Change::LeftOut, job.size);
            return Ok(None);
        }
        if target::type_of(&stat) != FileType::RegularFile {
            self.check_replaceable(dir, name, &job.path, &stat)?;
            return Ok(Some(Change::Changed));
        }
        if !self.is_right_content(job, dir, &stat)? {
            return Ok(Some(Change::Changed));
        }
        let handle = dir.handle(name).map_err(self.error("open", &job.path))?;
        let inode = target::inode_of(&stat);
        let same = handle.stat().is_ok_and(|now| target::inode_of(&now) == inode);
        // A name too many: whatever else it is a name of must not change with it.
        let stays = same
            && match link_key(&job.entry) {
                Some(group) => lock(&self.links).may_be(inode, group),
                None => stat.st_nlink == 1,
            };
        let wanted = job.wanted();
        let differ = self.metadata_differ(&handle, &wanted).map_err(|fault| fault.at(self, &job.path))?;
        if !stays || differ && stat.st_nlink > 1 {
            return Ok(Some(Change::Changed));
        }
        if differ && !self.options.dry_run {
            self.set_metadata(&handle, &wanted, None).map_err(|fault| fault.at(self, &job.path))?;
        }
        self.note_link(job, Some(inode));
        if differ {
            self.done(&job.path, Item::File, Change::Changed, 0);
        } else {
            self.done(&job.path, Item::File, Change::Unchanged, job.size);
        }
        Ok(None)
    }

    /// Whether an existing regular file has the right bytes.
    fn is_right_content(&self, job: &Job, dir: &Dir, stat: &Stat) -> Result<bool> {
        if u64::try_from(stat.st_size) != Ok(job.size) {
            return Ok(false);
        }
        let believed = self.options.overwrite == Overwrite::IfChanged && !self.options.verify;
        if believed && target::mtime_of(stat) == job.entry.meta.mtime {
            return Ok(true);
        }
        let Ok(old) = dir.open_file(&job.entry.name) else { return Ok(false) };
        let (mut at, mut buffer) = (0, Vec::new());
        if let Content::Inline(bytes) = &job.content {
            return Ok(read_range(&old, 0, bytes.len(), &mut buffer) == Some(&bytes[..]));
        }
        for piece in Pieces::new(self.reader, &job.content, job.size) {
            self.check()?;
            // A list that cannot be read: writing the file will say so.
            let Ok(piece) = piece else { return Ok(false) };
            let same = match piece {
                Piece::Data(id, len) => read_range(&old, at, len as usize, &mut buffer)
                    .is_some_and(|bytes| self.reader.keys().chunk_id(ChunkKind::Data, bytes) == id),
                Piece::Hole(len) => self.is_zero(&old, at, len, &mut buffer)?,
            };
            if !same {
                return Ok(false);
            }
            at += piece.len();
        }
        Ok(true)
    }

    /// Whether a range of a file reads as zeros; holes are not read.
    fn is_zero(&self, file: &File, mut at: u64, len: u64, buffer: &mut Vec<u8>) -> Result<bool> {
        let end = at + len;
        while at < end {
            self.check()?;
            match target::next_data(file, at) {
                Ok(Some(data)) if data < end => at = at.max(data),
                Ok(_) => return Ok(true),
                Err(_) => return Ok(false),
            }
            let len = usize::try_from(end - at).unwrap_or(SCAN_LEN).min(SCAN_LEN);
            if read_range(file, at, len, buffer).is_none_or(|bytes| bytes.iter().any(|byte| *byte != 0)) {
                return Ok(false);
            }
            at += len as u64;
        }
        Ok(true)
    }

    /// In a dry run: whether all pieces are there, and what would become of the file.
    fn pretend(&self, job: &Job, change: Change) -> Result<()> {
        for piece in Pieces::new(self.reader, &job.content, job.size) {
            self.check()?;
            let present = match piece {
                Ok(Piece::Data(id, _)) => self.reader.locate(&id).map(drop),
                Ok(Piece::Hole(_)) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = present {
                self.problem(&job.path, &error);
                return Ok(());
            }
        }
        self.note_link(job, None);
        self.done(&job.path, Item::File, change, job.size);
        Ok(())
    }

    /// Writes what is at hand, and hands out what is to be fetched.
    pub(super) fn list_needs(
        &self,
        writing: &Arc<Writing>,
        emit: &mut dyn FnMut(Need) -> Result<()>,
    ) -> Result<()> {
        let job = &writing.job;
        if let Content::Inline(bytes) = &job.content {
            self.observer.event(&Event::Advanced { bytes: job.size });
            return writing.attempt(self, |file| self.write_bytes(file, bytes, 0));
        }
        let mut old = match (&job.dir, writing.change) {
            (Some(dir), Change::Changed) => dir.open_file(&job.entry.name).ok(),
            _ => None,
        };
        // On a clone only what differs is written, and the rest goes on sharing its blocks.
        let mut cloned = false;
        // A file of one piece is made when that arrives, which gives it its length, and need not be opened twice.
        if self.options.sparse != Sparse::AsSaved || old.is_some() || !is_one_piece(job) {
            writing.attempt(self, |file| {
                cloned = self.options.sparse == Sparse::AsSaved
                    && old.as_ref().is_some_and(|old| target::clone_blocks(file, old));
                if cloned {
                    old = Some(file.try_clone()?);
                }
                target::set_len(file, job.size)
            })?;
        }
        let (mut at, mut buffer) = (0, Vec::new());
        for piece in Pieces::new(self.reader, &job.content, job.size) {
            self.check()?;
            let len = piece.as_ref().map_or(0, Piece::len);
            match piece {
                Ok(Piece::Hole(len)) if cloned => {
                    writing.attempt(self, |file| target::punch(file, at, len))?;
                }
                Ok(Piece::Hole(_)) => {}
                Ok(Piece::Data(id, len)) => {
                    let found = old.as_ref().and_then(|old| read_range(old, at, len as usize, &mut buffer));
                    match found.filter(|bytes| self.reader.keys().chunk_id(ChunkKind::Data, bytes) == id) {
                        Some(_) if cloned => {}
                        Some(bytes) => writing.attempt(self, |file| self.write_bytes(file, bytes, at))?,
                        None => match self.reader.locate(&id) {
                            Ok(location) => {
                                writing.waiting.fetch_add(1, Ordering::Relaxed);
                                emit(Need { writing: writing.clone(), at, len, id, location })?;
                                at += u64::from(len);
                                continue;
                            }
                            Err(error) => writing.lose(error, (at, u64::from(len))),
                        },
                    }
                }
                Err(error) => writing.lose(error, (at, job.size.saturating_sub(at))),
            }
            at += len;
            self.observer.event(&Event::Advanced { bytes: len });
        }
        Ok(())
    }

    /// All pieces of a file are listed.
    pub(super) fn listed(&self, writing: &Arc<Writing>) {
        self.arrived(writing);
    }

    fn arrived(&self, writing: &Arc<Writing>) {
        if writing.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.complete(writing);
        }
    }

    /// Writes a piece that was fetched and verified.
    pub(super) fn write_piece(&self, need: &Need, chunk: &[u8]) -> Result<()> {
        // [LIST-2]: a chunk of another length would run into its neighbours.
        if chunk.len() != need.len as usize {
            let rule = Corruption::rule("LIST-2", "a chunk has not the length that its piece gives");
            self.lose_piece(need, Error::damaged(&format!("data chunk {}", need.id))(rule));
            return Ok(());
        }
        need.writing.attempt(self, |file| self.write_bytes(file, chunk, need.at))?;
        self.observer.event(&Event::Advanced { bytes: chunk.len() as u64 });
        self.arrived(&need.writing);
        Ok(())
    }

    /// Notes that a piece cannot be had.
    pub(super) fn lose_piece(&self, need: &Need, error: Error) {
        need.writing.lose(error, (need.at, u64::from(need.len)));
        self.arrived(&need.writing);
    }

    fn write_bytes(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        if let Some(rate) = &self.rate {
            rate.pass_or_stop(bytes.len() as u64, self.stop);
        }
        if self.options.sparse == Sparse::AsSaved {
            return file.write_all_at(bytes, at);
        }
        // Blocks are those of the file, not of the piece: only whole ones can be holes.
        let head = usize::try_from(at.next_multiple_of(BLOCK_LEN as u64) - at).unwrap_or(0).min(bytes.len());
        let mut from = 0;
        let mut block = head;
        while block + BLOCK_LEN <= bytes.len() {
            let end = block + BLOCK_LEN;
            if bytes[block..end].iter().all(|byte| *byte == 0) {
                file.write_all_at(&bytes[from..block], at + from as u64)?;
                from = end;
            }
            block = end;
        }
        file.write_all_at(&bytes[from..], at + from as u64)
    }

    /// With `verify`: reads a file back from the medium.
    pub(super) fn read_back(&self, writing: &Arc<Writing>) -> Result<()> {
        if lock(&writing.lost).error.is_some() {
            return Ok(());
        }
        let job = &writing.job;
        let path = self.full_path(&job.path);
        let wrong =
            || Error::path("verify", &path)(io::Error::other("what was written does not read back the same"));
        let mut right = true;
        writing.attempt(self, |file| {
            target::drop_cached(file);
            let (mut at, mut buffer) = (0, Vec::new());
            right = file.metadata()?.len() == job.size;
            if let Content::Inline(bytes) = &job.content {
                right &= read_range(file, 0, bytes.len(), &mut buffer) == Some(&bytes[..]);
            }
            for piece in Pieces::new(self.reader, &job.content, job.size) {
                // What cannot be compared is not verified.
                let Ok(piece) = piece else {
                    right = false;
                    break;
                };
                if let Piece::Data(id, len) = piece {
                    right &= read_range(file, at, len as usize, &mut buffer)
                        .is_some_and(|bytes| self.reader.keys().chunk_id(ChunkKind::Data, bytes) == id);
                } else if let Piece::Hole(len) = piece {
                    right &= self.is_zero(file, at, len, &mut buffer).unwrap_or(false);
                }
                at += piece.len();
            }
            Ok(())
        })?;
        self.check()?;
        if !right {
            let mut lost = lock(&writing.lost);
            lost.error.get_or_insert_with(wrong);
            lost.target_failed = true;
        }
        Ok(())
    }

    /// All pieces have arrived or are lost: sets the metadata, while the file is open, and closes it.
    fn complete(&self, writing: &Arc<Writing>) {
        let is_lost = {
            let lost = lock(&writing.lost);
            if lost.target_failed || lost.error.is_some() && !self.options.keep_damaged {
                return;
            }
            lost.error.is_some()
        };
        let done = writing.file(self).map_err(self.error("write", &writing.job.path)).and_then(|file| {
            if is_lost {
                // A clone of the older version has its bytes there.
                let ranges = lock(&writing.lost).ranges.clone();
                let blanked = ranges.iter().try_for_each(|(at, len)| target::blank(&file, *at, *len));
                blanked.map_err(self.error("write", &writing.job.path))?;
            }
            // A file that is to be read back must still be open to its owner.
            if self.options.verify && !is_lost {
                return Ok(());
            }
            let set = self.set_final_metadata(writing, &file);
            // What is left of a damaged file is worth having without its metadata as well.
            if is_lost { Ok(()) } else { set }
        });
        if let Err(error) = done {
            let mut lost = lock(&writing.lost);
            lost.error.get_or_insert(error);
            lost.target_failed = true;
        }
    }

    fn set_final_metadata(&self, writing: &Writing, file: &File) -> Result<()> {
        let made = lock(&writing.temp).as_ref().map(|(_, stat)| *stat);
        let set = self.set_metadata(&Handle::Open(file.as_fd()), &writing.job.wanted(), made);
        set.map_err(|fault| fault.at(self, &writing.job.path))
    }

    /// Makes the bytes of one file durable.
    pub(super) fn sync_one(&self, writing: &Arc<Writing>) -> Result<()> {
        writing.attempt(self, File::sync_data)
    }

    /// What was written is durable: a file of which something is lost goes before its directory is seen.
    pub(super) fn settle(&self, writing: &Arc<Writing>) -> Result<()> {
        let job = &writing.job;
        if self.options.verify {
            self.read_back(writing)?;
            if lock(&writing.lost).error.is_none() {
                let file = writing.file(self).map_err(self.error("open", &job.path));
                if let Err(error) = file.and_then(|file| self.set_final_metadata(writing, &file)) {
                    lock(&writing.lost).error = Some(error);
                }
            }
        }
        let lost = std::mem::take(&mut *lock(&writing.lost));
        lock(&writing.open).take();
        let Some(error) = lost.error else { return Ok(()) };
        let temp = lock(&writing.temp).take();
        if writing.may_be_tried_again && error.is_no_space() {
            lock(&self.without_room).push(job.clone());
            return Ok(());
        }
        if let (Some((temp, _)), true, false) = (temp, self.options.keep_damaged, lost.target_failed) {
            self.keep_damaged(job, temp, &lost.ranges)?;
        }
        self.problem_or_end(&job.path, error)
    }

    /// Gives a file that is whole and durable its name.
    pub(super) fn place(&self, writing: &Arc<Writing>) -> Result<()> {
        let job = &writing.job;
        let Some((mut temp, made)) = lock(&writing.temp).take() else { return Ok(()) };
        let placed = if job.is_folded && writing.change == Change::New {
            // Nothing had this name, so what has it by now is another file, which it leads to as well.
            let placed = temp.rename_new(&job.entry.name);
            let placed = placed.map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => target::alike(),
                _ => error,
            });
            placed.map_err(self.error("write", &job.path))
        } else {
            self.put_in_place(&mut temp, &job.entry.name, &job.path)
        };
        if let Err(error) = placed {
            return self.problem_or_end(&job.path, error);
        }
        self.note_link(job, Some(target::inode_of(&made)));
        self.done(&job.path, Item::File, writing.change, job.size);
        Ok(())
    }

    /// Gives what is left of a damaged file a name next to its own.
    fn keep_damaged(&self, job: &Job, mut temp: Temp, ranges: &[(u64, u64)]) -> Result<()> {
        let Some(dir) = &job.dir else { return Ok(()) };
        if ranges.iter().map(|(_, len)| *len).sum::<u64>() >= job.size {
            return Ok(());
        }
        let mut name = [&job.entry.name, &b".damaged"[..]].concat();
        let mut outcome = temp.rename_new(&name);
        for number in 2..100 {
            if !outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
                break;
            }
            name = [&job.entry.name, format!(".damaged.{number}").as_bytes()].concat();
            outcome = temp.rename_new(&name);
        }
        let path = joined(&dir.path, &name);
        if let Err(error) = outcome {
            return self.problem_or_end(&path, self.error("write", &path)(error));
        }
        let mut text =
            "kept what is left of a damaged file; these bytes of it are missing and zero:".to_owned();
        let mut ranges = ranges.to_vec();
        ranges.sort_unstable();
        for (index, (at, len)) in ranges.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let _ = write!(text, "{comma} {at} to {}", at + len);
        }
        lock(&self.kept).insert(path.clone());
        self.notice(&path, &text);
        Ok(())
    }
}

impl Job {
    pub(super) fn wanted(&self) -> Wanted<'_> {
        Wanted { path: &self.path, meta: &self.entry.meta, owner: self.owner }
    }
}

/// Whether one chunk is all that a file holds.
fn is_one_piece(job: &Job) -> bool {
    matches!(&job.content, Content::Pieces(pieces)
        if matches!(pieces[..], [Piece::Data(_, len)] if u64::from(len) == job.size))
}

/// The bytes of a range of a file, if it has them.
fn read_range<'b>(file: &File, at: u64, len: usize, buffer: &'b mut Vec<u8>) -> Option<&'b [u8]> {
    buffer.resize(len, 0);
    file.read_exact_at(buffer, at).ok()?;
    Some(buffer)
}
