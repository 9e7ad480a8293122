//! How a snapshot is named on the command line.

use std::collections::HashMap;
use std::fs;

use super::World;

/// Snapshots of one file with the given content, label and time.
fn world_of(snapshots: &[(&str, &str, &str)]) -> World {
    let world = World::new();
    fs::create_dir(world.vault.join("one")).unwrap();
    let one = world.path("one");
    for (content, label, time) in snapshots {
        let file = world.vault.join("one/f");
        if fs::read(&file).ok().as_deref() != Some(content.as_bytes()) {
            fs::write(file, content).unwrap();
        }
        world.run(&["snapshot", &one, "-q", "--as-path", "one", "--label", label, "--time", time]).ok();
    }
    world
}

#[test]
fn words_and_dates_name_snapshots() {
    let world = world_of(&[
        ("first", "", "2026-01-01 10:00"),
        ("second", "work", "2026-01-02 10:00"),
        ("third", "", "2026-01-02 12:00:30"),
        ("fourth", "work", "2026-01-05 10:00"),
        ("fourth", "", "2026-01-06 10:00"),
    ]);
    let stored = |selector: &str| {
        let output = world.run(&["cat", &format!("{selector}:/one/f")]);
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    for (selector, content) in [
        ("latest", "fourth"),
        ("latest~0", "fourth"),
        ("latest~2", "third"),
        ("latest~4", "first"),
        ("previous", "third"),
        ("2026-01-01", "first"),
        ("2026-01-02", "third"),
        ("2026-01-04", "third"),
        ("2026-01-02 11:00", "second"),
        ("2026-01-02T12:00", "third"),
        ("2026-01-02 12:00:29", "second"),
        ("work@", "fourth"),
        ("work@latest~1", "second"),
        ("work@previous", "second"),
        ("work@2026-01-03", "second"),
    ] {
        assert_eq!(stored(selector), (0, content.to_owned()), "{selector}");
    }
    for selector in ["latest~5", "2025-12-31", "none@latest", "work@latest~2", "work@2026-01-01"] {
        assert_eq!(stored(selector).0, 1, "{selector}");
        world.run(&["ls", selector]).code(1).says("there is no").says("hint: ");
    }
    for id in world.ids() {
        assert_eq!(stored(&id[..16]), stored(&id));
        assert_eq!(stored(&id.to_uppercase()).0, 0);
    }
}

#[test]
fn the_beginning_of_an_id_must_fit_one_snapshot() {
    let world = World::new();
    let mut by_digit: HashMap<String, String> = HashMap::new();
    // Of seventeen ids two begin alike.
    let (first, second) = loop {
        let id = world.save(&[]);
        if let Some(other) = by_digit.insert(id[..1].to_owned(), id.clone()) {
            break (other, id);
        }
    };
    let output = world.run(&["ls", &first[..1]]).code(2).says("fits several snapshots");
    assert!(output.stderr.contains(&first[..8]) && output.stderr.contains(&second[..8]));
    world.run(&["ls", &first[..16]]).ok();
    world.run(&["ls", "0000000000000000"]).code(1).says("there is no snapshot 0000000000000000");
}

#[test]
fn a_path_stands_behind_the_first_colon() {
    let world = World::new();
    fs::write(world.src().join("a:b@c"), "odd").unwrap();
    world.save(&["--as-path", "s"]);
    for path in ["/s/a:b@c", "s/a:b@c", "//s/./a:b@c"] {
        assert_eq!(world.run(&["cat", &format!("latest:{path}")]).ok().stdout, b"odd", "{path}");
    }
    let missing = world.run(&["ls", "latest:/s/nothing"]).code(1).says("there is no /s/nothing in snapshot");
    assert!(missing.stdout.is_empty());
}
