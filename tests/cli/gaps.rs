//! `vault restore` where the snapshot does not have everything, or nothing that was asked for.

use std::fs;

use rustix::process::Signal;

use super::{Random, World, summary};
use crate::support::manifest::Manifest;
use crate::support::mount::{FileSystem, Mount};
use crate::support::needs::needs;

/// Takes a snapshot of `src`, interrupts it, and returns the id of the partial one.
fn partial(world: &World) -> String {
    for number in 0..200u64 {
        fs::write(world.src().join(format!("{number}")), Random(number + 100).bytes(20_000)).unwrap();
    }
    let mut running = world.vault.spawn(&["snapshot", &world.path("src"), "-v", "--limit-read", "1M"]);
    running.wait_until("a part is saved", |running| running.stderr().matches("new       ").count() > 60);
    running.signal(Signal::INT);
    running.wait().code(130);
    world.ids().remove(0)
}

#[test]
fn what_the_snapshot_lacks_is_said_with_counts() {
    let world = World::new();
    world.save(&["-e", "*.bin", "-e", "sub"]);
    let told = world.run(&["restore", &world.latest("src"), "-t", "t", "-v"]).ok();
    let told = told.says("left out when the snapshot was taken: 2 entries (2 excluded)");
    assert!(!told.stderr.contains("warning:") && told.stderr.contains("not saved dir/b.bin (excluded)"));
    let part = world.run(&["restore", &world.latest("src"), "-t", "p", "-i", "a.txt", "--json"]).ok();
    assert_eq!(summary(&part)["not_in_snapshot"], serde_json::json!({}), "not asked for, not missed");
    let quiet = world.run(&["restore", &world.latest("src"), "-t", "q", "-q"]).ok();
    assert_eq!(quiet.stderr, "");

    world.run(&["snapshot", &world.path("src"), &world.path("gone")]).code(3);
    world
        .run(&["restore", "latest", "-t", "g"])
        .ok()
        .says("the snapshot lacks 1 entry of what was restored: 1 not there when it was to be saved");

    let world = World::new();
    let id = partial(&world);
    let told = world.run(&["restore", &id, "-t", "t", "-q"]).ok();
    assert!(told.stderr.contains("warning: this snapshot is partial"));
    assert!(told.stderr.contains("of what was restored:") && told.stderr.contains(" interrupted"));
    let json = summary(&world.run(&["restore", &id, "-t", "j", "--json"]).ok());
    assert_eq!(json["snapshot_state"], "partial");
    assert!(json["not_in_snapshot"]["interrupted"].as_u64().unwrap() > 10, "{json}");
}

#[test]
fn in_place_passes_over_what_was_left_out_and_restores_the_rest() {
    let world = World::new();
    let (one, two, three) = (world.path("one"), world.path("two"), world.path("three"));
    for folder in [&one, &two, &three] {
        fs::create_dir(folder).unwrap();
        fs::write(format!("{folder}/file"), folder).unwrap();
    }
    // One of them is away while the snapshot is taken, as a drive may be.
    fs::rename(&two, world.path("away")).unwrap();
    world.run(&["snapshot", &one, &two, &three]).code(3);
    fs::rename(world.path("away"), &two).unwrap();
    let id = world.ids().remove(0);
    for folder in [&one, &three] {
        fs::remove_file(format!("{folder}/file")).unwrap();
    }
    let output =
        world.run(&["restore", &id, "--in-place", "--yes"]).code(1).says("left out when that was taken");
    assert!(output.stderr.contains("could not be restored, see above"), "{}", output.stderr);
    assert!(output.stderr.contains("restored "), "{}", output.stderr);
    for folder in [&one, &three] {
        assert_eq!(fs::read_to_string(format!("{folder}/file")).unwrap(), *folder);
    }
    assert_eq!(
        fs::read_to_string(format!("{two}/file")).unwrap(),
        two,
        "what the snapshot lacks is left alone"
    );
    world.run(&["restore", &format!("{id}:{two}"), "--in-place", "--yes"]).code(1).says("there is no /");
}

#[test]
fn in_place_goes_on_after_a_place_that_cannot_be_restored_to() {
    let world = World::new();
    let (one, two) = (world.path("a-one"), world.path("b-two"));
    for folder in [&one, &two] {
        fs::create_dir(folder).unwrap();
        fs::write(format!("{folder}/file"), folder).unwrap();
    }
    world.run(&["snapshot", "-q", &one, &two]).ok();
    fs::remove_dir_all(&one).unwrap();
    fs::write(&one, "a file where the folder was").unwrap();
    fs::remove_file(format!("{two}/file")).unwrap();
    let output = world.run(&["restore", "latest", "--in-place", "--yes"]).code(1).says(&one);
    assert!(output.stderr.contains("1 thing could not be restored"), "{}", output.stderr);
    assert_eq!(fs::read_to_string(format!("{two}/file")).unwrap(), two);
}

#[test]
fn patterns_that_choose_nothing_are_no_success() {
    let world = World::saved();
    let src = world.latest("src");
    for args in [&["-i", "nosuchthing"][..], &["-i", "*.txt", "-e", "*"], &["-e", "*", "-n"]] {
        world.run(&[&["restore", &src, "-t", "t"], args].concat()).code(1).says("nothing matched");
    }
    // Something that is right already was chosen all the same.
    world.run(&["restore", &src, "-t", "t", "-i", "a.txt"]).ok();
    let again = world.run(&["restore", &src, "-t", "t", "-i", "a.txt"]).ok();
    assert!(!again.stderr.contains("nothing matched"));
    world.run(&["restore", &world.latest("src/empty"), "-t", "e"]).ok();
}

#[test]
fn what_is_deleted_has_its_size() {
    let world = World::saved();
    fs::create_dir(world.src().join("more")).unwrap();
    fs::write(world.src().join("extra"), vec![1; 3000]).unwrap();
    fs::write(world.src().join("more/extra"), vec![1; 5000]).unwrap();
    for last in ["-n", "--yes"] {
        let output = world.run(&["restore", "latest", "--in-place", "--delete", "-v", last]).ok();
        output.says("deleted   extra, 2.9 KiB").says("deleted   more/extra, 4.9 KiB");
    }
}

#[test]
fn a_full_target_or_output_has_no_hint_about_the_repository() {
    needs!("tmpfs");
    let world = World::new();
    fs::write(world.src().join("large"), Random(2).bytes(8 << 20)).unwrap();
    world.save(&[]);
    let mount = Mount::new(FileSystem::Tmpfs, 4);
    let target = mount.join("t");
    let before = Manifest::of(&world.repo());
    let full = world.run(&["restore", &world.latest("src"), "-t", target.to_str().unwrap()]).code(14);
    assert!(full.stderr.contains("hint: make room there") && !full.stderr.contains("is whole"));
    assert_eq!(before.diff(&Manifest::of(&world.repo())), Vec::<String>::new());
}
