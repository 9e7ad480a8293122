//! What restoring once cost: each test is named for the loss that it keeps from happening again.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use vault::backend::LocalFolder;
use vault::error::Error;
use vault::id::{ChunkKind, LinkGroup};
use vault::restore::RestoreOptions;

use super::store::{
    Lossy, MTIME, Mount, Store, and_more, directory, file, names, noise, restore_with, saved,
};
use crate::support::mount::{self, FileSystem};
use crate::support::needs::needs;
use crate::support::repository;
use crate::support::vault::Vault;

fn deleting() -> RestoreOptions {
    RestoreOptions { delete: true, ..RestoreOptions::default() }
}

fn init(place: &Path) {
    repository::init(&LocalFolder::new(place)).unwrap();
}

#[test]
fn delete_removes_nothing_that_is_mounted_on_a_folder_of_the_snapshot() {
    needs!("tmpfs");
    let store = Store::new(|writer| {
        let inner = directory(writer, "inner", vec![]);
        vec![directory(writer, "mnt", vec![inner, file(writer, "f", b"f")]), directory(writer, "own", vec![])]
    });
    let target = store.target();
    fs::create_dir_all(target.join("own/extra")).unwrap();
    let _mount = Mount::tmpfs(&target.join("mnt"), "size=1m");
    fs::create_dir_all(target.join("mnt/inner/deep")).unwrap();
    fs::write(target.join("mnt/precious"), "p").unwrap();
    // The same file system once more, so that only the mount tells.
    fs::create_dir_all(target.join("mnt/inner/elsewhere")).unwrap();
    let (summary, lines) = store.restore(&deleting());
    assert_eq!((summary.errors, summary.removed), (0, 1), "{lines:?}");
    assert_eq!(names(&target.join("mnt")), ["f", "inner", "precious"]);
    assert_eq!(names(&target.join("mnt/inner")), ["deep", "elsewhere"]);
    assert!(names(&target.join("own")).is_empty());
    let said = lines.iter().filter(|line| line.contains("something is mounted there")).count();
    assert_eq!(said, 1, "once for each mount: {lines:?}");
}

#[test]
fn delete_removes_nothing_of_a_bind_mount_of_the_same_file_system() {
    needs!("root");
    let store = Store::new(|writer| vec![directory(writer, "mnt", vec![])]);
    let (target, other) = (store.target(), store.folder.path().join("other"));
    fs::create_dir_all(target.join("mnt")).unwrap();
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("precious"), "p").unwrap();
    let bound = Command::new("mount").arg("--bind").arg(&other).arg(target.join("mnt")).status().unwrap();
    assert!(bound.success());
    let restored = store.restore(&deleting());
    let unbound = Command::new("umount").arg(target.join("mnt")).status().unwrap();
    assert!(unbound.success());
    assert_eq!(names(&other), ["precious"], "{:?}", restored.1);
}

#[test]
fn nothing_is_restored_into_any_repository() {
    let store = Store::new(|writer| vec![file(writer, "f", b"f")]);
    let other = store.folder.path().join("other");
    init(&other);
    let before = names(&other);
    for target in ["other", "other/packs", "other/packs/new/folder"] {
        let target = store.folder.path().join(target);
        let result = restore_with(&store.reader, &store.snapshot, b"", &target, &deleting());
        assert!(matches!(result, Err(Error::Nested { .. })), "{target:?}");
    }
    fs::remove_file(other.join("config")).unwrap();
    fs::remove_file(other.join("copy")).unwrap();
    let result = restore_with(&store.reader, &store.snapshot, b"", &other, &deleting());
    assert!(matches!(result, Err(Error::Nested { .. })), "one of which config.2 is left");
    assert_eq!(names(&other).len(), before.len() - 2);
}

#[test]
fn delete_spares_a_repository_in_a_folder_that_the_snapshot_has_too() {
    for missing in [None, Some("config"), Some("copy")] {
        let store = Store::new(|writer| {
            vec![directory(writer, "backup", vec![directory(writer, "snapshots", vec![])])]
        });
        let inner = store.target().join("backup");
        init(&inner);
        fs::write(inner.join("packs/00/extra"), "pack").unwrap();
        if let Some(name) = missing {
            fs::remove_file(inner.join(name)).unwrap();
        }
        let before = names(&inner);
        let (summary, lines) = store.restore(&deleting());
        assert_eq!((summary.errors, summary.removed), (0, 0), "{lines:?}");
        assert_eq!(names(&inner), before);
        assert!(inner.join("packs/00/extra").exists());
        assert!(lines.iter().any(|line| line.contains("it is a repository")), "{lines:?}");
    }
}

#[test]
fn two_files_that_had_one_inode_number_in_turn_stay_two() {
    let group = Some(LinkGroup::from_bytes([9; 16]));
    let (first, second) = (noise(1, 150_000), noise(2, 150_000));
    let store = Store::new(|writer| {
        let mut files = vec![
            file(writer, "1a", &first),
            file(writer, "1b", &first),
            file(writer, "3y", &second),
            file(writer, "3z", &second),
        ];
        for file in &mut files {
            file.meta.link_group = group;
        }
        files
    });
    for _ in 0..2 {
        let (summary, lines) = store.restore(&RestoreOptions::default());
        assert!(summary.is_success(), "{lines:?}");
        let read = |name: &str| fs::read(store.target().join(name)).unwrap();
        assert!(read("1a") == first && read("1b") == first && read("3y") == second && read("3z") == second);
        let inode = |name: &str| fs::metadata(store.target().join(name)).unwrap().ino();
        assert!(inode("1a") == inode("1b") && inode("3y") == inode("3z") && inode("1a") != inode("3y"));
    }
}

#[test]
fn what_a_damaged_file_lacks_is_zero_though_the_old_one_was_cloned() {
    needs!("btrfs");
    let place = mount::Mount::new(FileSystem::Btrfs, 300);
    let (old, new) = (noise(1, 1_000_000), noise(2, 1_000_000));
    // The last piece is as it was, so that a clone pays.
    let new = [&new[..900_000], &old[900_000..]].concat();
    let store = Store::new(|writer| vec![file(writer, "f", &new)]);
    let lost = store.reader.keys().ids().chunk_id(ChunkKind::Data, &new[300_000..400_000]);
    fs::write(place.join("f"), &old).unwrap();
    let options = RestoreOptions { keep_damaged: true, ..RestoreOptions::default() };
    let reader = Lossy(&store.reader, HashSet::from([lost]));
    let (summary, lines) = restore_with(&reader, &store.snapshot, b"", &place.path(), &options).unwrap();
    assert_eq!(summary.errors, 1, "{lines:?}");
    let mut expected = new;
    expected[300_000..400_000].fill(0);
    assert!(fs::read(place.join("f.damaged")).unwrap() == expected);
    assert!(fs::read(place.join("f")).unwrap() == old);
}

#[test]
fn verify_reads_files_that_would_be_believed_by_size_and_time() {
    let content = noise(1, 250_000);
    let store = Store::new(|writer| vec![file(writer, "f", &content)]);
    store.restore(&RestoreOptions::default());
    let path = store.target().join("f");
    let zeros = fs::File::options().write(true).open(&path).unwrap();
    std::io::Write::write_all(&mut &zeros, &vec![0; content.len()]).unwrap();
    let time = std::time::UNIX_EPOCH + Duration::new(u64::try_from(MTIME.secs).unwrap(), MTIME.nanos);
    zeros.set_modified(time).unwrap();
    let (believed, _) = store.restore(&RestoreOptions::default());
    assert_eq!(believed.files, 0, "the test is about what is believed otherwise");
    let (verified, _) = store.restore(&RestoreOptions { verify: true, ..RestoreOptions::default() });
    assert_eq!((verified.files, verified.errors), (1, 0));
    assert!(fs::read(path).unwrap() == content);
}

/// On a crash the file system may keep name, length and time of a file and lose its bytes, unless these were synced before.
#[test]
fn files_get_their_names_only_when_their_bytes_are_durable() {
    needs!("strace", "tmpfs");
    let vault = Vault::new();
    let source = vault.join("source");
    fs::create_dir_all(source.join("folder/inner")).unwrap();
    for number in 0..20u8 {
        for folder in ["", "folder", "folder/inner"] {
            let folder = source.join(folder);
            fs::write(folder.join(format!("small-{number}")), noise(number.into(), 100)).unwrap();
            fs::write(folder.join(format!("large-{number}")), noise(number.into(), 200_000)).unwrap();
        }
    }
    let (target, trace) = (vault.join("target"), vault.join("trace"));
    let mount = Mount::tmpfs(&target, "size=64m");
    let what = "trace=pwrite64,write,syncfs,fdatasync,fsync,rename,renameat,renameat2";
    let wrapper = ["strace", "-f", "-y", "-e", what, "-o", trace.to_str().unwrap()];
    vault.start(vault.command_under(&wrapper, &saved(&vault))).wait().ok();
    let text = fs::read_to_string(trace).unwrap();
    let (mut dirty, mut renames, mut folders) = (false, 0, 0);
    for line in text.lines().filter(|line| line.contains("/target")) {
        let call = line.split_once(' ').map_or("", |(_, call)| call.trim_start());
        if call.starts_with("pwrite64") || call.starts_with("write") {
            dirty = true;
        } else if call.starts_with("syncfs") || call.starts_with("fdatasync") || call.starts_with("fsync") {
            dirty = false;
        } else if call.starts_with("rename") {
            assert!(!dirty, "{line}");
            renames += 1;
            folders += usize::from(call.contains("\"folder\"") || call.contains("\"inner\""));
        }
    }
    // In new folders files have their names from the beginning, and the folders get theirs.
    assert_eq!((renames, folders), (42, 2));
    drop(mount);
}

#[test]
fn temporary_files_of_a_killed_restore_are_removed_by_the_next_one() {
    let vault = Vault::new();
    let source = vault.join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("large"), noise(1, 3_000_000)).unwrap();
    let (target, args) = (vault.join("target"), saved(&vault));
    let running = vault.spawn(&and_more(&args, &["--limit-write", "300K"]));
    let begun = Instant::now();
    let left = || names(&target).into_iter().filter(|name| name.starts_with(".vault-")).count();
    while !target.exists() || left() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no temporary file came up");
        std::thread::sleep(Duration::from_millis(20));
    }
    running.signal(rustix::process::Signal::KILL);
    running.wait();
    assert_eq!(left(), 1, "the test is about what a killed restore leaves");
    vault.run(&args).ok();
    assert_eq!(names(&target), ["large"]);
}

#[test]
fn a_limit_on_writing_holds_for_the_target() {
    let store = Store::new(|writer| vec![file(writer, "f", &noise(1, 600_000))]);
    let begun = Instant::now();
    let options = RestoreOptions { write_rate: Some(1_000_000), ..RestoreOptions::default() };
    assert!(store.restore(&options).0.is_success());
    assert!(begun.elapsed() >= Duration::from_millis(550));
}

#[test]
fn a_new_target_is_open_to_nobody_else_until_it_has_its_mode() {
    let store = Store::with_root(|writer| {
        let mut root = directory(writer, "", vec![file(writer, "f", b"f")]);
        root.meta.mode = 0o755;
        root
    });
    let seen = std::sync::Mutex::new(Vec::new());
    let observer = |event: &vault::event::Event<'_>| {
        if let vault::event::Event::Done { path, .. } = event
            && *path == Path::new("f")
        {
            seen.lock().unwrap().push(fs::metadata(store.target()).unwrap().mode() & 0o777);
        }
    };
    let stop = std::sync::atomic::AtomicBool::new(false);
    let options = RestoreOptions::default();
    vault::restore::restore(&store.reader, &store.snapshot, b"", &store.target(), &options, &observer, &stop)
        .unwrap();
    assert_eq!(*seen.lock().unwrap(), [0o700]);
    assert_eq!(fs::metadata(store.target()).unwrap().mode() & 0o777, 0o755);
}

/// The program as an ordinary user: only they meet a folder of their own that they may not enter.
#[test]
fn a_dry_run_opens_no_folder_and_a_real_run_closes_it_again() {
    needs!("root");
    let vault = Vault::new();
    let home = vault.join("open");
    let source = home.join("source");
    fs::create_dir_all(source.join("closed")).unwrap();
    fs::write(source.join("closed/f"), "f").unwrap();
    let place = home.join("repository");
    let place = place.to_str().unwrap();
    vault.run(&["-r", place, "init"]).ok();
    vault.run(&["-r", place, "snapshot", "--as-path", "s", source.to_str().unwrap()]).ok();
    let target = home.join("target");
    fs::create_dir_all(target.join("closed")).unwrap();
    let everything = Command::new("chown").args(["-R", "65534:65534"]).arg(vault.path()).status().unwrap();
    assert!(everything.success());
    fs::set_permissions(vault.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mode = || fs::metadata(target.join("closed")).unwrap().mode() & 0o777;
    let as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let args = ["-r", place, "restore", "latest:s", "--target", target.to_str().unwrap()];
    for (more, name) in [(vec!["--dry-run"], "dry"), (vec!["--overwrite", "never"], "never")] {
        fs::set_permissions(target.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        let args: Vec<&str> = args.iter().copied().chain(more).collect();
        vault.start(vault.command_under(&as_user, &args)).wait();
        assert_eq!(mode(), 0, "{name}");
    }
    assert!(target.join("closed/f").exists(), "it was restored into");
}

#[test]
fn delete_removes_nothing_from_a_folder_that_could_not_be_listed_to_its_end() {
    needs!("strace");
    let vault = Vault::new();
    let (source, target) = (vault.join("source"), vault.join("target"));
    let folder = source.join("large");
    fs::create_dir_all(&folder).unwrap();
    for number in 0..3000 {
        fs::write(folder.join(format!("a-file-with-a-rather-long-name-{number:05}")), "").unwrap();
    }
    let place = vault.join("repository");
    let place = place.to_str().unwrap();
    vault.run(&["-r", place, "init"]).ok();
    let inject = ["strace", "-f", "-P", folder.to_str().unwrap(), "-e", "inject=getdents64:error=EIO:when=2"];
    let wrapper: Vec<&str> = inject.iter().copied().chain(["-o", "/dev/null"]).collect();
    let save = ["-r", place, "snapshot", "--as-path", "s", source.to_str().unwrap()];
    vault.start(vault.command_under(&wrapper, &save)).wait().code(3);
    assert!(Command::new("cp").arg("-r").arg(&source).arg(&target).status().unwrap().success());
    fs::write(target.join("extra"), "").unwrap();
    let args = ["-r", place, "restore", "latest:s", "--delete", "--target", target.to_str().unwrap()];
    vault.run(&args).ok();
    assert_eq!(names(&target), ["large"], "other folders are cleaned up");
    assert_eq!(names(&target.join("large")).len(), 3000);
}

/// strace answers for the system that all was written, and nothing is: so a disk that drops writes looks.
#[test]
fn verify_notices_that_what_was_written_is_not_there() {
    needs!("strace");
    let vault = Vault::new();
    let (source, target) = (vault.join("source"), vault.join("target"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), noise(1, 60_000)).unwrap();
    let args = saved(&vault);
    let wrapper = ["strace", "-f", "-e", "inject=pwrite64:retval=60000:when=1", "-o", "/dev/null"];
    let verified = vault.start(vault.command_under(&wrapper, &and_more(&args, &["--verify"]))).wait().code(1);
    assert!(verified.stderr.contains("does not read back the same"), "{}", verified.stderr);
    assert!(names(&target).is_empty(), "it has no name, and no temporary file is left");
    vault.start(vault.command_under(&wrapper, &args)).wait().ok();
    assert!(
        fs::read(target.join("f")).unwrap() != fs::read(source.join("f")).unwrap(),
        "or the test is void"
    );
}

#[test]
fn names_that_differ_by_case_only_are_said_on_exfat_and_nothing_restored_is_deleted() {
    needs!("exfat");
    let mut drive = mount::Mount::new(FileSystem::Exfat, 64);
    let store = Store::new(|writer| {
        vec![
            directory(writer, "Docs", vec![file(writer, "A.txt", b"a"), file(writer, "B.txt", b"b")]),
            file(writer, "readme", b"small"),
            file(writer, "README", b"LARGE"),
        ]
    });
    fs::create_dir(drive.join("docs")).unwrap();
    fs::write(drive.join("docs/a.TXT"), "a").unwrap();
    fs::write(drive.join("docs/extra"), "e").unwrap();
    let restored = restore_with(&store.reader, &store.snapshot, b"", &drive.path(), &deleting());
    let (summary, lines) = restored.unwrap();
    assert_eq!(summary.errors, 1, "one of the twins cannot be there: {lines:?}");
    assert!(lines.contains(&"Problem readme".to_owned()), "{lines:?}");
    let folded = |folder: &Path| {
        let mut found = names(folder).iter().map(|name| name.to_lowercase()).collect::<Vec<_>>();
        found.sort();
        found
    };
    assert_eq!(folded(&drive.join("docs")), ["a.txt", "b.txt"]);
    assert_eq!(folded(&drive.path()), ["docs", "readme"]);
    assert_eq!(fs::read(drive.join("readme")).unwrap(), b"LARGE");
    drive.unmount();
}
