//! How much there is to save: a second walk beside the first one, for those who watch. It counts, and reads nothing.
//!
//! Only where no earlier snapshot tells it. It ends when all is saved, not with the walk that saves: that may be over at once where files are
//! few and long. What it says is an estimate: errors are met by the other walk, and a source inside of another that would be left out there is not seen.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::backup::place::Placed;
use crate::backup::{Shared, place};
use crate::event::Event;
use crate::source::{FileKind, Step, Walk, WalkOptions};

/// Counts what the sources hold and says so at the end, unless `ended` is set before.
pub(super) fn run(shared: &Shared<'_>, options: WalkOptions, sources: &[Placed], ended: &AtomicBool) {
    let (mut items, mut bytes) = (0, 0u64);
    let options = WalkOptions { sync: false, ahead: 0, ..options };
    for root in place::apart(sources).filter_map(Placed::found) {
        let Ok(walk) = Walk::new(root, &options) else { continue };
        for step in walk {
            if ended.load(Ordering::Relaxed) || shared.stopped() {
                return;
            }
            if let Step::Entry(found) = step {
                items += 1;
                bytes += if found.stat.kind == FileKind::Regular { found.stat.size } else { 0 };
            }
        }
    }
    shared.observer.event(&Event::Planned { items, bytes });
}
