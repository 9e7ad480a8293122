//! `vault merge`: one snapshot with all that is in any of several, and which version wins.

use std::fs;

use super::{World, summary};
use crate::support::manifest::{Aspect, Manifest};
use crate::support::torture::Random;

#[test]
fn halves_of_a_folder_become_what_a_snapshot_of_all_of_it_is() {
    let world = World::new();
    fs::create_dir(world.src().join("many")).unwrap();
    for number in 0..1200 {
        fs::write(world.src().join(format!("many/{number:05}-{}", "x".repeat(90))), "1").unwrap();
    }
    fs::write(world.src().join("dir/big"), Random(7).bytes(3_000_000)).unwrap();
    fs::hard_link(world.src().join("dir/big"), world.src().join("many/linked")).unwrap();
    let first =
        world.save(&["--tag", "one,both", "--label", "l", "-e", "*[02468]-x*", "-e", "big", "-e", "sub"]);
    let second =
        world.save(&["--tag", "both,two", "--label", "l", "-e", "*[13579]-x*", "-e", "empty", "-e", "b.bin"]);
    let fresh = world.save(&[]);
    world.run(&["merge", &first, &second, "-n"]).ok().says("dry run, nothing was written");
    assert_eq!(world.ids().len(), 3);
    let told = summary(
        &world.run(&["merge", &first, &second, "--json", "--tag", "new", "--description", "all"]).ok(),
    );
    let merged = world.told(told["snapshot_id"].as_str().unwrap());
    let (first, second, fresh) = (world.told(&first), world.told(&second), world.told(&fresh));
    assert_eq!(merged["tree"], fresh["tree"]);
    assert_eq!(told["conflicts"], 0);
    for key in ["files_processed", "dirs_processed", "bytes_processed", "others_processed"] {
        let key = format!("total_{key}");
        assert_eq!(merged["summary"][&key], fresh["summary"][&key], "{key}");
    }
    assert_eq!(merged["summary"]["left_out"], 0);
    assert_eq!(merged["tags"], serde_json::json!(["one", "both", "two", "new"]));
    assert_eq!((&merged["label"], &merged["description"]), (&"l".into(), &"all".into()));
    assert_eq!((&merged["time"], &merged["paths"]), (&second["time"], &second["paths"]));
    let from = [&first, &second].map(|old| serde_json::json!({"how": "merge", "id": old["id"]}));
    assert_eq!(merged["made_from"], serde_json::json!(from));
    // Once more: it is there already.
    let ids = [first["id"].as_str().unwrap(), second["id"].as_str().unwrap()];
    world.run(&["merge", ids[1], ids[0]]).ok().says("is that already");
    // It stands on its own.
    world.run(&["forget", "--allow-empty", ids[0], ids[1], fresh["id"].as_str().unwrap()]).ok();
    world.run(&["prune", "--max-unused", "0", "--force"]).ok();
    world.run(&["check", "--read-data"]).ok().says("1 snapshot");
    let out = world.path("out");
    world.run(&["restore", &world.latest("src"), "--target", &out]).ok();
    let differences =
        Manifest::of(&world.src()).diff_except(&Manifest::of(&world.vault.join("out")), &[Aspect::Root]);
    assert_eq!(differences, [""; 0]);
}

#[test]
fn the_newest_version_wins_unless_the_first_one_is_preferred() {
    let world = World::new();
    fs::create_dir(world.src().join("turns")).unwrap();
    fs::write(world.src().join("turns/in"), "in").unwrap();
    fs::write(world.src().join("gone"), "gone").unwrap();
    let old = world.save(&["--time", "2026-11-01"]);
    fs::write(world.src().join("a.txt"), "newer").unwrap();
    fs::remove_dir_all(world.src().join("turns")).unwrap();
    fs::write(world.src().join("turns"), "a file now").unwrap();
    fs::remove_file(world.src().join("gone")).unwrap();
    let new = world.save(&["--time", "2026-11-02"]);
    let read = |id: &str, name: &str| {
        let shown = world.run(&["cat", &format!("{id}:{}", world.path(name))]).ok();
        shown.text().to_owned()
    };
    let merged = |args: &[&str]| {
        let told = summary(&world.run(&[&["merge", "--json"], args].concat()).ok());
        assert_eq!(told["conflicts"], 2);
        told["snapshot_id"].as_str().unwrap().to_owned()
    };
    let by_time = merged(&[&new, &old]);
    assert_eq!(read(&by_time, "src/a.txt"), "newer");
    assert_eq!(read(&by_time, "src/turns"), "a file now");
    assert_eq!(read(&by_time, "src/gone"), "gone");
    let by_name = merged(&[&old, &new, "--prefer", "first"]);
    assert_eq!(read(&by_name, "src/a.txt"), "alpha\n");
    assert_eq!(read(&by_name, "src/turns/in"), "in");
    assert_eq!(merged(&[&new, &old, "--prefer", "first"]).len(), 64);
    world
        .run(&["merge", &old, &new, "--dry-run", "-v"])
        .ok()
        .says("src/a.txt")
        .says("2 names have another version");
    // Counters are those of what is there.
    let told = world.told(&by_name);
    let listed = world.run(&["ls", "-R", &by_name]).ok().text().lines().count();
    let counts = &told["summary"];
    let all =
        ["files", "dirs", "others"].map(|what| counts[format!("total_{what}_processed")].as_u64().unwrap());
    // Those above the source are listed, and not counted.
    let above = world.path("src").matches('/').count() - 1;
    assert_eq!(all.iter().sum::<u64>(), (listed - above) as u64);
}

#[test]
fn what_cannot_be_merged_is_refused() {
    let world = World::saved();
    let id = world.ids()[0].clone();
    world.run(&["merge", &id]).code(2);
    world.run(&["merge", &id, "latest"]).code(2).says("the same snapshot");
    world.run(&["merge", "latest:/x", "latest"]).code(2).says("without a path");
    let second = world.save(&["--as-path", "elsewhere"]);
    let merged = summary(&world.run(&["merge", &id, &second, "--json"]).ok());
    let merged = world.told(merged["snapshot_id"].as_str().unwrap());
    assert_eq!(merged["sources"].as_array().unwrap().len(), 2);
    assert_eq!(merged["summary"]["total_files_processed"], 6);
    world.run(&["check", "--read-data"]).ok().says("3 snapshots");
}
