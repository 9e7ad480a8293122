//! What the fuzzer runs: a target for each decoder, and one that drives a whole repository against a map while its medium fails and rots.
//!
//! A target takes any bytes. It panics if what the program makes of them is wrong: what is accepted encodes to the same bytes again, what is
//! refused is named, what was acknowledged reads back equal. `fixed` has the repositories that inputs are files of, and makes checksums
//! and seals right, so that these keep no input out; `seeds` makes the first inputs.
//!
//! `fuzz/run` runs them by libFuzzer. The tests of the project include this file and run the same functions over the seeds, over
//! `regressions/`, and over some thousand mutations of both.

pub mod fixed;
pub mod frames;
pub mod memory;
pub mod nodes;
pub mod objects;
pub mod packs;
pub mod parity;
pub mod seeds;
pub mod segments;
pub mod text;
pub mod whole;

/// Whether a target is to find a defect that was planted for that: the control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    None,
    /// What the program gives is wrong in some case that no seed has.
    Planted,
}

impl Defect {
    /// Makes what the program gave wrong, in this case.
    pub fn spoil(self, is_the_case: bool, given: &mut [u8]) {
        if let (Self::Planted, true, Some(last)) = (self, is_the_case, given.last_mut()) {
            *last ^= 1;
        }
    }
}

/// A target.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8], Defect),
    /// Its first inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: [Target; 12] = [
    Target { name: "config", run: objects::config, seeds: seeds::config },
    Target { name: "key", run: objects::key, seeds: seeds::key },
    Target { name: "snapshot", run: objects::snapshot, seeds: seeds::snapshot },
    Target { name: "record", run: objects::record, seeds: seeds::record },
    Target { name: "tree", run: nodes::tree, seeds: seeds::tree },
    Target { name: "list", run: nodes::list, seeds: seeds::list },
    Target { name: "frame", run: frames::frame, seeds: seeds::frame },
    Target { name: "pack", run: packs::pack, seeds: seeds::pack },
    Target { name: "segment", run: segments::segment, seeds: seeds::segment },
    Target { name: "parity", run: parity::parity, seeds: seeds::parity },
    Target { name: "text", run: text::text, seeds: seeds::text },
    Target { name: "repository", run: whole::repository, seeds: seeds::repository },
];
