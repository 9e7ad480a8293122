//! The fuzz targets, as `fuzz/run` runs them by libFuzzer, on any compiler: over their seeds, over each input that once found something
//! (`fuzz/regressions`), and over mutations of both that are the same every time.

use std::any::Any;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;

#[path = "../../fuzz/src/targets/mod.rs"]
mod targets;

use targets::fixed::World;
use targets::{Defect, TARGETS, Target};

use super::is_nightly;
use crate::support::torture::Random;

/// No input gets longer.
const MOST_LEN: usize = 4096;

/// The inputs that are kept for a target: the seeds, and those that once found something.
fn inputs(target: &Target) -> Vec<Vec<u8>> {
    let mut inputs = (target.seeds)();
    assert!(!inputs.is_empty() && inputs.iter().all(|input| !input.is_empty()), "{}", target.name);
    inputs.extend(regressions(target.name).iter().map(|path| fs::read(path).unwrap()));
    inputs
}

fn regressions_of_all() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions")
}

/// The files in the folder of a target.
fn regressions(target: &str) -> Vec<PathBuf> {
    let listed = fs::read_dir(regressions_of_all().join(target)).into_iter().flatten();
    let mut paths: Vec<PathBuf> = listed.map(|item| item.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Changes an input a little, as fuzzers do; sometimes a part of another one comes in.
fn mutate(random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=random.below(3) {
        let at = random.below(input.len().max(1));
        let len = 1 + random.below(8);
        match random.below(8) {
            0 | 1 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.bytes(1)[0]),
            2 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
            3 => {
                let step = [1, 255, 16, 240][random.below(4)];
                input.iter_mut().skip(at).take(1).for_each(|byte| *byte = byte.wrapping_add(step));
            }
            4 => drop(input.splice(at..(at + len).min(input.len()), [])),
            5 => drop(input.splice(at..at, random.bytes(len))),
            6 => input.iter_mut().skip(at).take(len).for_each(|byte| *byte = [0, 255][at % 2]),
            _ => {
                let from = random.below(other.len().max(1));
                let part = other.iter().copied().skip(from).take(4 * len).collect::<Vec<_>>();
                drop(input.splice(at..(at + part.len()).min(input.len()), part));
            }
        }
    }
    input.truncate(MOST_LEN);
}

/// Runs a target, and says what it found.
fn found(target: &Target, input: &[u8], defect: Defect) -> Option<String> {
    let text = |panic: Box<dyn Any + Send>| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => {
            panic.downcast::<&str>().map_or_else(|_| "a panic".to_owned(), |text| (*text).to_owned())
        }
    };
    catch_unwind(AssertUnwindSafe(|| (target.run)(input, defect))).err().map(text)
}

fn mutated(target: &Target, count: usize, defect: Defect) -> Option<(usize, Vec<u8>, String)> {
    // What was found since then does not change by what a control is found.
    let inputs = if defect == Defect::None { inputs(target) } else { (target.seeds)() };
    let mut random = Random(7);
    (0..count).find_map(|number| {
        let mut input = inputs[random.below(inputs.len())].clone();
        let other = &inputs[random.below(inputs.len())];
        mutate(&mut random, &mut input, other);
        let what = found(target, &input, defect)?;
        Some((number, input, what))
    })
}

/// How many mutations of a target are tried: those of a whole repository take longer.
fn mutations(target: &Target) -> usize {
    let one = if target.name == "repository" { 150 } else { 2000 };
    if is_nightly() { 50 * one } else { one }
}

#[test]
fn what_the_fuzzer_began_with_and_what_it_once_found_breaks_nothing() {
    for target in &TARGETS {
        for (number, input) in inputs(target).iter().enumerate() {
            assert_eq!(found(target, input, Defect::None), None, "{} {number}", target.name);
        }
    }
}

#[test]
fn targets_that_run_at_once_do_not_meet() {
    for is_sealed in [false, true] {
        let world = World::get(is_sealed);
        world.medium.put("records/here", Vec::new());
        let elsewhere = thread::spawn(move || World::get(is_sealed).medium.names()).join().unwrap();
        assert!(!elsewhere.contains(&"records/here".to_owned()) && elsewhere.contains(&"config".to_owned()));
        assert!(world.medium.names().contains(&"records/here".to_owned()));
    }
}

#[test]
fn each_folder_of_regressions_is_that_of_a_target() {
    let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    for folder in fs::read_dir(regressions_of_all()).into_iter().flatten() {
        let name = folder.unwrap().file_name();
        assert!(names.contains(name.to_str().unwrap()), "{}", name.display());
    }
}

#[test]
fn mutations_of_that_break_nothing() {
    for target in &TARGETS {
        let count = mutations(target);
        if let Some((number, input, what)) = mutated(target, count, Defect::None) {
            panic!("{} {number}: {what}: {:02x?}", target.name, input);
        }
        println!("{}: {count} mutations of {} inputs", target.name, inputs(target).len());
    }
}

#[test]
fn control_what_is_planted_in_each_target_is_found() {
    for target in &TARGETS {
        let (number, _, what) = mutated(target, 20_000, Defect::Planted)
            .unwrap_or_else(|| panic!("{} finds nothing", target.name));
        println!("{}: found by mutation {number}: {}", target.name, what.lines().next().unwrap_or_default());
    }
}
