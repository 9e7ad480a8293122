//! What lies in the cache folder may be anything: the run succeeds, no panic is told, and the snapshot is the same.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use redb::{Database, TableDefinition};
use vault::backend::LocalFolder;
use vault::id::SnapshotId;
use vault::snapshot::Entry;

use crate::support::needs::needs;
use crate::support::repository;
use crate::support::torture::{self, Random};
use crate::whole::world::{NEVER_SETTLED, World, settle, small_torture};

fn root(world: &World, id: &str) -> Entry {
    let repository = repository::open(Arc::new(LocalFolder::new(&world.repository))).unwrap();
    let found: SnapshotId =
        repository.snapshot_ids().unwrap().into_iter().find(|found| found.to_string() == id).unwrap();
    repository.snapshot(&found).unwrap().root
}

/// A place in a part of the file that is in use.
fn used_place(random: &mut Random, bytes: &[u8]) -> usize {
    loop {
        let at = usize::try_from(random.next() % bytes.len() as u64).unwrap();
        let block = at / 512 * 512;
        if bytes[block..bytes.len().min(block + 512)].iter().any(|byte| *byte != 0) {
            return at;
        }
    }
}

/// A database that redb reads without complaint, and that is not ours.
fn foreign_database(folder: &Path, tables: [&str; 2]) -> Vec<u8> {
    let path = folder.join("foreign.redb");
    let database = Database::create(&path).unwrap();
    let write = database.begin_write().unwrap();
    for name in tables {
        let table: TableDefinition<u64, &str> = TableDefinition::new(name);
        let mut table = write.open_table(table).unwrap();
        for i in 0..1000 {
            table.insert(i, "not ours").unwrap();
        }
    }
    write.commit().unwrap();
    drop(database);
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(path).unwrap();
    bytes
}

/// Every kind of garbage in the place of a file; so many bits, and pages, are changed.
pub fn garbage(good: &[u8], folder: &Path, seed: u64, most: usize) -> Vec<(String, Vec<u8>)> {
    let mut random = Random(seed);
    let mut kinds = vec![
        ("empty".into(), Vec::new()),
        ("short noise".into(), random.bytes(100)),
        ("noise".into(), random.bytes(good.len())),
        ("zeros".into(), vec![0; good.len()]),
        ("other tables".into(), foreign_database(folder, ["one", "two"])),
        ("tables of the same names".into(), foreign_database(folder, ["files", "chunks"])),
        ("too long".into(), [good, &random.bytes(5000)].concat()),
    ];
    for (number, part) in [1, 2, 3, 7].into_iter().enumerate() {
        kinds.push((format!("cut {number}"), good[..good.len() * part / 8].to_vec()));
    }
    for number in 0..most {
        let mut flipped = good.to_vec();
        // Some of them where everything hangs on it.
        let at = if number % 5 == 0 {
            usize::try_from(random.next() % 512).unwrap().min(good.len() - 1)
        } else {
            used_place(&mut random, good)
        };
        flipped[at] ^= 1 << (random.next() % 8);
        kinds.push((format!("bit flip at {at}"), flipped));
    }
    for number in 0..most {
        let mut changed = good.to_vec();
        let at = used_place(&mut random, good) / 4096 * 4096;
        let end = changed.len().min(at + 4096);
        let page = if number % 2 == 0 { random.bytes(end - at) } else { vec![0; end - at] };
        changed[at..end].copy_from_slice(&page);
        kinds.push((format!("page at {at}"), changed));
    }
    kinds
}

#[test]
fn a_cache_full_of_garbage_changes_nothing() {
    needs!("root", "rsync");
    let world = World::new();
    torture::build(&world.source, small_torture());
    settle();
    world.snapshot(&[]);
    let second = world.snapshot(&[]);
    assert_eq!(second.read(), NEVER_SETTLED);
    let right = root(&world, &second.id());
    let caches: Vec<_> = world.caches().into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    // The index, the local state, and its header.
    assert_eq!(caches.len(), 3);
    let mut doubted = 0;
    for (number, (good, path)) in caches.iter().enumerate() {
        for (what, bad) in garbage(good, world.vault.path(), number as u64, 50) {
            for (good, path) in &caches {
                fs::write(path, good).unwrap();
            }
            fs::write(path, &bad).unwrap();
            let what = format!("{what} in {}", path.display());
            let summary = world.snapshot(&[]);
            assert_eq!(root(&world, &summary.id()), right, "{what}");
            doubted += usize::from(summary.read() > NEVER_SETTLED || !summary.output.stderr.is_empty());
        }
    }
    assert!(doubted > 40, "garbage was noticed {doubted} times only");
    world.is_sound();
    world.comes_back();
    let last = world.snapshot(&[]);
    assert_eq!(last.read(), NEVER_SETTLED, "the caches are whole again");
}
