//! What a walk leaves out because the user asked for it.

use std::fs;
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, Mode};
use vault::pattern::{CaseFold, Patterns};
use vault::source::{Filter, WalkOptions};

use super::{folder, inner_lines, put};

pub(super) fn excluding(patterns: &[&str]) -> WalkOptions {
    let list = patterns.iter().map(|text| ((*text).to_owned(), CaseFold::Exact));
    let filter = Filter { excludes: Patterns::new(list).expect("patterns"), ..Filter::default() };
    WalkOptions { filter, ..WalkOptions::default() }
}

#[test]
fn excludes_leave_out_what_is_below_the_source_with_all_below() {
    let root = folder();
    for name in ["a.o", "src/b.o", "src/keep.o", "node_modules/x/y", "build/x", "top/build"] {
        put(&root.path().join(name), b"");
    }
    let anchored = format!("/{}/top", root.path().to_str().expect("UTF-8"));
    let options = excluding(&["*.o", "!keep.o", "node_modules", "build/", &anchored, "tmp", ".tmp*"]);
    let expected = [
        "a.o: Excluded",
        "build: Excluded",
        "node_modules: Excluded",
        "+src",
        "b.o: Excluded",
        "keep.o",
        "-",
        "top: Excluded",
    ];
    assert_eq!(inner_lines(root.path(), &options), expected);
}

#[test]
fn excludes_know_a_source_by_the_name_of_the_symlink_too() {
    let root = folder();
    put(&root.path().join("disk/a"), b"");
    put(&root.path().join("disk/b"), b"");
    symlink("disk", root.path().join("data")).expect("linked");
    let at = root.path().to_str().expect("UTF-8");
    let options = excluding(&[&format!("{at}/data/a"), &format!("{at}/disk/b")]);
    assert_eq!(inner_lines(&root.path().join("data"), &options), ["a: Excluded", "b: Excluded"]);
}

#[test]
fn marked_directories_keep_only_their_mark() {
    let root = folder();
    let signature = b"Signature: 8a477f597d28d172789f06886806bc55\n# a cache";
    put(&root.path().join("cache/CACHEDIR.TAG"), signature);
    put(&root.path().join("cache/sub/x"), b"");
    put(&root.path().join("fake/CACHEDIR.TAG"), b"Signature: none");
    put(&root.path().join("marked/.nobackup"), b"");
    put(&root.path().join("marked/x"), b"");
    put(&root.path().join("header/.skip"), b"yes, all");
    put(&root.path().join("header/x"), b"");
    put(&root.path().join("other/.skip"), b"no");
    let filter = Filter {
        exclude_caches: true,
        exclude_if_present: vec![".nobackup".to_owned(), ".skip:yes".to_owned()],
        ..Filter::default()
    };
    let expected = [
        "+cache",
        "CACHEDIR.TAG",
        "sub: Excluded",
        "-",
        "+fake",
        "CACHEDIR.TAG",
        "-",
        "+header",
        ".skip",
        "x: Excluded",
        "-",
        "+marked",
        ".nobackup",
        "x: Excluded",
        "-",
        "+other",
        ".skip",
        "-",
    ];
    assert_eq!(inner_lines(root.path(), &WalkOptions { filter, ..WalkOptions::default() }), expected);
}

#[test]
fn larger_files_are_left_out_and_only_files() {
    let root = folder();
    put(&root.path().join("ten"), &[0; 10]);
    put(&root.path().join("eleven"), &[0; 11]);
    fs::create_dir(root.path().join("dir")).expect("made");
    let filter = Filter { exclude_larger_than: Some(10), ..Filter::default() };
    let options = WalkOptions { filter, ..WalkOptions::default() };
    assert_eq!(inner_lines(root.path(), &options), ["+dir", "-", "eleven: Excluded", "ten"]);
}

#[test]
fn rules_for_git_nest_and_end_at_an_inner_repository() {
    let root = folder();
    for (name, text) in [
        (".gitignore", "*.log\n/only\nout/\nbad[\n"),
        (".git/info/exclude", "*.secret\n!x.log\n"),
        ("a.log", ""),
        ("b.secret", ""),
        ("only", ""),
        ("sub/.gitignore", "!keep.log\nlocal"),
        ("sub/keep.log", ""),
        ("sub/local", ""),
        ("sub/only", ""),
        ("sub/out/x", ""),
        ("sub/x.log", ""),
        ("then/local", ""),
        ("vendor/.git/HEAD", ""),
        ("vendor/x.log", ""),
    ] {
        put(&root.path().join(name), text.as_bytes());
    }
    // A FIFO of that name must not hang the walk.
    fs::create_dir(root.path().join("pipe")).expect("made");
    let fifo = root.path().join("pipe/.gitignore");
    rustix::fs::mknodat(CWD, fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("made");
    let filter = Filter { git_ignore: true, ..Filter::default() };
    let expected = [
        "+.git",
        "+info",
        "exclude",
        "-",
        "-",
        ".gitignore",
        "a.log: Excluded",
        "b.secret: Excluded",
        "only: Excluded",
        "+pipe",
        ".gitignore",
        "-",
        "+sub",
        ".gitignore",
        "keep.log",
        "local: Excluded",
        "only",
        "out: Excluded",
        "x.log: Excluded",
        "-",
        "+then",
        "local",
        "-",
        "+vendor",
        "+.git",
        "HEAD",
        "-",
        "x.log",
        "-",
    ];
    assert_eq!(inner_lines(root.path(), &WalkOptions { filter, ..WalkOptions::default() }), expected);
}
