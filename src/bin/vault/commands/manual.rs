//! `vault completions`, `vault man`, `vault version`: what the program says of itself.

use std::path::Path;

use clap::CommandFactory;
use serde_json::json;
use vault::error::{Error, Result};

use super::Context;
use crate::args::{Cli, CompletionsArgs, ManArgs};
use crate::exit::Outcome;

pub fn completions(context: &Context, args: &CompletionsArgs) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "vault", &mut script);
    context.screen.document(&script)?;
    Ok(Outcome::Done)
}

pub fn man(context: &Context, args: &ManArgs) -> Result<Outcome> {
    if let Some(folder) = &args.dir {
        std::fs::create_dir_all(folder).map_err(Error::path("make", folder))?;
        clap_mangen::generate_to(Cli::command(), folder)
            .map_err(Error::path("write manual pages to", folder))?;
    } else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
        rendered.map_err(Error::path("write", Path::new("the manual page")))?;
        context.screen.document(&page)?;
    }
    Ok(Outcome::Done)
}

pub fn version(context: &Context) -> Result<Outcome> {
    let version = env!("CARGO_PKG_VERSION");
    let format = vault::header::VERSION;
    if context.screen.is_json() {
        context.screen.json(&json!({"message_type": "version", "version": version, "format": format}))?;
    } else {
        context.screen.line(&format!("vault {version}, repository format {format}"))?;
    }
    Ok(Outcome::Done)
}
