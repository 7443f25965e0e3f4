use super::*;
use std::hint::black_box;
use std::time::Instant;

/// `cargo test --release --lib record::tests::timing -- --ignored --nocapture`
#[test]
#[ignore = "prints figures, proves nothing"]
fn per_record() {
    let value = [7u8; 100];
    let mut scratch = Vec::new();
    for capacity in [16 * 1024, 1024 * 1024] {
        let mut builder = BatchBuilder::new(capacity);
        let mut best = [f64::MAX; 4];
        for _ in 0..20_000_000 / capacity * 8 {
            let start = Instant::now();
            for _ in 0..(capacity - 200) / 110 {
                builder.push(black_box(T), None, Some(black_box(&value)), &[]).unwrap();
            }
            let pushed = start.elapsed();
            let count = f64::from(builder.count());
            let start = Instant::now();
            let sealed = builder.seal(Compression::None, None, &mut scratch).unwrap();
            let seal = start.elapsed();
            let section = &sealed.bytes()[61..];
            let start = Instant::now();
            check_records(sealed.header(), black_box(section)).unwrap();
            let checked = start.elapsed();
            let start = Instant::now();
            let mut sum = 0;
            for record in RecordIter::new(black_box(section)) {
                sum += record.value.map_or(0, <[u8]>::len) + record.offset_delta as usize;
            }
            black_box(sum);
            let iterated = start.elapsed();
            for (best, took) in best.iter_mut().zip([pushed, seal, checked, iterated]) {
                *best = best.min(took.as_nanos() as f64 / count);
            }
            scratch = sealed.into_buffer();
        }
        let [push, seal, check, iterate] = best;
        println!(
            "{capacity}: push {push:.1} ns, seal {seal:.1}, check {check:.1}, iterate {iterate:.1} per record"
        );
    }
}
