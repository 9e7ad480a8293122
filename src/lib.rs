//! vault: a content-addressed snapshot store.

pub mod backend;
pub mod chunk;
pub mod codec;
pub mod error;
pub mod event;
pub mod id;
pub mod pack;
pub mod pattern;
pub mod snapshot;
pub mod source;
