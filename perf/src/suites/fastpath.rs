//! The high-traffic path: in memory over Ethernet, and by AF_XDP on veth beside the kernel's own DNAT and VXLAN.

mod memory;

use super::{Settings, environment};
use crate::lab::LabError;
use crate::report::Report;

/// Runs the suite.
///
/// # Errors
/// When memory cannot be mapped.
pub fn run(settings: &Settings) -> Result<Report, LabError> {
    let mut report = Report::new("fastpath", environment(&[]));
    memory::engine(settings, &mut report)?;
    memory::scaling(settings, &mut report)?;
    Ok(report)
}
