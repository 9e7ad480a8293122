//! Single chunks, where no copy has the whole file.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use vault::id::PackId;
use vault::pack::{PackFile, pack_file_name};

use super::world::{World, files, flip_at, names, open, summary};

/// The largest pack of a copy, and where the middles of its frames are.
fn frames(copy: &Path) -> (String, Vec<u64>) {
    let repository = open(copy);
    let packs = names(copy, "packs/");
    let largest = packs.iter().max_by_key(|name| fs::metadata(copy.join(name)).unwrap().len()).unwrap();
    let id = PackId::from_hex(largest.rsplit('/').next().unwrap()).unwrap();
    let file = PackFile::open(&**repository.backend(), id, repository.keys()).unwrap();
    let middle =
        |frame: &vault::pack::DirectoryFrame| u64::from(frame.offset) + 32 + u64::from(frame.stored_len) / 2;
    (pack_file_name(&id), file.directory().unwrap().frames.iter().map(middle).collect())
}

/// One repository with a pack of several frames, and its mirror.
fn large() -> (World, std::path::PathBuf, std::path::PathBuf) {
    let world = World::new();
    world.write("one/large", 7 << 20);
    world.save_in(&world.repo(), 64 << 20);
    let (here, there) = (world.repo(), world.mirror("mirror"));
    (world, here, there)
}

#[test]
fn heal_5_two_copies_that_lost_different_frames_of_a_pack_make_up_for_each_other() {
    let (world, here, there) = large();
    let (pack, middles) = frames(&here);
    assert!(middles.len() >= 3, "{middles:?}");
    flip_at(&here.join(&pack), middles[0]);
    flip_at(&there.join(&pack), middles[1]);
    let damaged = fs::read(here.join(&pack)).unwrap();
    world.run(&here, &["check", "--read-data"]).code(13);

    // The file stays as it is and is said, but nothing is lost by it.
    let output = world.heal(&here, &there, &["--json"]).code(13);
    let healed = summary(&output);
    assert_eq!(
        (healed["chunks_lost"].as_u64(), healed["files_damaged"][0].as_str()),
        (Some(0), Some(&*pack))
    );
    assert!(healed["chunks_saved"].as_u64().unwrap() > 5, "{healed}");
    assert_eq!(fs::read(here.join(&pack)).unwrap(), damaged);
    world.assert_restores(&here, "latest");
    let checked = world.run(&here, &["check", "--read-data"]).code(13);
    assert!(checked.text().contains("costs nothing"), "{}", checked.text());

    // The other copy takes the new packs as they are.
    world.heal(&there, &here, &[]).code(13);
    world.assert_restores(&there, "latest");
    let packs = |copy: &Path| names(copy, "packs/").into_iter().collect::<HashSet<_>>();
    assert_eq!(packs(&here), packs(&there));
    // Nothing new comes of healing once more.
    let again = summary(&world.heal(&here, &there, &["--json"]).code(13));
    assert_eq!(
        (again["chunks_saved"].as_u64(), again["files_fetched"].as_array().unwrap().len()),
        (Some(0), 1)
    );
    // Whoever prunes gets rid of it.
    for copy in [&here, &there] {
        world.run(copy, &["prune", "--force"]).ok();
        assert!(!copy.join(&pack).exists());
        world.assert_whole(copy);
        world.assert_restores(copy, "latest");
    }
}

#[test]
fn a_frame_that_both_copies_lost_costs_its_files_until_the_source_is_saved_again() {
    let (world, here, there) = large();
    let (pack, middles) = frames(&here);
    for copy in [&here, &there] {
        flip_at(&copy.join(&pack), middles[0]);
    }
    flip_at(&there.join(&pack), middles[1]);
    let output = world.heal(&here, &there, &[]).code(13).says("vault repair");
    assert!(output.text().contains(&pack) && output.text().contains("costs "), "{}", output.text());
    let healed = summary(&world.heal(&here, &there, &["--json"]).code(13));
    assert!(healed["chunks_lost"].as_u64().unwrap() > 0, "{healed}");
    world.run(&here, &["restore", "latest:s", "--target", "t"]).code(13);

    // It is recorded, so that the next snapshot reads what was lost, though nothing of the source has changed.
    let before = files(&here);
    world.save();
    assert!(files(&here).len() > before.len());
    let checked = world.run(&here, &["check"]).code(13);
    assert!(checked.text().contains("costs nothing"), "{}", checked.text());
    for selector in ["latest", "latest~1"] {
        world.assert_restores(&here, selector);
    }
    world.heal(&there, &here, &[]).code(13);
    world.assert_restores(&there, "latest~1");
}

#[test]
fn heal_2_a_copy_that_is_packed_differently_gives_chunks_and_gets_nothing_that_it_forgot() {
    let world = World::new();
    world.write("one/old", 900_000);
    let first = world.save().to_string();
    fs::remove_file(world.src().join("one/old")).unwrap();
    world.write("one/young", 400_000);
    world.save();
    let (here, there) = (world.repo(), world.mirror("mirror"));
    world.run(&there, &["forget", &first, "--this-copy"]).ok();
    world.run(&there, &["prune", "--max-unused", "0", "--force"]).ok();
    let pruned = files(&there);
    assert!(names(&there, "packs/").iter().any(|name| !here.join(name).exists()), "nothing was packed anew");
    assert!(names(&here, "packs/").iter().any(|name| !there.join(name).exists()), "nothing was deleted");

    // What it forgot and pruned on its own does not come back.
    world.heal(&there, &here, &[]).ok().says("nothing to heal");
    assert_eq!(files(&there), pruned);

    // What only the forgotten snapshot needed is lost with the packs here, and all else comes back.
    fs::remove_dir_all(here.join("packs")).unwrap();
    fs::remove_dir_all(here.join("index")).unwrap();
    let output = world.heal(&here, &there, &[]).code(13);
    assert!(output.text().contains(&first[..8]), "{}", output.text());
    world.assert_restores(&here, "latest");
    world.run(&here, &["forget", &first, "--allow-empty"]).ok();
    world.run(&here, &["check", "--read-data"]).ok();
}

#[test]
fn a_few_chunks_of_another_packing_are_stored_anew_and_bring_nothing_else() {
    let world = World::new();
    world.save();
    let here = world.repo();
    // The same files, saved straight into another copy in one large pack, beside much that is not here.
    let there = world.mirror("mirror");
    for name in
        names(&there, "").into_iter().filter(|name| !name.starts_with("config") && !name.starts_with("keys"))
    {
        fs::remove_file(there.join(name)).unwrap();
    }
    world.write("two/more", 3_000_000);
    world.save_in(&there, 64 << 20);
    // Snapshots are gone from it that were never forgotten: that is said by each command.
    world.run(&there, &["forget", "latest", "--allow-empty"]).code(13);
    assert_eq!(names(&there, "records/").len(), 1);
    fs::remove_file(world.src().join("two/more")).unwrap();
    let before = files(&here);
    fs::remove_file(here.join(frames(&here).0)).unwrap();
    let healed = summary(&world.heal(&here, &there, &["--json"]).ok());
    assert!(healed["chunks_saved"].as_u64().unwrap() > 0, "{healed}");
    world.assert_whole(&here);
    let size =
        |files: &std::collections::BTreeMap<String, Vec<u8>>| files.values().map(Vec::len).sum::<usize>();
    assert!(size(&files(&here)) < size(&before) + 200_000, "more came than was missing");
}
