//! Segments that are many, damaged, or both: what a reader holds open, what a merge does without, and what is written again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use vault::backend::{Backend, LocalFolder};
use vault::error::Error;
use vault::event::{Event, Observer};
use vault::id::{PackId, SegmentId, hash};
use vault::index::{Facts, Segment, redundant};
use vault::pack::PackFile;

use super::place::{Place, assert_all_is_read, assert_whole};
use crate::mirror::medium::Op;
use crate::support::repository::is_encrypted;

/// Keeps what is said of damage, and may ask to stop when a phase begins.
#[derive(Default)]
struct Heard {
    damage: Mutex<Vec<String>>,
    stop_in: Option<&'static str>,
    stop: Arc<AtomicBool>,
}

impl Observer for Heard {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Damage { error } => self.damage.lock().unwrap().push(error.to_string()),
            Event::Phase(name) if self.stop_in == Some(*name) => self.stop.store(true, Ordering::Relaxed),
            _ => {}
        }
    }
}

/// Takes a snapshot and returns what was said of damage.
fn damage_said(place: &Place) -> Vec<String> {
    let heard = Arc::new(Heard::default());
    let observer: Arc<dyn Observer> = heard.clone();
    let backend = Arc::new(LocalFolder::new(place.repository()));
    place.snapshot_with(backend, &observer, &AtomicBool::new(false)).unwrap();
    drop(observer);
    Arc::into_inner(heard).unwrap().damage.into_inner().unwrap()
}

/// Changes a byte of the last block of a segment.
fn spoil(segment: &Path) {
    let mut bytes = fs::read(segment).unwrap();
    let at = bytes.len() - 20;
    bytes[at] ^= 1;
    fs::write(segment, bytes).unwrap();
}

/// Eight packs, and a segment for each set of some of them, as a copy might have that nobody ever tidied: 255.
fn many_segments() -> Place {
    let place = Place::new();
    place.fill("file", 1, 24);
    place.snapshot().unwrap();
    let repository = place.open();
    let packs: Vec<PackId> = place.packs().iter().filter_map(|name| PackId::from_hex(name)).take(8).collect();
    assert_eq!(packs.len(), 8);
    for set in 1..256_u32 {
        let mut facts = Facts::default();
        for pack in packs.iter().enumerate().filter(|(bit, _)| set >> bit & 1 == 1).map(|(_, pack)| *pack) {
            let file = PackFile::open(&**repository.backend(), pack, repository.keys()).unwrap();
            let directory = file.directory().unwrap();
            facts.add_pack(pack, file.len(), file.kind(), directory.placed(pack));
        }
        facts.sort();
        let bytes = facts.encode_segment(repository.keys(), &[]).unwrap();
        let name = format!("index/{}", SegmentId::from_bytes(hash(&bytes)));
        fs::write(place.repository().join(name), bytes).unwrap();
    }
    place
}

#[test]
fn a_reader_of_many_segments_keeps_few_files_open() {
    let place = many_segments();
    let repository = place.open();
    let reader = repository.reader().unwrap();
    assert!(reader.index().segments().count() >= 255);
    assert_all_is_read(&repository, &reader);
    let index = place.repository().join("index");
    let links = fs::read_dir("/proc/self/fd").unwrap();
    let open: Vec<PathBuf> = links.filter_map(|link| fs::read_link(link.unwrap().path()).ok()).collect();
    let open = open.iter().filter(|path| path.starts_with(&index)).count();
    assert!((1..=64).contains(&open), "{open} segments are open");
    assert_whole(&place);
}

#[test]
fn dur_15_what_hangs_on_a_segment_that_is_not_whole_is_not_redundant() {
    let place = many_segments();
    let backend: Arc<dyn Backend> = Arc::new(LocalFolder::new(place.repository()));
    let repository = place.open();
    let ids = repository.segment_ids().unwrap();
    let open = |id: &SegmentId| Segment::open(&backend, *id, repository.keys()).unwrap();
    let segments: Vec<Segment> = ids.iter().map(open).filter(|segment| segment.packs().len() <= 8).collect();
    let all: Vec<&Segment> = segments.iter().collect();
    let union = all.iter().find(|segment| segment.packs().len() == 8).unwrap().id();
    let mut asked = Vec::new();
    let is_whole = |segment: &Segment| {
        asked.push(segment.id());
        Ok(true)
    };
    assert_eq!(redundant(&all, |_| true, is_whole).unwrap().len(), 254);
    assert_eq!(asked, [union]);
    let spare = |not_whole: SegmentId| {
        redundant(&all, |_| true, |segment| Ok(segment.id() != not_whole)).unwrap().len()
    };
    assert_eq!(spare(union), 0);
    let two = all.iter().find(|segment| segment.packs().len() == 2).unwrap().id();
    assert_eq!(redundant(&all, |segment| segment.id() == two, |_| Ok(true)).unwrap()[0].id(), two);
    let stops = redundant(&all, |_| true, |_| Err(Error::Interrupted));
    assert!(matches!(stops, Err(Error::Interrupted)));
}

#[test]
fn dur_8_dur_11_a_damaged_segment_is_left_out_of_a_merge_and_written_again_by_the_next_run() {
    let place = Place::new();
    for round in 0..32 {
        place.fill("file", 1000 + round * 10, 1);
        assert_eq!(damage_said(&place), [""; 0]);
    }
    let damaged = place.files("index").remove(7);
    let whole = fs::read(&damaged).unwrap();
    spoil(&damaged);
    place.fill("file", 9000, 1);
    // The cache knows all that is in it, so only the merge comes upon it.
    let said = damage_said(&place);
    let name = damaged.file_name().unwrap().to_str().unwrap();
    assert_eq!(said, [format!("index/{name} is damaged")]);
    let left = place.files("index");
    assert!(left.len() == 2 && left.contains(&damaged), "the others are merged: {left:?}");

    let packs = place.packs();
    assert_eq!(damage_said(&place), said);
    if is_encrypted() {
        // A seal never comes out twice alike: another one stands in its place.
        assert!(!damaged.exists() && place.files("index").len() == 2);
    } else {
        assert_eq!(fs::read(&damaged).unwrap(), whole, "it is not written again");
    }
    assert!(packs.is_subset(&place.packs()));
    assert_eq!(damage_said(&place), [""; 0]);
    assert_whole(&place);
    place.assert_each_chunk_is_stored_once();
}

#[test]
fn dur_11_two_damaged_segments_are_each_written_again_and_a_run_that_is_stopped_writes_nothing() {
    let place = Place::new();
    for round in 0..3 {
        place.fill("file", round * 10, 3);
        place.snapshot().unwrap();
    }
    let segments = place.files("index");
    for segment in &segments[..2] {
        spoil(segment);
    }
    place.fill("file", 9000, 1);
    // A cache that was lost, so that the segments are read again.
    fs::remove_dir_all(place.repository().parent().unwrap().join("cache")).unwrap();
    let heard = Heard { stop_in: Some("adopting packs"), ..Heard::default() };
    let stop = heard.stop.clone();
    let observer: Arc<dyn Observer> = Arc::new(heard);
    let (watched, log) = place.recorded();
    let stopped = place.snapshot_with(watched, &observer, &stop);
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    let mut log = log.lock().unwrap().clone();
    log.retain(|(op, name)| matches!(op, Op::Publish | Op::Remove) && !name.starts_with("sessions/"));
    assert_eq!(log, []);

    assert_eq!(damage_said(&place).len(), 2);
    assert_eq!(damage_said(&place), [""; 0]);
    assert_whole(&place);
    place.assert_each_chunk_is_stored_once();
}

#[test]
fn dur_12_a_stop_while_packs_are_adopted_ends_the_run() {
    let place = Place::new();
    place.fill("file", 1, 4);
    place.snapshot().unwrap();
    for file in place.files("index") {
        fs::remove_file(file).unwrap();
    }
    let before = place.snapshots();
    let heard = Heard { stop_in: Some("adopting packs"), ..Heard::default() };
    let stop = heard.stop.clone();
    let observer: Arc<dyn Observer> = Arc::new(heard);
    let stopped = place.snapshot_with(Arc::new(LocalFolder::new(place.repository())), &observer, &stop);
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    assert_eq!((place.snapshots(), place.files("index").len()), (before, 0));
}
