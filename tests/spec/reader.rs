//! The programs in Python that stand beside the specification, run against its vectors, the golden repository, a tree
//! with one of everything, and damage.
//!
//! They need no code of ours, and so show that the specification is whole. `chunking.py` needs Python alone, `reader.py`
//! also the packages `blake3` and `zstandard`, and for encrypted repositories `cryptography` and `argon2-cffi`; `.ci/run` puts a
//! `python3` with all of them first into `PATH`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vault::backend::{Backend, LocalFolder};
use vault::backup::{BackupOptions, backup};
use vault::event::{Observer, Silent};
use vault::forget::{Statement, forget, hold};
use vault::repository::Scope;

use super::package;
use crate::support::manifest::Manifest;
use crate::support::needs::needs;
use crate::support::repository::{self, PASSPHRASE, is_encrypted};
use crate::support::scratch::Scratch;
use crate::support::torture::{self, Options, Random};

/// The Python that can run `reader.py`.
pub fn python() -> PathBuf {
    let found =
        Command::new("python3").args(["-c", "import argon2, blake3, cryptography, zstandard"]).output();
    assert!(
        found.is_ok_and(|out| out.status.success()),
        "the tests of spec/reader.py need a python3 with its packages first in PATH, as .ci/run \
         makes it: python3 -m venv target/python && target/python/bin/pip install argon2-cffi blake3 cryptography zstandard"
    );
    "python3".into()
}

pub fn run(python: &Path, args: &[impl AsRef<OsStr>]) -> Output {
    command(python, args).output().unwrap()
}

pub fn command(python: &Path, args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(python);
    command.arg("-B").args(args).current_dir(package().join("spec")).env_remove("VAULT_PASSPHRASE");
    command
}

#[track_caller]
pub fn assert_done(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn cut_2_cut_3_cut_4_python_cuts_as_the_vectors_say() {
    needs!("python3");
    assert_done(&run(Path::new("python3"), &["chunking.py"]));
}

#[test]
fn reader_py_is_two_short_files() {
    for file in ["spec/reader.py", "spec/reader_bytes.py"] {
        let text = super::text(file);
        assert!(text.lines().count() < 400 && text.lines().all(|line| line.chars().count() <= 120), "{file}");
    }
}

/// All structures of the vectors that `reader.py` has a use for.
#[test]
fn python_decodes_the_vectors() {
    needs!("python3 with the packages of spec/reader.py");
    let script = "
import reader
done = 0
for line in open('vectors/v1/structures.txt', encoding='ascii'):
    head, data = line.split(': ')
    form = head.split(' ')[0]
    if form in reader.STRUCTS or form in reader.ENUMS:
        reader.decode(bytes.fromhex(data), form)
        done += 1
assert done >= 20, done
";
    assert_done(&run(&python(), &["-c", script]));
}

/// A repository `repository` with a snapshot of the folder `source`, both in `at`.
fn saved(at: &Scratch) {
    let backend: Arc<dyn Backend> = Arc::new(LocalFolder::new(at.join("repository")));
    repository::init(&*backend).unwrap();
    let repository = repository::open(backend).unwrap();
    let observer: Arc<dyn Observer> = Arc::new(Silent);
    let mut options = BackupOptions::new(vec![at.join("source")]);
    options.as_path = Some(b"saved".to_vec());
    backup(&repository, options, &observer, &AtomicBool::new(false)).unwrap();
}

/// Runs `reader.py` on the repository in `at`; its exit code and what it said.
#[track_caller]
fn reader(at: &Scratch, args: &[&str], code: i32) -> String {
    let (place, target) = (at.join("repository"), at.join("restored"));
    crate::support::scratch::remove_tree(&target).unwrap();
    let mut words = vec![OsStr::new("reader.py"), place.as_os_str()];
    words.extend(args.iter().map(OsStr::new));
    if args[0] == "restore" {
        words.push(target.as_os_str());
    }
    let mut command = command(&python(), &words);
    if is_encrypted() {
        command.env("VAULT_PASSPHRASE", PASSPHRASE);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    said
}

#[test]
fn python_restores_a_tree_with_one_of_everything() {
    needs!("root", "python3 with the packages of spec/reader.py");
    let at = Scratch::new();
    let left_out =
        torture::build(&at.dir("source"), Options { depth: 2000, sparse_gb: 5, ..Options::default() });
    saved(&at);
    reader(&at, &["verify"], 0);
    reader(&at, &["restore", "latest:saved"], 0);
    let (before, after) = (Manifest::of(&at.join("source")), Manifest::of(&at.join("restored")));
    assert_eq!(before.diff(&after), [""; 0], "not in the source itself: {left_out:?}");
    // Without segments the frames tell where everything is.
    fs::remove_dir_all(at.join("repository/index")).unwrap();
    reader(&at, &["restore", "latest:saved"], 13);
    assert_eq!(before.diff(&Manifest::of(&at.join("restored"))), [""; 0]);
}

#[test]
fn rec_3_python_takes_no_forgotten_snapshot_for_the_latest_unless_it_is_held() {
    needs!("python3 with the packages of spec/reader.py");
    let at = Scratch::new();
    fs::write(at.dir("source").join("a"), "of a snapshot").unwrap();
    saved(&at);
    let repository = repository::open(Arc::new(LocalFolder::new(at.join("repository")))).unwrap();
    let ids = repository.snapshot_ids().unwrap();
    let statement = Statement { scope: Scope::AllCopies, host: String::new(), reason: String::new() };
    reader(&at, &["restore", "latest"], 0);
    forget(&repository, &ids, &statement).unwrap();
    reader(&at, &["restore", "latest"], 1);
    reader(&at, &["restore", &ids[0].to_string()], 0);
    hold(&repository, &ids, &statement).unwrap();
    reader(&at, &["restore", "latest"], 0);
}

/// The only file below a folder of the repository that passes.
fn stored(at: &Scratch, folder: &str, passes: impl Fn(&Path) -> bool) -> PathBuf {
    let mut found: Vec<PathBuf> = walkdir::WalkDir::new(at.join("repository").join(folder))
        .into_iter()
        .map(|entry| entry.unwrap().into_path())
        .filter(|path| path.is_file() && passes(path))
        .collect();
    assert_eq!(found.len(), 1, "{folder}: {found:?}");
    found.remove(0)
}

/// Changes the byte at `offset`, or so many before the end.
fn flip(path: &Path, offset: i64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let from_end = file.metadata().unwrap().len().wrapping_add_signed(offset);
    let at = u64::try_from(offset).unwrap_or(from_end);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

#[test]
fn python_names_damage_and_restores_the_rest() {
    needs!("python3 with the packages of spec/reader.py");
    let at = Scratch::new();
    let source = at.dir("source");
    for (name, seed) in [("first", 1), ("second", 2), ("third", 3)] {
        // Each of them fills frames of its own.
        fs::write(source.join(name), Random(seed).bytes(5 << 20)).unwrap();
    }
    saved(&at);
    let kind = |wanted: u8| move |path: &Path| fs::read(path).unwrap()[10] == wanted;
    let (data, trees) = (stored(&at, "packs", kind(1)), stored(&at, "packs", kind(2)));

    // What restoring does not need: named, and nothing is lost.
    for (file, offset) in
        [(at.join("repository/config"), 60), (data.clone(), -1), (stored(&at, "index", |_| true), -20)]
    {
        flip(&file, offset);
        let name = file.strip_prefix(at.join("repository")).unwrap().to_str().unwrap();
        assert!(reader(&at, &["verify"], 13).contains(name), "{name}");
        let code = if file == data { 0 } else { 13 };
        reader(&at, &["restore", "latest:saved"], code);
        assert_eq!(Manifest::of(&source).diff(&Manifest::of(&at.join("restored"))), [""; 0], "{name}");
        flip(&file, offset);
    }

    // One frame: exactly the files that have a part in it.
    flip(&data, 3 << 20);
    let said = reader(&at, &["verify"], 13);
    assert!(said.contains(data.file_name().unwrap().to_str().unwrap()), "{said}");
    let said = reader(&at, &["restore", "latest:saved"], 13);
    let whole = |name: &str| {
        fs::read(at.join("restored").join(name)).ok() == Some(fs::read(source.join(name)).unwrap())
    };
    let lost: Vec<&str> = ["first", "second", "third"].into_iter().filter(|name| !whole(name)).collect();
    assert!(!lost.is_empty() && lost.len() < 3, "{lost:?}");
    for name in ["first", "second", "third"] {
        assert_eq!(said.contains(&format!("damage: {name}: ")), lost.contains(&name), "{name}: {said}");
        assert_eq!(at.join("restored").join(name).exists(), !lost.contains(&name), "{name}");
    }
    flip(&data, 3 << 20);

    // The root is lost, and that is said; then all is well again.
    flip(&trees, 230);
    assert!(reader(&at, &["restore", "latest:saved"], 13).contains("FRAME-2"));
    flip(&trees, 230);
    assert_eq!(reader(&at, &["verify"], 0), "0 damaged, 0 failed\n");
}
