//! What is left of a copy alone.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::Value;
use vault::browse::lookup;
use vault::event::{Observer, Silent};
use vault::heal::{HealOptions, repair};
use vault::id::{ChunkId, ChunkKind, PackId, SnapshotId};
use vault::snapshot::{Content, How, Kind, Piece, Snapshot, State, Why, counter};

use super::world::{World, files, flip_at, lose, names, open, sound};
use crate::prune::store::Store;
use crate::support::manifest::Manifest;
use crate::support::repository::is_encrypted;
use crate::support::vault::Output;

fn lines(output: &Output) -> Vec<Value> {
    output.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The one snapshot that a repair has made.
#[track_caller]
fn made(copy: &Path, output: &Output) -> (SnapshotId, Snapshot) {
    let lines = lines(output);
    let repaired: Vec<&Value> = lines.iter().filter(|line| line["message_type"] == "repaired").collect();
    let [repaired] = repaired[..] else { panic!("{repaired:?}") };
    let id = SnapshotId::from_hex(repaired["snapshot_id"].as_str().unwrap()).unwrap();
    (id, open(copy).snapshot(&id).unwrap())
}

/// The first data chunk of a file in a snapshot, and the node of the folder at a path.
fn data_chunk(copy: &Path, snapshot: &SnapshotId, path: &str) -> ChunkId {
    let repository = open(copy);
    let reader = repository.reader().unwrap();
    let root = repository.snapshot(snapshot).unwrap().root;
    let entry = lookup(&reader, &root, path.as_bytes()).unwrap().unwrap();
    match entry.kind {
        Kind::File(_, Content::Pieces(pieces)) => match pieces[0] {
            Piece::Data(id, _) => id,
            Piece::Hole(_) => panic!("a hole"),
        },
        other => panic!("{other:?}"),
    }
}

fn node(copy: &Path, snapshot: &SnapshotId, path: &str) -> ChunkId {
    let repository = open(copy);
    let root = repository.snapshot(snapshot).unwrap().root;
    let entry = lookup(&repository.reader().unwrap(), &root, path.as_bytes()).unwrap().unwrap();
    entry.kind.directory().unwrap()
}

#[test]
fn where_nothing_is_damaged_nothing_is_written() {
    let world = World::saved();
    let before = files(&world.repo());
    world.run(&world.repo(), &["repair"]).ok().says("nothing to repair");
    world.run(&world.repo(), &["repair", "--quick"]).ok().says("without reading packs");
    assert_eq!(files(&world.repo()), before);
}

#[test]
fn a_config_that_is_gone_or_damaged_is_written_anew_as_the_other_one_is() {
    for name in ["config", "config.2"] {
        for is_gone in [true, false] {
            let world = World::saved();
            let path = world.repo().join(name);
            let whole = fs::read(&path).unwrap();
            if is_gone {
                fs::remove_file(&path).unwrap();
            } else {
                flip_at(&path, 40);
            }
            world.run(&world.repo(), &["check"]).code(13);
            world.run(&world.repo(), &["repair", "--dry-run"]).code(13).says(name);
            assert_ne!(fs::read(&path).ok(), Some(whole.clone()));
            world.run(&world.repo(), &["repair"]).ok().says(name);
            assert_eq!(fs::read(&path).unwrap(), whole);
            world.run(&world.repo(), &["check"]).ok();
        }
    }
}

#[test]
fn repair_1_a_lost_data_chunk_costs_its_file_in_a_new_snapshot_that_restores_without_damage() {
    let world = World::new();
    world.save();
    // In a pack of its own.
    world.write("one/big", 300_000);
    let old = world.save();
    let here = world.repo();
    let whole = Manifest::of(&world.src());
    lose(&here, ChunkKind::Data, &data_chunk(&here, &old, "s/one/big"));
    let before = sound(&here);

    let dry = world.run(&here, &["repair", "--dry-run"]).code(13);
    assert!(dry.text().contains("/s/one/big") && dry.text().contains("would be a new"), "{}", dry.text());
    assert_eq!(sound(&here), before);
    let output = world.run(&here, &["repair", "--json"]).code(13);
    let (id, new) = made(&here, &output);
    assert_eq!(new.state, State::Partial);
    assert_eq!(new.made_from, [(How::Repair, old)]);
    assert!(before.iter().all(|name| here.join(name).exists()), "something was deleted");

    // What is left restores without a fault, but is not taken for all of it.
    let selector = format!("{id}:s");
    world.run(&here, &["restore", &selector, "--target", "t"]).ok().says("1 not readable");
    let found = Manifest::of(&world.vault.join("cwd/t"));
    let diff = whole.diff(&found).join("\n");
    assert!(diff.contains("one/big") && !diff.contains("one/a") && !diff.contains("deep"), "{diff}");
    let repository = open(&here);
    let left = lookup(&repository.reader().unwrap(), &new.root, b"s/one/big").unwrap().unwrap();
    assert_eq!(left.kind, Kind::LeftOut(Why::Unreadable, 5));
    // `latest` is what it was, damaged as it is, and the old one is not forgotten.
    let latest = world.run(&here, &["ls", "latest:s/one"]).ok();
    assert!(latest.text().contains("one/big"));
    assert_eq!(repository.snapshots().unwrap().len(), 3);

    // The counters are those of what is left.
    assert_eq!(new.counter(counter::FILES), 4);
    assert_eq!(new.counter(counter::BYTES), 90_000 + 300_000 + 700 + 500_000);
    assert_eq!((new.counter(counter::ERRORS), new.counter(counter::LEFT_OUT)), (1, 1));

    // Its notes name what is missing.
    let notes = new.notes.unwrap();
    let root = vault::snapshot::Entry { kind: Kind::Directory(notes), ..new.root.clone() };
    let entry = lookup(&repository.reader().unwrap(), &root, b"errors").unwrap().unwrap();
    let mut text = String::new();
    let reader = repository.reader().unwrap();
    std::io::Read::read_to_string(&mut vault::browse::ContentReader::new(&reader, &entry), &mut text)
        .unwrap();
    assert_eq!(text, "/s/one/big: its content is lost\n");

    // Once more makes nothing more.
    let after = files(&here);
    let again = lines(&world.run(&here, &["repair", "--json"]).code(13));
    assert!(again.iter().any(|line| line["was_there"] == true && line["snapshot_id"] == id.to_string()));
    assert_eq!(files(&here), after);
}

#[test]
fn repair_2_a_lost_node_costs_what_is_below_it_and_the_rest_is_kept() {
    let world = World::new();
    for number in 0..3 {
        fs::create_dir(world.src().join(format!("two/deep/n{number}"))).unwrap();
        world.write(&format!("two/deep/n{number}/x"), 2000);
    }
    // A frame of its own for what was there first.
    let first = world.save();
    world.write("one/later", 5000);
    let old = world.save();
    let here = world.repo();
    lose(&here, ChunkKind::Tree, &node(&here, &old, "s/two"));
    let output = world.run(&here, &["repair", "--json", &old.to_string()]).code(13);
    let (id, new) = made(&here, &output);
    assert_eq!(new.made_from, [(How::Repair, old)]);
    let repository = open(&here);
    let reader = repository.reader().unwrap();
    let find = |path: &str| lookup(&reader, &new.root, path.as_bytes()).unwrap();
    assert!(find("s/two").unwrap().is_incomplete() && !find("s/one").unwrap().is_incomplete());
    assert!(find("s/two/deep").is_none() && find("s/one/later").is_some() && find("s/one/b").is_some());
    world.run(&here, &["check", &id.to_string(), "--read-data"]).ok();
    // The first one had its own root in that frame too.
    let rest = world.run(&here, &["repair"]).code(13);
    assert!(rest.text().contains("already") && rest.text().contains("nothing is left"), "{}", rest.text());
    assert!(rest.text().contains(&first.to_string()[..8]), "{}", rest.text());
    // One that was made can be damaged as well: what is left of both is made once.
    lose(&here, ChunkKind::Data, &data_chunk(&here, &old, "s/one/b"));
    let output = world.run(&here, &["repair", "--json"]).code(13);
    let repaired = lines(&output).into_iter().filter(|line| line["message_type"] == "repaired").count();
    assert_eq!(repaired, 3);
    assert_eq!(names(&here, "snapshots/").len(), 4, "{}", output.text());
    world.run(&here, &["repair"]).code(13);
    assert_eq!(names(&here, "snapshots/").len(), 4);
}

#[test]
fn repair_3_a_snapshot_of_which_nothing_is_left_is_named_and_none_is_made() {
    let world = World::new();
    let old = world.save();
    let here = world.repo();
    for pack in names(&here, "packs/") {
        fs::remove_file(here.join(pack)).unwrap();
    }
    let before = files(&here);
    let output = world.run(&here, &["repair"]).code(13);
    assert!(output.text().contains("nothing is left"), "{}", output.text());
    assert!(output.text().contains(&old.to_string()[..8]));
    assert_eq!(names(&here, "snapshots/").len(), 1);
    let records = |name: &&String| !name.starts_with("records/");
    assert_eq!(files(&here).keys().filter(records).collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    // A snapshot that is itself damaged is named too.
    flip_at(&here.join(&names(&here, "snapshots/")[0]), 210);
    let output = world.run(&here, &["repair"]).code(13);
    assert!(output.text().contains("snapshots/"), "{}", output.text());
}

#[test]
fn heal_4_the_index_is_made_anew_from_packs() {
    for way in 0..3 {
        let world = World::saved();
        let here = world.repo();
        for segment in names(&here, "index/") {
            let path = here.join(segment);
            match way {
                0 => fs::remove_file(path).unwrap(),
                1 => flip_at(&path, fs::metadata(&path).unwrap().len() - 30),
                _ => fs::write(path, "rotten").unwrap(),
            }
        }
        let packs = names(&here, "packs/");
        world.run(&here, &["repair"]).ok();
        assert_eq!(names(&here, "packs/"), packs, "chunks were stored again");
        assert_eq!(sound(&here), files(&here).into_keys().collect::<HashSet<_>>(), "way {way}");
        world.assert_whole(&here);
        world.assert_restores(&here, "latest");
    }
}

#[test]
fn heal_5_what_is_whole_in_packs_with_damaged_directories_is_stored_again() {
    let world = World::saved();
    let here = world.repo();
    let packs = names(&here, "packs/");
    for (number, pack) in packs.iter().enumerate() {
        let path = here.join(pack);
        let len = fs::metadata(&path).unwrap().len();
        // In the directory, in the tail, or in the header.
        flip_at(&path, [len - 200, len - 10, 20][number % 3]);
    }
    let before = files(&here);
    let output = world.run(&here, &["repair"]).code(13);
    assert!(!output.text().contains("has lost"), "{}", output.text());
    let after = files(&here);
    assert!(before.iter().all(|(name, bytes)| after.get(name) == Some(bytes)), "something was changed");
    assert_eq!(names(&here, "snapshots/").len(), 5);
    world.assert_restores(&here, "latest");
    world.run(&here, &["prune", "--force"]).ok();
    assert!(packs.iter().all(|pack| !here.join(pack).exists()));
    world.assert_whole(&here);
    world.assert_restores(&here, "latest");
    if is_encrypted() {
        assert!(!names(&here, "packs/").is_empty());
    }
}

#[test]
fn a_pack_that_is_gone_and_of_which_nothing_is_missed_is_no_damage_any_more() {
    let world = World::new();
    world.save();
    world.write("one/solo", 300_000);
    let second = world.save();
    fs::remove_file(world.src().join("one/solo")).unwrap();
    world.save();
    let here = world.repo();
    let chunk = data_chunk(&here, &second, "s/one/solo");
    let pack = vault::pack::pack_file_name(&super::world::place(&here, ChunkKind::Data, &chunk).pack);
    fs::remove_file(here.join(&pack)).unwrap();
    // As long as a snapshot needs it, the index says what was in it.
    world.run(&here, &["repair"]).code(13);
    let checked = world.run(&here, &["check"]).code(13);
    assert!(checked.text().contains(&pack) && checked.text().contains("one/solo"), "{}", checked.text());
    world.run(&here, &["forget", &second.to_string()]).ok();
    world.run(&here, &["check"]).code(13);
    world.run(&here, &["repair"]).ok().says("nothing of it is missed");
    world.run(&here, &["check", "--read-data"]).ok();
}

#[test]
fn of_two_packs_that_are_gone_the_one_that_was_stored_again_is_not_in_the_way() {
    let store = Store::new();
    let path = |pack: &PackId| store.place().join(vault::pack::pack_file_name(pack));
    let (first, _) = store.save(&[1]).unwrap();
    let (folder, data): (Vec<_>, Vec<_>) =
        store.packs().into_iter().partition(|pack| fs::metadata(path(pack)).unwrap().len() < 50_000);
    assert_eq!((folder.len(), data.len(), names(&store.place(), "index/").len()), (1, 1, 1));
    fs::remove_file(path(&data[0])).unwrap();
    // With another chunk beside, so that its pack is another one.
    store.save(&[1, 2]).unwrap();
    store.forget(first);
    fs::remove_file(path(&folder[0])).unwrap();
    let absent = || store.open().reader().unwrap().index().absent_packs();
    assert_eq!(absent(), [folder[0], data[0]].into());

    let observer: Arc<dyn Observer> = Arc::new(Silent);
    let options = HealOptions::new(store.scratch.join("cache"));
    let done = repair(&store.open(), None, &options, &observer, &AtomicBool::new(false)).unwrap();
    assert_eq!((done.files.damaged.len(), done.files.chunks_lost), (0, 0));
    assert_eq!(absent(), [].into());
    assert_eq!(store.check().snapshots, 1);
}

#[test]
fn repair_2_repair_3_a_lost_list_of_pieces_costs_its_file_and_the_rules_stay_in_the_notes() {
    let world = World::new();
    let (here, src) = (world.repo(), world.src().to_str().unwrap().to_owned());
    world.write("one/large", 5 << 20);
    // Other rules each time, so that the notes are not in one frame.
    let save = |rule: &str| {
        let output = world.run(&here, &["snapshot", &src, "--exclude", rule, "--json"]).ok();
        SnapshotId::from_hex(super::world::summary(&output)["snapshot_id"].as_str().unwrap()).unwrap()
    };
    save("*.o");
    // The folder is written anew, the list of the file is not.
    world.write("one/later", 5000);
    let old = save("*.tmp");
    let repository = open(&here);
    let path = |name: &str| format!("{}/{name}", src.trim_start_matches('/'));
    let look = |snapshot: &Snapshot, name: &str| {
        let reader = repository.reader().unwrap();
        lookup(&reader, &snapshot.root, path(name).as_bytes()).unwrap()
    };
    let before = repository.snapshot(&old).unwrap();
    let Kind::File(_, Content::List(list)) = look(&before, "one/large").unwrap().kind else {
        panic!("no list")
    };
    lose(&here, ChunkKind::List, &list);
    let (_, new) = made(&here, &world.run(&here, &["repair", "--json", &old.to_string()]).code(13));
    assert_eq!(look(&new, "one/large").unwrap().kind, Kind::LeftOut(Why::Unreadable, 5));
    assert!(matches!(look(&new, "one/later").unwrap().kind, Kind::File(5000, _)));
    let text = |snapshot: &Snapshot, name: &str| {
        let reader = repository.reader().unwrap();
        let root = vault::snapshot::Entry {
            kind: Kind::Directory(snapshot.notes.unwrap()),
            ..snapshot.root.clone()
        };
        let entry = lookup(&reader, &root, name.as_bytes()).unwrap().unwrap();
        let mut text = String::new();
        let mut content = vault::browse::ContentReader::new(&reader, &entry);
        std::io::Read::read_to_string(&mut content, &mut text).unwrap();
        text
    };
    assert!(text(&new, "rules").contains("*.tmp"));
    assert_eq!(text(&new, "rules"), text(&before, "rules"));
    assert!(text(&new, "errors").contains("one/large: its content is lost"), "{}", text(&new, "errors"));
}
