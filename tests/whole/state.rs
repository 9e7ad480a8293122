//! What is remembered of a source never hides a change, and never vouches for what the repository has lost.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vault::backend::{Backend, LocalFolder};
use vault::event::Silent;
use vault::mirror::MirrorOptions;

use crate::support::mount;
use crate::support::needs::needs;
use crate::support::repository;
use crate::support::vault::Vault;
use crate::whole::world::{World, age, damages, settle};

/// Three files whose state is remembered.
fn remembered() -> World {
    let world = World::new();
    for (seed, name) in [(1, "a"), (2, "b"), (3, "folder/c")] {
        world.write_random(name, seed, 100_000);
    }
    settle();
    world.snapshot(&[]);
    assert_eq!(world.snapshot(&[]).read(), 0);
    world
}

fn copy(from: &Path, to: &Path) {
    mount::run(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// The exit code of a snapshot that is whole although the repository is not.
const DAMAGE: i32 = 13;

/// Removes the pack files of the repository that are not in `keep`.
fn lose_packs(world: &World, keep: &[std::path::PathBuf]) -> usize {
    let lost: Vec<_> = world.files("packs").into_iter().filter(|path| !keep.contains(path)).collect();
    for path in &lost {
        fs::remove_file(path).unwrap();
    }
    lost.len()
}

#[test]
fn an_edit_that_keeps_size_and_mtime_is_noticed() {
    needs!("rsync");
    let world = remembered();
    let path = world.source.join("a");
    let mut bytes = fs::read(&path).unwrap();
    bytes[50_000] ^= 1;
    fs::write(&path, &bytes).unwrap();
    age(&path);
    assert_eq!(world.snapshot(&[]).read(), 1);
    assert!(world.cat("a") == bytes);
    world.comes_back();
}

#[test]
fn an_edit_right_after_a_snapshot_is_noticed() {
    needs!("rsync");
    let world = World::new();
    let path = world.write_random("a", 1, 5000);
    world.write_random("b", 2, 5000);
    for round in 0..10_u8 {
        world.snapshot(&[]);
        let bytes = vec![round; 5000];
        fs::write(&path, &bytes).unwrap();
        age(&path);
        world.snapshot(&[]);
        assert!(world.cat("a") == bytes, "round {round}");
    }
    world.comes_back();
}

#[test]
fn a_file_replaced_by_another_of_the_same_size_and_mtime_is_noticed() {
    needs!("rsync");
    let world = remembered();
    // Older than the last snapshot in every stamp but its name.
    let other = world.vault.join("other");
    fs::write(&other, vec![7; 100_000]).unwrap();
    age(&other);
    settle();
    world.snapshot(&[]);
    fs::rename(&other, world.source.join("b")).unwrap();
    assert_eq!(world.snapshot(&[]).read(), 1);
    assert!(world.cat("b") == vec![7; 100_000]);
    // Two remembered files that change places.
    settle();
    world.snapshot(&[]);
    for (from, to) in [("a", "x"), ("b", "a"), ("x", "b")] {
        fs::rename(world.source.join(from), world.source.join(to)).unwrap();
    }
    world.snapshot(&[]);
    assert!(world.cat("a") == vec![7; 100_000]);
    world.comes_back();
}

#[test]
fn a_write_through_an_old_memory_map_is_noticed() {
    const WRITER: &str = "import mmap, sys\n\
        file = open(sys.argv[1], 'r+b')\n\
        map = mmap.mmap(file.fileno(), 0)\n\
        file.close()\n\
        for line in sys.stdin:\n    map[70000] = ord(line[0])\n    print('done', flush=True)\n";
    needs!("python3");
    let world = remembered();
    let path = world.source.join("a");
    let mut writer = Command::new("python3")
        .args(["-c", WRITER])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = writer.stdin.take().unwrap();
    let mut output = BufReader::new(writer.stdout.take().unwrap());
    let mut write = |byte: u8| {
        input.write_all(&[byte, b'\n']).unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n");
    };
    for (round, byte) in [b'A', b'B', b'C', b'D'].into_iter().enumerate() {
        write(byte);
        world.snapshot(&[]);
        assert_eq!(world.cat("a")[70_000], byte, "round {round}");
        if round % 2 == 0 {
            settle();
            world.snapshot(&[]);
        }
    }
    drop(input);
    assert!(writer.wait().unwrap().success());
}

#[test]
fn force_reads_everything_and_stores_nothing_twice() {
    let world = remembered();
    let forced = world.snapshot(&["--force"]);
    assert_eq!((forced.read(), forced.added()), (3, 0));
    assert_eq!(world.snapshot(&[]).read(), 0);
}

#[test]
fn an_older_copy_in_the_place_of_the_repository_is_not_vouched_for() {
    needs!("cp", "rsync");
    let world = remembered();
    let old = world.vault.join("old");
    copy(&world.repository, &old);
    world.write_random("new", 9, 300_000);
    world.write_random("a", 10, 100_000);
    settle();
    world.snapshot(&[]);
    world.snapshot(&[]);
    fs::rename(&world.repository, world.vault.join("newer")).unwrap();
    fs::rename(&old, &world.repository).unwrap();
    // It is said that snapshots are gone.
    let after = world.snapshot_with(&[], DAMAGE);
    assert_eq!(after.output.stderr.matches("was here and is gone").count(), 2, "{}", after.output.stderr);
    assert!(after.added() >= 400_000, "{}", after.added());
    world.is_sound();
    let accept = ["check", "--accept-loss"];
    world.vault.run(&accept).ok();
    world.comes_back();
    // And back again: that one does not know of the last snapshot.
    world.write_random("newest", 11, 300_000);
    fs::rename(&world.repository, &old).unwrap();
    fs::rename(world.vault.join("newer"), &world.repository).unwrap();
    let back = world.snapshot_with(&[], DAMAGE);
    assert!(back.output.stderr.contains(&after.id()), "{}", back.output.stderr);
    world.vault.run(&accept).ok();
    world.is_sound();
    world.comes_back();
}

#[test]
fn a_mirror_that_is_written_to_gets_everything_itself() {
    let world = remembered();
    let mirror = world.vault.join("mirror");
    let repository = repository::open(Arc::new(LocalFolder::new(&world.repository))).unwrap();
    let to: Arc<dyn Backend> = Arc::new(LocalFolder::new(&mirror));
    let options = MirrorOptions { new: true, ..MirrorOptions::default() };
    vault::mirror::mirror(&repository, &to, &options, &Silent, &AtomicBool::new(false)).unwrap();
    world.write_random("new", 9, 300_000);
    settle();
    world.snapshot(&[]);
    let mut args = world.snapshot_args(&[]);
    args.splice(0..0, ["-r".into(), mirror.clone().into()]);
    world.vault.run(&args).ok();
    assert_eq!(damages(&mirror), [""; 0]);
    world.snapshot(&[]);
    world.is_sound();
}

#[test]
fn what_lay_in_a_lost_pack_is_stored_again() {
    needs!("rsync");
    let world = remembered();
    let keep = world.files("packs");
    world.write_random("d", 4, 200_000);
    settle();
    world.snapshot(&[]);
    assert_eq!(world.snapshot(&[]).read(), 0);
    assert_eq!(lose_packs(&world, &keep), 2, "a pack of data and one of trees");
    assert!(!damages(&world.repository).is_empty());
    let after = world.snapshot_with(&[], DAMAGE);
    assert_eq!(after.read(), 1);
    assert!(after.added() >= 200_000);
    world.comes_back();
    assert_eq!(world.snapshot(&[]).read(), 0, "the state is whole again");
}

#[test]
fn a_file_that_was_left_out_meanwhile_is_not_believed_after_its_pack_was_lost() {
    needs!("rsync");
    let world = remembered();
    let keep = world.files("packs");
    world.write_random("d", 4, 200_000);
    settle();
    world.snapshot(&[]);
    lose_packs(&world, &keep);
    world.snapshot_with(&["--exclude", "d"], DAMAGE);
    world.snapshot_with(&[], DAMAGE);
    assert!(world.cat("d").len() == 200_000);
    world.comes_back();
}

#[test]
fn a_file_of_another_file_system_at_the_same_place_is_not_taken_for_it() {
    use crate::support::mount::{FileSystem, Mount};
    needs!("ext4");
    let vault = Vault::new();
    let (place, repository) = (vault.join("source"), vault.join("repository"));
    let world = World::at(vault, place, repository);
    // The same inode number, size and times on two file systems that are mounted at one place in turn.
    let mut made = Vec::new();
    for byte in [1_u8, 2] {
        let mount = Mount::new(FileSystem::Ext4, 16);
        fs::write(mount.join("file"), vec![byte; 5000]).unwrap();
        age(&mount.join("file"));
        made.push(mount);
    }
    settle();
    let top = world.source.clone();
    for (mount, byte) in made.iter().zip([1_u8, 2]) {
        mount::run(Command::new("mount").arg("--bind").arg(mount.path()).arg(&top));
        let first = world.snapshot(&[]);
        assert_eq!(first.count("error_count"), 0);
        let bytes = world.cat("file");
        mount::unmount(&top);
        assert!(bytes == vec![byte; 5000]);
    }
}
