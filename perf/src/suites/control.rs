//! The control plane: table queries in memory and over MQTT, a change for a thousand nodes, a node that comes back, names.
//!
//! ```text
//!  core 0             core 1
//!  cluster manager ── 1,000 nodes, each an MQTT connection        veth and a switch between namespaces
//!  with its broker ── root manager
//! ```
//! Root and cluster manager are the `sluice` program. 10,000 services run, with 13,000 instances that were attached as gateways do
//! it; 100 of the nodes ask for 100 services each, by ServiceIP.

mod in_process;
mod site;
mod queries;
mod fanout;
mod resync;
mod dns;

use super::{Settings, environment};
use crate::lab::{LabError, cores};
use crate::report::Report;
use site::Site;
use std::time::Duration;

/// The cluster manager's core, and that of everything else.
const MANAGER: usize = 0;
const LOAD: usize = 1;
const NODES: usize = 1000;
const SERVICES: usize = 10_000;
/// Of the services, those that are asked for have so many instances, and the others one.
const SERVICES_ASKED: usize = 1000;
const INSTANCES_EACH: usize = 4;
const NODES_ASKING: usize = 100;
const SERVICES_PER_NODE: usize = 100;
/// As gateways ask: three times the minute between two renewals.
const INTEREST_S: u32 = 180;
/// Longer than anything here takes, so that nothing hangs.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long and how often.
struct Pace {
    runs_in_process: usize,
    rounds: usize,
    seconds: f64,
    changes: usize,
    resyncs: usize,
}

/// Runs the suite.
///
/// # Errors
/// When the managers cannot be started, or do not answer.
pub fn run(settings: &Settings) -> Result<Report, LabError> {
    let pace = if settings.quick {
        Pace {
            runs_in_process: 3,
            rounds: 2,
            seconds: 1.5,
            changes: 5,
            resyncs: 1,
        }
    } else {
        Pace {
            runs_in_process: 9,
            rounds: 7,
            seconds: 5.0,
            changes: 25,
            resyncs: 5,
        }
    };
    let mut report = Report::new("control", environment(&["ip", "dnsperf"]));
    (settings.say)("table queries in memory");
    in_process::run(&pace, &mut report)?;
    (settings.say)("the managers, and 10,000 services");
    let site = Site::new(settings)?;
    // One thread, so that a thread of the suite has all connections, on the core that the manager does not have.
    let over_mqtt = std::thread::scope(|scope| {
        let thread = scope.spawn(|| over_mqtt(&site, settings, &pace, &mut report));
        thread.join()
    });
    over_mqtt.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    drop(site);
    (settings.say)("names");
    dns::run(settings, &pace, &mut report)?;
    Ok(report)
}

fn over_mqtt(
    site: &Site,
    settings: &Settings,
    pace: &Pace,
    report: &mut Report,
) -> Result<(), LabError> {
    cores::pin(0, LOAD)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LabError::socket("the load's runtime"))?;
    runtime.block_on(async {
        (settings.say)("1,000 nodes and 13,000 instances");
        let mut nodes = site.populate().await?;
        site.settled()?;
        (settings.say)("table queries over MQTT");
        queries::run(site, &mut nodes, pace, report).await?;
        (settings.say)("a change for 1,000 nodes");
        fanout::run(&mut nodes, pace, report).await?;
        (settings.say)("a node comes back with 10,000 interests");
        resync::run(site, &mut nodes, pace, report).await
    })
}

/// The name of a node, as Oakestra makes them: 24 hexadecimal digits.
fn node_id(node: usize) -> String {
    format!("{:024x}", 0xc047_0000 + node)
}

fn service_name(service: usize) -> String {
    format!("bench.control.s{service:05}.perf")
}

/// What a node asks for in its `turn`.
const fn asked_by(node: usize, turn: usize) -> usize {
    (node * 37 + turn * 7) % SERVICES_ASKED
}
