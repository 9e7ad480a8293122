//! What restoring never does: leave the target, delete what it should not, or write a wrong byte.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::sync::Arc;

use vault::error::Error;
use vault::id::{ChunkKind, LinkGroup};
use vault::restore::{RestoreOptions, Select};
use vault::snapshot::{Kind, Meta, Why};

use super::store::{Lossy, MTIME, Mount, Store, directory, entry, file, names, noise, restore_with};
use crate::support::needs::needs;

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
    needs!("tmpfs");
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
    let keys = store.reader.keys().ids();
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
    let id = store.reader.keys().ids().chunk_id(ChunkKind::Data, &contents[5][..100_000]);
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
    assert!(summary.errors >= 1 && summary.errors <= 6 && summary.errors == summary.damaged, "{lines:?}");
    let mut restored = 0;
    for (index, bytes) in contents.iter().enumerate() {
        if let Ok(found) = fs::read(store.target().join(index.to_string())) {
            assert!(found == *bytes, "{index}");
            restored += 1;
        }
    }
    assert_eq!(restored + summary.errors, 8);
    assert!(names(&store.target()).iter().all(|name| !name.starts_with(".vault-")));
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
