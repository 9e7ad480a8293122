//! A folder whose listing fails, is short or has nothing in it, as a failing drive shows it: never does it look like a repository in which there
//! is less than there is.

use std::collections::BTreeSet;
use std::fs;

use nix::errno::Errno;

use super::case::{CASES, Case, case};
use super::place::Place;
use super::readers::questions;
use super::{Counts, sample};
use crate::support::needs::needs;
use crate::support::repository::is_encrypted;
use crate::support::torture::Random;
use crate::support::tracer::{Act, Call, traced};
use crate::support::vault::Output;

/// The folders of a copy; one of packs stands for all of them.
const FOLDERS: [&str; 9] =
    ["", "packs", "packs/*", "index", "snapshots", "records", "keys", "sessions", "marks"];

/// How a folder is shown, each time that it is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// Not at all.
    Fails,
    /// With nothing in it.
    Empty,
    /// With one file, or a few that have short names.
    Short,
}

/// All of them.
const SHOWN: [Shown; 3] = [Shown::Fails, Shown::Empty, Shown::Short];
/// Room for the two names that every folder has, and for one of 64 letters.
const ONE_NAME: u64 = 24 + 24 + 88;

/// Who lists a folder of this copy, and what is shown.
struct Liar {
    folder: String,
    is_all_packs: bool,
    shown: Shown,
    met: usize,
}

impl Liar {
    fn new(place: &Place, copy: &str, folder: &str, shown: Shown) -> Self {
        let is_all_packs = folder == "packs/*";
        let at = if is_all_packs { place.join(copy).join("packs") } else { place.join(copy).join(folder) };
        let folder = at.to_str().unwrap().trim_end_matches('/').to_owned();
        Self { folder, is_all_packs, shown, met: 0 }
    }

    fn act(&mut self, call: &Call) -> Act {
        if !call.lists() {
            return Act::Go;
        }
        let Some(listed) = call.file() else { return Act::Go };
        let is_it = match listed.strip_prefix(&self.folder) {
            Some("") => !self.is_all_packs,
            Some(below) => self.is_all_packs && below.starts_with('/'),
            None => false,
        };
        if !is_it {
            return Act::Go;
        }
        self.met += 1;
        match self.shown {
            Shown::Fails => Act::Fail(Errno::EIO),
            Shown::Short if call.is_at_start() => Act::AtMost(ONE_NAME),
            Shown::Empty | Shown::Short => Act::Pretend,
        }
    }
}

/// Runs a command while a folder is shown so, and how often it was.
fn run(place: &Place, args: &[&str], (copy, folder, shown): (&str, &str, Shown)) -> (Output, usize) {
    let mut liar = Liar::new(place, copy, folder, shown);
    let output = traced(&place.vault, args, |call| liar.act(call));
    (output, liar.met)
}

/// What is wrong with how a run has ended.
fn unfit(shown: Shown, output: &Output) -> Option<String> {
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &output.stderr;
    let why = match output.status.code() {
        None => "it did not end by itself",
        _ if said.contains("panicked") => "it panicked",
        Some(0) => return None,
        _ if shown == Shown::Fails && !(said.contains("Input/output error") && said.contains('/')) => {
            "it names no path, or not the error"
        }
        _ if said.trim().is_empty() => "it says nothing",
        _ => return None,
    };
    Some(format!("{why}: {}", output.report()))
}

/// A prune that may not do whatever it likes, in a place where less than half goes.
fn careful_prune() -> Case {
    let mut place = Place::with_repository();
    fs::write(place.join("source/kept"), Random(77).bytes(1_500_000)).unwrap();
    for seed in [10, 20, 30] {
        place.snapshot();
        place.change(seed);
    }
    place.snapshot();
    let second = place.told.remove(1).id;
    place.run(&["forget", "-q", &second]).ok();
    case("prune", place, &["prune", "--max-unused", "0"])
}

/// Every command that changes something, while a folder of a copy is shown in each of these ways.
fn shown_to(name: &str, case: &Case, one_in: usize) -> Counts {
    case.place.save();
    let before = case.place.restorable("repository", &case.place.told);
    let copies: &[&str] =
        if case.place.on_drive.is_some() { &["repository", "drive"] } else { &["repository"] };
    let mut all = Vec::new();
    for copy in copies {
        all.extend(FOLDERS.iter().flat_map(|folder| SHOWN.map(|shown| (*copy, *folder, shown))));
    }
    let mut counts = Counts::default();
    for lie in sample(name.len() as u64, one_in).map_while(|at| all.get(at)) {
        case.place.reset();
        let (output, met) = run(&case.place, &case.words(), *lie);
        if met == 0 {
            continue;
        }
        counts.tried += 1;
        let mut violations: Vec<String> = unfit(lie.2, &output).into_iter().collect();
        violations.extend(case.wrong_after(&output, &before));
        let what = violations.into_iter().map(|what| format!("{name}, {lie:?}: {what}\n{}", output.report()));
        counts.violations.extend(what);
    }
    counts
}

#[test]
fn a_failed_or_short_listing_costs_nothing_and_is_never_a_success_that_is_none() {
    needs!("root", "sh");
    let mut sum = Counts::default();
    for (number, (name, make)) in CASES.iter().enumerate() {
        if *name == "key change" && !is_encrypted() || *name == "init" {
            continue;
        }
        let case = if *name == "prune" { careful_prune() } else { make() };
        let counts = shown_to(name, &case, if *name == "prune" { 2 } else { 5 + number % 3 });
        println!("listing, {name}: {} tried, {} violations", counts.tried, counts.violations.len());
        sum.tried += counts.tried;
        sum.violations.extend(counts.violations);
    }
    assert!(sum.violations.is_empty(), "{}", sum.violations.join("\n\n"));
    assert!(sum.tried > 30, "{}", sum.tried);
}

#[test]
fn a_failed_or_short_listing_gives_no_other_answer() {
    needs!("root", "sh");
    let place = Place::with_snapshots();
    place.save();
    let mut counts = Counts::default();
    for question in questions(&place) {
        let words: Vec<&str> = question.iter().map(String::as_str).collect();
        place.reset();
        let right = place.run(&words).ok();
        for folder in FOLDERS {
            for shown in SHOWN {
                place.reset();
                let (output, met) = run(&place, &words, ("repository", folder, shown));
                if met == 0 {
                    continue;
                }
                counts.tried += 1;
                let mut violations: Vec<String> = unfit(shown, &output).into_iter().collect();
                if output.status.success() && output.stdout != right.stdout {
                    violations.push(format!("another answer: {}", output.report()));
                }
                // One file is all that a folder of packs may have.
                let hides = folder == "snapshots" || (folder == "packs/*" && shown != Shown::Short);
                let is_wrong = hides && words[0] == "check";
                if is_wrong && output.status.success() {
                    violations.push("check finds nothing".to_owned());
                }
                let what =
                    violations.into_iter().map(|what| format!("{words:?}, {folder} {shown:?}: {what}"));
                counts.violations.extend(what);
            }
        }
    }
    println!("listing, answers: {} tried, {} violations", counts.tried, counts.violations.len());
    assert!(counts.violations.is_empty(), "{}", counts.violations.join("\n\n"));
    assert!(counts.tried > 60, "{}", counts.tried);
}

/// A computer that knows nothing of it yet cannot know which snapshots there are, but that there should be some.
#[test]
fn who_has_never_seen_it_is_told_that_there_are_packs_and_no_snapshots() {
    needs!("root", "sh");
    let place = Place::with_snapshots();
    fs::remove_dir_all(place.join("state")).unwrap();
    let (output, met) = run(&place, &["snapshots"], ("repository", "snapshots", Shown::Empty));
    assert!(met > 0);
    output.ok().says("but packs");
}

#[test]
fn the_control_of_listings_finds_what_a_prune_by_force_deletes() {
    needs!("root", "sh");
    let case = careful_prune();
    case.place.save();
    let words = ["prune", "--max-unused", "0", "--force"];
    let (mut tried, mut found) = (0, 0);
    for shown in [Shown::Empty, Shown::Short] {
        case.place.reset();
        let (_, met) = run(&case.place, &words, ("repository", "snapshots", shown));
        assert!(met > 0);
        tried += 1;
        found += usize::from(!case.holds(&case.place.told, &BTreeSet::new()).is_empty());
    }
    println!("listing, control: {found} of {tried} found");
    assert_eq!(found, tried);
}
