//! Extended attributes of what is on the disk, held against those that were saved.

use std::os::fd::AsRawFd;

use rustix::io::Errno;

use super::Live;
use crate::error::Result;
use crate::id::ChunkKind;
use crate::snapshot::list::Pieces;
use crate::snapshot::{Content, MAX_XATTR_LEN, Piece, Xattr};

impl Live<'_, '_, '_> {
    /// Whether what has this name in the innermost directory has these attributes and no others, as far as this user may see them.
    pub(super) fn same_xattrs(&self, saved: &[Xattr], name: &[u8]) -> Result<bool> {
        // No call of older kernels takes a directory and a name; but /proc leads to the name.
        let mut path = format!("/proc/self/fd/{}/", self.folder.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        let found = read_xattrs(&path).map_err(|error| self.error(error.into()))?;
        let is_root = rustix::process::geteuid().is_root();
        let saved = saved.iter().filter(|xattr| is_root || !xattr.name.starts_with(b"trusted."));
        let mut found = found.iter();
        for xattr in saved {
            match found.next() {
                Some((name, value)) if **name == *xattr.name && self.is_value(&xattr.value, value)? => {}
                _ => return Ok(false),
            }
        }
        Ok(found.next().is_none())
    }

    /// Whether a value is the one that was saved, by the names of its chunks.
    fn is_value(&self, saved: &Content, mut value: &[u8]) -> Result<bool> {
        if let Content::Inline(bytes) = saved {
            return Ok(**bytes == *value);
        }
        for piece in Pieces::new(self.get, saved, 0) {
            let piece = piece?;
            let len = usize::try_from(piece.len()).unwrap_or(usize::MAX);
            let Some((part, rest)) = value.split_at_checked(len) else { return Ok(false) };
            let is_same = match piece {
                Piece::Data(id, _) => self.options.keys.chunk_id(ChunkKind::Data, part) == id,
                Piece::Hole(_) => part.iter().all(|byte| *byte == 0),
            };
            if !is_same {
                return Ok(false);
            }
            value = rest;
        }
        Ok(value.is_empty())
    }
}

/// Name and value.
type Attribute = (Vec<u8>, Vec<u8>);

/// Names and values, by ascending name; those that are also saved.
fn read_xattrs(path: &[u8]) -> Result<Vec<Attribute>, Errno> {
    let names = match fill(|buffer| rustix::fs::llistxattr(path, buffer)) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut xattrs = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match fill(|buffer| rustix::fs::lgetxattr(path, name, buffer)) {
            Ok(value) => xattrs.push((name.to_vec(), value)),
            // It was removed meanwhile, or is listed without having a value; or the file system makes it up.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(_) if name.starts_with(b"system.") && !name.starts_with(b"system.posix_acl_") => {}
            Err(error) => return Err(error),
        }
    }
    xattrs.sort_unstable();
    Ok(xattrs)
}

/// Calls with a buffer that is large enough. The size may change between two calls.
fn fill(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 1024];
    loop {
        match call(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if (buffer.len() as u64) < MAX_XATTR_LEN => buffer = vec![0; buffer.len() * 8],
            Err(error) => return Err(error),
        }
    }
}
