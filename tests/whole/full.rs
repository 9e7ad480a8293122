//! A repository on a medium that fills up.

use std::fs;

use crate::support::mount::{FileSystem, Mount};
use crate::support::needs::needs;
use crate::support::vault::Vault;
use crate::whole::world::{World, quiet};

const MIB: usize = 1 << 20;

/// Fills the medium up during a second snapshot, makes room, and takes it again.
fn fill_up(kind: FileSystem) {
    let mount = Mount::new(kind, 260);
    let vault = Vault::new();
    let source = vault.join("source");
    let world = World::at(vault, source, mount.join("repository"));
    world.write_random("first", 1, 10 * MIB);
    let first = world.snapshot(&[]);
    // Room for a pack and a half.
    let ballast = mount.join("ballast");
    let len = usize::try_from(mount.free_bytes()).unwrap() - 100 * MIB;
    fs::write(&ballast, vec![1; len]).unwrap();
    world.write_random("second", 2, 160 * MIB);
    for _ in 0..2 {
        let output = world.vault.run(&world.snapshot_args(&[])).code(14);
        quiet(&output);
        assert!(output.stderr.to_lowercase().contains("no space"), "{}", output.stderr);
        // Nothing names what is not there, and what was there is whole.
        world.is_sound();
        world.comes_back_from_first(&first.id());
    }
    let packed: u64 = world.files("packs").iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(packed > 70 * MIB as u64, "the pack that was whole is there: {packed}");
    fs::remove_file(ballast).unwrap();
    let after = world.snapshot(&[]);
    assert!(after.added() < 105 * MIB as u64, "what was packed is used: {}", after.added());
    assert!(world.files("tmp").is_empty());
    world.is_sound();
    world.comes_back();
}

impl World {
    /// The first file alone, from a snapshot that had only that.
    fn comes_back_from_first(&self, id: &str) {
        let restored = self.restore(id, &[]);
        assert!(
            fs::read(restored.target().join("first")).unwrap()
                == fs::read(self.source.join("first")).unwrap()
        );
    }
}

#[test]
fn a_full_tmpfs_ends_the_run_and_spoils_nothing() {
    needs!("tmpfs", "rsync");
    fill_up(FileSystem::Tmpfs);
}

#[test]
fn a_full_ext4_ends_the_run_and_spoils_nothing() {
    needs!("ext4", "rsync");
    fill_up(FileSystem::Ext4);
}
