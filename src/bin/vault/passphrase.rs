//! Where passphrases come from: the command line names a file or a command, the environment has one or names a file, or the user types it.
//! None is ever an argument of a process, nor printed or logged; all are wiped from memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, setrlimit};
use vault::error::{Error, Result};
use vault::id::KeyId;
use vault::repository::{Repository, is_recovery_text};
use zeroize::Zeroizing;

use crate::args::CopyArgs;
use crate::child;
use crate::commands::Context;

/// A passphrase, or the text of a recovery key.
pub type Secret = Zeroizing<Vec<u8>>;

/// What holds a passphrase for programs that run alone.
pub const VARIABLE: &str = "VAULT_PASSPHRASE";
/// What names a file with one.
pub const FILE_VARIABLE: &str = "VAULT_PASSPHRASE_FILE";
/// What a passphrase can be given by, for messages.
pub const WAYS: &str = "--passphrase-file, --passphrase-command, VAULT_PASSPHRASE or VAULT_PASSPHRASE_FILE";

/// A longer one is no passphrase but a mistake.
const MAX_LEN: u64 = 64 << 10;
/// How often a passphrase is asked for.
const TRIES: usize = 3;

/// What holds a passphrase for the repository that is copied to.
pub const TO_VARIABLE: &str = "VAULT_TO_PASSPHRASE";
/// What names a file with one.
const TO_FILE_VARIABLE: &str = "VAULT_TO_PASSPHRASE_FILE";
/// What a passphrase for the repository that is copied to can be given by, for messages.
pub const WAYS_TO: &str =
    "--to-passphrase-file, --to-passphrase-command, VAULT_TO_PASSPHRASE or VAULT_TO_PASSPHRASE_FILE";

/// The flags and variables that give the passphrase of a repository.
struct Ways<'a> {
    recovery_key_file: Option<&'a Path>,
    file: Option<&'a Path>,
    command: Option<&'a str>,
    variables: [&'a str; 2],
}

/// The passphrase or recovery key that the command line or the environment gives; what is said first counts.
pub fn given(context: &Context) -> Result<Option<Secret>> {
    let global = &context.global;
    from_ways(&Ways {
        recovery_key_file: global.recovery_key_file.as_deref(),
        file: global.passphrase_file.as_deref(),
        command: global.passphrase_command.as_deref(),
        variables: [VARIABLE, FILE_VARIABLE],
    })
}

/// The same for the repository that is copied to.
pub fn given_to(args: &CopyArgs) -> Result<Option<Secret>> {
    from_ways(&Ways {
        recovery_key_file: args.to_recovery_key_file.as_deref(),
        file: args.to_passphrase_file.as_deref(),
        command: args.to_passphrase_command.as_deref(),
        variables: [TO_VARIABLE, TO_FILE_VARIABLE],
    })
}

fn from_ways(ways: &Ways<'_>) -> Result<Option<Secret>> {
    forbid_core_dumps();
    if let Some(file) = ways.recovery_key_file {
        let text = read(File::open(file).map_err(Error::path("read", file))?, file)?;
        return recovery_line(&text).map(Some);
    }
    if let Some(file) = ways.file {
        return from_file(file).map(Some);
    }
    if let Some(command) = ways.command {
        return from_command(command).map(Some);
    }
    let [variable, file_variable] =
        ways.variables.map(|name| std::env::var_os(name).filter(|value| !value.is_empty()));
    if let Some(value) = variable {
        return Ok(Some(std::os::unix::ffi::OsStringExt::into_vec(value).into()));
    }
    file_variable.map(|file| from_file(Path::new(&file))).transpose()
}

/// Sees to it that the program leaves no picture of its memory behind when it crashes: there are secrets in it from now on.
fn forbid_core_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // Where that is not possible, the system's own rules hold.
    let _ = setrlimit(Resource::Core, none);
}

/// Opens an encrypted repository with what is given, or asks. That something is given for one that is not encrypted is an error.
/// Returns what opened it, so that nobody is asked twice.
pub fn unlock(
    context: &Context,
    repository: &mut Repository,
    given: Option<Secret>,
) -> Result<Option<Secret>> {
    unlock_with(context, repository, given, context.global.key.as_deref())
}

/// The same, by this key only if one is named.
pub fn unlock_with(
    context: &Context,
    repository: &mut Repository,
    given: Option<Secret>,
    key: Option<&str>,
) -> Result<Option<Secret>> {
    let unlocked = try_to_unlock(context, repository, given, key);
    if let Err(Error::WrongPassphrase { .. }) = unlocked {
        // It may have been right for one of these.
        for problem in repository.problems() {
            context.screen.problem(b"", problem);
        }
    }
    unlocked
}

fn try_to_unlock(
    context: &Context,
    repository: &mut Repository,
    given: Option<Secret>,
    key: Option<&str>,
) -> Result<Option<Secret>> {
    if !repository.config().is_encrypted() {
        return if given.is_some() || key.is_some() { Err(Error::NotEncrypted) } else { Ok(None) };
    }
    let key = key.map(|prefix| key_with(repository, prefix)).transpose()?;
    if let Some(secret) = given {
        return repository.unlock(&secret, key).map(|_| Some(secret));
    }
    let place = repository.backend().place().display().to_string();
    for tries_left in (0..TRIES).rev() {
        let Some(secret) = context.screen.ask_secret(&format!("passphrase for {place}: "))? else {
            return Err(Error::Locked);
        };
        match repository.unlock(&secret, key) {
            Err(error @ Error::WrongPassphrase { .. }) if tries_left > 0 => {
                context.screen.warn(&format!("{error}: try again"));
            }
            other => return other.map(|_| Some(secret)),
        }
    }
    Err(Error::Locked)
}

/// The key whose id begins like this.
pub fn key_with(repository: &Repository, prefix: &str) -> Result<KeyId> {
    let prefix = prefix.to_ascii_lowercase();
    let ids = repository.key_ids()?;
    let fitting: Vec<KeyId> = ids.into_iter().filter(|id| id.to_string().starts_with(&prefix)).collect();
    match fitting[..] {
        [only] => Ok(only),
        [] => Err(Error::NotFound { what: format!("key {prefix}") }),
        _ => Err(Error::Usage(format!("{prefix} fits several keys: `vault key list` shows them"))),
    }
}

/// A new passphrase from a file or a command, or typed twice. Nothing without a terminal to ask on.
pub fn new(
    context: &Context,
    file: Option<&Path>,
    command: Option<&str>,
    question: &str,
) -> Result<Option<Secret>> {
    if let Some(file) = file {
        return from_file(file).map(Some);
    }
    if let Some(command) = command {
        return from_command(command).map(Some);
    }
    for _ in 0..TRIES {
        let Some(secret) = context.screen.ask_secret(&format!("{question}: "))? else { return Ok(None) };
        if secret.is_empty() {
            return Ok(Some(secret));
        }
        let again = context.screen.ask_secret("the same again: ")?;
        if again.as_ref() == Some(&secret) {
            return Ok(Some(secret));
        }
        context.screen.warn("that was not the same: try again");
    }
    Err(Error::Usage("no passphrase was typed twice alike".to_owned()))
}

fn from_file(path: &Path) -> Result<Secret> {
    let file = File::open(path).map_err(Error::path("read", path))?;
    first_line(read(file, path)?, path)
}

/// The first line of what a command prints. It is run by the shell.
fn from_command(command: &str) -> Result<Secret> {
    let shell = Path::new("sh");
    let mut child = Command::new(shell)
        .arg("-c")
        .arg(command)
        .stdout(Stdio::piped())
        .env_remove(VARIABLE)
        .env_remove(TO_VARIABLE)
        .spawn()
        .map_err(Error::path("run", shell))?;
    let output = child.stdout.take().ok_or_else(|| Error::Usage("the command has no output".to_owned()))?;
    let name = Path::new("the passphrase command");
    let text = read(output, name);
    let status = child.wait().map_err(Error::path("wait for", shell))?;
    if status.success() {
        return first_line(text?, name);
    }
    let source = io::Error::other(format!("it ended with {}", child::describe(status)));
    Err(Error::Path { action: "run", path: name.to_owned(), source })
}

/// All of a short file.
fn read(from: impl Read, name: &Path) -> Result<Secret> {
    // Room for all of it at once: growing would leave copies behind.
    let mut secret = Secret::new(Vec::with_capacity(usize::try_from(MAX_LEN).unwrap_or(0) + 1));
    from.take(MAX_LEN + 1).read_to_end(&mut secret).map_err(Error::path("read", name))?;
    if secret.len() as u64 > MAX_LEN {
        return Err(Error::Usage(format!("{} is too long for a passphrase", name.display())));
    }
    Ok(secret)
}

/// The first line of it, which must not be empty.
fn first_line(mut secret: Secret, name: &Path) -> Result<Secret> {
    let end = secret.iter().position(|byte| *byte == b'\n').unwrap_or(secret.len());
    secret.truncate(end);
    if secret.last() == Some(&b'\r') {
        secret.pop();
    }
    if secret.is_empty() {
        return Err(Error::Usage(format!("{} is empty: that is no passphrase", name.display())));
    }
    Ok(secret)
}

/// The line of a printed recovery key that has the key.
fn recovery_line(text: &Secret) -> Result<Secret> {
    // In the text of a line of its own, in the JSON in quotation marks.
    let line = text.split(|byte| matches!(byte, b'\n' | b'"')).find(|line| is_recovery_text(line));
    let line = line.ok_or_else(|| Error::Usage("there is no recovery key in the file".to_owned()))?;
    Ok(line.trim_ascii().to_vec().into())
}
