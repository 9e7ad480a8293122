//! How far things are: [`Tally`] counts the events, [`Progress`] shows the counts from time to time.
//!
//! Events come from many threads and often, so counting is a few atomic additions, and a thread of its own looks at the counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use vault::event::{Change, Event};

use super::json::{path_fields, to_line};
use super::log::Log;
use super::text::{self, escape};
use super::{Out, locked};

/// What has happened, in numbers.
#[derive(Default)]
pub struct Tally {
    during: Mutex<&'static str>,
    /// Its name, and when it began.
    phase: Mutex<(&'static str, Option<Instant>)>,
    current: Mutex<Vec<u8>>,
    planned_items: AtomicU64,
    planned_bytes: AtomicU64,
    phase_items: AtomicU64,
    phase_bytes: AtomicU64,
    problems: AtomicU64,
    damages: AtomicU64,
}

impl Tally {
    /// How many problems there were.
    pub fn problems(&self) -> u64 {
        self.problems.load(Relaxed)
    }

    /// How much damage was met that did no harm.
    pub fn damages(&self) -> u64 {
        self.damages.load(Relaxed)
    }

    pub(super) fn problem(&self) {
        self.problems.fetch_add(1, Relaxed);
    }

    pub(super) fn during(&self) -> &'static str {
        *locked(&self.during)
    }

    pub(super) fn set_during(&self, during: &'static str) {
        *locked(&self.during) = during;
    }

    pub(super) fn event(&self, event: &Event<'_>) {
        match *event {
            Event::Phase(name) => {
                *locked(&self.phase) = (name, Some(Instant::now()));
                for counter in
                    [&self.planned_items, &self.planned_bytes, &self.phase_items, &self.phase_bytes]
                {
                    counter.store(0, Relaxed);
                }
            }
            Event::Planned { items, bytes } => {
                self.planned_items.store(items, Relaxed);
                self.planned_bytes.store(bytes, Relaxed);
            }
            Event::Started { path } => {
                // Whoever comes second does not wait: the path is only there to be looked at.
                if let Ok(mut current) = self.current.try_lock() {
                    current.clear();
                    current.extend_from_slice(path.as_os_str().as_bytes());
                }
            }
            Event::Advanced { bytes } => {
                self.phase_bytes.fetch_add(bytes, Relaxed);
            }
            Event::Damage { .. } => {
                self.damages.fetch_add(1, Relaxed);
            }
            Event::Done { change, .. } if change != Change::LeftOut => {
                self.phase_items.fetch_add(1, Relaxed);
            }
            _ => {}
        }
    }

    fn look(&self) -> Moment {
        let (phase, begun) = *locked(&self.phase);
        Moment {
            phase,
            elapsed: begun.map(|begun| begun.elapsed()).unwrap_or_default(),
            current: locked(&self.current).clone(),
            planned_items: self.planned_items.load(Relaxed),
            planned_bytes: self.planned_bytes.load(Relaxed),
            items: self.phase_items.load(Relaxed),
            bytes: self.phase_bytes.load(Relaxed),
            problems: self.problems(),
        }
    }
}

/// The counts at one moment.
struct Moment {
    phase: &'static str,
    /// Since the phase began, not since somebody looked.
    elapsed: Duration,
    current: Vec<u8>,
    planned_items: u64,
    planned_bytes: u64,
    items: u64,
    bytes: u64,
    problems: u64,
}

impl Moment {
    #[expect(clippy::cast_precision_loss, reason = "a share for people to look at")]
    fn share(&self) -> Option<f64> {
        let of = |done: u64, planned: u64| (planned > 0).then(|| (done as f64 / planned as f64).min(1.0));
        of(self.bytes, self.planned_bytes).or_else(|| of(self.items, self.planned_items))
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "both are small and positive"
    )]
    fn line(&self, elapsed: Duration) -> String {
        let mut line = format!("{}: {}", self.phase, text::counted(self.items, "item", "items"));
        if self.planned_items > 0 {
            line = format!(
                "{}: {} of {} items",
                self.phase,
                text::count(self.items),
                text::count(self.planned_items)
            );
        }
        line = format!("{line}, {}", text::size(self.bytes));
        if self.planned_bytes > 0 {
            line = format!("{line} of {}", text::size(self.planned_bytes));
        }
        let secs = elapsed.as_secs_f64().max(0.001);
        line = format!("{line}, {}/s", text::size(rate(self.bytes, secs)));
        if let Some((share, left)) = self.share().zip(self.left(elapsed)) {
            line = format!("{line}, {} %, {} left", (share * 100.0) as u64, text::duration(left));
        }
        if self.problems > 0 {
            line = format!("{line}, {}", text::counted(self.problems, "problem", "problems"));
        }
        line
    }

    fn left(&self, elapsed: Duration) -> Option<Duration> {
        let share = self.share().filter(|share| *share > 0.0)?;
        Duration::try_from_secs_f64(elapsed.as_secs_f64() * (1.0 - share) / share).ok()
    }

    fn json(&self, elapsed: Duration) -> String {
        let mut value = json!({
            "message_type": "status",
            "phase": self.phase,
            "seconds_elapsed": elapsed.as_secs(),
            "percent_done": self.share().unwrap_or(0.0),
            "total_files": self.planned_items,
            "files_done": self.items,
            "total_bytes": self.planned_bytes,
            "bytes_done": self.bytes,
            "error_count": self.problems,
        });
        if let Some(left) = self.left(elapsed) {
            value["seconds_remaining"] = left.as_secs().into();
        }
        if !self.current.is_empty() {
            value["current_files"] = json!([String::from_utf8_lossy(&self.current)]);
            path_fields(&mut value, "path", &self.current);
        }
        to_line(&value)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is positive and for people to look at"
)]
#[expect(clippy::cast_precision_loss, reason = "a rate is for people to look at")]
fn rate(bytes: u64, secs: f64) -> u64 {
    (bytes as f64 / secs) as u64
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A bar on the terminal.
    Bar,
    /// A plain line now and then.
    Lines,
    /// A line of JSON now and then.
    Json,
    /// Not at all, but for the log.
    None,
}

/// How often a plain line comes.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Shows progress until it is dropped.
pub struct Progress {
    bar: Option<ProgressBar>,
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts to show it. None if there is nothing to show it on, or no thread to be had.
    pub fn start(mode: Mode, tally: Arc<Tally>, (out, log): (Out, Option<Log>)) -> Option<Self> {
        if mode == Mode::None && log.is_none() {
            return None;
        }
        // With a style from the start: the default one would flash up before the first look.
        let bar = (mode == Mode::Bar).then(|| {
            let bar = ProgressBar::no_length();
            if let Ok(style) = ProgressStyle::with_template("{prefix}") {
                bar.set_style(style);
            }
            bar
        });
        let (end, ended) = mpsc::channel();
        let shown = bar.clone();
        let every = match mode {
            Mode::Bar => Duration::from_millis(100),
            Mode::Json => Duration::from_secs(1),
            Mode::Lines | Mode::None => LINE_EVERY,
        };
        let run = move || {
            let mut view = View { mode, bar: shown, out, log, phase: "", logged: Instant::now() };
            while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                view.show(&tally.look());
            }
        };
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(run).ok()?;
        Some(Self { bar, end: Some(end), thread: Some(thread) })
    }

    /// The bar on the terminal.
    pub fn bar(&self) -> Option<ProgressBar> {
        self.bar.clone()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It ends with the channel; it cannot have anything to say but that it panicked, and did so aloud.
            let _ = thread.join();
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What the thread knows.
struct View {
    mode: Mode,
    bar: Option<ProgressBar>,
    out: Out,
    log: Option<Log>,
    phase: &'static str,
    logged: Instant,
}

impl View {
    fn show(&mut self, moment: &Moment) {
        if moment.phase != self.phase {
            self.phase = moment.phase;
            if let Some(bar) = &self.bar {
                bar.reset();
                bar.set_prefix(moment.phase);
            }
        }
        let elapsed = moment.elapsed;
        match self.mode {
            Mode::Bar => self.show_bar(moment),
            // Whoever reads it may be gone: that is found out by whoever prints the result.
            Mode::Lines => drop(writeln!(std::io::stderr(), "{}", moment.line(elapsed))),
            Mode::Json => {
                let mut out = locked(&self.out);
                drop(writeln!(out, "{}", moment.json(elapsed)).and_then(|()| out.flush()));
            }
            Mode::None => {}
        }
        if self.logged.elapsed() >= LINE_EVERY || self.mode == Mode::None {
            self.logged = Instant::now();
            if let Some(log) = &self.log {
                log.line("info", &moment.line(elapsed));
            }
        }
    }

    fn show_bar(&self, moment: &Moment) {
        let Some(bar) = &self.bar else { return };
        let known = "{prefix} {bar:24} {percent:>3} %  {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left  {wide_msg}";
        let unknown = "{prefix} {spinner}  {binary_bytes}, {binary_bytes_per_sec}  {wide_msg}";
        let by_items = "{prefix} {bar:24} {pos} of {len}, {eta} left  {wide_msg}";
        let (template, position, len) = if moment.planned_bytes > 0 {
            (known, moment.bytes, Some(moment.planned_bytes))
        } else if moment.planned_items > 0 {
            (by_items, moment.items, Some(moment.planned_items))
        } else {
            (unknown, moment.bytes, None)
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        match len {
            Some(len) => bar.set_length(len.max(position)),
            None => bar.unset_length(),
        }
        bar.set_position(position);
        let items = match moment.items {
            0 => String::new(),
            items => format!("{}  ", text::counted(items, "item", "items")),
        };
        bar.set_message(format!("{items}{}", escape(&moment.current)));
        bar.tick();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_new_phase_counts_from_zero_and_problems_go_on() {
        let tally = Tally::default();
        tally.event(&Event::Phase("one"));
        tally.event(&Event::Planned { items: 4, bytes: 2048 });
        tally.event(&Event::Advanced { bytes: 512 });
        tally.problem();
        let moment = tally.look();
        let line = moment.line(Duration::from_secs(1));
        assert_eq!(line, "one: 0 of 4 items, 512 B of 2.0 KiB, 512 B/s, 25 %, 3.0 s left, 1 problem");
        tally.event(&Event::Phase("two"));
        tally.event(&Event::Started { path: Path::new("a") });
        let moment = tally.look();
        assert_eq!((moment.bytes, moment.planned_items, moment.problems, moment.share()), (0, 0, 1, None));
        assert!(moment.json(Duration::ZERO).contains(r#""path":"a""#));
        // Whoever looks for the first time after a while sees the rate of that while.
        std::thread::sleep(Duration::from_millis(20));
        assert!(tally.look().elapsed >= Duration::from_millis(20));
    }
}
