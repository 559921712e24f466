//! The path in memory over an Ethernet underlay, and how two workers share its tables.

use super::super::Settings;
use super::super::engine::{Direction, LARGE, Path, SMALL, Underlay};
use crate::lab::LabError;
use crate::report::{Goal, Report, Row};

/// Flows of the largest size.
const HUGE: usize = 16 * 1024 * 1024;
/// Packets of one run.
const PACKETS: usize = 1 << 20;
/// How long each side of a pair of scaling runs takes, milliseconds.
const SCALING_MS: u64 = 400;

/// `engine_*_ns`: headers of Ethernet, IP and UDP are put on, or taken off, within the time.
pub(super) fn engine(settings: &Settings, report: &mut Report) -> Result<(), LabError> {
    let runs = if settings.quick { 2 } else { 9 };
    for (flows, name, bound) in [
        (SMALL, "64k", 35.0),
        (LARGE, "1m", 60.0),
        (HUGE, "16m", 90.0),
    ] {
        (settings.say)(&format!("{flows} flows in memory"));
        let mut path = Path::new(flows, Underlay::Ethernet)?;
        for (direction, name) in [
            (Direction::Outbound, format!("engine_{name}_ns")),
            (Direction::Inbound, format!("engine_{name}_inbound_ns")),
        ] {
            let runs: Vec<f64> = (0..runs)
                .map(|_| path.ns_per_packet(direction, PACKETS))
                .collect();
            report.push(Row::median(&name, "ns/packet", &runs).with_goal(Goal::ValueAtMost(bound)));
        }
    }
    Ok(())
}

/// `scaling_1_to_2`: two workers with one table between them, beside one alone.
pub(super) fn scaling(settings: &Settings, report: &mut Report) -> Result<(), LabError> {
    (settings.say)("two workers in memory beside one");
    let runs = if settings.quick { 2 } else { 15 };
    let mut one = Path::new(LARGE, Underlay::Ethernet)?;
    let mut other = one.beside()?;
    let mut pairs = Vec::new();
    for _ in 0..runs {
        let both = std::thread::scope(|scope| {
            let beside = scope.spawn(|| other.rate(SCALING_MS));
            one.rate(SCALING_MS) + beside.join().unwrap_or(f64::NAN)
        });
        pairs.push((both, one.rate(SCALING_MS)));
    }
    report.push(
        Row::beside("scaling_1_to_2", "packets/s", "one_worker", &pairs)
            .with_goal(Goal::RatioAtLeast(1.9)),
    );
    Ok(())
}
