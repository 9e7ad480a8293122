//! `vault find`.

use std::os::unix::ffi::OsStrExt;

use serde_json::json;
use vault::browse;
use vault::error::{Error, Result};
use vault::find::{self, Match, Query};
use vault::pattern::{CaseFold, Patterns};

use super::{Context, ls, short};
use crate::args::{FindArgs, parse_time};
use crate::exit::Outcome;
use crate::render::path_fields;
use crate::render::text::{self, escape};

pub fn run(context: &Context, args: FindArgs) -> Result<Outcome> {
    let fold = if args.ignore_case { CaseFold::Ignore } else { CaseFold::Exact };
    let patterns = Patterns::new(args.patterns.into_iter().map(|pattern| (pattern, fold)))?;
    let time = |text: &Option<String>| {
        text.as_ref().map(|text| parse_time(text, &context.zone).map_err(Error::Usage)).transpose()
    };
    let query = Query {
        matches: &|path, is_dir| patterns.matches(path, is_dir) == Some(true),
        newer: time(&args.newer)?,
        older: time(&args.older)?,
        below: args.below.map(|path| browse::normalize(path.as_os_str().as_bytes())).unwrap_or_default(),
    };
    let repository = context.open()?;
    let mut snapshots = context.snapshots(&repository, &[])?;
    if let Some(label) = &args.label {
        snapshots.whole.retain(|(_, snapshot)| snapshot.label == *label);
    }
    let reader = context.reader(&repository)?;
    let mut matches = 0u64;
    let mut found = |found: &Match| {
        matches += 1;
        show(context, found)
    };
    let mut problem = |path: &[u8], error| context.screen.problem(path, &error);
    find::find(&reader, &snapshots.whole, &query, &mut found, &mut problem, &context.stop)?;
    let snapshots = text::counted(snapshots.whole.len() as u64, "snapshot", "snapshots");
    context.screen.note(&format!("{} in {snapshots}", text::counted(matches, "path", "paths")));
    Ok(context.outcome())
}

fn show(context: &Context, found: &Match) -> Result<()> {
    if context.screen.is_json() {
        let versions: Vec<_> = found
            .versions
            .iter()
            .map(|version| {
                let mut node = ls::to_json(context, &found.path, &version.entry);
                node["first_snapshot"] = version.first.to_string().into();
                node["last_snapshot"] = version.last.to_string().into();
                node["snapshots"] = version.count.into();
                node
            })
            .collect();
        let mut value = json!({"message_type": "match", "versions": versions});
        path_fields(&mut value, "path", &[b"/", &*found.path].concat());
        return context.screen.json(&value);
    }
    context.screen.line(&format!("/{}", escape(&found.path)))?;
    for version in &found.versions {
        let range = if version.count == 1 {
            format!("in {}", short(&version.first))
        } else {
            format!("{} to {} ({} snapshots)", short(&version.first), short(&version.last), version.count)
        };
        context.screen.line(&format!("  {}  {range}", ls::columns(context, &version.entry)))?;
    }
    Ok(())
}
