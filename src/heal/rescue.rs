//! Missing chunks from wherever they can be had: whole packs of the other copy where most of one is missing here, else chunk by chunk.

use std::collections::HashSet;

use crate::chunk::{GetChunk, PutChunk};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::heal::needed::{Missing, MissingChunk, Side, Soundly};
use crate::heal::{Run, pruned};
use crate::id::{ChunkId, PackId};
use crate::index::is_vanished;
use crate::pack::PackFile;
use crate::repository::{Reader, Writer};
use crate::transfer::{FileId, Folder};

/// Chunks that cannot be had any more; of data chunks with the length that is asked for.
pub(super) type LostChunks = HashSet<(ChunkId, u32)>;

impl Run<'_> {
    /// Fetches whole those packs of the other copy of which at least half of the chunks are needed and missing here: so two copies become
    /// alike again. A few chunks of a pack are no reason to bring back the rest, which may have been pruned here on purpose.
    pub(super) fn fetch_packs_of(&mut self, missing: &Missing, other: Option<&Reader>) -> Result<()> {
        let Some(other) = other else { return Ok(()) };
        let (mut chunks, mut counts) = (missing.chunks(), Vec::<(PackId, usize)>::new());
        while let Some(chunk) = chunks.next()?.filter(|chunk| chunk.side == Side::There) {
            match counts.last_mut().filter(|(pack, _)| *pack == chunk.pack) {
                Some((_, count)) => *count += 1,
                None => counts.push((chunk.pack, 1)),
            }
        }
        for (pack, count) in counts {
            self.copier.check_stop()?;
            let file = FileId { folder: Folder::Packs, hash: *pack.as_bytes() };
            // A damaged one was tried before.
            let is_tried = self.here.files.contains_key(&file) || self.damaged.contains(&file);
            if !is_tried && chunk_count(other, pack)?.is_some_and(|all| count * 2 >= all) {
                self.fetch(&file)?;
            }
        }
        Ok(())
    }

    /// Stores what is still missing, and returns what is lost.
    pub(super) fn rescue(
        &mut self,
        missing: &Missing,
        reader: &Reader,
        other: Option<&Reader>,
        writer: &Writer,
    ) -> Result<LostChunks> {
        self.observer.event(&Event::Phase("saving chunks"));
        let soundly = Soundly { reader, bad: self.bad_packs(reader) };
        let mut lost = LostChunks::new();
        let mut chunks = missing.chunks();
        while let Some(chunk) = chunks.next()? {
            self.copier.check_stop()?;
            let is_fetched = chunk.side == Side::There && self.new_packs.contains(&chunk.pack);
            if is_fetched || soundly.has(chunk.kind, &chunk.id, chunk.len)? {
                continue;
            }
            match get(&chunk, reader, other)? {
                Some(plain) => {
                    writer.put(chunk.kind, &plain)?;
                    self.summary.chunks_saved += 1;
                    self.observer.event(&Event::Advanced { bytes: plain.len() as u64 });
                }
                None => drop(lost.insert((chunk.id, chunk.len))),
            }
        }
        self.summary.chunks_lost = lost.len() as u64;
        Ok(lost)
    }
}

/// The bytes of a chunk, verified, from either side; nothing if neither has it.
fn get(chunk: &MissingChunk, here: &Reader, there: Option<&Reader>) -> Result<Option<Vec<u8>>> {
    let is_right = |plain: &Vec<u8>| chunk.len == 0 || plain.len() as u64 == u64::from(chunk.len);
    for reader in there.into_iter().chain([here]) {
        match reader.get(chunk.kind, &chunk.id) {
            Ok(plain) => return Ok(Some(plain).filter(is_right)),
            // It may be in another pack now.
            Err(error) if is_vanished(&error) => return Err(pruned(&chunk.pack)),
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(Error::about(reader.backend().place())(error)),
        }
    }
    Ok(None)
}

/// How many chunks a pack of the other copy has, if it says so.
fn chunk_count(other: &Reader, pack: PackId) -> Result<Option<usize>> {
    let read = PackFile::open(&**other.backend(), pack, other.keys()).and_then(|file| file.directory());
    match read {
        Ok(directory) => Ok(Some(directory.chunks.len())),
        // Not whole, so not to be had whole.
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(Error::about(other.backend().place())(error)),
    }
}
