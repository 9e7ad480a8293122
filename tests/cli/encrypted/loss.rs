//! What a computer remembers of a repository: one that was set back, a snapshot or a key taken out, one that says that it is plain.

use std::fs;
use std::sync::Arc;

use vault::backend::LocalFolder;
use vault::repository::{Config, Repository};

use super::{Home, OTHER};
use crate::cli::{json, summary};
use crate::support::needs::needs;

impl Home {
    /// A repository that was set back by two snapshots, which are named.
    fn set_back() -> (Self, [String; 2]) {
        let home = Self::saved();
        home.copy("repo", "older");
        let lost = [home.save(), home.save()];
        home.remove("repo");
        home.copy("older", "repo");
        (home, lost)
    }

    /// Asserts that each of these verbs names what is lost, and what it ends with.
    fn names(&self, args: &[&str], lost: &[String], code: i32) {
        let said = self.run(args).code(code);
        let text = format!("{}{}", said.text(), said.stderr);
        for id in lost {
            assert_eq!(text.contains(&format!("snapshot {id} was here and is gone")), code == 13, "{text}");
        }
        assert_eq!(text.contains("`vault check --accept-loss`"), code == 13, "{text}");
    }
}

#[test]
fn what_was_set_back_is_named_by_every_verb_until_it_is_accepted() {
    needs!("cp");
    let (home, lost) = Home::set_back();
    let latest = format!("latest:{}", home.path("src/a"));
    let (src, out, mirror) = (home.path("src"), home.path("out"), home.path("m"));
    let verbs: [&[&str]; 10] = [
        &["snapshots"],
        &["ls"],
        &["find", "a"],
        &["cat", &latest],
        &["diff", "latest", "latest"],
        &["restore", "latest", "--target", &out],
        &["check"],
        &["stats"],
        &["mirror", "--new", &mirror],
        &["snapshot", &src],
    ];
    for verb in verbs {
        home.names(verb, &lost, 13);
    }
    home.is_restored("out");
    for verb in ["snapshots", "check"] {
        let said = home.run(&[verb, "--json"]).code(13);
        let lines = json(&[said.stdout.as_slice(), said.stderr.as_bytes()].concat());
        for id in &lost {
            let names = |line: &&serde_json::Value| {
                line["error"]["message"].as_str().is_some_and(|text| text.contains(id))
            };
            assert_eq!(lines.iter().filter(names).count(), 1, "{verb}");
        }
    }
    assert_eq!(summary(&home.run(&["check", "--json"]).code(13))["snapshots_gone"], 2);

    let accepted = home.run(&["check", "--accept-loss"]).ok();
    for id in &lost {
        assert!(accepted.stderr.contains(&format!("{id} is gone, and is expected no longer")));
    }
    assert!(!accepted.stderr.contains("if that is right"), "{}", accepted.stderr);
    for verb in &verbs[..8] {
        if verb[0] != "restore" {
            home.names(verb, &lost, 0);
        }
    }
}

#[test]
fn a_snapshot_is_taken_all_the_same_and_not_called_damaged() {
    needs!("cp");
    let (home, lost) = Home::set_back();
    let said = home.run(&["snapshot", &home.path("src")]).code(13).says(&lost[0]).says("snapshot ");
    assert!(!said.stderr.contains("damaged"), "{}", said.stderr);
    home.run(&["check", "--accept-loss"]).ok();
    home.run(&["restore", "latest", "--target", &home.path("out")]).ok();
    home.is_restored("out");
}

#[test]
fn a_snapshot_file_that_was_deleted_is_named() {
    let home = Home::saved();
    let lost = [home.save()];
    home.save();
    fs::remove_file(home.vault.join("repo/snapshots").join(&lost[0])).unwrap();
    home.names(&["snapshots"], &lost, 13);
    home.names(&["check"], &lost, 13);
    // Brought back, all is well.
    home.run(&["check", "--accept-loss"]).ok();
    home.run(&["snapshots"]).ok();
}

#[test]
fn who_has_not_seen_the_newer_one_misses_nothing() {
    needs!("cp");
    let (home, _) = Home::set_back();
    home.remove("state");
    home.names(&["snapshots"], &[], 0);
}

#[test]
fn a_mirror_that_is_behind_is_no_loss() {
    let home = Home::saved();
    let mirror = home.path("mirror");
    home.bare(&["mirror", "--new", &mirror]).ok();
    let newer = home.save();
    home.add_other();
    home.run(&["snapshots"]).ok();
    let behind = home.run(&["-r", &mirror, "snapshots"]).ok().says("not up to date").says(&newer[..8]);
    assert!(
        !behind.stderr.contains("warning") && !behind.stderr.contains("--accept-loss"),
        "{}",
        behind.stderr
    );
    home.run(&["-r", &mirror, "check", "--read-data"]).ok();
    home.bare(&["mirror", &mirror]).ok();
    let even = home.run(&["-r", &mirror, "snapshots"]).ok();
    assert!(
        !even.stderr.contains("not up to date") && !even.stderr.contains("is not here"),
        "{}",
        even.stderr
    );
}

#[test]
fn a_key_file_that_was_deleted_is_said_until_it_is_accepted() {
    let home = Home::saved();
    let second = home.add_other();
    home.run(&["snapshots"]).ok();
    let file = home.vault.join("repo/keys").join(&second);
    let bytes = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let text = format!("the key {second} was here and is gone, and nobody removed it");
    for verb in ["snapshots", "check", "stats"] {
        home.run(&[verb]).ok().says(&text).says("--accept-loss");
        home.run(&[verb, "--quiet"]).ok().says(&text);
    }
    home.with(OTHER, &["snapshots"]).code(12);
    fs::write(&file, bytes).unwrap();
    home.with(OTHER, &["snapshots"]).ok();
    fs::remove_file(&file).unwrap();
    home.run(&["check", "--accept-loss"])
        .ok()
        .says(&format!("the key {second} is gone, and is expected no longer"));
    let quiet = home.run(&["snapshots"]).ok();
    assert!(!quiet.stderr.contains(&second), "{}", quiet.stderr);
}

#[test]
fn a_repository_that_was_seen_encrypted_is_refused_when_it_says_that_it_is_plain() {
    let home = Home::saved();
    let backend = Arc::new(LocalFolder::new(home.vault.join("repo")));
    let repository = Repository::open(backend).unwrap();
    let config = Config { encryption: 0, fields: Vec::new(), ..repository.config().clone() };
    let bytes = config.encode(repository.id());
    for name in ["config", "config.2"] {
        fs::write(home.vault.join("repo").join(name), &bytes).unwrap();
    }
    let src = home.path("src");
    let mirror = home.path("m");
    let verbs: [&[&str]; 6] = [
        &["snapshots"],
        &["snapshot", &src],
        &["check"],
        &["check", "--without-key"],
        &["key", "list"],
        &["mirror", "--new", &mirror],
    ];
    // Keys beside it give it away anywhere.
    for verb in verbs {
        home.bare(verb).code(13).says("config").says("write nothing to it");
    }
    for key in crate::cli::files(&home.vault.join("repo/keys")) {
        fs::remove_file(key).unwrap();
    }
    let before = crate::cli::files(&home.vault.join("repo"));
    for verb in verbs {
        home.bare(verb).code(13).says("config").says("write nothing to it");
        home.run(verb).code(13);
    }
    assert_eq!(crate::cli::files(&home.vault.join("repo")), before);
    assert!(!home.vault.join("m").exists());
    // A computer that never saw it cannot know; with a passphrase it need not.
    home.remove("state");
    home.run(&["snapshot", &src]).code(1).says("says that it is not encrypted");
    assert_eq!(crate::cli::files(&home.vault.join("repo")), before);
}
