//! A snapshot that nobody forgot and that is not there was lost, or the medium lists too few: in both cases its data may be wanted still.

use std::fs;
use std::path::PathBuf;

use crate::whole::world::{World, files_below};

/// Three snapshots of a file, each with other bytes in it.
fn three() -> (World, [String; 3]) {
    let world = World::new();
    let ids = [1, 2, 3].map(|number| {
        world.write_random("file", number, 300_000);
        world.snapshot(&[]).id()
    });
    (world, ids)
}

fn packs(world: &World) -> Vec<PathBuf> {
    world.files("packs")
}

#[test]
fn prune_9_nothing_is_deleted_while_a_snapshot_is_missed() {
    let (world, ids) = three();
    let before = packs(&world);
    let file = world.repository.join("snapshots").join(&ids[1]);
    let bytes = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    for has_state in [true, false] {
        // Another computer knows of it as well: the third one followed it.
        if !has_state {
            fs::remove_dir_all(world.vault.join("state")).unwrap();
        }
        for args in [&["prune", "--max-unused", "0"][..], &["prune", "--dry-run"]] {
            world
                .vault
                .run(args)
                .code(13)
                .says(&format!("snapshot {} was here", ids[1]))
                .says("--accept-loss");
        }
        assert_eq!(packs(&world), before, "with what was seen: {has_state}");
    }
    fs::write(&file, bytes).unwrap();
    world.vault.run(&["prune", "--max-unused", "0"]).ok();
    assert_eq!(packs(&world), before);
    world.comes_back();
    world
        .vault
        .run(&["restore", "-q", &ids[1], "--target", world.vault.join("second").to_str().unwrap()])
        .ok();

    fs::remove_file(&file).unwrap();
    world.vault.run(&["check", "--accept-loss"]).ok();
    world.vault.run(&["prune", "--max-unused", "0"]).ok();
    assert!(packs(&world).len() < before.len());
    world.is_sound();
    world.comes_back();
}

#[test]
fn prune_9_the_last_snapshot_is_missed_by_who_has_seen_it() {
    let (world, ids) = three();
    let before = packs(&world);
    fs::remove_file(world.repository.join("snapshots").join(&ids[2])).unwrap();
    world.vault.run(&["prune", "--max-unused", "0"]).code(13).says(&ids[2]).says("nothing is deleted");
    assert_eq!(packs(&world), before);
    world.vault.run(&["prune", "--max-unused", "0", "--force"]).code(13);
    assert!(packs(&world).len() < before.len());
}

#[test]
fn prune_9_a_missing_record_may_have_brought_back_what_seems_to_be_forgotten() {
    let (world, ids) = three();
    let before = packs(&world);
    world.vault.run(&["forget", "-q", &ids[0]]).ok();
    let records = world.files("records");
    world.vault.run(&["undo", "-q", &ids[0]]).ok();
    let undo: Vec<_> = world.files("records").into_iter().filter(|file| !records.contains(file)).collect();
    let [undo] = &undo[..] else { panic!("{undo:?}") };
    let bytes = fs::read(undo).unwrap();
    fs::remove_file(undo).unwrap();
    world.vault.run(&["prune", "--max-unused", "0"]).code(2).says("it may have held or brought back");
    assert_eq!(packs(&world), before);
    fs::write(undo, &bytes).unwrap();
    world.vault.run(&["prune", "--max-unused", "0"]).ok();
    assert_eq!(packs(&world), before);
    assert_eq!(files_below(&world.repository.join("snapshots")).len(), 3);
    fs::remove_file(undo).unwrap();
    world.vault.run(&["check", "--accept-loss"]).ok().says("is gone, and is expected no longer");
    world.vault.run(&["prune", "--max-unused", "0"]).ok();
    assert!(packs(&world).len() < before.len());
}

/// As the README has it: a mirror keeps less, by a record that speaks of the mirror alone and never comes here.
#[test]
fn prune_9_a_record_of_another_copy_is_not_missed() {
    let (world, _) = three();
    let drive = world.vault.join("drive").to_str().unwrap().to_owned();
    world.vault.run(&["mirror", "-q", "--new", &drive]).ok();
    world.vault.run(&["-r", &drive, "forget", "-q", "--keep-last", "2", "--this-copy"]).ok();
    world.vault.run(&["-r", &drive, "prune", "--force"]).ok();
    let before = packs(&world);
    for args in [&["prune", "--max-unused", "0"][..], &["mirror", "-q", "--prune", &drive], &["prune"]] {
        let output = world.vault.run(args).ok();
        assert!(!output.stderr.contains("record"), "{}", output.report());
    }
    assert_eq!(packs(&world), before);
}

#[test]
fn prune_9_who_has_never_seen_it_may_say_that_it_is_gone_for_good() {
    let (world, ids) = three();
    fs::remove_file(world.repository.join("snapshots").join(&ids[1])).unwrap();
    fs::remove_dir_all(world.vault.join("state")).unwrap();
    world.vault.run(&["prune"]).code(13).says(&ids[1]);
    let said = format!("snapshot {}, which another one followed, is expected no longer", ids[1]);
    world.vault.run(&["check", "--accept-loss"]).ok().says(&said);
    world.vault.run(&["prune"]).ok();
    world.is_sound();
    world.comes_back();
}

#[test]
fn prune_9_nothing_is_deleted_while_what_is_needed_is_in_no_segment() {
    let (world, ids) = three();
    world.vault.run(&["forget", "-q", &ids[0]]).ok();
    let before = packs(&world);
    for segment in world.files("index") {
        fs::remove_file(segment).unwrap();
    }
    world
        .vault
        .run(&["prune", "--max-unused", "0"])
        .code(2)
        .says("some of the index is lost")
        .says("`vault repair`");
    world.vault.run(&["prune", "-n"]).ok().says("a part of the index lost: only with --force");
    assert_eq!(packs(&world), before);
    world.vault.run(&["repair"]).ok();
    world.vault.run(&["prune", "--max-unused", "0"]).ok();
    assert!(packs(&world).len() < before.len());
    world.is_sound();
    world.comes_back();
}
