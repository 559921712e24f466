//! What every suite and the demo write: one JSON schema, medians over runs, and a table for readers.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use thiserror::Error;

/// One run of one suite.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    pub suite: String,
    pub environment: Environment,
    pub rows: Vec<Row>,
}

/// The machine and the programs that produced the figures.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// `uname -r`.
    pub kernel: String,
    /// The processor's model name.
    pub cpu: String,
    pub cores: usize,
    /// The congestion control that TCP figures used.
    pub congestion_control: String,
    /// The commit that was built, with `-dirty` when the tree had changes; `unknown` outside a repository.
    pub commit: String,
    /// Program name to its own words about its version.
    pub versions: BTreeMap<String, String>,
}

/// One figure. Absent things are `null`, never left out.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub name: String,
    /// The median of the runs.
    pub value: f64,
    pub unit: String,
    /// What it is compared with, in the same runs.
    pub peer: Option<String>,
    /// The median of the peer's runs, in `unit`.
    pub peer_value: Option<f64>,
    /// The median over the runs of `value / peer_value` of that run.
    pub ratio: Option<f64>,
    /// Largest minus smallest over the runs, as a part of the median; of the ratios where there is a peer.
    pub spread: Option<f64>,
    /// Like `ratio >= 1` or `value <= 40`.
    pub goal: Option<String>,
    pub met: Option<bool>,
}

/// A bound on a row's value or ratio.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    ValueAtLeast(f64),
    ValueAtMost(f64),
    /// The value stays below this, which itself misses.
    ValueBelow(f64),
    ValueIs(f64),
    RatioAtLeast(f64),
    RatioAtMost(f64),
}

impl Goal {
    fn text(self) -> String {
        match self {
            Self::ValueAtLeast(bound) => format!("value >= {bound}"),
            Self::ValueAtMost(bound) => format!("value <= {bound}"),
            Self::ValueBelow(bound) => format!("value < {bound}"),
            Self::ValueIs(bound) => format!("value = {bound}"),
            Self::RatioAtLeast(bound) => format!("ratio >= {bound}"),
            Self::RatioAtMost(bound) => format!("ratio <= {bound}"),
        }
    }

    fn is_met(self, value: f64, ratio: Option<f64>) -> bool {
        match self {
            Self::ValueAtLeast(bound) => value >= bound,
            Self::ValueAtMost(bound) => value <= bound,
            Self::ValueBelow(bound) => value < bound,
            Self::ValueIs(bound) => (value - bound).abs() < 1e-9,
            Self::RatioAtLeast(bound) => ratio.is_some_and(|ratio| ratio >= bound),
            Self::RatioAtMost(bound) => ratio.is_some_and(|ratio| ratio <= bound),
        }
    }
}

impl Row {
    /// One observed figure, without runs or a peer.
    #[must_use]
    pub fn single(name: &str, value: f64, unit: &str) -> Self {
        Self {
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
            peer: None,
            peer_value: None,
            ratio: None,
            spread: None,
            goal: None,
            met: None,
        }
    }

    /// The median over `runs`.
    #[must_use]
    pub fn median(name: &str, unit: &str, runs: &[f64]) -> Self {
        Self {
            spread: Some(spread(runs)),
            ..Self::single(name, median(runs), unit)
        }
    }

    /// Medians over pairs of (ours, the peer's) that ran one after the other.
    #[must_use]
    pub fn beside(name: &str, unit: &str, peer: &str, pairs: &[(f64, f64)]) -> Self {
        let ours: Vec<f64> = pairs.iter().map(|pair| pair.0).collect();
        let theirs: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
        let ratios: Vec<f64> = pairs.iter().map(|pair| pair.0 / pair.1).collect();
        Self {
            peer: Some(peer.to_owned()),
            peer_value: Some(median(&theirs)),
            ratio: Some(median(&ratios)),
            spread: Some(spread(&ratios)),
            ..Self::single(name, median(&ours), unit)
        }
    }

    #[must_use]
    pub fn with_goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal.text());
        self.met = Some(goal.is_met(self.value, self.ratio));
        self
    }
}

/// The middle value; the mean of the two middle ones when there is an even number. NaN for no runs.
#[must_use]
pub fn median(runs: &[f64]) -> f64 {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match (sorted.len() % 2, sorted.get(half)) {
        (_, None) => f64::NAN,
        (0, Some(upper)) => f64::midpoint(sorted[half - 1], *upper),
        (_, Some(middle)) => *middle,
    }
}

/// Largest minus smallest, as a part of the median.
#[must_use]
pub fn spread(runs: &[f64]) -> f64 {
    let largest = runs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let smallest = runs.iter().copied().fold(f64::INFINITY, f64::min);
    let middle = median(runs);
    if middle == 0.0 {
        0.0
    } else {
        (largest - smallest) / middle
    }
}

/// The `part`-th quantile (0..=1) of `samples`, by the nearest rank. NaN for no samples.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank below the number of samples"
)]
pub fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}

#[derive(Debug, Error)]
pub enum ReportError {
    #[error("cannot write the report to {path}: {source}")]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
}

impl Report {
    #[must_use]
    pub fn new(suite: &str, environment: Environment) -> Self {
        Self {
            suite: suite.to_owned(),
            environment,
            rows: Vec::new(),
        }
    }

    pub fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// The rows whose goal was missed.
    pub fn missed(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.met == Some(false))
    }

    /// Writes the JSON form.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_json(&self, path: &Path) -> Result<(), ReportError> {
        let mut text = serde_json::to_string_pretty(self)
            .unwrap_or_else(|error| unreachable!("a report is plain data: {error}"));
        text.push('\n');
        fs::write(path, text).map_err(|source| ReportError::Write {
            path: path.to_owned(),
            source,
        })
    }

    /// The table for readers, with the environment below it.
    #[must_use]
    pub fn table(&self) -> String {
        let head = [
            "", "value", "unit", "beside", "its", "ratio", "spread", "goal", "met",
        ];
        let mut lines = vec![head.map(str::to_owned)];
        lines.extend(self.rows.iter().map(|row| {
            let maybe = |value: Option<f64>| value.map_or_else(String::new, figure);
            [
                row.name.clone(),
                figure(row.value),
                row.unit.clone(),
                row.peer.clone().unwrap_or_default(),
                maybe(row.peer_value),
                row.ratio
                    .map_or_else(String::new, |ratio| format!("{ratio:.2}x")),
                row.spread
                    .map_or_else(String::new, |spread| format!("{:.0}%", spread * 100.0)),
                row.goal.clone().unwrap_or_default(),
                match row.met {
                    Some(true) => "yes",
                    Some(false) => "MISSED",
                    None => "",
                }
                .to_owned(),
            ]
        }));
        let mut out = align(&lines);
        let environment = &self.environment;
        let _ = writeln!(
            out,
            "\n{}: {} cores, {}, Linux {}, {}, commit {}",
            self.suite,
            environment.cores,
            environment.cpu,
            environment.kernel,
            environment.congestion_control,
            environment.commit
        );
        out
    }
}

/// Columns as wide as their longest cell; the second, fifth, sixth and seventh hold figures and end flush.
fn align(lines: &[[String; 9]]) -> String {
    let mut widths = [0; 9];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.len().max(*width);
        }
    }
    let mut out = String::new();
    for (number, line) in lines.iter().enumerate() {
        let mut text = String::new();
        for (column, (width, cell)) in widths.iter().zip(line).enumerate() {
            let width = *width;
            if width == 0 {
                continue;
            }
            let _ = if matches!(column, 1 | 4 | 5 | 6) {
                write!(text, "{cell:>width$}  ")
            } else {
                write!(text, "{cell:<width$}  ")
            };
        }
        out.push_str(text.trim_end());
        out.push('\n');
        if number == 0 {
            let rule: usize =
                widths.iter().sum::<usize>() + 2 * widths.iter().filter(|&&w| w > 0).count();
            out.push_str(&"-".repeat(rule.saturating_sub(2)));
            out.push('\n');
        }
    }
    out
}

/// Four significant digits, no exponent.
fn figure(value: f64) -> String {
    if value == value.trunc() && value.abs() < 1e12 {
        return format!("{value:.0}");
    }
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 10.0 => format!("{value:.2}"),
        size if size >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.5}"),
    }
}

impl Environment {
    /// Reads what this machine says about itself and asks each of `programs` (name, version arguments) who it is.
    #[must_use]
    pub fn of_this_machine(programs: &[(&Path, &[&str])]) -> Self {
        let read = |path: &str| {
            fs::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .unwrap_or_default()
        };
        let cpu = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| {
                let (key, value) = line.split_once(':')?;
                matches!(key.trim(), "model name" | "Model").then(|| value.trim().to_owned())
            })
            .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
        let versions = programs
            .iter()
            .filter_map(|(path, arguments)| {
                let name = path.file_name()?.to_string_lossy().into_owned();
                Some((name, first_line(Command::new(path).args(*arguments))?))
            })
            .collect();
        Self {
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu,
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
            commit: commit().unwrap_or_else(|| "unknown".to_owned()),
            versions,
        }
    }
}

/// The commit of the repository in which this program was built and still lies (`target/release` is inside it).
fn commit() -> Option<String> {
    let exe = std::env::current_exe().ok()?;
    first_line(Command::new("git").arg("-C").arg(exe.parent()?).args([
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
    ]))
    .or_else(|| {
        first_line(Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]))
    })
}

/// The first line a program says, on either stream (nginx tells its version on standard error).
fn first_line(command: &mut Command) -> Option<String> {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = if output.stdout.is_empty() {
        output.stderr
    } else {
        output.stdout
    };
    let line = String::from_utf8_lossy(&text)
        .lines()
        .next()?
        .trim()
        .to_owned();
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new(
            "tun",
            Environment {
                kernel: "6.1.0".to_owned(),
                cpu: "a processor".to_owned(),
                cores: 2,
                congestion_control: "cubic".to_owned(),
                commit: "0123456789ab".to_owned(),
                versions: BTreeMap::from([("curl".to_owned(), "curl 7.88.1".to_owned())]),
            },
        );
        report.push(
            Row::beside(
                "tcp_1",
                "Gbit/s",
                "vxlan_dnat",
                &[(4.0, 2.0), (5.0, 2.0), (6.0, 4.0)],
            )
            .with_goal(Goal::RatioAtLeast(1.0)),
        );
        report.push(Row::single("udp_60k_ok", 1.0, "bool").with_goal(Goal::ValueIs(1.0)));
        report
    }

    /// The schema that programs rely on: exactly these keys, everywhere, absent things as null.
    #[test]
    fn the_schema_is_kept() {
        let value = serde_json::to_value(report()).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "suite": "tun",
                "environment": {
                    "kernel": "6.1.0",
                    "cpu": "a processor",
                    "cores": 2,
                    "congestion_control": "cubic",
                    "commit": "0123456789ab",
                    "versions": {"curl": "curl 7.88.1"},
                },
                "rows": [
                    {
                        "name": "tcp_1", "value": 5.0, "unit": "Gbit/s", "peer": "vxlan_dnat", "peer_value": 2.0,
                        "ratio": 2.0, "spread": 0.5, "goal": "ratio >= 1", "met": true,
                    },
                    {
                        "name": "udp_60k_ok", "value": 1.0, "unit": "bool", "peer": null, "peer_value": null,
                        "ratio": null, "spread": null, "goal": "value = 1", "met": true,
                    },
                ],
            })
        );
        let again: Report = serde_json::from_value(value).unwrap();
        assert_eq!(again, report());
    }

    #[test]
    fn medians_and_spreads() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        assert_eq!(spread(&[1.0, 2.0, 3.0]), 1.0);
        let samples: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&samples, 0.5), 50.0);
        assert_eq!(quantile(&samples, 0.99), 99.0);
        assert_eq!(quantile(&samples, 1.0), 100.0);
    }

    #[test]
    fn a_missed_goal_is_reported_as_missed() {
        let row = Row::beside("tcp_1", "Gbit/s", "vxlan_dnat", &[(1.0, 2.0)])
            .with_goal(Goal::RatioAtLeast(1.0));
        assert_eq!(row.met, Some(false));
        let mut report = report();
        report.push(row);
        assert_eq!(report.missed().count(), 1);
        assert!(report.table().contains("MISSED"));
        assert!(
            !Row::single("cpu", 1.0, "%")
                .with_goal(Goal::ValueBelow(1.0))
                .met
                .unwrap()
        );
    }
}
