//! On a full disk: forgetting and pruning make room where nothing can be written any more.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::support::mount::{FileSystem, Mount};
use crate::support::needs::needs;
use crate::support::torture::Random;
use crate::support::vault::Vault;

/// Writes until nothing can be written any more, not even a short file.
fn fill(folder: &Path) {
    let mut random = Random(99);
    for (number, len) in [1 << 20, 64 << 10, 4096, 1].into_iter().enumerate() {
        let block = random.bytes(len);
        for part in 0..10_000 {
            let path = folder.join(format!("filler-{number}-{part}"));
            let Ok(mut file) = File::create(&path) else { break };
            if file.write_all(&block).and_then(|()| file.sync_all()).is_err() {
                break;
            }
        }
    }
    let probe = folder.join("probe");
    let written = fs::write(&probe, [1; 4096]).and_then(|()| File::open(&probe)?.sync_all());
    assert!(written.is_err(), "there is room still");
    let _ = fs::remove_file(probe);
}

/// Everything that only reads works.
fn can_be_read(vault: &Vault) {
    vault.run(&["check", "--read-data"]).ok();
    assert_eq!(vault.run(&["snapshots", "--json"]).ok().text().lines().count(), 2);
    vault.run(&["ls", "latest"]).ok();
    let out = vault.join("out-of-a-full-one");
    vault.run(&["restore", "-q", "latest", "--target", out.to_str().unwrap()]).ok();
    fs::remove_dir_all(out).unwrap();
}

/// With `is_alone`, what the computer keeps for itself lies on the same file system.
fn forget_and_prune_make_room(kind: FileSystem, size_mb: u64, is_alone: bool) {
    let mount = Mount::new(kind, size_mb);
    let mut vault = Vault::new();
    vault.env("VAULT_REPOSITORY", mount.join("repo"));
    if is_alone {
        vault.env("XDG_CACHE_HOME", mount.join("cache"));
        vault.env("XDG_STATE_HOME", mount.join("state"));
    }
    let src = vault.join("src");
    fs::create_dir(&src).unwrap();
    vault.run(&["init"]).ok();
    let path = src.to_str().unwrap();
    fs::write(src.join("old"), Random(1).bytes(12 << 20)).unwrap();
    fs::write(src.join("half"), Random(2).bytes(2 << 20)).unwrap();
    vault.run(&["snapshot", path]).ok();
    fs::remove_file(src.join("old")).unwrap();
    fs::write(src.join("new"), Random(3).bytes(1 << 20)).unwrap();
    vault.run(&["snapshot", path]).ok();
    fill(&mount.path());
    fs::write(src.join("newer"), Random(4).bytes(4 << 20)).unwrap();
    // Nothing can be saved, and that is said.
    let refused = vault.run(&["snapshot", path]).code(14);
    assert!(refused.stderr.contains("No space left"), "{}", refused.stderr);
    can_be_read(&vault);
    vault.run(&["forget", "--keep-last", "1"]).ok();
    // What is needed of the old pack is packed anew when there is room for it again; and what cannot be now says so.
    vault.run(&["prune", "--force", "--max-unused", "0"]).ok();
    vault.run(&["check", "--read-data"]).ok();
    for number in 0..4 {
        fs::remove_file(mount.join(format!("filler-0-{number}"))).unwrap();
    }
    vault.run(&["prune", "--force", "--max-unused", "0"]).ok();
    vault.run(&["snapshot", path]).ok();
    vault.run(&["check", "--read-data"]).ok();
    // With room for it, the reserve is there again.
    for number in 4..16 {
        let _ = fs::remove_file(mount.join(format!("filler-0-{number}")));
    }
    assert!(!mount.join("repo/reserve").exists());
    vault.run(&["prune"]).ok();
    assert_eq!(fs::metadata(mount.join("repo/reserve")).unwrap().len(), 1 << 20);
    let out = vault.join("out");
    vault.run(&["restore", "latest", "--target", out.to_str().unwrap()]).ok();
    let restored = out.join(src.strip_prefix("/").unwrap());
    for name in ["half", "new", "newer"] {
        let (one, other) = (fs::read(src.join(name)).unwrap(), fs::read(restored.join(name)).unwrap());
        assert!(one == other, "{name} on {kind:?}");
    }
}

#[test]
fn a_full_ext4_is_made_room_on() {
    needs!("ext4");
    forget_and_prune_make_room(FileSystem::Ext4, 48, false);
}

#[test]
fn a_full_ext4_is_made_room_on_with_all_that_the_computer_keeps_for_itself_on_it() {
    needs!("ext4");
    forget_and_prune_make_room(FileSystem::Ext4, 48, true);
}

#[test]
fn a_medium_that_does_not_say_how_much_is_free_is_not_taken_for_full() {
    needs!("fat32");
    let mount = Mount::new(FileSystem::Fat32, 64);
    assert_eq!(mount.free_bytes(), 0, "or the test is void");
    let mut vault = Vault::new();
    vault.env("VAULT_REPOSITORY", mount.join("repo"));
    let src = vault.join("src");
    fs::create_dir(&src).unwrap();
    vault.run(&["init"]).ok();
    assert_eq!(fs::metadata(mount.join("repo/reserve")).unwrap().len(), 1 << 20);
    fs::write(src.join("old"), Random(1).bytes(600_000)).unwrap();
    fs::write(src.join("kept"), Random(2).bytes(600_000)).unwrap();
    let path = src.to_str().unwrap();
    vault.run(&["snapshot", path]).ok();
    fs::remove_file(src.join("old")).unwrap();
    vault.run(&["snapshot", path]).ok();
    vault.run(&["forget", "--keep-last", "1"]).ok();
    let pruned = vault.run(&["prune", "--force", "--max-unused", "0", "--json"]).ok();
    let pruned: serde_json::Value = serde_json::from_str(pruned.text().lines().last().unwrap()).unwrap();
    assert!(pruned["repacked_packs"].as_u64().unwrap() > 0, "{pruned}");
    vault.run(&["check", "--read-data"]).ok();
}
