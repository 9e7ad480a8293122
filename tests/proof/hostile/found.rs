//! What hostile repositories have found, each on its own.

use vault::id::ChunkId;
use vault::snapshot::{Content, Entry, Kind, MAX_SOURCES, Meta, Piece};

use super::commands::{Arena, Ran};
use super::craft::{Case, Craft, Expects, Make, entry, file, pieces, xattr};
use super::{bombs, lengths, trees};
use crate::support::needs::needs;

/// An arena with the hostile repository of a case of this name.
fn arena_of(cases: &[Case], name: &str) -> Arena {
    arena(cases.iter().find(|case| case.name == name).unwrap().make)
}

fn arena(make: Make) -> Arena {
    let arena = Arena::new();
    arena.make(&Case { name: "a case of its own", make, expects: Expects::Harmless });
    arena
}

/// Runs a command to its end.
fn run(arena: &Arena, words: &[&str]) -> Ran {
    arena.reset(words);
    let ran = arena.run(words, Expects::Harmless);
    assert!(!ran.was_stopped, "{}", ran.output.report());
    ran
}

#[test]
fn an_owner_that_is_nobodys_number_is_said_not_to_be_set() {
    needs!("root", "sh", "cp");
    let arena = arena_of(&trees::ENTRIES, "an owner that is nobody's number");
    let restored = run(&arena, &["restore", "latest", "--target", "TARGET", "--owner", "number"]);
    restored.output.code(1).says("owner");
}

#[test]
fn sizes_that_are_more_together_than_a_number_holds_are_added_up() {
    needs!("sh", "cp");
    let arena = arena(|craft| {
        let hole = |name| pieces(name, u64::MAX, vec![Piece::Hole(u64::MAX)]);
        craft.root(["a", "b", "c"].map(hole).into());
    });
    for words in [
        &["diff", "latest~1", "latest"][..],
        &["du", "latest", "-d", "1"],
        &["restore", "latest", "--target", "TARGET", "-n"],
        &["rewrite", "--all", "-e", "?", "-n"],
        &["merge", "latest", "latest~1"],
        &["check", "--read-data"],
    ] {
        run(&arena, words).output.ok();
    }
    let restored = run(&arena, &["restore", "latest", "--target", "TARGET"]);
    restored.output.code(1).says("File too large");
}

/// The same content of 16 MiB in 100 attributes of a file.
fn long_attributes(craft: &mut Craft) {
    let value = Content::Pieces(vec![craft.data(&vec![0; 16 << 20])]);
    let xattrs = (0..100).map(|number| xattr(format!("user.{number:03}"), value.clone())).collect();
    craft.root(vec![Entry { meta: Meta { xattrs, ..file("a").meta }, ..file("a") }]);
}

#[test]
fn an_archive_leaves_out_attributes_that_there_is_no_memory_for_and_says_so() {
    needs!("sh", "cp");
    run(&arena(long_attributes), &["cat", "latest:/"]).output.ok().says("user.099");
}

#[test]
fn list_2_an_attribute_in_an_archive_has_the_length_of_its_pieces() {
    needs!("sh", "cp");
    let arena = arena_of(&lengths::LENGTHS, "an attribute of one byte a piece, and 16 MiB a chunk");
    run(&arena, &["cat", "latest:/"]).output.code(13).says("LIST-2");
}

#[test]
fn heal_says_in_a_dry_run_what_it_could_not_get_anywhere() {
    needs!("sh", "cp");
    let arena = arena(|craft| {
        let lost = ChunkId::from_bytes([9; 32]);
        craft.root(vec![pieces("a", 4, vec![Piece::Data(lost, 4)])]);
    });
    let healed = run(&arena, &["heal", "--from", "DRIVE", "-n"]).output.code(13);
    assert!(healed.report().contains("1 chunk is lost"), "{}", healed.report());
}

#[test]
fn a_file_that_has_a_lost_chunk_in_very_many_places_is_named_once() {
    needs!("sh", "cp");
    let arena = arena_of(&lengths::LENGTHS, "a file of 2^60 bytes of which one is lost");
    let checked = run(&arena, &["check"]).output.code(13);
    assert_eq!(checked.text().matches("costs ").count(), 1, "{}", checked.report());
}

#[test]
fn a_repair_that_looks_through_a_file_without_end_can_be_interrupted() {
    needs!("sh", "cp");
    let arena = arena_of(&lengths::LENGTHS, "a file of 2^60 bytes of one chunk");
    let words = ["repair", "-n"];
    arena.reset(&words);
    let ran = arena.run(&words, Expects::Endless);
    assert!(ran.was_stopped && !ran.has_hung, "{}", ran.output.report());
    ran.output.code(130);
}

#[test]
fn counters_that_are_more_together_than_a_number_holds_are_added_up() {
    needs!("sh", "cp");
    let arena = arena_of(&bombs::WORDS, "counters of all ones");
    run(&arena, &["copy", "--to", "OTHER", "-n"]).output.ok();
    run(&arena, &["copy", "--to", "OTHER"]).output.ok();
}

#[test]
fn the_sources_of_a_snapshot_are_shown_one_by_one() {
    needs!("sh", "cp");
    let arena = arena_of(&bombs::WORDS, "a snapshot of very many sources");
    let shown = run(&arena, &["snapshots", "--json"]).output.ok();
    assert_eq!(shown.text().matches("\"stored_at\"").count(), MAX_SOURCES + 1);
}

#[test]
fn snap_5_a_snapshot_that_lists_more_than_any_is_refused() {
    needs!("sh", "cp");
    for name in ["a snapshot of millions of tags", "a snapshot of one source too many"] {
        let arena = arena_of(&bombs::WORDS, name);
        run(&arena, &["snapshots"]).output.code(13).says("SNAP-5");
        run(&arena, &["copy", "--to", "OTHER"]).output.code(13).says("SNAP-5");
    }
}

#[test]
fn what_copies_very_long_snapshots_has_room_for_them() {
    needs!("sh", "cp");
    for name in [
        "a snapshot of very many tags",
        "a snapshot of very many sources",
        "a source of very many owners",
        "a source of which very much was carried over",
    ] {
        let arena = arena_of(&bombs::WORDS, name);
        for words in [
            &["copy", "--to", "OTHER"][..],
            &["rewrite", "--all", "-e", "*f*"],
            &["merge", "latest", "latest~1"],
        ] {
            run(&arena, words).output.ok();
        }
    }
}

#[test]
fn very_many_notes_are_taken_over_in_order() {
    needs!("sh", "cp");
    let arena = arena_of(&bombs::WIDE, "very many notes");
    // It hung for hours, and a run that takes long is ended.
    run(&arena, &["merge", "latest", "latest~1"]).output.ok();
    arena.run(&["check", "--read-data"], Expects::Harmless).output.ok();
}

#[test]
fn depth_costs_no_node_for_each_level() {
    needs!("sh", "cp");
    let arena = arena(|craft| bombs::deep(craft, &[7; 100], 100_000));
    for words in [
        &["check", "--read-data"][..],
        &["du", "latest"],
        &["copy", "--to", "OTHER"],
        &["diff", "latest:/d", "latest:/d/d"],
        &["prune", "-n"],
        &["stats"],
    ] {
        let ran = run(&arena, words);
        assert!(matches!(ran.output.status.code(), Some(0)), "{}", ran.output.report());
    }
}

#[test]
fn a_node_that_is_longer_than_any_writer_makes_it_is_refused_before_it_takes_memory() {
    needs!("sh", "cp");
    for name in [
        "a node of as many entries as it may have",
        "folders in one another, each of very many entries",
        "branches of very many children on each level",
    ] {
        let arena = arena_of(&bombs::WIDE, name);
        run(&arena, &["ls", "-R"]).output.code(13).says("TREE-5");
    }
    let arena = arena(|craft| {
        let piece = craft.data(b"x");
        let node = craft.list(&vault::snapshot::ListNode::Leaf(vec![piece; 400_000]));
        craft.root(vec![entry("a", 0o644, Kind::File(400_000, Content::List(node)))]);
    });
    run(&arena, &["cat", "latest:/a"]).output.code(13).says("LIST-3");
}
