//! vault: a content-addressed snapshot store.

pub mod backend;
pub mod backup;
pub mod chunk;
pub mod codec;
pub mod error;
pub mod event;
pub mod header;
pub mod id;
pub mod index;
pub mod mirror;
pub mod pack;
pub mod pattern;
pub mod rate;
pub mod repository;
pub mod session;
pub mod snapshot;
pub mod source;
