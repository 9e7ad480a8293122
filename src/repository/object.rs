//! Publishing small files in one piece.

use std::io::Write;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::session::Session;

/// Writes a file of these bytes and publishes it as `name`: durable on return.
pub(super) fn publish(backend: &dyn Backend, session: &Session, name: &str, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = backend.create(&session.temporary())?;
        file.write_all(bytes)?;
        file.publish(name)
    };
    write().map_err(Error::repository("write", name))
}
