//! The only place that prints: [`Screen`] takes results, notes, problems and the library's events.
//!
//! Results go to the standard output, everything else to the standard error; with `--json` all but errors goes to the standard
//! output, as JSON Lines. Whatever text comes in, no control or bidirectional character leaves raw (`text`): it is escaped here,
//! at the door. The log file gets the same lines, with times. `progress` counts the events and shows how far things are.

mod ask;
mod json;
mod log;
mod progress;
mod table;
pub mod text;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::termios::Termios;
use serde::Serialize;
use serde_json::{Value, json};
use vault::error::{Error, Result};
use vault::event::{Change, Event, Item, Observer};

pub use json::{path_fields, time_text};
pub use progress::Tally;
pub use table::{Align, Table};
use text::escape;

use log::Log;
use progress::Progress;

/// How things are to be printed.
pub struct Look {
    /// Results and errors only.
    pub quiet: bool,
    /// A line for each item.
    pub verbose: bool,
    /// JSON Lines.
    pub json: bool,
}

/// Where the program prints.
pub struct Screen {
    look: Look,
    colors: bool,
    out: Out,
    out_is_terminal: bool,
    log: Option<Log>,
    tally: Arc<Tally>,
    progress: Mutex<Option<Progress>>,
    /// Whether to print a line for each change, even without `--verbose`.
    show_changes: AtomicBool,
    asking: AtomicBool,
    /// How the terminal was before it was told to show nothing.
    terminal: Mutex<Option<(File, Termios)>>,
    /// Problems that wait for the end of a snapshot, so that they stand together.
    held: Mutex<Vec<String>>,
}

/// The standard output, shared with the thread that prints progress: a line is never printed into another.
type Out = Arc<Mutex<BufWriter<Stdout>>>;

/// So many problems wait at most.
const MAX_HELD: usize = 1000;

/// How a line on the standard error begins.
#[derive(Clone, Copy)]
enum Tone {
    Plain,
    Warning,
    Error,
    Hint,
}

impl Screen {
    /// A screen, and a log if a file is named.
    ///
    /// # Errors
    /// A log file that cannot be opened.
    pub fn new(look: Look, log_file: Option<&Path>) -> Result<Self> {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let stdout = io::stdout();
        Ok(Self {
            colors: io::stderr().is_terminal() && !is_set("NO_COLOR") && !dumb && !look.json,
            out_is_terminal: stdout.is_terminal(),
            out: Arc::new(Mutex::new(BufWriter::with_capacity(64 << 10, stdout))),
            log: log_file.map(Log::open).transpose()?,
            tally: Arc::default(),
            progress: Mutex::new(None),
            show_changes: AtomicBool::new(false),
            asking: AtomicBool::new(false),
            terminal: Mutex::new(None),
            held: Mutex::default(),
            look,
        })
    }

    /// Whether results are to be JSON.
    pub fn is_json(&self) -> bool {
        self.look.json
    }

    /// Whether a line for each item is wanted.
    pub fn is_verbose(&self) -> bool {
        self.look.verbose
    }

    /// Whether the standard output is a terminal.
    pub fn out_is_terminal(&self) -> bool {
        self.out_is_terminal
    }

    /// What has been counted so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// A line of the result, as text.
    ///
    /// # Errors
    /// A standard output that takes no more.
    pub fn line(&self, text: &str) -> Result<()> {
        self.print(&escape(text.as_bytes()))
    }

    /// A line of the result, as JSON. Characters that a terminal would obey are escaped as JSON does it.
    ///
    /// # Errors
    /// A standard output that takes no more.
    pub fn json(&self, value: &impl Serialize) -> Result<()> {
        self.print(&json::to_line(value))
    }

    /// A result whose rows are aligned.
    ///
    /// # Errors
    /// A standard output that takes no more.
    pub fn table(&self, table: &Table) -> Result<()> {
        table.lines().iter().try_for_each(|line| self.print(line))
    }

    /// Text that the program itself made, of several lines.
    ///
    /// # Errors
    /// A standard output that takes no more.
    pub fn document(&self, bytes: &[u8]) -> Result<()> {
        self.raw(|out| out.write_all(bytes).map_err(out_failed))
    }

    /// The standard output itself, for the bytes of a file.
    ///
    /// # Errors
    /// What `write` returns, and a standard output that takes no more.
    pub fn raw<T>(&self, write: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
        let mut out = locked(&self.out);
        let result = write(&mut *out)?;
        out.flush().map_err(out_failed)?;
        Ok(result)
    }

    fn print(&self, line: &str) -> Result<()> {
        self.beside_progress(|| {
            let mut out = locked(&self.out);
            writeln!(out, "{line}").map_err(out_failed)?;
            if self.out_is_terminal || self.look.json { out.flush().map_err(out_failed) } else { Ok(()) }
        })
    }

    /// Writes out what is still buffered.
    ///
    /// # Errors
    /// A standard output that takes no more.
    pub fn flush(&self) -> Result<()> {
        locked(&self.out).flush().map_err(out_failed)
    }

    /// Something said beside the result. Not with `--quiet` or `--json`.
    pub fn note(&self, text: &str) {
        let text = escape(text.as_bytes());
        if !self.look.quiet && !self.look.json {
            self.complain(Tone::Plain, &text);
        }
        self.log("info", &text);
    }

    /// Something the user should know, whatever the flags.
    pub fn warn(&self, text: &str) {
        let text = escape(text.as_bytes());
        self.say_warning(&text);
        self.log("warning", &text);
    }

    fn say_warning(&self, text: &str) {
        if self.look.json {
            self.complain(Tone::Plain, &json::to_line(&json!({"message_type": "notice", "message": text})));
        } else {
            self.complain(Tone::Warning, text);
        }
    }

    /// Something about a path that the result lacks.
    pub fn problem(&self, path: &[u8], error: &Error) {
        self.tally.problem();
        let message = escape(chain(error).as_bytes());
        // Most errors name their object themselves.
        let shown = escape(path);
        let text = if message.contains(&shown) { message.clone() } else { format!("{shown}: {message}") };
        if self.look.json {
            let during = self.tally.during();
            let mut value = json!({"message_type": "error", "error": {"message": message}, "during": during});
            path_fields(&mut value, "item", path);
            path_fields(&mut value, "path", path);
            self.complain(Tone::Plain, &json::to_line(&value));
        } else if !self.hold(&text) {
            self.complain(Tone::Error, &text);
        }
        self.log("error", &text);
    }

    /// Keeps a problem for the end of a snapshot that is under way.
    fn hold(&self, text: &str) -> bool {
        let during_snapshot = self.tally.during() == "archival" && locked(&self.progress).is_some();
        let mut held = locked(&self.held);
        let room = during_snapshot && held.len() < MAX_HELD;
        if room {
            held.push(text.to_owned());
        }
        room
    }

    /// The error that ends the program, which repository it was about if it was about one, and what may help.
    pub fn fail(&self, error: &Error, place: Option<&Path>, hint: Option<&str>, code: u8) {
        let mut message = escape(chain(error).as_bytes());
        // Its files are named as they lie in the repository: which one that is shows nowhere else.
        if let (Error::Repository { place: None, .. } | Error::Damaged { .. }, Some(place)) = (error, place) {
            message = format!("{message} (in {})", escape(place.as_os_str().as_bytes()));
        }
        if self.look.json {
            let value = json!({"message_type": "exit_error", "code": code, "message": message, "hint": hint});
            self.complain(Tone::Plain, &json::to_line(&value));
        } else {
            self.complain(Tone::Error, &message);
            if let Some(hint) = hint {
                self.complain(Tone::Hint, &escape(hint.as_bytes()));
            }
        }
        self.log("error", &message);
    }

    /// The line that sums up what was done: as text beside the result, or as JSON. With `--quiet` no text.
    ///
    /// # Errors
    /// A standard output that takes no more.
    pub fn summary(&self, text: &str, value: &Value) -> Result<()> {
        if self.look.json {
            self.json(value)?;
            self.log("info", &escape(text.as_bytes()));
        } else {
            self.note(text);
        }
        Ok(())
    }

    /// Says in JSON from now on that problems came up during this.
    pub fn set_during(&self, during: &'static str) {
        self.tally.set_during(during);
    }

    /// Shows from now on how far `during` is: `archival`, `restore`, `check`, `mirror`.
    pub fn start_progress(&self, during: &'static str) {
        self.tally.set_during(during);
        let mode = if self.look.quiet {
            progress::Mode::None
        } else if self.look.json {
            progress::Mode::Json
        } else if io::stderr().is_terminal() {
            progress::Mode::Bar
        } else {
            progress::Mode::Lines
        };
        *locked(&self.progress) =
            Progress::start(mode, self.tally.clone(), (self.out.clone(), self.log.clone()));
    }

    /// Shows it no longer.
    pub fn end_progress(&self) {
        let progress = locked(&self.progress).take();
        drop(progress);
        let held = std::mem::take(&mut *locked(&self.held));
        for text in &held {
            self.complain(Tone::Error, text);
        }
    }

    /// Whether to print a line for each change from now on: what a dry run is for.
    pub fn show_changes(&self, show: bool) {
        self.show_changes.store(show, Ordering::Relaxed);
    }

    /// Whether the user wants to see what became of an item.
    fn shows(&self, change: Change) -> bool {
        let is_change = !matches!(change, Change::Unchanged | Change::LeftOut);
        self.look.verbose || is_change && self.show_changes.load(Ordering::Relaxed)
    }

    /// A line on the standard error. One that cannot be written has nobody to be reported to.
    fn complain(&self, tone: Tone, text: &str) {
        let (color, prefix) = match tone {
            Tone::Plain => ("", ""),
            Tone::Warning => ("\x1b[33m", "warning:"),
            Tone::Error => ("\x1b[31m", "error:"),
            Tone::Hint => ("\x1b[36m", "hint:"),
        };
        let line = match (prefix, self.colors) {
            ("", _) => format!("{text}\n"),
            (prefix, true) => format!("{color}{prefix}\x1b[0m {text}\n"),
            (prefix, false) => format!("{prefix} {text}\n"),
        };
        self.beside_progress(|| {
            // Both may go to one file: what was printed before stands before. Whoever is printing just now does so itself.
            if let Ok(mut out) = self.out.try_lock() {
                let _ = out.flush();
            }
            let _ = io::stderr().lock().write_all(line.as_bytes());
        });
    }

    /// Prints while the progress bar is out of the way.
    fn beside_progress<T>(&self, print: impl FnOnce() -> T) -> T {
        let bar = locked(&self.progress).as_ref().and_then(Progress::bar);
        match bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn log(&self, level: &str, text: &str) {
        if let Some(log) = &self.log {
            log.line(level, text);
            if let Some(error) = log.news_of_failure() {
                let text = format!("the log lacks lines from here on: {}", chain(&error));
                self.say_warning(&escape(text.as_bytes()));
            }
        }
    }

    /// Whether the log lacks something.
    pub fn log_has_failed(&self) -> bool {
        self.log.as_ref().is_some_and(Log::has_failed)
    }

    /// Puts an event into the log and nowhere else.
    pub fn log_event(&self, event: &Event<'_>) {
        match *event {
            Event::Problem { path, error } => self.log("error", &about(path, &chain(error))),
            Event::Notice { path, text } => self.log("warning", &about(path, text)),
            _ => {}
        }
    }

    /// Notes the beginning or the end of the run in the log.
    pub fn log_run(&self, text: &str) {
        self.log("run", &escape(text.as_bytes()));
    }

    /// The line of `--verbose` for an item.
    fn item_done(&self, path: &Path, item: Item, change: Change, bytes: u64) {
        let restoring = self.tally.during() == "restore";
        let action = match (change, restoring) {
            // Nobody knows what these were before: there is nothing to read that would be worth remembering.
            (Change::New, false) if item == Item::Other => "saved",
            (Change::New, false) => "new",
            (Change::New, true) => "restored",
            (Change::Changed, false) => "modified",
            (Change::Changed, true) => "updated",
            (Change::Unchanged, _) => "unchanged",
            (Change::Removed, _) => "deleted",
            (Change::LeftOut, _) => "left out",
        };
        let path = path.as_os_str().as_bytes();
        if self.look.json {
            let mut value = json!({"message_type": "verbose_status", "action": action, "data_size": bytes, "size": bytes});
            path_fields(&mut value, "item", path);
            path_fields(&mut value, "path", path);
            // A consumer that has gone away is found out by the summary.
            let _ = self.json(&value);
        }
        let size = if item == Item::File { format!(", {}", text::size(bytes)) } else { String::new() };
        self.note(&format!("{action:<9} {}{size}", escape(path)));
    }
}

impl Observer for Screen {
    fn event(&self, event: &Event<'_>) {
        self.tally.event(event);
        match *event {
            Event::Phase(name) => self.log("info", name),
            Event::Done { path, item, change, bytes } if self.shows(change) => {
                self.item_done(path, item, change, bytes);
            }
            Event::Published { file, len } if self.look.verbose => {
                self.note(&format!("written   {file}, {}", text::size(len)));
            }
            Event::Notice { path, text } => {
                self.warn(&about(path, text));
            }
            Event::Damage { error } => self.warn(&chain(error)),
            Event::Problem { path, error } => self.problem(path.as_os_str().as_bytes(), error),
            _ => {}
        }
    }
}

/// A text, and before it what it is about, if anything.
fn about(path: &Path, text: &str) -> String {
    let path = path.as_os_str().as_bytes();
    if path.is_empty() {
        escape(text.as_bytes())
    } else {
        format!("{}: {}", escape(path), escape(text.as_bytes()))
    }
}

/// An error and what caused it, in one line.
pub fn chain(error: &Error) -> String {
    if let Error::Repository { action: "read", file, place, source } = error
        && source.kind() == io::ErrorKind::NotFound
    {
        let place = place.as_ref().map(|place| format!(" (in {})", place.display())).unwrap_or_default();
        return format!("{file} is missing from the repository{place}");
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn out_failed(error: io::Error) -> Error {
    Error::path("write", Path::new("the standard output"))(error)
}

/// The value of a mutex. One that a panicking thread left is as good: nothing here is ever half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error of the command line itself, before there is a screen.
pub fn fail_early(message: &str, json: bool, code: u8) {
    let lines: Vec<String> = message.trim_end().lines().map(|line| escape(line.as_bytes())).collect();
    let text = if json {
        json::to_line(&json!({"message_type": "exit_error", "code": code, "message": lines.join("\n")}))
    } else {
        lines.join("\n")
    };
    let _ = writeln!(io::stderr(), "{text}");
}

/// Text that clap made of our own words: help and version.
///
/// # Errors
/// A standard output that takes no more.
pub fn print_help(styled: &clap::builder::StyledStr) -> Result<()> {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let text =
        if io::stdout().is_terminal() && !plain { styled.ansi().to_string() } else { styled.to_string() };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(out_failed)
}
