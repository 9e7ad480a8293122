//! `vault key`: the passphrases of an encrypted repository.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::json;
use vault::error::{Error, Result};
use vault::id::KeyId;
use vault::repository::{Kdf, NewKey, OpenedWith, Repository};
use zeroize::Zeroizing;

use super::Context;
use crate::args::{AddKeyArgs, ExportKeyArgs, KeyArgs, KeyVerb, RemoveKeyArgs};
use crate::exit::Outcome;
use crate::passphrase;
use crate::render::{Align, Table, chain, path_fields, text, time_text};

pub fn run(context: &Context, args: &KeyArgs) -> Result<Outcome> {
    match &args.verb {
        KeyVerb::List => list(context),
        KeyVerb::Add(args) => add(context, args),
        KeyVerb::Change(args) => change(context, args),
        KeyVerb::Remove(args) => remove(context, args),
        KeyVerb::Export(args) => export(context, args),
        KeyVerb::Test => test(context),
    }
}

/// A key as people write its id.
fn short(key: &KeyId) -> String {
    key.to_string().chars().take(8).collect()
}

/// An encrypted repository, open.
fn open(context: &Context) -> Result<Repository> {
    let repository = context.open()?;
    if repository.config().is_encrypted() { Ok(repository) } else { Err(plain()) }
}

fn plain() -> Error {
    Error::Usage("the repository is not encrypted: it has no keys, and cannot be given any".to_owned())
}

fn list(context: &Context) -> Result<Outcome> {
    let repository = context.open_locked()?;
    if !repository.config().is_encrypted() {
        return Err(plain());
    }
    let columns =
        [("ID", Align::Left), ("NAME", Align::Left), ("MADE", Align::Left), ("ARGON2ID", Align::Left)];
    let mut table = Table::new(&columns);
    let mut outcome = Outcome::Done;
    for (id, read) in repository.keys_listed()? {
        let outer = match read {
            Ok(outer) => outer,
            Err(error) => {
                context.screen.problem(b"", &error);
                outcome = Outcome::Damage;
                continue;
            }
        };
        let Kdf { memory_kib, passes, lanes } = outer.kdf;
        if context.screen.is_json() {
            context.screen.json(&json!({
                "message_type": "key",
                "id": id.to_string(),
                "name": outer.name,
                "created": time_text(outer.created, &context.zone),
                "memory_kib": memory_kib,
                "passes": passes,
                "lanes": lanes,
            }))?;
        } else {
            let made = text::time(outer.created, &context.zone, "%Y-%m-%d %H:%M");
            let passes = text::counted(passes.into(), "pass", "passes");
            let kdf = format!("{}, {passes}", text::size(u64::from(memory_kib) << 10));
            table.row(vec![short(&id), outer.name, made, kdf]);
        }
    }
    if !context.screen.is_json() {
        context.screen.table(&table)?;
    }
    Ok(outcome)
}

/// A passphrase that is not the repository's yet.
fn new_key(context: &Context, args: &AddKeyArgs) -> Result<NewKey> {
    let (file, command) = (args.new_passphrase_file.as_deref(), args.new_passphrase_command.as_deref());
    let missing = || {
        let text = "there is no terminal to ask for the new passphrase: use --new-passphrase-file or --new-passphrase-command";
        Error::Usage(text.to_owned())
    };
    let kdf = args.new.kdf()?;
    let passphrase = passphrase::new(context, file, command, "new passphrase")?.ok_or_else(missing)?;
    Ok(NewKey { passphrase, name: args.new.key_name.clone().unwrap_or_default(), kdf })
}

fn add(context: &Context, args: &AddKeyArgs) -> Result<Outcome> {
    let repository = open(context)?;
    let key = repository.add_key(&new_key(context, args)?)?;
    added(context, key)?;
    Ok(Outcome::Done)
}

fn added(context: &Context, key: KeyId) -> Result<()> {
    let value = json!({"message_type": "key_added", "id": key.to_string()});
    context.screen.summary(&format!("added the key {}", short(&key)), &value)
}

fn change(context: &Context, args: &AddKeyArgs) -> Result<Outcome> {
    let mut repository = open(context)?;
    let Some(old) = repository.opened_with() else {
        let what = "a recovery key stays what it is: `vault key add` adds a passphrase";
        return Err(Error::Usage(what.to_owned()));
    };
    let new = new_key(context, args)?;
    let key = repository.add_key(&new)?;
    added(context, key)?;
    // Opened with the new one before the old one goes.
    repository = context.open_locked()?;
    repository.unlock(&new.passphrase, Some(key))?;
    repository.remove_key(&old).inspect_err(|_| {
        context.screen.note(&format!(
            "the new passphrase opens it; the old one may too, until `vault key remove {}` succeeds",
            short(&old)
        ));
    })?;
    removed(context, old)?;
    Ok(Outcome::Done)
}

fn remove(context: &Context, args: &RemoveKeyArgs) -> Result<Outcome> {
    let repository = open(context)?;
    let key = passphrase::key_with(&repository, &args.id)?;
    repository.remove_key(&key)?;
    removed(context, key)?;
    Ok(Outcome::Done)
}

fn removed(context: &Context, key: KeyId) -> Result<()> {
    let value = json!({"message_type": "key_removed", "id": key.to_string()});
    context.screen.summary(&format!("removed the key {}", short(&key)), &value)?;
    context.screen.warn(
        "whoever has had that passphrase and the key, or a copy of the repository with it, can still read what \
         is stored: if that must not be, make a new repository. Mirrors lose the key when they are refreshed with a passphrase given",
    );
    Ok(())
}

fn export(context: &Context, args: &ExportKeyArgs) -> Result<Outcome> {
    let repository = open(context)?;
    let key = repository.recovery_key()?;
    if context.screen.is_json() && args.output.is_none() {
        let mut line = Zeroizing::new(String::new());
        line.push_str("{\"message_type\":\"recovery_key\",\"recovery_key\":\"");
        line.push_str(&key);
        line.push_str("\"}\n");
        context.screen.document(line.as_bytes())?;
        return Ok(Outcome::Done);
    }
    let mut document = Zeroizing::new(String::with_capacity(1024));
    document.push_str("Recovery key of a vault repository\n\nrepository  ");
    document.push_str(&repository.id().to_string());
    document.push_str("\n\n");
    document.push_str(&key);
    document.push_str(
        "\n\nIt opens the repository without a passphrase, as long as the repository exists: print it, and keep it where \
         nobody else gets at it.\nTo use it: `vault restore --recovery-key-file FILE ...`, or type it when a passphrase is asked \
         for.\nUpper and lower case, spaces and dashes do not matter.\n",
    );
    match &args.output {
        Some(path) => write_secret(context, path, &document)?,
        None => context.screen.document(document.as_bytes())?,
    }
    Ok(Outcome::Done)
}

/// Writes into a new file, that is for its owner only.
fn write_secret(context: &Context, path: &Path, text: &str) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file =
        options.write(true).create_new(true).mode(0o600).open(path).map_err(Error::path("make", path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(Error::path("write", path))?;
    let mut value = json!({"message_type": "recovery_key_written"});
    path_fields(&mut value, "file", path.as_os_str().as_bytes());
    context.screen.summary(&format!("wrote the recovery key to {}", path.display()), &value)
}

fn test(context: &Context) -> Result<Outcome> {
    let mut repository = context.open_locked()?;
    if !repository.config().is_encrypted() {
        return Err(plain());
    }
    passphrase::unlock(context, &mut repository, passphrase::given(context)?)?;
    let opened = repository.opened_with().map_or(OpenedWith::Recovery, OpenedWith::Key);
    let (text, id) = match opened {
        OpenedWith::Recovery => ("the recovery key opens the repository".to_owned(), None),
        OpenedWith::Key(key) => {
            let listed = repository.keys_listed()?;
            let outer = listed.iter().find(|(id, _)| *id == key).and_then(|(_, read)| read.as_ref().ok());
            let name = outer.map(|outer| outer.name.as_str()).filter(|name| !name.is_empty());
            let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
            (format!("the passphrase opens the key {}{name}", short(&key)), Some(key.to_string()))
        }
    };
    for problem in repository.problems() {
        context.screen.warn(&chain(problem));
    }
    context.screen.summary(&text, &json!({"message_type": "key_opened", "id": id}))?;
    Ok(Outcome::Done)
}
