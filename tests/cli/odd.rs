//! `vault snapshot` of what is not as it should be: attributes that cannot be read or are too many, files that say less than
//! they hold, sources that are missing or very many, and file systems that keep a change to themselves.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, OFlags};

use super::{World, files, summary};
use crate::support::manifest::Manifest;
use crate::support::mount::{FileSystem, Mount, run, unmount};
use crate::support::needs::needs;
use crate::support::torture::Random;

/// Until what was written before is older than the clocks' grain, so that the next snapshot may believe the stamps of this one.
fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(3200));
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

fn xattr(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 65536];
    let len = rustix::fs::getxattr(path, name, value.as_mut_slice()).unwrap();
    value.truncate(len);
    value
}

#[test]
fn attributes_that_could_not_be_read_are_read_the_next_time() {
    needs!("strace");
    let world = World::new();
    let named = ["a.txt", "dir/b.bin"];
    for name in named {
        set_xattr(&world.src().join(name), "user.k", b"v");
    }
    settle();
    let src = world.path("src");
    let failing =
        ["strace", "-f", "-o", "/dev/null", "-e", "trace=fgetxattr", "-e", "inject=fgetxattr:error=EIO"];
    let args = ["snapshot", src.as_str(), "-q"];
    let lamed = world.vault.start(world.vault.command_under(&failing, &args)).wait();
    lamed.code(3).says("cannot read the extended attributes of");
    world.run(&args).ok();
    world.run(&["restore", &world.latest("src"), "--target", &world.path("out"), "-q"]).ok();
    for name in named {
        assert_eq!(xattr(&world.vault.join("out").join(name), "user.k"), b"v", "{name}");
    }
}

#[test]
fn a_file_with_more_attributes_than_an_entry_holds_is_saved_and_restored() {
    needs!("tmpfs");
    let world = World::new();
    let mount = Mount::new(FileSystem::Tmpfs, 64);
    let source = mount.join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("other"), "precious").unwrap();
    fs::write(source.join("file"), "x").unwrap();
    let mut random = Random(11);
    let values: BTreeMap<String, Vec<u8>> =
        (0..4300).map(|number| (format!("user.{number}"), random.bytes(4090))).collect();
    for (name, value) in &values {
        set_xattr(&source.join("file"), name, value);
    }
    set_xattr(&source.join("file"), "user.empty", b"");
    let source = source.to_str().unwrap();
    world.run(&["snapshot", source, "-q"]).ok();
    let target = mount.join("target");
    let target = target.to_str().unwrap();
    world.run(&["restore", &format!("latest:{source}"), "--target", target, "-q"]).ok();
    for (name, value) in &values {
        assert!(xattr(&Path::new(target).join("file"), name) == *value, "{name}");
    }
    assert_eq!(xattr(&Path::new(target).join("file"), "user.empty"), b"");
    assert_eq!(fs::read(Path::new(target).join("other")).unwrap(), b"precious");
    world.run(&["check", "--read-data"]).ok();
}

#[test]
fn a_file_that_says_it_is_empty_is_read_to_its_end() {
    needs!("sh");
    let world = World::new();
    // Its environment is a file of the kernel that says it has no bytes.
    let mut command = Command::new("sh");
    command.args(["-c", "read line"]).env_clear().stdin(Stdio::piped());
    for number in 0..20 {
        command.env(format!("V{number}"), format!("{number:02} ").repeat(30_000));
    }
    let mut child = command.spawn().unwrap();
    let environ = PathBuf::from(format!("/proc/{}/environ", child.id()));
    // Until it has become `sh`.
    while fs::read(&environ).unwrap().len() < 1_800_000 {
        std::thread::yield_now();
    }
    for path in [environ.as_path(), Path::new("/proc/version"), Path::new("/proc/sys/kernel/pid_max")] {
        let content = fs::read(path).unwrap();
        assert!(!content.is_empty() && fs::metadata(path).unwrap().len() == 0);
        let text = path.to_str().unwrap();
        for _ in 0..2 {
            world.run(&["snapshot", text, "-q"]).ok();
            assert!(world.run(&["cat", &format!("latest:{text}")]).ok().stdout == content, "{text}");
        }
    }
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn a_file_that_grows_while_it_is_read_is_not_read_for_ever() {
    let world = World::new();
    let path = world.src().join("growing");
    let mut file = fs::File::create(&path).unwrap();
    let bytes = Random(12).bytes(1 << 16);
    // Long enough that it grows while it is read, also where all processors are busy with other things.
    for _ in 0..2048 {
        file.write_all(&bytes).unwrap();
    }
    let stop = AtomicBool::new(false);
    let saved = std::thread::scope(|scope| {
        scope.spawn(|| {
            // Not without end, if the run fails to come to one.
            for _ in 0..20_000 {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                file.write_all(&bytes).unwrap();
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        });
        let saved = world.run(&["snapshot", path.to_str().unwrap(), "-q"]);
        stop.store(true, Ordering::Relaxed);
        saved
    });
    saved.code(3).says("it changed while it was read");
    let content = world.run(&["cat", &world.latest("src/growing")]).ok().stdout;
    assert!(!content.is_empty() && fs::read(&path).unwrap().starts_with(&content));
}

#[test]
fn a_missing_source_is_left_out_and_not_taken_for_gone() {
    let world = World::new();
    for name in ["a", "b"] {
        fs::create_dir_all(world.vault.join("two").join(name)).unwrap();
        fs::write(world.vault.join("two").join(name).join("file"), name).unwrap();
    }
    let (a, b) = (world.path("two/a"), world.path("two/b"));
    settle();
    let save = |code| {
        let output = world.run(&["snapshot", &a, &b, "--json"]).code(code);
        summary(&output)
    };
    let first = save(0);
    world.run(&["restore", &world.latest("two"), "--target", &world.path("out"), "-q"]).ok();
    let before = Manifest::of(&world.vault.join("out"));
    fs::rename(&b, world.path("elsewhere")).unwrap();
    let second = save(3);
    assert_eq!(second["parent"], first["snapshot_id"]);
    assert!(world.run(&["ls", "-R", &world.latest("two")]).ok().text().contains("/b"));
    // The place is spared, though the snapshot has nothing for it.
    world.run(&["restore", &world.latest("two"), "--target", &world.path("out"), "--delete", "--yes"]).ok();
    assert_eq!(before.diff(&Manifest::of(&world.vault.join("out"))), [""; 0]);
    // One of the places has nothing to be restored to it, and that is said.
    world.run(&["restore", "latest", "--in-place", "--delete", "--yes"]).code(1).says(&b);
    assert!(!Path::new(&b).exists());
    // Back again, it is as if nothing had been.
    fs::rename(world.path("elsewhere"), &b).unwrap();
    let third = save(0);
    assert_eq!(third["parent"], second["snapshot_id"]);
    assert_eq!((&third["files_read"], &third["files_unmodified"]), (&0.into(), &2.into()));
    let changes = world.run(&["diff", first["snapshot_id"].as_str().unwrap(), "latest"]).ok();
    assert!(changes.text().lines().all(|line| !line.starts_with(['+', '-', 'M', '?'])), "{}", changes.text());
}

#[test]
fn a_missing_source_inside_or_beside_others_keeps_none_of_them_from_being_saved() {
    let world = World::new();
    std::os::unix::fs::symlink(world.src(), world.vault.join("link")).unwrap();
    let src = world.path("src");
    let missing = ["src/gone", "none/at/all", "none/at", "src/a.txt/x", "link/gone"].map(|at| world.path(at));
    let long = format!("{}/{}", world.path("x"), "n".repeat(5000));
    for link in [src.as_str(), &world.path("link")] {
        let mut args = vec!["snapshot", link, "-q", &long];
        args.extend(missing.iter().map(String::as_str));
        world.run(&args).code(3).says("cannot open");
        let listed = world.run(&["ls", "-R", &format!("latest:{link}")]).ok();
        assert!(listed.text().contains("a.txt") && !listed.text().contains("gone"), "{}", listed.text());
        assert!(world.run(&["ls", "-R", &world.latest("none")]).ok().text().contains("none/at"));
    }
}

#[test]
fn more_sources_than_a_snapshot_can_name_are_refused_before_anything_is_read() {
    let world = World::new();
    // 14 levels of 250 bytes: 1,600 such paths, each noted three times, are more than 16 MiB.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut folder = rustix::fs::openat(CWD, world.vault.path(), flags, Mode::empty()).unwrap();
    let level = "d".repeat(250);
    for _ in 0..14 {
        rustix::fs::mkdirat(&folder, &level, Mode::from_raw_mode(0o700)).unwrap();
        folder = rustix::fs::openat(&folder, &level, flags, Mode::empty()).unwrap();
    }
    let deep = [level.as_str(); 14].join("/");
    let mut list = String::new();
    for number in 0..1600 {
        let name = format!("f{number:04}");
        let kind = rustix::fs::FileType::RegularFile;
        rustix::fs::mknodat(&folder, &name, kind, Mode::from_raw_mode(0o600), 0).unwrap();
        list.extend([world.path(&format!("{deep}/{name}")), "\n".to_owned()]);
    }
    fs::write(world.vault.join("list"), list).unwrap();
    let refused = world.run(&["snapshot", "--files-from", &world.path("list")]).code(2);
    refused.says("1600 sources").says("name the folders");
    assert!(files(&world.repo().join("packs")).is_empty() && files(&world.repo().join("index")).is_empty());
}

#[test]
fn file_systems_in_memory_are_said_to_hide_writes_through_maps() {
    needs!("tmpfs");
    let world = World::new();
    let mount = Mount::new(FileSystem::Tmpfs, 8);
    let said = |paths: &[&str]| {
        let output = world.run(&[&["snapshot"], paths].concat()).ok();
        output.stderr.matches("a file written through a memory map is only noticed with --force").count()
    };
    for name in ["one/file", "two/file", "of memory/file", "work"] {
        let path = mount.join(name);
        fs::create_dir_all(if name == "work" { &path } else { path.parent().unwrap() }).unwrap();
        if name != "work" {
            fs::write(path, "x").unwrap();
        }
    }
    let at = |name: &str| mount.join(name).to_str().unwrap().to_owned();
    assert_eq!(said(&[&at("one"), &at("two")]), 1);
    assert_eq!(said(&[&world.path("src")]), 0, "on a disk");
    // An overlay is as good as its upper layer.
    let merged = world.vault.join("merged");
    fs::create_dir(&merged).unwrap();
    let overlay = |upper: &str, work: &str| {
        let options = format!("lowerdir={},upperdir={upper},workdir={work}", world.path("src"));
        run(Command::new("mount").args(["-t", "overlay", "-o", &options, "overlay"]).arg(&merged));
        let times = said(&[merged.to_str().unwrap()]);
        unmount(&merged);
        times
    };
    let in_memory = at("of memory");
    assert_eq!(overlay(&in_memory, &at("work")), 1);
    fs::create_dir_all(world.vault.join("of disk")).unwrap();
    fs::create_dir_all(world.vault.join("work")).unwrap();
    assert_eq!(overlay(&world.path("of disk"), &world.path("work")), 0);
}
