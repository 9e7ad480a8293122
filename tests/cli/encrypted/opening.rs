//! Making and opening encrypted repositories without a terminal: each way to give a passphrase, and each mistake.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{FAST, Home, OTHER, PASSPHRASE, is_repository};
use crate::cli::json;
use crate::support::vault::Output;

/// How a passphrase is given: further arguments, and a variable.
type Way = (Vec<String>, Option<(&'static str, String)>);

fn ways(home: &Home) -> [Way; 4] {
    let pw = home.path("pw");
    [
        (vec!["--passphrase-file".into(), pw.clone()], None),
        (vec!["--passphrase-command".into(), format!("cat '{pw}'")], None),
        (Vec::new(), Some(("VAULT_PASSPHRASE", PASSPHRASE.into()))),
        (Vec::new(), Some(("VAULT_PASSPHRASE_FILE", pw))),
    ]
}

fn run_by(home: &Home, args: &[String], (more, variable): &Way) -> Output {
    let mut command = home.command(&[args, more].concat());
    command.envs(variable.clone());
    home.vault.start(command).wait()
}

#[test]
fn without_a_terminal_init_names_the_ways_to_give_a_passphrase_and_each_works() {
    let home = Home::new();
    let refused = home.bare(&home.init("repo")).code(2);
    let named = [
        "--passphrase-file",
        "--passphrase-command",
        "VAULT_PASSPHRASE ",
        "VAULT_PASSPHRASE_FILE",
        "--unencrypted",
    ];
    for way in named {
        assert!(refused.stderr.contains(way), "{way}: {}", refused.stderr);
    }
    assert!(!home.vault.join("repo").exists());
    for (number, way) in ways(&home).iter().enumerate() {
        let made = run_by(&home, &home.init(&format!("repo-{number}")), way).ok();
        assert!(made.stderr.contains("; encrypted"), "{}", made.stderr);
        let list = ["-r".to_owned(), home.path(&format!("repo-{number}")), "snapshots".to_owned()];
        for way in ways(&home) {
            run_by(&home, &list, &way).ok();
        }
        home.bare(&list).code(12);
    }
    home.bare(&["init", "--unencrypted"]).ok().says("it is not encrypted");
    home.bare(&["snapshots"]).ok();
}

#[test]
fn init_says_in_json_whether_it_is_encrypted() {
    let home = Home::new();
    for (name, flags, expected) in [("a", &FAST[..], true), ("b", &["--unencrypted"], false)] {
        let folder = home.path(name);
        let args = [&["init", "--json", "-r", &folder], flags].concat();
        let made = if expected { home.run(&args) } else { home.bare(&args) }.ok();
        assert_eq!(json(&made.stdout)[0]["encrypted"], expected);
    }
}

#[test]
fn unencrypted_and_a_passphrase_contradict_each_other() {
    let home = Home::new();
    home.run(&["init", "--unencrypted"]).code(2).says("which of them?");
    home.bare(&["init", "--unencrypted", "--passphrase-file", &home.path("pw")]).code(2);
    home.bare(&["init", "--unencrypted", "--key-name", "x"]).code(2);
    assert!(!home.vault.join("repo").exists());
}

#[test]
fn a_repository_is_made_once() {
    let home = Home::made();
    let id = fs::read(home.vault.join("repo/config")).unwrap();
    home.run(&home.init("repo")).code(1).says("already holds a repository");
    // Nobody is asked for a passphrase for nothing.
    home.bare(&home.init("repo")).code(1).says("already holds a repository");
    assert_eq!(fs::read(home.vault.join("repo/config")).unwrap(), id);
}

#[test]
fn a_key_that_would_take_too_much_to_open_is_refused_before_anything_is_asked() {
    let home = Home::new();
    let folder = home.path("repo");
    for args in [["--kdf-memory", "1G", "--kdf-passes", "16"], ["--kdf-memory", "4M", "--kdf-passes", "1"]] {
        home.bare(&[&["init", "-r", &folder], &args[..]].concat()).code(2).says("--kdf-memory");
    }
    assert!(!is_repository(&home.vault.join("repo")));
}

#[test]
fn the_first_snapshot_makes_what_it_is_told_and_says_which() {
    let home = Home::new();
    let first = |place: &str, passphrase: Option<&str>| {
        let mut command = home.command(&["snapshot", &home.path("src")]);
        command.env_remove("VAULT_REPOSITORY").env("XDG_DATA_HOME", home.path(place));
        command.envs(passphrase.map(|passphrase| ("VAULT_PASSPHRASE", passphrase)));
        home.vault.start(command).wait()
    };
    first("d1", None).ok().says("it is not encrypted");
    first("d1", None).ok();
    first("d2", Some(PASSPHRASE)).ok().says("; encrypted");
    first("d2", Some(PASSPHRASE)).ok();
    first("d2", None).code(12);
    let keys = |place: &str| {
        fs::read_dir(home.vault.join(place).join("vault/default/keys")).map_or(0, Iterator::count)
    };
    assert_eq!((keys("d1"), keys("d2")), (0, 1));
    first("d1", Some(PASSPHRASE)).code(1).says("not encrypted");
}

#[test]
fn a_wrong_passphrase_an_altered_key_and_none_are_told_apart() {
    let home = Home::saved();
    let wrong = home.with(OTHER, &["snapshots"]).code(12).says("wrong passphrase");
    assert!(!wrong.stderr.contains("damaged"), "{}", wrong.stderr);
    let none = home.bare(&["snapshots"]).code(12).says("no passphrase was given");
    for way in ["--passphrase-file", "--passphrase-command", "VAULT_PASSPHRASE_FILE", "--recovery-key-file"] {
        assert!(none.stderr.contains(way), "{way}: {}", none.stderr);
    }
    let value = json(home.bare(&["snapshots", "--json"]).code(12).stderr.as_bytes());
    assert_eq!((&value[0]["code"], &value[0]["message_type"]), (&12.into(), &"exit_error".into()));

    // What is sealed in the key, altered by someone who makes name and hash right.
    let key = home.vault.join("repo/keys").join(&home.keys()[0]);
    let mut bytes = fs::read(&key).unwrap();
    let end = bytes.len() - 32;
    bytes[end - 60] ^= 1;
    let hash = vault::id::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&hash);
    fs::remove_file(&key).unwrap();
    let name = vault::id::KeyId::from_bytes(vault::id::hash(&bytes)).to_string();
    fs::write(home.vault.join("repo/keys").join(name), &bytes).unwrap();
    let altered = home.run(&["snapshots"]).code(13).says("damaged");
    assert!(!altered.stderr.contains("wrong passphrase"), "{}", altered.stderr);
    home.with(OTHER, &["snapshots"]).code(12).says("wrong passphrase");
}

#[test]
fn a_key_that_cannot_be_tried_is_named_beside_a_wrong_passphrase() {
    let home = Home::saved();
    let first = home.keys().remove(0);
    home.add_other();
    crate::cli::flip(&home.vault.join("repo/keys").join(&first));
    home.run(&["snapshots"]).code(12).says("wrong passphrase").says(&first);
    let found = home.with(OTHER, &["check"]).code(13);
    assert!(format!("{}{}", found.text(), found.stderr).contains(&first));
}

#[test]
fn a_passphrase_for_a_plain_repository_is_an_error_and_nothing_is_written() {
    let home = Home::new();
    home.bare(&["init", "--unencrypted"]).ok();
    let before = crate::cli::files(&home.vault.join("repo"));
    let src = home.path("src");
    let key_file = home.path("key.txt");
    fs::write(&key_file, "VAULT-RECOVERY-1-AAAA\n").unwrap();
    for args in [
        &["snapshot", src.as_str()][..],
        &["snapshots"],
        &["check"],
        &["mirror", "--new", &home.path("m")],
        &["snapshots", "--recovery-key-file", &key_file],
    ] {
        home.run(args).code(1).says("says that it is not encrypted");
    }
    home.bare(&["snapshots", "--key", "ab"]).code(1).says("says that it is not encrypted");
    assert_eq!(crate::cli::files(&home.vault.join("repo")), before);
    assert!(!home.vault.join("m").exists());
    for verb in [&["key", "list"][..], &["key", "export"], &["key", "test"], &["key", "add"]] {
        home.bare(verb).code(2).says("not encrypted");
    }
}

#[test]
fn passphrases_of_all_sorts_are_the_same_from_a_file_a_command_and_the_environment() {
    let long = "x".repeat(10 << 10);
    for phrase in ["Grüße aus  Köln", " spaces at both ends ", "-r", long.as_str()] {
        let home = Home::new();
        home.with(phrase, &home.init("repo")).ok();
        for end in ["", "\n", "\r\n", "\nmore\n"] {
            fs::write(home.vault.join("f"), format!("{phrase}{end}")).unwrap();
            home.bare(&["key", "test", "--passphrase-file", &home.path("f")]).ok();
            let command = format!("cat '{}'", home.path("f"));
            home.bare(&["key", "test", "--passphrase-command", &command]).ok();
        }
    }
    // Not cut at a byte that ends a string elsewhere.
    let home = Home::new();
    fs::write(home.vault.join("nul"), b"one\0two\n").unwrap();
    fs::write(home.vault.join("cut"), b"one\n").unwrap();
    home.bare(&[home.init("repo"), vec!["--passphrase-file".into(), home.path("nul")]].concat()).ok();
    home.bare(&["key", "test", "--passphrase-file", &home.path("nul")]).ok();
    home.bare(&["key", "test", "--passphrase-file", &home.path("cut")]).code(12);
}

#[test]
fn what_gives_no_passphrase_is_named() {
    let home = Home::saved();
    fs::write(home.vault.join("empty"), "").unwrap();
    fs::write(home.vault.join("blank"), "\nsecond line\n").unwrap();
    fs::write(home.vault.join("huge"), "x".repeat(70_000)).unwrap();
    for (file, code, text) in [
        ("empty", 2, "is empty"),
        ("blank", 2, "is empty"),
        ("huge", 2, "too long"),
        ("nowhere", 1, "No such file"),
        ("src", 1, "Is a directory"),
    ] {
        let path = home.path(file);
        home.bare(&["snapshots", "--passphrase-file", &path]).code(code).says(text).says(file);
        let mut command = home.command(&["snapshots"]);
        command.env("VAULT_PASSPHRASE_FILE", &path);
        home.vault.start(command).wait().code(code).says(text);
    }
    for (command, code, text) in
        [("false", 1, "exit status 1"), ("true", 2, "is empty"), ("kill -9 $$", 1, "signal 9")]
    {
        let failed = home.bare(&["snapshots", "--passphrase-command", command]).code(code).says(text);
        assert!(failed.stderr.contains("the passphrase command"), "{}", failed.stderr);
    }
    home.bare(&["snapshots", "--recovery-key-file", &home.path("pw")]).code(2).says("no recovery key");
    // An empty variable is none, and what is said on the command line counts more than a variable.
    home.with("", &["snapshots"]).code(12).says("no passphrase was given");
    home.with(OTHER, &["snapshots", "--passphrase-file", &home.path("pw")]).ok();
}

#[test]
fn the_passphrase_command_runs_once() {
    let home = Home::new();
    let count = home.path("count");
    let command = format!("echo x >> '{count}'; cat '{}'", home.path("pw"));
    let runs = || {
        let runs = fs::read_to_string(&count).unwrap_or_default().lines().count();
        let _ = fs::remove_file(&count);
        runs
    };
    let by = |args: &[&str]| {
        let mut command = home.command(&[args, &["--passphrase-command", &command]].concat());
        command.env_remove("VAULT_REPOSITORY");
        home.vault.start(command).wait().ok();
        runs()
    };
    let (src, mirror) = (home.path("src"), home.path("m"));
    for args in [
        &["snapshot", src.as_str()][..],
        &["snapshot", &src],
        &["mirror", "--new", &mirror],
        &["check", "--repair-copy"],
    ] {
        assert_eq!(by(args), 1, "{args:?}");
    }
    fs::remove_file(home.vault.join("data/vault/default/copy")).unwrap();
    assert_eq!(by(&["check", "--repair-copy"]), 1);
}

#[test]
fn without_a_key_every_file_is_held_against_its_name() {
    let home = Home::saved();
    home.bare(&["check", "--without-key"]).ok().says("every file has the bytes").says("with a passphrase");
    home.bare(&["check", "--without-key", "--accept-loss"]).code(2);
    home.bare(&["check"]).code(12);
    let pack = crate::cli::files(&home.vault.join("repo/packs")).remove(0);
    crate::cli::flip(&pack);
    let found = home.bare(&["check", "--without-key"]).code(13);
    assert!(found.text().contains(pack.file_name().unwrap().to_str().unwrap()), "{}", found.text());

    // A plain one has no key, and the same is done.
    let plain = home.path("plain");
    let src = home.path("src");
    home.bare(&["-r", &plain, "init", "--unencrypted"]).ok();
    home.bare(&["-r", &plain, "snapshot", &src]).ok();
    home.bare(&["-r", &plain, "check", "--without-key"]).ok().says("every file has the bytes");
    crate::cli::flip(&crate::cli::files(&home.vault.join("plain/packs"))[0]);
    home.bare(&["-r", &plain, "check", "--without-key"]).code(13);
}

#[test]
fn what_is_kept_beside_an_encrypted_repository_is_the_users_own_and_can_go() {
    let home = Home::saved();
    let before = home.save();
    for root in ["cache", "state"] {
        let mut found = 0;
        for item in walkdir::WalkDir::new(home.vault.join(root)).min_depth(1).into_iter().map(Result::unwrap)
        {
            let mode = item.metadata().unwrap().permissions().mode() & 0o777;
            // The mark of a cache says nothing of what is in it.
            if item.file_name() != "CACHEDIR.TAG" {
                let expected = if item.file_type().is_dir() { 0o700 } else { 0o600 };
                assert_eq!(mode, expected, "{}", item.path().display());
                found += 1;
            }
        }
        assert!(found >= 2, "{root}");
    }
    for root in ["cache", "state"] {
        home.remove(root);
    }
    let listed = home.run(&["snapshots", "--json"]).ok();
    assert_eq!(json(&listed.stdout).last().unwrap()["id"], before.as_str());
    home.run(&["restore", "latest", "--target", &home.path("out")]).ok();
    home.is_restored("out");
    home.save();
    home.run(&["check", "--read-data"]).ok();
    home.run(&["snapshots", "--no-cache"]).ok();
}

#[test]
fn a_memory_that_cannot_be_written_is_said_and_stops_nothing() {
    let home = Home::saved();
    fs::write(home.vault.join("a-file"), "").unwrap();
    let mut command = home.command(&["snapshots"]);
    command.env("XDG_STATE_HOME", home.path("a-file")).env("VAULT_PASSPHRASE", PASSPHRASE);
    home.vault.start(command).wait().ok().says("is not remembered");
    let mut command = home.command(&["snapshots"]);
    command.env_remove("HOME").env_remove("XDG_STATE_HOME").env("VAULT_PASSPHRASE", PASSPHRASE);
    home.vault.start(command).wait().ok();
}
