//! Some of the same damage, through `restore` itself: a file that it writes is the one that was saved, and where one is lacking
//! it does not say that all is well.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use vault::event::Silent;
use vault::id::SnapshotId;
use vault::restore::{RestoreOptions, restore};
use walkdir::WalkDir;

use super::every;
use super::medium::{Change, Medium};
use super::sample::Sample;
use crate::support::repository;
use crate::support::scratch::Scratch;

/// So many bytes lie between one that is flipped and the next, and between one length that is cut to and the next.
const STRIDE: usize = 131;

/// The regular files of a snapshot as they were restored, and whether that was said to be all.
type Restored = (bool, BTreeMap<PathBuf, Vec<u8>>);

fn restore_all(medium: &Medium) -> BTreeMap<SnapshotId, Restored> {
    let repository = repository::open(medium.share()).unwrap();
    let scratch = Scratch::new();
    let mut all = BTreeMap::new();
    for (id, snapshot) in repository.snapshots().unwrap() {
        let target = scratch.join(id.to_string());
        let restored = snapshot.and_then(|snapshot| {
            let (reader, options) = (repository.reader()?, RestoreOptions::default());
            restore(&reader, &snapshot, b"", &target, &options, &Silent, &AtomicBool::new(false))
        });
        all.insert(id, (restored.is_ok_and(|summary| summary.is_success()), files_below(&target)));
    }
    all
}

fn files_below(target: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = WalkDir::new(target).into_iter().filter_map(Result::ok);
    let files = entries.filter(|entry| entry.file_type().is_file());
    files
        .map(|file| (file.path().strip_prefix(target).unwrap().to_owned(), fs::read(file.path()).unwrap()))
        .collect()
}

/// What is wrong with a restore from damaged files, beside one from whole ones.
fn fault(good: &Restored, found: &Restored) -> Option<String> {
    if let Some((path, _)) = found.1.iter().find(|(path, bytes)| good.1.get(*path) != Some(bytes)) {
        return Some(format!("{} is not what was saved", path.display()));
    }
    (found.0 && found.1.len() < good.1.len()).then(|| "files are lacking, and it is called a success".into())
}

#[test]
fn restore_never_writes_a_wrong_byte_and_says_what_is_lacking() {
    let sample = Sample::new();
    let good = restore_all(&sample.medium);
    assert_eq!(good.len(), 3);
    assert!(good.values().all(|(whole, files)| *whole && !files.is_empty()), "{good:?}");
    let mut cases = Vec::new();
    for (file, len) in sample.medium.files() {
        cases
            .extend((0..len).step_by(STRIDE * every()).map(|at| (file.clone(), Change::Flip { at, bit: 1 })));
        cases.extend(
            (0..len).step_by(4 * STRIDE * every()).map(|len| (file.clone(), Change::Truncate { len })),
        );
        cases.push((file, Change::Remove));
    }
    let (mut lacking, mut come_back) = (0, 0);
    for (file, change) in cases {
        for (id, found) in restore_all(&sample.medium.with(&file, change)) {
            assert_eq!(fault(&good[&id], &found), None, "{file} {change:?}");
            lacking += good[&id].1.len() - found.1.len();
            come_back += found.1.len();
        }
    }
    assert!(lacking > 0 && come_back > lacking, "{lacking} of {come_back}");
}

#[test]
fn a_restore_of_wrong_bytes_or_of_too_little_is_found() {
    let whole = (true, BTreeMap::from([(PathBuf::from("a"), vec![1]), (PathBuf::from("b"), vec![2])]));
    let mut wrong = whole.clone();
    wrong.1.insert("b".into(), vec![3]);
    assert!(fault(&whole, &wrong).is_some());
    let mut less = whole.clone();
    less.1.remove(Path::new("b"));
    assert!(fault(&whole, &less).is_some());
    less.0 = false;
    assert_eq!(fault(&whole, &less), None);
}
