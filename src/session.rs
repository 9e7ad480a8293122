//! Who is writing: the names of temporary files carry the session, so that only those of ended sessions are cleaned up.
//!
//! A session is `<host>-<boot>-<process>-<start>-<random>`, `spec/format.md` §2. Nothing but this host can tell whether
//! one of its processes is alive, and of those in another PID namespace (a container) not even that: a host is a machine and a
//! namespace, and the files of other hosts are left alone. Where it cannot be told which host this is, no file is anyone's.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::id;

/// A running session of this program.
pub struct Session {
    name: String,
    next: AtomicU64,
}

impl Session {
    /// A new session of this process.
    #[must_use]
    pub fn begin() -> Self {
        let pid = std::process::id();
        let start = process(pid).map_or(0, |process| process.start_ticks);
        let random = u32::from_le_bytes(random());
        // Of an unknown host, so that nobody ever calls it ended.
        let unknown = || format!("{:08x}-{:08x}", u32::from_le_bytes(self::random()), 0);
        let here = here().unwrap_or_else(unknown);
        Self { name: format!("{here}-{pid}-{start}-{random:08x}"), next: AtomicU64::new(0) }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of a new temporary file, `tmp/` included.
    #[must_use]
    pub fn temporary(&self) -> String {
        format!("tmp/{}-{}", self.name, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// Whether a file in `tmp/`, `sessions/` or `marks/` was left by a session of this host that has ended.
#[must_use]
pub fn is_left_over(name: &str) -> bool {
    let Some(rest) = name.get(..8).and_then(|host| name.strip_prefix(host)) else { return false };
    let Some(here) = here() else { return false };
    let Some((host, boot)) = here.split_once('-') else { return false };
    let parts: Vec<&str> = rest.trim_start_matches('-').split('-').collect();
    let [found_boot, pid, start, _random, _number] = parts[..] else { return false };
    if name.get(..8) != Some(host) {
        return false;
    }
    let (Ok(pid), Ok(start)) = (pid.parse::<u32>(), start.parse::<u64>()) else { return false };
    let has_ended = |process: Process| process.is_dead || process.start_ticks != start;
    found_boot != boot || process(pid).map_or_else(|| !exists(pid), has_ended)
}

/// Random bytes from the system.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        // The only error there is, an interruption, is over after the first moments of a boot.
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
    }
    bytes
}

/// The machine's id, or nothing.
#[must_use]
pub fn machine_id() -> Vec<u8> {
    fs::read("/etc/machine-id").map(|bytes| bytes.trim_ascii().to_vec()).unwrap_or_default()
}

/// Host and boot, where both can be told.
fn here() -> Option<String> {
    host_and_boot(pid_namespace(), &fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default())
}

/// The number of the namespace in which process numbers are given here; nothing if `/proc` is that of another one, or of none.
fn pid_namespace() -> Option<u64> {
    let own = fs::read_link("/proc/self").ok()?;
    if own.to_str()?.parse() != Ok(std::process::id()) {
        return None;
    }
    Some(fs::metadata("/proc/self/ns/pid").ok()?.ino())
}

fn host_and_boot(namespace: Option<u64>, boot: &[u8]) -> Option<String> {
    let (namespace, boot) = (namespace?, boot.trim_ascii());
    if boot.is_empty() {
        return None;
    }
    let short = |bytes: &[u8]| {
        let [a, b, c, d, ..] = id::checksum_64(&[bytes]);
        format!("{:08x}", u32::from_be_bytes([a, b, c, d]))
    };
    // Without a machine id (containers), the host's name must do.
    let mut machine = machine_id();
    if machine.is_empty() {
        machine = rustix::system::uname().nodename().to_bytes().to_vec();
    }
    machine.extend(namespace.to_le_bytes());
    Some(format!("{}-{}", short(&machine), short(boot)))
}

/// Whether a process exists, though `/proc` may hide those of other users.
fn exists(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// What the system says of a process.
struct Process {
    /// It has ended, though nobody has asked for its exit code yet: a killed run whose parent is slow.
    is_dead: bool,
    /// When it was started, in clock ticks since boot: tells it from a later one of the same number.
    start_ticks: u64,
}

fn process(pid: u32) -> Option<Process> {
    let stat = fs::read(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The program's name is in parentheses and may hold anything: count fields after the last one.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(stat.get(end + 2..)?).ok()?;
    let is_dead = matches!(fields.bytes().next(), Some(b'Z' | b'X'));
    Some(Process { is_dead, start_ticks: fields.split(' ').nth(19)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_killed_run_whose_parent_is_slow_are_left_over() -> std::io::Result<()> {
        let mut child = std::process::Command::new("/bin/true").spawn()?;
        let here = here().unwrap_or_default();
        let name = |start: u64| format!("{here}-{}-{start}-00000000-0", child.id());
        // Not waited for, it stays in the list of processes as a dead one.
        let start = loop {
            match process(child.id()) {
                Some(process) if process.is_dead => break process.start_ticks,
                _ => std::thread::yield_now(),
            }
        };
        assert!(is_left_over(&name(start)));
        child.wait()?;
        let here = Session::begin().temporary();
        assert!(!is_left_over(here.trim_start_matches("tmp/")), "this process is alive");
        Ok(())
    }

    #[test]
    fn a_host_is_a_machine_and_a_namespace_and_unknown_without_boot_or_namespace() {
        let host = |namespace: u64| {
            let found = host_and_boot(Some(namespace), b"boot\n")?;
            found.split_once('-').map(|(host, boot)| (host.to_owned(), boot.to_owned()))
        };
        let (one, other) = (host(1), host(2));
        assert!(one.is_some() && one == host(1));
        assert_ne!(one.clone().map(|(host, _)| host), other.clone().map(|(host, _)| host));
        assert_eq!(one.map(|(_, boot)| boot), other.map(|(_, boot)| boot));
        assert_eq!(host_and_boot(None, b"boot"), None);
        assert_eq!(host_and_boot(Some(1), b"\n"), None);
    }
}
