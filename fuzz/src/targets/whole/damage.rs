//! How files of the repository are damaged.

use vault::id::SnapshotId;

use super::{State, World};

impl World {
    /// Damages a file in one of several ways.
    pub(super) fn damage(&mut self, [which, how, place]: [u8; 3]) {
        let names = self.medium.names();
        let Some(name) = names.get(usize::from(which) * names.len() / 256) else { return };
        let bytes = self.medium.get(name).unwrap_or_default();
        let at = usize::from(place) * bytes.len() / 256;
        let mut changed = bytes.to_vec();
        match how % 7 {
            0 => changed.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (how >> 5)),
            1 => changed.truncate(at),
            2 => changed.iter_mut().skip(at).take(64).for_each(|byte| *byte = 0),
            3 => changed.push(place),
            4 => return self.lose(name),
            5 => {
                // What stands behind it in the listing has its bytes, and it has those of that.
                let Some(other) = names.iter().skip_while(|other| *other != name).nth(1) else { return };
                changed = self.medium.get(other).unwrap_or_default().to_vec();
                self.medium.put(other, bytes.to_vec());
            }
            _ => changed.rotate_left(at.max(1).min(bytes.len())),
        }
        self.medium.put(name, changed);
        self.is_damaged = true;
    }

    /// Removes a file. That a snapshot was there nothing knows but what this computer remembers, which is not tried here; and what a record
    /// said is unsaid with it.
    fn lose(&mut self, name: &str) {
        if name.starts_with("records/") {
            return;
        }
        let snapshot = name.strip_prefix("snapshots/").and_then(SnapshotId::from_hex);
        if let Some((_, state)) = snapshot.and_then(|id| self.acknowledged.get_mut(&id)) {
            *state = State::Removed;
        }
        self.medium.take(name);
        self.is_damaged = true;
    }
}
