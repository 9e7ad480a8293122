//! Entries of which only the name is known, or not yet what is in them.

use crate::codec::Bytes;
use crate::id::ChunkId;
use crate::snapshot::{Entry, Kind, Meta, Why};

/// The node of a directory that is not assembled yet: never stored.
fn unknown_node() -> ChunkId {
    ChunkId::from_bytes([0; 32])
}

fn named(name: Vec<u8>, kind: Kind) -> Entry {
    Entry { name: Bytes(name), kind, meta: Meta::default(), fields: Vec::new() }
}

/// A directory, not assembled yet.
pub(super) fn directory(name: Vec<u8>, meta: Meta) -> Entry {
    Entry { meta, ..named(name, Kind::Directory(unknown_node())) }
}

/// A directory above a source: only its name is known.
pub(super) fn implied(name: Vec<u8>) -> Entry {
    named(name, Kind::Implied(unknown_node()))
}

/// Something of which only the name is known.
pub(super) fn left_out(name: Vec<u8>, why: Why, errno: u32) -> Entry {
    named(name, Kind::LeftOut(why, errno))
}
