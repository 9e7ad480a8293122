//! A disk that remembers what was written to it, and when it was told to make that durable: a file over FUSE with a loop device on it. What was
//! on it at any moment, or may have been after its power was cut then, can be made again.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite, Request, WriteFlags,
};

use super::mount::{self, FileSystem};
use super::scratch::Scratch;
use super::torture::Random;

/// The sector of a disk: it is written as a whole or not at all.
const SECTOR: usize = 512;
const NAME: &str = "disk";

/// What happened to the disk.
#[derive(Debug, Clone)]
pub enum Event {
    /// Bytes were written at an offset; until the next flush they may be lost.
    Write(u64, Arc<Vec<u8>>),
    /// All that was written before is durable.
    Flush,
}

/// The file below the disk, and what happened to it since it was recorded.
struct Recorded {
    image: File,
    len: u64,
    events: Mutex<Vec<Event>>,
}

impl Recorded {
    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap()
    }

    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let is_folder = inode == INodeNo::ROOT;
        (is_folder || inode == INodeNo(2)).then_some(FileAttr {
            ino: inode,
            size: if is_folder { 0 } else { self.len },
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_folder { FileType::Directory } else { FileType::RegularFile },
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

/// Attributes never change.
const VALID: Duration = Duration::from_secs(3600);

/// The one file over FUSE.
struct Served(Arc<Recorded>);

impl Filesystem for Served {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.0.attributes(INodeNo(2)).filter(|_| name == NAME) {
            Some(attributes) => reply.entry(&VALID, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.attributes(inode) {
            Some(attributes) => reply.attr(&VALID, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let end = (offset + u64::from(size)).min(self.0.len);
        let mut bytes = vec![0; usize::try_from(end.saturating_sub(offset)).unwrap()];
        match self.0.image.read_exact_at(&mut bytes, offset) {
            Ok(()) => reply.data(&bytes),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut events = self.0.events();
        match self.0.image.write_all_at(data, offset) {
            Ok(()) => {
                events.push(Event::Write(offset, Arc::new(data.to_vec())));
                reply.written(u32::try_from(data.len()).unwrap());
            }
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.0.events().push(Event::Flush);
        reply.ok();
    }
}

/// A file system on such a disk, mounted at a place. Unmounted on drop.
pub struct Disk {
    kind: FileSystem,
    at: PathBuf,
    recorded: Arc<Recorded>,
    session: Option<BackgroundSession>,
    device: Option<String>,
    is_mounted: bool,
    scratch: Scratch,
}

impl Disk {
    /// Makes the file system and mounts it in an empty folder.
    pub fn new(kind: FileSystem, size_mb: u64, at: &Path) -> Self {
        let scratch = Scratch::new();
        let (image, served) = (scratch.join("image"), scratch.dir("served"));
        File::create(&image).unwrap().set_len(size_mb << 20).unwrap();
        mount::make(kind, &image);
        let file = File::options().read(true).write(true).open(&image).unwrap();
        let recorded = Arc::new(Recorded { image: file, len: size_mb << 20, events: Mutex::default() });
        let session = fuser::spawn_mount(Served(recorded.clone()), &served, &Config::default()).unwrap();
        let mut disk = Self {
            kind,
            at: at.to_owned(),
            recorded,
            session: Some(session),
            device: None,
            is_mounted: false,
            scratch,
        };
        disk.device = Some(mount::attach(&served.join(NAME)));
        mount::run(Command::new("mount").arg(disk.device.as_ref().unwrap()).arg(at));
        disk.is_mounted = true;
        disk
    }

    /// Begins to record: all that was written until now is on the disk.
    pub fn record(&self) {
        mount::run(Command::new("sync").arg("-f").arg(&self.at));
        let mut events = self.recorded.events();
        copy(&self.scratch.join("image"), &self.scratch.join("base"));
        events.clear();
    }

    /// How much has happened so far.
    pub fn moment(&self) -> usize {
        self.recorded.events().len()
    }

    /// Has what was written and not synced written now, as the system does some time later.
    pub fn settle(&self) {
        mount::run(Command::new("sync").arg("-f").arg(&self.at));
    }

    /// Ends the recording, and unmounts the disk.
    pub fn end(mut self) -> Recording {
        let events = self.recorded.events().clone();
        self.take_away();
        let base = Scratch::new();
        fs::rename(self.scratch.join("base"), base.join("base")).unwrap();
        Recording { kind: self.kind, at: self.at.clone(), base, events }
    }

    fn take_away(&mut self) {
        if std::mem::take(&mut self.is_mounted) {
            mount::unmount(&self.at);
        }
        if let Some(device) = self.device.take() {
            mount::run(Command::new("losetup").args(["--detach", &device]));
        }
        if let Some(session) = self.session.take() {
            session.umount_and_join().unwrap();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.take_away();
    }
}

/// What happened to a disk.
pub struct Recording {
    kind: FileSystem,
    at: PathBuf,
    base: Scratch,
    pub events: Vec<Event>,
}

impl Recording {
    /// The moments right after a flush.
    pub fn flushes(&self) -> Vec<usize> {
        let is_flush = |(at, event): (usize, &Event)| matches!(event, Event::Flush).then_some(at + 1);
        self.events.iter().enumerate().filter_map(is_flush).collect()
    }

    /// The disk as it may be after its power was cut at that moment: with all that was flushed, and of what was written later any part, of
    /// which the last write may be torn; mounted where it was.
    pub fn cut_at(&self, moment: usize, random: &mut Random) -> Cut {
        let scratch = Scratch::new();
        let path = scratch.join("image");
        copy(&self.base.join("base"), &path);
        let image = File::options().write(true).open(&path).unwrap();
        let events = &self.events[..moment];
        let flushed = events.iter().rposition(|event| matches!(event, Event::Flush)).unwrap_or(0);
        // Most of it, a little of it, or half.
        let share = [1, 3, 5][random.below(3)];
        for (at, event) in events.iter().enumerate() {
            let Event::Write(offset, bytes) = event else { continue };
            if at < flushed {
                image.write_all_at(bytes, *offset).unwrap();
            } else if random.below(6) < share {
                let is_torn = at + 1 == moment;
                let sectors =
                    if is_torn { random.below(bytes.len() / SECTOR + 1) } else { bytes.len() / SECTOR };
                image.write_all_at(&bytes[..sectors * SECTOR], *offset).unwrap();
            }
        }
        let device = mount::attach(&path);
        let mount = Command::new("mount").arg(&device).arg(&self.at).output().unwrap();
        Cut {
            at: self.at.clone(),
            device,
            mounted: mount.status.success(),
            kind: self.kind,
            _scratch: scratch,
        }
    }
}

/// A disk after its power was cut.
pub struct Cut {
    at: PathBuf,
    device: String,
    /// Whether the file system could be mounted again.
    pub mounted: bool,
    pub kind: FileSystem,
    _scratch: Scratch,
}

impl Drop for Cut {
    fn drop(&mut self) {
        if self.mounted {
            mount::unmount(&self.at);
        }
        mount::run(Command::new("losetup").args(["--detach", &self.device]));
    }
}

fn copy(from: &Path, to: &Path) {
    mount::run(Command::new("cp").arg("--sparse=always").arg(from).arg(to));
}
