//! `vault check`.

use std::time::Instant;

use serde_json::{Value, json};
use vault::check::{CheckOptions, CheckReport, Damage, Subset, check};
use vault::error::{Error, Result};

use super::{Context, short};
use crate::args::{self, CheckArgs};
use crate::exit::Outcome;
use crate::render::path_fields;
use crate::render::text::{self, counted, escape};

pub fn run(context: &Context, args: &CheckArgs) -> Result<Outcome> {
    let repository = context.open()?;
    let only = match &args.selector {
        None => None,
        Some(selector) => {
            let snapshots = context.snapshots(&repository)?;
            Some((snapshots.select(selector, &context.zone)?.0, selector.path().to_vec()))
        }
    };
    let options = CheckOptions {
        read_data: args.read_data,
        subset: args.read_data_subset.map(|subset| match subset {
            args::Subset::Percent(percent) => Subset::Percent(percent),
            args::Subset::Part(part, of) => Subset::Part(part, of),
            args::Subset::Bytes(bytes) => Subset::Bytes(bytes),
        }),
        only,
        mark_damaged: args.mark_damaged,
    };
    let begun = Instant::now();
    context.screen.start_progress("check");
    let result = check(&repository, &options, &*context.screen, &context.stop);
    context.screen.end_progress();
    let report = result?;
    report.damages.iter().try_for_each(|damage| print_damage(context, damage))?;
    for name in &report.unknown_names {
        context.screen.note(&format!("{} is no file of a repository; it is left alone", escape(name.as_bytes())));
    }
    print_summary(context, args, &report, begun)?;
    Ok(Outcome::damage_if(!report.damages.is_empty()))
}

fn print_damage(context: &Context, damage: &Damage) -> Result<()> {
    if context.screen.is_json() {
        let costs: Vec<Value> = damage
            .costs
            .iter()
            .map(|(snapshot, path)| {
                let mut value = json!({"snapshot": snapshot.to_string()});
                path_fields(&mut value, "path", &[b"/", path.as_slice()].concat());
                value
            })
            .collect();
        return context.screen.json(&json!({
            "message_type": "error",
            "error": {"message": escape(damage.error.as_bytes())},
            "during": "check",
            "item": damage.object,
            "costs": costs,
            "more_costs": damage.more,
        }));
    }
    context.screen.line(&format!("{}: {}", damage.object, damage.error))?;
    for (snapshot, path) in &damage.costs {
        context.screen.line(&format!("  costs {}:/{}", short(snapshot), escape(path)))?;
    }
    if damage.more > 0 {
        context.screen.line(&format!("  and {} more", text::count(damage.more)))?;
    }
    Ok(())
}
