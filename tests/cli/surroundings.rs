//! `vault` where the machine or the medium is not an ordinary one: in a namespace of its own, on a file system that lacks something.

use std::fs;

use vault::session::Session;

use super::World;
use crate::support::needs::needs;

#[test]
fn dur_1_the_files_of_a_process_in_another_namespace_are_left_alone() {
    needs!("root", "unshare");
    let world = World::new();
    // This process lives, and over there nobody can know it.
    let file = world.repo().join(Session::begin().temporary());
    fs::write(&file, "being written").unwrap();
    let apart = ["unshare", "--pid", "--fork", "--mount-proc"];
    let command = world.vault.command_under(&apart, &["snapshot", &world.path("src")]);
    world.vault.start(command).wait().ok();
    assert!(file.exists(), "the file of a living session was removed");
}

#[test]
fn dur_5_init_and_snapshot_say_that_the_medium_cannot_sync_a_folder() {
    needs!("strace");
    let world = World::new();
    let (other, src, said) = (world.path("other"), world.path("src"), "cannot make single folders durable");
    let refusing = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=fsync:error=EINVAL"];
    for args in [&["-r", &other, "init"][..], &["-r", &other, "snapshot", &src]] {
        let command = world.vault.command_under(&refusing, args);
        let output = world.vault.start(command).wait().ok().says(said);
        assert_eq!(output.stderr.matches(said).count(), 1, "{}", output.stderr);
    }
    assert!(!world.run(&["snapshot", &src]).ok().stderr.contains(said));
}
