//! See `logstead::fuzzing::checkpoint`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| logstead::fuzzing::checkpoint(data));
