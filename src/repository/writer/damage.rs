//! Damage that a run meets and does without: said to the observer, each file once, whoever comes upon it.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::error::Error;
use crate::event::{Event, Observer};

/// The files that were spoken of.
#[derive(Default)]
pub(super) struct Said(Mutex<HashSet<String>>);

impl Said {
    /// Says what is wrong with a file, unless that was said.
    pub(super) fn damage(&self, observer: &dyn Observer, error: &Error) {
        let name = error.file().map_or_else(|| error.to_string(), str::to_owned);
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name) {
            observer.event(&Event::Damage { error });
        }
    }
}
