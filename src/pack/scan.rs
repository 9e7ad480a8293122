//! Reads a whole pack once, from its first byte to its last, and holds it against every rule: what `check` does with packs.
//!
//! The hash is taken from the very bytes that the frames are decoded from. The walk goes on while the pack is sound; at the first fault
//! only the hashing goes on, since what can still be had of a damaged pack is found by asking for its chunks.

use crate::backend::Backend;
use crate::error::{Corruption, Error, Result};
use crate::header::HEADER_LEN;
use crate::id::{FileHasher, IdKeys, PackId};
use crate::pack::frame::{FrameHeader, decode_frame};
use crate::pack::{
    Directory, DirectoryFrame, FRAME_HEADER_LEN, Location, PackFile, Placed, aligned, pack_file_name,
};
use crate::seal::Keys;

/// The bytes read at a time where there is nothing to decode.
const PIECE_LEN: usize = 1 << 20;

/// What a pack is, as read.
#[derive(Debug, Default)]
pub struct ScannedPack {
    /// Its length.
    pub len: u64,
    /// What is wrong with it; empty if it is sound.
    pub faults: Vec<Error>,
    /// Whether its bytes are those it was published with, and every frame holds what the directory says: the chunks can be relied on.
    pub chunks_are_sound: bool,
    /// Its chunks, from the frames, as far as the walk came.
    pub chunks: Vec<Placed>,
}

/// Reads a pack: hash `[REPO-1]`, header, every frame and id `[FRAME-1]` to `[FRAME-7]`, directory against frames `[PACK-2]`, padding
/// `[PACK-3]`, tail. `progress` hears how many bytes were read, and says whether to go on.
///
/// # Errors
/// Any error of the medium that is no damage; `Interrupted` if `progress` says so.
pub fn scan_pack(
    backend: &dyn Backend,
    id: PackId,
    keys: &Keys,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<ScannedPack> {
    let mut scanned = ScannedPack::default();
    let (file, header_is_sound) = match PackFile::open(backend, id, keys) {
        Ok(file) => (file, true),
        Err(Error::Damaged { file, source }) => {
            scanned.faults.push(Error::Damaged { file, source });
            (PackFile::open_unread(backend, id)?, false)
        }
        Err(error) => return Err(error),
    };
    scanned.len = file.len();
    let mut scan = Scan { file: &file, hasher: FileHasher::default(), at: 0, progress };
    let directory = match if header_is_sound { file.directory_with_offset().map(Some) } else { Ok(None) } {
        Ok(directory) => directory,
        Err(error) => {
            scanned.fault(error)?;
            None
        }
    };
    let (directory, end) = directory.unzip();
    let mut frames_are_sound = false;
    if header_is_sound {
        match scan.frames(keys.ids(), end, &mut scanned.chunks) {
            Ok(frames) => {
                frames_are_sound = true;
                let compared = directory.map(|found| compare(&found, &frames, &scanned.chunks, id));
                if let Some(Err(error)) = compared {
                    scanned.fault(error)?;
                }
            }
            Err(error) => scanned.fault(error)?,
        }
    }
    match scan.rest() {
        Ok(hash) if hash == id => scanned.chunks_are_sound = frames_are_sound,
        Ok(_) => scanned.faults.insert(0, Error::damaged(&pack_file_name(&id))(Corruption::WrongHash)),
        Err(error) => scanned.fault(error)?,
    }
    Ok(scanned)
}

impl ScannedPack {
    /// Notes damage and passes anything else on.
    fn fault(&mut self, error: Error) -> Result<()> {
        if !error.is_damage() {
            return Err(error);
        }
        self.faults.push(error);
        Ok(())
    }
}

/// The way through the file: bytes are read in order, and each is hashed.
struct Scan<'a> {
    file: &'a PackFile,
    hasher: FileHasher,
    at: u64,
    progress: &'a mut dyn FnMut(u64) -> bool,
}

impl Scan<'_> {
    fn take(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.file.read_at(bytes, self.at)?;
        self.hasher.update(bytes);
        self.at += bytes.len() as u64;
        if (self.progress)(bytes.len() as u64) { Ok(()) } else { Err(Error::Interrupted) }
    }

    /// Walks the frames from the header to where the directory begins, or without one, to what is no frame.
    fn frames(
        &mut self,
        keys: &IdKeys,
        end: Option<u64>,
        chunks: &mut Vec<Placed>,
    ) -> Result<Vec<DirectoryFrame>> {
        self.take(&mut [0; HEADER_LEN])?;
        let mut frames = Vec::new();
        while end.is_none_or(|end| self.at < end) {
            if self.at + FRAME_HEADER_LEN as u64 > self.file.len() {
                break;
            }
            let number = u32::try_from(frames.len()).unwrap_or(u32::MAX);
            match self.frame(number, keys, chunks) {
                Ok(frame) => frames.push(frame),
                // Without a directory nobody knows how many there should be; that it is damaged is known already.
                Err(Error::Damaged { source: Corruption::WrongMagic { .. }, .. }) if end.is_none() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(frames)
    }

    fn frame(&mut self, number: u32, keys: &IdKeys, chunks: &mut Vec<Placed>) -> Result<DirectoryFrame> {
        let name = pack_file_name(&self.file.id());
        let damaged = |corruption| Error::damaged(&name)(corruption);
        let offset = u32::try_from(self.at)
            .map_err(|_| damaged(Corruption::rule("FRAME-1", "a frame starts beyond 4 GiB")))?;
        let mut bytes = [0; FRAME_HEADER_LEN];
        self.take(&mut bytes)?;
        self.file.unmask(offset.into(), &mut bytes);
        let header = FrameHeader::decode(&bytes, self.file.opener().is_some()).map_err(damaged)?;
        if header.number != number {
            return Err(damaged(Corruption::rule("FRAME-7", "its frames do not count up by one")));
        }
        if self.at + u64::from(header.stored_len) > self.file.len() {
            return Err(damaged(Corruption::rule("FRAME-3", "a frame lies beyond its end")));
        }
        let mut stored = vec![0; header.stored_len as usize];
        self.take(&mut stored)?;
        let frame =
            decode_frame(&bytes, stored, Some(self.file.kind()), self.file.opener()).map_err(damaged)?;
        let frame = frame.into_frame();
        for chunk in frame.chunks() {
            let plain = frame
                .bytes(chunk)
                .ok_or_else(|| damaged(Corruption::rule("FRAME-5", "a chunk is out of bounds")))?;
            let location = Location {
                pack: self.file.id(),
                frame_offset: offset,
                frame_stored_len: header.stored_len,
                offset: chunk.offset,
                len: chunk.len,
                kind: chunk.kind,
            };
            chunks.push((keys.chunk_id(chunk.kind, plain), location));
        }
        let padding = usize::try_from(aligned(self.at) - self.at).unwrap_or(0);
        let mut zeros = [0; 64];
        let Some(zeros) = zeros.get_mut(..padding) else {
            return Err(damaged(Corruption::rule("PACK-3", "its padding is too long")));
        };
        let at = self.at;
        self.take(zeros)?;
        self.file.unmask(at, zeros);
        if zeros.iter().any(|byte| *byte != 0) {
            return Err(damaged(Corruption::rule("PACK-3", "the padding behind a frame is not zero")));
        }
        Ok(DirectoryFrame {
            offset,
            stored_len: header.stored_len,
            plain_len: header.plain_len,
            codec: header.codec,
        })
    }

    /// Hashes what remains and returns the hash of the whole.
    fn rest(&mut self) -> Result<PackId> {
        let rest = |at| usize::try_from(self.file.len().saturating_sub(at)).unwrap_or(usize::MAX);
        let mut buffer = vec![0; rest(self.at).min(PIECE_LEN)];
        while self.at < self.file.len() {
            let len = rest(self.at).min(buffer.len());
            let piece = buffer.get_mut(..len).unwrap_or_default();
            self.take(piece)?;
        }
        Ok(PackId::from_bytes(self.hasher.finish()))
    }
}

/// `[PACK-2]`: the directory repeats what the frames say of themselves, in the same order.
fn compare(directory: &Directory, frames: &[DirectoryFrame], chunks: &[Placed], pack: PackId) -> Result<()> {
    let same = directory.frames == frames
        && directory.chunks.len() == chunks.len()
        && directory.placed(pack).eq(chunks.iter().copied());
    if same {
        return Ok(());
    }
    let what = Corruption::rule("PACK-2", "its directory is not what its frames say");
    Err(Error::damaged(&pack_file_name(&pack))(what))
}
