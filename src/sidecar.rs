//! Parity of one pack in a file beside it, `<pack>.par`: with it a pack mends that rotted in a few places, without a second copy.
//! `spec/format.md` §13. The only place that knows the Reed-Solomon code.
//!
//! The pack is cut into shards of 4 KiB, and these are dealt out to groups of 16 MiB, so that memory is bounded and a hole in the pack takes as
//! much of each group. Each group has the same number of recovery shards: of both kinds together any so many as there are data shards give
//! the others back. Every shard has a hash, so that a damaged one is known; what is needed to read the file stands in it twice.
//!
//! `layout` has the bytes, `make` makes a sidecar, `mend` mends a pack. All of it is about bytes as they are stored: no key is needed.

mod layout;
mod make;
mod mend;

use std::collections::BTreeMap;
use std::io::Write;

use crate::backend::{Backend, NewFile, StoredFile};
use crate::error::{Corruption, Error, Result};
use crate::header::{HEADER_LEN, Header, Magic};
use crate::id::{self, FileHasher, PackId, RepositoryId};
use crate::pack::pack_file_name;
use crate::session::Session;

pub use layout::{PARITY_LEN, Shape};
pub use make::make;
pub use mend::{Mending, mend};

use layout::{Description, HASH_LEN};

/// What one thread takes at most, making or mending.
pub const THREAD_BYTES: usize = 64 << 20;
/// The bytes read at a time: a multiple of every shard.
const PIECE_LEN: usize = 1 << 20;

/// The name of the parity of a pack.
#[must_use]
pub fn sidecar_name(pack: &PackId) -> String {
    format!("{}.par", pack_file_name(pack))
}

/// The packs that have parity, or had it and are gone, with the length of it.
///
/// # Errors
/// Any error of the medium.
pub fn list(backend: &dyn Backend) -> Result<BTreeMap<PackId, u64>> {
    let mut sidecars = BTreeMap::new();
    for folder in backend.list("packs").map_err(Error::repository("list", "packs"))? {
        let path = format!("packs/{}", folder.name);
        if folder.is_file || folder.name.len() != 2 {
            continue;
        }
        for listed in backend.list(&path).map_err(Error::repository("list", &path))? {
            let id = listed.name.strip_suffix(".par").and_then(PackId::from_hex);
            let of_here = |id: &PackId| {
                listed.is_file
                    && listed.name.starts_with(&folder.name)
                    && id.as_bytes()[0] == prefix(&folder.name)
            };
            sidecars.extend(id.filter(of_here).map(|id| (id, listed.len)));
        }
    }
    Ok(sidecars)
}

fn prefix(folder: &str) -> u8 {
    u8::from_str_radix(folder, 16).unwrap_or(0)
}

/// The parity of a pack, open.
pub struct Sidecar {
    file: Box<dyn StoredFile>,
    name: String,
    description: Description,
    /// The hashes of all shards: one table that is right, or else what there is of two.
    tables: Vec<Vec<u8>>,
    faults: Vec<Error>,
}

impl Sidecar {
    /// Opens the parity of a pack. What is damaged of it, but for recovery shards, is among its faults; it is read by what stands in it twice.
    ///
    /// # Errors
    /// Damage to both of what is needed to read it, `NotFound` among it; any error of the medium.
    pub fn open(backend: &dyn Backend, repository: RepositoryId, pack: PackId) -> Result<Self> {
        let name = sidecar_name(&pack);
        let file = backend.open(&name).map_err(Error::repository("read", &name))?;
        file.drop_cached().map_err(Error::repository("read", &name))?;
        let damaged = |corruption| Error::damaged(&name)(corruption);
        let mut faults = Vec::new();
        let mut begin = vec![0; HEADER_LEN + PARITY_LEN];
        let mut end = vec![0; PARITY_LEN];
        read(&*file, &name, &mut begin, 0)?;
        read(&*file, &name, &mut end, file.len().saturating_sub(PARITY_LEN as u64))?;
        let (header, first) = begin.split_at(HEADER_LEN);
        let header = Header::decode(header, Magic::Parity, Some(repository));
        let first = Description::decode(first, repository, pack);
        let second = Description::decode(&end, repository, pack);
        let description = match (first, second) {
            (Ok(first), Ok(second)) if first == second => first,
            // [PAR-3]
            (Ok(one), _) | (Err(_), Ok(one)) => {
                faults.push(damaged(Corruption::rule(
                    "PAR-3",
                    "its two descriptions differ, or one is damaged",
                )));
                one
            }
            (Err(error), Err(_)) => return Err(damaged(error)),
        };
        let lens = (u32::try_from(PARITY_LEN).unwrap_or(0), description.shape.body_len());
        match header {
            Ok(header) if (header.outer_len, header.body_len) == lens => {}
            Ok(_) => faults.push(damaged(Corruption::rule("PAR-3", "its header has other lengths"))),
            Err(error) => faults.push(damaged(error)),
        }
        let expected = description.shape.file_len();
        if file.len() != expected {
            faults.push(damaged(Corruption::WrongLength { expected, found: file.len() }));
        }
        let mut sidecar = Self { file, name, description, tables: Vec::new(), faults };
        sidecar.read_tables()?;
        Ok(sidecar)
    }

    /// Reads both tables, and keeps one that is right; what there is of both if none is.
    fn read_tables(&mut self) -> Result<()> {
        let shape = self.description.shape;
        let (mut right, mut other) = (Vec::new(), Vec::new());
        for offset in shape.table_offsets() {
            let mut table = vec![0; shape.table_len()];
            let is_read = read(&*self.file, &self.name, &mut table, offset)?;
            if is_read && id::checksum_128(&[&table]) == self.description.tables {
                right.push(table);
                right.truncate(1);
            } else {
                self.faults.push(Error::damaged(&self.name)(Corruption::rule(
                    "PAR-3",
                    "a table of hashes is damaged",
                )));
                other.push(table);
            }
        }
        self.tables = if right.is_empty() { other } else { right };
        Ok(())
    }

    /// How the pack is cut, and how much parity there is.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.description.shape
    }

    /// What is damaged of it, as far as it was read.
    #[must_use]
    pub fn faults(&self) -> &[Error] {
        &self.faults
    }

    /// Reads all of it: what is damaged. `progress` hears how many bytes were read, and says whether to go on.
    ///
    /// # Errors
    /// Any error of the medium that is no damage; `Interrupted` if `progress` says so.
    pub fn verify(mut self, progress: &mut dyn FnMut(u64) -> bool) -> Result<Vec<Error>> {
        let shape = self.shape();
        let mut shard = vec![0; shape.shard_len()];
        let mut damaged = 0u32;
        for at in 0..shape.recovery_shards() {
            damaged += u32::from(!self.read_recovery(at, &mut shard)?);
            if !progress(shard.len() as u64) {
                return Err(Error::Interrupted);
            }
        }
        if damaged > 0 {
            self.faults
                .push(Error::damaged(&self.name)(Corruption::rule("PAR-4", "recovery shards are damaged")));
        }
        Ok(self.faults)
    }

    /// Whether these are the bytes of a data shard, filled up with zeros.
    fn is_data(&self, shard: u32, bytes: &[u8]) -> bool {
        self.has_hash(shard as usize, bytes)
    }

    /// Reads a recovery shard, by its place in the file. Whether its bytes are right `[PAR-4]`.
    fn read_recovery(&self, at: u32, shard: &mut [u8]) -> Result<bool> {
        let shape = self.shape();
        let is_read = read(&*self.file, &self.name, shard, shape.recovery_offset(at))?;
        Ok(is_read && self.has_hash((shape.shards() + at) as usize, shard))
    }

    fn has_hash(&self, row: usize, bytes: &[u8]) -> bool {
        let hash = id::checksum_128(&[bytes]);
        self.tables.iter().any(|table| table.get(row * HASH_LEN..(row + 1) * HASH_LEN) == Some(&hash[..]))
    }
}

/// Fills a buffer from a file. Not, if the bytes cannot be had: they lie beyond its end, or on a bad sector.
fn read(file: &dyn StoredFile, name: &str, buffer: &mut [u8], offset: u64) -> Result<bool> {
    match file.read_exact_at(buffer, offset).map_err(Error::repository("read", name)) {
        Ok(()) => Ok(true),
        Err(error) if error.is_damage() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Shards that wait in a temporary file for their turn: they come in one order and are needed in another.
struct Spill<'a> {
    backend: &'a dyn Backend,
    file: Box<dyn NewFile>,
    temporary: String,
    name: &'a str,
}

impl<'a> Spill<'a> {
    /// For what is to become `name`.
    fn begin(backend: &'a dyn Backend, session: &Session, name: &'a str) -> Result<Self> {
        let temporary = session.temporary();
        let file = backend.create(&temporary).map_err(Error::repository("write", name))?;
        Ok(Self { backend, file, temporary, name })
    }

    fn push(&mut self, shard: &[u8]) -> Result<()> {
        self.file.write_all(shard).map_err(Error::repository("write", self.name))
    }

    fn read(&self) -> Result<Box<dyn StoredFile>> {
        self.backend.open(&self.temporary).map_err(Error::repository("read back", self.name))
    }
}

/// A new file that is hashed while it is written, and read back from the medium before it gets its name.
struct Output<'a> {
    backend: &'a dyn Backend,
    file: Box<dyn NewFile>,
    temporary: String,
    name: &'a str,
    hasher: FileHasher,
    pending: Vec<u8>,
}

impl<'a> Output<'a> {
    fn begin(backend: &'a dyn Backend, session: &Session, name: &'a str) -> Result<Self> {
        let temporary = session.temporary();
        let file = backend.create(&temporary).map_err(Error::repository("write", name))?;
        Ok(Self { backend, file, temporary, name, hasher: FileHasher::default(), pending: Vec::new() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= PIECE_LEN { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_all(&self.pending).map_err(Error::repository("write", self.name))?;
        self.pending.clear();
        Ok(())
    }

    /// The hash of all that was written.
    fn hash(&self) -> [u8; 32] {
        self.hasher.finish()
    }

    /// Gives it its name, once the medium gives back what was written.
    fn publish(mut self) -> Result<()> {
        self.flush()?;
        self.backend.sync(&self.temporary).map_err(Error::repository("sync", self.name))?;
        let unread = || Error::repository("read back", self.name);
        let stored = self.backend.open(&self.temporary).map_err(unread())?;
        stored.drop_cached().map_err(unread())?;
        let mut hasher = FileHasher::default();
        let mut buffer = vec![0; PIECE_LEN];
        let mut at = 0;
        while at < stored.len() {
            let len = usize::try_from(stored.len() - at).unwrap_or(PIECE_LEN).min(PIECE_LEN);
            let piece = buffer.get_mut(..len).unwrap_or_default();
            stored.read_exact_at(piece, at).map_err(unread())?;
            hasher.update(piece);
            at += len as u64;
        }
        if hasher.finish() != self.hash() {
            let said = "the medium gave back other bytes than were written to it";
            return Err(unread()(std::io::Error::new(std::io::ErrorKind::InvalidData, said)));
        }
        self.file.publish(self.name).map_err(Error::repository("write", self.name))
    }
}
