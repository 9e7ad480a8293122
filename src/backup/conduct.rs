//! The walk through the sources, cut into groups of neighbouring entries.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::{Sender, bounded};

use crate::backup::place::{Move, Placed, Root, inner_source, moves, sources_below};
use crate::backup::read::{Answer, Group};
use crate::backup::{BackupOptions, Shared, StreamSource};
use crate::error::{Error, Result};
use crate::snapshot::Why;
use crate::source::{FileKind, FileSystem, Found, SourceRoot, Step, Walk};

/// A group has at most so many entries,
const GROUP_ENTRIES: usize = 256;
/// or so many bytes to read, or one longer file.
const GROUP_BYTES: u64 = 2 << 20;

/// A step of the walk on its way to a tree.
pub(super) enum Node {
    /// A directory above a source.
    Implied(Vec<u8>),
    /// A directory begins; with its name in the snapshot.
    Enter(Found, Vec<u8>),
    /// Anything else, to be made whole; with its name in the snapshot and the file system it is on.
    Entry(Found, Vec<u8>, Arc<FileSystem>),
    /// A stream, to be stored as the file of this name.
    Stream(Vec<u8>, StreamSource),
    /// A name of which nothing is saved.
    LeftOut(Vec<u8>, Why, u32),
    /// The directory has more entries, whose names are not known.
    Incomplete,
    /// The directory is done.
    Leave,
    /// From here on, entries belong to the source of this number.
    Source(usize),
}

/// Walks the sources and sends groups on.
pub(super) struct Conductor<'a> {
    shared: &'a Shared<'a>,
    /// File systems whose times do not tell every change, that were spoken of.
    weak: HashSet<(Option<u64>, PathBuf)>,
    groups: Sender<Group>,
    ordered: Sender<Answer>,
    group: Vec<Node>,
    bytes: u64,
}

impl<'a> Conductor<'a> {
    pub(super) fn new(shared: &'a Shared<'a>, groups: Sender<Group>, ordered: Sender<Answer>) -> Self {
        Self { shared, weak: HashSet::new(), groups, ordered, group: Vec::new(), bytes: 0 }
    }

    pub(super) fn walk(
        &mut self,
        options: &BackupOptions,
        sources: &[Placed],
        mut stream: Option<StreamSource>,
    ) -> Result<()> {
        let mut covered = HashSet::new();
        for step in moves(sources) {
            match step {
                Move::Down(name) => self.push(Node::Implied(name), 0)?,
                Move::Up => self.push(Node::Leave, 0)?,
                Move::Source(number) => {
                    let Some(placed) = sources.get(number) else { continue };
                    self.push(Node::Source(number), 0)?;
                    let name = &placed.name;
                    match &placed.root {
                        Root::Found(root) => self.walk_source(options, sources, root, name, &mut covered)?,
                        Root::Missing(why, errno) => {
                            self.push(Node::LeftOut(name.clone(), *why, *errno), 0)?;
                        }
                        Root::Stream => {
                            if let Some(stream) = stream.take() {
                                self.push(Node::Stream(name.clone(), stream), GROUP_BYTES)?;
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Walks one source. Where it comes upon another source that it would leave out, that one is walked in its place.
    fn walk_source(
        &mut self,
        options: &BackupOptions,
        sources: &[Placed],
        root: &SourceRoot,
        name: &[u8],
        covered: &mut HashSet<PathBuf>,
    ) -> Result<()> {
        let walk_options = options.walk_options(&self.shared.repository, self.shared.writer.threads());
        let mut walks = vec![(Walk::new(root, &walk_options)?, Some(name.to_vec()))];
        let mut stopped = false;
        while let Some((walk, root_name)) = walks.last_mut() {
            if !stopped && self.shared.stopped() {
                stopped = true;
                walk.skip_rest();
            }
            let Some(step) = walk.next() else {
                walks.pop();
                if let (true, Some((walk, _))) = (stopped, walks.last_mut()) {
                    walk.skip_rest();
                }
                continue;
            };
            match step {
                Step::Enter(found) => {
                    let name = root_name.take().unwrap_or_else(|| found.name.clone());
                    self.push(Node::Enter(found, name), 0)?;
                }
                Step::Entry(found) => {
                    let name = root_name.take().unwrap_or_else(|| found.name.clone());
                    let file_system = walk.file_system(found.stat.dev);
                    self.meet(&file_system);
                    let bytes = if found.stat.kind == FileKind::Regular { found.stat.size } else { 0 };
                    self.push(Node::Entry(found, name, file_system), bytes)?;
                }
                Step::Leave => self.push(Node::Leave, 0)?,
                Step::Problem { path, error } => {
                    self.shared.problem(&path, &error);
                    self.push(Node::Incomplete, 0)?;
                }
                Step::LeftOut { name, path, why, errno, error } => {
                    let inner = inner_source(sources, &path).filter(|_| covered.insert(path.clone()));
                    if let (Some(inner), false) = (inner, stopped) {
                        walks.push((Walk::new(inner, &walk_options)?, Some(name)));
                        continue;
                    }
                    let name = root_name.take().unwrap_or(name);
                    self.left_out(sources, (name, &path), (why, errno), error)?;
                }
            }
        }
        Ok(())
    }

    /// Says once per file system where a file may change and its times do not tell.
    fn meet(&mut self, file_system: &FileSystem) {
        let blind = if !file_system.ctime_is_meaningful {
            "keeps no reliable change times: a file that changed but kept its size and modification time is only \
             noticed with --force"
        } else if !file_system.maps_move_times {
            "is in memory: a file written through a memory map is only noticed with --force"
        } else {
            return;
        };
        let path = if file_system.mount_id.is_none() { file_system.mount.clone() } else { PathBuf::new() };
        if self.weak.insert((file_system.mount_id, path)) {
            self.shared.notice(&file_system.mount, &format!("{} {blind}", file_system.type_name));
        }
    }

    fn left_out(
        &mut self,
        sources: &[Placed],
        (name, path): (Vec<u8>, &Path),
        (why, errno): (Why, u32),
        error: Option<Error>,
    ) -> Result<()> {
        if let Some(error) = error {
            self.shared.problem(path, &error);
        }
        if why == Why::Repository {
            self.shared.notice(path, "this is the repository itself: it is left out");
        }
        for lost in sources_below(sources, path) {
            let error = Error::Nested {
                inner: lost.clone(),
                outer: path.to_owned(),
                reason: "it is not saved, because that folder is left out",
            };
            self.shared.problem(&lost, &error);
        }
        self.push(Node::LeftOut(name, why, errno), 0)
    }

    fn push(&mut self, node: Node, bytes: u64) -> Result<()> {
        // A long file goes alone, so that the files around it do not wait for it.
        if bytes >= GROUP_BYTES {
            self.send()?;
        }
        self.group.push(node);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes >= GROUP_BYTES || self.group.len() >= GROUP_ENTRIES { self.send() } else { Ok(()) }
    }

    pub(super) fn send(&mut self) -> Result<()> {
        if self.group.is_empty() {
            return Ok(());
        }
        let (reply, answer) = bounded(1);
        let group = Group { nodes: std::mem::take(&mut self.group), reply };
        self.bytes = 0;
        // The answer is queued first: an assembler that has given up ends the walk.
        let sent = self.ordered.send(answer).is_ok() && self.groups.send(group).is_ok();
        if sent { Ok(()) } else { Err(Error::Stopped) }
    }
}
