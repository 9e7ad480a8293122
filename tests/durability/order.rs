//! In which order a run publishes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vault::backend::{Backend as _, LocalFolder};
use vault::event::{Event, Observer};
use vault::snapshot::State;

use super::Op;
use super::place::{Log, Place, assert_whole};
use crate::support::mount::{FileSystem, Mount};
use crate::support::needs::needs;
use crate::support::repository::{self, is_encrypted};

/// The folders in which files were published, in order, each once for neighbours.
fn published(log: &Log) -> Vec<String> {
    let log = log.lock().unwrap();
    let mut folders: Vec<String> = log
        .iter()
        .filter(|(op, _)| *op == Op::Publish)
        .map(|(_, name)| name.split('/').next().unwrap().to_owned())
        .collect();
    folders.dedup();
    folders
}

#[test]
fn dur_6_packs_come_before_segments_and_these_before_the_snapshot() {
    let place = Place::new();
    for round in 0..2 {
        place.fill("file", round * 1000, 120);
        let (watched, log) = place.recorded();
        place.snapshot_on(watched).unwrap();
        assert_eq!(published(&log), ["sessions", "packs", "sessions", "index", "snapshots"]);
        let log = log.lock().unwrap();
        let packs = log.iter().filter(|(op, name)| *op == Op::Publish && name.starts_with("packs")).count();
        assert!(packs > 2, "several packs were meant to be written: {packs}");
        let (last, name) = log.iter().rfind(|(op, _)| op.is_change()).map(|(op, name)| (*op, name)).unwrap();
        assert!(
            (last, name.starts_with("snapshots/")) == (Op::Publish, true) || last == Op::Remove,
            "{last:?} {name}"
        );
    }
}

#[test]
fn dur_7_config_is_published_last_and_after_the_folders_are_durable() {
    let place = Place::empty();
    let (watched, log) = place.recorded();
    repository::init(&*watched).unwrap();
    // The key before what needs it.
    let key: &[&str] = if is_encrypted() { &["keys"] } else { &[] };
    assert_eq!(published(&log), [&["reserve", "copy"], key, &["config.2", "config"]].concat());
    let log = log.lock().unwrap();
    let first_created = log.iter().position(|(op, _)| *op == Op::Create).unwrap();
    let last_made = log.iter().rposition(|(op, _)| *op == Op::MakeFolder).unwrap();
    for folder in ["packs", ""] {
        let synced = log.iter().position(|(op, name)| *op == Op::SyncFolder && name == folder).unwrap();
        assert!(last_made < synced && synced < first_created, "{folder:?}");
    }
}

/// Asks to stop once something was saved.
struct StopEarly(Arc<AtomicBool>);

impl Observer for StopEarly {
    fn event(&self, event: &Event<'_>) {
        if matches!(event, Event::ChunkAdded { .. }) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn dur_12_an_interrupted_run_publishes_a_partial_snapshot_in_the_same_order() {
    let place = Place::new();
    place.fill("file", 1, 300);
    let stop = Arc::new(AtomicBool::new(false));
    let observer: Arc<dyn Observer> = Arc::new(StopEarly(stop.clone()));
    let (watched, log) = place.recorded();
    let summary = place.snapshot_with(watched, &observer, &stop).unwrap();
    assert_eq!(summary.state, State::Partial);
    assert_eq!(published(&log), ["sessions", "packs", "sessions", "index", "snapshots"]);
    assert_whole(&place);
    // Nothing that was packed is packed again.
    place.snapshot().unwrap();
    place.assert_each_chunk_is_stored_once();
    assert_whole(&place);
}

#[test]
fn dur_5_a_folder_that_cannot_be_synced_is_said_and_the_file_is_published() {
    needs!("ext4", "exfat");
    for kind in [FileSystem::Ext4, FileSystem::Exfat] {
        let mount = Mount::new(kind, 64);
        let place = mount.join("repository");
        let backend = LocalFolder::new(&place);
        repository::init(&backend).unwrap();
        let can = std::fs::File::open(&place).unwrap().sync_all().is_ok();
        assert_eq!(backend.folder_sync_is_weak(), !can, "{kind:?}");
        assert!(repository::open(Arc::new(LocalFolder::new(&place))).unwrap().problems().is_empty());
    }
}
