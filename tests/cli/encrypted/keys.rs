//! `vault key`: several passphrases for one repository, and the recovery key.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{FAST, Home, OTHER, PASSPHRASE, RECOVERY};
use crate::cli::json;

#[test]
fn a_key_is_added_listed_used_and_removed() {
    let home = Home::saved();
    let first = home.keys().remove(0);
    let second = home.add_other();
    let mut both = [first.clone(), second.clone()];
    both.sort();
    assert_eq!(home.keys(), both);
    let listed = home.bare(&["key", "list"]).ok();
    assert!(listed.text().contains("the other") && listed.text().contains("8.0 MiB, 1 pass"));
    assert!(listed.text().contains(&first[..8]) && listed.text().contains(&second[..8]));
    let value = json(&home.bare(&["key", "list", "--json"]).ok().stdout);
    let other = value.iter().find(|key| key["id"] == second.as_str()).unwrap();
    assert_eq!((&other["name"], &other["memory_kib"]), (&"the other".into(), &8192.into()));
    assert_eq!((&other["passes"], &other["lanes"]), (&1.into(), &1.into()));
    assert!(other["created"].as_str().is_some_and(|time| time.starts_with("20")));

    home.with(OTHER, &["snapshots"]).ok();
    home.with(OTHER, &["snapshots", "--key", &second[..8]]).ok();
    home.with(OTHER, &["snapshots", "--key", &first[..8]]).code(12).says("wrong passphrase");
    home.with(OTHER, &["snapshots", "--key", "zz"]).code(1).says("vault key list");
    home.bare(&["key", "remove", &second]).code(12);

    let removed = home.run(&["key", "remove", &second[..6], "--json"]).ok().says("make a new repository");
    let value = json(&removed.stdout);
    assert_eq!(
        (&value[0]["message_type"], &value[0]["id"]),
        (&"key_removed".into(), &second.as_str().into())
    );
    home.with(OTHER, &["snapshots"]).code(12);
    home.run(&["snapshots"]).ok();
    assert_eq!(home.keys(), [first]);
}

#[test]
fn neither_the_last_key_nor_the_own_one_nor_an_unknown_one_is_removed() {
    let home = Home::made();
    let first = home.keys().remove(0);
    home.run(&["key", "remove", &first]).code(2).says("the last key is not removed");
    let key = home.path("key.txt");
    home.run(&["key", "export", "--output", &key]).ok();
    home.bare(&["key", "remove", &first, "--recovery-key-file", &key]).code(2).says("the last key");
    let second = home.add_other();
    home.run(&["key", "remove", &first]).code(2).says("open it with another one");
    let unknown = home.run(&["key", "remove", "0123456789abcdef"]).code(1).says("there is no key");
    assert!(unknown.stderr.contains("`vault key list`"), "{}", unknown.stderr);
    home.run(&["key", "remove", ""]).code(2);
    // Sixteen first letters: with one more key than that, two share theirs.
    let folder = home.vault.join("repo/keys");
    let bytes = fs::read(folder.join(&second)).unwrap();
    let twin = format!("{}{}", &second[..1], "0".repeat(63));
    fs::write(folder.join(twin), bytes).unwrap();
    home.run(&["key", "remove", &second[..1]]).code(2).says("fits several keys");
    home.run(&["key", "remove", &second]).ok();
    assert!(home.keys_readable().contains(&first));
}

impl Home {
    /// The ids of the keys that can be read, though others cannot.
    fn keys_readable(&self) -> Vec<String> {
        let listed = json(&self.bare(&["key", "list", "--json"]).code(13).stdout);
        listed.iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn changing_a_passphrase_replaces_the_key_that_was_used() {
    let home = Home::saved();
    let first = home.keys().remove(0);
    let pw2 = home.path("pw2");
    home.run(&["key", "change"]).code(2).says("--new-passphrase-file").says("--new-passphrase-command");
    assert_eq!(home.keys(), [first.as_str()]);
    let args = [&["key", "change", "--json", "--new-passphrase-file", &pw2][..], &FAST].concat();
    let changed = json(&home.run(&args).ok().stdout);
    assert_eq!(changed[0]["message_type"], "key_added");
    assert_eq!(
        (&changed[1]["message_type"], &changed[1]["id"]),
        (&"key_removed".into(), &first.as_str().into())
    );
    assert_eq!(home.keys(), [changed[0]["id"].as_str().unwrap()]);
    home.run(&["snapshots"]).code(12);
    home.with(OTHER, &["restore", "latest", "--target", &home.path("out")]).ok();
    home.is_restored("out");
    // And back, by a command.
    let command = format!("cat '{}'", home.path("pw"));
    let args = [&["key", "change", "--new-passphrase-command", &command][..], &FAST].concat();
    home.with(OTHER, &args).ok().says("added the key").says("removed the key");
    home.run(&["snapshots"]).ok();
    home.with(OTHER, &["snapshots"]).code(12);
}

#[test]
fn a_new_passphrase_that_is_none_changes_nothing() {
    let home = Home::made();
    let before = home.keys();
    fs::write(home.vault.join("empty"), "").unwrap();
    let key = home.path("key.txt");
    home.run(&["key", "export", "-o", &key]).ok();
    let recovery = fs::read_to_string(&key).unwrap();
    let line = recovery.lines().find(|line| line.starts_with(RECOVERY)).unwrap();
    fs::write(home.vault.join("line"), line).unwrap();
    for verb in ["add", "change"] {
        for (file, text) in [("empty", "is empty"), ("line", "this is a recovery key")] {
            home.run(&["key", verb, "--new-passphrase-file", &home.path(file)]).code(2).says(text);
        }
        let too_much = ["key", verb, "--kdf-memory", "1G", "--kdf-passes", "9"];
        home.run(&too_much).code(2).says("--kdf-memory times --kdf-passes");
    }
    assert_eq!(home.keys(), before);
}

#[test]
fn key_test_says_which_key_a_passphrase_opens() {
    let home = Home::made();
    let first = home.keys().remove(0);
    let second = home.add_other();
    home.run(&["key", "test"]).ok().says(&first[..8]);
    home.with(OTHER, &["key", "test"]).ok().says(&format!("{} (the other)", &second[..8]));
    let value = json(&home.with(OTHER, &["key", "test", "--json"]).ok().stdout);
    assert_eq!((&value[0]["message_type"], &value[0]["id"]), (&"key_opened".into(), &second.as_str().into()));
    home.with("neither", &["key", "test"]).code(12).says("wrong passphrase");
    home.bare(&["key", "test"]).code(12);
    let key = home.path("key.txt");
    home.run(&["key", "export", "-o", &key]).ok();
    home.bare(&["key", "test", "--recovery-key-file", &key]).ok().says("the recovery key opens");
    let value = json(&home.bare(&["key", "test", "--json", "--recovery-key-file", &key]).ok().stdout);
    assert!(value[0]["id"].is_null());
}

#[test]
fn a_recovery_key_is_written_for_its_owner_only_and_over_nothing() {
    let home = Home::made();
    let key = home.path("key.txt");
    home.bare(&["key", "export", "-o", &key]).code(12);
    let written = home.run(&["key", "export", "-o", &key]).ok().says("wrote the recovery key");
    assert!(written.stdout.is_empty());
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read(&key).unwrap();
    let printed = home.run(&["key", "export"]).ok();
    assert_eq!(printed.stdout, text, "on the standard output it is the same");
    home.may_have(&printed.stdout);
    home.run(&["key", "export", "-o", &key]).code(1).says("not overwritten");
    assert_eq!(fs::read(&key).unwrap(), text);
    let missing = home.path("nowhere/key.txt");
    home.run(&["key", "export", "-o", &missing]).code(1).says("cannot make");
    let printed = home.run(&["key", "export", "--json"]).ok();
    home.may_have(&printed.stdout);
    let value = json(&printed.stdout);
    assert!(String::from_utf8_lossy(&text).contains(value[0]["recovery_key"].as_str().unwrap()));
    // Either way it is a file that opens the repository.
    fs::write(&key, &printed.stdout).unwrap();
    home.bare(&["snapshots", "--recovery-key-file", &key]).ok();
    let second = home.path("second.txt");
    let said = home.run(&["key", "export", "--json", "-o", &second]).ok();
    assert_eq!(json(&said.stdout)[0]["file"], second.as_str());
    assert_eq!(fs::read(&second).unwrap(), text);
}

#[test]
fn a_recovery_key_restores_when_all_key_files_are_gone() {
    let home = Home::saved();
    let key = home.path("key.txt");
    home.run(&["key", "export", "-o", &key]).ok();
    for file in crate::cli::files(&home.vault.join("repo/keys")) {
        fs::remove_file(file).unwrap();
    }
    home.run(&["snapshots"]).code(13).says("all its keys are missing").says("--recovery-key-file");
    let out = home.path("out");
    home.bare(&["restore", "latest", "--target", &out, "--recovery-key-file", &key]).ok().says("is gone");
    home.is_restored("out");
    home.bare(&["check", "--read-data", "--recovery-key-file", &key]).ok();

    // Typed by hand, into the place of a passphrase.
    let text = fs::read_to_string(&key).unwrap();
    let line = text.lines().find(|line| line.starts_with(RECOVERY)).unwrap();
    home.with(&line.to_lowercase().replace('-', " "), &["snapshots"]).ok();
    let (start, end) = line.split_at(30);
    let slip = format!("{start}{}{}", if end.starts_with('A') { 'B' } else { 'A' }, &end[1..]);
    home.with(&slip, &["snapshots"]).code(2).says("typing error");

    // It makes a passphrase anew; but it is not changed into one.
    let new = ["--recovery-key-file", &key, "--new-passphrase-file", &home.path("pw2")];
    home.bare(&[&["key", "change"][..], &new].concat()).code(2).says("vault key add");
    home.bare(&[&["key", "add"][..], &new, &FAST].concat()).ok();
    home.with(OTHER, &["snapshots"]).ok().says("nobody removed it");
    home.with(OTHER, &["check", "--accept-loss"]).ok().says("is expected no longer");
    let quiet = home.with(OTHER, &["snapshots"]).ok();
    assert!(!quiet.stderr.contains("key"), "{}", quiet.stderr);
    home.with(PASSPHRASE, &["snapshots"]).code(12);
}

#[test]
fn the_recovery_key_of_another_repository_opens_nothing() {
    let home = Home::made();
    home.run(&home.init("other")).ok();
    let key = home.path("key.txt");
    home.run(&["key", "export", "-o", &key, "-r", &home.path("other")]).ok();
    home.bare(&["snapshots", "--recovery-key-file", &key]).code(13).says("config");
    home.bare(&["snapshots", "--recovery-key-file", &key, "-r", &home.path("other")]).ok();
}

#[test]
fn a_mirror_follows_the_keys() {
    let home = Home::saved();
    let second = home.add_other();
    let mirror = home.path("mirror");
    // It needs none itself.
    home.bare(&["mirror", "--new", &mirror]).ok();
    home.with(OTHER, &["-r", &mirror, "snapshots"]).ok();
    home.run(&["key", "remove", &second]).ok();
    home.with(OTHER, &["snapshots"]).code(12);
    // Not refreshed, it knows nothing of that; refreshed without a passphrase, it says so.
    home.with(OTHER, &["-r", &mirror, "snapshots"]).ok();
    home.bare(&["mirror", &mirror]).ok().says("give a passphrase to remove them there");
    home.with(OTHER, &["-r", &mirror, "snapshots"]).code(12).says("was removed");
    home.run(&["mirror", &mirror]).ok();
    assert!(!home.vault.join("mirror/keys").join(&second).exists());
    home.with(OTHER, &["-r", &mirror, "snapshots"]).code(12).says("wrong passphrase");
    home.run(&["-r", &mirror, "restore", "latest", "--target", &home.path("out")]).ok();
    home.is_restored("out");
    home.with(OTHER, &["mirror", &mirror]).code(12);
}
