//! `vault cat`.

use vault::error::{Error, Result};
use vault::export::{self, Sinks};

use super::{Context, entry_at};
use crate::args::CatArgs;
use crate::exit::Outcome;
use crate::render::text::escape;

pub fn run(context: &Context, args: &CatArgs) -> Result<Outcome> {
    let repository = context.open()?;
    let snapshots = context.snapshots(&repository, &[&args.selector])?;
    let snapshot = snapshots.select(&args.selector, &context.zone)?;
    let reader = context.reader(&repository)?;
    let path = args.selector.path();
    let entry = entry_at(&reader, snapshot, path)?;
    let is_folder = entry.kind.directory().is_some();
    if is_folder && context.screen.out_is_terminal() && !args.force {
        let what = "a folder comes as a tar archive: send it to a file or a program, or use --force";
        return Err(Error::Usage(what.to_owned()));
    }
    let screen = &context.screen;
    let mut notice = |path: &[u8], text: &str| screen.warn(&format!("/{} {text}", escape(path)));
    let mut problem = |path: &[u8], error: Error| screen.problem(&[b"/", path].concat(), &error);
    let mut sinks = Sinks { notice: &mut notice, problem: &mut problem };
    screen.raw(|out| {
        if is_folder {
            export::export_tar(&reader, &snapshot.1, (path, &entry), out, &mut sinks, &context.stop).map(drop)
        } else {
            export::export_file(&reader, &entry, out, &context.stop).map(drop)
        }
    })?;
    Ok(context.outcome())
}
