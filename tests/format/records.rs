//! `[REC-n]`: what records say, of which copy, and which of them hold.

use std::sync::Arc;

use vault::event::Silent;
use vault::id::CopyId;
use vault::repository::{Record, RecordBody, RecordOuter, Scope, WriteOptions, record_kind};
use vault::snapshot::Time;

use super::crafted::Place;

/// Writes a record, and returns its id.
pub fn record(place: &Place, kind: u32, must_understand: bool, scope: Scope, ids: Vec<[u8; 32]>) -> [u8; 32] {
    let outer = RecordOuter { kind, must_understand, scope, ids };
    let created = Time { secs: 0, nanos: 0 };
    let body = RecordBody { created, host: String::new(), reason: String::new(), fields: Vec::new() };
    place.write_hashed("records", &Record { outer, body }.encode(&place.keys).unwrap())
}

#[test]
fn rec_1_rec_2_a_record_that_must_be_understood_and_is_not_forbids_to_write() {
    let writes = |must_understand: bool, scope: fn(CopyId) -> Scope, kind: u32| {
        let place = Place::new();
        record(&place, kind, must_understand, scope(place.open().copy().copy), vec![[1; 32]]);
        let repository = place.open();
        assert!(repository.reader().is_ok());
        repository.writer(&WriteOptions::new(Arc::new(Silent))).is_ok()
    };
    assert!(!writes(true, |_| Scope::AllCopies, 77));
    assert!(!writes(true, Scope::Copy, 77));
    assert!(!writes(true, |_| Scope::AllCopies, 4), "never given to anything");
    assert!(writes(true, |_| Scope::AllCopies, record_kind::FORGOTTEN));
    assert!(writes(true, |_| Scope::AllCopies, record_kind::HELD));
    assert!(writes(false, |_| Scope::AllCopies, 77));
    assert!(writes(true, |_| Scope::Copy(CopyId::from_bytes([9; 16])), 77));
    assert!(writes(true, |_| Scope::AllCopies, record_kind::PACK_DAMAGED));
}

#[test]
fn rec_3_what_is_held_is_not_forgotten_in_whatever_order_that_was_said() {
    let place = Place::new();
    let here = Scope::Copy(place.open().copy().copy);
    let (one, other) = ([1; 32], [2; 32]);
    let forgotten = || -> Vec<[u8; 32]> {
        let mut ids: Vec<_> = place.open().forgotten().unwrap().iter().map(|id| *id.as_bytes()).collect();
        ids.sort_unstable();
        ids
    };
    record(&place, record_kind::FORGOTTEN, true, Scope::AllCopies, vec![one, other]);
    assert_eq!(forgotten(), [one, other]);
    let held = record(&place, record_kind::HELD, true, here, vec![one]);
    assert_eq!(forgotten(), [other]);
    // Of another copy, it says nothing here.
    record(&place, record_kind::HELD, true, Scope::Copy(CopyId::from_bytes([9; 16])), vec![other]);
    assert_eq!(forgotten(), [other]);
    record(&place, record_kind::FORGOTTEN, true, here, vec![one]);
    assert_eq!(forgotten(), [other]);
    record(&place, record_kind::UNDONE, true, here, vec![held]);
    assert_eq!(forgotten(), [one, other]);
}
