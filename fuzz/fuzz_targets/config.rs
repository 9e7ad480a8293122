//! The target `config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vault_fuzz::run("config", input));
