//! The verbs that look into snapshots: `snapshots`, `ls`, `find`, `diff`, `cat`, `stats`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;

use super::{World, json, summary};

#[test]
fn snapshots_are_listed_oldest_first_and_chosen_by_what_is_noted() {
    let world = World::new();
    let first = world.save(&["--label", "work", "--tag", "a", "--time", "2026-01-02"]);
    let second = world.save(&["--tag", "a,b", "--host", "other", "--time", "2026-01-01"]);
    let third = world.save(&["--time", "2026-01-03"]);
    assert_eq!(world.ids(), [second.clone(), first.clone(), third.clone()]);
    for (args, expected) in [
        (&["--label", "work"][..], &[&first][..]),
        (&["--tag", "a"], &[&second, &first]),
        (&["--tag", "a", "--tag", "b"], &[&second]),
        (&["--host", "other"], &[&second]),
        (&["--last", "2"], &[&first, &third]),
        (&["--label", "none"], &[]),
    ] {
        let lines = json(&world.run(&[&["snapshots", "--json"], args].concat()).ok().stdout);
        let ids: Vec<&str> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
        assert_eq!(ids, expected.iter().map(|id| id.as_str()).collect::<Vec<_>>(), "{args:?}");
    }
}

#[test]
fn what_each_snapshot_adds_and_holds_alone_is_told() {
    let world = World::new();
    world.save(&[]);
    fs::write(world.src().join("only-here"), super::Random(7).bytes(50_000)).unwrap();
    world.save(&[]);
    fs::remove_file(world.src().join("only-here")).unwrap();
    world.save(&[]);
    let lines = json(&world.run(&["snapshots", "--alone", "--json"]).ok().stdout);
    let number = |line: usize, of: &str, key: &str| lines[line][of][key].as_u64().unwrap();
    assert!(number(0, "summary", "data_added") > 200_000);
    assert!((50_000..60_000).contains(&number(1, "summary", "data_added")));
    assert_eq!(number(0, "alone", "bytes").max(number(2, "alone", "bytes")) / 2000, 0, "but for their trees");
    assert!((50_000..60_000).contains(&number(1, "alone", "bytes")));
    let table = world.run(&["snapshots", "--alone"]).ok();
    assert!(table.text().lines().next().unwrap().contains("alone"));
    let stats = json(&world.run(&["stats", "--json"]).ok().stdout);
    assert_eq!(stats.len(), 4);
    assert_eq!(stats[1]["alone"], lines[1]["alone"]);
    let total = stats[3]["total_uncompressed_size"].as_u64().unwrap();
    assert!((250_000..280_000).contains(&total), "{total}");
    assert!(world.run(&["stats", "latest"]).ok().text().contains("3 snapshots"));
}

#[test]
fn ls_lists_a_folder_a_tree_or_one_entry() {
    let world = World::saved();
    let src = world.path("src");
    let list = |args: &[&str]| world.run(&[&["ls"], args].concat()).ok().text().replace(&src, "");
    assert_eq!(list(&[&world.latest("src")]), "/a.txt\n/dir/\n/empty/\n/link -> a.txt\n");
    assert_eq!(list(&[&world.latest("src/a.txt")]), "/a.txt\n");
    // Nothing named: the way to what was saved.
    assert!(list(&[]).ends_with("/\n"));
    assert!(list(&["-R"]).contains("/dir/sub/c.txt\n"));
    let long = list(&["-l", &world.latest("src/dir/b.bin")]);
    assert!(long.starts_with("-rw") && long.contains(" 200000 "), "{long}");
    let lines = json(&world.run(&["ls", "--json", &world.latest("src")]).ok().stdout);
    let types: Vec<&str> = lines.iter().map(|line| line["message_type"].as_str().unwrap()).collect();
    assert_eq!(types, ["snapshot", "node", "node", "node", "node"]);
    assert_eq!((&lines[4]["type"], &lines[4]["linktarget"]), (&"symlink".into(), &"a.txt".into()));
    assert_eq!((&lines[1]["size"], &lines[1]["path"]), (&6.into(), &format!("{src}/a.txt").into()));
}

#[test]
fn ls_tells_what_was_left_out_and_why() {
    let world = World::new();
    world.save(&["-e", "dir"]);
    let listed = world.run(&["ls", &world.latest("src")]).ok();
    assert!(listed.text().contains("/dir (left out: excluded)"), "{}", listed.text());
    assert!(!listed.text().contains("b.bin"));
}

#[test]
fn find_groups_the_versions_of_a_path() {
    let world = World::new();
    let (one, two) = (world.save(&["--time", "2026-01-01"]), world.save(&["--time", "2026-01-02"]));
    fs::write(world.src().join("a.txt"), "another alpha\n").unwrap();
    let three = world.save(&["--time", "2026-01-03"]);
    let found = json(&world.run(&["find", "--json", "a.txt"]).ok().stdout);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["path"], world.path("src/a.txt"));
    let versions = found[0]["versions"].as_array().unwrap();
    let range = |version: &serde_json::Value| {
        let id = |key: &str| version[key].as_str().unwrap().to_owned();
        (id("first_snapshot"), id("last_snapshot"), version["snapshots"].as_u64().unwrap())
    };
    let mut ranges: Vec<_> = versions.iter().map(range).collect();
    ranges.sort_by_key(|range| std::cmp::Reverse(range.2));
    assert_eq!(ranges, [(one.clone(), two.clone(), 2), (three.clone(), three.clone(), 1)]);
    let text = world.run(&["find", "a.txt"]).ok().says("1 path in 3 snapshots");
    assert!(text.text().contains(&format!("{} to {} (2 snapshots)", &one[..8], &two[..8])));
    for (args, count) in [
        (&["*.TXT"][..], 0),
        (&["-i", "*.TXT"], 2),
        (&["*.txt", "b.bin"], 3),
        (&["dir/**"], 3),
        (&["*", "--below", &world.path("src/dir/sub")], 1),
        (&["*.txt", "--older", "2001-01-01"], 0),
        (&["*.txt", "--newer", "2001-01-01"], 2),
        (&["*.txt", "--label", "none"], 0),
    ] {
        let found = json(&world.run(&[&["find", "--json"], args].concat()).ok().stdout);
        assert_eq!(found.len(), count, "{args:?}: {found:?}");
    }
    world.run(&["find", "x", "--newer", "soon"]).code(2);
}

/// The modifiers and paths of a `diff`.
fn changes(world: &World, args: &[&str]) -> BTreeMap<String, String> {
    let lines = json(&world.run(&[&["diff", "--json"], args].concat()).ok().stdout);
    assert_eq!(lines.last().unwrap()["message_type"], "statistics");
    let changes = lines.iter().filter(|line| line["message_type"] == "change");
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    changes
        .map(|line| (text(&line["path"]).replace(&world.path("src"), ""), text(&line["modifier"])))
        .collect()
}

#[test]
fn diff_tells_what_differs_between_snapshots_and_from_the_disk() {
    let world = World::saved();
    let src = world.path("src");
    let live = ["latest", src.as_str()];
    assert!(changes(&world, &live).is_empty());
    world.run(&["diff", "latest", &src]).ok().says("no differences");
    fs::write(world.src().join("a.txt"), "other\n").unwrap();
    fs::write(world.src().join("added"), "added\n").unwrap();
    fs::remove_dir_all(world.src().join("dir/sub")).unwrap();
    fs::remove_file(world.src().join("link")).unwrap();
    fs::create_dir(world.src().join("link")).unwrap();
    let expected = |paths: &[(&str, &str)]| -> BTreeMap<String, String> {
        paths.iter().map(|(path, modifier)| ((*path).to_owned(), (*modifier).to_owned())).collect()
    };
    let all = expected(&[
        ("/a.txt", "M"),
        ("/added", "+"),
        ("/dir/sub", "-"),
        ("/dir/sub/c.txt", "-"),
        ("/link", "T"),
    ]);
    assert_eq!(changes(&world, &live), all);
    world.save(&[]);
    assert_eq!(changes(&world, &["latest~1", "latest"]), all);
    assert_eq!(changes(&world, &["latest~1", &world.latest("src/dir")]).len(), 2);
    let text = world.run(&["diff", "latest~1", "latest"]).ok().says("added 1 file");
    assert!(text.text().contains("- /") && text.text().contains("dir/sub/\n"));
    world.run(&["diff", "latest", "src"]).code(2).says("./src");
}

#[test]
fn diff_by_content_sees_what_stamps_hide_and_by_metadata_what_is_no_content() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    let (src, file) = (world.path("src"), world.src().join("dir/b.bin"));
    let time = fs::metadata(&file).unwrap().modified().unwrap();
    world.save(&[]);
    super::flip(&file);
    fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    fs::set_permissions(world.src().join("a.txt"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(changes(&world, &["latest", &src]).is_empty());
    assert_eq!(
        changes(&world, &["latest", &src, "--content"]).get("/dir/b.bin").map(String::as_str),
        Some("M")
    );
    let metadata = changes(&world, &["latest", &src, "--metadata"]);
    assert_eq!(metadata.get("/a.txt").map(String::as_str), Some("U"), "{metadata:?}");
}

#[test]
fn diff_with_a_folder_sees_extended_attributes() {
    use rustix::fs::{XattrFlags, removexattr, setxattr};
    let world = World::new();
    let (src, file) = (world.path("src"), world.src().join("a.txt"));
    let long = vec![b'x'; 3000];
    let set = |path: &std::path::Path, value: &[u8]| {
        setxattr(path, "user.note", value, XattrFlags::empty()).unwrap();
    };
    set(&file, b"one");
    set(&world.src().join("dir"), &long);
    world.save(&[]);
    let found = |args: &[&str]| changes(&world, &[&["latest", src.as_str()], args].concat());
    assert!(found(&["--metadata"]).is_empty());
    set(&file, b"two");
    setxattr(world.src().join("dir"), "user.more", b"1", XattrFlags::empty()).unwrap();
    let metadata = found(&["--metadata"]);
    assert_eq!(metadata.keys().collect::<Vec<_>>(), ["/a.txt", "/dir"]);
    assert!(metadata.values().all(|modifier| modifier == "U") && found(&[]).is_empty());
    removexattr(&file, "user.note").unwrap();
    assert!(found(&["--metadata"]).contains_key("/a.txt"));
}

#[test]
fn diff_by_content_keeps_to_the_rate() {
    let world = World::saved();
    let begun = std::time::Instant::now();
    // 200 kB at least.
    world.run(&["diff", "latest", &world.path("src"), "--content", "--limit-rate", "100K"]).ok();
    assert!(begun.elapsed() > std::time::Duration::from_millis(1500), "{:?}", begun.elapsed());
}

#[test]
fn cat_writes_a_file_or_a_tar_archive() {
    let world = World::saved();
    let bytes = fs::read(world.src().join("dir/b.bin")).unwrap();
    assert!(world.run(&["cat", &world.latest("src/dir/b.bin")]).ok().stdout == bytes);
    let tar = world.run(&["cat", &world.latest("src")]).ok().stdout;
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(&tar[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        found.insert(entry.path().unwrap().to_str().unwrap().trim_start_matches("./").to_owned(), content);
    }
    assert_eq!(found.keys().collect::<Vec<_>>().len(), 8, "{:?}", found.keys());
    assert!(found["dir/b.bin"] == bytes && found["a.txt"] == b"alpha\n");
    world.run(&["cat", &world.latest("src/link")]).code(2);
    world.run(&["cat", &world.latest("src/none")]).code(1);
}

#[test]
fn cat_of_a_damaged_folder_gives_the_rest_and_no_whole_archive() {
    let world = World::new();
    fs::write(world.src().join("a-lost"), super::Random(9).bytes(300_000)).unwrap();
    world.save(&[]);
    fs::write(world.src().join("dir/whole"), super::Random(10).bytes(300_000)).unwrap();
    let known = super::files(&world.repo().join("packs"));
    world.save(&[]);
    let longest = known.iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    fs::remove_file(longest).unwrap();
    let found = world.run(&["cat", &world.latest("src")]).code(13).says("src/a-lost: ");
    assert!(!found.stdout.ends_with(&[0; 1024]), "it has the mark of a whole archive");
    let mut whole = Vec::new();
    let mut archive = tar::Archive::new(&found.stdout[..]);
    let mut entries = archive.entries().unwrap();
    let last = entries.find_map(|entry| match entry {
        Ok(mut entry) => {
            let path = entry.path().unwrap().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            whole.push((path, content));
            None
        }
        Err(error) => Some(error),
    });
    assert!(last.is_some(), "it passes for whole");
    let find = |name: &str| whole.iter().find(|(path, _)| path.ends_with(name)).map(|(_, bytes)| bytes);
    assert!(find("dir/whole") == Some(&fs::read(world.src().join("dir/whole")).unwrap()));
    assert!(find("a-lost").is_none() && find("link").is_some());
}

#[test]
fn a_summary_is_one_line_of_json() {
    let world = World::new();
    let src = world.path("src");
    let saved = summary(&world.run(&["snapshot", &src, "--json"]).ok());
    assert_eq!(saved["total_files_processed"], 3);
    for args in [&["stats"][..], &["check"], &["restore", "latest", "--target", "t"]] {
        summary(&world.run(&[args, &["--json"]].concat()).ok());
    }
}
