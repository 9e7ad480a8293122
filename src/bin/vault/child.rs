//! A command whose output is saved: started, waited for, and never left behind.
//!
//! Without a controlling terminal the command gets a process group of its own, so that all it started ends with it. With one it stays in
//! ours: Ctrl-C reaches all of it there, and a command in another group could not ask for a password.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use vault::error::{Error, Result};

use crate::passphrase;

/// How long a command that was asked to end may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked whether it has.
const GLANCE: Duration = Duration::from_millis(10);

/// The command that runs, as `kill` takes it: a process, or below zero a group. 0 for none.
static RUNNING: AtomicI32 = AtomicI32::new(0);

/// Kills the command that runs, if one does: the program ends at once.
pub fn kill_running() {
    signal(RUNNING.load(Ordering::SeqCst), Signal::KILL);
}

/// A command that runs. Dropped before its end, it is made to end.
pub struct Running {
    child: Child,
    program: PathBuf,
    /// As in [`RUNNING`].
    target: i32,
    ended: bool,
}

impl Running {
    /// Starts it. Its input and its errors are ours.
    pub fn start(program: &Path, arguments: &[OsString]) -> Result<(Self, ChildStdout)> {
        let mut command = Command::new(program);
        // What it is not told it cannot pass on.
        command.args(arguments).stdout(Stdio::piped());
        command.env_remove(passphrase::VARIABLE).env_remove(passphrase::TO_VARIABLE);
        let in_group = File::open("/dev/tty").is_err();
        if in_group {
            command.process_group(0);
        }
        let mut child = command.spawn().map_err(Error::path("run", program))?;
        let output = child.stdout.take();
        let id = i32::try_from(child.id()).unwrap_or(0);
        let target = if in_group { -id } else { id };
        RUNNING.store(target, Ordering::SeqCst);
        let running = Self { child, program: program.to_owned(), target, ended: false };
        let output = output.ok_or_else(|| Error::Usage("the command has no output".to_owned()))?;
        Ok((running, output))
    }

    /// Waits for its end, unless `stop` is set before, and takes anything but success for an error.
    pub fn wait(mut self, stop: &AtomicBool) -> Result<()> {
        let status = loop {
            if let Some(status) = self.child.try_wait().map_err(Error::path("wait for", &self.program))? {
                break status;
            }
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            sleep(GLANCE);
        };
        self.has_ended();
        if status.success() {
            return Ok(());
        }
        Err(Error::CommandFailed { program: self.program.clone(), status: describe(status) })
    }

    fn has_ended(&mut self) {
        self.ended = true;
        RUNNING.store(0, Ordering::SeqCst);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let begun = Instant::now();
        signal(self.target, Signal::TERM);
        let mut gone = false;
        while begun.elapsed() < PATIENCE && !(gone && is_gone(self.target)) {
            gone = gone || !matches!(self.child.try_wait(), Ok(None));
            sleep(GLANCE);
        }
        signal(self.target, Signal::KILL);
        // Killed, it ends; if it was waited for already, this returns at once.
        let _ = self.child.wait();
        self.has_ended();
    }
}

/// Whether no process is left of a group whose first one has ended.
fn is_gone(target: i32) -> bool {
    let group = target.checked_neg().filter(|group| *group > 0).and_then(Pid::from_raw);
    group.is_none_or(|group| rustix::process::test_kill_process_group(group).is_err())
}

/// Sends a signal to a process or, below zero, a group. One that has ended does not mind.
fn signal(target: i32, signal: Signal) {
    let _ = match (Pid::from_raw(target.wrapping_abs()), target < 0) {
        (None, _) => Ok(()),
        (Some(group), true) => rustix::process::kill_process_group(group, signal),
        (Some(process), false) => rustix::process::kill_process(process, signal),
    };
}

/// How it ended, in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}
