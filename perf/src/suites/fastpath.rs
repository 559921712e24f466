//! The high-traffic path: in memory over Ethernet, and by AF_XDP on veth beside the kernel's own DNAT and VXLAN.

mod memory;
mod af_xdp;
pub mod forward;
mod pair;
mod tcp;
mod flood;

use super::{Settings, environment};
use crate::lab::LabError;
use crate::report::Report;

/// A part of the suite: pushes its rows.
type Part = fn(&Settings, &mut Report) -> Result<(), LabError>;

/// The parts of the suite, for [`Settings::only`].
pub const PARTS: [&str; 5] = ["engine", "scaling", "af_xdp", "tcp", "flood"];

/// The part that runs between hosts, too.
const OVER_HOSTS: &str = "af_xdp";

/// Runs the suite.
///
/// # Errors
/// When memory cannot be mapped, the laboratory cannot be built, or a run fails.
pub fn run(settings: &Settings) -> Result<Report, LabError> {
    let mut report = Report::new("fastpath", environment(&["iperf3", "ip", "ethtool", "nft"]));
    let parts: [Part; PARTS.len()] = [
        memory::engine,
        memory::scaling,
        af_xdp::run,
        tcp::run,
        flood::run,
    ];
    // Of the parts, one sends frames from a generator to a sink.
    let only = match (&settings.places, settings.only.as_deref()) {
        (None, only) => only,
        (Some(_), None | Some(OVER_HOSTS)) => Some(OVER_HOSTS),
        (Some(_), Some(other)) => {
            return Err(LabError::Request(format!(
                "--only {other} does not go over hosts: it sends no frames from a generator to a sink; run it without them, on the host \
                 that is to be measured"
            )));
        }
    };
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    for (_, part) in PARTS.iter().zip(parts).filter(|(name, _)| wanted(name)) {
        part(settings, &mut report)?;
    }
    Ok(report)
}
