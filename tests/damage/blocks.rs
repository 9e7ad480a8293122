//! Blocks of the medium that are zero, stand in one another's place or are those of another file, and files with the content of others.

use super::medium::Change;
use super::sample::Sample;
use super::{every, is_nightly, run};

/// A sector, and a block of most file systems.
const BLOCKS: [usize; 2] = [512, 4096];

fn parent(file: &str) -> &str {
    file.split('/').next().unwrap()
}

#[test]
fn every_block_that_is_zero_elsewhere_or_stale_is_named_with_what_it_costs() {
    let sample = Sample::new();
    let files = sample.medium.files();
    let mut cases = Vec::new();
    for (file, total) in &files {
        for len in BLOCKS {
            let starts: Vec<usize> = (0..*total).step_by(len).collect();
            for (number, at) in starts.iter().copied().enumerate() {
                cases.push((file.clone(), Change::Zero { at, len }));
                let whole = starts[number + 1..].iter().copied().filter(|other| other + len <= *total);
                let others = whole.take(if is_nightly() { usize::MAX } else { 2 });
                cases.extend(others.map(|other| (file.clone(), Change::Swap { at, other, len })));
                let stale = (0..files.len()).skip(if is_nightly() { 0 } else { number % 5 });
                let stale = stale.step_by(if is_nightly() { 1 } else { 5 });
                cases.extend(stale.map(|from| (file.clone(), Change::Stale { at, len, from })));
            }
        }
    }
    let cases: Vec<_> = cases.into_iter().step_by(every()).collect();
    let least = if every() == 1 { 300 } else { 200 };
    assert!(cases.len() > least, "{}", cases.len());
    run(&sample, &cases);
}

#[test]
fn every_file_with_the_content_of_another_is_named_with_what_it_costs() {
    let sample = Sample::new();
    let files = sample.medium.files();
    let mut cases = Vec::new();
    for (file, _) in &files {
        let same = files.iter().enumerate().filter(|(_, (other, _))| parent(other) == parent(file));
        cases.extend(same.map(|(from, _)| (file.clone(), Change::Other { from })));
    }
    assert!(cases.len() > 30, "{}", cases.len());
    run(&sample, &cases);
}
