//! See `logstead::fuzzing::offsets`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| logstead::fuzzing::offsets(data));
