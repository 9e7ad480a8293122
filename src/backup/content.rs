//! The bytes of one file: read into a private buffer, cut, hashed, stored. Never through a map of the source: a file that changes
//! between chunker, hasher and compressor would be stored under an id it does not have.

use std::io;

use crate::backup::{Shared, Tally};
use crate::chunk::Chunker;
use crate::error::Result;
use crate::event::Event;
use crate::repository::DataBatch;
use crate::snapshot::list::ListWriter;
use crate::snapshot::{Content, Piece};
use crate::source::SourceFile;

/// Files up to this length are kept in their entry `[ENTRY-4]`.
pub(super) const INLINE_LEN: u64 = 1024;
/// So much is read at once of a file that says it is small: some files of the kernel give all they have only to a first read.
const FIRST_READ_LEN: usize = 64 << 10;
/// The buffer has room for so many of the longest chunks, so that it is rarely moved.
const BUFFER_CHUNKS: usize = 3;

/// Why a content was not stored.
pub(super) enum Failure {
    /// The source could not be read.
    Source(io::Error),
    /// The repository could not be written.
    Repository(crate::error::Error),
    /// The user asked to stop.
    Stopped,
}

impl From<crate::error::Error> for Failure {
    fn from(error: crate::error::Error) -> Self {
        Self::Repository(error)
    }
}

/// What was stored of a stream.
#[derive(Default)]
struct Stored {
    len: u64,
    /// Whether it has more bytes than were wanted, if that is known.
    goes_on: Option<bool>,
}

/// A thread's buffer and gatherer.
pub(super) struct ContentWriter<'a> {
    shared: &'a Shared<'a>,
    batch: DataBatch<'a>,
    buffer: Vec<u8>,
}

impl<'a> ContentWriter<'a> {
    pub(super) fn new(shared: &'a Shared<'a>) -> Self {
        let len = shared.chunker.params().max_len as usize * BUFFER_CHUNKS;
        Self { shared, batch: shared.writer.batch(), buffer: vec![0; len] }
    }

    /// How many new chunks the files of this thread had so far.
    pub(super) fn added(&self) -> u64 {
        self.batch.added()
    }

    /// Sends what is gathered on.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.batch.flush()
    }

    /// Stores the content of a file. Returns how many bytes it turned out to have. Files that the kernel or a program makes up
    /// as they are read have more than they say; one that grows has not.
    pub(super) fn store_file(
        &mut self,
        file: &SourceFile,
        has_xattrs: bool,
    ) -> Result<(u64, Content), Failure> {
        let size = file.opened().size;
        if size <= INLINE_LEN {
            return self.store_small(file);
        }
        let mut list = ListWriter::new(self.shared.writer);
        let (mut end, mut goes_on) = (0, None);
        // [CUT-5]
        for extent in file.extents(size, has_xattrs) {
            let extent = extent.map_err(Failure::Source)?;
            list.push(Piece::Hole(extent.start.saturating_sub(end)))?;
            let mut at = extent.start;
            let stored = self.store_stream(&mut list, extent.end - extent.start, &mut |buffer| {
                let len = file.read_at(buffer, at)?;
                at += len as u64;
                Ok(len)
            })?;
            end = extent.start + stored.len;
            goes_on = stored.goes_on;
            if stored.len < extent.end - extent.start {
                // The file became shorter; its length says so.
                return Ok((end, list.finish()?));
            }
        }
        list.push(Piece::Hole(size.saturating_sub(end)))?;
        let goes_on = match goes_on.filter(|_| end == size) {
            Some(goes_on) => goes_on,
            None => file.read_at(&mut [0], size).map_err(Failure::Source)? > 0,
        };
        let more =
            if goes_on && !has_changed(file)? { self.store_from(&mut list, file, &[], size)? } else { 0 };
        Ok((size.saturating_add(more), list.finish()?))
    }

    /// Stores a file that says it is small.
    fn store_small(&mut self, file: &SourceFile) -> Result<(u64, Content), Failure> {
        let room = FIRST_READ_LEN.min(self.buffer.len());
        let mut len = file.read_at(&mut self.buffer[..room], 0).map_err(Failure::Source)?;
        let size = usize::try_from(file.opened().size).unwrap_or(room);
        if len > size && has_changed(file)? {
            len = size;
        }
        let head = self.buffer[..len].to_vec();
        // [CUT-6]
        if len as u64 <= INLINE_LEN {
            self.advance(len as u64);
            return Ok((len as u64, Content::Inline(head.into())));
        }
        let mut list = ListWriter::new(self.shared.writer);
        let stored = self.store_from(&mut list, file, &head, 0)?;
        Ok((stored, list.finish()?))
    }

    /// Stores what a file has from `start` on, wherever it says that it ends; `head` was read there. Returns how much it is.
    fn store_from(
        &mut self,
        list: &mut ListWriter<'_>,
        file: &SourceFile,
        head: &[u8],
        start: u64,
    ) -> Result<u64, Failure> {
        let mut done = 0;
        let stored = self.store_stream(list, u64::MAX, &mut |buffer| {
            // The first buffer has room for all of the head.
            let head = if done == 0 { head } else { &[] };
            buffer[..head.len()].copy_from_slice(head);
            done += head.len();
            let len = file.read_at(&mut buffer[head.len()..], start + done as u64)?;
            done += len;
            Ok(head.len() + len)
        })?;
        Ok(stored.len)
    }

    /// Stores a stream to its end.
    pub(super) fn store_reader(&mut self, reader: &mut dyn io::Read) -> Result<(u64, Content), Failure> {
        let mut list = ListWriter::new(self.shared.writer);
        let stored = self.store_stream(&mut list, u64::MAX, &mut |buffer| fill(buffer, &mut *reader))?;
        Ok((stored.len, list.finish()?))
    }

    /// Cuts and stores up to `len` bytes of a stream of its own; less if it ends before. `read` fills what it is given, unless the
    /// stream ends.
    fn store_stream(
        &mut self,
        list: &mut ListWriter<'_>,
        len: u64,
        read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> Result<Stored, Failure> {
        let max = self.shared.chunker.params().max_len as usize;
        let chunker: Chunker = self.shared.chunker.clone();
        let (mut start, mut end) = (0, 0);
        let (mut read_total, mut stored, mut ended) = (0u64, Stored::default(), false);
        loop {
            if end - start < max && !ended {
                self.buffer.copy_within(start..end, 0);
                (start, end) = (0, end - start);
                let wanted = usize::try_from(len - read_total).unwrap_or(usize::MAX);
                // One byte more than wanted tells whether the stream goes on, and costs no call of its own.
                let limit = self.buffer.len().min(end.saturating_add(wanted).saturating_add(1));
                let read = read(&mut self.buffer[end..limit]).map_err(Failure::Source)?;
                let got = read.min(wanted);
                if let Some(rate) = &self.shared.rate {
                    rate.pass_or_stop(got as u64, self.shared.stop);
                }
                ended = read < limit - end || got == wanted;
                stored.goes_on = (limit - end > wanted).then_some(read > wanted);
                end += got;
                read_total += got as u64;
            }
            if start == end {
                return Ok(stored);
            }
            if self.shared.stopped() {
                return Err(Failure::Stopped);
            }
            let working = self.shared.writer.working();
            let cut = chunker.cut(&self.buffer[start..end]);
            let id = self.batch.put(&self.buffer[start..start + cut])?;
            drop(working);
            list.push(Piece::Data(id, u32::try_from(cut).unwrap_or(u32::MAX)))?;
            self.advance(cut as u64);
            start += cut;
            stored.len += cut as u64;
        }
    }

    fn advance(&self, bytes: u64) {
        Tally::add(&self.shared.tally.bytes_read, bytes);
        self.shared.observer.event(&Event::Advanced { bytes });
    }
}

/// Whether a file is no longer what it was: its bytes behind the end are new ones then.
fn has_changed(file: &SourceFile) -> Result<bool, Failure> {
    Ok(!file.stat().map_err(Failure::Source)?.has_stamps_of(file.opened()))
}

/// Reads until the buffer is full or the stream ends.
fn fill(buffer: &mut [u8], reader: &mut dyn io::Read) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match reader.read(&mut buffer[done..]) {
            Ok(0) => break,
            Ok(len) => done += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
