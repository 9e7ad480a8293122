//! A file of the local state, written and read back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use super::*;
use crate::backup::state::cursor::Cursor;

fn key(number: u8) -> FolderKey {
    [number; 16]
}

fn node(number: u8) -> ChunkId {
    ChunkId::from_bytes([number; 32])
}

/// Names of a folder, and what each has: the name, 100 times or, so that it is not long, 10 times. Folder 1 takes several blocks.
fn content(folder: u8) -> Records {
    let count = if folder == 1 { 2000 } else { 5 };
    (0..count)
        .map(|number| (format!("{folder}-{number:04}").into_bytes(), if number % 3 == 0 { 10 } else { 100 }))
        .map(|(name, times)| (name.clone(), name.repeat(times)))
        .collect()
}

/// The stamp of a name.
fn stamp(name: &[u8]) -> [u8; STAMP_LEN] {
    name.repeat(STAMP_LEN)[..STAMP_LEN].try_into().unwrap()
}

fn write(path: &Path, folders: &[u8]) {
    let mut new = NewStateFile::create(path).unwrap();
    for folder in folders {
        let mut open = OpenFolder::new(Some(key(*folder)));
        for (name, value) in content(*folder) {
            new.add(&mut open, &name, &stamp(&name), &value).unwrap();
        }
        // The third is not known whole.
        if *folder == 3 {
            new.close_block(&mut open).unwrap();
        } else {
            new.close_whole(&mut open, node(*folder)).unwrap();
        }
    }
    new.keep(b"header").unwrap();
}

type Records = Vec<(Vec<u8>, Vec<u8>)>;

fn all(file: &StateFile, folder: u8) -> Result<Records, Spoilt> {
    let (mut cursor, mut found) = (Cursor::new(file), Vec::new());
    let mut after = Vec::new();
    while let Some(record) = cursor.next_after(&key(folder), &after)? {
        assert_eq!(record.stamp, stamp(record.name));
        found.push((record.name.to_vec(), record.value.to_vec()));
        after = record.name.to_vec();
    }
    Ok(found)
}

#[test]
fn what_was_written_is_found_in_any_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    // Folders come in the order of the walk, not of their keys.
    write(&path, &[7, 1, 3]);
    let file = StateFile::open(&path).unwrap();
    assert_eq!(file.header(), b"header");
    assert!(file.rows_of(&key(1)).len() > 3);
    let mut cursor = Cursor::new(&file);
    let mut value = |folder, name: &[u8]| {
        let found = cursor.stamp(&key(folder), name).unwrap();
        let record = cursor.get(&key(folder), name).unwrap();
        assert_eq!(found.map(|(_, stamp)| stamp), record.as_ref().map(|_| stamp(name)));
        found.zip(record).map(|((number, _), record)| (number, record.value.to_vec()))
    };
    for folder in [7, 1, 3, 1, 1, 7] {
        let all_of_it = || (0u32..).zip(content(folder));
        for (number, (name, expected)) in all_of_it() {
            assert!(value(folder, &name) == Some((number, expected.clone())));
            assert!(value(folder, &name) == Some((number, expected)), "once more");
        }
        for missing in [&b""[..], b"1-0250x", b"zz"] {
            assert!(value(folder, missing).is_none());
        }
        for (number, (name, expected)) in all_of_it().collect::<Vec<_>>().into_iter().rev().step_by(50) {
            assert!(value(folder, &name) == Some((number, expected)), "backwards");
        }
        assert!(all(&file, folder).unwrap() == content(folder));
    }
    assert!(value(2, b"1-0000").is_none());
}

#[test]
fn records_are_found_by_their_numbers_and_beside_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    write(&path, &(1..=20).collect::<Vec<_>>());
    let file = StateFile::open(&path).unwrap();
    let mut cursor = Cursor::new(&file);
    let expected = content(1);
    // Forwards, backwards, with jumps; and other folders in between, more than are held.
    for number in (0..2000).chain((0..2000).rev()).chain((0..2000).map(|number| number * 77 % 2000)) {
        let record = cursor.at(&key(1), number).unwrap().unwrap();
        let (name, value) = &expected[number as usize];
        assert!((record.name, record.value) == (&name[..], &value[..]));
        if number % 7 == 0 {
            for other in 2..=20 {
                assert!(cursor.at(&key(other), 4).unwrap().unwrap().value == content(other)[4].1);
            }
        }
        let (name, value) = &expected[(number as usize + 1990) % 2000];
        assert!(cursor.get(&key(1), name).unwrap().unwrap().value == value);
    }
    assert!(cursor.at(&key(1), 2000).unwrap().is_none());
    assert!(cursor.at(&key(21), 0).unwrap().is_none());
}

#[test]
fn a_folder_that_is_known_whole_has_a_summary() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    write(&path, &[1, 2, 3]);
    let file = StateFile::open(&path).unwrap();
    let mut cursor = Cursor::new(&file);
    for round in 0..2 {
        assert_eq!(cursor.summary(&key(1)).unwrap(), Some(Summary { count: 2000, node: node(1) }));
        assert_eq!(cursor.summary(&key(2)).unwrap(), Some(Summary { count: 5, node: node(2) }));
        assert_eq!(cursor.summary(&key(3)).unwrap(), None);
        assert_eq!(cursor.summary(&key(4)).unwrap(), None);
        let (name, value) = &content(1)[100 + round];
        assert!(cursor.get(&key(1), name).unwrap().unwrap().value == value);
        assert!(cursor.at(&key(2), 1).unwrap().unwrap().value == content(2)[1].1);
    }
}

#[test]
fn a_new_header_takes_the_place_of_the_old_one_and_serves_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    write(&path, &[1, 2]);
    let old = StateFile::open(&path).unwrap();
    let blocks = fs::read(&path).unwrap();
    let new = NewStateFile::create(&path).unwrap();
    assert!(!new.adds_nothing_to(&old, &HashSet::from([key(1)])), "folder 2 would be lost");
    assert!(new.adds_nothing_to(&old, &HashSet::from([key(1), key(2)])));
    new.keep_old(&old, b"another").unwrap();
    assert_eq!(StateFile::open(&path).unwrap().header(), b"another");
    assert!(fs::read(&path).unwrap() == blocks);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    write(&folder.path().join("other"), &[1]);
    fs::copy(folder.path().join("other"), &path).unwrap();
    assert!(StateFile::open(&path).is_none());
}

#[test]
fn the_folders_that_a_new_file_does_not_have_are_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    write(&path, &[1, 2, 3, 4]);
    let old = StateFile::open(&path).unwrap();
    let mut new = NewStateFile::create(&path).unwrap();
    let mut open = OpenFolder::new(Some(key(2)));
    new.add(&mut open, b"new", &stamp(b"new"), b"value").unwrap();
    new.close_block(&mut open).unwrap();
    // Of the folder 4 nothing is wanted.
    new.take_over(&old, |folder| *folder != key(4)).unwrap();
    new.keep(b"").unwrap();
    let file = StateFile::open(&path).unwrap();
    assert!(all(&file, 1).unwrap() == content(1));
    assert_eq!(Cursor::new(&file).summary(&key(1)).unwrap(), Some(Summary { count: 2000, node: node(1) }));
    assert!(all(&file, 4).unwrap().is_empty());
    assert!(all(&file, 2).unwrap() == [(b"new".to_vec(), b"value".to_vec())]);
    assert!(all(&file, 3).unwrap() == content(3));
}

#[test]
fn what_is_not_what_was_written_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    write(&path, &[1, 2]);
    let good = fs::read(&path).unwrap();
    for len in (0..good.len()).step_by(997).chain(good.len() - 100..good.len()) {
        fs::write(&path, &good[..len]).unwrap();
        assert!(StateFile::open(&path).is_none(), "cut off at {len}");
    }
    for at in (0..good.len()).step_by(997).chain(good.len() - 600..good.len()) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&path, &bad).unwrap();
        let Some(file) = StateFile::open(&path) else { continue };
        assert!(all(&file, 1).is_err() || all(&file, 2).is_err(), "byte {at}");
    }
}

#[test]
fn two_do_not_write_one_file_and_what_is_not_kept_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let one = NewStateFile::create(&path).unwrap();
    let two = NewStateFile::create(&path).err().unwrap();
    assert_eq!(two.kind(), io::ErrorKind::WouldBlock);
    drop(one);
    assert!(NewStateFile::create(&path).is_ok());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
