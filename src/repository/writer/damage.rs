//! Damage that a run meets and does without: said to the observer, each file once, whoever comes upon it.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::error::{Corruption, Error, Result};
use crate::event::{Event, Observer};
use crate::index::Problems;

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

/// A plain repository that holds something sealed was an encrypted one: what was written to it now could be read by whoever did that
/// `[CONF-5]`.
pub(super) fn refuse_sealed(problems: &mut Problems) -> Result<()> {
    let is_sealed =
        |error: &Error| matches!(error, Error::Damaged { source: Corruption::UnexpectedSeal, .. });
    match problems.iter().position(is_sealed) {
        Some(at) => Err(problems.swap_remove(at)),
        None => Ok(()),
    }
}
