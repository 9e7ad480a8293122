//! A write that has begun and does not go on: its bytes come from a file over FUSE, whose daemon is stopped in the middle of it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::mount::{FileSystem, Mount};

/// Half of the bytes are at hand; for the others it has to wait.
const WRITER: &str = "import mmap, os, sys\n\
    bytes = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, prot=mmap.PROT_READ)\n\
    bytes[:len(bytes) // 2]\n\
    target = os.open(sys.argv[2], os.O_WRONLY)\n\
    print('ready', flush=True)\n\
    sys.stdin.readline()\n\
    assert os.pwrite(target, bytes, 0) == len(bytes)\n\
    print('done', flush=True)\n";

/// A process that is in the middle of one call that writes.
pub struct Stuck {
    writer: Child,
    output: BufReader<std::process::ChildStdout>,
    daemon: Daemon,
    // Unmounted after the daemon goes on.
    _mount: Mount,
}

/// The process that serves a mount, stopped.
struct Daemon(Pid);

impl Daemon {
    fn stop(mount: &Path) -> Self {
        let serves = |pid: &i32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split(|byte| *byte == 0).any(|word| word == mount.as_os_str().as_bytes())
        };
        let processes = fs::read_dir("/proc").unwrap();
        let mut pids = processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let daemon = Self(Pid::from_raw(pids.find(serves).expect("nobody serves the mount")).unwrap());
        kill_process(daemon.0, Signal::STOP).unwrap();
        daemon
    }

    fn go_on(&self) {
        // It is there until its mount is gone.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.go_on();
    }
}

impl Stuck {
    /// Begins to write these bytes over a file, and comes to half of them.
    pub fn begin(path: &Path, bytes: &[u8]) -> Self {
        let mut mount = Mount::new(FileSystem::Exfat, 32);
        let from = mount.join("bytes");
        fs::write(&from, bytes).unwrap();
        // Nothing of it is in memory then.
        mount.remount();
        let mut writer = Command::new("python3")
            .args(["-c", WRITER])
            .args([&from, path])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(writer.stdout.take().unwrap());
        expect(&mut output, "ready");
        let daemon = Daemon::stop(&mount.path());
        let before = fs::metadata(path).unwrap();
        writer.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let stamps = |metadata: &fs::Metadata| (metadata.ctime(), metadata.ctime_nsec());
        while stamps(&fs::metadata(path).unwrap()) == stamps(&before) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { writer, output, daemon, _mount: mount }
    }

    /// Lets it end.
    pub fn go_on(mut self) {
        self.daemon.go_on();
        expect(&mut self.output, "done");
        assert!(self.writer.wait().unwrap().success());
    }
}

fn expect(output: &mut impl BufRead, word: &str) {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), word);
}
