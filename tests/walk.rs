//! The walk of a record, as the first program of a user takes it.

use std::time::Duration;

use logstead::{Acks, Record, Result, Store, TopicConfig, header};

#[test]
fn the_first_program_runs() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let (row, ms) = (String::from("2013,1,1"), 1_357_034_400_000);
    let store = Store::open(dir.path().join("data"))?;
    let flights = store.create_topic("flights", TopicConfig::default().partitions(4))?;
    let producer = store.producer()?;
    let headers = [header("source", "csv")];
    let record = Record::to(&flights).key("N14228").value(&row).headers(&headers).timestamp_ms(ms);
    let receipt = producer.send(record)?.wait()?;
    assert_eq!((receipt.offset, receipt.timestamp_ms), (0, ms));
    // Of the same time: a record seven days younger would roll, and a poll of one partition ends with a segment.
    producer.send(Record::to("flights").value(b"fire and forget").timestamp_ms(ms))?;
    producer.flush()?;

    let mut consumer = store.consumer()?;
    consumer.assign_all(["flights"])?;
    consumer.seek_to_beginning()?;
    let records = consumer.poll(Duration::from_millis(100))?;
    assert_eq!(records.len(), 2);
    let first = records.iter().find(|record| record.key().is_some()).unwrap();
    assert_eq!((first.key(), first.value()), (Some(b"N14228".as_slice()), Some(row.as_bytes())));
    assert_eq!(first.headers().into_iter().map(|h| h.key).collect::<Vec<_>>(), ["source"]);

    let partition = flights.partition(receipt.partition)?;
    let end = partition.high_watermark();
    let two = [Record::to(&flights).value("a"), Record::to(&flights).value("b")];
    let appended = partition.append(two, Some(end), Acks::All)?;
    assert_eq!(appended.offsets, end..end + 2);
    store.close()?;

    let store = Store::open(dir.path().join("data"))?;
    assert!(store.recovery_report().clean, "{}", store.recovery_report());
    let partition = store.topic("flights")?.partition(receipt.partition)?;
    assert_eq!(partition.high_watermark(), end + 2);
    assert_eq!(partition.read(end, 1 << 20)?.len(), 2);
    Ok(())
}
