//! Single rules of `spec/concurrency.md`; what they are for together shows in the simulator.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::{Duration, SystemTime};

use vault::check::{CheckOptions, check};
use vault::codec;
use vault::error::Error;
use vault::event::{Event, Observer, Silent};
use vault::header::{Magic, Seal, encode_object};
use vault::id::{ChunkKind, PackId};
use vault::pack::pack_file_name;
use vault::prune::{Limit, PruneOptions, prune};
use vault::repository::{NoticeBody, Presence, Work};
use vault::snapshot::Time;

use super::store::{Store, thorough};
use crate::mirror::medium::{Op, Watched};
use crate::support::scratch::Scratch;

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn note_1_what_does_not_ascend_or_says_more_is_refused() {
    let store = Store::new();
    let (one, other) = (PackId::from_bytes([1; 32]), PackId::from_bytes([2; 32]));
    let body = |packs: Vec<PackId>| NoticeBody {
        work: Work::Pruning,
        created: Time { secs: 0, nanos: 0 },
        packs,
        snapshots: Vec::new(),
        fields: Vec::new(),
    };
    let file = store.place().join("marks/0badcafe-0000000000000000-1-1-0000000000000000-0");
    let write = |outer: &[u8], packs: Vec<PackId>| {
        let body = codec::encode(&body(packs));
        let bytes = encode_object(Magic::Mark, store.open().id(), Seal::Plain, outer, &body);
        fs::write(&file, bytes).unwrap();
        store.open().marks()
    };
    assert_eq!(write(b"", vec![one, other]).unwrap()[0].body.packs, [one, other]);
    for refused in [write(b"", vec![other, one]), write(b"", vec![one, one]), write(b"x", vec![one, other])] {
        let refused = refused.unwrap_err();
        assert!(refused.is_damage(), "{refused:?}");
    }
}

#[test]
fn note_2_only_what_has_ended_or_is_said_to_have_is_removed() {
    let store = Store::new();
    store.save(&[1]).unwrap();
    let sessions = store.place().join("sessions");
    let running = Presence::announce(&store.open(), Work::Writing).unwrap();
    let name = fs::read_dir(&sessions).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
    let bytes = fs::read(sessions.join(&name)).unwrap();
    // One of this host that has ended, as its process began at another time; and one of another host.
    let mut parts: Vec<&str> = name.split('-').collect();
    let start = parts[3].to_owned() + "1";
    parts[3] = &start;
    let ended = parts.join("-");
    let foreign = name.replacen(parts[0], "0badcafe", 1);
    fs::write(sessions.join(&ended), &bytes).unwrap();
    fs::write(sessions.join(&foreign), &bytes).unwrap();
    assert_eq!(count(&sessions), 3);
    store.save(&[2]).unwrap();
    let mut left: Vec<_> = fs::read_dir(&sessions)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    let mut expected = vec![name.clone(), foreign.clone()];
    expected.sort();
    assert_eq!(left, expected);
    let too_short = foreign.split('-').next().unwrap();
    assert!(matches!(store.open().declare_ended(too_short), Err(Error::NotFound { .. })));
    assert_eq!(store.open().declare_ended(&foreign).unwrap(), 1);
    drop(running);
    assert_eq!(count(&sessions), 0);
}

#[test]
fn prune_3_a_pack_like_a_condemned_one_gets_another_name() {
    let store = Store::new();
    let (first, _) = store.save(&[1]).unwrap();
    let packs = store.packs();
    let mut pruner = Presence::announce(&store.open(), Work::Pruning).unwrap();
    pruner.condemn(&packs.iter().copied().collect::<Vec<_>>(), &[first]).unwrap();
    // The same chunks; packs are named by their bytes.
    store.save(&[1]).unwrap();
    let both = store.packs();
    assert_eq!(both.len(), 2 * packs.len());
    for pack in &packs {
        fs::remove_file(store.place().join(pack_file_name(pack))).unwrap();
    }
    fs::remove_file(store.place().join(format!("snapshots/{first}"))).unwrap();
    drop(pruner);
    store.prune(&thorough()).unwrap();
    assert_eq!(store.check().snapshots, 1);
}

#[test]
fn prune_4_a_second_one_ends_and_deletes_nothing() {
    let store = Store::new();
    let (first, _) = store.save(&[1]).unwrap();
    store.save(&[2]).unwrap();
    store.forget(first);
    let other = Presence::announce(&store.open(), Work::Pruning).unwrap();
    let before = store.packs();
    let refused = store.prune(&thorough()).unwrap_err();
    assert!(refused.to_string().contains("another run prunes"), "{refused}");
    assert_eq!(store.packs(), before);
    // It left nothing.
    assert_eq!((count(&store.place().join("sessions")), count(&store.place().join("marks"))), (1, 0));
    drop(other);
    assert!(store.prune(&thorough()).unwrap().dead_packs > 0);
    store.check();
}

#[test]
fn prune_7_what_a_session_may_be_writing_stays() {
    let store = Store::new();
    let writing = Presence::announce(&store.open(), Work::Writing).unwrap();
    let (first, ids) = store.save(&[1]).unwrap();
    store.save(&[2]).unwrap();
    store.forget(first);
    let done = store.prune(&thorough()).unwrap();
    // The snapshot goes, as nobody may rely on it, and the packs stay until the session has ended.
    assert_eq!((done.forgotten, done.dead_packs), (1, 0));
    assert!(store.open().reader().unwrap().locate(ChunkKind::Data, &ids[0]).is_ok());
    drop(writing);
    assert_eq!(store.prune(&thorough()).unwrap().dead_packs, 2);
    store.check();
}

#[test]
fn prune_7_a_session_of_another_host_counts_for_a_week() {
    const DAY: u64 = 86_400;
    for (days, stays) in [(6, true), (8, false)] {
        let store = Store::new();
        let mut writing = Presence::announce(&store.open(), Work::Writing).unwrap();
        writing.leave();
        let sessions = store.place().join("sessions");
        let own = fs::read_dir(&sessions).unwrap().next().unwrap().unwrap().path();
        let name = own.file_name().unwrap().to_str().unwrap().to_owned();
        let foreign = sessions.join(name.replacen(name.split('-').next().unwrap(), "0badcafe", 1));
        fs::rename(own, &foreign).unwrap();
        let began = SystemTime::now() - Duration::from_secs(days * DAY);
        fs::File::open(&foreign).unwrap().set_modified(began).unwrap();
        let (first, _) = store.save(&[1]).unwrap();
        store.save(&[2]).unwrap();
        store.forget(first);
        assert_eq!(store.prune(&thorough()).unwrap().dead_packs, if stays { 0 } else { 2 }, "{days} days");
        // It is never removed without being told.
        assert!(foreign.exists());
        assert_eq!(store.check().snapshots, 1);
    }
}

#[test]
fn prune_8_of_two_copies_the_damaged_one_is_not_what_stays() {
    for is_kept_one_damaged in [true, false] {
        let store = Store::new();
        store.save(&[1]).unwrap();
        let one = store.packs();
        let mut other = Presence::announce(&store.open(), Work::Pruning).unwrap();
        other.condemn(&one.iter().copied().collect::<Vec<_>>(), &[]).unwrap();
        store.save(&[1]).unwrap();
        drop(other);
        let all = store.packs();
        // The packs of the content, not those of the folder; of two that are alike the last one stays.
        let path = |pack: &PackId| store.place().join(pack_file_name(pack));
        let mut data: Vec<PackId> = all.iter().copied().collect();
        data.retain(|pack| fs::metadata(path(pack)).unwrap().len() > 50_000);
        data.sort_unstable();
        assert_eq!(data.len(), 2);
        let damaged = path(&data[usize::from(is_kept_one_damaged)]);
        let mut bytes = fs::read(&damaged).unwrap();
        bytes[50_000] ^= 1;
        fs::write(&damaged, bytes).unwrap();
        let pruned = store.prune(&thorough());
        if is_kept_one_damaged {
            let error = pruned.unwrap_err();
            assert!(error.is_damage(), "{error:?}");
            assert_eq!(store.packs(), all);
            // Once it is known to be damaged, the other one stays.
            let options = CheckOptions { read_data: true, mark_damaged: true, ..CheckOptions::default() };
            check(&store.open(), &options, &Silent, &AtomicBool::new(false)).unwrap();
            store.prune(&thorough()).unwrap();
        }
        assert_eq!(store.check().snapshots, 2);
        assert_eq!(store.packs().len(), 2);
    }
}

#[test]
fn a_segment_that_cannot_be_read_when_packs_are_taken_out_does_not_go_on_naming_them() {
    for times in [1, usize::MAX] {
        let mut store = Store::new();
        let (dead, _) = store.save(&[1]).unwrap();
        store.save(&[2]).unwrap();
        store.forget(dead);
        // The index is written when all has been deleted: from then on, so many of its files are not opened.
        let left = Arc::new(AtomicUsize::new(0));
        let failing = left.clone();
        let sound = store.backend.clone();
        store.backend = Watched::new(&store.place(), move |op, name| {
            let take = |left: usize| left.checked_sub(1);
            if op == Op::Open
                && name.starts_with("index/")
                && failing.fetch_update(SeqCst, SeqCst, take).is_ok()
            {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            Ok(())
        });
        let observer: Arc<dyn Observer> = Arc::new(move |event: &Event<'_>| {
            if matches!(event, Event::Phase("writing the index")) {
                left.store(times, SeqCst);
            }
        });
        let pruned = prune(&store.open(), &thorough(), &observer, &AtomicBool::new(false));
        store.backend = sound;
        assert_eq!(pruned.is_ok(), times == 1, "{pruned:?}");
        // While they are named, they are condemned: nobody misses them.
        assert_eq!(count(&store.place().join("marks")) > 0, times > 1);
        assert_eq!(store.check().snapshots, 1);
        if let Err(Error::Busy { session }) = store.prune(&thorough()) {
            // It has ended, though its process has not.
            let (session, _) = session.rsplit_once('-').unwrap();
            store.open().declare_ended(session).unwrap();
            store.prune(&thorough()).unwrap();
        }
        assert_eq!(store.check().snapshots, 1);
        assert_eq!(store.packs().len(), 2);
    }
}

/// A store whose next prune deletes a folder that only the first snapshot had, and keeps the pack of data that the same segment names.
fn with_a_pack_beside() -> (Store, PackId) {
    let store = Store::new();
    let (first, _) = store.save(&[1, 9]).unwrap();
    let path = |pack: &PackId| store.place().join(pack_file_name(pack));
    let is_data = |pack: &PackId| fs::metadata(path(pack)).unwrap().len() > 50_000;
    let data = store.packs().into_iter().find(is_data).unwrap();
    store.save(&[1]).unwrap();
    assert_eq!(store.packs().len(), 3, "the data is there once");
    store.forget(first);
    (store, data)
}

/// Does something when a phase begins for the first time.
fn once_in(phase: &'static str, act: impl Fn() + Send + Sync + 'static) -> Arc<dyn Observer> {
    let times = AtomicUsize::new(0);
    Arc::new(move |event: &Event<'_>| {
        if matches!(event, Event::Phase(now) if *now == phase) && times.fetch_add(1, SeqCst) == 0 {
            act();
        }
    })
}

#[test]
fn a_pack_that_is_not_listed_when_others_are_taken_out_stays_in_the_index() {
    let (store, data) = with_a_pack_beside();
    let path = store.place().join(pack_file_name(&data));
    let hidden = store.scratch.join("hidden");
    let (from, to) = (path.clone(), hidden.clone());
    let observer = once_in("writing the index", move || fs::rename(&from, &to).unwrap());
    let keeping = PruneOptions { max_unused: Limit::Unlimited, ..thorough() };
    let pruned = prune(&store.open(), &keeping, &observer, &AtomicBool::new(false));
    assert!(
        matches!(&pruned, Err(Error::PrunedMeanwhile { pack }) if *pack == pack_file_name(&data)),
        "{pruned:?}"
    );
    assert_eq!(store.packs().len(), 1, "the folder went");
    fs::rename(&hidden, &path).unwrap();
    assert_eq!(store.open().reader().unwrap().index().uncovered_packs(), []);
    // What was deleted is named yet, and nobody misses it.
    assert!(count(&store.place().join("marks")) > 0);
    store.check();
    let Err(Error::Busy { session }) = store.prune(&keeping) else { panic!("its process has not ended") };
    store.open().declare_ended(session.rsplit_once('-').unwrap().0).unwrap();
    store.prune(&PruneOptions { force: false, ..keeping }).unwrap();
    assert_eq!(store.packs().len(), 2);
    assert_eq!((count(&store.place().join("marks")), store.check().snapshots), (0, 1));
}

#[test]
fn prune_6_what_is_spared_stays_in_the_index() {
    let (store, data) = with_a_pack_beside();
    let second = store.open().snapshot_ids().unwrap();
    let kept = store.open().forgotten().unwrap();
    let second = second.into_iter().find(|id| !kept.contains(id)).unwrap();
    store.forget(second);
    // All is to go; before it is condemned, one is brought back.
    let other = Store { scratch: Scratch::new(), backend: store.backend.clone() };
    let observer = once_in("deleting packs", move || other.unforget(second).unwrap());
    let done = prune(&store.open(), &thorough(), &observer, &AtomicBool::new(false)).unwrap();
    assert_eq!((done.spared_packs, done.dead_packs, done.forgotten), (2, 1, 1));
    assert!(store.packs().contains(&data));
    assert_eq!(store.open().reader().unwrap().index().uncovered_packs(), []);
    store.prune(&PruneOptions { force: false, max_unused: Limit::Unlimited, ..thorough() }).unwrap();
    assert_eq!(store.check().snapshots, 1);
}
