//! Restoring to the limits: depth, size, a full disk, an interruption, an ordinary user.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use vault::error::Error;
use vault::event::{Event, Silent};
use vault::restore::{NotSet, Overwrite, RestoreOptions, restore};

use super::store::{Mount, Store, directory, every_kind, file, names, noise, pieces_file, restore_with};
use crate::support::needs::needs;

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
    needs!("tmpfs");
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
fn a_full_disk_is_said_though_the_walk_goes_on_meanwhile() {
    needs!("tmpfs");
    let chunk = noise(1, 100_000);
    let store = Store::new(|writer| {
        // As long as a batch may be, so that it is restored while the next one is gathered.
        let pieces: Vec<_> = std::iter::repeat_n((Some(&chunk[..]), 0), 11_000).collect();
        let small = (0..8000).map(|number| file(writer, format!("small-{number}"), b"s"));
        small.chain([pieces_file(writer, "large", &pieces)]).collect()
    });
    let mount = Mount::tmpfs(&store.target(), "size=64k");
    for _ in 0..10 {
        let options = RestoreOptions::default();
        let error = restore_with(&store.reader, &store.snapshot, b"", &store.target(), &options).unwrap_err();
        assert!(error.is_no_space(), "{error:?}");
        assert!(names(&store.target()).is_empty());
    }
    drop(mount);
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
    // Nobody listens: the paths of all these events together have a gigabyte.
    let run = |store: &Store, options: &RestoreOptions, target: &Path| {
        let stop = AtomicBool::new(false);
        restore(&store.reader, &store.snapshot, b"", target, options, &Silent, &stop).unwrap()
    };
    let summary = run(&store, &RestoreOptions::default(), &store.target());
    assert_eq!((summary.errors, summary.files, summary.directories), (0, 10_001, 10_002));
    let again = run(&store, &RestoreOptions::default(), &store.target());
    assert_eq!((again.errors, again.unchanged), (0, 20_003));
    let empty = Store::new(|_| Vec::new());
    let options = RestoreOptions { delete: true, ..RestoreOptions::default() };
    let summary = run(&empty, &options, &store.target());
    assert_eq!((summary.removed, summary.errors), (20_002, 0));
    assert!(names(&store.target()).is_empty());
}

/// What the test below does as an ordinary user.
fn restore_as_an_ordinary_user(folder: &Path) {
    let store = Store::new(every_kind);
    let target = folder.join("target");
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
}

#[test]
fn an_ordinary_user_gets_all_but_what_only_root_may_set() {
    // The test starts itself once more, as that user.
    if let Ok(folder) = std::env::var("VAULT_TEST_RESTORE") {
        return restore_as_an_ordinary_user(Path::new(&folder));
    }
    needs!("root");
    let folder =
        tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o777)).tempdir_in("/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = folder.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = Command::new(&program)
        .args(["--exact", "restore::limits::an_ordinary_user_gets_all_but_what_only_root_may_set"])
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
