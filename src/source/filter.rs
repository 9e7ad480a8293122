//! What a walk leaves out because the user asked for it. The only file that knows the crate `ignore`.
//!
//! - What the user named as a source is never left out, and patterns see only what is below it (by its whole path).
//! - A directory that is marked (`CACHEDIR.TAG`, `exclude_if_present`) stays, with nothing in it but the mark.
//! - `.gitignore` counts wherever it lies in the source, the nearest one first, then `.git/info/exclude`. A repository inside another one
//!   is not subject to the rules of the outer one, and those above the source are not read.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::OFlags;

use super::directory::{Directory, open_quietly, stat_in};
use super::stat::{self, FileKind, Stat};
use crate::pattern::Patterns;

/// The name and the first bytes of a file that marks a cache: <https://bford.info/cachedir/>.
const CACHE_MARK: (&str, &str) = ("CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55");
/// No file with rules for git, and no header of a mark, is read further.
const MAX_READ_LEN: usize = 1 << 20;

/// What to leave out. By default: nothing.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Entries by their absolute path.
    pub excludes: Patterns,
    /// The content of directories with a `CACHEDIR.TAG` that has the standard signature.
    pub exclude_caches: bool,
    /// The content of directories that hold a file `NAME`; or, as `NAME:HEADER`, a file `NAME` that starts with `HEADER`.
    pub exclude_if_present: Vec<String>,
    /// Regular files of more bytes.
    pub exclude_larger_than: Option<u64>,
    /// What `.gitignore` files in the source say.
    pub git_ignore: bool,
}

impl Filter {
    /// Whether an entry is left out by itself. The paths are absolute and name the same entry in two ways.
    pub(super) fn excludes(&self, paths: [&[u8]; 2], stat: &Stat) -> bool {
        if self.exclude_larger_than.is_some_and(|limit| stat.kind == FileKind::Regular && stat.size > limit) {
            return true;
        }
        self.excludes_path(paths, stat.is_dir())
    }

    pub(super) fn excludes_path(&self, paths: [&[u8]; 2], is_dir: bool) -> bool {
        if self.excludes.is_empty() {
            return false;
        }
        let [resolved, given] = paths;
        self.excludes.matches(resolved, is_dir) == Some(true)
            || (given != resolved && self.excludes.matches(given, is_dir) == Some(true))
    }

    /// The name of the file that marks a directory, so that nothing but that file is saved of it.
    pub(super) fn mark(&self, directory: &Directory, holds: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let present = self.exclude_if_present.iter().map(|mark| mark.split_once(':').unwrap_or((mark, "")));
        let caches = self.exclude_caches.then_some(CACHE_MARK);
        caches.into_iter().chain(present).find_map(|(name, header)| {
            let is_marked = holds(name.as_bytes())
                && (header.is_empty()
                    || read_start(directory, name.as_bytes(), header.len())
                        .is_some_and(|start| start == header.as_bytes()));
            is_marked.then(|| name.as_bytes().to_vec())
        })
    }
}

/// The rules for git that apply where the walk is.
#[derive(Default)]
pub(super) struct GitRules {
    levels: Vec<Level>,
}

struct Level {
    depth: usize,
    /// Where the part of a path begins that is relative to the directory of the rules.
    offset: usize,
    rules: Gitignore,
    /// Rules from further up do not apply.
    is_boundary: bool,
}

impl GitRules {
    /// Reads the rules of a directory that the walk enters.
    pub(super) fn enter(
        &mut self,
        directory: &Directory,
        depth: usize,
        offset: usize,
        holds: impl Fn(&[u8]) -> bool,
    ) {
        let is_boundary = holds(b".git");
        let has_rules = holds(b".gitignore");
        if !is_boundary && !has_rules {
            return;
        }
        let mut builder = GitignoreBuilder::new(".");
        // Later rules win: those of .gitignore over those of the repository.
        if is_boundary && let Some(text) = read_start(directory, b".git/info/exclude", MAX_READ_LEN) {
            add_rules(&mut builder, &text);
        }
        if has_rules && let Some(text) = read_start(directory, b".gitignore", MAX_READ_LEN) {
            add_rules(&mut builder, &text);
        }
        // Rules that do not compile leave nothing out: saved too much rather than too little.
        let rules = builder.build().unwrap_or_else(|_| Gitignore::empty());
        self.levels.push(Level { depth, offset, rules, is_boundary });
    }

    /// Forgets the rules of the directory at this depth.
    pub(super) fn leave(&mut self, depth: usize) {
        self.levels.pop_if(|level| level.depth >= depth);
    }

    /// Whether the rules leave out an entry.
    pub(super) fn excludes(&self, path: &[u8], is_dir: bool) -> bool {
        for level in self.levels.iter().rev() {
            let Some(relative) = path.get(level.offset..) else { continue };
            match level.rules.matched(Path::new(std::ffi::OsStr::from_bytes(relative)), is_dir) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None if level.is_boundary => return false,
                Match::None => {}
            }
        }
        false
    }
}

fn add_rules(builder: &mut GitignoreBuilder, text: &[u8]) {
    // Half a rule could leave out what the whole one does not.
    let whole = if text.len() < MAX_READ_LEN {
        text.len()
    } else {
        text.iter().rposition(|byte| *byte == b'\n').unwrap_or(0)
    };
    let text = text.get(..whole).unwrap_or(text);
    for line in text.split(|byte| *byte == b'\n') {
        // A line that is no rule is passed over, as git does.
        if let Ok(line) = std::str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line)) {
            let _ = builder.add_line(None, line);
        }
    }
}

/// The first bytes of a regular file below a directory, at most `len`; none if it cannot be read.
fn read_start(directory: &Directory, name: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut fd = directory.descriptor().ok()?;
    let mut names = name.split(|byte| *byte == b'/').peekable();
    while let Some(name) = names.next() {
        // Opening a device, even one with this name, could do something.
        let expected = if names.peek().is_some() { FileKind::Directory } else { FileKind::Regular };
        if stat_in(&fd, name).ok()?.kind != expected {
            return None;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        fd = std::sync::Arc::new(open_quietly(&fd, name, flags).ok()?);
    }
    if stat::of_descriptor(&fd).ok()?.kind != FileKind::Regular {
        return None;
    }
    let mut bytes = vec![0; len.min(MAX_READ_LEN)];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::pread(&*fd, bytes.get_mut(filled..)?, filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    bytes.truncate(filled);
    Some(bytes)
}
