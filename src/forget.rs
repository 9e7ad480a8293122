//! Snapshots that are no longer wanted: which ones a policy leaves, and the records that say so, hold some, or take either back.
//!
//! Nothing is deleted here (`spec/format.md` §10): a forgotten snapshot is listed no more, and can be brought back until it is pruned. As a
//! record is a file like any other, a mirror or a merge carries it along, and resurrects nothing.

mod policy;

use std::collections::HashSet;
use std::hash::BuildHasher;

use crate::error::{Error, Result};
use crate::id::{RecordId, SnapshotId};
use crate::repository::{Record, RecordBody, RecordOuter, Repository, Scope, record_kind};
use crate::snapshot::{Snapshot, State, Time};

pub use policy::{Age, Count, Oldest, Period, Policy, Reason};

/// What the snapshots of a group have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a word of its own to the user")]
pub struct GroupBy {
    /// The host.
    pub host: bool,
    /// The label.
    pub label: bool,
    /// The paths that were saved.
    pub paths: bool,
    /// The tags.
    pub tags: bool,
}

impl Default for GroupBy {
    fn default() -> Self {
        Self { host: true, label: true, paths: true, tags: false }
    }
}

/// What tells a group from others: only what it is grouped by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    /// The host.
    pub host: Option<String>,
    /// The label.
    pub label: Option<String>,
    /// The paths, ascending.
    pub paths: Option<Vec<Vec<u8>>>,
    /// The tags, ascending.
    pub tags: Option<Vec<String>>,
}

/// Snapshots that are judged together.
#[derive(Debug, Clone)]
pub struct Group {
    /// What they have in common.
    pub key: GroupKey,
    /// Them, oldest first: their places among all, and why each is kept; for no reason if it is to be forgotten.
    pub members: Vec<(usize, Vec<Reason>)>,
}

impl Group {
    /// Whether it has complete snapshots, and is to have none any more.
    #[must_use]
    pub fn is_emptied(&self, snapshots: &[(SnapshotId, Snapshot)]) -> bool {
        let is_complete = |index: &usize| {
            snapshots.get(*index).is_some_and(|(_, snapshot)| snapshot.state == State::Complete)
        };
        let mut complete = self.members.iter().filter(|(index, _)| is_complete(index)).peekable();
        complete.peek().is_some() && complete.all(|(_, reasons)| reasons.is_empty())
    }
}

/// Judges snapshots by a policy, each group for itself; what is held is kept.
#[must_use]
pub fn judge<S: BuildHasher>(
    snapshots: &[(SnapshotId, Snapshot)],
    by: GroupBy,
    policy: &Policy,
    held: &HashSet<SnapshotId, S>,
    now: Time,
) -> Vec<Group> {
    let mut groups = grouped(snapshots, by);
    for group in &mut groups {
        let of_group: Vec<&Snapshot> =
            group.members.iter().filter_map(|(index, _)| Some(&snapshots.get(*index)?.1)).collect();
        let judged = policy.judge(&of_group, now);
        for ((index, reasons), found) in group.members.iter_mut().zip(judged) {
            *reasons = found;
            if snapshots.get(*index).is_some_and(|(id, _)| held.contains(id)) {
                reasons.push(Reason::Held);
            }
        }
    }
    groups
}

/// Snapshots in their groups, in the order of these; each is kept for no reason yet.
#[must_use]
pub fn grouped(snapshots: &[(SnapshotId, Snapshot)], by: GroupBy) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (index, (_, snapshot)) in snapshots.iter().enumerate() {
        let key = GroupKey::of(snapshot, by);
        match groups.iter_mut().find(|group| group.key == key) {
            Some(group) => group.members.push((index, Vec::new())),
            None => groups.push(Group { key, members: vec![(index, Vec::new())] }),
        }
    }
    groups.sort_by(|one, other| one.key.cmp(&other.key));
    groups
}

impl GroupKey {
    fn of(snapshot: &Snapshot, by: GroupBy) -> Self {
        let mut paths: Vec<Vec<u8>> =
            snapshot.sources.iter().map(|source| source.resolved.0.clone()).collect();
        paths.sort_unstable();
        let mut tags = snapshot.tags.clone();
        tags.sort_unstable();
        Self {
            host: by.host.then(|| snapshot.host.clone()),
            label: by.label.then(|| snapshot.label.clone()),
            paths: by.paths.then_some(paths),
            tags: by.tags.then_some(tags),
        }
    }
}

/// What a statement is made with.
#[derive(Debug, Clone)]
pub struct Statement {
    /// Of which copies it speaks.
    pub scope: Scope,
    /// On which host it is made.
    pub host: String,
    /// Why.
    pub reason: String,
}

impl Statement {
    fn publish(&self, repository: &Repository, kind: u32, mut ids: Vec<[u8; 32]>) -> Result<RecordId> {
        ids.sort_unstable();
        repository.publish_record(&Record {
            // Who overlooks it would rely on what may be deleted at any time, or delete what is held.
            outer: RecordOuter { kind, must_understand: true, scope: self.scope, ids },
            body: RecordBody {
                created: Time::now(),
                host: self.host.clone(),
                reason: self.reason.clone(),
                fields: Vec::new(),
            },
        })
    }
}

/// Forgets snapshots.
///
/// # Errors
/// `Usage` if one of them is held; `Damaged` if a record is, which might hold one; any error of the medium.
pub fn forget(repository: &Repository, snapshots: &[SnapshotId], statement: &Statement) -> Result<RecordId> {
    repository.statements()?.into_iter().try_for_each(|(_, read)| read.map(|_| ()))?;
    let held = repository.held()?;
    if let Some(id) = snapshots.iter().find(|id| held.contains(id)) {
        return Err(Error::Usage(format!("snapshot {id} is held: `vault unhold` lets go of it first")));
    }
    statement.publish(repository, record_kind::FORGOTTEN, bytes_of(snapshots))
}

/// Holds snapshots: none of them can be forgotten, and one that was is no longer.
///
/// # Errors
/// Any error of the medium.
pub fn hold(repository: &Repository, snapshots: &[SnapshotId], statement: &Statement) -> Result<RecordId> {
    statement.publish(repository, record_kind::HELD, bytes_of(snapshots))
}

/// Takes back that these snapshots were forgotten.
///
/// # Errors
/// Any error of the medium.
pub fn unforget(repository: &Repository, snapshots: &[SnapshotId], statement: &Statement) -> Result<()> {
    undo(repository, record_kind::FORGOTTEN, snapshots, statement)?;
    // Who prunes has either seen that, or is seen: marks first, then snapshots.
    let marks = repository.marks()?;
    let condemned = marks.iter().flat_map(|mark| &mark.body.snapshots);
    if let Some(id) = condemned.into_iter().find(|id| snapshots.contains(id)) {
        return Err(Error::Usage(format!(
            "snapshot {id} is being pruned just now: whether it is back shows when that is done"
        )));
    }
    let listed = repository.snapshot_ids()?;
    match snapshots.iter().find(|id| !listed.contains(id)) {
        Some(id) => Err(Error::NotFound { what: format!("snapshot {id} any more: it was pruned") }),
        None => Ok(()),
    }
}

/// Takes back that these snapshots are held.
///
/// # Errors
/// Any error of the medium.
pub fn unhold(repository: &Repository, snapshots: &[SnapshotId], statement: &Statement) -> Result<()> {
    undo(repository, record_kind::HELD, snapshots, statement)
}

/// Undoes what records in force of a kind say of these snapshots in this copy. What else such a record says is said again first: between
/// the two nothing is unsaid that was said.
fn undo(repository: &Repository, kind: u32, snapshots: &[SnapshotId], statement: &Statement) -> Result<()> {
    let wanted: HashSet<[u8; 32]> = snapshots.iter().map(|id| *id.as_bytes()).collect();
    for (id, outer) in repository.in_force(kind, repository.copy().copy)? {
        let (undone, others): (Vec<[u8; 32]>, Vec<[u8; 32]>) =
            outer.ids.iter().copied().partition(|id| wanted.contains(id));
        if undone.is_empty() {
            continue;
        }
        let statement = Statement { scope: outer.scope, ..statement.clone() };
        if !others.is_empty() {
            statement.publish(repository, kind, others)?;
        }
        statement.publish(repository, record_kind::UNDONE, vec![*id.as_bytes()])?;
    }
    Ok(())
}

fn bytes_of(snapshots: &[SnapshotId]) -> Vec<[u8; 32]> {
    snapshots.iter().map(|id| *id.as_bytes()).collect()
}
