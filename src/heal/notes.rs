//! What a remade snapshot says of itself: a file `errors` with a line for each path at which something is lost, then what the damaged
//! snapshot had there; and its `rules`.

use std::io::Read;

use crate::browse::{ContentReader, lookup};
use crate::chunk::{GetChunk, PutChunk};
use crate::codec::Bytes;
use crate::error::Result;
use crate::heal::rebuild::Rebuilder;
use crate::id::{ChunkId, ChunkKind};
use crate::snapshot::list::ListWriter;
use crate::snapshot::tree::TreeWriter;
use crate::snapshot::{Entry, Kind, Meta, Piece};

/// So many bytes become a chunk.
const CHUNK_LEN: usize = 256 << 10;

/// Notes that are being written.
pub(super) struct Notes<'n> {
    put: &'n dyn PutChunk,
    list: ListWriter<'n>,
    open: Vec<u8>,
    len: u64,
}

impl<'n> Notes<'n> {
    pub(super) fn new(put: &'n dyn PutChunk) -> Self {
        Self { put, list: ListWriter::new(put), open: Vec::new(), len: 0 }
    }

    /// Adds a line about a path.
    ///
    /// # Errors
    /// Any error of the repository.
    pub(super) fn line(&mut self, path: &[u8], what: &str) -> Result<()> {
        let path = String::from_utf8_lossy(path).replace('\n', "\\n");
        self.add(format!("/{path}: {what}\n").as_bytes())
    }

    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        self.open.extend_from_slice(bytes);
        if self.open.len() >= CHUNK_LEN { self.close() } else { Ok(()) }
    }

    fn close(&mut self) -> Result<()> {
        for chunk in std::mem::take(&mut self.open).chunks(CHUNK_LEN) {
            let id = self.put.put(ChunkKind::Data, chunk)?;
            self.list.push(Piece::Data(id, u32::try_from(chunk.len()).unwrap_or(u32::MAX)))?;
            self.len += chunk.len() as u64;
        }
        Ok(())
    }

    /// The root node of the notes, with what is left of those of the damaged snapshot.
    ///
    /// # Errors
    /// Any error of the repository.
    pub(super) fn finish(mut self, old: Option<ChunkId>, rebuilder: &Rebuilder<'_>) -> Result<ChunkId> {
        let root = |node| Entry {
            name: Bytes::default(),
            kind: Kind::Directory(node),
            meta: Meta::default(),
            fields: Vec::new(),
        };
        // Notes that are lost are no reason to do without the snapshot.
        let find = |name: &[u8]| lookup(rebuilder.get, &root(old?), name).ok().flatten();
        let rules = match find(b"rules") {
            Some(entry) => match &entry.kind {
                Kind::File(size, content) if !rebuilder.is_lost(content, *size)? => Some(entry),
                _ => None,
            },
            None => None,
        };
        if let Some(errors) = find(b"errors") {
            self.add_content(rebuilder.get, &errors)?;
        }
        self.close()?;
        let mut tree = TreeWriter::new(self.put);
        tree.push(&Entry {
            name: Bytes(b"errors".to_vec()),
            kind: Kind::File(self.len, self.list.finish()?),
            meta: Meta { mode: 0o600, ..Meta::default() },
            fields: Vec::new(),
        })?;
        if let Some(rules) = rules {
            tree.push(&rules)?;
        }
        tree.finish()
    }

    fn add_content(&mut self, get: &dyn GetChunk, entry: &Entry) -> Result<()> {
        let mut content = ContentReader::new(get, entry);
        let mut buffer = vec![0; CHUNK_LEN];
        loop {
            match content.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(len) => self.add(buffer.get(..len).unwrap_or_default())?,
                Err(_) => return self.add(b"further notes are lost\n"),
            }
        }
    }
}
