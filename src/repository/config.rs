//! What a repository says of itself: `config` and `config.2`, `copy`, `features/`.

use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::backend::{Backend, read_whole};
use crate::chunk::ChunkerParams;
use crate::codec;
use crate::error::{Corruption, Error, Result};
use crate::header::{Magic, Object, decode_object, encode_object};
use crate::id::{CopyId, RepositoryId};
use crate::repository::{FOLDERS, MAX_OBJECT_FILE, object};
use crate::session::{Session, random};
use crate::snapshot::{Field, Time, validate_fields};

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
        encode_object(Magic::Config, repository, &[], &codec::encode(self))
    }

    fn validate(&self) -> Result<(), Corruption> {
        if self.version != FORMAT_VERSION {
            return Err(Corruption::WrongVersion { found: self.version });
        }
        if self.encryption != 0 {
            return Err(Corruption::UnknownEncryption { found: self.encryption });
        }
        self.created.validate()?;
        // [CONF-2]
        self.chunker.validate()?;
        validate_fields(&self.fields, &[])
    }
}

/// What is one physical copy's own: `spec/format.md` §5.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyInfo {
    /// Its id.
    pub copy: CopyId,
    /// What its owner calls it, or empty.
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
        encode_object(Magic::Copy, repository, &[], &codec::encode(self))
    }
}

/// How a new repository is made.
#[derive(Debug, Clone, Default)]
pub struct InitOptions {
    /// How files are cut.
    pub chunker: ChunkerParams,
    /// A name for this copy.
    pub name: String,
}

/// Makes a repository: folders first, `config` last, so that half of one is none `[DUR-7]`.
pub(super) fn init(backend: &dyn Backend, options: &InitOptions) -> Result<RepositoryId> {
    options.chunker.validate().map_err(|error| Error::Usage(error.to_string()))?;
    if !is_free(backend).map_err(Error::repository("list", "the folder"))? {
        return Err(Error::NotEmpty { path: backend.place().to_owned() });
    }
    refuse_inside_another(backend.place())?;
    make_folders(backend)?;
    let repository = RepositoryId::from_bytes(random());
    let config = Config {
        version: FORMAT_VERSION,
        chunker: options.chunker,
        encryption: 0,
        created: Time::now(),
        fields: Vec::new(),
    };
    let bytes = config.encode(repository);
    let session = Session::begin();
    object::publish(backend, &session, "copy", &CopyInfo::new(&options.name).encode(repository))?;
    object::publish(backend, &session, "config.2", &bytes)?;
    object::publish(backend, &session, "config", &bytes)?;
    Ok(repository)
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
            let file = std::fs::File::open(folder.join(name));
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
    let known =
        |name: &str| FOLDERS.contains(&name) || matches!(name, "copy" | "config.2") || is_of_the_medium(name);
    if !listed.iter().all(|entry| known(&entry.name)) {
        return Ok(false);
    }
    for folder in ["snapshots", "index", "records", "keys"] {
        if listed.iter().any(|entry| entry.name == folder) && !backend.list(folder)?.is_empty() {
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
) -> Result<(RepositoryId, Config)> {
    let read = |name: &'static str| -> Result<(Vec<u8>, RepositoryId, Config)> {
        let bytes = read_object(backend, name)?;
        let (id, config) = decode_config(&bytes).map_err(Error::damaged(name))?;
        Ok((bytes, id, config))
    };
    match (read("config"), read("config.2")) {
        (Ok((first, id, config)), Ok((second, ..))) => {
            if first != second {
                problems
                    .push(Error::damaged("config.2")(Corruption::rule("REPO-4", "it differs from config")));
            }
            Ok((id, config))
        }
        (Ok((_, id, config)), Err(error)) | (Err(error), Ok((_, id, config))) => {
            problems.push(error);
            Ok((id, config))
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

fn decode_config(bytes: &[u8]) -> Result<(RepositoryId, Config), Corruption> {
    let Object { header, body, .. } = decode_object(bytes, Magic::Config, None)?;
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
    let copy: CopyInfo = codec::decode(decode_object(bytes, Magic::Copy, Some(id))?.body)?;
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
