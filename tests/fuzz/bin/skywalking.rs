//! `skywalking` for libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pintle_test_fuzz::target("skywalking").read(input));
