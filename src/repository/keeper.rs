//! What a new snapshot takes over from older ones: each chunk of it counts as used by the run that writes, so that nobody deletes it; and one
//! that lies only in packs that somebody is about to delete, or that are damaged, is stored again.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::browse::{ContentReader, Together, into_error, lookup_in};
use crate::chunk::{GetChunk, PutChunk};
use crate::error::{Error, Result};
use crate::id::{self, ChunkId, ChunkKind};
use crate::repository::{Reader, Writer};
use crate::snapshot::Entry;
use crate::snapshot::made::{ERRORS_NOTE, RULES_NOTE, note};
use crate::snapshot::references::{Reference, of_contents, of_node};
use crate::snapshot::tree::TreeWriter;

/// No more of a note is taken over.
const MAX_NOTE: u64 = 16 << 20;

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
                if !self.nodes.insert(id.half()) {
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

    /// Takes over the notes of snapshots, one text after the other without the lines that are there already, and further rules by which
    /// something was left out.
    ///
    /// # Errors
    /// As [`Self::directory`].
    pub fn notes(&mut self, notes: &[ChunkId], rules: &[String]) -> Result<Option<ChunkId>> {
        let mut texts: BTreeMap<&[u8], Lines> = BTreeMap::new();
        for (node, name) in notes.iter().flat_map(|node| [(node, ERRORS_NOTE), (node, RULES_NOTE)]) {
            if let Some(entry) = lookup_in(self.reader, *node, name)? {
                texts.entry(name).or_default().add(&self.text(&entry)?);
            }
        }
        for rule in rules {
            texts.entry(RULES_NOTE).or_default().add(rule.as_bytes());
        }
        let mut texts = texts.into_iter().peekable();
        let mut tree = TreeWriter::new(self.writer);
        let mut is_empty = true;
        // All others as they come, however many: of a name that several have, the first one.
        let roots: Vec<(u32, ChunkId)> = (0..).zip(notes.iter().copied()).collect();
        let mut together = Together::new(self.reader, &roots, b"");
        loop {
            self.check()?;
            let versions = together.next().transpose()?;
            let other = versions.as_ref().and_then(|versions| versions.first()).map(|version| &version.entry);
            while let Some((name, lines)) =
                texts.next_if(|(name, _)| other.is_none_or(|other| **name <= *other.name))
            {
                tree.push(&note(self.writer, name, &lines.text)?)?;
                is_empty = false;
            }
            let Some(entry) = other else { break };
            if ![ERRORS_NOTE, RULES_NOTE].contains(&&*entry.name) {
                self.contents(entry)?;
                entry.kind.directory().map_or(Ok(()), |node| self.directory(node))?;
                tree.push(entry)?;
                is_empty = false;
            }
        }
        if is_empty { Ok(None) } else { tree.finish().map(Some) }
    }

    fn text(&self, note: &Entry) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut reader = ContentReader::new(self.reader, note).take(MAX_NOTE);
        reader.read_to_end(&mut text).map_err(|error| into_error(error, "read", Path::new("a note")))?;
        Ok(text)
    }
}

/// Lines, each once.
#[derive(Default)]
struct Lines {
    text: Vec<u8>,
    known: HashSet<[u8; 16]>,
}

impl Lines {
    fn add(&mut self, text: &[u8]) {
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if self.known.insert(id::checksum_128(&[line])) {
                self.text.extend_from_slice(line);
                self.text.push(b'\n');
            }
        }
    }
}
