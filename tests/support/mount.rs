//! File systems of their own, on a file through a loop device or in memory: to be filled up, shut down in the middle,
//! pulled out. Unmounted and detached on drop, also after a panic.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::scratch::Scratch;

/// Which file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4 with a journal.
    Ext4,
    /// ext3 with small inodes, whose times are whole seconds.
    Ext3,
    /// XFS; 300 MB at least.
    Xfs,
    /// btrfs; 110 MB at least.
    Btrfs,
    /// exFAT over FUSE, as external drives have it: no links, modes, owners, xattrs or holes.
    Exfat,
    /// FAT32 over FUSE, as older and small drives have it: like exFAT, and times to two seconds.
    Fat32,
    /// The same by the kernel, where that has it.
    Vfat,
    /// In memory.
    Tmpfs,
    /// A folder over another one, both on an ext4: what is written lies in the upper one.
    Overlay,
}

/// The folders of an overlay.
const LAYERS: [&str; 3] = ["lower", "upper", "work"];

/// Whether the kernel knows FAT, or has it by now.
pub fn kernel_has_vfat() -> bool {
    // A module is loaded by the first mount, and not before.
    let _ = Command::new("modprobe").arg("vfat").output();
    std::fs::read_to_string("/proc/filesystems").is_ok_and(|known| known.contains("\tvfat\n"))
}

/// A mounted file system, empty at first.
#[derive(Debug)]
pub struct Mount {
    kind: FileSystem,
    size_mb: u64,
    /// The loop device, if it has one.
    device: Option<String>,
    mounted: bool,
    read_only: bool,
    /// What the folders of an overlay lie on.
    layers: Option<Box<Self>>,
    scratch: Scratch,
}

impl Mount {
    /// Makes and mounts a file system of so many megabytes.
    ///
    /// # Panics
    /// When a tool is not installed or anything fails: `.ci/run` installs them, and a test must not pass without.
    pub fn new(kind: FileSystem, size_mb: u64) -> Self {
        let scratch = Scratch::new();
        scratch.dir("mnt");
        let (mut device, mut layers) = (None, None);
        if kind == FileSystem::Overlay {
            let below = Self::new(FileSystem::Ext4, size_mb);
            for name in LAYERS {
                std::fs::create_dir(below.join(name)).expect("cannot make a layer");
            }
            layers = Some(Box::new(below));
        } else if kind != FileSystem::Tmpfs {
            let image = scratch.join("image");
            let file = std::fs::File::create(&image).expect("cannot create an image");
            file.set_len(size_mb << 20).expect("cannot size an image");
            make(kind, &image);
            device = Some(attach(&image));
        }
        let mut mount = Self { kind, size_mb, device, mounted: false, read_only: false, layers, scratch };
        mount.mount();
        mount
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.scratch.join("mnt")
    }

    /// A path on it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// The device it is on, unless it is in memory.
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// How many bytes are free.
    pub fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).expect("cannot ask for free space");
        stat.f_bavail * stat.f_frsize
    }

    /// Makes what an overlay has in its upper folder that of the lower one.
    pub fn lower_all(&mut self) {
        self.unmount();
        let below = self.layers.as_ref().expect("no overlay");
        std::fs::remove_dir_all(below.join("lower")).expect("cannot remove a layer");
        std::fs::rename(below.join("upper"), below.join("lower")).expect("cannot move a layer");
        std::fs::create_dir(below.join("upper")).expect("cannot make a layer");
        self.mount();
    }

    /// Pulls it out of whatever uses it: from now on every access fails, until [`Mount::remount`]. Whether that can be done.
    pub fn pull_out(&mut self) -> bool {
        match self.kind {
            FileSystem::Ext4 | FileSystem::Ext3 | FileSystem::Xfs => self.shutdown(false),
            FileSystem::Overlay => self.layers.as_ref().expect("no layers").shutdown(false),
            // Ends the connection to the driver, also where that does not unmount it.
            FileSystem::Exfat | FileSystem::Fat32 => {
                let forced = try_run(Command::new("umount").arg("--force").arg(self.path()));
                self.mounted = forced.is_err();
            }
            FileSystem::Btrfs | FileSystem::Vfat | FileSystem::Tmpfs => return false,
        }
        true
    }

    /// Shuts it down (ext4 and XFS): from now on every access fails with EIO, as after a drive is pulled. With
    /// `flush_log`, what the journal holds is written before. [`Mount::remount`] is the reboot after it.
    pub fn shutdown(&self, flush_log: bool) {
        assert!(matches!(self.kind, FileSystem::Ext4 | FileSystem::Xfs), "{:?} has no shutdown", self.kind);
        let action = if flush_log { "shutdown -f" } else { "shutdown" };
        // -F: ext4 is foreign to xfs_io and understands the call all the same.
        run(Command::new("xfs_io").args(["-F", "-x", "-c", action]).arg(self.path()));
    }

    /// Unmounts it, as an unplugged drive: the mount point is an empty folder then.
    pub fn unmount(&mut self) {
        if self.mounted {
            unmount(&self.path());
            self.mounted = false;
        }
        // Over FUSE it is the driver that writes the last bytes, and it may not be done with that.
        if let (FileSystem::Exfat | FileSystem::Fat32, Some(device)) = (self.kind, &self.device) {
            let start = Instant::now();
            while is_used(device) {
                assert!(start.elapsed() < Duration::from_secs(60), "{device} is still in use");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Unmounts it if it is mounted, and mounts it again: nothing is left in the page cache. Not for tmpfs, which
    /// would be empty.
    pub fn remount(&mut self) {
        assert!(self.kind != FileSystem::Tmpfs, "a tmpfs forgets everything");
        self.unmount();
        if let Some(layers) = &mut self.layers {
            layers.remount();
        }
        self.mount();
    }

    /// Makes it read-only or writable again.
    pub fn set_read_only(&mut self, read_only: bool) {
        self.read_only = read_only;
        if matches!(self.kind, FileSystem::Exfat | FileSystem::Fat32) {
            self.unmount();
            return self.mount();
        }
        let options = if read_only { "remount,ro" } else { "remount,rw" };
        patiently(Command::new("mount").args(["-o", options]).arg(self.path()))
            .unwrap_or_else(|error| panic!("{error}"));
    }

    fn mount(&mut self) {
        let at = self.path();
        let device = self.device.as_deref().unwrap_or("vault-test");
        let access = if self.read_only { "ro" } else { "rw" };
        match self.kind {
            FileSystem::Exfat => run(Command::new("mount.exfat-fuse").args(["-o", access, device]).arg(at)),
            FileSystem::Fat32 => {
                let access = if self.read_only { "ro" } else { "rw+" };
                run(Command::new("fusefat").args(["-o", access, device]).arg(at))
            }
            FileSystem::Vfat => {
                let options = format!("{access},utf8=1,tz=UTC");
                run(Command::new("mount").args(["-t", "vfat", "-o", &options, device]).arg(at))
            }
            FileSystem::Overlay => {
                let below = self.layers.as_ref().expect("no layers");
                let [lower, upper, work] = LAYERS.map(|name| below.join(name).display().to_string());
                let options = format!("{access},lowerdir={lower},upperdir={upper},workdir={work}");
                run(Command::new("mount").args(["-t", "overlay", "-o", &options, device]).arg(at))
            }
            FileSystem::Tmpfs => {
                let size = format!("size={}m", self.size_mb);
                run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, device]).arg(at))
            }
            FileSystem::Ext4 | FileSystem::Ext3 | FileSystem::Xfs | FileSystem::Btrfs => {
                run(Command::new("mount").args(["-o", access, device]).arg(at))
            }
        };
        self.mounted = true;
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let mut failures = Vec::new();
        if self.mounted {
            let path = self.path();
            // Lazily if something still has a file open, for the machine is not to fill up with mounts.
            let unmounted = patiently(Command::new("umount").arg(&path));
            failures.extend(unmounted.err().map(|error| {
                let lazy = try_run(Command::new("umount").arg("--lazy").arg(&path));
                format!("{error}; lazily: {lazy:?}")
            }));
        }
        if let Some(device) = &self.device {
            failures.extend(try_run(Command::new("losetup").args(["--detach", device])).err());
        }
        if !failures.is_empty() {
            // A panic while panicking would abort the run and hide the first one.
            assert!(std::thread::panicking(), "{failures:?}");
            eprintln!("{failures:?}");
        }
    }
}

/// Makes a file system in a file.
pub fn make(kind: FileSystem, image: &Path) {
    let (program, options): (&str, &[&str]) = match kind {
        FileSystem::Ext4 => ("mkfs.ext4", &["-q", "-F", "-E", "nodiscard"]),
        FileSystem::Ext3 => ("mkfs.ext4", &["-q", "-F", "-t", "ext3", "-I", "128", "-E", "nodiscard"]),
        FileSystem::Xfs => ("mkfs.xfs", &["-q", "-f", "-K"]),
        FileSystem::Btrfs => ("mkfs.btrfs", &["-q", "-f", "-K"]),
        FileSystem::Exfat => ("mkfs.exfat", &[]),
        FileSystem::Fat32 | FileSystem::Vfat => ("mkfs.vfat", &["-F", "32"]),
        FileSystem::Tmpfs | FileSystem::Overlay => panic!("{kind:?} is in no file"),
    };
    run(Command::new(program).args(options).arg(image));
}

/// Makes a loop device of a file, and returns its name.
pub fn attach(image: &Path) -> String {
    run(Command::new("losetup").args(["--find", "--show"]).arg(image)).trim().to_owned()
}

/// Whether a driver over FUSE was started for a device and has not ended.
fn is_used(device: &str) -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.map(|process| std::fs::read(process.path().join("cmdline")).unwrap_or_default()).any(|words| {
        let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
        let is_driver = words[0].ends_with(b"fusefat") || words[0].ends_with(b"mount.exfat-fuse");
        is_driver && words.contains(&device.as_bytes())
    })
}

/// Unmounts what is mounted at a path.
pub fn unmount(path: &Path) {
    patiently(Command::new("umount").arg(path)).unwrap_or_else(|error| panic!("{error}"));
}

/// Runs a program again while it says that a mount is busy. Between the fork and the exec of a program that another test
/// starts, its process holds every file that this one has open.
fn patiently(command: &mut Command) -> Result<String, String> {
    for _ in 0..100 {
        match try_run(command) {
            Err(error) if error.contains("busy") => std::thread::sleep(Duration::from_millis(100)),
            other => return other,
        }
    }
    try_run(command)
}

/// Runs a program of the system and returns its stdout.
///
/// # Panics
/// When it is not installed or fails.
pub fn run(command: &mut Command) -> String {
    try_run(command).unwrap_or_else(|error| panic!("{error}"))
}

fn try_run(command: &mut Command) -> Result<String, String> {
    let program = OsStr::to_string_lossy(command.get_program()).into_owned();
    let output = command.output().map_err(|error| format!("{program} is not installed? {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(format!("{command:?}: {}\n{stdout}{stderr}", output.status))
}
