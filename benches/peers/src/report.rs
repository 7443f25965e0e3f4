//! Tables and plots from the figures, in `docs/benchmarks/`.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use crate::Results;
use crate::figures::{
    APART_MAX, Figures, OURS, OfOurs, measured, median, of_ours, save, spread, too_unsteady,
};
use crate::peer::{ABSENT, About};
use crate::steps::{WORKLOADS, Workload};

/// Where the head of the page says how many do.
const STEADY: &str = "{steady}";

struct Row<'a> {
    peer: &'a About,
    median: f64,
    spread: f64,
    of_ours: Option<OfOurs>,
}

/// How a run went.
pub struct Report<'a> {
    pub rounds: usize,
    pub quick: bool,
    /// How the names of the workloads begin that were measured now; the others were before.
    pub only: &'a str,
    pub time: Duration,
    /// Steps that began while something else ran.
    pub disturbed: usize,
    /// Where the logs were.
    pub home: &'a Path,
}

impl Report<'_> {
    fn steadiness(&self, measured: usize, unsteady: usize) -> String {
        if self.rounds == 1 {
            return "**One round only**: nothing is known of how steady these figures are.".to_owned();
        }
        let verdict = if too_unsteady(unsteady, measured) {
            "The machine was busy with other things: **do not quote these tables, measure again.**"
        } else {
            "Do not quote those."
        };
        format!(
            "{unsteady} of {measured} ratios, marked ~, varied by more than {APART_MAX} between rounds; {} steps began \
             while something else ran. {verdict}",
            self.disturbed
        )
    }

    pub fn write(&self, dir: &Path, peers: &[About], results: &Results) {
        std::fs::create_dir_all(dir).unwrap();
        let figures = measured(results);
        save(&figures, &dir.join("figures.tsv"));
        let mut page = self.head();
        page.push_str(&guarantees(peers));
        let mut ahead = String::new();
        let mut tables = String::new();
        let (mut measured, mut unsteady) = (0, 0);
        for workload in WORKLOADS {
            let rows = rows(workload, peers, &figures);
            let missing = missing(workload, peers, results);
            let theirs: Vec<(&str, OfOurs)> = rows
                .iter()
                .filter(|row| !OURS.contains(&row.peer.name))
                .filter_map(|row| Some((row.peer.name, row.of_ours?)))
                .collect();
            measured += theirs.len();
            unsteady += theirs.iter().filter(|(_, of)| of.unsteady()).count();
            let _ = writeln!(tables, "\n## {} {}\n", workload.id, workload.title);
            if !rows.is_empty() {
                let _ = writeln!(tables, "![{}]({}.svg)\n", workload.title, workload.id);
                let _ = writeln!(tables, "| | {} | spread | of ours |", workload.unit);
                tables.push_str("|---|---:|---:|---:|\n");
            }
            for row in &rows {
                let of_ours =
                    row.of_ours.map_or("-".to_owned(), |of| format!("{:.2}{}", of.ratio, of.mark()));
                let name = if OURS.contains(&row.peer.name) {
                    format!("**{}**", row.peer.name)
                } else {
                    row.peer.name.into()
                };
                let _ =
                    writeln!(tables, "| {name} | {} | {:.2} | {of_ours} |", human(row.median), row.spread);
            }
            if !missing.is_empty() {
                let _ = writeln!(tables, "\nNot measured: {}.", missing.join("; "));
            }
            let better: Vec<_> = theirs
                .iter()
                .map(|(name, of)| {
                    (name, of, if workload.smaller_is_better { 1.0 / of.ratio } else { of.ratio })
                })
                .filter(|(_, _, times)| *times > 1.0)
                .map(|(name, of, times)| format!("{name} ({times:.2} times{})", of.mark()))
                .collect();
            if !better.is_empty() {
                let _ = writeln!(ahead, "- **{}** {}: {}", workload.id, workload.title, better.join(", "));
            }
            if !rows.is_empty() {
                std::fs::write(dir.join(format!("{}.svg", workload.id)), plot(workload, &rows)).unwrap();
            }
        }
        let _ = writeln!(
            page,
            "## Where a peer is ahead of us\n\nOf the better of our two ways in; factors under {APART_MAX} are noise.\n\n{ahead}"
        );
        page.push_str(&tables);
        page = page.replace(STEADY, &self.steadiness(measured, unsteady));
        let path = dir.join("README.md");
        std::fs::write(&path, page).unwrap();
        eprintln!("written: {}", path.display());
    }

    fn head(&self) -> String {
        let command = "cargo run --release --manifest-path benches/peers/Cargo.toml -- all";
        let flag = if self.quick { " --quick" } else { "" };
        let part = match self.only {
            "" => String::new(),
            only => format!(" ({only} alone, with `--only`: the rest is of the run before)"),
        };
        format!(
            "# Measured beside other logs\n\n\
         Written by `{command}{flag}`: do not edit. What we left out, and how to read this: [notes](notes.md).\n\n\
         Random payload, no codec, warm page cache; each step in a process of its own, peers in turn, median of {} \
         round(s), in {} minutes{part}. *Spread* is highest by lowest, from five rounds on without these two. \
         *Of ours* is the peer's figure divided by the better of ours: the median of what it is within each round. \
         Absolute figures hold for this machine only; every figure is in [figures.tsv](figures.tsv). {STEADY}\n\n{}\n",
            self.rounds,
            self.time.as_secs().div_ceil(60),
            machine(self.home)
        )
    }
}

fn machine(home: &Path) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split(':').nth(1).unwrap_or("unknown").trim().to_owned()
    };
    let cpu = read("/proc/cpuinfo");
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let family = format!("family {} model {}", field(&cpu, "cpu family"), field(&cpu, "model\t"));
    let mounts = read("/proc/mounts");
    let home = home.canonicalize().unwrap_or_default();
    let point =
        |line: &&str| line.split(' ').nth(1).filter(|point| home.starts_with(point)).map_or(0, str::len);
    let disk = mounts
        .lines()
        .filter(|line| point(line) > 0)
        .max_by_key(point)
        .map_or(String::new(), |line| line.split(' ').take(3).collect::<Vec<_>>().join(" "));
    format!(
        "| | |\n|---|---|\n| CPU | {} ({family}), {cores} cores |\n| memory | {} |\n| file system | {disk} |\n| kernel | {} |\n",
        field(&cpu, "model name"),
        field(&read("/proc/meminfo"), "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim(),
    )
}

fn guarantees(peers: &[About]) -> String {
    let mut text = String::from(
        "## What each promises\n\n| | checksum | a relaxed append ends | durable append | found by |\n|---|---|---|---|---|\n",
    );
    for peer in peers {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            peer.name, peer.checksum, peer.relaxed, peer.durable, peer.index
        );
    }
    text.push('\n');
    text
}

/// The measured ones, best first.
fn rows<'a>(workload: &Workload, peers: &'a [About], figures: &Figures) -> Vec<Row<'a>> {
    let row = |peer: &'a About| {
        let rounds = figures.get(&(workload.id.to_owned(), peer.name.to_owned()))?;
        let of_ours = of_ours(workload, peer.name, figures);
        Some(Row { peer, median: median(rounds), spread: spread(rounds), of_ours })
    };
    let mut rows: Vec<_> = peers.iter().filter_map(row).collect();
    rows.sort_by(|a, b| {
        let order = a.median.total_cmp(&b.median);
        if workload.smaller_is_better { order } else { order.reverse() }
    });
    rows
}

/// The others, with the reason.
fn missing(workload: &Workload, peers: &[About], results: &Results) -> Vec<String> {
    let why = |peer: &About| {
        let why = results.get(&(workload.id, peer.name))?.as_ref().err()?;
        Some(format!("{} ({why})", peer.name))
    };
    let absent = ABSENT.iter().map(|(name, why)| format!("{name} ({why})"));
    peers.iter().filter_map(why).chain(absent).collect()
}

fn human(figure: f64) -> String {
    match figure {
        f if f >= 1e6 => format!("{:.2} M", f / 1e6),
        f if f >= 1e4 => format!("{:.1} k", f / 1e3),
        f if f >= 100.0 => format!("{f:.0}"),
        f => format!("{f:.2}"),
    }
}

/// Horizontal bars, the best on top.
fn plot(workload: &Workload, rows: &[Row<'_>]) -> String {
    const BAR: usize = 20;
    const LEFT: f64 = 150.0;
    const WIDTH: f64 = 420.0;
    let most = rows.iter().map(|row| row.median).fold(0.0, f64::max);
    let height = rows.len() * BAR + 40;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"680\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"20\" font-weight=\"bold\">{} {} ({})</text>\n",
        workload.id, workload.title, workload.unit
    );
    for (i, row) in rows.iter().enumerate() {
        let top = 32 + i * BAR;
        let colour = if OURS.contains(&row.peer.name) { "#c2410c" } else { "#64748b" };
        let width = (row.median / most * WIDTH).max(1.0);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><rect x=\"{LEFT}\" y=\"{top}\" width=\"{width:.1}\" \
             height=\"14\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{}\">{}</text>",
            LEFT - 6.0,
            top + 11,
            row.peer.name,
            LEFT + width + 5.0,
            top + 11,
            human(row.median)
        );
    }
    svg.push_str("</svg>\n");
    svg
}
