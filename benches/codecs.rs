//! What each codec costs and saves, writing one by one through a producer and scanning through a consumer.
//!
//! `Acks::Leader`, durability `PageCache`, batches of 16 KiB; JSON-like values of 100 bytes, the flights' rows, and
//! random values of 1 KiB, with which a codec is only cost. Snappy and gzip with their features. The baseline is the same
//! without a codec. Rates are of payload bytes.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

mod support;

use criterion::{Criterion, Throughput};
use logstead::{Acks, Compression};
use support::{Bench, Payload, Side, page_cache, plain, rate, scan, send};

fn codecs() -> Vec<(&'static str, Compression)> {
    vec![
        #[cfg(feature = "lz4")]
        ("lz4", Compression::Lz4),
        #[cfg(feature = "zstd")]
        ("zstd", Compression::Zstd),
        #[cfg(feature = "snappy")]
        ("snappy", Compression::Snappy),
        #[cfg(feature = "gzip")]
        ("gzip", Compression::Gzip),
    ]
}

fn write(payload: &Payload, codec: Compression, count: u64) -> (f64, Bench) {
    let bench = Bench::new(page_cache());
    let time = send(&bench.producer(plain(Acks::Leader).compression(codec)), &bench.topic, payload, count);
    (rate((count as f64 * payload.mean_bytes) as u64, time), bench)
}

fn read(bench: &Bench) -> f64 {
    let (_, bytes, time) = scan(&bench.store);
    rate(bytes, time)
}

fn main() {
    let mut criterion: Criterion = support::criterion();
    // A codec is slow enough for a shorter run.
    let bytes = support::run_bytes() / 8;
    for payload in [Payload::json(100), Payload::flights(), Payload::incompressible(1024)] {
        let count = payload.records_in(bytes);
        for (name, codec) in codecs() {
            let mut group = criterion.benchmark_group(format!("codecs/{name}"));
            group.throughput(Throughput::Bytes((count as f64 * payload.mean_bytes) as u64));
            let bench = Bench::new(page_cache());
            let producer = bench.producer(plain(Acks::Leader).compression(codec));
            group.bench_function(format!("write/{}", payload.name), |b| {
                b.iter_custom(|times| {
                    (0..times).map(|_| send(&producer, &bench.topic, &payload, count)).sum()
                });
            });
            let (_, bench) = write(&payload, codec, count);
            group.bench_function(format!("read/{}", payload.name), |b| {
                b.iter_custom(|times| (0..times).map(|_| scan(&bench.store).2).sum());
            });
            group.finish();

            let what = format!("codecs/{name}/write/{}", payload.name);
            let sides = vec![
                Side::new("ours", || write(&payload, codec, count).0),
                Side::new("the same without a codec", || write(&payload, Compression::None, count).0),
            ];
            support::print_ratios(&what, "MB/s", 1e6, sides);
            let (_, plain) = write(&payload, Compression::None, count);
            let what = format!("codecs/{name}/read/{}", payload.name);
            let sides = vec![
                Side::new("ours", || read(&bench)),
                Side::new("the same without a codec", || read(&plain)),
            ];
            support::print_ratios(&what, "MB/s", 1e6, sides);
            if support::wants(&what) {
                let stored = |bench: &Bench| bench.topic.partition(0).unwrap().size_bytes();
                let of_plain = stored(&bench) as f64 / stored(&plain) as f64;
                println!("ratio codecs/{name}/size/{} = {of_plain:.3} of no codec", payload.name);
            }
        }
    }
    criterion.final_summary();
}
