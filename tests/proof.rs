//! What was done to the program to see whether it loses anything: `spec/proof.md` has the campaigns and their counts. In the gate each of them
//! tries a sample, with `VAULT_NIGHTLY` all.
//!
//! Every campaign has a control, in which the protection is taken out, and which has to find violations.

mod kill;
mod place;

use crate::support::torture::Random;

/// Whether all is to be tried.
fn is_nightly() -> bool {
    std::env::var_os("VAULT_NIGHTLY").is_some()
}

/// What is tried of all: each of them, or one in so many, from a place that the seed gives.
fn sample(seed: u64, one_in: usize) -> impl Iterator<Item = usize> {
    let step = if is_nightly() { 1 } else { one_in };
    let start = if is_nightly() { 0 } else { Random(seed).below(one_in) };
    (start..).step_by(step)
}
