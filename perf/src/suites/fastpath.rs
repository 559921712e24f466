//! The high-traffic path: in memory over Ethernet, and by AF_XDP on veth beside the kernel's own DNAT and VXLAN.

mod memory;
pub(super) mod af_xdp;
pub mod forward;
mod tcp;
mod flood;

use super::{Settings, environment, places};
use crate::lab::LabError;
use crate::report::Report;

/// A part of the suite: pushes its rows.
type Part = fn(&Settings, &mut Report) -> Result<(), LabError>;

/// The parts of the suite, for [`Settings::only`].
pub const PARTS: [&str; 5] = ["engine", "scaling", "af_xdp", "tcp", "flood"];

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
    let only = settings.only.as_deref();
    // Frames go over hosts, and connections over instances on hosts; what runs in memory stays here.
    let over_hosts: &[&str] = match &settings.places {
        None => &PARTS,
        Some(places) if places.has_instances() && places.flooder.is_some() => &["tcp", "flood"],
        Some(places) if places.has_instances() => &["tcp"],
        Some(_) => &["af_xdp"],
    };
    if let (Some(places), Some(part)) = (&settings.places, only)
        && !over_hosts.contains(&part)
    {
        return Err(LabError::Request(match part {
            "flood" if places.has_instances() => {
                format!("flood needs --flooder: {}", places::A_FLOODER)
            }
            "tcp" | "flood" => places.no_instances(part),
            "af_xdp" => format!(
                "af_xdp sends frames into an interface of the device under test: --generator must be a host before it, \
                 HOST:INTERFACE; {} is a namespace at it",
                places.generator
            ),
            _ => format!(
                "--only {part} does not go over hosts: it sends no frames from a generator to a sink; run it without them, on the \
                 host that is to be measured"
            ),
        }));
    }
    let wanted = |name: &str| over_hosts.contains(&name) && only.is_none_or(|only| only == name);
    for (_, part) in PARTS.iter().zip(parts).filter(|(name, _)| wanted(name)) {
        part(settings, &mut report)?;
    }
    Ok(report)
}
