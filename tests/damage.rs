//! Every byte of a small repository flipped, every file cut at every length, every file removed: `check` names it, with the paths it
//! costs, and what it does not name reads back as it was. Never is a byte read that was not saved.
//!
//! `sample` makes the repository: inline, chunked, listed and sparse files, links, attributes, directories of several nodes, two packs of
//! each kind or more, a pack of several frames, three snapshots, a record, and if it is encrypted two keys. `medium` is a backend in memory with one file
//! changed. `readback` reads everything of all snapshots and compares. The last tests here show that the campaign would find a hole.
//!
//! What cannot be noticed: the removal of a record, of one of two keys, of a segment (it is only a shortcut), and of a snapshot that no other
//! names; then all that is left must be whole. By day each byte is flipped in its lowest bit, and every eighth in its highest, and files are cut near
//! their ends, at every multiple of 64 and next to it, and at every fifth length, in an encrypted repository a third of these; at night (`VAULT_NIGHTLY`) each byte is flipped in
//! all eight bits, and files are cut at every length.

mod blocks;
mod checking;
mod medium;
mod readback;
mod restoring;
mod sample;

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use vault::check::{CheckOptions, CheckReport, Loss, check};
use vault::event::Silent;

use medium::{Change, Medium};
use readback::{Baseline, Reading};

use crate::support::repository;

/// By day, encrypted repositories are gone through with larger steps: most bytes are under a seal that finds the flips of all alike.
fn every() -> usize {
    if repository::is_encrypted() && !is_nightly() { 3 } else { 1 }
}

/// What a case found: nothing, or why the campaign fails.
type Verdict = Result<(), String>;

#[test]
fn repo_1_head_3_obj_2_frame_2_seg_2_every_flipped_byte_is_named_with_what_it_costs() {
    let sample = sample::Sample::new();
    let nightly = is_nightly();
    let mut cases = Vec::new();
    for (file, len) in sample.medium.files() {
        for at in (0..len).step_by(every()) {
            let bits: &[u8] = match () {
                () if nightly => &[1, 2, 4, 8, 16, 32, 64, 128],
                () if at % 8 == 0 => &[1, 128],
                () => &[1],
            };
            cases.extend(bits.iter().map(|bit| (file.clone(), Change::Flip { at, bit: *bit })));
        }
    }
    run(&sample, &cases);
}

#[test]
fn obj_1_pack_4_seg_1_every_truncation_is_named_with_what_it_costs() {
    let sample = sample::Sample::new();
    let nightly = is_nightly();
    let mut cases = Vec::new();
    for (file, len) in sample.medium.files() {
        let is_chosen = |at: &usize| {
            nightly || at.is_multiple_of(5) || matches!(at % 64, 0 | 1 | 63) || at + 256 > len || *at < 256
        };
        let chosen = (0..len).filter(is_chosen).step_by(every());
        cases.extend(chosen.map(|len| (file.clone(), Change::Truncate { len })));
        cases.push((file.clone(), Change::Append { byte: 0 }));
    }
    run(&sample, &cases);
}

#[test]
fn repo_4_repo_6_every_removed_file_is_named_or_not_missed() {
    let sample = sample::Sample::new();
    let cases: Vec<_> = sample.medium.files().into_iter().map(|(file, _)| (file, Change::Remove)).collect();
    run(&sample, &cases);
}

#[test]
fn repo_6_missing_and_cut_packs_are_named_without_reading_data() {
    let sample = sample::Sample::new();
    let mut cases = 0;
    for (file, len) in sample.medium.files().into_iter().filter(|(file, _)| file.starts_with("packs/")) {
        for change in [Change::Remove, Change::Truncate { len: len - 1 }, Change::Truncate { len: 0 }] {
            let medium = sample.medium.with(&file, change);
            let report = checked(&medium, false);
            judge(&sample.baseline, &medium, &report, &file, change).unwrap();
            cases += 1;
        }
    }
    assert!(cases >= 12, "only {cases}");
}

#[test]
fn a_whole_repository_has_no_damage() {
    let sample = sample::Sample::new();
    for read_data in [false, true] {
        let report = checked(&sample.medium, read_data);
        assert!(report.damages.is_empty(), "{:?}", report.damages);
        assert!(report.notices.is_empty() && report.unknown_names.is_empty(), "{report:?}");
        assert_eq!(report.snapshots, 3);
        assert_eq!(report.packs_read, if read_data { report.packs } else { 0 });
        assert_eq!(report.bytes_read, if read_data { report.pack_bytes } else { 0 });
    }
}

/// The campaign over a check that looks less closely than it should.
#[test]
fn the_campaign_finds_a_check_that_does_not_read_data() {
    let sample = sample::Sample::new();
    let (file, change) = sample.flip_in_data();
    let medium = sample.medium.with(&file, change);
    let report = checked(&medium, false);
    let verdict = judge(&sample.baseline, &medium, &report, &file, change);
    assert!(verdict.unwrap_err().contains("not named"));
}

/// The campaign over a check that sees other bytes than a restore does, and names the right file by chance.
#[test]
fn the_campaign_finds_a_check_that_overlooks_paths() {
    let sample = sample::Sample::new();
    let (file, change) = sample.flip_in_data();
    let medium = sample.medium.with(&file, change);
    let mut report = checked(&medium, true);
    judge(&sample.baseline, &medium, &report, &file, change).unwrap();
    report.damages.iter_mut().for_each(|damage| damage.costs.truncate(1));
    let verdict = judge(&sample.baseline, &medium, &report, &file, change);
    assert!(verdict.unwrap_err().contains("but is not among the costs"));
}

/// The campaign over a check that names too much.
#[test]
fn the_campaign_finds_a_check_that_names_what_is_whole() {
    let sample = sample::Sample::new();
    let (file, change) = sample.flip_in_data();
    let medium = sample.medium.with(&file, change);
    let report = checked(&medium, true);
    let verdict = judge(&sample.baseline, &sample.medium, &report, &file, change);
    assert!(verdict.unwrap_err().contains("but reads back as it was"));
}

/// The campaign over a reader that does not verify what it reads.
#[test]
fn the_campaign_finds_a_reader_that_returns_wrong_bytes() {
    let sample = sample::Sample::new();
    let report = checked(&sample.medium, true);
    let readings = readback::read_all(&sample.medium, &|plain| {
        if let Some(byte) = plain.last_mut() {
            *byte ^= 1;
        }
    });
    let verdict = sample.baseline.compare(&readings, &report, &HashSet::new());
    assert!(verdict.unwrap_err().contains("wrong bytes"));
}

fn is_nightly() -> bool {
    std::env::var_os("VAULT_NIGHTLY").is_some()
}

/// Runs all cases that change something on two threads and fails with the first verdicts.
fn run(sample: &sample::Sample, cases: &[(String, Change)]) {
    let (next, tried) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((file, change)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let medium = sample.medium.with(file, *change);
                    if medium.is_unchanged(file) {
                        continue;
                    }
                    tried.fetch_add(1, Ordering::Relaxed);
                    let report = checked(&medium, true);
                    if let Err(why) = judge(&sample.baseline, &medium, &report, file, *change) {
                        let mut failures = failures.lock().unwrap();
                        failures.push(format!("{file} {change:?}: {why}"));
                        if failures.len() >= 20 {
                            next.store(cases.len(), Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    println!("rot: {} changes tried, {} violations", tried.into_inner(), failures.len());
    assert!(!cases.is_empty() && failures.is_empty(), "\n{}", failures.join("\n"));
}

fn checked(medium: &Medium, read_data: bool) -> CheckReport {
    let repository = repository::open(medium.share()).unwrap();
    let options = CheckOptions { read_data, ..CheckOptions::default() };
    check(&repository, &options, &Silent, &AtomicBool::new(false)).unwrap()
}

/// Holds a report about a changed file against what `read` yields.
fn judge(baseline: &Baseline, read: &Medium, report: &CheckReport, file: &str, change: Change) -> Verdict {
    let removed = change == Change::Remove;
    let unnoticed = removed && ["index/", "records/", "keys/"].iter().any(|folder| file.starts_with(folder));
    let gone_snapshot = if removed { file.strip_prefix("snapshots/") } else { None };
    let named = report.damages.iter().any(|damage| damage.object == file);
    let noticed = gone_snapshot.is_some_and(|id| report.notices.iter().any(|text| text.contains(id)));
    match gone_snapshot {
        Some(id) if baseline.is_predecessor(id) && !noticed => {
            return Err("the missing predecessor is not noticed".into());
        }
        None if !named && !unnoticed => return Err("not named".into()),
        _ => {}
    }
    if (unnoticed || gone_snapshot.is_some()) && !report.damages.is_empty() {
        return Err(format!("what need not be missed counts as damage: {:?}", report.damages));
    }
    if let Some(other) = report.damages.iter().find(|damage| damage.object != file) {
        return Err(format!("{} is blamed: {:?}", other.object, other.error));
    }
    let readings: Vec<Reading> = readback::read_all(read, &|_| ());
    let gone: HashSet<String> = gone_snapshot.map(str::to_owned).into_iter().collect();
    baseline.compare(&readings, report, &gone)
}

/// Whether a cost says that the entry at a path may not come back.
fn covers(loss: Loss, cost: &[u8], path: &[u8]) -> bool {
    let below = cost.is_empty() || path.strip_prefix(cost).is_some_and(|rest| rest.starts_with(b"/"));
    match loss {
        Loss::Content => cost == path,
        Loss::Entries => cost == path || below,
        Loss::Snapshot => true,
        Loss::Notes => false,
    }
}
