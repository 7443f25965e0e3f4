//! The figures of a run: kept in a file, compared with ours, and with those of another run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use crate::steps::{WORKLOADS, Workload};
use crate::{ROUNDS, Results};

/// What everything is compared with: the better of our two ways in.
pub const OURS: [&str; 2] = ["logstead", "logstead-partition"];

/// Two figures that are further apart than this differ; nearer, it is noise.
pub const APART_MAX: f64 = 1.15;

/// By workload and peer, one figure for each round.
pub type Figures = BTreeMap<(String, String), Vec<f64>>;

pub fn measured(results: &Results) -> Figures {
    let mut figures = Figures::new();
    for ((workload, peer), result) in results {
        if let Ok(rounds) = result
            && !rounds.is_empty()
        {
            figures.insert(((*workload).to_owned(), (*peer).to_owned()), rounds.clone());
        }
    }
    figures
}

pub fn save(figures: &Figures, path: &Path) {
    let mut text = String::from("workload\tpeer\tone figure for each round\n");
    for ((workload, peer), rounds) in figures {
        let rounds: Vec<_> = rounds.iter().map(f64::to_string).collect();
        let _ = writeln!(text, "{workload}\t{peer}\t{}", rounds.join("\t"));
    }
    std::fs::write(path, text).unwrap();
}

pub fn load(path: &Path) -> Figures {
    let text = std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let row = |line: &str| {
        let mut words = line.split('\t').map(str::to_owned);
        let key = (words.next().unwrap(), words.next().unwrap());
        (key, words.map(|figure| figure.parse().unwrap()).collect())
    };
    text.lines().skip(1).map(row).collect()
}

pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] }
}

pub fn geometric_mean(figures: &[f64]) -> f64 {
    (figures.iter().map(|figure| figure.ln()).sum::<f64>() / figures.len() as f64).exp()
}

/// Highest by lowest; from five rounds on without the highest and the lowest, which the median does not see either.
pub fn spread(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let kept = if sorted.len() < 5 { &sorted[..] } else { &sorted[1..sorted.len() - 1] };
    kept[kept.len() - 1] / kept[0]
}

/// How many times a peer's figure is ours.
#[derive(Clone, Copy)]
pub struct OfOurs {
    /// The ratio is taken within each round, where the machine was the same for both: the median of these.
    pub ratio: f64,
    /// Of the ratios.
    pub spread: f64,
}

impl OfOurs {
    pub fn unsteady(self) -> bool {
        self.spread > APART_MAX
    }

    /// What stands behind a ratio that is not to be quoted.
    pub fn mark(self) -> &'static str {
        if self.unsteady() { " ~" } else { "" }
    }
}

/// Compared with the better of ours; `None` where one of the two was not measured.
pub fn of_ours(workload: &Workload, peer: &str, figures: &Figures) -> Option<OfOurs> {
    let of = |peer: &str| figures.get(&(workload.id.to_owned(), peer.to_owned()));
    let better = |a: &&Vec<f64>, b: &&Vec<f64>| {
        let order = median(a).total_cmp(&median(b));
        if workload.smaller_is_better { order.reverse() } else { order }
    };
    let ours = OURS.iter().filter_map(|name| of(name)).max_by(better)?;
    let ratios: Vec<_> = of(peer)?.iter().zip(ours).map(|(theirs, ours)| theirs / ours).collect();
    Some(OfOurs { ratio: median(&ratios), spread: spread(&ratios) })
}

/// Whether so many ratios are unsteady that the machine must have been busy with other things.
pub fn too_unsteady(unsteady: usize, ratios: usize) -> bool {
    unsteady * 4 > ratios
}

/// Prints the ratios that two runs do not agree on, those that either run itself calls unsteady, and what one of them
/// has and the other has not; whether there are none of the first and the last, and not too many of the second.
pub fn agree(one: &Path, other: &Path) -> bool {
    let [one, other] = [one, other].map(|path| {
        let mut figures = load(path);
        figures.retain(|_, rounds| rounds.len() >= ROUNDS);
        figures
    });
    let (mut compared, mut missing, mut apart, mut unsteady) = (0, 0, 0, 0);
    for workload in WORKLOADS {
        let peers: BTreeSet<_> = one.keys().chain(other.keys()).filter(|(id, _)| id == workload.id).collect();
        for (_, peer) in peers.iter().filter(|(_, peer)| !OURS.contains(&peer.as_str())) {
            let both = (of_ours(workload, peer, &one), of_ours(workload, peer, &other));
            let (Some(a), Some(b)) = both else {
                missing += 1;
                println!(
                    "missing: {} {peer} is in one of them only, or with fewer than {ROUNDS} rounds",
                    workload.id
                );
                continue;
            };
            compared += 1;
            let times = (a.ratio / b.ratio).max(b.ratio / a.ratio);
            let what = if a.unsteady() || b.unsteady() {
                unsteady += 1;
                "unsteady"
            } else if times > APART_MAX {
                apart += 1;
                "apart"
            } else {
                continue;
            };
            println!(
                "{what}: {} {peer}: {:.3} and {:.3} of ours, {times:.2} apart; spread {:.2} and {:.2}",
                workload.id, a.ratio, b.ratio, a.spread, b.spread
            );
        }
    }
    println!(
        "of {compared} ratios {apart} are more than {APART_MAX} apart, {unsteady} are unsteady; {missing} are missing"
    );
    compared > 0 && missing == 0 && apart == 0 && !too_unsteady(unsteady, compared)
}
