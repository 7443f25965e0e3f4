//! Kafka's cleaner beside ours: of the same directories the same records stay, and Kafka finds nothing wrong with what we
//! wrote.
//!
//! Needs the oracle, see `tests/common/oracle.rs`; says so when it skips.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic and look around")]

mod common;
#[path = "common/oracle.rs"]
mod oracle;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::copy_dir;
use logstead::{Store, TopicConfig};
use oracle::{Oracle, named, problems, unpacked};
use serde_json::Value;

/// Compacts every partition of a directory once, as it lies there: with the settings and at the time of the file beside.
fn compact_ours(dir: &Path, settings: &Value) {
    let now = settings["now"].as_u64().unwrap();
    let options = Store::options()
        .maintenance(logstead::Maintenance::Manual)
        .clock(logstead::ManualClock::new(now))
        .producer_id_expiration_ms(settings["producer_id_expiration_ms"].as_u64().unwrap());
    let store = options.open(dir).unwrap();
    for name in store.topic_names() {
        let partitions = store.topic(&name).unwrap().partitions().to_string();
        let mut properties = vec![
            ("num.partitions", partitions.as_str()),
            ("cleanup.policy", "compact"),
            ("min.cleanable.dirty.ratio", "0"),
        ];
        for (property, value) in settings["topics"][&name].as_object().unwrap() {
            let known =
                ["segment.bytes", "index.interval.bytes", "segment.index.bytes", "delete.retention.ms"];
            if known.contains(&property.as_str()) {
                properties.push((property, value.as_str().unwrap()));
            }
        }
        store.alter_topic(&name, TopicConfig::from_properties(properties).unwrap()).unwrap();
    }
    while store.maintain().unwrap().next_due == Some(Duration::ZERO) {}
    store.close().unwrap();
}

/// Kafka's cleaner and ours, on the same directories: the same records stay, in the same batches, and Kafka finds nothing
/// wrong with what we wrote.
fn compare_compactions(oracle: &Oracle, dirs: &[PathBuf], home: &Path) {
    let (mut compared, mut removed) = (0, 0);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for (i, dir) in dirs.iter().enumerate() {
        let settings_file = dir.with_extension("oracle.json");
        let settings: Value = serde_json::from_slice(&std::fs::read(&settings_file).unwrap()).unwrap();
        let (our, their) = (home.join(format!("{i}-ours/log")), home.join(format!("{i}-theirs/log")));
        copy_dir(dir, &our);
        std::fs::copy(&settings_file, our.with_extension("oracle.json")).unwrap();
        std::fs::create_dir_all(their.parent().unwrap()).unwrap();
        let done = oracle
            .script("oracle.sh")
            .args(["compact", "--config", "cleanup.policy=compact"])
            .args([dir, &their])
            .output()
            .unwrap();
        assert!(done.status.success(), "{}: {}", dir.display(), String::from_utf8_lossy(&done.stderr));
        compact_ours(&our, &settings);
        ours.push(our);
        theirs.push(their);
    }
    let by_dir = |question: &str, of: &[PathBuf]| -> Vec<Vec<String>> {
        of.iter()
            .map(|dir| oracle.ask([question], std::slice::from_ref(dir)).lines().map(str::to_owned).collect())
            .collect()
    };
    let kept = |lines: &[String]| -> Vec<Value> {
        let all = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut kept: Vec<Value> =
            all.filter(|line| matches!(line["type"].as_str(), Some("record" | "batch"))).collect();
        for line in &mut kept {
            let line = line.as_object_mut().unwrap();
            // Which segment a batch lies in, and how it is packed, may differ; what is in it may not.
            for free in ["file", "position", "size", "crc", "crc_valid"] {
                line.remove(free);
            }
        }
        kept
    };
    let before = by_dir("view", dirs);
    for (i, (our, their)) in by_dir("dump", &ours).iter().zip(by_dir("dump", &theirs)).enumerate() {
        let (our, their) = (kept(our), kept(&their));
        for (our, their) in our.iter().zip(&their) {
            assert_eq!(our, their, "{}", dirs[i].display());
        }
        assert_eq!(our.len(), their.len(), "{}", dirs[i].display());
        let records = our.iter().filter(|line| line["type"] == "record").count();
        let were = before[i].iter().filter(|line| line.contains(r#""type":"record""#)).count();
        removed += were.saturating_sub(records);
        compared += records;
    }
    let mut wrong = Vec::new();
    for (dir, verdict) in ours.iter().zip(oracle.judge(&["--allow-torn-tail"], &ours)) {
        if verdict["ok"] != true {
            wrong.push(format!("{}: {}", dir.display(), problems(&verdict)));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), dirs.len(), wrong.join("\n"));
    println!("{} directories, {compared} records kept, at least {removed} removed", dirs.len());
    assert!(removed > 0);
}

#[test]
fn what_kafkas_cleaner_keeps_we_keep() {
    let Some(oracle) = Oracle::find() else { return };
    let home = tempfile::tempdir().unwrap();
    let Some(random) = unpacked("random-40.tar.zst", home.path()) else { return };
    let mut dirs = named(&random, "log");
    dirs.retain(|dir| dir.to_str().unwrap().contains("-compacted"));
    assert!(dirs.len() >= 4);
    compare_compactions(&oracle, &dirs, home.path());
}

#[test]
#[ignore = "takes some minutes; .ci/run calls it"]
fn what_kafkas_cleaner_keeps_we_keep_in_two_hundred_directories() {
    let Some(oracle) = Oracle::find() else { return };
    let home = tempfile::tempdir().unwrap();
    let seed = std::env::var("LOGSTEAD_SEED").unwrap_or_else(|_| "77".to_owned());
    println!("replay with LOGSTEAD_SEED={seed}");
    let random = home.path().join("random");
    let made =
        oracle.script("oracle.sh").args(["random", "200", "--seed", &seed]).arg(&random).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let dirs = named(&random, "log");
    assert!(dirs.len() >= 190, "{}", dirs.len());
    compare_compactions(&oracle, &dirs, home.path());
}
