//! The AF_XDP links without the path: what comes from the service side goes to one other node as it is, in a tunnel
//! datagram. What the gateway is slower than this is what the path costs.

use crate::instrument::{MacText, parse_mac, with};
use crate::lab::clock::now;
use crate::lab::{Host, LabError, Program, cores};
use clap::Args;
use sluice_link::Link as _;
use sluice_link::af_xdp::{self, Device, Hop, QueueSettings, XdpSettings};
use sluice_link::sys::wait_readable;
use sluice_memory::{Account, Batch, Endpoint, Pages};
use sluice_wire::Dual;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

/// Arguments of `forward`.
#[derive(Args, Clone, Debug)]
pub struct Forward {
    /// Where packets for the service range come from
    #[arg(long)]
    pub service: String,
    #[arg(long)]
    pub underlay: String,
    /// Our address on the underlay
    #[arg(long)]
    pub source: Ipv4Addr,
    /// The other node, and the Ethernet address that leads there
    #[arg(long)]
    pub to: Ipv4Addr,
    #[arg(long, value_parser = parse_mac)]
    pub next_hop: MacText,
    #[arg(long)]
    pub core: usize,
    /// End after so long [default: when it is ended]
    #[arg(long)]
    pub seconds: Option<f64>,
}

impl Forward {
    /// The command that does it.
    #[must_use]
    pub fn program(&self, sluice_perf: &Path) -> Program {
        let arguments = [
            ("--service", self.service.clone()),
            ("--underlay", self.underlay.clone()),
            ("--source", self.source.to_string()),
            ("--to", self.to.to_string()),
            ("--next-hop", self.next_hop.to_string()),
            ("--core", self.core.to_string()),
        ];
        let seconds = self
            .seconds
            .map(|seconds| ("--seconds", seconds.to_string()));
        with(
            Program::new(sluice_perf).arg("forward"),
            arguments.into_iter().chain(seconds),
        )
    }
}

/// The tunnel port.
pub(super) const PORT: u16 = 50103;

/// Forwards as long as it is told to, or until the process is ended.
pub(crate) fn run(forward: &Forward) -> Result<(), LabError> {
    let failed = |error: af_xdp::XskError| LabError::bpf("a bare forwarder")(error);
    cores::pin(0, forward.core)?;
    let mut links = af_xdp::open(&XdpSettings {
        service: device(&forward.service)?,
        underlay: device(&forward.underlay)?,
        service_ranges: Dual::both(
            "10.30.0.0/16"
                .parse()
                .unwrap_or_else(|_| unreachable!("a range")),
            "fdff::/16"
                .parse()
                .unwrap_or_else(|_| unreachable!("a range")),
        ),
        tunnel_port: PORT,
        workers: 1,
        queue: QueueSettings::default(),
        guard_sources: false,
        native: true,
        // As the gateway's profile for veth has it.
        pages: Pages::Large,
        blocked: Vec::new(),
        source_limit: None,
        offload: None,
    })
    .map_err(failed)?;
    let hop = Hop {
        mac: forward.next_hop.0,
        source: forward.source.into(),
        mtu: 1500,
    };
    let to = Endpoint {
        ip: forward.to.into(),
        port: PORT,
    };
    links
        .control
        .hops
        .publish([(to.ip, hop)].into_iter().collect());
    let pair = links
        .pairs
        .first_mut()
        .unwrap_or_else(|| unreachable!("one worker"));
    let (service, underlay, pool) = (&mut pair.service, &mut pair.underlay, &mut pair.pool);
    let account = Account::default();
    let mut batch = Batch::new();
    let end = forward
        .seconds
        .map(|seconds| now() + Duration::from_secs_f64(seconds));
    loop {
        let down = |error| LabError::bpf::<sluice_link::LinkDown>("a bare forwarder")(error);
        service.receive(pool, &account, &mut batch).map_err(down)?;
        if batch.is_empty() {
            // The clock is read when there is nothing else to do, and every run ends with that.
            if end.is_some_and(|end| now() >= end) {
                return Ok(());
            }
            let limit = if underlay.pending() {
                1_000_000
            } else {
                100_000_000
            };
            if let Some(fd) = service.fd() {
                wait_readable(&[fd], Some(limit))
                    .map_err(LabError::socket("waiting for frames"))?;
            }
        }
        for frame in &mut batch {
            frame.outer = Some(to);
        }
        underlay.transmit(&mut batch, pool, &account);
    }
}

fn device(name: &str) -> Result<Device, LabError> {
    let device = Host::Here.device(name)?;
    Ok(Device {
        name: name.to_owned(),
        index: device.index,
        mac: device.mac,
        mtu: 1500,
    })
}
