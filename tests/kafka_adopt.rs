//! Growing up and coming back, with real brokers: topics of ours are handed to a broker of one node, which serves them
//! to a real consumer and goes on appending; they come back, go on here, and go to a broker of another Kafka.
//!
//! Needs the oracle, see `tests/common/oracle.rs`; says so when it skips. `LOGSTEAD_SEED=n` replays a run.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic and look around")]

#[allow(dead_code, unreachable_pub, reason = "a program, taken as a module: its main is not called here")]
#[path = "../examples/adopt.rs"]
mod adopt;
mod common;
#[allow(dead_code, unreachable_pub, reason = "a program, taken as a module: its main is not called here")]
#[path = "../examples/dump.rs"]
mod dump;
#[path = "common/oracle.rs"]
mod oracle;
#[path = "common/stories.rs"]
mod stories;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use logstead::{Acks, ErrorKind, Record, Store};
use oracle::{Oracle, Seen, compare, keep, problems, workplace};
use serde_json::json;
use stories::{KINDS, Kind};

/// The stories whose topics grow up.
const TOLD: [Kind; 8] = [
    Kind::Codecs,
    Kind::HeadersAndNulls,
    Kind::OddTimes,
    Kind::SmallSegments,
    Kind::AppendTime,
    Kind::ManyPartitions,
    Kind::KilledRecovered,
    Kind::CrashedRecovered,
];

#[test]
#[ignore = "starts real brokers, half a minute for each Kafka; .ci/run calls it"]
fn topics_grow_up_come_back_and_grow_up_elsewhere() {
    let oracles = Oracle::all();
    if oracles.is_empty() {
        return;
    }
    let seed = common::seed() / KINDS.len() as u64 * KINDS.len() as u64;
    let home = workplace();
    let mut topics: Vec<Grown> = TOLD.iter().map(|kind| Grown::told(seed, *kind, home.path())).collect();
    for oracle in &oracles {
        let place = home.path().join(oracle.line());
        let done = std::panic::catch_unwind(|| grow(oracle, &place, topics.clone()));
        topics = done.unwrap_or_else(|panic| {
            keep(home.path(), &format!("adopt-{seed}"));
            std::panic::resume_unwind(panic)
        });
    }
    let records: usize = topics.iter().map(|topic| topic.lines().len()).sum();
    println!("{} topics, {records} records, through {} brokers and back", topics.len(), oracles.len());
}

/// A topic, and the store that it is in.
#[derive(Clone)]
struct Grown {
    store: PathBuf,
    topic: String,
}

impl Grown {
    /// The first topic of a story, under a name that no other has.
    fn told(seed: u64, kind: Kind, home: &Path) -> Grown {
        let seed = seed + KINDS.iter().position(|known| *known == kind).unwrap() as u64;
        let story = stories::tell_as(seed, &format!("{kind:?}."));
        let topic = story.topic_names()[0].clone();
        Grown { store: story.put(home), topic }
    }

    /// What is in it, sorted: clients read partitions in an order of their own.
    fn lines(&self) -> Vec<String> {
        read(&self.store, &self.topic)
    }
}

fn read(dir: &Path, topic: &str) -> Vec<String> {
    let mut lines = Vec::new();
    assert_eq!(dump::dump(dir, Some(topic), &mut lines).unwrap(), 0, "{}", dir.display());
    sorted(String::from_utf8(lines).unwrap().lines().map(str::to_owned).collect())
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

/// A broker of one node, with all that it has in one directory.
struct Broker<'o> {
    oracle: &'o Oracle,
    home: PathBuf,
}

impl Drop for Broker<'_> {
    fn drop(&mut self) {
        // One that was stopped is not there to be killed.
        let kill =
            self.oracle.script("broker.sh").arg("kill9").arg(&self.home).stderr(Stdio::null()).status();
        drop(kill);
    }
}

impl Broker<'_> {
    fn run(&self, args: &[&str], input: Option<&str>) -> String {
        let mut command = self.oracle.script("broker.sh");
        command.arg(args[0]).arg(&self.home).args(&args[1..]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.unwrap_or_default().as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "broker.sh {args:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// All that a consumer gets of a topic, `read_committed` or not.
    fn consume(&self) -> Seen {
        let mut seen = Seen::of(&self.run(&["client", "consume"], None));
        seen.records = sorted(seen.records);
        seen
    }
}

/// Hands the topics to a broker, has it serve and go on with them, takes them back, goes on with them here.
fn grow(oracle: &Oracle, place: &Path, topics: Vec<Grown>) -> Vec<Grown> {
    let broker = Broker { oracle, home: place.join("broker") };
    std::fs::create_dir_all(place).unwrap();
    broker.run(&["start"], None);
    for grown in &topics {
        let found = Store::open_read_only(&grown.store).unwrap().topic(&grown.topic).unwrap();
        let partitions = found.partitions().to_string();
        let settings = adopt::kafka_settings(&found.config());
        let settings: Vec<String> = settings
            .iter()
            .flat_map(|(name, value)| ["--config".to_owned(), format!("{name}={value}")])
            .collect();
        let mut args = vec!["client", "create", &grown.topic, &partitions];
        args.extend(settings.iter().map(String::as_str));
        broker.run(&args, None);
    }
    let error = adopt::to_kafka(&topics[0].store, &topics[0].topic, &broker.data()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Locked { .. }), "the broker runs: {error}");
    broker.run(&["stop"], None);
    for grown in &topics {
        println!("{}", adopt::to_kafka(&grown.store, &grown.topic, &broker.data()).unwrap());
    }
    let again = adopt::to_kafka(&topics[0].store, &topics[0].topic, &broker.data()).unwrap_err();
    assert!(matches!(again.kind(), ErrorKind::TransferRefused { .. }), "{again}");

    // It serves them as they are here,
    broker.run(&["start"], None);
    let served = broker.consume();
    let ours = sorted(topics.iter().flat_map(Grown::lines).collect());
    same(&format!("Kafka {} serves", oracle.line()), &ours, &served.records);
    // and goes on behind them, whatever producers were there before.
    let more: Vec<String> = topics.iter().flat_map(more_records).collect();
    broker.run(&["client", "produce"], Some(&more.join("\n")));
    let served = broker.consume();
    assert_eq!(served.records.len(), ours.len() + more.len());
    let error = adopt::from_kafka(&broker.data(), &topics[0].topic, &place.join("running")).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Locked { .. }), "the broker runs: {error}");
    broker.run(&["stop"], None);

    // All of it comes back, and goes on here.
    let back: Vec<Grown> = topics
        .iter()
        .map(|grown| {
            let store = place.join(&grown.topic);
            println!("{}", adopt::from_kafka(&broker.data(), &grown.topic, &store).unwrap());
            Grown { store, topic: grown.topic.clone() }
        })
        .collect();
    let ours = sorted(back.iter().flat_map(Grown::lines).collect());
    same(&format!("taken from Kafka {}", oracle.line()), &served.records, &ours);
    back.iter().for_each(go_on);
    let dirs: Vec<PathBuf> = back.iter().map(|grown| grown.store.clone()).collect();
    for (grown, verdict) in back.iter().zip(oracle.judge(&[], &dirs)) {
        assert_eq!(verdict["ok"], true, "{}: {}", grown.topic, problems(&verdict));
    }
    // The broker's own directory opens too, and goes on.
    let store = Store::open(broker.data()).unwrap();
    store.close().unwrap();
    let ours = sorted(topics.iter().flat_map(|grown| read(&broker.data(), &grown.topic)).collect());
    same("the broker's directory, opened here", &served.records, &ours);
    back
}

#[track_caller]
fn same(what: &str, expected: &[String], found: &[String]) {
    compare(expected, found).unwrap_or_else(|why| panic!("{what}: {why}"));
}

/// Lines for the oracle's producer: three records for each partition.
fn more_records(grown: &Grown) -> Vec<String> {
    let partitions = Store::open_read_only(&grown.store).unwrap().topic(&grown.topic).unwrap().partitions();
    let line = |partition: u32, i: u32| {
        json!({"topic": grown.topic, "partition": partition, "key": "a2V5", "value": "ZnJvbSBLYWZrYQ==",
               "headers": [["n", i.to_string().repeat(4)]]})
        .to_string()
    };
    (0..partitions).flat_map(|partition| (0..3).map(move |i| line(partition, i))).collect()
}

/// Appends a batch to every partition.
fn go_on(grown: &Grown) {
    let store = Store::open(&grown.store).unwrap();
    let topic = store.topic(&grown.topic).unwrap();
    for p in 0..topic.partitions() as i32 {
        let records = ["one", "two"].map(|value| Record::to(&topic).key("ours").value(value));
        topic.partition(p).unwrap().append(records, None, Acks::All).unwrap();
    }
    store.close().unwrap();
}
