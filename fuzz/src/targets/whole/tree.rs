//! The source of a repository: what files it has, and how they are written.

use std::collections::BTreeMap;

use vault::chunk::{Chunker, PutChunk};
use vault::codec::Bytes;
use vault::error::{Error, Result};
use vault::id::{self, ChunkId, ChunkKind};
use vault::repository::{Repository, Writer};
use vault::snapshot::list::ListWriter;
use vault::snapshot::tree::TreeWriter;
use vault::snapshot::{Content, Entry, Kind, Meta, Piece};

/// Files by their paths.
pub type Files = BTreeMap<Vec<u8>, Vec<u8>>;

/// So much is kept in the entry.
const INLINE_LEN: usize = 64;

/// One of some paths, most of them in a folder.
pub fn path(number: u8) -> Vec<u8> {
    match number % 4 {
        0 => format!("file {}", number / 4),
        folder => format!("folder {folder}/file {}", number / 4),
    }
    .into_bytes()
}

/// Some bytes, up to 16 KiB: zeros, words, or what does not compress.
pub fn content(seed: u8, len: u8) -> Vec<u8> {
    let len = usize::from(len).pow(2) / 4;
    match seed % 4 {
        0 => vec![0; len],
        1 => [seed, b' ', b'w', b'o', b'r', b'd', b's', b'\n'].into_iter().cycle().take(len).collect(),
        _ => {
            let blocks = (0..len.div_ceil(32) as u64).map(|number| (u64::from(seed) << 32) + number);
            blocks.flat_map(|number| id::hash(&number.to_le_bytes())).take(len).collect()
        }
    }
}

fn entry(name: &[u8], kind: Kind) -> Entry {
    Entry { name: Bytes::from(name), kind, meta: Meta { mode: 0o755, ..Meta::default() }, fields: Vec::new() }
}

fn write_file(chunker: &Chunker, put: &dyn PutChunk, content: &[u8]) -> Result<Content> {
    if content.len() <= INLINE_LEN {
        return Ok(Content::Inline(content.into()));
    }
    let mut list = ListWriter::new(put);
    // Zeros are a hole every other time.
    if content.len().is_multiple_of(2) && content.iter().all(|byte| *byte == 0) {
        list.push(Piece::Hole(content.len() as u64))?;
        return list.finish();
    }
    let mut rest = content;
    while !rest.is_empty() {
        let (chunk, behind) = rest.split_at(chunker.cut(rest));
        let id = put.put(ChunkKind::Data, chunk)?;
        list.push(Piece::Data(id, u32::try_from(chunk.len()).unwrap_or(u32::MAX)))?;
        rest = behind;
    }
    list.finish()
}

/// Writes all files, and returns the root.
pub fn write_tree(repository: &Repository, writer: &Writer, files: &Files) -> Result<ChunkId> {
    let gear = repository.keys().gear().map(|gear| &**gear);
    let chunker = Chunker::new(repository.config().chunker, gear).map_err(Error::damaged("config"))?;
    let mut folders: BTreeMap<&[u8], Vec<Entry>> = BTreeMap::from([(&b""[..], Vec::new())]);
    for (path, content) in files {
        let slash = path.iter().position(|byte| *byte == b'/');
        let (folder, name) = slash.map_or((&b""[..], &path[..]), |at| (&path[..at], &path[at + 1..]));
        let kind = Kind::File(content.len() as u64, write_file(&chunker, writer, content)?);
        folders.entry(folder).or_default().push(entry(name, kind));
    }
    let mut root = folders.remove(&b""[..]).unwrap_or_default();
    for (name, entries) in folders {
        root.push(entry(name, Kind::Directory(write_folder(writer, entries)?)));
    }
    write_folder(writer, root)
}

fn write_folder(writer: &Writer, mut entries: Vec<Entry>) -> Result<ChunkId> {
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    let mut tree = TreeWriter::new(writer);
    entries.iter().try_for_each(|entry| tree.push(entry))?;
    tree.finish()
}
