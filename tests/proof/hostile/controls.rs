//! The controls of what tells a run that went wrong: each of them has to find what was done on purpose.

use std::path::Path;

use super::commands::{Arena, Ran, touched, unfit};
use super::craft::{Case, Expects};
use crate::support::manifest::Manifest;
use crate::support::needs::needs;

/// Makes this program do something that no run may do.
const DEED: &str = "VAULT_TEST_HOSTILE";

const CASE: Case = Case { name: "a control", make: |_| (), expects: Expects::Harmless };

/// Runs one of the deeds below in this program, within the bounds of all runs.
fn run(arena: &Arena, deed: &str, patience: u64) -> Ran {
    let program = std::env::current_exe().unwrap();
    let script = format!("ulimit -v {}; exec \"$@\"", super::commands::MEMORY_KIB);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &script, "sh"]).arg(program);
    command.args(["--exact", "proof::hostile::controls::the_deeds_that_are_to_be_found", "--nocapture"]);
    command.env(DEED, deed);
    arena.bounded(command, std::time::Duration::from_secs(patience))
}

#[test]
fn the_deeds_that_are_to_be_found() {
    let Ok(deed) = std::env::var(DEED) else { return };
    match deed.as_str() {
        "allocate too much" => assert!(vec![1u8; 600 << 20].iter().all(|byte| *byte == 1)),
        "allocate much" => assert!(vec![1u8; 300 << 20].iter().all(|byte| *byte == 1)),
        "panic" => panic!("as it was asked to"),
        "abort" => std::process::abort(),
        "say nothing" => std::process::exit(1),
        "end in a way of its own" => std::process::exit(99),
        _ => {
            let _ = signal_hook::flag::register(signal_hook::consts::SIGINT, std::sync::Arc::default());
            std::thread::sleep(std::time::Duration::from_secs(600));
        }
    }
}

#[test]
fn the_control_of_hostile_runs_finds_what_no_run_may_do() {
    needs!("sh", "cp");
    let arena = Arena::new();
    arena.make(&CASE);
    arena.reset(&[]);
    let found = |deed: &str| unfit(&CASE, "check", &run(&arena, deed, 30));
    for (deed, expected) in [
        ("allocate too much", "it did not end by itself"),
        ("panic", "it panicked"),
        ("abort", "it did not end by itself"),
        ("say nothing", "it says nothing"),
        ("end in a way of its own", "it ended in a way of its own"),
    ] {
        assert_eq!(found(deed).as_deref(), Some(expected), "{deed}");
    }
    assert_eq!(found("allocate much"), None);
    let hung = unfit(&CASE, "check", &run(&arena, "go on for ever", 1));
    assert_eq!(hung.as_deref(), Some("it goes on after it was interrupted"));
}

#[test]
fn the_control_of_hostile_repositories_finds_what_should_have_been_refused() {
    needs!("sh", "cp");
    let arena = Arena::new();
    arena.make(&CASE);
    // Nothing is wrong with it, so it is refused by none.
    for expects in [Expects::Refused(&["a rule"]), Expects::Found(&["a rule"])] {
        let case = Case { expects, ..CASE };
        let command = super::commands::SHOWING[1];
        let found = arena.violations(&case, &command);
        assert!(found.len() == 1 && found[0].contains("it is content"), "{found:?}");
    }
}

/// Does something to a victim.
type Touch = fn(&Path);

#[test]
fn the_control_of_the_victim_finds_each_way_to_touch_it() {
    needs!("cp");
    let arena = Arena::new();
    arena.make(&CASE);
    let victim = arena.vault.join("arena/victim");
    let ways: [(&str, Touch); 6] = [
        ("other bytes", |victim| std::fs::write(victim.join("passwd"), "precious Passwd").unwrap()),
        ("another mode", |victim| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            std::fs::set_permissions(victim.join("folder/passwd"), mode).unwrap();
        }),
        ("a file more", |victim| std::fs::write(victim.join("folder/new"), "").unwrap()),
        ("a file less", |victim| std::fs::remove_file(victim.join("hard-2")).unwrap()),
        ("a further name elsewhere", |victim| {
            std::fs::hard_link(victim.join("passwd"), victim.with_file_name("passwd")).unwrap();
        }),
        ("another time", |victim| {
            let file = std::fs::File::open(victim.join("file")).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }),
    ];
    for (way, touch) in ways {
        arena.reset(&[]);
        let before = Manifest::of(&victim);
        assert_eq!(touched(&before, &victim), None);
        touch(&victim);
        assert!(touched(&before, &victim).is_some(), "{way}");
    }
}
