//! `vault ls`.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use vault::browse::Walk;
use vault::error::{Error, Result};
use vault::snapshot::{Entry, Kind, Why};

use super::{Context, entry_at};
use crate::args::LsArgs;
use crate::exit::Outcome;
use crate::render::text::{self, escape};
use crate::render::{path_fields, time_text};

pub fn run(context: &Context, args: &LsArgs) -> Result<Outcome> {
    let repository = context.open()?;
    let snapshots = context.snapshots(&repository, &[&args.selector])?;
    let snapshot = snapshots.select(&args.selector, &context.zone)?;
    let reader = context.reader(&repository)?;
    let path = args.selector.path();
    let entry = entry_at(&reader, snapshot, path)?;
    if context.screen.is_json() {
        context.screen.json(&super::snapshots::to_json(context, snapshot, None))?;
    }
    let Some(node) = entry.kind.directory() else {
        show(context, args, path, &entry)?;
        return Ok(context.outcome());
    };
    let mut walk = Walk::new(&reader, node, path);
    while let Some(item) = walk.next() {
        if context.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        match item {
            Ok(entry) => {
                show(context, args, walk.path(), &entry)?;
                // Folders above a source hold nothing but the way to it.
                if args.recursive || matches!(entry.kind, Kind::Implied(_)) {
                    walk.descend(&entry);
                }
            }
            Err(error) => context.screen.problem(walk.path(), &error),
        }
    }
    Ok(context.outcome())
}

fn show(context: &Context, args: &LsArgs, path: &[u8], entry: &Entry) -> Result<()> {
    if context.screen.is_json() {
        return context.screen.json(&to_json(context, path, entry));
    }
    let name = format!("/{}{}", escape(path), suffix(entry));
    if !args.long {
        return context.screen.line(&name);
    }
    context.screen.line(&format!("{} {name}", columns(context, entry)))
}

/// Mode, owner, size and time, aligned for common values.
pub fn columns(context: &Context, entry: &Entry) -> String {
    let meta = &entry.meta;
    let size = match &entry.kind {
        Kind::File(size, _) => size.to_string(),
        Kind::BlockDevice(major, minor) | Kind::CharDevice(major, minor) => format!("{major}, {minor}"),
        _ => "0".to_owned(),
    };
    let time = match entry.kind {
        Kind::Implied(_) | Kind::LeftOut(..) => "-".to_owned(),
        _ => text::time(meta.mtime, &context.zone, "%Y-%m-%d %H:%M:%S"),
    };
    let permissions = text::permissions(entry);
    format!("{permissions} {:>5} {:>5} {size:>12} {time:<19}", meta.uid, meta.gid)
}

fn suffix(entry: &Entry) -> String {
    match &entry.kind {
        Kind::Directory(_) | Kind::Implied(_) => "/".to_owned(),
        Kind::Symlink(target) => format!(" -> {}", escape(target)),
        Kind::LeftOut(why, errno) => {
            let error = i32::try_from(*errno).ok().filter(|errno| *errno != 0);
            let error = error.map(|errno| format!(", {}", std::io::Error::from_raw_os_error(errno)));
            format!(" (left out: {}{})", why_text(*why), error.unwrap_or_default())
        }
        _ => String::new(),
    }
}

pub fn why_text(why: Why) -> &'static str {
    match why {
        Why::Excluded => "excluded",
        Why::Unreadable => "not readable",
        Why::OtherFileSystem => "on another file system",
        Why::Repository => "the repository",
        Why::Vanished => "not there when it was to be saved",
        Why::Interrupted => "interrupted",
        Why::Unsupported => "of a kind that is not supported",
    }
}

/// What kind of thing an entry is, as restic calls it.
fn type_name(entry: &Entry) -> &'static str {
    match entry.kind {
        Kind::Directory(_) | Kind::Implied(_) => "dir",
        Kind::File(..) => "file",
        Kind::Symlink(_) => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::BlockDevice(..) => "dev",
        Kind::CharDevice(..) => "chardev",
        Kind::LeftOut(..) => "left_out",
    }
}

/// An entry as a line of JSON, shaped like a node of restic's.
pub fn to_json(context: &Context, path: &[u8], entry: &Entry) -> Value {
    let meta = &entry.meta;
    let mut value = json!({
        "message_type": "node",
        "struct_type": "node",
        "type": type_name(entry),
        "uid": meta.uid,
        "gid": meta.gid,
        "mode": meta.mode,
        "permissions": text::permissions(entry),
        "mtime": time_text(meta.mtime, &context.zone),
    });
    let name: &[u8] = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    path_fields(&mut value, "name", name);
    path_fields(&mut value, "path", &[b"/", path].concat());
    match &entry.kind {
        Kind::File(size, _) => value["size"] = (*size).into(),
        Kind::Symlink(target) => path_fields(&mut value, "linktarget", target),
        Kind::BlockDevice(major, minor) | Kind::CharDevice(major, minor) => {
            value["device"] = json!([major, minor]);
        }
        // Above a source: only its name was saved.
        Kind::Implied(_) => value["implied"] = true.into(),
        Kind::LeftOut(why, errno) => {
            value["why"] = why_text(*why).into();
            value["errno"] = (*errno).into();
        }
        _ => {}
    }
    value
}
