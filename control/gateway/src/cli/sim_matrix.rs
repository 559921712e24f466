//! `sim --matrix`: what each fault costs, compared with the checked-in file.

use super::CliError;
use super::sim::count;
use crate::output;
use sluice_perf::report::{Environment, Goal, Report, Row};
use sluice_sim::matrix::{Cell, check_all, expected, promise, run_all, to_csv};
use sluice_sim::probes::Failover;
use std::path::Path;
use std::thread::available_parallelism;

/// Runs all cells, prints a line for each, and fails when one is worse than expected.
pub(super) fn check(json: Option<&Path>) -> Result<(), CliError> {
    let checked = check_all(&expected(), Failover::Probed, threads());
    output::print("part,fault,when,where,direction: flows_lost,new_lost,new_ms,equal_ms\n");
    for checked in &checked {
        let cell = checked.expected.cell;
        let came = checked
            .outcome
            .map_or_else(|| "broke an invariant".to_owned(), |it| it.to_string());
        let verdict = if checked.passed() {
            String::new()
        } else {
            let (recorded, promised) = (checked.expected.outcome, promise(cell).limit());
            format!("  WORSE than {recorded}, promised {promised}")
        };
        output::print(&format!(
            "{cell}: {came}  {}{verdict}\n",
            promise(cell).name()
        ));
    }
    let mut report = Report::new("sim-matrix", Environment::of_this_machine(&[]));
    let cells = count(checked.len() as u64);
    let passed = count(checked.iter().filter(|it| it.passed()).count() as u64);
    report.push(Row::single("cells", cells, "cells"));
    report.push(Row::single("passed", passed, "cells").with_goal(Goal::ValueIs(cells)));
    output::print(&report.table());
    if let Some(path) = json {
        report.write_json(path)?;
    }
    match report.missed().count() {
        0 => Ok(()),
        missed => Err(CliError::Simulation(missed)),
    }
}

/// Prints the file anew, to be read line by line before it is checked in.
pub(super) fn record() {
    let cells: Vec<Cell> = Cell::all().collect();
    output::print(&to_csv(&run_all(&cells, Failover::Probed, threads())));
}

fn threads() -> usize {
    available_parallelism().map_or(1, usize::from)
}
