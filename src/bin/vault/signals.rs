//! Ctrl-C: the first one asks the operation to end in an orderly way, the second one ends the program at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::render::Screen;
use crate::{child, exit};

/// A flag that the first signal sets. If signals cannot be caught, they end the program at once, which loses nothing either.
pub fn stop_flag(screen: &Arc<Screen>) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else {
        return stop;
    };
    let (flag, printer) = (stop.clone(), screen.clone());
    let watch = move || {
        for _ in signals.forever() {
            if flag.swap(true, Ordering::SeqCst) || printer.is_asking() {
                printer.last_word();
                child::kill_running();
                // No destructors, no flushing: whatever hangs must not keep the user waiting. What is published is whole.
                signal_hook::low_level::exit(i32::from(exit::INTERRUPTED));
            }
            printer.note("stopping: what is in work is being finished; once more to stop at once");
        }
    };
    // Without the thread a signal would be caught and never heeded.
    if let Err(error) = std::thread::Builder::new().name("signals".to_owned()).spawn(watch) {
        screen.warn(&format!("signals are not heeded: {error}"));
    }
    stop
}
