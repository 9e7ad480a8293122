//! Restoring with little at hand: an ordinary user's rights, and little room.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use vault::restore::{Overwrite, RestoreOptions};

use super::store::{Mount, Store, file, noise};
use crate::support::needs::needs;
use crate::support::vault::{Output, Vault};

/// A home that belongs to an ordinary user, with a snapshot of `source` in it.
struct Home {
    vault: Vault,
}

impl Home {
    fn new(fill: impl FnOnce(&Path)) -> Self {
        let vault = Vault::new();
        let source = vault.join("source");
        fs::create_dir(&source).unwrap();
        fill(&source);
        let home = Self { vault };
        let owned =
            Command::new("chown").args(["-R", "65534:65534"]).arg(home.vault.path()).status().unwrap();
        assert!(owned.success());
        fs::set_permissions(home.vault.path(), fs::Permissions::from_mode(0o755)).unwrap();
        home.run(&["init"]).ok();
        // Some of the tests have something that its owner may not read.
        let saved = home.run(&["snapshot", "--as-path", "s", source.to_str().unwrap()]);
        assert!(matches!(saved.status.code(), Some(0 | 3)), "{}", saved.stderr);
        home
    }

    fn run(&self, args: &[&str]) -> Output {
        let place = self.vault.join("repository");
        let wrapper = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let args: Vec<&str> = ["-r", place.to_str().unwrap()].iter().chain(args).copied().collect();
        self.vault.start(self.vault.command_under(&wrapper, &args)).wait()
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_folder_that_its_owner_may_not_enter_does_not_end_the_restore() {
    needs!("root", "setpriv");
    let home = Home::new(|source| {
        for folder in ["a", "m", "z"] {
            fs::create_dir(source.join(folder)).unwrap();
            fs::write(source.join(folder).join("f"), folder).unwrap();
        }
        set_mode(&source.join("m"), 0o400);
    });
    // What is in `m` cannot be saved by its owner; that is not what the test is about.
    let target = home.vault.join("cwd/target");
    home.run(&["restore", "latest:s", "--target", "target"]).ok();
    fs::remove_file(target.join("a/f")).unwrap();
    fs::write(target.join("z/f"), "changed").unwrap();
    home.run(&["restore", "latest:s", "--target", "target"]).ok();
    assert_eq!(fs::read_to_string(target.join("a/f")).unwrap(), "a");
    assert_eq!(fs::read_to_string(target.join("z/f")).unwrap(), "z");
    assert_eq!(fs::metadata(target.join("m")).unwrap().permissions().mode() & 0o777, 0o400);
}

#[test]
fn verify_reads_back_files_that_are_to_be_closed_to_their_owner() {
    needs!("root", "setpriv");
    let home = Home::new(|source| {
        for number in 0..300 {
            let file = source.join(format!("{number}"));
            fs::write(&file, format!("{number}")).unwrap();
            set_mode(&file, 0o400);
        }
    });
    home.run(&["restore", "latest:s", "--target", "target", "--verify"]).ok().says("300 files");
    let target = home.vault.join("cwd/target");
    let modes: Vec<u32> = (0..300)
        .map(|number| fs::metadata(target.join(number.to_string())).unwrap().permissions().mode() & 0o777)
        .collect();
    assert_eq!(modes, [0o400; 300]);
}

#[test]
fn files_are_replaced_where_there_is_room_for_a_few_of_them_only() {
    needs!("tmpfs");
    let contents: Vec<_> = (0..10).map(|seed| noise(seed, 4_000_000)).collect();
    let store = Store::new(|writer| {
        contents.iter().enumerate().map(|(name, bytes)| file(writer, name.to_string(), bytes)).collect()
    });
    let target = store.target();
    let _mount = Mount::tmpfs(&target, "size=60m");
    for name in 0..10 {
        fs::write(target.join(name.to_string()), noise(99, 4_000_000)).unwrap();
    }
    let options = RestoreOptions { overwrite: Overwrite::Always, ..RestoreOptions::default() };
    let (summary, lines) = store.restore(&options);
    assert_eq!((summary.files, summary.errors), (10, 0), "{lines:?}");
    for (name, bytes) in contents.iter().enumerate() {
        assert!(fs::read(target.join(name.to_string())).unwrap() == *bytes, "{name}");
    }
}
