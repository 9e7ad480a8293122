//! Parity: what it mends, what it does not, and that it never makes anything worse. `shards` looks at single packs of any bytes, `program` at
//! `vault parity` and at who else has to do with its files.

mod medium;
mod program;
mod shards;
