//! Walks through real trees: what is found, what is left out and why, and at what cost.

#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

mod ahead;
mod filter;
mod holes;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use tempfile::TempDir;
use vault::source::{
    FileKind, Found, MAX_OPEN, SourceRoot, Step, Walk, WalkOptions, group_name, sync_source, user_name,
};

use crate::support::needs::needs;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    fs::write(path, bytes).expect("written");
}

fn walk(path: &Path, options: &WalkOptions) -> Walk {
    Walk::new(&SourceRoot::open(path).expect("a source"), options).expect("a walk")
}

/// The steps as lines: `+dir`, `file`, `-`, `left out: Why`, `problem`.
fn lines(path: &Path, options: &WalkOptions) -> Vec<String> {
    let lines = |options: &WalkOptions| walk(path, options).map(|step| line(&step)).collect::<Vec<_>>();
    let alone = lines(options);
    // Threads that list ahead change nothing.
    for ahead in [1, 3] {
        assert_eq!(lines(&WalkOptions { ahead, ..options.clone() }), alone, "{ahead} threads ahead");
    }
    alone
}

fn line(step: &Step) -> String {
    let text = |name: &[u8]| name.escape_ascii().to_string();
    match step {
        Step::Enter(found) => format!("+{}", text(&found.name)),
        Step::Entry(found) => text(&found.name),
        Step::LeftOut { name, why, error, .. } => {
            format!("{}: {why:?}{}", text(name), if error.is_some() { " (problem)" } else { "" })
        }
        Step::Problem { .. } => "problem".to_owned(),
        Step::Leave => "-".to_owned(),
    }
}

/// The same without the first and the last, which are about the source itself.
fn inner_lines(path: &Path, options: &WalkOptions) -> Vec<String> {
    let all = lines(path, options);
    assert!(all[0].starts_with('+') && all[all.len() - 1] == "-", "{all:?}");
    all[1..all.len() - 1].to_vec()
}

fn find(path: &Path, name: &[u8]) -> Found {
    walk(path, &WalkOptions::default())
        .find_map(|step| match step {
            Step::Enter(found) | Step::Entry(found) if found.name == name => Some(found),
            _ => None,
        })
        .expect("found")
}

/// How many descriptors this process has open on the file system of a folder, which is that test's own.
fn open_below(root: &Path) -> usize {
    let device = fs::metadata(root).expect("there").dev();
    // By device and not by path: the system does not tell paths as long as these.
    let below = |entry: std::io::Result<fs::DirEntry>| {
        fs::metadata(entry.expect("listed").path()).is_ok_and(|found| found.dev() == device)
    };
    fs::read_dir("/proc/self/fd").expect("listed").map(below).filter(|is_below| *is_below).count()
}

#[test]
fn entries_come_depth_first_in_the_order_of_their_bytes() {
    let root = folder();
    for name in ["b/z", "b/a", "a", "b.c", "B", "é"] {
        put(&root.path().join(name), b"");
    }
    put(&root.path().join(OsStr::from_bytes(b"\xff\xfe")), b"");
    fs::create_dir(root.path().join("empty")).expect("made");
    let expected = ["B", "a", "+b", "a", "z", "-", "b.c", "+empty", "-", r"\xc3\xa9", r"\xff\xfe"];
    assert_eq!(inner_lines(root.path(), &WalkOptions::default()), expected);
}

#[test]
fn metadata_is_what_the_system_says() {
    needs!("touch");
    let root = folder();
    let path = root.path().join("file");
    put(&path, b"12345");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).expect("set");
    fs::hard_link(&path, root.path().join("other")).expect("linked");
    Command::new("touch")
        .args(["-d", "1930-01-02 03:04:05.123456789 UTC"])
        .arg(&path)
        .status()
        .expect("touched");
    let (found, expected) = (find(root.path(), b"file"), fs::metadata(&path).expect("stat"));
    assert_eq!(found.path(), path);
    assert_eq!((found.stat.kind, found.stat.size, found.stat.mode), (FileKind::Regular, 5, 0o4751));
    assert_eq!((found.stat.nlink, found.stat.inode), (2, expected.ino()));
    assert_eq!((found.stat.uid, found.stat.gid), (expected.uid(), expected.gid()));
    assert_eq!((found.stat.mtime.secs, found.stat.mtime.nanos), (expected.mtime(), 123_456_789));
    assert_eq!(found.stat.ctime.secs, expected.ctime());
    assert!(found.stat.mtime.secs < 0);
}

#[test]
fn every_kind_is_told_and_no_fifo_is_opened() {
    needs!("root");
    let root = folder();
    let at = |name: &str| root.path().join(name);
    let make = |name: &str, kind, dev| {
        rustix::fs::mknodat(CWD, at(name), kind, Mode::from_raw_mode(0o600), dev).expect("made");
    };
    make("fifo", FileType::Fifo, 0);
    make("char", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    make("block", FileType::BlockDevice, rustix::fs::makedev(7, 77));
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("bound");
    symlink("fifo", at("link")).expect("linked");
    for (name, kind) in [
        ("fifo", FileKind::Fifo),
        ("char", FileKind::CharDevice),
        ("block", FileKind::BlockDevice),
        ("socket", FileKind::Socket),
        ("link", FileKind::Symlink),
    ] {
        let found = find(root.path(), name.as_bytes());
        assert_eq!(found.stat.kind, kind);
        found.xattrs().expect("xattrs");
        assert_eq!(found.open().expect_err("not opened").raw_os_error(), Some(libc::EINVAL));
    }
    let block = find(root.path(), b"block").stat.rdev;
    assert_eq!((block.major, block.minor), (7, 77));
}

#[test]
fn a_source_may_be_any_entry_and_a_symlink_to_one() {
    let root = folder();
    put(&root.path().join("dir/file"), b"x");
    rustix::fs::mknodat(CWD, root.path().join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .expect("made");
    symlink("dir", root.path().join("link")).expect("linked");
    symlink("../dir", root.path().join("dir/loop")).expect("linked");
    let options = WalkOptions { sync: true, ..WalkOptions::default() };
    assert_eq!(lines(&root.path().join("dir/file"), &options), ["file"]);
    assert_eq!(lines(&root.path().join("fifo"), &options), ["fifo"]);
    let source = SourceRoot::open(&root.path().join("dir/./../link/")).expect("a source");
    assert_eq!(source.absolute, root.path().join("link"));
    assert_eq!(source.resolved, root.path().join("dir"));
    // The symlink in it is an entry, and not followed.
    assert_eq!(lines(&root.path().join("link"), &options), ["+dir", "file", "loop", "-"]);
    assert!(
        SourceRoot::open(&root.path().join("missing")).expect_err("missing").to_string().contains("missing")
    );
}

#[test]
fn the_root_of_the_system_can_be_a_source() {
    let mut walk = walk(Path::new("/"), &WalkOptions { one_file_system: true, ..WalkOptions::default() });
    let Some(Step::Enter(root)) = walk.next() else { panic!("no directory") };
    assert_eq!((root.path(), root.name.len()), (PathBuf::from("/"), 0));
    root.xattrs().expect("xattrs");
    walk.skip_rest();
    let rest: Vec<Step> = walk.collect();
    assert!(rest.len() > 3 && matches!(rest.last(), Some(Step::Leave)));
    assert!(rest.iter().any(|step| matches!(step, Step::LeftOut { path, .. } if path == Path::new("/proc"))));
}

#[test]
fn the_repository_is_left_out_under_any_name() {
    let root = folder();
    put(&root.path().join("repo/config"), b"");
    put(&root.path().join("x"), b"");
    symlink("repo", root.path().join("link")).expect("linked");
    let repository = Some(root.path().join("link"));
    let options = WalkOptions { repository, ..WalkOptions::default() };
    assert_eq!(inner_lines(root.path(), &options), ["link", "repo: Repository", "x"]);
    assert_eq!(lines(&root.path().join("repo"), &options), ["repo: Repository"]);
}

/// A file system in memory, mounted until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn at(path: PathBuf) -> Self {
        let status = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&path).status().expect("mount");
        assert!(status.success(), "mount needs root");
        Self(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn other_file_systems_are_told_apart_and_left_out_when_asked() {
    needs!("tmpfs");
    let root = folder();
    let mount = root.path().join("mnt");
    fs::create_dir(&mount).expect("made");
    let mounted = Mounted::at(mount.clone());
    put(&mount.join("sub/file"), b"");
    let options = WalkOptions { one_file_system: true, sync: true, ..WalkOptions::default() };
    assert_eq!(inner_lines(root.path(), &options), ["mnt: OtherFileSystem"]);
    // What the user names is taken, wherever it lies.
    assert_eq!(inner_lines(&mount, &options), ["+sub", "file", "-"]);
    let mut walk = walk(root.path(), &WalkOptions { sync: true, ..WalkOptions::default() });
    let devices: Vec<_> = walk
        .by_ref()
        .filter_map(|step| match step {
            Step::Enter(found) | Step::Entry(found) => Some(found.stat.dev),
            _ => None,
        })
        .collect();
    let (outer, inner) = (walk.file_system(devices[0]), walk.file_system(devices[3]));
    assert_eq!((inner.type_name.as_str(), &inner.mount), ("tmpfs", &mount));
    assert!(inner.ctime_is_meaningful && inner.is_synced && outer.is_synced);
    assert!(root.path().starts_with(&outer.mount) && outer.id != inner.id);
    sync_source(&mount.join("sub/file")).expect("synced");
    drop(mounted);
}

#[test]
fn attributes_are_sorted_and_those_of_the_entry_itself() {
    needs!("root");
    let root = folder();
    put(&root.path().join("dir/file"), b"");
    symlink("file", root.path().join("dir/link")).expect("linked");
    rustix::fs::mknodat(CWD, root.path().join("dir/fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .expect("made");
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.path().join(name), key, value, rustix::fs::XattrFlags::empty())
            .expect("set");
    };
    set("dir/file", "user.b", &[9; 3000]);
    set("dir/file", "user.a", b"");
    set("dir", "user.d", b"dir");
    set("dir/link", "trusted.l", b"link");
    set("dir/fifo", "trusted.f", b"fifo");
    let pair = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    let at = |name: &[u8]| find(root.path(), name).xattrs().expect("xattrs");
    assert_eq!(at(b"file"), [pair("user.a", b""), pair("user.b", &[9; 3000])]);
    assert_eq!(find(root.path(), b"file").open().expect("opened").xattrs().expect("xattrs"), at(b"file"));
    assert_eq!(at(b"dir"), [pair("user.d", b"dir")]);
    assert_eq!(at(b"link"), [pair("trusted.l", b"link")]);
    assert_eq!(at(b"fifo"), [pair("trusted.f", b"fifo")]);
}

#[test]
fn link_targets_are_exact() {
    let root = folder();
    let target = [&b"/\xff\n "[..], &[b'x'; 4000]].concat();
    symlink(OsStr::from_bytes(&target), root.path().join("link")).expect("linked");
    assert_eq!(find(root.path(), b"link").link_target().expect("read"), target);
}

#[test]
fn what_vanishes_or_is_replaced_during_the_walk_is_told() {
    let root = folder();
    for name in ["a", "gone", "sub/x", "swap", "then/x"] {
        put(&root.path().join(name), name.as_bytes());
    }
    let mut walk = walk(root.path(), &WalkOptions::default());
    walk.next();
    let Some(Step::Entry(first)) = walk.next() else { panic!("no entry") };
    fs::remove_file(root.path().join("gone")).expect("removed");
    // A directory becomes a symlink to another one.
    fs::rename(root.path().join("sub"), root.path().join("elsewhere")).expect("renamed");
    symlink("elsewhere", root.path().join("sub")).expect("linked");
    let rest: Vec<String> = walk.by_ref().take(2).map(|step| line(&step)).collect();
    assert_eq!(rest, ["gone: Vanished (problem)", "sub"]);
    let Some(Step::Entry(swap)) = walk.next() else { panic!("no entry") };
    put(&root.path().join("new"), b"new content");
    fs::rename(root.path().join("new"), root.path().join("swap")).expect("renamed");
    assert_eq!(swap.open().expect_err("replaced").raw_os_error(), Some(libc::ESTALE));
    let unasked = swap.open_unasked().expect("opened").stat().expect("stat");
    assert!(!swap.is(&unasked) && swap.again().expect("there").is(&unasked));
    assert_eq!(swap.again().expect("there").open().expect("opened").stat().expect("stat").size, 11);
    // A file becomes a symlink, then a FIFO; neither is opened or waited for.
    fs::remove_file(root.path().join("a")).expect("removed");
    symlink("swap", root.path().join("a")).expect("linked");
    assert_eq!(first.open().expect_err("a symlink").raw_os_error(), Some(libc::ESTALE));
    assert_eq!(first.open_unasked().expect_err("a symlink").raw_os_error(), Some(libc::ESTALE));
    fs::remove_file(root.path().join("a")).expect("removed");
    rustix::fs::mknodat(CWD, root.path().join("a"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .expect("made");
    assert_eq!(first.open().expect_err("a FIFO").raw_os_error(), Some(libc::ESTALE));
    assert!(!first.is(&first.open_unasked().expect("opened").stat().expect("stat")));
}

#[test]
fn a_directory_that_cannot_be_read_is_left_out_as_a_problem() {
    needs!("root");
    let root = folder();
    put(&root.path().join("closed/x"), b"");
    put(&root.path().join("open"), b"");
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).expect("set");
    fs::set_permissions(root.path().join("closed"), fs::Permissions::from_mode(0o000)).expect("set");
    let path = root.path().to_owned();
    // Root reads everything: one thread gives that up.
    let steps = std::thread::spawn(move || {
        rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(65534)).expect("given up");
        let steps: Vec<Step> = walk(&path, &WalkOptions::default()).collect();
        steps
    })
    .join()
    .expect("walked");
    let text: Vec<String> = steps.iter().map(line).collect();
    assert_eq!(text[1..], ["closed: Unreadable (problem)", "open", "-"]);
    assert!(matches!(&steps[1], Step::LeftOut { errno, path, .. }
        if *errno == libc::EACCES.unsigned_abs() && *path == root.path().join("closed")));
}

#[test]
fn an_interrupted_walk_tells_what_it_did_not_deliver() {
    let root = folder();
    for name in ["a", "b/c", "b/d/x", "e/x", "f"] {
        put(&root.path().join(name), b"");
    }
    let mut walk = walk(root.path(), &WalkOptions::default());
    let before: Vec<String> = walk.by_ref().take(4).map(|step| line(&step)).collect();
    assert_eq!(before[1..], ["a", "+b", "c"]);
    walk.skip_rest();
    let after: Vec<String> = walk.map(|step| line(&step)).collect();
    assert_eq!(after, ["d: Interrupted", "-", "e: Interrupted", "f: Interrupted", "-"]);
}

const DEPTH: usize = 10_000;

/// Makes `depth` directories, one in the other, each with a file `z`.
fn make_deep(root: &Path, depth: usize) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut fd: OwnedFd = rustix::fs::openat(CWD, root, flags, Mode::empty()).expect("opened");
    for _ in 0..depth {
        rustix::fs::mkdirat(&fd, "directory", Mode::from_raw_mode(0o700)).expect("made");
        rustix::fs::mknodat(&fd, "z", FileType::RegularFile, Mode::from_raw_mode(0o600), 0).expect("made");
        fd = rustix::fs::openat(&fd, "directory", flags, Mode::empty()).expect("opened");
    }
}

#[test]
fn a_path_of_ten_thousand_levels_takes_few_descriptors_and_no_stack() {
    needs!("tmpfs");
    let root = folder();
    // In memory: ext4 takes long to make so many inodes again after they were deleted.
    let _mounted = Mounted::at(root.path().to_owned());
    make_deep(root.path(), DEPTH);
    let path = root.path().to_owned();
    let walker = std::thread::Builder::new().stack_size(256 << 10).spawn(move || {
        let (mut entered, mut files, mut most) = (0, 0, 0);
        let mut kept = Vec::new();
        for (number, step) in walk(&path, &WalkOptions::default()).enumerate() {
            match step {
                Step::Enter(_) => entered += 1,
                Step::Entry(found) => {
                    // Each is opened on the way back up, when most of the directories above are closed.
                    found.open().expect("opened");
                    files += 1;
                    if files % 1000 == 1 {
                        kept.push(found);
                    }
                }
                Step::Leave => {}
                other => panic!("{other:?}"),
            }
            if number % 500 == 0 {
                most = most.max(open_below(&path));
            }
        }
        for found in &kept {
            found.open().expect("opened after the walk");
            assert!(found.xattrs().expect("xattrs").is_empty());
        }
        assert!(kept[0].path().as_os_str().len() > DEPTH * "directory/".len() - 100);
        (entered, files, most)
    });
    let (entered, files, most) = walker.expect("a thread").join().expect("walked");
    assert_eq!((entered, files), (DEPTH + 1, DEPTH));
    // The topmost one, and one that is just being opened.
    assert!((MAX_OPEN / 2..=MAX_OPEN + 2).contains(&most), "{most} descriptors");
}

#[test]
fn a_directory_that_is_opened_again_must_be_the_same() {
    let root = folder();
    // More levels than descriptors: the upper ones are closed when the walk is at the bottom.
    let levels = MAX_OPEN + 10;
    make_deep(root.path(), levels);
    let (top, moved) = (root.path().join("directory"), root.path().join("moved"));
    put(&top.join("a"), b"original");
    let mut walk = walk(root.path(), &WalkOptions::default());
    let entered: Vec<Step> = walk.by_ref().take(levels + 1).collect();
    let Some(Step::Entry(found)) = entered.get(2) else { panic!("{entered:?}") };
    fs::rename(&top, &moved).expect("renamed");
    put(&top.join("a"), b"of another directory");
    assert_eq!(found.open().expect_err("another directory").raw_os_error(), Some(libc::ESTALE));
    fs::rename(&top, root.path().join("other")).expect("renamed");
    fs::rename(&moved, &top).expect("renamed");
    assert_eq!(found.open().expect("the same again").stat().expect("stat").size, 8);
}

#[test]
fn a_directory_of_many_entries_is_asked_about_one_by_one() {
    needs!("tmpfs");
    let root = folder();
    let _mounted = Mounted::at(root.path().to_owned());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let fd = rustix::fs::openat(CWD, root.path(), flags, Mode::empty()).expect("opened");
    let count = 50_000;
    for number in (0..count).rev() {
        let name = format!("{number:06}");
        rustix::fs::mknodat(&fd, name, FileType::RegularFile, Mode::from_raw_mode(0o600), 0).expect("made");
    }
    let mut walk = walk(root.path(), &WalkOptions::default());
    walk.next();
    // Removed after the listing: had it been looked at then, it would not be told as vanished.
    rustix::fs::unlinkat(&fd, format!("{:06}", count - 1), AtFlags::empty()).expect("removed");
    let names: Vec<String> = walk.map(|step| line(&step)).collect();
    assert_eq!(names.len(), count + 1);
    assert!(names[..count - 1].windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(names[count - 1], format!("{:06}: Vanished (problem)", count - 1));
}

#[test]
fn owners_have_names() {
    assert_eq!(user_name(0), Some(b"root".to_vec()));
    assert_eq!(group_name(u32::MAX - 7), None);
    assert_eq!(OsString::from_vec(user_name(0).expect("root")), "root");
}
