//! A repository with one snapshot, made by hand, and what the tests of restoring share.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use vault::backend::LocalFolder;
use vault::chunk::{GetChunk, PutChunk};
use vault::error::{Error, Result};
use vault::event::{Event, Silent};
use vault::id::{ChunkId, ChunkKind, IdKeys, LinkGroup};
use vault::pack::Location;
use vault::repository::{Reader, WriteOptions, Writer};
use vault::restore::{Frames, RestoreOptions, RestoreSummary, restore};
use vault::snapshot::list::ListWriter;
use vault::snapshot::tree::TreeWriter;
use vault::snapshot::{Content, Entry, Kind, Meta, Piece, Snapshot, State, Time, Why, Xattr};

use crate::support::repository;
use crate::support::vault::Vault;

pub(super) const MTIME: Time = Time { secs: 1_000_000_000, nanos: 123_456_789 };

/// A repository with one snapshot, made by hand.
pub(super) struct Store {
    pub(super) folder: TempDir,
    pub(super) reader: Reader,
    pub(super) snapshot: Snapshot,
}

impl Store {
    pub(super) fn new(fill: impl FnOnce(&Writer) -> Vec<Entry>) -> Self {
        Self::with_root(|writer| directory(writer, "", fill(writer)))
    }

    pub(super) fn with_root(fill: impl FnOnce(&Writer) -> Entry) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let backend = Arc::new(LocalFolder::new(folder.path().join("repository")));
        repository::init(&*backend).unwrap();
        let mut writer =
            repository::open(backend.clone()).unwrap().writer(&WriteOptions::new(Arc::new(Silent))).unwrap();
        let root = fill(&writer);
        writer.finish().unwrap();
        drop(writer);
        let reader = repository::open(backend).unwrap().reader().unwrap();
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

    pub(super) fn target(&self) -> PathBuf {
        self.folder.path().join("target")
    }

    pub(super) fn restore(&self, options: &RestoreOptions) -> (RestoreSummary, Vec<String>) {
        restore_with(&self.reader, &self.snapshot, b"", &self.target(), options).unwrap()
    }
}

/// Restores and gives back what was said, as sorted lines.
pub(super) fn restore_with(
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
pub(super) struct Lossy<'a>(pub(super) &'a Reader, pub(super) HashSet<ChunkId>);

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

pub(super) fn entry(name: impl AsRef<[u8]>, mode: u32, kind: Kind) -> Entry {
    let meta = Meta { mode, mtime: MTIME, ..Meta::default() };
    Entry { name: name.as_ref().into(), kind, meta, fields: Vec::new() }
}

pub(super) fn directory(put: &dyn PutChunk, name: impl AsRef<[u8]>, mut entries: Vec<Entry>) -> Entry {
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let mut tree = TreeWriter::new(put);
    for entry in entries {
        tree.push(&entry).unwrap();
    }
    entry(name, 0o755, Kind::Directory(tree.finish().unwrap()))
}

/// A file whose data is cut every 100 kB.
pub(super) fn file(put: &dyn PutChunk, name: impl AsRef<[u8]>, bytes: &[u8]) -> Entry {
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

pub(super) fn pieces_file(put: &dyn PutChunk, name: &str, pieces: &[(Option<&[u8]>, u64)]) -> Entry {
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
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(len).collect()
}

pub(super) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Saves the folder `source` with the program, and gives back the arguments that restore it into the folder `target`.
pub(super) fn saved(vault: &Vault) -> Vec<String> {
    let [place, source, target] =
        ["repository", "source", "target"].map(|name| vault.join(name).display().to_string());
    vault.run(&["-r", &place, "init"]).ok();
    vault.run(&["-r", &place, "snapshot", "--as-path", "s", &source]).ok();
    ["-r", &place, "restore", "latest:s", "--target", &target].map(str::to_owned).into()
}

/// The same arguments and more.
pub(super) fn and_more(args: &[String], more: &[&str]) -> Vec<String> {
    args.iter().cloned().chain(more.iter().map(|arg| (*arg).to_owned())).collect()
}

/// A mounted file system that is gone at the end.
pub(super) struct Mount(PathBuf);

impl Mount {
    pub(super) fn tmpfs(place: &Path, options: &str) -> Self {
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

pub(super) fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 65536];
    let len = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(len);
    Some(value)
}

pub(super) fn every_kind(writer: &Writer) -> Vec<Entry> {
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
    for link in &mut links {
        link.meta.link_group = Some(LinkGroup::from_bytes([8; 16]));
    }
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
