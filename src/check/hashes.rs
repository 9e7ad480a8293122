//! What can be checked without a key: that every file has the bytes which its name says, and a header of its kind.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::check::CheckReport;
use crate::check::damage::Damages;
use crate::check::due::{Remembered, not_remembered};
use crate::check::files::again;
use crate::check::names::Names;
use crate::error::{Corruption, Error, Result};
use crate::event::{Change, Event, Item, Observer};
use crate::header::{HEADER_LEN, Header, Magic};
use crate::id::{self, KeyId, PackId, RecordId};
use crate::index::{is_deleted, is_vanished};
use crate::pack::pack_file_name;
use crate::repository::Repository;
use crate::sidecar::{self, Sidecar, sidecar_name};

/// The bytes read at a time.
const PIECE_LEN: usize = 1 << 20;

/// Reads every file of a repository whole and holds it against its name and its kind: no key is needed. What is in the files, and whether
/// all that should be there is, does not show.
///
/// When packs were verified is remembered in `state_folder`, if there is one.
///
/// Damage is no error: it is in the report, and each object is sent to `observer` as a `Problem` when it is found.
///
/// # Errors
/// `Interrupted`; any error of the medium that is no damage.
pub fn check_hashes(
    repository: &Repository,
    state_folder: Option<&Path>,
    observer: &dyn Observer,
    stop: &AtomicBool,
) -> Result<CheckReport> {
    let mut damages = Damages::new(observer, 0);
    for problem in repository.problems() {
        damages.add_error(again(problem));
    }
    let backend = &**repository.backend();
    let mut report = CheckReport::default();
    Names { backend, observer, report: &mut report }.names()?;
    let present = repository.listed_packs()?;
    let snapshots = repository.snapshot_ids()?;
    let segments = repository.segment_ids()?;
    report.packs = present.len() as u64;
    report.pack_bytes = present.values().sum();
    report.snapshots = snapshots.len() as u64;
    report.segments = segments.len() as u64;
    let mut packs: Vec<_> = present.keys().copied().collect();
    packs.sort_unstable();
    let (records, keys): (Vec<RecordId>, Vec<KeyId>) = (repository.record_ids()?, repository.key_ids()?);
    let files = (keys.iter().map(|id| (Magic::Key, format!("keys/{id}"), *id.as_bytes())))
        .chain(records.iter().map(|id| (Magic::Record, format!("records/{id}"), *id.as_bytes())))
        .chain(snapshots.iter().map(|id| (Magic::Snapshot, format!("snapshots/{id}"), *id.as_bytes())))
        .chain(segments.iter().map(|id| (Magic::Segment, format!("index/{id}"), *id.as_bytes())))
        .chain(packs.iter().map(|id| (Magic::Pack, pack_file_name(id), *id.as_bytes())));
    let is_there = |pack: &PackId| present.contains_key(pack);
    let remembered = Remembered::of(repository, state_folder, &damages);
    observer.event(&Event::Phase("checking every file"));
    observer.event(&Event::Planned { items: packs.len() as u64, bytes: report.pack_bytes });
    let mut gone = 0;
    for (magic, name, hash) in files {
        let one = One { repository, observer, stop, magic, name: &name };
        let checked = one.check(&hash);
        let was_read = magic == Magic::Pack && !matches!(checked, Err(Error::Interrupted));
        if let Some(remembered) = remembered.as_ref().filter(|_| was_read) {
            remembered.add(PackId::from_bytes(hash), checked.is_ok(), is_there);
        }
        match checked {
            Ok(len) => {
                report.bytes_read += len;
                report.packs_read += u64::from(magic == Magic::Pack);
            }
            // Segments are merged, keys removed, at any time.
            Err(error) if is_vanished(&error) && magic != Magic::Pack => {}
            // Pruned, most likely: whether somebody misses it shows with the keys only.
            Err(error) if is_deleted(&**repository.backend(), &error) => gone += 1,
            Err(error) if error.is_damage() => {
                damages.add(&name, error);
            }
            Err(error) => {
                let _ = remembered.and_then(|remembered| remembered.finish(is_there));
                return Err(error);
            }
        }
    }
    if let Some(error) = remembered.and_then(|remembered| remembered.finish(is_there)) {
        report.notices.push(not_remembered(&error));
    }
    check_sidecars(repository, &mut report, &mut damages, is_there, stop)?;
    report.damages = damages.finish();
    if gone > 0 {
        let text = format!("packs that were deleted while they were checked: {gone}");
        observer.event(&Event::Notice { path: Path::new(""), text: &text });
        report.notices.push(text);
    }
    Ok(report)
}

fn check_sidecars(
    repository: &Repository,
    report: &mut CheckReport,
    damages: &mut Damages<'_>,
    is_there: impl Fn(&PackId) -> bool,
    stop: &AtomicBool,
) -> Result<()> {
    let parity = sidecar::list(&**repository.backend())?.into_keys().collect();
    report.count_parity(&parity, is_there);
    for pack in parity {
        for error in sidecar_faults(repository, pack, stop)? {
            damages.add(&sidecar_name(&pack), error);
        }
    }
    Ok(())
}

/// What is wrong with the parity of a pack. Nothing, if it has vanished.
pub(super) fn sidecar_faults(repository: &Repository, pack: PackId, stop: &AtomicBool) -> Result<Vec<Error>> {
    let mut go_on = |_| !stop.load(Ordering::Relaxed);
    let opened = Sidecar::open(&**repository.backend(), repository.id(), pack);
    match opened.and_then(|sidecar| sidecar.verify(&mut go_on)) {
        Err(error) if is_vanished(&error) => Ok(Vec::new()),
        Err(error) if error.is_damage() => Ok(vec![error]),
        other => other,
    }
}

/// One file.
struct One<'a> {
    repository: &'a Repository,
    observer: &'a dyn Observer,
    stop: &'a AtomicBool,
    magic: Magic,
    name: &'a str,
}

impl One<'_> {
    fn check(&self, hash: &[u8; 32]) -> Result<u64> {
        let unread = || Error::repository("read", self.name);
        let damaged = || Error::damaged(self.name);
        let file = self.repository.backend().open(self.name).map_err(unread())?;
        let is_pack = self.magic == Magic::Pack;
        if is_pack {
            // What is verified is what the medium holds.
            file.drop_cached().map_err(unread())?;
        }
        let path = Path::new(self.name);
        self.observer.event(&Event::Started { path });
        let mut hasher = id::FileHasher::default();
        let rest = |at| usize::try_from(file.len() - at).unwrap_or(usize::MAX);
        let mut buffer = vec![0; rest(0).min(PIECE_LEN)];
        let mut head = Vec::new();
        let mut at = 0;
        while at < file.len() {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let len = rest(at).min(buffer.len());
            let piece = buffer.get_mut(..len).unwrap_or_default();
            file.read_exact_at(piece, at).map_err(unread())?;
            hasher.update(piece);
            if at == 0 {
                head = piece.get(..HEADER_LEN).unwrap_or_default().to_vec();
            }
            at += len as u64;
            if is_pack {
                self.observer.event(&Event::Advanced { bytes: len as u64 });
            }
        }
        if hasher.finish() != *hash {
            return Err(damaged()(Corruption::WrongHash));
        }
        let header = Header::decode(&head, self.magic, Some(self.repository.id())).map_err(damaged())?;
        if self.magic != Magic::Key {
            header.fits(self.repository.keys()).map_err(damaged())?;
        }
        let (item, change) = (Item::RepositoryFile, Change::Unchanged);
        self.observer.event(&Event::Done { path, item, change, bytes: at });
        Ok(at)
    }
}
