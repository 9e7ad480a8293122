//! Restoring, on real file systems: every kind of entry, used folders, attacks, damage, interruption, and sizes.

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use vault::backend::LocalFolder;
use vault::chunk::{GetChunk, PutChunk};
use vault::error::{Error, Result};
use vault::event::{Event, Silent};
use vault::id::{ChunkId, ChunkKind, IdKeys, LinkGroup};
use vault::pack::Location;
use vault::repository::{InitOptions, Reader, Repository, WriteOptions, Writer};
use vault::restore::{Frames, NotSet, Overwrite, RestoreOptions, RestoreSummary, Select, Sparse, restore};
use vault::snapshot::list::ListWriter;
use vault::snapshot::tree::TreeWriter;
use vault::snapshot::{Content, Entry, Kind, Meta, Piece, Snapshot, Source, State, Time, Why, Xattr};

const MTIME: Time = Time { secs: 1_000_000_000, nanos: 123_456_789 };

/// A repository with one snapshot, made by hand.
struct Store {
    folder: TempDir,
    reader: Reader,
    snapshot: Snapshot,
}

impl Store {
    fn new(fill: impl FnOnce(&Writer) -> Vec<Entry>) -> Self {
        Self::with_root(|writer| directory(writer, "", fill(writer)))
    }

    fn with_root(fill: impl FnOnce(&Writer) -> Entry) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let backend = Arc::new(LocalFolder::new(folder.path().join("repository")));
        Repository::init(&*backend, &InitOptions::default()).unwrap();
        let mut writer =
            Repository::open(backend.clone()).unwrap().writer(WriteOptions::new(Arc::new(Silent))).unwrap();
        let root = fill(&writer);
        writer.finish().unwrap();
        drop(writer);
        let reader = Repository::open(backend).unwrap().reader().unwrap();
        let snapshot = Snapshot {
            state: State::Complete,
            root,
            notes: None,
            sources: Vec::new(),
            label: String::new(),
            tags: Vec::new(),
            description: String::new(),
            host: String::new(),
            host_id: [0; 16],
            user: String::new(),
            program: String::new(),
            start: MTIME,
            end: MTIME,
            utc_offset_secs: 0,
            predecessor: None,
            made_from: Vec::new(),
            counters: Vec::new(),
            fields: Vec::new(),
        };
        Self { folder, reader, snapshot }
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("target")
    }

    fn restore(&self, options: &RestoreOptions) -> (RestoreSummary, Vec<String>) {
        restore_with(&self.reader, &self.snapshot, b"", &self.target(), options).unwrap()
    }
}

/// Restores and gives back what was said, as sorted lines.
fn restore_with(
    reader: &dyn Frames,
    snapshot: &Snapshot,
    path: &[u8],
    target: &Path,
    options: &RestoreOptions,
) -> Result<(RestoreSummary, Vec<String>)> {
    let lines = Mutex::new(Vec::new());
    let observer = |event: &Event<'_>| {
        let line = match event {
            Event::Done { path, change, .. } => format!("{change:?} {}", path.display()),
            Event::Problem { path, .. } => format!("Problem {}", path.display()),
            Event::Notice { path, text } => format!("Notice {} {text}", path.display()),
            _ => return,
        };
        lines.lock().unwrap().push(line);
    };
    let summary = restore(reader, snapshot, path, target, options, &observer, &AtomicBool::new(false))?;
    let mut lines = lines.into_inner().unwrap();
    lines.sort();
    Ok((summary, lines))
}

/// A reader to which some chunks are lost.
struct Lossy<'a>(&'a Reader, HashSet<ChunkId>);

impl GetChunk for Lossy<'_> {
    fn get(&self, kind: ChunkKind, id: &ChunkId) -> Result<Vec<u8>> {
        if self.1.contains(id) { Err(Error::ChunkMissing { kind, id: *id }) } else { self.0.get(kind, id) }
    }
}

impl Frames for Lossy<'_> {
    fn locate(&self, id: &ChunkId) -> Result<Location> {
        Frames::locate(self.0, id)
    }
    fn read_frame(
        &self,
        wanted: &[(ChunkId, Location)],
        take: &mut dyn FnMut(usize, Result<&[u8]>),
    ) -> Result<()> {
        self.0.read_frame(wanted, &mut |index, chunk| {
            let (id, _) = wanted[index];
            let kind = ChunkKind::Data;
            take(index, if self.1.contains(&id) { Err(Error::ChunkMissing { kind, id }) } else { chunk });
        })
    }
    fn keys(&self) -> &IdKeys {
        Frames::keys(self.0)
    }
}

fn entry(name: impl AsRef<[u8]>, mode: u32, kind: Kind) -> Entry {
    let meta = Meta { mode, mtime: MTIME, ..Meta::default() };
    Entry { name: name.as_ref().into(), kind, meta, fields: Vec::new() }
}

fn directory(put: &dyn PutChunk, name: impl AsRef<[u8]>, mut entries: Vec<Entry>) -> Entry {
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let mut tree = TreeWriter::new(put);
    for entry in entries {
        tree.push(entry).unwrap();
    }
    entry(name, 0o755, Kind::Directory(tree.finish().unwrap()))
}

/// A file whose data is cut every 100 kB.
fn file(put: &dyn PutChunk, name: impl AsRef<[u8]>, bytes: &[u8]) -> Entry {
    if bytes.len() <= 512 {
        return entry(name, 0o644, Kind::File(bytes.len() as u64, Content::Inline(bytes.into())));
    }
    let mut list = ListWriter::new(put);
    for chunk in bytes.chunks(100_000) {
        let id = put.put(ChunkKind::Data, chunk).unwrap();
        list.push(Piece::Data(id, u32::try_from(chunk.len()).unwrap())).unwrap();
    }
    entry(name, 0o644, Kind::File(bytes.len() as u64, list.finish().unwrap()))
}

fn pieces_file(put: &dyn PutChunk, name: &str, pieces: &[(Option<&[u8]>, u64)]) -> Entry {
    let mut list = ListWriter::new(put);
    let mut size = 0;
    for (bytes, hole) in pieces {
        let piece = match bytes {
            Some(bytes) => {
                Piece::Data(put.put(ChunkKind::Data, bytes).unwrap(), u32::try_from(bytes.len()).unwrap())
            }
            None => Piece::Hole(*hole),
        };
        size += piece.len();
        list.push(piece).unwrap();
    }
    entry(name, 0o644, Kind::File(size, list.finish().unwrap()))
}

/// Bytes that do not repeat.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(len).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A mounted file system that is gone at the end.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(place: &Path, options: &str) -> Self {
        fs::create_dir_all(place).unwrap();
        let done =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(place).status().unwrap();
        assert!(done.success());
        Self(place.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 65536];
    let len = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(len);
    Some(value)
}

fn every_kind(writer: &Writer) -> Vec<Entry> {
    let mut setuid = file(writer, "setuid", b"#!/bin/sh\n");
    setuid.meta.mode = 0o6755;
    (setuid.meta.uid, setuid.meta.gid) = (1234, 4321);
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut capable = file(writer, "capable", &noise(1, 5000));
    capable.meta.uid = 1000;
    capable.meta.xattrs = vec![
        Xattr {
            name: b"security.capability".as_slice().into(),
            value: Content::Inline(capability.as_slice().into()),
        },
        Xattr { name: b"trusted.x".as_slice().into(), value: Content::Inline(b"t".as_slice().into()) },
        Xattr { name: b"user.comment".as_slice().into(), value: Content::Inline(vec![b'c'; 1000].into()) },
    ];
    // user::rw-, user:1000:r--, group::r--, mask::r--, other::---
    let mut acl = vec![2, 0, 0, 0];
    for (tag, perm, id) in
        [(1u16, 6u16, u32::MAX), (2, 4, 1000), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
    {
        acl.extend(tag.to_le_bytes());
        acl.extend(perm.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let mut listed = file(writer, "listed", b"acl");
    listed.meta.mode = 0o640;
    listed.meta.xattrs = vec![Xattr {
        name: b"system.posix_acl_access".as_slice().into(),
        value: Content::Inline(acl.into()),
    }];
    let mut old = file(writer, "old", b"");
    old.meta.mtime = Time { secs: -1_000_000_000, nanos: 999_999_999 };
    let mut late = file(writer, "late", b"x");
    late.meta.mtime = Time { secs: 5_000_000_000, nanos: 1 };
    let group = Some(LinkGroup::from_bytes([7; 16]));
    let mut linked = ["link-a", "link-b"].map(|name| file(writer, name, &noise(2, 150_000)));
    let mut deep = file(writer, "link-c", &noise(2, 150_000));
    linked.iter_mut().chain([&mut deep]).for_each(|entry| entry.meta.link_group = group);
    let mut links = ["symlink", "symlink-2"]
        .map(|name| entry(name, 0o777, Kind::Symlink(b"\xff/nowhere".as_slice().into())));
    links.iter_mut().for_each(|entry| entry.meta.link_group = Some(LinkGroup::from_bytes([8; 16])));
    let mut closed = directory(writer, "closed", vec![file(writer, "inner", b"1"), deep]);
    closed.meta.mode = 0o1500;
    let mut all = vec![
        setuid,
        capable,
        listed,
        old,
        late,
        closed,
        entry("fifo", 0o600, Kind::Fifo),
        entry("socket", 0o700, Kind::Socket),
        entry("block", 0o640, Kind::BlockDevice(7, 200)),
        entry("char", 0o666, Kind::CharDevice(1, 3)),
        file(writer, b"not \xff utf-8", b"?"),
        file(writer, "large", &noise(3, 1_234_567)),
        pieces_file(writer, "sparse", &[(None, 1 << 20), (Some(&noise(4, 65536)), 0), (None, 10 << 20)]),
        entry("left out", 0, Kind::LeftOut(Why::Excluded, 0)),
    ];
    let last = all.len() - 1;
    all[last].meta = Meta::default();
    all.extend(linked);
    all.extend(links);
    all
}

#[test]
fn every_kind_of_entry_comes_back_and_is_then_left_alone() {
    let store = Store::new(every_kind);
    let (summary, lines) = store.restore(&RestoreOptions::default());
    let target = store.target();
    assert!(summary.is_success(), "{summary:?} {lines:?}");
    assert!(lines.iter().all(|line| line.starts_with("New") || line == "Changed ."), "{lines:?}");
    let stat = |name: &str| fs::symlink_metadata(target.join(name)).unwrap();
    assert_eq!((stat("setuid").mode(), stat("setuid").uid(), stat("setuid").gid()), (0o106_755, 1234, 4321));
    assert_eq!(xattr(&target.join("capable"), "security.capability").unwrap().len(), 20);
    assert_eq!(xattr(&target.join("capable"), "trusted.x").unwrap(), b"t");
    assert_eq!(xattr(&target.join("capable"), "user.comment").unwrap().len(), 1000);
    assert_eq!(fs::read(target.join("capable")).unwrap(), noise(1, 5000));
    assert_eq!(xattr(&target.join("listed"), "system.posix_acl_access").unwrap().len(), 44);
    assert_eq!(stat("listed").mode(), 0o100_640);
    assert_eq!((stat("old").mtime(), stat("old").mtime_nsec()), (-1_000_000_000, 999_999_999));
    assert_eq!((stat("late").mtime(), stat("late").mtime_nsec()), (5_000_000_000, 1));
    assert_eq!(stat("closed").mode(), 0o41500);
    assert_eq!((stat("closed").mtime(), stat("closed").mtime_nsec()), (MTIME.secs, i64::from(MTIME.nanos)));
    assert!(stat("fifo").file_type().is_fifo() && stat("socket").file_type().is_socket());
    assert!(stat("block").file_type().is_block_device() && stat("char").file_type().is_char_device());
    assert_eq!(
        (stat("block").rdev(), stat("char").rdev()),
        (rustix::fs::makedev(7, 200), rustix::fs::makedev(1, 3))
    );
    assert_eq!((stat("fifo").mode() & 0o7777, stat("fifo").mtime()), (0o600, MTIME.secs));
    assert_eq!(fs::read(target.join(std::ffi::OsStr::from_bytes(b"not \xff utf-8"))).unwrap(), b"?");
    assert_eq!(fs::read(target.join("large")).unwrap(), noise(3, 1_234_567));
    assert_eq!((stat("sparse").len(), stat("sparse").blocks()), ((11 << 20) + 65536, 128));
    assert_eq!(fs::read(target.join("sparse")).unwrap()[1 << 20..][..65536], noise(4, 65536));
    assert_eq!(fs::read_link(target.join("symlink")).unwrap().as_os_str().as_bytes(), b"\xff/nowhere");
    assert_eq!((stat("symlink").mtime(), stat("symlink").ino()), (MTIME.secs, stat("symlink-2").ino()));
    assert_eq!((stat("link-a").nlink(), stat("link-a").ino()), (3, stat("closed/link-c").ino()));
    assert_eq!(fs::read(target.join("link-b")).unwrap(), noise(2, 150_000));
    assert!(!target.join("left out").exists());

    let changed = || -> Vec<_> {
        let paths = fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().path());
        paths
            .map(|path| fs::symlink_metadata(path).unwrap())
            .map(|stat| (stat.ctime(), stat.ctime_nsec()))
            .collect()
    };
    let before = changed();
    for overwrite in [Overwrite::IfChanged, Overwrite::Always] {
        let (again, lines) =
            store.restore(&RestoreOptions { overwrite, delete: true, ..RestoreOptions::default() });
        assert!(lines.iter().all(|line| line.starts_with("Unchanged")), "{lines:?}");
        assert_eq!((again.files, again.errors, again.bytes), (0, 0, 0));
    }
    assert_eq!(changed(), before, "nothing was touched");
}

#[test]
fn verify_and_sparse_always_give_the_same_files() {
    let zeros = [noise(1, 10_000), vec![0; 200_000], noise(2, 10_000)].concat();
    let store = Store::new(|writer| vec![file(writer, "zeros", &zeros), file(writer, "small", b"small")]);
    let options = RestoreOptions { verify: true, sparse: Sparse::Always, ..RestoreOptions::default() };
    let (summary, lines) = store.restore(&options);
    assert!(summary.is_success(), "{lines:?}");
    assert_eq!(fs::read(store.target().join("zeros")).unwrap(), zeros);
    assert!(fs::metadata(store.target().join("zeros")).unwrap().blocks() < 100);
    assert_eq!(fs::read(store.target().join("small")).unwrap(), b"small");
}

#[test]
fn a_used_folder_gets_only_what_differs() {
    let (old, mut new) = (noise(1, 1_000_000), noise(1, 1_000_000));
    new[555_555] ^= 1;
    let store = Store::new(|writer| {
        vec![
            file(writer, "changed", &new),
            file(writer, "touched", &noise(2, 300_000)),
            file(writer, "was a folder", b"file"),
            file(writer, "was a full folder", b"file"),
            file(writer, "was a link", b"file"),
            directory(writer, "was a file", vec![file(writer, "inner", b"inner")]),
            entry("was another kind", 0o644, Kind::Fifo),
        ]
    });
    let target = store.target();
    fs::create_dir_all(target.join("was a folder")).unwrap();
    fs::create_dir_all(target.join("was a full folder/inner")).unwrap();
    fs::write(target.join("changed"), &old).unwrap();
    fs::write(target.join("touched"), noise(2, 300_000)).unwrap();
    fs::write(target.join("was a file"), "").unwrap();
    fs::write(target.join("was another kind"), "").unwrap();
    fs::write(target.join("extra"), "").unwrap();
    symlink("changed", target.join("was a link")).unwrap();
    let inode = |name: &str| fs::symlink_metadata(target.join(name)).unwrap().ino();
    let (touched, changed) = (inode("touched"), inode("changed"));

    // Both say the same before anything is touched.
    let (planned, plan) = store.restore(&RestoreOptions { dry_run: true, ..RestoreOptions::default() });
    assert_eq!((names(&target).len(), fs::read(target.join("changed")).unwrap()), (8, old));
    let (summary, lines) = store.restore(&RestoreOptions::default());
    assert_eq!((&planned, &plan), (&summary, &lines));
    assert_eq!(
        lines,
        [
            "Changed .",
            "Changed changed",
            "Changed touched",
            "Changed was a file",
            "Changed was a folder",
            "Changed was a link",
            "Changed was another kind",
            "New was a file/inner",
            "Problem was a full folder",
        ]
    );
    assert_eq!(fs::read(target.join("changed")).unwrap(), new);
    assert_ne!(inode("changed"), changed, "an existing file is never written into");
    assert_eq!(inode("touched"), touched, "only its time differed");
    assert!(target.join("extra").exists());

    let options = RestoreOptions { delete: true, ..RestoreOptions::default() };
    let (planned, plan) = store.restore(&RestoreOptions { dry_run: true, ..options.clone() });
    let (summary, lines) = store.restore(&options);
    assert_eq!((&planned, &plan), (&summary, &lines));
    assert_eq!((summary.removed, summary.errors), (3, 0), "{lines:?}");
    assert_eq!(fs::read(target.join("was a full folder")).unwrap(), b"file");
    assert!(!target.join("extra").exists());
    assert_eq!(fs::metadata(&target).unwrap().mtime(), MTIME.secs);
}

#[test]
fn overwrite_rules_hold() {
    let store = Store::new(|writer| ["a", "b"].map(|name| file(writer, name, b"new!")).into());
    let target = store.target();
    let prepare = || {
        fs::create_dir_all(&target).unwrap();
        for (name, secs) in [("a", MTIME.secs - 1), ("b", MTIME.secs + 1)] {
            fs::write(target.join(name), "old!").unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(secs.unsigned_abs());
            fs::File::open(target.join(name)).unwrap().set_modified(time).unwrap();
        }
    };
    for (overwrite, skipped, a, b) in [
        (Overwrite::Never, 2, "old!", "old!"),
        (Overwrite::IfNewer, 1, "new!", "old!"),
        (Overwrite::IfChanged, 0, "new!", "new!"),
        (Overwrite::Always, 0, "new!", "new!"),
    ] {
        prepare();
        let (summary, _) = store.restore(&RestoreOptions { overwrite, ..RestoreOptions::default() });
        let read = |name| fs::read_to_string(target.join(name)).unwrap();
        assert_eq!(
            (summary.skipped, read("a").as_str(), read("b").as_str()),
            (skipped, a, b),
            "{overwrite:?}"
        );
    }
    // Same size and time, other bytes: believed by one, found by the other.
    fs::write(target.join("a"), "lie!").unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(MTIME.secs.unsigned_abs(), MTIME.nanos);
    fs::File::open(target.join("a")).unwrap().set_modified(time).unwrap();
    store.restore(&RestoreOptions::default());
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "lie!");
    store.restore(&RestoreOptions { overwrite: Overwrite::Always, ..RestoreOptions::default() });
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "new!");
}

#[test]
fn no_symlink_below_the_target_is_followed() {
    let store = Store::new(|writer| {
        let mut inner = file(writer, "passwd", b"evil");
        inner.meta.mode = 0o777;
        vec![directory(writer, "a", vec![inner]), file(writer, "b", b"evil")]
    });
    let (outside, target) = (store.folder.path().join("outside"), store.target());
    fs::create_dir_all(&outside).unwrap();
    fs::create_dir_all(&target).unwrap();
    fs::write(outside.join("passwd"), "good").unwrap();
    symlink(&outside, target.join("a")).unwrap();
    symlink(outside.join("passwd"), target.join("b")).unwrap();
    let before = fs::metadata(&outside).unwrap();
    let (summary, _) = store.restore(&RestoreOptions { delete: true, ..RestoreOptions::default() });
    assert_eq!(summary.errors, 0);
    assert_eq!(fs::read(outside.join("passwd")).unwrap(), b"good");
    assert_eq!(names(&outside), ["passwd"]);
    assert_eq!(before.ctime_nsec(), fs::metadata(&outside).unwrap().ctime_nsec());
    assert!(fs::symlink_metadata(target.join("a")).unwrap().is_dir());
    assert_eq!(fs::read(target.join("a/passwd")).unwrap(), b"evil");
    assert!(fs::symlink_metadata(target.join("b")).unwrap().is_file());
}

#[test]
fn a_hard_link_out_of_the_target_is_never_changed_through() {
    let group = Some(LinkGroup::from_bytes([1; 16]));
    let store = Store::new(|writer| {
        let mut linked = file(writer, "linked", b"same");
        linked.meta.link_group = group;
        vec![file(writer, "content", b"evil"), file(writer, "mode", b"same"), linked]
    });
    let (outside, target) = (store.folder.path().join("outside"), store.target());
    fs::create_dir_all(&outside).unwrap();
    fs::create_dir_all(&target).unwrap();
    for (name, text) in [("content", "good"), ("mode", "same"), ("linked", "same")] {
        fs::write(outside.join(name), text).unwrap();
        fs::set_permissions(outside.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        fs::hard_link(outside.join(name), target.join(name)).unwrap();
    }
    let (summary, _) = store.restore(&RestoreOptions::default());
    assert_eq!((summary.errors, summary.files), (0, 3));
    for (name, text) in [("content", "good"), ("mode", "same"), ("linked", "same")] {
        let stat = fs::metadata(outside.join(name)).unwrap();
        assert_eq!((stat.mode(), stat.nlink()), (0o100_600, 1), "{name}");
        assert_ne!(stat.mtime(), MTIME.secs);
        assert_eq!(fs::read_to_string(outside.join(name)).unwrap(), text);
        assert_eq!(fs::metadata(target.join(name)).unwrap().mode(), 0o100_644);
    }
}

/// Takes in what does not have `keep` in its path.
struct NotKept;

impl Select for NotKept {
    fn selected(&self, path: &[u8], _: bool) -> bool {
        !path.windows(4).any(|part| part == b"keep")
    }
    fn may_contain(&self, _: &[u8]) -> bool {
        false
    }
}

/// Takes in files whose path ends in `.txt`.
struct OnlyText;

impl Select for OnlyText {
    fn selected(&self, path: &[u8], is_dir: bool) -> bool {
        !is_dir && path.ends_with(b".txt")
    }
    fn may_contain(&self, _: &[u8]) -> bool {
        true
    }
}

#[test]
fn delete_spares_what_is_not_its_business() {
    let store = Store::new(|writer| {
        let mut left_out = entry("left out", 0, Kind::LeftOut(Why::Excluded, 0));
        left_out.meta = Meta::default();
        vec![left_out, directory(writer, "folder", vec![])]
    });
    let target = store.target();
    for folder in
        ["left out/inner", "extra/a/b", "with/keep", "repository/packs", "mounted/on/here", "folder/x"]
    {
        fs::create_dir_all(target.join(folder)).unwrap();
    }
    for name in
        ["left out/file", "extra/a/file", "with/file", "with/keep/file", "repository/packs/file", "keep.txt"]
    {
        fs::write(target.join(name), name).unwrap();
    }
    fs::write(target.join("repository/config"), "VLTCONFG and more").unwrap();
    symlink(store.folder.path(), target.join("extra/link")).unwrap();
    let mount = Mount::tmpfs(&target.join("mounted/on"), "size=1m");
    fs::write(target.join("mounted/on/file"), "").unwrap();
    let options =
        RestoreOptions { delete: true, select: Some(Arc::new(NotKept)), ..RestoreOptions::default() };
    let dry = store.restore(&RestoreOptions { dry_run: true, ..options.clone() });
    let real = store.restore(&options);
    assert_eq!(dry, real);
    assert_eq!(names(&target), ["folder", "keep.txt", "left out", "mounted", "repository", "with"]);
    assert_eq!(names(&target.join("with")), ["keep"]);
    assert_eq!(names(&target.join("with/keep")), ["file"]);
    assert_eq!(names(&target.join("mounted/on")), ["file"]);
    assert_eq!(names(&target.join("repository")), ["config", "packs"]);
    assert_eq!(names(&target.join("left out")), ["file", "inner"]);
    assert!(names(&target.join("folder")).is_empty());
    assert_eq!(real.0.errors, 0, "{:?}", real.1);
    drop(mount);
}

#[test]
fn folders_are_made_only_for_what_is_selected() {
    let store = Store::new(|writer| {
        let deep = directory(writer, "d", vec![file(writer, "x.txt", b"x"), file(writer, "y", b"y")]);
        vec![
            directory(writer, "a", vec![deep, file(writer, "z", b"z")]),
            directory(writer, "b", vec![file(writer, "q", b"")]),
        ]
    });
    let options = RestoreOptions { select: Some(Arc::new(OnlyText)), ..RestoreOptions::default() };
    store.restore(&options);
    let target = store.target();
    assert_eq!(names(&target), ["a"]);
    assert_eq!(names(&target.join("a")), ["d"]);
    assert_eq!(names(&target.join("a/d")), ["x.txt"]);
    assert_eq!(fs::metadata(target.join("a/d")).unwrap().mtime(), MTIME.secs);
}

#[test]
fn a_part_of_a_snapshot_goes_right_into_the_target() {
    let store = Store::with_root(|writer| {
        let mut docs =
            directory(writer, "docs", vec![file(writer, "f", b"f"), directory(writer, "d", vec![])]);
        docs.meta.mode = 0o700;
        let home = directory(writer, "home", vec![docs]).kind.directory().unwrap();
        let home = Entry { meta: Meta::default(), ..entry("home", 0, Kind::Implied(home)) };
        let root = directory(writer, "", vec![home]).kind.directory().unwrap();
        Entry { meta: Meta::default(), ..entry("", 0, Kind::Implied(root)) }
    });
    let part = |path: &str, to: &str| {
        let target = store.folder.path().join(to);
        restore_with(&store.reader, &store.snapshot, path.as_bytes(), &target, &RestoreOptions::default())
            .map(|(summary, lines)| (summary, lines, target))
    };
    let (_, lines, target) = part("/home/docs/", "folder").unwrap();
    assert_eq!(lines, ["Changed .", "New d", "New f"]);
    assert_eq!((fs::metadata(&target).unwrap().mode(), names(&target).len()), (0o40700, 2));
    let (_, lines, target) = part("home/docs/f", "file").unwrap();
    assert_eq!(lines, ["New f"]);
    assert_eq!(fs::read(target.join("f")).unwrap(), b"f");
    assert!(matches!(part("home/nothing", "none"), Err(Error::NotFound { .. })));
    // What is known of an implied folder is its name: it is made, and else left as it is.
    let (_, _, target) = part("", "whole").unwrap();
    assert_ne!(fs::metadata(target.join("home")).unwrap().mtime(), MTIME.secs);
    fs::set_permissions(target.join("home"), fs::Permissions::from_mode(0o711)).unwrap();
    part("", "whole").unwrap();
    assert_eq!(fs::metadata(target.join("home")).unwrap().mode(), 0o40711);
}

#[test]
fn damage_costs_exactly_the_files_that_need_it() {
    let (whole, broken) = (noise(1, 1_000_000), noise(2, 1_000_000));
    let store = Store::new(|writer| {
        let bad = directory(writer, "bad folder", vec![file(writer, "lost", b"lost")]);
        vec![
            file(writer, "whole", &whole),
            file(writer, "broken", &broken),
            file(writer, "new", &broken),
            bad,
        ]
    });
    let keys = IdKeys::plain();
    let mut lost = HashSet::from([keys.chunk_id(ChunkKind::Data, &broken[300_000..400_000])]);
    let entries: Vec<_> =
        vault::snapshot::tree::Entries::new(&store.reader, store.snapshot.root.kind.directory().unwrap())
            .map(|entry| entry.unwrap())
            .collect();
    lost.insert(entries[0].kind.directory().unwrap());
    let target = store.target();
    fs::create_dir_all(target.join("bad folder")).unwrap();
    fs::write(target.join("broken"), "old").unwrap();
    fs::write(target.join("bad folder/extra"), "").unwrap();
    fs::write(target.join("extra"), "").unwrap();
    let reader = Lossy(&store.reader, lost);
    let options = RestoreOptions { delete: true, keep_damaged: true, ..RestoreOptions::default() };
    let (summary, lines) = restore_with(&reader, &store.snapshot, b"", &target, &options).unwrap();
    assert_eq!((summary.errors, summary.damaged, summary.files), (3, 3, 1), "{lines:?}");
    for path in ["broken", "new", "bad folder"] {
        assert!(lines.contains(&format!("Problem {path}")), "{lines:?}");
    }
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("Notice new.damaged") && line.ends_with("zero: 300000 to 400000"))
    );
    assert_eq!(fs::read(target.join("broken")).unwrap(), b"old");
    assert_eq!(fs::read(target.join("whole")).unwrap(), whole);
    let mut expected = broken.clone();
    expected[300_000..400_000].fill(0);
    assert_eq!(fs::read(target.join("broken.damaged")).unwrap(), expected);
    assert_eq!(names(&target), ["bad folder", "broken", "broken.damaged", "new.damaged", "whole"]);
    assert_eq!(
        names(&target.join("bad folder")),
        ["extra"],
        "nothing is deleted where the list is not whole"
    );
}

#[test]
fn a_flipped_bit_in_a_pack_never_reaches_the_target() {
    let contents: Vec<_> = (0..8).map(|seed| noise(seed, 900_000)).collect();
    let store = Store::new(|writer| {
        contents.iter().enumerate().map(|(index, bytes)| file(writer, format!("{index}"), bytes)).collect()
    });
    let id = IdKeys::plain().chunk_id(ChunkKind::Data, &contents[5][..100_000]);
    let location = store.reader.locate(ChunkKind::Data, &id).unwrap();
    let name = vault::pack::pack_file_name(&location.pack);
    let pack = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(store.folder.path().join("repository").join(name))
        .unwrap();
    let at = u64::from(location.frame_offset) + 32 + u64::from(location.offset) + 500;
    let mut byte = [0];
    pack.read_exact_at(&mut byte, at).unwrap();
    pack.write_all_at(&[byte[0] ^ 4], at).unwrap();
    let (summary, lines) = store.restore(&RestoreOptions::default());
    assert!(lines.contains(&"Problem 5".to_owned()), "{lines:?}");
    assert!(summary.errors >= 1 && summary.errors <= 3 && summary.errors == summary.damaged, "{lines:?}");
    let mut restored = 0;
    for (index, bytes) in contents.iter().enumerate() {
        if let Ok(found) = fs::read(store.target().join(index.to_string())) {
            assert!(found == *bytes, "{index}");
            restored += 1;
        }
    }
    assert_eq!(restored + summary.errors, 8);
    assert!(names(&store.target()).iter().all(|name| !name.ends_with(".tmp")));
}

#[test]
fn an_interrupted_restore_leaves_no_temporary_files() {
    let store = Store::new(|writer| {
        (0..40).map(|seed| file(writer, format!("{seed:02}"), &noise(seed, 300_000))).collect()
    });
    for after in [1, 30, 90] {
        let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
        let observer = |event: &Event<'_>| {
            if matches!(event, Event::Advanced { .. }) && count.fetch_add(1, Ordering::SeqCst) == after {
                stop.store(true, Ordering::SeqCst);
            }
        };
        let options = RestoreOptions::default();
        let result =
            restore(&store.reader, &store.snapshot, b"", &store.target(), &options, &observer, &stop);
        assert!(matches!(result, Err(Error::Interrupted)));
        for name in names(&store.target()) {
            let seed = name.parse().expect("only whole files are there");
            assert!(fs::read(store.target().join(name)).unwrap() == noise(seed, 300_000));
        }
    }
    assert!(store.restore(&RestoreOptions::default()).0.is_success());
}

#[test]
fn a_full_disk_ends_the_restore_and_leaves_whole_files_only() {
    let store = Store::new(|writer| {
        (0..10).map(|seed| file(writer, format!("{seed}"), &noise(seed, 500_000))).collect()
    });
    let mount = Mount::tmpfs(&store.target(), "size=2m");
    let error =
        restore_with(&store.reader, &store.snapshot, b"", &store.target(), &RestoreOptions::default())
            .unwrap_err();
    assert!(error.is_no_space(), "{error:?}");
    for name in names(&store.target()) {
        assert!(fs::read(store.target().join(&name)).unwrap() == noise(name.parse().unwrap(), 500_000));
    }
    drop(mount);
}

#[test]
fn the_target_and_the_repository_never_lie_in_one_another() {
    let store = Store::new(|writer| vec![file(writer, "f", b"f")]);
    let repository = store.folder.path().join("repository");
    let options = RestoreOptions { repository_place: Some(repository.clone()), ..RestoreOptions::default() };
    symlink(&repository, store.folder.path().join("alias")).unwrap();
    for target in ["repository", "repository/new/folder", "alias/packs", "", "alias/../repository"] {
        let target = store.folder.path().join(target);
        let result = restore_with(&store.reader, &store.snapshot, b"", &target, &options);
        assert!(matches!(result, Err(Error::Nested { .. })), "{target:?}");
    }
    assert!(!repository.join("new").exists());
    assert!(restore_with(&store.reader, &store.snapshot, b"", &store.target(), &options).is_ok());
}

#[test]
fn a_hundred_gigabytes_of_holes_take_no_time_and_no_space() {
    let store = Store::new(|writer| {
        let hole = (None, 50_000_000_000);
        vec![pieces_file(writer, "huge", &[hole, (Some(&noise(1, 4096)), 0), hole, (Some(b"end"), 0)])]
    });
    for overwrite in [Overwrite::IfChanged, Overwrite::Always] {
        store.restore(&RestoreOptions { overwrite, verify: true, ..RestoreOptions::default() });
        let stat = fs::metadata(store.target().join("huge")).unwrap();
        assert_eq!(stat.len(), 100_000_004_099);
        assert!(stat.blocks() < 64);
    }
    let mut end = [0; 3];
    fs::File::open(store.target().join("huge")).unwrap().read_exact_at(&mut end, 100_000_004_096).unwrap();
    assert_eq!(&end, b"end");
}

#[test]
fn ten_thousand_levels_come_and_go_with_few_descriptors() {
    let store = Store::new(|writer| {
        let mut folder = directory(writer, "bottom", vec![file(writer, "treasure", b"gold")]);
        for level in 0..10_000 {
            folder =
                directory(writer, "level", vec![folder, file(writer, "note", format!("{level}").as_bytes())]);
        }
        vec![folder]
    });
    let (summary, lines) = store.restore(&RestoreOptions::default());
    assert_eq!(
        (summary.errors, summary.files, summary.directories),
        (0, 10_001, 10_002),
        "{:?}",
        lines.first()
    );
    let (again, _) = store.restore(&RestoreOptions::default());
    assert_eq!((again.errors, again.unchanged), (0, 20_003));
    let empty = Store::new(|_| Vec::new());
    let options = RestoreOptions { delete: true, ..RestoreOptions::default() };
    let (summary, _) = restore_with(&empty.reader, &empty.snapshot, b"", &store.target(), &options).unwrap();
    assert_eq!((summary.removed, summary.errors), (20_002, 0));
    assert!(names(&store.target()).is_empty());
}

#[test]
fn owners_come_back_by_name() {
    let mut store = Store::new(|writer| {
        let mut owned = file(writer, "owned", b"");
        (owned.meta.uid, owned.meta.gid) = (70_001, 70_002);
        vec![owned]
    });
    let table = |number, name: &[u8]| vec![(number, name.into())];
    store.snapshot.sources.push(Source {
        origin: String::new(),
        given: b"/".as_slice().into(),
        resolved: b"/".as_slice().into(),
        stored_at: Vec::new().into(),
        carried: Vec::new(),
        users: table(70_001, b"daemon"),
        groups: table(70_002, b"no such group"),
    });
    let owner = || {
        let stat = fs::metadata(store.target().join("owned")).unwrap();
        (stat.uid(), stat.gid())
    };
    store.restore(&RestoreOptions::default());
    assert_eq!(owner(), (1, 70_002));
    store.restore(&RestoreOptions { owner: vault::restore::Owner::Number, ..RestoreOptions::default() });
    assert_eq!(owner(), (70_001, 70_002));
}

#[test]
#[ignore = "the other half of a test, which runs it as an ordinary user"]
fn inner_half_as_an_ordinary_user() {
    let Ok(folder) = std::env::var("VAULT_TEST_RESTORE") else { return };
    let store = Store::new(every_kind);
    let target = Path::new(&folder).join("target");
    for round in 0..2 {
        let (summary, lines) =
            restore_with(&store.reader, &store.snapshot, b"", &target, &RestoreOptions::default()).unwrap();
        assert!(summary.errors == 0 && !summary.as_root && summary.is_success(), "{round} {lines:?}");
        let kinds: Vec<_> = summary.not_set.keys().copied().collect();
        assert!(kinds.contains(&NotSet::Device), "{kinds:?}");
        if round == 0 {
            let expected = [NotSet::Owner, NotSet::SetId, NotSet::Xattr, NotSet::Capability, NotSet::Device];
            assert_eq!(kinds, expected);
        }
    }
    let _ = std::io::stdout().flush();
}

#[test]
fn an_ordinary_user_gets_all_but_what_only_root_may_set() {
    let folder =
        tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o777)).tempdir_in("/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = folder.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    use std::os::unix::process::CommandExt;
    let output = Command::new(&program)
        .args(["--exact", "restore::inner_half_as_an_ordinary_user", "--ignored", "--nocapture"])
        .env("VAULT_TEST_RESTORE", folder.path())
        .env("TMPDIR", folder.path())
        .current_dir(folder.path())
        .gid(65534)
        .uid(65534)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "the inner half ran");
    let target = folder.path().join("target");
    let mode = |name: &str| fs::symlink_metadata(target.join(name)).unwrap().mode();
    assert_eq!((mode("setuid"), mode("closed")), (0o100_755, 0o41500));
    assert_eq!(fs::read(target.join("closed/inner")).unwrap(), b"1");
    assert!(!target.join("block").exists());
}
