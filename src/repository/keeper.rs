//! What a new snapshot takes over from older ones: each chunk of it counts as used by the run that writes, so that nobody deletes it; and one
//! that lies only in packs that somebody is about to delete, or that are damaged, is stored again.

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::browse::{ContentReader, into_error};
use crate::chunk::{GetChunk, PutChunk};
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind};
use crate::repository::{Reader, Writer};
use crate::snapshot::Entry;
use crate::snapshot::made::{RULES_NOTE, note};
use crate::snapshot::references::{Reference, of_contents, of_node};
use crate::snapshot::tree::{Entries, TreeWriter};

/// No more of the rules that a snapshot notes is taken over.
const MAX_RULES: u64 = 16 << 20;

/// Takes over what is there for the snapshots of one run. Of each node that it has taken over it keeps 16 bytes.
pub struct Keeper<'a> {
    reader: &'a Reader,
    writer: &'a Writer,
    stop: &'a AtomicBool,
    nodes: HashSet<[u8; 16]>,
}

impl<'a> Keeper<'a> {
    /// Nothing is taken over yet.
    #[must_use]
    pub fn new(reader: &'a Reader, writer: &'a Writer, stop: &'a AtomicBool) -> Self {
        Self { reader, writer, stop, nodes: HashSet::new() }
    }

    /// The way to the chunks.
    #[must_use]
    pub fn reader(&self) -> &'a Reader {
        self.reader
    }

    /// Who writes.
    #[must_use]
    pub fn writer(&self) -> &'a Writer {
        self.writer
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// `Interrupted`.
    pub fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Takes over a directory by its root node, with all below it.
    ///
    /// # Errors
    /// `Interrupted`; damage to what is taken over, or a part of it that is missing; any error of the medium.
    pub fn directory(&mut self, node: ChunkId) -> Result<()> {
        self.all(vec![(ChunkKind::Tree, node, 0)])
    }

    /// Takes over the content and the attributes of an entry, but for what is in a directory.
    ///
    /// # Errors
    /// As [`Self::directory`].
    pub fn contents(&mut self, entry: &Entry) -> Result<()> {
        let mut pending = Vec::new();
        of_contents(entry, &mut pending);
        self.all(pending)
    }

    fn all(&mut self, mut pending: Vec<Reference>) -> Result<()> {
        while let Some((kind, id, _)) = pending.pop() {
            self.check()?;
            if kind != ChunkKind::Data {
                let half = id.as_bytes().first_chunk().copied().unwrap_or_default();
                if !self.nodes.insert(half) {
                    continue;
                }
                // One that breaks off here is not known as taken over: the run ends, or the snapshot is given up.
                if let Err(error) = of_node(self.reader, kind, &id, &mut pending) {
                    self.nodes.clear();
                    return Err(error);
                }
            }
            if let Err(error) = self.chunk(kind, &id) {
                self.nodes.clear();
                return Err(error);
            }
        }
        Ok(())
    }

    fn chunk(&self, kind: ChunkKind, id: &ChunkId) -> Result<()> {
        if !self.writer.has_chunk(kind, id)? {
            self.writer.put(kind, &self.reader.get(kind, id)?)?;
        }
        Ok(())
    }

    /// Takes over the notes of a snapshot, with further rules by which something was left out.
    ///
    /// # Errors
    /// As [`Self::directory`].
    pub fn notes(&mut self, notes: Option<ChunkId>, rules: &[String]) -> Result<Option<ChunkId>> {
        let mut entries = Vec::new();
        if let Some(node) = notes {
            for entry in Entries::new(self.reader, node) {
                entries.push(entry?);
            }
        }
        let mut text = Vec::new();
        for entry in entries.iter().filter(|entry| *entry.name == *RULES_NOTE) {
            let mut old = ContentReader::new(self.reader, entry).take(MAX_RULES);
            old.read_to_end(&mut text).map_err(|error| into_error(error, "read", Path::new("the rules")))?;
        }
        for rule in rules {
            text.extend_from_slice(rule.as_bytes());
            text.push(b'\n');
        }
        entries.retain(|entry| *entry.name != *RULES_NOTE);
        for entry in &entries {
            self.contents(entry)?;
            if let Some(node) = entry.kind.directory() {
                self.directory(node)?;
            }
        }
        if !text.is_empty() {
            entries.push(note(self.writer, RULES_NOTE, &text)?);
        }
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        let mut tree = TreeWriter::new(self.writer);
        entries.iter().try_for_each(|entry| tree.push(entry))?;
        if entries.is_empty() { Ok(None) } else { tree.finish().map(Some) }
    }
}
