//! Growing up: hands a topic to Kafka, and takes one back.
//!
//! ```text
//! cargo run --example adopt -- plan STORE TOPIC                # what to do, command by command
//! cargo run --example adopt -- to-kafka STORE TOPIC LOG_DIR    # while the broker is stopped
//! cargo run --example adopt -- from-kafka LOG_DIR TOPIC STORE  # while the broker is stopped
//! ```
//!
//! `LOG_DIR` is the broker's `log.dirs`. Whatever would lose something is refused, with the reason on standard error
//! and exit code 1; what there was is as it was then. A topic that comes back keeps its records until it is given a
//! `retention.ms`. The chapter `docs/kafka.md` tells the whole way.

use std::path::Path;
use std::process::ExitCode;

use logstead::{ErrorKind, Result, Store, TopicConfig};

const USAGE: &str = "usage: adopt plan STORE TOPIC
       adopt to-kafka STORE TOPIC LOG_DIR
       adopt from-kafka LOG_DIR TOPIC STORE";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["plan", store, topic] => plan(Path::new(store), topic),
        ["to-kafka", store, topic, log_dir] => to_kafka(Path::new(store), topic, Path::new(log_dir)),
        ["from-kafka", log_dir, topic, store] => from_kafka(Path::new(log_dir), topic, Path::new(store)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("adopt: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Copies the topic into a stopped broker's directory, in the place of the empty one that it made.
pub fn to_kafka(store: &Path, topic: &str, log_dir: &Path) -> Result<String> {
    // Not one that is made by this: a misspelt path would be an empty store.
    drop(Store::open_read_only(store)?);
    let store = Store::open(store)?;
    let copied = store.hand_to_broker(topic, log_dir)?;
    store.close()?;
    Ok(format!(
        "{topic}: {copied} are in {}; start the broker: it reads them once, then serves them",
        log_dir.display()
    ))
}

/// Copies the topic out of a stopped broker's directory into a store, which is made where there is none.
pub fn from_kafka(log_dir: &Path, topic: &str, store: &Path) -> Result<String> {
    // Before a store is made for nothing.
    Store::open_read_only(log_dir)?.topic(topic)?;
    let at = store.display().to_string();
    let store = Store::open(store)?;
    // Old records would go at once by the default of seven days.
    let copied = store.take_from_broker(log_dir, topic, TopicConfig::default().retention_ms(None))?;
    store.close()?;
    Ok(format!("{topic}: {copied} are in {at}"))
}

/// What to do, with the topic's own figures in it.
pub fn plan(store: &Path, topic: &str) -> Result<String> {
    let found = Store::open_read_only(store)?.topic(topic)?;
    if topic.starts_with("__") {
        let why = "it is one that brokers and groups keep for themselves".to_owned();
        return Err(
            ErrorKind::TransferRefused { topic: topic.to_owned(), path: store.to_owned(), why }.into()
        );
    }
    let partitions = found.partitions();
    let settings: String = kafka_settings(&found.config())
        .iter()
        .map(|(name, value)| format!(" \\\n     --config {name}={value}"))
        .collect();
    Ok(format!(
        "1. Make the topic on the broker. Retention is off until the records are there: old ones would go at once.
   kafka-topics.sh --bootstrap-server HOST:PORT --create --topic {topic} \\
     --partitions {partitions} --replication-factor 1{settings}
   With several brokers name the one whose directory you use for each partition instead of the second line:
     --replica-assignment ID,ID,…
2. Stop writing to the topic here. Stop that broker:
   kafka-server-stop.sh
3. adopt to-kafka {} {topic} LOG_DIR
4. Start the broker, and look:
   kafka-server-start.sh -daemon server.properties
   kafka-get-offsets.sh --bootstrap-server HOST:PORT --topic {topic}
5. Give the topic its retention (here: {}), and more replicas with kafka-reassign-partitions.sh.",
        store.display(),
        retention(&found.config())
    ))
}

fn retention(config: &TopicConfig) -> String {
    let own = config.properties().into_iter().filter(|(name, _)| name.starts_with("retention."));
    own.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ")
}

/// Settings of the topic that a broker has too and that are not its defaults.
pub fn kafka_settings(config: &TopicConfig) -> Vec<(&'static str, String)> {
    let defaults = TopicConfig::default().properties();
    let ours_alone =
        |name: &str| ["num.partitions", "flush.ms"].contains(&name) || name.starts_with("logstead.");
    let retention = |name: &str| name.starts_with("retention.");
    // Kafka 4 takes no smaller segments than this.
    let too_small =
        |name: &str, value: &str| name == "segment.bytes" && value.parse().is_ok_and(|v: u64| v < 1 << 20);
    let mut settings = vec![("retention.ms", "-1".to_owned()), ("retention.bytes", "-1".to_owned())];
    settings.extend(config.properties().into_iter().filter(|(name, value)| {
        let is_default = defaults.iter().any(|default| default.0 == *name && default.1 == *value);
        !is_default && !ours_alone(name) && !retention(name) && !too_small(name, value)
    }));
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_names_partitions_and_settings() -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("data");
        let store = Store::open(&dir)?;
        let config = TopicConfig::default().partitions(7).segment_ms(5_000).segment_bytes(10_000).flush_ms(3);
        store.create_topic("orders", config)?;
        store.close()?;
        let plan = plan(&dir, "orders")?;
        assert!(
            plan.contains("--create --topic orders \\\n     --partitions 7 --replication-factor 1 \\\n"),
            "{plan}"
        );
        for setting in ["retention.ms=-1", "retention.bytes=-1", "segment.ms=5000"] {
            assert!(plan.contains(&format!("--config {setting}")), "{plan}");
        }
        for ours in ["flush.ms", "logstead.", "num.partitions", "segment.bytes"] {
            assert!(!plan.contains(ours), "{plan}");
        }
        assert!(super::plan(&dir, "others").is_err());
        Ok(())
    }

    #[test]
    fn what_can_not_be_taken_leaves_no_store_and_an_internal_topic_has_no_plan() -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let (broker, back) = (dir.path().join("broker"), dir.path().join("back"));
        assert!(from_kafka(&broker, "orders", &back).is_err());
        let store = Store::open(&broker)?;
        store.create_topic("orders", TopicConfig::default())?;
        store.group("g").commit_offsets([("orders", 0, 0)])?;
        store.close()?;
        let error = from_kafka(&broker, "others", &back).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::UnknownTopic { .. }), "{error}");
        assert!(!back.exists());
        let error = plan(&broker, "__consumer_offsets").unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::TransferRefused { .. }), "{error}");
        Ok(())
    }

    #[test]
    fn a_store_that_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let error = to_kafka(&missing, "orders", dir.path()).unwrap_err();
        assert!(error.to_string().contains("does not exist"), "{error}");
        assert!(!missing.exists());
    }
}
