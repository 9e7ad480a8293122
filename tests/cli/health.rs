//! `vault check` and `vault mirror`: what is damaged, what that costs, and the second copy.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{World, files, flip, json, summary};
use rustix::process::Signal;

use crate::support::manifest::Manifest;
use crate::support::repository::is_encrypted;
use crate::support::torture::Random;
use crate::support::vault::Running;

/// The pack of files, and the pack of folders.
fn packs(world: &World) -> (PathBuf, PathBuf) {
    let mut packs = files(&world.repo().join("packs"));
    packs.sort_by_key(|pack| fs::metadata(pack).unwrap().len());
    (packs.last().unwrap().clone(), packs[0].clone())
}

#[test]
fn check_names_the_damage_and_what_it_costs() {
    let world = World::saved();
    world.run(&["check"]).ok().says("no damage found").says("--read-data");
    world.run(&["check", "--read-data"]).ok().says("2 of 2 packs read");
    let (data, _) = packs(&world);
    let name = data.file_name().unwrap().to_str().unwrap().to_owned();
    flip(&data);
    world.run(&["check"]).ok();
    let found = world.run(&["check", "--read-data"]).code(13).says("1 damaged object, which cost 2 paths");
    assert!(found.text().contains(&name) && found.text().contains("is damaged"), "{}", found.text());
    // They are neighbours in one frame.
    for path in ["src/dir/b.bin", "src/dir/sub/c.txt"] {
        let cost = format!("costs {}:{}\n", &world.ids()[0][..8], world.path(path));
        assert!(found.text().contains(&cost), "{}", found.text());
    }
    let lines = json(&world.run(&["check", "--read-data", "--json"]).code(13).stdout);
    let error = lines.iter().find(|line| line["message_type"] == "error").unwrap();
    assert_eq!(error["costs"][0]["path"], world.path("src/dir/b.bin"));
    assert_eq!(lines.last().unwrap()["num_errors"], 1);
}

#[test]
fn check_of_a_part_looks_at_what_that_needs() {
    let world = World::saved();
    flip(&packs(&world).0);
    for part in ["src/a.txt", "src/empty", "src/link"] {
        world.run(&["check", "--read-data", &world.latest(part)]).ok();
    }
    world.run(&["check", "--read-data", &world.latest("src/dir")]).code(13);
    world.run(&["check", "--read-data", &world.ids()[0]]).code(13);
    world.run(&["check", &world.latest("none")]).code(1).says("there is no /");
    world.run(&["check", "abcdef"]).code(1);
}

#[test]
fn repo_6_check_of_a_part_reads_what_lies_in_packs_that_are_recorded_as_damaged() {
    let world = World::saved();
    flip(&packs(&world).0);
    world.run(&["check", &world.latest("src/dir/b.bin")]).ok();
    world.run(&["check", "--read-data", "--mark-damaged"]).code(13);
    world.run(&["check", &world.latest("src/dir/b.bin")]).code(13).says("which cost 1 path");
    world.run(&["check", &world.latest("src/a.txt")]).ok();
}

#[test]
fn check_of_what_was_left_out_finds_nothing_to_check() {
    let world = World::new();
    world.save(&["-e", "dir/sub", "-e", "b.bin"]);
    for part in ["src/dir/sub", "src/dir/b.bin"] {
        world.run(&["check", &world.latest(part)]).code(1).says("there is no /");
    }
    world.run(&["check", &world.latest("src/dir")]).ok();
}

#[test]
fn a_missing_pack_is_said_to_be_missing() {
    let world = World::saved();
    let (data, _) = packs(&world);
    fs::remove_file(&data).unwrap();
    let name = data.strip_prefix(world.repo()).unwrap().to_str().unwrap();
    for args in [&["check"][..], &["check", "--read-data"]] {
        let found = world.run(args).code(13);
        assert!(found.text().contains(&format!("{name} is missing")), "{}", found.text());
        assert!(!found.text().contains("entity not found"), "{}", found.text());
    }
}

#[test]
fn parts_to_be_read_add_up_to_all() {
    let world = World::new();
    for content in ["one", "two", "three"] {
        fs::write(world.src().join("a.txt"), content).unwrap();
        world.save(&[]);
    }
    let read = |part: &str| {
        let found = summary(&world.run(&["check", "--read-data-subset", part, "--json"]).ok());
        (found["packs_read"].as_u64().unwrap(), found["packs"].as_u64().unwrap())
    };
    let (parts, all) =
        (1..=3).map(|n| read(&format!("{n}/3"))).fold((0, 0), |(sum, _), (n, all)| (sum + n, all));
    assert!(parts == all && all >= 4, "{parts} of {all}");
    assert_eq!(read("100%"), (all, all));
    assert_eq!(read("5G"), (all, all));
    assert!((1..all).contains(&read("1%").0) && (1..all).contains(&read("1").0));
}

#[test]
fn marked_damage_is_stored_anew() {
    let world = World::saved();
    flip(&packs(&world).0);
    world.run(&["check", "--read-data", "--mark-damaged"]).code(13).says("marked pack");
    world.run(&["snapshot", &world.path("src"), "-q", "--force"]).ok();
    world.run(&["restore", &world.latest("src"), "--target", "t"]).ok();
    assert!(
        fs::read(world.vault.join("cwd/t/dir/b.bin")).unwrap()
            == fs::read(world.src().join("dir/b.bin")).unwrap()
    );
}

#[test]
fn a_damaged_snapshot_matters_where_it_may_have_been_the_answer() {
    let world = World::saved();
    let (whole, src) = (world.ids()[0].clone(), world.path("src"));
    fs::write(world.src().join("a.txt"), "second\n").unwrap();
    let damaged = world.save(&[]);
    flip(&world.repo().join("snapshots").join(&damaged));
    for args in
        [&["snapshots"][..], &["ls"], &["find", "a.txt"], &["stats"], &["diff", &whole, "latest"], &["check"]]
    {
        let output = world.run(args).code(13);
        assert!((output.stderr + &String::from_utf8_lossy(&output.stdout)).contains(&damaged), "{args:?}");
    }
    world.run(&["restore", "latest", "--target", "old"]).code(13).says(&damaged);
    world.run(&["ls", &damaged[..10]]).code(13).says(&damaged);
    // Another one was named: it is what was asked for.
    for args in [&["ls", &whole][..], &["restore", &whole, "--target", "t"], &["check", &whole]] {
        world.run(args).ok().says("warning: ").says(&damaged);
    }
    world.run(&["snapshot", &src]).code(13).says("warning: ").says(&damaged);
}

#[test]
fn a_mirror_is_made_once_refreshed_after_and_a_repository_like_any_other() {
    let world = World::saved();
    let copy = world.path("drive/copy");
    world.run(&["mirror", &copy]).code(15).says("there is no such folder").says("hint: ");
    fs::create_dir_all(&copy).unwrap();
    world.run(&["mirror", &copy]).code(15).says("the folder is empty");
    assert_eq!(fs::read_dir(&copy).unwrap().count(), 0, "an unmounted drive was written to");
    world.run(&["mirror", "--new", &copy, "--name", "stick"]).ok().says("(stick)");
    assert!(!files(&world.vault.join("state/vault")).is_empty(), "nothing is remembered of the copy");
    fs::write(world.src().join("more"), "more").unwrap();
    world.save(&[]);
    let refreshed = summary(&world.run(&["mirror", &copy, "--json"]).ok());
    assert_eq!((&refreshed["name"], &refreshed["new"]), (&"stick".into(), &false.into()));
    assert!(refreshed["files_copied"].as_u64().unwrap() >= 2 && refreshed["last_refreshed"].is_string());
    world.run(&["mirror", &copy]).ok().says("0 files copied");
    assert_eq!(world.run(&["snapshots"]).ok().stdout, world.run(&["snapshots", "-r", &copy]).ok().stdout);
    // The original is gone: everything comes back from the copy.
    fs::rename(world.repo(), world.vault.join("gone")).unwrap();
    world.run(&["-r", &copy, "check", "--read-data"]).ok();
    world.run(&["-r", &copy, "restore", &world.latest("src"), "--target", "back"]).ok();
    let difference = Manifest::of(&world.src()).diff(&Manifest::of(&world.vault.join("cwd/back")));
    assert_eq!(difference, Vec::<String>::new());
}

#[test]
fn a_mirror_in_the_wrong_place_is_refused() {
    let world = World::saved();
    let other = world.path("other");
    world.run(&["-r", &other, "init"]).ok();
    world.run(&["mirror", &other]).code(15).says("another repository");
    world.run(&["mirror", "--new", &other]).code(1);
    world.run(&["mirror", &world.path("src")]).code(15);
    let before = Manifest::of(&world.repo());
    for place in [world.path("repo/copy"), world.path("repo"), world.path("")] {
        world.run(&["mirror", "--new", &place]).code(1).says("hint: ");
    }
    assert_eq!(before.diff(&Manifest::of(&world.repo())), Vec::<String>::new());
}

#[test]
fn damage_is_not_mirrored_and_a_damaged_mirror_is_put_right() {
    let world = World::saved();
    let copy = world.path("copy");
    world.run(&["mirror", "--new", &copy]).ok();
    let (data, _) = packs(&world);
    let twin = world.vault.join("copy").join(data.strip_prefix(world.repo()).unwrap());
    flip(&twin);
    world.run(&["mirror", &copy]).ok();
    let mended = world.run(&["mirror", &copy, "--verify", "--json"]).code(13);
    let name = data.strip_prefix(world.repo()).unwrap().to_str().unwrap();
    assert_eq!(summary(&mended)["files_replaced"], serde_json::json!([name]));
    world.run(&["mirror", &copy, "--verify"]).ok();
    flip(&twin);
    world.run(&["mirror", &copy, "--verify"]).code(13).says("1 damaged file of the mirror replaced");
    world.run(&["-r", &copy, "check", "--read-data"]).ok();
    flip(&data);
    world.run(&["mirror", &copy, "--verify"]).ok();
    world.run(&["-r", &copy, "check", "--read-data"]).ok();
    fs::remove_file(&twin).unwrap();
    world.run(&["mirror", &copy]).code(13).says("is damaged in the repository");
    assert!(!twin.exists());
}

#[test]
fn a_mirror_whose_program_was_killed_goes_on_where_it_was() {
    let world = World::saved();
    fs::write(world.src().join("long"), Random(5).bytes(16 << 20)).unwrap();
    world.save(&[]);
    let (repo, copy) = (world.path("repo"), world.path("drive"));
    let under_way = world.vault.join("drive/tmp");
    let begun = |_: &Running| {
        let len = |file: &PathBuf| fs::metadata(file).map_or(0, |found| found.len());
        under_way.exists() && files(&under_way).iter().any(|file| len(file) > 1 << 20)
    };
    let mut running = world.vault.spawn(&["-r", &repo, "mirror", "--new", &copy, "--limit-write", "4M"]);
    running.wait_until("a pack is being copied", begun);
    running.signal(Signal::KILL);
    running.wait();
    world.run(&["-r", &copy, "check"]).ok();
    world.run(&["mirror", &copy]).ok().says("there already");
    assert_eq!(files(&under_way), Vec::<PathBuf>::new(), "what was being copied is cleaned up");
    world.run(&["-r", &copy, "check", "--read-data"]).ok();
    world.run(&["-r", &copy, "restore", &world.latest("src"), "--target", "back"]).ok();
    let difference = Manifest::of(&world.src()).diff(&Manifest::of(&world.vault.join("cwd/back")));
    assert_eq!(difference, Vec::<String>::new());
}

#[test]
fn damage_to_the_config_of_a_mirror_is_mended_and_said() {
    let world = World::saved();
    let copy = world.path("copy");
    world.run(&["mirror", "--new", &copy]).ok();
    fs::remove_file(world.vault.join("copy/config.2")).unwrap();
    world.run(&["mirror", &copy]).ok();
    flip(&world.vault.join("copy/config"));
    world.run(&["mirror", &copy]).code(13).says("config was damaged on the mirror and is replaced");
    world.run(&["-r", &copy, "check"]).ok();
}

#[test]
fn verifying_a_mirror_keeps_to_the_rate() {
    let world = World::saved();
    let copy = world.path("copy");
    world.run(&["mirror", "--new", &copy]).ok();
    let begun = Instant::now();
    // 200 kB at least.
    world.run(&["mirror", &copy, "--verify", "--limit-rate", "100K"]).ok();
    assert!(begun.elapsed() > Duration::from_millis(1500), "{:?}", begun.elapsed());
}

#[test]
fn an_interrupted_mirror_says_how_it_goes_on() {
    let world = World::new();
    // Two long packs, so that whichever is the first, the other one is under way after it.
    for seed in [5, 6] {
        fs::write(world.src().join("long"), Random(seed).bytes(8 << 20)).unwrap();
        world.save(&[]);
    }
    let copy = world.path("drive");
    let under_way = world.vault.join("drive/tmp");
    let begun = |_: &Running| {
        let len = |file: &PathBuf| fs::metadata(file).map_or(0, |found| found.len());
        // One that is whole is there, so that what follows is not an empty repository.
        !files(&world.vault.join("drive/packs")).is_empty()
            && files(&under_way).iter().any(|file| len(file) > 1 << 18)
    };
    let mut running = world.vault.spawn(&["mirror", "--new", &copy, "--limit-write", "4M"]);
    running.wait_until("a second pack is being copied", |running| under_way.exists() && begun(running));
    running.signal(Signal::INT);
    running.wait().code(130).says(&format!("`vault mirror {copy}` goes on where it stopped"));
    let listed = world.run(&["-r", &copy, "snapshots"]).ok().says("was interrupted");
    assert!(!listed.stderr.contains("takes one"), "{}", listed.stderr);
    world.run(&["mirror", &copy]).ok().says("there already");
    world.run(&["-r", &copy, "check", "--read-data"]).ok();
    let empty = world.path("empty");
    world.run(&["-r", &empty, "init"]).ok();
    world.run(&["-r", &empty, "snapshots"]).ok().says("takes one");
}

#[test]
fn copy_1_a_lost_copy_is_made_anew_on_request() {
    let world = World::saved();
    let (file, src) = (world.repo().join("copy"), world.path("src"));
    let before = fs::read(&file).unwrap();
    world.run(&["check", "--repair-copy"]).ok().says("keeps its id");
    assert!(fs::read(&file).unwrap() == before);
    for lose in [|file: &std::path::Path| fs::remove_file(file).unwrap(), flip] {
        lose(&file);
        world.run(&["snapshot", &src]).code(13).says("`vault check --repair-copy` makes a new one");
        let found = world.run(&["check"]).code(13);
        assert!(found.text().contains("`vault check --repair-copy` makes a new one"), "{}", found.text());
        world.run(&["check", "--repair-copy"]).ok().says("has the new id");
        assert!(fs::read(&file).unwrap() != before);
        world.run(&["snapshot", &src]).ok();
        world.run(&["check", "--read-data"]).ok();
    }
}

#[test]
fn copy_1_packs_that_were_recorded_as_damaged_stay_so_under_the_new_id() {
    let world = World::saved();
    let (data, _) = packs(&world);
    flip(&data);
    world.run(&["check", "--read-data", "--mark-damaged"]).code(13).says("marked pack");
    fs::remove_file(world.repo().join("copy")).unwrap();
    world.run(&["check", "--repair-copy"]).code(13).says("recorded as damaged in some copy").says("1 pack");
    // Relied on, the damaged pack would cost this snapshot too.
    world.run(&["snapshot", &world.path("src"), "--force"]).ok();
    world.run(&["restore", &world.latest("src"), "--target", "back"]).ok();
    if is_encrypted() {
        // A seal never comes out twice alike: the damaged pack is not replaced by the new one, and nothing needs it.
        let found =
            world.run(&["check", "--read-data", "--mark-damaged"]).code(13).says("which cost 0 paths");
        assert!(found.text().contains(data.file_name().unwrap().to_str().unwrap()), "{}", found.text());
        world.run(&["check"]).code(13).says("which cost 0 paths");
    } else {
        world.run(&["check", "--read-data", "--mark-damaged"]).ok();
        world.run(&["check"]).ok();
    }
}

#[test]
fn a_copy_without_its_empty_folders_can_be_mirrored() {
    let world = World::saved();
    for folder in walkdir::WalkDir::new(world.repo()).contents_first(true) {
        let folder = folder.unwrap();
        if folder.file_type().is_dir() {
            // Only the empty ones go.
            let _ = fs::remove_dir(folder.path());
        }
    }
    assert!(!world.repo().join("records").exists());
    let copy = world.path("copy");
    world.run(&["mirror", "--new", &copy]).ok();
    world.run(&["-r", &copy, "check", "--read-data"]).ok();
    fs::remove_dir_all(world.repo().join("snapshots")).unwrap();
    world.run(&["mirror", &copy]).code(1).says("snapshots");
}

#[test]
fn check_names_every_path_that_is_lost_if_all_are_wanted() {
    let world = World::new();
    for number in 0..150 {
        fs::write(world.src().join(format!("lost-{number:03}")), Random(number).bytes(2000)).unwrap();
    }
    world.save(&[]);
    let (data, _) = packs(&world);
    fs::remove_file(data).unwrap();
    let count = |args: &[&str]| {
        let output = world.run(args).code(13);
        (output.text().matches("lost-").count(), output)
    };
    let (few, output) = count(&["check"]);
    assert!((1..=100).contains(&few) && output.text().contains("more: all of them with -v"), "{few}");
    assert_eq!(count(&["check", "-v"]).0, 150);
    assert_eq!(count(&["check", "--json"]).0, 150);
}
