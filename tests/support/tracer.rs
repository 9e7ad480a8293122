//! The program under a tracer, which sees each call to the system before it is made and may let it be, refuse it, cut it short, lie about it, or
//! kill the program there. One tracer sees all threads, so calls are counted over all of them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{self, c_long};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::vault::{Output, Vault};

/// What takes longer hangs, and is killed.
const PATIENCE: Duration = Duration::from_secs(120);

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It is made.
    Go,
    /// The program is killed instead.
    Kill,
    /// It is not made, and fails.
    Fail(Errno),
    /// Half of the bytes are asked for, or one: for reads and writes.
    Half,
    /// So many bytes are asked for: for listings.
    AtMost(u64),
    /// The same, and then the program is killed.
    HalfAndKill,
    /// It is not made, and is said to have succeeded: for writes and what returns nothing.
    Pretend,
}

/// A call that is about to be made.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    process: Pid,
    /// Its number.
    pub number: c_long,
    args: [u64; 6],
}

/// What the system calls are called.
macro_rules! named {
    ($($name:ident),+ $(,)?) => {
        const NAMES: &[(c_long, &str)] = &[$((libc::$name, stringify!($name))),+];
    };
}

// All that is asked of files.
named!(
    SYS_read,
    SYS_pread64,
    SYS_readv,
    SYS_preadv,
    SYS_write,
    SYS_pwrite64,
    SYS_writev,
    SYS_pwritev,
    SYS_open,
    SYS_openat,
    SYS_openat2,
    SYS_creat,
    SYS_stat,
    SYS_fstat,
    SYS_lstat,
    SYS_newfstatat,
    SYS_statx,
    SYS_statfs,
    SYS_fstatfs,
    SYS_getdents64,
    SYS_lseek,
    SYS_readlink,
    SYS_readlinkat,
    SYS_access,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_flock,
    SYS_fcntl,
    SYS_mkdir,
    SYS_mkdirat,
    SYS_rmdir,
    SYS_rename,
    SYS_renameat,
    SYS_renameat2,
    SYS_unlink,
    SYS_unlinkat,
    SYS_link,
    SYS_linkat,
    SYS_symlink,
    SYS_symlinkat,
    SYS_mknod,
    SYS_mknodat,
    SYS_truncate,
    SYS_ftruncate,
    SYS_fallocate,
    SYS_fsync,
    SYS_fdatasync,
    SYS_syncfs,
    SYS_sync_file_range,
    SYS_chmod,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_fchmodat2,
    SYS_chown,
    SYS_fchown,
    SYS_lchown,
    SYS_fchownat,
    SYS_utimensat,
    SYS_setxattr,
    SYS_lsetxattr,
    SYS_fsetxattr,
    SYS_getxattr,
    SYS_lgetxattr,
    SYS_fgetxattr,
    SYS_listxattr,
    SYS_llistxattr,
    SYS_flistxattr,
    SYS_removexattr,
    SYS_lremovexattr,
    SYS_fremovexattr,
    SYS_copy_file_range,
    SYS_sendfile,
);

impl Call {
    /// Its name, if it is one about files.
    pub fn name(&self) -> Option<&'static str> {
        NAMES.iter().find(|(number, _)| *number == self.number).map(|(_, name)| &name[4..])
    }

    /// The thread that makes it.
    pub fn thread(&self) -> i32 {
        self.process.as_raw()
    }

    /// What it reads or writes by a number, if that is a file or folder.
    pub fn file(&self) -> Option<String> {
        let path = fs::read_link(format!("/proc/{}/fd/{}", self.process, self.args[0])).ok()?;
        Some(path.to_str()?.to_owned()).filter(|path| path.starts_with('/'))
    }

    /// The path that it names, or that of what it names by a number.
    pub fn path(&self) -> Option<String> {
        let at = match self.number {
            libc::SYS_openat
            | libc::SYS_openat2
            | libc::SYS_statx
            | libc::SYS_newfstatat
            | libc::SYS_mkdirat
            | libc::SYS_unlinkat => 1,
            libc::SYS_open | libc::SYS_stat | libc::SYS_lstat | libc::SYS_mkdir | libc::SYS_unlink => 0,
            _ => return self.file(),
        };
        let named = self.text_at(self.args[at])?;
        if named.starts_with('/') {
            return Some(named);
        }
        let folder = self.file()?;
        Some(if named.is_empty() { folder } else { format!("{folder}/{named}") })
    }

    /// The text at an address of the program, up to its NUL.
    fn text_at(&self, address: u64) -> Option<String> {
        let memory = fs::File::open(format!("/proc/{}/mem", self.process)).ok()?;
        let mut text = Vec::new();
        while text.len() < 4096 {
            let next = address + text.len() as u64;
            let mut part = [0; 256];
            // What is behind it may be no memory: not beyond a multiple of this length at a time.
            let part = &mut part[..256 - usize::try_from(next % 256).ok()?];
            memory.read_exact_at(part, next).ok()?;
            if let Some(end) = part.iter().position(|byte| *byte == 0) {
                text.extend_from_slice(&part[..end]);
                return String::from_utf8(text).ok();
            }
            text.extend_from_slice(part);
        }
        None
    }

    /// Whether it reads bytes of a file.
    pub fn reads(&self) -> bool {
        matches!(self.number, libc::SYS_read | libc::SYS_pread64) && self.file().is_some()
    }

    /// Whether it writes bytes into a file.
    pub fn writes(&self) -> bool {
        let is_write = matches!(
            self.number,
            libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev | libc::SYS_pwritev
        );
        is_write && self.args[0] > 2 && self.file().is_some()
    }

    /// Whether it asks for names in a folder; 0 bytes are the end of these.
    pub fn lists(&self) -> bool {
        self.number == libc::SYS_getdents64
    }

    /// Whether nothing was asked of what it reads by a number yet.
    pub fn is_at_start(&self) -> bool {
        let info = fs::read_to_string(format!("/proc/{}/fdinfo/{}", self.process, self.args[0]));
        info.is_ok_and(|info| info.lines().next() == Some("pos:\t0"))
    }

    /// Whether it asks for something to be on the medium.
    pub fn syncs(&self) -> bool {
        matches!(
            self.number,
            libc::SYS_fsync | libc::SYS_fdatasync | libc::SYS_syncfs | libc::SYS_sync_file_range
        )
    }

    /// Whether it gives a file another name.
    pub fn renames(&self) -> bool {
        matches!(self.number, libc::SYS_rename | libc::SYS_renameat | libc::SYS_renameat2)
    }

    /// Whether it makes a file, or may.
    fn creates(&self) -> bool {
        let flags = match self.number {
            libc::SYS_open => self.args[1],
            libc::SYS_openat => self.args[2],
            libc::SYS_openat2 => u64::from_ne_bytes(
                ptrace::read(self.process, self.args[2] as *mut _).unwrap_or(0).to_ne_bytes(),
            ),
            libc::SYS_creat => return true,
            _ => return false,
        };
        let making = libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY);
        flags & u64::try_from(making).unwrap_or(0) != 0
    }

    /// Whether it changes something that outlives the program.
    pub fn changes(&self) -> bool {
        let other = matches!(
            self.number,
            libc::SYS_mkdir
                | libc::SYS_mkdirat
                | libc::SYS_rmdir
                | libc::SYS_unlink
                | libc::SYS_unlinkat
                | libc::SYS_link
                | libc::SYS_linkat
                | libc::SYS_symlink
                | libc::SYS_symlinkat
                | libc::SYS_mknod
                | libc::SYS_mknodat
                | libc::SYS_truncate
                | libc::SYS_ftruncate
                | libc::SYS_fallocate
                | libc::SYS_chmod
                | libc::SYS_fchmod
                | libc::SYS_fchmodat
                | libc::SYS_fchmodat2
                | libc::SYS_chown
                | libc::SYS_fchown
                | libc::SYS_lchown
                | libc::SYS_fchownat
                | libc::SYS_utimensat
                | libc::SYS_setxattr
                | libc::SYS_lsetxattr
                | libc::SYS_fsetxattr
                | libc::SYS_removexattr
                | libc::SYS_lremovexattr
                | libc::SYS_fremovexattr
                | libc::SYS_copy_file_range
                | libc::SYS_sendfile
        );
        other || self.renames() || self.syncs() || self.writes() || self.creates()
    }
}

/// What is to be done with the result of a call that is under way.
#[derive(Debug, Clone, Copy)]
enum After {
    Nothing,
    Return(u64),
    Kill,
}

/// Runs the program to its end; `decide` says what becomes of each call about files.
pub fn traced<S: AsRef<OsStr>>(vault: &Vault, args: &[S], decide: impl FnMut(&Call) -> Act) -> Output {
    // It waits for a line, so that it can be seized before it begins.
    let mut command = vault.command_under(&["sh", "-c", "read _ && exec \"$@\"", "sh"], args);
    command.stdin(Stdio::piped());
    let mut running = vault.start(command);
    let process = Pid::from_raw(i32::try_from(running.id()).unwrap());
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(process, options).expect("cannot trace");
    running.stdin().unwrap().write_all(b"\n").unwrap();
    let (ended, is_over) = mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if is_over.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            let _ = kill(process, Signal::SIGKILL);
        }
    });
    let status = Tracer { process, decide, under_way: HashMap::new(), has_begun: false }.run();
    drop(ended);
    watch.join().unwrap();
    running.ended(status)
}

struct Tracer<D> {
    process: Pid,
    decide: D,
    under_way: HashMap<Pid, After>,
    /// What runs before `main` is not ours.
    has_begun: bool,
}

impl<D: FnMut(&Call) -> Act> Tracer<D> {
    fn run(&mut self) -> ExitStatus {
        loop {
            // Only what this thread traces: other tests have children too.
            let status = match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
                Err(Errno::EINTR) => continue,
                status => status.expect("cannot wait for what is traced"),
            };
            let (thread, signal) = match status {
                WaitStatus::Exited(thread, code) if thread == self.process => {
                    return ExitStatus::from_raw(code << 8);
                }
                WaitStatus::Signaled(thread, signal, _) if thread == self.process => {
                    return ExitStatus::from_raw(signal as i32);
                }
                WaitStatus::PtraceSyscall(thread) => {
                    self.stopped(thread);
                    (thread, None)
                }
                WaitStatus::PtraceEvent(thread, ..) => (thread, None),
                WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
                _ => continue,
            };
            // It may have been killed meanwhile.
            let _ = ptrace::syscall(thread, signal);
        }
    }

    fn stopped(&mut self, thread: Pid) {
        let (Ok(info), Ok(mut regs)) = (ptrace::syscall_info(thread), ptrace::getregs(thread)) else {
            return;
        };
        if info.op == libc::PTRACE_SYSCALL_INFO_EXIT {
            match self.under_way.remove(&thread).unwrap_or(After::Nothing) {
                After::Nothing => {}
                After::Kill => self.kill(),
                After::Return(value) => {
                    regs.rax = value;
                    let _ = ptrace::setregs(thread, regs);
                }
            }
            return;
        }
        let number = c_long::from_ne_bytes(regs.orig_rax.to_ne_bytes());
        // The first that is asked before `main`: whether stdin, stdout and stderr are open.
        self.has_begun |= number == libc::SYS_poll;
        let args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
        let call = Call { process: thread, number, args };
        if !self.has_begun || call.name().is_none() {
            return;
        }
        let after = match (self.decide)(&call) {
            Act::Go => return,
            Act::Kill => return self.kill(),
            act @ (Act::Half | Act::HalfAndKill) => {
                assert!(call.reads() || call.writes());
                regs.rdx = (regs.rdx / 2).max(1);
                if act == Act::Half { After::Nothing } else { After::Kill }
            }
            Act::AtMost(bytes) => {
                assert!(call.lists());
                regs.rdx = bytes;
                After::Nothing
            }
            Act::Fail(errno) => {
                regs.orig_rax = u64::MAX;
                After::Return((errno as i64).wrapping_neg().cast_unsigned())
            }
            Act::Pretend => {
                regs.orig_rax = u64::MAX;
                After::Return(if call.writes() { regs.rdx } else { 0 })
            }
        };
        self.under_way.insert(thread, after);
        let _ = ptrace::setregs(thread, regs);
    }

    fn kill(&self) {
        let _ = kill(self.process, Signal::SIGKILL);
    }
}
