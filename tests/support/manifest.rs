//! What a tree is, in every respect that a snapshot keeps: the oracle of the restore tests. It shares no code with
//! the library.
//!
//! Entries lie in one table; a directory's are sorted by name and next to one another, and each knows its parent, so
//! a path 10,000 levels deep costs one entry per level and not ten thousand bytes. Entry 0 is the folder itself. The
//! walk is by descriptor, holds one directory open at a time, and does not recurse.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;
use std::fmt;
use std::fs::File;
use std::hash::Hash;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, StatxFlags};
use rustix::io::Errno;

use super::scratch::{names, open_dir};

/// Data extents are rounded outwards to this: the smallest block of the file systems we test on.
const EXTENT: u64 = 4096;
/// Content is hashed in blocks of this length, zeros left out: so a hole and zeros hash alike, and a sparse file of
/// 100 GB takes no time.
const BLOCK: u64 = 65536;

/// One respect in which two entries can differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aspect {
    /// Anything about the folder itself, as opposed to what is below it.
    Root,
    /// The 12 bits of the mode.
    Mode,
    /// User and group.
    Owner,
    /// The modification time of anything but a directory.
    Mtime,
    /// The modification time of a directory.
    DirMtime,
    /// The modification time of a symlink (which is also `Mtime`).
    SymlinkMtime,
    /// Which names are links to one another.
    Links,
    /// Extended attributes, and with them ACLs and capabilities.
    Xattrs,
    /// Where a file has holes.
    Holes,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its name, any bytes.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: FileType,
    /// Permissions, setuid, setgid, sticky.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes; 0 for directories, whose size is the file system's own business.
    pub size: u64,
    /// Modification time, seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Where a symlink points, any bytes.
    pub target: Vec<u8>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Start and end of each run of data in a file.
    pub data: Vec<(u64, u64)>,
    /// Hash of a file's content.
    pub content: Option<blake3::Hash>,
    /// The entry of the table that is the first name of the same file, if the file has several names.
    first_link: Option<usize>,
    parent: usize,
    children: Range<usize>,
}

impl Item {
    /// Whether the file has further names in the tree.
    pub fn is_linked(&self) -> bool {
        self.first_link.is_some()
    }

    /// An entry of this kind, of which nothing else is said yet.
    pub fn new(kind: FileType) -> Self {
        Self {
            name: Vec::new(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: (0, 0),
            target: Vec::new(),
            device: (0, 0),
            xattrs: BTreeMap::new(),
            data: Vec::new(),
            content: None,
            first_link: None,
            parent: 0,
            children: 0..0,
        }
    }
}

/// All entries of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    items: Vec<Item>,
}

impl Manifest {
    /// Reads the tree at the folder `path`, all contents included.
    pub fn of(path: &Path) -> Self {
        let mut walk = Walk { items: Vec::new(), links: HashMap::new() };
        let mut at = open_dir(path);
        walk.add(&at, c".", 0);
        walk.list(&at, 0);
        // Per level from the top to `at`: the directory and the next of its entries to look into.
        let mut levels = vec![(0, walk.items[0].children.start)];
        while let Some((dir, next)) = levels.last_mut() {
            let children = walk.items[*dir].children.clone();
            let Some(child) = (*next..children.end).find(|i| walk.items[*i].kind == FileType::Directory)
            else {
                levels.pop();
                if !levels.is_empty() {
                    at = open_at(&at, c"..", OFlags::DIRECTORY);
                }
                continue;
            };
            *next = child + 1;
            let name = c_string(&walk.items[child].name);
            at = open_at(&at, &name, OFlags::DIRECTORY);
            walk.list(&at, child);
            levels.push((child, walk.items[child].children.start));
        }
        walk.items[0].name.clear();
        Self { items: walk.items }
    }

    /// The manifest of a tree that is described and not read: `look` says of a node what it is, and what it has by ascending name. What
    /// is no directory and has several names are links to one another.
    pub fn described<N: Copy + Eq + Hash>(root: N, look: impl Fn(N) -> (Item, Vec<(Vec<u8>, N)>)) -> Self {
        let (item, entries) = look(root);
        let (mut items, mut links) = (vec![item], HashMap::<N, Vec<usize>>::new());
        let mut folders = vec![(0, entries)];
        while let Some((index, entries)) = folders.pop() {
            let (start, mut below) = (items.len(), Vec::new());
            for (name, node) in entries {
                let (item, inner) = look(node);
                if item.kind == FileType::Directory {
                    below.push((items.len(), inner));
                } else {
                    links.entry(node).or_default().push(items.len());
                }
                items.push(Item { name, parent: index, ..item });
            }
            items[index].children = start..items.len();
            folders.extend(below.into_iter().rev());
        }
        for names in links.values().filter(|names| names.len() > 1) {
            for index in names {
                items[*index].first_link = Some(names[0]);
            }
        }
        Self { items }
    }

    /// How many entries there are, the folder itself not counted.
    pub fn len(&self) -> usize {
        self.items.len() - 1
    }

    /// The entry at `path` below the folder; the empty path is the folder itself.
    pub fn get(&self, path: impl AsRef<Path>) -> Option<&Item> {
        let mut item = &self.items[0];
        for name in path.as_ref().components() {
            let children = &self.items[item.children.clone()];
            let at =
                children.binary_search_by(|c| c.name.as_slice().cmp(name.as_os_str().as_bytes())).ok()?;
            item = &children[at];
        }
        Some(item)
    }

    /// All entries with their paths, parents before children. Meant for trees that are not deep.
    pub fn entries(&self) -> impl Iterator<Item = (Vec<u8>, &Item)> {
        (1..self.items.len()).map(|i| (self.path(i), &self.items[i]))
    }

    /// The path of the first name of the same file, if it has several.
    pub fn first_link(&self, item: &Item) -> Option<Vec<u8>> {
        item.first_link.map(|first| self.path(first))
    }

    /// How `other` differs from this, a line per difference; empty if it does not.
    pub fn diff(&self, other: &Self) -> Vec<String> {
        self.diff_except(other, &[])
    }

    /// As [`Manifest::diff`], but for some respects.
    pub fn diff_except(&self, other: &Self, except: &[Aspect]) -> Vec<String> {
        let mut lines = Vec::new();
        if !except.contains(&Aspect::Root) {
            self.compare(other, 0, 0, except, &mut lines);
        }
        let mut pairs = vec![(self.items[0].children.clone(), other.items[0].children.clone())];
        while let Some((mut here, mut there)) = pairs.pop() {
            while !here.is_empty() || !there.is_empty() {
                let order = match (self.items.get(here.start), other.items.get(there.start)) {
                    (Some(a), Some(b)) if !here.is_empty() && !there.is_empty() => a.name.cmp(&b.name),
                    _ => there.is_empty().cmp(&here.is_empty()).reverse(),
                };
                if order.is_lt() {
                    lines.push(format!("{}: is missing", Shown(&self.path(here.start))));
                } else if order.is_gt() {
                    lines.push(format!("{}: is too many", Shown(&other.path(there.start))));
                } else {
                    self.compare(other, here.start, there.start, except, &mut lines);
                    let below = |items: &[Item], i: usize| items[i].children.clone();
                    pairs.push((below(&self.items, here.start), below(&other.items, there.start)));
                }
                here.start += usize::from(order.is_le());
                there.start += usize::from(order.is_ge());
            }
        }
        lines
    }

    fn compare(&self, other: &Self, here: usize, there: usize, except: &[Aspect], lines: &mut Vec<String>) {
        let (a, b) = (&self.items[here], &other.items[there]);
        let mut differ = |what: &str, was: &dyn fmt::Debug, is: &dyn fmt::Debug| {
            lines.push(format!("{}: {what} is {is:?} instead of {was:?}", Shown(&self.path(here))));
        };
        if a.kind != b.kind {
            return differ("kind", &a.kind, &b.kind);
        }
        let checked = |aspect: Aspect| !except.contains(&aspect);
        if a.mode != b.mode && checked(Aspect::Mode) {
            differ("mode", &format_args!("{:04o}", a.mode), &format_args!("{:04o}", b.mode));
        }
        if (a.uid, a.gid) != (b.uid, b.gid) && checked(Aspect::Owner) {
            differ("owner", &(a.uid, a.gid), &(b.uid, b.gid));
        }
        if a.size != b.size {
            differ("size", &a.size, &b.size);
        }
        let mtime_checked = match a.kind {
            FileType::Directory => checked(Aspect::DirMtime),
            FileType::Symlink => checked(Aspect::SymlinkMtime) && checked(Aspect::Mtime),
            _ => checked(Aspect::Mtime),
        };
        if a.mtime != b.mtime && mtime_checked {
            differ("mtime", &a.mtime, &b.mtime);
        }
        if a.target != b.target {
            differ("target", &Shown(&a.target), &Shown(&b.target));
        }
        if a.device != b.device {
            differ("device", &a.device, &b.device);
        }
        if a.content != b.content {
            differ("content", &a.content, &b.content);
        }
        if a.data != b.data && checked(Aspect::Holes) {
            differ("data outside of holes", &a.data, &b.data);
        }
        if a.xattrs != b.xattrs && checked(Aspect::Xattrs) {
            let names = a.xattrs.keys().chain(b.xattrs.keys().filter(|name| !a.xattrs.contains_key(*name)));
            for name in names.filter(|name| a.xattrs.get(*name) != b.xattrs.get(*name)) {
                let value = |item: &Item| item.xattrs.get(name).map(|v| v.escape_ascii().to_string());
                differ(&format!("xattr {}", Shown(name)), &value(a), &value(b));
            }
        }
        let (was, is) = (self.first_link(a), other.first_link(b));
        if was != is && checked(Aspect::Links) {
            differ("first hard link", &was.as_deref().map(Shown), &is.as_deref().map(Shown));
        }
    }

    fn path(&self, mut index: usize) -> Vec<u8> {
        let mut names = Vec::new();
        while index != 0 {
            names.push(self.items[index].name.as_slice());
            index = self.items[index].parent;
        }
        names.reverse();
        names.join(&b'/')
    }
}

/// A path for a line of a report: escaped, and cut in the middle when it is very long.
struct Shown<'a>(&'a [u8]);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("."),
            [start @ .., _] if start.len() > 600 => {
                let end = &self.0[self.0.len() - 200..];
                write!(f, "{}…{}", start[..200].escape_ascii(), end.escape_ascii())
            }
            all => write!(f, "{}", all.escape_ascii()),
        }
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

struct Walk {
    items: Vec<Item>,
    /// (device, inode) of files with several names -> the first of them.
    links: HashMap<(u32, u32, u64), usize>,
}

impl Walk {
    /// Adds the entries of the open directory `dir`, which is the item `index`.
    fn list(&mut self, dir: &OwnedFd, index: usize) {
        let start = self.items.len();
        for name in names(dir).expect("cannot list a directory") {
            self.add(dir, &name, index);
        }
        self.items[index].children = start..self.items.len();
    }

    fn add(&mut self, dir: &OwnedFd, name: &CStr, parent: usize) {
        let context = |what: &'static str| {
            let name = name.to_bytes().escape_ascii().to_string();
            move |error: Errno| -> ! { panic!("cannot {what} {name}: {error}") }
        };
        let stat = rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
            .unwrap_or_else(|e| context("stat")(e));
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        let mut item = Item {
            name: name.to_bytes().to_vec(),
            mode: stat.stx_mode & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: if kind == FileType::Directory { 0 } else { stat.stx_size },
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            device: (stat.stx_rdev_major, stat.stx_rdev_minor),
            xattrs: xattrs(dir, name).unwrap_or_else(|e| context("read the xattrs of")(e)),
            parent,
            ..Item::new(kind)
        };
        if kind == FileType::Symlink {
            let target = rustix::fs::readlinkat(dir, name, Vec::new()).unwrap_or_else(|e| context("read")(e));
            item.target = target.into_bytes();
        }
        if kind == FileType::RegularFile {
            let file = File::from(open_at(dir, name, OFlags::empty()));
            item.data = data_extents(&file, stat.stx_size);
            item.content = Some(hash(&file, &item.data, stat.stx_size));
        }
        if kind != FileType::Directory && stat.stx_nlink > 1 {
            let inode = (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
            item.first_link = Some(*self.links.entry(inode).or_insert(self.items.len()));
        }
        self.items.push(item);
    }
}

fn c_string(bytes: &[u8]) -> std::ffi::CString {
    std::ffi::CString::new(bytes).expect("names hold no NUL")
}

fn open_at(dir: &OwnedFd, name: &CStr, flags: OFlags) -> OwnedFd {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
        .unwrap_or_else(|error| panic!("cannot open {}: {error}", name.to_bytes().escape_ascii()))
}

/// The path of `name` in `dir` for calls that take no descriptor, as those for xattrs of symlinks.
pub fn proc_path(dir: &OwnedFd, name: &CStr) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    path
}

fn xattrs(dir: &OwnedFd, name: &CStr) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Errno> {
    let path = proc_path(dir, name);
    let mut buffer = vec![0; 65536];
    let len = match rustix::fs::llistxattr(path.as_slice(), buffer.as_mut_slice()) {
        Ok(len) => len,
        Err(Errno::NOTSUP) => 0,
        Err(error) => return Err(error),
    };
    let list = buffer[..len].to_vec();
    let mut xattrs = BTreeMap::new();
    for name in list.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let len = rustix::fs::lgetxattr(path.as_slice(), name, buffer.as_mut_slice())?;
        xattrs.insert(name.to_vec(), buffer[..len].to_vec());
    }
    Ok(xattrs)
}

/// Start and end of the runs of data, rounded outwards to [`EXTENT`] and joined where they touch.
fn data_extents(file: &File, size: u64) -> Vec<(u64, u64)> {
    let mut extents: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => panic!("cannot look for data: {error}"),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start)).expect("cannot look for holes");
        at = end;
        let (start, end) = (start / EXTENT * EXTENT, end.next_multiple_of(EXTENT).min(size));
        match extents.last_mut() {
            Some(last) if last.1 >= start => last.1 = end,
            _ => extents.push((start, end)),
        }
    }
    extents
}

/// The hash of a content that is at hand.
pub fn hash_of(bytes: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let blocks = bytes.chunks(usize::try_from(BLOCK).unwrap());
    for (block, at) in blocks.zip((0..).step_by(usize::try_from(BLOCK).unwrap())) {
        add_block(&mut hasher, at, block);
    }
    hasher.finalize()
}

/// Zeros count as much as a hole: nothing.
fn add_block(hasher: &mut blake3::Hasher, at: u64, block: &[u8]) {
    if block.iter().any(|b| *b != 0) {
        hasher.update(&at.to_le_bytes());
        hasher.update(block);
    }
}

fn hash(file: &File, data: &[(u64, u64)], size: u64) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; usize::try_from(BLOCK).unwrap()];
    let mut next = 0;
    for (start, end) in data {
        next = next.max(start / BLOCK * BLOCK);
        while next < *end {
            let block = &mut buffer[..usize::try_from(BLOCK.min(size - next)).unwrap()];
            file.read_exact_at(block, next).expect("cannot read a file");
            add_block(&mut hasher, next, block);
            next += BLOCK;
        }
    }
    hasher.finalize()
}
