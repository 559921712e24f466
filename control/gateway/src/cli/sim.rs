//! `sim`: the whole system from seeds, with everything that can go wrong, on virtual time.

use super::{CliError, sim_matrix};
use crate::output;
use clap::Args;
use sluice_perf::report::{Environment, Goal, Report, Row};
use sluice_sim::planted::Bug;
use sluice_sim::report;
use std::path::PathBuf;
use std::thread::available_parallelism;

/// `sluice sim`
#[derive(Debug, Args)]
pub(super) struct Sim {
    /// Run so many seeds
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Run this seed alone, and print what happened in it
    #[arg(long, value_name = "N", conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run the fault table: 160 faults, each with a known cost
    #[arg(long, conflicts_with_all = ["seeds", "seed"])]
    matrix: bool,
    /// Print the fault table's file of expected costs as it comes out now
    #[arg(long, requires = "matrix", conflicts_with = "json")]
    record: bool,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The seeds among which each planted mistake must be found.
const PLANTED_SEEDS: u64 = 200;

impl Sim {
    pub(super) fn run(&self) -> Result<(), CliError> {
        // What a seed finds is told below; the place in the simulation's code says nothing to a user.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let done = match (self.matrix, self.record) {
            (false, _) => self.run_quietly(),
            (true, false) => sim_matrix::check(self.json.as_deref()),
            (true, true) => {
                sim_matrix::record();
                Ok(())
            }
        };
        std::panic::set_hook(hook);
        done
    }

    fn run_quietly(&self) -> Result<(), CliError> {
        let threads = available_parallelism().map_or(1, usize::from);
        let (from, to) = match self.seed {
            Some(seed) => (seed, seed + 1),
            None => (0, self.seeds),
        };
        if let Some(seed) = self.seed {
            output::print(&format!(
                "{}\n",
                sluice_sim::seed::run(seed, None).log.join("\n")
            ));
        }
        let summary = report::run(from, to, threads);
        for outcome in &summary.violations {
            let violation = outcome.violation.as_deref().unwrap_or_default();
            output::print(&format!(
                "seed {}: {violation}\nrun it again with: sluice sim --seed {}\n",
                outcome.seed, outcome.seed
            ));
        }
        let mut report = Report::new("sim", Environment::of_this_machine(&[]));
        let violations = count(summary.violations.len() as u64);
        report.push(Row::single("seeds", count(summary.seeds), "seeds"));
        report.push(Row::single("violations", violations, "seeds").with_goal(Goal::ValueIs(0.0)));
        let answered = count(summary.answered);
        report.push(Row::single("requests_answered", answered, "requests"));
        if self.seed.is_none() {
            let found = report::find_all(PLANTED_SEEDS, threads);
            for (bug, found) in Bug::ALL.iter().zip(&found) {
                let where_found = found.as_ref().map_or_else(
                    || "not found".to_owned(),
                    |outcome| format!("found by seed {}", outcome.seed),
                );
                output::print(&format!("planted {}: {where_found}\n", bug.name()));
            }
            let found = count(found.iter().flatten().count() as u64);
            let goal = Goal::ValueIs(count(Bug::ALL.len() as u64));
            report.push(Row::single("planted_bugs_found", found, "bugs").with_goal(goal));
        }
        output::print(&report.table());
        if let Some(path) = &self.json {
            report.write_json(path)?;
        }
        match report.missed().count() {
            0 => Ok(()),
            missed => Err(CliError::Simulation(missed)),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(super) const fn count(number: u64) -> f64 {
    number as f64
}
