//! Segments that a mirror needs no longer `[DUR-15]`: the source merged them into others, which came over as well.
//!
//! Without this a mirror would keep every small segment that the source ever had, and each look-up would ask them all.

use std::path::Path;

use crate::error::{Error, Result};
use crate::event::{Change, Event, Item};
use crate::id::SegmentId;
use crate::index::{SMALL_SEGMENTS, Segment, is_vanished, redundant};
use crate::mirror::{DamagedFile, Refresh, Side};
use crate::transfer::{FileId, Folder};

impl Refresh<'_> {
    /// Removes the small segments that are redundant, if there are many and their keys are known. What the source lists stays: it would
    /// come back.
    pub(super) fn remove_spare_segments(&mut self) -> Result<()> {
        let on_mirror: Vec<FileId> =
            self.there.files.keys().filter(|file| file.folder == Folder::Index).copied().collect();
        let is_extra = |file: &FileId| !self.here.files.contains_key(file);
        if on_mirror.len() <= SMALL_SEGMENTS || !on_mirror.iter().any(is_extra) || self.mirror.is_locked() {
            return Ok(());
        }
        let mut segments = Vec::new();
        let mut damaged = Vec::new();
        for file in on_mirror {
            self.copier.check_stop()?;
            let id = SegmentId::from_bytes(file.hash);
            match Segment::open(self.mirror.backend(), id, self.mirror.keys()) {
                Ok(mut segment) => {
                    segment.close();
                    segments.push(segment);
                }
                Err(error) if is_vanished(&error) => {}
                Err(error) if error.is_damage() => {
                    self.copier.check_medium()?;
                    damaged.push((file, error));
                }
                Err(error) => return Err(Error::about(self.mirror.backend().place())(error)),
            }
        }
        let spare = self.spare(&segments, &mut damaged)?;
        for (file, error) in damaged {
            self.damaged_there(file, &error);
        }
        for id in spare {
            let file = file_of(id);
            let name = file.name();
            match self.copier.to.remove(&name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::path("remove", &self.copier.to.place().join(&name))(error));
                }
                _ => {}
            }
            self.there.files.remove(&file);
            self.summary.segments_removed += 1;
            let (path, item, change) = (Path::new(&name), Item::RepositoryFile, Change::Removed);
            self.copier.observer.event(&Event::Done { path, item, change, bytes: 0 });
        }
        Ok(())
    }

    /// Those that may go. What they hang on is read back from the medium, hashed, and every block of it read.
    fn spare(&self, segments: &[Segment], damaged: &mut Vec<(FileId, Error)>) -> Result<Vec<SegmentId>> {
        let all: Vec<&Segment> = segments.iter().collect();
        if all.iter().filter(|segment| segment.is_small()).count() <= SMALL_SEGMENTS {
            return Ok(Vec::new());
        }
        let may_go =
            |segment: &Segment| segment.is_small() && !self.here.files.contains_key(&file_of(segment.id()));
        let is_whole = |segment: &Segment| {
            let file = file_of(segment.id());
            let read = if self.copier.is_whole(&file)? {
                segment.for_each(|_| ())
            } else {
                Err(Error::damaged(&file.name())(crate::error::Corruption::WrongHash))
            };
            match read {
                Ok(()) => Ok(true),
                Err(error) if is_vanished(&error) => Ok(false),
                Err(error) if error.is_damage() => {
                    self.copier.check_medium()?;
                    damaged.push((file, error));
                    Ok(false)
                }
                Err(error) => Err(error),
            }
        };
        Ok(redundant(&all, may_go, is_whole)?.into_iter().map(Segment::id).collect())
    }

    /// A file that turned out to be damaged on the mirror, and stays so.
    pub(super) fn damaged_there(&mut self, file: FileId, error: &Error) {
        let name = file.name();
        let path = self.copier.to.place().join(&name);
        self.copier.observer.event(&Event::Problem { path: &path, error });
        let is_damaged_here =
            |known: &DamagedFile| matches!(known.side, Side::Repository) && known.file == name;
        let whole_on_other_side =
            self.here.files.contains_key(&file) && !self.summary.damaged.iter().any(is_damaged_here);
        self.summary.damaged.push(DamagedFile { file: name, side: Side::Mirror, whole_on_other_side });
    }
}

fn file_of(id: SegmentId) -> FileId {
    FileId { folder: Folder::Index, hash: *id.as_bytes() }
}
