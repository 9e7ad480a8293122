//! `vault forget`, `hold`, `unhold` and `undo`: what is listed then, what is said, and what is never done.

use std::fs;

use serde_json::Value;

use super::{World, flip, json, summary};

impl World {
    /// Takes snapshots of these days of November 2026, and returns their ids.
    fn of_days(&self, days: &[u32]) -> Vec<String> {
        days.iter().map(|day| self.save(&["--time", &format!("2026-11-{day:02} 10:00:00")])).collect()
    }

    fn forgotten(&self) -> Vec<String> {
        let lines = json(&self.run(&["snapshots", "--forgotten", "--json"]).ok().stdout);
        lines.iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn what_no_rule_keeps_is_forgotten_and_can_be_brought_back() {
    let world = World::new();
    let ids = world.of_days(&[1, 2, 3, 4]);
    let rules = ["forget", "--keep-last", "1", "--keep-tag", "none", "--keep-daily", "2"];
    let shown = world.run(&[&rules[..], &["--dry-run"]].concat()).ok();
    let shown = shown.says("would forget 2 snapshots");
    assert!(shown.text().contains("last snapshot, daily snapshot"), "{}", shown.text());
    assert_eq!(world.ids(), ids);
    let lines = json(&world.run(&[&rules[..], &["--json"]].concat()).ok().stdout);
    let group = &lines[0];
    let of = |group: &Value, what: &str| -> Vec<String> {
        group[what].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!((of(group, "keep"), of(group, "forget")), (ids[2..].to_vec(), ids[..2].to_vec()));
    assert_eq!(group["keep"][1]["reasons"], serde_json::json!(["last snapshot", "daily snapshot"]));
    assert_eq!(lines.last().unwrap()["forgotten"].as_array().unwrap().len(), 2);
    assert_eq!(world.ids(), ids[2..]);
    assert_eq!(world.forgotten(), ids[..2]);
    // Once more: nothing to forget, and nothing is written.
    let records = fs::read_dir(world.repo().join("records")).unwrap().count();
    world.run(&rules).ok().says("nothing to forget");
    assert_eq!(fs::read_dir(world.repo().join("records")).unwrap().count(), records);
    world.run(&["check", "--read-data"]).ok().says("2 snapshots");
    world.run(&["ls", &ids[0]]).code(1).says("it was forgotten").says("vault undo");
    // One comes back; the other, of the same record, stays forgotten.
    world.run(&["undo", &ids[1][..10]]).ok().says("brought back: 1 snapshot");
    assert_eq!((world.ids(), world.forgotten()), (ids[1..].to_vec(), ids[..1].to_vec()));
    world.run(&["ls", &ids[1]]).ok();
    world.run(&["undo", &ids[1]]).code(2).says("is not forgotten");
    // And can be forgotten again, by its name.
    world.run(&["forget", &ids[1], "--reason", "no longer wanted"]).ok().says("forgot 1 snapshot");
    assert_eq!(world.ids(), ids[2..]);
    world.run(&["undo", &ids[0], &ids[1]]).ok();
    assert_eq!(world.ids(), ids);
}

#[test]
fn a_forgotten_snapshot_is_no_predecessor_and_not_the_latest() {
    let world = World::new();
    let ids = world.of_days(&[1, 2]);
    world.run(&["forget", "latest"]).ok();
    assert_eq!(world.ids(), ids[..1]);
    let next = world.save(&["--time", "2026-11-03 10:00:00"]);
    let lines = json(&world.run(&["snapshots", "--json"]).ok().stdout);
    assert_eq!((lines[1]["id"].as_str(), lines[1]["parent"].as_str()), (Some(&*next), Some(&*ids[0])));
    world.run(&["restore", "latest", "--target", &world.path("out")]).ok();
}

#[test]
fn no_group_is_emptied_unless_that_is_asked_for() {
    let world = World::new();
    let ids = world.of_days(&[1, 2]);
    fs::write(world.vault.join("other"), "of another group").unwrap();
    let other = world.path("other");
    world.run(&["snapshot", "-q", &other]).ok();
    let before = world.ids();
    for args in [&["--keep-tag", "none"][..], &[&ids[0], &ids[1]]] {
        let refused = world.run(&[&["forget"], args].concat()).code(2);
        refused.says("nothing was forgotten").says("--allow-empty");
        assert_eq!(world.ids(), before);
    }
    world.run(&["forget", &ids[0], &ids[1], "--allow-empty"]).ok();
    assert_eq!(world.ids().len(), 1);
    world.run(&["forget", "--keep-tag", "none", "--allow-empty"]).ok();
    world.run(&["snapshots"]).ok().says("all snapshots were forgotten").says("vault undo");
    world.run(&["check", "--read-data"]).ok();
    world.save(&[]);
    assert_eq!(world.ids().len(), 1);
}

#[test]
fn what_is_held_is_neither_forgotten_by_name_nor_by_a_rule() {
    let world = World::new();
    let ids = world.of_days(&[1, 2, 3]);
    world.run(&["hold", &ids[0], "latest", "--reason", "evidence"]).ok().says("held: 2 snapshots");
    let listed = world.run(&["snapshots"]).ok();
    assert_eq!(listed.text().matches("complete, held").count(), 2, "{}", listed.text());
    world.run(&["forget", &ids[0]]).code(2).says("is held").says("vault unhold");
    world.run(&["forget", "--keep-last", "1"]).ok().says("forgot 1 snapshot");
    assert_eq!(world.ids(), [ids[0].clone(), ids[2].clone()]);
    world.run(&["unhold", &ids[1]]).code(1).says("was forgotten");
    world.run(&["unhold", &ids[0]]).ok().says("let go: 1 snapshot");
    world.run(&["unhold", &ids[0]]).code(2).says("is not held");
    // The other one, held by the same record, is so still.
    world.run(&["forget", "latest"]).code(2).says("is held");
    world.run(&["forget", "--keep-last", "1"]).ok();
    assert_eq!(world.ids(), ids[2..]);
}

#[test]
fn snapshots_of_the_future_and_partial_ones_push_out_nothing() {
    let world = World::new();
    let mut ids = world.of_days(&[1, 2]);
    ids.push(world.save(&["--time", "2126-01-01 10:00:00"]));
    let shown = world.run(&["forget", "--keep-last", "1"]).ok();
    assert!(shown.text().contains("dated in the future"), "{}", shown.text());
    assert_eq!(world.ids(), ids[1..]);
}

#[test]
fn a_policy_is_not_applied_beside_a_damaged_snapshot() {
    let world = World::new();
    let ids = world.of_days(&[1, 2, 3]);
    flip(&world.repo().join("snapshots").join(&ids[2]));
    world.run(&["forget", "--keep-last", "1"]).code(13).says("damaged");
    assert_eq!(world.forgotten_raw(), 0);
    world.run(&["forget", &ids[0]]).ok();
    assert_eq!(world.forgotten_raw(), 1);
}

#[test]
fn nothing_is_forgotten_beside_a_damaged_record_that_might_hold_it() {
    let world = World::new();
    let ids = world.of_days(&[1, 2]);
    world.run(&["hold", &ids[0]]).ok();
    let records = world.repo().join("records");
    let record = fs::read_dir(&records).unwrap().next().unwrap().unwrap().path();
    flip(&record);
    for args in [&["--keep-last", "1"][..], &[&ids[0]]] {
        world.run(&[&["forget"], args].concat()).code(13).says("records/");
    }
    assert_eq!(world.forgotten_raw(), 1);
}

impl World {
    /// How many records there are.
    fn forgotten_raw(&self) -> usize {
        fs::read_dir(self.repo().join("records")).unwrap().count()
    }
}

#[test]
fn wrong_words_are_refused() {
    let world = World::saved();
    for (args, said) in [
        (&["forget"][..], "nothing says what to keep"),
        (&["forget", "--keep-last", "few"], "unlimited"),
        (&["forget", "--keep-within", "7"], "y, m, d or h"),
        (&["forget", "--keep-last", "1", "--group-by", "colour"], "host, label, paths, tags"),
        (&["forget", "latest", "--keep-last", "1"], "cannot be used with"),
        (&["forget", "latest:/a"], "without a path"),
        (&["hold"], "SNAPSHOT"),
    ] {
        world.run(args).code(2).says(said);
    }
    world.run(&["forget", "--keep-last", "1", "--label", "none"]).ok().says("no such snapshots");
    world.run(&["undo", "latest"]).code(1);
    assert_eq!(world.forgotten_raw(), 0);
}

#[test]
fn mirrors_neither_resurrect_nor_lose_what_was_said() {
    let world = World::new();
    let ids = world.of_days(&[1, 2, 3]);
    let drive = world.path("drive");
    world.run(&["mirror", "--new", &drive]).ok();
    let on_drive = || -> Vec<String> {
        let lines = json(&world.run(&["-r", &drive, "snapshots", "--json"]).ok().stdout);
        lines.iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect()
    };
    // What is said of this copy only says nothing about the drive.
    world.run(&["forget", &ids[0], "--this-copy"]).ok();
    world.run(&["hold", &ids[1]]).ok();
    world.run(&["forget", &ids[2]]).ok();
    assert_eq!(world.ids(), ids[1..2]);
    world.run(&["mirror", &drive]).ok();
    assert_eq!(on_drive(), ids[..2]);
    world.run(&["-r", &drive, "forget", &ids[1]]).code(2).says("is held");
    // Back from the drive to where it was forgotten: it stays forgotten.
    world.run(&["-r", &drive, "mirror", &world.path("third"), "--new"]).ok();
    world.run(&["-r", &drive, "mirror", &world.path("repo")]);
    assert_eq!(world.ids(), ids[1..2]);
    world.run(&["undo", &ids[0], &ids[2]]).ok();
    assert_eq!(world.ids(), ids);
    world.run(&["mirror", &drive]).ok();
    assert_eq!(on_drive(), ids);
}

#[test]
fn a_forgotten_snapshot_that_is_deleted_is_not_missed() {
    let world = World::new();
    let ids = world.of_days(&[1, 2, 3]);
    world.run(&["forget", &ids[1]]).ok();
    fs::remove_file(world.repo().join("snapshots").join(&ids[1])).unwrap();
    world.run(&["snapshots"]).ok();
    world.run(&["check"]).ok();
    assert_eq!(summary(&world.run(&["check", "--json"]).ok())["num_errors"], 0);
    assert_eq!(world.ids(), [ids[0].clone(), ids[2].clone()]);
}
