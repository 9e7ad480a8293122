//! `vault snapshot` and `vault restore` on a repository that is damaged: done, said, and told by the exit code.

use std::fs;
use std::path::{Path, PathBuf};

use super::{World, files, flip, json};
use crate::support::manifest::Manifest;
use crate::support::repository::is_encrypted;
use crate::support::torture::Random;
use crate::support::vault::Output;

/// The files in a folder of the repository, the largest first.
fn largest(world: &World, folder: &str) -> Vec<PathBuf> {
    let mut found = files(&world.repo().join(folder));
    found.sort_by_key(|file| std::cmp::Reverse(fs::metadata(file).unwrap().len()));
    found
}

fn name(file: &Path) -> &str {
    file.file_name().unwrap().to_str().unwrap()
}

/// Changes a byte of the last block of a segment.
fn spoil(segment: &Path) {
    let mut bytes = fs::read(segment).unwrap();
    let at = bytes.len() - 20;
    bytes[at] ^= 1;
    fs::write(segment, bytes).unwrap();
}

/// A snapshot that is taken although the repository is damaged: what is damaged is said once, and where to ask for more.
fn damaged(world: &World, more: &[&str], what: &str) -> Output {
    let count = || json(&world.run(&["snapshots", "--json"]).stdout).len();
    let before = count();
    let src = world.path("src");
    let output = world.run(&[&["snapshot", src.as_str()], more].concat()).code(13);
    let output = output.says(what).says("`vault check").says("warning: ");
    assert_eq!(output.stderr.matches(what).count(), 1, "{}", output.stderr);
    let after = count();
    assert_eq!(after, before + 1, "no snapshot was taken");
    output
}

#[test]
fn a_damaged_segment_costs_nothing_and_is_written_again_by_the_next_snapshot() {
    for cache in ["--no-cache", "-q"] {
        let world = World::new();
        fs::write(world.src().join("long"), Random(7).bytes(3 << 20)).unwrap();
        world.save(&["--no-cache"]);
        let segment = largest(&world, "index").remove(0);
        spoil(&segment);
        let packs = largest(&world, "packs");
        world.run(&["restore", &world.latest("src"), "--target", "early"]).code(13).says(name(&segment));
        damaged(&world, &[cache, "--force"], name(&segment));
        assert_eq!(largest(&world, "packs"), packs, "{cache}: chunks were stored again");
        world.run(&["check", "--read-data"]).ok().says("no damage");
        world.run(&["snapshot", &world.path("src"), cache]).ok();
        world.run(&["restore", &world.latest("src"), "--target", "late"]).ok();
    }
}

#[test]
fn repo_6_a_pack_that_is_cut_off_or_gone_is_said_by_the_next_snapshot() {
    let world = World::saved();
    let pack = largest(&world, "packs").remove(0);
    fs::File::options().write(true).open(&pack).unwrap().set_len(1000).unwrap();
    // Its content is still there to be saved again, under another name.
    fs::write(world.src().join("more"), "more").unwrap();
    damaged(&world, &[], name(&pack));
    let restored = world.run(&["restore", &world.latest("src"), "--target", "t"]);
    if is_encrypted() {
        // A seal never comes out twice alike: the pack that was cut off is not replaced by the new one.
        restored.code(13).says(name(&pack));
        world.run(&["check", "--read-data"]).code(13);
    } else {
        restored.ok();
        world.run(&["check", "--read-data"]).ok();
    }
    assert_eq!(Manifest::of(&world.src()).diff(&Manifest::of(&world.vault.join("cwd/t"))), [""; 0]);
    let world = World::saved();
    let pack = largest(&world, "packs").remove(0);
    fs::remove_file(&pack).unwrap();
    fs::remove_dir_all(world.src().join("dir")).unwrap();
    damaged(&world, &[], name(&pack));
    damaged(&world, &["--no-cache", "-q"], name(&pack));
}

#[test]
fn dur_11_a_damaged_pack_that_no_segment_names_is_said_by_the_next_snapshot() {
    let world = World::saved();
    let pack = largest(&world, "packs").remove(0);
    flip(&pack);
    fs::remove_dir_all(world.repo().join("index")).unwrap();
    fs::create_dir(world.repo().join("index")).unwrap();
    damaged(&world, &["--force"], name(&pack));
    world.run(&["restore", &world.latest("src"), "--target", "t"]).ok();
}

#[test]
fn a_damaged_snapshot_is_said_by_the_next_one() {
    let world = World::saved();
    let snapshot = largest(&world, "snapshots").remove(0);
    flip(&snapshot);
    damaged(&world, &[], name(&snapshot));
}

#[test]
fn what_was_lost_and_stored_again_is_no_damage_any_more() {
    let world = World::saved();
    let before = Manifest::of(&world.src());
    let away = world.vault.join("away");
    fs::create_dir(&away).unwrap();
    for pack in files(&world.repo().join("packs")) {
        fs::rename(&pack, away.join(pack.file_name().unwrap())).unwrap();
    }
    let src = world.path("src");
    world.run(&["check"]).code(13);
    world.run(&["snapshot", &src]).code(13);
    world.run(&["snapshot", "--force", &src]).ok();
    world.run(&["snapshot", &src]).ok();
    world.run(&["check", "--read-data"]).ok().says("no damage found");
    for selector in ["latest", "latest~2"] {
        world.run(&["restore", &format!("{selector}:{src}"), "--target", selector]).ok();
        let restored = Manifest::of(&world.vault.join("cwd").join(selector));
        assert_eq!(before.diff(&restored), [""; 0], "{selector}");
    }
}

#[test]
fn a_mirror_of_a_repository_that_lacks_packs_does_not_pass_for_whole() {
    let world = World::saved();
    world.run(&["mirror", "--new", &world.path("first")]).ok();
    let data = largest(&world, "packs").remove(0);
    let folder = data.parent().unwrap();
    fs::remove_dir_all(folder).unwrap();
    let name = name(&data);
    world.run(&["mirror", "--new", &world.path("second")]).code(13).says(name);
    // The first one has it still, and that is said.
    world.run(&["mirror", &world.path("first")]).code(13).says(name);
    world.run(&["-r", &world.path("first"), "check", "--read-data"]).ok();
}
