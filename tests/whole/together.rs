//! Two programs on one repository at the same time.

use crate::support::needs::needs;
use crate::whole::world::{Summary, World, same};

#[test]
fn two_snapshots_at_once_both_succeed_and_both_come_back() {
    needs!("rsync");
    let mut world = World::new();
    let first = world.source.clone();
    let second = world.vault.join("second");
    std::fs::create_dir(&second).unwrap();
    let mut taken = Vec::new();
    for round in 0..5 {
        world.source.clone_from(&first);
        for i in 0..30 {
            // Half of it is the same in both sources, so that both come upon chunks which the other has not named yet.
            world.write_random(&format!("{round}/{i}"), round * 100 + i, 200_000);
        }
        world.source.clone_from(&second);
        for i in 15..45 {
            world.write_random(&format!("{round}/{i}"), round * 100 + i, 200_000);
        }
        world.source.clone_from(&first);
        let one = world.vault.spawn(&world.snapshot_args(&[]));
        if round % 2 == 1 {
            // The same source twice.
            let other = world.vault.spawn(&world.snapshot_args(&[]));
            taken.extend([one, other].map(|run| (Summary::of(run.wait(), 0).id(), round, first.clone())));
        } else {
            world.source.clone_from(&second);
            let other = world.vault.spawn(&world.snapshot_args(&[]));
            taken.push((Summary::of(one.wait(), 0).id(), round, first.clone()));
            taken.push((Summary::of(other.wait(), 0).id(), round, second.clone()));
        }
    }
    assert_eq!(taken.len(), 10);
    assert!(world.files("tmp").is_empty());
    world.is_sound();
    for (id, round, source) in &taken {
        world.source.clone_from(source);
        let restored = world.restore(id, &[]);
        // A source grows by one folder a round, and what was there stays as it is.
        for folder in std::fs::read_dir(restored.target()).unwrap() {
            let name = folder.unwrap().file_name();
            same(&source.join(&name), &restored.target().join(&name));
        }
        assert!(restored.target().join(round.to_string()).exists());
    }
}
