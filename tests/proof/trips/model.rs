//! What a tree should be: kept in memory, changed by the same edits as the one on disk, never read from there but for what the file
//! system decides: times that nobody set, and where holes are.

use std::collections::{BTreeMap, HashMap};

use rustix::fs::FileType;

use super::edit::{Change, Meta, Op, Place, Thing};
use crate::support::manifest::{self, Item, Manifest};

/// Files up to this length are kept without holes, which `[CUT-6]` says.
const INLINE_LEN: usize = 1024;
/// What holes begin and end at.
pub const BLOCK: usize = 4096;
/// A program with this attribute loses it when it is written to or given away.
pub const CAPABILITY: &[u8] = b"security.capability";

/// What a node is, besides its metadata.
#[derive(Clone)]
pub enum What {
    /// Names, and the nodes they stand for.
    Folder(BTreeMap<Vec<u8>, usize>),
    /// Its bytes, and where the file system has data.
    File(Vec<u8>, Vec<(u64, u64)>),
    Symlink(Vec<u8>),
    Fifo,
    Socket,
    Block(u32, u32),
    Char(u32, u32),
}

/// A thing that has one name, or several.
#[derive(Clone)]
pub struct Node {
    pub what: What,
    pub mode: u16,
    pub owner: (u32, u32),
    /// None as long as only the file system knows.
    pub mtime: Option<(i64, u32)>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Node {
    pub fn new(thing: &Thing, meta: &Meta) -> Self {
        let what = match thing {
            Thing::Folder => What::Folder(BTreeMap::new()),
            Thing::File(pieces) => What::File(pieces.bytes(), pieces.runs()),
            Thing::Symlink(target) => What::Symlink(target.0.clone()),
            Thing::Fifo => What::Fifo,
            Thing::Socket => What::Socket,
            Thing::Block(major, minor) => What::Block(*major, *minor),
            Thing::Char(major, minor) => What::Char(*major, *minor),
        };
        let mut node =
            Self { what, mode: meta.mode, owner: meta.owner, mtime: meta.mtime, xattrs: BTreeMap::new() };
        if node.kind() == FileType::Symlink {
            node.mode = 0o777;
        }
        for (name, value) in &meta.xattrs {
            node.set_xattr(&name.0, Some(&value.0));
        }
        node
    }

    pub fn kind(&self) -> FileType {
        match self.what {
            What::Folder(_) => FileType::Directory,
            What::File(..) => FileType::RegularFile,
            What::Symlink(_) => FileType::Symlink,
            What::Fifo => FileType::Fifo,
            What::Socket => FileType::Socket,
            What::Block(..) => FileType::BlockDevice,
            What::Char(..) => FileType::CharacterDevice,
        }
    }

    fn set_xattr(&mut self, name: &[u8], value: Option<&[u8]>) {
        match value {
            Some(value) if may_have(self.kind(), name) => self.xattrs.insert(name.to_vec(), value.to_vec()),
            Some(_) => None,
            None => self.xattrs.remove(name),
        };
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Mode(mode) if self.kind() != FileType::Symlink => self.mode = *mode,
            Change::Owner(uid, gid) => {
                self.owner = (*uid, *gid);
                self.xattrs.remove(CAPABILITY);
            }
            Change::Touch(secs, nanos) => self.mtime = Some((*secs, *nanos)),
            Change::Attribute(name, value) => {
                self.set_xattr(&name.0, value.as_ref().map(|value| value.0.as_slice()));
            }
            Change::Write(write, keeps_time) => {
                if let What::File(bytes, _) = &mut self.what {
                    write.apply(bytes);
                    self.xattrs.remove(CAPABILITY);
                    self.mtime = self.mtime.filter(|_| *keeps_time);
                }
            }
            Change::Mode(_) | Change::Remove => {}
        }
    }

    /// What a manifest says of it.
    fn item(&self) -> Item {
        let mut item = Item::new(self.kind());
        (item.mode, (item.uid, item.gid), item.xattrs) = (self.mode, self.owner, self.xattrs.clone());
        item.mtime = self.mtime.unwrap_or_default();
        match &self.what {
            What::File(bytes, data) => {
                item.size = bytes.len() as u64;
                item.content = Some(manifest::hash_of(bytes));
                item.data.clone_from(data);
            }
            What::Symlink(target) => {
                item.size = target.len() as u64;
                item.target.clone_from(target);
            }
            What::Block(major, minor) | What::Char(major, minor) => item.device = (*major, *minor),
            What::Folder(_) | What::Fifo | What::Socket => {}
        }
        item
    }
}

/// Whether such a thing can have such an attribute.
pub fn may_have(kind: FileType, xattr: &[u8]) -> bool {
    match kind {
        FileType::RegularFile => true,
        FileType::Directory => xattr != CAPABILITY,
        _ => xattr.starts_with(b"trusted."),
    }
}

/// All nodes there ever were; what no name leads to any more is of no account. The first is the folder itself.
#[derive(Clone)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// An empty folder.
    pub fn new() -> Self {
        Self { nodes: vec![Node::new(&Thing::Folder, &Meta { mode: 0o755, ..Meta::default() })] }
    }

    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    pub fn folder(&self, number: usize) -> Option<&BTreeMap<Vec<u8>, usize>> {
        match &self.nodes[number].what {
            What::Folder(entries) => Some(entries),
            _ => None,
        }
    }

    /// All places with their nodes, the folder itself first, parents before children, in order.
    pub fn places(&self) -> Vec<(Place, usize)> {
        let (mut places, mut open) = (Vec::new(), vec![(Place::default(), 0)]);
        while let Some((place, number)) = open.pop() {
            let below = self.folder(number).into_iter().flatten().rev();
            open.extend(below.map(|(name, number)| (place.join(name), *number)));
            places.push((place, number));
        }
        places
    }

    pub fn find(&self, place: &Place) -> Option<usize> {
        place.0.iter().try_fold(0, |number, name| self.folder(number)?.get(name).copied())
    }

    pub fn apply(&mut self, op: &Op<'_>) {
        match op {
            Op::Make(at, thing, meta) => {
                self.nodes.push(Node::new(thing, meta));
                self.name(at, Some(self.nodes.len() - 1));
            }
            Op::Rename(from, to) => {
                let number = self.find(from);
                self.name(from, None);
                self.name(to, number);
                if let Some(number) = number.filter(|number| self.folder(*number).is_some()) {
                    self.nodes[number].mtime = None;
                }
            }
            Op::Link(from, to) => self.name(to, self.find(from)),
            Op::Change(at, Change::Remove) => self.name(at, None),
            Op::Change(at, change) => {
                let number = self.find(at).unwrap();
                self.nodes[number].change(change);
            }
        }
    }

    /// Gives a place this node, or none.
    fn name(&mut self, place: &Place, number: Option<usize>) {
        let (folder, name) = place.split();
        let above = self.find(&folder).unwrap();
        let node = &mut self.nodes[above];
        node.mtime = None;
        let What::Folder(entries) = &mut node.what else { panic!("{folder:?} is no folder") };
        match number {
            Some(number) => entries.insert(name, number),
            None => entries.remove(&name),
        };
    }

    /// Takes over what the file system has decided.
    pub fn settle(&mut self, read: &Manifest) {
        let items: HashMap<Vec<u8>, &Item> = read.entries().collect();
        for (place, number) in self.places() {
            let path = place.path();
            let item = if path.is_empty() { read.get("") } else { items.get(&path).copied() };
            let Some(item) = item else { continue };
            let node = &mut self.nodes[number];
            node.mtime.get_or_insert(item.mtime);
            if let What::File(_, data) = &mut node.what {
                data.clone_from(&item.data);
            }
        }
    }

    /// As a snapshot keeps it.
    pub fn saved(mut self) -> Self {
        for node in &mut self.nodes {
            if let What::File(bytes, data) = &mut node.what
                && (1..=INLINE_LEN).contains(&bytes.len())
            {
                *data = vec![(0, bytes.len() as u64)];
            }
        }
        self
    }

    pub fn manifest(&self) -> Manifest {
        Manifest::described(0, |number| {
            let entries = self.folder(number).into_iter().flatten();
            (self.nodes[number].item(), entries.map(|(name, number)| (name.clone(), *number)).collect())
        })
    }

    /// The bytes of the file at a place.
    pub fn bytes(&self, place: &Place) -> Option<&[u8]> {
        match &self.nodes[self.find(place)?].what {
            What::File(bytes, _) => Some(bytes),
            _ => None,
        }
    }
}

/// What restoring a snapshot over a tree comes to if nothing superfluous is removed.
pub struct Union {
    pub tree: Tree,
    /// Folders that are not empty, where the snapshot has something else: they stay.
    pub in_the_way: usize,
    /// Nodes from this one on are those of the tree that was there.
    pub first_old: usize,
}

impl Union {
    pub fn of(snapshot: &Tree, before: &Tree) -> Self {
        let first_old = snapshot.nodes.len();
        let mut tree = snapshot.clone();
        tree.nodes.extend(before.nodes.iter().cloned());
        for node in &mut tree.nodes[first_old..] {
            if let What::Folder(entries) = &mut node.what {
                for number in entries.values_mut() {
                    *number += first_old;
                }
            }
        }
        let mut union = Self { tree, in_the_way: 0, first_old };
        union.unite(0, first_old);
        union
    }

    fn unite(&mut self, here: usize, old: usize) {
        for (name, old) in self.tree.folder(old).unwrap().clone() {
            let new = self.tree.folder(here).unwrap().get(&name).copied();
            let new_is_folder = new.is_some_and(|new| self.tree.folder(new).is_some());
            let old_len = self.tree.folder(old).map(BTreeMap::len);
            let stays = match (new, old_len) {
                (None, _) => true,
                (Some(new), Some(_)) if new_is_folder => {
                    self.unite(new, old);
                    false
                }
                (Some(_), len) => len.is_some_and(|len| len > 0),
            };
            self.in_the_way += usize::from(stays && new.is_some());
            if let (What::Folder(entries), true) = (&mut self.tree.nodes[here].what, stays) {
                entries.insert(name, old);
            }
        }
    }
}
