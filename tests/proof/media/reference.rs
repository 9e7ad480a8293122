//! A tree of which no medium but those of Linux itself keeps all: an entry for each thing that may get lost.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, UTIME_OMIT, XattrFlags};

use crate::support::torture::Random;

/// Four GiB.
pub const FOUR_GIB: u64 = 4 << 30;
/// Times of modification, by the year that they are in.
pub const YEARS: [(&str, i64); 8] = [
    ("1920", -1_577_923_200),
    ("1970", 0),
    ("1981", 347_155_200),
    ("2030", 1_893_456_000),
    ("2040", 2_208_988_800),
    ("2107", 4_323_283_200),
    ("2200", 7_258_118_400),
    ("2400", 13_569_465_600),
];
/// An odd second, and nanoseconds.
pub const FINE: (i64, u32) = (1_600_000_001, 987_654_321);
/// A time that every medium keeps.
pub const PLAIN: i64 = 1_600_000_000;

/// Names, one for each way in which a medium may be unable to have it.
pub const NAMES: [(&str, &[u8]); 11] = [
    ("beyond ASCII", "caf\u{e9} \u{1f512}".as_bytes()),
    ("not UTF-8", b"caf\xe9"),
    ("control characters", b"new\nline"),
    ("`:`, `?`, `\\`", b"a:b?c\\d"),
    ("a dot at the end", b"trailing."),
    ("a space at the end", b"trailing "),
    ("a space at the beginning", b" leading"),
    ("`CON`", b"CON"),
    ("255 bytes", &[b'x'; 255]),
    ("`...`", b"..."),
    ("a tilde", b"backup~1"),
];

/// Names of one folder that a medium may take for one.
pub const TWINS: [(&str, [&str; 2]); 5] = [
    ("`Case`, `case`", ["Case", "case"]),
    ("`\u{c0}`, `\u{e0}`", ["\u{c0}", "\u{e0}"]),
    (
        "`\u{3bf}\u{3b4}\u{3bf}\u{3c3}`, `\u{3bf}\u{3b4}\u{3bf}\u{3c2}`",
        ["\u{3bf}\u{3b4}\u{3bf}\u{3c3}", "\u{3bf}\u{3b4}\u{3bf}\u{3c2}"],
    ),
    ("`dot`, `dot.`", ["dot", "dot."]),
    ("`Long file name.txt`, `longfi~1.txt`", ["Long file name.txt", "longfi~1.txt"]),
];

/// Attributes, and which kind each is of.
pub const XATTRS: [(&str, &str); 4] = [
    ("user.vault", "extended attributes, `user.*`"),
    ("trusted.vault", "extended attributes, `trusted.*`"),
    ("system.posix_acl_access", "access control lists"),
    ("security.capability", "file capabilities"),
];

/// Builds it in a folder.
pub fn build(at: &Path) {
    let folder = |name: &str| {
        fs::create_dir(at.join(name)).unwrap();
        at.join(name)
    };
    write(&at.join("content"), &Random(1).bytes(300_000));
    let names = folder("names");
    for (_, name) in NAMES {
        write(&names.join(OsStr::from_bytes(name)), name);
    }
    fs::create_dir(names.join("folder with a dot.")).unwrap();
    write(&names.join("folder with a dot./inner"), b"inner");
    let twins = folder("twins");
    for name in TWINS.iter().flat_map(|(_, names)| names) {
        write(&twins.join(name), name.as_bytes());
    }
    for name in ["Folder", "folder"] {
        fs::create_dir(twins.join(name)).unwrap();
        write(&twins.join(name).join("inner"), name.as_bytes());
    }
    attributes(&folder("modes"), &folder("owners"), &folder("xattrs"));
    let times = folder("times");
    for (year, _) in YEARS {
        write(&times.join(year), year.as_bytes());
    }
    write(&times.join("fine"), b"fine");
    things(&folder("links"), &folder("special"));
    let sparse = File::create(folder("sparse").join("hole")).unwrap();
    sparse.write_all_at(&[1; 4096], 0).unwrap();
    sparse.write_all_at(&[2; 4096], 1 << 20).unwrap();
    sparse.sync_all().unwrap();
    stamp(at);
}

/// Builds a tree with one file of more than four GiB, almost all of it a hole.
pub fn build_huge(at: &Path) {
    fs::create_dir(at).unwrap();
    let huge = File::create(at.join("huge")).unwrap();
    huge.write_all_at(b"the end", FOUR_GIB).unwrap();
    huge.sync_all().unwrap();
    write(&at.join("small"), b"beside it");
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}

fn attributes(modes: &Path, owners: &Path, xattrs: &Path) {
    for mode in [0o600, 0o644, 0o444, 0o755, 0o4755, 0o1777] {
        let path = modes.join(format!("{mode:04o}"));
        write(&path, b"mode");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    for id in [0, 1, 12_345] {
        let path = owners.join(id.to_string());
        write(&path, b"owner");
        chown(&path, Some(id), Some(id)).unwrap();
    }
    // Version 2; owner, user 1234, group, mask, others.
    let entries = [(1, 6, u32::MAX), (2, 4, 1234), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 0, u32::MAX)];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        let (tag, permissions): (u16, u16) = (tag, permissions);
        acl.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    // VFS_CAP_REVISION_2; cap_net_bind_service.
    let capability = [0x0200_0001_u32, 1 << 10, 0, 0, 0].map(u32::to_le_bytes).concat();
    let values: BTreeMap<&str, &[u8]> = BTreeMap::from([
        ("user.vault", &b"\0any\xff"[..]),
        ("trusted.vault", b"trusted"),
        ("system.posix_acl_access", &acl),
        ("security.capability", &capability),
    ]);
    for (name, _) in XATTRS {
        let path = xattrs.join(name);
        write(&path, b"attribute");
        rustix::fs::lsetxattr(&path, name, values[name], XattrFlags::empty()).unwrap();
    }
}

fn things(links: &Path, special: &Path) {
    write(&links.join("file"), b"what is linked to");
    fs::hard_link(links.join("file"), links.join("hard")).unwrap();
    symlink("file", links.join("symlink")).unwrap();
    let kinds = [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
    ];
    for (name, kind, device) in kinds {
        rustix::fs::mknodat(CWD, special.join(name), kind, Mode::from(0o600), device).unwrap();
    }
}

/// Gives each entry the time that it is to have.
fn stamp(at: &Path) {
    for entry in walkdir::WalkDir::new(at).contents_first(true) {
        let path = entry.unwrap().into_path();
        let name = path.file_name().unwrap();
        let in_times = path.parent().is_some_and(|parent| parent.ends_with("times"));
        let year = YEARS.into_iter().find(|(year, _)| in_times && name == *year);
        let (tv_sec, nanos) = match year {
            Some((_, secs)) => (secs, 0),
            None if in_times && name == "fine" => FINE,
            None => (PLAIN, 0),
        };
        let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access, last_modification: Timespec { tv_sec, tv_nsec: nanos.into() } };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}
