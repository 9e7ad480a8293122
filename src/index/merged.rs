//! The facts of several segments as one sequence.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::id::SegmentId;
use crate::index::facts::Row;
use crate::index::segment::Rows;
use crate::index::{Segment, is_vanished};
use crate::pack::Placed;

/// The facts of several segments, in the order of ids through all of them.
pub(super) struct Merged<'s> {
    segments: Vec<(&'s Segment, Rows<'s>)>,
    /// The next row of each, by the number of its segment.
    next: BinaryHeap<Reverse<(Row, usize)>>,
    not_begun: Range<usize>,
    pub(super) damaged: Vec<(SegmentId, Error)>,
}

impl<'s> Merged<'s> {
    pub(super) fn of(segments: &[&'s Segment]) -> Self {
        Self {
            segments: segments.iter().map(|segment| (*segment, segment.rows())).collect(),
            next: BinaryHeap::with_capacity(segments.len()),
            not_begun: 0..segments.len(),
            damaged: Vec::new(),
        }
    }

    pub(super) fn next(&mut self) -> Result<Option<Placed>> {
        while let Some(number) = self.not_begun.next() {
            self.advance(number)?;
        }
        let Some(Reverse((row, number))) = self.next.pop() else { return Ok(None) };
        let Some((segment, _)) = self.segments.get(number) else { return Ok(None) };
        let placed = segment.placed(&row)?;
        self.advance(number)?;
        Ok(Some(placed))
    }

    /// Puts the next row of a segment among the others; one that is damaged has no more.
    fn advance(&mut self, number: usize) -> Result<()> {
        let Some((segment, rows)) = self.segments.get_mut(number) else { return Ok(()) };
        match rows.next() {
            Ok(row) => self.next.extend(row.map(|row| Reverse((row, number)))),
            Err(error) if error.is_damage() && !is_vanished(&error) => {
                self.damaged.push((segment.id(), error));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Those that are not damaged.
    pub(super) fn whole(&self) -> impl Iterator<Item = &Segment> {
        let is_damaged = |id| self.damaged.iter().any(|(damaged, _)| *damaged == id);
        self.segments.iter().map(|(segment, _)| *segment).filter(move |segment| !is_damaged(segment.id()))
    }
}
