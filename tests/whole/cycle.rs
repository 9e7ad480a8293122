//! Snapshot, restore, compare: a tree with everything in it, with and without what the program remembers.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::manifest::Manifest;
use crate::support::mount::{self, FileSystem, Mount};
use crate::support::needs::needs;
use crate::support::torture;
use crate::support::vault::Vault;
use crate::whole::world::{NEVER_SETTLED, World, settle, small_torture};

#[test]
fn a_tree_with_everything_comes_back_with_and_without_local_state() {
    needs!("root", "rsync");
    let world = World::new();
    torture::build(&world.source, torture::Options::default());
    let before = Manifest::of(&world.source);
    settle();
    let first = world.snapshot(&[]);
    let files = first.count("total_files_processed");
    assert_eq!((first.read(), first.count("error_count")), (files, 0));
    world.comes_back();
    for _ in 0..2 {
        let again = world.snapshot(&[]);
        assert_eq!((again.read(), again.added()), (NEVER_SETTLED, 0));
        world.comes_back();
    }
    let without = world.snapshot(&["--no-cache"]);
    assert_eq!((without.read(), without.added()), (files, 0));
    world.comes_back_from("latest", &["--no-cache"]);

    fs::remove_dir_all(world.vault.join("cache")).unwrap();
    world.comes_back();
    let without = world.snapshot(&[]);
    assert_eq!((without.read(), without.added()), (files, 0));
    world.comes_back();

    // Locks belong to the open file: another opener in any process keeps the program out.
    let caches = world.caches();
    let [cache, state, _] = &caches[..] else { panic!("{caches:?}") };
    let cache = redb::Database::open(cache).unwrap();
    let new_state = fs::File::create(state.with_extension("new")).unwrap();
    rustix::fs::flock(&new_state, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let locked = world.snapshot(&[]);
    assert_eq!((locked.read(), locked.added()), (NEVER_SETTLED, 0));
    assert_eq!(locked.output.stderr.matches("another process").count(), 2, "{}", locked.output.stderr);
    world.comes_back();
    drop((cache, new_state));
    assert_eq!(world.snapshot(&[]).read(), NEVER_SETTLED, "it is used again");
    world.is_sound();
    assert_eq!(before.diff(&Manifest::of(&world.source)), [""; 0], "the source was touched");
}

#[test]
fn an_unchanged_tree_costs_one_file_in_the_repository_and_no_file_is_opened() {
    needs!("strace", "rsync");
    let world = World::new();
    for i in 0..500 {
        world.write_random(&format!("{}/{i}", i % 7), i, 3000);
    }
    settle();
    world.snapshot(&[]);
    let before = world.files("");
    let trace = world.vault.join("trace");
    let strace = ["strace", "-f", "-qq", "-e", "trace=open,openat,openat2", "-o", trace.to_str().unwrap()];
    world.vault.start(world.vault.command_under(&strace, &world.snapshot_args(&[]))).wait().ok();
    let trace = fs::read_to_string(trace).unwrap();
    // Folders are opened with O_DIRECTORY; the source's path is part of none of the names that count otherwise.
    let folders = trace.lines().filter(|line| line.contains("O_DIRECTORY")).count();
    assert!(folders >= 8, "the trace shows the walk");
    let opened: Vec<&str> = trace
        .lines()
        .filter(|line| !line.contains("O_DIRECTORY") && !line.contains("O_PATH"))
        .filter(|line| (0..500).any(|i| line.contains(&format!(" \"{i}\""))))
        .collect();
    assert!(opened.is_empty(), "{opened:?}");
    let after = world.files("");
    assert_eq!(after.len(), before.len() + 1, "{before:?} {after:?}");
    world.comes_back();
}

/// Saves and restores a tree on this file system, which has to be large enough for both.
fn cycle_on(place: &Path) {
    let vault = Vault::new();
    let repository = vault.join("repository");
    let world = World::at(vault, place.join("source"), repository);
    let left_out = torture::build(&world.source, small_torture());
    settle();
    let first = world.snapshot(&[]);
    assert_eq!(first.read(), first.count("total_files_processed"), "{left_out:?}");
    world.comes_back();
    let second = world.snapshot(&[]);
    assert_eq!((second.read(), second.added()), (NEVER_SETTLED, 0));
    world.comes_back();
}

#[test]
fn a_tree_on_ext4_comes_back() {
    needs!("ext4", "rsync");
    let mount = Mount::new(FileSystem::Ext4, 300);
    cycle_on(&mount.path());
}

#[test]
fn a_tree_on_xfs_comes_back() {
    needs!("xfs", "rsync");
    let mount = Mount::new(FileSystem::Xfs, 400);
    cycle_on(&mount.path());
}

#[test]
fn a_tree_on_btrfs_comes_back() {
    needs!("btrfs", "rsync");
    let mount = Mount::new(FileSystem::Btrfs, 400);
    cycle_on(&mount.path());
}

#[test]
fn a_tree_on_tmpfs_comes_back() {
    needs!("tmpfs", "rsync");
    let mount = Mount::new(FileSystem::Tmpfs, 300);
    cycle_on(&mount.path());
}

/// Unmounts on drop.
struct Overlay<'a>(&'a Path);

impl Drop for Overlay<'_> {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("--lazy").arg(self.0).status();
        assert!(done.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn a_tree_on_an_overlay_comes_back() {
    needs!("ext4", "rsync");
    let mount = Mount::new(FileSystem::Ext4, 400);
    for name in ["lower/source", "upper", "work", "merged"] {
        fs::create_dir_all(mount.join(name)).unwrap();
    }
    torture::build(&mount.join("lower/source"), small_torture());
    let layer = |name: &str| mount.join(name).to_str().unwrap().to_owned();
    let options =
        format!("lowerdir={},upperdir={},workdir={}", layer("lower"), layer("upper"), layer("work"));
    let merged = mount.join("merged");
    mount::run(Command::new("mount").args(["-t", "overlay", "-o", &options, "overlay"]).arg(&merged));
    let mounted = Overlay(&merged);
    let vault = Vault::new();
    let repository = vault.join("repository");
    let world = World::at(vault, merged.join("source"), repository);
    fs::write(world.source.join("in the upper layer"), "upper").unwrap();
    fs::remove_file(world.source.join("lengths/random-4096")).unwrap();
    settle();
    world.snapshot(&[]);
    world.comes_back();
    let second = world.snapshot(&[]);
    assert_eq!((second.read(), second.added()), (NEVER_SETTLED, 0));
    // A file of the lower layer that is written to moves up, and keeps its size here.
    let path = world.source.join("lengths/text-4096");
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    fs::write(&path, &bytes).unwrap();
    world.snapshot(&[]);
    assert_eq!(world.cat("lengths/text-4096"), bytes);
    world.comes_back();
    drop(mounted);
}
