//! A medium as source: what it has comes back, what is unchanged is known again if the medium lets it be known, and what changed is noticed.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::published::Column;
use super::reference;
use crate::proof::is_nightly;
use crate::support::manifest::{Aspect, Manifest};
use crate::support::mount::{FileSystem, Mount};
use crate::support::scratch;
use crate::support::torture::Random;
use crate::support::vault::Vault;
use crate::whole::world::{World, age, settle};

/// A source on a medium, and an ext4 to restore to.
struct Source {
    world: World,
    kind: FileSystem,
    mount: Mount,
    /// Something that keeps all.
    place: Mount,
    /// Files whose times lie in the future are read each time.
    never_settled: u64,
    violations: Vec<String>,
}

impl Source {
    fn new(kind: FileSystem, size_mb: u64) -> Self {
        let (mount, place) = (Mount::new(kind, size_mb), Mount::new(FileSystem::Ext4, 64));
        let vault = Vault::new();
        let repository = vault.join("repository");
        let world = World::at(vault, mount.join("source"), repository);
        let mut source = Self { world, kind, mount, place, never_settled: 0, violations: Vec::new() };
        source.fill();
        source
    }

    /// As much of the reference as the medium can hold, which a restore is the way to.
    fn fill(&mut self) {
        let odd = self.place.join("odd");
        fs::create_dir(&odd).unwrap();
        reference::build(&odd);
        let world = &self.world;
        world.vault.run(&["snapshot", "-q", odd.to_str().unwrap()]).ok();
        let selector = format!("latest:{}", odd.display());
        // What that cannot have is not what this is about.
        world.vault.run(&["restore", "-q", &selector, "--target", world.source.to_str().unwrap()]);
        self.remount();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let manifest = Manifest::of(&self.world.source);
        let later =
            manifest.entries().filter(|(_, item)| item.content.is_some() && item.mtime.0 > now.cast_signed());
        self.never_settled = later.count() as u64;
    }

    fn remount(&mut self) {
        if self.kind != FileSystem::Tmpfs {
            self.mount.remount();
        }
    }

    /// What the latest snapshot gives back on an ext4 has to be what the medium has now.
    fn comes_back(&mut self, when: &str) {
        self.comes_back_but(when, &[]);
    }

    fn comes_back_but(&mut self, when: &str, except: &[Aspect]) {
        let target = self.place.join("back");
        let selector = self.world.selector("latest");
        let args = ["restore".as_ref(), "-q".as_ref(), &*selector, "--target".as_ref(), target.as_os_str()];
        self.world.vault.run(&args).ok();
        // Whether blocks are holes is each file system's own business.
        let except = [except, &[Aspect::Holes]].concat();
        let differences = Manifest::of(&self.world.source).diff_except(&Manifest::of(&target), &except);
        self.violations.extend(differences.into_iter().map(|line| format!("{when}: {line}")));
        scratch::remove_tree(&target).unwrap();
    }

    /// An unchanged source, after the medium was away.
    fn unchanged(&mut self) -> String {
        settle();
        let first = self.world.snapshot(&[]);
        self.comes_back("first");
        self.remount();
        let (second, files) = (self.world.snapshot(&[]), first.count("total_files_processed"));
        self.comes_back("unchanged");
        if second.added() > 0 {
            self.violations.push(format!("{} bytes of an unchanged source are new", second.added()));
        }
        match second.read() {
            read if read == self.never_settled => "known again".into(),
            // One that gets the number by chance that it had before is known.
            read if (self.never_settled..=files).contains(&read) => {
                "read again, as inodes are numbered anew".into()
            }
            read => panic!("{read} of {files}, {}", self.never_settled),
        }
    }

    /// A file that was remembered gets other bytes of the same length, and is not made anew for that.
    fn noticed(&mut self) -> &'static str {
        let path = self.world.source.join("edited");
        overwrite(&path, &Random(8).bytes(5000));
        settle();
        self.world.snapshot(&[]);
        let bytes = Random(9).bytes(5000);
        overwrite(&path, &bytes);
        self.world.snapshot(&[]);
        if self.world.cat("edited") == bytes {
            return "yes";
        }
        self.world.snapshot(&["--force"]);
        if self.world.cat("edited") != bytes {
            self.violations.push("an edit was not noticed, nor with --force".into());
        }
        "only with `--force`"
    }

    /// A file gets other bytes of the same length so soon after it was saved that its time may be the same.
    fn edited(&mut self, wait: Duration) {
        let path = self.world.source.join("edited");
        let millis = u64::try_from(wait.as_millis()).unwrap();
        let mut random = Random(millis);
        let begin = millis / 100 % 2;
        for round in begin..begin + if is_nightly() { 6 } else { 1 } {
            overwrite(&path, &random.bytes(5000));
            std::thread::sleep(wait);
            self.world.snapshot(&[]);
            let bytes = random.bytes(5000);
            overwrite(&path, &bytes);
            if round % 2 == 1 {
                self.remount();
            }
            self.world.snapshot(&[]);
            if self.world.cat("edited") != bytes {
                self.violations.push(format!("an edit {wait:?} after the last one was not noticed"));
            }
        }
    }
}

/// Writes over what a file has, without making it shorter first, which FAT over FUSE cannot.
fn overwrite(path: &Path, bytes: &[u8]) {
    let file = File::options().create(true).write(true).truncate(false).open(path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

/// What a medium is like as source, and what was wrong with what it gave.
pub fn column(kind: FileSystem, size_mb: u64) -> (Column, Vec<String>) {
    let mut source = Source::new(kind, size_mb);
    let (unchanged, noticed) = (source.unchanged(), source.noticed());
    let waits: &[u64] = match noticed {
        "yes" if is_nightly() => &[0, 400, 1000, 1900, 2100, 3200],
        "yes" => &[0, 2100],
        _ => &[],
    };
    for wait in waits {
        source.edited(Duration::from_millis(*wait));
    }
    source.comes_back("at last");
    let column = vec![
        ("an unchanged file, once it was unmounted, is".to_owned(), unchanged),
        ("an edit that keeps the length is noticed".to_owned(), noticed.to_owned()),
    ];
    (column, source.violations)
}

/// Files of the lower folder of an overlay get new inodes, and another device, as they are written to for the first time.
pub fn copied_up(size_mb: u64) -> Vec<String> {
    let mut source = Source::new(FileSystem::Overlay, size_mb);
    let at = source.world.source.clone();
    for name in ["written", "moded", "renamed", "linked", "kept"] {
        fs::write(at.join(name), Random(7).bytes(5000)).unwrap();
        age(&at.join(name));
    }
    fs::hard_link(at.join("linked"), at.join("linked-too")).unwrap();
    source.mount.lower_all();
    settle();
    source.world.snapshot(&[]);
    source.comes_back("all in the lower folder");
    let bytes = Random(8).bytes(5000);
    // The same length and, after `age`, the same time.
    for name in ["written", "linked"] {
        fs::write(at.join(name), &bytes).unwrap();
        age(&at.join(name));
    }
    fs::set_permissions(at.join("moded"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(at.join("renamed"), at.join("moved")).unwrap();
    settle();
    for when in ["copied up", "copied up, unmounted"] {
        let summary = source.world.snapshot(&[]);
        // A link that was broken as one of its names was written to is still counted.
        source.comes_back_but(when, &[Aspect::Links]);
        let changed = summary.count("files_changed");
        if when == "copied up" && changed < 3 {
            source.violations.push(format!("{changed} changes were noticed"));
        }
        source.mount.remount();
    }
    source.violations
}
