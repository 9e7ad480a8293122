//! The program under `strace`: what it asks the system for, in which order.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::Op;
use super::place::Place;
use crate::support::needs::needs;
use crate::support::torture::{self, Options};
use crate::support::vault::Vault;

/// One line for each call that did not fail, without the process number; a call that another thread interrupts is put together again.
fn calls(trace: &Path) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(&fs::read(trace).unwrap()).into_owned();
    let mut unfinished = HashMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let (process, call) = line.split_once(' ').unwrap();
        let call = call.trim_start();
        if let Some((begin, _)) = call.split_once("<unfinished ...>") {
            unfinished.insert(process.to_owned(), begin.trim_end().to_owned());
            continue;
        }
        let whole = match call.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>")) {
            Some((_, end)) => unfinished.remove(process).unwrap_or_default() + end,
            None => call.to_owned(),
        };
        // Results are aligned by spaces.
        let whole = whole.split_whitespace().collect::<Vec<_>>().join(" ");
        if !whole.contains(" = -1 ") && !whole.starts_with("+++") && !whole.starts_with("---") {
            calls.push((process.to_owned(), whole));
        }
    }
    calls
}

fn traced(vault: &Vault, what: &str, args: &[&str]) -> Vec<(String, String)> {
    let trace = vault.join("trace");
    let trace_args = ["strace", "-f", "-y", "-s", "4096", "-e", what, "-o", trace.to_str().unwrap()];
    vault.start(vault.command_under(&trace_args, args)).wait().ok();
    calls(&trace)
}

#[test]
fn dur_1_a_file_is_synced_then_renamed_and_then_its_folder_is_synced() {
    needs!("strace");
    let vault = Vault::new();
    let (source, repository) = (vault.join("source"), vault.join("repository"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), torture::Random(3).bytes(300_000)).unwrap();
    let place = repository.to_str().unwrap();
    vault.run(&["-r", place, "init"]).ok();
    let what = "trace=fdatasync,fsync,syncfs,rename,renameat,renameat2";
    let calls = traced(&vault, what, &["-r", place, "snapshot", source.to_str().unwrap()]);
    let mut published = Vec::new();
    for (at, (process, call)) in calls.iter().enumerate() {
        if !call.starts_with("rename") || !call.contains("/repository/tmp/") {
            continue;
        }
        let paths: Vec<&str> = call.split('"').skip(1).step_by(2).collect();
        let [temporary, name] = paths[..] else { panic!("{call}") };
        let (folder, _) = name.rsplit_once('/').unwrap();
        let mut mine = calls.iter().enumerate().filter(|(_, (other, _))| other == process);
        let synced = format!("<{temporary}>) = 0");
        let before = mine.clone().rfind(|(other, _)| *other < at).map_or("", |(_, (_, call))| call.as_str());
        assert!(before.starts_with("fdatasync(") && before.ends_with(&synced), "{before}\n{call}");
        let after = mine.find(|(other, _)| *other > at).map_or("", |(_, (_, call))| call.as_str());
        assert!(
            after.starts_with("fsync(") && after.ends_with(&format!("<{folder}>) = 0")),
            "{call}\n{after}"
        );
        published.push(
            name.strip_prefix(place).unwrap().trim_start_matches('/').split('/').next().unwrap().to_owned(),
        );
    }
    published.dedup();
    assert_eq!(published, ["sessions", "packs", "sessions", "index", "snapshots"], "{calls:#?}");
}

/// One of everything, and old enough for its stamps to be believed: two seconds for coarse clocks, and one more.
fn fill(source: &Path) {
    torture::build(source, Options { depth: 30, ..Options::default() });
    // A stamp that is still to come is never older than the previous start, and so never believed.
    for year in ["2038", "2106", "2200"] {
        fs::remove_file(source.join("times").join(year)).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(3100));
}

#[test]
fn an_unchanged_tree_costs_one_new_file_and_no_source_file_is_opened() {
    needs!("root", "strace");
    let vault = Vault::new();
    let (source, repository) = (vault.join("source"), vault.join("repository"));
    fs::create_dir(&source).unwrap();
    fill(&source);
    let (place, from) = (repository.to_str().unwrap(), source.to_str().unwrap());
    vault.run(&["-r", place, "init"]).ok();
    let what = "trace=open,openat,openat2";
    let snapshot = ["-r", place, "snapshot", from];
    let opened = |calls: &[(String, String)]| -> Vec<String> {
        let below = format!("<{from}/");
        calls
            .iter()
            .map(|(_, call)| call.clone())
            .filter(|call| call.rsplit_once(" = ").is_some_and(|(_, result)| result.contains(&below)))
            .filter(|call| !call.contains("O_DIRECTORY") && !call.contains("O_PATH"))
            .collect()
    };
    let first = opened(&traced(&vault, what, &snapshot));
    assert!(first.len() > 1000, "the first snapshot was seen to read only {} files", first.len());
    let files = |folder: &str| -> Vec<_> {
        walkdir::WalkDir::new(repository.join(folder))
            .into_iter()
            .map(|entry| entry.unwrap().into_path())
            .collect()
    };
    let before = files("");
    let second = opened(&traced(&vault, what, &snapshot));
    assert_eq!(second, [""; 0]);
    let new: Vec<_> = files("").into_iter().filter(|path| !before.contains(path)).collect();
    assert!(matches!(&new[..], [only] if only.starts_with(repository.join("snapshots"))), "{new:?}");
}

#[test]
fn an_unchanged_tree_publishes_one_snapshot_and_nothing_else() {
    needs!("root");
    let place = Place::new();
    fill(&place.source());
    place.snapshot().unwrap();
    let (watched, log) = place.recorded();
    let summary = place.snapshot_on(watched).unwrap();
    assert_eq!(summary.counter(vault::snapshot::counter::FILES_READ), 0);
    let log = log.lock().unwrap();
    let published: Vec<&String> =
        log.iter().filter(|(op, _)| *op == Op::Publish).map(|(_, name)| name).collect();
    let folders: Vec<&str> = published.iter().map(|name| name.split('/').next().unwrap()).collect();
    assert_eq!(folders, ["sessions", "sessions", "snapshots"]);
    let created = log.iter().filter(|(op, _)| *op == Op::Create).count();
    assert_eq!(created, published.len());
}
