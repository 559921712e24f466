//! The fault table: 160 cells, none worse than the checked-in file says, nor than the design promises; and it shows when
//! gateways do not choose other instances.

use sluice_sim::matrix::{
    Checked, Direction, Expected, Moment, Outcome, Part, chance, check_all, expected, promise, run,
};
use sluice_sim::probes::Failover;
use std::thread::available_parallelism;
use std::time::Duration;

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

fn called_nodes_fail() -> Vec<Expected> {
    expected()
        .into_iter()
        .filter(|line| line.cell.part == Part::Node && line.cell.direction == Direction::In)
        .collect()
}

/// All cells in which a called node fails.
#[test]
fn without_failover_cells_fail() {
    let checked = check_all(&called_nodes_fail(), Failover::Off, threads());
    let passed: Vec<String> = checked.iter().filter(|it| it.passed()).map(told).collect();
    assert!(passed.is_empty(), "{}", passed.join("\n"));
}

/// The same cells are those where chance has a part; what it may do is more than other moments do, and less than a mistake.
#[test]
fn chance_is_told_from_a_loss_that_doubled() {
    let lines = called_nodes_fail();
    for line in expected() {
        let has_chance = chance(line.cell).is_some();
        assert_eq!(has_chance, lines.contains(&line), "{}", line.cell);
    }
    let moments = [(450, false), (640, true)].map(|(ms, is_other_first)| Moment {
        later: Duration::from_millis(ms),
        is_other_first,
    });
    for (at, expected) in lines.into_iter().enumerate() {
        let cell = expected.cell;
        // One of them each: two cells differ only in the cluster that the caller is in.
        let outcome = run(cell, Failover::Probed, moments[at % 2]);
        let mut checked = Checked {
            expected,
            outcome: Some(outcome),
        };
        assert!(checked.passed(), "{}", told(&checked));
        checked.outcome = Some(Outcome {
            flows_lost: 2 * expected.outcome.flows_lost,
            ..expected.outcome
        });
        assert!(!checked.passed(), "{cell}");
    }
}
