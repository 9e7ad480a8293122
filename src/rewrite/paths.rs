//! By which names patterns know the entries of a snapshot: those that they had when it was taken, and where they lie in it.

use crate::pattern::Patterns;
use crate::snapshot::Snapshot;

/// A source, and the paths under which patterns know it, without a slash at their ends.
struct Place {
    stored_at: Vec<u8>,
    known_as: Vec<Vec<u8>>,
}

/// The sources of a snapshot.
pub(super) struct Paths {
    places: Vec<Place>,
}

impl Paths {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let mut places: Vec<Place> = Vec::new();
        for source in &snapshot.sources {
            let mut known_as = vec![absolute(&source.stored_at), absolute(&source.resolved)];
            // What was given relative to some folder says nothing of where that was.
            known_as.extend(source.given.starts_with(b"/").then(|| absolute(&source.given)));
            match places.iter_mut().find(|place| place.stored_at == source.stored_at.0) {
                Some(place) => place.known_as.extend(known_as),
                None => places.push(Place { stored_at: source.stored_at.0.clone(), known_as }),
            }
        }
        if places.is_empty() {
            places.push(Place { stored_at: Vec::new(), known_as: vec![Vec::new()] });
        }
        for place in &mut places {
            place.known_as.sort_unstable();
            place.known_as.dedup();
        }
        Self { places }
    }

    /// The sources that are, or lie in, this directory's way down: those at this very path.
    pub(super) fn at(&self, path: &[u8]) -> Vec<usize> {
        (0..self.places.len())
            .filter(|index| self.places.get(*index).is_some_and(|place| place.stored_at == path))
            .collect()
    }

    /// Whether some source lies below this path.
    pub(super) fn are_below(&self, path: &[u8]) -> bool {
        self.places.iter().any(|place| {
            place
                .stored_at
                .strip_prefix(path)
                .is_some_and(|rest| if path.is_empty() { !rest.is_empty() } else { rest.starts_with(b"/") })
        })
    }

    /// The paths under which patterns know what is at this path, which lies in these sources.
    pub(super) fn known_as(&self, covering: &[usize], path: &[u8]) -> Vec<Vec<u8>> {
        let mut known: Vec<Vec<u8>> = Vec::new();
        for place in covering.iter().filter_map(|index| self.places.get(*index)) {
            let rest = path.strip_prefix(&place.stored_at[..]).unwrap_or_default();
            let slash: &[u8] = if place.stored_at.is_empty() && !rest.is_empty() { b"/" } else { b"" };
            for name in &place.known_as {
                let name = [name, slash, rest].concat();
                if !known.contains(&name) {
                    known.push(name);
                }
            }
        }
        known
    }

    /// The sources that patterns match themselves.
    pub(super) fn matched(&self, excludes: &Patterns) -> Vec<Vec<u8>> {
        let is_matched = |place: &&Place| {
            place.known_as.iter().any(|path| !path.is_empty() && excludes.matches(path, true) == Some(true))
        };
        self.places.iter().filter(is_matched).map(|place| place.stored_at.clone()).collect()
    }
}

/// With a slash before it and none behind it; the root is empty.
fn absolute(path: &[u8]) -> Vec<u8> {
    let path = crate::browse::normalize(path);
    if path.is_empty() { path } else { [b"/", &path[..]].concat() }
}
