//! Folders as tar archives, unpacked by the tar of the system.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;
use vault::browse::lookup;
use vault::chunk::GetChunk;
use vault::error::{Error, Result};
use vault::export::{Sinks, export_tar};
use vault::id::{ChunkId, ChunkKind, LinkGroup};
use vault::snapshot::{Content, Entry, Kind, Snapshot, Time, Xattr};

use super::{GO, Store, entry, node, small, text};
use crate::support::needs::needs;

/// The archive, what was said of it, and whether it is said to be whole.
fn export(store: &Store, snapshot: &Snapshot, path: &[u8], folder: &Entry) -> (Vec<u8>, Vec<String>, bool) {
    let (mut archive, said) = (Vec::new(), Mutex::new(Vec::new()));
    let say = |what: &str, path: &[u8]| said.lock().unwrap().push(format!("{what} {}", text(path)));
    let mut notice = |path: &[u8], _: &str| say("notice", path);
    let mut problem = |path: &[u8], error: Error| {
        assert!(error.is_damage(), "{error}");
        say("problem", path);
    };
    let mut sinks = Sinks { notice: &mut notice, problem: &mut problem };
    let is_whole = export_tar(store, snapshot, (path, folder), &mut archive, &mut sinks, &GO).unwrap();
    (archive, said.into_inner().unwrap(), is_whole)
}

/// What an archive unpacks to, and what tar complains about.
fn unpack(archive: &[u8]) -> (TempDir, String) {
    let (file, target) = (tempfile::NamedTempFile::new().unwrap(), tempfile::tempdir().unwrap());
    fs::write(file.path(), archive).unwrap();
    let mut tar = Command::new("tar");
    let tar = tar.arg("-xpf").arg(file.path()).arg("-C").arg(target.path()).output().unwrap();
    let said = String::from_utf8_lossy(&tar.stderr).into_owned();
    // Of a time before 1970 it warns, and unpacks it.
    (target, if tar.status.success() { String::new() } else { said })
}

fn has_end_mark(archive: &[u8]) -> bool {
    archive.ends_with(&[0; 1024])
}

#[test]
fn a_tar_archive_unpacks_to_the_same_tree() {
    needs!("root", "tar");
    let store = Store::new();
    let long_name = "n".repeat(200);
    let mut hard = store.file("hard1", &[b"linked", b"file"]);
    hard.meta.link_group = Some(LinkGroup::from_bytes([1; 16]));
    let mut second = hard.clone();
    second.name = b"hard2"[..].into();
    let mut odd = entry(b"odd\xff", Kind::File(1, Content::Inline(b"o"[..].into())));
    odd.meta.mtime = Time { secs: -5, nanos: 250_000_000 };
    odd.meta.mode = 0o4755;
    let sub = store.folder("sub", vec![small(&long_name, b"long"), store.folder("empty", vec![])]);
    let link = entry(b"link", Kind::Symlink(format!("./a//{long_name}").into_bytes().into()));
    let entries =
        vec![hard, second, odd, sub, link, entry(b"sock", Kind::Socket), entry(b"fifo", Kind::Fifo)];
    let snapshot = store.snapshot(1, vec![store.folder("top", entries)]).1;
    let top = lookup(&store, &snapshot.root, b"top").unwrap().unwrap();
    let (archive, said, is_whole) = export(&store, &snapshot, b"top", &top);
    assert_eq!((said, is_whole), (vec!["notice top/sock".to_owned()], true));
    let (folder, said) = unpack(&archive);
    assert_eq!(said, "");
    let target = folder.path();
    let at = |name: &[u8]| target.join(std::ffi::OsStr::from_bytes(name));
    assert_eq!(std::fs::read(at(b"hard1")).unwrap(), [&b"linked"[..], &[0; 1000], b"file"].concat());
    assert_eq!(at(b"hard1").metadata().unwrap().ino(), at(b"hard2").metadata().unwrap().ino());
    let odd = at(b"odd\xff").metadata().unwrap();
    assert_eq!((odd.mtime(), odd.mtime_nsec(), odd.mode() & 0o7777), (-5, 250_000_000, 0o4755));
    assert_eq!(std::fs::read(at(b"sub").join(&long_name)).unwrap(), b"long");
    assert!(at(b"sub/empty").is_dir());
    assert_eq!(
        std::fs::read_link(at(b"link")).unwrap().as_os_str().as_bytes(),
        format!("./a//{long_name}").as_bytes()
    );
}

#[test]
fn an_archive_goes_on_behind_damage_and_is_not_taken_for_whole() {
    needs!("tar");
    let store = Store::new();
    let damaged = store.file("damaged", &[b"here", b"lost"]);
    let lost = store.folder("lost", vec![small("x", b"1")]);
    let mut attribute = small("attribute", b"kept");
    let value = store.file("", &[b"value"]).kind;
    let Kind::File(_, value) = value else { panic!("{value:?}") };
    attribute.meta.xattrs = vec![Xattr { name: b"user.lost"[..].into(), value }];
    let entries = vec![small("before", b"0"), attribute, damaged, lost.clone(), small("z", b"last")];
    let snapshot = store.snapshot(1, entries).1;
    for bytes in [&b"lost"[..], b"value"] {
        store.lose(&store.keys.chunk_id(ChunkKind::Data, bytes));
    }
    store.lose(&node(&lost));
    let (archive, said, is_whole) = export(&store, &snapshot, b"", &snapshot.root);
    assert_eq!(said, ["problem attribute", "problem damaged", "problem lost"]);
    assert!(!is_whole && !has_end_mark(&archive));
    let (folder, complaint) = unpack(&archive);
    assert!(complaint.contains("EOF"), "{complaint}");
    let read = |name: &str| fs::read(folder.path().join(name)).ok();
    assert_eq!((read("before"), read("attribute")), (Some(b"0".to_vec()), Some(b"kept".to_vec())));
    assert_eq!((read("damaged"), read("z")), (None, Some(b"last".to_vec())));
}

#[test]
fn an_archive_ends_in_the_middle_of_a_long_file_that_is_damaged() {
    needs!("tar");
    let store = Store::new();
    let part = vec![b'a'; 8 << 20];
    let mut pieces = vec![part.as_slice(); 5];
    pieces.push(b"lost");
    let snapshot = store.snapshot(1, vec![store.file("long", &pieces), small("z", b"")]).1;
    store.lose(&store.keys.chunk_id(ChunkKind::Data, b"lost"));
    let (archive, said, is_whole) = export(&store, &snapshot, b"", &snapshot.root);
    assert_eq!(said, ["problem long", "notice long"]);
    assert!(!is_whole && !has_end_mark(&archive));
    assert!((40 << 20..41 << 20).contains(&archive.len()), "{} bytes: padded or cut", archive.len());
    let (folder, complaint) = unpack(&archive);
    assert!(complaint.contains("EOF") && !folder.path().join("z").exists(), "{complaint}");
}

/// A store whose user stops after a number of chunks.
struct Stopping<'a> {
    store: &'a Store,
    at: ChunkId,
    stop: &'a AtomicBool,
}

impl GetChunk for Stopping<'_> {
    fn get(&self, kind: ChunkKind, id: &ChunkId) -> Result<Vec<u8>> {
        self.stop.fetch_or(*id == self.at, Ordering::Relaxed);
        self.store.get(kind, id)
    }
}

#[test]
fn an_interrupted_archive_is_not_taken_for_whole() {
    needs!("tar");
    let store = Store::new();
    let sub = store.folder("sub", vec![small("x", b"1")]);
    let snapshot = store.snapshot(1, vec![small("a", b"0"), sub.clone(), small("z", b"")]).1;
    let stop = AtomicBool::new(false);
    let get = Stopping { store: &store, at: node(&sub), stop: &stop };
    let mut archive = Vec::new();
    let mut sinks = Sinks { notice: &mut |_, _| (), problem: &mut |_, error| panic!("{error}") };
    let root = (&b""[..], &snapshot.root);
    let ended = export_tar(&get, &snapshot, root, &mut archive, &mut sinks, &stop);
    assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
    assert!(!has_end_mark(&archive));
    let (folder, complaint) = unpack(&archive);
    assert!(complaint.contains("EOF") && folder.path().join("a").exists(), "{complaint}");
}

#[test]
fn files_of_one_link_group_are_linked_only_if_they_are_the_same() {
    needs!("tar");
    let store = Store::new();
    let grouped = |mut entry: Entry, name: &str| {
        entry.name = name.as_bytes().into();
        entry.meta.link_group = Some(LinkGroup::from_bytes([1; 16]));
        entry
    };
    let (one, other) = (small("", b"one"), store.file("", &[b"other"]));
    let mut noted = one.clone();
    noted.meta.xattrs = vec![Xattr { name: b"user.a"[..].into(), value: Content::Inline(b"1"[..].into()) }];
    let pipe = entry(b"", Kind::Fifo);
    let entries = [("1", &one), ("2", &other), ("3", &one), ("4", &other), ("5", &pipe), ("6", &noted)];
    let entries = entries.map(|(name, entry)| grouped(entry.clone(), name)).to_vec();
    let snapshot = store.snapshot(1, entries).1;
    let (archive, _, is_whole) = export(&store, &snapshot, b"", &snapshot.root);
    assert!(is_whole && has_end_mark(&archive));
    let (folder, _) = unpack(&archive);
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let inode = |name: &str| folder.path().join(name).symlink_metadata().unwrap().ino();
    assert_eq!((read("1"), read("2")), (b"one".to_vec(), b"other".to_vec()));
    assert_eq!((inode("1"), inode("2")), (inode("3"), inode("4")));
    assert_eq!((read("6"), inode("5") != inode("1")), (b"one".to_vec(), true));
    assert!(inode("6") != inode("1"), "an attribute that only one has would be lost or made up");
}
