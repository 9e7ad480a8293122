//! The thread that takes entries in the order of the walk and builds the trees, bottom up, without recursion.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use crossbeam_channel::Receiver;

use crate::backup::place::{Placed, walker};
use crate::backup::read::{Answer, Made, implied};
use crate::backup::state::{LocalState, Recorder};
use crate::backup::{Shared, Tally, left_out_entry, source_record};
use crate::chunk::PutChunk;
use crate::codec::Bytes;
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind};
use crate::snapshot::list::ListWriter;
use crate::snapshot::tree::TreeWriter;
use crate::snapshot::{Content, ENTRY_INCOMPLETE, Entry, Field, Kind, Meta, Piece, Source, Why};

/// The notes are cut into chunks of this length.
const NOTE_CHUNK_LEN: usize = 256 << 10;

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
    open: Vec<(Entry, TreeWriter<'a>)>,
    /// The root, where a source is the root itself.
    root: Option<Entry>,
    numbers: Vec<Numbers>,
    source: usize,
    recorder: Recorder<'a>,
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
        assembler.open.push((implied(Vec::new()), TreeWriter::new(put)));
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
            Made::Enter(entry, key) => {
                self.note_numbers(&entry);
                self.recorder.enter(key);
                self.open.push((entry, TreeWriter::new(self.put)));
            }
            Made::Incomplete => {
                if let Some((directory, _)) = self.open.last_mut().filter(|(open, _)| !open.is_incomplete()) {
                    directory.fields.push(Field {
                        tag: ENTRY_INCOMPLETE,
                        critical: false,
                        value: Bytes::default(),
                    });
                }
            }
            Made::Leave => {
                self.recorder.leave();
                self.leave()?;
            }
            Made::File(entry, owner, remembered) => {
                self.note_owner(owner);
                self.recorder.record(&remembered, &entry);
                match self.open.last_mut() {
                    Some((_, tree)) => tree.push_encoded(entry)?,
                    // Only a folder can be the root of a snapshot.
                    None => return Err(Error::Stopped),
                }
            }
            Made::Entry(entry) => {
                self.note_numbers(&entry);
                self.add(entry)?;
            }
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        let Some((mut entry, tree)) = self.open.pop() else { return Ok(()) };
        let node = tree.finish()?;
        entry.kind = match entry.kind {
            Kind::Implied(_) => Kind::Implied(node),
            _ => Kind::Directory(node),
        };
        self.add(entry)
    }

    fn add(&mut self, mut entry: Entry) -> Result<()> {
        let Some(((_, tree), above)) = self.open.split_last_mut() else {
            entry.name = Bytes::default();
            self.root = Some(entry);
            return Ok(());
        };
        let name = entry.name.clone();
        add_or_leave_out(tree, &entry, |error| {
            Tally::add(&self.shared.tally.left_out, 1);
            let names = above.iter().map(|(entry, _)| &entry.name.0[..]).chain([&name.0[..]]);
            let path = names.collect::<Vec<_>>().join(&b'/');
            self.shared.problem(&PathBuf::from(OsString::from_vec(path)), error);
        })
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

/// Adds an entry; or, where no node has room for it, what says that it was left out `[TREE-4]`.
fn add_or_leave_out(tree: &mut TreeWriter<'_>, entry: &Entry, lost: impl FnOnce(&Error)) -> Result<()> {
    match tree.push(entry) {
        Err(error @ Error::TooLong { .. }) => {
            lost(&error);
            tree.push(&left_out_entry(entry.name.0.clone(), Why::Unsupported, 0))
        }
        other => other,
    }
}

/// Writes the notes of a snapshot: what could not be read, and the rules. None if there are none.
pub(super) fn write_notes(shared: &Shared<'_>, rules: &[String]) -> Result<Option<ChunkId>> {
    let errors = shared.tally.noted.lock().map(|noted| noted.clone()).unwrap_or_default();
    let mut tree = TreeWriter::new(shared.writer);
    let mut any = false;
    for (name, lines) in [("errors", errors.as_slice()), ("rules", rules)] {
        if lines.is_empty() {
            continue;
        }
        any = true;
        let text = lines.iter().flat_map(|line| [line.as_bytes(), b"\n"]).collect::<Vec<_>>().concat();
        let mut list = ListWriter::new(shared.writer);
        for chunk in text.chunks(NOTE_CHUNK_LEN) {
            let id = shared.writer.put(ChunkKind::Data, chunk)?;
            list.push(Piece::Data(id, u32::try_from(chunk.len()).unwrap_or(u32::MAX)))?;
        }
        let content: Content = list.finish()?;
        tree.push(&Entry {
            name: Bytes(name.into()),
            kind: Kind::File(text.len() as u64, content),
            meta: Meta { mode: 0o600, ..Meta::default() },
            fields: Vec::new(),
        })?;
    }
    if any { tree.finish().map(Some) } else { Ok(None) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::snapshot::tree::decode_node;
    use crate::snapshot::{TreeNode, Xattr};

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
            add_or_leave_out(&mut tree, &fifo(name, xattrs), |error| lost.push(error.to_string())).unwrap();
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
