//! The thread that takes entries in the order of the walk and builds the trees, bottom up, without recursion.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use crossbeam_channel::Receiver;

use crate::backup::entry::{implied, left_out};
use crate::backup::place::{Placed, walker};
use crate::backup::read::{Answer, Made};
use crate::backup::state::{FolderKey, LocalState, OpenFolder, Recorder, Summary};
use crate::backup::{Shared, Tally, source_record};
use crate::chunk::PutChunk;
use crate::codec::Bytes;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::snapshot::tree::{EncodedEntry, TreeWriter};
use crate::snapshot::{ENTRY_INCOMPLETE, Entry, Field, Kind, Source, Why, made};

/// The users and groups that occur in a source.
#[derive(Default)]
pub(super) struct Numbers {
    pub users: BTreeSet<u32>,
    pub groups: BTreeSet<u32>,
}

impl Numbers {
    /// Those of the source itself, as far as they are known before it is walked.
    pub(super) fn of(placed: &Placed) -> Self {
        let stats = || placed.found().map(|root| root.stat).into_iter();
        Self { users: stats().map(|stat| stat.uid).collect(), groups: stats().map(|stat| stat.gid).collect() }
    }
}

/// The trees of a run.
pub(super) struct Assembled {
    pub root: Entry,
    pub sources: Vec<Source>,
}

struct Assembler<'a> {
    shared: &'a Shared<'a>,
    put: &'a dyn PutChunk,
    /// The directories that are open, the root first.
    open: Vec<Folder<'a>>,
    /// The root, where a source is the root itself.
    root: Option<Entry>,
    numbers: Vec<Numbers>,
    source: usize,
    recorder: Recorder<'a>,
}

/// A directory that is open.
struct Folder<'a> {
    entry: Entry,
    tree: TreeWriter<'a>,
    recording: OpenFolder,
    /// What it was, while all that came is what the last run saw, in the same order: then nothing of it is in `tree` and `recording`.
    before: Option<Summary>,
    /// So many entries came while that was so.
    same: u32,
}

impl<'a> Folder<'a> {
    fn new(put: &'a dyn PutChunk, entry: Entry, key: Option<FolderKey>, before: Option<Summary>) -> Self {
        Self { entry, tree: TreeWriter::new(put), recording: OpenFolder::new(key), before, same: 0 }
    }

    /// It is not what it was: what came of it so far is written after all.
    fn differs(&mut self, recorder: &mut Recorder<'_>) -> Result<()> {
        if let (Some(_), Some(key)) = (self.before.take(), self.recording.key) {
            for number in 0..self.same {
                let entry = recorder.again(&mut self.recording, &key, number)?;
                self.tree.push_encoded(entry)?;
            }
        }
        Ok(())
    }

    /// Adds a file that is what it was, by its record.
    fn push_same(&mut self, recorder: &mut Recorder<'_>, key: &FolderKey, number: u32) -> Result<()> {
        if self.before.is_some() && self.recording.key == Some(*key) && self.same == number {
            self.same += 1;
            return Ok(());
        }
        self.differs(recorder)?;
        let entry = recorder.again(&mut self.recording, key, number)?;
        self.tree.push_encoded(entry)
    }

    /// Adds what is no file.
    fn push_other(
        &mut self,
        recorder: &mut Recorder<'_>,
        (name, is_interrupted): (&[u8], bool),
        entry: EncodedEntry,
    ) -> Result<()> {
        if let (Some(_), Some(key)) = (self.before, self.recording.key)
            && recorder.has_other(&key, self.same, &entry)
        {
            self.same += 1;
            return Ok(());
        }
        self.differs(recorder)?;
        // What an interruption kept from being saved may be known from before.
        if !is_interrupted {
            recorder.record_other(&mut self.recording, name, &entry);
        }
        self.tree.push_encoded(entry)
    }

    /// Its entry, now that all of it came.
    fn finish(mut self, recorder: &mut Recorder<'_>) -> Result<Entry> {
        let node = match (self.before, self.recording.key) {
            (Some(before), Some(key)) if before.count == self.same && !self.entry.is_incomplete() => {
                recorder.leave_same(key);
                before.node
            }
            _ => {
                self.differs(recorder)?;
                let node = self.tree.finish()?;
                recorder.leave(self.recording, (!self.entry.is_incomplete()).then_some(node));
                node
            }
        };
        Ok(self.entry.with_node(node))
    }
}

/// Assembles all groups, in order.
pub(super) fn run(
    shared: &Shared<'_>,
    state: &LocalState,
    sources: &[Placed],
    answers: &Receiver<Answer>,
) -> Result<Assembled> {
    let put: &dyn PutChunk = shared.writer;
    let source_is_root = sources.iter().any(|source| source.stored_at.is_empty());
    let mut assembler = Assembler {
        shared,
        put,
        open: Vec::new(),
        root: None,
        numbers: sources.iter().map(|_| Numbers::default()).collect(),
        source: 0,
        recorder: state.recorder(shared.stop),
    };
    if !source_is_root {
        assembler.open.push(Folder::new(put, implied(Vec::new()), None, None));
    }
    for answer in answers {
        // A reading thread that failed has said why to the writer.
        let group = answer.recv().unwrap_or(Err(Error::Stopped))?;
        group.into_iter().try_for_each(|made| assembler.take(made))?;
    }
    if !source_is_root {
        assembler.leave()?;
    }
    let Assembler { root, numbers, recorder, .. } = assembler;
    recorder.finish(!shared.stopped() && shared.tally.errors.load(Ordering::Relaxed) == 0);
    let root = root.ok_or(Error::Stopped)?;
    let origin = origin();
    let sources = sources
        .iter()
        .enumerate()
        .filter_map(|(number, placed)| {
            // A source inside of another was counted with that one.
            let numbers = numbers.get(walker(sources, number))?;
            Some(source_record(placed, &origin, numbers))
        })
        .collect();
    Ok(Assembled { root, sources })
}

fn origin() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

impl Assembler<'_> {
    fn take(&mut self, made: Made) -> Result<()> {
        match made {
            Made::Source(number) => self.source = number,
            Made::Enter(entry, key, before) => {
                self.note_numbers(&entry);
                self.open.push(Folder::new(self.put, entry, key, before));
            }
            Made::Incomplete => {
                if let Some(folder) = self.open.last_mut().filter(|folder| !folder.entry.is_incomplete()) {
                    folder.entry.fields.push(Field {
                        tag: ENTRY_INCOMPLETE,
                        critical: false,
                        value: Bytes::default(),
                    });
                }
            }
            Made::Leave => self.leave()?,
            Made::Same(key, number, owner) => {
                self.note_owner(owner);
                // Only a folder can be the root of a snapshot.
                let folder = self.open.last_mut().ok_or(Error::Stopped)?;
                folder.push_same(&mut self.recorder, &key, number)?;
            }
            Made::File(entry, owner, remembered) => {
                self.note_owner(owner);
                let folder = self.open.last_mut().ok_or(Error::Stopped)?;
                folder.differs(&mut self.recorder)?;
                self.recorder.record(&mut folder.recording, &remembered, &entry);
                folder.tree.push_encoded(entry)?;
            }
            Made::Entry(entry) => {
                self.note_numbers(&entry);
                self.add(entry)?;
            }
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        let Some(folder) = self.open.pop() else { return Ok(()) };
        let entry = folder.finish(&mut self.recorder)?;
        self.add(entry)
    }

    fn add(&mut self, mut entry: Entry) -> Result<()> {
        let Some((folder, above)) = self.open.split_last_mut() else {
            entry.name = Bytes::default();
            self.root = Some(entry);
            return Ok(());
        };
        let encoded = encoded_or_left_out(&entry, |error| {
            Tally::add(&self.shared.tally.left_out, 1);
            let names = above.iter().map(|folder| &folder.entry.name.0[..]).chain([&entry.name.0[..]]);
            let path = names.collect::<Vec<_>>().join(&b'/');
            self.shared.problem(&PathBuf::from(OsString::from_vec(path)), error);
        })?;
        let is_interrupted = matches!(entry.kind, Kind::LeftOut(Why::Interrupted, _));
        folder.push_other(&mut self.recorder, (&entry.name.0, is_interrupted), encoded)
    }

    fn note_numbers(&mut self, entry: &Entry) {
        if matches!(entry.kind, Kind::Implied(_) | Kind::LeftOut(..)) {
            return;
        }
        self.note_owner((entry.meta.uid, entry.meta.gid));
    }

    fn note_owner(&mut self, (uid, gid): (u32, u32)) {
        if let Some(numbers) = self.numbers.get_mut(self.source) {
            numbers.users.insert(uid);
            numbers.groups.insert(gid);
        }
    }
}

/// An entry, encoded; or, where no node has room for it, what says that it was left out `[TREE-4]`.
fn encoded_or_left_out(entry: &Entry, lost: impl FnOnce(&Error)) -> Result<EncodedEntry> {
    match EncodedEntry::new(entry) {
        Err(error @ Error::TooLong { .. }) => {
            lost(&error);
            EncodedEntry::new(&left_out(entry.name.0.clone(), Why::Unsupported, 0))
        }
        other => other,
    }
}

/// Writes the notes of a snapshot: what could not be read, and the rules. None if there are none.
pub(super) fn write_notes(shared: &Shared<'_>, rules: &[String]) -> Result<Option<ChunkId>> {
    let errors = shared.tally.noted.lock().map(|noted| noted.clone()).unwrap_or_default();
    let mut tree = TreeWriter::new(shared.writer);
    let mut any = false;
    for (name, lines) in [(made::ERRORS_NOTE, errors.as_slice()), (made::RULES_NOTE, rules)] {
        if lines.is_empty() {
            continue;
        }
        any = true;
        let text = lines.iter().flat_map(|line| [line.as_bytes(), b"\n"]).collect::<Vec<_>>().concat();
        tree.push(&made::note(shared.writer, name, &text)?)?;
    }
    if any { tree.finish().map(Some) } else { Ok(None) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::id::ChunkKind;
    use crate::snapshot::tree::decode_node;
    use crate::snapshot::{Content, Meta, TreeNode, Xattr};

    /// Keeps what was put last.
    struct Last(Mutex<Vec<u8>>);

    impl PutChunk for Last {
        fn put(&self, _: ChunkKind, chunk: &[u8]) -> Result<ChunkId> {
            *self.0.lock().unwrap() = chunk.to_vec();
            Ok(ChunkId::from_bytes([1; 32]))
        }
    }

    /// A FIFO with attributes of 64 KiB each.
    fn fifo(name: &str, xattrs: u32) -> Entry {
        let value = || Content::Inline(vec![0; 64 << 10].into());
        let all = (0..xattrs)
            .map(|number| Xattr { name: format!("{number:08}").into_bytes().into(), value: value() });
        let meta = Meta { xattrs: all.collect(), ..Meta::default() };
        Entry { name: name.as_bytes().into(), kind: Kind::Fifo, meta, fields: Vec::new() }
    }

    #[test]
    fn tree_4_an_entry_that_no_node_has_room_for_is_left_out_and_the_others_are_not() {
        let kept = Last(Mutex::default());
        let mut tree = TreeWriter::new(&kept);
        let mut lost = Vec::new();
        for (name, xattrs) in [("a", 0), ("b", 300), ("c", 0)] {
            let entry = encoded_or_left_out(&fifo(name, xattrs), |error| lost.push(error.to_string()));
            tree.push_encoded(entry.unwrap()).unwrap();
        }
        tree.finish().unwrap();
        let TreeNode::Leaf(entries) = decode_node(&kept.0.lock().unwrap()).unwrap() else {
            panic!("a branch")
        };
        let kinds: Vec<&Kind> = entries.iter().map(|entry| &entry.kind).collect();
        assert_eq!(kinds, [&Kind::Fifo, &Kind::LeftOut(Why::Unsupported, 0), &Kind::Fifo]);
        assert!(matches!(&lost[..], [text] if text.starts_with("the entry b takes 19")), "{lost:?}");
    }

    #[test]
    fn tree_4_the_longest_entry_that_is_taken_fits_into_a_node_that_is_nearly_full() {
        let kept = Last(Mutex::default());
        let mut tree = TreeWriter::new(&kept);
        for (name, xattrs) in [("a", 1), ("b", 1), ("c", 1), ("d", 251)] {
            tree.push(&fifo(name, xattrs)).unwrap();
        }
        assert!(matches!(tree.push(&fifo("e", 252)), Err(Error::TooLong { .. })));
        tree.finish().unwrap();
        assert!(kept.0.lock().unwrap().len() <= 16 << 20);
    }
}
