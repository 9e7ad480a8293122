//! A fence around redb, which panics on some files that it did not write: behind it a panic is an answer, not an end.
//!
//! A panic is told to the panic hook before anything can catch it, and the hook is the program's. So the program asks
//! [`is_inside`] and keeps silent about those that are expected. Values are dropped behind the fence too, because closing a
//! database walks its trees again.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Runs something that may panic; nothing if it does.
pub fn guarded<T>(run: impl FnOnce() -> T) -> Option<T> {
    DEPTH.set(DEPTH.get() + 1);
    let outcome = catch_unwind(AssertUnwindSafe(run)).ok();
    DEPTH.set(DEPTH.get() - 1);
    outcome
}

/// Whether this thread is behind the fence: a panic there is expected and will be caught.
#[must_use]
pub fn is_inside() -> bool {
    // Not to be asked any more while a thread ends.
    DEPTH.try_with(|depth| depth.get() > 0).unwrap_or(false)
}

/// A value whose drop may panic.
pub struct Guarded<T>(Option<T>);

impl<T> Guarded<T> {
    /// Takes care of the value.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(Some(value))
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> Option<&T> {
        self.0.as_ref()
    }

    /// Hands the value out, to be dropped by the caller.
    #[must_use]
    pub fn take(mut self) -> Option<T> {
        self.0.take()
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        guarded(move || drop(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(!is_inside(), "it went off inside");
        }
    }

    #[test]
    fn panics_stay_inside_and_are_known_to_be_there() {
        assert_eq!((guarded(is_inside), is_inside()), (Some(true), false));
        assert_eq!(guarded(|| guarded(|| panic!("inner")).is_none()), Some(true));
        drop(Guarded::new(Bomb));
        assert!(!is_inside());
    }
}
