//! The program as a whole, on real trees and real file systems: what is saved comes back, whatever happens in between.

mod cost;
mod crowd;
mod cycle;
mod deep;
mod full;
pub mod garbage;
mod instructions;
mod interrupt;
mod nested;
mod peers;
mod scale;
mod state;
mod together;
mod trouble;
mod user;
pub mod world;
