//! Repositories as the tests make them and open them: plain, or with `VAULT_TEST_ENCRYPTED` in the environment encrypted. So the suite
//! runs over both, and this file and `vault.rs` are the only ones that know which.
//! [`open`] opens either kind.

use std::sync::{Arc, LazyLock};

use vault::backend::Backend;
use vault::error::Result;
use vault::id::RepositoryId;
use vault::repository::{InitOptions, Kdf, NewKey, Repository};

/// What unlocks the encrypted ones.
pub const PASSPHRASE: &str = "the passphrase of all tests";

/// As little as is allowed: there is nothing to be guessed, and thousands of repositories are opened.
const KDF: Kdf = Kdf { memory_kib: 8, passes: 1, lanes: 1 };

static IS_ENCRYPTED: LazyLock<bool> = LazyLock::new(|| std::env::var_os("VAULT_TEST_ENCRYPTED").is_some());

/// Whether this run of the tests is the one over encrypted repositories.
pub fn is_encrypted() -> bool {
    *IS_ENCRYPTED
}

/// Makes a repository.
///
/// # Errors
/// Those of `Repository::init`.
pub fn init(backend: &dyn Backend) -> Result<RepositoryId> {
    init_with(backend, InitOptions::default())
}

/// Makes a repository; whether it is encrypted is not for the test to say.
///
/// # Errors
/// Those of `Repository::init`.
pub fn init_with(backend: &dyn Backend, options: InitOptions) -> Result<RepositoryId> {
    let key = is_encrypted().then(key);
    Repository::init(backend, &InitOptions { key, ..options })
}

fn key() -> NewKey {
    NewKey { kdf: KDF, ..NewKey::new(PASSPHRASE.as_bytes()) }
}

/// Adds a further key to a repository if it is encrypted; the same passphrase opens it, so that either can be done without.
pub fn add_key(backend: &Arc<dyn Backend>) {
    let repository = open(backend.clone()).unwrap();
    if repository.keys().is_sealed() {
        repository.add_key(&key()).unwrap();
    }
}

/// Opens a repository, and unlocks it if it is encrypted.
///
/// # Errors
/// Those of `Repository::open` and `Repository::unlock`.
pub fn open(backend: Arc<dyn Backend>) -> Result<Repository> {
    let mut repository = Repository::open(backend)?;
    if repository.is_locked() {
        repository.unlock(PASSPHRASE.as_bytes(), None)?;
    }
    Ok(repository)
}
