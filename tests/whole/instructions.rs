//! How many instructions a stage takes for each file and byte: clocks differ from machine to machine and from hour to hour, and these do
//! hardly. Callgrind counts them, for the build that the tests run. A limit is a tenth above what was counted when it was
//! set; whoever exceeds it has made something slower, and says in the commit why that is right. On processors without AVX2 BLAKE3 takes
//! more of them, and nothing is counted there.

use std::ffi::OsString;

use crate::support::needs::needs;
use crate::support::repository::is_encrypted;
use crate::support::torture::Random;
use crate::whole::world::{World, settle};

/// Two sizes, so that what a run takes by itself cancels out.
const FILES: [u64; 2] = [60, 360];
const FILE_LEN: usize = 20_000;

/// Instructions in millions of the stages: first, unchanged, check with all data, cat; and the first of small files that do not compress.
fn counts(files: u64) -> [f64; 5] {
    let world = World::new();
    for number in 0..files {
        // Half of it compresses.
        let mut chance = Random(number);
        let bytes = [chance.text(FILE_LEN / 2), chance.bytes(FILE_LEN / 2)].concat();
        world.write(&format!("{}/{number:03}", number % 8), &bytes);
    }
    settle();
    let snapshot = || world.snapshot_args(&["--quiet"]);
    let first = instructions(&world, &snapshot());
    let unchanged = instructions(&world, &snapshot());
    let check = instructions(&world, &["check".into(), "--read-data".into()]);
    // What counts knows no `openat2`, without which nothing is restored; a tar archive takes the same way but for the files.
    let cat = instructions(&world, &["cat".into(), world.selector("latest")]);
    let small = World::new();
    for number in 0..files {
        small.write_random(&format!("{}/{number:03}", number % 8), number, 1000);
    }
    let small = instructions(&small, &small.snapshot_args(&["--quiet"]));
    [first, unchanged, check, cat, small]
}

fn instructions(world: &World, args: &[OsString]) -> f64 {
    let counter = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"];
    let output = world.vault.start(world.vault.command_under(&counter, args)).wait().code(0);
    let line = output.stderr.lines().find_map(|line| line.split_once("Collected :"));
    let (_, count) = line.unwrap_or_else(|| panic!("nothing was counted: {}", output.stderr));
    count.trim().parse::<f64>().unwrap() / 1e6
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[test]
fn no_stage_takes_more_instructions_than_it_did() {
    // Millions for 300 files of 20 kB, half of which compresses.
    const LIMITS: [(&str, f64); 5] =
        [("first", 275.0), ("unchanged", 3.5), ("check", 92.0), ("cat", 108.0), ("small", 11.8)];
    needs!("valgrind");
    // What differs in an encrypted repository is the cipher, which is not ours.
    if is_encrypted() || !has_avx2() {
        return;
    }
    let [small, large] = FILES.map(counts);
    let taken: Vec<(&str, f64, f64)> = LIMITS
        .iter()
        .zip(small.iter().zip(large))
        .map(|((stage, most), (small, large))| (*stage, large - small, *most))
        .collect();
    for (stage, count, most) in &taken {
        println!("{stage}: {count:.1} million, at most {most}");
    }
    for (stage, count, most) in &taken {
        assert!(count <= most, "{stage}: {count:.1} million instructions, at most {most}: {taken:?}");
        assert!(
            *count > most / 3.0,
            "{stage}: {count:.1} million instructions: the limit of {most} is too high"
        );
    }
}
