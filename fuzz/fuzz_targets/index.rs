//! See `logstead::fuzzing::index`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| logstead::fuzzing::index(data));
