//! The inputs that fuzzing keeps, each once: what was found and mended stays mended without a fuzzer.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test reads its inputs")]

use std::path::Path;

fn each_seed(target: &str, run: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut seeds: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    assert!(!seeds.is_empty());
    for seed in seeds {
        // Shown when it fails.
        println!("{}", seed.display());
        run(&std::fs::read(&seed).unwrap());
    }
}

#[test]
fn batches() {
    each_seed("batch", logstead::fuzzing::batch);
}

#[test]
fn indexes() {
    each_seed("index", logstead::fuzzing::index);
}

#[test]
fn small_files() {
    each_seed("checkpoint", logstead::fuzzing::checkpoint);
}

#[test]
fn directories() {
    each_seed("directory", logstead::fuzzing::directory);
}

#[test]
fn producers() {
    each_seed("producers", logstead::fuzzing::producers);
}

#[test]
fn committed_offsets() {
    each_seed("offsets", logstead::fuzzing::offsets);
}
