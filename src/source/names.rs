//! The names in a directory.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, RawDir, SeekFrom};
use rustix::io::Errno;

use super::directory::stat_in;
use super::stat::{self, Stat, is_of_now};

/// So often a directory is listed that changes meanwhile.
const MAX_LISTINGS: usize = 4;
/// One of more names is listed once, for two listings are in memory meanwhile.
const MAX_NAMES_AGAIN: usize = 1_000_000;

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
    /// Lists a directory that was just opened, and was `opened` then; with what stopped the listing. Nothing if it has more names than `most`.
    ///
    /// A file that takes the name of another one may come under neither while a listing is under way, on btrfs for one. So a directory that
    /// changes meanwhile is listed again, a few times, and what any of the listings has counts, unless it is gone.
    pub(super) fn list(fd: &OwnedFd, opened: &Stat, most: usize) -> Option<(Self, Option<io::Error>)> {
        let (mut names, mut failure) = Self::list_once(fd, most)?;
        let mut before = *opened;
        for _ in 1..MAX_LISTINGS {
            let Ok(after) = stat::of_descriptor(fd) else { break };
            let is_still = after.has_stamps_of(&before) && !is_of_now(after.ctime);
            let is_too_long = names.len() > MAX_NAMES_AGAIN;
            if is_still
                || is_too_long
                || failure.is_some()
                || rustix::fs::seek(fd, SeekFrom::Start(0)).is_err()
            {
                break;
            }
            before = after;
            let earlier = names;
            (names, failure) = Self::list_once(fd, most)?;
            names.add_missing(&earlier, |name| stat_in(fd, name).is_ok());
        }
        Some((names, failure))
    }

    /// Adds the names of an earlier listing that are still there.
    fn add_missing(&mut self, earlier: &Self, is_there: impl Fn(&[u8]) -> bool) {
        let missing = earlier.spans.iter().map(|span| (name_at(&earlier.bytes, *span), span.is_dir));
        let missing: Vec<_> = missing.filter(|(name, _)| !self.contains(name) && is_there(name)).collect();
        let is_any = !missing.is_empty();
        for (name, is_dir) in missing {
            self.add(name, is_dir);
        }
        if is_any {
            self.sort();
        }
    }

    fn list_once(fd: &OwnedFd, most: usize) -> Option<(Self, Option<io::Error>)> {
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
        names.sort();
        Some((names, failure))
    }

    fn sort(&mut self) {
        let Self { bytes, spans, .. } = self;
        let name = |span: &Span| name_at(bytes, *span);
        spans.sort_unstable_by(|one, other| name(one).cmp(name(other)));
        // A directory that changes while it is listed may give a name twice.
        spans.dedup_by(|one, other| name(one) == name(other));
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
