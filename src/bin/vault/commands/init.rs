//! `vault init`.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::json;
use vault::backend::{Backend, WEAK_FOLDER_SYNC};
use vault::error::{Error, Result};
use vault::id::RepositoryId;
use vault::repository::{InitOptions, Repository};

use super::Context;
use crate::args::InitArgs;
use crate::exit::Outcome;
use crate::render::path_fields;

pub fn run(context: &Context, args: &InitArgs) -> Result<Outcome> {
    let backend = context.backend()?;
    let options = InitOptions { name: args.name.clone().unwrap_or_default(), ..InitOptions::default() };
    let id = make(&*backend, &options)?;
    print(context, id, backend.place())?;
    if backend.folder_sync_is_weak() {
        context.screen.warn(&format!("{}: {WEAK_FOLDER_SYNC}", backend.place().display()));
    }
    Ok(Outcome::Done)
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
pub fn print(context: &Context, id: RepositoryId, place: &Path) -> Result<()> {
    let mut value = json!({"message_type": "initialized", "id": id.to_string()});
    path_fields(&mut value, "repository", place.as_os_str().as_bytes());
    let text = format!("made the repository {id} in {}; it is not encrypted", place.display());
    context.screen.summary(&text, &value)
}
