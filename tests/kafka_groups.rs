//! Groups and Kafka: its own classes decode what our groups wrote, and we go on with groups that real brokers left.
//!
//! Needs the oracle, see `tests/common/oracle.rs`; says so when it skips.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic and look around")]

#[path = "common/oracle.rs"]
mod oracle;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use logstead::{AutoOffsetReset, Consumer, ConsumerConfig, OffsetAndMetadata, Record, Store, TopicConfig};
use oracle::{Oracle, unpacked};
use serde_json::Value;

/// What `oracle.sh offsets` says of a directory: lines of one type.
fn offsets(oracle: &Oracle, dir: &Path, what: &str) -> Vec<Value> {
    let lines = oracle.ask(["offsets"], &[dir.to_owned()]);
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["type"] == what).collect()
}

fn member(store: &Store, group: &str, topic: &str) -> Consumer {
    let config = ConsumerConfig::default().auto_offset_reset(AutoOffsetReset::Earliest);
    let mut consumer = store.group(group).consumer_with(config).unwrap();
    consumer.subscribe([topic]).unwrap();
    consumer
}

type Committed = BTreeMap<(String, String, i64), (i64, i64, String)>;

/// What real admin clients saw, or what Kafka's schemas say, by group, topic and partition.
fn committed<'l>(lines: impl IntoIterator<Item = &'l Value>) -> Committed {
    let of = |line: &Value| {
        let text = |name: &str| line[name].as_str().unwrap().to_owned();
        let number = |name: &str| line[name].as_i64();
        let epoch = number("leader_epoch").or(number("leaderEpoch")).unwrap();
        let place = (text("group"), text("topic"), number("partition").unwrap());
        (place, (number("offset").unwrap(), epoch, text("metadata")))
    };
    lines.into_iter().map(of).collect()
}

fn ours(store: &Store) -> Committed {
    let mut all = Committed::new();
    for group in store.group_names().unwrap() {
        for (at, c) in store.group(&group).committed().unwrap() {
            let place = (group.clone(), at.topic.to_string(), at.partition.into());
            all.insert(place, (c.offset, c.leader_epoch.unwrap_or(-1).into(), c.metadata));
        }
    }
    all
}

const BROKERS: [&str; 4] = ["broker-3.9-clean", "broker-3.9-kill9", "broker-4.x-clean", "broker-4.x-kill9"];

#[test]
fn groups_of_a_real_broker_are_read_and_go_on_where_they_stand() {
    for broker in BROKERS {
        let home = tempfile::tempdir().unwrap();
        let Some(home) = unpacked(&format!("{broker}.tar.zst"), home.path()) else { return };
        let expected = std::fs::read_to_string(home.join("expected.jsonl")).unwrap();
        let expected: Vec<Value> = expected.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let theirs = committed(expected.iter().filter(|line| line["type"] == "committed"));
        assert!(theirs.keys().any(|(group, ..)| group == "g-txn"), "transactions are among them");
        let read_only = Store::open_read_only(home.join("data")).unwrap();
        assert_eq!(ours(&read_only), theirs, "{broker}, read-only");

        let store = Store::open(home.join("data")).unwrap();
        assert_eq!(ours(&store), theirs, "{broker}");
        // N19: the last transaction of this group was aborted, and what it committed never was.
        for group in ["g-classic", "g-simple", "g-txn"] {
            let (_, (offset, ..)) = theirs.iter().find(|((g, t, _), _)| g == group && t == "codecs").unwrap();
            let mut consumer = member(&store, group, "codecs");
            let records = consumer.poll(Duration::ZERO).unwrap();
            let end = store.topic("codecs").unwrap().partition(0).unwrap().high_watermark();
            assert_eq!(
                records.iter().next().map(|r| r.offset()),
                Some(*offset).filter(|o| *o < end),
                "{group}"
            );
            consumer.seek_to_end().unwrap();
            consumer.commit().unwrap();
            let lag = store.group(group).lag().unwrap();
            let of_codecs = lag.partitions.iter().find(|lag| &*lag.partition.topic == "codecs").unwrap();
            assert_eq!((of_codecs.committed, of_codecs.lag), (Some(end), 0));
            consumer.close().unwrap();
        }
        let (all, names) = (ours(&store), store.group_names().unwrap());
        assert!(!names.iter().any(|name| name == "g-deleted"), "{names:?}");
        store.close().unwrap();
        // One start of Kafka is enough.
        let Some(oracle) = (broker == "broker-4.x-clean").then(Oracle::find).flatten() else { continue };
        let decoded = committed(&offsets(&oracle, &home.join("data"), "committed"));
        assert_eq!(decoded, all, "{broker}: Kafka reads on in what we wrote behind it");
    }
}

#[test]
fn kafkas_schemas_decode_what_our_groups_wrote() {
    let Some(oracle) = Oracle::find() else { return };
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    let store = Store::open(&dir).unwrap();
    let topic = store.create_topic("t", TopicConfig::default().partitions(4)).unwrap();
    for p in 0..4 {
        let records = (0..10).map(|_| Record::to(&topic).value("v"));
        topic.partition(p).unwrap().append(records, None, logstead::Acks::All).unwrap();
    }
    let billing = store.group("billing");
    let config = ConsumerConfig::default().group_instance_id("größe-1").client_id("host-a");
    let mut static_member = billing.consumer_with(config).unwrap();
    static_member.subscribe(["t"]).unwrap();
    let mut dynamic = member(&store, "billing", "t");
    for _ in 0..2 {
        static_member.poll(Duration::ZERO).unwrap();
        dynamic.poll(Duration::ZERO).unwrap();
    }
    let own = static_member.assignment().next().unwrap().1;
    static_member.commit_offsets([("t", own, OffsetAndMetadata::from(3).metadata("grün"))]).unwrap();
    dynamic.commit().unwrap();
    store.group("deleted").commit_offsets([("t", 0, 1)]).unwrap();
    store.group("deleted").delete().unwrap();
    let epoch = billing.describe().unwrap().epoch;
    let expected = ours(&store);
    assert!(expected.len() >= 2);
    // As a crash leaves it, while the members are at work.
    assert_eq!(committed(&offsets(&oracle, &dir, "committed")), expected);
    let groups = offsets(&oracle, &dir, "group_record");
    assert!(groups.iter().all(|line| line.get("error").is_none()), "{groups:#?}");
    let group = groups.iter().rfind(|line| line["key_version"] == 2).unwrap();
    assert_eq!(group["value_version"], 3);
    let inner =
        |value: &Value| if value.get("data").is_some() { value["data"].clone() } else { value.clone() };
    let (key, value) = (inner(&group["key"]), inner(&group["value"]));
    assert_eq!(key["group"], "billing");
    assert_eq!(
        (&value["protocolType"], &value["protocol"]),
        (&"consumer".into(), &"cooperative-sticky".into())
    );
    assert_eq!(value["generation"], epoch);
    let members = value["members"].as_array().unwrap();
    assert_eq!(members.len(), 2, "{value:#}");
    let first = members.iter().find(|member| member["groupInstanceId"] == "größe-1").unwrap();
    assert_eq!((&first["clientId"], &first["rebalanceTimeout"]), (&"host-a".into(), &300_000.into()));
    assert!(members.iter().all(|member| !member["assignment"].is_null()));

    static_member.close().unwrap();
    dynamic.close().unwrap();
    store.close().unwrap();
    assert_eq!(committed(&offsets(&oracle, &dir, "committed")), expected);
    let verdict = &oracle.judge(&["--strict"], &[dir])[0];
    assert_eq!(verdict["ok"], true, "{verdict:#}");
}
