//! Chunks that are lost: `check` says which and what they cost, and the next snapshot reads them again where the source still has them.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::world::{World, files, flip_at, names};
use crate::support::manifest::Manifest;
use crate::support::repository::is_encrypted;

/// A repository with one snapshot taken by the program, with its caches and its local state.
fn saved_by_program() -> (World, String, Vec<PathBuf>) {
    let world = World::new();
    let src = world.src().to_str().unwrap().to_owned();
    world.run(&world.repo(), &["snapshot", &src]).ok();
    // Unchanged and older than the previous start: nothing is read any more.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    world.run(&world.repo(), &["snapshot", &src]).ok();
    let packs = names(&world.repo(), "packs/").into_iter().map(|name| world.repo().join(name)).collect();
    (world, src, packs)
}

fn largest(packs: &[PathBuf]) -> PathBuf {
    packs.iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap().clone()
}

fn restores(world: &World, src: &str, code: i32) {
    for selector in ["latest", "latest~1"] {
        let target = world.vault.join(format!("t-{selector}"));
        let _ = fs::remove_dir_all(&target);
        let selector = format!("{selector}:{src}");
        world.run(&world.repo(), &["restore", &selector, "--target", target.to_str().unwrap()]).code(code);
        assert_eq!(Manifest::of(&world.src()).diff(&Manifest::of(&target)), [""; 0]);
    }
}

#[test]
fn what_a_damaged_pack_held_is_stored_again_by_the_next_snapshot_once_it_is_recorded() {
    let (world, src, packs) = saved_by_program();
    let pack = largest(&packs);
    flip_at(&pack, fs::metadata(&pack).unwrap().len() / 2);
    let checked = world.run(&world.repo(), &["check", "--read-data"]).code(13);
    assert!(checked.text().contains("  loses "), "{}", checked.text());
    let checked = checked.says("vault heal --from").says("vault repair").says("--mark-damaged");
    drop(checked.says("vault snapshot"));
    world.run(&world.repo(), &["check", "--read-data", "--mark-damaged"]).code(13);
    // Nothing of the source has changed, and no flag says that it is to be read.
    world.run(&world.repo(), &["snapshot", &src]);
    restores(&world, &src, 0);
    let checked = world.run(&world.repo(), &["check", "--json"]);
    let lines = checked.text().lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let summary = lines.into_iter().find(|line| line["message_type"] == "summary").unwrap();
    assert_eq!((summary["chunks_lost"].as_u64(), summary["paths_lost"].as_u64()), (Some(0), Some(0)));
}

#[test]
fn what_a_vanished_or_cut_off_pack_held_is_stored_again_by_the_next_snapshot() {
    for is_gone in [true, false] {
        let (world, src, packs) = saved_by_program();
        let pack = largest(&packs);
        if is_gone {
            fs::remove_file(&pack).unwrap();
        } else {
            fs::File::options().write(true).open(&pack).unwrap().set_len(5000).unwrap();
        }
        world.run(&world.repo(), &["snapshot", &src]).code(13);
        // A seal never comes out twice alike: a pack that was cut off is then not replaced, and said.
        restores(&world, &src, if is_encrypted() && !is_gone { 13 } else { 0 });
    }
}

#[test]
fn check_names_the_chunks_that_are_lost_and_no_others() {
    let world = World::saved();
    let here = world.repo();
    let whole = world.run(&here, &["check", "--read-data", "--json"]).ok();
    assert!(whole.text().contains("\"chunks_lost\":0"), "{}", whole.text());
    let before = files(&here);
    for name in names(&here, "packs/") {
        fs::remove_file(here.join(&name)).unwrap();
        let checked = world.run(&here, &["check", "--json"]).code(13);
        let lines: Vec<Value> =
            checked.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let damage = lines.iter().find(|line| line["item"] == name.as_str()).unwrap();
        let chunks = damage["chunks"].as_array().unwrap();
        assert!(!chunks.is_empty(), "{name}");
        let verbose = world.run(&here, &["check", "-v"]).code(13);
        for chunk in chunks {
            let line = format!(
                "  loses {} chunk {}",
                chunk["kind"].as_str().unwrap(),
                chunk["id"].as_str().unwrap()
            );
            assert!(verbose.text().contains(&line), "{line}");
        }
        let summary = lines.iter().find(|line| line["message_type"] == "summary").unwrap();
        assert_eq!(summary["chunks_lost"], chunks.len());
        fs::write(here.join(&name), &before[&name]).unwrap();
    }
}
