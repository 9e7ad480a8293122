//! The names in a directory.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

/// The names in a directory, sorted, in one piece of memory.
#[derive(Default)]
pub(super) struct Names {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    next: usize,
}

/// Where a name is, and whether the listing says that it is a directory's.
#[derive(Clone, Copy)]
struct Span {
    offset: u32,
    len: u16,
    is_dir: bool,
}

impl Names {
    /// Lists a directory that was just opened; with what stopped the listing. Nothing if it has more names than `most`.
    pub(super) fn list(fd: impl AsFd, most: usize) -> Option<(Self, Option<io::Error>)> {
        let mut names = Self::default();
        let mut buffer = vec![MaybeUninit::uninit(); 64 << 10];
        let mut listing = RawDir::new(fd, &mut buffer);
        let failure = loop {
            match listing.next() {
                None => break None,
                Some(Ok(entry)) => {
                    let name = entry.file_name().to_bytes();
                    let is_dir = entry.file_type() == FileType::Directory;
                    if names.spans.len() > most {
                        return None;
                    }
                    if name != b"." && name != b".." && !names.add(name, is_dir) {
                        break Some(Errno::OVERFLOW.into());
                    }
                }
                Some(Err(Errno::INTR)) => {}
                Some(Err(error)) => break Some(error.into()),
            }
        };
        let Self { bytes, spans, .. } = &mut names;
        let name = |span: &Span| name_at(bytes, *span);
        spans.sort_unstable_by(|one, other| name(one).cmp(name(other)));
        // A directory that changes while it is listed may give a name twice.
        spans.dedup_by(|one, other| name(one) == name(other));
        Some((names, failure))
    }

    /// Adds a name, if there is room for it.
    fn add(&mut self, name: &[u8], is_dir: bool) -> bool {
        let (Ok(offset), Ok(len)) = (u32::try_from(self.bytes.len()), u16::try_from(name.len())) else {
            return false;
        };
        self.bytes.extend_from_slice(name);
        self.spans.push(Span { offset, len, is_dir });
        true
    }

    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.next >= self.spans.len()
    }

    pub(super) fn contains(&self, name: &[u8]) -> bool {
        self.spans.binary_search_by(|span| name_at(&self.bytes, *span).cmp(name)).is_ok()
    }

    /// All names, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.spans.iter().map(|span| name_at(&self.bytes, *span))
    }

    /// The name whose turn it is, and its number.
    pub(super) fn next(&mut self) -> Option<(usize, Vec<u8>)> {
        let span = *self.spans.get(self.next)?;
        self.next += 1;
        Some((self.next - 1, name_at(&self.bytes, span).to_vec()))
    }

    /// Whether the name of this number is, going by the listing, a directory's.
    pub(super) fn is_dir(&self, number: usize) -> bool {
        self.spans.get(number).is_some_and(|span| span.is_dir)
    }

    /// The first directory from this number on, and its number.
    pub(super) fn next_dir(&self, from: usize) -> Option<(usize, &[u8])> {
        let found = self.spans.get(from..)?.iter().position(|span| span.is_dir)? + from;
        Some((found, name_at(&self.bytes, *self.spans.get(found)?)))
    }
}

fn name_at(bytes: &[u8], span: Span) -> &[u8] {
    let offset = span.offset as usize;
    bytes.get(offset..offset + usize::from(span.len)).unwrap_or_default()
}
