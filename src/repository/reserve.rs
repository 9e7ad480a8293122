//! Room for whoever prunes on a full disk: a file that nothing depends on, and that is deleted then.

use crate::backend::Backend;
use crate::error::Result;
use crate::repository::object;
use crate::session::{self, Session};

/// Its name.
pub(super) const RESERVE: &str = "reserve";
/// Its bytes: some clusters even of a large drive, for a few notices.
const RESERVE_LEN: usize = 1 << 20;
/// It is made where so many times as much is free: not while a full disk is being cleared.
const FREE_TIMES: u64 = 8;

/// Makes it if it is not there, and there is room.
///
/// # Errors
/// Any error of the medium but that it is full.
pub(crate) fn make_reserve(backend: &dyn Backend) -> Result<()> {
    if backend.open(RESERVE).is_ok() {
        return Ok(());
    }
    if backend.free_space().is_ok_and(|free| free.is_some_and(|free| free < RESERVE_LEN as u64 * FREE_TIMES))
    {
        return Ok(());
    }
    // What a medium that compresses cannot make smaller.
    let mut state = u64::from_le_bytes(session::random()) | 1;
    let mut bytes = Vec::with_capacity(RESERVE_LEN);
    while bytes.len() < RESERVE_LEN {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    match object::publish(backend, &Session::begin(), RESERVE, &bytes) {
        Err(error) if error.is_no_space() => Ok(()),
        other => other,
    }
}

/// Does something that takes a little room; where there is none, once more after the reserve is deleted.
///
/// # Errors
/// Those of `work`.
pub(crate) fn with_reserve<T>(backend: &dyn Backend, mut work: impl FnMut() -> Result<T>) -> Result<T> {
    match work() {
        Err(error) if error.is_no_space() && backend.remove(RESERVE).is_ok() => work(),
        other => other,
    }
}
