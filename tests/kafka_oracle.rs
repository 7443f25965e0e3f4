//! Kafka's verdict: its own log classes judge stores that this crate wrote, and read the same records from them.
//!
//! Needs `../shared/tools/kafka` beside the crate, a JDK, and the jars that its `setup.sh` fetches. Without them the
//! tests say so and pass; with `LOGSTEAD_ORACLE=required` in the environment they fail instead. Each store comes from
//! a seed; `LOGSTEAD_SEED=n` replays that one alone.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic and look around")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use logstead::{Acks, Compression, Durability, Header, ProducerConfig, Record, Store, TopicConfig};
use serde_json::Value;

#[allow(dead_code, unreachable_pub, reason = "a program, taken as a module: its main is not called here")]
#[path = "../examples/dump.rs"]
mod dump;

#[test]
fn kafka_finds_nothing_wrong_in_a_few_stores() {
    judge_and_compare(0..4);
}

#[test]
#[ignore = "takes up to a minute; .ci/run calls it"]
fn kafka_finds_nothing_wrong_in_fifty_stores() {
    judge_and_compare(100..150);
}

/// Writes one store a seed, then asks one JVM about all of them.
fn judge_and_compare(seeds: std::ops::Range<u64>) {
    let Some(oracle) = oracle() else { return };
    let seeds: Vec<u64> = match std::env::var("LOGSTEAD_SEED") {
        Ok(seed) => vec![seed.parse().expect("LOGSTEAD_SEED is a number")],
        Err(_) => seeds.collect(),
    };
    let home = tempfile::tempdir().unwrap();
    let stores: Vec<(u64, PathBuf)> = seeds.iter().map(|s| (*s, home.path().join(s.to_string()))).collect();
    let mut ours = Vec::new();
    for (seed, dir) in &stores {
        println!("seed {seed}: replay with LOGSTEAD_SEED={seed}");
        let sent = write_store(*seed, dir);
        let before = ours.len();
        assert_eq!(dump::dump(dir, None, &mut ours).unwrap(), 0, "seed {seed}: a partition can not be read");
        let read = ours[before..].iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(read, sent, "seed {seed}: records");
    }
    let dirs: Vec<&Path> = stores.iter().map(|(_, dir)| dir.as_path()).collect();

    let verdicts = ask(&oracle, "judge", &dirs);
    let verdicts: Vec<Value> = verdicts.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(verdicts.len(), dirs.len(), "one verdict a store");
    for ((seed, _), verdict) in stores.iter().zip(&verdicts) {
        assert_eq!(verdict["ok"], true, "seed {seed}: {verdict:#}");
        assert_eq!(verdict["clean"], true, "seed {seed}: the clean stop was not seen");
    }

    let view = ask(&oracle, "view", &dirs);
    let theirs: Vec<&str> = view.lines().filter(|line| line.contains(r#""type":"record""#)).collect();
    let ours = String::from_utf8(ours).unwrap();
    let ours: Vec<&str> = ours.lines().collect();
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.len(), theirs.len());
}

// ───────── directories of Kafka's own, continued

/// What a case's directory is called beside its settings, and where it is taken from.
fn unpacked(archive: &str, into: &Path) -> Option<PathBuf> {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/kafka").join(archive);
    if !archive.exists() {
        eprintln!("skipped: {} is not here", archive.display());
        return None;
    }
    let home = into.join(archive.file_name().unwrap().to_str().unwrap().trim_end_matches(".tar.zst"));
    std::fs::create_dir(&home).unwrap();
    let tar =
        Command::new("tar").arg("-C").arg(&home).args(["--zstd", "-xSf"]).arg(&archive).status().unwrap();
    assert!(tar.success(), "{}", archive.display());
    Some(home)
}

/// All directories of that name below `home`, sorted.
fn named(home: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![home.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                if entry.file_name() == name { found.push(entry.path()) } else { dirs.push(entry.path()) }
            }
        }
    }
    found.sort();
    found
}

fn record_lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.contains(r#""type":"record""#)).collect()
}

#[test]
fn every_random_directory_of_kafkas_reads_as_kafka_reads_it() {
    let home = tempfile::tempdir().unwrap();
    let Some(home) = unpacked("random-40.tar.zst", home.path()) else { return };
    let logs = named(&home, "log");
    assert!(logs.len() > 30, "{}", logs.len());
    for log in &logs {
        let mut ours = Vec::new();
        assert_eq!(dump::dump(log, None, &mut ours).unwrap(), 0, "{}", log.display());
        let theirs = std::fs::read_to_string(log.with_file_name("expected.jsonl")).unwrap();
        assert_eq!(
            String::from_utf8(ours).unwrap().lines().collect::<Vec<_>>(),
            record_lines(&theirs),
            "{}",
            log.display()
        );
    }
}

// One difference is meant: Kafka searches one segment, the first whose youngest record is young enough, and answers
// "none" when what is young there lies below the start of the log; here the search goes on behind it.
#[test]
#[ignore = "takes up to a minute; .ci/run calls it"]
fn times_are_found_where_kafka_finds_them() {
    let Some(oracle) = oracle() else { return };
    let home = tempfile::tempdir().unwrap();
    let Some(random) = unpacked("random-40.tar.zst", home.path()) else { return };
    let mut dirs = named(&random, "log");
    for seed in 200..204 {
        println!("seed {seed}: replay with LOGSTEAD_SEED={seed}");
        let dir = home.path().join(seed.to_string());
        write_store(seed, &dir);
        dirs.push(dir);
    }
    let mut random = Random(7);
    let mut times = vec![0, 1, 1_600_000_000_000, i64::MAX - 1];
    for dir in &dirs {
        let mut ours = Vec::new();
        dump::dump(dir, None, &mut ours).unwrap();
        let ours = String::from_utf8(ours).unwrap();
        let lines: Vec<&str> = ours.lines().collect();
        for _ in 0..lines.len().min(6) {
            let record: Value = serde_json::from_str(random.pick::<&str>(&lines)).unwrap();
            let time = record["timestamp"].as_i64().unwrap() + random.below(3) as i64 - 1;
            times.push(time.max(0));
        }
    }
    let at = times.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let (mut compared, mut beyond) = (0, 0);
    let answers = Command::new(&oracle).args(["times", "--at", &at]).args(&dirs).output().unwrap();
    assert!(answers.status.success(), "{}", String::from_utf8_lossy(&answers.stderr));
    let answers = String::from_utf8(answers.stdout).unwrap();
    let mut answers = answers.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).peekable();
    for dir in &dirs {
        let store = Store::open_read_only(dir).unwrap();
        let mut left: usize = times.len() * partitions_of(dir);
        while left > 0 {
            left -= 1;
            let answer = answers.next().unwrap();
            let (topic, p) = answer["partition"].as_str().unwrap().rsplit_once('-').unwrap();
            let partition = store.topic(topic).unwrap().partition(p.parse().unwrap()).unwrap();
            let ours = partition.offset_for_time(answer["at"].as_i64().unwrap()).unwrap();
            match (answer["offset"].as_i64(), answer["timestamp"].as_i64()) {
                (Some(offset), Some(time)) => {
                    assert_eq!(ours, Some((offset, time)), "{}: {answer}", dir.display())
                }
                _ => {
                    let scanned = first_as_young(&partition, answer["at"].as_i64().unwrap());
                    assert_eq!(ours.map(|found| found.0), scanned, "{}: {answer}", dir.display());
                    beyond += usize::from(ours.is_some());
                }
            }
            compared += 1;
        }
    }
    assert_eq!(answers.next(), None);
    println!("{compared} times compared, {beyond} found beyond the one segment where Kafka looks");
}

/// What a scan finds; a marker counts, as for Kafka.
fn first_as_young(partition: &logstead::Partition, time: i64) -> Option<i64> {
    let mut at = partition.log_start_offset();
    loop {
        let records = partition.read(at, 1 << 20).unwrap();
        let mut found =
            records.batches().flat_map(|batch| batch.records()).filter(|r| r.timestamp_ms() >= time);
        if let Some(record) = found.find(|record| record.offset() >= partition.log_start_offset()) {
            return Some(record.offset());
        }
        at = records.next_offset()?;
    }
}

fn partitions_of(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries.filter(|entry| entry.file_type().unwrap().is_dir()).count()
}

/// Appends to every partition of a directory, in two sittings; what `dump` then says.
fn continue_directory(dir: &Path) -> Vec<String> {
    for sitting in 0..2 {
        let store = Store::open(dir).unwrap();
        for name in store.topic_names().iter().filter(|name| !name.starts_with("__")) {
            let topic = store.topic(name).unwrap();
            for p in 0..topic.partitions() as i32 {
                let Ok(partition) = topic.partition(p) else { continue };
                for i in 0..3_i64 {
                    let time = 1_700_000_000_000 + i * 1_000 + sitting;
                    let value = vec![b'x'; 200];
                    let record = Record::to(&topic).key("ours").value(&value).timestamp_ms(time);
                    partition.append([record, record], None, Acks::All).unwrap();
                }
            }
        }
        store.close().unwrap();
    }
    let mut ours = Vec::new();
    assert_eq!(dump::dump(dir, None, &mut ours).unwrap(), 0, "{}", dir.display());
    String::from_utf8(ours).unwrap().lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "takes up to a minute; .ci/run calls it"]
fn kafka_finds_nothing_wrong_in_its_own_directories_that_we_continued() {
    let Some(oracle) = oracle() else { return };
    let home = tempfile::tempdir().unwrap();
    let Some(random) = unpacked("random-40.tar.zst", home.path()) else { return };
    let mut dirs = named(&random, "log");
    // Its topic has room for three index entries a segment. A directory does not say so, and a segment of ours with
    // more can not be closed under that setting.
    dirs.retain(|dir| !dir.to_str().unwrap().contains("index-full"));
    for broker in ["broker-3.9-clean", "broker-3.9-kill9", "broker-4.x-clean", "broker-4.x-kill9"] {
        let Some(home) = unpacked(&format!("{broker}.tar.zst"), home.path()) else { return };
        dirs.extend(named(&home, "data"));
    }
    let ours: Vec<Vec<String>> = dirs.iter().map(|dir| continue_directory(dir)).collect();
    let dirs: Vec<&Path> = dirs.iter().map(PathBuf::as_path).collect();
    let verdicts = ask(&oracle, "judge", &dirs);
    let mut wrong = Vec::new();
    for (dir, verdict) in dirs.iter().zip(verdicts.lines()) {
        let verdict: Value = serde_json::from_str(verdict).unwrap();
        if verdict["ok"] != true {
            wrong.push(format!("{}: {}", dir.display(), problems(&verdict)));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), dirs.len(), wrong.join("\n"));
    let view = ask(&oracle, "view", &dirs);
    let theirs = record_lines(&view);
    let ours = ours.concat();
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.len(), theirs.len());
}

/// Segments of formats 0 and 1 that Kafka wrote, and one that mixes them and is long enough for indexes.
fn old_segments() -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/legacy");
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|name| name.extension().is_some_and(|extension| extension == "log"));
    names.sort();
    let mut segments: Vec<Vec<u8>> = names.iter().map(|name| std::fs::read(name).unwrap()).collect();
    let mut mixed = Vec::new();
    let mut moved = 0;
    for round in 0..100 {
        let name = names[round % names.len()].to_str().unwrap();
        // Inside of a wrapper of format 0 the offsets are true: they can not be moved.
        if name.contains("v0-") && !name.contains("none") {
            continue;
        }
        let mut segment = segments[round % names.len()].clone();
        let mut at = 0;
        while at < segment.len() {
            let offset = i64::from_be_bytes(segment[at..at + 8].try_into().unwrap()) + moved;
            segment[at..at + 8].copy_from_slice(&offset.to_be_bytes());
            at += 12 + u32::from_be_bytes(segment[at + 8..at + 12].try_into().unwrap()) as usize;
        }
        mixed.extend(segment);
        moved += 15;
    }
    assert!(mixed.len() > 8 * 4_096, "{} bytes: too few for an index", mixed.len());
    segments.push(mixed);
    segments
}

#[test]
fn kafka_finds_nothing_wrong_in_old_segments_that_we_recovered_and_continued() {
    let Some(oracle) = oracle() else { return };
    let home = tempfile::tempdir().unwrap();
    let mut dirs = Vec::new();
    for (i, segment) in old_segments().iter().enumerate() {
        let dir = home.path().join(i.to_string());
        std::fs::create_dir_all(dir.join("t-0")).unwrap();
        std::fs::write(dir.join("t-0").join(format!("{:020}.log", 100)), segment).unwrap();
        dirs.push(dir);
    }
    // Records of format 0 have no kind of timestamp, which has no name here: theirs is -1.
    let theirs_as_ours = |line: &str| line.replace("NoTimestampType", "CreateTime");
    let mut before = Vec::new();
    for dir in &dirs {
        assert_eq!(dump::dump(dir, None, &mut before).unwrap(), 0, "{}", dir.display());
    }
    let paths: Vec<&Path> = dirs.iter().map(PathBuf::as_path).collect();
    let view = ask(&oracle, "view", &paths);
    let theirs: Vec<String> = record_lines(&view).into_iter().map(theirs_as_ours).collect();
    assert!(theirs.len() > 12 * 12, "{}", theirs.len());
    assert_eq!(String::from_utf8(before).unwrap().lines().collect::<Vec<_>>(), theirs);

    let ours = dirs.iter().map(|dir| continue_directory(dir)).collect::<Vec<_>>().concat();
    for (dir, verdict) in dirs.iter().zip(ask(&oracle, "judge", &paths).lines()) {
        let verdict: Value = serde_json::from_str(verdict).unwrap();
        assert_eq!(verdict["ok"], true, "{}: {}", dir.display(), problems(&verdict));
    }
    let view = ask(&oracle, "view", &paths);
    let theirs: Vec<String> = record_lines(&view).into_iter().map(theirs_as_ours).collect();
    assert_eq!(ours, theirs);
}

#[test]
#[ignore = "takes up to a minute; .ci/run calls it"]
fn verify_finds_nothing_wrong_in_kafkas_directories_and_checkpoints_of_them_hold_the_same() {
    let home = tempfile::tempdir().unwrap();
    let Some(random) = unpacked("random-40.tar.zst", home.path()) else { return };
    let mut dirs = named(&random, "log");
    for broker in ["broker-3.9-clean", "broker-3.9-kill9", "broker-4.x-clean", "broker-4.x-kill9"] {
        let Some(home) = unpacked(&format!("{broker}.tar.zst"), home.path()) else { return };
        dirs.extend(named(&home, "data"));
    }
    let mut batches = 0;
    for (i, dir) in dirs.iter().enumerate() {
        let report = Store::verify(dir).unwrap();
        assert!(report.is_sound() && report.unchecked.is_empty(), "{}: {report}", dir.display());
        batches += report.batches;
        let copy = home.path().join(format!("copy-{i}"));
        let store = Store::open(dir).unwrap();
        let done = store.checkpoint(&copy).unwrap();
        assert_eq!(store.checkpoint(&copy).unwrap().bytes_copied, 0, "{}: {done}", dir.display());
        let report = Store::verify(&copy).unwrap();
        assert!(report.is_sound(), "{}: {report}", copy.display());
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        assert_eq!(dump::dump(dir, None, &mut theirs).unwrap(), 0);
        assert_eq!(dump::dump(&copy, None, &mut ours).unwrap(), 0);
        assert_eq!(String::from_utf8(ours).unwrap(), String::from_utf8(theirs).unwrap(), "{}", dir.display());
        store.close().unwrap();
    }
    assert!(batches > 1_000, "{batches}");
}

#[test]
#[ignore = "takes up to a minute; .ci/run calls it"]
fn kafka_finds_nothing_wrong_in_checkpoints_of_stores_that_are_written() {
    let Some(oracle) = oracle() else { return };
    let home = tempfile::tempdir().unwrap();
    let mut dirs = Vec::new();
    for seed in 300..304 {
        println!("seed {seed}: replay with LOGSTEAD_SEED={seed}");
        let dir = home.path().join(seed.to_string());
        write_store(seed, &dir);
        let store = Store::open(&dir).unwrap();
        let topics: Vec<(String, u64)> = store
            .topic_names()
            .into_iter()
            .map(|name| (name.clone(), u64::from(store.topic(&name).unwrap().partitions())))
            .collect();
        // Three into one directory, the last of which are judged, and one into another.
        let mut random = Random(seed);
        for round in 0..3 {
            sitting_of(&mut random, &store, &topics);
            let last = store.topic(&topics[0].0).unwrap().partition(0).unwrap();
            let value = random.bytes(300_000);
            for _ in 0..round * 4 {
                last.append([Record::to(topics[0].0.as_str()).value(&value)], None, Acks::All).unwrap();
            }
            store.checkpoint(home.path().join(format!("{seed}-again"))).unwrap();
        }
        store.checkpoint(home.path().join(format!("{seed}-once"))).unwrap();
        dirs.extend([home.path().join(format!("{seed}-again")), home.path().join(format!("{seed}-once"))]);
        store.close().unwrap();
    }
    let dirs: Vec<&Path> = dirs.iter().map(PathBuf::as_path).collect();
    let output = Command::new(&oracle).args(["judge", "--strict"]).args(&dirs).output().unwrap();
    let verdicts = String::from_utf8(output.stdout).unwrap();
    assert_eq!(verdicts.lines().count(), dirs.len(), "{}", String::from_utf8_lossy(&output.stderr));
    for (dir, verdict) in dirs.iter().zip(verdicts.lines()) {
        let verdict: Value = serde_json::from_str(verdict).unwrap();
        assert_eq!(verdict["ok"], true, "{}: {}", dir.display(), problems(&verdict));
        assert_eq!(verdict["clean"], true, "{}: as after a clean stop", dir.display());
    }
}

/// What a verdict complains of, without the rest.
fn problems(verdict: &Value) -> String {
    let mut all = vec![format!("clean: {}, {}", verdict["clean"], verdict["problems"])];
    for partition in verdict["partitions"].as_array().into_iter().flatten() {
        if partition["ok"] != true {
            all.push(format!("  {}: {}", partition["partition"], partition["problems"]));
        }
    }
    all.join("\n")
}

/// The oracle's command, when all that it needs is here.
fn oracle() -> Option<PathBuf> {
    let command = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/tools/kafka/oracle.sh");
    let home = std::env::var_os("KAFKA_ORACLE_HOME").map(PathBuf::from).or_else(|| {
        let cache = std::env::var_os("HOME")?;
        Some(Path::new(&cache).join(".cache/kafka-oracle"))
    });
    let why = if !command.exists() {
        "../shared/tools/kafka is not here"
    } else if !home.is_some_and(|home| has_jars(&home)) {
        "Kafka's jars are not here: run ../shared/tools/kafka/setup.sh"
    } else if Command::new("java").arg("-version").stderr(Stdio::null()).status().is_err() {
        "there is no java"
    } else {
        return Some(command);
    };
    assert!(std::env::var_os("LOGSTEAD_ORACLE").is_none_or(|v| v != "required"), "required, but {why}");
    eprintln!("skipped: {why}");
    None
}

/// Whether a line of Kafka releases was set up below `home`.
fn has_jars(home: &Path) -> bool {
    let entries = std::fs::read_dir(home).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.path().join(".jars").exists())
}

fn ask(oracle: &Path, question: &str, dirs: &[&Path]) -> String {
    let output = Command::new(oracle).arg(question).args(dirs).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code().is_some_and(|code| code < 2), "{question}: {}: {errors}", output.status);
    assert!(!output.stdout.is_empty(), "{question} said nothing: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

// ───────── compaction

/// Copies a directory with all that is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

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
    store.maintain().unwrap();
    store.close().unwrap();
}

/// Kafka's cleaner and ours, on the same directories: the same records stay, in the same batches, and Kafka finds nothing
/// wrong with what we wrote.
fn compare_compactions(oracle: &Path, dirs: &[PathBuf], home: &Path) {
    let (mut compared, mut removed) = (0, 0);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for (i, dir) in dirs.iter().enumerate() {
        let settings_file = dir.with_extension("oracle.json");
        let settings: Value = serde_json::from_slice(&std::fs::read(&settings_file).unwrap()).unwrap();
        let (our, their) = (home.join(format!("{i}-ours/log")), home.join(format!("{i}-theirs/log")));
        copy(dir, &our);
        std::fs::copy(&settings_file, our.with_extension("oracle.json")).unwrap();
        std::fs::create_dir_all(their.parent().unwrap()).unwrap();
        let done = Command::new(oracle)
            .args(["compact", "--config", "cleanup.policy=compact"])
            .args([dir, &their])
            .output()
            .unwrap();
        assert!(done.status.success(), "{}: {}", dir.display(), String::from_utf8_lossy(&done.stderr));
        compact_ours(&our, &settings);
        ours.push(our);
        theirs.push(their);
    }
    let paths = |dirs: &[PathBuf]| -> Vec<&'static Path> {
        dirs.iter().map(|dir| &*Box::leak(dir.clone().into_boxed_path())).collect()
    };
    let (ours, theirs) = (paths(&ours), paths(&theirs));
    // The numbers of a directory lie in its path.
    let by_dir = |question: &str, of: &[&'static Path]| -> Vec<Vec<String>> {
        of.iter().map(|dir| ask(oracle, question, &[*dir]).lines().map(str::to_owned).collect()).collect()
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
    let before = by_dir("view", &paths(dirs));
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
    let verdicts = Command::new(oracle).args(["judge", "--allow-torn-tail"]).args(&ours).output().unwrap();
    for (dir, verdict) in ours.iter().zip(String::from_utf8(verdicts.stdout).unwrap().lines()) {
        let verdict: Value = serde_json::from_str(verdict).unwrap();
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
    let Some(oracle) = oracle() else { return };
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
    let Some(oracle) = oracle() else { return };
    let home = tempfile::tempdir().unwrap();
    let seed = std::env::var("LOGSTEAD_SEED").unwrap_or_else(|_| "77".to_owned());
    println!("replay with LOGSTEAD_SEED={seed}");
    let random = home.path().join("random");
    let made = Command::new(&oracle).args(["random", "200", "--seed", &seed]).arg(&random).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let dirs = named(&random, "log");
    assert!(dirs.len() >= 190, "{}", dirs.len());
    compare_compactions(&oracle, &dirs, home.path());
}

// ───────── random stores

/// A small generator of numbers (splitmix64): the same seed, the same store.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// Up to `max` bytes, of noise or of something that compresses.
    fn bytes(&mut self, max: u64) -> Vec<u8> {
        let len = self.below(max + 1);
        let noise = self.below(2) == 0;
        (0..len).map(|i| if noise { self.next() as u8 } else { b"{\"key\": 12}"[i as usize % 11] }).collect()
    }

    fn maybe_bytes(&mut self, max: u64) -> Option<Vec<u8>> {
        (self.below(6) != 0).then(|| self.bytes(max))
    }
}

/// The codecs of this build.
fn codecs() -> Vec<Compression> {
    let mut codecs = vec![Compression::None];
    if cfg!(feature = "lz4") {
        codecs.push(Compression::Lz4);
    }
    if cfg!(feature = "zstd") {
        codecs.push(Compression::Zstd);
    }
    if cfg!(feature = "snappy") {
        codecs.push(Compression::Snappy);
    }
    if cfg!(feature = "gzip") {
        codecs.push(Compression::Gzip);
    }
    codecs
}

/// Topics of all kinds, written in one to three sittings. Returns how many records there are.
fn write_store(seed: u64, dir: &Path) -> usize {
    let mut random = Random(seed);
    let topics: Vec<(String, u64)> =
        (0..1 + random.below(3)).map(|i| (format!("t.{i}_x-y"), 1 + random.below(4))).collect();
    let sittings = 1 + random.below(3);
    let mut sent = 0;
    for sitting in 0..sittings {
        let store = Store::open(dir).unwrap();
        if sitting == 0 {
            for (topic, partitions) in &topics {
                let durability = *random.pick(&[Durability::Disk, Durability::PageCache]);
                let config = TopicConfig::default()
                    .partitions(u32::try_from(*partitions).unwrap())
                    .durability(durability)
                    .segment_bytes(1 << (20 + random.below(3)));
                store.create_topic(topic, config).unwrap();
            }
        }
        sent += sitting_of(&mut random, &store, &topics);
        store.close().unwrap();
    }
    sent
}

fn sitting_of(random: &mut Random, store: &Store, topics: &[(String, u64)]) -> usize {
    let codecs = codecs();
    let config = ProducerConfig::default()
        .compression(*random.pick(&codecs))
        .acks(*random.pick(&[Acks::None, Acks::Leader, Acks::All]))
        .batch_size(*random.pick(&[1, 500, 16 << 10, 256 << 10]));
    let producer = store.producer_with(config).unwrap();
    let records = *random.pick(&[0, 1, 30, 500, 3_000]);
    let value_max = *random.pick(&[10, 200, 5_000]);
    let mut time = 1_700_000_000_000 + random.below(1_000_000) as i64;
    for _ in 0..records {
        let (topic, partitions) = random.pick(topics);
        time += random.below(5_000) as i64 - 1_000; // mostly forward
        let (key, value) = (random.maybe_bytes(20), random.maybe_bytes(value_max));
        let header_value = random.maybe_bytes(8);
        let names = ["trace", "", "größe", "quote\"\\\n"];
        let headers: Vec<Header<'_>> = (0..random.below(4))
            .map(|i| Header { key: names[i as usize], value: header_value.as_deref() })
            .collect();
        let mut record = Record::to(topic.as_str()).headers(&headers).timestamp_ms(time);
        if let Some(key) = &key {
            record = record.key(key);
        }
        if let Some(value) = &value {
            record = record.value(value);
        }
        if random.below(4) == 0 {
            record = record.partition(random.below(*partitions) as i32);
        }
        let delivery = producer.send(record).unwrap();
        if random.below(50) == 0 {
            delivery.wait().unwrap();
        }
    }
    producer.close().unwrap();
    records
}
