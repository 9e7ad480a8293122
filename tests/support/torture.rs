//! A tree with one of everything that a snapshot has to keep, the same for the same options, but for what the file
//! system cannot hold, which is told.
//!
//! One folder per subject. All is made by descriptor, so that `deep` can be deeper than a path can be long.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::manifest::proc_path;
use super::scratch::open_dir;

/// Lengths at which chunkers, frames, tar blocks and pages go wrong.
pub const LENGTHS: [usize; 18] = [
    0,
    1,
    511,
    512,
    513,
    4095,
    4096,
    4097,
    65535,
    65536,
    65537,
    262_143,
    262_144,
    262_145,
    1_048_575,
    1_048_576,
    1_048_577,
    3 << 20,
];

/// What to build.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Also what only root may make: devices, owners, `trusted.*`, capabilities.
    pub root: bool,
    /// Levels of folders in `deep`.
    pub depth: usize,
    /// Files in `wide`.
    pub wide: usize,
    /// Size of `sparse/huge` in GiB; 0 for no such file.
    pub sparse_gb: u64,
    /// Where the pseudo-random bytes begin.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { root: true, depth: 100, wide: 1000, sparse_gb: 2, seed: 1 }
    }
}

/// Fills the folder of one subject.
type Fill = fn(&mut Build, &OwnedFd);

/// Builds the tree in the existing folder `path`, and returns what the file system could not hold.
pub fn build(path: &Path, options: Options) -> Vec<String> {
    let mut build = Build { random: Random(options.seed), options, stamps: 0, left_out: Vec::new() };
    let top = open_dir(path);
    let subjects: [(&str, Fill); 11] = [
        ("lengths", Build::lengths),
        ("duplicates", Build::duplicates),
        ("links", Build::links),
        ("special", Build::special),
        ("sparse", Build::sparse),
        ("xattrs", Build::xattrs),
        ("modes", Build::modes),
        ("times", Build::times),
        ("names", Build::names),
        ("deep", Build::deep),
        ("wide", Build::wide),
    ];
    for (name, fill) in subjects {
        let dir = make_folder(&top, name);
        fill(&mut build, &dir);
        build.stamp(&top, name);
    }
    build.stamp(&top, ".");
    build.left_out
}

/// Pseudo-random numbers (`SplitMix64`).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % end
    }

    /// So many bytes that do not compress.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }

    /// So many bytes that compress as prose does.
    pub fn text(&mut self, len: usize) -> Vec<u8> {
        const WORDS: [&str; 8] = ["the ", "vault ", "keeps ", "every ", "byte, ", "and ", "gives ", "back\n"];
        let mut text = Vec::with_capacity(len + 8);
        while text.len() < len {
            text.extend_from_slice(WORDS[usize::try_from(self.next() >> 61).unwrap()].as_bytes());
        }
        text.truncate(len);
        text
    }
}

struct Build {
    options: Options,
    random: Random,
    stamps: i64,
    left_out: Vec<String>,
}

impl Build {
    fn lengths(&mut self, dir: &OwnedFd) {
        for len in LENGTHS {
            let bytes = self.random.bytes(len);
            self.file(dir, format!("random-{len}"), &bytes);
            let text = self.random.text(len);
            self.file(dir, format!("text-{len}"), &text);
        }
        self.file(dir, "zeros", &vec![0; 2 << 20]);
    }

    fn duplicates(&mut self, dir: &OwnedFd) {
        let bytes = self.random.bytes(700_000);
        for name in ["one", "same", "same-again"] {
            self.file(dir, name, &bytes);
        }
        let block = self.random.bytes(256 << 10);
        self.file(dir, "blocks", &block.repeat(32));
        let mut shifted = self.random.bytes(1000);
        shifted.extend_from_slice(&bytes);
        self.file(dir, "shifted", &shifted);
    }

    fn links(&mut self, dir: &OwnedFd) {
        make_folder(dir, "folder");
        self.file(dir, "file", b"the file that links point at");
        let long = |len: usize| b"../links/".repeat(500)[..len].to_vec();
        let targets: [(&str, Vec<u8>); 8] = [
            ("relative", b"file".to_vec()),
            ("absolute", b"/etc/hostname".to_vec()),
            ("dangling", b"nowhere/at all".to_vec()),
            ("to-folder", b"folder".to_vec()),
            ("up", b"../../../..".to_vec()),
            ("itself", b"itself".to_vec()),
            ("not-utf8", b"caf\xe9/\xff\xfe\n\x1b[31m".to_vec()),
            ("long", long(1000)),
        ];
        for (name, target) in targets {
            rustix::fs::symlinkat(target, dir, name).unwrap();
            self.stamp(dir, name);
        }
        match rustix::fs::symlinkat(long(4095), dir, "longest") {
            Ok(()) => self.stamp(dir, "longest"),
            Err(Errno::NAMETOOLONG) => self.left_out.push("a link target of 4095 bytes".into()),
            Err(error) => panic!("cannot make a long symlink: {error}"),
        }
        rustix::fs::mkfifoat(dir, "fifo", Mode::from(0o640)).unwrap();
        self.stamp(dir, "fifo");
        let other = make_folder(dir, "other");
        for (old, new) in [("file", "file-2"), ("relative", "symlink-2"), ("fifo", "fifo-2")] {
            rustix::fs::linkat(dir, old, dir, new, AtFlags::empty()).unwrap();
            rustix::fs::linkat(dir, old, &other, new, AtFlags::empty()).unwrap();
        }
        self.stamp(dir, "other");
        self.stamp(dir, "folder");
    }

    fn special(&mut self, dir: &OwnedFd) {
        let mut kinds = vec![("fifo", FileType::Fifo, (0, 0)), ("socket", FileType::Socket, (0, 0))];
        if self.options.root {
            kinds.push(("null", FileType::CharacterDevice, (1, 3)));
            kinds.push(("high-minor", FileType::CharacterDevice, (300, 70_000)));
            kinds.push(("block", FileType::BlockDevice, (7, 200)));
        }
        for (name, kind, (major, minor)) in kinds {
            let device = rustix::fs::makedev(major, minor);
            rustix::fs::mknodat(dir, name, kind, Mode::from(0o604), device).unwrap();
            set_mode(dir, name, 0o604);
            self.stamp(dir, name);
        }
    }

    fn sparse(&mut self, dir: &OwnedFd) {
        const MIB: u64 = 1 << 20;
        let alternating: Vec<u64> = (0..32).map(|i| i * 128 * 1024).collect();
        let huge = self.options.sparse_gb << 30;
        // Name, size, where 64 KiB of data lie.
        let files: [(&str, u64, &[u64]); 7] = [
            ("hole-at-start", 4 * MIB, &[4 * MIB - 65536]),
            ("hole-in-the-middle", 8 * MIB, &[0, 8 * MIB - 65536]),
            ("hole-at-end", 5 * MIB + 7, &[0]),
            ("all-hole", 3 * MIB + 1, &[]),
            ("alternating", 4 * MIB, &alternating),
            ("one-page", 4096, &[]),
            ("huge", huge, &[0, huge / 2, huge.saturating_sub(65536)]),
        ];
        for (name, size, data) in files.into_iter().filter(|(_, size, _)| *size > 0) {
            let file = create(dir, name);
            file.set_len(size).unwrap();
            for at in data {
                file.write_all_at(&self.random.bytes(65536), *at).unwrap();
            }
            // Until they are written, some file systems tell blocks from holes otherwise than after.
            file.sync_all().unwrap();
            self.stamp(dir, name);
        }
    }

    fn xattrs(&mut self, dir: &OwnedFd) {
        self.file(dir, "user", b"user");
        self.xattr(dir, "user", "user.text", b"value");
        self.xattr(dir, "user", "user.empty", b"");
        self.xattr(dir, "user", "user.binary", &[0, 255, 10, 0]);
        self.xattr(dir, "user", "user.caf\u{e9}", b"a name that is not ASCII");
        self.file(dir, "many", b"many");
        for i in 0..20 {
            self.xattr(dir, "many", &format!("user.{i:02}"), format!("value {i}").as_bytes());
        }
        self.file(dir, "large", b"large");
        // As large as the file system takes: 64 KiB on XFS and tmpfs, 16 KiB on btrfs, below 4 KiB on ext4.
        let sizes = [65536, 16000, 8000, 4000, 3500, 2000];
        let path = proc_path(dir, c"large");
        let large = sizes.into_iter().find(|len| {
            let value = self.random.bytes(*len);
            rustix::fs::lsetxattr(path.as_slice(), "user.large", &value, XattrFlags::empty()).is_ok()
        });
        self.left_out.extend(large.is_none().then(|| "large xattrs".into()));
        make_folder(dir, "folder");
        self.xattr(dir, "folder", "user.of-a-folder", b"folder");
        self.acls(dir);
        if self.options.root {
            self.file(dir, "trusted", b"trusted");
            self.xattr(dir, "trusted", "trusted.vault", b"\0trusted\xff");
            rustix::fs::symlinkat("user", dir, "symlink").unwrap();
            self.xattr(dir, "symlink", "trusted.of-a-symlink", b"symlink");
            self.file(dir, "capability", b"#!/bin/true\n");
            set_mode(dir, "capability", 0o755);
            // VFS_CAP_REVISION_2 and effective; permitted cap_net_bind_service (10) and cap_net_raw (13).
            let capability: Vec<u8> =
                [0x0200_0001_u32, 1 << 10 | 1 << 13, 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()).collect();
            self.xattr(dir, "capability", "security.capability", &capability);
            self.stamp(dir, "trusted");
            self.stamp(dir, "symlink");
            self.stamp(dir, "capability");
        }
        for name in ["user", "many", "large", "folder"] {
            self.stamp(dir, name);
        }
    }

    fn acls(&mut self, dir: &OwnedFd) {
        const ANY: u32 = u32::MAX;
        // (tag, permissions, id): owner, user 1234, group, group 4321, mask, others.
        let access = acl(&[(1, 6, ANY), (2, 4, 1234), (4, 4, ANY), (8, 6, 4321), (16, 6, ANY), (32, 0, ANY)]);
        let default = acl(&[(1, 7, ANY), (2, 5, 99_999), (4, 5, ANY), (16, 5, ANY), (32, 0, ANY)]);
        self.file(dir, "acl-file", b"acl");
        self.xattr(dir, "acl-file", "system.posix_acl_access", &access);
        self.stamp(dir, "acl-file");
        let folder = make_folder(dir, "acl-folder");
        self.file(&folder, "before-the-default", b"inherits nothing");
        self.xattr(dir, "acl-folder", "system.posix_acl_access", &access);
        self.xattr(dir, "acl-folder", "system.posix_acl_default", &default);
        self.file(&folder, "after-the-default", b"inherits");
        self.stamp(dir, "acl-folder");
    }

    fn modes(&mut self, dir: &OwnedFd) {
        let modes = [0o0000, 0o0200, 0o0400, 0o0444, 0o0777, 0o4755, 0o2755, 0o1644, 0o7777, 0o6000];
        for mode in modes {
            let (file, folder) = (format!("file-{mode:04o}"), format!("folder-{mode:04o}"));
            self.file(dir, &file, b"mode");
            let inner = make_folder(dir, &folder);
            self.file(&inner, "inner", b"inner");
            for name in [file, folder] {
                set_mode(dir, &name, mode);
                self.stamp(dir, &name);
            }
        }
        if self.options.root {
            for (i, (uid, gid)) in
                [(0, 0), (1, 0), (0, 1), (65534, 65534), (123_456, 654_321)].iter().enumerate()
            {
                let name = format!("owner-{i}");
                self.file(dir, &name, b"owner");
                let owner = (Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)));
                rustix::fs::chownat(dir, &name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).unwrap();
                // A change of owner takes setuid and setgid away, so the mode comes after it.
                set_mode(dir, &name, 0o6755);
                self.stamp(dir, &name);
            }
            rustix::fs::symlinkat("owner-0", dir, "owner-symlink").unwrap();
            let owner = (Some(Uid::from_raw(4_000_000_000)), Some(Gid::from_raw(7)));
            rustix::fs::chownat(dir, "owner-symlink", owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            self.stamp(dir, "owner-symlink");
        }
    }

    fn times(&mut self, dir: &OwnedFd) {
        let times = [
            ("epoch", 0, 0),
            ("epoch-and-1ns", 0, 1),
            ("before-epoch", -1, 999_999_999),
            ("1920", -1_577_923_200, 123_456_789),
            ("2038", 2_147_483_648, 1),
            ("2106", 4_294_967_296, 0),
            ("2200", 7_258_118_400, 987_654_321),
        ];
        for (name, secs, nanos) in times {
            self.file(dir, name, name.as_bytes());
            set_mtime(dir, name, secs, nanos);
            let folder = format!("folder-{name}");
            make_folder(dir, &folder);
            set_mtime(dir, &folder, secs, nanos);
            let symlink = format!("symlink-{name}");
            rustix::fs::symlinkat(name, dir, &symlink).unwrap();
            set_mtime(dir, &symlink, secs, nanos);
        }
    }

    fn names(&mut self, dir: &OwnedFd) {
        let mut names: Vec<Vec<u8>> = [
            "new\nline",
            "tab\tand\rreturn",
            "\u{1}\u{7f}",
            "\u{1b}[31mred\u{1b}]0;title\u{7}",
            "bidi\u{202e}txt.exe",
            "-leading-dash",
            "--help",
            " leading and trailing space ",
            "CON",
            "aux.txt",
            "trailing.",
            "...",
            "~~",
            "*?[a]",
            "back\\slash",
            "quote'\"`$(id)",
            "colon:name",
            "emoji \u{1f512}",
            "caf\u{e9}",
            "cafe\u{301}",
            "Case",
            "case",
            "\u{200b}",
            "%s%n",
            "#hash",
            "{brace}",
            "a,b;c|d<e>f",
            "name.damaged",
            "\u{ff}\u{ffff}",
        ]
        .map(|name| name.as_bytes().to_vec())
        .to_vec();
        names.extend([
            b"not-utf8-\xff\xfe".to_vec(),
            b"caf\xe9".to_vec(),
            b"\xed\xa0\x80surrogate".to_vec(),
            vec![b'x'; 255],
        ]);
        names.push("\u{e9}".repeat(127).into_bytes());
        for name in names {
            self.file(dir, &name, &name);
            let mut folder = name.clone();
            folder.truncate(250);
            folder.extend_from_slice(b".dir");
            let inner = make_folder(dir, &folder);
            self.file(&inner, &name, b"below");
            self.stamp(dir, folder);
        }
        // Every byte that a name can hold.
        for byte in (1..=255_u8).filter(|b| *b != b'/' && *b != b'.') {
            self.file(dir, [byte], &[byte]);
        }
    }

    fn deep(&mut self, dir: &OwnedFd) {
        let mut at = dir.try_clone().unwrap();
        for level in 0..self.options.depth {
            let next = make_folder(&at, "d");
            if level % 1000 == 999 || level + 1 == self.options.depth {
                self.file(&next, "file", format!("level {level}").as_bytes());
            }
            if level > 0 {
                self.stamp(&at, ".");
            }
            at = next;
        }
        self.stamp(&at, ".");
    }

    fn wide(&mut self, dir: &OwnedFd) {
        for i in 0..self.options.wide {
            self.file(dir, format!("{i:07}"), format!("{}", i % 1000).as_bytes());
        }
    }

    fn file(&mut self, dir: &OwnedFd, name: impl AsRef<[u8]>, bytes: &[u8]) {
        let mut file = create(dir, name);
        file.write_all(bytes).unwrap();
        rustix::fs::futimens(&file, &mtime(self.next_stamp(), 123_456_789)).unwrap();
    }

    fn xattr(&mut self, dir: &OwnedFd, name: &str, attribute: &str, value: &[u8]) {
        let path = proc_path(dir, &c_string(name));
        match rustix::fs::lsetxattr(path.as_slice(), attribute, value, XattrFlags::empty()) {
            Ok(()) => (),
            Err(Errno::NOTSUP) => self.left_out.push(format!("{attribute} on {name}")),
            Err(error) => panic!("cannot set {attribute} on {name}: {error}"),
        }
    }

    /// Gives an entry the next modification time. The last thing to do to it.
    fn stamp(&mut self, dir: &OwnedFd, name: impl AsRef<[u8]>) {
        let name = c_string(name);
        let times = mtime(self.next_stamp(), 987_654_321);
        rustix::fs::utimensat(dir, &name, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    fn next_stamp(&mut self) -> i64 {
        self.stamps += 61;
        1_600_000_000 + self.stamps
    }
}

fn create(dir: &OwnedFd, name: impl AsRef<[u8]>) -> File {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let name = c_string(name);
    let fd = rustix::fs::openat(dir, &name, flags, Mode::from(0o644));
    File::from(fd.unwrap_or_else(|error| panic!("cannot create {name:?}: {error}")))
}

fn make_folder(dir: &OwnedFd, name: impl AsRef<[u8]>) -> OwnedFd {
    let name = c_string(name);
    rustix::fs::mkdirat(dir, &name, Mode::from(0o755)).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, &name, flags, Mode::empty()).unwrap()
}

fn set_mode(dir: &OwnedFd, name: &str, mode: u32) {
    rustix::fs::chmodat(dir, name, Mode::from(mode), AtFlags::empty()).unwrap();
}

fn c_string(name: impl AsRef<[u8]>) -> CString {
    CString::new(name.as_ref()).expect("names hold no NUL")
}

fn mtime(secs: i64, nanos: i64) -> Timestamps {
    let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    Timestamps { last_access, last_modification: Timespec { tv_sec: secs, tv_nsec: nanos } }
}

fn set_mtime(dir: &OwnedFd, name: &str, secs: i64, nanos: i64) {
    rustix::fs::utimensat(dir, name, &mtime(secs, nanos), AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// The bytes of an ACL as the kernel takes them: version 2, then (tag, permissions, id).
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}
