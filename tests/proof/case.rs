//! The commands that are tried, each with a place where it is run, and what has to hold whatever becomes of it.

use std::collections::BTreeSet;
use std::fs;

use super::place::{Place, Told, told_id};
use crate::support::manifest::Manifest;
use crate::support::repository::{PASSPHRASE, is_encrypted};
use crate::support::tracer::{Act, traced};
use crate::support::vault::Output;
use crate::whole::world::files_below;

/// A command and where it is run.
pub struct Case {
    pub name: &'static str,
    pub place: Place,
    pub args: Vec<String>,
    /// Which snapshots could be restored before; all of them unless the place is damaged.
    is_damaged: bool,
}

/// A case of a command that is run in a place where nothing is damaged.
pub fn case(name: &'static str, place: Place, args: &[&str]) -> Case {
    let args = args.iter().map(|word| (*word).to_owned()).collect();
    Case { name, place, args, is_damaged: false }
}

/// Makes the place of a case.
type Make = fn() -> Case;

/// What is tried, by name.
pub const CASES: [(&str, Make); 17] = [
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
    ("rewrite", || case("rewrite", Place::with_snapshots(), &["rewrite", "--all", "-e", "small"])),
    ("merge", || {
        let place = Place::with_snapshots();
        let first = place.told[0].id.clone();
        case("merge", place, &["merge", &first, "latest"])
    }),
    ("copy", || {
        let place = Place::with_snapshots();
        let drive = place.text("drive");
        place.run(&["-r", &drive, "init", "-q"]).ok();
        let mut args = vec!["copy", "--to", &drive];
        let passphrase = place.text("passphrase");
        if is_encrypted() {
            fs::write(&passphrase, PASSPHRASE).unwrap();
            args.extend(["--to-passphrase-file", &passphrase]);
        }
        case("copy", place, &args)
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

impl Case {
    /// A case by its name, unless it is one for encrypted repositories only, and this run is not over these.
    pub fn of(name: &str) -> Option<Self> {
        let make = CASES.iter().find(|(known, _)| *known == name).unwrap().1;
        (name != "key change" || is_encrypted()).then(make)
    }

    pub fn words(&self) -> Vec<&str> {
        self.args.iter().map(String::as_str).collect()
    }

    /// What has to hold at any time.
    pub fn holds(&self, told: &[Told], before: &BTreeSet<String>) -> Vec<String> {
        let mut violations = self.holds_here(told, before);
        if let Some(count) = self.place.on_drive {
            violations.extend(self.place.violations("drive", &told[..count]));
        }
        violations
    }

    /// The same of the repository alone.
    fn holds_here(&self, told: &[Told], before: &BTreeSet<String>) -> Vec<String> {
        let mut violations = Vec::new();
        if self.is_damaged {
            let now = self.place.restorable("repository", told);
            violations.extend(before.difference(&now).map(|id| format!("{id} could be restored before")));
        } else if self.name != "init" {
            violations.extend(self.place.violations("repository", told));
        }
        violations
    }

    /// What has to hold after a run that has said what is damaged: a mirror may have got a snapshot of which packs were not there to be copied,
    /// and gives back all that it did before.
    fn holds_after_damage(&self, told: &[Told], before: &BTreeSet<String>) -> Vec<String> {
        let mut violations = self.holds_here(told, before);
        let told = &told[..self.place.on_drive.unwrap_or(0)];
        let now = self.place.restorable("drive", told);
        let lost = told.iter().filter(|told| !now.contains(&told.id));
        violations.extend(lost.map(|told| format!("the drive does not give back {}", told.id)));
        violations
    }

    /// Those that were told of before, and the one that a run has told of.
    pub fn told_after(&self, mut told: Vec<Told>, output: &Output) -> Vec<Told> {
        if self.name == "snapshot" {
            let manifest = Manifest::of(&self.place.join("source"));
            told.extend(told_id(output).map(|id| Told { id, manifest }));
        }
        told
    }

    /// What a run that succeeded should have done and has not.
    pub fn undone(&self, told: &[Told]) -> Vec<String> {
        let place = &self.place;
        let unless =
            |is_done: bool| if is_done { vec![] } else { vec![format!("{} did nothing", self.name)] };
        match self.name {
            "restore" => {
                let (source, target) = (place.join("source"), place.join("target"));
                Manifest::of(&source).diff(&Manifest::of(&target)).into_iter().take(5).collect()
            }
            "mirror" => place.violations("drive", told),
            "init" | "repair" | "heal" => place.violations("repository", told),
            "forget" => {
                let listed = place.run(&["snapshots", "--json"]);
                let is_it = |line: &str| {
                    serde_json::from_str::<serde_json::Value>(line).unwrap()["id"] == self.args[1].as_str()
                };
                unless(listed.status.success() && !listed.text().lines().any(is_it))
            }
            "prune" => unless(place.snapshots_in("repository") == told.len()),
            "parity add" => {
                let packs = files_below(&place.join("repository/packs"));
                let parity = packs.iter().filter(|path| path.extension().is_some()).count();
                unless(parity * 2 == packs.len() && place.run(&["parity", "check", "-q"]).status.success())
            }
            "key change" => unless(place.other_opens()),
            "rewrite" => unless(place.snapshots_in("repository") >= 2 * told.len()),
            "merge" => unless(place.snapshots_in("repository") > told.len()),
            "copy" => place.violations_of_copies("drive", told),
            _ => unless(told.len() > place.told.len()),
        }
    }

    /// What is wrong after a run that met with something: with what it has told of, with what it did if it succeeded, and with the same command
    /// once more.
    pub fn wrong_after(&self, output: &Output, before: &BTreeSet<String>) -> Vec<String> {
        let is_done = output.status.success();
        let told = self.place.told.clone();
        // What was told of with a warning is known to lack something.
        let told = if is_done { self.told_after(told, output) } else { told };
        let is_damage = self.name == "mirror" && output.status.code() == Some(13);
        let mut violations =
            if is_damage { self.holds_after_damage(&told, before) } else { self.holds(&told, before) };
        if is_done {
            violations.extend(self.undone(&told));
        }
        if violations.is_empty() {
            violations.extend(self.again(told));
        }
        violations
    }

    /// The same command once more, and what has to hold then.
    pub fn again(&self, mut told: Vec<Told>) -> Vec<String> {
        let mut violations = Vec::new();
        let output = self.place.run(&self.words());
        // What was done when the run was killed is not done twice.
        let is_done = match self.name {
            "init" => output.stderr.contains("already"),
            "forget" => output.stderr.contains("it was forgotten"),
            _ => false,
        };
        if !output.status.success() && !is_done {
            return vec![format!("it does not succeed again: {}", output.report())];
        }
        told = self.told_after(told, &output);
        if !is_done {
            violations.extend(self.undone(&told));
        }
        violations.extend(self.place.violations("repository", &told));
        let left = self.place.left_over();
        if !left.is_empty() {
            violations.push(format!("left over: {left:?}"));
        }
        violations
    }
}
