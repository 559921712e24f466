//! Bulk TCP by ServiceIP through AF_XDP, beside the same laboratory with its gateways in TUN mode.
//!
//! ```text
//! client ── gateway 1 ══ veth, MTU-size frames ══ gateway 2 ── server
//! ```
//! Runs alternate by restarting both gateways with another configuration; the first of a round changes from round to
//! round.

use super::super::Settings;
use super::pair::Pair;
use crate::lab::LabError;
use crate::report::{Goal, Report, Row};
use crate::traffic::tcp;

const PEER: &str = "tun";
const WORKERS_ONLY: &str = "offload = false";

/// `tcp_1`: workers carry everything, in both modes.
pub(super) fn run(settings: &Settings, report: &mut Report) -> Result<(), LabError> {
    let (rounds, seconds) = if settings.quick { (3, 1.0) } else { (7, 3.0) };
    let mut pair = Pair::new(settings, &["client"], &["server"])?;
    let log = pair.sites.scratch.path().join("iperf3.log");
    let _iperf = tcp::server(&pair.servers[0].namespace, &log)?;
    let mut pairs = Vec::new();
    for round in 0..rounds {
        (settings.say)(&format!("TCP, round {} of {rounds}", round + 1));
        let mut measure = |link| {
            pair.restart(link, WORKERS_ONLY)?;
            let transfer = tcp::transfer(&pair.clients[0].namespace, pair.service, 1, seconds)?;
            Ok::<_, LabError>(transfer.gbit_s)
        };
        pairs.push(if round % 2 == 0 {
            let ours = measure("af_xdp")?;
            (ours, measure("tun")?)
        } else {
            let other = measure("tun")?;
            (measure("af_xdp")?, other)
        });
    }
    report.push(Row::beside("tcp_1", "Gbit/s", PEER, &pairs).with_goal(Goal::RatioAtLeast(0.5)));
    Ok(())
}
