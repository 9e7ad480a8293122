//! When what is restored gets its name: a new folder when all in it is whole and durable, and never anything less.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vault::error::Error;
use vault::event::Event;
use vault::id::{ChunkKind, LinkGroup};
use vault::restore::{Frames, RestoreOptions, RestoreSummary, restore};
use vault::snapshot::{Entry, Kind};

use super::store::{Lossy, MTIME, Mount, Store, and_more, directory, entry, file, names, noise, saved};
use crate::support::mount::{self, FileSystem};
use crate::support::needs::needs;
use crate::support::vault::Vault;

/// Restores and has `look` see the target at each piece that was written, and at each thing done.
fn watched(
    store: &Store,
    reader: &dyn Frames,
    options: &RestoreOptions,
    look: impl Fn(&Path, bool) -> bool + Send + Sync,
) -> vault::error::Result<(RestoreSummary, Vec<String>)> {
    let (stop, problems, target) = (AtomicBool::new(false), Mutex::new(Vec::new()), store.target());
    let observer = |event: &Event<'_>| match event {
        Event::Advanced { .. } => {
            stop.store(look(&target, false) || stop.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        Event::Done { .. } => drop(look(&target, true)),
        Event::Problem { path, error } => {
            problems.lock().unwrap().push(format!("{}: {error}", path.display()));
        }
        _ => {}
    };
    let summary = restore(reader, &store.snapshot, b"", &target, options, &observer, &stop)?;
    Ok((summary, problems.into_inner().unwrap()))
}

/// Temporary names in a folder.
fn temporary(folder: &Path) -> Vec<String> {
    names(folder).into_iter().filter(|name| name.starts_with(".vault-")).collect()
}

/// A store with a target on a file system that takes well to a change of the name of open folders.
fn on_tmpfs(fill: impl FnOnce(&vault::repository::Writer) -> Vec<Entry>) -> (Store, Mount) {
    let store = Store::new(fill);
    let mount = Mount::tmpfs(&store.target(), "size=64m");
    (store, mount)
}

#[test]
fn a_new_folder_is_seen_when_all_its_files_are_whole() {
    needs!("tmpfs");
    let (store, mount) = on_tmpfs(|writer| {
        let inner = directory(
            writer,
            "inner",
            vec![file(writer, "f", &noise(9, 300_000)), file(writer, "small", b"s")],
        );
        let files = (0..5).map(|seed| file(writer, format!("{seed}"), &noise(seed, 300_000)));
        vec![directory(writer, "folder", files.chain([inner]).collect())]
    });
    let hidden = AtomicBool::new(false);
    let (summary, problems) = watched(&store, &store.reader, &RestoreOptions::default(), |target, _| {
        hidden.fetch_or(temporary(target).len() == 1, Ordering::SeqCst);
        for (folder, files) in [("folder", vec!["0", "1", "2", "3", "4"]), ("folder/inner", vec!["f"])] {
            if target.join(folder).exists() {
                for name in files {
                    let meta = fs::metadata(target.join(folder).join(name)).unwrap();
                    assert_eq!((meta.len(), meta.mtime()), (300_000, MTIME.secs));
                }
            }
        }
        false
    })
    .unwrap();
    assert!(hidden.into_inner(), "the test is about what is hidden");
    assert!(summary.is_success(), "{problems:?}");
    assert_eq!((summary.files, summary.directories), (7, 3));
    assert_eq!(names(&store.target().join("folder")), ["0", "1", "2", "3", "4", "inner"]);
    assert_eq!(fs::metadata(store.target().join("folder")).unwrap().mtime(), MTIME.secs);
    assert!(fs::read(store.target().join("folder/inner/f")).unwrap() == noise(9, 300_000));
    drop(mount);
}

#[test]
fn an_interruption_leaves_new_folders_with_their_names_and_whole_files_only() {
    needs!("tmpfs");
    let (store, mount) = on_tmpfs(|writer| {
        let folder = |n: u64| {
            let files = (0..4).map(|seed| file(writer, format!("{seed}"), &noise(10 * n + seed, 300_000)));
            let link = entry("link", 0o777, Kind::Symlink(b"0".as_slice().into()));
            directory(writer, format!("{n}"), files.chain([link]).collect())
        };
        vec![directory(writer, "all", (0..4).map(folder).collect())]
    });
    let result = watched(&store, &store.reader, &RestoreOptions::default(), |target, done| {
        !done && !temporary(target).is_empty()
    });
    assert!(matches!(result, Err(Error::Interrupted)));
    assert_eq!(names(&store.target()), ["all"]);
    let all = store.target().join("all");
    assert_eq!(names(&all), ["0", "1", "2", "3"]);
    for folder in names(&all) {
        for name in names(&all.join(&folder)).into_iter().filter(|name| name != "link") {
            let seed = 10 * folder.parse::<u64>().unwrap() + name.parse::<u64>().unwrap();
            assert!(fs::read(all.join(&folder).join(name)).unwrap() == noise(seed, 300_000));
        }
    }
    let (summary, _) = store.restore(&RestoreOptions::default());
    assert!(summary.is_success() && summary.files + summary.unchanged >= 16, "{summary:?}");
    drop(mount);
}

#[test]
fn a_file_that_is_lost_is_in_a_new_folder_at_no_time() {
    needs!("tmpfs");
    let (store, mount) = on_tmpfs(with_a_loss);
    let reader = losing(&store);
    let look = |target: &Path, _| {
        assert!(!target.join("folder/broken").exists());
        false
    };
    let (summary, problems) = watched(&store, &reader, &RestoreOptions::default(), look).unwrap();
    assert_eq!((summary.errors, summary.damaged, summary.files), (1, 1, 1), "{problems:?}");
    assert_eq!(names(&store.target().join("folder")), ["whole"]);
    fs::remove_dir_all(store.target().join("folder")).unwrap();
    let keep = RestoreOptions { keep_damaged: true, ..RestoreOptions::default() };
    watched(&store, &reader, &keep, look).unwrap();
    assert_eq!(names(&store.target().join("folder")), ["broken.damaged", "whole"]);
    drop(mount);
}

#[test]
fn names_of_one_thing_in_several_new_folders_are_one() {
    needs!("tmpfs");
    let (store, mount) = on_tmpfs(|writer| {
        let folder = |name: &str| {
            let mut link = entry("link", 0o777, Kind::Symlink(b"nowhere".as_slice().into()));
            link.meta.link_group = Some(LinkGroup::from_bytes([1; 16]));
            let mut linked = file(writer, "file", &noise(1, 5000));
            linked.meta.link_group = Some(LinkGroup::from_bytes([2; 16]));
            directory(writer, name, vec![link, linked])
        };
        vec![directory(writer, "above", vec![folder("a"), folder("b")]), folder("c")]
    });
    let (summary, lines) = store.restore(&RestoreOptions::default());
    assert!(summary.is_success() && summary.not_set.is_empty(), "{lines:?}");
    for name in ["link", "file"] {
        let inode =
            |folder: &str| fs::symlink_metadata(store.target().join(folder).join(name)).unwrap().ino();
        assert_eq!(inode("above/a"), inode("above/b"), "{name}");
        assert_eq!(inode("above/a"), inode("c"), "{name}");
    }
    drop(mount);
}

#[test]
fn a_folder_whose_name_is_taken_meanwhile_is_a_problem_and_the_other_one_untouched() {
    needs!("tmpfs");
    let (store, mount) = on_tmpfs(|writer| {
        let folder = |name: &str| {
            let inner = directory(writer, "inner", vec![file(writer, "g", &noise(2, 300_000))]);
            directory(writer, name, vec![file(writer, "f", &noise(1, 300_000)), inner])
        };
        vec![folder("free"), folder("taken")]
    });
    let (summary, problems) = watched(&store, &store.reader, &RestoreOptions::default(), |target, done| {
        if !done && !target.join("taken").exists() {
            fs::create_dir(target.join("taken")).unwrap();
            fs::write(target.join("taken/f"), "mine").unwrap();
        }
        false
    })
    .unwrap();
    // What lies deeper is not there either, though its own names were free.
    assert_eq!((summary.files, summary.directories, summary.errors), (2, 3, 4), "{problems:?}");
    for path in ["taken", "taken/f", "taken/inner", "taken/inner/g"] {
        assert!(problems.iter().any(|problem| problem.starts_with(&format!("{path}: "))), "{problems:?}");
    }
    assert_eq!(fs::read(store.target().join("taken/f")).unwrap(), b"mine");
    assert!(fs::read(store.target().join("free/f")).unwrap() == noise(1, 300_000));
    drop(mount);
}

#[test]
fn new_folders_of_a_killed_restore_are_removed_by_the_next_one_with_all_in_them() {
    needs!("tmpfs");
    let vault = Vault::new();
    let (source, target) = (vault.join("source"), vault.join("target"));
    for folder in ["a", "a/b"] {
        fs::create_dir_all(source.join(folder)).unwrap();
        for number in 0..4 {
            fs::write(source.join(folder).join(format!("{number}")), noise(number, 1_000_000)).unwrap();
        }
    }
    let mount = Mount::tmpfs(&target, "size=64m");
    let args = saved(&vault);
    let running = vault.spawn(&and_more(&args, &["--limit-write", "500K"]));
    let begun = Instant::now();
    let has_files = || temporary(&target).first().is_some_and(|name| names(&target.join(name)).len() > 1);
    while !has_files() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no temporary folder came up");
        std::thread::sleep(Duration::from_millis(20));
    }
    running.signal(rustix::process::Signal::KILL);
    running.wait();
    assert!(has_files() && !target.join("a").exists(), "the test is about what a killed restore leaves");
    // A name of ours that is of no restore that has ended.
    fs::create_dir(target.join(".vault-mine.tmp")).unwrap();
    let restored = vault.run(&args).ok();
    let said = format!("{}{}", restored.text(), restored.stderr);
    assert!(!said.to_lowercase().contains("removed"), "{said}");
    assert_eq!(names(&target), [".vault-mine.tmp", "a"]);
    for folder in ["a", "a/b"] {
        for number in 0..4 {
            let restored = fs::File::open(target.join(folder).join(format!("{number}"))).unwrap();
            let mut bytes = vec![0; 1_000_000];
            restored.read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes == noise(number, 1_000_000) && restored.metadata().unwrap().len() == 1_000_000);
        }
    }
    drop(mount);
}

/// So many that they are restored in two batches.
const TWO_BATCHES: usize = 16_000;

#[test]
fn delete_spares_the_temporary_files_of_the_batch_under_way() {
    let store = Store::new(|writer| {
        let files = (0..TWO_BATCHES).map(|number| file(writer, format!("{number:05}"), b"new"));
        vec![directory(writer, "folder", files.collect())]
    });
    let folder = store.target().join("folder");
    fs::create_dir_all(&folder).unwrap();
    for number in 0..TWO_BATCHES {
        fs::write(folder.join(format!("{number:05}")), "old version").unwrap();
    }
    fs::write(folder.join("extra"), "").unwrap();
    let options = RestoreOptions { delete: true, ..RestoreOptions::default() };
    let (summary, lines) = store.restore(&options);
    let problems: Vec<_> = lines.iter().filter(|line| line.starts_with("Problem")).take(3).collect();
    assert_eq!((summary.errors, summary.removed), (0, 1), "{problems:?}");
    assert_eq!(summary.files, TWO_BATCHES as u64);
    assert!((0..TWO_BATCHES).all(|number| fs::read(folder.join(format!("{number:05}"))).unwrap() == b"new"));
}

#[test]
fn the_walk_waits_for_the_room_that_a_batch_is_about_to_give_back() {
    needs!("tmpfs");
    let symlinks = 3000;
    let store = Store::new(|writer| {
        let files = (0..TWO_BATCHES).map(|number| file(writer, format!("{number:05}"), b"new"));
        let link = |number| entry(format!("{number}"), 0o777, Kind::Symlink(b"x".as_slice().into()));
        let links = directory(writer, "links", (0..symlinks).map(link).collect());
        vec![directory(writer, "a", files.collect()), links]
    });
    // Each file needs an inode of its own beside that of the old one, until it takes its place.
    let mount = Mount::tmpfs(&store.target(), &format!("size=64m,nr_inodes={}", TWO_BATCHES + symlinks + 20));
    fs::create_dir(store.target().join("a")).unwrap();
    for number in 0..TWO_BATCHES {
        fs::write(store.target().join(format!("a/{number:05}")), "old version").unwrap();
    }
    let (summary, lines) = store.restore(&RestoreOptions::default());
    let problems: Vec<_> = lines.iter().filter(|line| line.starts_with("Problem")).take(3).collect();
    assert_eq!((summary.errors, summary.files), (0, TWO_BATCHES as u64), "{problems:?}");
    assert_eq!(names(&store.target().join("links")).len(), symlinks);
    drop(mount);
}

#[test]
fn a_deep_file_that_alone_is_selected_takes_few_descriptors() {
    needs!("tmpfs", "sh");
    let (vault, levels) = (Vault::new(), 1200);
    let source = vault.join("source");
    fs::create_dir(&source).unwrap();
    let mut dir = fs::File::open(&source).unwrap();
    for _ in 0..levels {
        rustix::fs::mkdirat(&dir, "d", rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY;
        dir = rustix::fs::openat(&dir, "d", flags, rustix::fs::Mode::empty()).unwrap().into();
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    rustix::fs::openat(&dir, "wanted", flags, rustix::fs::Mode::RUSR).unwrap();
    let target = vault.join("target");
    let mount = Mount::tmpfs(&target, "size=64m");
    let args = and_more(&saved(&vault), &["--include", "**/wanted"]);
    vault.start(vault.command_under(&["sh", "-c", "ulimit -n 1024; exec \"$@\"", "sh"], &args)).wait().ok();
    let found = std::process::Command::new("find").arg(&target).args(["-name", "wanted"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout).matches("wanted").count(), 1);
    drop(mount);
}

/// A new folder with a file of which a piece is lost and one that is whole.
fn with_a_loss(put: &vault::repository::Writer) -> Vec<Entry> {
    let files = vec![file(put, "broken", &noise(1, 300_000)), file(put, "whole", &noise(2, 300_000))];
    vec![directory(put, "folder", files)]
}

fn losing(store: &Store) -> Lossy<'_> {
    let lost = store.reader.keys().ids().chunk_id(ChunkKind::Data, &noise(1, 300_000)[200_000..]);
    Lossy(&store.reader, HashSet::from([lost]))
}

/// The file of which a piece is lost, while its folder has a temporary name.
fn broken(target: &Path) -> Option<PathBuf> {
    let path = target.join(temporary(target).first()?).join("broken");
    path.exists().then_some(path)
}

#[test]
fn a_broken_file_that_somebody_else_removed_does_not_keep_its_folder_from_being_seen() {
    needs!("tmpfs");
    let (store, mount) = on_tmpfs(with_a_loss);
    let removed = AtomicBool::new(false);
    let look = |target: &Path, _| {
        if let Some(path) = broken(target) {
            removed.fetch_or(fs::remove_file(path).is_ok(), Ordering::SeqCst);
        }
        false
    };
    let (summary, problems) = watched(&store, &losing(&store), &RestoreOptions::default(), look).unwrap();
    assert!(removed.into_inner(), "or the test is void");
    assert_eq!((summary.errors, summary.files), (1, 1), "{problems:?}");
    assert_eq!(names(&store.target().join("folder")), ["whole"]);
    drop(mount);
}

#[test]
fn a_folder_with_a_broken_file_that_cannot_be_removed_is_not_seen() {
    needs!("ext4");
    let disk = mount::Mount::new(FileSystem::Ext4, 64);
    let store = Store::new(with_a_loss);
    let (target, pinned) = (disk.join("target"), Mutex::new(None));
    let pin = |path: &Path, is_pinned| {
        let file = fs::File::open(path).unwrap();
        let mut flags = rustix::fs::ioctl_getflags(&file).unwrap();
        flags.set(rustix::fs::IFlags::IMMUTABLE, is_pinned);
        rustix::fs::ioctl_setflags(&file, flags).unwrap();
    };
    let observer = |event: &Event<'_>| {
        if let (Event::Advanced { .. }, Some(path)) =
            (event, target.exists().then(|| broken(&target)).flatten())
        {
            pin(&path, true);
            pinned.lock().unwrap().get_or_insert(path);
        }
    };
    let (options, stop) = (RestoreOptions::default(), AtomicBool::new(false));
    let summary =
        restore(&losing(&store), &store.snapshot, b"", &target, &options, &observer, &stop).unwrap();
    let pinned = pinned.into_inner().unwrap().expect("or the test is void");
    assert!(pinned.exists() && !target.join("folder").exists(), "{:?}", names(&target));
    assert_eq!((summary.errors, summary.files, summary.directories), (3, 0, 1));
    pin(&pinned, false);
}
