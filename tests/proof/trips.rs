//! Round trips: generated trees are saved, changed by generated edits and saved again, twice, and each snapshot is restored over nothing, over
//! another one, and over what generated edits made of that. What comes back is held against a model, which the same edits have changed.
//!
//! A case is known by its seed; `VAULT_SEED` tries that one alone. What fails is made smaller for as long as it fails, and printed as it can be
//! pasted into `found`. There a defect is kept, by a name and not by its seed, which stands for another trip once what is generated changes.

mod control;
mod disk;
mod edit;
mod found;
mod generate;
mod model;
mod trip;

use std::cell::{Cell, RefCell};
use std::ops::Range;

use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};

use self::generate::trips;
use self::trip::{CHANGED, Counts, How, Trip};
use super::is_nightly;
use crate::support::needs::needs;

/// How many edits a trip has at most.
const MOST_EDITS: usize = 60;
/// How many trips are made at most to make smaller what fails, and how many in the control.
const MOST_TRIPS: u32 = 1000;
const MOST_OF_CONTROL: u32 = 60;
/// What has to be among what was tried.
const EXPECTED: [&str; 17] = [
    "edits: make",
    "edits: remove",
    "edits: rename",
    "edits: link",
    "edits: write",
    "edits: write, same size and time",
    "edits: metadata",
    "files",
    "files with holes",
    "folders",
    "symlinks",
    "special files",
    "names of linked files",
    "things with attributes",
    "folders in the way",
    "restores over what looks the same",
    CHANGED,
];

/// A trip that failed, made as small as could be.
struct Failure {
    why: String,
    smallest: Trip,
    /// How many trips it took to find that.
    tried: usize,
}

fn seeds(by_day: u64, by_night: u64) -> Range<u64> {
    match std::env::var("VAULT_SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..seed + 1).unwrap(),
        Err(_) => 0..if is_nightly() { by_night } else { by_day },
    }
}

fn runner(seed: u64, max_shrink_iters: u32) -> TestRunner {
    let rng_seed = RngSeed::Fixed(seed);
    TestRunner::new(Config {
        cases: 1,
        failure_persistence: None,
        max_shrink_iters,
        rng_seed,
        ..Config::default()
    })
}

/// The trip of this seed.
fn go(seed: u64, (most, trips_at_most): (usize, u32), how: How, counts: &mut Counts) -> Option<Failure> {
    let (counts, tried) = (RefCell::new(counts), Cell::new(0));
    let outcome = runner(seed, trips_at_most).run(&trips(most), |trip| {
        tried.set(tried.get() + 1);
        trip.go(how, &mut counts.borrow_mut()).map_err(TestCaseError::fail)
    });
    match outcome {
        Ok(()) => None,
        Err(TestError::Fail(why, smallest)) => {
            Some(Failure { why: why.to_string(), smallest, tried: tried.get() })
        }
        Err(TestError::Abort(why)) => panic!("nothing was generated: {why}"),
    }
}

#[test]
fn trees_come_back_as_they_were() {
    needs!("root");
    let (seeds, mut counts) = (seeds(20, 1000), Counts::new());
    for seed in seeds.clone() {
        if seed > 0 && seed % 100 == 0 {
            println!("{seed} seeds");
        }
        if let Some(Failure { why, smallest, .. }) =
            go(seed, (MOST_EDITS, MOST_TRIPS), How::Whole, &mut counts)
        {
            panic!(
                "seed {seed}, which VAULT_SEED={seed} tries alone: {why}\nthe smallest that fails: {smallest:?}"
            );
        }
    }
    println!("round trips: seeds {seeds:?}, 0 violations: {counts:?}");
    let untried: Vec<_> = EXPECTED.into_iter().filter(|what| !counts.contains_key(what)).collect();
    assert!(seeds.end - seeds.start == 1 || untried.is_empty(), "not tried: {untried:?}");
}

#[test]
fn the_control_of_round_trips_finds_the_snapshot_before_and_makes_it_small() {
    needs!("root");
    let (seeds, mut found) = (seeds(1, 10), 0);
    for seed in seeds.clone() {
        let mut counts = Counts::new();
        let Some(failure) = go(seed, (20, MOST_OF_CONTROL), How::WithTheOneBefore, &mut counts) else {
            assert_eq!(counts[CHANGED], 0, "the wrong snapshot of seed {seed} is not noticed");
            continue;
        };
        found += 1;
        let edits = failure.smallest.edits.len();
        println!(
            "the snapshot before, seed {seed}: found, {edits} edits are left after {} trips",
            failure.tried
        );
        assert!(edits <= 2, "{:?}", failure.smallest);
        // It is that fault and nothing else that was found.
        assert_eq!(failure.smallest.go(How::Whole, &mut counts), Ok(()));
    }
    assert!(found > (seeds.end - seeds.start) / 2, "in {found} of {seeds:?} the tree is changed");
}
