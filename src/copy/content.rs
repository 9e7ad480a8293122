//! The bytes of files, cut anew where the other repository cuts.

use std::collections::HashMap;

use crate::chunk::{Chunker, GetChunk};
use crate::codec;
use crate::error::{Corruption, Error, Result};
use crate::event::{Event, Observer};
use crate::id::{ChunkId, ChunkKind, PackId, checksum_128};
use crate::index::is_vanished;
use crate::pack::pack_file_name;
use crate::repository::{DataBatch, Reader, Writer};
use crate::snapshot::list::{ListWriter, Pieces};
use crate::snapshot::{Content, Piece};

/// So many contents are remembered, in a budget of the default size.
const REMEMBERED: usize = 1 << 14;

/// Why something was not copied.
pub(super) enum Failure {
    /// It is damaged where it is.
    Damage(Error),
    /// Nothing more can be copied.
    Fatal(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

/// What reading from the repository that is copied failed with.
pub(super) fn of_reading(reader: &Reader) -> impl Fn(Error) -> Failure + '_ {
    |error| match error {
        // A prune has packed anew what was there: the index of now says where it lies.
        error if is_vanished(&error) => {
            let pack = match &error {
                Error::Repository { file, .. } => file.clone(),
                _ => pack_file_name(&PackId::from_bytes([0; 32])),
            };
            Failure::Fatal(Error::PrunedMeanwhile { pack })
        }
        error if error.is_damage() => Failure::Damage(error),
        error => Failure::Fatal(Error::about(reader.backend().place())(error)),
    }
}

/// Copies contents.
pub(super) struct Contents<'a> {
    reader: &'a Reader,
    writer: &'a Writer,
    batch: DataBatch<'a>,
    chunker: Chunker,
    /// Both cut alike and name chunks alike.
    is_alike: bool,
    observer: &'a dyn Observer,
    buffer: Vec<u8>,
    known: HashMap<[u8; 16], Content>,
    most: usize,
}

impl<'a> Contents<'a> {
    pub(super) fn new(
        (reader, writer): (&'a Reader, &'a Writer),
        chunker: Chunker,
        is_alike: bool,
        observer: &'a dyn Observer,
    ) -> Self {
        let most = reader.budget().share(REMEMBERED);
        let (batch, buffer) = (writer.batch(), Vec::new());
        Self { reader, writer, batch, chunker, is_alike, observer, buffer, known: HashMap::new(), most }
    }

    /// Sends what is gathered on.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.batch.flush()
    }

    /// Copies the content of a file.
    pub(super) fn file(
        &mut self,
        size: u64,
        content: &Content,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<Content, Failure> {
        if let Content::Inline(_) = content {
            return Ok(content.clone());
        }
        let key = checksum_128(&[&codec::encode(content), &size.to_le_bytes()]);
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        self.buffer.clear();
        let mut list = ListWriter::new(self.writer);
        let max = self.chunker.params().max_len as usize;
        for piece in Pieces::new(self.reader, content, size) {
            check()?;
            match piece.map_err(of_reading(self.reader))? {
                // [CUT-5]: what stands behind a hole is a stream of its own.
                Piece::Hole(len) => {
                    self.cut(&mut list, 1)?;
                    list.push(Piece::Hole(len))?;
                }
                Piece::Data(id, len) if self.is_alike => {
                    if !self.writer.has_chunk(ChunkKind::Data, &id)? {
                        let plain = self.read(&id, len)?;
                        self.batch.put(&plain)?;
                    }
                    self.observer.event(&Event::Advanced { bytes: len.into() });
                    list.push(piece_of(id, len))?;
                }
                Piece::Data(id, len) => {
                    let plain = self.read(&id, len)?;
                    self.buffer.extend_from_slice(&plain);
                    self.observer.event(&Event::Advanced { bytes: len.into() });
                    self.cut(&mut list, max)?;
                }
            }
        }
        self.cut(&mut list, 1)?;
        let copied = list.finish()?;
        if self.known.len() >= self.most {
            self.known.clear();
        }
        self.known.insert(key, copied.clone());
        Ok(copied)
    }

    /// Copies the value of an attribute, which is cut at fixed lengths everywhere.
    pub(super) fn xattr(&mut self, value: &Content) -> Result<Content, Failure> {
        let Content::Pieces(pieces) = value else { return Ok(value.clone()) };
        let mut copied = Vec::with_capacity(pieces.len());
        for piece in pieces {
            copied.push(match piece {
                Piece::Data(id, len) => {
                    let plain = self.read(id, *len)?;
                    piece_of(self.batch.put(&plain)?, *len)
                }
                Piece::Hole(len) => Piece::Hole(*len),
            });
        }
        Ok(Content::Pieces(copied))
    }

    fn read(&self, id: &ChunkId, len: u32) -> Result<Vec<u8>, Failure> {
        let plain = self.reader.get(ChunkKind::Data, id).map_err(of_reading(self.reader))?;
        if plain.len() as u64 == u64::from(len) {
            return Ok(plain);
        }
        let corruption = Corruption::rule("LIST-2", "a data chunk has not the length its piece gives");
        Err(Failure::Damage(Error::damaged(&format!("data chunk {id}"))(corruption)))
    }

    /// Cuts chunks off the buffer while there are so many bytes in it.
    fn cut(&mut self, list: &mut ListWriter<'_>, least: usize) -> Result<()> {
        let mut start = 0;
        while let Some(rest) = self.buffer.get(start..).filter(|rest| rest.len() >= least) {
            let cut = self.chunker.cut(rest);
            let id = self.batch.put(rest.get(..cut).unwrap_or(rest))?;
            list.push(piece_of(id, u32::try_from(cut).unwrap_or(u32::MAX)))?;
            start += cut;
        }
        self.buffer.drain(..start);
        Ok(())
    }
}

fn piece_of(id: ChunkId, len: u32) -> Piece {
    Piece::Data(id, len)
}
