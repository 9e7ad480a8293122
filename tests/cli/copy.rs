//! `vault copy`: the same files in a repository with other keys and other cuts.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use vault::backend::LocalFolder;
use vault::chunk::ChunkerParams;
use vault::repository::{InitOptions, Kdf, NewKey, Repository};

use super::{World, files, json, summary};
use crate::support::manifest::{Aspect, Manifest};
use crate::support::torture::Random;
use crate::support::vault::Output;

/// Another repository than that of the world.
struct Other {
    folder: PathBuf,
    passphrase: Option<&'static str>,
    to: Vec<String>,
}

impl Other {
    fn new(world: &World, name: &str, passphrase: Option<&'static str>, chunker: ChunkerParams) -> Self {
        let folder = world.vault.join(name);
        let kdf = Kdf { memory_kib: 8, passes: 1, lanes: 1 };
        let key = passphrase.map(|text| NewKey { kdf, ..NewKey::new(text.as_bytes()) });
        Repository::init(&LocalFolder::new(&folder), &InitOptions { chunker, key, ..InitOptions::default() })
            .unwrap();
        let mut to = vec!["--to".to_owned(), world.path(name)];
        if let Some(text) = passphrase {
            let file = world.vault.join(format!("{name}.passphrase"));
            fs::write(&file, text).unwrap();
            to.extend(["--to-passphrase-file".to_owned(), file.to_str().unwrap().to_owned()]);
        }
        Self { folder, passphrase, to }
    }

    /// A run over this repository.
    fn run(&self, world: &World, args: &[&str]) -> Output {
        let mut command = world.vault.command(args);
        command.env("VAULT_REPOSITORY", &self.folder);
        match self.passphrase {
            Some(text) => command.env("VAULT_PASSPHRASE", text),
            None => command.env_remove("VAULT_PASSPHRASE"),
        };
        world.vault.start(command).wait()
    }

    fn copy_args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let to = self.to.iter().map(String::as_str);
        ["copy"].into_iter().chain(to).chain(more.iter().copied()).collect()
    }

    fn listed(&self, world: &World) -> Vec<Value> {
        json(&self.run(world, &["snapshots", "--json"]).ok().stdout)
    }
}

/// Small chunks.
fn small() -> ChunkerParams {
    ChunkerParams { min_len: 4 << 10, avg_len: 16 << 10, max_len: 64 << 10, normalization: 1 }
}

/// Repositories of all sorts to copy to.
fn others(world: &World) -> Vec<Other> {
    vec![
        Other::new(world, "plain", None, ChunkerParams::default()),
        Other::new(world, "cuts", None, small()),
        Other::new(world, "keys", Some("of the other one"), small()),
    ]
}

fn fill(world: &World) {
    let src = world.src();
    fs::write(src.join("big"), Random(41).bytes(3_000_000)).unwrap();
    fs::write(src.join("middle"), Random(42).bytes(1_500)).unwrap();
    let sparse = fs::File::create(src.join("sparse")).unwrap();
    sparse.set_len(20 << 20).unwrap();
    sparse.write_all_at(&Random(43).bytes(200_000), 8 << 20).unwrap();
    // Of so many small chunks that they are a list of nodes.
    fs::write(src.join("long"), Random(44).bytes(40 << 20)).unwrap();
    let _ = rustix::fs::setxattr(
        src.join("middle"),
        "user.long",
        &Random(45).bytes(3_000),
        rustix::fs::XattrFlags::CREATE,
    );
}

#[test]
fn a_copy_is_what_a_snapshot_there_would_have_been() {
    let world = World::new();
    fill(&world);
    let rules = ["-e", "c.txt", "--tag", "t,u", "--label", "l", "--description", "words"];
    let first = world.save(&[&rules[..], &["--time", "2026-11-01"]].concat());
    fs::write(world.src().join("a.txt"), "changed").unwrap();
    let big = world.src().join("big");
    let bytes =
        [&fs::read(&big).unwrap()[..1_000_000], b"inserted", &fs::read(&big).unwrap()[1_000_000..]].concat();
    fs::write(&big, bytes).unwrap();
    let second = world.save(&[&rules[..], &["--time", "2026-11-02"]].concat());
    for other in others(&world) {
        world.run(&other.copy_args(&["-n"])).ok().says("would copy 2 snapshots");
        assert!(other.listed(&world).is_empty());
        let told = summary(&world.run(&other.copy_args(&["--json"])).ok());
        assert_eq!((told["copied"].as_u64(), told["damaged"].as_u64()), (Some(2), Some(0)));
        let listed = other.listed(&world);
        let (old, new) = (world.told(&second), &listed[1]);
        let told = |key: &str| (new[key].clone(), old[key].clone());
        for key in [
            "time",
            "end",
            "hostname",
            "username",
            "paths",
            "sources",
            "label",
            "tags",
            "description",
            "state",
        ] {
            let (new, old) = told(key);
            assert_eq!(new, old, "{key}");
        }
        assert_eq!(new["parent"], listed[0]["id"]);
        assert_eq!(new["summary"]["total_bytes_processed"], old["summary"]["total_bytes_processed"]);
        other.run(&world, &["check", "--read-data"]).ok().says("2 snapshots");
        // The files are as they are, and chunk for chunk what they are when they are saved there.
        let src = world.path("src");
        let args = [&["snapshot", "--json", src.as_str()], &rules[..]].concat();
        let fresh = summary(&other.run(&world, &args).ok())["snapshot_id"].as_str().unwrap().to_owned();
        let listed = other.listed(&world);
        let tree = |id: &str| listed.iter().find(|line| line["id"] == id).unwrap()["tree"].clone();
        assert_eq!(tree(&fresh), listed[1]["tree"]);
        let packs: Vec<_> = files(&other.folder.join("packs"));
        assert!(!packs.is_empty());
        let out = world.vault.join("out");
        let id = listed[1]["id"].as_str().unwrap();
        other.run(&world, &["restore", &format!("{id}:{src}"), "--target", out.to_str().unwrap()]).ok();
        let differences = Manifest::of(&world.src())
            .diff_except(&Manifest::of(&out), &[Aspect::Root, Aspect::Holes, Aspect::DirMtime]);
        assert_eq!(differences, ["dir/sub/c.txt: is missing"]);
        fs::remove_dir_all(&out).unwrap();
    }
    assert_eq!(world.ids(), [first, second]);
}

#[test]
fn what_was_copied_is_known_whatever_became_of_it() {
    let world = World::new();
    fs::hard_link(world.src().join("a.txt"), world.src().join("linked")).unwrap();
    let first = world.save(&["--time", "2026-11-01", "--tag", "one"]);
    let second = world.save(&["--time", "2026-11-02"]);
    let other = Other::new(&world, "other", Some("of the other one"), small());
    world.run(&other.copy_args(&["--tag", "one"])).ok().says("copied 1 snapshot");
    world.run(&other.copy_args(&[])).ok().says("copied 1 snapshot").says("1 snapshot there already");
    world
        .run(&other.copy_args(&[&first, "latest"]))
        .ok()
        .says("copied 0 snapshots")
        .says("2 snapshots there already");
    let listed = other.listed(&world);
    assert_eq!(listed.len(), 2);
    // Links are links.
    let out = world.vault.join("out");
    let src = world.path("src");
    other.run(&world, &["restore", &format!("latest:{src}"), "--target", out.to_str().unwrap()]).ok();
    let differences = Manifest::of(&world.src()).diff_except(&Manifest::of(&out), &[Aspect::Root]);
    assert_eq!(differences, [""; 0]);
    // Forgotten there, it is not brought back.
    other.run(&world, &["forget", listed[0]["id"].as_str().unwrap()]).ok();
    world.run(&other.copy_args(&[])).ok().says("1 snapshot forgotten there, and left so");
    assert_eq!(other.listed(&world).len(), 1);
    // Copied back it is what it was, and one that is copied on as well.
    let back = |other: &Other, world: &World| {
        let mut command = world.vault.command(&["copy", "--to", &world.path("repo")]);
        command.env("VAULT_REPOSITORY", &other.folder).env("VAULT_PASSPHRASE", other.passphrase.unwrap());
        if crate::support::repository::is_encrypted() {
            command.env("VAULT_TO_PASSPHRASE", crate::support::repository::PASSPHRASE);
        }
        world.vault.start(command).wait()
    };
    back(&other, &world).ok().says("copied 0 snapshots").says("1 snapshot there already");
    let third = Other::new(&world, "third", None, small());
    let mut command = world.vault.command(&third.copy_args(&[]));
    command.env("VAULT_REPOSITORY", &other.folder).env("VAULT_PASSPHRASE", other.passphrase.unwrap());
    world.vault.start(command).wait().ok().says("copied 1 snapshot");
    world.run(&third.copy_args(&[&second])).ok().says("1 snapshot there already");
    assert_eq!(world.ids(), [first, second]);
}

#[test]
fn a_damaged_snapshot_is_not_copied_and_the_others_are() {
    let world = World::new();
    fs::write(world.src().join("lost"), Random(51).bytes(1_000_000)).unwrap();
    world.save(&["--time", "2026-11-01"]);
    let packs = files(&world.repo().join("packs"));
    fs::remove_file(world.src().join("lost")).unwrap();
    fs::write(world.src().join("dir/b.bin"), Random(52).bytes(200_000)).unwrap();
    fs::write(world.src().join("dir/sub/c.txt"), "another").unwrap();
    let whole = world.save(&["--time", "2026-11-02"]);
    let longest = packs.iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    super::flip(longest);
    for other in others(&world) {
        let told = world.run(&other.copy_args(&[])).code(13);
        let told = told.says("copied 1 snapshot").says("1 snapshot damaged and not copied");
        assert!(told.stderr.contains(&world.path("src/lost")), "{}", told.stderr);
        assert_eq!(other.listed(&world).len(), 1);
        other.run(&world, &["check", "--read-data"]).ok();
        world.run(&other.copy_args(&[&whole])).ok().says("1 snapshot there already");
    }
}

#[test]
fn what_cannot_be_copied_to_is_refused() {
    let world = World::saved();
    world.run(&["copy"]).code(2);
    world.run(&["copy", "--to", &world.path("nowhere")]).code(10).says("copied to");
    let mirror = world.path("mirror");
    world.run(&["mirror", "--new", &mirror]).ok();
    let passphrase = world.vault.join("own.passphrase");
    fs::write(&passphrase, crate::support::repository::PASSPHRASE).unwrap();
    let mut to_mirror = vec!["copy", "--to", &mirror];
    if crate::support::repository::is_encrypted() {
        to_mirror.extend(["--to-passphrase-file", passphrase.to_str().unwrap()]);
    }
    world.run(&to_mirror).code(2).says("vault mirror");
    let other = Other::new(&world, "other", Some("of the other one"), small());
    let to = world.path("other");
    world.run(&["copy", "--to", &to]).code(12).says("--to-passphrase-file");
    world.run(&["copy", "--to", &to, "--to-passphrase-file", passphrase.to_str().unwrap()]).code(12);
    let plain = Other::new(&world, "plain", None, small());
    let to = world.path("plain");
    world.run(&["copy", "--to", &to, "--to-passphrase-file", passphrase.to_str().unwrap()]).code(1);
    assert!(plain.listed(&world).is_empty() && other.listed(&world).is_empty());
    world.run(&other.copy_args(&["latest:/x"])).code(2).says("without a path");
    world.run(&other.copy_args(&["--to-passphrase-command", "echo 'of the other one'"])).code(2);
    world
        .run(&["copy", "--to", &world.path("other"), "--to-passphrase-command", "echo of the other one"])
        .ok();
}

#[test]
fn an_interruption_keeps_what_was_copied() {
    let world = World::new();
    world.save(&["--time", "2026-11-01"]);
    fs::write(world.src().join("big"), Random(61).bytes(12_000_000)).unwrap();
    world.save(&["--time", "2026-11-02"]);
    let other = Other::new(&world, "other", Some("of the other one"), small());
    let mut running = world.vault.start(world.vault.command(&other.copy_args(&["--limit-read", "2M"])));
    let sessions = other.folder.join("sessions");
    running.wait_until("it writes", |_| fs::read_dir(&sessions).is_ok_and(|mut dir| dir.next().is_some()));
    std::thread::sleep(Duration::from_secs(2));
    running.signal(Signal::INT);
    running.wait().code(130).says("interrupted; copied 1 snapshot");
    assert_eq!(other.listed(&world).len(), 1);
    other.run(&world, &["check", "--read-data"]).ok();
    world.run(&other.copy_args(&[])).ok().says("copied 1 snapshot").says("1 snapshot there already");
    other.run(&world, &["check", "--read-data"]).ok().says("2 snapshots");
    assert!(fs::read_dir(&sessions).unwrap().next().is_none());
    let left: Vec<_> = fs::read_dir(other.folder.join("tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
