//! A source of which one part is left alone and another is written to, in the same folders: by writers whose contents tell their versions, and by a load
//! that does anything to its own files and folders.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::pattern;
use crate::support::torture::Random;
use crate::whole::world::{LONG_AGO, age};

/// The folders that stay. Names begin with a number, so that what is left alone and what is not come in turn.
pub const FOLDERS: [&str; 6] =
    ["", "03-still", "03-still/07-still", "03-still/07-still/02-still", "11-still", "11-still/00-still"];
/// Of each folder, so many files are left alone.
const STILL: usize = 12;
/// Lengths of these: in the entry, of one chunk, of several.
const STILL_LENGTHS: [usize; 4] = [300, 1000, 7000, 300_000];

/// How a file is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// All of it in one call, in its place.
    Over,
    /// The same, and so long that it is read piece by piece.
    Long,
    /// The same, so short that its entry holds it.
    Small,
    /// The same, and then it has the modification time that it had.
    Aged,
    /// Truncated, and written anew in one call.
    Truncated,
    /// Replaced by a new one that takes its name.
    Replaced,
    /// Copied into through a memory map.
    Mapped,
}

/// A file that is written to, and there at any time.
#[derive(Debug, Clone)]
pub struct Written {
    pub path: String,
    /// Its number.
    pub file: u32,
    pub how: How,
}

/// The source.
#[derive(Debug, Clone)]
pub struct Scene {
    pub root: PathBuf,
    /// What is left alone.
    pub still: BTreeMap<String, Vec<u8>>,
    pub written: Vec<Written>,
}

/// The path of a name in a folder.
pub fn below(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

impl Scene {
    /// Makes it, with so many files in each folder that are written to; if their times are whole seconds, few.
    pub fn new(root: &Path, each: usize) -> Self {
        let mut scene = Self { root: root.to_owned(), still: BTreeMap::new(), written: Vec::new() };
        let kinds = [How::Over, How::Replaced, How::Small, How::Aged, How::Truncated];
        for (folder_number, folder) in FOLDERS.into_iter().enumerate() {
            fs::create_dir_all(root.join(folder)).unwrap();
            for number in 0..STILL {
                let path = below(folder, &format!("{number:02}-still-file"));
                let len = STILL_LENGTHS[number % STILL_LENGTHS.len()];
                let bytes = Random((folder_number * 100 + number) as u64).bytes(len);
                fs::write(root.join(&path), &bytes).unwrap();
                scene.still.insert(path, bytes);
            }
            for number in 0..each {
                let how = kinds[(number + folder_number) % kinds.len()];
                scene.add(below(folder, &format!("{number:02}-written")), how);
            }
        }
        scene.add("11-still/05-long".into(), How::Long);
        scene
    }

    /// Adds a file that is written to.
    pub fn add(&mut self, path: String, how: How) {
        let file = u32::try_from(self.written.len()).unwrap();
        fs::write(self.root.join(&path), pattern::content(file, 1, how.blocks())).unwrap();
        self.written.push(Written { path, file, how });
    }
}

impl How {
    /// How many blocks such a file has at first.
    pub fn blocks(self) -> usize {
        match self {
            Self::Small => 2,
            Self::Long => 8 << 10,
            Self::Over | Self::Aged => 256,
            Self::Replaced | Self::Truncated => 150,
            Self::Mapped => 128,
        }
    }
}

impl Written {
    /// Writes versions to it, one after another.
    pub fn write(&self, root: &Path, versions: &[Vec<u8>]) -> io::Result<()> {
        let path = root.join(&self.path);
        for bytes in versions {
            match self.how {
                How::Over | How::Long | How::Small => {
                    File::options().write(true).open(&path)?.write_all_at(bytes, 0)?;
                }
                How::Aged => {
                    let file = File::options().write(true).open(&path)?;
                    file.write_all_at(bytes, 0)?;
                    file.set_modified(LONG_AGO)?;
                }
                How::Truncated => File::create(&path)?.write_all_at(bytes, 0)?,
                How::Replaced => {
                    let new = path.with_extension("new");
                    fs::write(&new, bytes)?;
                    age(&new);
                    fs::rename(&new, &path)?;
                }
                How::Mapped => {}
            }
        }
        Ok(())
    }
}
