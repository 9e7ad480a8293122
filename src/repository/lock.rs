//! Opening an encrypted repository, and looking after its keys.
//!
//! Every key file holds the same master secret, each under a passphrase of its own. So adding and removing keys changes no other file, and
//! removing one does not take the secret from somebody who has had it.

use zeroize::Zeroizing;

use crate::backend::Backend;
use crate::error::{Corruption, Error, Result};
use crate::id::{self, KeyId, RecordId, RepositoryId};
use crate::index::is_vanished;
use crate::repository::{
    Kdf, KeyOuter, Record, RecordBody, RecordOuter, Repository, Scope, in_force_of, key, object, record_kind,
    sorted,
};
use crate::seal::{Keys, Secret};
use crate::session::Session;
use crate::snapshot::Time;

/// A passphrase to be, and what its key file shall say.
pub struct NewKey {
    /// The passphrase. Wiped when it is dropped.
    pub passphrase: Zeroizing<Vec<u8>>,
    /// What its owner calls the key, or empty. Everybody can read it.
    pub name: String,
    /// How hard it shall be to try passphrases.
    pub kdf: Kdf,
}

impl NewKey {
    /// A key with this passphrase, without a name and as hard to try as is usual.
    #[must_use]
    pub fn new(passphrase: &[u8]) -> Self {
        Self { passphrase: passphrase.to_vec().into(), name: String::new(), kdf: Kdf::default() }
    }
}

/// What opened a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenedWith {
    /// The passphrase of this key file.
    Key(KeyId),
    /// A recovery key.
    Recovery,
}

impl Repository {
    /// Whether it is encrypted and its keys are not known.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.keys.is_locked()
    }

    /// Opens an encrypted repository with a passphrase, or with the text of a recovery key. The passphrase is tried on all key files, or on
    /// `only` one: each takes as long as its parameters ask for.
    ///
    /// # Errors
    /// - `WrongPassphrase`: it opens none of them; those that could not be tried are in `problems`. `KeyRemoved`: it did so once.
    /// - `Damaged`: the key that it opens was altered, or `config` was exchanged.
    /// - `NotEncrypted`; `NoKeys`; `Usage` for a recovery key with a typing error; any error of the medium.
    pub fn unlock(&mut self, secret: &[u8], only: Option<KeyId>) -> Result<OpenedWith> {
        if !self.keys.is_sealed() {
            return Err(Error::NotEncrypted);
        }
        if key::is_recovery_text(secret) {
            let master = key::parse_recovery(secret)?;
            self.accept(master, None)?;
            return Ok(OpenedWith::Recovery);
        }
        let ids = self.key_ids()?;
        if ids.is_empty() {
            return Err(Error::NoKeys);
        }
        let (mut tried, mut removed, mut unreadable) = (0, None, Vec::new());
        for id in ids.into_iter().filter(|id| only.is_none_or(|only| only == *id)) {
            let name = key::file_name(&id);
            let bytes = match self.read_named(&name, id.as_bytes()) {
                Ok(bytes) => bytes,
                Err(error) if is_vanished(&error) => continue,
                Err(error) if error.is_damage() => {
                    unreadable.push(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            match key::open(&bytes, self.id(), &self.config_bytes, secret) {
                Ok(Some(master)) => match self.accept(master, Some(id)) {
                    // Another key may have the same passphrase.
                    Err(Error::KeyRemoved { key }) => removed = Some(key),
                    accepted => {
                        accepted?;
                        self.blame(unreadable);
                        return Ok(OpenedWith::Key(id));
                    }
                },
                Ok(None) => tried += 1,
                // Anybody can put a file there that is none: it must not stand in the way of the others.
                Err(why) => {
                    // What a key file says of `config` is no fault of its own.
                    let blamed = if why == Corruption::KeyOfOtherConfig { "config" } else { &name };
                    unreadable.push(Error::damaged(blamed)(why));
                }
            }
        }
        if let Some(key) = removed {
            return Err(Error::KeyRemoved { key });
        }
        // The passphrase is right for one of them, and that was altered; or there is nothing else that it could be right for.
        let is_ours = |error: &Error| {
            use Corruption::{BrokenSeal, KeyOfOtherConfig};
            matches!(error, Error::Damaged { source: BrokenSeal { .. } | KeyOfOtherConfig, .. })
        };
        let ours = unreadable.iter().position(is_ours).or(if tried == 0 { Some(0) } else { None });
        match ours {
            Some(at) if at < unreadable.len() => Err(unreadable.swap_remove(at)),
            _ => {
                self.blame(unreadable);
                Err(Error::WrongPassphrase { tried })
            }
        }
    }

    /// Remembers which key files could not be tried, in the place of what an earlier try said of them.
    fn blame(&mut self, unreadable: Vec<Error>) {
        self.problems.retain(|problem| problem.file().is_none_or(|file| !file.starts_with("keys/")));
        self.problems.extend(unreadable);
    }

    /// Opens it with the keys of another copy of the same repository that is open.
    ///
    /// # Errors
    /// `Damaged`: `config` was exchanged here.
    pub fn unlock_like(&mut self, other: &Self) -> Result<()> {
        match &other.master {
            Some((master, _)) if self.is_locked() => self.accept(master.clone(), None),
            _ => Ok(()),
        }
    }

    /// Takes a master secret if `config` is of it.
    fn accept(&mut self, master: Secret, key: Option<KeyId>) -> Result<()> {
        if !self.config.is_of(self.id(), &master) {
            return Err(Error::damaged("config")(Corruption::OtherConfig));
        }
        let open = Keys::from_master(self.id(), &master);
        let locked = std::mem::replace(&mut self.keys, open);
        // Until now only what everybody can write was believed of them. [KEY-6]
        let statements = self.statements().and_then(|statements| {
            let read =
                |(id, read): &(RecordId, Result<RecordOuter>)| Some((*id, read.as_ref().ok()?.clone()));
            let in_force = in_force_of(statements.iter().filter_map(read), self.copy.copy);
            match key {
                Some(key) if is_removed(&in_force, &key) => Err(Error::KeyRemoved { key }),
                _ => Ok(statements),
            }
        });
        // Whoever may not open it, or is not known to be allowed to, has nothing of it.
        let statements = statements.inspect_err(|_| self.keys = locked)?;
        self.problems.retain(|problem| problem.file().is_none_or(|file| !file.starts_with("records/")));
        self.problems.extend(statements.into_iter().filter_map(|(_, read)| read.err()));
        self.master = Some((master, key));
        Ok(())
    }

    /// The ids of all key files, ascending.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn key_ids(&self) -> Result<Vec<KeyId>> {
        // Anything but a file is no key, and no reason to do without the others.
        let files = self.list_or_none("keys")?.into_iter().filter(|listed| listed.is_file);
        Ok(sorted(files.filter_map(|listed| KeyId::from_hex(&listed.name))))
    }

    /// What the key files say to everybody, in the order of their ids. Nothing needs to be unlocked for it, and whether they were made
    /// by someone who knows the repository does not show.
    ///
    /// # Errors
    /// Any error of listing; those of single files are in the list.
    pub fn keys_listed(&self) -> Result<Vec<(KeyId, Result<KeyOuter>)>> {
        let read = |id: &KeyId| {
            let name = key::file_name(id);
            let bytes = self.read_named(&name, id.as_bytes())?;
            key::decode_outer(&bytes, self.id()).map_err(Error::damaged(&name))
        };
        Ok(self.key_ids()?.into_iter().map(|id| (id, read(&id))).collect())
    }

    /// The key file whose passphrase opened it; nothing if it is locked, plain, or was opened by other means.
    #[must_use]
    pub fn opened_with(&self) -> Option<KeyId> {
        self.master.as_ref().and_then(|(_, key)| *key)
    }

    /// Adds a key: from now on its passphrase opens the repository too. Durable on return.
    ///
    /// # Errors
    /// `Usage` for a passphrase that cannot be one; `Damaged` if it is locked; what forbids writing; any error of the medium.
    pub fn add_key(&self, new: &NewKey) -> Result<KeyId> {
        self.check_writable(self.copy.copy)?;
        publish_key(&*self.backend, (self.id(), &self.config_bytes), self.master()?, new)
    }

    /// Removes a key from this copy, and says so in a record for the others. Whoever has opened the repository with it before may have
    /// kept the secret that is in it.
    ///
    /// # Errors
    /// `Usage` for the last key, and for the one that opened the repository; `NotFound`; what forbids writing; any error of the medium.
    pub fn remove_key(&self, key: &KeyId) -> Result<()> {
        self.check_writable(self.copy.copy)?;
        self.master()?;
        let listed = self.keys_listed()?;
        if !listed.iter().any(|(id, _)| id == key) {
            return Err(Error::NotFound { what: format!("key {key}") });
        }
        let (others, lost): (Vec<_>, Vec<_>) =
            listed.into_iter().filter(|(id, _)| id != key).map(|(_, read)| read).partition(Result::is_ok);
        if others.is_empty() {
            // One that cannot be read now may be a key all the same.
            let is_unread = |error: &Error| matches!(error, Error::Repository { .. }) && !is_vanished(error);
            let unread = lost.into_iter().filter_map(Result::err).find(is_unread);
            let text = "the last key is not removed: without one, all that is stored would be lost";
            return Err(unread.unwrap_or_else(|| Error::Usage(text.to_owned())));
        }
        if self.opened_with() == Some(*key) {
            let what = "the key that opened the repository is not removed: open it with another one";
            return Err(Error::Usage(what.to_owned()));
        }
        self.publish_record(&removal(*key))?;
        remove_key_file(&*self.backend, key)
    }

    /// The text of a recovery key: it opens the repository without any key file and without a passphrase. Wiped when it is dropped.
    ///
    /// # Errors
    /// `Damaged` if it is locked.
    pub fn recovery_key(&self) -> Result<Zeroizing<String>> {
        self.master().map(key::recovery_text)
    }

    fn master(&self) -> Result<&Secret> {
        let master = self.master.as_ref().map(|(master, _)| master);
        master.ok_or_else(|| {
            if self.is_locked() { Error::damaged("config")(Corruption::Locked) } else { Error::NotEncrypted }
        })
    }
}

/// Makes a key file, opens it once as anybody would, and publishes it.
pub(super) fn publish_key(
    backend: &dyn Backend,
    (repository, config): (RepositoryId, &[u8]),
    master: &Secret,
    new: &NewKey,
) -> Result<KeyId> {
    if new.passphrase.is_empty() {
        return Err(Error::Usage("the passphrase is empty".to_owned()));
    }
    if key::is_recovery_text(&new.passphrase) {
        return Err(Error::Usage(
            "this is a recovery key: it opens a repository as it is, and is no passphrase".to_owned(),
        ));
    }
    let unmade = Error::damaged("a key to be written");
    let bytes = key::encode(repository, config, master, new).and_then(|bytes| {
        // [DUR-4]
        let opened = key::open(&bytes, repository, config, &new.passphrase)?;
        if opened.as_ref() == Some(master) { Ok(bytes) } else { Err(Corruption::NotCanonical) }
    });
    let bytes = bytes.map_err(unmade)?;
    let id = KeyId::from_bytes(id::hash(&bytes));
    object::publish(backend, &Session::begin(), &key::file_name(&id), &bytes)?;
    Ok(id)
}

/// Removes a key file; another run may have done so at the same time.
pub(crate) fn remove_key_file(backend: &dyn Backend, key: &KeyId) -> Result<()> {
    let name = key::file_name(key);
    match backend.remove(&name) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        other => other.map_err(Error::repository("remove", &name))?,
    }
    backend.sync_folder("keys").map_err(Error::repository("sync", "keys"))
}

/// Whether a record says that this key was removed.
fn is_removed(in_force: &[(RecordId, RecordOuter)], key: &KeyId) -> bool {
    in_force
        .iter()
        .any(|(_, outer)| outer.kind == record_kind::KEY_REMOVED && outer.ids.contains(key.as_bytes()))
}

fn removal(key: KeyId) -> Record {
    Record {
        outer: RecordOuter {
            kind: record_kind::KEY_REMOVED,
            must_understand: false,
            scope: Scope::AllCopies,
            ids: vec![*key.as_bytes()],
        },
        body: RecordBody {
            created: Time::now(),
            host: String::new(),
            reason: String::new(),
            fields: Vec::new(),
        },
    }
}
