//! `vault forget`, `vault hold`, `vault unhold`, `vault undo`: which snapshots are wanted.

use serde_json::{Value, json};
use vault::backup::current_host;
use vault::error::{Error, Result};
use vault::forget::{self, Group, Period, Reason, Statement};
use vault::id::SnapshotId;
use vault::repository::{Repository, Scope};
use vault::snapshot::{Snapshot, Time};

use super::{Context, Snapshots, short};
use crate::args::{ForgetArgs, HoldArgs, StatementArgs, TakeBackArgs};
use crate::exit::Outcome;
use crate::render::text::{self, escape};
use crate::render::{Align, Table};
use crate::select::Selector;

/// So many snapshots are named in a command line that is proposed.
const MOST_NAMED: usize = 100;

type Found = (SnapshotId, Snapshot);

pub fn run(context: &Context, args: &ForgetArgs) -> Result<Outcome> {
    let repository = context.open()?;
    let selectors: Vec<&Selector> = args.selectors.iter().collect();
    let snapshots = context.snapshots(&repository, &selectors)?;
    // A damaged one might be of any group, and newer than all others.
    if args.selectors.is_empty() && !snapshots.damaged.is_empty() {
        context.screen.warn(
            "no policy is applied while snapshots are damaged: `vault check` names them; forget them by their ids",
        );
        return Ok(Outcome::Damage);
    }
    let all = among(args, &snapshots);
    // What cannot be read any more can be forgotten, by its id.
    let damaged: Vec<SnapshotId> = selectors.iter().filter_map(|one| snapshots.damaged_by_id(one)).collect();
    let groups = if args.selectors.is_empty() {
        by_policy(context, args, &repository, &all)?
    } else {
        by_name(context, args, &snapshots, &all)?
    };
    show(context, &all, &groups)?;
    let emptied: Vec<&Group> = groups.iter().filter(|group| group.is_emptied(&all)).collect();
    if let Some(group) = emptied.first().filter(|_| !args.allow_empty) {
        let name = heading(group);
        let text = format!(
            "nothing was forgotten: {name} would have no complete snapshot left; --allow-empty permits that"
        );
        return Err(Error::Usage(text));
    }
    let members = groups.iter().flat_map(|group| &group.members);
    let mut forgotten: Vec<SnapshotId> = members
        .filter(|(_, reasons)| reasons.is_empty())
        .filter_map(|(index, _)| all.get(*index).map(|(id, _)| *id))
        .collect();
    let kept = groups.iter().map(|group| group.members.len()).sum::<usize>() - forgotten.len();
    forgotten.extend(damaged.iter().filter(|id| !forgotten.contains(id)).copied().collect::<Vec<_>>());
    let record = if args.dry_run || forgotten.is_empty() {
        None
    } else {
        Some(forget::forget(&repository, &forgotten, &statement(&repository, &args.statement))?)
    };
    if record.is_some() {
        context.remember(&repository);
    }
    let counted = text::counted(forgotten.len() as u64, "snapshot", "snapshots");
    let text = match record {
        Some(_) => format!("forgot {counted}; `vault undo` brings back what is not pruned"),
        None if args.dry_run => format!("would forget {counted}"),
        None => "nothing to forget".to_owned(),
    };
    let value = json!({
        "message_type": "summary",
        "dry_run": args.dry_run,
        "forgotten": forgotten.iter().map(SnapshotId::to_string).collect::<Vec<_>>(),
        "kept": kept,
        "record": record.map(|record| record.to_string()),
    });
    context.screen.summary(&text, &value)?;
    if args.dry_run && (1..=MOST_NAMED).contains(&forgotten.len()) {
        let names: Vec<String> = forgotten.iter().map(short).collect();
        context.screen.note(&format!("`vault du {}` says what that would free", names.join(" ")));
    }
    Ok(context.outcome())
}

pub fn hold(context: &Context, args: &HoldArgs) -> Result<Outcome> {
    let repository = context.open()?;
    let snapshots = context.snapshots(&repository, &args.selectors.iter().collect::<Vec<_>>())?;
    let chosen = chosen(context, &args.selectors, &snapshots)?;
    forget::hold(&repository, &chosen, &statement(&repository, &args.statement))?;
    context.remember(&repository);
    said(context, "held", &chosen)
}

pub fn unhold(context: &Context, args: &TakeBackArgs) -> Result<Outcome> {
    let repository = context.open()?;
    let snapshots = context.snapshots(&repository, &args.selectors.iter().collect::<Vec<_>>())?;
    let chosen = chosen(context, &args.selectors, &snapshots)?;
    let held = repository.held()?;
    if let Some(id) = chosen.iter().find(|id| !held.contains(id)) {
        return Err(Error::Usage(format!("snapshot {} is not held", short(id))));
    }
    forget::unhold(&repository, &chosen, &taken_back(&args.reason))?;
    context.remember(&repository);
    said(context, "let go", &chosen)
}

pub fn undo(context: &Context, args: &TakeBackArgs) -> Result<Outcome> {
    let repository = context.open()?;
    let snapshots = context.snapshots(&repository, &args.selectors.iter().collect::<Vec<_>>())?;
    // A selector speaks of the forgotten ones here.
    let Snapshots { whole, forgotten, damaged } = snapshots;
    if forgotten.is_empty() {
        return Err(Error::NotFound { what: "forgotten snapshot that could be brought back".to_owned() });
    }
    let forgotten = Snapshots { whole: forgotten, ..Snapshots::default() };
    let chosen = chosen(context, &args.selectors, &forgotten).map_err(|error| {
        let listed = Snapshots { whole, damaged, ..Snapshots::default() };
        let mut named =
            args.selectors.iter().filter_map(|selector| listed.select(selector, &context.zone).ok());
        named.next().map_or(error, |(id, _)| Error::Usage(format!("snapshot {} is not forgotten", short(id))))
    })?;
    forget::unforget(&repository, &chosen, &taken_back(&args.reason))?;
    context.remember(&repository);
    said(context, "brought back", &chosen)
}

/// The snapshots that selectors name, each once.
fn chosen(context: &Context, selectors: &[Selector], snapshots: &Snapshots) -> Result<Vec<SnapshotId>> {
    let mut chosen = Vec::new();
    for selector in selectors {
        if selector.path.is_some() {
            return Err(Error::Usage("a whole snapshot is named here, without a path".to_owned()));
        }
        let (id, _) = snapshots.select(selector, &context.zone)?;
        if !chosen.contains(id) {
            chosen.push(*id);
        }
    }
    Ok(chosen)
}

fn said(context: &Context, what: &str, chosen: &[SnapshotId]) -> Result<Outcome> {
    let counted = text::counted(chosen.len() as u64, "snapshot", "snapshots");
    let names: Vec<String> = chosen.iter().map(short).collect();
    let value = json!({
        "message_type": "summary",
        "done": what,
        "snapshots": chosen.iter().map(SnapshotId::to_string).collect::<Vec<_>>(),
    });
    context.screen.summary(&format!("{what}: {counted}, {}", names.join(", ")), &value)?;
    Ok(context.outcome())
}

pub fn statement(repository: &Repository, args: &StatementArgs) -> Statement {
    let scope = if args.this_copy { Scope::Copy(repository.copy().copy) } else { Scope::AllCopies };
    Statement { scope, host: current_host(), reason: args.reason.clone() }
}

/// What takes another statement back has the scope of that.
fn taken_back(reason: &str) -> Statement {
    Statement { scope: Scope::AllCopies, host: current_host(), reason: reason.to_owned() }
}

/// The snapshots that are judged, oldest first.
fn among(args: &ForgetArgs, snapshots: &Snapshots) -> Vec<Found> {
    snapshots.whole.iter().filter(|(_, snapshot)| args.among.takes(snapshot)).cloned().collect()
}

fn by_policy(
    context: &Context,
    args: &ForgetArgs,
    repository: &Repository,
    all: &[Found],
) -> Result<Vec<Group>> {
    let policy = args.keep.policy();
    if policy.is_empty() {
        let what = "nothing says what to keep: name snapshots to be forgotten, or rules, as --keep-daily 7 --keep-monthly 12";
        return Err(Error::Usage(what.to_owned()));
    }
    if all.is_empty() {
        context.screen.note("no such snapshots");
    }
    Ok(forget::judge(all, args.group_by.0, &policy, &repository.held()?, Time::now()))
}

/// The groups of the snapshots that are named: these are forgotten, the others stay.
fn by_name(context: &Context, args: &ForgetArgs, snapshots: &Snapshots, all: &[Found]) -> Result<Vec<Group>> {
    let is_whole = |selector: &&Selector| snapshots.damaged_by_id(selector).is_none();
    let whole: Vec<Selector> = args.selectors.iter().filter(is_whole).cloned().collect();
    let chosen = chosen(context, &whole, snapshots)?;
    let is_chosen = |index: usize| all.get(index).is_some_and(|(id, _)| chosen.contains(id));
    let mut groups = forget::grouped(all, args.group_by.0);
    groups.retain(|group| group.members.iter().any(|(index, _)| is_chosen(*index)));
    for (index, reasons) in groups.iter_mut().flat_map(|group| &mut group.members) {
        if !is_chosen(*index) {
            reasons.push(Reason::NotNamed);
        }
    }
    Ok(groups)
}

/// What the snapshots of a group have in common, in words.
fn heading(group: &Group) -> String {
    let key = &group.key;
    let mut words = Vec::new();
    words.extend(key.host.as_ref().map(|host| format!("host {}", escape(host.as_bytes()))));
    words.extend(key.label.as_ref().filter(|label| !label.is_empty()).map(|label| format!("label {label}")));
    if let Some(paths) = &key.paths {
        let paths: Vec<String> = paths.iter().map(|path| escape(path)).collect();
        words.push(paths.join(", "));
    }
    words.extend(
        key.tags.as_ref().filter(|tags| !tags.is_empty()).map(|tags| format!("tags {}", tags.join(","))),
    );
    if words.is_empty() { "all snapshots".to_owned() } else { words.join(", ") }
}

fn show(context: &Context, all: &[Found], groups: &[Group]) -> Result<()> {
    for group in groups {
        if context.screen.is_json() {
            context.screen.json(&group_json(context, all, group))?;
            continue;
        }
        context.screen.line(&format!("{}:", heading(group)))?;
        let columns = ["", "id", "time", "state", "tags", "because"];
        let mut table = Table::new(&columns.map(|column| (column, Align::Left)));
        for (index, reasons) in &group.members {
            let Some((id, snapshot)) = all.get(*index) else { continue };
            let words: Vec<String> = reasons.iter().map(words).collect();
            table.row(vec![
                if reasons.is_empty() { "forget" } else { "keep" }.to_owned(),
                short(id),
                text::time(snapshot.start, &context.zone, "%Y-%m-%d %H:%M:%S"),
                super::snapshots::state_name(snapshot.state).to_owned(),
                snapshot.tags.join(","),
                words.join(", "),
            ]);
        }
        context.screen.table(&table)?;
        context.screen.line("")?;
    }
    Ok(())
}

fn group_json(context: &Context, all: &[Found], group: &Group) -> Value {
    let member = |(index, reasons): &(usize, Vec<Reason>)| {
        let mut value = super::snapshots::to_json(context, all.get(*index)?, None);
        value["reasons"] = reasons.iter().map(words).collect();
        Some(value)
    };
    let members = |kept: bool| -> Vec<Value> {
        group.members.iter().filter(|(_, reasons)| reasons.is_empty() != kept).filter_map(member).collect()
    };
    let lossy = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
    json!({
        "message_type": "group",
        "host": group.key.host,
        "label": group.key.label,
        "paths": group.key.paths.as_ref().map(|paths| paths.iter().map(lossy).collect::<Vec<_>>()),
        "tags": group.key.tags,
        "keep": members(true),
        "forget": members(false),
    })
}

/// A reason in restic's words.
fn words(reason: &Reason) -> String {
    let period = |period: Period| match period {
        Period::Any => "last",
        Period::Hour => "hourly",
        Period::Day => "daily",
        Period::Week => "weekly",
        Period::Month => "monthly",
        Period::Year => "yearly",
    };
    let oldest = |oldest: bool| if oldest { "oldest " } else { "" };
    match reason {
        Reason::Tags(tags) => format!("has tags {}", tags.join(",")),
        Reason::Newest(of, is_oldest) => format!("{}{} snapshot", oldest(*is_oldest), period(*of)),
        Reason::Within(Period::Any, age, _) => format!("within {age}"),
        Reason::Within(of, age, is_oldest) => format!("{}{} within {age}", oldest(*is_oldest), period(*of)),
        Reason::Future => "dated in the future".to_owned(),
        Reason::NotFollowed => "no complete one is newer".to_owned(),
        Reason::Held => "held".to_owned(),
        Reason::NotNamed => "not named".to_owned(),
    }
}
