//! Hostile repositories: somebody wrote them who means harm, and all hashes, checksums and seals are right. Whatever is run over one of them
//! ends in bounded time and memory, with a message that names what is wrong, and touches nothing outside of the target.

mod bombs;
mod commands;
mod controls;
mod craft;
mod files;
mod found;
mod lengths;
mod race;
mod trees;

use super::{Counts, is_nightly, picked};
use crate::support::needs::needs;
use commands::{Arena, Command, OTHERS, SHOWING};
use craft::{Case, Expects};

/// Beside the first two, so many of all commands are tried over each case in the gate.
const OTHERS_IN_THE_GATE: usize = 2;
/// So many of all, where each of them goes on until it is interrupted.
const ENDLESS_IN_THE_GATE: usize = 2;

/// Tries commands over each of some hostile repositories.
fn campaign(name: &str, cases: &[Case]) -> Counts {
    let arena = Arena::new();
    let mut counts = Counts::default();
    for (number, case) in cases.iter().enumerate() {
        arena.make(case);
        for command in tried(number as u64 + 1, case) {
            let violations = arena.violations(case, &command);
            counts.tried += 1;
            counts.failed += usize::from(!violations.is_empty());
            counts.violations.extend(violations);
        }
    }
    println!(
        "hostile, {name}: {} runs over {} repositories, {} violations",
        counts.tried,
        cases.len(),
        counts.failed
    );
    counts
}

/// The commands that are tried over a case. `VAULT_COMMAND` names those that are to be tried, with commas between.
fn tried(seed: u64, case: &Case) -> Vec<Command> {
    let all: Vec<Command> = SHOWING.into_iter().chain(OTHERS).collect();
    if let Ok(some) = std::env::var("VAULT_COMMAND") {
        return all.into_iter().filter(|(name, _)| some.split(',').any(|word| word == *name)).collect();
    }
    if is_nightly() {
        return all;
    }
    if case.expects == Expects::Endless {
        return picked(seed, all.len(), ENDLESS_IN_THE_GATE).into_iter().map(|at| all[at]).collect();
    }
    let (first, others) = all.split_at(2);
    let others = picked(seed, others.len(), OTHERS_IN_THE_GATE).into_iter().map(|at| others[at]);
    first.iter().copied().chain(others).collect()
}

/// One test for each kind, so that they run beside one another.
macro_rules! hostile {
    ($($test:ident: $cases:expr;)+) => {
        $(#[test]
        fn $test() {
            needs!("root", "sh", "cp");
            let counts = campaign(stringify!($test), &$cases);
            assert!(counts.violations.is_empty(), "{}", counts.violations.join("\n\n"));
        })+
    };
}

hostile! {
    names_lead_nowhere_else: trees::NAMES;
    nodes_are_what_they_are_used_for: trees::NODES;
    entries_are_what_a_system_may_hear: trees::ENTRIES;
    files_have_what_they_say: lengths::LENGTHS;
    packs_hold_what_they_say: files::PACKS;
    other_files_hold_what_they_say: files::OTHER_FILES;
    shared_nodes_take_time_and_no_memory: bombs::SHARED;
    depth_takes_little_memory: bombs::DEEP;
    width_takes_little_memory: bombs::WIDE;
    snapshots_of_many_words_take_little_memory: bombs::WORDS;
}

/// On a sound repository each command succeeds: so what it says of a hostile one is due to that.
#[test]
fn each_command_succeeds_over_a_sound_repository() {
    needs!("root", "sh", "cp");
    let arena = Arena::new();
    let case = Case { name: "a sound repository", make: |_| (), expects: Expects::Harmless };
    arena.make(&case);
    for command in SHOWING.into_iter().chain(OTHERS) {
        arena.reset(command.1);
        let ran = arena.run(command.1, case.expects);
        // The folder is none of its snapshots.
        assert!(ran.output.status.success(), "{}: {}", command.0, ran.output.report());
    }
}
