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
