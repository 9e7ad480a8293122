//! `vault parity`, and what other verbs do with its files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::Signal;
use serde_json::Value;
use vault::backend::LocalFolder;
use vault::event::Silent;
use vault::id::PackId;
use vault::parity::{self, AddOptions};
use vault::repository::Repository;
use vault::sidecar::Mending;

use super::medium::Medium;
use crate::support::mount::{FileSystem, Mount};
use crate::support::needs::needs;
use crate::support::torture::Random;
use crate::support::vault::{Output, Running, Vault};

/// A repository with packs of several sizes. No run but `snapshot` is told the passphrase.
struct World {
    vault: Vault,
    repo: PathBuf,
}

impl World {
    fn new() -> Self {
        let vault = Vault::new();
        let repo = vault.join("repo");
        Self::at(vault, repo)
    }

    fn at(mut vault: Vault, repo: PathBuf) -> Self {
        vault.env("VAULT_REPOSITORY", &repo);
        fs::create_dir(vault.join("src")).unwrap();
        let world = Self { vault, repo };
        world.run(&["init", "-q"]).ok();
        for (seed, len) in [(1, 700), (2, 300_000), (3, 3_000_000)] {
            world.save(seed, len);
        }
        world
    }

    /// Takes a snapshot with a new pack of about so many bytes.
    fn save(&self, seed: u64, len: usize) {
        fs::write(self.vault.join("src/file"), Random(seed).bytes(len)).unwrap();
        self.run(&["snapshot", self.vault.join("src").to_str().unwrap(), "-q"]).ok();
    }

    fn run(&self, args: &[&str]) -> Output {
        self.vault.run(args)
    }

    /// Runs without a key, and returns the summary.
    #[track_caller]
    fn parity(&self, args: &[&str], code: i32) -> Value {
        let mut command = self.vault.command(&[&["parity", "--json"], args].concat());
        command.env_remove("VAULT_PASSPHRASE");
        let output = self.vault.start(command).wait().code(code);
        let lines = output.text().lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.rev().find(|line| line["message_type"] == "summary").unwrap_or(Value::Null)
    }

    /// Packs by length, and files of parity.
    fn packs(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let (parity, mut packs): (Vec<PathBuf>, Vec<PathBuf>) =
            files(&self.repo.join("packs")).into_iter().partition(|file| file.extension().is_some());
        packs.sort_by_key(|pack| fs::metadata(pack).unwrap().len());
        (packs, parity)
    }

    /// The longest pack, without a key.
    fn longest(&self) -> PathBuf {
        self.packs().0.pop().unwrap()
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().map(Result::unwrap);
    walk.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

/// Changes bytes in the middle of a file.
fn damage(file: &Path, len: usize) {
    let mut bytes = fs::read(file).unwrap();
    let begin = bytes.len() / 2;
    bytes[begin..begin + len].iter_mut().for_each(|byte| *byte ^= 0x55);
    fs::write(file, bytes).unwrap();
}

fn parity_of(pack: &Path) -> PathBuf {
    pack.with_extension("par")
}

#[test]
fn packs_that_rot_are_mended_without_a_key_and_without_another_copy() {
    let world = World::new();
    let (packs, none) = world.packs();
    assert!(packs.len() >= 5 && none.is_empty());
    let added = world.parity(&["add"], 0);
    assert_eq!((&added["packs_added"], &added["packs_present"]), (&packs.len().into(), &0.into()));
    assert_eq!(world.packs().1.len(), packs.len());
    world.run(&["check", "--read-data"]).ok().says("no damage found");
    let before: Vec<Vec<u8>> = packs.iter().map(|pack| fs::read(pack).unwrap()).collect();
    damage(&packs[packs.len() - 1], 65_536);
    damage(&packs[packs.len() - 2], 1);
    let short = &packs[packs.len() - 3];
    fs::remove_file(short).unwrap();
    world.run(&["check", "--read-data"]).code(13);
    let found = world.parity(&["repair", "--dry-run"], 13);
    assert_eq!(found["packs_mended"], 3);
    world.run(&["check", "--read-data"]).code(13);
    let mended = world.parity(&["repair"], 0);
    assert_eq!((&mended["packs_mended"], &mended["packs_whole"]), (&3.into(), &(packs.len() - 3).into()));
    for (pack, before) in packs.iter().zip(&before) {
        assert!(fs::read(pack).unwrap() == *before);
    }
    world.run(&["check", "--read-data"]).ok();
    assert!(files(&world.repo.join("tmp")).is_empty());
    assert_eq!(world.parity(&["repair"], 0)["packs_mended"], 0);
}

#[test]
fn what_is_beyond_repair_is_said_and_left_as_it_is() {
    let world = World::new();
    world.parity(&["add", "--percent", "5"], 0);
    let pack = world.longest();
    damage(&pack, 1_000_000);
    let damaged = fs::read(&pack).unwrap();
    let found = world.parity(&["repair"], 13);
    assert_eq!((&found["packs_not_mended"], &found["packs_mended"]), (&1.into(), &0.into()));
    let told = world.run(&["parity", "repair"]).code(13).says("more of it than its parity makes up for");
    assert!(told.stderr.contains("1 pack not, and left as they are"), "{}", told.stderr);
    assert!(fs::read(&pack).unwrap() == damaged);
    fs::remove_file(&pack).unwrap();
    world.parity(&["repair"], 13);
    assert!(!pack.exists());
    // No parity, nothing to read.
    world.parity(&["drop"], 0);
    assert!(world.parity(&["repair"], 0)["packs_without_parity"].as_u64().unwrap() >= 4);
}

#[test]
fn adding_goes_on_where_it_stopped_and_makes_more_where_more_is_asked_for() {
    let world = World::new();
    let all = world.packs().0.len();
    let dry = world.parity(&["add", "-n"], 0);
    assert!(dry["packs_added"] == all && world.packs().1.is_empty());
    let added = world.parity(&["add"], 0);
    assert_eq!(dry["bytes_added"], added["bytes_added"]);
    let bytes: u64 = world.packs().1.iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert_eq!(added["bytes_added"], bytes);
    assert_eq!(world.parity(&["add"], 0)["packs_added"], 0);
    assert_eq!(world.parity(&["add", "--percent", "2"], 0)["packs_present"], all);
    let more = world.parity(&["add", "--percent", "50"], 0);
    assert!(
        more["packs_added"].as_u64().unwrap() >= 2 && more["bytes_added"].as_u64().unwrap() > 1_500_000,
        "{more}"
    );
    assert_eq!(world.parity(&["add"], 0)["packs_added"], 0, "it has more than that");
    world.save(9, 200_000);
    world.run(&["check"]).ok().says("2 packs have no parity, as others do: `vault parity add` makes it");
    let checked = world.parity(&["check"], 0);
    assert_eq!((&checked["packs_with_parity"], &checked["packs_without_parity"]), (&all.into(), &2.into()));
    assert_eq!(world.parity(&["add"], 0)["packs_added"], 2);
    for percent in ["0", "101", "x"] {
        world.run(&["parity", "add", "--percent", percent]).code(2);
    }
}

#[test]
fn one_pack_can_be_named_by_the_beginning_of_its_id() {
    let world = World::new();
    let pack = world.longest();
    let id = pack.file_name().unwrap().to_str().unwrap();
    assert_eq!(world.parity(&["add", &id[..12]], 0)["packs_added"], 1);
    assert_eq!(world.packs().1, [parity_of(&pack)]);
    assert_eq!(world.parity(&["add", &format!("packs/{}/{id}", &id[..2])], 0)["packs_added"], 1);
    world.run(&["parity", "add", "xyz"]).code(1).says("there is no pack xyz");
    world.run(&["parity", "drop", &world.packs().0[0].file_name().unwrap().to_str().unwrap()[..12]]).code(1);
    assert_eq!(world.parity(&["drop", "-n", &id[..12]], 0)["files_removed"], 1);
    assert_eq!(world.packs().1.len(), 1);
    assert_eq!(world.parity(&["drop", &id[..12]], 0)["files_removed"], 1);
    assert!(world.packs().1.is_empty());
}

#[test]
fn par_6_a_damaged_pack_gets_no_parity_and_is_said() {
    let world = World::new();
    let pack = world.longest();
    damage(&pack, 1);
    let added = world.parity(&["add"], 13);
    assert_eq!(added["packs_damaged"], 1);
    assert!(!parity_of(&pack).exists() && world.packs().1.len() == world.packs().0.len() - 1);
    let name = pack.file_name().unwrap().to_str().unwrap();
    world.run(&["parity", "add"]).code(13).says(name).says("none of 1 damaged pack");
}

#[test]
fn par_3_par_4_damaged_parity_is_found_by_each_check_and_made_anew() {
    let world = World::new();
    world.parity(&["add"], 0);
    let file = parity_of(&world.longest());
    let whole = fs::read(&file).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    for at in [10, 250, 400, whole.len() / 2, whole.len() - 200, whole.len() - 50] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&file, bytes).unwrap();
        for args in [&["check", "--read-data"][..], &["check", "--without-key"], &["parity", "check"]] {
            let found = world.run(args).code(13);
            assert!(found.text().contains(name) || found.stderr.contains(name), "{at} {args:?}");
        }
        world.run(&["check"]).ok();
        assert_eq!(world.parity(&["add", "--verify"], 0)["packs_added"], 1);
        assert!(fs::read(&file).unwrap() == whole);
    }
    fs::write(&file, "").unwrap();
    world.parity(&["check"], 13);
    assert_eq!(world.parity(&["add"], 0)["packs_added"], 1);
    world.parity(&["check"], 0);
}

#[test]
fn par_6_pruned_packs_take_their_parity_with_them() {
    let world = World::new();
    world.parity(&["add"], 0);
    let before = world.packs().1.len();
    world.run(&["forget", "--keep-last", "1", "--group-by", ""]).ok();
    world.run(&["prune", "--force", "--max-unused", "0%"]).ok();
    let (packs, parity) = world.packs();
    assert!(parity.len() < before);
    assert!(parity.iter().all(|file| packs.contains(&file.with_extension(""))), "{parity:?}");
    world.run(&["check", "--read-data"]).ok();
}

#[test]
fn a_mirror_takes_no_parity_over_and_can_have_its_own() {
    let world = World::new();
    world.parity(&["add"], 0);
    let copy = world.vault.join("copy");
    let place = copy.to_str().unwrap();
    world.run(&["mirror", "--new", place]).ok();
    assert!(files(&copy.join("packs")).iter().all(|file| file.extension().is_none()));
    assert!(world.parity(&["-r", place, "add", "--percent", "20"], 0)["packs_added"].as_u64().unwrap() >= 5);
    world.parity(&["drop"], 0);
    world.save(10, 200_000);
    let told = world.run(&["mirror", place, "--verify"]).ok();
    assert!(!told.stderr.contains(".par"), "{}", told.stderr);
    assert!(files(&copy.join("packs")).iter().filter(|file| file.extension().is_some()).count() >= 5);
    let told = world.run(&["-r", place, "check", "--read-data"]).ok().says("2 packs have no parity");
    assert!(!told.stderr.contains("is no file of a repository"), "{}", told.stderr);
}

#[test]
fn an_interrupted_run_leaves_nothing_half_and_goes_on() {
    let world = World::new();
    let args = ["parity", "add", "--limit-read", "1M", "-v", "--threads", "1"];
    let mut running: Running = world.vault.spawn(&args);
    let has_some = |_: &Running| !world.packs().1.is_empty();
    running.wait_until("one pack has parity", has_some);
    running.signal(Signal::INT);
    running.wait().code(130).says("goes on where it stopped");
    assert!(files(&world.repo.join("tmp")).is_empty());
    world.parity(&["check"], 0);
    let added = world.parity(&["add"], 0);
    assert!(
        added["packs_present"].as_u64().unwrap() >= 1 && added["packs_added"].as_u64().unwrap() >= 1,
        "{added}"
    );
    // A kill leaves a temporary file, and the next run removes it.
    world.parity(&["drop"], 0);
    let mut running: Running =
        world.vault.spawn(&["parity", "add", "--limit-write", "100K", "--threads", "1"]);
    running.wait_until("it writes", |_| !files(&world.repo.join("tmp")).is_empty());
    running.signal(Signal::KILL);
    running.wait();
    world.parity(&["add"], 0);
    assert!(files(&world.repo.join("tmp")).is_empty());
}

#[test]
fn a_full_and_a_read_only_medium_are_said_and_nothing_is_half() {
    needs!("tmpfs");
    let mount = Mount::new(FileSystem::Tmpfs, 16);
    let world = World::at(Vault::new(), mount.join("repo"));
    let ballast = mount.join("ballast");
    let len = usize::try_from(mount.free_bytes()).unwrap() - 100_000;
    fs::write(&ballast, vec![1; len]).unwrap();
    world.run(&["parity", "add", "--percent", "50"]).code(14).says("make room");
    assert!(files(&world.repo.join("tmp")).is_empty());
    world.run(&["parity", "check"]).ok();
    fs::remove_file(&ballast).unwrap();
    world.run(&["parity", "add", "--percent", "50"]).ok();
    damage(&world.longest(), 100_000);
    let damaged = fs::read(world.longest()).unwrap();
    let len = usize::try_from(mount.free_bytes()).unwrap() - 1_000_000;
    fs::write(&ballast, vec![1; len]).unwrap();
    world.run(&["parity", "repair"]).code(14);
    assert!(fs::read(world.longest()).unwrap() == damaged && files(&world.repo.join("tmp")).is_empty());
    fs::remove_file(&ballast).unwrap();
    let remount = |how: &str| {
        let place = mount.join("");
        let done =
            std::process::Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(place).status();
        assert!(done.unwrap().success());
    };
    remount("ro");
    world.run(&["parity", "check"]).ok();
    world.run(&["parity", "repair", "-n"]).code(13).says("can mend 1 pack");
    for args in [&["parity", "repair"][..], &["parity", "drop"], &["parity", "add", "--percent", "90"]] {
        let told = world.run(args).code(1);
        assert!(told.stderr.to_lowercase().contains("read-only"), "{}", told.stderr);
    }
    remount("rw");
    world.run(&["parity", "repair"]).ok();
    world.run(&["check", "--read-data"]).ok();
}

#[test]
fn one_pack_is_mended_by_the_library() {
    let world = World::new();
    let pack = world.longest();
    let id = PackId::from_hex(pack.file_name().unwrap().to_str().unwrap()).unwrap();
    let repository = Repository::open(Arc::new(LocalFolder::new(&world.repo))).unwrap();
    let stop = AtomicBool::new(false);
    assert_eq!(parity::repair_pack(&repository, &id, &stop).unwrap(), None);
    world.parity(&["add"], 0);
    assert_eq!(parity::repair_pack(&repository, &id, &stop).unwrap(), Some(Mending::Whole));
    damage(&pack, 10);
    let mended = parity::repair_pack(&repository, &id, &stop).unwrap();
    assert!(matches!(mended, Some(Mending::Mended { shards: 1..=2, .. })), "{mended:?}");
    world.run(&["check", "--read-data"]).ok();
}

#[test]
fn par_6_parity_of_a_pack_that_is_pruned_meanwhile_does_not_stay() {
    let world = World::new();
    let pack = world.longest();
    let id = PackId::from_hex(pack.file_name().unwrap().to_str().unwrap()).unwrap();
    let mut medium = Medium::new(&world.repo);
    medium.deleted = Some(pack.clone());
    let repository = Repository::open(Arc::new(medium)).unwrap();
    let options = AddOptions { percent: 5, packs: vec![id], ..AddOptions::default() };
    let added = parity::add(&repository, &options, &Silent, &AtomicBool::new(false)).unwrap();
    assert!(added.added == 0 && !pack.exists() && !parity_of(&pack).exists(), "{added:?}");
}
