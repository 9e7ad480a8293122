//! Publishing segments, merging small ones, and cleaning up after ended sessions.

use std::collections::HashSet;
use std::path::Path;

use crate::backend::{Backend, read_whole};
use crate::error::{Corruption, Error, Result};
use crate::event::Event;
use crate::id::{self, PackId, SegmentId};
use crate::index::{
    ChunkCache, Facts, Index, MAX_SEGMENT_FACTS, MAX_SEGMENT_PACKS, MAX_SUPERSEDED, SMALL_SEGMENTS, Segment,
    is_vanished, redundant,
};
use crate::pack::pack_file_name;
use crate::repository::presence::remove_left_over;
use crate::repository::writer::{Shared, Writer, notice};
use crate::repository::{Loss, object, refuse};
use crate::session;

/// The longest segment file that is read back whole.
const MAX_SEGMENT_FILE: u64 = 80 << 20;

/// Removes the temporary files of ended sessions of this host, and what they said in `sessions/` `[NOTE-2]`.
pub(crate) fn clean_up(backend: &dyn Backend) -> Result<()> {
    remove_left_over(backend, "sessions")?;
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

/// Publishes the facts that remain at the end of a run: about its own packs, and about those that it adopted, unless one of these is being
/// deleted; then they stay without a segment.
///
/// # Errors
/// `PrunedMeanwhile` if that has become of its own packs, or of others that it relies on; any error of the medium.
pub(super) fn publish_all(shared: &Shared, adopted: Vec<Facts>, facts: Facts) -> Result<()> {
    let used = shared.used_packs.lock().map_err(|_| Error::Stopped)?.clone();
    let named = adopted.iter().flat_map(Facts::packs).map(|row| row.pack);
    let lost = shared.rely(used.iter().copied().chain(named).collect::<HashSet<_>>())?;
    refuse(&lost.intersection(&used).copied().collect())?;
    let is_whole = |facts: &Facts| facts.packs().iter().all(|row| !lost.contains(&row.pack));
    let adopted = adopted.into_iter().filter(is_whole);
    adopted.chain([facts]).filter(|facts| !facts.is_empty()).try_for_each(|facts| publish(shared, facts))
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
    let (id, name) = publish_file(shared, &facts, &[])?;
    if shared.dry_run {
        return Ok(());
    }
    shared.index.write().map_err(|_| Error::Stopped)?.add_segment(id)?;
    add_to_cache(shared, id, &facts);
    shared.claims.release(facts.iter().map(|(id, _)| id));
    debug_assert!(name.starts_with("index/"));
    Ok(())
}

fn publish_file(shared: &Shared, facts: &Facts, superseded: &[SegmentId]) -> Result<(SegmentId, String)> {
    let unmade = || Error::damaged("a segment to be written");
    let bytes = facts.encode_segment(&shared.keys, superseded).map_err(unmade())?;
    let id = SegmentId::from_bytes(id::hash(&bytes));
    let name = format!("index/{id}");
    // Nobody deletes what a segment names without taking it out of that again [PRUNE-2].
    refuse(&shared.rely(facts.packs().iter().map(|row| row.pack))?)?;
    // [DUR-4]
    Segment::check(&bytes, &shared.keys, facts).map_err(unmade())?;
    object::publish(&*shared.backend, &shared.session, &name, &bytes)?;
    shared.published(&name, bytes.len() as u64);
    Ok((id, name))
}

fn add_to_cache(shared: &Shared, id: SegmentId, facts: &Facts) {
    change_cache(shared, |cache| cache.add(id, facts.iter()));
}

/// Changes the cache, which is thrown away if that fails.
fn change_cache(shared: &Shared, change: impl FnOnce(&ChunkCache) -> Result<()>) {
    let Ok(mut cache) = shared.cache.write() else { return };
    let changed = cache.as_ref().map(change);
    if let Some(Err(error)) = changed {
        notice(&*shared.observer, &error);
        if let Some(doubtful) = cache.take() {
            doubtful.throw_away();
        }
    }
}

impl Writer {
    /// Removes damaged segments, once sound ones cover every pack that is present `[HEAL-4]`.
    ///
    /// # Errors
    /// Any error of the medium.
    pub fn remove_damaged_segments(&self) -> Result<()> {
        remove_damaged(&self.shared, true)
    }
}

/// Removes damaged segments of an encrypted repository once others cover all packs: their facts cannot be written again under the same
/// name, as a seal never comes out twice alike. Of a plain one only where that was asked for.
pub(super) fn remove_damaged(shared: &Shared, is_asked_for: bool) -> Result<()> {
    if shared.dry_run || !(shared.keys.is_sealed() || is_asked_for) {
        return Ok(());
    }
    let index = shared.index.read().map_err(|_| Error::Stopped)?;
    let damaged = index.damaged_segments();
    if damaged.is_empty() || !index.covers_all() {
        return Ok(());
    }
    damaged.iter().try_for_each(|id| remove(&*shared.backend, &format!("index/{id}")))
}

/// Removes segments that were merged into others and are here again, if those say as much about their packs; and says so.
pub(super) fn remove_superseded(shared: &Shared) -> Result<()> {
    if shared.dry_run {
        return Ok(());
    }
    let index = shared.index.read().map_err(|_| Error::Stopped)?;
    let all: Vec<&Segment> = index.segments().collect();
    let superseded: HashSet<SegmentId> = index.superseded().iter().map(|(segment, _)| segment.id()).collect();
    if superseded.is_empty() {
        return Ok(());
    }
    let is_whole = |segment: &Segment| match segment.for_each(|_| ()) {
        Err(error) if error.is_damage() => Ok(false),
        other => other.map(|()| true),
    };
    for segment in redundant(&all, |segment| superseded.contains(&segment.id()), is_whole)? {
        let name = format!("index/{}", segment.id());
        remove(&*shared.backend, &name)?;
        let text = "it was merged into another one before and is here again: removed";
        shared.observer.event(&Event::Notice { path: Path::new(&name), text });
    }
    Ok(())
}

/// Writes the union of many small segments, verifies that it is one, and only then removes the inputs `[DUR-8]`.
pub(super) fn merge_small(shared: &Shared) -> Result<()> {
    if shared.dry_run {
        return Ok(());
    }
    let index = shared.index.read().map_err(|_| Error::Stopped)?;
    let small: Vec<&Segment> =
        index.segments().filter(|segment| segment.is_small() && is_present(&index, segment)).collect();
    if small.len() <= SMALL_SEGMENTS {
        return Ok(());
    }
    let (mut union, inputs) = gather(shared, &small)?;
    if inputs.len() < 2 {
        return Ok(());
    }
    union.sort();
    let (id, name) = match publish_file(shared, &union, &superseded_by_union(shared, &inputs)) {
        // Somebody prunes: another time.
        Err(Error::PrunedMeanwhile { .. }) => return Ok(()),
        other => other?,
    };
    let whole = verify_union(shared, id, &name, &union, &inputs)?;
    let all: Vec<&Segment> =
        inputs.into_iter().filter(|input| input.id() != id).chain(std::iter::once(&whole)).collect();
    for input in redundant(&all, |segment| segment.id() != id, |segment| Ok(segment.id() == id))? {
        remove(&*shared.backend, &format!("index/{}", input.id()))?;
    }
    drop(index);
    add_to_cache(shared, id, &union);
    Ok(())
}

/// What a union of these says that it stands in for, oldest first: so that one of them is known again if someone puts it back.
fn superseded_by_union(shared: &Shared, inputs: &[&Segment]) -> Vec<SegmentId> {
    if !shared.keys.is_sealed() {
        return Vec::new();
    }
    let earlier = inputs.iter().flat_map(|input| input.superseded());
    let all: Vec<SegmentId> = earlier.chain(inputs.iter().map(|input| input.id())).collect();
    all[all.len().saturating_sub(MAX_SUPERSEDED)..].to_vec()
}

/// The facts of as many segments as fit into one, and which these are. A damaged one is said and left out.
fn gather<'s>(shared: &Shared, small: &[&'s Segment]) -> Result<(Facts, Vec<&'s Segment>)> {
    let mut union = Facts::default();
    let mut inputs = Vec::new();
    for segment in small {
        if union.len() as u64 + segment.fact_count() > MAX_SEGMENT_FACTS
            || union.packs().len() + segment.packs().len() > MAX_SEGMENT_PACKS
        {
            break;
        }
        match union.add_segment(segment, |_| false) {
            Ok(()) => inputs.push(*segment),
            // Another run has merged it.
            Err(error) if is_vanished(&error) => {}
            Err(error) if error.is_damage() => {
                shared.damage(&error);
                forget_in_cache(shared, segment.id());
            }
            Err(error) => return Err(error),
        }
    }
    Ok((union, inputs))
}

/// The next run reads the segment again, finds that it is damaged, and covers its packs anew.
fn forget_in_cache(shared: &Shared, segment: SegmentId) {
    change_cache(shared, |cache| cache.forget(segment));
}

/// Whether all packs of a segment are there: one about packs that are gone is not carried on.
fn is_present(index: &Index, segment: &Segment) -> bool {
    segment.packs().iter().all(|row| index.present().packs.get(&row.pack) == Some(&u64::from(row.stored_len)))
}

/// Reads the union back and returns it: its bytes hash right, and it covers every pack of every input with as many facts as were gathered.
fn verify_union(
    shared: &Shared,
    id: SegmentId,
    name: &str,
    union: &Facts,
    inputs: &[&Segment],
) -> Result<Segment> {
    let bytes =
        read_whole(&*shared.backend, name, MAX_SEGMENT_FILE).map_err(Error::repository("read", name))?;
    if id::hash(&bytes) != *id.as_bytes() {
        return Err(Error::damaged(name)(Corruption::WrongHash));
    }
    let segment = Segment::open(&shared.backend, id, &shared.keys)?;
    let covered: HashSet<PackId> = segment.packs().iter().map(|row| row.pack).collect();
    let complete = inputs.iter().all(|input| input.packs().iter().all(|row| covered.contains(&row.pack)));
    if complete && segment.fact_count() == union.len() as u64 {
        Ok(segment)
    } else {
        Err(Error::damaged(name)(Corruption::rule("SEG-5", "it is not the union of what it was made from")))
    }
}

/// Publishes the facts of all segments that name these packs anew without them, and then removes those segments. A segment that could not be
/// read names them perhaps: it is tried once more, and is an error if it still cannot be, as its facts would stay.
///
/// What else such a segment names goes on being named: a pack that is gone though nobody condemned it is lost, or not listed, and its facts say
/// what was in it. As no segment may be published that names it, nothing is `[PRUNE-2]`.
pub(super) fn drop_packs(
    shared: &Shared,
    packs: &HashSet<PackId>,
    is_void: &dyn Fn(&str) -> bool,
) -> Result<()> {
    let index = shared.index.read().map_err(|_| Error::Stopped)?;
    let unread = unread_segments(shared, &index)?;
    let names_one = |segment: &&Segment| segment.packs().iter().any(|row| packs.contains(&row.pack));
    let affected: Vec<&Segment> = index.segments().chain(&unread).filter(names_one).collect();
    let named = affected.iter().flat_map(|segment| segment.packs()).map(|row| row.pack);
    let others: HashSet<PackId> = named.filter(|pack| !packs.contains(pack)).collect();
    let lost = shared.reliance.lock().map_err(|_| Error::Stopped)?.rely_but(others, is_void)?;
    if let Some((pack, _)) = lost.iter().find(|(_, loss)| **loss == Loss::Absent) {
        return Err(Error::PrunedMeanwhile { pack: pack_file_name(pack) });
    }
    let is_out = |pack: &PackId| packs.contains(pack) || lost.contains_key(pack);
    for segment in affected {
        let mut facts = Facts::default();
        match facts.add_segment(segment, is_out) {
            // Merged by another run.
            Err(error) if is_vanished(&error) => continue,
            other => other?,
        }
        if !facts.is_empty() {
            facts.sort();
            let (id, name) = publish_file(shared, &facts, &superseded_by_union(shared, &[segment]))?;
            verify_union(shared, id, &name, &facts, &[])?;
        }
        remove(&*shared.backend, &format!("index/{}", segment.id()))?;
    }
    Ok(())
}

/// The segments that were damaged, or could not be read, when the index was loaded, and are there.
fn unread_segments(shared: &Shared, index: &Index) -> Result<Vec<Segment>> {
    let mut opened = Vec::new();
    for id in index.damaged_segments() {
        match Segment::open(&shared.backend, id, &shared.keys) {
            Err(error) if is_vanished(&error) => {}
            other => opened.push(other?),
        }
    }
    Ok(opened)
}
