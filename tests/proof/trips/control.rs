//! The control of the comparison: in a tree that came back, one property of one thing is changed, and that has to be said, and nothing else.

use std::collections::BTreeMap;

use proptest::strategy::{Strategy, ValueTree};
use rustix::fs::FileType;

use super::disk::Disk;
use super::edit::{Bytes, Change, Op, Place};
use super::generate::trips;
use super::model::{BLOCK, Node, Tree, What, may_have};
use super::trip::Counts;
use super::{MOST_EDITS, runner, seeds};
use crate::support::manifest::Manifest;
use crate::support::needs::needs;

/// The same with one property changed; none if such a thing has not got it.
type Tamper = fn(&Node) -> Option<Node>;

/// What is changed, by what the comparison has to say of it.
const PROPERTIES: [(&str, Tamper); 9] = [
    ("content", |node| with_file(node, |bytes, _| *bytes.first_mut().unwrap() ^= 1)),
    ("mode", |node| {
        (node.kind() != FileType::Symlink).then(|| Node { mode: node.mode ^ 0o4000, ..node.clone() })
    }),
    ("owner", |node| Some(Node { owner: (node.owner.0, node.owner.1 ^ 1), ..node.clone() })),
    ("mtime", |node| Some(Node { mtime: node.mtime.map(|(secs, nanos)| (secs, nanos ^ 1)), ..node.clone() })),
    ("xattr trusted.a", |node| {
        let mut node = node.clone();
        node.xattrs.insert(b"trusted.a".to_vec(), b"another value".to_vec());
        may_have(node.kind(), b"trusted.a").then_some(node)
    }),
    ("data outside of holes", |node| {
        let has_hole = matches!(&node.what, What::File(bytes, data)
            if bytes.len() > BLOCK && *data != [(0, bytes.len() as u64)]);
        has_hole.then(|| with_file(node, |bytes, data| *data = vec![(0, bytes.len() as u64)])).flatten()
    }),
    ("target", |node| match &node.what {
        // As long as it was.
        What::Symlink(target) => {
            let mut target = target.clone();
            *target.last_mut().unwrap() = if target.ends_with(b"x") { b'y' } else { b'x' };
            Some(Node { what: What::Symlink(target), ..node.clone() })
        }
        _ => None,
    }),
    ("device", |node| match node.what {
        What::Block(major, minor) => Some(Node { what: What::Block(major, minor ^ 1), ..node.clone() }),
        What::Char(major, minor) => Some(Node { what: What::Char(major, minor ^ 256), ..node.clone() }),
        _ => None,
    }),
    ("kind", |node| match node.what {
        What::Fifo => Some(Node { what: What::Socket, ..node.clone() }),
        What::Block(major, minor) => Some(Node { what: What::Char(major, minor), ..node.clone() }),
        _ => None,
    }),
];

fn with_file(node: &Node, change: impl FnOnce(&mut Vec<u8>, &mut Vec<(u64, u64)>)) -> Option<Node> {
    let mut node = node.clone();
    match &mut node.what {
        What::File(bytes, data) if !bytes.is_empty() => {
            // What is written over need not have been a hole.
            if data.first().is_none_or(|first| first.0 > 0) {
                return None;
            }
            change(bytes, data);
            Some(node)
        }
        _ => None,
    }
}

/// A tree that came back, to be tampered with.
struct Target {
    disk: Disk,
    folder: std::path::PathBuf,
    tree: Tree,
    found: BTreeMap<&'static str, usize>,
}

impl Target {
    fn differs(&self) -> Vec<String> {
        self.tree.manifest().diff(&Manifest::of(&self.folder))
    }

    /// What was done to a place has changed the time of its folder.
    fn hide(&self, place: &Place) {
        if !place.0.is_empty() {
            let (folder, _) = place.split();
            self.disk.dress(&folder, self.tree.node(self.tree.find(&folder).unwrap()));
        }
    }

    /// Has to be told of nothing but this.
    fn must_say(&mut self, what: &'static str) {
        let lines = self.differs();
        let is_it = |line: &String| line.contains(&format!(": {what} is ")) || line.ends_with(what);
        assert!(!lines.is_empty() && lines.iter().all(is_it), "{what}: {lines:?}");
        *self.found.entry(what).or_default() += 1;
    }

    fn write(&self, place: &Place, node: &Node) {
        if node.kind() == FileType::Directory {
            // It cannot be made anew with all that is in it.
            let gone = Change::Attribute(Bytes(b"trusted.a".to_vec()), None);
            self.disk.apply(&Op::Change(place.clone(), &gone));
            self.disk.dress(place, node);
        } else {
            self.disk.put(place, node);
        }
        self.hide(place);
    }

    fn tamper(&mut self, place: &Place, node: &Node) {
        for (what, change) in PROPERTIES {
            if let Some(other) = change(node) {
                self.write(place, &other);
                self.must_say(what);
                self.write(place, node);
                assert_eq!(self.differs(), [""; 0]);
            }
        }
        if node.kind() != FileType::Directory {
            self.disk.apply(&Op::Change(place.clone(), &Change::Remove));
            self.hide(place);
            self.must_say("is missing");
            self.write(place, node);
            let (folder, name) = place.split();
            let more = folder.join(&[&name[..name.len().min(200)], b" more"].concat());
            self.write(&more, node);
            self.must_say("is too many");
            self.disk.apply(&Op::Change(more.clone(), &Change::Remove));
            self.hide(&more);
            assert_eq!(self.differs(), [""; 0]);
        }
    }
}

#[test]
fn the_control_of_round_trips_finds_each_property_that_is_changed() {
    needs!("root");
    let mut found = BTreeMap::new();
    for seed in seeds(8, 40) {
        let trip = trips(MOST_EDITS).new_tree(&mut runner(seed, 0)).unwrap().current();
        let (_vault, folder, tree) = trip.begin(&mut Counts::new()).unwrap();
        let mut target = Target { disk: Disk::at(&folder), folder, tree, found };
        let places = target.tree.places();
        let names = |number| places.iter().filter(|(_, other)| *other == number).count();
        for (place, number) in &places {
            let node = target.tree.node(*number).clone();
            if names(*number) == 1 {
                target.tamper(place, &node);
            }
        }
        if let Some((place, number)) = places.iter().find(|(_, number)| names(*number) > 1) {
            target.write(place, &target.tree.node(*number).clone());
            target.must_say("first hard link");
        }
        found = target.found;
    }
    println!("round trips, one property changed: {found:?}");
    let all =
        PROPERTIES.map(|(what, _)| what).into_iter().chain(["is missing", "is too many", "first hard link"]);
    let missed: Vec<_> = all.filter(|what| !found.contains_key(what)).collect();
    assert!(missed.is_empty(), "never changed: {missed:?}");
}
