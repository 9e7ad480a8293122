//! vault: a content-addressed snapshot store.

pub mod backend;
pub mod chunk;
pub mod codec;
pub mod error;
pub mod event;
pub mod header;
pub mod id;
pub mod index;
pub mod pack;
pub mod repository;
pub mod session;
pub mod snapshot;
