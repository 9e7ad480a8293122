//! Who is at work on the repository, what they rely on, and which packs are condemned: the files in `sessions/` and `marks/`,
//! `spec/concurrency.md`.
//!
//! Both are notices of a session, written once and removed by who wrote them, or, once that session is known to have ended, by another run on
//! the same host. Nothing here waits for anybody.

use std::collections::HashSet;
use std::io;

use serde::{Deserialize, Serialize};

use crate::backend::{Backend, Listed, read_whole};
use crate::codec;
use crate::error::{Corruption, Error, Result};
use crate::header::{Magic, Seal, decode_object, encode_object};
use crate::id::{PackId, RepositoryId, SnapshotId};
use crate::index::is_vanished;
use crate::repository::{MAX_OBJECT_FILE, Repository, object};
use crate::session::{self, Session};
use crate::snapshot::{Field, Time, validate_fields};

/// So many packs are named in one notice; it stays below the limit of an object file.
const PACKS_PER_NOTICE: usize = 250_000;

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// A run that writes: what it relies on is in its later notices.
    Writing,
    /// A run that prunes.
    Pruning,
}

/// What a notice says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeBody {
    /// What the session does.
    pub work: Work,
    /// When it was made, by the clock of its host: for the user only.
    pub created: Time,
    /// In `sessions/`, packs that the session relies on; in `marks/`, packs that it condemns. Ascending.
    pub packs: Vec<PackId>,
    /// In `marks/`, forgotten snapshots whose files are to be deleted. Ascending.
    pub snapshots: Vec<SnapshotId>,
    /// Further fields, tags ascending.
    pub fields: Vec<Field>,
}

/// One file of `sessions/` or `marks/`. It is never sealed: a mirror without keys makes some too, and the names of packs show anyway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Its name in the folder.
    pub name: String,
    /// When it was written, in seconds by the clock of the medium.
    pub modified: i64,
    /// What it says.
    pub body: NoticeBody,
}

impl Notice {
    fn decode(
        bytes: &[u8],
        magic: Magic,
        repository: RepositoryId,
        listed: &Listed,
    ) -> Result<Self, Corruption> {
        let object = decode_object(bytes, magic, Some(repository))?;
        let body: NoticeBody = codec::decode(object.body)?;
        body.created.validate()?;
        validate_fields(&body.fields, &[])?;
        let ascends = body.packs.is_sorted_by(|one, other| one < other)
            && body.snapshots.is_sorted_by(|one, other| one < other);
        if !object.outer.is_empty() || !ascends {
            return Err(Corruption::rule(
                "NOTE-1",
                "what it names does not ascend, or something stands before it",
            ));
        }
        Ok(Self { name: listed.name.clone(), modified: listed.modified, body })
    }
}

/// The notices of a session of this run. Those that are left are removed when it is dropped.
pub struct Presence {
    backend: std::sync::Arc<dyn Backend>,
    repository: RepositoryId,
    session: Session,
    work: Work,
    /// Of the notice that comes next.
    number: u64,
    published: Vec<String>,
}

impl Presence {
    /// Announces this run, and removes what ended sessions of this host left in `sessions/` `[NOTE-2]`. What they left in `marks/` is for
    /// who prunes: the index may name packs yet that were deleted under them.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn announce(repository: &Repository, work: Work) -> Result<Self> {
        let backend = repository.backend().clone();
        for folder in ["sessions", "marks"] {
            backend.make_folder(folder).map_err(Error::repository("make", folder))?;
        }
        remove_left_over(&*backend, "sessions")?;
        let mut presence = Self {
            backend,
            repository: repository.id(),
            session: Session::begin(),
            work,
            number: 0,
            published: Vec::new(),
        };
        presence.publish("sessions", Magic::Session, &[], &[])?;
        Ok(presence)
    }

    /// Says that this run relies on these packs.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn rely(&mut self, packs: &[PackId]) -> Result<()> {
        packs
            .chunks(PACKS_PER_NOTICE)
            .try_for_each(|part| self.publish("sessions", Magic::Session, part, &[]))
    }

    /// Condemns these packs and the files of these snapshots.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn condemn(&mut self, packs: &[PackId], snapshots: &[SnapshotId]) -> Result<()> {
        if !snapshots.is_empty() {
            self.publish("marks", Magic::Mark, &[], snapshots)?;
        }
        packs.chunks(PACKS_PER_NOTICE).try_for_each(|part| self.publish("marks", Magic::Mark, part, &[]))
    }

    /// Whether a name in `sessions/` or `marks/` is one of this run.
    #[must_use]
    pub fn is_own(&self, name: &str) -> bool {
        name.strip_prefix(self.session.name()).is_some_and(|rest| rest.starts_with('-'))
    }

    /// Whether what this run said is still there: nobody has declared it ended.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn is_heard(&self) -> Result<bool> {
        let mut names = HashSet::new();
        for folder in ["sessions", "marks"] {
            names.extend(
                list(&*self.backend, folder)?.into_iter().map(|listed| format!("{folder}/{}", listed.name)),
            );
        }
        Ok(self.published.iter().all(|name| names.contains(name)))
    }

    /// Takes back what was said in a folder.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn withdraw(&mut self, folder: &str) -> Result<()> {
        let (gone, left) = std::mem::take(&mut self.published)
            .into_iter()
            .partition::<Vec<_>, _>(|name| name.split('/').next() == Some(folder));
        self.published = left;
        gone.iter().try_for_each(|name| remove(&*self.backend, name))
    }

    /// Leaves what was said where it is, as a run does that is killed.
    pub fn leave(&mut self) {
        self.published.clear();
    }

    fn publish(
        &mut self,
        folder: &str,
        magic: Magic,
        packs: &[PackId],
        snapshots: &[SnapshotId],
    ) -> Result<()> {
        let packs = super::sorted(packs.iter().copied());
        let snapshots = super::sorted(snapshots.iter().copied());
        let body = NoticeBody { work: self.work, created: Time::now(), packs, snapshots, fields: Vec::new() };
        let name = format!("{folder}/{}-{}", self.session.name(), self.number);
        self.number += 1;
        let bytes = encode_object(magic, self.repository, Seal::Plain, &[], &codec::encode(&body));
        let published = object::publish(&*self.backend, &self.session, &name, &bytes);
        if published.is_err() {
            // It may have got its name, and only that could not be made durable: a second try must not take it for another run's.
            let _ = remove(&*self.backend, &name);
        }
        published?;
        self.published.push(name);
        Ok(())
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // Marks first: while they are there, the session is.
        for name in self.published.iter().rev() {
            let _ = remove(&*self.backend, name);
        }
    }
}

impl Repository {
    /// The notices in `sessions/`.
    ///
    /// # Errors
    /// Any error of the medium; damage to one of them.
    pub fn sessions(&self) -> Result<Vec<Notice>> {
        self.notices("sessions", Magic::Session)
    }

    /// The notices in `marks/`.
    ///
    /// # Errors
    /// Any error of the medium; damage to one of them.
    pub fn marks(&self) -> Result<Vec<Notice>> {
        self.notices("marks", Magic::Mark)
    }

    /// Removes what ended pruners of this host left in `marks/`: what they condemned they can no longer delete. Whether there was something.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn remove_left_over_marks(&self) -> Result<bool> {
        remove_left_over(&**self.backend(), "marks")
    }

    /// The packs that anybody has condemned.
    ///
    /// # Errors
    /// As [`Self::marks`].
    pub fn condemned(&self) -> Result<HashSet<PackId>> {
        Ok(self.marks()?.into_iter().flat_map(|mark| mark.body.packs).collect())
    }

    /// Removes what a session left, at the word of the user who knows that it has ended. Returns how many files.
    ///
    /// # Errors
    /// `NotFound`; any error of the medium.
    pub fn declare_ended(&self, session: &str) -> Result<u64> {
        let mut removed = 0;
        // A whole session at least, so that nobody ends all of them.
        let parts = session.split('-').count();
        let folders: &[&str] = if parts >= 5 { &["marks", "sessions"] } else { &[] };
        for folder in folders {
            for listed in
                list(&**self.backend(), folder)?.iter().filter(|listed| listed.name.starts_with(session))
            {
                remove(&**self.backend(), &format!("{folder}/{}", listed.name))?;
                removed += 1;
            }
        }
        if removed == 0 {
            return Err(Error::NotFound { what: format!("session {session:?}") });
        }
        Ok(removed)
    }

    fn notices(&self, folder: &str, magic: Magic) -> Result<Vec<Notice>> {
        let mut notices = Vec::new();
        for listed in list(&**self.backend(), folder)? {
            let name = format!("{folder}/{}", listed.name);
            let read = read_whole(&**self.backend(), &name, MAX_OBJECT_FILE)
                .map_err(Error::repository("read", &name))
                .and_then(|bytes| {
                    Notice::decode(&bytes, magic, self.id(), &listed).map_err(Error::damaged(&name))
                });
            match read {
                // Withdrawn meanwhile.
                Err(error) if is_vanished(&error) => {}
                other => notices.push(other?),
            }
        }
        Ok(notices)
    }
}

fn list(backend: &dyn Backend, folder: &str) -> Result<Vec<Listed>> {
    match backend.list(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => Ok(other
            .map_err(Error::repository("list", folder))?
            .into_iter()
            .filter(|listed| listed.is_file)
            .collect()),
    }
}

/// Removes what ended sessions of this host left in a folder. Whether there was anything.
pub(super) fn remove_left_over(backend: &dyn Backend, folder: &str) -> Result<bool> {
    let mut listed = list(backend, folder)?;
    listed.retain(|listed| session::is_left_over(&listed.name));
    listed.iter().try_for_each(|listed| remove(backend, &format!("{folder}/{}", listed.name)))?;
    Ok(!listed.is_empty())
}

fn remove(backend: &dyn Backend, name: &str) -> Result<()> {
    match backend.remove(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::repository("remove", name)),
    }
}
