//! The specification, executed: its tables and limits against the code, its rules against code and tests, its vectors
//! both ways.
//!
//! `VAULT_BLESS=1 cargo test --test main spec` writes `spec/vectors/v1` anew. That is a change of the format: it goes
//! with an entry in `spec/changes.md`.

mod golden;
mod parity;
mod reader;
mod rules;
mod tables;
mod vectors;

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the specification, or of anything else in the package.
fn text(file: &str) -> String {
    let path = package().join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` whose names end so, by path.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = walkdir::WalkDir::new(package().join(folder))
        .into_iter()
        .map(|entry| entry.unwrap().into_path())
        .filter(|path| path.is_file() && path.to_string_lossy().ends_with(ending))
        .collect();
    files.sort();
    files
}

/// Whether the vectors are to be written instead of compared.
fn bless() -> bool {
    std::env::var_os("VAULT_BLESS").is_some()
}
