//! Fuzz targets for libFuzzer. What they do is in `targets`, which the tests of the project include as well.
//!
//! With `VAULT_FUZZ_CONTROL` in the environment they are to find something: `planted`, a wrong result in some rare case; `greedy`, decoders
//! that believe lengths.

pub mod targets;

use std::ffi::OsString;
use std::sync::LazyLock;

use targets::{Defect, TARGETS};

static CONTROL: LazyLock<Option<OsString>> = LazyLock::new(|| std::env::var_os("VAULT_FUZZ_CONTROL"));

/// Runs a target.
pub fn run(name: &str, input: &[u8]) {
    let is_control = |what: &str| CONTROL.as_ref().is_some_and(|control| control == what);
    if is_control("greedy") {
        allocate_as_claimed(name, input);
    }
    let defect = if is_control("planted") { Defect::Planted } else { Defect::None };
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("there is no target {name}")).run)(input, defect);
}

/// What decoders do that believe lengths: the count of entries in a leaf, the length of what is compressed in a frame.
fn allocate_as_claimed(name: &str, input: &[u8]) {
    let claimed = match (name, input) {
        ("tree", [0, 0, 252, a, b, c, d, ..]) => u32::from_le_bytes([*a, *b, *c, *d]),
        ("frame", [0, head @ ..]) => match head.get(12..16).and_then(|len| len.first_chunk()) {
            Some(len) => u32::from_le_bytes(*len),
            None => 0,
        },
        _ => 0,
    };
    std::hint::black_box(vec![1u8; claimed as usize]);
}
