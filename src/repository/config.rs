//! What a repository says of itself: `config` and `config.2`, `copy`, `features/`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::backend::{Backend, open_regular, read_whole};
use crate::chunk::ChunkerParams;
use crate::codec;
use crate::error::{Corruption, Error, Result};
use crate::header::{Magic, Object, Seal, decode_object, encode_object};
use crate::id::{CopyId, KeyId, RepositoryId};
use crate::repository::reserve::{RESERVE, make_reserve};
use crate::repository::{FOLDERS, MAX_OBJECT_FILE, NewKey, Repository, clean_up, key, lock, object};
use crate::seal::Secret;
use crate::session::{Session, random};
use crate::snapshot::{Field, Time, validate_fields};

/// The only cipher, as `encryption` of a config says it.
const AES_256_GCM: u32 = 1;
/// The tag of the field that binds a config to the keys of its repository.
const CHECK: u32 = 1;
/// The version of the format that this program writes.
const FORMAT_VERSION: u32 = 1;

/// What all copies of a repository share: `spec/format.md` §4.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The version of the format.
    pub version: u32,
    /// How files are cut.
    pub chunker: ChunkerParams,
    /// 0 plain, 1 AES-256-GCM.
    pub encryption: u32,
    /// When it was made.
    pub created: Time,
    /// Further fields, tags ascending.
    pub fields: Vec<Field>,
}

impl Config {
    /// The bytes of the files `config` and `config.2`.
    #[must_use]
    pub fn encode(&self, repository: RepositoryId) -> Vec<u8> {
        encode_object(Magic::Config, repository, Seal::Plain, &[], &codec::encode(self))
    }

    fn validate(&self) -> Result<(), Corruption> {
        if self.version != FORMAT_VERSION {
            return Err(Corruption::WrongVersion { found: self.version });
        }
        if self.encryption > AES_256_GCM {
            return Err(Corruption::UnknownEncryption { found: self.encryption });
        }
        self.created.validate()?;
        // [CONF-2]
        self.chunker.validate()?;
        validate_fields(&self.fields, &[CHECK])?;
        let check = self.fields.iter().find(|field| field.tag == CHECK);
        if check.map(|field| (field.critical, field.value.len())) == self.is_encrypted().then_some((true, 32))
        {
            Ok(())
        } else {
            Err(Corruption::rule("CONF-4", "the check of its keys is missing, or it has one without keys"))
        }
    }

    /// Whether the repository is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.encryption != 0
    }

    /// Makes it the config of the repository with this master secret: the check is over all else that it says `[CONF-4]`.
    fn add_check(&mut self, repository: RepositoryId, master: &Secret) {
        let check = key::config_check(repository, master, &self.without_check());
        self.fields.push(Field { tag: CHECK, critical: true, value: check[..].into() });
    }

    /// Whether someone with this master secret made it, of this repository `[CONF-4]`.
    pub(super) fn is_of(&self, repository: RepositoryId, master: &Secret) -> bool {
        let check = key::config_check(repository, master, &self.without_check());
        self.fields.iter().any(|field| field.tag == CHECK && field.value[..] == check)
    }

    fn without_check(&self) -> Vec<u8> {
        let mut rest = self.clone();
        rest.fields.retain(|field| field.tag != CHECK);
        codec::encode(&rest)
    }
}

/// What is one physical copy's own: `spec/format.md` §5.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyInfo {
    /// Its id.
    pub copy: CopyId,
    /// What its owner calls it, or empty.
    #[serde(deserialize_with = "crate::codec::text")]
    pub name: String,
    /// Further fields, tags ascending.
    pub fields: Vec<Field>,
}

impl CopyInfo {
    /// A new copy with a random id.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { copy: CopyId::from_bytes(random()), name: name.to_owned(), fields: Vec::new() }
    }

    /// The bytes of the file `copy`.
    #[must_use]
    pub fn encode(&self, repository: RepositoryId) -> Vec<u8> {
        encode_object(Magic::Copy, repository, Seal::Plain, &[], &codec::encode(self))
    }
}

/// How a new repository is made.
#[derive(Default)]
pub struct InitOptions {
    /// How files are cut.
    pub chunker: ChunkerParams,
    /// A name for this copy.
    pub name: String,
    /// The first passphrase; without one, the repository is not encrypted.
    pub key: Option<NewKey>,
}

/// Makes a repository: folders first, `config` last, so that half of one is none `[DUR-7]`.
pub(super) fn init(backend: &dyn Backend, options: &InitOptions) -> Result<RepositoryId> {
    options.chunker.validate().map_err(|error| Error::Usage(error.to_string()))?;
    refuse_occupied(backend)?;
    refuse_inside_another(backend.place())?;
    let _ours = claim(backend)?;
    make_folders(backend)?;
    let repository = RepositoryId::from_bytes(random());
    let mut config = Config {
        version: FORMAT_VERSION,
        chunker: options.chunker,
        encryption: if options.key.is_some() { AES_256_GCM } else { 0 },
        created: Time::now(),
        fields: Vec::new(),
    };
    let master = options.key.as_ref().map(|_| Secret::new(random()));
    if let Some(master) = &master {
        config.add_check(repository, master);
    }
    let bytes = config.encode(repository);
    let session = Session::begin();
    clean_up(backend)?;
    remove_keys(backend)?;
    make_reserve(backend)?;
    object::publish(backend, &session, "copy", &CopyInfo::new(&options.name).encode(repository))?;
    if let Some((master, new)) = master.as_ref().zip(options.key.as_ref()) {
        lock::publish_key(backend, (repository, &bytes), master, new)?;
    }
    object::publish(backend, &session, "config.2", &bytes)?;
    object::publish(backend, &session, "config", &bytes)?;
    Ok(repository)
}

fn refuse_occupied(backend: &dyn Backend) -> Result<()> {
    if Repository::is_free(backend)? {
        Ok(())
    } else {
        Err(Error::NotEmpty { path: backend.place().to_owned() })
    }
}

/// Makes the folder of a new repository and locks it while the result lives, so that no other run makes one there meanwhile: each would
/// overwrite `copy` and `config` of the other, and remove its key. The system unlocks it when the process ends. Nothing is locked where
/// there are no locks, or no folder, as in memory; other computers are not kept out.
pub(crate) fn claim(backend: &dyn Backend) -> Result<Option<File>> {
    backend.make_folder("").map_err(Error::repository("create", ""))?;
    let folder = match File::open(backend.place()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        opened => Some(opened.map_err(Error::repository("open", ""))?),
    };
    match folder.as_ref().map_or(Ok(()), |folder| flock(folder, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) | Err(Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::BADF) => {}
        Err(Errno::WOULDBLOCK) => return Err(Error::BeingMade { path: backend.place().to_owned() }),
        Err(error) => return Err(Error::repository("lock", "")(error.into())),
    }
    // Another one may have been made before that.
    refuse_occupied(backend)?;
    Ok(folder)
}

/// Removes the keys that an interrupted `init` left: there is no `config` that they could belong to.
fn remove_keys(backend: &dyn Backend) -> Result<()> {
    for listed in backend.list("keys").map_err(Error::repository("list", "keys"))? {
        let name = format!("keys/{}", listed.name);
        backend.remove(&name).map_err(Error::repository("remove", &name))?;
    }
    Ok(())
}

/// Refuses a new repository that would lie among the files of another one.
pub(crate) fn refuse_inside_another(place: &Path) -> Result<()> {
    let absolute = std::path::absolute(place).map_err(Error::path("look up", place))?;
    // A symlink may lead there.
    let absolute = std::fs::canonicalize(&absolute).unwrap_or(absolute);
    let above = absolute.ancestors().skip(1).find_map(|above| std::fs::canonicalize(above).ok());
    for folder in above.as_deref().into_iter().flat_map(Path::ancestors) {
        let is_config = |name: &str| {
            let mut magic = [0; 8];
            let file = open_regular(&folder.join(name), OpenOptions::new().read(true));
            file.is_ok_and(|mut file| file.read_exact(&mut magic).is_ok()) && magic == *Magic::Config.bytes()
        };
        if is_config("config") || is_config("config.2") {
            return Err(Error::Nested {
                inner: place.to_owned(),
                outer: folder.to_owned(),
                reason: "that is a repository, and none is made inside of another",
            });
        }
    }
    Ok(())
}

/// Makes all folders of a repository and makes them durable `[REPO-5]`.
pub(crate) fn make_folders(backend: &dyn Backend) -> Result<()> {
    let make = |folder: &str| backend.make_folder(folder).map_err(Error::repository("create", folder));
    make("")?;
    FOLDERS.iter().try_for_each(|folder| make(folder))?;
    (0..=255u8).try_for_each(|prefix| make(&format!("packs/{prefix:02x}")))?;
    ["packs", ""]
        .iter()
        .try_for_each(|folder| backend.sync_folder(folder).map_err(Error::repository("sync", folder)))
}

/// Whether systems put something of this name at the top of a file system of their own accord.
pub(crate) fn is_of_the_medium(name: &str) -> bool {
    const NAMES: [&str; 6] = [
        "lost+found",
        "System Volume Information",
        "$RECYCLE.BIN",
        ".Trashes",
        ".fseventsd",
        ".Spotlight-V100",
    ];
    NAMES.contains(&name) || name.starts_with(".Trash-")
}

/// Whether there is nothing yet, or only what an interrupted `init` leaves.
pub(crate) fn is_free(backend: &dyn Backend) -> io::Result<bool> {
    let listed = match backend.list("") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        other => other?,
    };
    let known = |name: &str| {
        FOLDERS.contains(&name) || matches!(name, "copy" | "config.2" | RESERVE) || is_of_the_medium(name)
    };
    if !listed.iter().all(|entry| known(&entry.name)) {
        return Ok(false);
    }
    for folder in ["snapshots", "index", "records", "keys"] {
        // Without anything else, a key is what an interrupted `init` leaves, and opens nothing.
        let is_key = |name: &str| folder == "keys" && KeyId::from_hex(name).is_some();
        if listed.iter().any(|entry| entry.name == folder)
            && !backend.list(folder)?.iter().all(|entry| is_key(&entry.name))
        {
            return Ok(false);
        }
    }
    // Someone's folder of packages may have that name.
    if listed.iter().any(|entry| entry.name == "packs") {
        for prefix in backend.list("packs")? {
            if prefix.is_file || !backend.list(&format!("packs/{}", prefix.name))?.is_empty() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Reads `config`, or where that is damaged, `config.2` `[REPO-4]`.
pub(crate) fn read_config(
    backend: &dyn Backend,
    problems: &mut Vec<Error>,
) -> Result<(RepositoryId, Config, Vec<u8>)> {
    let read = |name: &'static str| -> Result<(Vec<u8>, RepositoryId, Config)> {
        let bytes = read_object(backend, name)?;
        let (id, config) = decode_config(&bytes).map_err(Error::damaged(name))?;
        Ok((bytes, id, config))
    };
    match (read("config"), read("config.2")) {
        (Ok((first, id, config)), Ok((second, _, other))) => {
            if config.is_encrypted() != other.is_encrypted() {
                return Err(Error::damaged("config")(Corruption::ModesDiffer));
            }
            if first != second {
                problems
                    .push(Error::damaged("config.2")(Corruption::rule("REPO-4", "it differs from config")));
            }
            Ok((id, config, first))
        }
        (Ok((bytes, id, config)), Err(error)) | (Err(error), Ok((bytes, id, config))) => {
            problems.push(error);
            Ok((id, config, bytes))
        }
        (Err(first), Err(second)) => Err(match (is_absent(&first), is_absent(&second)) {
            (true, true) => Error::NoRepository { path: backend.place().to_owned() },
            (true, false) => second,
            _ => first,
        }),
    }
}

fn is_absent(error: &Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound};
    matches!(error, Error::Repository { source, .. } if matches!(source.kind(), NotFound | NotADirectory))
}

/// Neither file has an outer part.
fn no_outer(outer: &[u8]) -> Result<(), Corruption> {
    if outer.is_empty() { Ok(()) } else { Err(Corruption::TrailingBytes { len: outer.len() as u64 }) }
}

/// Whether these are the bytes of a config that could be used.
pub(crate) fn is_whole_config(bytes: &[u8]) -> bool {
    decode_config(bytes).is_ok()
}

fn decode_config(bytes: &[u8]) -> Result<(RepositoryId, Config), Corruption> {
    let Object { header, outer, body } = decode_object(bytes, Magic::Config, None)?;
    no_outer(outer)?;
    let config: Config = codec::decode(body)?;
    config.validate()?;
    Ok((header.repository, config))
}

/// Reads `copy`. Without it the repository still opens: it has no name, and records about single copies pass it by.
pub(crate) fn read_copy(
    backend: &dyn Backend,
    id: RepositoryId,
    problems: &mut Vec<Error>,
) -> Result<CopyInfo> {
    let read = read_object(backend, "copy")
        .and_then(|bytes| decode_copy(&bytes, id).map_err(Error::damaged("copy")));
    match read {
        Ok(copy) => Ok(copy),
        Err(error) if error.is_damage() => {
            problems.push(error);
            Ok(CopyInfo { copy: CopyId::from_bytes([0; 16]), name: String::new(), fields: Vec::new() })
        }
        Err(error) => Err(error),
    }
}

fn decode_copy(bytes: &[u8], id: RepositoryId) -> Result<CopyInfo, Corruption> {
    let Object { outer, body, .. } = decode_object(bytes, Magic::Copy, Some(id))?;
    no_outer(outer)?;
    let copy: CopyInfo = codec::decode(body)?;
    validate_fields(&copy.fields, &[])?;
    Ok(copy)
}

fn read_object(backend: &dyn Backend, name: &'static str) -> Result<Vec<u8>> {
    read_whole(backend, name, MAX_OBJECT_FILE).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            Error::damaged(name)(Corruption::WrongHash)
        }
        _ => Error::repository("read", name)(error),
    })
}

/// Whether a name in `features` is that of a feature with this prefix.
pub(crate) fn is_feature(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|word| {
        !word.is_empty() && word.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    })
}

/// Checks `[REPO-2]`: fails on a feature needed for reading, and returns the one that forbids writing.
pub(super) fn check_features(backend: &dyn Backend) -> Result<Result<(), String>> {
    let listed = match backend.list("features") {
        // A copy made by a tool that skips empty folders.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(())),
        other => other.map_err(Error::repository("list", "features"))?,
    };
    if let Some(feature) = listed.iter().find(|entry| is_feature(&entry.name, "read-")) {
        return Err(Error::UnknownFeature { name: feature.name.clone() });
    }
    Ok(match listed.iter().find(|entry| is_feature(&entry.name, "write-")) {
        Some(feature) => Err(feature.name.clone()),
        None => Ok(()),
    })
}
