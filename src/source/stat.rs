//! What the system says about an entry: [`Stat`], from `statx`. Nothing else here knows that call.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp};

use crate::snapshot::Time;

/// The largest block that file systems usually have.
const BLOCK_LEN: u64 = 4096;

/// A device by its numbers. That of a file system may differ from mount to mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Device {
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symlink.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharDevice,
    /// Something that this version does not know.
    Unknown,
}

/// The metadata of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// The length of a regular file or of a symlink's target, in bytes.
    pub size: u64,
    /// How many bytes are allocated for it.
    pub allocated_bytes: u64,
    /// The lower 12 bits: permissions, setuid, setgid, sticky.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// How many names it has.
    pub nlink: u32,
    /// Its number on its file system.
    pub inode: u64,
    /// The device of its file system.
    pub dev: Device,
    /// The device that it is, if it is one.
    pub rdev: Device,
    /// When its content was last modified.
    pub mtime: Time,
    /// When content or metadata last changed.
    pub ctime: Time,
    /// When it was made, where the file system knows.
    pub btime: Option<Time>,
    pub(super) mount: Option<u64>,
}

impl Stat {
    /// What it is by: device and inode.
    pub(super) fn id(&self) -> (Device, u64) {
        (self.dev, self.inode)
    }

    /// Whether size, mtime and ctime are the same, so that no write came between as far as the system lets one tell.
    #[must_use]
    pub fn has_stamps_of(&self, other: &Self) -> bool {
        (self.size, self.mtime, self.ctime) == (other.size, other.mtime, other.ctime)
    }

    /// Whether just the blocks are allocated for it that its bytes need: thus it has no holes, but where blocks for attributes make up for
    /// them.
    #[must_use]
    pub fn has_just_its_blocks(&self) -> bool {
        (self.size..self.size.saturating_add(BLOCK_LEN)).contains(&self.allocated_bytes)
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }
}

/// The clocks of file systems go on in steps of at most 10 ms, and lag behind by as much.
pub(super) const CLOCK_STEP: i128 = 20_000_000;

/// Whether a ctime is so late that a change now may not move it.
pub(super) fn is_of_now(ctime: Time) -> bool {
    Time::now().nanos_since(ctime) <= CLOCK_STEP
}

/// The metadata of what is open.
pub(super) fn of_descriptor(fd: &OwnedFd) -> io::Result<Stat> {
    of_name(fd, b"", AtFlags::EMPTY_PATH)
}

/// The metadata of a name in a directory.
pub(super) fn of_name(directory: impl AsFd, name: &[u8], flags: AtFlags) -> io::Result<Stat> {
    // Asking about a place where something could be mounted must not mount it.
    let flags = flags | AtFlags::NO_AUTOMOUNT;
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
    let found = rustix::io::retry_on_intr(|| rustix::fs::statx(&directory, name, flags, wanted))?;
    Ok(from_statx(&found))
}

fn from_statx(found: &Statx) -> Stat {
    let mode = u32::from(found.stx_mode);
    let has = |flag: StatxFlags| found.stx_mask & flag.bits() != 0;
    Stat {
        kind: match FileType::from_raw_mode(mode) {
            FileType::RegularFile => FileKind::Regular,
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Symlink,
            FileType::Fifo => FileKind::Fifo,
            FileType::Socket => FileKind::Socket,
            FileType::BlockDevice => FileKind::BlockDevice,
            FileType::CharacterDevice => FileKind::CharDevice,
            FileType::Unknown => FileKind::Unknown,
        },
        size: found.stx_size,
        allocated_bytes: found.stx_blocks.saturating_mul(512),
        mode: mode & 0o7777,
        uid: found.stx_uid,
        gid: found.stx_gid,
        nlink: found.stx_nlink,
        inode: found.stx_ino,
        dev: Device { major: found.stx_dev_major, minor: found.stx_dev_minor },
        rdev: Device { major: found.stx_rdev_major, minor: found.stx_rdev_minor },
        mtime: time(found.stx_mtime),
        ctime: time(found.stx_ctime),
        btime: has(StatxFlags::BTIME).then(|| time(found.stx_btime)),
        mount: has(StatxFlags::MNT_ID).then_some(found.stx_mnt_id),
    }
}

/// A damaged file system may say a billion nanoseconds and more, which the format refuses: they count as none.
fn time(found: StatxTimestamp) -> Time {
    let nanos = if found.tv_nsec < 1_000_000_000 { found.tv_nsec } else { 0 };
    Time { secs: found.tv_sec, nanos }
}
