//! Who only reads: with an error anywhere the answer is the same, or there is none.

use nix::errno::Errno;

use super::Counts;
use super::errors::{FAULTS, run};
use super::place::Place;
use crate::support::manifest::Manifest;
use crate::support::needs::needs;
use crate::support::tracer::{Act, traced};

/// What is asked of a place.
pub fn questions(place: &Place) -> Vec<Vec<String>> {
    let ask = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let (source, target) = (place.text("source"), place.text("target"));
    let text = format!("latest:{source}/folder/text");
    vec![
        ask(&["snapshots", "--json"]),
        ask(&["ls", "-R", "latest"]),
        ask(&["find", "text"]),
        ask(&["cat", &text]),
        ask(&["diff", &place.told[0].id, "latest"]),
        ask(&["du"]),
        ask(&["stats"]),
        ask(&["check", "-q", "--read-data"]),
        ask(&["restore", "-q", &format!("latest:{source}"), "--target", &target]),
    ]
}

#[test]
fn an_error_anywhere_in_a_run_that_only_reads_changes_no_answer() {
    needs!("root", "sh");
    let place = Place::with_snapshots();
    place.save();
    let right_tree = Manifest::of(&place.join("source"));
    let mut sum = Counts::default();
    for question in questions(&place) {
        let words: Vec<&str> = question.iter().map(String::as_str).collect();
        place.reset();
        let right = place.run(&words).ok();
        for (fault, most) in FAULTS {
            place.reset();
            let (_, total, _) = run(&place.vault, &words, fault, usize::MAX - 1);
            for at in fault.picks(total, most) {
                place.reset();
                let (output, _, met) = run(&place.vault, &words, fault, at);
                sum.tried += usize::from(!met.is_empty());
                let mut violations: Vec<String> = fault.unfit(&output).into_iter().collect();
                let is_done = output.status.success();
                if is_done && output.stdout != right.stdout {
                    violations.push(format!("another answer: {}", output.report()));
                }
                if is_done && words[0] == "restore" {
                    violations.extend(right_tree.diff(&Manifest::of(&place.join("target"))));
                }
                violations.extend(place.violations("repository", &place.told));
                let what =
                    violations.into_iter().map(|what| format!("{words:?}, {fault} at {at}, {met}: {what}"));
                sum.violations.extend(what);
            }
        }
    }
    println!("error anywhere, readers: {} calls, {} violations", sum.tried, sum.violations.len());
    assert!(sum.violations.is_empty(), "{}", sum.violations.join("\n\n"));
    assert!(sum.tried > 60, "{}", sum.tried);
}

#[test]
fn a_pack_that_check_cannot_read_once_is_named_with_the_error() {
    needs!("root", "sh");
    let place = Place::with_snapshots();
    place.save();
    for args in [&["check", "-q"][..], &["check", "-q", "--read-data"], &["check", "-q", "latest"]] {
        let mut tried = 0;
        loop {
            place.reset();
            let (mut reads, mut met) = (0, None);
            let output = traced(&place.vault, args, |call| {
                let pack = call.file().filter(|file| call.reads() && file.contains("/repository/packs/"));
                reads += usize::from(pack.is_some());
                if pack.is_none() || reads != tried + 1 {
                    return Act::Go;
                }
                met = pack;
                Act::Fail(Errno::EIO)
            });
            let Some(pack) = met else { break };
            let name = pack.split_once("/repository/").unwrap().1;
            let output = output.code(13);
            let report = output.report();
            assert!(report.contains(name) && report.contains("Input/output error"), "{report}");
            assert!(!report.contains("is missing"), "{report}");
            tried += 1;
        }
        assert!(tried >= 2, "{args:?}: {tried}");
    }
}
