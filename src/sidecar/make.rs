//! Makes the parity of a pack that is whole. The pack is read twice: to hash it and its shards, and group by group to code these.

use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use crate::backend::{Backend, StoredFile};
use crate::error::{Corruption, Error, Result};
use crate::header::{Header, Magic, Seal};
use crate::id::{self, FileHasher, PackId, RepositoryId};
use crate::pack::pack_file_name;
use crate::session::Session;
use crate::sidecar::layout::{Description, HASH_LEN};
use crate::sidecar::{Output, PARITY_LEN, PIECE_LEN, Shape, Spill, sidecar_name};

/// Makes the parity of a pack, in place of any that there is, and returns the length of its file: durable on return. `percent` is from 1 to
/// 100. `progress` hears how many bytes of the pack were read, and says whether to go on.
///
/// # Errors
/// Damage to the pack: no parity is made of what is not right. `Parity`: the code did not give the pack back. `Interrupted` if `progress` says
/// so; any error of the medium.
pub fn make(
    backend: &dyn Backend,
    session: &Session,
    repository: RepositoryId,
    pack: PackId,
    percent: u32,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<u64> {
    let (pack_name, name) = (pack_file_name(&pack), sidecar_name(&pack));
    let file = backend.open(&pack_name).map_err(Error::repository("read", &pack_name))?;
    // What the medium holds, not what memory has of it.
    file.drop_cached().map_err(Error::repository("read", &pack_name))?;
    let shape = Shape::new(file.len(), percent);
    let source = Source { file: &*file, name: &pack_name, shape };
    let mut table = source.hash(pack, progress)?;
    let mut spill = Spill::begin(backend, session, &name)?;
    // By group, then by place; in the table and in the file they stand the other way round.
    let mut hashes = Vec::new();
    for group in 0..shape.groups() {
        if !progress(0) {
            return Err(Error::Interrupted);
        }
        let data = source.group(group, &table)?;
        let recovery = encode(&data, shape).ok_or_else(|| Error::Parity { file: name.clone() })?;
        if !gives_back(&data, &recovery, shape) {
            return Err(Error::Parity { file: name });
        }
        for shard in recovery.chunks_exact(shape.shard_len()) {
            hashes.push(id::checksum_128(&[shard]));
            spill.push(shard)?;
        }
    }
    let in_order: Vec<usize> = in_order(shape).collect();
    in_order.iter().filter_map(|at| hashes.get(*at)).for_each(|hash| table.extend(hash));
    let description = Description { pack, repository, shape, tables: id::checksum_128(&[&table]) }.encode();
    let header = Header {
        kind: 0,
        outer_len: u32::try_from(PARITY_LEN).unwrap_or(0),
        body_len: shape.body_len(),
        repository,
        seal: Seal::Plain,
        salt: 0,
    };
    let mut output = Output::begin(backend, session, &name)?;
    for part in [&header.encode(Magic::Parity)[..], &description, &table] {
        output.write(part)?;
    }
    let spilled = spill.read()?;
    let mut shard = vec![0; shape.shard_len()];
    for at in in_order {
        let unread = Error::repository("read back", &name);
        spilled.read_exact_at(&mut shard, (at * shape.shard_len()) as u64).map_err(unread)?;
        if hashes.get(at) != Some(&id::checksum_128(&[&shard])) {
            return Err(Error::Parity { file: name });
        }
        output.write(&shard)?;
    }
    output.write(&table)?;
    output.write(&description)?;
    output.publish()?;
    Ok(shape.file_len())
}

/// The recovery shards in the order in which they stand in the file, by their numbers in that of groups and places in them.
fn in_order(shape: Shape) -> impl Iterator<Item = usize> {
    let places = 0..shape.recovery();
    places.flat_map(move |place| {
        (0..shape.groups()).map(move |group| (group * shape.recovery() + place) as usize)
    })
}

/// A pack that is read to be coded.
struct Source<'a> {
    file: &'a dyn StoredFile,
    name: &'a str,
    shape: Shape,
}

impl Source<'_> {
    /// Hashes the pack, which has to be right, and its shards.
    fn hash(&self, pack: PackId, progress: &mut dyn FnMut(u64) -> bool) -> Result<Vec<u8>> {
        let mut table = Vec::with_capacity(self.shape.table_len());
        let mut hasher = FileHasher::default();
        let mut buffer = vec![0; PIECE_LEN];
        let mut at = 0;
        while at < self.file.len() {
            let len = usize::try_from(self.file.len() - at).unwrap_or(PIECE_LEN).min(PIECE_LEN);
            let piece = buffer.get_mut(..len).unwrap_or_default();
            self.file.read_exact_at(piece, at).map_err(Error::repository("read", self.name))?;
            hasher.update(piece);
            for shard in piece.chunks(self.shape.shard_len()) {
                table.extend(hash_of(shard, self.shape));
            }
            at += len as u64;
            if !progress(len as u64) {
                return Err(Error::Interrupted);
            }
        }
        if hasher.finish() != *pack.as_bytes() {
            return Err(Error::damaged(self.name)(Corruption::WrongHash));
        }
        Ok(table)
    }

    /// The data shards of a group, one after the other, as they were when the pack was hashed.
    fn group(&self, group: u32, table: &[u8]) -> Result<Vec<u8>> {
        let shard_len = self.shape.shard_len();
        let mut data = vec![0; self.shape.of_group(group).count() * shard_len];
        for (shard, buffer) in self.shape.of_group(group).zip(data.chunks_exact_mut(shard_len)) {
            let (offset, len) = self.shape.span(shard);
            let bytes = buffer.get_mut(..len).unwrap_or_default();
            self.file.read_exact_at(bytes, offset).map_err(Error::repository("read", self.name))?;
            let row = shard as usize * HASH_LEN;
            if table.get(row..row + HASH_LEN) != Some(&id::checksum_128(&[buffer])[..]) {
                return Err(Error::damaged(self.name)(Corruption::WrongHash));
            }
        }
        Ok(data)
    }
}

/// The hash of a data shard, filled up with zeros.
fn hash_of(shard: &[u8], shape: Shape) -> [u8; HASH_LEN] {
    let filler = vec![0; shape.shard_len() - shard.len()];
    id::checksum_128(&[shard, &filler])
}

/// The recovery shards of a group, one after the other.
fn encode(data: &[u8], shape: Shape) -> Option<Vec<u8>> {
    let shard_len = shape.shard_len();
    let (shards, recovery) = (data.len() / shard_len, shape.recovery() as usize);
    let mut encoder = ReedSolomonEncoder::new(shards, recovery, shard_len).ok()?;
    data.chunks_exact(shard_len).try_for_each(|shard| encoder.add_original_shard(shard)).ok()?;
    let result = encoder.encode().ok()?;
    let mut shards = Vec::with_capacity(recovery * shard_len);
    result.recovery_iter().for_each(|shard| shards.extend_from_slice(shard));
    (shards.len() == recovery * shard_len).then_some(shards)
}

/// Whether a group comes back from its recovery shards, if as many of its shards are gone as it has of these: a flipped bit or a fault of the code
/// must not reach the disk.
fn gives_back(data: &[u8], recovery: &[u8], shape: Shape) -> bool {
    let shard_len = shape.shard_len();
    let (shards, spare) = (data.len() / shard_len, recovery.len() / shard_len);
    let gone = spare.min(shards);
    let try_it = || {
        let mut decoder = ReedSolomonDecoder::new(shards, spare, shard_len)?;
        for (at, shard) in data.chunks_exact(shard_len).enumerate().skip(gone) {
            decoder.add_original_shard(at, shard)?;
        }
        for (at, shard) in recovery.chunks_exact(shard_len).enumerate().take(gone) {
            decoder.add_recovery_shard(at, shard)?;
        }
        let result = decoder.decode()?;
        let is_back = |(at, shard): (usize, &[u8])| result.restored_original(at) == Some(shard);
        Ok::<bool, reed_solomon_simd::Error>(data.chunks_exact(shard_len).enumerate().take(gone).all(is_back))
    };
    try_it().unwrap_or(false)
}
