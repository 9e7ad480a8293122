//! `vault prune` and `vault mirror --prune`: what goes, what is said, and what a copy keeps that forgets on its own.

use std::fs;
use std::path::Path;

use super::{World, files, summary};
use crate::support::torture::Random;

impl World {
    /// Takes snapshots of so many versions of a file that share nothing, beside what all have.
    fn of_versions(&self, versions: std::ops::Range<u64>) {
        for version in versions {
            fs::write(self.src().join("version"), Random(100 + version).bytes(300_000)).unwrap();
            self.save(&["--time", &format!("2026-11-{:02} 10:00:00", version + 1)]);
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        files(folder).iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

fn bytes(folder: &Path) -> u64 {
    files(folder).iter().map(|file| fs::metadata(file).unwrap().len()).sum()
}

#[test]
fn what_is_forgotten_is_deleted_and_said() {
    let world = World::new();
    world.of_versions(0..4);
    world.run(&["prune"]).ok();
    let ids = world.ids();
    let before = bytes(&world.repo().join("packs"));
    world.run(&["forget", "--keep-last", "2"]).ok();
    world.run(&["prune", "-n"]).ok().says("would delete");
    assert_eq!(bytes(&world.repo().join("packs")), before);
    let done = summary(&world.run(&["prune", "--json", "--max-unused", "0"]).ok());
    assert_eq!((done["snapshots"].as_u64(), done["snapshots_deleted"].as_u64()), (Some(2), Some(2)));
    let after = bytes(&world.repo().join("packs"));
    let (gone, new) = (done["deleted_bytes"].as_u64().unwrap(), done["before_bytes"].as_u64().unwrap());
    assert_eq!(new, before);
    assert!(gone >= 600_000 && after < before - 590_000, "{gone} of {before}, {after} left");
    world.run(&["check", "--read-data"]).ok().says("2 snapshots");
    world.run(&["undo", &ids[0]]).code(1);
    assert_eq!(world.ids(), ids[2..]);
    world.run(&["restore", &ids[2], "--target", &world.path("out")]).ok();
    world.run(&["prune", "--max-unused", "0"]).ok().says("nothing to prune");
    for folder in ["sessions", "marks", "tmp"] {
        assert_eq!(files(&world.repo().join(folder)).len(), 0, "{folder}");
    }
    // The next snapshot finds what is there, and nothing that is not.
    world.of_versions(0..1);
    world.run(&["check", "--read-data"]).ok().says("3 snapshots");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let world = World::new();
    world.of_versions(0..2);
    world.run(&["forget", "--keep-tag", "none", "--allow-empty"]).ok();
    let packs = names(&world.repo().join("packs"));
    world.run(&["prune", "-n"]).ok().says("would delete").says("--force");
    world.run(&["prune"]).code(2).says("no snapshot is left").says("--force");
    assert_eq!(names(&world.repo().join("packs")), packs);
    for (flag, value) in [("--max-unused", "5x"), ("--max-unused", "-1%"), ("--grace", "soon")] {
        world.run(&["prune", &format!("{flag}={value}")]).code(2);
    }
    world.run(&["prune", "--ended", "none"]).code(1).says("session");
    world.run(&["prune", "--grace", "7d", "--force"]).ok();
    world.run(&["undo", "--all"]).code(2);
    world.run(&["prune", "--force"]).ok();
    assert_eq!(names(&world.repo().join("packs")).len(), 0);
    world.run(&["check", "--read-data"]).ok();
    world.save(&[]);
}

#[test]
fn a_damaged_snapshot_is_in_the_way_until_it_is_forgotten_by_its_id() {
    let world = World::new();
    world.of_versions(0..2);
    let ids = world.ids();
    super::flip(&world.repo().join("snapshots").join(&ids[0]));
    let packs = names(&world.repo().join("packs"));
    world.run(&["prune", "--force"]).code(13).says(&ids[0]);
    assert_eq!(names(&world.repo().join("packs")), packs);
    world.run(&["forget", "--keep-last", "1"]).code(13).says("forget them by their ids");
    world.run(&["forget", &ids[0][..10]]).ok().says("forgot 1 snapshot");
    world.run(&["prune", "--force", "--max-unused", "0"]).ok().says("deleted 2 packs");
    world.run(&["check", "--read-data"]).ok().says("1 snapshot");
}

#[test]
fn dur_17_a_mirror_that_keeps_less_is_not_filled_up_again() {
    let world = World::new();
    world.of_versions(0..4);
    let drive = world.path("drive");
    let on_drive = |args: &[&str]| world.run(&[&["-r", &drive], args].concat());
    world.run(&["mirror", "--new", &drive]).ok();
    on_drive(&["forget", "--keep-last", "1", "--this-copy"]).ok();
    on_drive(&["prune", "--max-unused", "0"]).ok();
    let kept = bytes(Path::new(&drive));
    assert!(kept < bytes(&world.repo()) - 850_000);
    world.run(&["mirror", &drive]).ok().says("forgotten on the mirror, and not copied: snapshots: 3");
    assert!(bytes(Path::new(&drive)) < kept + 20_000, "it was filled up again");
    on_drive(&["check", "--read-data"]).ok().says("1 snapshot");
    // What is new comes, with what of the old it needs; and what the mirror had thrown away.
    fs::write(world.src().join("version"), Random(100).bytes(300_000)).unwrap();
    world.save(&[]);
    world.run(&["mirror", &drive]).ok();
    on_drive(&["check", "--read-data"]).ok().says("2 snapshots");
    let out = world.path("out");
    on_drive(&["restore", "latest", "--target", &out]).ok();
    let restored = Path::new(&out).join(world.src().strip_prefix("/").unwrap()).join("version");
    assert!(fs::read(restored).unwrap() == Random(100).bytes(300_000));
    assert!(bytes(Path::new(&drive)) < kept + 700_000);
    // The repository has all of them still.
    assert_eq!(world.ids().len(), 5);
    world.run(&["check", "--read-data"]).ok().says("5 snapshots");
    // Brought back there while the repository has it, it is copied again.
    on_drive(&["undo", &world.ids()[0]]).code(1);
}

#[test]
fn a_mirror_of_which_too_much_would_go_says_what_permits_that() {
    let world = World::new();
    world.of_versions(0..12);
    let drive = world.path("drive");
    world.run(&["mirror", "--new", &drive]).ok();
    world.run(&["-r", &drive, "forget", "--keep-last", "1"]).ok();
    let packs = names(&Path::new(&drive).join("packs"));
    let refused = world.run(&["mirror", "--prune", &drive]).code(2);
    refused.says(&drive).says("more than half of all bytes").says("`vault prune --force` permits that");
    assert_eq!(names(&Path::new(&drive).join("packs")), packs);
    world.run(&["-r", &drive, "prune", "--force"]).ok();
    assert!(names(&Path::new(&drive).join("packs")).len() < packs.len());
}

#[test]
fn a_mirror_follows_what_is_forgotten_for_all_copies() {
    let world = World::new();
    world.of_versions(0..4);
    let drive = world.path("drive");
    world.run(&["mirror", "--new", &drive]).ok();
    world.run(&["forget", "--keep-last", "2"]).ok();
    world.run(&["prune", "--max-unused", "0"]).ok();
    world.run(&["mirror", "--prune", &drive]).ok().says("deleted");
    for folder in ["packs", "snapshots", "records"] {
        assert_eq!(names(&world.repo().join(folder)), names(&Path::new(&drive).join(folder)), "{folder}");
    }
    let quiet = world.run(&["mirror", &drive]).ok();
    assert!(!quiet.stderr.contains("gone"), "{}", quiet.stderr);
    world.run(&["-r", &drive, "check", "--read-data"]).ok().says("2 snapshots");
    // Before the repository is pruned itself.
    world.run(&["forget", "--keep-last", "1"]).ok();
    world.run(&["mirror", "--prune", &drive]).ok();
    world.run(&["-r", &drive, "check", "--read-data"]).ok().says("1 snapshot");
    world.run(&["prune"]).ok();
    world.run(&["mirror", "--prune", &drive]).ok();
    assert_eq!(names(&world.repo().join("snapshots")), names(&Path::new(&drive).join("snapshots")));
}
