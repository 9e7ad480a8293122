//! Exit codes, and hints: what an error means to whoever called the program.

use std::io;

use vault::error::{Corruption, Error};

use crate::{passphrase, places};

pub const DONE: u8 = 0;
pub const FAILED: u8 = 1;
pub const USAGE: u8 = 2;
pub const SOURCE_UNREADABLE: u8 = 3;
pub const NO_REPOSITORY: u8 = 10;
pub const BUSY: u8 = 11;
pub const WRONG_PASSPHRASE: u8 = 12;
pub const DAMAGE: u8 = 13;
pub const NO_SPACE: u8 = 14;
pub const MEDIUM_MISSING: u8 = 15;
pub const INTERRUPTED: u8 = 130;

/// How a verb ended that did not fail as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is done.
    Done,
    /// Some of it could not be done; each was said.
    Failed,
    /// Done, but some source files could not be read.
    SourceUnreadable,
    /// Damage was found; each was said.
    Damage,
    /// The user asked to stop, and what was done until then is kept.
    Interrupted,
}

impl Outcome {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => DONE,
            Self::Failed => FAILED,
            Self::SourceUnreadable => SOURCE_UNREADABLE,
            Self::Damage => DAMAGE,
            Self::Interrupted => INTERRUPTED,
        }
    }

    /// Damage, if any was found.
    pub fn damage_if(found: bool) -> Self {
        if found { Self::Damage } else { Self::Done }
    }
}

/// The exit code of an error.
pub fn code(error: &Error) -> u8 {
    match error {
        Error::Interrupted => INTERRUPTED,
        Error::Usage(_) => USAGE,
        Error::NoRepository { .. } => NO_REPOSITORY,
        Error::Busy { .. } | Error::BeingMade { .. } => BUSY,
        Error::Locked
        | Error::WrongPassphrase { .. }
        | Error::KeyRemoved { .. }
        | Error::Damaged { source: Corruption::Locked, .. } => WRONG_PASSPHRASE,
        Error::MediumMissing { .. } | Error::OtherRepository { .. } => MEDIUM_MISSING,
        error if error.is_no_space() => NO_SPACE,
        error if error.is_damage() => DAMAGE,
        _ => FAILED,
    }
}

/// Whether the standard output was closed by whoever read it.
pub fn is_closed_output(error: &Error) -> bool {
    matches!(error, Error::Path { action: "write", source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

/// What may help.
pub fn hint(error: &Error) -> Option<String> {
    let hint = match error {
        Error::NoRepository { path } if places::default_repository().as_ref() == Some(path) => {
            "`vault snapshot PATH` makes it; name another one with -r or VAULT_REPOSITORY"
        }
        Error::NoRepository { .. } => {
            "is its drive mounted? Name another one with -r or VAULT_REPOSITORY; `vault init` makes a new one there"
        }
        Error::Busy { .. } => {
            "wait for it, or if its machine is gone for good, `vault prune --ended SESSION` goes on without it"
        }
        Error::BeingMade { .. } => "run it again in a moment",
        Error::NotEmpty { .. } => "name a folder that is empty or does not exist yet",
        Error::MediumMissing { .. } => {
            "is the drive plugged in and mounted? The first copy on a drive is made with `vault mirror --new`"
        }
        Error::OtherRepository { .. } => "is it the right drive?",
        Error::Locked | Error::Damaged { source: Corruption::Locked, .. } => {
            return Some(format!("give it by {}; a recovery key by --recovery-key-file", passphrase::WAYS));
        }
        Error::WrongPassphrase { .. } => "`vault key list` shows the keys; --key ID tries one of them only",
        Error::KeyRemoved { .. } => "use the passphrase of another key: `vault key list` shows them",
        Error::NoKeys => {
            "a mirror may have them: `vault heal --from` takes them from there; or open it with --recovery-key-file"
        }
        Error::NotEncrypted => {
            "if it was encrypted, it was exchanged: write nothing to it. If it was not, give no passphrase: is \
             VAULT_PASSPHRASE or VAULT_PASSPHRASE_FILE set?"
        }
        Error::Damaged {
            source:
                Corruption::OtherConfig
                | Corruption::KeyOfOtherConfig
                | Corruption::ModesDiffer
                | Corruption::UnexpectedSeal
                | Corruption::KeysBesidePlain
                | Corruption::SeenEncrypted,
            ..
        } => "write nothing to it; a mirror may hold it as it was",
        Error::Damaged { file, .. } if file.starts_with("keys/") => {
            "`vault heal --from` takes the key from a mirror that has it whole; the passphrase of another key, or --recovery-key-file, opens it too"
        }
        Error::Damaged {
            source: Corruption::WrongVersion { .. } | Corruption::UnknownField { .. }, ..
        }
        | Error::UnknownFeature { .. }
        | Error::UnknownRecord { .. } => "a newer version of vault wrote this: update the program",
        error if error.is_damage() => {
            "`vault check --read-data` names all that is damaged and what it costs; `vault heal --from` takes what another copy has whole"
        }
        Error::Path { .. } if error.is_no_space() => "make room there and run it again",
        error if error.is_no_space() => {
            "make room and run it again: what is in the repository is whole, and nothing is written twice; `vault forget` and `vault prune` work on a full disk too"
        }
        Error::NotFound { what } => of_missing(what),
        Error::Nested { .. } => "name a folder that is neither in the other one nor around it",
        Error::Cache { .. } => "the cache can be deleted at any time; --no-cache goes without",
        Error::Repository { source, .. } | Error::Path { source, .. } => match source.kind() {
            io::ErrorKind::PermissionDenied => "run it as the user who may, or change the permissions",
            io::ErrorKind::AlreadyExists => "what is there is not overwritten: name another one",
            io::ErrorKind::ReadOnlyFilesystem => "the file system is mounted read-only: mount it for writing",
            _ => return None,
        },
        _ => return None,
    };
    Some(hint.to_owned())
}

/// What may help where something was not found.
fn of_missing(what: &str) -> &'static str {
    if what.starts_with('/') {
        "`vault ls SNAPSHOT:PATH` lists what is in a snapshot"
    } else if what.contains("pack ") {
        "the folder packs has a file for each, which has its id as a name"
    } else if what.starts_with("key ") {
        "`vault key list` shows the keys"
    } else {
        "`vault snapshots` lists the snapshots, `vault snapshot PATH` takes one"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_the_code_that_the_help_promises() {
        let io_error = |errno| io::Error::from_raw_os_error(errno);
        let path = std::path::PathBuf::from("/x");
        let repository = |action, errno| Error::repository(action, "packs")(io_error(errno));
        for (error, expected) in [
            (Error::Interrupted, 130),
            (Error::Usage(String::new()), 2),
            (Error::NotFound { what: String::new() }, 1),
            (Error::NoRepository { path: path.clone() }, 10),
            (Error::MediumMissing { path: path.clone(), reason: String::new() }, 15),
            (Error::Damaged { file: String::new(), source: Corruption::WrongHash }, 13),
            (repository("read", libc::EIO), 13),
            (repository("write", libc::EIO), 1),
            (repository("write", libc::ENOSPC), 14),
            (repository("write", libc::EDQUOT), 14),
            (Error::Path { action: "write", path, source: io_error(libc::ENOSPC) }, 14),
        ] {
            assert_eq!(code(&error), expected, "{error}");
        }
    }
}
