//! The way in: help, the repository that is meant, mistakes, exit codes, and what the program says of itself.

use std::fs;
use std::process::Command;
use std::sync::Barrier;
use std::thread;

use super::{World, flip, json};
use crate::support::manifest::Manifest;
use crate::support::mount::{FileSystem, Mount};
use crate::support::needs::needs;
use crate::support::vault::Vault;

const VERBS: [&str; 14] = [
    "init",
    "snapshot",
    "snapshots",
    "ls",
    "find",
    "diff",
    "cat",
    "restore",
    "check",
    "stats",
    "mirror",
    "completions",
    "man",
    "version",
];

#[test]
fn every_help_lists_the_exit_codes() {
    let vault = Vault::new();
    let overview = vault.run(&["--help"]).ok();
    for verb in VERBS {
        assert!(overview.text().contains(&format!("\n  {verb} ")), "{verb}");
        let help = vault.run(&[verb, "--help"]).ok();
        for code in ["0 ", "1 ", "2 ", "3 ", "10 ", "11 ", "12 ", "13 ", "14 ", "15 ", "130 "] {
            assert!(help.text().contains(&format!("\n  {code}")), "{verb}: {code}");
        }
    }
}

#[test]
fn aliases_are_the_same_verbs() {
    let world = World::new();
    let src = world.path("src");
    world.run(&["backup", &src, "-q"]).ok();
    world.run(&["create", &src, "-q"]).ok();
    assert_eq!(world.ids().len(), 2);
    assert_eq!(world.run(&["list"]).ok().stdout, world.run(&["snapshots"]).ok().stdout);
    world.run(&["verify"]).ok().says("no damage found");
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    let world = World::saved();
    for args in [
        &[][..],
        &["snpshot", "x"],
        &["snapshot"],
        &["ls", "--no-such-flag"],
        &["ls", "not/a/snapshot"],
        &["-q", "-v", "snapshots"],
        &["snapshot", "--stdin", "x"],
        &["snapshot", "x", "--compression", "20"],
        &["snapshot", "x", "--exclude-larger-than", "3x"],
        &["snapshot", "x", "--exclude", "["],
        &["snapshot", "x", "--exclude-if-present", "a/b"],
        &["snapshot", "x", "--exclude-if-present", ""],
        &["snapshot", "x", "--exclude-if-present", ":header"],
        &["snapshot", "x", "--time", "tomorrow"],
        &["snapshot", "x", "--label", "a@b"],
        &["check", "--read-data-subset", "8/7"],
        &["restore"],
        &["restore", "latest", "--in-place", "--target", "x"],
        &["mirror"],
        &["mirror", "--name", "x", "y"],
        &["diff", "latest", "latest", "--content"],
    ] {
        let output = world.run(args).code(2);
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}");
    }
    world.run(&["snpshot"]).code(2).says("snapshot");
    world.run(&["ls", "/etc"]).code(2).says("latest:/etc");
    // In JSON too, though there is no screen yet.
    let lines = json(world.run(&["--json", "ls", "?"]).code(2).stderr.as_bytes());
    assert_eq!((&lines[0]["message_type"], &lines[0]["code"]), (&"exit_error".into(), &2.into()));
}

#[test]
fn the_first_snapshot_makes_the_default_repository_and_says_so() {
    let vault = Vault::new();
    fs::write(vault.join("cwd/file"), "x").unwrap();
    for args in [&["ls"][..], &["snapshots"], &["restore", "latest"], &["check"], &["stats"], &["find", "x"]]
    {
        vault.run(args).code(10).says("there is no repository at").says("`vault snapshot PATH` makes it");
    }
    vault.run(&["snapshot", "no-such-file"]).code(1).says("no-such-file");
    assert!(!vault.join("data/vault").exists(), "a mistake made a repository");
    vault.run(&["snapshot", "file"]).ok().says("made the repository").says("data/vault/default");
    let again = vault.run(&["snapshot", "file"]).ok();
    assert!(!again.stderr.contains("made the repository"));
    assert!(vault.join("data/vault/default/config").exists());
    // An empty name is no name.
    let mut vault = vault;
    vault.env("VAULT_REPOSITORY", "");
    assert_eq!(vault.run(&["snapshots", "--json"]).ok().text().lines().count(), 2);
}

#[test]
fn the_repository_is_named_before_or_behind_the_verb_or_by_the_environment() {
    let mut world = World::saved();
    let repo = world.path("repo");
    world.vault.env("VAULT_REPOSITORY", "/nowhere");
    world.run(&["snapshots"]).code(10).says("/nowhere");
    for args in
        [&["-r", &repo, "snapshots"][..], &["snapshots", "-r", &repo], &["snapshots", "--repository", &repo]]
    {
        assert_eq!(world.run(args).ok().text().lines().count(), 2);
    }
    world.vault.env_remove("VAULT_REPOSITORY");
    world.run(&["-r", "", "snapshots"]).code(2);
    // One that is named is not made in passing: that would hide that a drive is missing.
    world.run(&["-r", &world.path("typo"), "snapshot", &world.path("src")]).code(10);
    assert!(!world.vault.join("typo").exists());
}

#[test]
fn init_makes_one_repository_and_touches_nothing_else() {
    let vault = Vault::new();
    let place = vault.join("deep/er/repo");
    let place = place.to_str().unwrap();
    let lines = json(&vault.run(&["-r", place, "init", "--name", "drive", "--json"]).ok().stdout);
    assert_eq!((&lines[0]["message_type"], &lines[0]["repository"]), (&"initialized".into(), &place.into()));
    vault.run(&["-r", place, "init"]).code(1).says("already holds").says("hint: ");
    fs::create_dir(vault.join("used")).unwrap();
    fs::write(vault.join("used/file"), "mine").unwrap();
    vault.run(&["-r", vault.join("used").to_str().unwrap(), "init"]).code(1);
    assert_eq!(fs::read_dir(vault.join("used")).unwrap().count(), 1);
    let file = vault.join("used/file");
    let file = file.to_str().unwrap();
    vault.run(&["-r", file, "init"]).code(1).says(&format!("cannot make a repository in {file}: "));
    vault.run(&["-r", place, "ls"]).code(1).says("there is no snapshot in this repository");
    vault.run(&["-r", place, "snapshots"]).ok().says("no snapshots yet");
}

#[test]
fn dur_7_of_runs_that_make_a_repository_at_once_one_does() {
    let world = World::saved();
    let there = world.vault.join("there");
    fs::create_dir(&there).unwrap();
    let place = there.to_str().unwrap();
    let ways = [&["-r", place, "init"][..], &["mirror", "--new", place]];
    let ours = fs::File::open(&there).unwrap();
    ours.lock().unwrap();
    for args in ways {
        world.run(args).code(11).says("another run makes a repository in").says("hint: run it again");
        assert_eq!(fs::read_dir(&there).unwrap().count(), 0);
    }
    drop(ours);
    for round in 0..8 {
        let barrier = Barrier::new(4);
        let codes: Vec<(usize, Option<i32>)> = thread::scope(|scope| {
            let run = |number: usize| {
                barrier.wait();
                let way = (round + number) % 2;
                (way, world.run(ways[way]).status.code())
            };
            let runs: Vec<_> = (0..4).map(|number| scope.spawn(move || run(number))).collect();
            runs.into_iter().map(|run| run.join().unwrap()).collect()
        });
        assert!(codes.iter().all(|(_, code)| matches!(code, Some(0 | 1 | 11))), "{codes:?}");
        // A second mirror refreshes the first one; nothing else may succeed beside another.
        let made = |way| codes.iter().filter(|code| **code == (way, Some(0))).count();
        assert!(matches!((made(0), made(1)), (1, 0) | (0, 1..)), "{codes:?}");
        world.run(&["-r", place, "snapshot", &world.path("src")]).ok();
        world.run(&["-r", place, "check", "--read-data"]).ok();
        fs::remove_dir_all(&there).unwrap();
    }
}

#[test]
fn a_full_medium_is_14_and_leaves_a_whole_repository() {
    needs!("tmpfs");
    let world = World::saved();
    let mount = Mount::new(FileSystem::Tmpfs, 4);
    let repo = mount.join("repo");
    let repo = repo.to_str().unwrap();
    world.run(&["-r", repo, "init"]).ok();
    fs::write(world.src().join("large"), crate::support::torture::Random(2).bytes(8 << 20)).unwrap();
    world.run(&["-r", repo, "snapshot", &world.path("src")]).code(14).says("hint: make room");
    fs::remove_file(world.src().join("large")).unwrap();
    world.run(&["-r", repo, "snapshot", &world.path("src")]).ok();
    world.run(&["-r", repo, "check", "--read-data"]).ok();
}

#[test]
fn init_on_a_medium_that_cannot_be_written_to_names_the_folder() {
    needs!("tmpfs");
    let vault = Vault::new();
    let mount = Mount::new(FileSystem::Tmpfs, 4);
    fs::create_dir(mount.join("empty")).unwrap();
    let status = Command::new("mount").args(["-o", "remount,ro"]).arg(mount.path()).status().unwrap();
    assert!(status.success());
    for name in ["new", "empty"] {
        let place = mount.join(name);
        let place = place.to_str().unwrap();
        let output =
            vault.run(&["-r", place, "init"]).code(1).says("hint: the file system is mounted read-only");
        assert!(
            output.stderr.contains(&format!("cannot make a repository in {place}: ")),
            "{}",
            output.stderr
        );
    }
}

#[test]
fn a_damaged_config_is_said_and_its_twin_stands_in() {
    let world = World::saved();
    flip(&world.repo().join("config"));
    world.run(&["snapshots"]).code(13).says("config is damaged");
    let output = world.run(&["snapshot", &world.path("src")]).code(13);
    assert!(output.stderr.contains("config is damaged") && output.stderr.contains("snapshot "));
    flip(&world.repo().join("config.2"));
    world.run(&["snapshots"]).code(13).says("hint: ");
}

#[test]
fn the_program_describes_itself() {
    needs!("bash");
    let vault = Vault::new();
    let version = vault.run(&["version"]).ok();
    assert_eq!(version.text(), format!("vault {}, repository format 1\n", env!("CARGO_PKG_VERSION")));
    assert!(vault.run(&["--version"]).ok().text().starts_with("vault "));
    for shell in ["bash", "zsh", "fish"] {
        let script = vault.run(&["completions", shell]).ok();
        for verb in VERBS {
            assert!(script.text().contains(verb), "{shell}: {verb}");
        }
        assert!(script.text().contains("exclude-larger-than"), "{shell}");
    }
    fs::write(vault.join("vault.bash"), vault.run(&["completions", "bash"]).ok().stdout).unwrap();
    let mut bash = Command::new("bash");
    bash.args(["-euc", "source vault.bash; complete -p vault"]).current_dir(vault.path());
    assert!(bash.output().unwrap().status.success());
    assert!(vault.run(&["man"]).ok().text().contains(".TH vault 1"));
    let folder = vault.join("pages/man1");
    vault.run(&["man", "--dir", folder.to_str().unwrap()]).ok();
    for verb in VERBS {
        let page = fs::read_to_string(folder.join(format!("vault-{verb}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS") && page.contains("130"), "{verb}");
    }
}

#[test]
fn no_repository_is_made_inside_of_another() {
    let world = World::saved();
    world.run(&["init", "-r", &world.path("other")]).ok();
    for place in [world.path("other/packs/new"), world.path("other/new/folder"), world.path("repo/sub")] {
        world.run(&["init", "-r", &place]).code(1).says("none is made inside of another");
    }
    fs::create_dir(world.vault.join("other/sub")).unwrap();
    std::os::unix::fs::symlink(world.vault.join("other/sub"), world.vault.join("link")).unwrap();
    world.run(&["init", "-r", &world.path("link")]).code(1).says("inside of another");
    world.run(&["mirror", "--new", &world.path("other/mirror")]).code(1).says("inside of another");
    assert!(!world.vault.join("other/mirror").exists() && !world.vault.join("other/new").exists());
}

#[test]
fn a_dry_run_before_the_first_snapshot_makes_no_repository() {
    let mut world = World::new();
    world.vault.env_remove("VAULT_REPOSITORY");
    let before = Manifest::of(world.vault.path());
    let told = world.run(&["snapshot", "-n", &world.path("src")]).ok();
    assert!(
        told.stderr.contains("no repository yet") && told.stderr.contains("stored as 20"),
        "{}",
        told.stderr
    );
    let after = Manifest::of(world.vault.path());
    let changed: Vec<String> =
        before.diff(&after).into_iter().filter(|line| !line.contains("runs")).collect();
    assert_eq!(changed, [""; 0]);
    world.run(&["snapshots"]).code(10);
}
