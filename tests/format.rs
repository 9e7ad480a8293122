//! Each rule of `spec/format.md` that speaks of whole files, broken alone: the bytes are made so that every hash and checksum is
//! right, and the rule itself is what refuses them. Structures are in `spec/vectors/v1/invalid.txt`.

pub mod crafted;
mod cuts;
mod files;
mod nodes;
mod packs;
mod records;
mod segments;

use vault::error::{Corruption, Error};

/// The rule that was broken. Where one variant stands for several rules, `part` tells them apart.
fn rule(corruption: &Corruption) -> &'static str {
    match corruption {
        Corruption::Rule { rule, .. } => rule,
        Corruption::WrongMagic { part: "header" } => "HEAD-1",
        Corruption::WrongMagic { part: "frame" } => "FRAME-1",
        Corruption::WrongMagic { part: "tail" } | Corruption::WrongChecksum { part: "directory" } => "PACK-4",
        Corruption::WrongVersion { .. } => "HEAD-2",
        Corruption::WrongChecksum { part: "header" } => "HEAD-3",
        Corruption::WrongChecksum { part: "body" } => "OBJ-2",
        Corruption::WrongChecksum { part: "frame" } => "FRAME-2",
        Corruption::WrongChecksum { part: "block" | "segment header" } => "SEG-2",
        Corruption::WrongRepository { .. } => "HEAD-4",
        Corruption::UnexpectedSeal | Corruption::MissingSeal => "HEAD-5",
        Corruption::BrokenSeal { part: "key box" } => "BOX-1",
        Corruption::BrokenSeal { .. } => "SEAL-2",
        Corruption::OtherConfig => "CONF-4",
        Corruption::KeyOfOtherConfig => "KEY-4",
        Corruption::KeysBesidePlain => "CONF-5",
        Corruption::UnknownEncryption { .. } => "CONF-3",
        Corruption::StructTooLong { .. } => "OBJ-3",
        Corruption::WrongHash => "REPO-1",
        Corruption::WrongLength { .. } => "a length",
        Corruption::WrongChunk { .. } => "FRAME-6",
        other => panic!("no rule of a file: {other:?}"),
    }
}

/// The rule that a damaged file breaks; the file must be this one.
#[track_caller]
fn broken(error: &Error, file: &str) -> &'static str {
    match error {
        Error::Damaged { file: found, source } => {
            assert!(found.starts_with(file), "{found} instead of {file}");
            rule(source)
        }
        other => panic!("not damage: {other:?}"),
    }
}
