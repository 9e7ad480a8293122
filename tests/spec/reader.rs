//! The programs in Python that stand beside the specification, run against its vectors and the golden repository.
//!
//! They need no code of ours, and so show that the specification is whole. `chunking.py` needs Python alone. The others
//! need the packages `blake3` and `zstandard`: where the `python3` of the system lacks them they are not run, unless
//! `VAULT_PYTHON` names the one to use, as continuous integration does.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::package;

/// The Python that can run `reader.py`, if there is one.
pub fn python() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("VAULT_PYTHON") {
        return Some(named.into());
    }
    let found = Command::new("python3")
        .args(["-c", "import blake3, zstandard"])
        .output()
        .is_ok_and(|out| out.status.success());
    found.then(|| "python3".into())
}

pub fn run(python: &Path, args: &[impl AsRef<OsStr>]) -> Output {
    Command::new(python).arg("-B").args(args).current_dir(package().join("spec")).output().unwrap()
}

#[track_caller]
pub fn assert_done(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn cut_2_cut_3_cut_4_python_cuts_as_the_vectors_say() {
    if Command::new("python3").arg("--version").output().is_ok() {
        assert_done(&run(Path::new("python3"), &["chunking.py"]));
    }
}

#[test]
fn python_decodes_the_vectors() {
    if let Some(python) = python() {
        assert_done(&run(&python, &["decode.py", "vectors/v1/structures.txt", "vectors/v1/invalid.txt"]));
    }
}
