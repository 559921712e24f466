//! Bulk TCP by ServiceIP through AF_XDP, beside the same laboratory with its gateways in TUN mode.
//!
//! ```text
//! client ── gateway 1 ══ veth, MTU-size frames ══ gateway 2 ── server
//! ```
//! Runs alternate by restarting both gateways with another configuration; the first of a round changes from round to
//! round.

use super::super::Settings;
use super::super::ground::Ground;
use crate::lab::LabError;
use crate::lab::clock::pause;
use crate::report::{Goal, Report, Row};
use std::time::Duration;

const PEER: &str = "tun";
/// How often both gateways are asked whether the transfer is offloaded.
const LOOK: Duration = Duration::from_millis(50);

/// A row and the configuration that both contestants share.
struct Shape {
    name: &'static str,
    lines: &'static str,
    /// The transfer through AF_XDP counts only when both gateways say that they have offloaded a flow meanwhile.
    is_offloaded: bool,
    goal: f64,
}

const SHAPES: [Shape; 2] = [
    Shape {
        name: "tcp_1",
        lines: "offload = false",
        is_offloaded: false,
        goal: 0.5,
    },
    Shape {
        name: "tcp_1_offload",
        lines: "offload = true",
        is_offloaded: true,
        goal: 0.8,
    },
];

/// `tcp_1`, where workers carry everything, and `tcp_1_offload`, where the kernel forwards established flows.
pub(super) fn run(settings: &Settings, report: &mut Report) -> Result<(), LabError> {
    let (rounds, seconds) = if settings.quick { (1, 1.0) } else { (7, 3.0) };
    let mut ground = Ground::new(settings, "tcp")?;
    for shape in &SHAPES {
        let mut pairs = Vec::new();
        for round in 0..rounds {
            (settings.say)(&format!("{}, round {} of {rounds}", shape.name, round + 1));
            let mut measure = |link: &str| {
                ground.nodes.restart_with(link, shape.lines)?;
                let must_offload = shape.is_offloaded && link == "af_xdp";
                transfer(&ground, seconds, must_offload)
            };
            pairs.push(if round % 2 == 0 {
                let ours = measure("af_xdp")?;
                (ours, measure("tun")?)
            } else {
                let other = measure("tun")?;
                (measure("af_xdp")?, other)
            });
        }
        let row = Row::beside(shape.name, "Gbit/s", PEER, &pairs);
        report.push(row.with_goal(Goal::RatioAtLeast(shape.goal)));
    }
    Ok(())
}

/// Gbit/s.
fn transfer(ground: &Ground, seconds: f64, must_offload: bool) -> Result<f64, LabError> {
    let Ground { ours, nodes } = ground;
    let mut most = [0; 2];
    let received = std::thread::scope(|scope| {
        let running = scope.spawn(|| ours.receive(1, seconds));
        while must_offload && most.contains(&0) && !running.is_finished() {
            for (gateway, most) in most.iter_mut().enumerate() {
                let flows = &nodes.status(gateway)?["flows_offloaded"];
                *most = flows.as_u64().unwrap_or_default().max(*most);
            }
            pause(LOOK);
        }
        running
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    if must_offload && most.contains(&0) {
        return Err(LabError::Reply {
            what: "a transfer that both gateways should have offloaded".to_owned(),
            text: format!(
                "flows offloaded {most:?}; {} and {}",
                nodes.status(0)?["offload"],
                nodes.status(1)?["offload"]
            ),
        });
    }
    Ok(received.gbit_s)
}
