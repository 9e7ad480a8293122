//! A trip: a tree through three snapshots, and each of these back to disk over nothing, over another one, and over what was made of that.
//! What comes back is held against the model.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use serde_json::Value;

use super::disk::Disk;
use super::edit::{Change, Edit, Place, Write};
use super::model::{Tree, Union, What};
use crate::support::manifest::{Aspect, Item, Manifest};
use crate::support::vault::{Output, Vault};
use crate::whole::world::files_below;

/// So many snapshots are taken. The edits of this number make something else of what they are restored over.
pub const DIRT: usize = 3;

/// What those snapshots are counted as that are not the same as the one before.
pub const CHANGED: &str = "snapshots of a changed tree";

/// What is edited, and when.
#[derive(Clone)]
pub struct Trip {
    /// Each with the number of the snapshot before which it is made, or [`DIRT`].
    pub edits: Vec<(usize, Edit)>,
    /// Whether it is tried first without `--delete` what that makes of a target.
    pub is_gentle: bool,
    /// Whether what is restored is read back.
    pub verifies: bool,
}

impl fmt::Debug for Trip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Trip {{\nedits: vec![")?;
        for edit in &self.edits {
            writeln!(f, "    {},", format!("{edit:?}").replace('[', "vec!["))?;
        }
        writeln!(f, "],\nis_gentle: {}, verifies: {} }}", self.is_gentle, self.verifies)
    }
}

/// How a trip is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Whole,
    /// Each snapshot is restored into nothing, and that is all.
    IntoNothing,
    /// The same, but it is the snapshot before that is restored: the control.
    WithTheOneBefore,
}

/// How often what was tried.
pub type Counts = BTreeMap<&'static str, usize>;

/// A snapshot, and the tree it was taken of.
struct Taken {
    id: String,
    tree: Tree,
}

struct Course<'c> {
    vault: Vault,
    source: PathBuf,
    disk: Disk,
    tree: Tree,
    taken: Vec<Taken>,
    added: u64,
    counts: &'c mut Counts,
}

impl Trip {
    /// Goes all the way, and fails where something comes back that is not as it should be.
    pub fn go(&self, how: How, counts: &mut Counts) -> Result<(), String> {
        let mut course = Course::new(counts);
        for number in 0..DIRT {
            course.edit(self.of(number));
            course.snapshot()?;
            course.restore_into_nothing(how)?;
        }
        if how == How::Whole {
            course.snapshot_of_the_same()?;
            course.restore_over_another(self)?;
            course.restore_over_dirt(self)?;
            course.is_sound()?;
        }
        Ok(())
    }

    /// The first snapshot, restored into nothing: where that is, and the tree that it should be.
    pub fn begin(&self, counts: &mut Counts) -> Result<(Vault, PathBuf, Tree), String> {
        let mut course = Course::new(counts);
        course.edit(self.of(0));
        course.snapshot()?;
        course.restore_into_nothing(How::IntoNothing)?;
        let (target, tree) = (course.vault.join("target-0"), course.taken.remove(0).tree);
        Ok((course.vault, target, tree))
    }

    fn of(&self, number: usize) -> impl Iterator<Item = &Edit> {
        self.edits.iter().filter(move |(of, _)| *of == number).map(|(_, edit)| edit)
    }
}

impl<'c> Course<'c> {
    fn new(counts: &'c mut Counts) -> Self {
        let mut vault = Vault::new();
        let source = vault.join("source");
        fs::create_dir(&source).unwrap();
        vault.env("VAULT_REPOSITORY", vault.join("repository"));
        vault.run(&["init", "-q"]).ok();
        let disk = Disk::at(&source);
        disk.write(&Tree::new());
        Self { disk, vault, source, tree: Tree::new(), taken: Vec::new(), added: 0, counts }
    }

    fn count(&mut self, what: &'static str, how_many: usize) {
        *self.counts.entry(what).or_default() += how_many;
    }

    fn edit<'e>(&mut self, edits: impl Iterator<Item = &'e Edit>) {
        for edit in edits {
            let what = edit.kind();
            if edit_both(edit, &mut self.tree, &self.disk) {
                self.count(what, 1);
            }
        }
    }

    fn save(&mut self) -> Result<String, String> {
        let args = ["snapshot".into(), "--json".into(), self.source.clone().into_os_string()];
        let output = ended(self.vault.run(&args), 0)?;
        let lines = output.text().lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let summary = lines.into_iter().find(|line| line["message_type"] == "summary").unwrap();
        self.added += summary["data_added"].as_u64().unwrap();
        self.count("snapshots", 1);
        Ok(summary["snapshot_id"].as_str().unwrap().to_owned())
    }

    fn snapshot(&mut self) -> Result<(), String> {
        let id = self.save()?;
        let read = Manifest::of(&self.source);
        self.tree.settle(&read);
        same("the source", &self.tree.manifest().diff(&read))?;
        self.count_kinds(&read);
        let tree = self.tree.clone().saved();
        let before = self.taken.last().map(|taken| taken.tree.manifest());
        let is_changed = before.is_some_and(|before| !before.diff(&tree.manifest()).is_empty());
        self.count(CHANGED, usize::from(is_changed));
        self.taken.push(Taken { id, tree });
        Ok(())
    }

    fn count_kinds(&mut self, read: &Manifest) {
        for (_, item) in read.entries() {
            let what = match item.kind {
                FileType::RegularFile => "files",
                FileType::Directory => "folders",
                FileType::Symlink => "symlinks",
                _ => "special files",
            };
            self.count(what, 1);
            self.count("names of linked files", usize::from(read.first_link(item).is_some()));
            self.count("things with attributes", usize::from(!item.xattrs.is_empty()));
            let is_dense = item.data == [(0, item.size)] || item.size == 0;
            self.count("files with holes", usize::from(item.kind == FileType::RegularFile && !is_dense));
        }
    }

    /// Restores a snapshot, and reads what that gives.
    fn restore(
        &mut self,
        number: usize,
        target: &Path,
        more: &[&str],
        code: i32,
    ) -> Result<Manifest, String> {
        let mut selector = std::ffi::OsString::from(format!("{}:", self.taken[number].id));
        selector.push(&self.source);
        let mut args = vec!["restore".into(), "-q".into(), selector, "--target".into(), target.into()];
        args.extend(more.iter().map(Into::into));
        ended(self.vault.run(&args), code)?;
        self.count("restores", 1);
        let read = Manifest::of(target);
        self.count("entries compared", read.len());
        Ok(read)
    }

    fn restore_into_nothing(&mut self, how: How) -> Result<(), String> {
        let latest = self.taken.len() - 1;
        let wrong = usize::from(how == How::WithTheOneBefore);
        let target = self.vault.join(format!("target-{latest}"));
        let read = self.restore(latest.saturating_sub(wrong), &target, &[], 0)?;
        same("what was restored into nothing", &self.taken[latest].tree.manifest().diff(&read))
    }

    /// What is there already is not stored again, and nothing was stored twice.
    fn snapshot_of_the_same(&mut self) -> Result<(), String> {
        let packs = |vault: &Vault| -> Vec<(PathBuf, u64)> {
            let files = files_below(&vault.join("repository/packs"));
            files.into_iter().map(|file| (file.clone(), fs::metadata(file).unwrap().len())).collect()
        };
        let before = packs(&self.vault);
        self.save()?;
        if packs(&self.vault) != before {
            return Err("a snapshot of the same tree stores something".to_owned());
        }
        let output = ended(self.vault.run(&["stats", "--json"]), 0)?;
        let totals: Value = serde_json::from_str(output.text().lines().last().unwrap()).unwrap();
        let distinct = totals["total_uncompressed_size"].as_u64().unwrap();
        if distinct == self.added {
            Ok(())
        } else {
            Err(format!("{} bytes stored of {distinct}", self.added))
        }
    }

    fn restore_over_another(&mut self, trip: &Trip) -> Result<(), String> {
        for number in 0..self.taken.len() {
            let next = (number + 1) % self.taken.len();
            let target = self.vault.join(format!("target-{number}"));
            let before = self.taken[number].tree.clone();
            self.restore_exactly(next, &target, &before, trip)?;
        }
        Ok(())
    }

    fn restore_over_dirt(&mut self, trip: &Trip) -> Result<(), String> {
        for number in 0..self.taken.len() {
            let mut before = self.taken[(number + 1) % self.taken.len()].tree.clone();
            let target = self.vault.join(format!("dirty-{number}"));
            fs::create_dir(&target).unwrap();
            let disk = Disk::at(&target);
            disk.write(&before);
            for edit in trip.of(DIRT) {
                edit_both(edit, &mut before, &disk);
            }
            let read = Manifest::of(&target);
            before.settle(&read);
            same("the dirty target", &before.manifest().diff(&read))?;
            if trip.is_gentle {
                before = self.restore_gently(number, &target, &before, trip)?;
            }
            self.restore_exactly(number, &target, &before, trip)?;
        }
        Ok(())
    }

    fn flags(&mut self, number: usize, before: &Tree, trip: &Trip) -> Vec<&'static str> {
        let mut flags = Vec::new();
        flags.extend(trip.verifies.then_some("--verify"));
        // A file of the right size and time is believed, unless all are to be compared.
        if looks_the_same(&self.taken[number].tree, before) {
            self.count("restores over what looks the same", 1);
            flags.extend(["--overwrite", "always"]);
        }
        flags
    }

    fn restore_exactly(
        &mut self,
        number: usize,
        target: &Path,
        before: &Tree,
        trip: &Trip,
    ) -> Result<(), String> {
        let mut flags = self.flags(number, before, trip);
        flags.push("--delete");
        let read = self.restore(number, target, &flags, 0)?;
        let expected = &self.taken[number].tree;
        let mut lines = expected.manifest().diff_except(&read, &[Aspect::Holes]);
        lines.extend(holes(expected, before, &read));
        same("what was restored with --delete", &lines)
    }

    /// Restores without `--delete`. Returns what the target is then.
    fn restore_gently(
        &mut self,
        number: usize,
        target: &Path,
        before: &Tree,
        trip: &Trip,
    ) -> Result<Tree, String> {
        let flags = self.flags(number, before, trip);
        let mut union = Union::of(&self.taken[number].tree, before);
        self.count("folders in the way", union.in_the_way);
        let read = self.restore(number, target, &flags, i32::from(union.in_the_way > 0))?;
        let mut lines = union.tree.manifest().diff_except(&read, &[Aspect::Holes, Aspect::Links]);
        lines.extend(holes(&union.tree, before, &read));
        lines.extend(links(&union, before, &read));
        same("what was restored without --delete", &lines)?;
        union.tree.settle(&read);
        Ok(union.tree)
    }

    fn is_sound(&mut self) -> Result<(), String> {
        ended(self.vault.run(&["check", "-q", "--read-data"]), 0).map(drop)
    }
}

/// Does the same to the model and on disk; whether there was anything to do it to.
pub fn edit_both(edit: &Edit, tree: &mut Tree, disk: &Disk) -> bool {
    let op = edit.in_tree(tree);
    if let Some(op) = &op {
        disk.apply(op);
        tree.apply(op);
    }
    op.is_some()
}

fn ended(output: Output, code: i32) -> Result<Output, String> {
    if output.status.code() == Some(code) {
        Ok(output)
    } else {
        Err(format!("not exit code {code}: {}", output.report()))
    }
}

fn same(what: &str, lines: &[String]) -> Result<(), String> {
    if lines.is_empty() {
        Ok(())
    } else {
        Err(format!("{what} is not as the model says:\n{}", lines.join("\n")))
    }
}

/// Whether a file is to be restored over another one of the same size and time.
fn looks_the_same(expected: &Tree, before: &Tree) -> bool {
    expected.places().iter().any(|(place, number)| {
        let (Some(new), Some(old)) = (expected.bytes(place), before.bytes(place)) else { return false };
        let old_number = before.find(place).unwrap();
        new != old && new.len() == old.len() && expected.node(*number).mtime == before.node(old_number).mtime
    })
}

fn items(read: &Manifest) -> HashMap<Vec<u8>, &Item> {
    read.entries().collect()
}

/// Where holes are not as they should be. A file that has the right bytes already may stay, with holes or without.
fn holes(expected: &Tree, before: &Tree, read: &Manifest) -> Vec<String> {
    let mut kept = Vec::new();
    for (_, number) in before.places() {
        if let What::File(bytes, data) = &before.node(number).what {
            kept.push((bytes, data));
        }
    }
    let (mut lines, items) = (Vec::new(), items(read));
    for (place, number) in expected.places() {
        if let (What::File(bytes, data), Some(item)) = (&expected.node(number).what, items.get(&place.path()))
            && item.data != *data
            && !kept.contains(&(bytes, &item.data))
        {
            lines.push(format!("{place:?}: data outside of holes is {:?} instead of {data:?}", item.data));
        }
    }
    lines
}

/// Where names are links to one another that should not be, or the other way round. What a name of the snapshot, or another one of the same
/// file, and a name that it has not got were before, they may still be.
fn links(union: &Union, before: &Tree, read: &Manifest) -> Vec<String> {
    let items = items(read);
    let mut places = union.tree.places();
    places.retain(|(_, number)| union.tree.folder(*number).is_none());
    let first = |place: &Place| items.get(&place.path()).and_then(|item| read.first_link(item));
    let may_be = |new: usize, old: &Place| {
        let mut names = places.iter().filter(|(_, number)| *number == new);
        names.any(|(name, _)| before.find(name) == before.find(old))
    };
    let mut lines = Vec::new();
    for (index, (one, number)) in places.iter().enumerate() {
        for (other, other_number) in &places[..index] {
            let is_linked = first(one).is_some() && first(one) == first(other);
            let is_right = match (*number < union.first_old, *other_number < union.first_old) {
                (true, false) => !is_linked || may_be(*number, other),
                (false, true) => !is_linked || may_be(*other_number, one),
                _ => is_linked == (number == other_number),
            };
            if !is_right {
                lines.push(format!("{one:?} and {other:?}: links are {is_linked}"));
            }
        }
    }
    lines
}

impl Edit {
    fn kind(&self) -> &'static str {
        match self {
            Self::Make(..) => "edits: make",
            Self::Rename(..) => "edits: rename",
            Self::Link(..) => "edits: link",
            Self::Change(_, Change::Remove) => "edits: remove",
            Self::Change(_, Change::Write(Write::Same(_), true)) => "edits: write, same size and time",
            Self::Change(_, Change::Write(..)) => "edits: write",
            Self::Change(..) => "edits: metadata",
        }
    }
}
