//! Prints every record of a store, or of a log directory made by Kafka, as one line of JSON.
//!
//! ```text
//! cargo run --example dump -- DIR [TOPIC]
//! ```
//!
//! Opens read-only: takes no lock and changes nothing. Bytes are base64; partitions come in the order of their
//! directories' names. `committed` says whether a reader that takes only committed records gets this one: it is
//! false for a record of an aborted transaction, and from the first record of a transaction that is still open.
//! Standard output holds records and nothing else. A partition that can not be read is reported on standard error,
//! the others are printed, and the exit code is 1.
//!
//! The walk: `main` → `dump` → `Transactions::of` (first pass: what was aborted, what is open) → `print` (second).

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use logstead::{ControlType, ErrorKind, Offset, Partition, RecordRef, Store, TimestampType};

const READ_BYTES: usize = 1 << 20;
/// The broker's own log of its cluster's metadata: not a topic, and its records are not data.
const METADATA_TOPIC: &str = "__cluster_metadata";

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let topic = args.get(1).and_then(|topic| topic.to_str());
    if args.is_empty() || args.len() > 2 || (args.len() == 2 && topic.is_none()) {
        eprintln!("usage: dump DIR [TOPIC]");
        return ExitCode::from(2);
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    match dump(Path::new(&args[0]), topic, &mut out) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Output(error)) => {
            eprintln!("dump: standard output: {error}");
            ExitCode::FAILURE
        }
        Err(Failure::Store(error)) => {
            eprintln!("dump: {error}");
            ExitCode::FAILURE
        }
        Err(Failure::NoTopic(why)) => {
            eprintln!("dump: {why}");
            ExitCode::FAILURE
        }
    }
}

/// What ends a dump.
#[derive(Debug)]
pub enum Failure {
    /// The store, or a partition of it, can not be read.
    Store(logstead::Error),
    /// The topic that was asked for is not there.
    NoTopic(String),
    /// The lines can not be written.
    Output(io::Error),
}

impl From<logstead::Error> for Failure {
    fn from(error: logstead::Error) -> Self {
        Failure::Store(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Output(error)
    }
}

/// Prints all records of `only`, or of every topic. Returns how many partitions could not be read to their end.
pub fn dump(dir: &Path, only: Option<&str>, out: &mut impl Write) -> Result<usize, Failure> {
    let store = Store::options().open_read_only(dir)?;
    let topics = match only {
        Some(topic) if !store.topic_names().iter().any(|name| name == topic) => {
            return Err(Failure::NoTopic(format!("no topic {topic:?} here, only {:?}", store.topic_names())));
        }
        Some(topic) => vec![topic.to_owned()],
        None => store.topic_names(),
    };
    let mut unreadable = 0;
    let mut partitions = Vec::new();
    for topic in topics.iter().filter(|topic| *topic != METADATA_TOPIC) {
        let topic = store.topic(topic)?;
        for p in 0..i32::try_from(topic.partitions()).unwrap_or(i32::MAX) {
            partitions.push((format!("{}-{p}", topic.name()), topic.clone(), p));
        }
    }
    partitions.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, topic, p) in &partitions {
        let printed = match topic.partition(*p) {
            Ok(partition) => print(&partition, name, out),
            // A broker keeps some partitions of a topic, not always all.
            Err(error) if matches!(error.kind(), ErrorKind::UnknownPartition { .. }) => continue,
            Err(error) => Err(error.into()),
        };
        match printed {
            Ok(()) => {}
            Err(Failure::Store(error)) => {
                eprintln!("dump: {name}: {error}");
                unreadable += 1;
            }
            Err(other) => return Err(other),
        }
    }
    out.flush()?;
    Ok(unreadable)
}

/// The partition's records, batch by batch, in memory bounded by [`READ_BYTES`].
fn print(partition: &Partition, name: &str, out: &mut impl Write) -> Result<(), Failure> {
    let transactions = Transactions::of(partition)?;
    let start = partition.log_start_offset();
    let mut line = String::new();
    each_batch(partition, |batch| {
        if batch.is_control() {
            return Ok(());
        }
        let kind = match batch.timestamp_type() {
            TimestampType::LogAppendTime => "LogAppendTime",
            _ => "CreateTime",
        };
        let aborted =
            batch.is_transactional() && transactions.aborted(batch.producer_id(), batch.base_offset());
        // A batch can begin before the start of the log: records may have been deleted up to its middle.
        for record in batch.records().filter(|record| record.offset() >= start) {
            let committed = !aborted && record.offset() < transactions.last_stable_offset;
            line.clear();
            json_line(&mut line, name, &record, kind, committed);
            out.write_all(line.as_bytes())?;
        }
        Ok(())
    })
}

fn each_batch(
    partition: &Partition,
    mut see: impl FnMut(logstead::BatchRef<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let end = partition.high_watermark();
    let mut from = partition.log_start_offset();
    while from < end {
        let records = partition.read(from, READ_BYTES)?;
        for batch in records.batches() {
            see(batch)?;
        }
        let Some(next) = records.next_offset() else { break };
        from = next;
    }
    Ok(())
}

// ───────── transactions

/// Which batches of a partition a reader of committed records does not get. Markers name their transaction by the
/// producer's id alone.
#[derive(Debug, Default)]
struct Transactions {
    /// First data offset of the transaction that each producer has open.
    open: HashMap<i64, Offset>,
    /// First data offset and marker of each aborted transaction, by producer, in order.
    aborted: HashMap<i64, Vec<(Offset, Offset)>>,
    last_stable_offset: Offset,
}

impl Transactions {
    fn of(partition: &Partition) -> Result<Self, Failure> {
        let mut transactions = Transactions::default();
        each_batch(partition, |batch| {
            if batch.is_control() {
                transactions.marker(batch.producer_id(), batch.base_offset(), batch.control_type());
            } else if batch.is_transactional() {
                transactions.data(batch.producer_id(), batch.base_offset());
            }
            Ok(())
        })?;
        transactions.end(partition.high_watermark());
        Ok(transactions)
    }

    fn data(&mut self, producer_id: i64, at: Offset) {
        self.open.entry(producer_id).or_insert(at);
    }

    fn marker(&mut self, producer_id: i64, at: Offset, control: Option<ControlType>) {
        match control {
            Some(ControlType::Abort) => {
                if let Some(first) = self.open.remove(&producer_id) {
                    self.aborted.entry(producer_id).or_default().push((first, at));
                }
            }
            Some(ControlType::Commit) => {
                self.open.remove(&producer_id);
            }
            _ => {}
        }
    }

    fn end(&mut self, high_watermark: Offset) {
        self.last_stable_offset = self.open.values().copied().min().unwrap_or(high_watermark);
    }

    fn aborted(&self, producer_id: i64, at: Offset) -> bool {
        let Some(ranges) = self.aborted.get(&producer_id) else { return false };
        let next = ranges.partition_point(|(_, marker)| *marker < at);
        ranges.get(next).is_some_and(|(first, _)| *first <= at)
    }
}

// ───────── JSON

fn json_line(
    line: &mut String,
    partition: &str,
    record: &RecordRef<'_>,
    timestamp_type: &str,
    committed: bool,
) {
    let (offset, timestamp) = (record.offset(), record.timestamp_ms());
    *line += r#"{"type":"record","partition":"#;
    json_text(line, partition);
    *line += &format!(r#","offset":{offset},"timestamp":{timestamp},"key":"#);
    json_bytes(line, record.key());
    *line += r#","value":"#;
    json_bytes(line, record.value());
    *line += r#","headers":["#;
    for (i, header) in record.headers().into_iter().enumerate() {
        *line += if i == 0 { "[" } else { ",[" };
        json_text(line, header.key);
        line.push(',');
        json_bytes(line, header.value);
        line.push(']');
    }
    *line += &format!("],\"timestamp_type\":\"{timestamp_type}\",\"committed\":{committed}}}\n");
}

/// A string, escaped as Kafka's tools do.
pub fn json_text(line: &mut String, text: &str) {
    line.push('"');
    for c in text.chars() {
        match c {
            '"' => *line += "\\\"",
            '\\' => *line += "\\\\",
            '\n' => *line += "\\n",
            '\r' => *line += "\\r",
            '\t' => *line += "\\t",
            '\u{8}' => *line += "\\b",
            '\u{c}' => *line += "\\f",
            c if c < ' ' => *line += &format!("\\u{:04X}", u32::from(c)),
            c => line.push(c),
        }
    }
    line.push('"');
}

/// Standard base64 with padding, or null.
pub fn json_bytes(line: &mut String, bytes: Option<&[u8]>) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let Some(bytes) = bytes else {
        *line += "null";
        return;
    };
    line.push('"');
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            line.push(if digit <= chunk.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    line.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base64(bytes: &[u8]) -> String {
        let mut line = String::new();
        json_bytes(&mut line, Some(bytes));
        line.trim_matches('"').to_owned()
    }

    #[test]
    fn base64_has_the_vectors_of_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xbf]), "+/+/");
    }

    #[test]
    fn absent_bytes_are_null_and_empty_ones_are_not() {
        let mut line = String::new();
        json_bytes(&mut line, None);
        json_bytes(&mut line, Some(b""));
        assert_eq!(line, "null\"\"");
    }

    #[test]
    fn text_is_escaped_as_json_asks() {
        let mut line = String::new();
        json_text(&mut line, "größe \"x\" \\ \n\r\t\u{8}\u{c}\u{1b}/");
        assert_eq!(line, r#""größe \"x\" \\ \n\r\t\b\f\u001B/""#);
    }

    #[test]
    fn an_abort_hides_its_own_producer_only() {
        let mut seen = Transactions::default();
        seen.data(1, 0);
        seen.data(2, 5);
        seen.data(1, 7);
        seen.marker(1, 9, Some(ControlType::Abort));
        seen.data(1, 10);
        seen.marker(2, 12, Some(ControlType::Commit));
        seen.marker(1, 13, Some(ControlType::Commit));
        seen.data(1, 14);
        seen.marker(1, 15, Some(ControlType::Abort));
        seen.marker(3, 16, Some(ControlType::Abort));
        seen.end(17);
        let hidden = |p, at| seen.aborted(p, at);
        assert!(hidden(1, 0) && hidden(1, 7) && hidden(1, 14));
        assert!(!hidden(1, 10) && !hidden(2, 5) && !hidden(3, 0) && !hidden(1, 16));
        assert_eq!(seen.last_stable_offset, 17);
    }

    #[test]
    fn the_earliest_open_transaction_is_the_end_of_what_is_stable() {
        let mut seen = Transactions::default();
        seen.data(1, 3);
        seen.data(2, 4);
        seen.data(1, 6);
        seen.marker(1, 8, Some(ControlType::Other(2)));
        seen.end(9);
        assert_eq!(seen.last_stable_offset, 3);
        seen.marker(1, 10, Some(ControlType::Abort));
        seen.end(11);
        assert_eq!(seen.last_stable_offset, 4);
    }
}
