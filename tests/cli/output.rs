//! What is printed where: results and the rest, names of all kinds, JSON, the log, pipes, signals.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::{World, json, summary};
use crate::support::torture::Random;

/// A name that would clear the screen, turn the text around, break the line, and is not UTF-8.
const EVIL: &[u8] = b"evil\x1b[2J\xe2\x80\xae\n\xff";
const EVIL_BASE64: &str = "ZXZpbBtbMkrigK4K/w==";

fn evil_world() -> World {
    let world = World::new();
    fs::write(world.src().join(OsStr::from_bytes(EVIL)), "evil").unwrap();
    let target = world.src().join("to-evil");
    std::os::unix::fs::symlink(OsStr::from_bytes(EVIL), target).unwrap();
    world
}

#[track_caller]
fn assert_harmless(bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap();
    let bad = |c: char| c.is_control() && c != '\n' || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!text.chars().any(bad), "{text:?}");
}

#[test]
fn no_name_reaches_the_screen_raw() {
    let world = evil_world();
    let (src, saved) = (world.path("src"), world.latest("src"));
    let shown = "evil\\x1b[2J\\u{202e}\\x0a\\xff";
    let first = world.save(&["-e", "evil*", "--as-path", &src]);
    let first = format!("{first}:{src}");
    let in_place = ["restore", "latest", "--in-place", "-y", "-v"];
    for args in [
        &["snapshot", &src, "-v"][..],
        &["ls", &saved],
        &["ls", "-l", &saved],
        &["find", "evil*"],
        &["diff", &first, &saved],
        &["restore", &saved, "--target", "t", "-v"],
        &["restore", &saved, "--target", "u", "-n"],
        &in_place,
    ] {
        let output = world.run(args).ok();
        assert_harmless(&output.stdout);
        assert_harmless(output.stderr.as_bytes());
        assert!(output.text().contains(shown) || output.stderr.contains(shown), "{args:?}");
    }
    let missing = [OsStr::new("snapshot"), OsStr::from_bytes(EVIL)];
    let output = world.vault.run(&missing).code(1).says("evil\\x1b[2J");
    assert_harmless(output.stderr.as_bytes());
}

#[test]
fn json_has_every_name_exactly() {
    let world = evil_world();
    let (src, saved) = (world.path("src"), world.latest("src"));
    let lines = |args: &[&str]| {
        let output = world.run(&[args, &["--json"]].concat()).ok();
        assert_harmless(&output.stdout);
        let mut lines = json(&output.stdout);
        lines.extend(json(output.stderr.as_bytes()));
        assert!(lines.iter().all(|line| line["message_type"].is_string()), "{args:?}");
        lines
    };
    lines(&["snapshot", &src, "-v"]);
    let listed = lines(&["ls", &saved]);
    let evil = listed.iter().find(|line| line["name_b64"] == EVIL_BASE64).unwrap();
    assert_eq!(evil["name"], "evil\u{1b}[2J\u{202e}\n\u{fffd}");
    assert!(listed.iter().any(|line| line["linktarget_b64"] == EVIL_BASE64));
    assert!(listed.iter().all(|line| line["name"] != "a.txt" || line.get("name_b64").is_none()));
    for args in [
        &["snapshots"][..],
        &["find", "*"],
        &["diff", "latest", &src],
        &["stats"],
        &["check", "--read-data"],
        &["restore", &saved, "--target", "t", "-v"],
        &["mirror", "--new", "copy"],
        &["version"],
    ] {
        assert!(!lines(args).is_empty(), "{args:?}");
    }
    let failed = world.run(&["ls", "abcd", "--json"]).code(1);
    let error = &json(failed.stderr.as_bytes())[0];
    assert!(error["message_type"] == "exit_error" && error["code"] == 1 && error["hint"].is_string());
}

#[test]
fn results_are_on_the_standard_output_and_quiet_leaves_only_these() {
    let world = World::new();
    let src = world.path("src");
    let told = world.run(&["snapshot", &src]).ok();
    assert!(told.stdout.is_empty() && told.stderr.contains("snapshot "));
    assert!(!told.stderr.contains('\x1b'), "no terminal, no colors");
    for args in [
        &["snapshot", &src][..],
        &["restore", "latest", "--target", "t"],
        &["check"],
        &["mirror", "--new", "m"],
    ] {
        let quiet = world.run(&[args, &["-q"]].concat()).ok();
        assert!(quiet.stdout.is_empty() && quiet.stderr.is_empty(), "{args:?}: {}", quiet.stderr);
    }
    let listed = world.run(&["ls", "-q"]).ok();
    assert!(!listed.stdout.is_empty() && listed.stderr.is_empty());
    world.run(&["ls", "abcd", "-q"]).code(1).says("there is no snapshot abcd");
    let verbose = world.run(&["snapshot", &src, "-v", "--force"]).ok();
    assert!(verbose.stderr.contains("unchanged ") && verbose.stderr.contains("written   snapshots/"));
}

#[test]
fn the_log_is_appended_with_times_whatever_is_shown() {
    let world = World::new();
    let (src, log) = (world.path("src"), world.path("log"));
    world.run(&["snapshot", &src, "/no/such/place", "--log-file", &log, "-q"]).code(3);
    world.run(&["ls", "abcd", "--log-file", &log, "--json"]).code(1);
    let text = fs::read_to_string(&log).unwrap();
    for line in text.lines() {
        let time = line.split(' ').next().unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{line}");
    }
    for part in ["/no/such/place", "snapshot ", "there is no snapshot abcd", "exit code 3", "exit code 1"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    world.run(&["ls", "--log-file", "/no/such/folder/log"]).code(1).says("/no/such/folder/log");
}

#[test]
fn what_a_full_disk_takes_from_output_or_log_is_said() {
    let world = World::new();
    let src = world.path("src");
    let lossy =
        world.run(&["snapshot", &src, "--log-file", "/dev/full"]).code(1).says("cannot write /dev/full");
    assert_eq!(lossy.stderr.matches("/dev/full").count(), 1, "once: {}", lossy.stderr);
    assert_eq!(world.ids().len(), 1, "the snapshot is taken all the same");
    world.run(&["ls", "abcd", "--log-file", "/dev/full"]).code(1).says("there is no snapshot abcd");
    world.run(&["snapshot", &world.path("gone"), &src, "--log-file", "/dev/full"]).code(3);
    for (args, code) in
        [(&["--help"][..], 14), (&["snapshot", "--help"], 14), (&["--version"], 14), (&["ls", "-R"], 14)]
    {
        let mut command: Command = world.vault.command(args);
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = command.stdout(full).stderr(Stdio::piped()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
        assert!(told.contains("cannot write the standard output") && !told.contains("repository"), "{told}");
    }
}

#[test]
fn a_log_is_nobody_elses_business_and_what_exists_stays_what_it_is() {
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
    let world = World::new();
    let src = world.path("src");
    world.run(&["snapshot", &src, "-q", "--log-file", &world.path("log")]).ok();
    assert_eq!(fs::metadata(world.path("log")).unwrap().mode() & 0o777, 0o600);
    let old = world.path("old");
    fs::write(&old, "mine\n").unwrap();
    fs::set_permissions(&old, fs::Permissions::from_mode(0o644)).unwrap();
    world.run(&["snapshot", &src, "-q", "--log-file", &old]).ok();
    assert_eq!(fs::metadata(&old).unwrap().mode() & 0o777, 0o644);
    assert!(fs::read_to_string(&old).unwrap().starts_with("mine\n"));
    let null = || {
        let found = fs::symlink_metadata("/dev/null").unwrap();
        (found.file_type().is_char_device(), found.mode(), found.ino())
    };
    let before = null();
    std::os::unix::fs::symlink("/dev/null", world.src().join("masked")).unwrap();
    world.run(&["snapshot", &src, "-q", "--log-file", "/dev/null"]).ok();
    world.run(&["restore", "latest", "--in-place", "--yes", "--delete", "--log-file", "/dev/null"]).ok();
    world
        .run(&["restore", "latest", "--target", "t", "--overwrite", "always", "--log-file", "/dev/null"])
        .ok();
    assert_eq!(null(), before);
}

#[test]
fn a_reader_that_goes_away_is_no_matter_for_complaint() {
    let world = World::new();
    for number in 0..3000 {
        fs::write(world.src().join(format!("a rather long name for a file, number {number}")), "").unwrap();
    }
    fs::write(world.src().join("large"), Random(8).bytes(1 << 20)).unwrap();
    world.save(&[]);
    for args in
        [&["ls", "-R"][..], &["ls", "-R", "--json"], &["cat", &world.latest("src/large")], &["find", "*"]]
    {
        let mut command: Command = world.vault.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
        assert!(output.status.code() == Some(1), "{args:?}: {:?}", output.status);
    }
}

#[test]
fn one_interrupt_keeps_what_was_saved_and_the_next_run_goes_on() {
    let world = World::new();
    let src = world.path("src");
    for number in 0..200u64 {
        fs::write(world.src().join(format!("{number}")), Random(number + 100).bytes(20_000)).unwrap();
    }
    let mut running = world.vault.spawn(&["snapshot", &src, "-v", "--limit-read", "1M"]);
    running.wait_until("a part is saved", |running| running.stderr().matches("new       ").count() > 60);
    running.signal(Signal::INT);
    let output = running.wait().code(130).says("stopping").says("partial snapshot");
    assert!(output.stderr.contains("the next snapshot goes on from there"));
    assert!(world.run(&["snapshots"]).ok().text().contains("partial"));
    world.run(&["ls", "latest"]).code(1).says("there is no complete snapshot");
    let rest = summary(&world.run(&["snapshot", &src, "--json"]).ok());
    assert!(rest["data_added"].as_u64().unwrap() < 3_500_000, "written again: {rest}");
    world.run(&["check", "--read-data"]).ok();
}

#[test]
fn a_second_interrupt_stops_at_once() {
    let world = World::new();
    fs::write(world.src().join("large"), Random(6).bytes(8 << 20)).unwrap();
    let mut running = world.vault.spawn(&["snapshot", &world.path("src"), "-v", "--limit-read", "64K"]);
    running.wait_until("it has begun", |running| running.stderr().contains("new       "));
    running.signal(Signal::INT);
    running.wait_until("it says so", |running| running.stderr().contains("once more to stop at once"));
    running.signal(Signal::TERM);
    running.wait().code(130);
    assert!(world.ids().is_empty());
    world.run(&["check"]).ok();
}
