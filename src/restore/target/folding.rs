//! File systems that take two names for one, or change a name: by case, by a dot at its end, by a short name beside a long one. Found out by trying.

use std::io;
use std::sync::Arc;

use crate::error::Result;

use super::{Dir, Temp};

/// File systems that may: FAT, exFAT, NTFS (two drivers), CIFS, SMB2, HFS, HFS+, and anything over FUSE.
const FOLDING: [i64; 9] =
    [0x4d44, 0x2011_bab0, 0x5346_544e, 0x7366_746e, 0xff53_4d42, 0xfe53_4d42, 0x4244, 0x482b, 0x6573_5546];
/// The longest short name that a FAT gives to a long one.
const SHORT_LEN: usize = 12;

/// What a file system that folds names does to them.
#[derive(Clone, Copy)]
pub(in crate::restore) struct Folding {
    drops_dots: bool,
}

impl Dir {
    /// How names in this directory are folded; none if each stays what it is.
    pub(in crate::restore) fn folding(self: &Arc<Self>) -> Option<Folding> {
        if !rustix::fs::fstatfs(&self.fd).is_ok_and(|fs| FOLDING.contains(&(fs.f_type & 0xffff_ffff))) {
            return None;
        }
        let (temp, _) = Temp::file(self, b"vault", 0).ok()?;
        let is_it = |name: &[u8]| matches!(self.stat(name), Ok(Some(_)));
        let drops_dots = is_it(&[&temp.name, &b"."[..]].concat());
        (drops_dots || is_it(&temp.name.to_ascii_uppercase())).then_some(Folding { drops_dots })
    }

    /// Whether a name leads to something that has another one here. It has if `may_be_twin` and nothing else here is alike, as the
    /// spelling of what it replaced may have stayed.
    pub(in crate::restore) fn has_otherwise(&self, name: &[u8], may_be_twin: bool) -> Result<bool> {
        // What cannot be asked about will not be replaced either.
        if !matches!(self.stat(name), Ok(Some(_))) {
            return Ok(false);
        }
        let (mut is_listed, mut alike) = (false, 0);
        self.list(|other, _| {
            is_listed |= other == name;
            alike += usize::from(fold(other) == fold(name));
            Ok(())
        })?;
        Ok(if may_be_twin { !is_listed || alike < 2 } else { alike == 0 })
    }
}

impl Folding {
    /// Whether this name would become another one.
    pub(in crate::restore) fn changes(self, name: &[u8]) -> bool {
        self.drops_dots && name.ends_with(b".")
    }
}

/// A name as file systems may fold it: rather too much is one name than too little.
pub(in crate::restore) fn fold(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    name.trim_end_matches(['.', ' ']).to_uppercase().to_lowercase()
}

/// Two names of the snapshot are one here.
pub(in crate::restore) fn alike() -> io::Error {
    let text = "this file system does not tell it from another name in the same folder";
    io::Error::new(io::ErrorKind::AlreadyExists, text)
}

/// Whether this may be the short name of something that has a long one.
pub(in crate::restore) fn may_be_short(name: &[u8]) -> bool {
    name.len() <= SHORT_LEN && name.contains(&b'~')
}
