//! `vault::prune`: what goes and what stays, and that nothing is lost whoever else is at work.

mod beside;
mod copied;
mod frames;
mod full;
mod missed;
mod processes;
mod rules;
pub mod simulator;
pub mod store;
mod world;
