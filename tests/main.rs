//! The tests.
mod source;
