//! What a medium keeps of what is restored onto it: found out by what comes back once it was unmounted, and compared with what the program said.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use serde_json::Value;

use super::published::Column;
use super::reference::{self, FINE, FOUR_GIB, NAMES, TWINS, XATTRS, YEARS};
use crate::support::manifest::{Item, Manifest};
use crate::support::mount::{FileSystem, Mount};
use crate::support::vault::{Output, Vault};

/// A tree by its paths; the empty one is the folder itself.
type Tree = BTreeMap<Vec<u8>, Item>;

fn tree(manifest: &Manifest) -> Tree {
    let root = (Vec::new(), manifest.get("").unwrap().clone());
    manifest.entries().map(|(path, item)| (path, item.clone())).chain([root]).collect()
}

/// What a restore said: its exit code, which paths it could not restore, and how often what could not be set.
struct Said {
    code: i32,
    refused: BTreeSet<Vec<u8>>,
    not_set: BTreeMap<String, u64>,
}

impl Said {
    fn of(output: &Output) -> Self {
        let lines = [String::from_utf8(output.stdout.clone()).unwrap(), output.stderr.clone()].concat();
        let values = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let (mut refused, mut not_set) = (BTreeSet::new(), BTreeMap::new());
        for value in values {
            match value["message_type"].as_str() {
                Some("error") => {
                    refused.insert(path_in(&value));
                }
                Some("summary") => not_set = serde_json::from_value(value["not_set"].clone()).unwrap(),
                _ => {}
            }
        }
        Self { code: output.status.code().unwrap(), refused, not_set }
    }

    fn count(&self, what: &str) -> usize {
        self.not_set.get(what).map_or(0, |count| usize::try_from(*count).unwrap())
    }

    /// Whether it was said that this path is not there, or one above it.
    fn refuses(&self, path: &[u8]) -> bool {
        let is_above = |refused: &Vec<u8>| {
            path.strip_prefix(&refused[..]).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        self.refused.iter().any(is_above)
    }
}

/// The path that a line is about, which may not be UTF-8.
fn path_in(value: &Value) -> Vec<u8> {
    let Some(exact) = value["item_b64"].as_str() else {
        return value["item"].as_str().unwrap().trim_start_matches('/').into();
    };
    let digit = |byte: u8| {
        let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        digits.iter().position(|other| *other == byte).and_then(|at| u32::try_from(at).ok())
    };
    let mut path = Vec::new();
    for group in exact.as_bytes().chunks(4) {
        let digits: Vec<u32> = group.iter().filter_map(|byte| digit(*byte)).collect();
        let bits = digits.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - digits.len()));
        path.extend_from_slice(&bits.to_be_bytes()[1..digits.len()]);
    }
    path.strip_prefix(b"/").map_or(path.clone(), <[u8]>::to_vec)
}

/// What a medium has of the reference after a restore.
pub struct Kept {
    kind: FileSystem,
    reference: Tree,
    /// Right after the restore.
    warm: Tree,
    /// After it was unmounted, if that leaves anything.
    cold: Tree,
    said: Said,
    huge: String,
}

impl Kept {
    /// Restores the reference onto the medium.
    pub fn restored_onto(mount: &mut Mount, kind: FileSystem) -> Self {
        let place = Mount::new(FileSystem::Ext4, 64);
        let (odd, huge) = (place.join("odd"), place.join("huge"));
        fs::create_dir(&odd).unwrap();
        reference::build(&odd);
        reference::build_huge(&huge);
        let mut vault = Vault::new();
        vault.env("VAULT_REPOSITORY", vault.join("repository"));
        vault.run(&["init", "-q"]).ok();
        vault.run(&["snapshot", "-q", odd.to_str().unwrap(), huge.to_str().unwrap()]).ok();
        let target = mount.join("restored");
        let restore = |from: &Path, to: &Path| {
            let selector = format!("latest:{}", from.display());
            vault.run(&["restore", "--json", &selector, "--target", to.to_str().unwrap()])
        };
        let said = Said::of(&restore(&odd, &target));
        let warm = Manifest::of(&target);
        if kind != FileSystem::Tmpfs {
            mount.remount();
        }
        let cold = Manifest::of(&target);
        let again = Said::of(&restore(&odd, &target));
        assert_eq!((again.code, &again.refused), (said.code, &said.refused), "a second one says the same");
        assert_eq!(tree(&cold).len(), tree(&Manifest::of(&target)).len(), "a second one leaves the same");
        let huge_target = mount.join("huge");
        let huge = huge_on(&restore(&huge, &huge_target), &huge_target);
        let reference = tree(&Manifest::of(&odd));
        Self { kind, reference, warm: tree(&warm), cold: tree(&cold), said, huge }
    }

    /// Takes it that the medium has this.
    pub fn look_again(&mut self, found: &Manifest) {
        self.warm = tree(found);
        self.cold = tree(found);
    }

    /// What the medium has, if it is all that it can have.
    pub fn column(&self) -> Column {
        let mut column = Vec::new();
        let mut row = |what: &str, is: String| column.push((what.to_owned(), is));
        for (what, name) in NAMES {
            row(&format!("names: {what}"), yes(self.has(&[b"names/", name].concat())));
        }
        for (what, names) in TWINS {
            let both = names.iter().all(|name| self.has(format!("twins/{name}").as_bytes()));
            row(&format!("names: {what} in one folder"), yes(both));
        }
        row("permissions", self.all_alike("modes", |item| u32::from(item.mode)));
        row("owners", self.all_alike("owners", |item| item.uid ^ item.gid << 16));
        row("times of modification to", self.resolution().to_owned());
        row("years", self.years());
        row("files above 4 GiB", self.huge.clone());
        row("holes", yes(self.has_holes()));
        for (what, path) in
            [("symlinks", "links/symlink"), ("FIFOs", "special/fifo"), ("sockets", "special/socket")]
        {
            row(what, yes(self.has(path.as_bytes())));
        }
        row("devices", yes(self.has(b"special/null")));
        row("hard links", yes(self.unlinked(&self.cold) == 0));
        for (name, what) in XATTRS {
            let path = format!("xattrs/{name}").into_bytes();
            let of = |tree: &Tree| tree.get(&path).and_then(|item| item.xattrs.get(name.as_bytes()).cloned());
            row(what, yes(of(&self.cold) == of(&self.reference)));
        }
        column
    }

    fn has(&self, path: &[u8]) -> bool {
        self.cold.get(path).is_some_and(|item| item.kind == self.reference[path].kind)
    }

    fn all_alike(&self, folder: &str, of: impl Fn(&Item) -> u32) -> String {
        let below = |path: &&Vec<u8>| path.starts_with(format!("{folder}/").as_bytes());
        let is_kept =
            |path: &Vec<u8>| self.cold.get(path).is_some_and(|item| of(item) == of(&self.reference[path]));
        yes(self.reference.keys().filter(below).all(is_kept))
    }

    fn resolution(&self) -> &'static str {
        let (secs, nanos) = self.cold[&b"times/fine"[..]].mtime;
        match (FINE.0 - secs, FINE.1.abs_diff(nanos)) {
            (0, 0) => "1 ns",
            (0, 1..10_000_000) => "10 ms",
            (0, _) => "1 s",
            (1, _) => "2 s",
            _ if self.warm[&b"times/fine"[..]].mtime.0.abs_diff(FINE.0) < 2 => {
                "none; they seem kept until it is unmounted"
            }
            _ => "none",
        }
    }

    /// From the first to the last of those that it keeps, and what the program said of the others.
    fn years(&self) -> String {
        let time_of = |tree: &Tree, year: &str| tree[format!("times/{year}").as_bytes()].mtime.0;
        let kept: Vec<&str> = YEARS
            .iter()
            .filter(|(year, secs)| (secs - time_of(&self.cold, year)).abs() < 2)
            .map(|(year, _)| *year)
            .collect();
        let Some(from) = YEARS.iter().position(|(year, _)| Some(year) == kept.first()) else {
            return "none".into();
        };
        assert!(YEARS[from..].iter().map(|(year, _)| *year).zip(&kept).all(|(year, kept)| year == *kept));
        let unsaid = YEARS.iter().any(|(year, _)| time_of(&self.warm, year) != time_of(&self.cold, year));
        let unsaid = if unsaid { "; others seem kept until it is unmounted" } else { "" };
        format!("{} to {}{unsaid}", kept[0], kept[kept.len() - 1])
    }

    fn has_holes(&self) -> bool {
        let len = |item: &Item| item.data.iter().map(|(start, end)| end - start).sum::<u64>();
        self.cold.get(&b"sparse/hole"[..]).is_some_and(|item| len(item) < item.size)
    }

    /// How many names should be of one file with another one, and are not.
    fn unlinked(&self, tree: &Tree) -> usize {
        let is_linked = |tree: &Tree| tree.get(&b"links/file"[..]).is_some_and(Item::is_linked);
        usize::from(is_linked(&self.reference) && !is_linked(tree))
    }

    /// What is wrong: a byte, or something that is not there and was not said.
    pub fn violations(&self) -> Vec<String> {
        let mut violations = Vec::new();
        for (path, item) in &self.reference {
            let shown = path.escape_ascii();
            match self.cold.get(path) {
                None if self.said.refuses(path) => {}
                None if is_device(item) && self.said.count("device") > 0 => {}
                None => violations.push(format!("{shown} is missing, and that was not said")),
                Some(found)
                    if (found.kind, found.size, &found.target, found.content)
                        != (item.kind, item.size, &item.target, item.content) =>
                {
                    violations.push(format!("{shown} is not what it was"));
                }
                Some(_) if self.said.refused.contains(path) => {
                    violations.push(format!("{shown} is there, and was said not to be"));
                }
                Some(_) => {}
            }
        }
        let foreign = self.cold.keys().filter(|path| !self.reference.contains_key(*path));
        violations.extend(foreign.map(|path| format!("{} is too many", path.escape_ascii())));
        violations.extend(self.miscounted());
        let loses = !self.said.refused.is_empty() || !self.said.not_set.is_empty();
        if self.said.code != i32::from(loses) {
            violations.push(format!("exit code {}", self.said.code));
        }
        violations
    }

    /// What could not be set, and how often the program says so.
    fn miscounted(&self) -> Vec<String> {
        let differing = |differ: &dyn Fn(&Item, &Item) -> bool| {
            let both = self.warm.iter().filter_map(|(path, item)| Some((item, self.reference.get(path)?)));
            both.filter(|(item, before)| differ(item, before)).count()
        };
        let is_link = |item: &Item| item.kind == FileType::Symlink;
        let mut lines = Vec::new();
        // What could not get its name in the end was counted before.
        let refused = self.said.refused.len();
        let mut expect = |what: &str, is: usize| {
            let said = self.said.count(what);
            if said < is || said > is + if is > 0 { refused } else { 0 } {
                lines.push(format!("{what}: {is} are not as they were, and {said} were said not to be"));
            }
        };
        expect("owner", differing(&|a, b| (a.uid, a.gid) != (b.uid, b.gid)));
        // That driver gives each file the time at which it was closed, after it has shown the one that was set.
        if self.kind != FileSystem::Fat32 {
            expect("time of modification", differing(&|a, b| a.mtime != b.mtime));
        }
        expect("hard link", self.unlinked(&self.warm));
        let kinds =
            [["user.vault", "trusted.vault"], ["system.posix_acl_access", ""], ["security.capability", ""]];
        for (what, names) in
            ["extended attribute", "access control list", "capabilities"].into_iter().zip(kinds)
        {
            let lost = |name: &&&str| {
                differing(&|a, b| a.xattrs.get(name.as_bytes()) != b.xattrs.get(name.as_bytes())) > 0
            };
            expect(what, names.iter().filter(lost).count());
        }
        let modes = differing(&|a, b| a.mode != b.mode && !is_link(a));
        let said = [self.said.count("permissions"), self.said.count("setuid and setgid bits")];
        if modes > said[0] + said[1] || said[0] > modes + refused {
            lines.push(format!("{modes} modes are not as they were, and {said:?} were said not to be"));
        }
        lines
    }

    /// What was lost when it was unmounted, though it looked as if it were kept; but for times, which drivers over FUSE hold in memory.
    pub fn hidden(&self) -> Vec<String> {
        let is_over_fuse = matches!(self.kind, FileSystem::Exfat | FileSystem::Fat32);
        let is_lost = |(path, item): &(&Vec<u8>, &Item)| {
            self.cold.get(*path).is_none_or(|cold| {
                (cold.mode, cold.uid, cold.gid, &cold.xattrs) != (item.mode, item.uid, item.gid, &item.xattrs)
                    || cold.mtime != item.mtime && !is_over_fuse
            })
        };
        self.warm.iter().filter(is_lost).map(|(path, _)| path.escape_ascii().to_string()).collect()
    }
}

/// What came of a file that is longer than four GiB, and of the small one beside it.
fn huge_on(output: &Output, target: &Path) -> String {
    let (said, path): (Said, PathBuf) = (Said::of(output), target.join("huge"));
    let is_there = fs::metadata(&path).is_ok();
    if is_there {
        let mut end = [0; 7];
        std::os::unix::fs::FileExt::read_exact_at(&File::open(&path).unwrap(), &mut end, FOUR_GIB).unwrap();
        assert!(said.code == 0 && end == *b"the end" && fs::metadata(&path).unwrap().len() == FOUR_GIB + 7);
        fs::remove_file(path).unwrap();
        return "yes".into();
    }
    let text = [String::from_utf8_lossy(&output.stdout).into_owned(), output.stderr.clone()].concat();
    assert!(text.contains("huge"), "it was not said which: {text}");
    match said.code {
        // There is no room for what would be a hole elsewhere.
        14 => "with room for all of it".into(),
        1 => {
            assert_eq!(fs::read(target.join("small")).unwrap(), b"beside it", "{text}");
            "no".into()
        }
        other => panic!("{other}: {text}"),
    }
}

fn is_device(item: &Item) -> bool {
    matches!(item.kind, FileType::CharacterDevice | FileType::BlockDevice)
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}
