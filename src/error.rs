//! What can go wrong: one error enum for the library, and [`Corruption`] for bytes that break a rule of the format.
//!
//! Texts are lower case and do not repeat their source: the program prints the chain.

use std::io;
use std::path::{Path, PathBuf};

use crate::id::{ChunkId, ChunkKind, KeyId, RepositoryId, SnapshotId};

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that the library's operations fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the repository could not be read or written.
    #[error("cannot {action} {} of the repository{}", or_the_folder(file), in_place(place.as_deref()))]
    Repository {
        /// What was being done: `read`, `write`, `list`, …
        action: &'static str,
        /// The file, relative to the repository.
        file: String,
        /// Where the repository lies, if there are several that it may be about.
        place: Option<PathBuf>,
        /// What the system said.
        source: io::Error,
    },
    /// A file outside of the repository could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Path {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the repository is damaged.
    #[error("{file} is damaged")]
    Damaged {
        /// The file, relative to the repository.
        file: String,
        /// The rule it breaks.
        source: Corruption,
    },
    /// A chunk that something refers to is in no pack that is present.
    #[error("{kind} chunk {id} is missing from the repository")]
    ChunkMissing {
        /// Its kind.
        kind: ChunkKind,
        /// Its id.
        id: ChunkId,
    },
    /// A pack that a run relied on was condemned or deleted by one that prunes.
    #[error("{pack} was pruned meanwhile, and is needed: nothing is lost, and the next run stores it again")]
    PrunedMeanwhile {
        /// Its file.
        pack: String,
    },
    /// Another run prunes.
    #[error("another run prunes this repository: session {session}")]
    Busy {
        /// Its notice.
        session: String,
    },
    /// There is no repository at this place.
    #[error("there is no repository at {}", path.display())]
    NoRepository {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Another run makes a repository at the same place.
    #[error("another run makes a repository in {} at this moment", path.display())]
    BeingMade {
        /// The place.
        path: PathBuf,
    },
    /// `init` found something at the place where the repository should go.
    #[error("{} already holds a repository or other files", path.display())]
    NotEmpty {
        /// The place.
        path: PathBuf,
    },
    /// The medium that should hold a mirror is not there: empty, foreign, or another copy.
    #[error("{} is not the mirror that is expected there: {reason}", path.display())]
    MediumMissing {
        /// The place.
        path: PathBuf,
        /// What was found instead.
        reason: String,
    },
    /// The repository uses a feature that this program does not know.
    #[error("the repository has the feature {name:?}, which this version does not know")]
    UnknownFeature {
        /// The feature.
        name: String,
    },
    /// The repository holds a statement that this program does not understand and must not ignore.
    #[error("record {record} is of a kind that this version does not know and must not ignore")]
    UnknownRecord {
        /// The id of the record.
        record: String,
    },
    /// The repository is encrypted, and nothing was given that opens it.
    #[error("the repository is encrypted, and no passphrase was given")]
    Locked,
    /// A passphrase opens none of the keys.
    #[error("wrong passphrase: it opens none of the keys that were tried ({tried})")]
    WrongPassphrase {
        /// How many.
        tried: u32,
    },
    /// A passphrase opens a key that a record says was removed.
    #[error("the key {key} that this passphrase opens was removed from the repository")]
    KeyRemoved {
        /// The key.
        key: KeyId,
    },
    /// The repository is encrypted, and no key file is left.
    #[error("the repository is encrypted, and all its keys are missing")]
    NoKeys,
    /// A snapshot that this host saw in this copy of the repository is gone, and no record says that it was forgotten.
    #[error(
        "snapshot {snapshot} was here and is gone, and was never forgotten: it was deleted, or the repository was set back"
    )]
    SnapshotGone {
        /// Which.
        snapshot: SnapshotId,
    },
    /// A passphrase was given for a repository that is not encrypted.
    #[error("a passphrase was given, and the repository says that it is not encrypted")]
    NotEncrypted,
    /// The two repositories are not copies of one another.
    #[error("this is a copy of another repository: {found} instead of {expected}")]
    OtherRepository {
        /// The id that was expected.
        expected: RepositoryId,
        /// The id that was found.
        found: RepositoryId,
    },
    /// A path that must not lie inside of another.
    #[error("{} lies inside of {}: {reason}", inner.display(), outer.display())]
    Nested {
        /// The inner path.
        inner: PathBuf,
        /// The outer path.
        outer: PathBuf,
        /// Why this is refused.
        reason: &'static str,
    },
    /// Something the user named is not there.
    #[error("there is no {what}")]
    NotFound {
        /// What was looked for, without an article.
        what: String,
    },
    /// A file changed each time it was read: what was stored is a mixture of states.
    #[error("it changed while it was read: it is saved as it was read")]
    ChangedWhileRead,
    /// Something is longer than the format allows.
    #[error("{what} takes {len} bytes of the snapshot, and no more than {most} are possible")]
    TooLong {
        /// What it is.
        what: String,
        /// How long it is.
        len: u64,
        /// How long it may be.
        most: u64,
    },
    /// A frame could not be made.
    #[error("cannot make a frame")]
    Frame {
        /// Why.
        source: FrameError,
    },
    /// The parity of a pack did not give back what it was made of.
    #[error(
        "{file}: the parity does not give back what it was made of: this machine's memory or processor is faulty"
    )]
    Parity {
        /// Which file it is about.
        file: String,
    },
    /// What wrote a stream failed, so that the stream may be half of one.
    #[error("{} ended with {status}: no snapshot was taken", program.display())]
    CommandFailed {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: String,
    },
    /// What the user asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A thread ended without a result: a defect of this program.
    #[error("the thread that was {0} failed")]
    Thread(&'static str),
    /// Another thread failed first; its error is the cause.
    #[error("stopped after an earlier error")]
    Stopped,
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The local cache could not be used. Never fatal to an operation: the caller goes on without it.
    #[error("the local cache {} cannot be used: {reason}", path.display())]
    Cache {
        /// The cache's file.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
}

/// What a file of the repository is called; its own folder has no name there.
fn or_the_folder(file: &str) -> &str {
    if file.is_empty() { "the folder" } else { file }
}

fn in_place(place: Option<&Path>) -> String {
    place.map_or_else(String::new, |place| format!(" (in {})", place.display()))
}

impl Error {
    /// An error about a file outside of the repository, for `map_err`.
    pub fn path<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Path { action, path: path.to_owned(), source }
    }

    /// An error about a file of the repository, for `map_err`.
    pub fn repository<'a>(action: &'static str, file: &'a str) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Repository { action, file: file.to_owned(), place: None, source }
    }

    /// Says of errors which repository they are about, where that was not said, for `map_err`: that which lies there.
    pub fn about(place: &Path) -> impl Fn(Self) -> Self + '_ {
        move |error| match error {
            Self::Repository { action, file, place: None, source } => {
                Self::Repository { action, file, place: Some(place.to_owned()), source }
            }
            other => other,
        }
    }

    /// Damage to a file of the repository, for `map_err`.
    pub fn damaged(file: &str) -> impl FnOnce(Corruption) -> Self + '_ {
        move |source| Self::Damaged { file: file.to_owned(), source }
    }

    /// Whether the repository's bytes are at fault: damaged, missing or unreadable as bad sectors are.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { source, .. } => *source != Corruption::Locked,
            Self::ChunkMissing { .. } | Self::SnapshotGone { .. } | Self::NoKeys => true,
            Self::Repository { source, action, .. } => {
                // InvalidData: something else than a regular file has the name; UnexpectedEof: it shrank while it was read.
                use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
                *action == "read"
                    && (source.raw_os_error() == Some(libc::EIO)
                        || matches!(source.kind(), NotFound | InvalidData | UnexpectedEof))
            }
            _ => false,
        }
    }

    /// The file of the repository that it is about.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::Repository { file, .. } | Self::Damaged { file, .. } => Some(file),
            _ => None,
        }
    }

    /// Whether the cause is a full medium or an exhausted quota.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Repository { source, .. } | Self::Path { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}

/// Why a frame was not sealed: the machine, not the user, is at fault.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// zstd failed.
    #[error("compression failed")]
    Compression(#[source] io::Error),
    /// What was compressed does not decode to what went in.
    #[error(
        "a frame did not come back from compression as it went in: this machine's memory or processor is faulty"
    )]
    NotReproduced(#[source] Corruption),
}

/// Which rule of `spec/format.md` some bytes break.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Corruption {
    /// `[CODEC-1]`
    #[error("it is not encoded in the one right way")]
    NotCanonical,
    /// `[CODEC-2]`
    #[error("{len} bytes follow after its end")]
    TrailingBytes {
        /// How many.
        len: u64,
    },
    /// `[CODEC-3]`
    #[error("it cannot be decoded: {reason}")]
    Undecodable {
        /// What the decoder said.
        reason: String,
    },
    /// `[OBJ-3]`, `[TREE-4]`
    #[error("its structure has {len} bytes, more than is allowed")]
    StructTooLong {
        /// How many.
        len: u64,
    },
    /// `[REPO-1]`
    #[error("its bytes do not have the hash that is its name")]
    WrongHash,
    /// The file has another length than its own fields or the index say: `[OBJ-1]`, `[PACK-4]`, `[SEG-1]`.
    #[error("it has {found} bytes instead of {expected}")]
    WrongLength {
        /// What it should have.
        expected: u64,
        /// What it has.
        found: u64,
    },
    /// A checksum inside of the file is wrong: `[HEAD-3]`, `[OBJ-2]`, `[FRAME-2]`, `[PACK-4]`, `[SEG-2]`.
    #[error("the checksum of its {part} is wrong")]
    WrongChecksum {
        /// Of what.
        part: &'static str,
    },
    /// `[HEAD-1]` and the other magics.
    #[error("its {part} has the wrong magic")]
    WrongMagic {
        /// Of what.
        part: &'static str,
    },
    /// `[HEAD-2]`, `[CONF-1]`
    #[error("it is of version {found}, which this program does not know")]
    WrongVersion {
        /// The version.
        found: u32,
    },
    /// `[HEAD-4]`
    #[error("it belongs to the repository {found}")]
    WrongRepository {
        /// Which.
        found: RepositoryId,
    },
    /// `[HEAD-5]`
    #[error(
        "it is sealed, but the repository says that it is not encrypted: its config was exchanged, or the file is from elsewhere"
    )]
    UnexpectedSeal,
    /// `[HEAD-5]`
    #[error("it is not sealed, though the repository is encrypted: someone without the key put it there")]
    MissingSeal,
    /// `[SEAL-2]`, `[BOX-1]`
    #[error("the seal of its {part} is broken: it was altered, or it is not what was written in this place")]
    BrokenSeal {
        /// Of what.
        part: &'static str,
    },
    /// `[CONF-4]`
    #[error(
        "it is not the config that was made with this key: it was altered or exchanged, or the key is that of another repository"
    )]
    OtherConfig,
    /// `[KEY-4]`
    #[error("it is another config than the one that the key was made for: one of the two was exchanged")]
    KeyOfOtherConfig,
    /// `[CONF-5]`
    #[error("it does not say the same of encryption as config.2: one of them was exchanged")]
    ModesDiffer,
    /// `[CONF-5]`
    #[error("it says that the repository is not encrypted, and there are keys beside it: it was exchanged")]
    KeysBesidePlain,
    /// `[CONF-5]`
    #[error(
        "it says that the repository is not encrypted, and this computer has seen it encrypted: it was exchanged"
    )]
    SeenEncrypted,
    /// It could be read with the keys of the repository, which are not known.
    #[error("it is sealed, and the repository is locked")]
    Locked,
    /// `[CONF-3]`
    #[error("its encryption mode {found} is unknown")]
    UnknownEncryption {
        /// The mode.
        found: u32,
    },
    /// A fixed field breaks its rule.
    #[error("{rule}: {what}")]
    Rule {
        /// The id of the rule, as `PACK-3`.
        rule: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// `[FRAME-6]`, `[LIST-2]`
    #[error("the {kind} chunk in it is not {id}")]
    WrongChunk {
        /// The kind of the chunk.
        kind: ChunkKind,
        /// The id it should have.
        id: ChunkId,
    },
    /// `[FIELD-2]`
    #[error("it has the critical field {tag}, which this program does not know")]
    UnknownField {
        /// The tag.
        tag: u32,
    },
}

impl Corruption {
    /// A broken rule, for `ok_or` and `Err`.
    #[must_use]
    pub const fn rule(rule: &'static str, what: &'static str) -> Self {
        Self::Rule { rule, what }
    }
}
