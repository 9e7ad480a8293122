//! `vault rewrite`: the new snapshots are what they would have been without the paths, and the old ones stay until they are forgotten.

use std::fs;

use serde_json::Value;

use super::{World, files, flip, json, summary};
use crate::support::torture::Random;

impl World {
    /// The lines of a run with `--json`, the one that sums up last.
    pub(super) fn lines(&self, args: &[&str]) -> Vec<Value> {
        json(&self.run(&[args, &["--json"]].concat()).ok().stdout)
    }

    /// What a snapshot says of itself.
    pub(super) fn told(&self, id: &str) -> Value {
        let lines = self.lines(&["snapshots"]);
        lines.into_iter().find(|line| line["id"] == id).unwrap_or_else(|| panic!("no snapshot {id}"))
    }

    fn packs(&self) -> u64 {
        files(&self.repo().join("packs")).iter().map(|pack| fs::metadata(pack).unwrap().len()).sum()
    }
}

#[test]
fn the_tree_is_that_of_a_snapshot_which_left_it_out_from_the_start() {
    let world = World::new();
    // A folder of many nodes, in the middle of which a name goes.
    fs::create_dir(world.src().join("many")).unwrap();
    for number in 0..1500 {
        fs::write(world.src().join(format!("many/{number:05}-with-a-long-name-{}", "x".repeat(60))), "1")
            .unwrap();
    }
    fs::write(world.src().join("dir/secret"), Random(5).bytes(300_000)).unwrap();
    fs::write(world.src().join("many/secret"), "s").unwrap();
    fs::create_dir_all(world.src().join("many/cache/deep")).unwrap();
    fs::write(world.src().join("many/cache/deep/file"), "f").unwrap();
    let tags = ["--tag", "t", "--label", "l", "--description", "words", "--time", "2026-11-01 10:00:00"];
    let old = world.save(&tags);
    let rules =
        ["--exclude", "secret", "-e", "cache/", "--iexclude", "*-00[0-9]77-*", "--exclude", "01??1-*"];
    // `0` as in `00077-…`: names that begin with the pattern.
    let lines = world.lines(&[&["rewrite", &old], &rules[..]].concat());
    let (told, sum) = (&lines[0], &lines[1]);
    let new = told["new_snapshot_id"].as_str().unwrap().to_owned();
    assert_eq!((told["left_out"].as_u64(), told["directories"].as_u64()), (Some(53), Some(2)));
    assert_eq!((sum["rewritten"].as_u64(), sum["forgotten"].as_array().unwrap().len()), (Some(1), 0));
    let fresh = world.save(&[&tags[..], &rules[..]].concat());
    let (old, new, fresh) = (world.told(&old), world.told(&new), world.told(&fresh));
    assert_eq!(new["tree"], fresh["tree"]);
    assert_ne!(new["tree"], old["tree"]);
    for key in
        ["time", "end", "hostname", "username", "paths", "label", "tags", "description", "state", "parent"]
    {
        assert_eq!(new[key], old[key], "{key}");
    }
    for key in [
        "total_files_processed",
        "total_dirs_processed",
        "total_bytes_processed",
        "total_others_processed",
        "left_out",
    ] {
        assert_eq!(new["summary"][key], fresh["summary"][key], "{key}");
    }
    world.run(&["check", "--read-data"]).ok();
    let out = world.path("out");
    world
        .run(&[
            "restore",
            &format!("{}:{}", new["id"].as_str().unwrap(), world.path("src")),
            "--target",
            &out,
        ])
        .ok();
    let missing: Vec<String> = files(&world.src())
        .into_iter()
        .map(|path| path.strip_prefix(world.src()).unwrap().to_str().unwrap().to_owned())
        .filter(|path| !world.vault.join("out").join(path).exists())
        .collect();
    assert_eq!(missing.len(), 53, "{missing:?}");
    assert!(
        missing
            .iter()
            .all(|path| path.contains("secret") || path.contains("cache/") || path.starts_with("many/0"))
    );
}

#[test]
fn with_forget_a_prune_frees_what_was_taken_out_of_history() {
    let world = World::new();
    fs::write(world.src().join("dir/big"), Random(6).bytes(2_000_000)).unwrap();
    let mut old = vec![world.save(&["--time", "2026-11-01 10:00:00"])];
    fs::write(world.src().join("a.txt"), "changed").unwrap();
    old.push(world.save(&["--time", "2026-11-02 10:00:00"]));
    fs::remove_file(world.src().join("dir/big")).unwrap();
    let without = world.save(&["--time", "2026-11-03 10:00:00"]);
    let big = format!("{}/dir/big", world.path("src"));
    // First only said.
    let dry = world.run(&["rewrite", "--all", "--exclude", &big, "--forget", "-n", "-v"]).ok();
    let dry = dry.says("would rewrite 2 snapshots").says("1 snapshot as before").says("would forget 2");
    assert!(dry.stderr.contains("dir/big"), "{}", dry.stderr);
    assert_eq!(world.ids().len(), 3);
    let before = world.packs();
    let done = world.run(&["rewrite", "--all", "--exclude", &big, "--forget"]).ok();
    let done = done.says("rewrote 2 snapshots").says("forgot 2 snapshots");
    assert_eq!(done.text().lines().count(), 2);
    let ids = world.ids();
    assert_eq!((ids.len(), &ids[2]), (3, &without));
    assert!(!old.iter().any(|old| ids.contains(old)));
    // The second one follows the first one, as before; and says what it was made from.
    assert_eq!(world.told(&ids[1])["parent"], *ids[0]);
    assert_eq!(world.told(&ids[1])["made_from"], serde_json::json!([{"how": "rewrite", "id": old[1]}]));
    world.run(&["prune", "--max-unused", "0", "--force"]).ok();
    assert!(before - world.packs() > 1_950_000, "{before}, {}", world.packs());
    world.run(&["check", "--read-data"]).ok().says("3 snapshots");
    for id in &ids[..2] {
        world.run(&["cat", &format!("{id}:{big}")]).code(2).says("only files and folders");
    }
    // Nothing is left to be done.
    world.run(&["rewrite", "--all", "--exclude", &big, "--forget"]).ok().says("nothing matched");
    assert_eq!(world.ids(), ids);
    // And the next snapshot has it again, if nobody says otherwise: it goes on from the rewritten one.
    let next = world.save(&[]);
    assert_eq!(world.told(&next)["parent"], *without);
}

#[test]
fn what_was_rewritten_before_is_known_and_what_is_held_is_not_forgotten() {
    let world = World::new();
    let (one, two) = (world.save(&["--time", "2026-11-01"]), world.save(&["--time", "2026-11-02"]));
    let first = world.lines(&["rewrite", &one, "--exclude", "b.bin"]);
    let new = first[0]["new_snapshot_id"].as_str().unwrap();
    assert_eq!(world.ids().len(), 3);
    let again = world.lines(&["rewrite", "--all", "--exclude", "b.bin"]);
    assert_eq!(
        (again[0]["new_snapshot_id"].as_str(), again[0]["was_rewritten_before"].as_bool()),
        (Some(new), Some(true))
    );
    assert_eq!(world.ids().len(), 4);
    world.run(&["hold", &two]).ok();
    let told = world.run(&["rewrite", &one, &two, "--exclude", "b.bin", "--forget"]).code(1);
    told.says("is held").says("vault unhold").says("forgot 1 snapshot");
    let ids = world.ids();
    assert!(ids.contains(&two) && !ids.contains(&one) && ids.len() == 3);
    world.run(&["unhold", &two]).ok();
    world.run(&["rewrite", &two, "--exclude", "b.bin", "--forget"]).ok().says("forgot 1 snapshot");
    world.run(&["rewrite", &two, "--exclude", "b.bin"]).code(1).says("it was forgotten");
    // What is forgotten can be brought back, as long as it is not pruned.
    world.run(&["undo", &two]).ok();
    assert_eq!(world.ids().len(), 3);
}

#[test]
fn patterns_know_paths_as_they_were_saved_and_as_they_are_stored() {
    let world = World::new();
    world.save(&["--as-path", "docs"]);
    for pattern in [format!("{}/dir/sub", world.path("src")), "/docs/dir/sub".to_owned()] {
        let lines = world.lines(&["rewrite", "latest", "-n", "--exclude", &pattern]);
        assert_eq!(lines[0]["directories"].as_u64(), Some(1), "{pattern}");
    }
    // What was saved is never left out itself, as by `vault snapshot`; and that is said.
    world.run(&["rewrite", "latest", "--exclude", "docs"]).ok().says("nothing matched");
    let said = world.run(&["rewrite", "latest", "-n", "--exclude", "docs", "--exclude", "b.bin"]).ok();
    said.says("/docs is what was saved").says("/docs/**");
    // One that takes back.
    let lines = world.lines(&["rewrite", "latest", "-n", "--exclude", "/docs/**", "--exclude", "!a.txt"]);
    assert_eq!(lines[0]["left_out"].as_u64(), Some(3));
    world.run(&["rewrite", "--exclude", "x"]).code(2).says("nothing says which");
    world.run(&["rewrite", "latest"]).code(2);
    world.run(&["rewrite", "latest:/docs", "--exclude", "x"]).code(2).says("without a path");
    world.run(&["rewrite", "latest", "--exclude", "[a"]).code(2);
    let rules = ["rewrite", "--label", "none", "--exclude", "b.bin"];
    world.run(&rules).ok().says("nothing matched");
}

#[test]
fn a_damaged_snapshot_is_left_as_it_is_unless_the_damage_is_left_out() {
    let world = World::new();
    fs::write(world.src().join("dir/lost"), Random(9).bytes(300_000)).unwrap();
    let before: Vec<_> = files(&world.repo().join("packs"));
    world.save(&["--time", "2026-11-01"]);
    let tree_or_data: Vec<_> = files(&world.repo().join("packs"));
    assert!(before.is_empty() && tree_or_data.len() == 2, "{tree_or_data:?}");
    fs::write(world.src().join("later"), Random(10).bytes(300_000)).unwrap();
    world.save(&["--time", "2026-11-02"]);
    // The data of the first snapshot is gone.
    let longest = tree_or_data.iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    fs::remove_file(longest).unwrap();
    let ids = world.ids();
    let told = world.run(&["rewrite", "--all", "--exclude", "a.txt", "--forget"]).code(13);
    told.says("is left as it is").says("nothing matched");
    assert_eq!(world.ids(), ids);
    // Without all that was lost they are whole.
    let rules =
        ["rewrite", "--all", "--exclude", "lost", "--exclude", "b.bin", "--exclude", "c.txt", "--forget"];
    world.run(&rules).ok().says("rewrote 2 snapshots");
    world.run(&["prune", "--force"]).ok();
    // Nothing needs what was lost any more, and the prune has taken it out of the index.
    world.run(&["check", "--read-data"]).ok().says("no damage found: 2 snapshots");
}

#[test]
fn a_rewrite_that_is_refused_changes_nothing() {
    let world = World::saved();
    let ids = world.ids();
    let snapshot = files(&world.repo().join("snapshots"))[0].clone();
    flip(&snapshot);
    world.run(&["rewrite", "--all", "--exclude", "b.bin", "--forget"]).code(13);
    flip(&snapshot);
    assert_eq!(world.ids(), ids);
    fs::write(world.repo().join("features/write-nobody-knows"), "").unwrap();
    world.run(&["rewrite", "--all", "--exclude", "b.bin", "--forget"]).code(1);
    fs::remove_file(world.repo().join("features/write-nobody-knows")).unwrap();
    assert_eq!(world.ids(), ids);
    assert_eq!(summary(&world.run(&["rewrite", "--all", "-e", "b.bin", "--json"]).ok())["rewritten"], 1);
}
