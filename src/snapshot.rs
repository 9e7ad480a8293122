//! What a snapshot says: [`Snapshot`], [`Entry`], and the nodes that directories and long files are made of.
//!
//! This file is the model, field for field as in `spec/format.md` §8 and §9, and its rules (`validate`). `tree` builds and reads directories, `list` the pieces of long files. Next: `restore.rs`.

pub mod list;
pub mod made;
pub mod references;
pub mod tree;

use serde::{Deserialize, Serialize};

use crate::codec::Bytes;
use crate::error::Corruption;
pub use crate::field::{Field, Time, validate_fields};
use crate::id::{ChunkId, LinkGroup, SnapshotId};
pub use list::sum_pieces;
pub use made::{MAX_LISTED, MAX_SOURCES};

/// The longest name of an entry.
pub const MAX_NAME_LEN: usize = 4096;
/// The longest target of a symlink.
pub const MAX_TARGET_LEN: usize = 65536;
/// The longest value of an extended attribute.
pub const MAX_XATTR_LEN: u64 = 16 << 20;
/// The longest content that an entry may hold itself.
pub const MAX_INLINE_LEN: usize = 64 << 10;
/// The most pieces that an entry may list itself.
pub const MAX_ENTRY_PIECES: usize = 64;
/// The highest level of a node of a tree or list.
pub const MAX_LEVEL: u8 = 16;

/// The entry's content changed while it was read.
pub const ENTRY_CHANGED_WHILE_READ: u32 = 1;
/// The directory has entries that are not in the snapshot and whose names are not known.
pub const ENTRY_INCOMPLETE: u32 = 5;

/// The hash of the snapshots that were listed when this one was taken.
pub const SNAPSHOT_SEEN: u32 = 1;

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The name, raw; empty only for the root of a snapshot.
    pub name: Bytes,
    /// What it is, and its content.
    pub kind: Kind,
    /// Its metadata.
    pub meta: Meta,
    /// Further fields, tags ascending.
    pub fields: Vec<Field>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A directory, by its root node.
    Directory(ChunkId),
    /// A regular file: size and content.
    File(u64, Content),
    /// A symlink with this target.
    Symlink(Bytes),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A block device: major and minor number.
    BlockDevice(u32, u32),
    /// A character device: major and minor number.
    CharDevice(u32, u32),
    /// A directory above a source, with nothing known but its name.
    Implied(ChunkId),
    /// Something that is in the source and not in the snapshot; with the system's error number or 0.
    LeftOut(Why, u32),
}

impl Entry {
    /// Whether it is a directory that has more entries than the snapshot knows.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.fields.iter().any(|field| field.tag == ENTRY_INCOMPLETE)
    }
}

impl Kind {
    /// The root node, if this is a directory of either kind.
    #[must_use]
    pub fn directory(&self) -> Option<ChunkId> {
        match self {
            Self::Directory(node) | Self::Implied(node) => Some(*node),
            _ => None,
        }
    }
}

/// Why something was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Why {
    /// The user asked for it.
    Excluded,
    /// It could not be read.
    Unreadable,
    /// It is on another file system, and the user asked to stay on one.
    OtherFileSystem,
    /// It is the repository that is being written to.
    Repository,
    /// It vanished while it was being saved.
    Vanished,
    /// The run was interrupted before it got there.
    Interrupted,
    /// It is of a kind that this version cannot save.
    Unsupported,
}

/// The metadata of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Meta {
    /// The lower 12 bits: permissions, setuid, setgid, sticky.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// When the content was last modified.
    pub mtime: Time,
    /// When it was made, where the file system knows.
    pub btime: Option<Time>,
    /// Extended attributes, ACLs and capabilities among them, by ascending name.
    pub xattrs: Vec<Xattr>,
    /// Set if the file has more than one name: the same for all of them.
    pub link_group: Option<LinkGroup>,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xattr {
    /// With its namespace, as `user.comment`.
    pub name: Bytes,
    /// Its value.
    pub value: Content,
}

/// The bytes of a file or of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// The bytes themselves.
    Inline(Bytes),
    /// Where the bytes are, in order.
    Pieces(Vec<Piece>),
    /// The same as the root of a tree of [`ListNode`]s.
    List(ChunkId),
}

/// A part of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// A data chunk and its length.
    Data(ChunkId, u32),
    /// So many bytes that are not allocated, and read as zero.
    Hole(u64),
}

impl Piece {
    /// How many bytes of the content it is.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Data(_, len) => u64::from(*len),
            Self::Hole(len) => *len,
        }
    }

    /// Whether it is empty, which the format forbids.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A node of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TreeNode {
    /// Entries, by ascending name.
    Leaf(Vec<Entry>),
    /// The level, and nodes of the level below.
    Branch(u8, Vec<TreeChild>),
}

/// A node below another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeChild {
    /// The first name below it.
    pub first: Bytes,
    /// How many entries are below it.
    pub entries: u64,
    /// The node.
    pub node: ChunkId,
}

/// A node of the list of pieces of a long file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListNode {
    /// Pieces, in order.
    Leaf(Vec<Piece>),
    /// The level, and nodes of the level below.
    Branch(u8, Vec<ListChild>),
}

/// A node below another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListChild {
    /// How many bytes of the file are below it.
    pub len: u64,
    /// The node.
    pub node: ChunkId,
}

/// A root tree at a point in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Whether it is whole.
    pub state: State,
    /// The root directory, with an empty name.
    pub root: Entry,
    /// The root node of a directory with notes: `errors`, `rules`.
    pub notes: Option<ChunkId>,
    /// What was saved.
    pub sources: Vec<Source>,
    /// The user's name for a series of snapshots, or empty.
    #[serde(deserialize_with = "crate::codec::text")]
    pub label: String,
    /// The user's tags.
    #[serde(deserialize_with = "crate::codec::texts")]
    pub tags: Vec<String>,
    /// The user's words.
    #[serde(deserialize_with = "crate::codec::text")]
    pub description: String,
    /// The name of the host that took it.
    #[serde(deserialize_with = "crate::codec::text")]
    pub host: String,
    /// The id of that host, zero if unknown.
    pub host_id: [u8; 16],
    /// Who took it.
    #[serde(deserialize_with = "crate::codec::text")]
    pub user: String,
    /// Which program and version took it.
    #[serde(deserialize_with = "crate::codec::text")]
    pub program: String,
    /// When it was begun.
    pub start: Time,
    /// When it was done.
    pub end: Time,
    /// The host's offset from UTC then, east positive.
    pub utc_offset_secs: i32,
    /// The newest snapshot of the same sources, host and label before this one.
    pub predecessor: Option<SnapshotId>,
    /// From which snapshots it was made, and how, if not from sources.
    pub made_from: Vec<(How, SnapshotId)>,
    /// Numbers about it, by ascending tag: see [`counter`].
    pub counters: Vec<(u32, u64)>,
    /// Further fields, tags ascending.
    pub fields: Vec<Field>,
}

/// The tags of a snapshot's counters.
pub mod counter {
    /// Files in it.
    pub const FILES: u32 = 1;
    /// Directories in it.
    pub const DIRECTORIES: u32 = 2;
    /// Other entries in it.
    pub const OTHERS: u32 = 3;
    /// Bytes of file content in it.
    pub const BYTES: u32 = 4;
    /// Files that its predecessor did not have.
    pub const FILES_NEW: u32 = 5;
    /// Files that differ from its predecessor's.
    pub const FILES_CHANGED: u32 = 6;
    /// Files that are the same.
    pub const FILES_UNCHANGED: u32 = 7;
    /// Chunks it added to the repository.
    pub const CHUNKS_ADDED: u32 = 8;
    /// Plain bytes of these.
    pub const PLAIN_ADDED: u32 = 9;
    /// Bytes by which the repository grew.
    pub const STORED_ADDED: u32 = 10;
    /// Things that could not be read.
    pub const ERRORS: u32 = 11;
    /// Entries left out.
    pub const LEFT_OUT: u32 = 12;
    /// Files that were read.
    pub const FILES_READ: u32 = 13;
    /// Bytes that were read.
    pub const BYTES_READ: u32 = 14;
    /// Files that changed while they were read.
    pub const FILES_RACED: u32 = 15;
}

/// Whether a snapshot is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// All of the sources, but for what its entries say was left out.
    Complete,
    /// The run was interrupted.
    Partial,
    /// Something made its maker doubt it.
    Suspect,
    /// One of several that only together are whole.
    PartOfPlan,
}

/// How a snapshot was made from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum How {
    /// Several were merged.
    Merge,
    /// Something was taken out of one.
    Rewrite,
    /// What could be saved of a damaged one.
    Repair,
}

/// One source of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The host it was on.
    #[serde(deserialize_with = "crate::codec::text")]
    pub origin: String,
    /// The path as the user wrote it.
    pub given: Bytes,
    /// The absolute path, a symlink at its end followed.
    pub resolved: Bytes,
    /// Where it lies in the snapshot: no leading slash, empty for the root itself.
    pub stored_at: Bytes,
    /// Below which path content was taken over from which snapshot.
    pub carried: Vec<(Bytes, SnapshotId)>,
    /// The names of the users that occur, by ascending number.
    pub users: Vec<(u32, Bytes)>,
    /// The names of the groups that occur, by ascending number.
    pub groups: Vec<(u32, Bytes)>,
}

/// Checks that `name` may be the name of an entry `[TREE-3]`.
///
/// # Errors
/// Names the rule.
pub fn validate_name(name: &[u8]) -> Result<(), Corruption> {
    if name.is_empty() || name.len() > MAX_NAME_LEN {
        return Err(Corruption::rule("TREE-3", "a name is empty or too long"));
    }
    if name == b"." || name == b".." {
        return Err(Corruption::rule("TREE-3", "a name is . or .."));
    }
    if name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(Corruption::rule("TREE-3", "a name has a slash or a NUL"));
    }
    Ok(())
}

impl Entry {
    /// Checks the entry on its own, name included, by the rules `ENTRY-…` and `TREE-3`.
    ///
    /// # Errors
    /// Names the rule.
    pub fn validate(&self) -> Result<(), Corruption> {
        validate_name(&self.name)?;
        self.validate_but_name()
    }

    fn validate_but_name(&self) -> Result<(), Corruption> {
        validate_fields(&self.fields, &[ENTRY_CHANGED_WHILE_READ])?;
        self.meta.validate()?;
        match &self.kind {
            Kind::File(size, content) => content.validate(*size),
            Kind::Symlink(target) => {
                if target.is_empty() || target.len() > MAX_TARGET_LEN || target.contains(&0) {
                    return Err(Corruption::rule(
                        "ENTRY-2",
                        "a link target is empty, too long, or has a NUL",
                    ));
                }
                Ok(())
            }
            Kind::Implied(_) | Kind::LeftOut(..) if self.meta != Meta::default() => {
                Err(Corruption::rule("ENTRY-1", "an entry that has no metadata has some"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the file changed while it was read.
    #[must_use]
    pub fn changed_while_read(&self) -> bool {
        self.fields.iter().any(|field| field.tag == ENTRY_CHANGED_WHILE_READ)
    }

    /// The size of a file, 0 for anything else.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self.kind {
            Kind::File(size, _) => size,
            _ => 0,
        }
    }
}

impl Meta {
    fn validate(&self) -> Result<(), Corruption> {
        if self.mode > 0o7777 {
            return Err(Corruption::rule("ENTRY-1", "a mode has more than 12 bits"));
        }
        self.mtime.validate()?;
        self.btime.map_or(Ok(()), Time::validate)?;
        if self.xattrs.windows(2).any(|pair| pair[0].name >= pair[1].name) {
            return Err(Corruption::rule("ENTRY-3", "the names of xattrs do not ascend"));
        }
        for xattr in &self.xattrs {
            if xattr.name.is_empty() || xattr.name.len() > 255 || xattr.name.contains(&0) {
                return Err(Corruption::rule(
                    "ENTRY-3",
                    "the name of an xattr is empty, too long, or has a NUL",
                ));
            }
            let len = match &xattr.value {
                Content::Inline(bytes) => bytes.len() as u64,
                Content::Pieces(pieces) => {
                    if pieces.iter().any(|piece| matches!(piece, Piece::Hole(_))) {
                        return Err(Corruption::rule("ENTRY-3", "an xattr has a hole"));
                    }
                    sum_pieces(pieces)?
                }
                Content::List(_) => return Err(Corruption::rule("ENTRY-3", "an xattr is a list")),
            };
            if len > MAX_XATTR_LEN {
                return Err(Corruption::rule("ENTRY-3", "an xattr is too long"));
            }
            xattr.value.validate(len)?;
        }
        Ok(())
    }
}

impl Content {
    /// Checks the content of a file of `size` bytes, as far as the entry itself says.
    fn validate(&self, size: u64) -> Result<(), Corruption> {
        match self {
            Self::Inline(bytes) => {
                if bytes.len() > MAX_INLINE_LEN || bytes.len() as u64 != size {
                    return Err(Corruption::rule(
                        "ENTRY-4",
                        "an inline content is too long or not of the file's size",
                    ));
                }
            }
            Self::Pieces(pieces) => {
                if pieces.is_empty() || pieces.len() > MAX_ENTRY_PIECES || sum_pieces(pieces)? != size {
                    return Err(Corruption::rule("ENTRY-5", "the pieces do not add up to the file's size"));
                }
            }
            Self::List(_) => {}
        }
        Ok(())
    }
}

impl Snapshot {
    /// Checks the snapshot on its own, by the rules `SNAP-…` and those of its parts.
    ///
    /// # Errors
    /// Names the rule.
    pub fn validate(&self) -> Result<(), Corruption> {
        if !self.root.name.is_empty() || self.root.kind.directory().is_none() {
            return Err(Corruption::rule("SNAP-2", "the root is no directory or has a name"));
        }
        if self.lists_too_much() {
            return Err(Corruption::rule("SNAP-5", "a snapshot lists too much"));
        }
        self.root.validate_but_name()?;
        self.start.validate()?;
        self.end.validate()?;
        made::validate_fields(&self.fields)?;
        for source in &self.sources {
            if !source.stored_at.is_empty() {
                for name in source.stored_at.split(|byte| *byte == b'/') {
                    validate_name(name)
                        .map_err(|_| Corruption::rule("SNAP-3", "a source is stored at no valid path"))?;
                }
            }
        }
        Ok(())
    }

    /// One of its [`counter`]s, 0 if it does not have it.
    #[must_use]
    pub fn counter(&self, tag: u32) -> u64 {
        self.counters.iter().find(|(found, _)| *found == tag).map_or(0, |(_, value)| *value)
    }
}
