//! An ordinary user: what they may read is saved, what they may not is recorded and listed at the end.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::support::manifest::Manifest;
use crate::support::mount;
use crate::support::needs::needs;
use crate::support::torture;
use crate::support::vault::Vault;
use crate::whole::world::{quiet, settle, small_torture};

const USER: &str = "65534";

/// The program run by an ordinary user.
fn as_user(vault: &Vault, args: &[OsString]) -> Command {
    let inner = vault.command(args);
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "--no-new-privs"]);
    // The one that was built may lie where only root can go.
    command.arg(vault.join("program")).args(inner.get_args()).env_clear();
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(vault.join("cwd"));
    command
}

#[test]
fn an_ordinary_user_saves_and_restores_what_they_may_read() {
    needs!("root", "setpriv", "chown");
    let mut vault = Vault::new();
    vault.env("VAULT_REPOSITORY", vault.join("home/repository"));
    let source = vault.join("home/source");
    fs::create_dir(&source).unwrap();
    torture::build(&source, torture::Options { root: false, ..small_torture() });
    fs::copy(env!("CARGO_BIN_EXE_vault"), vault.join("program")).unwrap();
    mount::run(Command::new("chown").args(["-Rh", "65534:65534"]).arg(vault.path()));
    fs::write(source.join("of-root"), "secret").unwrap();
    fs::set_permissions(source.join("of-root"), fs::Permissions::from_mode(0o600)).unwrap();
    settle();
    let run = |args: &[OsString]| vault.start(as_user(&vault, args)).wait();
    run(&["init".into()]).ok();
    let hidden = [
        "of-root",
        "modes/file-0000",
        "modes/file-0200",
        "modes/folder-0000",
        "modes/folder-0200",
        "modes/folder-0400/inner",
        "modes/folder-0444/inner",
        "modes/folder-1644/inner",
        "modes/folder-6000",
        "modes/file-6000",
        // An access control list that takes the right to enter away.
        "xattrs/acl-folder/after-the-default",
        "xattrs/acl-folder/before-the-default",
    ];
    for _ in 0..2 {
        let output = run(&["snapshot".into(), source.clone().into()]).code(3);
        quiet(&output);
        let summary = output.stderr.find("unchanged)").expect("the summary");
        for name in hidden {
            assert!(output.stderr.contains(name), "{name}: {}", output.stderr);
        }
        assert!(output.stderr[summary..].contains("could not be read"), "{}", output.stderr);
    }
    let target = vault.join("home/target");
    let selector = format!("latest:{}", source.display());
    let restore = ["restore".into(), selector.into(), "--target".into(), target.clone().into()];
    quiet(&run(&restore).ok());
    let mut lines = Manifest::of(&source).diff(&Manifest::of(&target));
    lines.sort();
    let mut expected: Vec<String> = hidden.iter().map(|name| format!("{name}: is missing")).collect();
    expected.sort();
    assert_eq!(lines, expected);
    // What was not saved is not taken for gone: in place, with --delete, it stays.
    let before = Manifest::of(&source);
    let back = ["restore", "latest", "--in-place", "--yes", "--delete"].map(OsString::from);
    quiet(&run(&back));
    assert_eq!(before.diff(&Manifest::of(&source)), [""; 0]);
}

#[test]
fn an_ordinary_user_compares_what_they_may_read() {
    needs!("root", "setpriv", "chown");
    let mut vault = Vault::new();
    vault.env("VAULT_REPOSITORY", vault.join("home/repository"));
    let source = vault.join("home/source");
    for folder in ["closed", "listed", "open"] {
        fs::create_dir_all(source.join(folder).join("sub")).unwrap();
        fs::write(source.join(folder).join("sub/file"), folder).unwrap();
    }
    fs::write(source.join("unreadable"), "one").unwrap();
    fs::copy(env!("CARGO_BIN_EXE_vault"), vault.join("program")).unwrap();
    mount::run(Command::new("chown").args(["-Rh", "65534:65534"]).arg(vault.path()));
    settle();
    let run = |args: &[OsString]| vault.start(as_user(&vault, args)).wait();
    run(&["init".into()]).ok();
    run(&["snapshot".into(), source.clone().into()]).ok();
    let set = |name: &str, mode| {
        fs::set_permissions(source.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    let compare = |more: &[&str]| {
        let args = [
            &["diff".into(), "latest".into(), source.clone().into()][..],
            &more.iter().map(Into::into).collect::<Vec<_>>(),
        ];
        run(&args.concat())
    };
    fs::remove_file(source.join("open/sub/file")).unwrap();
    set("unreadable", 0);
    // What may be listed and not entered, and what may not even be listed.
    for (closed, listed) in [(0o000, 0o755), (0o755, 0o444), (0o000, 0o444), (0o111, 0o600)] {
        set("closed", closed);
        set("listed", listed);
        let found = compare(&["--content"]).code(3).says("removed 1 file");
        let gone = found.text().lines().filter(|line| line.starts_with("- "));
        assert_eq!(gone.collect::<Vec<_>>(), [format!("- {}", source.join("open/sub/file").display())]);
        for (name, mode) in [("closed", closed), ("listed", listed), ("unreadable", 0)] {
            let said = found.stderr.contains(&format!("{}: ", source.join(name).display()));
            assert_eq!(said, mode != 0o755, "{name}: {}", found.stderr);
        }
    }
    let json = compare(&["--json", "--content"]).code(3).stderr;
    let errors: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(errors.len() == 3 && errors.iter().all(|error| error["during"] == "diff"), "{errors:?}");
    assert_eq!(errors[0]["item"], source.join("closed").to_str().unwrap());
}
