//! Compares logstead with other logs and stores, and writes what came out to `docs/benchmarks/`.
//!
//! ```text
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- all [--quick] [--rounds N] [--only W] [--out DIR] [PEER…]
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- agree ONE/figures.tsv OTHER/figures.tsv
//! ```
//!
//! Five rounds; in each, every workload runs on every peer in turn, each step in a process of its own. `--quick` does
//! less of everything and one round. `--only` measures the workloads anew whose name begins so, with those that share
//! their log, and takes the other figures from where the report goes. The logs live under `LOGSTEAD_BENCH_DIR`, default
//! the directory for temporary files, and need about 600 MB for each peer; they are removed as soon as no step reads
//! them any more. `agree` lists the ratios on which two runs differ, those that were unsteady within one, and what only
//! one of them has; it fails if there are any of the first and the last, or too many of the second.
#![allow(clippy::unwrap_used, reason = "a benchmark that can not go on stops")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "no part of the library: its files are its own"
)]

mod figures;
#[cfg(feature = "krabka-log")]
mod krabka;
mod kv;
mod logs;
mod ours;
mod peer;
mod raw;
mod report;
mod steps;
mod tokio_logs;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use steps::{CLOSED, FULL, KILLED, QUICK, WORKLOADS};

/// A step that takes longer is given up.
const STEP_TIME_MAX: Duration = Duration::from_secs(60);

const ROUNDS: usize = 5;

/// How long a step waits for the machine to be idle, and how long it must have been.
const QUIET_WAIT_MAX: Duration = Duration::from_millis(500);
const QUIET: Duration = Duration::from_millis(50);
/// How much of one processor may be in use then.
const QUIET_BUSY_MAX: f64 = 0.2;

/// As much as a step can bring into the page cache.
const TOUCHED_BYTES: usize = 512 << 20;

/// Workloads that share a log: what reads it does so while all of it is in the page cache.
struct Group {
    workloads: &'static [&'static str],
    /// The step that leaves the log behind which they open, where none of them writes it; its figure is not wanted.
    before: Option<&'static str>,
    /// How often a round runs them on every peer in turn; its figure is the geometric mean. More than once where the
    /// device decides, which changes its mind from second to second, and where a step is over in a moment.
    passes: usize,
    cache: Cache,
}

/// What happens to the caches before a step.
#[derive(Clone, Copy, PartialEq)]
enum Cache {
    /// The memory that is free was in use a moment ago.
    Touched,
    /// The same, and the host has none of the log in a cache of its own: it does or does not as it likes, and reading
    /// past our page cache is three times faster then.
    Evicted,
    /// Nothing: a durable append brings next to nothing.
    AsIs,
}

/// In the order in which a round runs them.
const ORDER: [Group; 8] = [
    Group { workloads: &["W1", "W9", "W5-100", "W6"], before: None, passes: 1, cache: Cache::Touched },
    Group { workloads: &["W7-clean"], before: Some(CLOSED), passes: 3, cache: Cache::Touched },
    Group { workloads: &["W2", "W5-1024"], before: None, passes: 1, cache: Cache::Touched },
    Group { workloads: &["W3"], before: None, passes: 1, cache: Cache::Touched },
    Group { workloads: &["W4-1"], before: None, passes: 3, cache: Cache::AsIs },
    Group { workloads: &["W4-8"], before: None, passes: 3, cache: Cache::AsIs },
    Group { workloads: &["W4-64"], before: None, passes: 3, cache: Cache::AsIs },
    Group { workloads: &["W7-kill"], before: Some(KILLED), passes: 2, cache: Cache::Evicted },
];

/// Figures by workload and peer, one for each round; or why there are none.
pub type Results = BTreeMap<(&'static str, &'static str), Result<Vec<f64>, String>>;

/// What a run of all is asked to do.
struct Run<'a> {
    peers: Vec<&'a str>,
    quick: bool,
    rounds: Option<usize>,
    /// How the names of the workloads begin that are measured anew.
    only: &'a str,
    out: PathBuf,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut run = Run {
        peers: Vec::new(),
        quick: false,
        rounds: None,
        only: "",
        out: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/benchmarks"),
    };
    let mut args = args.iter().map(String::as_str);
    let mut words = Vec::new();
    while let Some(arg) = args.next() {
        match arg {
            "--quick" => run.quick = true,
            "--rounds" => run.rounds = args.next().and_then(|rounds| rounds.parse().ok()),
            "--only" => run.only = args.next().unwrap_or_default(),
            "--out" => run.out = args.next().unwrap_or_default().into(),
            word => words.push(word),
        }
    }
    match words.as_slice() {
        ["step", workload, peer, dir] => {
            let size = if run.quick { QUICK } else { FULL };
            let peer = peer::find(peer).unwrap();
            if [CLOSED, KILLED].contains(workload) {
                steps::leave(&peer, Path::new(dir), workload, size);
                return ExitCode::SUCCESS;
            }
            let workload = WORKLOADS.iter().find(|w| w.id == *workload).unwrap();
            println!("result {}", steps::run(workload, &peer, Path::new(dir), size));
            ExitCode::SUCCESS
        }
        ["all", peers @ ..] => {
            run.peers = peers.to_vec();
            all(&run);
            ExitCode::SUCCESS
        }
        ["agree", one, other] => {
            if figures::agree(Path::new(one), Path::new(other)) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        _ => {
            eprintln!(
                "usage: peers all [--quick] [--rounds N] [--only W] [--out DIR] [PEER…] | agree FIGURES FIGURES"
            );
            ExitCode::from(2)
        }
    }
}

fn all(run: &Run<'_>) {
    let start = Instant::now();
    let chosen = |name: &str| run.peers.is_empty() || run.peers.contains(&name);
    let peers: Vec<_> = peer::all().into_iter().filter(|peer| chosen(peer.name)).collect();
    let root = std::env::var_os("LOGSTEAD_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let root = root.join(format!("logstead-peers-{}", std::process::id()));
    let groups = || ORDER.iter().filter(|group| group.workloads.iter().any(|id| id.starts_with(run.only)));
    let mut results = if run.only.is_empty() { Results::new() } else { earlier(&run.out, &peers) };
    for id in groups().flat_map(|group| group.workloads) {
        results.retain(|(workload, _), _| workload != id);
    }
    let rounds = run.rounds.unwrap_or(if run.quick { 1 } else { ROUNDS });
    let mut disturbed = 0;
    for round in 1..=rounds {
        for group in groups() {
            let mut figures = BTreeMap::<_, Vec<f64>>::new();
            for _ in 0..group.passes {
                std::fs::create_dir_all(&root).unwrap();
                for (id, peer) in
                    group.workloads.iter().flat_map(|id| peers.iter().map(move |peer| (id, peer)))
                {
                    let workload = WORKLOADS.iter().find(|workload| workload.id == *id).unwrap();
                    let key = (workload.id, peer.name);
                    let result = results.entry(key).or_insert_with(|| Ok(Vec::new()));
                    if let Err(why) = (workload.applies)(peer) {
                        *result = Err(why.to_owned());
                    }
                    if result.is_err() {
                        continue;
                    }
                    let dir = root.join(peer.name);
                    std::fs::create_dir_all(&dir).unwrap();
                    if let Some(before) = group.before {
                        // It tells nothing, or dies.
                        let _ = step(before, peer.name, &dir, run.quick);
                    }
                    disturbed += usize::from(!settle(&root, group.cache));
                    match step(workload.id, peer.name, &dir, run.quick) {
                        Ok(figure) => figures.entry(key).or_default().push(figure),
                        Err(why) => *result = Err(why),
                    }
                }
                std::fs::remove_dir_all(&root).unwrap();
            }
            for (key, passes) in figures {
                eprintln!("round {round} {} {}: {passes:?}", key.0, key.1);
                if let Some(Ok(rounds)) = results.get_mut(&key) {
                    rounds.push(figures::geometric_mean(&passes));
                }
            }
        }
    }
    let home = root.parent().unwrap_or(&root);
    let report =
        report::Report { rounds, quick: run.quick, only: run.only, time: start.elapsed(), disturbed, home };
    report.write(&run.out, &peers, &results);
}

/// The figures of an earlier run, and why there are none of the others.
fn earlier(dir: &Path, peers: &[peer::About]) -> Results {
    let figures = figures::load(&dir.join("figures.tsv"));
    let mut results = Results::new();
    for workload in WORKLOADS {
        for peer in peers {
            let rounds = figures.get(&(workload.id.to_owned(), peer.name.to_owned()));
            let result = match ((workload.applies)(peer), rounds) {
                (Err(why), _) => Err(why.to_owned()),
                (Ok(()), Some(rounds)) => Ok(rounds.clone()),
                (Ok(()), None) => Err("failed in an earlier run".to_owned()),
            };
            results.insert((workload.id, peer.name), result);
        }
    }
    results
}

/// Gives each step the same machine to start on: nothing of the one before waits to be written, the memory that is free
/// was in use a moment ago, because a virtual machine takes many times longer for the first use of a page that its host
/// has to find, and nothing else runs. Whether that last came true.
fn settle(root: &Path, cache: Cache) -> bool {
    let synced = Command::new("sync").arg("--file-system").arg(root).status().unwrap();
    assert!(synced.success(), "sync failed");
    if cache != Cache::AsIs {
        touch(&root.join("touched"), cache == Cache::Evicted);
    }
    let start = Instant::now();
    while start.elapsed() < QUIET_WAIT_MAX {
        let (before, all_before) = processor_ticks();
        std::thread::sleep(QUIET);
        let (after, all_after) = processor_ticks();
        let processors = std::thread::available_parallelism().unwrap().get() as f64;
        let busy = (after - before) as f64 / (all_after - all_before).max(1) as f64 * processors;
        if busy <= QUIET_BUSY_MAX {
            return true;
        }
    }
    false
}

/// Fills page cache, and the device's if it is synced, with a file that goes again.
fn touch(path: &Path, sync: bool) {
    let mut file = File::create(path).unwrap();
    // No zeros: a host need not keep those.
    let noise: Vec<u8> = (0..1_u32 << 20).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect();
    for _ in 0..TOUCHED_BYTES / noise.len() {
        file.write_all(&noise).unwrap();
    }
    if sync {
        file.sync_data().unwrap();
    }
    std::fs::remove_file(path).unwrap();
}

/// Of all processors together: those in use or stolen by the host, and all.
fn processor_ticks() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let ticks = stat.lines().next().unwrap().split_whitespace().skip(1).take(8);
    let ticks: Vec<u64> = ticks.map(|ticks| ticks.parse().unwrap()).collect();
    let all = ticks.iter().sum();
    // The fourth waits for nothing, the fifth for the disk.
    (all - ticks[3] - ticks[4], all)
}

/// Runs one step in a process of its own.
fn step(workload: &str, peer: &str, dir: &Path, quick: bool) -> Result<f64, String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["step", workload, peer]).arg(dir).stdout(Stdio::piped()).stderr(Stdio::piped());
    if quick {
        command.arg("--quick");
    }
    let mut child = command.spawn().unwrap();
    // The step is over when both pipes are closed.
    let (done, over) = mpsc::channel();
    let read = |mut pipe: Box<dyn Read + Send>, done: mpsc::Sender<()>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            let _ = done.send(());
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = read(Box::new(child.stdout.take().unwrap()), done.clone());
    let errors = read(Box::new(child.stderr.take().unwrap()), done);
    let start = Instant::now();
    let in_time = (0..2).all(|_| over.recv_timeout(STEP_TIME_MAX.saturating_sub(start.elapsed())).is_ok());
    if !in_time {
        child.kill().unwrap();
    }
    child.wait().unwrap();
    if !in_time {
        return Err(format!("took more than {} s", STEP_TIME_MAX.as_secs()));
    }
    let (out, errors) = (out.join().unwrap(), errors.join().unwrap());
    let figure = out.lines().find_map(|line| line.strip_prefix("result "));
    figure.and_then(|figure| figure.parse().ok()).ok_or_else(|| {
        let line = errors.lines().find(|line| !line.is_empty() && !line.starts_with("thread"));
        format!("failed: {}", line.unwrap_or("no reason given").chars().take(120).collect::<String>())
    })
}
