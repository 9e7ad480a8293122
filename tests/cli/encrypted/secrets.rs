//! No secret in what the program prints, logs, keeps or hands on. What it left behind is searched when each `Home` ends.

use std::fs;

use super::{FAST, Home, OTHER, PASSPHRASE, RECOVERY};

#[test]
fn no_verb_prints_or_logs_a_secret_however_much_it_says() {
    for look in ["-vv", "--json"] {
        let home = Home::new();
        let (src, pw2, key) = (home.path("src"), home.path("pw2"), home.path("key.txt"));
        let (mirror, out) = (home.path("m"), home.path("out"));
        let args: [&[&str]; 15] = [
            &["init"],
            &["snapshot", &src],
            &["snapshot", "--force", &src],
            &["snapshots"],
            &["ls", "-R"],
            &["find", "a"],
            &["diff", "latest~1", "latest"],
            &["stats"],
            &["restore", "latest", "--target", &out],
            &["check", "--read-data"],
            &["mirror", "--new", &mirror],
            &["key", "list"],
            &["key", "add", "--new-passphrase-file", &pw2],
            &["key", "test"],
            &["key", "export", "-o", &key],
        ];
        for args in args {
            let fast = if args.contains(&"init") || args.contains(&"add") { &FAST[..] } else { &[] };
            home.run(&[args, &[look], fast].concat()).ok();
        }
        home.bare(&["snapshots", look, "--recovery-key-file", &key]).ok();
        home.bare(&["snapshots", look, "--passphrase-file", &pw2]).ok();
        let slip = fs::read_to_string(&key).unwrap().replace("-1-", "-1-AAAA-");
        fs::write(home.vault.join("slip"), slip).unwrap();
        home.bare(&["snapshots", look, "--recovery-key-file", &home.path("slip")]).code(2);
        home.with(&format!("{PASSPHRASE}, mistyped"), &["snapshots", look]).code(12);
        home.run(&["init", look]).code(1);
        home.run(&["key", "remove", "none", look]).code(1);
        fs::remove_file(crate::cli::files(&home.vault.join("repo/snapshots")).remove(0)).unwrap();
        home.run(&["check", look]).code(13);
        assert_eq!(home.leaks(), [""; 0].map(std::path::PathBuf::from));
        assert!(fs::read_to_string(home.vault.join("log")).unwrap().contains("exit code 12"));
    }
}

#[test]
fn the_search_for_secrets_finds_them() {
    let home = Home::new();
    let places = ["runs/x", "log", "state/x", "cache/x", "repo/x"];
    fs::create_dir(home.vault.join("repo")).unwrap();
    for (place, secret) in places.iter().zip([PASSPHRASE, OTHER, RECOVERY, PASSPHRASE, OTHER]) {
        let file = home.vault.join(place);
        fs::write(&file, format!("before {secret} behind")).unwrap();
        assert_eq!(home.leaks(), [file.as_path()]);
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn no_command_that_is_run_is_told_the_passphrase() {
    let home = Home::saved();
    let told = home.path("told");
    let look = format!(
        "tr '\\0' '\\n' < /proc/self/environ > '{told}'; cat /proc/$$/cmdline /proc/$PPID/cmdline >> '{told}'"
    );
    let is_told = || {
        let text = String::from_utf8_lossy(&fs::read(&told).unwrap()).into_owned();
        fs::remove_file(&told).unwrap();
        assert!(text.contains("PATH=") && text.contains("--log-file"), "{text}");
        text.contains("VAULT_PASSPHRASE") || text.contains(PASSPHRASE)
    };
    let saved = ["snapshot", "--stdin-from-command", "--", "sh", "-c"];
    // Behind `--` all is the command's.
    let mut command = home.vault.command::<&str>(&[]);
    command.arg("--log-file").arg(home.vault.join("log")).args(saved).arg(&look);
    command.env("VAULT_PASSPHRASE", PASSPHRASE);
    home.vault.start(command).wait().ok();
    assert!(!is_told());

    let print = format!("{look}; cat '{}'", home.path("pw"));
    home.with(PASSPHRASE, &["snapshots", "--passphrase-command", &print]).ok();
    assert!(!is_told());
    let print = format!("{look}; cat '{}'", home.path("pw2"));
    let add = [&["key", "add", "--new-passphrase-command", &print][..], &FAST].concat();
    home.run(&add).ok();
    assert!(!is_told());
}

#[test]
fn a_run_has_its_passphrase_in_no_argument_and_leaves_no_core() {
    let home = Home::saved();
    // Open as long as the run takes.
    let (input, _output) = std::io::pipe().unwrap();
    let mut command = home.command(&["snapshot", "--stdin", "--passphrase-file", &home.path("pw")]);
    command.stdin(input);
    let mut running = home.vault.start(command);
    let process = format!("/proc/{}", running.id());
    let limits = || fs::read_to_string(format!("{process}/limits")).unwrap_or_default();
    let no_core = |limits: &str| {
        let line = limits.lines().find(|line| line.starts_with("Max core file size"));
        line.is_some_and(|line| line.split_whitespace().filter(|word| *word == "0").count() == 2)
    };
    running.wait_until("core dumps are off", |_| no_core(&limits()));
    let arguments = fs::read(format!("{process}/cmdline")).unwrap();
    assert!(!String::from_utf8_lossy(&arguments).contains(PASSPHRASE));
    running.signal(rustix::process::Signal::TERM);
    running.wait().code(130);
}
