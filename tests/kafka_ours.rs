//! Kafka's verdict on what we write: random directories of ours, after every kind of end, go to Kafka's own log
//! classes, which judge the files and read the same records from them. And for the same input both write the same
//! bytes.
//!
//! Needs the oracle, see `tests/common/oracle.rs`; says so when it skips. `LOGSTEAD_SEED=n` replays one directory.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic and look around")]

mod common;
#[allow(dead_code, unreachable_pub, reason = "a program, taken as a module: its main is not called here")]
#[path = "../examples/dump.rs"]
mod dump;
#[path = "common/oracle.rs"]
mod oracle;
#[path = "common/stories.rs"]
mod stories;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use common::{in_parallel, telling};
use oracle::{Oracle, compare, keep, problems, workplace};
use serde_json::Value;
use stories::{KINDS, State, Story, tell};

#[test]
fn kafka_accepts_a_few_random_directories_and_reads_the_same() {
    let Some(oracle) = Oracle::find() else { return };
    judge(&[oracle], KINDS.len() as u64);
}

#[test]
#[ignore = "takes up to a minute; .ci/run calls it"]
fn kafka_accepts_two_hundred_random_directories_and_reads_the_same() {
    let oracles = Oracle::all();
    if !oracles.is_empty() {
        judge(&oracles, if common::soak() { 2_000 } else { 200 });
    }
}

/// A directory that is judged.
struct Dir<'s> {
    story: &'s Story,
    path: PathBuf,
    /// What its files may claim to be.
    state: State,
    /// What we read from it, after a recovery where it needs one.
    ours: Vec<String>,
}

/// Tells `count` stories and asks each Kafka about all of them at once.
fn judge(oracles: &[Oracle], count: u64) {
    let first = common::seed();
    let seeds: Vec<u64> = match std::env::var_os("LOGSTEAD_SEED") {
        Some(_) => vec![first],
        None => (first..first + count).collect(),
    };
    let home = workplace();
    let told: Mutex<Vec<Story>> = Mutex::default();
    in_parallel(seeds.len(), |i| {
        let story = telling(|| format!("the story of seed {}", seeds[i]), || tell(seeds[i]));
        told.lock().unwrap().push(story);
    });
    let mut stories = told.into_inner().unwrap();
    stories.sort_by_key(|story| story.seed);
    let dirs: Vec<Dir<'_>> = stories.iter().flat_map(|story| put(story, home.path())).collect();
    let mut failures = Failures::default();
    for dir in &dirs {
        if let Err(why) = dir.story.check(&dir.ours) {
            failures.add(dir, format!("we read something else than was sent: {why}"));
        }
    }
    for oracle in oracles {
        ask(oracle, &dirs, &mut failures);
    }
    let records: usize = dirs.iter().map(|dir| dir.ours.len()).sum();
    let lines: Vec<&str> = oracles.iter().map(Oracle::line).collect();
    println!("{} directories, {records} records, judged by Kafka {}", dirs.len(), lines.join(" and "));
    failures.end(dirs.len());
}

/// The directories of a story: as it ended, and after a recovery where it ended with a crash.
fn put<'s>(story: &'s Story, home: &Path) -> Vec<Dir<'s>> {
    let path = story.put(home);
    if matches!(story.state, State::Closed | State::ClosedAtOnce) {
        let ours = read(&path);
        return vec![Dir { story, path, state: story.state, ours }];
    }
    let recovered = story.put_recovered(home);
    let ours = read(&recovered);
    let after = Dir { story, path: recovered, state: State::Closed, ours: ours.clone() };
    vec![Dir { story, path, state: story.state, ours }, after]
}

fn read(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    assert_eq!(dump::dump(dir, None, &mut lines).unwrap(), 0, "{}", dir.display());
    String::from_utf8(lines).unwrap().lines().map(str::to_owned).collect()
}

/// What went wrong, by directory.
#[derive(Default)]
struct Failures(BTreeMap<String, Vec<String>>);

impl Failures {
    fn add(&mut self, dir: &Dir<'_>, why: String) {
        let name = format!("{}: {}", dir.path.display(), dir.story.replay());
        let known = self.0.entry(name).or_default();
        if known.is_empty() {
            keep(&dir.path, &dir.story.name());
        }
        known.push(why);
    }

    fn end(self, of: usize) {
        let text: Vec<String> =
            self.0.iter().map(|(name, why)| format!("{name}\n{}", why.join("\n"))).collect();
        assert!(text.is_empty(), "{} of {of} directories:\n{}", text.len(), text.join("\n\n"));
    }
}

/// Has one Kafka judge and read all directories.
fn ask(oracle: &Oracle, dirs: &[Dir<'_>], failures: &mut Failures) {
    let kinds: [(State, &[&str]); 4] = [
        (State::ClosedAtOnce, &["--strict"]),
        (State::Closed, &[]),
        (State::Killed, &["--allow-torn-tail"]),
        (State::Crashed, &["--allow-torn-tail", "--no-rebuild"]),
    ];
    for (state, flags) in kinds {
        let some: Vec<&Dir<'_>> = dirs.iter().filter(|dir| dir.state == state).collect();
        let paths: Vec<PathBuf> = some.iter().map(|dir| dir.path.clone()).collect();
        for (dir, verdict) in some.iter().zip(oracle.judge(flags, &paths)) {
            if let Some(why) = complaint(state, &verdict) {
                failures.add(dir, format!("Kafka {}: {why}", oracle.line()));
            }
        }
    }
    let paths: Vec<PathBuf> = dirs.iter().map(|dir| dir.path.clone()).collect();
    for (dir, seen) in dirs.iter().zip(oracle.view(&paths)) {
        if let Err(why) = compare(&dir.ours, &seen.records) {
            failures.add(dir, format!("Kafka {} reads other records than we: {why}", oracle.line()));
        }
    }
}

/// What Kafka says against a directory, if it is not what such a directory may have.
fn complaint(state: State, verdict: &Value) -> Option<String> {
    let clean = matches!(state, State::Closed | State::ClosedAtOnce);
    if clean != (verdict["clean"] == true) {
        return Some(format!("the stop counts as clean: {}", verdict["clean"]));
    }
    if verdict["ok"] == true {
        return None;
    }
    // Behind what was synced a power cut leaves anything, whole batches behind holes and torn snapshots too. Kafka's
    // start throws both away; that we keep the same records shows when they are read.
    let residue = |problem: &Value| {
        let words = ["Kafka cut", "are no batch", "CorruptSnapshotException"];
        problem.as_str().is_some_and(|text| words.iter().any(|word| text.contains(word)))
    };
    let alone = verdict["problems"].as_array().is_some_and(Vec::is_empty);
    let mut all = verdict["partitions"].as_array().into_iter().flatten();
    let excused = all.all(|partition| {
        let mut problems = partition["problems"].as_array().into_iter().flatten();
        problems.all(|problem| match state {
            State::Crashed => residue(problem) || to_be_rebuilt(partition, problem),
            State::Killed => to_be_rebuilt(partition, problem),
            State::Closed | State::ClosedAtOnce => false,
        })
    });
    if alone && excused { None } else { Some(problems(verdict)) }
}

/// Whether a problem is that of a time index not yet completed, of a segment that the recovery point lies in: stopped
/// behind a roll. Kafka's start rebuilds the indexes from that segment on; the judge only knows it of the last one.
fn to_be_rebuilt(partition: &Value, problem: &Value) -> bool {
    let text = problem.as_str().unwrap();
    let Some((base, _)) = text.split_once(".timeindex: last entry") else { return false };
    let base: i64 = base.parse().unwrap();
    let mut segments = partition["segments"].as_array().into_iter().flatten().filter_map(Value::as_i64);
    let next = segments.find(|segment| *segment > base).unwrap_or(i64::MAX);
    partition["recovery_point"].as_i64().unwrap() < next
}
