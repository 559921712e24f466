//! The fault table: 160 cells, none worse than the checked-in file says, nor than the design promises; and it shows when
//! gateways do not choose other instances.

use sluice_sim::matrix::{Checked, Direction, Expected, Fault, Part, check_all, expected, promise};
use sluice_sim::probes::Failover;
use std::thread::available_parallelism;

fn threads() -> usize {
    available_parallelism().map_or(1, usize::from)
}

fn told(checked: &Checked) -> String {
    let Expected { cell, outcome } = checked.expected;
    let came = checked.outcome;
    format!(
        "{cell}: {came:?}, expected at most {outcome:?}, promised {:?}",
        promise(cell).limit()
    )
}

#[test]
fn no_cell_is_worse_than_expected() {
    let checked = check_all(&expected(), Failover::Probed, threads());
    assert_eq!(checked.len(), 160);
    let failed: Vec<String> = checked.iter().filter(|it| !it.passed()).map(told).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// What the file says is no worse than what the design promises.
#[test]
fn the_file_keeps_the_promises() {
    for Expected { cell, outcome } in expected() {
        let limit = promise(cell).limit();
        assert!(
            outcome.is_within(&limit),
            "{cell}: {outcome:?}, promised {limit:?}"
        );
    }
}

/// Cells in which a called node fails, but for those where it says itself, a second later, that nothing runs there.
#[test]
fn without_failover_cells_fail() {
    let called: Vec<Expected> = expected()
        .into_iter()
        .filter(|line| line.cell.part == Part::Node && line.cell.direction == Direction::In)
        .collect();
    let checked = check_all(&called, Failover::Off, threads());
    for checked in &checked {
        let cell = checked.expected.cell;
        let needs_failover = cell.fault != Fault::Wiped;
        assert_eq!(checked.passed(), !needs_failover, "{}", told(checked));
    }
}
