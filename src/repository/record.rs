//! Write-once statements about snapshots, keys and packs: `spec/format.md` §10.

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::error::Corruption;
use crate::header::{Magic, decode_object, open_object, seal_object};
use crate::id::CopyId;
use crate::seal::Keys;
use crate::snapshot::{Field, Time, validate_fields};

/// The kinds of records.
pub mod record_kind {
    /// Snapshots are forgotten.
    pub const FORGOTTEN: u32 = 1;
    /// Records are undone.
    pub const UNDONE: u32 = 2;
    /// Snapshots are held.
    pub const HELD: u32 = 3;
    /// Keys are removed.
    pub const KEY_REMOVED: u32 = 5;
    /// Packs are damaged.
    pub const PACK_DAMAGED: u32 = 6;
}

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What can be read without a key.
    pub outer: RecordOuter,
    /// The rest.
    pub body: RecordBody,
}

/// What a keyless mirror can follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordOuter {
    /// One of [`record_kind`].
    pub kind: u32,
    /// Whether a program that does not know the kind must not write.
    pub must_understand: bool,
    /// Of which copies it speaks.
    pub scope: Scope,
    /// Of what it speaks.
    pub ids: Vec<[u8; 32]>,
}

/// Of which copies a record speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// All.
    AllCopies,
    /// This one, wherever the record lies.
    Copy(CopyId),
}

/// The rest of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordBody {
    /// When it was made.
    pub created: Time,
    /// On which host.
    #[serde(deserialize_with = "crate::codec::text")]
    pub host: String,
    /// Why.
    #[serde(deserialize_with = "crate::codec::text")]
    pub reason: String,
    /// Further fields, tags ascending.
    pub fields: Vec<Field>,
}

impl Record {
    /// The bytes of its file; the body is sealed where the repository is encrypted, and vouches for the outer part.
    ///
    /// # Errors
    /// `Locked`.
    pub fn encode(&self, keys: &Keys) -> Result<Vec<u8>, Corruption> {
        seal_object(Magic::Record, keys, &codec::encode(&self.outer), &codec::encode(&self.body))
    }

    /// Reads a record.
    ///
    /// # Errors
    /// Names the rule that the bytes break; `Locked`.
    pub fn decode(bytes: &[u8], keys: &Keys) -> Result<Self, Corruption> {
        let (outer, body) = open_object(bytes, Magic::Record, keys)?;
        let record = Self { outer: codec::decode(outer)?, body: codec::decode(&body)? };
        record.body.created.validate()?;
        validate_fields(&record.body.fields, &[])?;
        Ok(record)
    }
}

impl RecordOuter {
    /// What a record says to everybody. Whether someone with the key wrote it does not show.
    ///
    /// # Errors
    /// Names the rule that the bytes break.
    pub fn decode(bytes: &[u8], keys: &Keys) -> Result<Self, Corruption> {
        let object = decode_object(bytes, Magic::Record, Some(keys.repository()))?;
        object.header.fits(keys)?;
        codec::decode(object.outer)
    }

    /// Whether this program knows what the record means `[REC-1]`.
    #[must_use]
    pub fn is_known(&self) -> bool {
        use record_kind::{FORGOTTEN, HELD, KEY_REMOVED, PACK_DAMAGED, UNDONE};
        matches!(self.kind, FORGOTTEN | UNDONE | HELD | KEY_REMOVED | PACK_DAMAGED)
    }

    /// Whether the record speaks of this copy `[REC-2]`.
    #[must_use]
    pub fn speaks_of(&self, copy: CopyId) -> bool {
        match self.scope {
            Scope::AllCopies => true,
            Scope::Copy(other) => other == copy,
        }
    }
}
