//! `vault restore`: where to, what of it, and over what.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use super::{World, flip, summary};
use crate::support::manifest::{Aspect, Manifest};
use crate::support::needs::needs;

/// The one folder in the folder where the program runs.
fn only_folder(world: &World) -> PathBuf {
    let mut found = fs::read_dir(world.vault.join("cwd")).unwrap().map(|entry| entry.unwrap().path());
    let folder = found.next().unwrap();
    assert!(found.next().is_none());
    folder
}

fn same(a: &Path, b: &Path) {
    assert_eq!(Manifest::of(a).diff(&Manifest::of(b)), Vec::<String>::new());
}

#[test]
fn without_a_target_it_makes_a_folder_named_after_the_snapshot_and_says_where() {
    let world = World::new();
    let id = world.save(&["--time", "2026-01-02 03:04"]);
    let output = world.run(&["restore", "latest"]).ok();
    let folder = only_folder(&world);
    let name = folder.file_name().unwrap().to_str().unwrap();
    assert_eq!(name, format!("2026-01-02T0304-{}", &id[..8]));
    assert!(output.stderr.contains(name));
    same(&world.src(), &folder.join(world.path("src").trim_start_matches('/')));
    // Again, and nothing that is there is touched.
    let before = Manifest::of(&folder);
    world.run(&["restore", &world.latest("src/dir")]).ok().says(&format!("{name}-2"));
    assert_eq!(before.diff(&Manifest::of(&folder)), Vec::<String>::new());
    same(&world.src().join("dir"), &world.vault.join(format!("cwd/{name}-2")));
}

#[test]
fn a_part_goes_into_the_target_that_is_named() {
    let world = World::saved();
    world.run(&["restore", &world.latest("src"), "--target", "all"]).ok();
    same(&world.src(), &world.vault.join("cwd/all"));
    world.run(&["restore", &world.latest("src/dir/b.bin"), "-t", "one/deep"]).ok();
    assert_eq!(fs::read_dir(world.vault.join("cwd/one/deep")).unwrap().count(), 1);
    assert!(fs::read(world.vault.join("cwd/one/deep/b.bin")).unwrap().len() == 200_000);
    world.run(&["restore", &world.latest("src/none"), "--target", "none"]).code(1).says("there is no /");
    assert!(!world.vault.join("cwd/none").exists(), "made for nothing");
    let inside = world.path("repo/inside");
    world.run(&["restore", "latest", "--target", &inside]).code(1).says("lies inside of");
    assert!(!Path::new(&inside).exists());
}

#[test]
fn in_place_shows_and_asks_and_without_a_terminal_wants_yes() {
    let world = World::saved();
    let before = Manifest::of(&world.src());
    fs::write(world.src().join("a.txt"), "spoiled\n").unwrap();
    fs::remove_file(world.src().join("dir/b.bin")).unwrap();
    let asked = world.run(&["restore", "latest", "--in-place"]).code(2).says("--yes");
    assert!(asked.stderr.contains("modified  a.txt") && asked.stderr.contains("new       dir/b.bin"));
    assert_eq!(fs::read(world.src().join("a.txt")).unwrap(), b"spoiled\n");
    world.run(&["restore", "latest", "--in-place", "--yes"]).ok();
    assert_eq!(before.diff(&Manifest::of(&world.src())), Vec::<String>::new());
    // Nothing to do, nothing to ask.
    world.run(&["restore", "latest", "--in-place"]).ok().says("0 files");
}

#[test]
fn in_place_warns_of_another_host_and_refuses_what_came_from_no_folder() {
    let world = World::new();
    world.save(&["--host", "elsewhere"]);
    world.run(&["restore", "latest", "--in-place", "--yes"]).ok().says("was taken on the host elsewhere");
    world.vault.run_with_stdin(&["snapshot", "--stdin"], b"x").ok();
    world.run(&["restore", "latest", "--in-place", "--yes"]).code(2).says("--target");
}

#[test]
fn a_dry_run_shows_and_changes_nothing() {
    let world = World::saved();
    world.run(&["restore", "latest", "--target", "t", "--dry-run"]).ok().says("would restore").says("a.txt");
    assert!(!world.vault.join("cwd/t").exists());
    let before = Manifest::of(&world.src());
    fs::write(world.src().join("extra"), "x").unwrap();
    let planned = world.run(&["restore", "latest", "--in-place", "--delete", "-n"]).ok();
    assert!(planned.stderr.contains("deleted   extra"));
    world.run(&["restore", "latest", "--in-place", "--delete", "--yes"]).ok();
    assert_eq!(before.diff(&Manifest::of(&world.src())), Vec::<String>::new());
}

#[test]
fn overwrite_decides_over_existing_files() {
    let world = World::saved();
    let (saved, text) = (world.latest("src"), world.vault.join("cwd/t/a.txt"));
    let time = fs::metadata(world.src().join("a.txt")).unwrap().modified().unwrap();
    let after = |when: &str, content: &str, time: std::time::SystemTime| {
        world.run(&["restore", &saved, "--target", "t", "-q"]).ok();
        fs::write(&text, content).unwrap();
        fs::File::options().write(true).open(&text).unwrap().set_modified(time).unwrap();
        world.run(&["restore", &saved, "--target", "t", "--overwrite", when]).ok();
        fs::read_to_string(&text).unwrap()
    };
    let hour = std::time::Duration::from_secs(3600);
    assert_eq!(after("never", "mine", time - hour), "mine");
    assert_eq!(after("if-newer", "mine", time + hour), "mine");
    assert_eq!(after("if-newer", "mine", time - hour), "alpha\n");
    assert_eq!(after("if-changed", "mine", time + hour), "alpha\n");
    assert_eq!(after("always", "ALPHA\n", time), "alpha\n", "same size and time");
    world.run(&["restore", &saved, "--overwrite", "sometimes"]).code(2);
}

#[test]
fn patterns_choose_what_comes_back() {
    let world = World::new();
    fs::write(world.src().join("UPPER.TXT"), "upper").unwrap();
    world.save(&[]);
    for (number, (args, expected)) in [
        (&["-i", "*.txt"][..], &["a.txt", "dir/sub/c.txt"][..]),
        (&["--include", "dir/sub"], &["dir/sub/c.txt"]),
        (&["--iinclude", "*.txt"], &["UPPER.TXT", "a.txt", "dir/sub/c.txt"]),
        (&["-e", "*.txt"], &["UPPER.TXT", "dir/b.bin"]),
        (&["--iexclude", "*.txt"], &["dir/b.bin"]),
        (&["-i", "*.txt", "-e", "sub"], &["a.txt"]),
    ]
    .into_iter()
    .enumerate()
    {
        let target = format!("t{number}");
        world.run(&[&["restore", &world.latest("src"), "--target", &target], args].concat()).ok();
        let target = world.vault.join("cwd").join(target);
        let found: Vec<String> = super::files(&target)
            .iter()
            .map(|file| file.strip_prefix(&target).unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(found, expected, "{args:?}");
    }
}

#[test]
fn owners_come_back_by_name_by_number_or_not_at_all() {
    needs!("root");
    let world = World::new();
    chown(world.src().join("a.txt"), Some(12345), Some(12345)).unwrap();
    world.save(&[]);
    for (owner, uid) in [("name", 12345), ("number", 12345), ("none", 0)] {
        world.run(&["restore", &world.latest("src"), "--target", owner, "--owner", owner]).ok();
        assert_eq!(
            fs::metadata(world.vault.join("cwd").join(owner).join("a.txt")).unwrap().uid(),
            uid,
            "{owner}"
        );
    }
}

#[test]
fn sparse_makes_holes_of_zeros_and_verify_reads_back() {
    let world = World::new();
    fs::write(world.src().join("zeros"), vec![0; 8 << 20]).unwrap();
    world.save(&[]);
    let blocks = |target: &str, args: &[&str]| {
        world.run(&[&["restore", &world.latest("src"), "--target", target], args].concat()).ok();
        let restored = Manifest::of(&world.vault.join("cwd").join(target));
        assert_eq!(Manifest::of(&world.src()).diff_except(&restored, &[Aspect::Holes]), Vec::<String>::new());
        fs::metadata(world.vault.join("cwd").join(target).join("zeros")).unwrap().blocks()
    };
    let (plain, sparse) = (blocks("plain", &["--verify"]), blocks("sparse", &["--sparse", "--verify"]));
    assert!(plain >= 16384 && sparse < 1000, "{plain} {sparse}");
}

#[test]
fn damage_costs_what_it_hits_and_keep_damaged_keeps_the_rest() {
    let world = World::new();
    let src = world.path("src");
    fs::remove_dir_all(world.src().join("dir")).unwrap();
    fs::write(world.src().join("large"), super::Random(9).bytes(8 << 20)).unwrap();
    world.run(&["snapshot", &src, "-q"]).ok();
    let packs = super::files(&world.repo().join("packs"));
    flip(packs.iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap());
    let output =
        world.run(&["restore", &world.latest("src"), "--target", "t"]).code(13).says("could not be restored");
    assert!(output.stderr.contains("large") && output.stderr.contains("is damaged"));
    let target = world.vault.join("cwd/t");
    assert!(!target.join("large").exists() && target.join("a.txt").exists());
    world.run(&["restore", &world.latest("src"), "--target", "k", "--keep-damaged"]).code(13);
    assert!(fs::metadata(world.vault.join("cwd/k/large.damaged")).unwrap().len() > 0);
    let found = world.run(&["restore", &world.latest("src"), "--target", "j", "--json"]).code(13);
    assert_eq!(summary(&found)["damaged"], 1);
}
