//! Rot that the real program meets: something else than a file in the place of one, and whatever the computer keeps for itself full of garbage.
//! Every byte, block and length of a repository's files is changed in `tests/damage.rs`.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::place::Place;
use super::{Counts, is_nightly};
use crate::support::manifest::Manifest;
use crate::support::needs::needs;
use crate::support::scratch;
use crate::support::vault::Output;
use crate::whole::garbage::garbage;
use crate::whole::world::{files_below, settle};

/// What stands in the place of a file.
#[derive(Debug, Clone, Copy)]
enum Instead {
    Folder,
    FullFolder,
    /// To the file itself, at another place.
    Link,
    LinkToItself,
    Fifo,
    Socket,
    /// One that never ends.
    Device,
}

const INSTEAD: [Instead; 7] = [
    Instead::Folder,
    Instead::FullFolder,
    Instead::Link,
    Instead::LinkToItself,
    Instead::Fifo,
    Instead::Socket,
    Instead::Device,
];

impl Instead {
    /// Puts it in the place of a file, which goes to `aside`.
    fn put(self, file: &Path, aside: &Path) {
        fs::rename(file, aside).unwrap();
        let name = CString::new(file.to_str().unwrap()).unwrap();
        match self {
            Self::Folder => fs::create_dir(file).unwrap(),
            Self::FullFolder => {
                fs::create_dir(file).unwrap();
                fs::write(file.join("something"), "something").unwrap();
            }
            Self::Link => symlink(aside, file).unwrap(),
            Self::LinkToItself => symlink(file.file_name().unwrap(), file).unwrap(),
            Self::Fifo => make_node(&name, rustix::fs::FileType::Fifo, 0),
            // A path may be too long for it.
            Self::Socket => {
                let short = file.parent().unwrap().join("s");
                let bound = UnixListener::bind(&short).map(|_| fs::rename(&short, file).unwrap());
                bound.unwrap_or_else(|_| make_node(&name, rustix::fs::FileType::Socket, 0));
            }
            Self::Device => {
                make_node(&name, rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 5));
            }
        }
    }
}

fn make_node(name: &CString, kind: rustix::fs::FileType, device: u64) {
    rustix::fs::mknodat(rustix::fs::CWD, name, kind, rustix::fs::Mode::RWXU, device).unwrap();
}

/// What is wrong with how any run ends.
fn unfit(output: &Output) -> Option<String> {
    match output.status.code() {
        None => Some(format!("it did not end by itself: {}", output.report())),
        _ if output.stderr.contains("panicked") => Some(format!("it panicked: {}", output.report())),
        Some(0) => None,
        _ if output.stderr.trim().is_empty() && output.text().trim().is_empty() => {
            Some("it says nothing".into())
        }
        _ => None,
    }
}

/// A restore of the newest snapshot, and whether that is another tree and was said to be right.
fn restore(place: &Place, right: &Manifest) -> (Output, Option<String>) {
    let target = place.join("restored");
    let selector = format!("latest:{}", place.text("source"));
    let output = place.run(&["restore", "-q", &selector, "--target", target.to_str().unwrap()]);
    let differs = !target.exists() || !right.diff(&Manifest::of(&target)).is_empty();
    if target.exists() {
        scratch::remove_tree(&target).unwrap();
    }
    let why = (output.status.success() && differs)
        .then(|| format!("a wrong tree with success: {}", output.report()));
    (output, why)
}

#[test]
fn something_else_in_the_place_of_a_file_is_named_and_nothing_hangs() {
    needs!("root");
    let mut place = Place::with_snapshots();
    let drive = place.text("drive");
    place.run(&["mirror", "-q", "--new", &drive]).ok();
    place.on_drive = Some(2);
    place.save();
    let right = Manifest::of(&place.join("source"));
    let mut counts = Counts::default();
    let repository = place.join("repository");
    for (number, file) in files_below(&repository).into_iter().enumerate() {
        let name = file.strip_prefix(&repository).unwrap().to_str().unwrap().to_owned();
        for (kind, instead) in INSTEAD.into_iter().enumerate() {
            if !is_nightly() && (number + kind) % 2 == 1 {
                continue;
            }
            place.reset();
            let aside = place.join("cache/aside");
            instead.put(&file, &aside);
            counts.tried += 1;
            let mut violations = questioned(&place, &name, &right);
            // What puts it right, or says that it cannot.
            for args in [&["heal", "--from", &drive][..], &["check", "-q", "--read-data"]] {
                violations.extend(unfit(&place.run(args)));
            }
            // The other copy is as it was.
            violations.extend(place.violations("drive", &place.told));
            counts
                .violations
                .extend(violations.into_iter().map(|what| format!("{name}, {instead:?}: {what}")));
        }
    }
    println!("rot, other kinds: {} tried, {} violations", counts.tried, counts.violations.len());
    assert!(counts.violations.is_empty(), "{}", counts.violations.join("\n\n"));
    assert!(counts.tried > 30, "{}", counts.tried);
}

/// What is wrong with what is said and done while there is something else in the place of a file.
fn questioned(place: &Place, name: &str, right: &Manifest) -> Vec<String> {
    let check = place.run(&["check", "--read-data"]);
    let mut violations: Vec<String> = unfit(&check).into_iter().collect();
    // Nothing is read from it; and segments are shortcuts.
    let (is_unread, is_slack) = (name == "reserve", name.starts_with("index/"));
    let said = check.text().to_owned() + &check.stderr;
    // Of the only key there is nothing is opened, and that is said.
    let is_told = name.starts_with("keys/") && said.contains("all its keys are missing");
    if !is_unread && !is_told && !said.contains(name) {
        violations.push(format!("it is not named: {}", check.report()));
    }
    if !is_unread && !is_slack && check.status.success() {
        violations.push(format!("that is called a success: {}", check.report()));
    }
    let (output, wrong) = restore(place, right);
    violations.extend(unfit(&output).into_iter().chain(wrong));
    let source = place.text("source");
    for args in [&["snapshots"][..], &["snapshot", &source], &["prune"], &["mirror", &place.text("drive")]] {
        violations.extend(unfit(&place.run(args)));
    }
    violations
}

/// What a computer keeps for itself: caches and memories, by which copy they are of.
fn kept(place: &Place) -> Vec<PathBuf> {
    let files = ["cache", "state"].map(|folder| files_below(&place.join(folder)));
    let mut files = files.concat();
    files.retain(|file| file.file_name().unwrap() != "CACHEDIR.TAG");
    files
}

/// A repository with a mirror, of which this computer remembers all that it can.
fn remembered() -> Place {
    let mut place = Place::with_snapshots();
    let drive = place.text("drive");
    place.run(&["mirror", "-q", "--new", "--verify", &drive]).ok();
    settle();
    place.snapshot();
    place.run(&["mirror", "-q", &drive]).ok();
    place.run(&["check", "-q", "--max-age", "30d"]).ok();
    place
}

/// What is wrong with the answers of a place, where nothing is wrong but what the computer keeps for itself.
fn answers(place: &Place, right: &Manifest, listed: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut succeeds = |args: &[&str]| {
        let output = place.run(args);
        if !output.status.success() || output.stderr.contains("panicked") {
            wrong.push(format!("{args:?}: {}", output.report()));
        }
        output
    };
    let found = succeeds(&["snapshots", "--json"]).text().to_owned();
    let drive = place.text("drive");
    succeeds(&["mirror", "-q", &drive]);
    succeeds(&["check", "-q", "--max-age", "30d"]);
    succeeds(&["prune", "-q"]);
    let taken = succeeds(&["snapshot", "--json", &place.text("source")]);
    let differs = succeeds(&["diff", &place.told[2].id, "latest"]).text().to_owned();
    if found != listed {
        wrong.push(format!("other snapshots: {found}"));
    }
    if !differs.is_empty() || super::place::told_id(&taken).is_none() {
        wrong.push(format!("the snapshot has other trees: {differs}"));
    }
    let (output, why) = restore(place, right);
    wrong.extend(why);
    if !output.status.success() {
        wrong.push(format!("it does not come back: {}", output.report()));
    }
    wrong
}

#[test]
fn whatever_is_wrong_with_what_the_computer_keeps_for_itself_no_answer_is() {
    needs!("root");
    let place = remembered();
    place.save();
    let right = Manifest::of(&place.join("source"));
    let listed = place.run(&["snapshots", "--json"]).ok().text().to_owned();
    assert_eq!(answers(&place, &right, &listed), [""; 0]);
    let files = kept(&place);
    // The index, the local state and its header; what was seen, what was verified, and what the mirror had.
    assert!(files.len() >= 6, "{files:?}");
    let mut counts = Counts::default();
    for (number, file) in files.iter().enumerate() {
        let most = if is_nightly() { 250 } else { 3 };
        place.reset();
        let good = fs::read(file).unwrap();
        let other = &files[(number + 1) % files.len()];
        let mut kinds = garbage(&good, place.vault.path(), number as u64, most);
        kinds.push(("another of them".to_owned(), fs::read(other).unwrap()));
        for (what, bad) in kinds.into_iter().filter(|(_, bad)| *bad != good) {
            place.reset();
            fs::write(file, &bad).unwrap();
            counts.tried += 1;
            let wrong = answers(&place, &right, &listed);
            counts
                .violations
                .extend(wrong.into_iter().map(|why| format!("{what} in {}: {why}", file.display())));
        }
        for instead in INSTEAD {
            place.reset();
            instead.put(file, &place.join("aside"));
            counts.tried += 1;
            let wrong = answers(&place, &right, &listed);
            counts
                .violations
                .extend(wrong.into_iter().map(|why| format!("{instead:?} as {}: {why}", file.display())));
            if let Ok(aside) = fs::symlink_metadata(place.join("aside")) {
                assert!(aside.is_file());
                fs::remove_file(place.join("aside")).unwrap();
            }
        }
    }
    println!("rot, local files: {} tried, {} violations", counts.tried, counts.violations.len());
    assert!(counts.violations.is_empty(), "{}", counts.violations.join("\n\n"));
    assert!(counts.tried > 100, "{}", counts.tried);
}

#[test]
fn the_control_of_rot_finds_what_is_wrong() {
    needs!("root");
    let place = remembered();
    place.save();
    let right = Manifest::of(&place.join("source"));
    let listed = place.run(&["snapshots", "--json"]).ok().text().to_owned();
    // A file that the computer takes for the repository's; and a source that is another one.
    let packs = files_below(&place.join("repository/packs"));
    let pack = packs.into_iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).unwrap();
    fs::write(place.join("source/another"), "file").unwrap();
    let found = answers(&place, &right, &listed);
    println!("rot, control: {} answers are wrong", found.len());
    for wrong in ["other trees", "does not come back"] {
        assert!(found.iter().any(|why| why.contains(wrong)), "{found:?}");
    }
    place.reset();
    fs::remove_file(place.join("source/another")).unwrap();
    // Nothing is there to be named.
    assert!(questioned(&place, "packs/00", &right).iter().any(|what| what.contains("not named")));
}
