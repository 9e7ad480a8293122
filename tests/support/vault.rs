//! The real program, run as a user runs it, in a home of its own.
//!
//! stdout and stderr go to files, so that a program that is waited for never blocks on a full pipe, and a test can look
//! at what was printed so far.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::repository::{self, PASSPHRASE};
use super::scratch::Scratch;

/// How long a run may take before it counts as hanging. In the nightly run there are some over a hundred million chunks.
fn patience() -> Duration {
    Duration::from_secs(if std::env::var_os("VAULT_NIGHTLY").is_some() { 3600 } else { 600 })
}

/// What `init` is told of encryption in a run over plain repositories, and in one over encrypted ones; there, passphrases need not be hard
/// to guess.
const INIT_FLAGS: [&[&str]; 2] = [&["--unencrypted"], &["--kdf-memory", "8M", "--kdf-passes", "1"]];

/// The program and its home: config, cache, state and data folders that no other test sees.
#[derive(Debug)]
pub struct Vault {
    scratch: Scratch,
    env: Vec<(OsString, Option<OsString>)>,
    runs: AtomicU64,
}

impl Vault {
    /// A fresh home.
    pub fn new() -> Self {
        let scratch = Scratch::new();
        for name in ["home", "cache", "state", "data", "config", "runs", "cwd"] {
            scratch.dir(name);
        }
        Self { scratch, env: Vec::new(), runs: AtomicU64::new(0) }
    }

    /// The folder of this test: `home`, `cache`, `state`, `data`, `config` and `cwd` (where the program runs) are
    /// in it, and there is room for more.
    pub fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// A path in that folder.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.scratch.join(name)
    }

    /// Sets a variable for the runs after this.
    pub fn env(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.env.push((name.into(), Some(value.into())));
    }

    /// Takes a variable away for the runs after this.
    pub fn env_remove(&mut self, name: impl Into<OsString>) {
        self.env.push((name.into(), None));
    }

    /// Runs the program to its end.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        self.spawn(args).wait()
    }

    /// Runs the program to its end, with these bytes as its stdin.
    pub fn run_with_stdin<S: AsRef<OsStr>>(&self, args: &[S], stdin: &[u8]) -> Output {
        let path = self.run_path("stdin");
        std::fs::write(&path, stdin).unwrap();
        let mut command = self.command(args);
        command.stdin(File::open(path).unwrap());
        self.start(command).wait()
    }

    /// Starts the program.
    pub fn spawn<S: AsRef<OsStr>>(&self, args: &[S]) -> Running {
        self.start(self.command(args))
    }

    /// The program, ready to be changed further and given to [`Vault::start`]. It is told the passphrase where repositories are encrypted.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        self.command_under::<&str, S>(&[], args)
    }

    /// The program run by another one, as `&["strace", "-f"]`.
    pub fn command_under<W: AsRef<OsStr>, S: AsRef<OsStr>>(&self, wrapper: &[W], args: &[S]) -> Command {
        let mut words = wrapper.iter().map(AsRef::as_ref).chain([OsStr::new(env!("CARGO_BIN_EXE_vault"))]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).stdin(Stdio::null()).current_dir(self.join("cwd")).env_clear();
        for word in args {
            command.arg(word);
            if word.as_ref() == "init" {
                command.args(INIT_FLAGS[usize::from(repository::is_encrypted())]);
            }
        }
        if repository::is_encrypted() {
            command.env("VAULT_PASSPHRASE", PASSPHRASE);
        }
        command.env("HOME", self.join("home")).env("TZ", "UTC").env("RUST_BACKTRACE", "1");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        for name in ["cache", "state", "data", "config"] {
            command.env(format!("XDG_{}_HOME", name.to_uppercase()), self.join(name));
        }
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Starts a command, stdout and stderr going to files.
    pub fn start(&self, mut command: Command) -> Running {
        let (stdout, stderr) = (self.run_path("stdout"), self.run_path("stderr"));
        command.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        let shown = format!("{command:?}");
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
        Running { child, shown, stdout, stderr }
    }

    fn run_path(&self, what: &str) -> PathBuf {
        self.join(format!("runs/{}-{what}", self.runs.fetch_add(1, Ordering::Relaxed)))
    }
}

/// A program that was started. Killed on drop.
#[derive(Debug)]
pub struct Running {
    child: Child,
    shown: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its stdin, if that is a pipe and was not taken yet.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// What it came to, where somebody else has waited for it.
    pub fn ended(self, status: ExitStatus) -> Output {
        // There is nobody to be killed any more, and another process may have its number.
        let ended = ManuallyDrop::new(self);
        ended.output(status)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // Not yet waited for, so the number is still its own.
        rustix::process::kill_process(Pid::from_child(&self.child), signal).expect("cannot send a signal");
    }

    /// What it printed to stdout so far.
    pub fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// What it printed to stderr so far.
    pub fn stderr(&self) -> String {
        read_lossy(&self.stderr)
    }

    /// Waits until a condition holds.
    ///
    /// # Panics
    /// When the program ends before that.
    pub fn wait_until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && start.elapsed() < patience(),
                "never came to be: {what}\n{}",
                self.report(ended)
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether it ends within that time.
    pub fn ends_within(&mut self, time: Duration) -> bool {
        let start = Instant::now();
        loop {
            if self.child.try_wait().unwrap().is_some() {
                return true;
            }
            if start.elapsed() >= time {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Output {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < patience(), "it hangs\n{}", self.report(None));
            std::thread::sleep(Duration::from_millis(1));
        };
        self.output(status)
    }

    fn output(&self, status: ExitStatus) -> Output {
        let report = self.report(Some(status));
        Output { status, stdout: std::fs::read(&self.stdout).unwrap(), stderr: self.stderr(), report }
    }

    fn report(&self, status: Option<ExitStatus>) -> String {
        let (stdout, stderr) = (self.stdout(), self.stderr());
        format!("{}\n{status:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}", self.shown)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it was waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()
}

/// What a run came to.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed to stdout.
    pub stdout: Vec<u8>,
    /// What it printed to stderr.
    pub stderr: String,
    report: String,
}

impl Output {
    /// All that there is to say of it.
    pub fn report(&self) -> &str {
        &self.report
    }

    /// Asserts that it succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// Asserts its exit code.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert!(self.status.code() == Some(code), "not exit code {code}: {}", self.report);
        self
    }

    /// Asserts that stderr holds a text.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "stderr without {text:?}: {}", self.report);
        self
    }

    /// stdout as text.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap_or_else(|_| panic!("stdout is not UTF-8: {}", self.report))
    }
}
