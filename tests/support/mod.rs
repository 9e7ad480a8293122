//! What tests stand on: folders that clean up after themselves ([`scratch`]), file systems ([`mount`]), the program
//! ([`vault`]), a tree with one of everything ([`torture`]), and a way to tell whether two trees are the same
//! ([`manifest`]). `selftest` shows that each of them would notice. What a machine lacks skips a test ([`needs`]).

pub mod crowd;
pub mod disk;
pub mod manifest;
pub mod mount;
pub mod needs;
pub mod repository;
pub mod scratch;
mod selftest;
pub mod torture;
pub mod tracer;
pub mod vault;
