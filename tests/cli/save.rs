//! `vault snapshot`: what is saved, what is left out, what is noted, and what is not written.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use super::{World, files, json, summary};
use crate::support::manifest::Manifest;
use crate::support::mount::{FileSystem, Mount};
use crate::support::needs::needs;
use crate::support::torture::Random;

#[test]
fn counts_tell_new_from_changed_and_unchanged() {
    let world = World::new();
    let src = world.path("src");
    fs::File::create(world.src().join("sparse")).unwrap().set_len(4 << 20).unwrap();
    // Older than the clocks' grain, so that the next snapshot may believe the stamps.
    for file in files(&world.src()) {
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        fs::File::options().write(true).open(file).unwrap().set_modified(time).unwrap();
    }
    let counts = |args: &[&str]| {
        let summary = summary(&world.run(&[&["snapshot", src.as_str(), "--json"], args].concat()).ok());
        ["files_new", "files_changed", "files_unmodified"].map(|key| summary[key].as_u64().unwrap())
    };
    assert_eq!(counts(&[]), [4, 0, 0], "without a predecessor everything is new");
    assert_eq!(counts(&[]), [0, 0, 4]);
    fs::write(world.src().join("a.txt"), "changed\n").unwrap();
    fs::write(world.src().join("more"), "more\n").unwrap();
    assert_eq!(counts(&[]), [1, 1, 3]);
    assert_eq!(counts(&["--label", "another series"]), [5, 0, 0]);
    world.run(&["snapshot", &src]).ok().says("5 files").says("5 unchanged").says("snapshot ");
}

#[test]
fn each_rule_leaves_out_what_it_says() {
    let world = World::new();
    let src = world.src();
    for folder in ["cache", "skip", "git"] {
        fs::create_dir(src.join(folder)).unwrap();
        fs::write(src.join(folder).join("inside"), "inside").unwrap();
    }
    fs::write(src.join("cache/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55").unwrap();
    fs::write(src.join("skip/.nobackup"), "").unwrap();
    fs::write(src.join("git/.gitignore"), "*.o\n").unwrap();
    fs::write(src.join("git/x.o"), "object").unwrap();
    fs::write(src.join("UPPER.TMP"), "upper").unwrap();
    fs::write(world.vault.join("rules"), "# a comment\n*.bin\n\n!b.bin\nc.txt\n").unwrap();
    let all = ["UPPER.TMP", "a.txt", "cache/inside", "dir/b.bin", "dir/sub/c.txt", "git/x.o", "skip/inside"];
    let rules = world.path("rules");
    for (args, without) in [
        (&[][..], &[][..]),
        (&["-e", "*.txt"], &["a.txt", "dir/sub/c.txt"]),
        (&["--exclude", "dir/sub"], &["dir/sub/c.txt"]),
        (&["-e", "*.tmp"], &[]),
        (&["--iexclude", "*.tmp"], &["UPPER.TMP"]),
        (&["--exclude-file", &rules], &["dir/sub/c.txt"]),
        (&["--exclude-caches"], &["cache/inside"]),
        (&["--exclude-if-present", ".nobackup"], &["skip/inside"]),
        (&["--exclude-if-present", ".gitignore:*.o"], &["git/x.o"]),
        (&["--exclude-if-present", ".gitignore:*.c"], &[]),
        (&["--exclude-larger-than", "100k"], &["dir/b.bin"]),
        (&["--git-ignore"], &["git/x.o"]),
    ] {
        world.save(args);
        let saved = world.saved_paths();
        for path in all {
            assert_eq!(saved.iter().any(|saved| saved == path), !without.contains(&path), "{args:?}: {path}");
        }
    }
    world.run(&["snapshot", &world.path("src"), "--exclude-file", "/no/such"]).code(1).says("/no/such");
}

#[test]
fn one_file_system_stays_on_it() {
    needs!("tmpfs");
    let world = World::new();
    let mount = Mount::new(FileSystem::Tmpfs, 4);
    fs::write(mount.join("beyond"), "x").unwrap();
    let top = mount.path();
    let parent = top.parent().unwrap().to_str().unwrap();
    let count = |args: &[&str]| {
        world.run(&[&["snapshot", parent, "-q"], args].concat()).ok();
        world.run(&["ls", "-R"]).ok().text().lines().filter(|line| line.ends_with("/beyond")).count()
    };
    assert_eq!((count(&[]), count(&["-x"])), (1, 0));
}

#[test]
fn lists_of_paths_come_from_files_and_the_standard_input() {
    let world = World::new();
    let odd = world.src().join("new\nline");
    fs::write(&odd, "odd").unwrap();
    let (a, b) = (world.path("src/a.txt"), world.path("src/dir/b.bin"));
    fs::write(world.vault.join("list"), format!("{a}\n{b}\n")).unwrap();
    fs::write(world.vault.join("raw"), [a.as_bytes(), b"\0", odd.as_os_str().as_bytes(), b"\0"].concat())
        .unwrap();
    world.run(&["snapshot", "-q", "--files-from", &world.path("list")]).ok();
    assert_eq!(world.saved_paths(), ["a.txt", "dir/", "dir/b.bin"]);
    world.run(&["snapshot", "-q", "--files-from-raw", &world.path("raw")]).ok();
    assert_eq!(world.saved_paths(), ["a.txt", "new\\x0aline"]);
    let lines = format!("# {a}\r\n\n  \r\n{b}\r\n");
    world.vault.run_with_stdin(&["snapshot", "-q", "--files-from", "-"], lines.as_bytes()).ok();
    assert_eq!(world.saved_paths(), ["dir/", "dir/b.bin"]);
}

#[test]
fn a_stream_is_saved_as_a_file() {
    needs!("echo");
    let world = World::new();
    let bytes = Random(3).bytes(3_000_000);
    world.vault.run_with_stdin(&["snapshot", "-q", "--stdin", "--stdin-filename", "db/dump"], &bytes).ok();
    assert!(world.run(&["cat", "latest:/db/dump"]).ok().stdout == bytes);
    world.run(&["snapshot", "-q", "--stdin-from-command", "--", "echo", "-n", "printed"]).ok();
    assert_eq!(world.run(&["cat", "latest:/stdin"]).ok().stdout, b"printed");
}

#[test]
fn a_source_that_is_missing_does_not_keep_the_others_from_being_saved() {
    let world = World::new();
    let gone = world.path("gone");
    world
        .run(&["snapshot", &world.path("src"), &gone])
        .code(3)
        .says(&gone)
        .says("the snapshot lacks 1 thing");
    assert!(world.saved_paths().contains(&"a.txt".to_owned()));
    assert!(world.run(&["snapshots"]).ok().text().contains("complete, 1 error"));
    world.run(&["snapshot", &gone]).code(1).says(&gone);
    assert_eq!(world.ids().len(), 1);
}

#[test]
fn what_is_noted_is_shown() {
    let world = World::new();
    let src = world.path("src");
    let args = [
        "snapshot",
        &src,
        "-q",
        "--label",
        "work",
        "--tag",
        "a,b",
        "--tag",
        "c",
        "--host",
        "elsewhere",
        "--time",
        "2026-02-03 04:05:06",
        "--description",
        "some words",
        "--as-path",
        "/some/where",
    ];
    world.run(&args).ok();
    let shown = &json(&world.run(&["snapshots", "--json"]).ok().stdout)[0];
    assert_eq!(shown["label"], "work");
    assert_eq!(shown["tags"], serde_json::json!(["a", "b", "c"]));
    assert_eq!(shown["hostname"], "elsewhere");
    assert_eq!(shown["time"], "2026-02-03T04:05:06+00:00");
    assert_eq!(shown["description"], "some words");
    assert_eq!(
        (&shown["sources"][0]["path"], &shown["sources"][0]["stored_at"]),
        (&src.into(), &"some/where".into())
    );
    assert_eq!(world.run(&["cat", "latest:/some/where/a.txt"]).ok().stdout, b"alpha\n");
    let table = world.run(&["snapshots"]).ok();
    assert!(table.text().contains("work,a,b,c") && table.text().contains("2026-02-03 04:05:06"));
    assert!(table.text().lines().nth(1).unwrap().ends_with("  some words"));
    let long = "word ".repeat(30);
    world.save(&["--description", &long]);
    let (table, whole) = (world.run(&["snapshots"]).ok(), world.run(&["snapshots", "-v"]).ok());
    assert!(table.text().contains("word word\u{2026}") && !table.text().contains(long.trim_end()));
    assert!(whole.text().contains(long.trim_end()));
}

#[test]
fn a_dry_run_tells_the_size_and_writes_nothing() {
    let world = World::new();
    let src = world.path("src");
    fs::write(world.src().join("text"), Random(4).text(3_000_000)).unwrap();
    let before = Manifest::of(&world.repo());
    let planned = summary(&world.run(&["snapshot", &src, "--dry-run", "--json"]).ok());
    assert_eq!(before.diff(&Manifest::of(&world.repo())), Vec::<String>::new());
    world.run(&["snapshot", &src, "-n"]).ok().says("nothing was written");
    let done = summary(&world.run(&["snapshot", &src, "--json"]).ok());
    assert_eq!(planned["data_added"], done["data_added"]);
    assert_eq!(planned["total_bytes_processed"], done["total_bytes_processed"]);
    let packed = |summary: &serde_json::Value| summary["data_added_packed"].as_f64().unwrap();
    let (planned, done) = (packed(&planned), packed(&done));
    assert!((planned - done).abs() < done * 0.05, "{planned} planned, {done} done");
}

#[test]
fn an_unchanged_source_can_be_skipped_and_force_reads_it() {
    let world = World::saved();
    let src = world.path("src");
    world.run(&["snapshot", &src, "--skip-if-unchanged"]).ok().says("nothing differs");
    assert_eq!(world.ids().len(), 1);
    fs::write(world.src().join("a.txt"), "changed\n").unwrap();
    world.save(&["--skip-if-unchanged"]);
    assert_eq!(world.ids().len(), 2);
    let forced = summary(&world.run(&["snapshot", &src, "--force", "--json"]).ok());
    assert_eq!((&forced["files_read"], &forced["files_unmodified"]), (&3.into(), &3.into()));
}

#[test]
fn a_first_snapshot_tells_how_much_there_is_to_save() {
    let world = World::new();
    fs::write(world.src().join("a-large"), Random(5).bytes(3 << 20)).unwrap();
    let src = world.path("src");
    let args = ["snapshot", &src, "--json", "-e", "*.bin", "--limit-read", "1M"];
    let output = world.run(&args).ok();
    let last = json(&output.stdout).into_iter().rfind(|line| line["message_type"] == "status").unwrap();
    assert_eq!(last["total_files"], 4, "what is left out does not count: {last}");
    assert_eq!(last["total_bytes"], (3 << 20) + 6 + 6000);
    assert!(last["percent_done"].as_f64().unwrap() > 0.0 && last["seconds_remaining"].is_u64(), "{last}");
}

#[test]
fn compression_levels_are_obeyed() {
    let stored = |level: &str| {
        let world = World::new();
        fs::write(world.src().join("text"), Random(5).text(2_000_000)).unwrap();
        let src = world.path("src");
        let done = summary(&world.run(&["snapshot", &src, "--json", "--compression", level]).ok());
        world.run(&["check", "--read-data"]).ok();
        done["data_added_packed"].as_u64().unwrap()
    };
    let (off, fast, best) = (stored("off"), stored("fast"), stored("best"));
    assert!(off > 2_200_000 && fast < off * 9 / 10 && best < fast, "{off} {fast} {best}");
}

#[test]
fn limits_and_caches_change_nothing_but_the_time() {
    let world = World::new();
    let src = world.path("src");
    world.run(&["snapshot", &src, "-q", "--no-cache", "--limit-rate", "50M", "--limit-read", "60M/s"]).ok();
    assert!(!world.vault.join("cache/vault").exists(), "--no-cache made a cache");
    world.run(&["snapshot", &src, "-q", "--cache-dir", &world.path("elsewhere")]).ok();
    assert!(!files(&world.vault.join("elsewhere")).is_empty() && !world.vault.join("cache/vault").exists());
    let tag = fs::read_to_string(world.vault.join("elsewhere/CACHEDIR.TAG")).unwrap();
    assert!(tag.starts_with("Signature: 8a477f597d28d172789f06886806bc55"), "{tag}");
    world.run(&["snapshot", &src, "-q", "--cache-dir", &world.path("src")]).ok();
    assert!(!world.src().join("CACHEDIR.TAG").exists(), "a folder of the user's was marked");
    let refused = world.run(&["snapshot", &src, "--cache-dir", "/dev/null/x"]).ok();
    assert_eq!(refused.stderr.matches("/dev/null/x").count(), 1, "{}", refused.stderr);
    world.run(&["check", "--read-data", "--limit-read", "50M"]).ok();
    world.run(&["snapshot", &src, "--limit-rate", "0"]).code(2);
    world.run(&["snapshot", &src, "--no-cache", "--cache-dir", "x"]).code(2);
}
