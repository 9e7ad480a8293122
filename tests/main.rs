//! The tests: one binary. They see the public API or the program, never the inside.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod browse;
mod cli;
mod damage;
mod durability;
mod engine;
mod forget;
mod format;
mod heal;
mod mirror;
mod parity;
mod proof;
mod prune;
mod restore;
mod seal;
mod source;
mod spec;
mod support;
mod tidy;
mod whole;
