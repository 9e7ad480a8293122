//! A restore as root into a folder in which somebody else exchanges folders and files for links to a victim all the time.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags};

use super::commands::touched;
use crate::proof::is_nightly;
use crate::support::manifest::Manifest;
use crate::support::needs::needs;
use crate::support::scratch;
use crate::support::torture::Random;
use crate::support::tracer::{Act, traced};
use crate::support::vault::{Output, Vault};

/// Folders in one another, each with the same files.
const FOLDERS: [&str; 4] = ["", "a", "a/b", "a/b/c"];
const FILES: [&str; 4] = ["file", "hard", "new", "long"];

fn rounds() -> usize {
    if is_nightly() { 1000 } else { 25 }
}

/// A victim and a target of the same layout, and what is exchanged for things of the target.
struct Place {
    vault: Vault,
    victim: PathBuf,
    target: PathBuf,
    /// What lies here has the place of what is taken out of the target.
    hand: PathBuf,
}

impl Place {
    fn new() -> Self {
        let vault = Vault::new();
        let [victim, target, hand] = ["victim", "target", "hand"].map(|name| vault.join(name));
        let place = Self { vault, victim, target, hand };
        place.lay_out();
        place
    }

    /// Makes the victim, the target and the hand anew.
    fn lay_out(&self) {
        for folder in [&self.victim, &self.target, &self.hand] {
            if folder.exists() {
                scratch::remove_tree(folder).unwrap();
            }
            fs::create_dir(folder).unwrap();
        }
        for folder in FOLDERS {
            for root in [&self.victim, &self.target] {
                fs::create_dir_all(root.join(folder)).unwrap();
            }
            for name in FILES {
                let path = self.victim.join(folder).join(name);
                fs::write(&path, format!("precious {name} of {folder}")).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
                // Of two names, so that it does not show if a third one comes or goes.
                fs::hard_link(&path, self.victim.join(folder).join(format!("{name}-2"))).unwrap();
                fs::write(self.target.join(folder).join(name), "old").unwrap();
            }
        }
    }

    /// Whether all folders of the target are there: some may have been taken out of it for good.
    fn is_whole(&self) -> bool {
        FOLDERS.iter().all(|folder| self.target.join(folder).symlink_metadata().is_ok_and(|it| it.is_dir()))
    }

    /// What there is to be exchanged: in which folder, under which name, and for a link to what.
    fn swaps(&self) -> Vec<Swap> {
        let mut swaps = Vec::new();
        // Folders as often as all files together.
        for (folder, name) in [("", "a"), ("a", "b"), ("a/b", "c")].into_iter().cycle().take(12) {
            swaps.push(self.swap(folder, name, Bait::Symlink));
        }
        for folder in FOLDERS {
            for (name, bait) in [("file", Bait::Symlink), ("hard", Bait::HardLink), ("long", Bait::Symlink)] {
                swaps.push(self.swap(folder, name, bait));
            }
        }
        swaps
    }

    fn swap(&self, folder: &'static str, name: &'static str, bait: Bait) -> Swap {
        let open = |path: &Path| rustix::fs::open(path, directory(), Mode::empty()).unwrap();
        let held = format!("{}-{name}", folder.replace('/', "-"));
        let to = self.victim.join(folder).join(name);
        Swap { target: open(&self.target), hand: open(&self.hand), folder, name, held, to, bait }
    }
}

fn directory() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bait {
    Symlink,
    HardLink,
}

/// Something of the target, and what takes its place.
struct Swap {
    target: OwnedFd,
    hand: OwnedFd,
    folder: &'static str,
    name: &'static str,
    held: String,
    to: PathBuf,
    bait: Bait,
}

impl Swap {
    /// The folder, if no link leads to it: this must not touch the victim.
    fn dir(&self) -> Option<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let folder = if self.folder.is_empty() { "." } else { self.folder };
        rustix::fs::openat2(&self.target, folder, directory(), Mode::empty(), resolve).ok()
    }

    fn is_bait(&self, dir: &OwnedFd, name: &str) -> bool {
        rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| match self.bait {
            Bait::Symlink => rustix::fs::FileType::from_raw_mode(stat.st_mode).is_symlink(),
            Bait::HardLink => fs::metadata(&self.to).is_ok_and(|to| to.ino() == stat.st_ino),
        })
    }

    /// Exchanges what the target has for the bait, or back; whether that could be.
    fn exchange(&self) -> bool {
        let Some(dir) = self.dir() else { return false };
        // What was taken out of the target and found another thing in its place goes aside.
        if !self.is_bait(&dir, self.name) && !self.is_bait(&self.hand, &self.held) {
            let number = u64::from_le_bytes(vault::session::random());
            let _ = rustix::fs::renameat(&self.hand, &self.held, &self.hand, format!("aside-{number}"));
            let _ = match self.bait {
                Bait::Symlink => rustix::fs::symlinkat(&self.to, &self.hand, &self.held),
                Bait::HardLink => rustix::fs::linkat(CWD, &self.to, &self.hand, &self.held, AtFlags::empty()),
            };
        }
        let flags = RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(dir, self.name, self.hand.as_fd(), &self.held, flags).is_ok()
    }
}

/// Runs `work` while things are exchanged; how often they were.
fn while_swapped(place: &Place, seed: u64, work: impl FnOnce()) -> u64 {
    let swaps = place.swaps();
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random(seed);
            while !stop.load(Ordering::Relaxed) {
                let swap = &swaps[random.below(swaps.len())];
                // To and fro, so that it is one thing when it is looked at and another one when it is opened.
                for _ in 0..2 * random.below(50) {
                    count.fetch_add(u64::from(swap.exchange()), Ordering::Relaxed);
                }
            }
        });
        work();
        stop.store(true, Ordering::Relaxed);
    });
    count.into_inner()
}

/// Two snapshots that differ in everything: restored in turn, there is always something to be done.
fn with_snapshots() -> Place {
    let mut place = Place::new();
    place.vault.env("VAULT_REPOSITORY", place.vault.join("repository"));
    let (vault, source) = (&place.vault, place.vault.join("source"));
    vault.run(&["init", "-q"]).ok();
    for version in 0..2u8 {
        for folder in FOLDERS {
            fs::create_dir_all(source.join(folder)).unwrap();
            let mode = 0o700 + u32::from(version) * 0o55;
            fs::set_permissions(source.join(folder), fs::Permissions::from_mode(mode)).unwrap();
            for name in FILES {
                let path = source.join(folder).join(name);
                let len = if name == "long" { 300_000 } else { 100 };
                fs::write(&path, Random(u64::from(version) + 1).bytes(len)).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
                let stamp = std::time::UNIX_EPOCH + Duration::from_secs(1000 + u64::from(version));
                fs::File::open(&path).unwrap().set_modified(stamp).unwrap();
                std::os::unix::fs::chown(&path, Some(1000 + u32::from(version)), Some(1000)).unwrap();
            }
            let _ = fs::remove_file(source.join(folder).join("link"));
            symlink(format!("version-{version}"), source.join(folder).join("link")).unwrap();
        }
        vault.run(&["snapshot", "-q", "--as-path", "s", source.to_str().unwrap()]).ok();
    }
    place
}

/// What came of restores into a folder that somebody changes.
#[derive(Default)]
struct Outcome {
    rounds: usize,
    exchanges: u64,
    troubled: usize,
    violations: Vec<String>,
}

/// Restores once a round, in some way, while something is exchanged; in more rounds, up to ten times as many, if less than so many met with
/// something, which is a matter of luck.
fn restores(
    (rounds, troubled): (usize, usize),
    restore: impl Fn(&Place, usize, &[&str]) -> (u64, Output),
) -> Outcome {
    let place = with_snapshots();
    let mut before = Manifest::of(&place.victim);
    let mut outcome = Outcome::default();
    for round in 0..10 * rounds {
        if round >= rounds && outcome.troubled >= troubled {
            break;
        }
        outcome.rounds += 1;
        if round % 10 == 9 || !place.is_whole() {
            place.lay_out();
            before = Manifest::of(&place.victim);
        }
        let selector = if round % 2 == 0 { "latest:s" } else { "latest~1:s" };
        let mut args = vec!["restore", selector, "--target", place.target.to_str().unwrap(), "-q"];
        args.extend(
            [&[][..], &["--delete"], &["--overwrite", "always"], &["--verify"]][round / 2 % 4].iter(),
        );
        let (exchanges, output) = restore(&place, round, &args);
        outcome.exchanges += exchanges;
        outcome.troubled += usize::from(!output.status.success());
        if !matches!(output.status.code(), Some(0 | 1)) || output.stderr.contains("panicked") {
            outcome.violations.push(format!("round {round}: {}", output.report()));
        }
        let touched = touched(&before, &place.victim);
        outcome.violations.extend(touched.map(|what| format!("round {round}: {what}\n{}", output.report())));
    }
    outcome
}

impl Outcome {
    fn is_sound(&self, what: &str) {
        let rounds = self.rounds;
        println!(
            "hostile, {what}: {rounds} restores among {} exchanges, {} said what was in their way, {} violations",
            self.exchanges,
            self.troubled,
            self.violations.len()
        );
        let few = self.exchanges < 10 * rounds as u64;
        assert!(!few, "{} exchanges: too few to mean anything", self.exchanges);
        assert!(self.violations.is_empty(), "{}", self.violations.join("\n\n"));
    }
}

#[test]
fn a_restore_into_a_folder_that_somebody_changes_all_the_time_leaves_the_victim_alone() {
    needs!("root", "sh");
    let outcome = restores((rounds(), 0), |place, round, args| {
        let mut output = None;
        let exchanges = while_swapped(place, round as u64 + 1, || output = Some(place.vault.run(args)));
        (exchanges, output.unwrap())
    });
    outcome.is_sound("races");
}

/// Whatever the two cores do: something is another thing when it is opened than when it was looked at.
#[test]
fn a_restore_between_whose_calls_things_are_exchanged_leaves_the_victim_alone() {
    needs!("root", "sh");
    let rounds = if is_nightly() { 500 } else { 20 };
    let outcome = restores((rounds, rounds / 4 + 1), |place, round, args| {
        let (swaps, mut random, mut exchanges) = (place.swaps(), Random(round as u64 + 1), 0);
        let one = random.below(swaps.len());
        let output = traced(&place.vault, args, |_| {
            let swap = match random.below(8) {
                0..4 => &swaps[one],
                4 => &swaps[random.below(swaps.len())],
                _ => return Act::Go,
            };
            exchanges += u64::from(swap.exchange());
            Act::Go
        });
        (exchanges, output)
    });
    assert!(outcome.troubled > rounds / 4, "{} of {} met with something", outcome.troubled, outcome.rounds);
    outcome.is_sound("races between calls");
}

/// Restores as one does who trusts names.
fn restore_by_name(target: &Path) {
    for folder in FOLDERS {
        let folder = target.join(folder);
        if fs::symlink_metadata(&folder).is_ok_and(|metadata| !metadata.is_dir()) {
            let _ = fs::remove_file(&folder);
        }
        let _ = fs::create_dir_all(&folder);
        for name in FILES {
            let path = folder.join(name);
            if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) {
                let _ = fs::remove_file(&path);
            }
            // What is in the way is somebody else's trouble.
            let _ = fs::write(&path, "restored");
            let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o777));
        }
    }
}

#[test]
fn the_control_of_the_races_touches_the_victim() {
    needs!("root");
    let place = Place::new();
    let mut found = 0;
    for round in 0..rounds() {
        place.lay_out();
        let before = Manifest::of(&place.victim);
        while_swapped(&place, round as u64 + 1, || (0..10).for_each(|_| restore_by_name(&place.target)));
        found += usize::from(touched(&before, &place.victim).is_some());
    }
    println!("hostile, races, a restore that trusts names: {found} of {} touch the victim", rounds());
    assert!(found > rounds() / 4, "{found} of {}", rounds());
}
