//! Fuzzes one oracle; what it promises stands in `src/oracles.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidestream_fuzz::durable(data));
