//! What a restore cannot bring back because the snapshot does not have it: said with counts, so that nobody takes it for whole.

use std::collections::BTreeMap;

use serde_json::Value;
use vault::restore::RestoreSummary;
use vault::snapshot::{Snapshot, State, Why, counter};

use crate::commands::Context;
use crate::commands::ls::why_text;
use crate::commands::snapshots::state_name;
use crate::render::text::{counted, escape};

/// Warns of what is missing by accident, and mentions what was left out on purpose.
pub fn tell(context: &Context, (snapshot, is_all): (&Snapshot, bool), summary: &RestoreSummary) {
    if snapshot.state != State::Complete {
        let state = state_name(snapshot.state);
        context.screen.warn(&format!("this snapshot is {state}: it does not hold all that was to be saved"));
    }
    let (wanted, missing): (BTreeMap<Why, u64>, BTreeMap<Why, u64>) =
        summary.not_saved.iter().partition(|(why, _)| is_on_purpose(**why));
    let (wanted, missing) = (parts(&wanted), parts(&missing));
    let lost = snapshot.counter(counter::ERRORS).saturating_sub(snapshot.counter(counter::FILES_RACED));
    if let Some((entries, reasons)) = missing {
        context.screen.warn(&format!("the snapshot lacks {entries} of what was restored: {reasons}"));
    } else if is_all && lost > 0 {
        let things = counted(lost, "thing", "things");
        context.screen.warn(&format!("the snapshot lacks {things} that could not be read when it was taken"));
    }
    if let Some((entries, reasons)) = wanted {
        context.screen.note(&format!("left out when the snapshot was taken: {entries} ({reasons})"));
    }
    if context.screen.is_verbose() {
        for (path, why) in &summary.not_saved_first {
            context.screen.note(&format!("not saved {} ({})", escape(path), why_text(*why)));
        }
    }
}

/// The counts by reason, for JSON.
pub fn to_json(summary: &RestoreSummary) -> Value {
    summary.not_saved.iter().map(|(why, count)| (why_text(*why).to_owned(), Value::from(*count))).collect()
}

/// Whether the user knew of it.
fn is_on_purpose(why: Why) -> bool {
    matches!(why, Why::Excluded | Why::OtherFileSystem | Why::Repository)
}

/// How many, and how many for which reason; none if there are none.
fn parts(counts: &BTreeMap<Why, u64>) -> Option<(String, String)> {
    let total: u64 = counts.values().sum();
    let parts: Vec<String> =
        counts.iter().map(|(why, count)| format!("{count} {}", why_text(*why))).collect();
    (total > 0).then(|| (counted(total, "entry", "entries"), parts.join(", ")))
}
