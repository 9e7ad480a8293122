//! The rows that own chunks, as a tree. A row has a higher number than the one above it.

use crate::error::{Error, Result};
use crate::usage::MAX_ROWS;

/// Everything.
pub(super) const ALL: u32 = 0;
/// All targets together.
pub(super) const CHOSEN: u32 = 1;
/// All else.
pub(super) const OTHERS: u32 = 2;
/// The last row that is always there.
pub(super) const FIXED: usize = 2;

/// For each row, the one above it.
pub(super) struct Owners(Vec<u32>);

impl Owners {
    pub(super) fn new() -> Self {
        Self(vec![ALL; FIXED + 1])
    }

    /// A further row below this one.
    ///
    /// # Errors
    /// `Usage` if there are too many.
    pub(super) fn add(&mut self, above: u32) -> Result<u32> {
        let number = self.0.len();
        if above != ALL && number > MAX_ROWS {
            return Err(Error::Usage(format!(
                "more than {MAX_ROWS} folders would be listed: ask for less depth"
            )));
        }
        self.0.push(above);
        u32::try_from(number).map_err(|_| Error::Usage("too many snapshots".to_owned()))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The row above; of that which is everything, itself.
    pub(super) fn above(&self, owner: u32) -> u32 {
        self.0.get(owner as usize).copied().unwrap_or(ALL)
    }

    /// The lowest row that both are in.
    pub(super) fn common(&self, mut one: u32, mut other: u32) -> u32 {
        while one != other {
            if one > other {
                one = self.above(one);
            } else {
                other = self.above(other);
            }
        }
        one
    }

    /// Whether it is a target, or in one.
    pub(super) fn is_chosen(&self, owner: u32) -> bool {
        self.common(owner, CHOSEN) == CHOSEN
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    #[test]
    fn what_two_rows_have_in_common_is_the_lowest_above_both() {
        let mut owners = Owners::new();
        let one = owners.add(CHOSEN).unwrap();
        let (left, right) = (owners.add(one).unwrap(), owners.add(one).unwrap());
        let deep = owners.add(left).unwrap();
        let two = owners.add(CHOSEN).unwrap();
        for (a, b, expected) in [
            (deep, deep, deep),
            (deep, left, left),
            (deep, right, one),
            (deep, two, CHOSEN),
            (two, OTHERS, ALL),
        ] {
            assert_eq!((owners.common(a, b), owners.common(b, a)), (expected, expected));
        }
        assert!(owners.is_chosen(deep) && owners.is_chosen(CHOSEN));
        assert!(!owners.is_chosen(OTHERS) && !owners.is_chosen(ALL));
    }
}
