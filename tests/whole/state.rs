//! What is remembered of a source never hides a change, and never vouches for what the repository has lost.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
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
use crate::support::torture::Random;
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

/// One edit of a tree, of a kind and at a place that chance names.
fn edit(world: &World, chance: &mut Random, round: usize) {
    let pick = |chance: &mut Random, most: u64| usize::try_from(chance.next() % most).unwrap();
    let folders: Vec<_> = walkdir::WalkDir::new(&world.source)
        .sort_by_file_name()
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_dir())
        .map(walkdir::DirEntry::into_path)
        .collect();
    let folder = &folders[pick(chance, folders.len() as u64)];
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let name = names.get(pick(chance, names.len().max(1) as u64));
    let new = folder.join(format!("{:02}-new-{round}", pick(chance, 100)));
    match (pick(chance, 8), name) {
        (0, _) => fs::create_dir_all(new.join("inner")).unwrap(),
        (1, _) => drop(std::os::unix::fs::symlink(format!("{round}"), &new)),
        (2, Some(path)) if path.is_dir() => fs::remove_dir_all(path).unwrap(),
        (2 | 3, Some(path)) if !path.is_dir() => fs::remove_file(path).unwrap(),
        (4, Some(path)) if !path.is_symlink() => {
            let mode = 0o700 + u32::try_from(round % 8).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        (5, Some(path)) => fs::rename(path, &new).unwrap(),
        (6, Some(path)) if path.is_file() && !path.is_symlink() => {
            fs::write(path, chance.bytes(round * 100)).unwrap();
        }
        _ => fs::write(&new, chance.bytes(500 + round * 400)).unwrap(),
    }
}

/// A tree of folders of all sizes: one takes several nodes of a tree and several blocks of the state.
fn mixed() -> World {
    let world = World::new();
    for number in 0..2000 {
        world.write_random(&format!("long/{number:04}"), number, if number % 9 == 0 { 3000 } else { 300 });
    }
    for number in 0..300 {
        world.write_random(&format!("{}/{}/{number}", number % 7, number % 5), number, 100);
    }
    fs::create_dir(world.source.join("3/empty")).unwrap();
    std::os::unix::fs::symlink("nowhere", world.source.join("3/0/zz")).unwrap();
    settle();
    world.snapshot(&["--exclude", "long/*7"]);
    world
}

#[test]
fn a_tree_put_together_from_what_is_remembered_is_the_one_that_is_read() {
    needs!("rsync");
    let rounds = if std::env::var_os("VAULT_NIGHTLY").is_some() { 60 } else { 8 };
    let world = mixed();
    let mut chance = Random(1);
    for round in 1..=rounds {
        for _ in 0..chance.next() % 5 {
            edit(&world, &mut chance, round);
        }
        // Sometimes what was just edited is remembered, and sometimes it is not.
        if round % 2 == 0 {
            settle();
        }
        let exclude = ["--exclude", "long/*7"];
        let rules = if round % 4 == 0 { &[] } else { &exclude[..] };
        world.snapshot(rules);
        let read = world.snapshot(&[&["--no-cache", "--skip-if-unchanged"], rules].concat());
        assert!(read.is_skipped(), "round {round}");
        assert!(read.read() > 1000, "all was read");
    }
    // Of the last round nothing was left out.
    world.comes_back();
    world.is_sound();
}

#[test]
fn where_nothing_changed_only_the_header_of_the_state_is_written() {
    let world = mixed();
    let states = || -> Vec<_> {
        let names = world.caches().into_iter();
        let states = names.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("state-"));
        states.map(|path| (fs::metadata(&path).unwrap().ino(), path)).collect()
    };
    let exclude = ["--exclude", "long/*7"];
    world.snapshot(&exclude);
    let [(blocks, _), (header, _)] = &states()[..] else { panic!("{:?}", states()) };
    assert_eq!(world.snapshot(&exclude).read(), 0);
    let [(new_blocks, _), (new_header, _)] = &states()[..] else { panic!("{:?}", states()) };
    assert!(blocks == new_blocks && header != new_header);
    world.write("long/0001", b"changed");
    settle();
    assert_eq!(world.snapshot(&exclude).read(), 1);
    assert_eq!(world.snapshot(&exclude).read(), 0);
    let [(new_blocks, _), _] = &states()[..] else { panic!("{:?}", states()) };
    assert!(blocks != new_blocks);
    fs::remove_dir_all(world.source.join("long")).unwrap();
    let before = fs::metadata(&states()[0].1).unwrap().len();
    world.snapshot(&exclude);
    assert!(fs::metadata(&states()[0].1).unwrap().len() < before / 4, "what is gone is not kept");
}

#[test]
fn what_is_remembered_of_a_small_file_and_was_spoilt_since_is_read_again_by_the_same_run() {
    let world = World::new();
    for number in 0..30 {
        world.write_random(&format!("folder/{number:02}"), number, 800);
    }
    settle();
    world.snapshot(&[]);
    assert_eq!(world.snapshot(&[]).read(), 0);
    // The content of a small file, which no stamp is compared with, rots in the cache; then the folder changes.
    let content = fs::read(world.source.join("folder/05")).unwrap();
    let is_state = |path: &Path| path.file_name().unwrap().to_str().unwrap().starts_with("state-");
    let mut spoilt = 0;
    for path in world.caches().into_iter().filter(|path| is_state(path)) {
        let mut bytes = fs::read(&path).unwrap();
        let Some(at) = bytes.windows(content.len()).position(|window| window == content) else { continue };
        bytes[at + 400] ^= 1;
        fs::write(&path, bytes).unwrap();
        spoilt += 1;
    }
    assert_eq!(spoilt, 1);
    world.write_random("folder/29", 99, 800);
    assert_eq!(world.snapshot(&[]).read(), 30, "the state is gone, so all is read");
    for number in 0..30 {
        let name = format!("folder/{number:02}");
        assert!(world.cat(&name) == fs::read(world.source.join(&name)).unwrap(), "{name}");
    }
    settle();
    world.snapshot(&[]);
    assert_eq!(world.snapshot(&[]).read(), 0);
    world.comes_back();
    assert!(damages(&world.repository).is_empty());
}
