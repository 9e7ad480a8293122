//! Sources that change under the walk: the rest is saved, what is not is recorded and listed, and the exit code is 3.

use std::fs::{self, File};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use vault::backend::LocalFolder;
use vault::browse::lookup;
use vault::snapshot::{ENTRY_CHANGED_WHILE_READ, Entry, Kind, Why};

use crate::support::manifest::{Aspect, Manifest};
use crate::support::needs::needs;
use crate::support::repository;
use crate::whole::world::{Summary, World};

const MIB: usize = 1 << 20;

/// The entry of a file of the source in the newest snapshot.
fn entry(world: &World, name: &str) -> Entry {
    let repository = repository::open(Arc::new(LocalFolder::new(&world.repository))).unwrap();
    let (_, snapshot) = repository.snapshots().unwrap().pop().unwrap();
    let path = world.source.join(name);
    let path = path.to_str().unwrap().trim_start_matches('/').as_bytes();
    lookup(&repository.reader().unwrap(), &snapshot.unwrap().root, path).unwrap().expect("it is recorded")
}

/// Runs `change` again and again while `run` runs.
fn meanwhile<T>(mut change: impl FnMut(u64) + Send, run: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                change(round);
                round += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let result = run();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

#[test]
fn a_file_that_changes_while_it_is_read_is_saved_and_said() {
    needs!("rsync");
    let world = World::new();
    let path = world.write_random("changing", 1, 8 * MIB);
    let appended = world.write_random("growing", 2, 8 * MIB);
    world.write_random("still", 3, MIB);
    let mut file = File::options().write(true).open(&path).unwrap();
    let mut growing = File::options().append(true).open(&appended).unwrap();
    let change = |round: u64| {
        file.write_all(&round.to_le_bytes()).unwrap();
        growing.write_all(&round.to_le_bytes()).unwrap();
    };
    let args = ["--limit-read", "30M"];
    let output = meanwhile(change, || world.vault.run(&[&world.snapshot_args(&args)[..]].concat()));
    for name in ["changing", "growing"] {
        assert!(output.stderr.contains(name), "{}", output.stderr);
    }
    assert!(!output.stderr.contains("lacks"), "they are in it: {}", output.stderr);
    let summary = Summary::of(output, 3);
    assert_eq!((summary.count("files_changed_while_read"), summary.state()), (2, "complete"));
    for (name, flagged) in [("changing", true), ("growing", true), ("still", false)] {
        let flags = entry(&world, name).fields;
        assert_eq!(flags.iter().any(|field| field.tag == ENTRY_CHANGED_WHILE_READ), flagged, "{name}");
    }
    world.is_sound();
    let restored = world.restore("latest", &[]);
    assert!(fs::metadata(restored.target().join("growing")).unwrap().len() >= 8 * MIB as u64);
    drop(restored);
    // Now that they are still they are read again, and all is well.
    let after = world.snapshot(&[]);
    assert!(after.read() >= 2);
    world.comes_back();
}

#[test]
fn small_files_that_are_replaced_during_the_run_are_saved_as_one_of_what_they_were() {
    const FILES: u64 = 300;
    needs!("strace");
    let world = World::new();
    // Each version has a byte and a length of its own.
    let version = |number: u8| vec![number; 500 + usize::from(number)];
    for i in 0..FILES {
        world.write(&format!("{i:03}"), &version(0));
    }
    let replaced = AtomicU64::new(0);
    let change = |round: u64| {
        let new = world.vault.join("new");
        fs::write(&new, version(u8::try_from(1 + round % 250).unwrap())).unwrap();
        fs::rename(&new, world.source.join(format!("{:03}", round * 7 % FILES))).unwrap();
        replaced.store(round, Ordering::Relaxed);
    };
    // Whatever is asked about is given time to change before it is opened, read, and asked about again.
    let slowly =
        ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=statx", "-e", "inject=statx:delay_exit=3000"];
    let args = world.snapshot_args(&["--quiet"]);
    let output = meanwhile(change, || world.vault.start(world.vault.command_under(&slowly, &args)).wait());
    assert!(matches!(output.status.code(), Some(0 | 3)), "{}", output.stderr);
    assert!(replaced.load(Ordering::Relaxed) > FILES / 3, "they were replaced while it ran");
    world.is_sound();
    let restored = world.restore("latest", &[]);
    for i in 0..FILES {
        let found = fs::read(restored.target().join(format!("{i:03}"))).expect(&output.stderr);
        assert_eq!(found, version(found[0]), "{i:03}");
    }
    drop(restored);
    world.snapshot(&[]);
    world.comes_back();
}

#[test]
fn what_vanishes_during_the_walk_is_recorded_and_the_rest_is_saved() {
    let world = World::new();
    for i in 0..60 {
        world.write_random(&format!("a/{i:02}"), i, 2 * MIB);
    }
    for i in 0..20 {
        world.write_random(&format!("x-folder/{i}"), 100 + i, 1000);
    }
    world.write_random("y-file", 200, 5000);
    world.write_random("z-stays", 201, 5000);
    let mut running = world.vault.spawn(&world.snapshot_args(&["-v", "--limit-read", "60M"]));
    running.wait_until("the first file is saved", |running| {
        (running.stdout() + &running.stderr()).contains("/source/a/00")
    });
    fs::remove_dir_all(world.source.join("x-folder")).unwrap();
    fs::remove_file(world.source.join("y-file")).unwrap();
    let output = running.wait();
    for name in ["x-folder", "y-file"] {
        assert!(output.stderr.contains(name), "{}", output.stderr);
    }
    let summary = Summary::of(output, 3);
    assert_eq!((summary.count("error_count"), summary.state()), (2, "complete"));
    for name in ["x-folder", "y-file"] {
        assert!(matches!(entry(&world, name).kind, Kind::LeftOut(Why::Vanished, _)), "{name}");
    }
    world.is_sound();
    let restored = world.restore("latest", &[]);
    // The top was saved before something in it vanished.
    let (here, there) = (Manifest::of(&world.source), Manifest::of(&restored.target()));
    assert_eq!(here.diff_except(&there, &[Aspect::DirMtime]), [""; 0]);
}
