//! Edits: as they are generated, by the number of what there is ([`Edit`]), and what that means in a tree ([`Op`]). A printed edit can be
//! pasted into a test.

use std::fmt;

use super::model::{BLOCK, Tree, may_have};
use crate::support::torture::Random;

/// One of all there are to choose from, by its number modulo how many these are.
pub type Pick = u16;

/// Bytes that are printed as text.
#[derive(Clone, PartialEq)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A bracket would be taken for that of a vector.
        let text = self.0.escape_ascii().to_string().replace('[', "\\x5b");
        write!(f, "Bytes(b\"{text}\".to_vec())")
    }
}

/// A path below the folder, by its names.
#[derive(Clone, Default, PartialEq)]
pub struct Place(pub Vec<Vec<u8>>);

impl Place {
    pub fn join(&self, name: &[u8]) -> Self {
        Self(self.0.iter().cloned().chain([name.to_vec()]).collect())
    }

    /// The folder it is in, and its name there.
    pub fn split(&self) -> (Self, Vec<u8>) {
        let (name, folder) = self.0.split_last().expect("the folder itself has no name");
        (Self(folder.to_vec()), name.clone())
    }

    pub fn path(&self) -> Vec<u8> {
        self.0.join(&b'/')
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path().escape_ascii())
    }
}

/// A part of a file.
#[derive(Debug, Clone)]
pub enum Piece {
    /// So many bytes that begin as all with this seed do.
    Random(u8, u32),
    Text(u8, u32),
    /// Written zeros.
    Zeros(u32),
    /// So many blocks that are not written, from the next block on.
    Hole(u8),
}

impl Piece {
    pub fn bytes(&self) -> Vec<u8> {
        match *self {
            Self::Random(seed, len) => Random(seed.into()).bytes(len as usize),
            Self::Text(seed, len) => Random(seed.into()).text(len as usize),
            Self::Zeros(len) => vec![0; len as usize],
            Self::Hole(blocks) => vec![0; usize::from(blocks) * BLOCK],
        }
    }
}

/// A file by its parts.
#[derive(Debug, Clone)]
pub struct Pieces(pub Vec<Piece>);

impl Pieces {
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in &self.0 {
            if matches!(piece, Piece::Hole(_)) {
                bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
            }
            bytes.extend(piece.bytes());
        }
        bytes
    }

    /// Where something is written.
    pub fn runs(&self) -> Vec<(u64, u64)> {
        let (mut at, mut runs) = (0_u64, Vec::new());
        for piece in &self.0 {
            let len = piece.bytes().len() as u64;
            if matches!(piece, Piece::Hole(_)) {
                at = at.next_multiple_of(BLOCK as u64);
            } else {
                runs.push((at, at + len));
            }
            at += len;
        }
        runs
    }
}

#[derive(Debug, Clone)]
pub enum Thing {
    Folder,
    File(Pieces),
    Symlink(Bytes),
    Fifo,
    Socket,
    Block(u32, u32),
    Char(u32, u32),
}

#[derive(Debug, Clone, Default)]
pub struct Meta {
    pub mode: u16,
    pub owner: (u32, u32),
    /// None is the time at which it is made.
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<(Bytes, Bytes)>,
}

/// What a file is written to.
#[derive(Debug, Clone)]
pub enum Write {
    /// From an offset modulo its length on.
    At(u32, Piece),
    /// All of it, as long as it was.
    Same(u8),
    Append(Piece),
    /// To a length modulo what it has and a block.
    Truncate(u32),
    /// From a block modulo how many it has, so many.
    Punch(u8, u8),
}

/// What a write does to a file.
pub enum Effect {
    Put(usize, Vec<u8>),
    SetLen(usize),
    Punch(usize, usize),
}

impl Write {
    pub fn effect(&self, len: usize) -> Effect {
        match self {
            Self::At(at, piece) => Effect::Put(*at as usize % (len + 1), piece.bytes()),
            Self::Same(seed) => Effect::Put(0, Random((*seed).into()).bytes(len)),
            Self::Append(piece) => Effect::Put(len, piece.bytes()),
            Self::Truncate(at) => Effect::SetLen(*at as usize % (len + BLOCK + 1)),
            Self::Punch(first, count) => {
                let first = usize::from(*first) % len.div_ceil(BLOCK).max(1);
                Effect::Punch(first * BLOCK, usize::from(*count) * BLOCK)
            }
        }
    }

    pub fn apply(&self, file: &mut Vec<u8>) {
        match self.effect(file.len()) {
            Effect::Put(at, bytes) => {
                file.resize(file.len().max(at + bytes.len()), 0);
                file[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            Effect::SetLen(len) => file.resize(len, 0),
            Effect::Punch(at, len) => {
                let end = (at + len).min(file.len());
                file[at.min(end)..end].fill(0);
            }
        }
    }
}

/// What happens to one thing.
#[derive(Debug, Clone)]
pub enum Change {
    Remove,
    /// Whether it has the same time of modification after it.
    Write(Write, bool),
    Mode(u16),
    Owner(u32, u32),
    Touch(i64, u32),
    Attribute(Bytes, Option<Bytes>),
}

/// An edit. What has the name already is replaced.
#[derive(Debug, Clone)]
pub enum Edit {
    /// In a folder, under a name.
    Make(Pick, Bytes, Thing, Meta),
    /// Of anything, into a folder.
    Rename(Pick, Pick, Bytes),
    /// Of anything but a folder, in a folder.
    Link(Pick, Pick, Bytes),
    Change(Pick, Change),
}

/// What an edit does in a tree.
#[derive(Debug)]
pub enum Op<'e> {
    Make(Place, &'e Thing, &'e Meta),
    Rename(Place, Place),
    Link(Place, Place),
    Change(Place, &'e Change),
}

impl Edit {
    /// None if there is nothing that it could be done to.
    pub fn in_tree(&self, tree: &Tree) -> Option<Op<'_>> {
        let places = tree.places();
        let pick = |pick: Pick, fits: &dyn Fn(&(Place, usize)) -> bool| {
            let fitting: Vec<_> = places.iter().filter(|place| fits(place)).collect();
            let at = usize::from(pick).checked_rem(fitting.len())?;
            Some(fitting[at].0.clone())
        };
        let is_folder = |place: &(Place, usize)| tree.folder(place.1).is_some();
        let is_below = |place: &(Place, usize)| !place.0.0.is_empty();
        let same = |one: &Place, other: &Place| tree.find(one) == tree.find(other);
        let op = match self {
            Self::Make(folder, name, thing, meta) => {
                Op::Make(pick(*folder, &is_folder)?.join(&name.0), thing, meta)
            }
            Self::Rename(from, folder, name) => {
                let from = pick(*from, &is_below)?;
                let to = pick(*folder, &is_folder)?.join(&name.0);
                let nested = from.0.starts_with(&to.0) || to.0.starts_with(&from.0);
                // Renaming a file to another name of it does nothing.
                if nested || same(&from, &to) {
                    return None;
                }
                Op::Rename(from, to)
            }
            Self::Link(from, folder, name) => {
                let from = pick(*from, &|place| !is_folder(place))?;
                let to = pick(*folder, &is_folder)?.join(&name.0);
                // The folder that the file is in would go.
                if from.0.starts_with(&to.0) || same(&from, &to) {
                    return None;
                }
                Op::Link(from, to)
            }
            Self::Change(at, change) => {
                let kind = |place: &(Place, usize)| tree.node(place.1).kind();
                let at = match change {
                    Change::Remove => pick(*at, &is_below)?,
                    Change::Write(..) => pick(*at, &|place| kind(place).is_file())?,
                    Change::Mode(_) => pick(*at, &|place| !kind(place).is_symlink())?,
                    Change::Attribute(name, _) => pick(*at, &|place| may_have(kind(place), &name.0))?,
                    Change::Owner(..) | Change::Touch(..) => pick(*at, &|_| true)?,
                };
                Op::Change(at, change)
            }
        };
        Some(op)
    }
}
