//! Compares logstead with other logs and stores, and writes what came out to `docs/benchmarks/`.
//!
//! ```text
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- all [--quick] [PEER…]
//! ```
//!
//! Three rounds; in each, every workload runs on every peer in turn, each step in a process of its own. `--quick`
//! does less of everything and one round. The logs live under `LOGSTEAD_BENCH_DIR`, default the directory for temporary files,
//! and need about 2 GB for each peer; they are removed at the end.
#![allow(clippy::unwrap_used, reason = "a benchmark that can not go on stops")]

mod kv;
mod logs;
mod ours;
mod peer;
mod raw;
mod report;
mod steps;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use steps::{FULL, QUICK, WORKLOADS};

/// A step that takes longer is given up.
const STEP_TIME_MAX: Duration = Duration::from_secs(60);

/// Figures by workload and peer, one for each round; or why there are none.
pub type Results = BTreeMap<(&'static str, &'static str), Result<Vec<f64>, String>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let quick = args.iter().any(|arg| arg == "--quick");
    let size = if quick { QUICK } else { FULL };
    let words: Vec<&str> = args.iter().map(String::as_str).filter(|arg| !arg.starts_with("--")).collect();
    match words.as_slice() {
        ["step", workload, peer, dir] => {
            let peer = peer::find(peer).unwrap();
            if *workload == "kill" {
                steps::leave_killed(&peer, Path::new(dir), size);
            }
            let workload = WORKLOADS.iter().find(|w| w.id == *workload).unwrap();
            println!("result {}", steps::run(workload, &peer, Path::new(dir), size));
            ExitCode::SUCCESS
        }
        ["all", names @ ..] => {
            all(names, quick);
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: peers all [--quick] [PEER…]");
            ExitCode::from(2)
        }
    }
}

fn all(names: &[&str], quick: bool) {
    let peers: Vec<_> =
        peer::all().into_iter().filter(|peer| names.is_empty() || names.contains(&peer.name)).collect();
    let root = std::env::var_os("LOGSTEAD_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let root = root.join(format!("logstead-peers-{}", std::process::id()));
    let mut results = Results::new();
    let rounds = if quick { 1 } else { 3 };
    for round in 1..=rounds {
        for workload in WORKLOADS {
            for peer in &peers {
                let entry = results.entry((workload.id, peer.name)).or_insert_with(|| Ok(Vec::new()));
                if let Err(why) = (workload.applies)(peer) {
                    *entry = Err(why.to_owned());
                }
                let Ok(figures) = entry else { continue };
                let dir = root.join(peer.name);
                std::fs::create_dir_all(&dir).unwrap();
                if workload.id == "W7-kill" {
                    // Ends by a signal: its figure is not wanted.
                    let _ = step("kill", peer.name, &dir, quick);
                }
                match step(workload.id, peer.name, &dir, quick) {
                    Ok(figure) => figures.push(figure),
                    Err(why) => *entry = Err(why),
                }
                let last = results.get(&(workload.id, peer.name));
                eprintln!("round {round} {} {}: {last:?}", workload.id, peer.name);
            }
        }
        std::fs::remove_dir_all(&root).unwrap();
    }
    report::write(&peers, &results, rounds, quick);
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
