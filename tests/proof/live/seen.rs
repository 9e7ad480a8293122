//! What a snapshot of a source that changed has of it, what its run said, and whether that is right.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use vault::backend::LocalFolder;
use vault::browse::{ContentReader, Walk, lookup};
use vault::snapshot::{Kind, counter};

use super::pattern::{State, state};
use super::scene::{FOLDERS, How, Scene};
use crate::support::repository;
use crate::support::vault::Output;
use crate::whole::world::World;

/// What a run says of a file that changed while it was read.
const CHANGED: &str = "it changed while it was read";

/// An entry of the snapshot.
#[derive(Debug, Clone)]
pub enum Item {
    Folder,
    /// A file: its bytes, and whether it is marked as one that changed while it was read.
    File(Vec<u8>, bool),
    LeftOut,
    Other,
}

/// A snapshot by the paths below its source, and what its run said.
#[derive(Debug, Clone)]
pub struct Seen {
    pub code: Option<i32>,
    pub items: BTreeMap<String, Item>,
    /// What was said of a path.
    pub said: BTreeMap<String, String>,
    /// How many files changed while they were read, as it counted them.
    pub counted: u64,
}

impl Seen {
    /// The newest snapshot, and what its run said.
    pub fn of(world: &World, output: &Output) -> Self {
        let repository = repository::open(Arc::new(LocalFolder::new(&world.repository))).unwrap();
        let snapshot = repository.snapshots().unwrap().pop().unwrap().1.unwrap();
        let top = world.source.as_os_str().as_bytes().strip_prefix(b"/").unwrap();
        let reader = repository.reader().unwrap();
        let source = lookup(&reader, &snapshot.root, top).unwrap().expect("the source");
        let mut walk = Walk::new(&reader, source.kind.directory().unwrap(), b"");
        let mut items = BTreeMap::new();
        while let Some(entry) = walk.next() {
            let entry = entry.unwrap();
            walk.descend(&entry);
            let item = match &entry.kind {
                Kind::Directory(_) => Item::Folder,
                Kind::File(..) => {
                    let mut bytes = Vec::new();
                    ContentReader::new(&reader, &entry).read_to_end(&mut bytes).unwrap();
                    Item::File(bytes, entry.changed_while_read())
                }
                Kind::LeftOut(..) => Item::LeftOut,
                _ => Item::Other,
            };
            items.insert(String::from_utf8(walk.path().to_vec()).unwrap(), item);
        }
        let counted = snapshot.counter(counter::FILES_RACED);
        Self { code: output.status.code(), items, said: said(&world.source, &output.stderr), counted }
    }

    /// How many files are marked.
    pub fn marked(&self) -> usize {
        self.items.values().filter(|item| matches!(item, Item::File(_, true))).count()
    }

    /// What is wrong with it, if the scene was as it says.
    pub fn violations(&self, scene: &Scene) -> Vec<String> {
        let mut violations = Vec::new();
        for folder in FOLDERS.into_iter().filter(|folder| !folder.is_empty()) {
            if !matches!(self.items.get(folder), Some(Item::Folder)) {
                violations.push(format!("the folder {folder} is missing"));
            }
        }
        for (path, bytes) in &scene.still {
            match self.items.get(path) {
                Some(Item::File(found, false)) if found == bytes => {}
                Some(Item::File(_, true)) => violations.push(format!("{path} was left alone, and is marked")),
                Some(Item::File(..)) => violations.push(format!("{path} was left alone, and differs")),
                found => violations.push(format!("{path} was left alone, and is missing: {found:?}")),
            }
        }
        for written in &scene.written {
            let path = &written.path;
            let Some(Item::File(bytes, marked)) = self.items.get(path) else {
                let (found, said) = (self.items.get(path), self.said.get(path));
                violations.push(format!("{path} was there at any time, and is missing: {found:?}, {said:?}"));
                continue;
            };
            let is_right = match state(written.file, bytes) {
                State::Whole(_) => true,
                State::Empty => written.how == How::Truncated,
                State::UnderWay => written.how == How::Mapped,
                State::Torn => false,
            };
            if !is_right && !marked {
                violations.push(format!("{path}, {:?}, is torn, and not marked", written.how));
            }
        }
        violations.extend(self.unsaid(scene));
        violations
    }

    /// What was said and is not so, or is so and was not said.
    fn unsaid(&self, scene: &Scene) -> Vec<String> {
        let mut violations = Vec::new();
        let expected = if self.said.is_empty() { 0 } else { 3 };
        if self.code != Some(expected) {
            violations.push(format!("the exit code is {:?} instead of {expected}", self.code));
        }
        for (path, what) in &self.said {
            let is_marked = match self.items.get(path) {
                Some(Item::File(_, marked)) => *marked,
                Some(Item::LeftOut) => false,
                _ => continue,
            };
            if is_marked != (what == CHANGED) {
                violations.push(format!("{path} is marked: {is_marked}, and was said: {what}"));
            }
            if scene.still.contains_key(path) {
                violations.push(format!("{path} was left alone, and was said: {what}"));
            }
        }
        for (path, item) in &self.items {
            let is_told = matches!(item, Item::File(_, true) | Item::LeftOut);
            if is_told && !self.said.contains_key(path) {
                violations.push(format!("nothing was said of {path}"));
            }
        }
        let said = self.said.values().filter(|what| *what == CHANGED).count();
        let marked = self.marked();
        if self.counted != marked as u64 || said != marked {
            violations.push(format!("{} were counted, {said} said, {marked} marked", self.counted));
        }
        violations
    }
}

/// What a run said of paths below the source. Of a file that changed, only that.
fn said(source: &Path, stderr: &str) -> BTreeMap<String, String> {
    let lines = stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let errors = lines.filter(|line| line["message_type"] == "error");
    let of_path = |error: Value| {
        let path = Path::new(error["path"].as_str()?).strip_prefix(source).ok()?.to_str()?.to_owned();
        let message = error["error"]["message"].as_str()?;
        let what = if message.contains(CHANGED) { CHANGED } else { message };
        Some((path, what.to_owned()))
    };
    errors.filter_map(of_path).collect()
}
