//! What `check` does besides finding flipped bytes: names, records, parts of a repository, interruption, rules that only a faulty
//! writer breaks.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vault::backend::{Backend, LocalFolder};
use vault::check::{CheckOptions, CheckReport, Loss, Subset, check};
use vault::error::Error;
use vault::event::{Event, Silent};
use vault::id::{ChunkKind, PackId, SnapshotId, checksum_128, hash};
use vault::pack::{PackFile, TAIL_LEN, pack_file_name};
use vault::repository::{Repository, WriteOptions};
use vault::seal::Keys;
use vault::snapshot::{Entry, Kind, Meta, TreeNode};

use super::sample::{Sample, data, put, snapshot};
use crate::support::repository::{self, is_encrypted};
use crate::support::scratch::Scratch;

fn open(place: &Path) -> Repository {
    repository::open(Arc::new(LocalFolder::new(place))).unwrap()
}

fn run(place: &Path, options: &CheckOptions) -> CheckReport {
    check(&open(place), options, &Silent, &AtomicBool::new(false)).unwrap()
}

fn reading() -> CheckOptions {
    CheckOptions { read_data: true, ..CheckOptions::default() }
}

/// Flips a bit in the first frame of the pack with the most bytes.
fn spoil(sample: &Sample) -> PackId {
    let (file, _) = sample.flip_in_data();
    let path = sample.scratch.join("repository").join(&file);
    let mut bytes = fs::read(&path).unwrap();
    bytes[300] ^= 1;
    fs::write(&path, bytes).unwrap();
    PackId::from_hex(file.rsplit('/').next().unwrap()).unwrap()
}

#[test]
fn repo_3_unknown_names_are_reported_and_are_no_damage() {
    let sample = Sample::new();
    let place = sample.scratch.join("repository");
    for name in ["desktop.ini", "packs/zz", "packs/00/11", "index/a segment", "snapshots/AB"] {
        fs::write(place.join(name), "what").unwrap();
    }
    fs::write(place.join("packs/00").join(format!("00{}.par", "1".repeat(62))), "reserved").unwrap();
    let report = run(&place, &reading());
    assert!(report.damages.is_empty(), "{:?}", report.damages);
    let mut names = report.unknown_names;
    names.sort();
    assert_eq!(names, ["desktop.ini", "index/a segment", "packs/00/11", "packs/zz", "snapshots/AB"]);
}

#[test]
fn repo_5_a_copy_without_empty_folders_is_whole() {
    let sample = Sample::new();
    let place = sample.scratch.join("repository");
    for folder in
        (0..=255).map(|prefix| format!("packs/{prefix:02x}")).chain(["features".into(), "keys".into()])
    {
        // Only succeeds where a folder is empty.
        let _ = fs::remove_dir(place.join(folder));
    }
    let report = run(&place, &reading());
    assert!(report.damages.is_empty() && report.snapshots == 3, "{report:?}");
    assert!(report.notices.iter().any(|text| text.contains("folders of packs are missing")), "{report:?}");
}

#[test]
fn rec_2_a_marked_pack_is_stored_again_and_unmarked_once_it_is_whole() {
    let sample = Sample::new();
    let place = sample.scratch.join("repository");
    let pack = spoil(&sample);
    let options = CheckOptions { mark_damaged: true, ..reading() };
    let report = run(&place, &options);
    assert_eq!(report.marked, [pack]);
    assert!(report.damages.iter().any(|damage| !damage.costs.is_empty()));
    assert!(open(&place).reader().unwrap().index().present().damaged.contains(&pack));
    assert!(run(&place, &options).marked.is_empty(), "a pack is recorded once");

    // The first of the sources still has all that the second snapshot lost.
    let backend: Arc<dyn Backend> = Arc::new(LocalFolder::new(&place));
    let healed = snapshot(&backend, &sample.scratch.join("source"));
    let shallow = run(&place, &CheckOptions::default());
    let [damage] = &shallow.damages[..] else { panic!("{:?}", shallow.damages) };
    assert_eq!(damage.object, pack_file_name(&pack), "what is recorded is damage without reading, too");
    assert!(damage.costs.iter().all(|cost| cost.snapshot != healed), "{:?}", damage.costs);

    let report = run(&place, &options);
    if is_encrypted() {
        // A seal never comes out twice alike: the damaged pack is not replaced by the new one, and nothing needs it.
        let [damage] = &report.damages[..] else { panic!("{:?}", report.damages) };
        assert_eq!((&damage.object, &damage.costs[..]), (&pack_file_name(&pack), &[][..]));
        assert!(report.marked.is_empty() && report.unmarked.is_empty(), "{report:?}");
        fs::remove_file(place.join(pack_file_name(&pack))).unwrap();
        assert!(run(&place, &options).damages.is_empty());
        return;
    }
    // The same chunks made the same pack, in the place of the damaged one: the record can go.
    assert!(report.damages.is_empty() && report.marked.is_empty(), "{report:?}");
    assert_eq!(report.unmarked, [pack]);
    assert!(!open(&place).reader().unwrap().index().present().damaged.contains(&pack));
    let shallow = run(&place, &CheckOptions::default());
    assert!(shallow.damages.is_empty() && shallow.notices.is_empty(), "{shallow:?}");
}

#[test]
fn a_part_of_a_snapshot_is_checked_alone() {
    let sample = Sample::new();
    let place = sample.scratch.join("repository");
    spoil(&sample);
    let whole = run(&place, &reading());
    let cost = whole.damages.iter().flat_map(|damage| &damage.costs).find(|cost| cost.loss == Loss::Content);
    let cost = cost.unwrap();
    let only = |path: &[u8]| CheckOptions { only: Some((cost.snapshot, path.to_vec())), ..reading() };
    let report = run(&place, &only(&cost.path));
    assert_eq!(report.damages.len(), 1);
    assert_eq!(report.damages[0].costs, std::slice::from_ref(cost));
    assert!(run(&place, &only(b"saved/short-1")).damages.is_empty());
    assert!(!run(&place, &only(b"")).damages.is_empty());
    let unread = CheckOptions { read_data: false, ..only(&cost.path) };
    assert!(run(&place, &unread).damages.is_empty(), "the pack has the right length");
    let absent = check(&open(&place), &only(b"saved/not here"), &Silent, &AtomicBool::new(false));
    assert!(matches!(absent, Err(Error::NotFound { .. })), "{absent:?}");
}

#[test]
fn parts_of_the_packs_make_up_the_whole() {
    let sample = Sample::new();
    let place = sample.scratch.join("repository");
    let read = |subset| run(&place, &CheckOptions { subset: Some(subset), ..reading() }).packs_read;
    let all = run(&place, &reading()).packs_read;
    assert_eq!((1..=3).map(|n| read(Subset::Part { n, of: 3 })).sum::<u64>(), all);
    assert_eq!(read(Subset::Percent(100.0)), all);
    assert_eq!(read(Subset::Bytes(1)), 1);
    assert_eq!(read(Subset::Bytes(u64::MAX)), all);
}

#[test]
fn a_check_can_be_interrupted() {
    let sample = Sample::new();
    let stop = AtomicBool::new(false);
    let observer = |event: &Event<'_>| {
        if matches!(event, Event::Started { .. }) {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let outcome = check(&open(&sample.scratch.join("repository")), &reading(), &observer, &stop);
    assert!(matches!(outcome, Err(Error::Interrupted)), "{outcome:?}");
}

/// Puts other bytes in the place of a pack, under the name that they have, without a segment.
fn replace(place: &Path, pack: &Path, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = fs::read(pack).unwrap();
    change(&mut bytes);
    fs::remove_file(pack).unwrap();
    for segment in fs::read_dir(place.join("index")).unwrap() {
        fs::remove_file(segment.unwrap().path()).unwrap();
    }
    let name = pack_file_name(&PackId::from_bytes(hash(&bytes)));
    fs::write(place.join(&name), bytes).unwrap();
    name
}

/// Computes the checksum of a tail again.
fn reseal(bytes: &mut [u8], keys: &Keys) {
    let at = bytes.len() - TAIL_LEN;
    let (before, tail) = bytes.split_at_mut(at);
    let mask = keys.is_sealed().then(|| keys.open_pack(tail[16..144].try_into().unwrap()).unwrap().0);
    let apply = |tail: &mut [u8]| {
        if let Some(mask) = &mask {
            mask.apply(at as u64, &mut tail[..16]);
            mask.apply(at as u64 + 144, &mut tail[144..184]);
        }
    };
    apply(tail);
    let directory = u64::from_le_bytes(tail[..8].try_into().unwrap());
    let checksum = checksum_128(&[&before[usize::try_from(directory).unwrap()..], &tail[..168]]);
    tail[168..184].copy_from_slice(&checksum);
    apply(tail);
}

fn longest_pack(sample: &Sample) -> (PathBuf, PathBuf) {
    let place = sample.scratch.join("repository");
    let pack = place.join(sample.flip_in_data().0);
    (place, pack)
}

#[test]
fn pack_2_a_directory_that_is_not_what_the_frames_say_is_damage() {
    let sample = Sample::new();
    let (place, pack) = longest_pack(&sample);
    let keys = open(&place).keys().clone();
    let name = replace(&place, &pack, |bytes| {
        // The last id of the directory.
        let at = bytes.len() - TAIL_LEN - 45;
        bytes[at] ^= 1;
        reseal(bytes, &keys);
    });
    let report = run(&place, &reading());
    let damage = report.damages.iter().find(|damage| damage.object == name).unwrap();
    // Nobody without the key can change a sealed one so that it says something else.
    let why = if is_encrypted() { "BrokenSeal { part: \"directory\" }" } else { "PACK-2" };
    assert!(format!("{:?}", damage.error).contains(why), "{damage:?}");
}

#[test]
fn pack_3_padding_that_is_not_zero_is_damage() {
    let sample = Sample::new();
    let (place, pack) = longest_pack(&sample);
    let id = PackId::from_hex(pack.file_name().unwrap().to_str().unwrap()).unwrap();
    let file = PackFile::open(&LocalFolder::new(&place), id, open(&place).keys()).unwrap();
    let end = 192 + 32 + file.directory().unwrap().frames[0].stored_len as usize;
    assert!(!end.is_multiple_of(64), "this frame has no padding");
    // Where there is a mask on it, too, another bit is another bit.
    let name = replace(&place, &pack, |bytes| bytes[end] ^= 1);
    let report = run(&place, &reading());
    let [damage] = &report.damages[..] else { panic!("{:?}", report.damages) };
    assert_eq!(damage.object, name);
    assert!(format!("{:?}", damage.error).contains("PACK-3") && damage.costs.is_empty(), "{damage:?}");
}

#[test]
fn seg_5_a_segment_without_a_chunk_of_its_pack_is_damage() {
    let sample = Sample::new();
    let place = sample.scratch.join("repository");
    let repository = open(&place);
    let reader = repository.reader().unwrap();
    let segment = reader.index().segments().next().unwrap();
    let mut facts = vault::index::Facts::default();
    let mut placed = Vec::new();
    segment.for_each(|fact| placed.push(fact)).unwrap();
    let left_out = placed.pop().unwrap();
    for row in segment.packs() {
        let kind = vault::pack::PackKind::from_number(row.kind).unwrap();
        let chunks = placed.iter().copied().filter(|(_, location)| location.pack == row.pack);
        facts.add_pack(row.pack, row.stored_len.into(), kind, chunks);
    }
    facts.sort();
    let bytes = facts.encode_segment(repository.keys(), &[]).unwrap();
    let name = format!("index/{}", vault::id::SegmentId::from_bytes(hash(&bytes)));
    fs::write(place.join(&name), bytes).unwrap();
    fs::remove_file(place.join(format!("index/{}", segment.id()))).unwrap();
    let report = run(&place, &reading());
    let damage = report.damages.iter().find(|damage| damage.object == name).unwrap();
    assert!(format!("{:?}", damage.error).contains("SEG-5"), "{damage:?}");
    let missing = left_out.0.to_string();
    assert!(report.damages.iter().any(|damage| damage.object.contains(&missing)), "{:?}", report.damages);
}

/// Ten thousand folders in one another, with a lost file at the bottom.
#[test]
fn a_path_of_ten_thousand_levels_is_checked_and_named() {
    const LEVELS: usize = 10_000;
    let scratch = Scratch::new();
    let place = scratch.join("repository");
    let backend: Arc<dyn Backend> = Arc::new(LocalFolder::new(&place));
    repository::init(&*backend).unwrap();
    fs::write(scratch.dir("source").join("file"), "x").unwrap();
    let model = snapshot(&backend, &scratch.join("source"));
    let repository = open(&place);
    let mut writer = repository.writer(&WriteOptions::new(Arc::new(Silent))).unwrap();
    let piece = data(&writer, b"at the bottom");
    let content = vault::snapshot::Content::Pieces(vec![piece]);
    let mut kind = Kind::File(piece.len(), content);
    for _ in 0..=LEVELS {
        let entry = Entry { name: b"d".as_slice().into(), kind, meta: Meta::default(), fields: Vec::new() };
        kind = Kind::Directory(put(&writer, ChunkKind::Tree, &TreeNode::Leaf(vec![entry])));
    }
    writer.finish().unwrap();
    let mut deep = repository.snapshot(&model).unwrap();
    deep.root.kind = kind;
    let id: SnapshotId = writer.publish_snapshot(&deep).unwrap();
    assert!(run(&place, &reading()).damages.is_empty());

    let packs = open(&place).listed_packs().unwrap();
    let mut packs = packs.keys().map(|pack| place.join(pack_file_name(pack)));
    let of_data = packs.find(|path| fs::read(path).unwrap()[10] == 1).unwrap();
    fs::remove_file(of_data).unwrap();
    let report = run(&place, &CheckOptions::default());
    let cost = report.damages.iter().flat_map(|damage| &damage.costs).find(|cost| cost.snapshot == id);
    assert_eq!(cost.unwrap().path.len(), 2 * LEVELS + 1);
}
