//! Killed anywhere: before each call that changes something, and in the middle of each that writes.

use super::case::Case;
use super::place::Told;
use super::{Counts, is_nightly, sample};
use crate::support::needs::needs;
use crate::support::torture::Random;
use crate::support::tracer::{Act, traced};

/// Has the command killed before, or in the middle of, each of its changes; some recoveries as well.
fn killed_anywhere(name: &str, case: &Case, one_in: usize) -> Counts {
    case.place.save();
    let before = case.place.restorable("repository", &case.place.told);
    let mut counts = Counts::default();
    let mut random = Random(name.len() as u64);
    for at in sample(random.next(), one_in) {
        case.place.reset();
        let torn = random.below(3) == 0;
        let (reached, mut told) = kill_at(case, at, torn, case.place.told.clone());
        if !reached {
            break;
        }
        counts.tried += 1;
        let mut violations = case.holds(&told, &before);
        // The recovery is killed too.
        if violations.is_empty() && random.below(if is_nightly() { 2 } else { 4 }) == 0 {
            // What the first one has told of stays told, and so does what one tells that ends before it is killed.
            let (reached, more) = kill_at(case, random.below(at + 10), torn, told);
            told = more;
            counts.tried += usize::from(reached);
            violations.extend(case.holds(&told, &before));
        }
        if violations.is_empty() {
            violations.extend(case.again(told));
        }
        counts.violations.extend(violations.into_iter().map(|what| format!("{name}, change {at}: {what}")));
    }
    counts
}

/// Runs the command and kills it at the change of this number, unless it ends before; whether it was killed, and what has been told by then.
fn kill_at(case: &Case, at: usize, torn: bool, told: Vec<Told>) -> (bool, Vec<Told>) {
    let (mut changes, mut reached) = (0, false);
    let output = traced(&case.place.vault, &case.words(), |call| {
        if !call.changes() {
            return Act::Go;
        }
        changes += 1;
        if changes != at + 1 {
            return Act::Go;
        }
        reached = true;
        if torn && call.writes() { Act::HalfAndKill } else { Act::Kill }
    });
    (reached, case.told_after(told, &output))
}

/// One test for each case, so that they run beside one another.
macro_rules! killed {
    ($($test:ident: $name:literal, one in $one_in:literal;)+) => {
        $(#[test]
        fn $test() {
            survives($name, $one_in);
        })+

        #[test]
        fn no_case_is_left_out() {
            let tested = [$($name),+];
            assert!(super::case::CASES.iter().map(|(name, _)| *name).eq(tested), "{tested:?}");
        }
    };
}

killed! {
    // What makes 256 folders, all alike, is tried less often.
    an_init_may_be_killed_anywhere: "init", one in 60;
    a_first_snapshot_may_be_killed_anywhere: "first snapshot", one in 8;
    a_snapshot_may_be_killed_anywhere: "snapshot with a parent", one in 8;
    a_snapshot_after_a_killed_one_may_be_killed_anywhere: "snapshot after one that was killed", one in 8;
    a_first_mirror_may_be_killed_anywhere: "first mirror", one in 60;
    a_mirror_may_be_killed_anywhere: "mirror", one in 8;
    a_restore_may_be_killed_anywhere: "restore", one in 6;
    a_restore_over_what_is_there_may_be_killed_anywhere: "restore over what is there", one in 6;
    a_forget_may_be_killed_anywhere: "forget", one in 2;
    a_prune_may_be_killed_anywhere: "prune", one in 8;
    a_repair_may_be_killed_anywhere: "repair", one in 40;
    a_heal_may_be_killed_anywhere: "heal", one in 40;
    a_parity_add_may_be_killed_anywhere: "parity add", one in 6;
    a_rewrite_may_be_killed_anywhere: "rewrite", one in 8;
    a_merge_may_be_killed_anywhere: "merge", one in 8;
    a_copy_may_be_killed_anywhere: "copy", one in 8;
    a_key_change_may_be_killed_anywhere: "key change", one in 2;
}

fn survives(name: &str, one_in: usize) {
    needs!("root", "sh");
    let Some(case) = Case::of(name) else { return };
    let counts = killed_anywhere(name, &case, one_in);
    println!("kill anywhere, {name}: {} kills, {} violations", counts.tried, counts.violations.len());
    assert!(counts.violations.is_empty(), "{}", counts.violations.join("\n\n"));
    assert!(counts.tried > 1);
}

#[test]
fn what_a_copy_left_that_was_killed_at_its_end_is_removed_by_one_that_has_nothing_to_do() {
    needs!("root", "sh");
    let case = Case::of("copy").unwrap();
    let output = traced(&case.place.vault, &case.words(), |call| {
        // The first that it removes is what it has said in `sessions/`.
        if call.name().is_some_and(|name| name.starts_with("unlink")) { Act::Kill } else { Act::Go }
    });
    assert!(output.status.code().is_none(), "{}", output.report());
    assert_eq!(case.place.snapshots_in("drive"), case.place.told.len());
    assert!(!case.place.left_over().is_empty());
    assert_eq!(case.again(case.place.told.clone()), [""; 0]);
}

#[test]
fn what_an_init_left_that_was_killed_while_it_wrote_is_removed_by_the_next_one() {
    needs!("root", "sh");
    let case = Case::of("init").unwrap();
    let output =
        traced(&case.place.vault, &case.words(), |call| if call.renames() { Act::Kill } else { Act::Go });
    assert!(output.status.code().is_none(), "{}", output.report());
    assert!(!case.place.left_over().is_empty());
    assert_eq!(case.again(Vec::new()), [""; 0]);
}

#[test]
fn the_control_of_kill_anywhere_finds_what_a_write_that_was_not_made_costs() {
    needs!("root", "sh");
    let case = Case::of("snapshot with a parent").unwrap();
    case.place.save();
    let (mut tried, mut found) = (0, 0);
    for at in sample(1, 6) {
        case.place.reset();
        let mut writes = 0;
        let mut reached = false;
        let output = traced(&case.place.vault, &case.words(), |call| {
            let is_stored =
                call.writes() && call.file().is_some_and(|file| file.contains("/repository/tmp/"));
            writes += usize::from(is_stored);
            if !is_stored || writes != at + 1 {
                return Act::Go;
            }
            reached = true;
            Act::Pretend
        });
        if !reached {
            break;
        }
        tried += 1;
        let told = case.told_after(case.place.told.clone(), &output);
        found += usize::from(!case.place.violations("repository", &told).is_empty());
    }
    println!("{tried} writes that were not made, {found} found");
    assert!(tried > 2 && found > tried / 2, "{found} of {tried}");
}
