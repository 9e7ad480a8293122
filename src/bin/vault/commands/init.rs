//! `vault init`.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::json;
use vault::backend::{Backend, WEAK_FOLDER_SYNC};
use vault::error::{Error, Result};
use vault::id::RepositoryId;
use vault::repository::{InitOptions, NewKey, Repository};

use super::Context;
use crate::args::InitArgs;
use crate::exit::Outcome;
use crate::passphrase::{self, FILE_VARIABLE, VARIABLE, WAYS};
use crate::render::path_fields;

pub fn run(context: &Context, args: &InitArgs) -> Result<Outcome> {
    let backend = context.backend()?;
    // Before anybody types a passphrase for nothing.
    if Repository::open(backend.clone()).is_ok() && !Repository::is_free(&*backend)? {
        return Err(Error::NotEmpty { path: backend.place().to_owned() });
    }
    let name = args.name.clone().unwrap_or_default();
    let key = first_key(context, args)?;
    let options = InitOptions { name, key, ..InitOptions::default() };
    let id = make(&*backend, &options)?;
    print(context, id, backend.place(), options.key.is_some())?;
    if backend.folder_sync_is_weak() {
        context.screen.warn(&format!("{}: {WEAK_FOLDER_SYNC}", backend.place().display()));
    }
    Ok(Outcome::Done)
}

/// The first key, unless the user says that there shall be none.
fn first_key(context: &Context, args: &InitArgs) -> Result<Option<NewKey>> {
    let kdf = args.new.kdf()?;
    let given = passphrase::given(context)?;
    let passphrase = match (given, args.unencrypted) {
        (None, true) => return Ok(None),
        (Some(_), true) => {
            let text = format!(
                "a passphrase is given ({VARIABLE} or {FILE_VARIABLE}), and --unencrypted: which of them?"
            );
            return Err(Error::Usage(text));
        }
        (Some(given), false) => given,
        (None, false) => {
            let missing = || {
                let text = format!(
                    "there is no terminal to ask for a passphrase: give one by {WAYS}, or say --unencrypted"
                );
                Error::Usage(text)
            };
            passphrase::new(context, None, None, "passphrase for the new repository")?.ok_or_else(missing)?
        }
    };
    if passphrase.is_empty() {
        let text = "an empty passphrase is none: if the repository shall not be encrypted, say --unencrypted";
        return Err(Error::Usage(text.to_owned()));
    }
    let name = args.new.key_name.clone().unwrap_or_default();
    Ok(Some(NewKey { passphrase, name, kdf }))
}

/// Makes a repository. What the system says against it is said of its folder: no file of it is anything to the user yet.
pub fn make(backend: &dyn Backend, options: &InitOptions) -> Result<RepositoryId> {
    Repository::init(backend, options).map_err(|error| match error {
        Error::Repository { source, .. } => {
            Error::Path { action: "make a repository in", path: backend.place().to_owned(), source }
        }
        other => other,
    })
}

/// Says what was made.
pub fn print(context: &Context, id: RepositoryId, place: &Path, is_encrypted: bool) -> Result<()> {
    let mut value = json!({"message_type": "initialized", "id": id.to_string(), "encrypted": is_encrypted});
    path_fields(&mut value, "repository", place.as_os_str().as_bytes());
    let encrypted = if is_encrypted { "encrypted" } else { "it is not encrypted" };
    let text = format!("made the repository {id} in {}; {encrypted}", place.display());
    context.screen.summary(&text, &value)?;
    if is_encrypted {
        context.screen.note(
            "without its passphrase nothing in it can be read, by nobody: `vault key export` prints a recovery key, \
             `vault key test` tries whether you still know the passphrase",
        );
    }
    Ok(())
}
