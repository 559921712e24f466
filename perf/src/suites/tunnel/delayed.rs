//! Goodput over a long and lossy way: one TCP stream through each tunnel, over a delay line in place of the cable.

use super::super::Settings;
use super::{Contestant, Stage};
use crate::lab::LabError;
use crate::lab::clock::pause;
use crate::lab::sites::Cable;
use crate::peers::wireguard::Implementation;
use crate::report::{Goal, Report, Row};
use std::time::Duration;

/// A round trip over the line, and what is lost in each direction.
#[derive(Clone, Copy)]
pub(super) struct Cell {
    delay_ms: u64,
    lost_percent: u32,
}

impl Cell {
    const fn new(delay_ms: u64, lost_percent: u32) -> Self {
        Self {
            delay_ms,
            lost_percent,
        }
    }

    pub(super) fn row(self) -> String {
        format!("goodput_{}ms_{}", self.delay_ms, self.lost_percent)
    }
}

/// A quick run without `--only` measures the first two.
pub(super) const CELLS: [Cell; 12] = [
    Cell::new(10, 1),
    Cell::new(100, 5),
    Cell::new(10, 5),
    Cell::new(10, 10),
    Cell::new(50, 1),
    Cell::new(50, 5),
    Cell::new(50, 10),
    Cell::new(100, 1),
    Cell::new(100, 10),
    Cell::new(250, 1),
    Cell::new(250, 5),
    Cell::new(250, 10),
];
const QUICK: usize = 2;

/// The first is what rows are about.
const CONTESTANTS: [Contestant; 4] = [
    Contestant::Ours,
    Contestant::Other(Implementation::WireguardGo),
    Contestant::Other(Implementation::Boringtun),
    Contestant::Other(Implementation::Gotatun),
];

/// `goodput_*`.
pub(super) fn run(settings: &Settings, report: &mut Report) -> Result<(), LabError> {
    let only = settings.only.as_deref();
    let (rounds, seconds, contestants) = if settings.quick {
        (1, 2.0, &CONTESTANTS[..2])
    } else {
        (3, 5.0, &CONTESTANTS[..])
    };
    let cells: Vec<Cell> = match only {
        None if settings.quick => CELLS[..QUICK].to_vec(),
        None | Some("goodput") => CELLS.to_vec(),
        Some(row) => {
            let named = CELLS.into_iter().filter(|cell| cell.row() == row);
            named.collect()
        }
    };
    if cells.is_empty() {
        return Ok(());
    }
    let one_way = Duration::from_millis(cells[0].delay_ms) / 2;
    let mut stage = Stage::new(settings, Cable::Line { one_way })?;
    let mut measured = vec![Vec::new(); cells.len()];
    for round in 0..rounds {
        let mut figures = vec![[f64::NAN; CONTESTANTS.len()]; cells.len()];
        for step in 0..contestants.len() {
            let index = (round + step) % contestants.len();
            let contestant = contestants[index];
            (settings.say)(&format!(
                "{} over a delay line, round {} of {rounds}",
                contestant.name(),
                round + 1
            ));
            // Without loss, so that nobody waits for a handshake.
            stage.stretch(&Cell::new(cells[0].delay_ms, 0));
            let line = stage.enter(contestant)?;
            for (cell, figures) in cells.iter().zip(&mut figures) {
                stage.stretch(cell);
                figures[index] = 1e3 * line.receive(1, seconds)?.gbit_s;
                // What is on its way arrives before the next one begins.
                pause(Duration::from_millis(2 * cell.delay_ms));
            }
        }
        for (measured, figures) in measured.iter_mut().zip(figures) {
            measured.push(figures);
        }
    }
    for (cell, rounds) in cells.iter().zip(&measured) {
        for (peer, contestant) in contestants.iter().enumerate().skip(1) {
            let pairs: Vec<(f64, f64)> = rounds
                .iter()
                .map(|figures| (figures[0], figures[peer]))
                .collect();
            let row = Row::beside(&cell.row(), "Mbit/s", contestant.name(), &pairs);
            report.push(row.with_goal(Goal::RatioAtLeast(1.0)));
        }
    }
    Ok(())
}

impl Stage {
    /// Gives the line a cell's delay and loss.
    fn stretch(&self, cell: &Cell) {
        if let Some(line) = &self.pair.sites.line {
            line.set_one_way(Duration::from_millis(cell.delay_ms) / 2);
            line.set_lost_per_mille(10 * cell.lost_percent);
        }
    }
}
