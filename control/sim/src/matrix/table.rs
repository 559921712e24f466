//! The whole fault table: all cells at once, and the file that says what each may cost.

use super::cell::Cell;
use super::outcome::Outcome;
use super::promise::{chance, promise};
use super::run::{Moment, run};
use crate::probes::Failover;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// A line of the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Expected {
    pub cell: Cell,
    pub outcome: Outcome,
}

/// A cell that was run.
#[derive(Clone, Copy, Debug)]
pub struct Checked {
    pub expected: Expected,
    /// None when something happened that must never happen.
    pub outcome: Option<Outcome>,
}

impl Checked {
    /// Not worse than promised, nor than recorded by more than chance where that has a part, and elsewhere by more than a
    /// second. Better is no failure.
    #[must_use]
    pub fn passed(&self) -> bool {
        let Expected { cell, outcome } = self.expected;
        let recorded = match chance(cell) {
            Some(chance) => outcome.plus(chance),
            None => outcome.with_a_second(),
        };
        let promised = promise(cell).limit();
        self.outcome
            .is_some_and(|came| came.is_within(&promised) && came.is_within(&recorded))
    }
}

const HEADER: &str = "part,fault,when,where,direction,flows_lost,new_lost,new_ms,equal_ms,promise";

/// The checked-in file.
///
/// # Panics
/// When it is not as [`to_csv`] writes it, or has not every cell once.
#[must_use]
pub fn expected() -> Vec<Expected> {
    let text = include_str!("outcomes.csv");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(HEADER), "the first line of outcomes.csv");
    let lines: Vec<Expected> = lines
        .map(|line| {
            parse(line)
                .unwrap_or_else(|| panic!("outcomes.csv: {line:?} is no line of the fault table"))
        })
        .collect();
    assert!(
        Cell::all().eq(lines.iter().map(|line| line.cell)),
        "outcomes.csv has every cell once, in the order of Cell::all()"
    );
    lines
}

fn parse(line: &str) -> Option<Expected> {
    let columns: Vec<&str> = line.split(',').collect();
    let [
        part,
        fault,
        when,
        place,
        direction,
        flows,
        new,
        new_ms,
        equal_ms,
        why,
    ] = columns[..]
    else {
        return None;
    };
    let cell = Cell::parse([part, fault, when, place, direction])?;
    let outcome = Outcome::parse([flows, new, new_ms, equal_ms])?;
    (promise(cell).name() == why).then_some(Expected { cell, outcome })
}

/// The file for these outcomes.
#[must_use]
pub fn to_csv(outcomes: &[(Cell, Option<Outcome>)]) -> String {
    let mut text = format!("{HEADER}\n");
    for (cell, outcome) in outcomes {
        let outcome = outcome.map_or_else(|| "failed,,,".to_owned(), |it| it.to_string());
        text.push_str(&format!("{cell},{outcome},{}\n", promise(*cell).name()));
    }
    text
}

/// Runs cells on `threads` threads; without an outcome are those in which something happened that must never happen.
///
/// # Panics
/// Never by what happens in a cell.
#[must_use]
pub fn run_all(cells: &[Cell], failover: Failover, threads: usize) -> Vec<(Cell, Option<Outcome>)> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome =
                        catch_unwind(AssertUnwindSafe(|| run(*cell, failover, Moment::default())))
                            .ok();
                    let mut done = done.lock().expect("nobody panics with it");
                    done.push((*cell, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("nobody panics with it");
    done.sort_by_key(|(cell, _)| *cell);
    done
}

/// Runs the cells of these lines and compares.
#[must_use]
pub fn check_all(expected: &[Expected], failover: Failover, threads: usize) -> Vec<Checked> {
    let cells: Vec<Cell> = expected.iter().map(|line| line.cell).collect();
    let outcomes = run_all(&cells, failover, threads);
    let outcome_of = |cell: Cell| outcomes.iter().find(|(other, _)| *other == cell);
    expected
        .iter()
        .map(|expected| Checked {
            expected: *expected,
            outcome: outcome_of(expected.cell).and_then(|(_, outcome)| *outcome),
        })
        .collect()
}
