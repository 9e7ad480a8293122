//! Folders in one another, so many that those far out are packed while those far in are made anew, and each with something on both sides of
//! the way down.

use std::collections::BTreeSet;
use std::fs;

use super::world::{World, damages, files_below};
use crate::support::manifest::{Aspect, Manifest};
use crate::support::repository::{PASSPHRASE, is_encrypted};
use crate::support::torture::Random;

const LEVELS: usize = 300;

/// The folder of this level, below the source.
fn at(level: usize) -> String {
    "d/".repeat(level)
}

/// In each folder a file before the next folder and one behind it, and a large one at the bottom.
fn deep() -> World {
    let world = World::new();
    for level in 0..LEVELS {
        for name in ["a", "z"] {
            world.write(&format!("{}{name}", at(level)), format!("{name} of level {level}").as_bytes());
        }
    }
    world.write(&format!("{}bottom", at(LEVELS)), &Random(1).bytes(200_000));
    world.snapshot(&[]);
    world
}

/// How what a snapshot gives back differs from the source.
fn differences(world: &World, snapshot: &str) -> Vec<String> {
    let restored = Manifest::of(&world.restore(snapshot, &[]).target());
    Manifest::of(&world.source).diff_except(&restored, &[Aspect::DirMtime])
}

/// Runs a command that makes a snapshot of others, and which that is.
fn made_by(world: &World, args: &[&str], code: i32) -> String {
    let ids = || -> BTreeSet<String> {
        files_below(&world.repository.join("snapshots"))
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect()
    };
    let before = ids();
    world.vault.run(args).code(code);
    let new: Vec<String> = ids().difference(&before).cloned().collect();
    assert_eq!(new.len(), 1);
    new.into_iter().next().unwrap()
}

fn lines(world: &World, args: &[&str]) -> usize {
    world.vault.run(args).ok().text().lines().count()
}

#[test]
fn a_deep_tree_is_copied() {
    let mut world = deep();
    let other = world.vault.join("other").to_str().unwrap().to_owned();
    world.vault.run(&["-r", &other, "init", "-q"]).ok();
    if is_encrypted() {
        world.vault.env("VAULT_TO_PASSPHRASE", PASSPHRASE);
    }
    world.vault.run(&["copy", "--to", &other]).ok();
    world.vault.env("VAULT_REPOSITORY", &other);
    assert_eq!(differences(&world, "latest"), [""; 0]);
    assert_eq!(damages(other.as_ref()), [""; 0]);
}

#[test]
fn a_deep_tree_is_rewritten() {
    let world = deep();
    let before = lines(&world, &["ls", "-R", "latest"]);
    let id = made_by(&world, &["rewrite", "--all", "-e", "bottom", "-e", "z"], 0);
    let lost = differences(&world, &id);
    assert_eq!(lost.len(), LEVELS + 1, "{lost:?}");
    let is_meant = |line: &String| line.ends_with("z: is missing") || line.ends_with("bottom: is missing");
    assert!(lost.iter().all(is_meant), "{lost:?}");
    assert_eq!(lines(&world, &["ls", "-R", &id]), before, "what was left out is known");
    world.is_sound();
}

#[test]
fn deep_trees_are_merged() {
    let world = deep();
    // The first has what the second lacks, on either side of the way down, and the second what the first lacks.
    for level in (0..LEVELS).step_by(2) {
        fs::remove_file(world.source.join(at(level)).join(if level % 4 == 0 { "a" } else { "z" })).unwrap();
        world.write(&format!("{}new", at(level)), b"of the second");
    }
    world.snapshot(&[]);
    let more = differences(&world, &made_by(&world, &["merge", "latest~1", "latest"], 0));
    assert_eq!(more.len(), LEVELS / 2, "{more:?}");
    assert!(more.iter().all(|line| line.ends_with("is too many")), "{more:?}");
    world.is_sound();
}

#[test]
fn what_is_whole_of_a_deep_tree_is_kept_by_a_repair() {
    let world = deep();
    // The one that has the large file.
    let packs = files_below(&world.repository.join("packs"));
    let largest = packs.iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    fs::remove_file(largest).unwrap();
    let lost = differences(&world, &made_by(&world, &["repair"], 13));
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert!(lost[0].ends_with("bottom: is missing"), "{lost:?}");
}
