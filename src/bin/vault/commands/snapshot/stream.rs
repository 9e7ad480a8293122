//! `--stdin` and `--stdin-from-command`: a stream that is saved as a file, and given up when the user asks to stop.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vault::backup::StreamSource;
use vault::error::{Error, Result};

use crate::args::SnapshotArgs;
use crate::child::Running;

/// So often a stream in which nothing comes looks whether it is to end.
const GLANCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Whether a stream is to be saved instead of paths.
pub fn is_wanted(args: &SnapshotArgs) -> bool {
    args.stdin || args.stdin_from_command
}

/// Finds out what is wrong with the stream before a repository is opened or made for it.
pub fn check(args: &SnapshotArgs) -> Result<()> {
    if args.stdin && is_closed() {
        let what = "the standard input is closed or /dev/null: there is nothing to save";
        return Err(Error::Usage(what.to_owned()));
    }
    if args.stdin_from_command {
        command_of(args)?;
    }
    Ok(())
}

/// The stream. A command is started here: all that may fail before has to be done.
pub fn open(args: &SnapshotArgs, stop: &Arc<AtomicBool>) -> Result<StreamSource> {
    let path = args.stdin_filename.as_bytes().to_vec();
    if !args.stdin_from_command {
        let stdin = io::stdin().as_fd().try_clone_to_owned();
        let fd = stdin.map_err(Error::path("read", Path::new("the standard input")))?;
        let reader = Patient { fd, stop: stop.clone() };
        return Ok(StreamSource { path, reader: Box::new(reader), finish: Box::new(|| Ok(())) });
    }
    let (program, arguments) = command_of(args)?;
    let (running, output) = Running::start(Path::new(program), arguments)?;
    let reader = Patient { fd: output.into(), stop: stop.clone() };
    let stop = stop.clone();
    let finish = move || running.wait(&stop);
    Ok(StreamSource { path, reader: Box::new(reader), finish: Box::new(finish) })
}

fn command_of(args: &SnapshotArgs) -> Result<(&OsString, &[OsString])> {
    args.paths
        .split_first()
        .ok_or_else(|| Error::Usage("no command is named whose output is to be saved".to_owned()))
}

/// Whether nobody gave us a standard input. A closed one is `/dev/null` before `main` begins; that it was named on purpose cannot be told
/// from that, and an empty file is no backup of anything either.
fn is_closed() -> bool {
    let stdin = io::stdin().as_fd().try_clone_to_owned().map(std::fs::File::from);
    let Ok(stdin) = stdin.and_then(|stdin| stdin.metadata()) else { return true };
    std::fs::metadata("/dev/null").is_ok_and(|null| null.rdev() != 0 && null.rdev() == stdin.rdev())
}

/// A stream whose reader does not wait for it beyond the user's patience.
struct Patient {
    fd: OwnedFd,
    stop: Arc<AtomicBool>,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::Error::other("interrupted"));
            }
            match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&GLANCE)) {
                Ok(0) | Err(Errno::INTR) => continue,
                other => other?,
            };
            match rustix::io::read(&self.fd, &mut *buffer) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                other => return Ok(other?),
            }
        }
    }
}
