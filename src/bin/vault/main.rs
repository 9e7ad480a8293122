//! The program: reads the command line (`args`), runs a verb (`commands`), prints (`render`) and says with its exit code how
//! it went (`exit`). It uses only the public names of the library.

mod args;
mod child;
mod commands;
mod exit;
mod medium;
mod passphrase;
mod places;
mod render;
mod select;
mod signals;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Cli, Verb};
use commands::Context;
use render::{Look, Screen};

fn main() -> ExitCode {
    let standard = std::panic::take_hook();
    // A damaged cache is thrown away and said so once; how redb noticed is nobody's business.
    std::panic::set_hook(Box::new(move |panic| {
        if !vault::guard::is_inside() {
            standard(panic);
        }
    }));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(command_line_failed(&error)),
    };
    let look = Look { quiet: cli.global.quiet, verbose: cli.global.verbose > 0, json: cli.global.json };
    let screen = match Screen::new(look, cli.global.log_file.as_deref()) {
        Ok(screen) => Arc::new(screen),
        Err(error) => {
            render::fail_early(&format!("error: {}", render::chain(&error)), cli.global.json, exit::FAILED);
            return ExitCode::from(exit::FAILED);
        }
    };
    screen.log_run(&command_line());
    let stop = signals::stop_flag(&screen);
    let context = Context::new(cli.global, screen.clone(), stop);
    // With two repositories, which of them an error is about does not show.
    let is_of_one = !matches!(cli.verb, Verb::Mirror(_) | Verb::Heal(_) | Verb::Copy(_));
    let result = commands::run(&context, cli.verb);
    screen.end_progress();
    let result = result.and_then(|outcome| screen.flush().map(|()| outcome));
    let code = match result {
        Ok(outcome) => outcome.code(),
        // Whoever read the output has seen enough: nothing to complain about, but not done either.
        Err(error) if exit::is_closed_output(&error) => exit::FAILED,
        Err(error) => {
            let code = exit::code(&error);
            let place = context.repository_folder().ok().map(|(place, _)| place).filter(|_| is_of_one);
            screen.fail(&error, place.as_deref(), exit::hint(&error).as_deref(), code);
            code
        }
    };
    screen.log_run(&format!("exit code {code}"));
    // What the log lacks nobody may take for not having happened.
    ExitCode::from(if code == exit::DONE && screen.log_has_failed() { exit::FAILED } else { code })
}

/// What was asked for, for the log.
fn command_line() -> String {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    words.join(" ")
}

/// Prints help, or what is wrong with the command line.
fn command_line_failed(error: &clap::Error) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let Err(error) = render::print_help(&error.render()) else { return exit::DONE };
            if exit::is_closed_output(&error) {
                return exit::FAILED;
            }
            render::fail_early(&format!("error: {}", render::chain(&error)), false, exit::code(&error));
            exit::code(&error)
        }
        // Without arguments at all: help, but nothing was done.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            render::fail_early(&error.render().to_string(), false, exit::USAGE);
            exit::USAGE
        }
        _ => {
            let json = std::env::args_os().any(|arg| arg == "--json");
            render::fail_early(&error.render().to_string(), json, exit::USAGE);
            exit::USAGE
        }
    }
}
