//! Edits that do not show, or hardly: of the same length, with the modification time of before, in the second of the snapshot, by a call that takes
//! long, with the clock set back. The next snapshot has the new bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{FallocateFlags, SeekFrom};

use super::load::Maps;
use super::scene::{How, Scene, Written};
use super::seen::{Item, Seen};
use super::stuck::Stuck;
use super::{differences, pattern};
use crate::support::mount::{self, FileSystem, Mount};
use crate::support::needs::needs;
use crate::support::tracer::{Act, Call, traced};
use crate::support::vault::Vault;
use crate::whole::world::{Summary, World, age, settle};

/// The blocks of a file that one call writes for long.
const LONG: usize = 8 << 10;

/// A source on a file system of its own.
fn world_on(kind: FileSystem, size_mb: u64) -> (World, Mount) {
    let mount = Mount::new(kind, size_mb);
    let vault = Vault::new();
    let repository = vault.join("repository");
    (World::at(vault, mount.join("source"), repository), mount)
}

fn written() -> Written {
    Written { path: "written".into(), file: 1, how: How::Over }
}

/// What the latest snapshot has of the file that is written to.
fn state_in(seen: &Seen) -> (pattern::State, bool) {
    match seen.items.get("written") {
        Some(Item::File(bytes, marked)) => (pattern::state(1, bytes), *marked),
        other => panic!("{other:?}"),
    }
}

/// A snapshot while a call that writes is under way, and has been for long.
fn a_write_takes_long(kind: FileSystem, size_mb: u64) {
    let (world, _mount) = world_on(kind, size_mb);
    let path = world.write("written", &pattern::content(1, 1, LONG));
    let stuck = Stuck::begin(&path, &pattern::content(1, 2, LONG));
    settle();
    let running = world.vault.spawn(&world.snapshot_args(&[]));
    std::thread::sleep(Duration::from_millis(700));
    stuck.go_on();
    let seen = Seen::of(&world, &running.wait());
    let (state, marked) = state_in(&seen);
    assert!(marked || matches!(state, pattern::State::Whole(_)), "{state:?}");
    world.snapshot(&[]);
    assert_eq!(differences(&world), [""; 0]);
}

#[test]
fn a_write_that_takes_long_is_not_believed_half_on_ext4() {
    needs!("ext4", "exfat", "python3");
    a_write_takes_long(FileSystem::Ext4, 64);
}

#[test]
fn a_write_that_takes_long_is_not_believed_half_on_xfs() {
    needs!("xfs", "exfat", "python3");
    a_write_takes_long(FileSystem::Xfs, 320);
}

#[test]
fn a_write_that_takes_long_is_not_believed_half_on_btrfs() {
    needs!("btrfs", "exfat", "python3");
    a_write_takes_long(FileSystem::Btrfs, 200);
}

#[test]
fn a_write_that_takes_long_is_not_believed_half_in_memory() {
    needs!("tmpfs", "exfat", "python3");
    a_write_takes_long(FileSystem::Tmpfs, 64);
}

#[test]
fn the_control_of_writes_that_take_long_believes_one_that_is_not_waited_for() {
    needs!("ext4", "exfat", "python3", "sh");
    let (world, _mount) = world_on(FileSystem::Ext4, 64);
    let path = world.write("written", &pattern::content(1, 1, LONG));
    let stuck = Stuck::begin(&path, &pattern::content(1, 2, LONG));
    settle();
    let waits = |name: Option<&str>| name == Some("lseek");
    let args = world.snapshot_args(&[]);
    traced(&world.vault, &args, |call| if waits(call.name()) { Act::Pretend } else { Act::Go }).ok();
    stuck.go_on();
    assert_eq!(world.snapshot(&[]).read(), 0, "it is believed");
    let found = differences(&world);
    println!("live sources, a write that is not waited for: {} violations", found.len());
    assert!(found.iter().any(|what| what.starts_with("written: content")), "{found:?}");
}

#[test]
fn an_edit_in_the_very_second_of_a_snapshot_is_in_the_next_one() {
    needs!("ext4");
    let (world, _mount) = world_on(FileSystem::Ext3, 64);
    let path = world.write("written", &pattern::content(1, 1, 100));
    let other = world.write("small", &[1; 500]);
    for version in 2..12 {
        world.snapshot(&[]);
        // The same length and times, to the second that the file system knows.
        for (path, bytes) in
            [(&path, pattern::content(1, version, 100)), (&other, vec![u8::try_from(version).unwrap(); 500])]
        {
            File::options().write(true).open(path).unwrap().write_all_at(&bytes, 0).unwrap();
            age(path);
        }
        world.snapshot(&[]);
        let what = format!("version {version}");
        assert!(world.cat("written") == fs::read(&path).unwrap(), "{what}");
        assert!(world.cat("small") == fs::read(&other).unwrap(), "{what}");
    }
    assert_eq!(differences(&world), [""; 0]);
}

#[test]
fn a_file_that_is_replaced_while_its_folder_is_listed_is_not_missing() {
    needs!("btrfs", "sh");
    let (world, _mount) = world_on(FileSystem::Btrfs, 200);
    for number in 0..20 {
        world.write(&format!("{number:02}"), b"as it was");
    }
    let folder = world.source.to_str().unwrap().to_owned();
    let mut replaced = 0;
    let mut replace_once = |call: &Call| {
        let is_listing = call.name() == Some("getdents64") && call.file().as_ref() == Some(&folder);
        if is_listing && replaced == 0 {
            // The folder is open: what takes a name now comes behind all that will be listed.
            let new = world.write("new", b"as it is now");
            fs::rename(new, world.source.join("10")).unwrap();
            replaced += 1;
        }
        Act::Go
    };
    Summary::of(traced(&world.vault, &world.snapshot_args(&[]), &mut replace_once), 0);
    assert_eq!(replaced, 1);
    assert_eq!(world.cat("10"), b"as it is now");
    world.snapshot(&[]);
    assert_eq!(differences(&world), [""; 0]);
}

#[test]
fn a_file_whose_holes_are_others_each_time_it_is_read_comes_back_as_one_with_all_its_names() {
    needs!("ext4", "sh");
    let (world, _mount) = world_on(FileSystem::Ext4, 64);
    let path = world.write("names/a", &vec![7; 64 << 10]);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(1 << 20).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 2 << 20).unwrap();
    fs::hard_link(&path, world.source.join("names/b")).unwrap();
    fs::hard_link(&path, world.source.join("c")).unwrap();
    settle();
    let first_hole = || rustix::fs::seek(&file, SeekFrom::Hole(0)).unwrap();
    assert_eq!(first_hole(), 64 << 10);
    let (mut is_read, mut read) = (false, 0);
    let mut read_once = |call: &Call| {
        if call.file().is_some_and(|file| file.starts_with(world.source.to_str().unwrap())) {
            is_read |= call.name() == Some("pread64");
            if is_read && call.name() == Some("statx") && read == 0 {
                // Its content is known. What was set aside is in memory from now on, and looks like data.
                read = fs::read(&path).unwrap().len();
            }
        }
        Act::Go
    };
    let summary = Summary::of(traced(&world.vault, &world.snapshot_args(&[]), &mut read_once), 0);
    assert_eq!((read, first_hole()), (1 << 20, 1 << 20));
    assert_eq!(differences(&world), [""; 0]);
    let restored = world.restore("latest", &[]);
    let inode = |name: &str| fs::metadata(restored.target().join(name)).unwrap().ino();
    assert_eq!((inode("names/a"), inode("names/a")), (inode("names/b"), inode("c")));
    assert_eq!(summary.read(), 1);
}

/// Seconds and nanoseconds.
type Stamp = (i64, i64);

fn change_time(world: &World) -> Stamp {
    let found = fs::metadata(world.source.join("written")).unwrap();
    (found.ctime(), found.ctime_nsec())
}

/// Edits the file, and gives it this change time, as if the clock had been set so for that long. Its length and its modification time stay.
fn edit_at(world: &World, mount: &mut Mount, version: u32, (secs, nanos): Stamp) {
    let path = world.source.join("written");
    written().write(&world.source, &[pattern::content(1, version, How::Over.blocks())]).unwrap();
    age(&path);
    mount.unmount();
    let inode = "/source/written";
    let script = format!(
        "set_inode_field {inode} ctime @{secs}\nset_inode_field {inode} ctime_extra {}\n",
        nanos << 2
    );
    let file = world.vault.join("script");
    File::create(&file).unwrap().write_all(script.as_bytes()).unwrap();
    mount::run(Command::new("debugfs").args(["-w", "-f"]).arg(&file).arg(mount.device().unwrap()));
    mount.remount();
    assert_eq!(change_time(world), (secs, nanos), "the time is not set");
}

/// A file that is remembered, and when it was changed.
fn remembered() -> (World, Mount, Stamp) {
    let (world, mount) = world_on(FileSystem::Ext4, 64);
    world.write("written", &pattern::content(1, 1, How::Over.blocks()));
    settle();
    world.snapshot(&[]);
    assert_eq!(world.snapshot(&[]).read(), 0);
    let changed = change_time(&world);
    (world, mount, changed)
}

#[test]
fn a_clock_that_was_set_back_or_forth_hides_no_edit() {
    needs!("ext4", "debugfs");
    let (world, mut mount, (secs, nanos)) = remembered();
    let hour = 3600;
    let clocks = [
        (secs, nanos - 1),
        (secs - hour, nanos),
        (1, 0),
        (secs - 2 * hour, nanos),
        (secs + hour, nanos),
        (secs - 3 * hour, 0),
    ];
    for (version, clock) in (2..).zip(clocks) {
        edit_at(&world, &mut mount, version, clock);
        assert_eq!(world.snapshot(&[]).read(), 1, "{clock:?}");
        assert!(world.cat("written") == fs::read(world.source.join("written")).unwrap(), "{clock:?}");
        // One that comes from the future is not believed until then.
        let again = u64::from(clock.0 > secs);
        assert_eq!(world.snapshot(&[]).read(), again, "{clock:?}");
    }
    assert_eq!(differences(&world), [""; 0]);
}

#[test]
fn the_control_of_clocks_an_edit_that_no_stamp_shows_is_found_by_the_comparison_and_by_force() {
    needs!("ext4", "debugfs");
    let (world, mut mount, changed) = remembered();
    edit_at(&world, &mut mount, 2, changed);
    assert_eq!(world.snapshot(&[]).read(), 0);
    let found = differences(&world);
    println!("live sources, an edit that no stamp shows: {} violations", found.len());
    assert!(found.iter().any(|what| what.starts_with("written: content")), "{found:?}");
    world.snapshot(&["--force"]);
    assert_eq!(differences(&world), [""; 0]);
}

#[test]
fn the_control_of_maps_believes_what_was_written_through_one_if_nothing_is_synced() {
    needs!("ext4", "python3", "sh");
    let (world, _mount) = world_on(FileSystem::Ext4, 64);
    let mut scene = Scene { root: world.source.clone(), still: BTreeMap::default(), written: Vec::new() };
    scene.add("written".into(), How::Mapped);
    let mut maps = Maps::new(&scene, world.vault.path());
    let mut copies = || {
        maps.go();
        std::thread::sleep(Duration::from_millis(50));
        maps.stop();
    };
    let args = world.snapshot_args(&[]);
    let read_unsynced = || {
        let pretend = |call: &Call| if call.syncs() { Act::Pretend } else { Act::Go };
        Summary::of(traced(&world.vault, &args, pretend), 0).read()
    };
    let content = || fs::read(world.source.join("written")).unwrap();
    // Where the system happens to write it out between the two, the second copy moves the times. Where little time is left for it, it is not made.
    let is_believed = (0..10).any(|_| {
        copies();
        settle();
        read_unsynced();
        let before = content();
        copies();
        content() != before && read_unsynced() == 0
    });
    assert!(is_believed);
    let found = differences(&world);
    println!("live sources, maps without syncs: {} violations", found.len());
    assert!(found.iter().any(|what| what.starts_with("written: content")), "{found:?}");
}
