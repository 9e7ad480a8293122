//! `vault init`.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::json;
use vault::backend::WEAK_FOLDER_SYNC;
use vault::error::Result;
use vault::id::RepositoryId;
use vault::repository::{InitOptions, Repository};

use super::Context;
use crate::args::InitArgs;
use crate::exit::Outcome;
use crate::render::path_fields;

pub fn run(context: &Context, args: &InitArgs) -> Result<Outcome> {
    let backend = context.backend()?;
    let options = InitOptions { name: args.name.clone().unwrap_or_default(), ..InitOptions::default() };
    let id = Repository::init(&*backend, &options)?;
    print(context, id, backend.place())?;
    if backend.folder_sync_is_weak() {
        context.screen.warn(&format!("{}: {WEAK_FOLDER_SYNC}", backend.place().display()));
    }
    Ok(Outcome::Done)
}

/// Says what was made.
pub fn print(context: &Context, id: RepositoryId, place: &Path) -> Result<()> {
    let mut value = json!({"message_type": "initialized", "id": id.to_string()});
    path_fields(&mut value, "repository", place.as_os_str().as_bytes());
    let text = format!("made the repository {id} in {}; it is not encrypted", place.display());
    context.screen.summary(&text, &value)
}
