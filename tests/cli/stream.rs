//! `vault snapshot --stdin` and `--stdin-from-command`: a stream is saved whole or not at all, and what writes it never outlives the run.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::World;
use crate::support::needs::needs;
use crate::support::torture::Random;
use crate::support::vault::{Output, Running, Vault};

/// Waits for the end of a run that was asked to end, which is to come soon.
#[track_caller]
fn ends_soon(running: Running) -> Output {
    let asked = Instant::now();
    let output = running.wait().code(130).says("no snapshot was taken");
    assert!(asked.elapsed() < Duration::from_secs(10), "it took {:?}", asked.elapsed());
    assert!(!output.stderr.contains("goes on from there") && !output.stderr.contains("partial"));
    output
}

/// Whether a process runs: one that has ended and was not asked for its exit code yet does not.
fn is_running(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

#[test]
fn a_stream_in_which_nothing_comes_ends_with_the_first_signal_and_keeps_its_packs() {
    use std::io::Write;
    let world = World::new();
    for signal in [Signal::INT, Signal::TERM] {
        let mut command = world.vault.command(&["snapshot", "--stdin"]);
        let (reader, mut writer) = std::io::pipe().unwrap();
        command.stdin(reader);
        let running = world.vault.start(command);
        writer.write_all(&Random(7).bytes(20 << 20)).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        running.signal(signal);
        ends_soon(running);
        drop(writer);
    }
    assert!(world.ids().is_empty(), "half a stream is no backup");
    assert!(!super::files(&world.repo().join("packs")).is_empty(), "what was packed is kept");
    world.run(&["check", "--read-data"]).ok();
}

#[test]
fn a_command_and_all_it_started_end_with_the_run() {
    needs!("sh");
    for signals in [&[Signal::INT][..], &[Signal::INT, Signal::INT]] {
        let world = World::new();
        let pids = world.vault.join("pids");
        let script = format!("trap '' INT; sleep 1000 & echo $! $$ > {}; wait", pids.display());
        let mut running = world.vault.spawn(&["snapshot", "--stdin-from-command", "--", "sh", "-c", &script]);
        running
            .wait_until("it has begun", |_| fs::read_to_string(&pids).is_ok_and(|text| text.ends_with('\n')));
        for signal in signals {
            running.signal(*signal);
        }
        if signals.len() == 1 {
            ends_soon(running);
        } else {
            running.wait().code(130);
        }
        for pid in fs::read_to_string(&pids).unwrap().split_whitespace() {
            let end = Instant::now() + Duration::from_secs(5);
            while is_running(pid) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
            if is_running(pid) {
                let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
                rustix::process::kill_process(pid, Signal::KILL).unwrap();
                panic!("process {pid:?} was left behind");
            }
        }
        assert!(world.ids().is_empty());
    }
}

#[test]
fn a_command_starts_only_when_the_repository_is_open() {
    needs!("touch");
    let vault = Vault::new();
    let (nowhere, begun) = (vault.join("nowhere"), vault.join("begun"));
    let (nowhere, begun) = (nowhere.to_str().unwrap(), begun.to_str().unwrap());
    vault.run(&["-r", nowhere, "snapshot", "--stdin-from-command", "--", "touch", begun]).code(10);
    assert!(!vault.join("begun").exists());
}

#[test]
fn a_command_that_fails_leaves_no_snapshot_and_says_how_it_ended() {
    needs!("sh");
    let world = World::new();
    let run = |command: &[&str]| world.run(&[&["snapshot", "--stdin-from-command", "--"], command].concat());
    run(&["sh", "-c", "echo half; exit 7"])
        .code(1)
        .says("sh ended with exit status 7: no snapshot was taken");
    run(&["sh", "-c", "kill -9 $$"]).code(1).says("sh ended with signal 9: no snapshot was taken");
    run(&["/no/such/program"]).code(1).says("cannot run /no/such/program");
    run(&[]).code(2);
    assert!(world.ids().is_empty());
}

#[test]
fn without_a_standard_input_there_is_nothing_to_save() {
    needs!("sh");
    let world = World::new();
    world.run(&["snapshot", "--stdin"]).code(2).says("nothing to save");
    let mut command =
        world.vault.command_under(&["sh", "-c", "exec \"$@\" <&-", "sh"], &["snapshot", "--stdin"]);
    command.stdin(Stdio::piped());
    world.vault.start(command).wait().code(2).says("the standard input is closed");
    assert!(world.ids().is_empty());
    // An empty pipe or file was given on purpose.
    world.vault.run_with_stdin(&["snapshot", "-q", "--stdin"], b"").ok();
    assert_eq!(world.run(&["cat", "latest:/stdin"]).ok().stdout, b"");
}

#[test]
fn a_stream_has_one_name_and_no_place_to_go_back_to() {
    let world = World::new();
    let victim = world.path("victim");
    fs::write(&victim, "mine").unwrap();
    world.vault.run_with_stdin(&["snapshot", "-q", "--stdin", "--stdin-filename", &victim], b"stream").ok();
    assert_eq!(world.run(&["cat", &world.latest("victim")]).ok().stdout, b"stream");
    world.run(&["restore", "latest", "--in-place", "--yes"]).code(2).says("came from no folder");
    assert_eq!(fs::read(&victim).unwrap(), b"mine");
    world.vault.run_with_stdin(&["snapshot", "--stdin", "--as-path", "/q"], b"x").code(2).says("--as-path");
    let refused =
        world.vault.run_with_stdin(&["snapshot", "--stdin", "--stdin-filename", "a/.."], b"x").code(2);
    assert!(!refused.stderr.contains("TREE-"), "{}", refused.stderr);
}
