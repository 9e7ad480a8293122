//! Which segments may go: those about packs that others, which stay and are whole, say as much about.
//!
//! The only place that decides it `[DUR-8]` `[DUR-15]`: a run asks it about the parts of a union that it has just made, a mirror
//! about the parts of unions that it got from its source.

use std::collections::HashSet;

use crate::error::Result;
use crate::id::PackId;
use crate::index::Segment;

/// The segments among those that `may_go` without which nothing is lost: every pack that one names is named, with the same length,
/// by segments that stay and for which `is_whole` was true. That is asked only of those that something would hang on, as its answer
/// should come from every block of the file.
///
/// # Errors
/// The first one of `is_whole`.
pub fn redundant<'s>(
    segments: &[&'s Segment],
    may_go: impl Fn(&Segment) -> bool,
    mut is_whole: impl FnMut(&Segment) -> Result<bool>,
) -> Result<Vec<&'s Segment>> {
    // Those that stay in any case come first, then the largest: a union before its parts.
    let mut order = segments.to_vec();
    order.sort_by_key(|segment| (may_go(segment), std::cmp::Reverse(segment.fact_count()), segment.id()));
    let mut named = HashSet::new();
    let (mut staying, mut spare) = (Vec::new(), Vec::new());
    for segment in order {
        if may_go(segment) && packs(segment).all(|pack| named.contains(&pack)) {
            spare.push(segment);
        } else {
            named.extend(packs(segment));
            staying.push(segment);
        }
    }
    let wanted: HashSet<_> = spare.iter().flat_map(|segment| packs(segment)).collect();
    let mut proven = HashSet::new();
    for segment in staying {
        if packs(segment).any(|pack| wanted.contains(&pack)) && is_whole(segment)? {
            proven.extend(packs(segment));
        }
    }
    spare.retain(|segment| packs(segment).all(|pack| proven.contains(&pack)));
    Ok(spare)
}

/// What a segment names: packs of these lengths.
fn packs(segment: &Segment) -> impl Iterator<Item = (PackId, u32)> {
    segment.packs().iter().map(|row| (row.pack, row.stored_len))
}
