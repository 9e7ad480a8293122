//! What goes on in a source: threads that write, and do anything else to what is theirs, until they are told to end.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::{CWD, FallocateFlags, FileType, Mode, XattrFlags};

use super::pattern::{self, VERSIONS};
use super::scene::{FOLDERS, How, Scene, Written};
use crate::support::torture::Random;
use crate::whole::world::LONG_AGO;

/// So many versions are written to a file before the writer turns to another one.
const BURST: usize = 40;
/// So many files of each writer are written to most of the time.
const HOT: usize = 3;
/// The load moves through this many names in a folder.
const NAMES: usize = 16;

/// Threads at work on a source.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(scene: &Scene, seed: u64) -> Self {
        let mut load = Self { stop: Arc::default(), done: Arc::default(), threads: Vec::new() };
        let root = &scene.root;
        for half in 0..2 {
            let written: Vec<Written> =
                scene.written.iter().filter(|written| written.how != How::Mapped).cloned().collect();
            let written: Vec<Written> = written.into_iter().skip(half).step_by(2).collect();
            let mut versions = u32::try_from(seed).unwrap() * 100_000;
            let mut chance = Random(seed * 10 + half as u64);
            let hot: [usize; HOT] = std::array::from_fn(|_| chance.below(written.len()));
            load.spawn(root, chance.next(), move |root, random| {
                // Some are written to all the time, and all now and then.
                let any = random.below(written.len());
                let written = &written[if random.below(4) == 0 { any } else { hot[random.below(HOT)] }];
                let blocks = match written.how {
                    How::Replaced | How::Truncated => 1 + random.below(2 * written.how.blocks()),
                    how => how.blocks(),
                };
                versions += 2;
                let both =
                    [versions, versions + 1].map(|version| pattern::content(written.file, version, blocks));
                // In turn, quickly: two contents do.
                for _ in 0..random.below(BURST / 2) {
                    written.write(root, &both).unwrap();
                }
            });
        }
        for number in 0..2 {
            load.spawn(root, seed * 10 + 5 + number, stress);
        }
        load.spawn(root, seed * 10 + 8, crowd);
        load
    }

    fn spawn(&mut self, root: &Path, seed: u64, mut act: impl FnMut(&Path, &mut Random) + Send + 'static) {
        let (stop, done, root) = (self.stop.clone(), self.done.clone(), root.to_owned());
        self.threads.push(thread::spawn(move || {
            let mut random = Random(seed);
            while !stop.load(Ordering::Relaxed) {
                act(&root, &mut random);
                done.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_micros(random.next() % 300));
            }
        }));
    }

    /// Ends it, and returns how much it did.
    pub fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.done.load(Ordering::Relaxed)
    }
}

/// A place of the load: in a folder that stays, or in one of its own that is in such a one.
fn place(root: &Path, random: &mut Random) -> PathBuf {
    let mut path = root.join(FOLDERS[random.below(FOLDERS.len())]);
    for _ in 0..random.below(3) {
        let own = path.join(format!("{:02}-stress", random.below(NAMES)));
        if own.is_dir() && !own.is_symlink() {
            path = own;
        }
    }
    path.join(format!("{:02}-stress", random.below(NAMES)))
}

/// One thing of many, to what is there or is not: that it fails is part of it.
fn stress(root: &Path, random: &mut Random) {
    let (path, other) = (place(root, random), place(root, random));
    let (len, at) = (random.below(20_000), random.below(20_000) as u64);
    let is_file = fs::symlink_metadata(&path).is_ok_and(|found| found.is_file());
    // It may be a FIFO by now, which must not be waited for: nobody is at its other end.
    let open = || File::options().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(&path);
    let file = || open().ok().filter(|_| is_file);
    let _: Option<()> = match random.below(19) {
        0 => File::create_new(&path).and_then(|mut file| file.write_all(&random.bytes(len))).ok(),
        1 => file().and_then(|file| file.write_all_at(&random.bytes(len), at).ok()),
        2 => file().and_then(|file| file.set_len(at).ok()),
        3 | 4 => fs::rename(&path, &other).ok(),
        5 => fs::remove_file(&path).ok(),
        6 => fs::hard_link(&path, &other).ok(),
        7 => symlink(format!("{len}"), &path).ok(),
        8 | 9 => fs::create_dir(&path).ok(),
        10 => fs::remove_dir(&path).ok(),
        11 => file()
            .and_then(|file| rustix::fs::fallocate(&file, FallocateFlags::empty(), at, 1 + len as u64).ok()),
        12 => {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            file().and_then(|file| rustix::fs::fallocate(&file, punch, at, 1 + len as u64).ok())
        }
        13 => {
            let mode = 0o700 + u32::try_from(len % 8).unwrap();
            (is_file || path.is_dir())
                .then(|| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).ok())
                .flatten()
        }
        14 => {
            let new = path.with_extension("new");
            fs::write(&new, random.bytes(len)).and_then(|()| fs::rename(&new, &path)).ok()
        }
        15 => rustix::fs::lsetxattr(&path, "user.stress", &random.bytes(20), XattrFlags::empty()).ok(),
        16 => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).ok(),
        17 => file().and_then(|file| file.set_modified(LONG_AGO).ok()),
        _ => (random.below(4) == 0).then(|| fs::remove_dir_all(&path).ok()).flatten(),
    };
}

/// Makes a folder long, and short again.
fn crowd(root: &Path, random: &mut Random) {
    let folder = root.join(FOLDERS[random.below(2)]);
    let names: Vec<_> =
        (0..400).map(|number| folder.join(format!("{:02}-crowd-{number}", number % 30))).collect();
    for name in &names {
        File::create(name).unwrap();
    }
    for (number, name) in names.iter().enumerate() {
        // Every second one has another name by then.
        let renamed = name.with_extension("renamed");
        let gone = if number % 2 == 0 { fs::rename(name, &renamed).map(|()| &renamed) } else { Ok(name) };
        fs::remove_file(gone.unwrap()).unwrap();
    }
}

/// A process that has files mapped and copies into them, from before the first snapshot until it is dropped.
pub struct Maps {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// It is told by single bytes when to begin and when to end; in between it copies whole versions.
const COPIER: &str = "import mmap, os, select, sys\n\
    count, names = int(sys.argv[1]), sys.argv[2:]\n\
    def read(name): return open(name, 'rb').read()\n\
    maps = [(mmap.mmap(os.open(name, os.O_RDWR), 0), read(staged)) for name, staged in zip(names[::2], names[1::2])]\n\
    done = 0\n\
    while os.read(0, 1):\n    \
        before = done\n    \
        while not select.select([0], [], [], 0.0003)[0]:\n        \
            version = done // len(maps) % count\n        \
            target, versions = maps[done % len(maps)]\n        \
            target[:] = versions[version * len(target):(version + 1) * len(target)]\n        \
            done += 1\n    \
        os.read(0, 1)\n    \
        print(done - before, flush=True)\n";

impl Maps {
    /// Maps the files of the scene that are written to so. What they are to hold is staged in another folder.
    pub fn new(scene: &Scene, staged: &Path) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", COPIER, &VERSIONS.to_string()]);
        for written in scene.written.iter().filter(|written| written.how == How::Mapped) {
            let versions = staged.join(format!("versions-{}", written.file));
            let each =
                (1..=VERSIONS).map(|version| pattern::content(written.file, version, How::Mapped.blocks()));
            fs::write(&versions, each.collect::<Vec<_>>().concat()).unwrap();
            command.arg(scene.root.join(&written.path)).arg(versions);
        }
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self { process, input, output: BufReader::new(output) }
    }

    pub fn go(&mut self) {
        self.input.write_all(b"g").unwrap();
    }

    /// Ends it after a whole copy, and returns how many it made since it was told to begin.
    pub fn stop(&mut self) -> u64 {
        self.input.write_all(b"s").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Maps {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
