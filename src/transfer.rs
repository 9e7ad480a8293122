//! Files of one copy of a repository on their way to another: what a mirror and healing have in common.
//!
//! `listing` has all files that are named by their content, `copy` takes one of them over and reads it back, `apart` sees to it that there
//! are two copies, `config` puts right what says that one is.

mod apart;
mod config;
mod copy;
mod listing;

pub(crate) use apart::{check_apart, is_gone};
pub(crate) use config::{mend_config, put_config};
pub(crate) use copy::Copier;
pub(crate) use listing::{FileId, Folder, Listing};
