//! A repository of a hundred million chunks: every verb within its memory. A smaller one always.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use serde_json::Value;
use vault::backend::LocalFolder;

use crate::support::crowd::{crowd, need_half};
use crate::support::manifest::Manifest;
use crate::support::needs::needs;
use crate::support::repository;
use crate::whole::scale::{MOST_KIB, measured, measured_within, nightly};
use crate::whole::world::World;

#[test]
fn an_index_of_a_hundred_million_chunks_stays_within_bounds() {
    needs!("python3");
    let world = World::new();
    for number in 0..2000 {
        world.write_random(&format!("{}/{number}", number % 7), number, 3000);
    }
    world.write_random("long", 1, 40 << 20);
    world.snapshot(&[]);
    let segments = if nightly() { 80 } else { 1 };
    let chunks = crowd(&world.repository, segments);
    println!("{chunks} chunks");
    assert!(!nightly() || chunks >= 100_000_000);

    let words = |words: &[&str]| -> Vec<OsString> { words.iter().map(OsString::from).collect() };
    measured(&world, "snapshot, unchanged, the index new", &world.snapshot_args(&[]));
    let cache = world.caches().into_iter().find(|path| path.ends_with("chunks.redb")).unwrap();
    let for_each = cache.metadata().unwrap().blocks() * 512 / chunks;
    println!("the cache takes {for_each} bytes a chunk");
    assert!(for_each < 120);
    world.write_random("0/new", 3, 3 << 20);
    measured(&world, "snapshot, changed", &world.snapshot_args(&[]));
    world.write_random("0/new", 4, 3 << 20);
    measured(&world, "snapshot, without caches", &world.snapshot_args(&["--no-cache"]));
    measured(&world, "check", &words(&["check"]));
    measured(&world, "ls", &words(&["ls", "-R", "-q"]));
    measured(&world, "diff", &words(&["diff", "previous", "latest"]));
    measured(&world, "stats", &words(&["stats"]));
    let target = world.vault.join("target");
    let restore =
        [OsString::from("restore"), world.selector("latest"), "--target".into(), target.clone().into()];
    measured(&world, "restore", &restore);
    let differences = Manifest::of(&world.source).diff(&Manifest::of(&target));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    fs::remove_dir_all(&target).unwrap();

    // Half of it is needed, and half is not.
    let needed = need_half(&world.repository, cache.parent().unwrap(), segments);
    measured(&world, "check, half of the chunks needed", &words(&["check"]));
    if !nightly() {
        index_is_read_once(&world);
    }
    // A segment is written anew in hardly more room than its rows take: of a hundred million chunks the rest is for the tables.
    let most = if nightly() { MOST_KIB } else { 128 << 10 };
    measured_within(&world, "prune, half of the chunks needed", &words(&["prune", "--force"]), most);
    let listed =
        repository::open(Arc::new(LocalFolder::new(&world.repository))).unwrap().listed_packs().unwrap();
    let left = listed.values().filter(|len| **len == 64 << 20).count() as u64;
    assert_eq!(left, needed / 256);
    measured(&world, "check, after the prune", &words(&["check"]));
    world.write_random("0/new", 5, 3 << 20);
    measured(&world, "snapshot, after the prune", &world.snapshot_args(&[]));
}

/// References that memory has no room for are sorted on disk, and looked for in one pass; or part by part, if there is no room there.
fn index_is_read_once(world: &World) {
    needs!("strace");
    let check = |temporary: &str, memory: &str| {
        let log = world.vault.join("reads");
        let temporary = format!("TMPDIR={temporary}");
        let log_to = log.to_str().unwrap();
        let wrapper = ["env", &temporary, "strace", "-f", "-y", "-o", log_to, "-e", "trace=pread64"];
        let words = ["check", "--json", "--no-cache", "--memory", memory].map(OsString::from);
        let output = world.vault.start(world.vault.command_under(&wrapper, &words)).wait();
        let output = output.ok();
        let report: Value = serde_json::from_str(output.text().lines().last().unwrap()).unwrap();
        let reads = fs::read_to_string(&log).unwrap().lines().filter(|line| line.contains("/index/")).count();
        (report["chunks"].as_u64().unwrap(), reads)
    };
    let here = world.vault.join("");
    let (in_memory, once) = (check(here.to_str().unwrap(), "256M"), check(here.to_str().unwrap(), "96M"));
    let parts = check("/proc/none", "96M");
    println!("check reads {} times of the index, {} without room for references", once.1, parts.1);
    // Part by part, a chunk that is needed in several may count in each.
    assert!(once.0 == in_memory.0 && once.0 <= parts.0, "{} of {} chunks, {}", once.0, in_memory.0, parts.0);
    // The structure is read besides.
    assert!(once.1 * 5 < parts.1 * 4, "{} and {}", once.1, parts.1);
}
