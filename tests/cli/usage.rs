//! `vault du`: what is said to be free is what a prune frees, for snapshots, several of them, and paths.

use std::fs;

use serde_json::Value;

use super::{World, files, flip, json};
use crate::support::torture::Random;

impl World {
    /// The lines of `du --json`, the one that sums up last.
    fn du(&self, args: &[&str]) -> Vec<Value> {
        json(&self.run(&[&["du", "--json"], args].concat()).ok().stdout)
    }

    fn write(&self, name: &str, seed: u64, len: usize) {
        fs::write(self.src().join(name), Random(seed).bytes(len)).unwrap();
    }

    /// The bytes of all packs, after everything that nothing needs is gone.
    fn pruned(&self) -> u64 {
        self.run(&["prune", "--max-unused", "0", "--force"]).ok();
        files(&self.repo().join("packs")).iter().map(|pack| fs::metadata(pack).unwrap().len()).sum()
    }
}

fn number(line: &Value, key: &str) -> u64 {
    line[key].as_u64().unwrap_or_else(|| panic!("no {key} in {line}"))
}

/// Whether two sizes are the same but for the heads and tables of packs, and their padding in an encrypted repository.
#[track_caller]
fn about(found: u64, expected: u64) {
    assert!(found.abs_diff(expected) <= expected / 10 + 40_000, "{found} instead of about {expected}");
}

#[test]
fn what_a_snapshot_alone_holds_is_what_a_prune_frees_without_it() {
    let world = World::new();
    world.write("first", 11, 2_000_000);
    world.write("both", 12, 3_000_000);
    let first = world.save(&[]);
    fs::remove_file(world.src().join("first")).unwrap();
    world.write("second", 13, 1_000_000);
    let second = world.save(&[]);
    world.write("third", 14, 500_000);
    let third = world.save(&[]);

    let all = world.du(&[]);
    let unique: Vec<u64> = all[..3].iter().map(|line| number(line, "unique_size")).collect();
    about(unique[0], 2_000_000);
    assert!(unique[1] < 40_000, "the third has all of the second: {unique:?}");
    about(unique[2], 500_000);
    about(number(&all[3], "shared_size"), 4_200_000);
    let of_first = &world.du(&[&first])[0];
    assert_eq!(number(of_first, "unique_size"), unique[0]);
    about(number(of_first, "stored_size"), 5_200_000);
    about(number(of_first, "plain_size"), 5_200_000);
    assert_eq!(number(of_first, "size"), 5_200_000 + 6 + 6_000);
    // Two of them together free what both need and nobody else.
    let two = world.du(&[&second, &third]);
    about(number(&two[2], "unique_size"), 1_500_000);
    assert_eq!(number(&two[0], "unique_size"), unique[1]);
    world.run(&["du", &second, &third]).ok().says("forgetting them and a prune would free");

    let before = world.pruned();
    world.run(&["forget", &first]).ok();
    let after = world.pruned();
    about(before - after, unique[0]);
    world.run(&["forget", "--allow-empty", &second, &third]).ok();
    about(after - world.pruned(), number(&world_sum(&two), "stored_size"));
}

/// The line that sums up.
fn world_sum(lines: &[Value]) -> Value {
    lines.last().unwrap().clone()
}

#[test]
fn forgotten_snapshots_need_nothing() {
    let world = World::new();
    world.write("big", 21, 1_000_000);
    let first = world.save(&[]);
    let second = world.save(&["--time", "2030-01-01"]);
    assert!(number(&world.du(&[&second])[0], "unique_size") < 20_000);
    world.run(&["forget", &first]).ok();
    about(number(&world.du(&[&second])[0], "unique_size"), 1_200_000);
    world.run(&["du", &first]).code(1).says("it was forgotten");
    world.run(&["forget", "--dry-run", "--allow-empty", &second]).ok().says("vault du");
}

#[test]
fn a_path_is_unique_as_far_as_nothing_else_has_it_not_even_in_its_own_snapshot() {
    let world = World::new();
    for folder in ["a", "a/deep", "b"] {
        fs::create_dir(world.src().join(folder)).unwrap();
    }
    world.write("a/own", 31, 700_000);
    world.write("a/deep/own", 32, 900_000);
    world.write("a/deep/same", 33, 400_000);
    world.write("b/same", 33, 400_000);
    world.write("a/deep/again", 32, 900_000);
    world.save(&[]);
    let lines = world.du(&[&world.latest("src/a"), "-d", "1"]);
    assert_eq!(lines.len(), 3);
    let (all, deep) = (&lines[0], &lines[1]);
    assert_eq!((number(all, "size"), number(deep, "size")), (2_900_000, 2_200_000));
    about(number(all, "plain_size"), 2_000_000);
    about(number(all, "unique_size"), 1_600_000);
    about(number(deep, "stored_size"), 1_300_000);
    about(number(deep, "unique_size"), 900_000);
    assert_eq!(deep["path"].as_str().unwrap(), format!("{}/deep", world.path("src/a")));
    // Together with the other folder that has it, nothing is shared any more.
    let both = world.du(&[&world.latest("src/a/deep"), &world.latest("src/b")]);
    about(number(&both[1], "unique_size"), 0);
    about(number(&both[2], "unique_size"), 1_300_000);
    // The same folder in a further snapshot: nothing is unique, until both are asked about.
    world.write("a/more", 34, 10_000);
    world.save(&[]);
    let deep = world.latest("src/a/deep");
    assert!(number(&world.du(&[&deep])[0], "unique_size") < 1_000);
    let before = deep.replace("latest", "latest~1");
    about(number(&world.du(&[&deep, &before])[2], "unique_size"), 900_000);
    // A file is a path, too.
    let file = world.du(&[&world.latest("src/a/own")]);
    assert_eq!((number(&file[0], "size"), number(&file[0], "plain_size")), (700_000, 700_000));
}

#[test]
fn what_makes_no_sense_is_refused_and_what_is_damaged_is_said() {
    let world = World::saved();
    world.run(&["du", "latest", &world.latest("src")]).code(2).says("lies in");
    world.run(&["du", &world.latest("nowhere")]).code(1).says("nowhere");
    world.run(&["du", "-d", "1"]).code(2);
    world.run(&["du", "latest", "latest"]).ok().says("forgetting it and a prune");
    world.run(&["du"]).ok().says("1 snapshot:");
    let whole = world.du(&["latest"]);
    world.save(&[]);
    for snapshot in files(&world.repo().join("snapshots")) {
        flip(&snapshot);
        world.run(&["du"]).code(13).says("is not counted");
        flip(&snapshot);
    }
    assert_eq!(number(&whole[0], "size"), 206_006);
    // A pack that is gone: something is needed and not there.
    for pack in files(&world.repo().join("packs")) {
        let bytes = fs::read(&pack).unwrap();
        fs::remove_file(&pack).unwrap();
        world.run(&["du"]).code(13);
        world.run(&["du", "latest"]).code(13);
        fs::write(&pack, bytes).unwrap();
    }
}
