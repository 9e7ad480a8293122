//! `vault::prune`: what goes and what stays, and that nothing is lost whoever else is at work.

mod simulator;
mod world;
