//! Restoring, on real file systems: every kind of entry, and folders that are not empty.

mod folding;
mod limits;
mod loss;
mod names;
mod room;
mod safety;
mod store;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

use crate::support::needs::needs;
use vault::error::Error;
use vault::restore::{Overwrite, Owner, RestoreOptions, Sparse};
use vault::snapshot::{Entry, Kind, Meta, Source};

use store::{MTIME, Store, directory, entry, every_kind, file, names, noise, restore_with, xattr};

#[test]
fn every_kind_of_entry_comes_back_and_is_then_left_alone() {
    needs!("root");
    let store = Store::new(every_kind);
    let (summary, lines) = store.restore(&RestoreOptions::default());
    let target = store.target();
    assert!(summary.is_success(), "{summary:?} {lines:?}");
    assert!(lines.iter().all(|line| line.starts_with("New")), "{lines:?}");
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
    // The dry run says nothing of owners, which an ordinary user cannot set.
    needs!("root");
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
    assert_eq!(lines, ["New .", "New d", "New f"]);
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
fn owners_come_back_by_name() {
    needs!("root");
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
    store.restore(&RestoreOptions { owner: Owner::Number, ..RestoreOptions::default() });
    assert_eq!(owner(), (70_001, 70_002));
}
