//! Each snapshot says, as a hash, which others were there when it was taken. So those that are there now can be put into the order in which
//! they were taken; where that does not work out, one of them is missing, or came from another copy.

use std::collections::BTreeSet;

use crate::id::{self, SnapshotId};

/// Of more than so many that were taken at the same time, it is not tried which of them others saw.
const MOST_AT_ONCE: usize = 8;

/// The snapshots that saw others than those that are here, from the list of all with what they say of it.
pub(super) fn unexplained(snapshots: &[(SnapshotId, [u8; 32])]) -> Vec<SnapshotId> {
    let mut rest: Vec<(SnapshotId, [u8; 32])> = snapshots.to_vec();
    let mut there = BTreeSet::new();
    // Taken while no others were there than `there`; which of them came in first is not known yet.
    let mut pending: Vec<SnapshotId> = Vec::new();
    loop {
        let now = hash(there.iter());
        pending.extend(rest.extract_if(.., |(_, seen)| *seen == now).map(|(id, _)| id));
        let leads_on = |arrived: &Vec<SnapshotId>| {
            let then = hash(there.iter().chain(arrived).copied().collect::<BTreeSet<_>>().iter());
            rest.iter().any(|(_, seen)| *seen == then)
        };
        let Some(arrived) = subsets(&pending).find(leads_on) else { break };
        pending.retain(|id| !arrived.contains(id));
        there.extend(arrived);
    }
    rest.into_iter().map(|(id, _)| id).collect()
}

/// The subsets of a list but for the empty one, all of it first; of a long list, only that.
fn subsets(list: &[SnapshotId]) -> impl Iterator<Item = Vec<SnapshotId>> + '_ {
    let most = if list.len() > MOST_AT_ONCE { 1 } else { (1u32 << list.len()) - 1 };
    (0..most).map(move |left_out| {
        let is_in = |at: usize| list.len() > MOST_AT_ONCE || left_out >> at & 1 == 0;
        (0..).zip(list).filter(|(at, _)| is_in(*at)).map(|(_, id)| *id).collect()
    })
}

fn hash<'a>(ids: impl Iterator<Item = &'a SnapshotId>) -> [u8; 32] {
    let mut hasher = id::FileHasher::default();
    ids.for_each(|id| hasher.update(id.as_bytes()));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(number: u8) -> SnapshotId {
        SnapshotId::from_bytes([number; 32])
    }

    /// A snapshot, and those it saw.
    fn saw(number: u8, others: &[u8]) -> (SnapshotId, [u8; 32]) {
        let others: BTreeSet<SnapshotId> = others.iter().map(|other| snapshot(*other)).collect();
        (snapshot(number), hash(others.iter()))
    }

    #[test]
    fn snapshots_taken_one_after_the_other_are_explained_and_a_missing_one_shows() {
        let all = [saw(5, &[]), saw(2, &[5]), saw(9, &[2, 5]), saw(1, &[2, 5, 9])];
        assert_eq!(unexplained(&all), []);
        assert_eq!(unexplained(&[all[0], all[2], all[3]]), [snapshot(9), snapshot(1)]);
        assert_eq!(unexplained(&all[1..]), [snapshot(2), snapshot(9), snapshot(1)]);
        // Nothing saw the newest one, so nothing says that it is missing: that is what this computer remembers.
        assert_eq!(unexplained(&all[..3]), []);
        assert_eq!(unexplained(&[]), []);
    }

    #[test]
    fn snapshots_taken_at_the_same_time_are_explained() {
        let all = [saw(5, &[]), saw(2, &[5]), saw(9, &[5]), saw(1, &[5, 9]), saw(7, &[1, 2, 5, 9])];
        assert_eq!(unexplained(&all), []);
        assert_eq!(unexplained(&[all[0], all[1], all[3], all[4]]), [snapshot(1), snapshot(7)]);
    }
}
