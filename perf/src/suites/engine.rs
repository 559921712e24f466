//! The path in memory, on one core: nanoseconds and instructions per packet, and what publishing costs.
//!
//! No link, no kernel: batches of frames go into the engine and come out of it. Filling a frame and checking what
//! came out are not timed, as a network card does not bill its DMA either. Flows are visited in an order without
//! pattern, so that a million of them do not fit a cache.

mod bench;
mod instructions;

pub use bench::{Direction, Path, Underlay};
pub use instructions::spin;

use super::{Settings, environment};
use crate::lab::LabError;
use crate::report::{Goal, Report, Row};

/// Flows of the two sizes.
pub const SMALL: usize = 64 * 1024;
pub const LARGE: usize = 1024 * 1024;

/// Runs the suite.
///
/// # Errors
/// When memory cannot be mapped or callgrind fails.
pub fn run(settings: &Settings) -> Result<Report, LabError> {
    let (runs, packets) = if settings.quick {
        (5, 1 << 20)
    } else {
        (9, 4 << 20)
    };
    let mut report = Report::new("engine", environment(&["valgrind"]));
    for (flows, name, bound) in [(SMALL, "64k", 40.0), (LARGE, "1m", 80.0)] {
        (settings.say)(&format!("{flows} flows"));
        let mut path = Path::new(flows, Underlay::Bare)?;
        let mut measure = |direction, name: String| {
            let runs: Vec<f64> = (0..runs)
                .map(|_| path.ns_per_packet(direction, packets))
                .collect();
            report.push(Row::median(&name, "ns/packet", &runs).with_goal(Goal::ValueAtMost(bound)));
        };
        measure(Direction::Outbound, format!("outbound_{name}_ns"));
        measure(Direction::Inbound, format!("inbound_{name}_ns"));
    }
    (settings.say)("publishing beside forwarding");
    let mut path = Path::new(SMALL, Underlay::Bare)?;
    let pairs: Vec<(f64, f64)> = (0..runs)
        .map(|_| {
            (
                path.rate_while_publishing(100),
                path.rate_while_publishing(0),
            )
        })
        .collect();
    report.push(
        Row::beside("publish_cost", "packets/s", "no_publishing", &pairs)
            .with_goal(Goal::RatioAtLeast(0.9)),
    );
    for row in budget(settings)?.rows {
        report.push(row);
    }
    Ok(report)
}

/// Instructions of one packet, at most: some 5 % above what was counted when the path was last made faster or had to
/// do more. Whoever exceeds it finds the cause or, with the reason in the commit, raises it.
const INSTRUCTIONS_MAX: f64 = 395.0;

/// Counts instructions only: what CI can check on any machine.
///
/// # Errors
/// When callgrind is missing or fails.
pub fn budget(settings: &Settings) -> Result<Report, LabError> {
    (settings.say)("instructions, under callgrind");
    let mut report = Report::new("budget", environment(&["valgrind"]));
    for (name, direction) in [
        ("instructions_per_packet", Direction::Outbound),
        ("instructions_per_packet_inbound", Direction::Inbound),
    ] {
        let count = instructions::per_packet(direction)?;
        let row = Row::single(name, count, "instructions");
        report.push(row.with_goal(Goal::ValueAtMost(INSTRUCTIONS_MAX)));
    }
    Ok(report)
}
