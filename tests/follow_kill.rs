//! A reader in another process follows a writer that is killed (SIGKILL) and restarted again and again: it sees every
//! committed record once, in order, and nothing else.
//!
//! The writer is this program again, as a child that says over a pipe which records are acknowledged. Each record says
//! which life of the writer made it, so one that a crash took back is told from the one that took its place. After a
//! kill what a `Disk` topic has not committed is cut off at a random byte, as a power cut would.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test looks around"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use common::{CHILD_BEGINS, Random, run_and_kill, seed};
use logstead::{
    Acks, AutoOffsetReset, ConsumerConfig, Durability, ErrorKind, Record, Store, TopicConfig, Waker,
};

const PARTITIONS: usize = 2;
const DIR: &str = "LOGSTEAD_FOLLOW_DIR";
const LIFE: &str = "LOGSTEAD_FOLLOW_LIFE";
const DURABILITY: &str = "LOGSTEAD_FOLLOW_DURABILITY";
const LONG: Duration = Duration::from_secs(60);

/// Which life of the writer made a record, and its number there.
type Name = (u64, u64);

/// What a record holds.
fn value(name: Name, len: u64) -> Vec<u8> {
    let mut value = [name.0.to_be_bytes(), name.1.to_be_bytes()].concat();
    value.resize(16 + len as usize, name.1 as u8);
    value
}

fn name(value: &[u8]) -> Name {
    let number = |at: usize| u64::from_be_bytes(value[at..at + 8].try_into().unwrap());
    let name = (number(0), number(8));
    assert!(value[16..].iter().all(|byte| *byte == name.1 as u8));
    name
}

/// Not a test of its own: the writer, until it is killed.
#[test]
#[ignore = "the child of the others"]
fn writer() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let life: u64 = std::env::var(LIFE).unwrap().parse().unwrap();
    let durability =
        if std::env::var(DURABILITY).unwrap() == "disk" { Durability::Disk } else { Durability::PageCache };
    let mut random = Random(life);
    let store = Store::open(&dir).unwrap();
    let config = TopicConfig::default()
        .partitions(PARTITIONS as u32)
        .durability(durability)
        .segment_bytes(16 * 1024)
        .index_interval_bytes(1_024);
    let topic = store.topic("t").or_else(|_| store.create_topic("t", config)).unwrap();
    let mut out = std::io::stdout().lock();
    out.write_all(CHILD_BEGINS).unwrap();
    let mut number = 0;
    loop {
        let p = random.below(PARTITIONS as u64);
        let names: Vec<Name> = (0..=random.below(5)).map(|i| (life, number + i)).collect();
        let values: Vec<Vec<u8>> = names.iter().map(|name| value(*name, random.below(600))).collect();
        number += names.len() as u64;
        let records = values.iter().map(|value| Record::to(&topic).value(value));
        let acks = if random.one_in(3) { Acks::Leader } else { Acks::All };
        let receipt = topic.partition(p as i32).unwrap().append(records, None, acks).unwrap();
        if acks == Acks::All {
            let mut said = Vec::new();
            for (offset, name) in receipt.offsets.zip(&names) {
                for word in [p, offset as u64, name.0, name.1] {
                    said.extend(word.to_be_bytes());
                }
            }
            out.write_all(&said).unwrap();
            out.flush().unwrap();
        }
    }
}

/// Starts the writer, kills it after so many acknowledged records and a little more; notes what it acknowledged.
fn write_and_kill(
    dir: &Path,
    durability: Durability,
    life: u64,
    records: u64,
    more: Duration,
    acked: &mut [BTreeMap<i64, Name>],
) {
    let variables =
        [(DIR, dir.display().to_string()), (LIFE, life.to_string()), (DURABILITY, durability.to_string())];
    let said = run_and_kill(&variables, records as usize * 32, more);
    assert!(!said.ended, "the writer goes on until it is killed");
    for words in said.words.chunks_exact(32) {
        let word = |i: usize| u64::from_be_bytes(words[i * 8..][..8].try_into().unwrap());
        let before = acked[word(0) as usize].insert(word(1) as i64, (word(2), word(3)));
        assert_eq!(before, None, "an offset was acknowledged twice");
    }
}

/// Cuts off a part of what is not committed, as a power cut may.
fn lose_uncommitted(dir: &Path, partition: usize, random: &mut Random) {
    let dir = dir.join(format!("t-{partition}"));
    let slot = fs::read(dir.join("logstead-committed")).unwrap();
    let (base, position) = (&slot[..8], u64::from(u32::from_be_bytes(slot[8..12].try_into().unwrap())));
    let base = i64::from_be_bytes(base.try_into().unwrap());
    let file = dir.join(format!("{base:020}.log"));
    let len = fs::metadata(&file).unwrap().len();
    assert!(position <= len, "committed bytes are missing");
    let cut = position + random.below(len - position + 1);
    fs::File::options().write(true).open(&file).unwrap().set_len(cut).unwrap();
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let later =
            |path: &Path| path.file_stem()?.to_str()?.parse::<i64>().ok().filter(|later| *later > base);
        if later(&path).is_some() {
            fs::remove_file(path).unwrap();
        }
    }
}

/// Reads all partitions until it is woken; says each record once it has it.
fn follow(store: &Store, wakers: &Sender<Waker>, seen: &Sender<(usize, Name)>) {
    let config = ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::None);
    let mut consumer = store.consumer_with(config).unwrap();
    consumer.assign_all(["t"]).unwrap();
    consumer.seek_to_beginning().unwrap();
    wakers.send(consumer.waker()).unwrap();
    let mut next = [0; PARTITIONS];
    loop {
        let records = match consumer.poll(LONG) {
            Err(error) if matches!(error.kind(), ErrorKind::Woken) => return,
            polled => polled.unwrap(),
        };
        for record in &records {
            let p = record.partition() as usize;
            assert_eq!(record.offset(), next[p], "partition {p}");
            next[p] += 1;
            seen.send((p, name(record.value().unwrap()))).unwrap();
        }
    }
}

/// What the final log holds, by partition and offset.
fn final_log(dir: &Path) -> Vec<Vec<Name>> {
    let store = Store::open(dir).unwrap();
    let topic = store.topic("t").unwrap();
    let read = |p| {
        let mut names = Vec::new();
        for records in topic.partition(p).unwrap().scan(0) {
            names.extend(records.unwrap().iter().map(|record| name(record.value().unwrap())));
        }
        names
    };
    let names = (0..PARTITIONS as i32).map(read).collect();
    store.close().unwrap();
    names
}

fn kills(count: u64, durability: Durability) {
    let mut random = Random(seed());
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("s");
    let mut acked = vec![BTreeMap::new(); PARTITIONS];
    // So that there is a topic to follow.
    write_and_kill(&dir, durability, 0, 1, Duration::ZERO, &mut acked);
    let reader = Store::open_read_only(&dir).unwrap();
    let (wakers, woken) = channel();
    let (seen, sees): (_, Receiver<(usize, Name)>) = channel();
    let mut followed = vec![Vec::new(); PARTITIONS];
    std::thread::scope(|scope| {
        let following = scope.spawn(|| follow(&reader, &wakers, &seen));
        for life in 1..=count {
            let more = Duration::from_micros(random.below(2_000));
            write_and_kill(&dir, durability, life, 1 + random.below(150), more, &mut acked);
            if durability == Durability::Disk && !random.one_in(3) {
                (0..PARTITIONS).for_each(|p| lose_uncommitted(&dir, p, &mut random));
            }
        }
        let log = final_log(&dir);
        let until = Instant::now() + LONG;
        while followed.iter().zip(&log).any(|(followed, log)| followed.len() < log.len()) {
            match sees.recv_timeout(Duration::from_secs(1)) {
                Ok((p, name)) => followed[p].push(name),
                Err(_) if following.is_finished() => break,
                Err(_) => {
                    let seen: Vec<_> = followed.iter().map(Vec::len).collect();
                    assert!(Instant::now() < until, "only {seen:?} records were seen");
                }
            }
        }
        woken.recv().unwrap().wake();
        following.join().unwrap();
        assert!(sees.try_recv().is_err(), "more than the log holds");
        assert!(followed == log, "the reader saw other records than the log holds");
    });
    let total: usize = acked.iter().map(BTreeMap::len).sum();
    for (followed, acked) in followed.iter().zip(acked) {
        for (offset, name) in acked {
            assert_eq!(followed.get(offset as usize), Some(&name), "acknowledged at {offset}");
        }
    }
    eprintln!("{count} kills, {total} records acknowledged, {durability}");
}

#[test]
fn a_reader_beside_a_writer_that_is_killed_sees_what_is_committed_of_a_disk_topic() {
    kills(5, Durability::Disk);
}

#[test]
fn a_reader_beside_a_writer_that_is_killed_sees_what_is_committed_of_a_page_cache_topic() {
    kills(5, Durability::PageCache);
}

#[test]
#[ignore = "fifty kills each: .ci/run calls it"]
fn fifty_kills_show_a_reader_every_committed_record_once_in_order_and_nothing_else() {
    kills(50, Durability::Disk);
    kills(50, Durability::PageCache);
}
