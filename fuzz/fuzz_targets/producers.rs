//! See `logstead::fuzzing::producers`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| logstead::fuzzing::producers(data));
