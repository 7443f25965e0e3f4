//! The last flight of every aircraft: a year of departures keyed by tail number, compacted to one record each.
//!
//! ```sh
//! cargo run --release --example compact -- flights.csv    # zstd -d ../shared/data/flights.csv.zst
//! cargo run --release --example compact                   # the excerpt in examples/data
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use logstead::{Cleanup, Record, Store, TopicConfig};

/// The columns of the data set that are used here.
struct Columns {
    tailnum: usize,
}

impl Columns {
    fn of(header: &str) -> Option<Columns> {
        Some(Columns { tailnum: header.split(',').position(|name| name == "tailnum")? })
    }

    /// The aircraft of a row, where it has one.
    fn tailnum<'r>(&self, row: &'r str) -> Option<&'r str> {
        row.split(',').nth(self.tailnum).filter(|tailnum| !tailnum.is_empty() && *tailnum != "NA")
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let excerpt = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/data/flights-sample.csv");
    let path = std::env::args_os().nth(1).map_or(excerpt, PathBuf::from);
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let home = tempfile::tempdir()?;
    run(&Store::open(home.path().join("data"))?, &text)
}

fn run(store: &Store, text: &str) -> Result<(), Box<dyn Error>> {
    let (header, rows) = text.split_once('\n').ok_or("it has no rows")?;
    let columns = Columns::of(header).ok_or("it has no column tailnum")?;
    let config = TopicConfig::default().cleanup_policy(Cleanup::COMPACT).segment_bytes(4 << 20);
    let topic = store.create_topic("last-flight", config)?;

    let producer = store.producer()?;
    let mut last: BTreeMap<&str, &str> = BTreeMap::new();
    for row in rows.lines() {
        if let Some(tailnum) = columns.tailnum(row) {
            producer.send(Record::to(&topic).key(tailnum).value(row))?;
            last.insert(tailnum, row);
        }
    }
    producer.close()?;

    let reports = store.compact_now("last-flight")?;
    for report in &reports {
        println!(
            "{} records in {} segments, {} bytes -> {} records in {} segments, {} bytes: {} aircraft, {:.2?}",
            report.records_before,
            report.segments_before,
            report.bytes_before,
            report.records_after,
            report.segments_after,
            report.bytes_after,
            report.keys,
            report.time
        );
    }
    // What a reader finds now is one record an aircraft, its last.
    let mut consumer = store.consumer()?;
    consumer.assign_all(["last-flight"])?;
    consumer.seek_to_beginning()?;
    let mut found = BTreeMap::new();
    loop {
        let records = consumer.poll(Duration::ZERO)?;
        if records.is_empty() {
            break;
        }
        for record in &records {
            let (key, value) = (record.key().unwrap_or_default(), record.value().unwrap_or_default());
            let twice = found.insert(str::from_utf8(key)?.to_owned(), str::from_utf8(value)?.to_owned());
            assert!(twice.is_none(), "an aircraft has two records");
        }
    }
    assert!(found.iter().map(|(key, value)| (key.as_str(), value.as_str())).eq(last));
    println!("{} aircraft, the last flight of each", found.len());
    Ok(())
}
