//! Bytes from nowhere, read as a batch.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| logstead::fuzzing::batch(data));
