//! What was done to the program to see whether it loses anything: `spec/proof.md` has the campaigns and their counts. In the gate each of them
//! tries a sample, with `VAULT_NIGHTLY` all.
//!
//! Every campaign has a control, in which the protection is taken out, and which has to find violations.

mod case;
mod errors;
mod fuzz;
mod hostile;
mod kill;
mod listing;
mod live;
mod media;
mod place;
mod power;
mod readers;
mod rot;
mod trips;

use crate::support::torture::Random;

/// Whether all is to be tried.
fn is_nightly() -> bool {
    std::env::var_os("VAULT_NIGHTLY").is_some()
}

/// What came of a campaign.
#[derive(Default, Debug)]
struct Counts {
    tried: usize,
    /// Of these, in how many something was violated.
    failed: usize,
    violations: Vec<String>,
}

/// What is tried of all: each of them, or one in so many, from a place that the seed gives.
fn sample(seed: u64, one_in: usize) -> impl Iterator<Item = usize> {
    let step = if is_nightly() { 1 } else { one_in };
    let start = if is_nightly() { 0 } else { Random(seed).below(one_in) };
    (start..).step_by(step)
}

/// Of so many, all or this many, spread evenly. All of them may be too many for a night: `VAULT_ONE_IN=8` tries one in eight.
fn picked(seed: u64, total: usize, most: usize) -> Vec<usize> {
    let one_in = || std::env::var("VAULT_ONE_IN").map_or(1, |number| number.parse().unwrap());
    let most = if is_nightly() { total.div_ceil(one_in()) } else { most.min(total) };
    let mut random = Random(seed);
    (0..most).map(|part| part * total / most + random.below((total / most).max(1))).collect()
}
