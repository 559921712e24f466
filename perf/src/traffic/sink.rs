//! The sink: an XDP program that counts the tunnel datagrams that arrive at a device, and ends them there.

use super::frames::OBJECT;
use crate::lab::LabError;
use aya::maps::PerCpuArray;
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use std::net::Ipv4Addr;

const WHAT: &str = "counting frames";

/// Which frames are counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Expected {
    /// UDP port of the tunnel.
    pub port: u16,
    /// Where in the frame the inner IPv4 packet begins, at most 255.
    pub inner_at: u8,
    /// Where the inner packet must be going.
    pub inner_destination: Ipv4Addr,
}

/// Frames since the sink was attached.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sunk {
    pub expected: u64,
    /// To the port, but with something else in them.
    pub other: u64,
}

/// Counts and ends frames until it is dropped. What is not for the tunnel's port is passed to the kernel.
#[derive(Debug)]
pub struct Sink(Ebpf);

impl Sink {
    /// # Errors
    /// When the device has no XDP of its own, or another program.
    pub fn attach(device: &str, expected: &Expected) -> Result<Self, LabError> {
        let mut globals = u32::from(expected.inner_at).to_ne_bytes().to_vec();
        globals.extend(expected.inner_destination.octets());
        globals.extend(expected.port.to_be_bytes());
        globals.extend([0; 2]);
        let mut ebpf = EbpfLoader::new()
            .override_global("expected", globals.as_slice(), true)
            .load(OBJECT)
            .map_err(LabError::bpf(WHAT))?;
        let program: &mut Xdp = ebpf
            .program_mut("sink")
            .unwrap_or_else(|| unreachable!("bpf/traffic.c has it"))
            .try_into()
            .map_err(LabError::bpf(WHAT))?;
        program.load().map_err(LabError::bpf(WHAT))?;
        program
            .attach(device, XdpMode::Driver)
            .map_err(LabError::bpf(WHAT))?;
        Ok(Self(ebpf))
    }

    /// # Errors
    /// When the kernel refuses to read the counters.
    pub fn sunk(&self) -> Result<Sunk, LabError> {
        let map = self
            .0
            .map("sunk")
            .unwrap_or_else(|| unreachable!("bpf/traffic.c has it"));
        let counts: PerCpuArray<_, u64> =
            PerCpuArray::try_from(map).map_err(LabError::bpf(WHAT))?;
        let sum = |index| -> Result<u64, LabError> {
            let cores = counts.get(&index, 0).map_err(LabError::bpf(WHAT))?;
            Ok(cores.iter().sum())
        };
        Ok(Sunk {
            expected: sum(0)?,
            other: sum(1)?,
        })
    }
}
