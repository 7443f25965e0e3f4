//! What belongs to the whole process: its directory, its descriptors.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use logstead::{Acks, Record, Store, TopicConfig};

#[test]
fn a_store_stays_where_it_was_opened_when_the_process_changes_its_directory() {
    let home = tempfile::tempdir().unwrap();
    let (here, there) = (home.path().join("here"), home.path().join("there"));
    std::fs::create_dir_all(&here).unwrap();
    std::fs::create_dir_all(&there).unwrap();
    let other = Store::open(there.join("data")).unwrap();
    other.create_topic("t", TopicConfig::default()).unwrap();
    other.close().unwrap();

    std::env::set_current_dir(&here).unwrap();
    let store = Store::open("data").unwrap();
    let topic = store.create_topic("t", TopicConfig::default().segment_bytes(1_000)).unwrap();
    std::env::set_current_dir(&there).unwrap();
    for _ in 0..20 {
        let record = Record::to(&topic).value(&[7; 200]);
        topic.partition(0).unwrap().append([record], None, Acks::All).unwrap();
    }
    store.create_topic("u", TopicConfig::default()).unwrap();
    store.close().unwrap();

    let ends = |dir: &std::path::Path| {
        let store = Store::open(dir.join("data")).unwrap();
        (store.topic_names().len(), store.topic("t").unwrap().partition(0).unwrap().high_watermark())
    };
    assert_eq!(ends(&here), (2, 20));
    assert_eq!(ends(&there), (1, 0));
}

#[cfg(target_os = "linux")]
#[test]
fn after_a_flush_descriptors_are_bounded_whatever_the_number_of_partitions() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::options().max_open_files(32).open(home.path().join("s")).unwrap();
    let topic = store.create_topic("t", TopicConfig::default().partitions(200)).unwrap();
    let producer = store.producer().unwrap();
    for p in 0..200 {
        producer.send(Record::to(&topic).partition(p).value("v")).unwrap();
    }
    producer.flush().unwrap();
    // One more use of each, so that what was unsynced may be closed.
    for p in 0..200 {
        assert_eq!(topic.partition(p).unwrap().read(0, 1).unwrap().len(), 1);
    }
    let mine = std::fs::read_dir("/proc/self/fd").unwrap();
    let open = mine.filter(|fd| {
        let to = std::fs::read_link(fd.as_ref().unwrap().path());
        to.is_ok_and(|to| to.starts_with(home.path()))
    });
    assert!(open.count() <= 40);
}
