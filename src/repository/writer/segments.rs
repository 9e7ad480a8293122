//! Publishing segments, adopting packs that none names, merging small ones, and cleaning up after ended sessions.

use std::collections::HashSet;
use std::path::Path;

use crate::backend::{Backend, read_whole};
use crate::error::{Corruption, Error, Result};
use crate::event::{Event, Observer};
use crate::id::{self, PackId, RepositoryId, SegmentId};
use crate::index::{Facts, Index, MAX_SEGMENT_FACTS, MAX_SEGMENT_PACKS, Segment};
use crate::pack::{PackFile, pack_file_name};
use crate::repository::object;
use crate::repository::writer::{Shared, notice};
use crate::session;

/// A segment with fewer facts is small.
const SMALL_FACTS: u64 = MAX_SEGMENT_FACTS / 4;
/// More small segments than this are merged.
const SMALL_SEGMENTS: usize = 32;
/// The longest segment file that is read back whole.
const MAX_SEGMENT_FILE: u64 = 80 << 20;

/// Removes the temporary files of ended sessions of this host.
pub(crate) fn clean_up(backend: &dyn Backend) -> Result<()> {
    let listed = match backend.list("tmp") {
        // A copy made by a tool that skips empty folders.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return crate::repository::config::make_folders(backend);
        }
        other => other.map_err(Error::repository("list", "tmp"))?,
    };
    for file in listed.iter().filter(|file| file.is_file && session::is_left_over(&file.name)) {
        let name = format!("tmp/{}", file.name);
        remove(backend, &name)?;
    }
    Ok(())
}

/// Removes a file; another run may have done so at the same time.
fn remove(backend: &dyn Backend, name: &str) -> Result<()> {
    match backend.remove(name) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::repository("remove", name)),
    }
}

/// Adopts the packs that no segment names: each is hashed whole and made durable `[DUR-11]`. Others do not count as present.
pub(super) fn adopt(
    backend: &dyn Backend,
    repository: RepositoryId,
    index: &mut Index,
    observer: &dyn Observer,
) -> Result<Facts> {
    let mut facts = Facts::default();
    for pack in index.uncovered_packs().to_vec() {
        let name = pack_file_name(&pack);
        match adopt_pack(backend, repository, pack, &mut facts) {
            Ok(()) => {
                backend.sync(&name).map_err(Error::repository("sync", &name))?;
                let text = format!("{name} was left by an interrupted run and is used");
                observer.event(&Event::Notice { path: Path::new(""), text: &text });
            }
            Err(error) if error.is_damage() => {
                notice(observer, &error);
                index.drop_pack(&pack);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(facts)
}

fn adopt_pack(
    backend: &dyn Backend,
    repository: RepositoryId,
    pack: PackId,
    facts: &mut Facts,
) -> Result<()> {
    let file = PackFile::open(backend, pack, repository)?;
    if file.hash(|_| ())? != pack {
        return Err(Error::damaged(&pack_file_name(&pack))(Corruption::WrongHash));
    }
    let directory = file.directory()?;
    facts.add_pack(pack, file.len(), file.kind(), directory.placed(pack));
    Ok(())
}

/// Publishes the facts that remain at the end of a run.
pub(super) fn publish_last(shared: &Shared, facts: Facts) -> Result<()> {
    if facts.is_empty() { Ok(()) } else { publish(shared, facts) }
}

/// Publishes facts as segments, takes them into index and cache, and releases the claims on their chunks.
pub(super) fn publish(shared: &Shared, facts: Facts) -> Result<()> {
    facts
        .split(MAX_SEGMENT_FACTS, MAX_SEGMENT_PACKS)
        .into_iter()
        .try_for_each(|part| publish_one(shared, part))
}

fn publish_one(shared: &Shared, mut facts: Facts) -> Result<()> {
    facts.sort();
    let (id, name) = publish_file(shared, &facts)?;
    if shared.dry_run {
        return Ok(());
    }
    shared.index.write().map_err(|_| Error::Stopped)?.add_segment(id)?;
    add_to_cache(shared, id, &facts);
    shared.claims.release(facts.iter().map(|(id, _)| id));
    debug_assert!(name.starts_with("index/"));
    Ok(())
}

fn publish_file(shared: &Shared, facts: &Facts) -> Result<(SegmentId, String)> {
    let bytes = facts.encode_segment(shared.repository);
    let id = SegmentId::from_bytes(id::hash(&bytes));
    let name = format!("index/{id}");
    // [DUR-4]
    Segment::check(&bytes, shared.repository, facts).map_err(Error::damaged("a segment to be written"))?;
    object::publish(&*shared.backend, &shared.session, &name, &bytes)?;
    shared.published(&name, bytes.len() as u64);
    Ok((id, name))
}

fn add_to_cache(shared: &Shared, id: SegmentId, facts: &Facts) {
    let Ok(mut cache) = shared.cache.write() else { return };
    let added = cache.as_ref().map(|cache| cache.add(id, facts.iter()));
    if let Some(Err(error)) = added {
        notice(&*shared.observer, &error);
        if let Some(doubtful) = cache.take() {
            doubtful.throw_away();
        }
    }
}

/// Writes the union of many small segments, verifies that it is one, and only then removes the inputs `[DUR-8]`.
pub(super) fn merge_small(shared: &Shared) -> Result<()> {
    if shared.dry_run {
        return Ok(());
    }
    let index = shared.index.read().map_err(|_| Error::Stopped)?;
    let small: Vec<&Segment> = index
        .segments()
        .filter(|segment| segment.fact_count() < SMALL_FACTS && is_present(&index, segment))
        .collect();
    if small.len() <= SMALL_SEGMENTS {
        return Ok(());
    }
    let mut union = Facts::default();
    let mut inputs = Vec::new();
    for segment in small {
        if union.len() as u64 + segment.fact_count() > MAX_SEGMENT_FACTS
            || union.packs().len() + segment.packs().len() > MAX_SEGMENT_PACKS
        {
            break;
        }
        add_segment(&mut union, segment)?;
        inputs.push(segment);
    }
    union.sort();
    let (id, name) = publish_file(shared, &union)?;
    verify_union(shared, id, &name, &union, &inputs)?;
    for input in inputs.iter().filter(|input| input.id() != id) {
        remove(&*shared.backend, &format!("index/{}", input.id()))?;
    }
    drop(index);
    add_to_cache(shared, id, &union);
    Ok(())
}

/// Whether all packs of a segment are there: one about packs that are gone is not carried on.
fn is_present(index: &Index, segment: &Segment) -> bool {
    segment.packs().iter().all(|row| index.present().packs.get(&row.pack) == Some(&u64::from(row.stored_len)))
}

fn add_segment(union: &mut Facts, segment: &Segment) -> Result<()> {
    let mut by_pack = std::collections::BTreeMap::<PackId, Vec<_>>::new();
    segment.for_each(|(id, location)| by_pack.entry(location.pack).or_default().push((id, location)))?;
    for row in segment.packs() {
        let chunks = by_pack.remove(&row.pack).unwrap_or_default();
        if let Some(kind) = crate::pack::PackKind::from_number(row.kind) {
            union.add_pack(row.pack, row.stored_len.into(), kind, chunks.into_iter());
        }
    }
    Ok(())
}

/// Reads the union back: its bytes hash right, and it covers every pack of every input with as many facts as were gathered.
fn verify_union(
    shared: &Shared,
    id: SegmentId,
    name: &str,
    union: &Facts,
    inputs: &[&Segment],
) -> Result<()> {
    let bytes =
        read_whole(&*shared.backend, name, MAX_SEGMENT_FILE).map_err(Error::repository("read", name))?;
    if id::hash(&bytes) != *id.as_bytes() {
        return Err(Error::damaged(name)(Corruption::WrongHash));
    }
    let segment = Segment::open(&shared.backend, id, shared.repository)?;
    let covered: HashSet<PackId> = segment.packs().iter().map(|row| row.pack).collect();
    let complete = inputs.iter().all(|input| input.packs().iter().all(|row| covered.contains(&row.pack)));
    if complete && segment.fact_count() == union.len() as u64 {
        Ok(())
    } else {
        Err(Error::damaged(name)(Corruption::rule("SEG-5", "it is not the union of what it was made from")))
    }
}
