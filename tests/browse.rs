//! Looking into snapshots: lookup, walk, find, diff, export and stats over trees made in memory.

mod export;

use std::collections::HashMap;
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use vault::browse::{ContentReader, Walk, lookup};
use vault::chunk::{GetChunk, PutChunk};
use vault::diff::{DiffSummary, LiveOptions, Sinks, diff, diff_live};
use vault::error::{Error, Result};
use vault::export::export_file;
use vault::find::{Query, find};
use vault::id::{ChunkId, ChunkKind, IdKeys, SnapshotId};
use vault::snapshot::tree::TreeWriter;
use vault::snapshot::{Content, Entry, Kind, Meta, Piece, Snapshot, State, Time, Why};
use vault::stats::stats;

static GO: AtomicBool = AtomicBool::new(false);

/// Chunks in memory; those in `lost` are missing.
struct Store {
    keys: IdKeys,
    chunks: Mutex<HashMap<ChunkId, Vec<u8>>>,
    gets: Mutex<Vec<ChunkId>>,
}

impl Store {
    fn new() -> Self {
        Self { keys: IdKeys::plain(), chunks: Mutex::default(), gets: Mutex::default() }
    }

    fn lose(&self, id: &ChunkId) {
        self.chunks.lock().unwrap().remove(id);
    }

    fn folder(&self, name: &str, mut entries: Vec<Entry>) -> Entry {
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        let mut writer = TreeWriter::new(self);
        for entry in entries {
            writer.push(&entry).unwrap();
        }
        entry(name.as_bytes(), Kind::Directory(writer.finish().unwrap()))
    }

    /// A file of data chunks, with a hole of 1000 bytes between any two.
    fn file(&self, name: &str, pieces: &[&[u8]]) -> Entry {
        let mut list = Vec::new();
        for bytes in pieces {
            if !list.is_empty() {
                list.push(Piece::Hole(1000));
            }
            let id = self.put(ChunkKind::Data, bytes).unwrap();
            list.push(Piece::Data(id, u32::try_from(bytes.len()).unwrap()));
        }
        let size = list.iter().map(Piece::len).sum();
        entry(name.as_bytes(), Kind::File(size, Content::Pieces(list)))
    }

    fn snapshot(&self, number: u8, entries: Vec<Entry>) -> (SnapshotId, Snapshot) {
        let time = Time { secs: i64::from(number), nanos: 0 };
        let snapshot = Snapshot {
            state: State::Complete,
            root: self.folder("", entries),
            notes: None,
            sources: Vec::new(),
            label: String::new(),
            tags: Vec::new(),
            description: String::new(),
            host: String::new(),
            host_id: [0; 16],
            user: String::new(),
            program: String::new(),
            start: time,
            end: time,
            utc_offset_secs: 0,
            predecessor: None,
            made_from: Vec::new(),
            counters: Vec::new(),
            fields: Vec::new(),
        };
        (SnapshotId::from_bytes([number; 32]), snapshot)
    }
}

impl GetChunk for Store {
    fn get(&self, kind: ChunkKind, id: &ChunkId) -> Result<Vec<u8>> {
        self.gets.lock().unwrap().push(*id);
        self.chunks.lock().unwrap().get(id).cloned().ok_or(Error::ChunkMissing { kind, id: *id })
    }
}

impl PutChunk for Store {
    fn put(&self, kind: ChunkKind, plain: &[u8]) -> Result<ChunkId> {
        let id = self.keys.chunk_id(kind, plain);
        self.chunks.lock().unwrap().insert(id, plain.to_vec());
        Ok(id)
    }
}

fn entry(name: &[u8], kind: Kind) -> Entry {
    let meta = match kind {
        Kind::LeftOut(..) | Kind::Implied(_) => Meta::default(),
        _ => Meta { mode: 0o644, mtime: Time { secs: 7, nanos: 9 }, ..Meta::default() },
    };
    Entry { name: name.into(), kind, meta, fields: Vec::new() }
}

fn small(name: &str, bytes: &[u8]) -> Entry {
    entry(name.as_bytes(), Kind::File(bytes.len() as u64, Content::Inline(bytes.into())))
}

fn node(entry: &Entry) -> ChunkId {
    entry.kind.directory().unwrap()
}

fn text(path: &[u8]) -> String {
    String::from_utf8(path.to_vec()).unwrap()
}

#[test]
fn lookup_finds_every_name_of_a_directory_of_many_nodes_and_no_other() {
    let store = Store::new();
    let name = |number: u32| format!("{number:06}{}", "x".repeat(100));
    let root = store.folder("", (0..5000).map(|number| small(&name(number * 2), b"")).collect());
    for number in (0..10_002).step_by(37) {
        let found = lookup(&store, &root, name(number).as_bytes()).unwrap();
        assert_eq!(found.is_some(), number % 2 == 0 && number < 10_000, "{number}");
    }
    store.gets.lock().unwrap().clear();
    lookup(&store, &root, name(5000).as_bytes()).unwrap();
    assert!(store.gets.lock().unwrap().len() <= 3, "a lookup reads one node of each level");
}

#[test]
fn a_walk_goes_on_behind_a_directory_that_cannot_be_read() {
    let store = Store::new();
    let lost = store.folder("b", vec![small("x", b"1")]);
    let root =
        store.folder("", vec![small("a", b""), lost.clone(), store.folder("c", vec![small("d", b"")])]);
    store.lose(&node(&lost));
    let mut walk = Walk::new(&store, node(&root), b"");
    let mut seen = Vec::new();
    while let Some(item) = walk.next() {
        let path = text(walk.path());
        match item {
            Ok(entry) => {
                seen.push(path);
                walk.descend(&entry);
            }
            Err(error) => seen.push(format!("{path}: {}", error.is_damage())),
        }
    }
    assert_eq!(seen, ["a", "b", "b: true", "c", "c/d"]);
}

#[test]
fn ten_thousand_levels_are_walked_and_looked_up() {
    let store = Store::new();
    let mut inner = small("end", b"!");
    for _ in 0..10_000 {
        inner = store.folder("d", vec![inner]);
    }
    let root = store.folder("", vec![inner]);
    let mut walk = Walk::new(&store, node(&root), b"");
    let mut last = Vec::new();
    while let Some(item) = walk.next() {
        let entry = item.unwrap();
        last = walk.path().to_vec();
        walk.descend(&entry);
    }
    assert_eq!(last.len(), 2 * 10_000 + 3);
    assert!(lookup(&store, &root, &last).unwrap().is_some());
}

#[test]
fn find_groups_identical_versions_with_their_first_and_last_snapshot() {
    let store = Store::new();
    let same = store.folder("same", vec![small("f", b"0"), small("g", b"0")]);
    let snapshots = [
        store.snapshot(1, vec![same.clone(), store.folder("e", vec![small("f", b"1")])]),
        store.snapshot(2, vec![same.clone(), store.folder("e", vec![small("f", b"2")])]),
        store.snapshot(3, vec![same.clone(), store.folder("e", vec![small("f", b"1"), small("h", b"")])]),
        store.snapshot(4, vec![same.clone(), entry(b"e", Kind::LeftOut(Why::Excluded, 0))]),
    ];
    let query = Query {
        matches: &|path, _| path.ends_with(b"f") || path == b"e",
        newer: None,
        older: None,
        below: Vec::new(),
    };
    let mut found = Vec::new();
    store.gets.lock().unwrap().clear();
    find(
        &store,
        &snapshots,
        &query,
        &mut |one| {
            for version in &one.versions {
                let (first, last) = (version.first.as_bytes()[0], version.last.as_bytes()[0]);
                found.push((text(&one.path), first, last, version.count));
            }
            Ok(())
        },
        &mut |path, error| panic!("{}: {error}", text(path)),
        &GO,
    )
    .unwrap();
    let expected = [("e", 1, 3, 3), ("e/f", 1, 3, 2), ("e/f", 2, 2, 1), ("same/f", 1, 4, 4)];
    assert_eq!(found, expected.map(|(path, first, last, count)| (path.to_owned(), first, last, count)));
    let reads = store.gets.lock().unwrap().iter().filter(|id| **id == node(&same)).count();
    assert_eq!(reads, 1, "a directory that all share is read once");
}

/// The differences as `how path`, and what could not be compared.
fn collect(run: impl FnOnce(&mut Sinks<'_>) -> Result<DiffSummary>) -> (Vec<String>, DiffSummary) {
    let lines = Mutex::new(Vec::new());
    let mut difference = |one: &vault::diff::Difference<'_>| {
        lines.lock().unwrap().push(format!("{:?} {}", one.how, text(one.path)));
        Ok(())
    };
    let mut problem = |path: &[u8], _| lines.lock().unwrap().push(format!("problem {}", text(path)));
    let summary = run(&mut Sinks { difference: &mut difference, problem: &mut problem }).unwrap();
    (lines.into_inner().unwrap(), summary)
}

#[test]
fn diff_names_what_differs_and_reads_nothing_that_is_shared() {
    let store = Store::new();
    let shared = store.folder("shared", vec![small("x", b"")]);
    let mut touched = small("meta", b"same");
    let old = vec![
        shared.clone(),
        touched.clone(),
        small("content", b"old"),
        small("gone", b"12"),
        small("kind", b""),
        store.folder("tree", vec![small("a", b""), small("b", b"")]),
        small("unread", b""),
    ];
    touched.meta.mode = 0o600;
    let new = vec![
        shared.clone(),
        touched,
        small("content", b"new!"),
        store.folder("kind", vec![small("in", b"")]),
        store.folder("tree", vec![small("b", b""), small("c", b"1")]),
        entry(b"unread", Kind::LeftOut(Why::Unreadable, 13)),
    ];
    let (old, new) = (store.folder("", old), store.folder("", new));
    store.gets.lock().unwrap().clear();
    let (lines, summary) = collect(|sinks| diff(&store, &old, &new, true, sinks, &GO));
    let expected = [
        "Content content",
        "Removed gone",
        "Type kind",
        "Added kind/in",
        "Metadata meta",
        "Removed tree/a",
        "Added tree/c",
        "LeftOut unread",
    ];
    assert_eq!(lines, expected);
    assert_eq!(
        (summary.added.files, summary.removed.files, summary.metadata, summary.left_out),
        (2, 2, 1, 1)
    );
    assert_eq!((summary.removed.bytes, summary.added.bytes, summary.changed.bytes), (2, 1, 4));
    assert!(!store.gets.lock().unwrap().contains(&node(&shared)));
    let (lines, summary) = collect(|sinks| diff(&store, &old, &old, true, sinks, &GO));
    assert!(lines.is_empty() && summary.is_same());
}

#[test]
fn diff_names_what_it_cannot_compare_and_goes_on() {
    let store = Store::new();
    let lost = store.folder("b", vec![small("x", b"1")]);
    let old = store.folder("", vec![lost.clone(), small("c", b"1")]);
    let new = store.folder("", vec![store.folder("b", vec![small("x", b"2")]), small("c", b"2")]);
    store.lose(&node(&lost));
    let (lines, summary) = collect(|sinks| diff(&store, &old, &new, false, sinks, &GO));
    assert_eq!(lines, ["problem b", "Added b/x", "Content c"]);
    assert_eq!(summary.problems, 1);
}

#[test]
fn a_folder_is_compared_by_stamps_or_by_content() {
    let store = Store::new();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(7, 9);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    };
    let long = [vec![b'a'; 70_000], vec![0; 1000], vec![b'b'; 70_000]].concat();
    write("long", &long);
    write("same-stamp", b"xyz");
    write("sub/new", b"");
    write("sub/deep/deeper/x", b"1");
    write("excluded", b"");
    std::os::unix::fs::symlink("target", folder.path().join("link")).unwrap();
    let deep = store.folder("deep", vec![store.folder("deeper", vec![small("x", b"1")])]);
    let saved = store.folder(
        "",
        vec![
            store.file("long", &[&long[..70_000], &long[71_000..]]),
            small("same-stamp", b"abc"),
            store.folder("sub", vec![deep, small("gone", b"")]),
            entry(b"link", Kind::Symlink(b"other"[..].into())),
            entry(b"excluded", Kind::LeftOut(Why::Excluded, 0)),
        ],
    );
    let run = |content| {
        let options = LiveOptions { content, metadata: false, keys: &store.keys, read_rate: None };
        collect(|sinks| diff_live(&store, &saved, folder.path(), &options, sinks, &GO)).0
    };
    assert_eq!(run(false), ["Content link", "Removed sub/gone", "Added sub/new"]);
    assert_eq!(run(true), ["Content link", "Content same-stamp", "Removed sub/gone", "Added sub/new"]);
    let mut changed = long.clone();
    changed[70_500] = 1;
    write("long", &changed);
    assert_eq!(run(true)[1], "Content long", "a byte in a hole counts");
}

#[test]
fn a_file_comes_out_byte_for_byte_and_damage_is_an_error() {
    let store = Store::new();
    let file = store.file("f", &[b"one", b"two"]);
    let mut out = Vec::new();
    export_file(&store, &file, &mut out, &GO).unwrap();
    assert_eq!(out, [&b"one"[..], &[0; 1000], b"two"].concat());
    let mut bytes = Vec::new();
    ContentReader::new(&store, &small("s", b"inline")).read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"inline");
    store.lose(&store.keys.chunk_id(ChunkKind::Data, b"two"));
    let error = export_file(&store, &file, &mut Vec::new(), &GO).unwrap_err();
    assert!(error.is_damage(), "{error}");
    assert!(matches!(
        export_file(&store, &store.folder("d", vec![]), &mut Vec::new(), &GO),
        Err(Error::Usage(_))
    ));
}

#[test]
fn stats_count_what_a_snapshot_alone_holds() {
    let store = Store::new();
    let shared = store.folder("shared", vec![store.file("s", &[b"shared bytes"])]);
    let snapshots = [
        store.snapshot(1, vec![shared.clone(), store.file("a", &[b"only one"])]),
        store.snapshot(2, vec![shared.clone(), store.file("b", &[b"two and three"])]),
        store.snapshot(3, vec![shared.clone(), store.file("c", &[b"two and three", b"three"])]),
    ];
    let len = |id: ChunkId| store.chunks.lock().unwrap()[&id].len() as u64;
    let roots: Vec<u64> = snapshots.iter().map(|(_, snapshot)| len(node(&snapshot.root))).collect();
    // With room for fewer chunks, in several passes.
    for at_once in [100, 4, 3, 1] {
        let found = stats(&store, &snapshots, at_once, &mut |_, error| panic!("{error}"), &GO).unwrap();
        let alone: Vec<_> = found.alone.iter().map(|amount| (amount.chunks, amount.plain_bytes)).collect();
        assert_eq!(alone, [(2, 8 + roots[0]), (1, roots[1]), (2, 5 + roots[2])]);
        assert_eq!((found.data.chunks, found.data.plain_bytes), (4, 12 + 8 + 13 + 5));
        assert_eq!(found.trees.plain_bytes, roots.iter().sum::<u64>() + len(node(&shared)));
    }
}

#[test]
fn stats_name_the_snapshot_of_a_node_that_is_missing() {
    let store = Store::new();
    let lost = store.folder("lost", vec![small("x", b"1")]);
    let snapshots = [store.snapshot(1, vec![lost.clone(), store.file("a", &[b"data"])])];
    store.lose(&node(&lost));
    let mut problems = Vec::new();
    let found =
        stats(&store, &snapshots, 1, &mut |id, error| problems.push((*id, error.is_damage())), &GO).unwrap();
    assert_eq!(problems, [(snapshots[0].0, true)]);
    assert_eq!(found.data.plain_bytes, 4);
}

/// Loses a node once it was read so many times.
struct Failing<'a> {
    store: &'a Store,
    node: ChunkId,
    reads_left: Mutex<u32>,
}

impl GetChunk for Failing<'_> {
    fn get(&self, kind: ChunkKind, id: &ChunkId) -> vault::error::Result<Vec<u8>> {
        let mut left = self.reads_left.lock().unwrap();
        if *id == self.node && *left == 0 {
            return Err(Error::ChunkMissing { kind, id: *id });
        }
        *left -= u32::from(*id == self.node);
        self.store.get(kind, id)
    }
}

#[test]
fn stats_say_what_is_lost_between_one_pass_and_the_next() {
    let store = Store::new();
    let folder =
        store.folder("d", (0..20u8).map(|file| store.file(&format!("{file:02}"), &[&[file; 20]])).collect());
    let snapshots = [store.snapshot(1, vec![folder.clone()])];
    for (reads_left, expected) in [(0, 1), (1, 1), (2, 1), (1000, 0)] {
        let failing = Failing { store: &store, node: node(&folder), reads_left: Mutex::new(reads_left) };
        let mut problems = 0;
        stats(&failing, &snapshots, 2, &mut |_, _| problems += 1, &GO).unwrap();
        assert_eq!(problems, expected, "{reads_left}");
    }
}
