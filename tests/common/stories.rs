//! Random directories of ours: each comes from a seed, which decides what happened to a store and what is left of it.
//!
//! They are written on the simulated disk, where a sync costs nothing and a power cut leaves what it likes, and then
//! put on the real one for others to read.

#![allow(dead_code, reason = "each test tells other stories")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic and look around")]

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use logstead::{
    Acks, Compression, Durability, Header, ManualClock, ProducerConfig, Record, SimDisk, Store, StoreOptions,
    TimestampType, Topic, TopicConfig,
};
use serde_json::json;

use super::common::{Random, manual};
use super::dump::{json_bytes, json_text};
use super::oracle::compare;

const ROOT: &str = "/s/data";
/// A copy that `Store::checkpoint` made.
const COPY: &str = "/s/copy";
const T0: i64 = 1_700_000_000_000;

/// What a story is about; its seed decides, so that a row of seeds has them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Plain,
    Codecs,
    HeadersAndNulls,
    OddTimes,
    SmallSegments,
    FullIndexes,
    AppendTime,
    TopicCodec,
    ManyPartitions,
    Producers,
    Large,
    PageCache,
    Reopened,
    Altered,
    MadeAnew,
    Copied,
    /// A process died, and the next one recovered.
    KilledRecovered,
    /// As a process left it that died.
    Killed,
    /// The power went, and the next start recovered.
    CrashedRecovered,
    /// As the power cut left it.
    Crashed,
}

/// All of them, in the order in which seeds go through them.
pub(crate) const KINDS: [Kind; 20] = [
    Kind::Plain,
    Kind::Codecs,
    Kind::HeadersAndNulls,
    Kind::OddTimes,
    Kind::SmallSegments,
    Kind::FullIndexes,
    Kind::AppendTime,
    Kind::TopicCodec,
    Kind::ManyPartitions,
    Kind::Producers,
    Kind::Large,
    Kind::PageCache,
    Kind::Reopened,
    Kind::Altered,
    Kind::MadeAnew,
    Kind::Copied,
    Kind::KilledRecovered,
    Kind::Killed,
    Kind::CrashedRecovered,
    Kind::Crashed,
];

/// How much a reader may expect of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Closed in order; each segment was written in one go, so that even index entries follow from the log alone.
    ClosedAtOnce,
    /// Closed in order.
    Closed,
    /// A process died: all that it wrote is there.
    Killed,
    /// The power went: behind what was synced anything may be there.
    Crashed,
}

/// A directory, and what was sent to it.
pub(crate) struct Story {
    pub(crate) seed: u64,
    pub(crate) kind: Kind,
    pub(crate) state: State,
    disk: SimDisk,
    root: &'static str,
    clock: ManualClock,
    random: Random,
    word: String,
    topics: BTreeMap<String, TopicConfig>,
    /// Records by their places, and whether a crash must leave them.
    sent: BTreeMap<(String, i64), (String, bool)>,
}

/// Tells the story of a seed.
pub(crate) fn tell(seed: u64) -> Story {
    tell_as(seed, "")
}

/// Tells it with topics whose names begin with a word.
pub(crate) fn tell_as(seed: u64, word: &str) -> Story {
    let kind = KINDS[(seed % KINDS.len() as u64) as usize];
    let mut story = Story {
        seed,
        kind,
        state: State::ClosedAtOnce,
        disk: SimDisk::new(seed),
        root: ROOT,
        clock: ManualClock::new(T0 as u64),
        random: Random(seed),
        word: word.to_owned(),
        topics: BTreeMap::new(),
        sent: BTreeMap::new(),
    };
    story.go();
    story
}

impl Story {
    pub(crate) fn name(&self) -> String {
        format!("{}-{:?}", self.seed, self.kind)
    }

    pub(crate) fn topic_names(&self) -> Vec<String> {
        self.topics.keys().cloned().collect()
    }

    /// Which command tells it again.
    pub(crate) fn replay(&self) -> String {
        format!("{:?}, replay with LOGSTEAD_SEED={}", self.kind, self.seed)
    }

    /// Puts the directory on the real disk, with the settings beside it that Kafka's judge needs to know.
    pub(crate) fn put(&self, home: &Path) -> PathBuf {
        let dir = home.join(self.name());
        put(&self.disk, Path::new(self.root), &dir);
        let topics: BTreeMap<&String, _> = self
            .topics
            .iter()
            .map(|(name, config)| {
                let all: BTreeMap<&str, String> = config.properties().into_iter().collect();
                let wanted = ["index.interval.bytes", "segment.index.bytes", "segment.bytes"];
                (name, wanted.map(|name| (name, all[name].clone())).into_iter().collect::<BTreeMap<_, _>>())
            })
            .collect();
        let now = self.now();
        let settings = json!({ "now": now, "topics": topics }).to_string();
        std::fs::write(home.join(format!("{}.oracle.json", self.name())), settings).unwrap();
        dir
    }

    /// The directory after a recovery, in a place of its own.
    pub(crate) fn put_recovered(&self, home: &Path) -> PathBuf {
        let disk = self.disk.kill();
        self.options().disk(&disk).open(self.root).unwrap().close().unwrap();
        let dir = home.join(format!("{}-recovered", self.name()));
        put(&disk, Path::new(self.root), &dir);
        let settings = home.join(format!("{}.oracle.json", self.name()));
        std::fs::copy(settings, home.join(format!("{}-recovered.oracle.json", self.name()))).unwrap();
        dir
    }

    /// Compares the lines of a reader with what was sent.
    pub(crate) fn check(&self, lines: &[String]) -> Result<(), String> {
        let powerless = self.state == State::Crashed || self.kind == Kind::CrashedRecovered;
        if !powerless {
            return compare(self.sent.values().map(|(line, _)| line), lines);
        }
        // What a power cut took is not known to the sender, nor what it left of the last step; but this it must leave.
        let found: HashSet<&String> = lines.iter().collect();
        let must = self.sent.values().filter(|(_, must)| *must).map(|(line, _)| line);
        match must.clone().find(|line| !found.contains(line)) {
            Some(line) => {
                Err(format!("of {} records that were committed this is missing: {line}", must.count()))
            }
            None => Ok(()),
        }
    }

    fn now(&self) -> i64 {
        use logstead::Clock;
        self.clock.now_ms()
    }

    fn options(&self) -> StoreOptions {
        manual(&self.clock)
    }

    fn open(&self) -> Store {
        self.options().disk(&self.disk).open(ROOT).unwrap()
    }

    // ───────── what happens

    fn go(&mut self) {
        let store = self.open();
        self.create(&store);
        match self.kind {
            Kind::Reopened | Kind::Altered => self.sittings(store),
            Kind::MadeAnew => self.make_anew(&store),
            Kind::Copied => self.copy(&store),
            Kind::KilledRecovered | Kind::Killed => self.die(store),
            Kind::CrashedRecovered | Kind::Crashed => self.lose_power(store),
            _ => {
                self.fill(&store);
                store.close().unwrap();
            }
        }
    }

    fn create(&mut self, store: &Store) {
        let count = if self.kind == Kind::ManyPartitions { 1 } else { 1 + self.random.below(3) };
        let names = ["orders", "t", "a.b_c-d", "metrics.raw-2"];
        for i in 0..count {
            let name = names[((self.seed + i) % names.len() as u64) as usize];
            let (name, config) = (format!("{}{name}", self.word), self.config());
            store.create_topic(&name, config.clone()).unwrap();
            self.topics.insert(name, config);
        }
    }

    fn config(&mut self) -> TopicConfig {
        let pick = |random: &mut Random, from: &[u64]| from[random.below(from.len() as u64) as usize];
        let random = &mut self.random;
        let partitions =
            if self.kind == Kind::ManyPartitions { 3 + random.below(9) } else { 1 + random.below(3) };
        let durability = if self.kind == Kind::PageCache { Durability::PageCache } else { Durability::Disk };
        let mut config = TopicConfig::default()
            .partitions(partitions as u32)
            .durability(durability)
            .segment_bytes(pick(random, &[3_000, 8_000, 30_000, 1 << 20]))
            .index_interval_bytes(pick(random, &[0, 100, 700, 4_096]));
        match self.kind {
            Kind::SmallSegments => config = config.segment_bytes(400 + random.below(1_500)),
            Kind::FullIndexes => {
                config = config.index_interval_bytes(50).segment_index_bytes(24 + random.below(200));
            }
            Kind::AppendTime => config = config.timestamp_type(TimestampType::LogAppendTime),
            Kind::TopicCodec => {
                let codecs = codecs();
                config = config.compression(codecs[random.below(codecs.len() as u64) as usize]);
            }
            Kind::Large => config = config.segment_bytes(1 << 20).index_interval_bytes(4_096),
            _ => {}
        }
        config
    }

    /// Steps that append, to topic after topic.
    fn fill(&mut self, store: &Store) {
        let steps = if self.kind == Kind::Large { 25 } else { 10 + self.random.below(40) };
        for _ in 0..steps {
            self.step(store);
        }
    }

    fn step(&mut self, store: &Store) {
        self.clock.advance(std::time::Duration::from_millis(self.random.below(3_000)));
        let names: Vec<String> = self.topics.keys().cloned().collect();
        let name = &names[self.random.below(names.len() as u64) as usize];
        let topic = store.topic(name).unwrap();
        match self.kind {
            Kind::Producers | Kind::ManyPartitions => self.send(store, &topic),
            _ if self.random.one_in(3) => self.send(store, &topic),
            _ => self.append(&topic),
        }
        if self.random.one_in(6) {
            store.maintain().unwrap();
        }
    }

    /// One batch.
    fn append(&mut self, topic: &Topic) {
        let p = self.random.below(topic.partitions().into()) as i32;
        let parts: Vec<Parts> = (0..1 + self.random.below(self.batch_max())).map(|_| self.parts()).collect();
        let headers: Vec<Vec<Header<'_>>> = parts.iter().map(Parts::headers).collect();
        let records = parts.iter().zip(&headers).map(|(parts, headers)| parts.record(topic, headers));
        let acks = if self.random.one_in(3) { Acks::Leader } else { Acks::All };
        let receipt = match topic.partition(p).unwrap().append(records, None, acks) {
            Ok(receipt) => receipt,
            // A batch that is larger than a segment.
            Err(error) => {
                assert!(matches!(error.kind(), logstead::ErrorKind::RecordTooLarge { .. }), "{error}");
                return;
            }
        };
        let must = acks == Acks::All
            && topic.config().properties().contains(&("logstead.durability", "disk".into()));
        for (offset, parts) in receipt.offsets.zip(&parts) {
            self.note(topic, p, offset, self.now(), parts, must);
        }
    }

    /// Records through a producer.
    fn send(&mut self, store: &Store, topic: &Topic) {
        let codecs = codecs();
        let codec = match self.kind {
            Kind::Plain => Compression::None,
            _ => codecs[self.random.below(codecs.len() as u64) as usize],
        };
        let acks = if self.random.one_in(3) { Acks::Leader } else { Acks::All };
        let size = [1, 500, 16 << 10][self.random.below(3) as usize];
        let config =
            ProducerConfig::default().acks(acks).compression(codec).batch_size(size).linger_ms(60_000);
        let producer = store.producer_with(config).unwrap();
        let must = acks == Acks::All
            && topic.config().properties().contains(&("logstead.durability", "disk".into()));
        let parts: Vec<Parts> =
            (0..1 + self.random.below(3 * self.batch_max())).map(|_| self.parts()).collect();
        let mut sent = Vec::new();
        for parts in &parts {
            let headers = parts.headers();
            let mut record = parts.record(topic, &headers);
            if self.random.one_in(4) {
                record = record.partition(self.random.below(topic.partitions().into()) as i32);
            }
            match producer.send(record) {
                Ok(delivery) => sent.push((delivery, parts)),
                Err(error) => {
                    assert!(matches!(error.kind(), logstead::ErrorKind::RecordTooLarge { .. }), "{error}");
                }
            }
        }
        producer.flush().unwrap();
        for (delivery, parts) in sent {
            let receipt = delivery.wait().unwrap();
            self.note(topic, receipt.partition, receipt.offset, receipt.timestamp_ms, parts, must);
        }
        producer.close().unwrap();
    }

    fn note(&mut self, topic: &Topic, partition: i32, offset: i64, now: i64, parts: &Parts, must: bool) {
        let append_time =
            topic.config().properties().contains(&("message.timestamp.type", "LogAppendTime".into()));
        let (kind, time) = if append_time { ("LogAppendTime", now) } else { ("CreateTime", parts.time) };
        let partition = format!("{}-{partition}", topic.name());
        let line = parts.line(&partition, offset, time, kind);
        self.sent.insert((partition, offset), (line, must));
    }

    fn batch_max(&self) -> u64 {
        if self.kind == Kind::Large { 30 } else { 8 }
    }

    fn parts(&mut self) -> Parts {
        let now = self.now();
        let random = &mut self.random;
        let time = match (self.kind, random.below(6)) {
            (Kind::OddTimes, 0) => -1,
            (Kind::OddTimes, 1) => random.below(3) as i64,
            (Kind::OddTimes, 2) => now + random.below(1_000_000) as i64,
            (Kind::OddTimes, 3) => now - random.below(1_000_000) as i64,
            (Kind::OddTimes, 4) => T0,
            (_, 5) => now - random.below(2_000) as i64,
            _ => now,
        };
        let nulls = if self.kind == Kind::HeadersAndNulls { 3 } else { 12 };
        let value_max = match (self.kind, random.below(8)) {
            (Kind::Large, 0) => 60_000,
            (Kind::Large, _) => 3_000,
            (Kind::SmallSegments, _) => 40,
            (_, 0) => 900,
            (_, 1) => 0,
            _ => 60,
        };
        let key = (!random.one_in(nulls)).then(|| match random.below(12) {
            0 => Vec::new(),
            n => format!("key-{}", random.below(20 * n)).into_bytes(),
        });
        let value = (!random.one_in(nulls)).then(|| bytes(random, value_max));
        let names = ["trace", "", "größe", "quote\"\\\n", "trace"];
        let headers = if random.one_in(nulls) { random.below(5) } else { 0 };
        let headers = (0..headers)
            .map(|_| {
                let name = names[random.below(names.len() as u64) as usize];
                (name, (!random.one_in(4)).then(|| bytes(random, 20)))
            })
            .collect();
        Parts { time, key, value, headers }
    }

    // ───────── how it ends

    fn sittings(&mut self, mut store: Store) {
        self.state = State::Closed;
        for _ in 0..1 + self.random.below(3) {
            self.fill(&store);
            match self.random.below(3) {
                0 => {
                    self.disk = self.disk.kill();
                    std::mem::forget(store);
                }
                _ => store.close().unwrap(),
            }
            store = self.open();
            if self.kind == Kind::Altered {
                self.alter(&store);
            }
        }
        self.fill(&store);
        store.close().unwrap();
    }

    fn alter(&mut self, store: &Store) {
        for (name, before) in self.topics.clone() {
            if self.random.one_in(3) {
                continue;
            }
            let topic = store.topic(&name).unwrap();
            let partitions = topic.partitions() + self.random.below(2) as u32;
            // The judge knows one index geometry of a topic: what is changed is the rest.
            let config = before
                .partitions(partitions)
                .segment_bytes(2_000 + self.random.below(30_000))
                .durability(if self.random.one_in(3) { Durability::PageCache } else { Durability::Disk });
            store.alter_topic(&name, config.clone()).unwrap();
            self.topics.insert(name, config);
        }
    }

    fn make_anew(&mut self, store: &Store) {
        self.fill(store);
        let name = self.topics.keys().next().unwrap().clone();
        store.delete_topic(&name).unwrap();
        self.sent.retain(|(partition, _), _| partition.rsplit_once('-').unwrap().0 != name);
        let config = self.config();
        store.create_topic(&name, config.clone()).unwrap();
        self.topics.insert(name, config);
        self.fill(store);
        store.clone().close().unwrap();
    }

    fn copy(&mut self, store: &Store) {
        self.disk.set_hard_links(self.random.one_in(2));
        for _ in 0..1 + self.random.below(3) {
            self.fill(store);
            store.checkpoint(COPY).unwrap();
        }
        (self.root, self.state) = (COPY, State::Closed);
        store.clone().close().unwrap();
    }

    fn die(&mut self, store: Store) {
        self.fill(&store);
        self.disk = self.disk.kill();
        std::mem::forget(store);
        self.state = State::Killed;
        if self.kind == Kind::KilledRecovered {
            let store = self.open();
            self.fill(&store);
            store.close().unwrap();
            self.state = State::Closed;
        }
    }

    fn lose_power(&mut self, store: Store) {
        self.fill(&store);
        // From here on each operation is a place where it can go.
        self.disk.record_states(true);
        let mut acked = vec![(self.disk.op_count(), self.sent.clone())];
        for _ in 0..2 + self.random.below(6) {
            self.step(&store);
            acked.push((self.disk.op_count(), self.sent.clone()));
        }
        let points = self.disk.crash_points();
        std::mem::forget(store);
        let point = &points[self.random.below(points.len() as u64) as usize];
        let states: Vec<SimDisk> = point.states(40, self.random.next()).collect();
        self.disk = states[self.random.below(states.len() as u64) as usize].clone();
        let known = acked.into_iter().rev().find(|(op, _)| *op <= point.op());
        self.sent = known.map(|(_, sent)| sent).unwrap_or_default();
        self.state = State::Crashed;
        if self.kind == Kind::CrashedRecovered {
            self.sent.retain(|_, (_, must)| *must);
            let store = self.open();
            self.fill(&store);
            store.close().unwrap();
            self.state = State::Closed;
        }
    }
}

/// Copies a directory of the simulated disk to the real one.
fn put(disk: &SimDisk, root: &Path, dir: &Path) {
    for file in disk.files() {
        let Ok(name) = file.strip_prefix(root) else { continue };
        let to = dir.join(name);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(to, disk.read_file(&file).unwrap()).unwrap();
    }
}

/// What a record consists of.
struct Parts {
    time: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(&'static str, Option<Vec<u8>>)>,
}

impl Parts {
    fn headers(&self) -> Vec<Header<'_>> {
        self.headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect()
    }

    fn record<'a>(&'a self, topic: &'a Topic, headers: &'a [Header<'a>]) -> Record<'a> {
        let mut record = Record::to(topic).headers(headers).timestamp_ms(self.time);
        if let Some(key) = &self.key {
            record = record.key(key);
        }
        if let Some(value) = &self.value {
            record = record.value(value);
        }
        record
    }

    /// As Kafka's tools print it.
    fn line(&self, partition: &str, offset: i64, time: i64, kind: &str) -> String {
        let mut line =
            format!(r#"{{"type":"record","partition":"{partition}","offset":{offset},"timestamp":{time},"#);
        line += r#""key":"#;
        json_bytes(&mut line, self.key.as_deref());
        line += r#","value":"#;
        json_bytes(&mut line, self.value.as_deref());
        line += r#","headers":["#;
        for (i, (key, value)) in self.headers.iter().enumerate() {
            line += if i == 0 { "[" } else { ",[" };
            json_text(&mut line, key);
            line.push(',');
            json_bytes(&mut line, value.as_deref());
            line.push(']');
        }
        line + &format!(r#"],"timestamp_type":"{kind}","committed":true}}"#)
    }
}

/// Up to `max` bytes, of noise or of something that compresses.
fn bytes(random: &mut Random, max: u64) -> Vec<u8> {
    let len = random.below(max + 1);
    let noise = random.one_in(2);
    (0..len).map(|i| if noise { random.next() as u8 } else { b"{\"key\": 12}"[i as usize % 11] }).collect()
}

/// The codecs of this build.
pub(crate) fn codecs() -> Vec<Compression> {
    let all =
        [Compression::None, Compression::Lz4, Compression::Zstd, Compression::Snappy, Compression::Gzip];
    all.into_iter().filter(|codec| codec.is_built()).collect()
}
