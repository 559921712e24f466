//! Which offloads are used: what is asked for, what the kernel accepts, and what a self-test says of it.

use crate::sys::tun::Offload;
use crate::tun::{self, TunError, TunLink, TunSettings};
use crate::udp::self_test::{RunsWork, runs_work};
use crate::udp::{self, UdpError, UdpLink, UdpSettings};
use sluice_wire::Ip;
use std::fmt;
use thiserror::Error;

/// What a gateway in TUN mode wants of its links.
#[derive(Clone, Debug)]
pub struct LinksSettings {
    /// The TUN device; an existing one of this name is adopted.
    pub tun: String,
    /// The device outlives this process.
    pub persistent: bool,
    /// The underlay address to bind to; `None` for all of both families.
    pub address: Option<Ip>,
    pub tunnel_port: u16,
    /// Pairs of links, 1 or more.
    pub workers: usize,
    /// Exchange super-frames and partial checksums with the kernel.
    pub tun_offload: bool,
    /// Send and receive runs of datagrams as super-frames.
    pub udp_gso: bool,
    /// Neither super-frames nor batches: the yardstick of a benchmark.
    pub one_packet_per_syscall: bool,
}

/// What is used. `Display` is the line of `sluice status`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Chosen {
    pub tun: Offload,
    pub udp_runs: bool,
    pub self_test: RunsWork,
    pub one_packet_per_syscall: bool,
}

impl Chosen {
    /// How the service side works, for status.
    #[must_use]
    pub const fn tun_text(&self) -> &'static str {
        match (self.one_packet_per_syscall, self.tun.tcp(), self.tun.udp()) {
            (true, ..) => "one packet per call",
            (false, true, true) => "TCP and UDP super-frames",
            (false, true, false) => "TCP super-frames",
            (false, false, _) => "no super-frames",
        }
    }

    /// How the underlay works, for status.
    #[must_use]
    pub const fn udp_text(&self) -> &'static str {
        match (self.one_packet_per_syscall, self.udp_runs) {
            (true, _) => "one packet per call",
            (false, true) => "UDP_SEGMENT and UDP_GRO",
            (false, false) => "one datagram each",
        }
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.one_packet_per_syscall {
            return f.write_str("one_packet_per_syscall");
        }
        match (self.tun.tcp(), self.udp_runs) {
            (true, true) if self.tun.udp() => f.write_str("full"),
            (true, true) => f.write_str("no_tun_udp_offload"),
            (true, false) => f.write_str("no_udp_gso"),
            (false, true) => f.write_str("no_tun_offload"),
            (false, false) => f.write_str("no_tun_offload,no_udp_gso"),
        }
    }
}

/// The links of a gateway, one pair per worker.
#[derive(Debug)]
pub struct Links {
    pub pairs: Vec<(TunLink, UdpLink)>,
    pub chosen: Chosen,
}

#[derive(Debug, Error)]
pub enum LinksError {
    #[error(transparent)]
    Tun(#[from] TunError),
    #[error(transparent)]
    Udp(#[from] UdpError),
}

/// Opens device and sockets, and tries what they can do.
///
/// # Errors
/// When the device or the port cannot be had.
pub fn open(settings: &LinksSettings) -> Result<Links, LinksError> {
    let self_test = if settings.udp_gso && !settings.one_packet_per_syscall {
        runs_work()
    } else {
        RunsWork::Untried
    };
    let services = tun::open(&TunSettings {
        name: settings.tun.clone(),
        workers: settings.workers,
        offload: settings.tun_offload,
        one_packet_per_syscall: settings.one_packet_per_syscall,
        persistent: settings.persistent,
    })?;
    let first = services.first();
    let offload = first.map_or(Offload::NONE, TunLink::offload);
    let underlays = udp::open(&UdpSettings {
        address: settings.address,
        port: settings.tunnel_port,
        workers: settings.workers,
        gso: settings.udp_gso && self_test != RunsWork::No,
        merge: first.map(TunLink::merge).unwrap_or_default(),
        one_packet_per_syscall: settings.one_packet_per_syscall,
    })?;
    let chosen = Chosen {
        tun: offload,
        udp_runs: underlays.first().is_some_and(UdpLink::sends_runs),
        self_test,
        one_packet_per_syscall: settings.one_packet_per_syscall,
    };
    Ok(Links {
        pairs: services.into_iter().zip(underlays).collect(),
        chosen,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_line_names_what_is_missing() {
        let chosen = |tun, udp_runs, one_packet_per_syscall| Chosen {
            tun,
            udp_runs,
            self_test: RunsWork::Yes,
            one_packet_per_syscall,
        };
        for (chosen, line) in [
            (chosen(Offload::FULL, true, false), "full"),
            (chosen(Offload::TCP, true, false), "no_tun_udp_offload"),
            (chosen(Offload::FULL, false, false), "no_udp_gso"),
            (chosen(Offload::NONE, true, false), "no_tun_offload"),
            (
                chosen(Offload::CHECKSUM, false, false),
                "no_tun_offload,no_udp_gso",
            ),
            (chosen(Offload::NONE, false, true), "one_packet_per_syscall"),
        ] {
            assert_eq!(chosen.to_string(), line);
        }
    }
}
