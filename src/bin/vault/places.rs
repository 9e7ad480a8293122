//! Where things lie unless the user says otherwise: the folders of the XDG base directory specification.

use std::env;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The file that tells other programs that a folder holds a cache: <https://bford.info/cachedir/>.
const CACHE_MARK: (&str, &str) = (
    "CACHEDIR.TAG",
    "Signature: 8a477f597d28d172789f06886806bc55\n# What vault keeps here can be deleted at any time.\n",
);

/// The repository that is used when none is named.
pub fn default_repository() -> Option<PathBuf> {
    Some(base("XDG_DATA_HOME", ".local/share")?.join("vault/default"))
}

/// The folder for caches of all repositories.
pub fn caches() -> Option<PathBuf> {
    Some(base("XDG_CACHE_HOME", ".cache")?.join("vault"))
}

/// Makes the folder `folder` in the folder for caches. If that is new, it is marked as what it is.
pub fn make_cache(caches: &Path, folder: &Path) -> io::Result<()> {
    let is_new = fs::symlink_metadata(caches).is_err();
    DirBuilder::new().mode(0o700).recursive(true).create(folder)?;
    let (name, content) = CACHE_MARK;
    if is_new { fs::write(caches.join(name), content) } else { Ok(()) }
}

/// The folder for what is remembered about copies: unlike a cache, it cannot be made anew.
pub fn states() -> Option<PathBuf> {
    Some(base("XDG_STATE_HOME", ".local/state")?.join("vault"))
}

/// The repository that the environment names. An empty name is none, as is the habit.
pub fn named_repository() -> Option<PathBuf> {
    env::var_os("VAULT_REPOSITORY").filter(|name| !name.is_empty()).map(PathBuf::from)
}

/// A base folder. Relative paths in the environment are to be ignored, says the specification.
fn base(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| Some(absolute("HOME")?.join(below_home)))
}
