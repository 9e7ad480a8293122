//! Several trees as one, directory by directory without recursion. What only one of them has, and what all have alike, is taken over by its id.
//!
//! Hard-link groups are told apart by mount path and inode only, which mean something else on another host: those of other hosts than
//! that of the winner are renamed, so that no two files become one when they are restored.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::browse::Walk;
use crate::error::{Error, Result};
use crate::event::{Change, Event, Item, Observer};
use crate::id::{LinkGroup, checksum_128};
use crate::repository::Keeper;
use crate::snapshot::tree::{self, Levels};
use crate::snapshot::{ENTRY_INCOMPLETE, Entry, Field, Kind, Snapshot};

/// What the united tree has less than all of them together.
#[derive(Debug, Default)]
pub(super) struct Lost {
    pub files: u64,
    pub directories: u64,
    pub others: u64,
    pub bytes: u64,
    pub left_out: u64,
    /// Names of which another version won.
    pub conflicts: u64,
}

/// A version of an entry, and of which host it is if not of the winner's.
#[derive(Clone)]
pub(super) struct Lane {
    entry: Entry,
    other_host: Option<[u8; 16]>,
}

impl Lane {
    pub(super) fn of(snapshot: &Snapshot, winner: &Snapshot) -> Self {
        let host = |snapshot: &Snapshot| checksum_128(&[&snapshot.host_id, snapshot.host.as_bytes()]);
        let other_host = Some(host(snapshot)).filter(|host_of| *host_of != host(winner));
        Self { entry: snapshot.root.clone(), other_host }
    }
}

/// A directory that several have, the one whose versions win last; and of which host each is if not of the winner's.
type Level<'a> = tree::Level<'a, Vec<Option<[u8; 16]>>>;

pub(super) struct Merger<'a> {
    pub(super) keeper: Keeper<'a>,
    observer: &'a dyn Observer,
    lost: Lost,
}

impl<'a> Merger<'a> {
    pub(super) fn new(keeper: Keeper<'a>, observer: &'a dyn Observer) -> Self {
        Self { keeper, observer, lost: Lost::default() }
    }

    /// The united root of these.
    ///
    /// # Errors
    /// `Interrupted`; damage; any error of the medium.
    pub(super) fn root(&mut self, roots: &[Lane]) -> Result<(Entry, Lost)> {
        let mut path: Vec<u8> = Vec::new();
        let entry = united_entry(roots).ok_or(Error::Stopped)?;
        self.keeper.contents(&entry)?;
        self.count_directories(roots);
        let mut levels = Levels::new(self.keeper.reader(), self.keeper.writer());
        levels.push(self.enter(&entry, roots, &path));
        loop {
            self.keeper.check()?;
            let Some(level) = levels.last_mut() else { return Err(Error::Stopped) };
            path.truncate(level.path_len);
            let versions = next_versions(level)?;
            if versions.is_empty() {
                let Some(Level { entry, tree, .. }) = levels.pop()? else { return Err(Error::Stopped) };
                let entry = entry.with_node(tree.finish()?);
                match levels.last_mut() {
                    None => return Ok((entry, std::mem::take(&mut self.lost))),
                    Some(above) => above.tree.push(&entry)?,
                }
                continue;
            }
            let name = versions.first().map(|lane| lane.entry.name.clone()).unwrap_or_default();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            let chosen = self.choose(versions, &path)?;
            if let Some(below) = self.add(level, &chosen, &path)? {
                levels.push(below);
            }
        }
    }

    /// Adds a version that won, or enters the directories that are to be united.
    fn add(&mut self, level: &mut Level<'a>, chosen: &[Lane], path: &[u8]) -> Result<Option<Level<'a>>> {
        let Some(entry) = united_entry(chosen) else { return Err(Error::Stopped) };
        self.keeper.contents(&entry)?;
        let nodes: Vec<_> = chosen.iter().filter_map(|lane| lane.entry.kind.directory()).collect();
        let Some(node) = nodes.last().copied() else {
            level.tree.push(&entry)?;
            return Ok(None);
        };
        self.count_directories(chosen);
        let all_alike = nodes.iter().all(|other| *other == node);
        let last = chosen.last().cloned().into_iter().collect::<Vec<_>>();
        let has_foreign_links = last.iter().any(|lane| lane.other_host.is_some());
        if !all_alike {
            return Ok(Some(self.enter(&entry, chosen, path)));
        }
        for _ in 1..nodes.len() {
            self.lose_below(&entry, path)?;
        }
        if has_foreign_links {
            return Ok(Some(self.enter(&entry, &last, path)));
        }
        self.keeper.directory(node)?;
        level.tree.push(&entry)?;
        Ok(None)
    }

    fn enter(&self, entry: &Entry, lanes: &[Lane], path: &[u8]) -> Level<'a> {
        let directories =
            lanes.iter().filter_map(|lane| Some((lane.entry.kind.directory()?, lane.other_host)));
        let (nodes, hosts): (Vec<_>, _) = directories.unzip();
        Level::new((self.keeper.reader(), self.keeper.writer()), entry, nodes, path.len(), hosts)
    }

    /// Of the versions of one name those that stay: one, or directories. The others are counted as lost.
    fn choose(&mut self, versions: Vec<Lane>, path: &[u8]) -> Result<Vec<Lane>> {
        // What was left out of one and is in another is not left out.
        let is_there = |lane: &Lane| !matches!(lane.entry.kind, Kind::LeftOut(..));
        let (mut there, left_out): (Vec<Lane>, Vec<Lane>) = versions.into_iter().partition(is_there);
        if there.is_empty() {
            self.lost.left_out += left_out.len().saturating_sub(1) as u64;
            return Ok(left_out.into_iter().last().into_iter().collect());
        }
        self.lost.left_out += left_out.len() as u64;
        let is_directory = |lane: &Lane| lane.entry.kind.directory().is_some();
        let winner = there.last().cloned().ok_or(Error::Stopped)?;
        let mut losers: Vec<Lane> = if is_directory(&winner) {
            there.extract_if(.., |lane| !is_directory(lane)).collect()
        } else {
            let _ = there.pop();
            std::mem::replace(&mut there, vec![winner.clone()])
        };
        let differ = losers.iter().any(|loser| loser.entry != winner.entry);
        self.lost.conflicts += u64::from(differ);
        for loser in losers.drain(..) {
            self.lose(&loser.entry);
            self.lose_below(&loser.entry, path)?;
        }
        if differ {
            let (item, bytes) = (Item::Other, winner.entry.size());
            let item = if matches!(winner.entry.kind, Kind::File(..)) { Item::File } else { item };
            let path = Path::new(OsStr::from_bytes(path));
            self.observer.event(&Event::Done { path, item, change: Change::Changed, bytes });
        }
        Ok(there)
    }

    /// Of directories that become one, all but one are lost.
    fn count_directories(&mut self, lanes: &[Lane]) {
        let known = lanes.iter().filter(|lane| matches!(lane.entry.kind, Kind::Directory(_))).count();
        self.lost.directories += known.saturating_sub(1) as u64;
    }

    fn lose(&mut self, entry: &Entry) {
        match entry.kind {
            Kind::File(size, _) => {
                self.lost.files += 1;
                self.lost.bytes = self.lost.bytes.saturating_add(size);
            }
            Kind::Directory(_) => self.lost.directories += 1,
            Kind::Implied(_) => {}
            Kind::LeftOut(..) => self.lost.left_out += 1,
            _ => self.lost.others += 1,
        }
    }

    fn lose_below(&mut self, entry: &Entry, path: &[u8]) -> Result<()> {
        let Some(node) = entry.kind.directory() else { return Ok(()) };
        let mut walk = Walk::new(self.keeper.reader(), node, path);
        while let Some(entry) = walk.next().transpose()? {
            self.keeper.check()?;
            self.lose(&entry);
            walk.descend(&entry);
        }
        Ok(())
    }
}

/// The versions of the next name in some directories.
fn next_versions(level: &mut Level<'_>) -> Result<Vec<Lane>> {
    let mut name: Option<Vec<u8>> = None;
    for entries in &mut level.listings {
        if let Some(error) = entries.next_if(Result::is_err) {
            error?;
        }
        if let Some(Ok(entry)) = entries.peek()
            && name.as_ref().is_none_or(|name| *entry.name < **name)
        {
            name = Some(entry.name.to_vec());
        }
    }
    let Some(name) = name else { return Ok(Vec::new()) };
    let mut versions = Vec::new();
    for (entries, other_host) in level.listings.iter_mut().zip(&level.state) {
        let is_it = |item: &Result<Entry>| item.as_ref().is_ok_and(|entry| *entry.name == *name);
        if let Some(entry) = entries.next_if(is_it) {
            versions.push(Lane { entry: renamed(entry?, *other_host), other_host: *other_host });
        }
    }
    Ok(versions)
}

/// An entry whose hard-link group is that of its host.
fn renamed(mut entry: Entry, other_host: Option<[u8; 16]>) -> Entry {
    if let (Some(group), Some(host)) = (&mut entry.meta.link_group, other_host) {
        *group = LinkGroup::from_bytes(checksum_128(&[b"merged", &host, group.as_bytes()]));
    }
    entry
}

/// What directories are that become one: the last one of which more is known than its name, and incomplete if any is. Or the one version that won.
fn united_entry(lanes: &[Lane]) -> Option<Entry> {
    let known = lanes.iter().rev().find(|lane| !matches!(lane.entry.kind, Kind::Implied(_)));
    let mut entry = known.or(lanes.last())?.entry.clone();
    if !entry.is_incomplete() && lanes.iter().any(|lane| lane.entry.is_incomplete()) {
        entry.fields.push(Field { tag: ENTRY_INCOMPLETE, critical: false, value: Vec::new().into() });
        entry.fields.sort_by_key(|field| field.tag);
    }
    Some(entry)
}
