//! Restoring to drives with FAT and exFAT: no file takes the place of another one unsaid, none is left out that could be there, and each gets its time.

use std::fs;
use std::os::unix::fs::MetadataExt;

use vault::restore::RestoreOptions;
use vault::snapshot::Kind;

use super::store::{MTIME, Store, directory, entry, file, names, noise, restore_with};
use crate::support::mount::{FileSystem, Mount};
use crate::support::needs::needs;

/// The Greek word for a road; the last letter is written otherwise at the end of a word.
const ROADS: [&str; 2] = ["\u{3bf}\u{3b4}\u{3bf}\u{3c3}", "\u{3bf}\u{3b4}\u{3bf}\u{3c2}"];

#[test]
fn names_that_differ_by_more_than_case_and_are_one_on_exfat_are_said() {
    needs!("exfat");
    let drive = Mount::new(FileSystem::Exfat, 64);
    let store = Store::new(|writer| {
        let both = || ROADS.iter().rev().map(|name| file(writer, *name, name.as_bytes())).collect::<Vec<_>>();
        let folder = |name: &&str| directory(writer, *name, vec![file(writer, *name, name.as_bytes())]);
        let folders = ROADS.iter().rev().map(folder).collect();
        vec![
            directory(writer, "folders", folders),
            directory(writer, "new", both()),
            directory(writer, "old", both()),
        ]
    });
    fs::create_dir(drive.join("old")).unwrap();
    let options = RestoreOptions::default();
    for _ in 0..2 {
        let (summary, lines) =
            restore_with(&store.reader, &store.snapshot, b"", &drive.path(), &options).unwrap();
        assert_eq!(summary.errors, 3, "one of each two cannot be there: {lines:?}");
        for folder in ["new", "old"] {
            let found = names(&drive.join(folder));
            assert_eq!(found.len(), 1);
            let [found] = &found[..] else { unreachable!() };
            let bytes = fs::read(drive.join(folder).join(found)).unwrap();
            assert_eq!(&bytes, found.as_bytes(), "{folder} has the bytes of another file");
        }
        let folder = drive.join("folders").join(&names(&drive.join("folders"))[0]);
        assert_eq!(names(&folder).len(), 1, "two folders became one");
    }
}

#[test]
fn names_that_exfat_tells_apart_though_they_differ_by_case_are_both_restored() {
    needs!("exfat");
    let drive = Mount::new(FileSystem::Exfat, 64);
    // The letter, and the unit of length.
    let pair = ["\u{c5}", "\u{212b}"];
    let store = Store::new(|writer| {
        let both = || pair.map(|name| file(writer, name, name.as_bytes())).to_vec();
        vec![directory(writer, "new", both()), directory(writer, "old", both())]
    });
    fs::create_dir(drive.join("old")).unwrap();
    for _ in 0..2 {
        let options = RestoreOptions { delete: true, ..RestoreOptions::default() };
        let (summary, lines) =
            restore_with(&store.reader, &store.snapshot, b"", &drive.path(), &options).unwrap();
        assert_eq!(summary.errors, 0, "{lines:?}");
        for path in ["new", "old"].iter().flat_map(|folder| pair.map(|name| drive.join(folder).join(name))) {
            assert_eq!(fs::read(&path).unwrap(), path.file_name().unwrap().as_encoded_bytes());
        }
    }
}

#[test]
fn what_exfat_makes_of_a_fifo_is_not_left_there() {
    needs!("exfat");
    let drive = Mount::new(FileSystem::Exfat, 64);
    let store = Store::new(|writer| {
        vec![
            file(writer, "file", b"f"),
            entry("fifo", 0o600, Kind::Fifo),
            entry("socket", 0o600, Kind::Socket),
        ]
    });
    let options = RestoreOptions::default();
    let (summary, lines) =
        restore_with(&store.reader, &store.snapshot, b"", &drive.path(), &options).unwrap();
    assert_eq!(summary.errors, 2, "{lines:?}");
    assert_eq!(names(&drive.path()), ["file"]);
}

#[test]
fn times_are_set_where_the_driver_takes_only_both_at_once() {
    needs!("exfat");
    let mut drive = Mount::new(FileSystem::Exfat, 64);
    let store = Store::new(|writer| {
        let inner = directory(writer, "inner", vec![file(writer, "large", &noise(1, 300_000))]);
        vec![inner, file(writer, "small", b"s")]
    });
    let options = RestoreOptions::default();
    restore_with(&store.reader, &store.snapshot, b"", &drive.path(), &options).unwrap();
    drive.remount();
    for name in ["small", "inner", "inner/large"] {
        assert_eq!(fs::metadata(drive.join(name)).unwrap().mtime(), MTIME.secs, "{name}");
    }
}
