//! Killed anywhere: before each call that changes something, and in the middle of each that writes.

use std::fs;

use super::place::{Place, Told, told_id};
use super::{is_nightly, sample};
use crate::support::manifest::Manifest;
use crate::support::needs::needs;
use crate::support::repository::is_encrypted;
use crate::support::torture::Random;
use crate::support::tracer::{Act, traced};
use crate::whole::world::files_below;

/// A command and where it is run.
pub struct Case {
    pub name: &'static str,
    pub place: Place,
    pub args: Vec<String>,
    /// Which snapshots could be restored before; all of them unless the place is damaged.
    is_damaged: bool,
}

fn case(name: &'static str, place: Place, args: &[&str]) -> Case {
    let args = args.iter().map(|word| (*word).to_owned()).collect();
    Case { name, place, args, is_damaged: false }
}

/// What is tried, by name.
pub const CASES: [(&str, fn() -> Case); 14] = [
    ("init", || case("init", Place::new(), &["init"])),
    ("first snapshot", || {
        let place = Place::with_repository();
        let source = place.text("source");
        case("snapshot", place, &["snapshot", "--json", &source])
    }),
    ("snapshot with a parent", || {
        let place = Place::with_snapshots();
        place.change(20);
        let source = place.text("source");
        case("snapshot", place, &["snapshot", "--json", &source])
    }),
    ("snapshot after one that was killed", || {
        let place = Place::with_snapshots();
        place.change(20);
        let source = place.text("source");
        let mut renames = 0;
        let killed = traced(&place.vault, &["snapshot", &source], |call| {
            renames += usize::from(call.renames());
            // Its notice, a pack of data; and then one of folders.
            if renames == 3 { Act::Kill } else { Act::Go }
        });
        assert!(killed.status.code().is_none(), "{}", killed.report());
        case("snapshot", place, &["snapshot", "--json", &source])
    }),
    ("first mirror", || {
        let place = Place::with_snapshots();
        let drive = place.text("drive");
        case("mirror", place, &["mirror", "--new", &drive])
    }),
    ("mirror", || {
        let mut place = Place::with_repository();
        place.snapshot();
        let drive = place.text("drive");
        place.run(&["mirror", "-q", "--new", &drive]).ok();
        place.on_drive = Some(1);
        place.change(10);
        place.snapshot();
        case("mirror", place, &["mirror", &drive])
    }),
    ("restore", || {
        let place = Place::with_snapshots();
        let (target, selector) = (place.text("target"), format!("latest:{}", place.text("source")));
        case("restore", place, &["restore", &selector, "--target", &target])
    }),
    ("restore over what is there", || {
        let mut place = Place::with_repository();
        place.snapshot();
        let (target, selector) = (place.text("target"), format!("latest:{}", place.text("source")));
        place.run(&["restore", "-q", &selector, "--target", &target]).ok();
        fs::write(place.join("target/foreign"), "not of the snapshot").unwrap();
        place.change(10);
        place.snapshot();
        case("restore", place, &["restore", &selector, "--delete", "--target", &target])
    }),
    ("forget", || {
        let mut place = Place::with_snapshots();
        let first = place.told.remove(0).id;
        case("forget", place, &["forget", &first])
    }),
    ("prune", || {
        let mut place = forgotten();
        place.told.remove(0);
        case("prune", place, &["prune", "--force", "--max-unused", "0"])
    }),
    ("repair", || {
        let place = Place::with_snapshots();
        for segment in files_below(&place.join("repository/index")) {
            fs::remove_file(segment).unwrap();
        }
        Case { is_damaged: true, ..case("repair", place, &["repair"]) }
    }),
    ("heal", || {
        let mut place = Place::with_snapshots();
        let drive = place.text("drive");
        place.run(&["mirror", "-q", "--new", &drive]).ok();
        place.on_drive = Some(2);
        let packs = files_below(&place.join("repository/packs"));
        for (number, pack) in packs.iter().enumerate() {
            if number % 2 == 0 {
                fs::remove_file(pack).unwrap();
            } else {
                let mut bytes = fs::read(pack).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(pack, bytes).unwrap();
            }
        }
        Case { is_damaged: true, ..case("heal", place, &["heal", "--from", &drive]) }
    }),
    ("parity add", || {
        let place = Place::with_snapshots();
        case("parity add", place, &["parity", "add", "--percent", "10"])
    }),
    ("key change", || {
        let place = Place::with_snapshots();
        place.use_other_passphrase();
        let file = place.text("other-passphrase");
        let words =
            ["key", "change", "--new-passphrase-file", &file, "--kdf-memory", "8M", "--kdf-passes", "1"];
        case("key change", place, &words)
    }),
];

/// Two snapshots, of which the first is forgotten; its data is in packs of its own, and in one with the second's.
fn forgotten() -> Place {
    let mut place = Place::with_snapshots();
    let first = place.told[0].id.clone();
    fs::remove_file(place.join("source/folder/text")).unwrap();
    place.snapshot();
    let second = place.told.remove(1).id;
    place.run(&["forget", "-q", &first, &second]).ok();
    place
}

/// What came of a campaign.
#[derive(Default, Debug)]
pub struct Counts {
    pub tried: usize,
    pub violations: Vec<String>,
}

impl Case {
    fn words(&self) -> Vec<&str> {
        self.args.iter().map(String::as_str).collect()
    }

    /// What has to hold at any time.
    fn holds(&self, told: &[Told], before: &std::collections::BTreeSet<String>) -> Vec<String> {
        let mut violations = Vec::new();
        if self.is_damaged {
            let now = self.place.restorable("repository", told);
            violations.extend(before.difference(&now).map(|id| format!("{id} could be restored before")));
        } else if self.name != "init" {
            violations.extend(self.place.violations("repository", told));
        }
        if let Some(count) = self.place.on_drive {
            violations.extend(self.place.violations("drive", &told[..count]));
        }
        violations
    }

    /// The same command once more, and what has to hold then.
    fn again(&self, mut told: Vec<Told>) -> Vec<String> {
        let mut violations = Vec::new();
        let output = self.place.run(&self.words());
        // What was done when the run was killed is not done twice.
        let is_done = match self.name {
            "init" => output.stderr.contains("already"),
            "mirror" => output.stderr.contains("already a copy"),
            _ => false,
        };
        if !output.status.success() && !is_done {
            return vec![format!("it does not succeed again: {}", output.report())];
        }
        match self.name {
            "snapshot" => {
                let manifest = Manifest::of(&self.place.join("source"));
                told.extend(told_id(&output).map(|id| Told { id, manifest }));
            }
            "restore" => {
                let (source, target) = (self.place.join("source"), self.place.join("target"));
                let differences = Manifest::of(&source).diff(&Manifest::of(&target));
                violations.extend(differences.into_iter().take(5));
            }
            "mirror" => violations.extend(self.place.violations("drive", &told)),
            _ => {}
        }
        violations.extend(self.place.violations("repository", &told));
        let left = self.place.left_over();
        if !left.is_empty() {
            violations.push(format!("left over: {left:?}"));
        }
        violations
    }
}

/// Has the command killed before, or in the middle of, each of its changes; some recoveries as well.
fn killed_anywhere(name: &str, make: fn() -> Case, one_in: usize) -> Counts {
    let case = make();
    case.place.save();
    let before = case.place.restorable("repository", &case.place.told);
    let mut counts = Counts::default();
    let mut random = Random(name.len() as u64);
    for at in sample(random.next(), one_in) {
        case.place.reset();
        let torn = random.below(3) == 0;
        let Some(mut told) = kill_at(&case, at, torn) else { break };
        counts.tried += 1;
        let mut violations = case.holds(&told, &before);
        // The recovery is killed too.
        if violations.is_empty() && random.below(if is_nightly() { 2 } else { 4 }) == 0 {
            if let Some(more) = kill_at(&case, random.below(at + 10), torn) {
                told = more;
                counts.tried += 1;
            }
            violations.extend(case.holds(&told, &before));
        }
        if violations.is_empty() {
            violations.extend(case.again(told));
        }
        counts.violations.extend(violations.into_iter().map(|what| format!("{name}, change {at}: {what}")));
    }
    counts
}

/// Runs the command and kills it at the change of this number; what was told then, unless it ended before.
fn kill_at(case: &Case, at: usize, torn: bool) -> Option<Vec<Told>> {
    let (mut changes, mut came) = (0, false);
    let output = traced(&case.place.vault, &case.words(), |call| {
        if !call.changes() {
            return Act::Go;
        }
        changes += 1;
        if changes != at + 1 {
            return Act::Go;
        }
        came = true;
        if torn && call.writes() { Act::HalfAndKill } else { Act::Kill }
    });
    let mut told = case.place.told.clone();
    if case.name == "snapshot" {
        let manifest = Manifest::of(&case.place.join("source"));
        told.extend(told_id(&output).map(|id| Told { id, manifest }));
    }
    came.then_some(told)
}

/// One test for each case, so that they run beside one another.
macro_rules! killed {
    ($($test:ident: $name:literal, one in $one_in:literal;)+) => {
        $(#[test]
        fn $test() {
            survives($name, $one_in);
        })+

        #[test]
        fn no_case_is_left_out() {
            let tested = [$($name),+];
            assert!(CASES.iter().map(|(name, _)| *name).eq(tested), "{tested:?}");
        }
    };
}

killed! {
    // What makes 256 folders, all alike, is tried less often.
    an_init_may_be_killed_anywhere: "init", one in 60;
    a_first_snapshot_may_be_killed_anywhere: "first snapshot", one in 8;
    a_snapshot_may_be_killed_anywhere: "snapshot with a parent", one in 8;
    a_snapshot_after_a_killed_one_may_be_killed_anywhere: "snapshot after one that was killed", one in 8;
    a_first_mirror_may_be_killed_anywhere: "first mirror", one in 60;
    a_mirror_may_be_killed_anywhere: "mirror", one in 8;
    a_restore_may_be_killed_anywhere: "restore", one in 6;
    a_restore_over_what_is_there_may_be_killed_anywhere: "restore over what is there", one in 6;
    a_forget_may_be_killed_anywhere: "forget", one in 2;
    a_prune_may_be_killed_anywhere: "prune", one in 8;
    a_repair_may_be_killed_anywhere: "repair", one in 40;
    a_heal_may_be_killed_anywhere: "heal", one in 40;
    a_parity_add_may_be_killed_anywhere: "parity add", one in 6;
    a_key_change_may_be_killed_anywhere: "key change", one in 2;
}

fn survives(name: &str, one_in: usize) {
    needs!("root", "sh");
    if name == "key change" && !is_encrypted() {
        return;
    }
    let make = CASES.iter().find(|(known, _)| *known == name).unwrap().1;
    let counts = killed_anywhere(name, make, one_in);
    println!("kill anywhere, {name}: {} kills, {} violations", counts.tried, counts.violations.len());
    assert!(counts.violations.is_empty(), "{}", counts.violations.join("\n\n"));
    assert!(counts.tried > 1);
}

#[test]
fn the_control_of_kill_anywhere_finds_what_a_write_that_was_not_made_costs() {
    needs!("root", "sh");
    let (_, make) = CASES[2];
    let case = make();
    case.place.save();
    let (mut tried, mut found) = (0, 0);
    for at in sample(1, 6) {
        case.place.reset();
        let mut writes = 0;
        let mut came = false;
        let output = traced(&case.place.vault, &case.words(), |call| {
            let is_stored =
                call.writes() && call.file().is_some_and(|file| file.contains("/repository/tmp/"));
            writes += usize::from(is_stored);
            if !is_stored || writes != at + 1 {
                return Act::Go;
            }
            came = true;
            Act::Pretend
        });
        if !came {
            break;
        }
        tried += 1;
        let manifest = Manifest::of(&case.place.join("source"));
        let mut told = case.place.told.clone();
        told.extend(told_id(&output).map(|id| Told { id, manifest }));
        found += usize::from(!case.place.violations("repository", &told).is_empty());
    }
    println!("{tried} writes that were not made, {found} found");
    assert!(tried > 2 && found > tried / 2, "{found} of {tried}");
}
