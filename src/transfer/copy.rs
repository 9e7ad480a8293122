//! One file from one copy to another: hashed while it is read, synced, read back from the medium, and only then given
//! its name. So a file that has its name there was right when it got it.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backend::{Backend, NewFile};
use crate::error::{Corruption, Error, Result};
use crate::event::{Event, Observer};
use crate::id::{self, FileHasher};
use crate::rate::RateLimit;
use crate::session::Session;
use crate::transfer::FileId;

/// So much is read and written at once. Small, so that a limited rate flows and a stop is heard soon.
const PIECE_LEN: usize = 256 << 10;

/// The way from one medium to the other.
pub(crate) struct Copier<'a> {
    pub from: &'a dyn Backend,
    pub to: &'a dyn Backend,
    pub session: Session,
    pub rate: Option<RateLimit>,
    /// For what is there already; what was just written is read back at once.
    pub read_rate: Option<RateLimit>,
    pub observer: &'a dyn Observer,
    pub stop: &'a AtomicBool,
}

impl Copier<'_> {
    /// Copies a file and returns its length. On return it is durable there, and what the medium gives back is right.
    ///
    /// # Errors
    /// `Damaged`, or `Repository` with damage, if the file is not whole where it comes from: nothing has changed there then.
    pub fn copy(&self, file: &FileId) -> Result<u64> {
        let name = file.name();
        let stored = self.from.open(&name).map_err(|error| self.cannot_read(&name, error))?;
        let temporary = self.session.temporary();
        let mut new = self.to.create(&temporary).map_err(self.cannot("create", &temporary))?;
        let mut hasher = FileHasher::default();
        let mut buffer = vec![0; PIECE_LEN];
        for (offset, len) in pieces(stored.len()) {
            self.check_stop()?;
            let piece = buffer.get_mut(..len).unwrap_or_default();
            stored.read_exact_at(piece, offset).map_err(|error| self.cannot_read(&name, error))?;
            hasher.update(piece);
            self.write(&mut *new, &name, piece)?;
        }
        if hasher.finish() != file.hash {
            return Err(Error::damaged(&name)(Corruption::WrongHash));
        }
        self.publish(new, &temporary, &name, file.hash)?;
        Ok(stored.len())
    }

    /// Writes a small file that is not copied from a file of its own.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let temporary = self.session.temporary();
        let mut new = self.to.create(&temporary).map_err(self.cannot("create", &temporary))?;
        self.write(&mut *new, name, bytes)?;
        self.publish(new, &temporary, name, id::hash(bytes))
    }

    /// Whether what the medium that is written to holds under this name is whole.
    ///
    /// # Errors
    /// An error of the medium other than those of damage; `Interrupted`.
    pub fn is_whole(&self, file: &FileId) -> Result<bool> {
        let name = file.name();
        let advanced = |bytes| {
            if let Some(rate) = &self.read_rate {
                rate.pass_or_stop(bytes, self.stop);
            }
            self.observer.event(&Event::Advanced { bytes });
        };
        match self.hash_on_medium(&name, advanced) {
            Ok(hash) => Ok(hash == file.hash),
            Err(Error::Path { source, .. }) if is_damage(&source) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn write(&self, new: &mut dyn NewFile, name: &str, bytes: &[u8]) -> Result<()> {
        if let Some(rate) = &self.rate {
            rate.pass_or_stop(bytes.len() as u64, self.stop);
        }
        new.write_all(bytes).map_err(self.cannot("write", name))?;
        self.observer.event(&Event::Advanced { bytes: bytes.len() as u64 });
        Ok(())
    }

    /// The file is read back under its temporary name: were it published first, a kill in between would leave a name that
    /// the next refresh believes and that nobody has verified.
    fn publish(&self, new: Box<dyn NewFile>, temporary: &str, name: &str, hash: [u8; 32]) -> Result<()> {
        self.to.sync(temporary).map_err(self.cannot("sync", name))?;
        if self.hash_on_medium(temporary, |_| ())? != hash {
            let said = "the medium gave back other bytes than were written to it";
            return Err(self.cannot("verify", name)(io::Error::new(io::ErrorKind::InvalidData, said)));
        }
        new.publish(name).map_err(self.cannot("write", name))
    }

    fn hash_on_medium(&self, name: &str, progress: impl Fn(u64)) -> Result<[u8; 32]> {
        let stored = self.to.open(name).map_err(self.cannot("read back", name))?;
        // Otherwise the answer would come from memory, and a medium that keeps nothing would pass.
        stored.drop_cached().map_err(self.cannot("read back", name))?;
        let mut hasher = FileHasher::default();
        let mut buffer = vec![0; PIECE_LEN];
        for (offset, len) in pieces(stored.len()) {
            self.check_stop()?;
            let piece = buffer.get_mut(..len).unwrap_or_default();
            stored.read_exact_at(piece, offset).map_err(self.cannot("read back", name))?;
            hasher.update(piece);
            progress(len as u64);
        }
        Ok(hasher.finish())
    }

    /// # Errors
    /// `Interrupted`, once the user has asked for that.
    pub fn check_stop(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn cannot_read(&self, name: &str, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                Error::damaged(name)(Corruption::WrongHash)
            }
            // One bad sector, or the whole medium? `config` is read from the medium again to know.
            _ if error.raw_os_error() == Some(libc::EIO) => match probe(self.from) {
                Ok(()) => Error::about(self.from.place())(Error::repository("read", name)(error)),
                Err(gone) => Error::path("read", &self.from.place().join("config"))(gone),
            },
            _ => Error::about(self.from.place())(Error::repository("read", name)(error)),
        }
    }

    /// Whether the medium that is written to can still be read at all.
    ///
    /// # Errors
    /// `Path` if not: then what looked like damage is none.
    pub fn check_medium(&self) -> Result<()> {
        probe(self.to).map_err(self.cannot("read", "config"))
    }

    fn cannot(&self, action: &'static str, name: &str) -> impl FnOnce(io::Error) -> Error + use<> {
        let path: PathBuf = self.to.place().join(name);
        move |source| Error::Path { action, path, source }
    }
}

fn probe(medium: &dyn Backend) -> io::Result<()> {
    let config = medium.open("config").or_else(|_| medium.open("config.2"))?;
    config.drop_cached()?;
    config.read_exact_at(&mut [0], 0)
}

/// Whether an error means that the bytes of a listed file cannot be had, and others perhaps can.
fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), InvalidData | NotFound | UnexpectedEof) || error.raw_os_error() == Some(libc::EIO)
}

/// Offset and length of the pieces of a file.
fn pieces(len: u64) -> impl Iterator<Item = (u64, usize)> {
    let step = PIECE_LEN as u64;
    (0..len.div_ceil(step)).map(move |piece| {
        let offset = piece * step;
        (offset, usize::try_from((len - offset).min(step)).unwrap_or(PIECE_LEN))
    })
}
