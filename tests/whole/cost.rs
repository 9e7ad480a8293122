//! How many system calls a file costs: what is asked for twice, or per file and need not be, shows here.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::support::mount::{FileSystem, Mount};
use crate::support::needs::needs;
use crate::support::vault::Vault;
use crate::whole::world::{World, settle};

const FILES: u64 = 3000;
/// So many calls of each kind are for the run as a whole, as for the 256 folders of packs.
const FOR_THE_RUN: u64 = 800;

/// Files of one chunk, in four folders.
fn world() -> World {
    world_of(5000)
}

fn world_of(file_len: usize) -> World {
    let world = World::new();
    for i in 0..FILES {
        world.write_random(&format!("{}/{i:04}", i % 4), i, file_len);
    }
    settle();
    world
}

/// The calls that the program makes, by name.
fn calls(world: &World, args: &[OsString]) -> HashMap<String, u64> {
    let trace = world.vault.join("trace");
    let strace = ["strace", "-f", "-qq", "-c", "-U", "name,calls", "-o", trace.to_str().unwrap()];
    world.vault.start(world.vault.command_under(&strace, args)).wait().ok();
    let counted = fs::read_to_string(trace).unwrap();
    let row = |line: &str| {
        let (name, count) = line.split_once(' ')?;
        Some((name.to_owned(), count.trim().parse().ok()?))
    };
    counted.lines().filter_map(row).collect()
}

/// Asserts that no call but those of threads waiting for each other, and of a debug build that closes a descriptor, is made more often for
/// each file than `most` says. On a busy machine what was listed ahead grows old, and is looked at anew: one of some runs has to do.
fn assert_at_most(most: &[(&str, u64)], mut run: impl FnMut() -> HashMap<String, u64>) {
    let mut outcome = Ok(());
    for _ in 0..4 {
        outcome = at_most(&run(), most);
        if outcome.is_ok() {
            break;
        }
    }
    outcome.unwrap();
}

fn at_most(calls: &HashMap<String, u64>, most: &[(&str, u64)]) -> Result<(), String> {
    for (name, count) in calls {
        if ["futex", "sched_yield", "fcntl", "total"].contains(&name.as_str()) {
            continue;
        }
        let for_each = most.iter().find(|(call, _)| call == name).map_or(0, |(_, for_each)| *for_each);
        if *count > for_each * FILES + FOR_THE_RUN {
            return Err(format!("{name}: {count} for {FILES} files: {calls:?}"));
        }
    }
    let is_counted = |name: &str| calls.get(name).is_some_and(|count| *count >= FILES);
    match most.iter().find(|(name, _)| !is_counted(name)) {
        Some((name, _)) => Err(format!("{name} is to be counted: {calls:?}")),
        None => Ok(()),
    }
}

#[test]
fn a_file_that_is_new_is_looked_at_three_times_and_read_once() {
    needs!("strace");
    let most = [("statx", 3), ("openat", 1), ("pread64", 1), ("flistxattr", 1), ("close", 1)];
    assert_at_most(&most, || {
        let world = world();
        // Quietly: who watches has all files counted beside.
        calls(&world, &world.snapshot_args(&["--quiet"]))
    });
}

#[test]
fn a_new_file_that_its_entry_holds_is_looked_at_twice_and_read_once() {
    needs!("strace");
    let most = [("statx", 2), ("openat", 1), ("pread64", 1), ("flistxattr", 1), ("close", 1)];
    assert_at_most(&most, || {
        let world = world_of(1000);
        calls(&world, &world.snapshot_args(&["--quiet"]))
    });
}

#[test]
fn a_file_that_is_known_is_looked_at_once() {
    needs!("strace");
    let world = world();
    world.snapshot(&[]);
    assert_at_most(&[("statx", 1)], || calls(&world, &world.snapshot_args(&[])));
}

#[test]
fn a_file_that_is_restored_is_opened_and_written_once_and_not_renamed_in_a_new_folder() {
    needs!("strace", "ext4");
    let world = world();
    world.snapshot(&[]);
    let disk = Mount::new(FileSystem::Ext4, 256);
    let target = disk.join("target");
    let args = ["restore".into(), world.selector("latest"), "--target".into(), target.clone().into()];
    let most =
        [("openat2", 1), ("pwrite64", 1), ("fstat", 2), ("flistxattr", 1), ("utimensat", 1), ("close", 1)];
    assert_at_most(&most, || {
        let _ = fs::remove_dir_all(&target);
        calls(&world, &args)
    });
}

#[test]
fn a_restore_with_one_thread_has_no_other_that_works() {
    needs!("strace");
    let world = world();
    world.snapshot(&[]);
    let (trace, target) = (world.vault.join("trace"), world.vault.join("target"));
    let what = ["strace", "-f", "-qq", "-e", "trace=mkdirat,pwrite64", "-o", trace.to_str().unwrap()];
    let threads_with = |threads: &str| {
        let _ = fs::remove_dir_all(&target);
        let args: [OsString; 6] = [
            "restore".into(),
            "--threads".into(),
            threads.into(),
            world.selector("latest"),
            "--target".into(),
            target.clone().into(),
        ];
        world.vault.start(world.vault.command_under(&what, &args)).wait().ok();
        let lines = fs::read_to_string(&trace).unwrap();
        lines
            .lines()
            .filter_map(|line| line.split(' ').next().map(str::to_owned))
            .collect::<HashSet<_>>()
            .len()
    };
    assert_eq!(threads_with("1"), 1);
    assert!(threads_with("2") > 1, "or they are not counted");
}

/// How many threads open files of the source.
fn threads_that_open(world: &World) -> usize {
    let trace = world.vault.join("trace");
    let strace = ["strace", "-f", "-qq", "-e", "trace=openat", "-o", trace.to_str().unwrap()];
    world.vault.start(world.vault.command_under(&strace, &world.snapshot_args(&["--force"]))).wait().ok();
    let lines = fs::read_to_string(trace).unwrap();
    // The name of a file, relative to its folder.
    let of_source = lines.lines().filter(|line| line.contains(", \"of-the-source-"));
    of_source.filter_map(|line| line.split(' ').next()).collect::<HashSet<_>>().len()
}

#[test]
fn files_on_a_disk_that_turns_are_read_by_one_thread() {
    needs!("ext4", "strace");
    let disk = Mount::new(FileSystem::Ext4, 64);
    let vault = Vault::new();
    let repository = vault.join("repository");
    let world = World::at(vault, disk.join("source"), repository);
    for i in 0..FILES {
        world.write_random(&format!("{}/of-the-source-{i:04}", i % 40), i, 5000);
    }
    settle();
    let dev = fs::metadata(&world.source).unwrap().dev();
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    let turns =
        |turns: &str| fs::write(format!("/sys/dev/block/{major}:{minor}/queue/rotational"), turns).unwrap();
    turns("1");
    assert_eq!(threads_that_open(&world), 1);
    turns("0");
    assert!(threads_that_open(&world) > 1);
}
