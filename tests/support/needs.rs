//! What a test needs beyond Rust and a C compiler: programs, devices, rights. Without them it is skipped and says so;
//! with `VAULT_TEST_ALL` in the environment, as `.ci/run` has it, it fails: nothing is ever skipped there.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

/// All there is to need: programs of the PATH, paths, and what [`is_there`] knows by name.
const ALL: [&str; 36] = [
    "root",
    "/dev/fuse",
    "/dev/loop-control",
    "bash",
    "chown",
    "cp",
    "debugfs",
    "echo",
    "fusefat",
    "losetup",
    "mkfs.btrfs",
    "mkfs.exfat",
    "mkfs.ext4",
    "mkfs.vfat",
    "mkfs.xfs",
    "mount",
    "mount.exfat-fuse",
    "python3",
    PACKAGES,
    VFAT,
    "rsync",
    "script",
    "setcap",
    "setfacl",
    "setfattr",
    "setpriv",
    "sh",
    "strace",
    "stty",
    "tar",
    "touch",
    "umount",
    "unshare",
    "valgrind",
    "xargs",
    "xfs_io",
];

/// What `spec/reader.py` imports.
const PACKAGES: &str = "python3 with the packages of spec/reader.py";

/// The kernel's FAT, or that of one in user mode.
const VFAT: &str = "vfat in the kernel, or linux.uml";

/// What stands for several: a mounted file system of that kind.
const GROUPS: [(&str, &[&str]); 8] = [
    ("tmpfs", &["root", "mount", "umount"]),
    ("ext4", &["root", "mount", "umount", "losetup", "/dev/loop-control", "mkfs.ext4"]),
    ("xfs", &["root", "mount", "umount", "losetup", "/dev/loop-control", "mkfs.xfs"]),
    ("btrfs", &["root", "mount", "umount", "losetup", "/dev/loop-control", "mkfs.btrfs"]),
    ("overlay", &["root", "mount", "umount", "losetup", "/dev/loop-control", "mkfs.ext4"]),
    (
        "vfat",
        &["root", "mount", "umount", "losetup", "/dev/loop-control", "mkfs.vfat", "python3", "sh", VFAT],
    ),
    ("fat32", &["root", "umount", "losetup", "/dev/loop-control", "/dev/fuse", "mkfs.vfat", "fusefat"]),
    (
        "exfat",
        &["root", "umount", "losetup", "/dev/loop-control", "/dev/fuse", "mkfs.exfat", "mount.exfat-fuse"],
    ),
];

/// What is not there, looked for once.
static MISSING: LazyLock<BTreeSet<&str>> =
    LazyLock::new(|| ALL.into_iter().filter(|what| !is_there(what)).collect());

/// Ends the test here if something it needs is not there: `needs!("root", "ext4", "rsync")`.
macro_rules! needs {
    ($($what:literal),+) => {
        if !$crate::support::needs::met(std::any::type_name_of_val(&|| ()), &[$($what),+]) {
            return;
        }
    };
}
pub(crate) use needs;

/// Whether all is there that the test needs, in which this closure stands; says so if it is not.
///
/// # Panics
/// When something is not there although `VAULT_TEST_ALL` is set.
pub fn met(closure: &str, needed: &[&'static str]) -> bool {
    let group = |what: &'static str| GROUPS.into_iter().find(|(name, _)| *name == what);
    let single = |what| group(what).map_or_else(|| vec![what], |(_, all)| all.to_vec());
    let needed: BTreeSet<&str> = needed.iter().flat_map(|what| single(what)).collect();
    assert!(needed.iter().all(|what| ALL.contains(what)), "not all in the list: {needed:?}");
    let missing: Vec<&str> = needed.intersection(&MISSING).copied().collect();
    if missing.is_empty() {
        return true;
    }
    let test = closure.trim_end_matches("::{{closure}}").trim_start_matches("main::");
    let said = format!("{test} needs {}", missing.join(", "));
    assert!(!all_demanded(), "{said}");
    eprintln!("skipped: {said}");
    false
}

fn all_demanded() -> bool {
    std::env::var_os("VAULT_TEST_ALL").is_some()
}

fn is_there(what: &str) -> bool {
    match what {
        "root" => is_root(),
        PACKAGES => Command::new("python3")
            .args(["-c", "import argon2, blake3, cryptography, zstandard"])
            .output()
            .is_ok_and(|output| output.status.success()),
        VFAT => super::mount::kernel_has_vfat() || is_there("linux.uml"),
        path if path.starts_with('/') => Path::new(path).exists(),
        program => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let there = |folder: &Path| {
                let access = rustix::fs::Access::EXEC_OK;
                folder.join(program).is_file() && rustix::fs::access(folder.join(program), access).is_ok()
            };
            std::env::split_paths(&path).any(|folder| there(&folder))
        }
    }
}

/// Whether this is root, and one that may mount and make devices, which root in a container often may not.
fn is_root() -> bool {
    // CAP_SYS_ADMIN and CAP_MKNOD.
    let needed = 1_u64 << 21 | 1 << 27;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let rights = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let rights = rights.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    rustix::process::geteuid().is_root() && rights & needed == needed
}

#[test]
fn everything_the_tests_need_is_here() {
    if MISSING.is_empty() {
        return;
    }
    let missing = MISSING.iter().copied().collect::<Vec<_>>().join(", ");
    assert!(!all_demanded(), "not here: {missing}");
    // Past the test harness, which keeps to itself what a test prints that passes.
    let _ = writeln!(
        std::io::stderr(),
        "\nTests are skipped, for these are not here: {missing}.\n\
         `.ci/run` as root installs and demands all of them; `cargo test -- --nocapture` names each test."
    );
}

#[test]
fn what_is_not_there_is_noticed() {
    assert!(!is_there("/dev/no-such-device") && is_there("/proc/self"));
    assert!(!is_there("no-such-program"));
    assert!(met("a test that needs nothing", &[]));
    assert!(std::panic::catch_unwind(|| met("a test", &["what is in no list"])).is_err());
}
