//! The programs of `tests/power_cut.py`: a writer that says in a file how many records are acknowledged, and a checker
//! of the store that a power cut or a failed sync of a real file system left.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test looks around"
)]

mod common;

use std::os::unix::fs::FileExt;

use common::{Random, append_one, check, value};
use logstead::{Acks, ErrorKind, ProducerConfig, Record, Store, TopicConfig};

const DIR: &str = "LOGSTEAD_CUT_DIR";
const ACK: &str = "LOGSTEAD_CUT_ACK";
const ACKED: &str = "LOGSTEAD_CUT_ACKED";
/// `any`, or `blocks`: every batch is one block of the file system.
const SIZES: &str = "LOGSTEAD_CUT_SIZES";
/// The device said that it had written what it had not: damage of acknowledged records is right, if it is told.
const LYING: &str = "LOGSTEAD_CUT_LYING";

const BLOCK_BYTES: u64 = 4_096;

/// As many records as a file system of the script can hold.
const RECORDS: u64 = 60_000;

fn in_blocks() -> bool {
    std::env::var(SIZES).is_ok_and(|sizes| sizes == "blocks")
}

fn record(seq: u64) -> Vec<u8> {
    // 61 bytes of batch, 9 of record, 24 of value lie around them.
    let len = if in_blocks() {
        BLOCK_BYTES as usize - 61 - 9 - 24
    } else {
        100 + Random(seq).below(1_500) as usize
    };
    value(1, seq, len)
}

/// Writes until it is killed, or told that a sync failed: then it says so, and that nothing is acknowledged after it.
#[test]
#[ignore = "a child of power_cut.py"]
fn writer() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let ack = std::fs::OpenOptions::new().write(true).open(std::env::var_os(ACK).unwrap()).unwrap();
    let store = Store::open(dir).unwrap();
    // Large enough that the failed sync meets the first segment: the script makes its hole there.
    let topic = store.create_topic("t", TopicConfig::default().segment_bytes(16 << 20)).unwrap();
    let rolling = store.create_topic("rolling", TopicConfig::default().segment_bytes(64 << 10)).unwrap();
    let producer = store.producer_with(ProducerConfig::default().acks(Acks::All).batch_size(4_096)).unwrap();
    let mut seq = 0;
    while seq < RECORDS {
        let group: Vec<_> = (0..if in_blocks() { 1 } else { 3 }).map(|i| record(seq + i)).collect();
        let sent: Vec<_> =
            group.iter().map(|value| producer.send(Record::to(&topic).value(value)).unwrap()).collect();
        for delivery in sent {
            match delivery.wait() {
                Ok(receipt) => {
                    assert_eq!(receipt.offset, seq as i64);
                    seq += 1;
                }
                Err(error) if matches!(error.kind(), ErrorKind::Poisoned { .. }) => {
                    let again = producer.send(Record::to(&topic).value("x")).and_then(|sent| sent.wait());
                    assert!(again.is_err_and(|error| matches!(error.kind(), ErrorKind::Poisoned { .. })));
                    eprintln!("POISONED {error}");
                    return;
                }
                Err(error) => panic!("{error}"),
            }
        }
        if in_blocks() {
            assert_eq!(topic.partition(0).unwrap().size_bytes(), seq * BLOCK_BYTES);
            ack.write_all_at(&seq.to_le_bytes(), 0).unwrap();
            continue;
        }
        // The same records with many rolls; acknowledged first, or not at all where its sync is the one that failed.
        let other = rolling.partition(0).unwrap();
        let records = group.iter().map(|value| Record::to(&rolling).value(value));
        match other.append(records, None, Acks::All) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::Poisoned { .. }) => {
                eprintln!("POISONED {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        }
        ack.write_all_at(&seq.to_le_bytes(), 0).unwrap();
    }
}

/// Opens what is left, and checks it against the number of records acknowledged.
#[test]
#[ignore = "a child of power_cut.py"]
fn checker() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let acked: usize = std::env::var(ACKED).unwrap().parse().unwrap();
    let sent: Vec<_> = (0..acked as u64 + 1_000).map(record).collect();
    let store = match Store::open(dir) {
        Ok(store) => store,
        Err(error) => panic!("does not open: {error}"),
    };
    for topic in ["t", "rolling"].into_iter().take(if in_blocks() { 1 } else { 2 }) {
        let Ok(handle) = store.topic(topic) else {
            assert_eq!(acked, 0, "topic {topic} is gone");
            continue;
        };
        let end = match check(&handle.partition(0).unwrap(), &sent) {
            Ok(end) => end,
            Err(error) if std::env::var_os(LYING).is_some() && error.is_corrupt() => continue,
            Err(error) => panic!("{topic}: {error}\n{}", store.recovery_report()),
        };
        assert!(end >= acked, "{topic}: {end} of {acked}\n{}", store.recovery_report());
        append_one(&store, topic, end, b"on");
    }
    store.close().unwrap();
}
