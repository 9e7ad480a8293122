//! A test run once more in user-mode Linux, whose kernel has drivers that this one has not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::support::repository::is_encrypted;
use crate::support::vault::Vault;

/// What the other kernel needs; it looks for its modules where its package has put them.
const MODULES: [&str; 9] = [
    "drivers/block/loop",
    "fs/fat/fat",
    "fs/fat/vfat",
    "fs/nls/nls_ascii",
    "fs/nls/nls_cp437",
    "fs/nls/nls_iso8859-1",
    "fs/nls/nls_utf8",
    "fs/fuse/fuse",
    "fs/overlayfs/overlay",
];

/// What stands between it and the calls by which it rules its processes.
const PTRACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/proof/media/uml_ptrace.c");

/// Runs a test of this program there, and says what it said.
///
/// # Panics
/// When it fails.
pub fn run_again(test: &str) {
    // Only for the folder, and for the wait.
    let vault = Vault::new();
    let (script, result) = (vault.join("init"), vault.join("result"));
    let this = std::env::current_exe().unwrap();
    let nightly = if super::super::is_nightly() { "export VAULT_NIGHTLY=1" } else { "" };
    let encrypted = if is_encrypted() { "export VAULT_TEST_ENCRYPTED=1" } else { "" };
    let load = "import ctypes, os, sys\nfor name in sys.argv[1:]:\n    ctypes.CDLL(None).syscall(313, os.open(name, os.O_RDONLY), b'', 0)\n";
    fs::write(vault.join("load.py"), load).unwrap();
    let lines = format!(
        "#!/bin/sh\n\
         export PATH={path} HOME=/root VAULT_TEST_ALL=1 RUST_BACKTRACE=1\n{nightly}\n{encrypted}\n\
         mount -t proc proc /proc; mount -t sysfs sys /sys\n\
         cd /usr/lib/uml/modules/$(uname -r)/kernel && python3 {folder}/load.py {modules}\n\
         mkdir {folder}/tmp; mount -t tmpfs -o size=800m tmp {folder}/tmp; export TMPDIR={folder}/tmp\n\
         cd {package}\n\
         {this} --exact --nocapture --test-threads 1 {test} >{result} 2>&1; echo \"ended with $?\" >>{result}\n\
         sync; echo o >/proc/sysrq-trigger; sleep 60\n",
        path = std::env::var("PATH").unwrap(),
        folder = vault.path().display(),
        modules = MODULES.map(|name| format!("{name}.ko")).join(" "),
        package = env!("CARGO_MANIFEST_DIR"),
        this = this.display(),
        result = result.display(),
    );
    fs::write(&script, lines).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let ptrace = vault.join("ptrace.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", PTRACE, "-o"]).arg(&ptrace);
    vault.start(compiler).wait().ok();
    let mut command = Command::new("linux.uml");
    command.env("LD_PRELOAD", ptrace);
    command.args(["mem=1200M", "rootfstype=hostfs", "rw", "con=null", "con0=null,fd:1", "quiet"]);
    command.arg(format!("init={}", script.display())).stdin(Stdio::null());
    // If its kernel panics, it ends all of its group.
    command.process_group(0);
    let ended = vault.start(command).wait();
    let said = fs::read_to_string(&result).unwrap_or_default();
    println!("{said}");
    assert!(said.contains("1 passed") && said.contains("ended with 0"), "{}", ended.report());
}
