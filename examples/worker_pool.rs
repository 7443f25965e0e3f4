//! A pool of workers over real flights, with a row that nobody can read.
//!
//! ```text
//! cargo run --release --example worker_pool                      # four threads, a store in memory
//! cargo run --release --example worker_pool -- 8 my-flights.csv
//! ```
//!
//! Every row of the file is a record, its key the aircraft; somewhere in the middle lies one that is no flight. The
//! pool adds up the delays of each carrier, the flights of one aircraft in their order. The bad row goes to the topic
//! `flights.dead`, with a note where it was and what is wrong with it; all others are counted.

// A program that uses the crate reads its own input as it likes; the ban is for the crate itself.
#![allow(clippy::disallowed_methods, reason = "the input file is not the store's")]

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use logstead::{
    AutoOffsetReset, ConsumerConfig, HandlerError, OnError, OrderBy, PoolConfig, Record, Store, TopicConfig,
};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/flights-sample.csv");
const POISON: &str = "2013,2,30,whenever,,,,,,??,,N00000,EWR,nowhere";

/// What is known of a carrier: flights that left, minutes they were late in total.
type Delays = BTreeMap<String, (u64, i64)>;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let threads = args.next().map_or(Ok(4), |n| n.parse())?;
    let file = args.next().unwrap_or_else(|| SAMPLE.to_owned());
    let (delays, dead) = run(threads, &std::fs::read_to_string(file)?)?;

    println!("\ncarrier   flights   mean delay");
    for (carrier, (flights, minutes)) in &delays {
        println!("{carrier:<7} {flights:>9} {:>8.1} min", *minutes as f64 / *flights as f64);
    }
    println!("\nin flights.dead:");
    for letter in dead {
        println!("{letter}");
    }
    Ok(())
}

fn run(threads: usize, csv: &str) -> Result<(Delays, Vec<String>), Box<dyn Error>> {
    let store = Store::in_memory()?;
    store.create_topic("flights", TopicConfig::default().partitions(4))?;
    // A dead letter keeps its timestamp: by the default of seven days these would go at once.
    store.create_topic("flights.dead", TopicConfig::default().retention_ms(None))?;
    let rows = write(&store, csv)?;

    let group = store.group("delays");
    let from_the_start = ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::Earliest);
    let mut consumer = group.consumer_with(from_the_start)?;
    consumer.subscribe(["flights"])?;
    let config = PoolConfig::default()
        .threads(threads)
        .order_by(OrderBy::Key)
        .on_error(OnError::dead_letter("flights.dead"));
    let delays = Arc::new(Mutex::new(Delays::new()));
    let sums = Arc::clone(&delays);
    let pool = group.run_with(consumer, config, move |record| {
        // It will not read better the next time: no retry.
        let row = std::str::from_utf8(record.value().unwrap_or_default()).map_err(HandlerError::permanent)?;
        if let Some((carrier, minutes)) = departure(row).map_err(HandlerError::permanent)? {
            let mut sums = sums.lock().map_err(|_| "another handler panicked")?;
            let (flights, late) = sums.entry(carrier.to_owned()).or_default();
            (*flights, *late) = (*flights + 1, *late + minutes);
        }
        Ok(())
    })?;
    pool.wait_caught_up(Duration::from_secs(60))?;
    println!("{rows} rows\n{}", pool.progress());
    // Commits: the next pool of the group has nothing left to do.
    pool.stop()?;
    println!("lag of the group: {}", group.lag()?.total);

    let letters = store.topic("flights.dead")?.partition(0)?.read(0, 1 << 20)?;
    let dead = letters.iter().map(|letter| {
        let said = |name: &str| {
            let value = letter.headers().get(&format!("__connect.errors.{name}"));
            String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
        };
        let row = String::from_utf8_lossy(letter.value().unwrap_or_default());
        let place = format!("{}-{} offset {}", said("topic"), said("partition"), said("offset"));
        format!("{place}: {}\n  {row}", said("exception.message"))
    });
    let dead = dead.collect();
    let delays = delays.lock().map_err(|_| "a handler panicked")?.clone();
    Ok((delays, dead))
}

/// Sends every row, and the bad one in the middle.
fn write(store: &Store, csv: &str) -> logstead::Result<usize> {
    let producer = store.producer()?;
    let mut rows: Vec<&str> = csv.lines().skip(1).collect();
    rows.insert(rows.len() / 2, POISON);
    for row in &rows {
        let record = Record::to("flights").value(row);
        let tail = row.split(',').nth(11).unwrap_or_default();
        producer.send(if tail.is_empty() { record } else { record.key(tail) })?;
    }
    producer.close()?;
    Ok(rows.len())
}

/// The carrier of a flight and how many minutes late it left; `None` if it never did.
fn departure(row: &str) -> Result<Option<(&str, i64)>, String> {
    let fields: Vec<&str> = row.split(',').collect();
    let [_, _, _, _, _, delay, _, _, _, carrier, _, _, _, _, _, _, _, _, _] = fields[..] else {
        return Err(format!("{} fields, not 19", fields.len()));
    };
    match delay {
        "NA" | "" => Ok(None),
        minutes => match minutes.parse() {
            Ok(minutes) => Ok(Some((carrier, minutes))),
            Err(error) => Err(format!("delay {minutes:?}: {error}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flight_is_counted_once_and_the_bad_row_is_found_again() {
        let csv = std::fs::read_to_string(SAMPLE).unwrap();
        let left = csv.lines().skip(1).filter(|row| departure(row).unwrap().is_some()).count();
        let (delays, dead) = run(3, &csv).unwrap();
        assert_eq!(delays.values().map(|(flights, _)| flights).sum::<u64>(), left as u64);
        let [letter] = &dead[..] else { panic!("{dead:?}") };
        assert!(letter.contains("14 fields, not 19") && letter.contains(POISON), "{letter}");
    }
}
