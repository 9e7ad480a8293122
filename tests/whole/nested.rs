//! Sources, targets and repositories that lie in one another.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::symlink;

use crate::support::needs::needs;
use crate::support::vault::Vault;
use crate::whole::world::{World, same, settle};

#[test]
fn a_repository_in_its_source_is_left_out_and_that_is_said() {
    let vault = Vault::new();
    let (source, repository) = (vault.join("source"), vault.join("source/deep/repository"));
    let world = World::at(vault, source, repository);
    world.write_random("a", 1, 10_000);
    world.write_random("deep/b", 2, 10_000);
    // Another way to the same repository is a symlink, which is saved as such.
    symlink("deep/repository", world.source.join("link")).unwrap();
    for _ in 0..2 {
        let output = world.vault.run(&[OsStr::new("snapshot"), world.source.as_os_str()]).ok();
        output.says("deep/repository").says("left out");
    }
    let restored = world.restore("latest", &[]);
    let target = restored.target();
    assert!(!target.join("deep/repository").exists());
    assert_eq!(fs::read(target.join("deep/b")).unwrap(), fs::read(world.source.join("deep/b")).unwrap());
    assert!(target.join("link").is_symlink());
    // To where it came from would be around the repository: refused.
    let before = world.files("");
    let args = ["restore", "latest", "--in-place", "--yes", "--delete"];
    world.vault.run(&args).code(1).says("repository");
    assert_eq!(world.files(""), before);
    world.is_sound();
}

#[test]
fn a_home_that_holds_the_repository_and_the_caches_is_saved_without_trouble() {
    needs!("rsync");
    let vault = Vault::new();
    let (source, repository) = (vault.path().to_owned(), vault.join("data/vault/default"));
    fs::create_dir_all(vault.join("data/vault")).unwrap();
    let world = World::at(vault, source, repository);
    // Where the harness keeps what the program prints.
    let arguments = ["--exclude", "runs"];
    world.write_random("home/a", 1, 3_000_000);
    for round in 0..3 {
        world.write_random(&format!("home/{round}"), 5 + round, 300_000);
        let summary = world.snapshot(&arguments);
        assert_eq!((summary.count("error_count"), summary.count("files_changed_while_read")), (0, 0));
    }
    settle();
    world.snapshot(&arguments);
    assert_eq!(world.snapshot(&arguments).read(), 0);
    settle();
    let skipped = world
        .vault
        .run(&[
            OsStr::new("snapshot"),
            world.source.as_os_str(),
            "--exclude".as_ref(),
            "runs".as_ref(),
            "--skip-if-unchanged".as_ref(),
        ])
        .ok();
    skipped.says("nothing differs");
    let target = tempfile::tempdir().unwrap();
    let into = target.path().join("target");
    let args = [OsString::from("restore"), world.selector("latest"), "--target".into(), into.clone().into()];
    world.vault.run(&args).ok();
    same(&world.source.join("home"), &into.join("home"));
    assert!(!into.join("data/vault/default").exists());
}

#[test]
fn a_target_and_a_repository_in_one_another_are_refused() {
    let world = World::new();
    world.write_random("a", 1, 10_000);
    world.snapshot(&[]);
    symlink(&world.repository, world.vault.join("way in")).unwrap();
    let before = world.files("");
    for target in ["repository", "repository/packs", "repository/new", "way in/new", ".", "../.."] {
        let target = world.vault.join(target);
        let args = [OsStr::new("restore"), OsStr::new("latest"), OsStr::new("--target"), target.as_os_str()];
        let output = world.vault.run(&args);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{}: {}", target.display(), output.stderr);
        assert!(output.stderr.contains("repository"), "{}", output.stderr);
    }
    for source in ["repository", "repository/packs", "way in", "way in/packs"] {
        let source = world.vault.join(source);
        let output = world.vault.run(&[OsStr::new("snapshot"), source.as_os_str()]);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{}: {}", source.display(), output.stderr);
        assert!(output.stderr.contains("repository"), "{}", output.stderr);
    }
    assert_eq!(world.files(""), before, "something was written");
    world.is_sound();
}
