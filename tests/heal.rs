//! `vault heal` and `vault repair`: what is damaged comes back from another copy, or what is left of it is put in order; and nothing that was
//! whole before is less so after.

mod chunks;
mod files;
mod kept;
mod lost;
mod repair;
mod world;
