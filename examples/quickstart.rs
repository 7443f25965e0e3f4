//! Writes a file of lines to a topic, reopens the store, reads everything back, and says what that took.
//!
//! ```text
//! cargo run --release --example quickstart                       # the flights in examples/data, temporary directory
//! cargo run --release --example quickstart -- --dir data my.csv  # a file of yours; the directory is kept
//! ```
//!
//! One line is one record. When the first line is a CSV header with the columns `tailnum` and `time_hour`, these
//! give the key and the timestamp; any other file is stored line by line, without keys, stamped with the time of
//! writing. Every record carries its row number in the header `row`: reading back proves the order with it.
//!
//! The walk: `main` → `parse` (arguments) → `run` → `write` → `read_back` → `look_up` → `report`.

// A program that uses the crate reads its own input as it likes; the ban is for the crate itself.
#![allow(clippy::disallowed_types, reason = "the input file is not the store's")]

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use logstead::{Compression, ErrorKind, Producer, ProducerConfig, Record, Store, Topic, TopicConfig, header};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/flights-sample.csv");
const HOUR_MS: i64 = 3_600_000;
/// What one direct read of a partition brings.
const READ_BYTES: usize = 1 << 20;

const USAGE: &str = "\
usage: quickstart [OPTIONS] [FILE|-]

  FILE                 a CSV or any file of lines; - is standard input; default: the flights in examples/data
  --dir DIR            where the store lives, kept at the end; default: a temporary directory, removed at the end
  --topic NAME         default: flights
  --partitions N       of a new topic; default: 4
  --compression CODEC  none, lz4 or zstd (gzip and snappy with the features of that name); default: zstd
  --help";

fn main() -> ExitCode {
    let settings = match parse(std::env::args().skip(1)) {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("quickstart: {why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("quickstart: {failure}");
            ExitCode::FAILURE
        }
    }
}

// ───────── arguments

#[derive(Debug, PartialEq)]
struct Settings {
    dir: Option<PathBuf>,
    topic: String,
    /// `None`: 4 for a new topic, whatever an existing one has.
    partitions: Option<u32>,
    compression: Compression,
    input: Input,
}

#[derive(Debug, PartialEq)]
enum Input {
    Stdin,
    File(PathBuf),
}

/// `None` when help was asked for.
fn parse(args: impl IntoIterator<Item = String>) -> Result<Option<Settings>, String> {
    let mut settings = Settings {
        dir: None,
        topic: "flights".to_owned(),
        partitions: None,
        compression: Compression::Zstd,
        input: Input::File(SAMPLE.into()),
    };
    let mut input = None;
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--help" | "-h" => return Ok(None),
            "--dir" => settings.dir = Some(value()?.into()),
            "--topic" => settings.topic = value()?,
            "--partitions" => {
                let n = value()?;
                settings.partitions = Some(n.parse().map_err(|_| format!("--partitions {n}: not a number"))?);
            }
            "--compression" => {
                settings.compression = value()?.parse().map_err(|e| format!("--compression: {e}"))?
            }
            "-" => input = Some(Input::Stdin),
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            _ if input.is_some() => return Err(format!("{arg}: only one input is taken")),
            file => input = Some(Input::File(file.into())),
        }
    }
    settings.input = input.unwrap_or(settings.input);
    Ok(Some(settings))
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Input::Stdin => f.write_str("standard input"),
            Input::File(path) => write!(f, "{}", path.display()),
        }
    }
}

// ───────── what can go wrong

#[derive(Debug)]
enum Failure {
    /// The input can not be opened or read.
    Input {
        name: String,
        error: io::Error,
    },
    /// A line of the input can not be stored; the lines before it are.
    Line {
        name: String,
        line: u64,
        why: String,
        stored: u64,
        place: String,
    },
    /// No temporary directory.
    Temporary(io::Error),
    /// The existing topic is not what was asked for.
    Partitions {
        topic: String,
        asked: u32,
        has: u32,
    },
    /// What was read is not what was written.
    Mismatch(String),
    Store(logstead::Error),
    Output(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Input { name, error } => write!(f, "{name}: {error}"),
            Failure::Line { name, line, why, stored, place } => {
                write!(f, "{name}, line {line}: {why}; the records before it ({stored}) were stored")?;
                write!(f, ", nothing after it, in {place}")
            }
            Failure::Temporary(error) => write!(f, "no temporary directory: {error}; choose one with --dir"),
            Failure::Partitions { topic, asked, has } => {
                write!(f, "topic {topic:?} exists with {has} partitions, not {asked}: leave --partitions out")
            }
            Failure::Mismatch(what) => write!(f, "read back something else than was written: {what}"),
            Failure::Store(error) => write!(f, "{error}"),
            Failure::Output(error) => write!(f, "standard output: {error}"),
        }
    }
}

impl Failure {
    /// A line that failed, with the place where the lines before it are.
    fn in_place(self, place: &str) -> Failure {
        match self {
            Failure::Line { name, line, why, stored, .. } => {
                Failure::Line { name, line, why, stored, place: place.to_owned() }
            }
            other => other,
        }
    }
}

impl From<logstead::Error> for Failure {
    fn from(error: logstead::Error) -> Self {
        Failure::Store(error)
    }
}

// ───────── the walk

fn run(settings: &Settings) -> Result<(), Failure> {
    let lines = Lines::open(&settings.input)?;
    match &settings.dir {
        Some(dir) => demonstrate(settings, lines, dir, "kept"),
        None => {
            let dir = tempfile::Builder::new().prefix("logstead-").tempdir().map_err(Failure::Temporary)?;
            demonstrate(settings, lines, dir.path(), "temporary, removed at the end; --dir DIR keeps it")
        }
    }
}

fn demonstrate(settings: &Settings, lines: Lines, dir: &Path, fate: &str) -> Result<(), Failure> {
    let store = Store::open(dir)?;
    let topic = topic_for(&store, settings)?;
    let before = ends(&topic)?;
    let bytes_before = bytes_on_disk(&topic)?;
    let written = write(&store, &topic, settings.compression, lines);
    drop(topic);
    store.close()?; // also after a bad line: what came before it is on disk
    let place = format!("{} ({fate})", dir.display());
    let written = written.map_err(|failure| failure.in_place(&place))?;

    let store = Store::open(dir)?;
    let topic = store.topic(&settings.topic)?;
    let read = read_back(&store, &topic, &before)?;
    if read.tally != written.tally {
        return Err(Failure::Mismatch(format!("{:?}, written were {:?}", read.tally, written.tally)));
    }
    let found = look_up(&topic, &before, &written)?;
    let on_disk = bytes_on_disk(&topic)?.saturating_sub(bytes_before);
    let partitions = topic.partitions();
    drop(topic);
    store.close()?;

    report(settings, partitions, &written, &read, found.as_ref(), on_disk, &place).map_err(Failure::Output)
}

/// The topic of that name: an existing one is appended to.
fn topic_for(store: &Store, settings: &Settings) -> Result<Topic, Failure> {
    match store.topic(&settings.topic) {
        Ok(topic) => match settings.partitions {
            Some(asked) if asked != topic.partitions() => {
                Err(Failure::Partitions { topic: settings.topic.clone(), asked, has: topic.partitions() })
            }
            _ => Ok(topic),
        },
        Err(error) if matches!(error.kind(), ErrorKind::UnknownTopic { .. }) => {
            // Its rows may be of long ago: they are not old for that.
            let config =
                TopicConfig::default().partitions(settings.partitions.unwrap_or(4)).retention_ms(None);
            Ok(store.create_topic(&settings.topic, config)?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Where each partition ends now.
fn ends(topic: &Topic) -> Result<Vec<i64>, Failure> {
    partition_ids(topic).map(|p| Ok(topic.partition(p)?.log_end_offset())).collect()
}

fn bytes_on_disk(topic: &Topic) -> Result<u64, Failure> {
    partition_ids(topic).map(|p| Ok(topic.partition(p)?.size_bytes())).sum()
}

fn partition_ids(topic: &Topic) -> std::ops::Range<i32> {
    0..i32::try_from(topic.partitions()).unwrap_or(i32::MAX)
}

// ───────── writing

/// What was written or read, in a form that can be compared.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    records: u64,
    value_bytes: u64,
    /// Sum of the hashes of key, time and value: the same in any order.
    digest: u64,
}

impl Tally {
    fn count(&mut self, key: Option<&[u8]>, timestamp_ms: i64, value: &[u8]) {
        let mut hasher = DefaultHasher::new();
        (key, timestamp_ms, value).hash(&mut hasher);
        self.records += 1;
        self.value_bytes += value.len() as u64;
        self.digest = self.digest.wrapping_add(hasher.finish());
    }
}

struct Written {
    tally: Tally,
    /// Records per hour (hours since 1970).
    hours: HashMap<i64, u64>,
    took: Duration,
}

fn write(store: &Store, topic: &Topic, compression: Compression, lines: Lines) -> Result<Written, Failure> {
    let producer = store.producer_with(ProducerConfig::default().compression(compression))?;
    let started = Instant::now();
    let mut written = Written { tally: Tally::default(), hours: HashMap::new(), took: Duration::ZERO };
    let sent = send_all(&producer, topic, lines, &mut written);
    producer.flush()?; // returns when every record sent above is safe, or says why not
    written.took = started.elapsed();
    producer.close()?;
    sent.map(|()| written)
}

fn send_all(
    producer: &Producer,
    topic: &Topic,
    mut lines: Lines,
    written: &mut Written,
) -> Result<(), Failure> {
    let mut progress = Progress::new();
    while let Some(row) = lines.next(written.tally.records)? {
        let number = written.tally.records.to_string();
        let headers = [header("row", &number)];
        let mut record = Record::to(topic).value(row.text).headers(&headers).timestamp_ms(row.timestamp_ms);
        if let Some(key) = &row.key {
            record = record.key(key.as_ref());
        }
        if let Err(error) = producer.send(record) {
            return Err(match error.kind() {
                ErrorKind::RecordTooLarge { .. } | ErrorKind::InvalidTimestamp { .. } => {
                    lines.bad(error.to_string(), written.tally.records)
                }
                _ => error.into(),
            });
        }
        written.tally.count(row.key.as_deref().map(str::as_bytes), row.timestamp_ms, row.text.as_bytes());
        *written.hours.entry(row.timestamp_ms.div_euclid(HOUR_MS)).or_default() += 1;
        progress.show("written", &written.tally);
    }
    Ok(())
}

// ───────── reading

struct Read {
    tally: Tally,
    keys: usize,
    took: Duration,
}

/// Reads the whole topic and checks the records of this run: each once, and in order for each key.
fn read_back(store: &Store, topic: &Topic, before: &[i64]) -> Result<Read, Failure> {
    let mut read = Read { tally: Tally::default(), keys: 0, took: Duration::ZERO };
    let mut order = Order::default();
    let mut progress = Progress::new();
    let mut left: i64 = 0;
    for p in partition_ids(topic) {
        let partition = topic.partition(p)?;
        left += partition.high_watermark() - partition.log_start_offset();
    }
    let started = Instant::now();
    let mut consumer = store.consumer()?;
    consumer.assign_all([topic.name()])?;
    consumer.seek_to_beginning()?;
    while left > 0 {
        let records = consumer.poll(Duration::from_secs(1))?;
        if records.is_empty() {
            return Err(Failure::Mismatch(format!("{left} records are missing")));
        }
        for record in &records {
            left -= 1;
            if record.offset() < before[record.partition() as usize] {
                continue; // was there before this run
            }
            let row = record.headers().into_iter().find(|h| h.key == "row").and_then(|h| h.value);
            order.check(record.key(), record.partition(), row)?;
            read.tally.count(record.key(), record.timestamp_ms(), record.value().unwrap_or_default());
        }
        progress.show("read", &read.tally);
    }
    read.took = started.elapsed();
    read.keys = order.last_by_key.len();
    Ok(read)
}

/// Row numbers grow for each key, and for records without a key within each partition.
#[derive(Default)]
struct Order {
    last_by_key: HashMap<Vec<u8>, u64>,
    last_keyless: HashMap<i32, u64>,
}

impl Order {
    fn check(&mut self, key: Option<&[u8]>, partition: i32, row: Option<&[u8]>) -> Result<(), Failure> {
        let row: u64 = row
            .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
            .ok_or(Failure::Mismatch("a record without its row number".to_owned()))?;
        let last = match key {
            Some(key) => match self.last_by_key.get_mut(key) {
                Some(last) => Some(std::mem::replace(last, row)),
                None => self.last_by_key.insert(key.to_vec(), row),
            },
            None => self.last_keyless.insert(partition, row),
        };
        match last {
            Some(last) if last >= row => {
                let key = key.map_or("none".into(), String::from_utf8_lossy);
                Err(Failure::Mismatch(format!("key {key}: row {row} comes after row {last}")))
            }
            _ => Ok(()),
        }
    }
}

struct Found {
    hour_ms: i64,
    records: u64,
    /// Partition and offset of the first one found.
    first: (i32, i64),
    took: Duration,
}

/// Finds all records of the busiest hour: the time index says where they may begin. Event times are out of order,
/// so the rest of the partition is read.
fn look_up(topic: &Topic, before: &[i64], written: &Written) -> Result<Option<Found>, Failure> {
    let busiest = written.hours.iter().max_by_key(|(hour, count)| (**count, -**hour));
    let Some((&hour, &expected)) = busiest else { return Ok(None) };
    let hour_ms = hour * HOUR_MS;
    let started = Instant::now();
    let mut count = 0;
    let mut first = None;
    for (p, before) in partition_ids(topic).zip(before) {
        let partition = topic.partition(p)?;
        let Some((mut from, _)) = partition.offset_for_time(hour_ms)? else { continue };
        while from < partition.high_watermark() {
            let records = partition.read(from, READ_BYTES)?;
            for record in &records {
                let here = record.timestamp_ms().div_euclid(HOUR_MS) == hour && record.offset() >= *before;
                if here {
                    count += 1;
                    first.get_or_insert((p, record.offset()));
                }
            }
            let Some(next) = records.next_offset() else { break };
            from = next;
        }
    }
    match first {
        Some(first) if count == expected => {
            Ok(Some(Found { hour_ms, records: count, first, took: started.elapsed() }))
        }
        _ => Err(Failure::Mismatch(format!("{count} records of {}, not {expected}", utc(hour_ms)))),
    }
}

// ───────── what a person wants to see

fn report(
    settings: &Settings,
    partitions: u32,
    written: &Written,
    read: &Read,
    found: Option<&Found>,
    on_disk: u64,
    place: &str,
) -> io::Result<()> {
    let tally = &written.tally;
    let raw = tally.value_bytes;
    let mut out = io::stdout().lock();
    writeln!(out, "input      {}", settings.input)?;
    writeln!(
        out,
        "topic      {}, {partitions} partitions, compression {}",
        settings.topic, settings.compression
    )?;
    writeln!(out, "records    {} in {} bytes of values", grouped(tally.records), grouped(raw))?;
    writeln!(out, "on disk    {} bytes, ratio {:.2}", grouped(on_disk), raw as f64 / on_disk.max(1) as f64)?;
    writeln!(out, "written    {}, all of it committed", rate(tally, written.took))?;
    let order = match read.keys {
        0 => "in order in each partition".to_owned(),
        keys => format!("in order for each of {} keys", grouped(keys as u64)),
    };
    writeln!(out, "read back  {}, {order}", rate(tally, read.took))?;
    if let Some(Found { hour_ms, records, first: (partition, offset), took }) = found {
        let hour = utc(*hour_ms);
        let at = format!("first at offset {offset} of partition {partition}");
        writeln!(
            out,
            "one hour   {hour}: {} records, {at}, {:.1} ms",
            grouped(*records),
            took.as_secs_f64() * 1e3
        )?;
    }
    writeln!(out, "files      {place}")
}

fn rate(tally: &Tally, took: Duration) -> String {
    let seconds = took.as_secs_f64().max(1e-6);
    let per_second = grouped((tally.records as f64 / seconds) as u64);
    format!("{per_second} records/s, {:.0} MB/s, {seconds:.3} s", tally.value_bytes as f64 / seconds / 1e6)
}

/// 1234567 as `1,234,567`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A line on standard error that is written over, when a person looks at it.
struct Progress {
    shown: Option<Instant>,
    calls: u64,
    terminal: bool,
}

impl Progress {
    fn new() -> Self {
        Progress { shown: None, calls: 0, terminal: io::stderr().is_terminal() }
    }

    fn show(&mut self, what: &str, tally: &Tally) {
        self.calls += 1;
        let due = |shown: Option<Instant>| shown.is_none_or(|t| t.elapsed() > Duration::from_millis(100));
        if self.terminal && self.calls.is_multiple_of(256) && due(self.shown) {
            let megabytes = tally.value_bytes as f64 / 1e6;
            eprint!("\r{} records {what}, {megabytes:.1} MB\x1b[K", grouped(tally.records));
            self.shown = Some(Instant::now());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

// ───────── the input

/// The lines of the input as records.
struct Lines {
    name: String,
    reader: Box<dyn BufRead>,
    line: Vec<u8>,
    number: u64,
    columns: Option<Columns>,
}

/// Which columns hold key and time.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Columns {
    tailnum: usize,
    time_hour: usize,
}

struct Row<'a> {
    text: &'a str,
    key: Option<Cow<'a, str>>,
    timestamp_ms: i64,
}

impl Lines {
    fn open(input: &Input) -> Result<Lines, Failure> {
        let name = input.to_string();
        let reader: Box<dyn BufRead> = match input {
            Input::Stdin => Box::new(BufReader::new(io::stdin())),
            Input::File(path) => match File::open(path) {
                Ok(file) => Box::new(BufReader::with_capacity(1 << 16, file)),
                Err(error) => return Err(Failure::Input { name, error }),
            },
        };
        Ok(Lines { name, reader, line: Vec::new(), number: 0, columns: None })
    }

    /// The next row; `stored` is how many there were before, for the error.
    fn next(&mut self, stored: u64) -> Result<Option<Row<'_>>, Failure> {
        if !self.advance()? {
            return Ok(None);
        }
        if self.number == 1 {
            self.columns = std::str::from_utf8(&self.line).ok().and_then(Columns::from_header);
            if self.columns.is_some() && !self.advance()? {
                return Ok(None);
            }
        }
        let bad = |why| self.bad(why, stored);
        let text = std::str::from_utf8(&self.line)
            .map_err(|e| bad(format!("not UTF-8 at byte {} of the line", e.valid_up_to() + 1)))?;
        let Some(columns) = self.columns else {
            return Ok(Some(Row { text, key: None, timestamp_ms: now_ms() }));
        };
        let key = field(text, columns.tailnum).filter(|key| !key.is_empty() && *key != "NA");
        let time = field(text, columns.time_hour).unwrap_or_default();
        let timestamp_ms = parse_utc(&time)
            .ok_or_else(|| bad(format!("time_hour {time:?} is not like 2013-02-04T10:00:00Z")))?;
        Ok(Some(Row { text, key, timestamp_ms }))
    }

    /// That the line read last can not be stored.
    fn bad(&self, why: String, stored: u64) -> Failure {
        Failure::Line { name: self.name.clone(), line: self.number, why, stored, place: String::new() }
    }

    /// Reads one line, without its end. False at the end of the input.
    fn advance(&mut self) -> Result<bool, Failure> {
        self.line.clear();
        match self.reader.read_until(b'\n', &mut self.line) {
            Err(error) => return Err(Failure::Input { name: self.name.clone(), error }),
            Ok(0) => return Ok(false),
            Ok(_) => self.number += 1,
        }
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
            if self.line.last() == Some(&b'\r') {
                self.line.pop();
            }
        }
        Ok(true)
    }
}

impl Columns {
    fn from_header(line: &str) -> Option<Columns> {
        let line = line.strip_prefix('\u{feff}').unwrap_or(line);
        let position = |name| (0..).map_while(|i| field(line, i)).position(|f| f == name);
        Some(Columns { tailnum: position("tailnum")?, time_hour: position("time_hour")? })
    }
}

/// The n-th field of a CSV line. A field may stand in double quotes, where a doubled quote is one; it may hold
/// commas then, but no line end: a record is a line.
fn field(line: &str, n: usize) -> Option<Cow<'_, str>> {
    let mut rest = line;
    for i in 0.. {
        let end = field_end(rest);
        if i == n {
            return Some(unquoted(&rest[..end]));
        }
        rest = rest.get(end + 1..)?;
    }
    None
}

fn field_end(rest: &str) -> usize {
    if !rest.starts_with('"') {
        return rest.find(',').unwrap_or(rest.len());
    }
    let mut quoted = false;
    for (i, byte) in rest.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted => return i,
            _ => {}
        }
    }
    rest.len()
}

fn unquoted(field: &str) -> Cow<'_, str> {
    match field.strip_prefix('"').and_then(|f| f.strip_suffix('"')) {
        Some(inner) if inner.contains('"') => inner.replace("\"\"", "\"").into(),
        Some(inner) => inner.into(),
        None => field.into(),
    }
}

// ───────── time

fn now_ms() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}

/// `2013-02-04T10:00:00Z` (a fraction of a second may follow the seconds) as milliseconds since 1970.
fn parse_utc(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let in_range = (1..=12).contains(&month)
        && (1..=days_of_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60
        && !fraction.is_empty()
        && fraction.bytes().all(|b| b.is_ascii_digit());
    let ms: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    in_range.then(|| {
        let seconds = (days_since_1970(year, month, day) * 24 + hour) * 3_600 + minute * 60 + second;
        seconds * 1_000 + ms
    })
}

/// Three numbers of exactly these widths.
fn numbers(text: &str, separator: char, widths: [usize; 3]) -> Option<[i64; 3]> {
    let mut parts = text.split(separator);
    let mut out = [0; 3];
    for (number, width) in out.iter_mut().zip(widths) {
        let part = parts.next().filter(|p| p.len() == width && p.bytes().all(|b| b.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(out)
}

fn days_of_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March here, so that a leap day is the last day of its year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (153 * month + 2) / 5 + (day - 1) - 719_468
}

/// The hour of a time, as [`parse_utc`] reads it.
fn utc(ms: i64) -> String {
    let (day, hour) = (ms.div_euclid(24 * HOUR_MS), ms.rem_euclid(24 * HOUR_MS) / HOUR_MS);
    let mut year = 1970 + day.div_euclid(366);
    while days_since_1970(year + 1, 1, 1) <= day {
        year += 1;
    }
    let mut left = day - days_since_1970(year, 1, 1);
    let mut month = 1;
    while left >= days_of_month(year, month) {
        left -= days_of_month(year, month);
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}T{hour:02}:00:00Z", left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Result<Option<Settings>, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_understood_or_refused_with_a_reason() {
        let settings = args("--dir d --topic t --partitions 7 --compression lz4 -").unwrap().unwrap();
        assert_eq!(settings.dir, Some("d".into()));
        assert_eq!((settings.topic.as_str(), settings.partitions), ("t", Some(7)));
        assert_eq!((settings.compression, settings.input), (Compression::Lz4, Input::Stdin));
        assert_eq!(args("").unwrap().unwrap().input, Input::File(SAMPLE.into()));
        assert_eq!(args("--help").unwrap(), None);
        for (line, why) in [
            ("--dir", "--dir needs a value"),
            ("--partitions x", "--partitions x: not a number"),
            ("--partitions -1", "--partitions -1: not a number"),
            ("--frobnicate", "unknown option --frobnicate"),
            ("a b", "b: only one input is taken"),
        ] {
            assert_eq!(args(line).unwrap_err(), why);
        }
        assert!(args("--compression brotli").unwrap_err().starts_with("--compression: "));
    }

    #[test]
    fn utc_times_are_read_and_printed() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:00:00Z", -HOUR_MS),
            ("2013-01-01T10:00:00Z", 1_357_034_400_000),
            ("2000-02-29T00:00:00Z", 951_782_400_000),
            ("2100-03-01T00:00:00Z", 4_107_542_400_000),
        ] {
            assert_eq!(parse_utc(text), Some(ms), "{text}");
            assert_eq!(utc(ms), text);
        }
        assert_eq!(parse_utc("1970-01-01T00:00:01.5Z"), Some(1_500));
        assert_eq!(parse_utc("1970-01-01T00:00:01.123456Z"), Some(1_123));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "NA",
            "2013-01-01",
            "2013-01-01T10:00:00",
            "2013-01-01T10:00:00+01:00",
            "2013-13-01T10:00:00Z",
            "2013-02-29T10:00:00Z",
            "2013-01-01T24:00:00Z",
            "2013-01-01T10:00:00.Z",
            "13-1-1T1:0:0Z",
            "2013-01-01-01T10:00:00Z",
        ] {
            assert_eq!(parse_utc(text), None, "{text}");
        }
    }

    #[test]
    fn fields_may_be_quoted() {
        let line = r#"a,"b,c","say ""hi""",,e"#;
        let fields: Vec<_> = (0..).map_while(|i| field(line, i)).collect();
        assert_eq!(fields, ["a", "b,c", "say \"hi\"", "", "e"]);
        assert_eq!(field("", 0).as_deref(), Some(""));
        assert_eq!(field("", 1), None);
    }

    #[test]
    fn a_header_is_known_by_its_columns() {
        assert_eq!(
            Columns::from_header("x,time_hour,\"tailnum\""),
            Some(Columns { tailnum: 2, time_hour: 1 })
        );
        assert_eq!(Columns::from_header("time_hour,y"), None);
        assert_eq!(Columns::from_header("tailnum"), None);
    }

    fn lines(text: &'static [u8]) -> Lines {
        Lines { name: "test".into(), reader: Box::new(text), line: Vec::new(), number: 0, columns: None }
    }

    #[test]
    fn rows_carry_key_and_time() {
        let mut lines = lines(b"tailnum,time_hour\r\nN1,1970-01-01T01:00:00Z\r\nNA,1970-01-01T00:00:00Z");
        let row = lines.next(0).unwrap().unwrap();
        assert_eq!((row.key.as_deref(), row.timestamp_ms), (Some("N1"), HOUR_MS));
        assert_eq!(row.text, "N1,1970-01-01T01:00:00Z");
        assert_eq!(lines.next(1).unwrap().unwrap().key, None);
        assert!(lines.next(2).unwrap().is_none());
    }

    #[test]
    fn a_line_that_is_not_utf8_is_named() {
        let mut lines = lines(b"one\ntwo\n\xff\xfe\n");
        assert_eq!(lines.next(0).unwrap().unwrap().text, "one");
        assert_eq!(lines.next(1).unwrap().unwrap().text, "two");
        let failure = lines.next(2).err().unwrap().in_place("/d (kept)").to_string();
        let said = "test, line 3: not UTF-8 at byte 1 of the line; \
                    the records before it (2) were stored, nothing after it, in /d (kept)";
        assert_eq!(failure, said);
    }

    #[test]
    fn order_is_kept_per_key() {
        let mut order = Order::default();
        assert!(order.check(Some(b"a"), 0, Some(b"5")).is_ok());
        assert!(order.check(Some(b"b"), 0, Some(b"1")).is_ok());
        assert!(order.check(Some(b"a"), 0, Some(b"5")).is_err());
        assert!(order.check(None, 1, Some(b"9")).is_ok());
        assert!(order.check(None, 2, Some(b"3")).is_ok());
        assert!(order.check(None, 1, None).is_err());
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 12, 999, 1_000, 1_234_567].map(grouped), ["0", "12", "999", "1,000", "1,234,567"]);
    }
}
