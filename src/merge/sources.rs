//! Where all came from, in one list, so that each owner keeps the right name.

use std::collections::BTreeMap;

use crate::codec::Bytes;
use crate::error::{Error, Result};
use crate::id::SnapshotId;
use crate::snapshot::{Snapshot, Source};

type Table = [(u32, Bytes)];

/// The sources of snapshots, the one whose versions win last: each place of a host once.
///
/// # Errors
/// `Usage` where a number has different names in places that cannot be told apart.
pub(super) fn united(ranked: &[(SnapshotId, &Snapshot)]) -> Result<Vec<Source>> {
    let mut all: Vec<Source> = Vec::new();
    for source in ranked.iter().rev().flat_map(|(_, snapshot)| &snapshot.sources) {
        match all.iter_mut().find(|known| is_same(known, source)) {
            Some(known) => {
                known.users = both(&known.users, &source.users);
                known.groups = both(&known.groups, &source.groups);
                known.carried.extend(source.carried.iter().cloned());
            }
            None => all.push(source.clone()),
        }
    }
    // What is restored to one place is named by the tables of one source: that which lies deepest.
    for one in 0..all.len() {
        for other in 0..all.len() {
            let (Some(here), Some(there)) = (all.get(one), all.get(other)) else { continue };
            if one == other || !overlap(here, there) {
                continue;
            }
            for (mine, theirs) in [(&here.users, &there.users), (&here.groups, &there.groups)] {
                refuse_different(here, mine, there, theirs)?;
            }
            let (users, groups) = (both(&here.users, &there.users), both(&here.groups, &there.groups));
            if let Some(here) = all.get_mut(one) {
                (here.users, here.groups) = (users, groups);
            }
        }
    }
    all.sort_by(|one, other| (&one.resolved.0, &one.origin).cmp(&(&other.resolved.0, &other.origin)));
    Ok(all)
}

fn is_same(one: &Source, other: &Source) -> bool {
    (&one.origin, &one.stored_at, &one.resolved) == (&other.origin, &other.stored_at, &other.resolved)
}

/// Whether one lies in the other, or both at one place.
fn overlap(one: &Source, other: &Source) -> bool {
    let is_in = |inner: &[u8], outer: &[u8]| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| outer.is_empty() || rest.is_empty() || rest.starts_with(b"/"))
    };
    is_in(&one.stored_at, &other.stored_at) || is_in(&other.stored_at, &one.stored_at)
}

/// Both tables; where they differ, the first one holds.
fn both(first: &Table, second: &Table) -> Vec<(u32, Bytes)> {
    let mut all: BTreeMap<u32, Bytes> = second.iter().cloned().collect();
    all.extend(first.iter().cloned());
    all.into_iter().collect()
}

fn refuse_different(here: &Source, mine: &Table, there: &Source, theirs: &Table) -> Result<()> {
    let theirs: BTreeMap<u32, &Bytes> = theirs.iter().map(|(number, name)| (*number, name)).collect();
    let differs = |(number, name): &&(u32, Bytes)| theirs.get(number).is_some_and(|other| *other != name);
    // On one host a name that changed is still that of the same user.
    match mine.iter().find(differs).filter(|_| here.origin != there.origin) {
        None => Ok(()),
        Some((number, name)) => Err(Error::Usage(format!(
            "the number {number} is {} on {} and {} on {}, and both have files at /{}: a snapshot cannot tell them apart there; save \
             one of them with --as-path at a place of its own",
            String::from_utf8_lossy(name),
            here.origin,
            theirs.get(number).map(|name| String::from_utf8_lossy(name)).unwrap_or_default(),
            there.origin,
            String::from_utf8_lossy(if here.stored_at.len() > there.stored_at.len() {
                &here.stored_at
            } else {
                &there.stored_at
            }),
        ))),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    fn source(origin: &str, stored_at: &str, users: &[(u32, &str)]) -> Source {
        Source {
            origin: origin.to_owned(),
            given: Bytes::default(),
            resolved: stored_at.as_bytes().into(),
            stored_at: stored_at.as_bytes().into(),
            carried: Vec::new(),
            users: users.iter().map(|(number, name)| (*number, name.as_bytes().into())).collect(),
            groups: Vec::new(),
        }
    }

    fn snapshot(sources: Vec<Source>) -> Snapshot {
        let root = crate::snapshot::Entry {
            name: Bytes::default(),
            kind: crate::snapshot::Kind::Fifo,
            meta: crate::snapshot::Meta::default(),
            fields: Vec::new(),
        };
        Snapshot {
            state: crate::snapshot::State::Complete,
            root,
            notes: None,
            sources,
            label: String::new(),
            tags: Vec::new(),
            description: String::new(),
            host: String::new(),
            host_id: [0; 16],
            user: String::new(),
            program: String::new(),
            start: crate::snapshot::Time::default(),
            end: crate::snapshot::Time::default(),
            utc_offset_secs: 0,
            predecessor: None,
            made_from: Vec::new(),
            counters: Vec::new(),
            fields: Vec::new(),
        }
    }

    fn merged(first: Source, second: Source) -> Result<Vec<Source>> {
        let (first, second) = (snapshot(vec![first]), snapshot(vec![second]));
        let id = SnapshotId::from_bytes([0; 32]);
        united(&[(id, &first), (id, &second)])
    }

    #[test]
    fn one_number_for_two_people_is_refused_where_they_cannot_be_told_apart() {
        let (ann, bob) = (&[(1000, "ann")][..], &[(1000, "bob")][..]);
        let error = merged(source("a", "home", ann), source("b", "home/x", bob)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("1000 is ") && text.contains("ann") && text.contains("/home/x"), "{text}");
        // Beside each other both keep their tables.
        let beside = merged(source("a", "a/home", ann), source("b", "b/home", bob)).unwrap();
        assert_eq!(beside, [source("a", "a/home", ann), source("b", "b/home", bob)]);
        // On one host it is one person with a new name.
        let one = merged(source("a", "home", ann), source("a", "home", bob)).unwrap();
        assert_eq!(one, [source("a", "home", bob)]);
    }

    #[test]
    fn what_lies_in_a_source_of_another_host_keeps_the_names_of_its_owners() {
        let outer = source("a", "home", &[(1, "ann"), (2, "bob")]);
        let found = merged(outer, source("b", "home/x", &[(3, "eve")])).unwrap();
        let all = &[(1, "ann"), (2, "bob"), (3, "eve")][..];
        assert_eq!(found, [source("a", "home", all), source("b", "home/x", all)]);
    }
}
