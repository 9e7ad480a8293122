//! File systems of a source: what tells one from another between runs, and how far its times can be trusted.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::fs::MetadataExt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::stat::{self, Device, Stat};

/// A file system that a source lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// The same in each run as far as the system lets one tell: its UUID, else what `statfs` says of it, else its device number.
    pub id: [u8; 16],
    /// The topmost directory of it above what was met first of it.
    ///
    /// Not where the mount table says: a subvolume of btrfs is a file system of its own, with inode numbers of its own, and
    /// that table does not have it.
    pub mount: PathBuf,
    /// The number of its mount, where the system tells: an overlay shows files of its layers as if they were on other file systems.
    pub mount_id: Option<u64>,
    /// Whether each change of a file moves its ctime, and nothing else sets it.
    pub ctime_is_meaningful: bool,
    /// Whether a write through a memory map moves times, if only when it is written back. In memory nothing is.
    pub maps_move_times: bool,
    /// As in the mount table: `ext4`, `fuse.sshfs`.
    pub type_name: String,
    /// Whether what was written to it before the walk came to it is on the medium now, and so has moved times.
    pub is_synced: bool,
}

/// File systems of local disks and memory that keep a ctime of their own.
const WITH_CTIME: [&str; 21] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "bcachefs", "zfs", "f2fs", "jfs", "reiserfs", "nilfs2", "tmpfs",
    "ramfs", "devtmpfs", "overlay", "ubifs", "squashfs", "erofs", "iso9660", "udf", "rootfs",
];

/// File systems that live in memory, where a page that was once mapped for writing is written unseen from then on.
const IN_MEMORY: [&str; 4] = ["tmpfs", "ramfs", "devtmpfs", "rootfs"];
/// The same by what `statfs` says of them: tmpfs and ramfs.
const IN_MEMORY_MAGIC: [u32; 2] = [0x0102_1994, 0x8584_58f6];

impl FileSystem {
    /// Asks about the file system of what is open at `fd`, which has the path `path`.
    pub(super) fn of(fd: &OwnedFd, stat: &Stat, path: &Path, is_synced: bool) -> Self {
        let statfs = rustix::fs::fstatfs(fd).ok();
        // The system's word for it is a signed long on some machines.
        let magic = statfs.as_ref().map_or(0, |found| found.f_type.cast_unsigned() & 0xffff_ffff);
        let fsid = rustix::fs::fstatvfs(fd).map_or(0, |found| found.f_fsid);
        let mounted =
            stat.mount.and_then(|mount| mounted_in(&std::fs::read("/proc/self/mountinfo").ok()?, mount));
        let Mounted { type_name, upper } =
            mounted.unwrap_or_else(|| Mounted { type_name: format!("{magic:#x}"), upper: None });
        Self {
            id: uuid_of(stat.dev, Path::new("/dev/disk/by-uuid"))
                .unwrap_or_else(|| id_from_numbers(magic, fsid, stat.dev)),
            mount: topmost(path, stat.dev),
            mount_id: stat.mount,
            ctime_is_meaningful: WITH_CTIME.contains(&type_name.as_str()),
            maps_move_times: !IN_MEMORY.contains(&type_name.as_str()) && !upper.is_some_and(is_in_memory),
            type_name,
            is_synced,
        }
    }
}

/// What the mount table says of a mount.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    type_name: String,
    /// Where an overlay keeps what is written.
    upper: Option<PathBuf>,
}

/// A mount in the text of a mount table: `id parent device root point options … - type source options`.
fn mounted_in(table: &[u8], mount: u64) -> Option<Mounted> {
    let mount = mount.to_string();
    table.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        if fields.next()? != mount.as_bytes() {
            return None;
        }
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let type_name = String::from_utf8_lossy(fields.next()?).into_owned();
        let options = fields.nth(1).unwrap_or_default();
        let upper = options.split(|byte| *byte == b',').find_map(|option| option.strip_prefix(b"upperdir="));
        let upper = upper.map(|path| PathBuf::from(OsString::from_vec(unescaped(path))));
        Some(Mounted { type_name, upper })
    })
}

/// A path as it was before the mount table wrote some of its bytes as a backslash and three octal digits.
fn unescaped(mut text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    while let [first, rest @ ..] = text {
        let (byte, rest) = match (first, rest) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', rest @ ..]) => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), rest)
            }
            _ => (*first, rest),
        };
        bytes.push(byte);
        text = rest;
    }
    bytes
}

/// Whether a folder is on a file system in memory. One that cannot be seen from here, as that of a container, counts as on a disk.
fn is_in_memory(folder: PathBuf) -> bool {
    // The system's word for it is a signed long on some machines.
    let magic = rustix::fs::statfs(folder).map(|found| found.f_type.cast_unsigned() & 0xffff_ffff);
    magic.is_ok_and(|magic| u32::try_from(magic).is_ok_and(|magic| IN_MEMORY_MAGIC.contains(&magic)))
}

/// Whether a device is known to be a disk that turns.
pub(super) fn is_rotational(dev: Device) -> bool {
    let link = format!("/sys/dev/block/{}:{}", dev.major, dev.minor);
    let Ok(device) = std::fs::canonicalize(link) else { return false };
    // The disk of a virtual machine says that it turns, whatever the host keeps it on.
    if device.components().any(|part| part.as_os_str().as_bytes().starts_with(b"virtio")) {
        return false;
    }
    // A partition has it in the folder of its disk.
    ["queue/rotational", "../queue/rotational"]
        .iter()
        .find_map(|name| std::fs::read(device.join(name)).ok())
        .is_some_and(|text| text.first() == Some(&b'1'))
}

/// The UUID of the file system on a device, by the links that udev keeps.
fn uuid_of(dev: Device, links: &Path) -> Option<[u8; 16]> {
    if dev.major == 0 {
        return None;
    }
    for link in std::fs::read_dir(links).ok()?.flatten() {
        let is_it = std::fs::metadata(link.path())
            .is_ok_and(|found| found.st_rdev() == rustix::fs::makedev(dev.major, dev.minor));
        if is_it {
            return Some(id_from_uuid(link.file_name().as_encoded_bytes()));
        }
    }
    None
}

/// A UUID proper as its 16 bytes; the shorter ones of FAT and NTFS as their text.
fn id_from_uuid(text: &[u8]) -> [u8; 16] {
    let mut id = [0; 16];
    let digits: Vec<u8> = text
        .iter()
        .filter(|byte| **byte != b'-')
        .filter_map(|byte| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    if digits.len() == 32 {
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair.iter().fold(0, |byte, digit| byte << 4 | digit);
        }
    } else {
        for (byte, letter) in id.iter_mut().zip(text) {
            *byte = *letter;
        }
    }
    id
}

pub(super) fn id_from_numbers(magic: impl Into<u64>, fsid: u64, dev: Device) -> [u8; 16] {
    let number = if fsid == 0 { u64::from(dev.major) << 32 | u64::from(dev.minor) } else { fsid };
    let tag = if fsid == 0 { 1u64 << 63 } else { 1 << 62 } | magic.into();
    let mut id = [0; 16];
    for (byte, value) in id.iter_mut().zip(tag.to_le_bytes().into_iter().chain(number.to_le_bytes())) {
        *byte = value;
    }
    id
}

/// The topmost of the directories above `path` that are on the same device without a break.
fn topmost(path: &Path, dev: Device) -> PathBuf {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let is_on_it = |path: &Path| {
        std::fs::symlink_metadata(path)
            .is_ok_and(|found| found.st_dev() == rustix::fs::makedev(dev.major, dev.minor))
    };
    path.ancestors().take_while(|above| is_on_it(above)).last().unwrap_or(&path).to_owned()
}

/// Writes out what programs have written to the file system of a source, so that a later write through an old memory
/// map moves its times. The walk does the same for each further file system it comes to.
///
/// # Errors
/// Any error of the system.
pub fn sync_source(path: &Path) -> io::Result<()> {
    let stat = stat::of_name(rustix::fs::CWD, path.as_os_str().as_encoded_bytes(), AtFlags::empty())?;
    // A FIFO or device is not opened; the directory it is in is on the same file system.
    let folder = if stat.is_dir() { path } else { path.parent().unwrap_or(path) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::io::retry_on_intr(|| rustix::fs::openat(rustix::fs::CWD, folder, flags, Mode::empty()))?;
    Ok(rustix::io::retry_on_intr(|| rustix::fs::syncfs(&fd))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_a_mount_comes_from_its_line() {
        let table = b"22 1 0:21 / /proc rw shared:5 - proc proc rw\n36 35 98:0 /m1 /mnt2 rw master:1 x:2 - fuse.sshfs a:/ rw\n";
        let named = |mount| mounted_in(table, mount).map(|found| found.type_name);
        assert_eq!(named(36).as_deref(), Some("fuse.sshfs"));
        assert_eq!(named(22).as_deref(), Some("proc"));
        assert_eq!(named(2), None);
    }

    #[test]
    fn the_upper_layer_of_an_overlay_comes_from_its_options() {
        let table = br"36 35 0:50 / /m rw - overlay none rw,lowerdir=/a,upperdir=/b\040c\054\134d,workdir=/e";
        let upper = mounted_in(table, 36).and_then(|found| found.upper);
        assert_eq!(upper.as_deref(), Some(Path::new("/b c,\\d")));
        assert_eq!(unescaped(br"\9\12\"), br"\9\12\");
    }

    #[test]
    fn uuids_and_numbers_give_different_ids() {
        let uuid = id_from_uuid(b"00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(uuid[..4], [0x00, 0x11, 0x22, 0x33]);
        assert_eq!(uuid[15], 0xff);
        assert_eq!(&id_from_uuid(b"1234-ABCD")[..10], b"1234-ABCD\0");
        let dev = Device { major: 8, minor: 1 };
        assert_ne!(id_from_numbers(7u32, 0, dev), id_from_numbers(7u32, 8 << 32 | 1, dev));
        assert_ne!(id_from_numbers(7u32, 5, dev), id_from_numbers(8u32, 5, dev));
    }
}
