//! What goes on while somebody prunes, and what a run that was cut short leaves.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use vault::check::{CheckOptions, check};
use vault::chunk::GetChunk;
use vault::error::Error;
use vault::event::{Event, Observer, Silent};
use vault::id::ChunkKind;
use vault::pack::pack_file_name;
use vault::prune::{Limit, PruneOptions, prune};
use vault::repository::{Presence, Work};
use vault::restore::{RestoreOptions, restore};
use vault::snapshot::Time;

use super::store::{Store, content, thorough};

#[test]
fn dur_10_a_reader_finds_what_was_packed_anew_since_it_listed() {
    let store = Store::new();
    let (first, gone) = store.save(&[1, 2]).unwrap();
    let (second, kept) = store.save(&[2]).unwrap();
    let repository = store.open();
    let reader = repository.reader().unwrap();
    let before = store.packs();
    store.forget(first);
    let done = store.prune(&thorough()).unwrap();
    assert_eq!((done.repacked_packs, done.forgotten), (1, 1));
    assert_ne!(store.packs(), before);
    assert_eq!(reader.get(ChunkKind::Data, &kept[0]).unwrap(), content(2));
    let lost = reader.get(ChunkKind::Data, &gone[0]).unwrap_err();
    assert!(matches!(lost, Error::ChunkMissing { id, .. } if id == gone[0]), "{lost:?}");
    // And a whole restore.
    let snapshot = repository.snapshot(&second).unwrap();
    let target = store.scratch.join("target");
    let (options, stop) = (RestoreOptions::default(), AtomicBool::new(false));
    let summary = restore(&reader, &snapshot, b"", &target, &options, &Silent, &stop).unwrap();
    assert_eq!((summary.errors, summary.files), (0, 1));
    assert_eq!(fs::read(target.join("0000")).unwrap(), content(2));
    store.check();
}

#[test]
fn a_check_beside_a_prune_finds_no_damage_where_there_is_none() {
    for read_data in [false, true] {
        for phase in ["checking packs", "checking snapshots"] {
            let store = Store::new();
            let (first, _) = store.save(&[1, 2, 3]).unwrap();
            store.save(&[2, 4]).unwrap();
            let (dead, _) = store.save(&[5]).unwrap();
            store.forget(first);
            store.forget(dead);
            let pruned = AtomicUsize::new(0);
            let observer = |event: &Event<'_>| {
                if matches!(event, Event::Phase(now) if *now == phase)
                    && pruned.fetch_add(1, Ordering::SeqCst) == 0
                {
                    let done = store.prune(&thorough()).unwrap();
                    assert!(done.dead_packs > 0 && done.repacked_packs > 0);
                }
            };
            let options = CheckOptions { read_data, ..CheckOptions::default() };
            let report = check(&store.open(), &options, &observer, &AtomicBool::new(false)).unwrap();
            assert!(report.damages.is_empty(), "{phase}: {:?}", report.damages);
            assert_eq!(report.snapshots, 1);
            // Without reading, only the second of the phases comes.
            assert_eq!(pruned.into_inner() > 0, read_data || phase == "checking snapshots");
        }
    }
}

#[test]
fn a_pack_that_is_lost_during_a_check_is_missed() {
    let store = Store::new();
    store.save(&[1]).unwrap();
    let packs = store.packs();
    let observer = |event: &Event<'_>| {
        if matches!(event, Event::Phase("checking packs")) {
            for pack in &packs {
                let _ = fs::remove_file(store.place().join(pack_file_name(pack)));
            }
        }
    };
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    let report = check(&store.open(), &options, &observer, &AtomicBool::new(false)).unwrap();
    assert!(report.damages.iter().any(|damage| !damage.costs.is_empty()), "{:?}", report.damages);
}

#[test]
fn what_a_killed_run_left_is_put_in_order_by_the_next_one() {
    let store = Store::new();
    let (first, _) = store.save(&[1]).unwrap();
    let before = store.packs();
    store.save(&[2]).unwrap();
    store.forget(first);
    let dry = store.prune(&PruneOptions { dry_run: true, ..thorough() }).unwrap();
    assert_eq!((dry.dead_packs, dry.forgotten), (2, 1));
    // As if it had been killed between deleting packs and saying so, where there was no room for a segment.
    let record = store.open();
    let dead: Vec<_> = before.iter().map(|pack| store.place().join(pack_file_name(pack))).collect();
    assert_eq!(dead.len(), 2);
    for pack in &dead {
        fs::remove_file(pack).unwrap();
    }
    fs::remove_file(store.place().join(format!("snapshots/{first}"))).unwrap();
    drop(record);
    let check = || check(&store.open(), &CheckOptions::default(), &Silent, &AtomicBool::new(false)).unwrap();
    assert_eq!(check().damages.len(), 2);
    // With its marks there, nobody misses what was deleted under them.
    let mut killed = Presence::announce(&store.open(), Work::Pruning).unwrap();
    killed.condemn(&before.iter().copied().collect::<Vec<_>>(), &[first]).unwrap();
    killed.leave();
    store.check();
    for folder in ["marks", "sessions"] {
        for entry in fs::read_dir(store.place().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            // Its process began at another time than that of its number.
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let mut parts: Vec<String> = name.split('-').map(str::to_owned).collect();
            parts[3] += "1";
            fs::rename(&path, path.with_file_name(parts.join("-"))).unwrap();
        }
    }
    store.save(&[2]).unwrap();
    store.check();
    assert!(fs::read_dir(store.place().join("marks")).unwrap().count() > 0, "who writes leaves marks");
    let done = store.prune(&thorough()).unwrap();
    assert_eq!(done.dead_packs, 0);
    assert_eq!(fs::read_dir(store.place().join("marks")).unwrap().count(), 0);
    store.check();
}

#[test]
fn an_interruption_at_any_event_leaves_everything_in_order() {
    let mut at = 0;
    loop {
        let store = Store::new();
        let (first, _) = store.save(&[1, 2, 3]).unwrap();
        store.save(&[2, 4]).unwrap();
        let (dead, _) = store.save(&[5]).unwrap();
        store.forget(first);
        store.forget(dead);
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, events) = (stop.clone(), AtomicUsize::new(0));
        let observer: Arc<dyn Observer> = Arc::new(move |_: &Event<'_>| {
            if events.fetch_add(1, Ordering::SeqCst) == at {
                flag.store(true, Ordering::SeqCst);
            }
        });
        let pruned = prune(&store.open(), &thorough(), &observer, &stop);
        let files = |folder: &str| fs::read_dir(store.place().join(folder)).unwrap().count();
        assert_eq!((files("marks"), files("sessions"), files("tmp")), (0, 0, 0), "event {at}");
        store.check();
        if stop.load(Ordering::SeqCst) {
            // It may have been done when it was told to stop.
            assert!(matches!(pruned, Ok(_) | Err(Error::Interrupted)), "event {at}: {pruned:?}");
        }
        let is_over = !stop.load(Ordering::SeqCst);
        assert!(!is_over || pruned.is_ok());
        store.prune(&thorough()).unwrap();
        assert_eq!((store.check().snapshots, store.packs().len()), (1, 3), "event {at}");
        if is_over {
            break;
        }
        at += 1;
    }
    assert!(at > 10, "only {at} events");
}

#[test]
fn a_damaged_mark_keeps_nobody_from_reading_and_everybody_from_deleting() {
    let store = Store::new();
    let (_, ids) = store.save(&[1]).unwrap();
    let name = "0badcafe-0000000000000000-1-1-0000000000000000-0";
    fs::write(store.place().join("marks").join(name), "not a notice").unwrap();
    let reader = store.open().reader().unwrap();
    assert_eq!(reader.problems().len(), 1);
    assert_eq!(reader.get(ChunkKind::Data, &ids[0]).unwrap(), content(1));
    assert!(store.save(&[2]).unwrap_err().is_damage());
    let refused = store.prune(&thorough()).unwrap_err();
    assert!(refused.to_string().contains(name), "{refused}");
    store.open().declare_ended(name).unwrap();
    store.save(&[2]).unwrap();
    store.prune(&thorough()).unwrap();
    store.check();
}

#[test]
fn what_was_forgotten_within_the_time_of_grace_can_be_brought_back() {
    let store = Store::new();
    let (first, _) = store.save(&[1]).unwrap();
    store.save(&[2]).unwrap();
    store.forget(first);
    let long_ago = Time { secs: 0, nanos: 0 };
    let done = store.prune(&PruneOptions { kept_since: long_ago, ..thorough() }).unwrap();
    assert_eq!((done.dead_packs, done.forgotten, done.snapshots), (0, 0, 2));
    store.unforget(first).unwrap();
    store.check();
    store.forget(first);
    assert_eq!(store.prune(&thorough()).unwrap().forgotten, 1);
    let gone = store.unforget(first).unwrap_err();
    assert!(matches!(gone, Error::NotFound { .. }), "{gone:?}");
    assert_eq!(store.check().snapshots, 1);
}

#[test]
fn the_implausible_and_the_unreadable_delete_nothing() {
    let store = Store::new();
    let (first, _) = store.save(&[1, 2, 3, 4]).unwrap();
    let (second, _) = store.save(&[5]).unwrap();
    let before = store.packs();
    store.forget(first);
    let careful = PruneOptions { force: false, ..thorough() };
    for _ in 0..2 {
        let refused = store.prune(&careful).unwrap_err();
        assert!(refused.to_string().contains("--force"), "{refused}");
    }
    store.forget(second);
    let refused = store.prune(&careful).unwrap_err();
    assert!(refused.to_string().contains("no snapshot is left"), "{refused}");
    // A snapshot, and then a record, that cannot be read.
    for folder in ["snapshots", "records"] {
        store.unforget(second).unwrap_or(());
        let file = fs::read_dir(store.place().join(folder)).unwrap().next().unwrap().unwrap().path();
        let bytes = fs::read(&file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        if folder == "snapshots" && name != second.to_string() {
            // Of a forgotten one nothing is asked.
            continue;
        }
        fs::write(&file, b"damaged").unwrap();
        assert!(store.prune(&thorough()).unwrap_err().is_damage());
        fs::write(&file, bytes).unwrap();
    }
    assert_eq!(store.packs(), before);
    store.check();
}

#[test]
fn a_tree_that_cannot_be_read_deletes_nothing() {
    let store = Store::new();
    let (first, _) = store.save(&[1]).unwrap();
    let before = store.packs();
    store.save(&[2]).unwrap();
    let new: Vec<_> = store.packs().difference(&before).copied().collect();
    store.forget(first);
    let all = store.packs();
    for pack in new {
        let path = store.place().join(pack_file_name(&pack));
        let bytes = fs::read(&path).unwrap();
        if bytes.len() > 50_000 {
            continue;
        }
        let mut damaged = bytes.clone();
        damaged.iter_mut().skip(200).for_each(|byte| *byte ^= 0x55);
        fs::write(&path, damaged).unwrap();
        let refused = store.prune(&thorough()).unwrap_err();
        assert!(refused.is_damage() || matches!(refused, Error::Usage(_)), "{refused:?}");
        fs::remove_file(&path).unwrap();
        let refused = store.prune(&thorough()).unwrap_err();
        assert!(matches!(refused, Error::ChunkMissing { .. }), "{refused:?}");
        fs::write(&path, bytes).unwrap();
        assert_eq!(store.packs(), all);
    }
    assert!(store.prune(&thorough()).unwrap().dead_packs > 0);
    store.check();
}

#[test]
fn only_what_is_worth_it_is_packed_anew() {
    let store = Store::new();
    let (first, _) = store.save(&(0..10).collect::<Vec<_>>()).unwrap();
    let (second, _) = store.save(&(10..20).collect::<Vec<_>>()).unwrap();
    // One in ten of one pack, nine in ten of the other, is needed.
    store.save(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 10]).unwrap();
    store.forget(first);
    store.forget(second);
    let dry = |options: PruneOptions| store.prune(&PruneOptions { dry_run: true, ..options }).unwrap();
    let data = |done: vault::prune::PruneSummary| done.repacked_packs;
    assert_eq!(data(dry(thorough())), 2);
    assert_eq!(data(dry(PruneOptions { max_unused: Limit::PerMille(150), ..thorough() })), 1);
    assert_eq!(data(dry(PruneOptions { max_unused: Limit::Unlimited, ..thorough() })), 0);
    assert_eq!(data(dry(PruneOptions { max_repack: Some(10), ..thorough() })), 0);
    assert_eq!(data(dry(PruneOptions { max_repack: Some(1_200_000), ..thorough() })), 1);
    let done = store.prune(&PruneOptions { max_unused: Limit::PerMille(150), ..thorough() }).unwrap();
    assert_eq!(done.repacked_packs, 1);
    assert!((90_000..120_000).contains(&done.unused_bytes), "{}", done.unused_bytes);
    assert!((100_000..130_000).contains(&done.written_bytes), "{}", done.written_bytes);
    store.check();
    let done = store.prune(&thorough()).unwrap();
    assert_eq!((done.repacked_packs, done.unused_bytes), (1, 0));
    store.check();
}
