#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parley_relay::fuzzing::head(input));
