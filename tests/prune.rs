//! `vault::prune`: what goes and what stays, and that nothing is lost whoever else is at work.

mod beside;
mod frames;
mod full;
mod missed;
mod processes;
mod rules;
pub mod simulator;
mod store;
mod world;
