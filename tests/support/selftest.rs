//! The support notices what it is there to notice: one thing changed, one line of difference.

use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{FallocateFlags, FileType, XattrFlags};
use rustix::process::Signal;

use super::manifest::{Aspect, Manifest};
use super::mount::{FileSystem, Mount, run};
use super::needs::needs;
use super::scratch::Scratch;
use super::torture::{self, Options, Random};
use super::vault::Vault;

/// A change to the small tree, the entry it is about, and the respect in which that entry then differs.
type Change = (&'static str, &'static str, Option<Aspect>, fn(&Path));

/// Runs a program in the folder.
fn sh(at: &Path, script: &str) {
    run(Command::new("sh").args(["-euc", script]).current_dir(at));
}

/// Sets the times of everything, so that a change shows as itself and not by a time.
fn settle(at: &Path) {
    sh(at, "find . -depth -print0 | xargs -0 touch -h -d '2020-02-02 02:02:02.123456789 UTC' --");
}

fn small_tree(at: &Path) {
    fs::create_dir(at.join("dir")).unwrap();
    fs::write(at.join("dir/file"), Random(7).bytes(200_000)).unwrap();
    fs::write(at.join("sparse"), vec![1; 300_000]).unwrap();
    fs::write(at.join("linked"), "linked").unwrap();
    fs::hard_link(at.join("linked"), at.join("other-name")).unwrap();
    symlink("target", at.join("symlink")).unwrap();
    sh(at, "mknod device c 1 3; mkfifo fifo");
    rustix::fs::lsetxattr(at.join("dir/file"), "user.a", b"value", XattrFlags::empty()).unwrap();
    settle(at);
}

const CHANGES: [Change; 21] = [
    ("one byte", "dir/file: content", None, |at| {
        let file = OpenOptions::new().read(true).write(true).open(at.join("dir/file")).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 131_071).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 131_071).unwrap();
    }),
    ("the order of blocks", "dir/file: content", None, |at| {
        let mut bytes = fs::read(at.join("dir/file")).unwrap();
        bytes[..131_072].rotate_left(65536);
        fs::write(at.join("dir/file"), bytes).unwrap();
    }),
    ("mode", "dir/file: mode", Some(Aspect::Mode), |at| sh(at, "chmod u+s dir/file")),
    ("mode of a folder", "dir: mode", Some(Aspect::Mode), |at| sh(at, "chmod +t dir")),
    ("owner", "symlink: owner", Some(Aspect::Owner), |at| sh(at, "chown -h 12345 symlink")),
    ("group", "dir: owner", Some(Aspect::Owner), |at| sh(at, "chgrp 12345 dir")),
    ("target", "symlink: target", None, |at| {
        fs::remove_file(at.join("symlink")).unwrap();
        symlink("tarGet", at.join("symlink")).unwrap();
    }),
    ("xattr", "dir/file: xattr user.a", Some(Aspect::Xattrs), |at| {
        sh(at, "setfattr -n user.a -v other dir/file");
    }),
    ("xattr gone", "dir/file: xattr user.a", Some(Aspect::Xattrs), |at| {
        sh(at, "setfattr -x user.a dir/file");
    }),
    ("xattr more", "dir: xattr user.b", Some(Aspect::Xattrs), |at| sh(at, "setfattr -n user.b dir")),
    ("xattr of a symlink", "symlink: xattr trusted.b", Some(Aspect::Xattrs), |at| {
        sh(at, "setfattr -h -n trusted.b symlink");
    }),
    ("default ACL", "dir: xattr system.posix_acl_default", Some(Aspect::Xattrs), |at| {
        sh(at, "setfacl -d -m u:77:r dir");
    }),
    ("capability", "dir/file: xattr security.capability", Some(Aspect::Xattrs), |at| {
        sh(at, "setcap cap_net_raw+p dir/file");
    }),
    ("link broken", "other-name: first hard link", Some(Aspect::Links), |at| {
        sh(at, "rm other-name; cp -p linked other-name");
    }),
    ("hole", "sparse: data outside of holes", Some(Aspect::Holes), |at| {
        let file = OpenOptions::new().write(true).open(at.join("sparse")).unwrap();
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        file.write_all_at(&[0; 65536], 65536).unwrap();
        rustix::fs::fallocate(&file, punch, 65536, 65536).unwrap();
    }),
    ("device", "device: device", None, |at| sh(at, "rm device; mknod device c 1 5")),
    ("kind", "fifo: kind", None, |at| sh(at, "rm fifo; mknod fifo c 1 3")),
    ("missing", "fifo: is missing", None, |at| fs::remove_file(at.join("fifo")).unwrap()),
    ("too many", "dir/new: is too many", None, |at| drop(File::create(at.join("dir/new")).unwrap())),
    ("last too many", "zzz: is too many", None, |at| fs::create_dir(at.join("zzz")).unwrap()),
    ("the folder itself", ".: mode", Some(Aspect::Root), |at| sh(at, "chmod 0711 .")),
];

#[test]
fn a_manifest_shows_every_single_change() {
    needs!("root", "sh", "xargs", "touch", "chown", "cp", "setfattr", "setfacl", "setcap");
    let scratch = Scratch::new();
    for (what, expected, aspect, change) in CHANGES {
        let (before, after) = (scratch.dir("before"), scratch.dir("after"));
        small_tree(&before);
        small_tree(&after);
        let reference = Manifest::of(&before);
        assert_eq!(reference.diff(&Manifest::of(&after)), [""; 0], "before the change: {what}");
        change(&after);
        settle(&after);
        let changed = Manifest::of(&after);
        let mut lines = reference.diff(&changed);
        if what == "hole" {
            // Zeros were written before the hole was punched into them.
            lines.retain(|line| !line.starts_with("sparse: content"));
        }
        if what == "link broken" {
            // A file with one name is in no group: both names say so.
            lines.retain(|line| !line.starts_with("linked: first hard link"));
        }
        assert!(matches!(&lines[..], [line] if line.starts_with(expected)), "{what}: {lines:#?}");
        assert!(reference != changed, "{what}");
        if let Some(aspect) = aspect {
            let rest = reference.diff_except(&changed, &[aspect]);
            assert!(rest.iter().all(|line| line.contains("content")), "{what}: {rest:#?}");
        }
        for path in [before, after] {
            super::scratch::remove_tree(&path).unwrap();
        }
    }
}

#[test]
fn a_manifest_shows_one_nanosecond() {
    needs!("root", "sh", "xargs", "touch");
    let scratch = Scratch::new();
    let (before, after) = (scratch.dir("before"), scratch.dir("after"));
    small_tree(&before);
    small_tree(&after);
    let reference = Manifest::of(&before);
    let aspects = [("dir", Aspect::DirMtime), ("symlink", Aspect::SymlinkMtime), ("fifo", Aspect::Mtime)];
    for (name, aspect) in aspects {
        sh(&after, &format!("touch -h -d '2020-02-02 02:02:02.123456788 UTC' {name}"));
        let changed = Manifest::of(&after);
        let lines = reference.diff(&changed);
        assert!(matches!(&lines[..], [line] if line.starts_with(&format!("{name}: mtime"))), "{lines:#?}");
        assert_eq!(reference.diff_except(&changed, &[aspect]), [""; 0]);
        settle(&after);
    }
}

#[test]
fn a_manifest_of_a_deep_tree_needs_no_stack_and_one_descriptor() {
    needs!("root");
    let scratch = Scratch::new();
    let options = Options { depth: 10_000, wide: 20_000, sparse_gb: 500, ..Options::default() };
    assert_eq!(torture::build(&scratch.dir("a"), options), [""; 0]);
    let manifest = Manifest::of(&scratch.join("a"));
    assert!(manifest.len() > 30_000);
    assert_eq!(manifest.get("sparse/huge").unwrap().data.len(), 3);
    assert_eq!(manifest.diff(&manifest.clone()), [""; 0]);
}

#[test]
fn the_torture_tree_has_one_of_everything_and_is_the_same_each_time() {
    needs!("root");
    let scratch = Scratch::new();
    let (a, b) = (scratch.dir("a"), scratch.dir("b"));
    for path in [&a, &b] {
        assert_eq!(torture::build(path, Options::default()), [""; 0]);
    }
    let manifest = Manifest::of(&a);
    assert_eq!(manifest.diff(&Manifest::of(&b)), [""; 0]);
    for kind in [
        FileType::RegularFile,
        FileType::Directory,
        FileType::Symlink,
        FileType::Fifo,
        FileType::Socket,
        FileType::CharacterDevice,
        FileType::BlockDevice,
    ] {
        assert!(manifest.entries().any(|(_, item)| item.kind == kind), "{kind:?}");
    }
    let xattr = |path: &str, name: &str| manifest.get(path).unwrap().xattrs.get(name.as_bytes()).cloned();
    assert_eq!(xattr("xattrs/user", "user.empty").unwrap(), b"");
    assert_eq!(xattr("xattrs/capability", "security.capability").unwrap().len(), 20);
    assert_eq!(xattr("xattrs/acl-file", "system.posix_acl_access").unwrap().len(), 52);
    assert!(xattr("xattrs/acl-folder/after-the-default", "system.posix_acl_access").is_some());
    assert_eq!(xattr("xattrs/symlink", "trusted.of-a-symlink").unwrap(), b"symlink");
    assert_eq!(manifest.get("modes/file-7777").unwrap().mode, 0o7777);
    assert_eq!(manifest.get("modes/owner-4").unwrap().mode, 0o6755);
    assert_eq!(manifest.get("times/1920").unwrap().mtime, (-1_577_923_200, 123_456_789));
    assert_eq!(manifest.get("times/symlink-2200").unwrap().mtime, (7_258_118_400, 987_654_321));
    assert_eq!(manifest.get("links/longest").unwrap().target.len(), 4095);
    assert_eq!(manifest.get("sparse/hole-at-start").unwrap().data, [((4 << 20) - 65536, 4 << 20)]);
    assert_eq!(manifest.get("sparse/all-hole").unwrap().data, []);
    assert_eq!(manifest.get("sparse/alternating").unwrap().data.len(), 32);
    let not_utf8 = std::ffi::OsStr::from_bytes(b"not-utf8-\xff\xfe");
    assert!(manifest.get(Path::new("names").join(not_utf8)).is_some());
}

/// Two programs that know nothing of the manifest keep what they are known to keep: so the manifest sees no
/// differences where there are none, and does see what the second one loses.
#[test]
fn a_copy_by_rsync_is_the_same_and_one_by_plain_cp_is_not() {
    needs!("root", "sh", "rsync", "cp");
    let scratch = Scratch::new();
    let source = scratch.dir("source");
    torture::build(&source, Options { depth: 50, wide: 50, sparse_gb: 0, ..Options::default() });
    let reference = Manifest::of(&source);
    let (good, poor) = (scratch.dir("good"), scratch.join("poor"));
    sh(scratch.path(), "rsync -aHAXS --numeric-ids source/ good/");
    let lines = reference.diff_except(&Manifest::of(&good), &[Aspect::Holes]);
    assert_eq!(lines, [""; 0]);
    sh(scratch.path(), "cp -r --preserve=mode,timestamps --sparse=never source poor");
    let lines = reference.diff(&Manifest::of(&poor));
    for loss in ["xattr user.text", "first hard link", "owner", "outside of holes"] {
        assert!(lines.iter().any(|line| line.contains(loss)), "{loss}: {lines:#?}");
    }
    assert!(!lines.iter().any(|line| line.contains(": content") || line.contains(": mtime")), "{lines:#?}");
}

#[test]
fn every_file_system_mounts_fills_up_and_goes_away() {
    needs!("ext4", "xfs", "btrfs", "exfat", "tmpfs", "overlay");
    for (kind, size_mb) in [
        (FileSystem::Ext4, 64),
        (FileSystem::Xfs, 320),
        (FileSystem::Btrfs, 128),
        (FileSystem::Exfat, 32),
        (FileSystem::Tmpfs, 32),
        (FileSystem::Overlay, 64),
    ] {
        let outside = std::env::temp_dir().metadata().unwrap().dev();
        let mut mount = Mount::new(kind, size_mb);
        let path = mount.path();
        assert_ne!(path.metadata().unwrap().dev(), outside, "{kind:?} is not mounted");
        assert!((1..=size_mb << 20).contains(&mount.free_bytes()), "{kind:?}");
        let full = fs::write(mount.join("too-much"), vec![1; usize::try_from((size_mb + 1) << 20).unwrap()]);
        assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull, "{kind:?}");
        fs::write(mount.join("too-much"), "").unwrap();
        if kind != FileSystem::Tmpfs {
            fs::write(mount.join("kept"), "kept").unwrap();
            mount.remount();
            assert_eq!(fs::read(mount.join("kept")).unwrap(), b"kept", "{kind:?}");
        }
        drop(mount);
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        assert!(!mounts.contains(path.to_str().unwrap()), "{kind:?} is still mounted");
        assert!(!path.exists(), "{kind:?} left its folder behind");
    }
}

#[test]
fn a_file_system_that_is_shut_down_fails_until_it_is_mounted_again() {
    needs!("ext4", "xfs", "xfs_io");
    for (kind, size_mb) in [(FileSystem::Ext4, 64), (FileSystem::Xfs, 320)] {
        let mut mount = Mount::new(kind, size_mb);
        fs::write(mount.join("synced"), "synced").unwrap();
        File::open(mount.join("synced")).unwrap().sync_all().unwrap();
        File::open(mount.path()).unwrap().sync_all().unwrap();
        fs::write(mount.join("lost"), "lost").unwrap();
        mount.shutdown(false);
        assert!(fs::write(mount.join("after"), "after").is_err(), "{kind:?}");
        mount.remount();
        assert_eq!(fs::read(mount.join("synced")).unwrap(), b"synced", "{kind:?}");
        assert!(!mount.join("lost").exists(), "{kind:?} kept what was never synced");
        mount.set_read_only(true);
        assert_eq!(
            fs::write(mount.join("x"), "").unwrap_err().kind(),
            std::io::ErrorKind::ReadOnlyFilesystem
        );
        mount.set_read_only(false);
        fs::write(mount.join("x"), "").unwrap();
    }
}

#[test]
fn a_mount_of_a_test_that_panics_is_cleaned_up() {
    needs!("tmpfs");
    let mut path = None;
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mount = Mount::new(FileSystem::Tmpfs, 8);
        path = Some(mount.path());
        panic!("on purpose");
    }));
    assert!(result.is_err());
    assert!(!path.unwrap().exists());
}

/// The shell stands in for the program: how it ends is then known.
#[test]
fn a_run_reports_what_the_program_did() {
    needs!("sh");
    let mut vault = Vault::new();
    vault.env("EXTRA", "extra");
    vault.env("GONE", "gone");
    vault.env_remove("GONE");
    let script = "echo \"$HOME $XDG_CACHE_HOME $EXTRA $GONE.\"; pwd; echo warning >&2; exit 3";
    let output = vault.start(vault.command_under(&["sh", "-c", script], &["an argument"])).wait();
    let output = output.code(3).says("warning");
    let at = |name| vault.join(name).display().to_string();
    assert_eq!(output.text(), format!("{} {} extra .\n{}\n", at("home"), at("cache"), at("cwd")));
    let wrong = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| output.ok()));
    let text = *wrong.unwrap_err().downcast::<String>().unwrap();
    assert!(text.contains("not exit code 0") && text.contains("warning") && text.contains("cache"), "{text}");
}

#[test]
fn a_running_program_takes_signals_and_is_killed_on_drop() {
    needs!("python3");
    let vault = Vault::new();
    // A shell that is between two commands may lose a signal.
    let script = "import os, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\nos.write(2, b'ready')\n\
                  signal.sigwait([signal.SIGINT])\nos.write(1, b'got it\\n')\nos._exit(130)";
    let start = || vault.start(vault.command_under(&["python3", "-c", script], &[""; 0]));
    let mut running = start();
    running.wait_until("ready", |r| r.stderr().contains("ready"));
    running.signal(Signal::INT);
    let output = running.wait().code(130);
    assert_eq!(output.text(), "got it\n");
    let mut running = start();
    running.wait_until("ready", |r| r.stderr().contains("ready"));
    let id = running.id();
    drop(running);
    assert!(!Path::new(&format!("/proc/{id}")).exists());
}

#[test]
fn the_program_runs() {
    let vault = Vault::new();
    assert!(vault.path().is_dir());
    vault.run(&["--help"]).ok();
    vault.run_with_stdin(&["--version"], b"ignored").ok();
}
