//! Small frames through a gateway over AF_XDP, encrypted beside plain: packets per second on one core.
//!
//! ```text
//! live frames ══ sluice0  gateway 1, af_xdp  eth0 ══ eth0 gateway 2, an XDP sink
//! ```
//! As `af_xdp_64b` of the suite `fastpath`, whose ground this is: the worker and the kernel thread that polls `sluice0` have core 0.

use super::super::Settings;
use super::super::fastpath::af_xdp::encrypted::{Encrypted, Mode};
use crate::lab::LabError;
use crate::report::{Goal, Report, Row};

/// `af_xdp_64b`.
pub(super) fn run(settings: &Settings, report: &mut Report) -> Result<(), LabError> {
    let (rounds, seconds) = if settings.quick { (1, 0.5) } else { (7, 1.0) };
    let mut ground = Encrypted::new(settings)?;
    let modes = [Mode::Encrypted, Mode::Plain, Mode::PlainOffloaded];
    let mut measured = Vec::new();
    for round in 0..rounds {
        (settings.say)(&format!(
            "AF_XDP, encrypted beside plain, round {} of {rounds}",
            round + 1
        ));
        let mut rates = [0.0; 3];
        for step in 0..modes.len() {
            let index = (round + step) % modes.len();
            rates[index] = ground.rate(modes[index], seconds)?;
        }
        measured.push(rates);
    }
    for (peer, name) in [(1, "plain"), (2, "plain_offloaded")] {
        let pairs: Vec<(f64, f64)> = measured
            .iter()
            .map(|rates| (rates[0], rates[peer]))
            .collect();
        let row = Row::beside("af_xdp_64b", "packets/s", name, &pairs);
        report.push(row.with_goal(Goal::RatioAtLeast(0.5)));
    }
    Ok(())
}
