//! Names that the format does not know, folders that are missing, files left over.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use crate::backend::Backend;
use crate::check::CheckReport;
use crate::error::{Error, Result};
use crate::event::{Event, Observer};
use crate::repository::is_feature;
use crate::session;

/// So many unknown names are kept; a folder that is no repository's may have millions.
const KEPT_NAMES: usize = 1000;

/// The names in a repository, against those that the format has.
pub(super) struct Names<'a> {
    pub backend: &'a dyn Backend,
    pub observer: &'a dyn Observer,
    pub report: &'a mut CheckReport,
}

impl Names<'_> {
    /// Names that the format does not know `[REPO-3]`, folders that are missing `[REPO-5]`, and files left over.
    pub fn names(&mut self) -> Result<()> {
        const FOLDERS: [&str; 9] =
            ["packs", "index", "snapshots", "records", "features", "keys", "sessions", "marks", "tmp"];
        let backend = self.backend;
        let root = backend.list("").map_err(Error::repository("list", "the folder"))?;
        for listed in &root {
            let known = if listed.is_file {
                matches!(listed.name.as_str(), "config" | "config.2" | "copy" | "reserve")
            } else {
                FOLDERS.contains(&listed.name.as_str())
            };
            self.unknown_unless(known, "", &listed.name);
        }
        for folder in ["packs", "index", "snapshots", "records", "keys", "tmp", "features"] {
            let listed = match backend.list(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.notice(format!("the folder {folder} is missing"));
                    continue;
                }
                other => other.map_err(Error::repository("list", folder))?,
            };
            for entry in &listed {
                let known = match folder {
                    "packs" => !entry.is_file && is_hex(&entry.name, 2),
                    "tmp" => entry.is_file,
                    "features" => ["read-", "write-"].iter().any(|prefix| is_feature(&entry.name, prefix)),
                    // Something else in the place of these is not taken for one.
                    "index" | "keys" => entry.is_file && is_hex(&entry.name, 64),
                    _ => is_hex(&entry.name, 64),
                };
                self.unknown_unless(known, folder, &entry.name);
                if folder == "tmp" && session::is_left_over(&entry.name) {
                    self.report.left_over.push(format!("tmp/{}", entry.name));
                }
            }
            if folder == "packs" {
                self.pack_names(&listed.iter().map(|entry| entry.name.as_str()).collect())?;
            }
        }
        Ok(())
    }

    fn pack_names(&mut self, folders: &BTreeSet<&str>) -> Result<()> {
        let missing = (0..=255u8).filter(|prefix| !folders.contains(&*format!("{prefix:02x}"))).count();
        if missing > 0 {
            self.notice(format!("{missing} of the 256 folders of packs are missing"));
        }
        for folder in folders.iter().filter(|name| is_hex(name, 2)) {
            let path = format!("packs/{folder}");
            let listed = self.backend.list(&path).map_err(Error::repository("list", &path))?;
            for entry in listed {
                let id = entry.name.strip_suffix(".par").unwrap_or(&entry.name);
                let known = entry.is_file && is_hex(id, 64) && id.starts_with(folder);
                self.unknown_unless(known, &path, &entry.name);
            }
        }
        Ok(())
    }

    fn unknown_unless(&mut self, known: bool, folder: &str, name: &str) {
        if known {
            return;
        }
        let name = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        if self.report.unknown_names.len() < KEPT_NAMES {
            self.report.unknown_names.push(name);
        }
    }

    fn notice(&mut self, text: String) {
        self.observer.event(&Event::Notice { path: Path::new(""), text: &text });
        self.report.notices.push(text);
    }
}

fn is_hex(name: &str, len: usize) -> bool {
    name.len() == len && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
