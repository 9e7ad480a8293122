//! Snapshots that have no room for all that would be said in them.

use std::fs;
use std::os::unix::fs::chown;
use std::sync::atomic::AtomicBool;

use vault::backend::LocalFolder;
use vault::backup::BackupOptions;
use vault::error::Error;
use vault::event::{Observer, Silent};
use vault::header::MAX_STRUCTURE_LEN;
use vault::merge::{MergeOptions, Prefer, merge};
use vault::snapshot::{MAX_LISTED, Snapshot};

use super::{Arc, Path, Result, Scratch, new_repository, options, repository, save};
use crate::support::needs::needs;

fn snapshots(place: &Path) -> Vec<Snapshot> {
    let repository = repository::open(Arc::new(LocalFolder::new(place))).unwrap();
    repository.snapshots().unwrap().into_iter().map(|(_, read)| read.unwrap()).collect()
}

/// Saves a source with a description of this length.
fn described(place: &Path, source: &Path, len: usize) -> Result<()> {
    let options = BackupOptions { description: "x".repeat(len), ..options(&[source.to_owned()]) };
    save(Arc::new(LocalFolder::new(place)), options).map(|_| ())
}

#[test]
fn snap_5_what_a_snapshot_has_no_room_for_is_refused_before_anything_is_read() {
    let scratch = Scratch::new();
    let place = new_repository(&scratch);
    let source = scratch.join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    let tags = vec![String::new(); MAX_LISTED + 1];
    let refused = save(
        Arc::new(LocalFolder::new(&place)),
        BackupOptions { tags, ..options(std::slice::from_ref(&source)) },
    );
    assert!(matches!(refused, Err(Error::Usage(_))), "{refused:?}");
    assert_eq!(fs::read_dir(place.join("index")).unwrap().count(), 0);
    // The owners have names, and there are counters.
    let tags = vec![String::new(); MAX_LISTED - 100];
    save(Arc::new(LocalFolder::new(&place)), BackupOptions { tags, ..options(&[source]) }).unwrap();
    assert_eq!(snapshots(&place)[0].tags.len(), MAX_LISTED - 100);
}

#[test]
fn snap_5_names_of_owners_are_left_out_where_there_is_no_room_for_them() {
    needs!("root");
    let scratch = Scratch::new();
    let place = new_repository(&scratch);
    let source = scratch.join("source");
    fs::create_dir(&source).unwrap();
    let number = |line: &str| line.split(':').nth(2).and_then(|number| number.parse().ok());
    let numbers =
        |file: &str| -> Vec<u32> { fs::read_to_string(file).unwrap().lines().filter_map(number).collect() };
    let (users, groups) = (numbers("/etc/passwd"), numbers("/etc/group"));
    for (at, group) in groups.iter().enumerate() {
        let file = source.join(at.to_string());
        fs::write(&file, "content").unwrap();
        chown(&file, users.get(at).copied(), Some(*group)).unwrap();
    }
    described(&place, &source, 1).unwrap();
    let all = &snapshots(&place)[0].sources[0];
    let names = all.users.iter().chain(&all.groups).map(|(_, name)| 12 + name.len()).sum::<usize>();
    assert!(names > 700, "{names}");
    // The longest that is not refused: what a snapshot needs at least is known before, and has some room.
    let most = usize::try_from(MAX_STRUCTURE_LEN).unwrap();
    let mut len = most;
    while described(&place, &source, len).is_err() {
        len -= 64;
        assert!(len > most - 4096);
    }
    let longest = snapshots(&place).into_iter().find(|snapshot| snapshot.description.len() == len).unwrap();
    assert!(longest.sources[0].users.is_empty() && longest.sources[0].groups.is_empty());
    assert_eq!(longest.root.kind.directory(), snapshots(&place)[0].root.kind.directory());
}

#[test]
fn snap_5_snapshots_that_list_too_much_together_are_not_merged_and_nothing_is_written() {
    let scratch = Scratch::new();
    let place = new_repository(&scratch);
    let source = scratch.join("source");
    fs::create_dir(&source).unwrap();
    for half in ["one", "other"] {
        fs::write(source.join("file"), half).unwrap();
        let tags = (0..MAX_LISTED / 2).map(|number| format!("{half}{number}")).collect();
        let options = BackupOptions { tags, ..options(std::slice::from_ref(&source)) };
        save(Arc::new(LocalFolder::new(&place)), options).unwrap();
    }
    let repository = repository::open(Arc::new(LocalFolder::new(&place))).unwrap();
    let both: Vec<_> =
        repository.snapshots().unwrap().into_iter().map(|(id, read)| (id, read.unwrap())).collect();
    let segments = fs::read_dir(place.join("index")).unwrap().count();
    let options = MergeOptions {
        prefer: Prefer::Newest,
        label: None,
        tags: Vec::new(),
        description: String::new(),
        dry_run: false,
        cache_folder: None,
    };
    let observer: Arc<dyn Observer> = Arc::new(Silent);
    let refused = merge(&repository, &both, &options, &observer, &AtomicBool::new(false));
    assert!(matches!(refused, Err(Error::Usage(_))), "{refused:?}");
    assert_eq!(fs::read_dir(place.join("index")).unwrap().count(), segments);
    assert_eq!(fs::read_dir(place.join("tmp")).unwrap().count(), 0);
}
