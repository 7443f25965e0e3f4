//! See `logstead::fuzzing::directory`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| logstead::fuzzing::directory(data));
