//! Mends a damaged pack by its parity. What is mended replaces the damaged file only once it has the hash that is its name `[PAR-5]`, so
//! nothing is ever worse than before.

use std::collections::BTreeMap;

use reed_solomon_simd::ReedSolomonDecoder;

use crate::backend::{Backend, StoredFile};
use crate::error::{Corruption, Error, Result};
use crate::id::{FileHasher, PackId, RepositoryId};
use crate::pack::pack_file_name;
use crate::session::Session;
use crate::sidecar::{Output, PIECE_LEN, Shape, Sidecar, Spill, read, sidecar_name};

/// What became of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mending {
    /// It is whole: nothing was done.
    Whole,
    /// It was damaged, and is whole now.
    Mended {
        /// So many shards were damaged.
        shards: u32,
        /// Their bytes.
        bytes: u64,
    },
    /// More is damaged than the parity makes up for: nothing was changed.
    Beyond {
        /// So many shards are damaged.
        shards: u32,
        /// So many more sound recovery shards it would take.
        lacking: u32,
    },
}

/// Mends a pack by its parity if it is damaged, cut off, or gone: durable on return. With `dry_run` it only says whether that can be done. It
/// takes as much room on the medium as the pack and what is damaged of it. `progress` hears how many bytes of the pack were read, and says
/// whether to go on.
///
/// # Errors
/// Damage to the parity that makes it useless, `NotFound` of it among that; `Interrupted` if `progress` says so; any error of the medium.
pub fn mend(
    backend: &dyn Backend,
    session: &Session,
    (repository, pack): (RepositoryId, PackId),
    dry_run: bool,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Mending> {
    let sidecar = Sidecar::open(backend, repository, pack)?;
    let name = pack_file_name(&pack);
    let file = match backend.open(&name) {
        Ok(file) => {
            file.drop_cached().map_err(Error::repository("read", &name))?;
            Some(file)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(Error::repository("read", &name)(error)),
    };
    let shape = sidecar.shape();
    let patient = Patient { file: file.as_deref(), name: &name, sidecar: &sidecar, shape };
    let (is_whole, sound) = patient.examine(pack, progress)?;
    if is_whole {
        return Ok(Mending::Whole);
    }
    let shards = count(sound.iter().filter(|is_sound| !**is_sound).count());
    let spares = patient.spares(&sound)?;
    let lacking: u32 = spares.iter().map(|spare| spare.lacking).sum();
    if lacking > 0 {
        return Ok(Mending::Beyond { shards, lacking });
    }
    let mended = Mending::Mended { shards, bytes: u64::from(shards) * shape.shard_len() as u64 };
    if dry_run {
        return Ok(mended);
    }
    patient.mend(pack, (backend, session), (&sound, &spares), progress)?;
    Ok(mended)
}

/// The sound recovery shards that a group needs.
struct Spare {
    group: u32,
    /// Their places in the group.
    recovery: Vec<u32>,
    /// How many there are too few.
    lacking: u32,
}

/// The pack that is to be mended.
struct Patient<'a> {
    file: Option<&'a dyn StoredFile>,
    name: &'a str,
    sidecar: &'a Sidecar,
    shape: Shape,
}

impl Patient<'_> {
    /// Whether all of the pack is right, and which of its shards are.
    fn examine(&self, pack: PackId, progress: &mut dyn FnMut(u64) -> bool) -> Result<(bool, Vec<bool>)> {
        let mut sound = Vec::new();
        let mut hasher = FileHasher::default();
        let mut is_read = true;
        let mut buffer = vec![0; PIECE_LEN];
        let step = PIECE_LEN / self.shape.shard_len();
        let all: Vec<u32> = (0..self.shape.shards()).collect();
        for shards in all.chunks(step.max(1)) {
            let len: usize = shards.iter().map(|shard| self.shape.span(*shard).1).sum();
            let offset = shards.first().map_or(0, |shard| self.shape.span(*shard).0);
            let piece = buffer.get_mut(..len).unwrap_or_default();
            let is_piece = self.file.map_or(Ok(false), |file| read(file, self.name, piece, offset))?;
            is_read &= is_piece;
            if is_piece {
                hasher.update(piece);
            }
            for (shard, bytes) in shards.iter().zip(piece.chunks_mut(self.shape.shard_len())) {
                // Of a piece that cannot be read, some shards can.
                sound.push(self.is_sound(*shard, bytes, is_piece)?);
            }
            if !progress(len as u64) {
                return Err(Error::Interrupted);
            }
        }
        let has_len = self.file.is_some_and(|file| file.len() == self.shape.pack_len());
        Ok((has_len && is_read && hasher.finish() == *pack.as_bytes(), sound))
    }

    fn is_sound(&self, shard: u32, bytes: &mut [u8], is_read: bool) -> Result<bool> {
        let Some(file) = self.file else { return Ok(false) };
        if !is_read && !read(file, self.name, bytes, self.shape.span(shard).0)? {
            return Ok(false);
        }
        if bytes.len() == self.shape.shard_len() {
            return Ok(self.sidecar.is_data(shard, bytes));
        }
        let mut filled = bytes.to_vec();
        filled.resize(self.shape.shard_len(), 0);
        Ok(self.sidecar.is_data(shard, &filled))
    }

    /// What there is to make up for the damage, by group.
    fn spares(&self, sound: &[bool]) -> Result<Vec<Spare>> {
        let mut spares = Vec::new();
        let mut buffer = vec![0; self.shape.shard_len()];
        for group in 0..self.shape.groups() {
            let is_gone = |shard: &u32| !sound.get(*shard as usize).copied().unwrap_or(false);
            let gone = self.shape.of_group(group).filter(is_gone).count();
            let mut recovery = Vec::new();
            for place in 0..self.shape.recovery() {
                if recovery.len() == gone {
                    break;
                }
                if self.sidecar.read_recovery(self.shape.recovery_at(group, place), &mut buffer)? {
                    recovery.push(place);
                }
            }
            let lacking = count(gone - recovery.len());
            spares.push(Spare { group, recovery, lacking });
        }
        Ok(spares)
    }

    /// Puts the mended pack in the place of the damaged one.
    fn mend(
        &self,
        pack: PackId,
        (backend, session): (&dyn Backend, &Session),
        (sound, spares): (&[bool], &[Spare]),
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        let mut spill = Spill::begin(backend, session, self.name)?;
        let mut places = BTreeMap::new();
        for spare in spares.iter().filter(|spare| !spare.recovery.is_empty()) {
            if !progress(0) {
                return Err(Error::Interrupted);
            }
            self.decode(spare, sound, &mut |shard, bytes| {
                places.insert(shard, places.len() as u64);
                spill.push(bytes)
            })?;
        }
        let mut output = Output::begin(backend, session, self.name)?;
        let spilled = spill.read()?;
        let shard_len = self.shape.shard_len();
        let mut buffer = vec![0; shard_len];
        for shard in 0..self.shape.shards() {
            let (offset, len) = self.shape.span(shard);
            let bytes = buffer.get_mut(..len).unwrap_or_default();
            match (places.get(&shard), self.file) {
                (Some(place), _) => spilled.read_exact_at(bytes, place * shard_len as u64),
                (None, Some(file)) => file.read_exact_at(bytes, offset),
                (None, None) => Err(std::io::ErrorKind::NotFound.into()),
            }
            .map_err(Error::repository("read", self.name))?;
            output.write(bytes)?;
        }
        // [PAR-5]
        if output.hash() != *pack.as_bytes() {
            let what = Corruption::rule("PAR-5", "it does not give its pack back");
            return Err(Error::damaged(&sidecar_name(&pack))(what));
        }
        output.publish()
    }

    /// Gives back the shards of a group that are gone.
    fn decode(
        &self,
        spare: &Spare,
        sound: &[bool],
        take: &mut dyn FnMut(u32, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let useless = || Error::Parity { file: self.name.to_owned() };
        let shards: Vec<u32> = self.shape.of_group(spare.group).collect();
        let (shard_len, recovery) = (self.shape.shard_len(), self.shape.recovery() as usize);
        let mut decoder =
            ReedSolomonDecoder::new(shards.len(), recovery, shard_len).map_err(|_| useless())?;
        let mut buffer = vec![0; shard_len];
        let mut gone = Vec::new();
        for (place, shard) in shards.iter().enumerate() {
            let (offset, len) = self.shape.span(*shard);
            let Some(file) = self.file.filter(|_| sound.get(*shard as usize) == Some(&true)) else {
                gone.push((place, *shard));
                continue;
            };
            buffer.fill(0);
            let bytes = buffer.get_mut(..len).unwrap_or_default();
            file.read_exact_at(bytes, offset).map_err(Error::repository("read", self.name))?;
            decoder.add_original_shard(place, &buffer).map_err(|_| useless())?;
        }
        for place in &spare.recovery {
            self.sidecar.read_recovery(self.shape.recovery_at(spare.group, *place), &mut buffer)?;
            decoder.add_recovery_shard(*place as usize, &buffer).map_err(|_| useless())?;
        }
        let result = decoder.decode().map_err(|_| useless())?;
        gone.iter().try_for_each(|(place, shard)| {
            let bytes = result.restored_original(*place).ok_or_else(useless)?;
            take(*shard, bytes)
        })
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
