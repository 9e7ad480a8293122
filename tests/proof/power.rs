//! The power is cut anywhere: the disk of the repository is made again as it was after each flush, and as it may have been between two of them.

use std::fs;

use super::place::{Place, Told};
use super::{Counts, is_nightly, picked};
use crate::support::disk::{Disk, Recording};
use crate::support::mount::FileSystem;
use crate::support::needs::needs;
use crate::support::scratch;
use crate::support::torture::Random;
use crate::support::tracer::{Act, traced};

/// How many moments are tried in the gate: right after a flush, and anywhere.
const TRIED: [usize; 2] = [8, 8];

/// What was promised from a moment on.
struct Promise {
    since: usize,
    told: Vec<Told>,
}

/// A user at work on a disk that is recorded.
struct Work {
    place: Place,
    disk: Disk,
    promises: Vec<Promise>,
    /// Without any sync: the control.
    is_unsynced: bool,
}

impl Work {
    fn new(kind: FileSystem, size_mb: u64, is_unsynced: bool) -> Self {
        let place = Place::new();
        fs::create_dir(place.join("repository")).unwrap();
        let disk = Disk::new(kind, size_mb, &place.join("repository"));
        place.run(&["init", "-q"]).ok();
        disk.record();
        Self { place, disk, promises: Vec::new(), is_unsynced }
    }

    fn run(&mut self, args: &[&str]) -> String {
        let unsynced = self.is_unsynced;
        let output = if unsynced {
            traced(&self.place.vault, args, |call| if call.syncs() { Act::Pretend } else { Act::Go })
        } else {
            self.place.run(args)
        };
        super::place::told_id(&output.ok()).unwrap_or_default()
    }

    /// From now on this is promised.
    fn promise(&mut self) {
        self.promises.push(Promise { since: self.disk.moment(), told: self.place.told.clone() });
    }

    fn snapshot(&mut self) {
        let source = self.place.text("source");
        let id = self.run(&["snapshot", "--json", &source]);
        self.place.tell(id);
        self.promise();
    }

    /// Some weeks in the life of a repository.
    fn weeks(&mut self) {
        self.promise();
        self.snapshot();
        self.place.change(10);
        self.snapshot();
        // Who forgets has nothing promised any more, from the beginning on.
        let first = self.place.told.remove(0).id;
        self.promise();
        self.run(&["forget", "-q", &first]);
        self.run(&["prune", "-q", "--force", "--max-unused", "0"]);
        self.place.change(20);
        self.snapshot();
    }
}

/// What is wrong after the power was cut at a moment.
fn violations_after(
    (place, promises): (&Place, &[Promise]),
    recording: &Recording,
    moment: usize,
    random: &mut Random,
) -> Vec<String> {
    let cut = recording.cut_at(moment, random);
    if !cut.mounted {
        return vec![format!("{:?} cannot be mounted", cut.kind)];
    }
    // Whoever comes then knows nothing of it.
    for folder in ["cache", "state"] {
        scratch::remove_tree(&place.join(folder)).unwrap();
        fs::create_dir(place.join(folder)).unwrap();
    }
    let holding = promises.iter().rfind(|promise| promise.since <= moment).unwrap();
    let mut violations = place.violations("repository", &holding.told);
    if violations.is_empty() {
        // What a prune has left, the next one puts in order.
        for again in [&["snapshot", "-q", &place.text("source")][..], &["prune", "-q", "--force"]] {
            let again = place.run(again);
            if !again.status.success() {
                violations.push(format!("it does not go on: {}", again.report()));
            }
        }
        violations.extend(place.violations("repository", &holding.told));
        violations.extend(place.left_over().iter().map(|path| format!("left over: {}", path.display())));
    }
    violations
}

fn power_is_cut(kind: FileSystem, size_mb: u64, is_unsynced: bool) -> Counts {
    let mut work = Work::new(kind, size_mb, is_unsynced);
    work.weeks();
    // What is written late is written: as if the machine had gone on for a while.
    work.disk.settle();
    let Work { place, disk, promises, .. } = work;
    let recording = disk.end();
    let flushes = recording.flushes();
    println!("{kind:?}: {} events, {} flushes", recording.events.len(), flushes.len());
    let mut moments: Vec<usize> = picked(1, flushes.len(), TRIED[0]).iter().map(|at| flushes[*at]).collect();
    moments.extend(picked(2, recording.events.len(), TRIED[1]));
    let (mut random, mut counts) = (Random(3), Counts::default());
    for moment in moments {
        for _ in 0..if is_nightly() { 2 } else { 1 } {
            counts.tried += 1;
            let found = violations_after((&place, &promises), &recording, moment, &mut random);
            counts.failed += usize::from(!found.is_empty());
            counts.violations.extend(found.into_iter().map(|what| format!("cut at {moment}: {what}")));
        }
    }
    counts
}

fn survives(kind: FileSystem, size_mb: u64) {
    let counts = power_is_cut(kind, size_mb, false);
    println!("power cut anywhere, {kind:?}: {} cuts, {} violations", counts.tried, counts.violations.len());
    assert!(counts.violations.is_empty(), "{}", counts.violations.join("\n\n"));
}

#[test]
fn the_power_may_be_cut_anywhere_on_ext4() {
    needs!("ext4", "/dev/fuse");
    survives(FileSystem::Ext4, 64);
}

#[test]
fn the_power_may_be_cut_anywhere_on_xfs() {
    needs!("xfs", "/dev/fuse");
    survives(FileSystem::Xfs, 320);
}

#[test]
fn the_control_of_power_cuts_without_syncs_loses_snapshots() {
    needs!("ext4", "/dev/fuse", "sh");
    let counts = power_is_cut(FileSystem::Ext4, 64, true);
    println!("power cut anywhere, without syncs: {} of {} cuts lost something", counts.failed, counts.tried);
    assert!(counts.failed > counts.tried / 4, "{} of {}", counts.failed, counts.tried);
}
