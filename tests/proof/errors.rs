//! An error anywhere: each call about files fails once, is interrupted, or reads and writes less than it was asked to.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use nix::errno::Errno;

use super::case::Case;
use super::place::Place;
use super::{Counts, is_nightly, picked};
use crate::support::needs::needs;
use crate::support::tracer::{Act, Call, traced};
use crate::support::vault::{Output, Vault};
use crate::whole::world::files_below;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Fails(Errno),
    Short,
    /// From then on no read of that file succeeds: a sector that goes bad meanwhile.
    GoesBad,
    /// No second read of that file does, so each time that it is looked at once more: a disk that fails now and then.
    ComesAndGoes,
}

/// How many calls of a command meet with each of them in the gate.
pub const FAULTS: [(Fault, usize); 6] = [
    (Fault::Fails(Errno::EIO), 5),
    (Fault::Fails(Errno::ENOSPC), 3),
    (Fault::Fails(Errno::EINTR), 2),
    (Fault::Short, 2),
    (Fault::GoesBad, 2),
    (Fault::ComesAndGoes, 2),
];

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fails(errno) => write!(f, "{errno:?}"),
            Self::Short => write!(f, "a short read or write"),
            Self::GoesBad => write!(f, "a file that goes bad"),
            Self::ComesAndGoes => write!(f, "a file that fails now and then"),
        }
    }
}

impl Fault {
    /// Whether it can happen to this call.
    fn fits(self, call: &Call) -> bool {
        let name = call.name().unwrap_or_default();
        let is_open = name.starts_with("open");
        match self {
            Self::Short => call.reads() || call.writes(),
            Self::GoesBad | Self::ComesAndGoes => call.reads(),
            Self::Fails(Errno::ENOSPC) => call.changes() && !name.starts_with("unlink"),
            Self::Fails(Errno::EINTR) => call.reads() || call.writes() || call.syncs() || is_open,
            Self::Fails(_) => match name {
                // These ask for nothing of the medium.
                "fcntl" | "lseek" => false,
                "read" | "readv" | "pread64" | "preadv" => call.reads(),
                "write" | "writev" | "pwrite64" | "pwritev" => call.writes(),
                _ => true,
            },
        }
    }

    /// Which of so many calls meet with it: by night all, or one in so many; of reads, which are few, all in any case.
    pub fn picks(self, total: usize, most: usize) -> Vec<usize> {
        if is_nightly() && matches!(self, Self::GoesBad | Self::ComesAndGoes) {
            return (0..total).collect();
        }
        picked(total as u64, total, most)
    }

    fn act(self) -> Act {
        match self {
            Self::Fails(errno) => Act::Fail(errno),
            Self::Short => Act::Half,
            Self::GoesBad | Self::ComesAndGoes => Act::Fail(Errno::EIO),
        }
    }

    /// Whether nobody is to notice.
    pub fn is_invisible(self) -> bool {
        matches!(self, Self::Short | Self::Fails(Errno::EINTR))
    }

    /// What is wrong with how a run has ended.
    pub fn unfit(self, output: &Output) -> Option<String> {
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &output.stderr;
        let is_named = |errno: Errno| {
            let text = std::io::Error::from_raw_os_error(errno as i32).to_string();
            said.contains(text.split(" (").next().unwrap()) && said.contains('/')
        };
        let errno = match self {
            Self::Fails(errno) => errno,
            Self::Short | Self::GoesBad | Self::ComesAndGoes => Errno::EIO,
        };
        let why = match (self, output.status.code()) {
            (_, None) => "it did not end by itself",
            _ if said.contains("panicked") => "it panicked",
            (_, Some(0)) => return None,
            _ if self.is_invisible() => "it noticed",
            _ if !is_named(errno) => "it names no path, or not the error",
            _ => return None,
        };
        Some(format!("{why}: {}", output.report()))
    }
}

/// Runs the command while the call of this number of those that it fits meets with a fault; and how many of these calls there were.
pub fn run(vault: &Vault, words: &[&str], fault: Fault, at: usize) -> (Output, usize, String) {
    let (mut calls, mut met) = (0, String::new());
    // The file that is bad from then on, and how often it was read since.
    let (mut bad, mut reads) = (None, 0);
    let output = traced(vault, words, |call| {
        if !fault.fits(call) || is_like_others(call) {
            return Act::Go;
        }
        calls += 1;
        if calls == at + 1 {
            let (path, file) = (call.path(), call.file());
            met = format!("{} {}", call.name().unwrap_or_default(), path.unwrap_or_default());
            bad = file.filter(|_| matches!(fault, Fault::GoesBad | Fault::ComesAndGoes));
            return fault.act();
        }
        if bad.is_none() || call.file() != bad {
            return Act::Go;
        }
        reads += 1;
        if fault == Fault::GoesBad || reads % 2 == 0 { fault.act() } else { Act::Go }
    });
    (output, calls, met)
}

/// Whether it is about one of the 256 folders of packs that are not tried: they are gone through alike, and there are 16 others.
fn is_like_others(call: &Call) -> bool {
    let path = call.path().unwrap_or_default();
    let name = path.rsplit_once("/packs/").map(|(_, name)| name);
    name.is_some_and(|name| name.len() == 2 && !name.ends_with('7'))
}

fn met_with(name: &str, case: &Case, fault: Fault, most: usize) -> Counts {
    case.place.reset();
    let before = case.place.restorable("repository", &case.place.told);
    let (_, total, _) = run(&case.place.vault, &case.words(), fault, usize::MAX - 1);
    let mut counts = Counts::default();
    for at in fault.picks(total, most) {
        case.place.reset();
        let (output, _, met) = run(&case.place.vault, &case.words(), fault, at);
        counts.tried += usize::from(!met.is_empty());
        let mut violations: Vec<String> = fault.unfit(&output).into_iter().collect();
        violations.extend(case.wrong_after(&output, &before));
        let what = violations.into_iter().map(|what| format!("{name}, {fault} at {at}, {met}: {what}"));
        counts.violations.extend(what);
    }
    counts
}

/// One test for each case, so that they run beside one another.
macro_rules! faulty {
    ($($test:ident: $name:literal;)+) => {
        $(#[test]
        fn $test() {
            stands($name);
        })+

        #[test]
        fn no_case_is_left_out() {
            let tested = [$($name),+];
            assert!(super::case::CASES.iter().map(|(name, _)| *name).eq(tested), "{tested:?}");
        }
    };
}

faulty! {
    an_error_anywhere_in_an_init: "init";
    an_error_anywhere_in_a_first_snapshot: "first snapshot";
    an_error_anywhere_in_a_snapshot: "snapshot with a parent";
    an_error_anywhere_in_a_snapshot_after_a_killed_one: "snapshot after one that was killed";
    an_error_anywhere_in_a_first_mirror: "first mirror";
    an_error_anywhere_in_a_mirror: "mirror";
    an_error_anywhere_in_a_restore: "restore";
    an_error_anywhere_in_a_restore_over_what_is_there: "restore over what is there";
    an_error_anywhere_in_a_forget: "forget";
    an_error_anywhere_in_a_prune: "prune";
    an_error_anywhere_in_a_repair: "repair";
    an_error_anywhere_in_a_heal: "heal";
    an_error_anywhere_in_a_parity_add: "parity add";
    an_error_anywhere_in_a_rewrite: "rewrite";
    an_error_anywhere_in_a_merge: "merge";
    an_error_anywhere_in_a_copy: "copy";
    an_error_anywhere_in_a_key_change: "key change";
}

fn stands(name: &str) {
    needs!("root", "sh");
    let Some(case) = Case::of(name) else { return };
    case.place.save();
    let mut violations = Vec::new();
    for (fault, most) in FAULTS {
        let mut counts = met_with(name, &case, fault, most);
        println!(
            "error anywhere, {name}, {fault}: {} calls, {} violations",
            counts.tried,
            counts.violations.len()
        );
        assert!(counts.tried > 0, "{name}: {fault} fits no call");
        violations.append(&mut counts.violations);
    }
    for fault in [Fault::Fails(Errno::EINTR), Fault::Short] {
        violations.extend(goes_unnoticed_everywhere(name, &case, fault));
    }
    assert!(violations.is_empty(), "{}", violations.join("\n\n"));
}

/// One run in which every second call of each thread meets with the fault: each call is repeated, or goes on with what is left.
fn goes_unnoticed_everywhere(name: &str, case: &Case, fault: Fault) -> Vec<String> {
    case.place.reset();
    let mut calls: HashMap<i32, usize> = HashMap::new();
    let output = traced(&case.place.vault, &case.words(), |call| {
        if !fault.fits(call) {
            return Act::Go;
        }
        let count = calls.entry(call.thread()).or_default();
        *count += 1;
        if *count % 2 == 1 { fault.act() } else { Act::Go }
    });
    let met: usize = calls.values().map(|count| count.div_ceil(2)).sum();
    println!("error anywhere, {name}, {fault}: {met} calls in one run");
    assert!(met > 10);
    let mut violations: Vec<String> = fault.unfit(&output).into_iter().collect();
    if !output.status.success() {
        violations.push(format!("it noticed: {}", output.report()));
    }
    let told = case.told_after(case.place.told.clone(), &output);
    violations.extend(case.undone(&told));
    violations.extend(case.again(told));
    violations.into_iter().map(|what| format!("{name}, {fault} everywhere: {what}")).collect()
}

#[test]
fn what_could_not_be_set_is_named_with_its_path_and_the_error() {
    needs!("root", "sh");
    let case = Case::of("restore").unwrap();
    case.place.save();
    let output = traced(&case.place.vault, &case.words(), |call| {
        if call.name() == Some("utimensat") { Act::Fail(Errno::ENOSPC) } else { Act::Go }
    });
    let output = output.code(1);
    assert!(output.stderr.contains("time of modification ("), "{}", output.report());
    assert!(
        output.stderr.contains("; first /") && output.stderr.contains(": No space left"),
        "{}",
        output.report()
    );
    case.place.reset();
    let output = traced(&case.place.vault, &case.words(), |call| {
        if call.name() == Some("linkat") { Act::Fail(Errno::EIO) } else { Act::Go }
    });
    let output = output.code(1);
    assert!(output.stderr.contains("hard link (1; first /"), "{}", output.report());
    assert!(output.stderr.contains(": Input/output error"), "{}", output.report());
}

#[test]
fn a_folder_above_the_target_that_cannot_be_read_is_not_called_a_repository() {
    needs!("root", "sh");
    let case = Case::of("restore").unwrap();
    let output = traced(&case.place.vault, &case.words(), |call| {
        let is_at_root = call.name() == Some("openat2") && call.file().as_deref() == Some("/");
        if is_at_root { Act::Fail(Errno::EIO) } else { Act::Go }
    });
    output.code(1).says("cannot look for a repository in /: Input/output error");
}

#[test]
fn an_error_about_a_file_of_the_repository_says_where_that_is() {
    needs!("root", "sh");
    let case = Case::of("first snapshot").unwrap();
    let output = traced(&case.place.vault, &["snapshot", &case.place.text("source")], |call| {
        if call.syncs() { Act::Fail(Errno::EIO) } else { Act::Go }
    });
    assert!(!output.status.success());
    let place = format!("(in {})", case.place.text("repository"));
    assert!(output.stderr.contains(&place), "{}", output.report());
}

#[test]
fn an_error_about_the_other_repository_says_where_that_is() {
    needs!("root", "sh");
    for (name, other) in [("copy", "drive"), ("copy", "repository"), ("heal", "drive")] {
        let case = Case::of(name).unwrap();
        let folder = format!("{}/index", case.place.text(other));
        let output = traced(&case.place.vault, &case.words(), |call| {
            let is_it = call.lists() && call.file().is_some_and(|listed| listed == folder);
            if is_it { Act::Fail(Errno::EIO) } else { Act::Go }
        });
        assert!(!output.status.success());
        assert!(output.stderr.contains(&case.place.text(other)), "{name}, {other}: {}", output.report());
    }
}

#[test]
fn the_control_of_error_anywhere_finds_errors_that_were_swallowed() {
    needs!("root", "sh");
    let case = Case::of("first snapshot").unwrap();
    case.place.save();
    let stores =
        |call: &Call| call.writes() && call.file().is_some_and(|file| file.contains("/repository/tmp/"));
    let (mut tried, mut found) = (0, 0);
    loop {
        case.place.reset();
        let (mut writes, mut reached) = (0, false);
        let output = traced(&case.place.vault, &case.words(), |call| {
            writes += usize::from(stores(call));
            if reached || writes != tried + 1 {
                return Act::Go;
            }
            reached = true;
            Act::Pretend
        });
        if !reached {
            break;
        }
        tried += 1;
        found += usize::from(
            !case
                .holds(&case.told_after(case.place.told.clone(), &output), &std::collections::BTreeSet::new())
                .is_empty(),
        );
    }
    println!("{tried} writes failed and said that they had not, {found} found");
    assert!(tried > 5 && found > tried / 2, "{found} of {tried}");
}

#[test]
fn a_notice_that_got_its_name_and_could_not_be_synced_is_not_taken_for_that_of_another_run() {
    needs!("root", "sh");
    let case = Case::of("prune").unwrap();
    let mut has_met = false;
    let output = traced(&case.place.vault, &case.words(), |call| {
        let is_it = call.syncs() && call.file().is_some_and(|file| file.ends_with("/repository/sessions"));
        if is_it && !has_met {
            has_met = true;
            return Act::Fail(Errno::ENOSPC);
        }
        Act::Go
    });
    assert!(has_met);
    output.ok();
}

#[test]
fn a_folder_of_which_it_cannot_be_asked_whether_it_is_one_is_not_in_the_way() {
    needs!("root", "sh");
    for name in ["repair", "restore"] {
        let case = Case::of(name).unwrap();
        let mut has_made = false;
        let output = traced(&case.place.vault, &case.words(), |call| {
            let asks = call.name() == Some("statx") && has_made;
            has_made = call.name() == Some("mkdir");
            if asks { Act::Fail(Errno::EIO) } else { Act::Go }
        });
        output.ok();
    }
}

/// What is wrong if any one of the calls fails that read a file of these folders, of the repository or of the drive; and how many there are.
fn each_read_fails(case: &Case, folders: &[&str], one_in: usize) -> Counts {
    case.place.save();
    let before = case.place.restorable("repository", &case.place.told);
    let mut counts = Counts::default();
    for at in (0..).step_by(one_in) {
        case.place.reset();
        let (mut reads, mut met) = (0, None);
        let output = traced(&case.place.vault, &case.words(), |call| {
            let file = call.file().unwrap_or_default();
            let is_it = call.reads() && folders.iter().any(|folder| file.contains(folder));
            reads += usize::from(is_it);
            if !is_it || reads != at + 1 {
                return Act::Go;
            }
            met = Some(file);
            Act::Fail(Errno::EIO)
        });
        let Some(file) = met else { break };
        counts.tried += 1;
        let mut violations: Vec<String> = Fault::Fails(Errno::EIO).unfit(&output).into_iter().collect();
        violations.extend(case.wrong_after(&output, &before));
        let what =
            violations.into_iter().map(|what| format!("{}, {file}: {what}\n{}", case.name, output.report()));
        counts.violations.extend(what);
    }
    counts
}

#[test]
fn rec_4_a_snapshot_that_was_brought_back_stays_when_records_cannot_be_read_each_time() {
    needs!("root", "sh");
    let place = Place::with_snapshots();
    let first = place.told[0].id.clone();
    place.run(&["forget", "-q", &first]).ok();
    let forgets = files_below(&place.join("repository/records"));
    place.run(&["undo", "-q", &first]).ok();
    let mut records = files_below(&place.join("repository/records"));
    records.retain(|record| !forgets.contains(record));
    let undoes = records.pop().unwrap();
    place.save();
    // Of its reads every second one fails, or two of three.
    for fails in [|read| read % 2 == 0, |read| read % 2 == 1, |read| read % 3 != 1, |read| read % 3 != 2] {
        place.reset();
        let mut reads = 0;
        let output = traced(&place.vault, &["prune", "--force", "--max-unused", "0"], |call| {
            let is_it = call.reads() && call.file().is_some_and(|file| Path::new(&file) == undoes);
            reads += usize::from(is_it);
            if is_it && fails(reads) { Act::Fail(Errno::EIO) } else { Act::Go }
        });
        assert!(reads > 0);
        let lost = place.violations("repository", &place.told);
        assert!(lost.is_empty(), "{}\n{}", lost.join("\n"), output.report());
    }
}

#[test]
fn what_cannot_be_read_the_second_time_is_not_passed_over() {
    needs!("root", "sh");
    let few = if is_nightly() { 1 } else { 8 };
    for (name, folders, one_in) in [
        ("prune", &["/records/", "/snapshots/"][..], 1),
        ("prune", &["/index/"], few),
        ("heal", &["/records/", "/snapshots/"], 1),
        ("repair", &["/records/", "/snapshots/"], 1),
    ] {
        let counts = each_read_fails(&Case::of(name).unwrap(), folders, one_in);
        assert!(counts.violations.is_empty(), "{}", counts.violations.join("\n\n"));
        assert!(counts.tried >= 6, "{name}: {}", counts.tried);
    }
}

#[test]
fn a_key_that_cannot_be_read_is_not_taken_for_one_that_is_gone() {
    needs!("root", "sh");
    let Some(case) = Case::of("key change") else { return };
    let counts = each_read_fails(&case, &["/keys/"], 1);
    assert!(counts.violations.is_empty(), "{}", counts.violations.join("\n\n"));
    assert!(counts.tried >= 4, "{}", counts.tried);
}

#[test]
fn what_a_mirror_does_without_is_told_with_the_error() {
    needs!("root", "sh");
    let counts = each_read_fails(&Case::of("mirror").unwrap(), &["/drive/config", "/drive/copy"], 1);
    assert!(counts.violations.is_empty(), "{}", counts.violations.join("\n\n"));
    assert!(counts.tried >= 3, "{}", counts.tried);
}

#[test]
fn what_heal_has_no_room_for_is_named_with_its_place() {
    needs!("root", "sh");
    let case = Case::of("heal").unwrap();
    case.place.save();
    for at in (0..).step_by(12) {
        case.place.reset();
        let fault = Fault::Fails(Errno::ENOSPC);
        let (output, _, met) = run(&case.place.vault, &case.words(), fault, at);
        assert_eq!(fault.unfit(&output), None, "{met}");
        if met.is_empty() {
            assert!(at > 100, "{at}");
            break;
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named_too_when_the_run_then_fails() {
    needs!("root", "sh");
    for name in ["heal", "repair"] {
        let case = Case::of(name).unwrap();
        let mut bad = None;
        let output = traced(&case.place.vault, &case.words(), |call| {
            let path = call.path().filter(|path| path.contains("/repository/packs/"));
            if call.renames() && bad.is_some() {
                return Act::Fail(Errno::ENOSPC);
            }
            let is_read = call.name() == Some("pread64") && path.is_some();
            if is_read && (bad.is_none() || bad == path) {
                bad = path;
                return Act::Fail(Errno::EIO);
            }
            Act::Go
        });
        let output = output.code(14);
        let named = format!("cannot read {}: ", bad.unwrap());
        assert!(output.stderr.contains(&named), "{name}: {named} {}", output.report());
    }
}
