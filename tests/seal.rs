//! Encrypted repositories: what someone can do who holds the drive and has no key, and what the owner is told.
//!
//! Whatever the suite runs over, these repositories are encrypted. `attacks` alters what is stored, `packs` with all the knowledge that an
//! attacker may have but the keys, `keys` is about key files and passphrases, `leaks` about what shows without a key.

mod attacks;
mod keys;
mod leaks;
mod letter;
mod packs;
mod seen;
mod vouched;
mod world;
