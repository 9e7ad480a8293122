//! The tests: one binary, a module per subject, over the public interface and the real program.
//!
//! They run on real file systems, as root: `.ci/run` installs what they need.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod mirror;
mod support;
mod tidy;
