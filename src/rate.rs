//! A limit on bytes per second, shared by any number of threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a wait may go on after it was to stop.
const LOOK_AROUND: Duration = Duration::from_millis(50);

/// Lets so many bytes per second pass, over any stretch of a few seconds.
pub struct RateLimit {
    bytes_per_sec: u64,
    /// When the bytes let through so far have had their time.
    paid_until: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// At most `bytes_per_sec`, which is at least 1.
    #[must_use]
    pub fn new(bytes_per_sec: u64) -> Self {
        Self { bytes_per_sec: bytes_per_sec.max(1), paid_until: Mutex::new(None) }
    }

    /// Waits until so many bytes more may pass, or `stop` is set.
    pub fn pass_or_stop(&self, bytes: u64, stop: &AtomicBool) {
        // Micros keep the product in range for any length of a buffer.
        let micros = bytes.saturating_mul(1_000_000) / self.bytes_per_sec;
        let cost = Duration::from_micros(micros);
        let now = Instant::now();
        let wait = match self.paid_until.lock() {
            Ok(mut paid_until) => {
                let begin = paid_until.filter(|until| *until > now).unwrap_or(now);
                *paid_until = begin.checked_add(cost);
                begin.saturating_duration_since(now) + cost
            }
            Err(_) => cost,
        };
        let until = now.checked_add(wait);
        while !stop.load(Ordering::Relaxed) {
            let rest = until.map_or(wait, |until| until.saturating_duration_since(Instant::now()));
            if rest.is_zero() {
                break;
            }
            std::thread::sleep(rest.min(LOOK_AROUND));
        }
    }
}
