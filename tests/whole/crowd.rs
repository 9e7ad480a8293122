//! A repository of a hundred million chunks: every verb within its memory. A smaller one always.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::support::crowd::crowd;
use crate::support::manifest::Manifest;
use crate::support::needs::needs;
use crate::whole::scale::{measured, nightly};
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
    let chunks = crowd(&world.repository, if nightly() { 80 } else { 1 });
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
}
