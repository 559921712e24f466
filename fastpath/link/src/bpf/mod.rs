//! The BPF programs of `bpf/`: loaded, attached, fed with sockets and addresses, and their counters read.
//!
//! Attached by bpf_link: the kernel detaches a program when the process that attached it is gone, unless its link is
//! pinned ([`pins`]).

pub mod abi;
pub mod pins;

use crate::offload::{self, Offload, OffloadSettings};
use crate::sys::while_busy;
use abi::{Address, Settings};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::xdp::XdpMapError;
use aya::maps::{DevMap, HashMap, MapError, PerCpuArray, XskMap};
use aya::pin::PinError;
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, TcAttachType, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfError, EbpfLoader, TestRun as _};
use pins::Links;
use sluice_wire::{DropReason, Dual, Ip, Subnet};
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// All programs and their maps.
pub(crate) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/programs.o"));

/// The reasons for which the programs drop, in the order of `enum tally`.
pub const TALLIES: [DropReason; 6] = [
    DropReason::Malformed,
    DropReason::Empty,
    DropReason::TooBig,
    DropReason::MartianSource,
    DropReason::BlockedSource,
    DropReason::SourceLimit,
];

/// Source prefixes that have a token bucket at once; the least recently used one starts anew with a full bucket.
const BUCKETS_MAX: u32 = 65_536;

/// A limit for tunnel datagrams of one source prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SourceLimit {
    /// Datagrams per second, 1 or more.
    pub rate: u32,
    /// Datagrams at once, 1 or more.
    pub burst: u32,
    /// Lengths of the prefixes that share a limit: 0..=32 and 0..=128.
    pub length_v4: u8,
    pub length_v6: u8,
}

/// What the programs are told when they are loaded. It does not change afterwards.
#[derive(Clone, Debug)]
pub struct ProgramSettings {
    pub service_mac: [u8; 6],
    pub service_ranges: Dual<Subnet>,
    pub underlay_mac: [u8; 6],
    pub tunnel_port: u16,
    /// Sources whose datagrams are dropped, at most 4,096.
    pub blocked: Vec<Subnet>,
    pub source_limit: Option<SourceLimit>,
    /// Established flows are forwarded within XDP.
    pub offload: Option<OffloadSettings>,
}

/// Which program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    Service,
    Underlay,
}

impl Side {
    const fn program(self) -> &'static str {
        match self {
            Self::Service => "sluice_service",
            Self::Underlay => "sluice_underlay",
        }
    }

    const fn sockets(self) -> &'static str {
        match self {
            Self::Service => "service_sockets",
            Self::Underlay => "underlay_sockets",
        }
    }
}

/// What a program says about a frame: `enum xdp_action`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    Aborted,
    Drop,
    /// The kernel's.
    Pass,
    /// Out of the device it came from.
    Transmit,
    /// To a socket, or out of another device.
    Redirect,
}

/// Where in the kernel a program runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// In the driver, before the kernel makes its own packet of the frame.
    Native,
    /// After that: every device can, at the cost of the kernel's packet.
    Generic,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

#[derive(Debug, Error)]
pub enum BpfError {
    #[error("loading the BPF programs failed: {0}; it needs CAP_BPF, CAP_NET_ADMIN and Linux 5.18")]
    Load(#[from] EbpfError),
    #[error("program {program} was refused: {source}")]
    Verify {
        program: &'static str,
        source: ProgramError,
    },
    #[error(
        "attaching {program} to device {device} failed: {source}; `bpftool net` shows who has it"
    )]
    Attach {
        program: &'static str,
        device: u32,
        source: ProgramError,
    },
    #[error("this kernel attaches XDP programs without a bpf_link; Linux 5.18 is needed")]
    NoLink,
    #[error("map {map}: {source}")]
    Map { map: &'static str, source: MapError },
    #[error("pinning a program at {path}: {source}")]
    Pin { path: PathBuf, source: PinError },
    #[error("the embedded object has no {0}")]
    Missing(&'static str),
}

/// The loaded programs and their maps. Dropping it detaches them.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
    links: Links,
}

impl Programs {
    /// Loads both programs and fills what is fixed.
    ///
    /// # Errors
    /// Without privilege, on a kernel that refuses them, or with more blocked prefixes than fit.
    pub fn load(settings: &ProgramSettings) -> Result<Self, BpfError> {
        let limit = settings.source_limit;
        let globals = Settings {
            service_mac: settings.service_mac,
            underlay_mac: settings.underlay_mac,
            tunnel_port: settings.tunnel_port.to_be(),
            blocking: u16::from(!settings.blocked.is_empty()),
            service_v4: settings.service_ranges.v4.into(),
            service_v6: settings.service_ranges.v6.into(),
            source_rate: limit.map_or(0, |limit| limit.rate),
            source_burst: limit.map_or(0, |limit| limit.burst),
            source_length_v4: limit.map_or(0, |limit| u32::from(limit.length_v4)),
            source_length_v6: limit.map_or(0, |limit| u32::from(limit.length_v6)),
        };
        let flows = settings.offload.map(|offload| {
            let of = offload::abi::Settings::new(settings.tunnel_port, offload.uplink);
            (of.at_port(), offload.flows_max)
        });
        let mut loader = EbpfLoader::new();
        loader.override_global("settings", &globals, true);
        if let Some((flows, flows_max)) = &flows {
            offload::prepare(&mut loader, flows, *flows_max);
        }
        if limit.is_some() {
            loader.map_max_entries("source_buckets", BUCKETS_MAX);
        }
        let mut programs = Self {
            ebpf: loader.load(OBJECT)?,
            links: Links::default(),
        };
        for side in [Side::Service, Side::Underlay] {
            let name = side.program();
            programs
                .program(name)?
                .load()
                .map_err(|source| BpfError::Verify {
                    program: name,
                    source,
                })?;
        }
        programs.block(&settings.blocked)?;
        Ok(programs)
    }

    /// Has frames of established flows redirected to the devices with these indices, and gives out the maps that say
    /// which flows those are. To be called once.
    ///
    /// # Errors
    /// When a device is gone, or the maps were given out.
    pub fn redirect(&mut self, service: u32, underlay: u32) -> Result<Offload, BpfError> {
        const MAP: &str = "flow_devices";
        let failed = |source| BpfError::Map { map: MAP, source };
        let map = self.ebpf.map_mut(MAP).ok_or(BpfError::Missing(MAP))?;
        let mut devices = DevMap::try_from(map).map_err(failed)?;
        // `enum flow_device`.
        for (index, device) in [(0, underlay), (1, service)] {
            devices
                .set(index, device, None, 0)
                .map_err(|error| match error {
                    XdpMapError::MapError(source) => failed(source),
                    XdpMapError::ChainedProgramNotSupported => BpfError::Missing(MAP),
                })?;
        }
        Offload::fed_to(&mut self.ebpf)
    }

    /// Takes up what GRO joined on the underlay, and super-frames of local instances before XDP cuts them: on `port`, the
    /// bridge's port towards the uplink, if there is one. Names and indices.
    ///
    /// # Errors
    /// On Linux before 6.6, which cannot attach by bpf_link there.
    pub fn attach_joined(
        &mut self,
        port: Option<(&str, u32)>,
        underlay: (&str, u32),
    ) -> Result<(), BpfError> {
        offload::load_classifiers(&mut self.ebpf)?;
        let ebpf = &mut self.ebpf;
        let inbound =
            offload::attach_classifier(ebpf, offload::INBOUND, underlay, TcAttachType::Ingress)?;
        if let Some(port) = port {
            let outbound =
                offload::attach_classifier(ebpf, offload::OUTBOUND, port, TcAttachType::Egress)?;
            self.links.hold(outbound)?;
        }
        self.links.hold(inbound)
    }

    /// Attaches the program of `side` to device `index`: in the driver if `native`, behind it where that is refused.
    ///
    /// # Errors
    /// When neither is possible, for example because another program is there.
    pub fn attach(&mut self, side: Side, index: u32, native: bool) -> Result<Mode, BpfError> {
        if native && self.attach_as(side, index, XdpMode::Driver).is_ok() {
            return Ok(Mode::Native);
        }
        self.attach_as(side, index, XdpMode::Skb)?;
        Ok(Mode::Generic)
    }

    /// What is attached stays so when this process is killed: pinned in `dir`, an empty directory of a BPF file system.
    ///
    /// # Errors
    /// When the kernel refuses; what could not be pinned is detached.
    pub fn survive(&mut self, dir: &Path) -> Result<(), BpfError> {
        self.links.survive(dir)
    }

    fn attach_as(&mut self, side: Side, index: u32, mode: XdpMode) -> Result<(), BpfError> {
        let name = side.program();
        let link = attach_xdp(self.program(name)?, name, index, mode)?;
        self.links.hold(link)
    }

    /// Steers the frames of `queue` to `socket` from now on.
    ///
    /// # Errors
    /// When the socket is not bound to that queue, or `queue` is 64 or more.
    pub fn set_socket(
        &mut self,
        side: Side,
        queue: u32,
        socket: BorrowedFd<'_>,
    ) -> Result<(), BpfError> {
        let map = side.sockets();
        let failed = |source| BpfError::Map { map, source };
        let sockets = self.ebpf.map_mut(map).ok_or(BpfError::Missing(map))?;
        let mut sockets = XskMap::try_from(sockets).map_err(failed)?;
        sockets.set(queue, socket.as_raw_fd(), 0).map_err(failed)
    }

    /// Which destination addresses are ours on the underlay, instead of those said before.
    ///
    /// # Errors
    /// With more than 256 addresses.
    pub fn set_own_addresses(&mut self, addresses: &[Ip]) -> Result<(), BpfError> {
        const MAP: &str = "own_addresses";
        let failed = |source| BpfError::Map { map: MAP, source };
        let map = self.ebpf.map_mut(MAP).ok_or(BpfError::Missing(MAP))?;
        let mut own: HashMap<_, Address, u8> = HashMap::try_from(map).map_err(failed)?;
        let wanted: Vec<Address> = addresses.iter().map(|&ip| ip.into()).collect();
        let present: Vec<Address> = own.keys().collect::<Result<_, _>>().map_err(failed)?;
        for old in present.iter().filter(|old| !wanted.contains(old)) {
            own.remove(old).map_err(failed)?;
        }
        for new in wanted.iter().filter(|new| !present.contains(new)) {
            own.insert(new, 1, 0).map_err(failed)?;
        }
        Ok(())
    }

    fn block(&mut self, blocked: &[Subnet]) -> Result<(), BpfError> {
        const MAP: &str = "blocklist";
        let failed = |source| BpfError::Map { map: MAP, source };
        let map = self.ebpf.map_mut(MAP).ok_or(BpfError::Missing(MAP))?;
        let mut blocklist: LpmTrie<_, Address, u8> = LpmTrie::try_from(map).map_err(failed)?;
        for subnet in blocked {
            let network = subnet.network();
            let mapped = if network.is_v4() { 96 } else { 0 };
            let key = Key::new(u32::from(subnet.length()) + mapped, Address::from(network));
            blocklist.insert(&key, 1, 0).map_err(failed)?;
        }
        Ok(())
    }

    /// Frames the programs dropped since they were loaded, in the order of [`TALLIES`].
    ///
    /// # Errors
    /// When the kernel refuses to read the counters.
    pub fn tallies(&self) -> Result<[u64; TALLIES.len()], BpfError> {
        const MAP: &str = "tallies";
        let failed = |source| BpfError::Map { map: MAP, source };
        let map = self.ebpf.map(MAP).ok_or(BpfError::Missing(MAP))?;
        let tallies: PerCpuArray<_, u64> = PerCpuArray::try_from(map).map_err(failed)?;
        let mut sums = [0; TALLIES.len()];
        for (index, sum) in (0..).zip(&mut sums) {
            *sum = tallies.get(&index, 0).map_err(failed)?.iter().sum();
        }
        Ok(sums)
    }

    /// Runs the program of `side` once on `frame` (BPF_PROG_TEST_RUN), as if it came from queue 0, and returns what became
    /// of both. Nothing is delivered: this is for tests.
    ///
    /// # Errors
    /// When the kernel refuses, for example a frame shorter than an Ethernet header.
    pub fn test_run(&mut self, side: Side, frame: &[u8]) -> Result<(Verdict, Vec<u8>), BpfError> {
        let program = side.program();
        // Room for what a program adds in front.
        let mut out = vec![0; frame.len() + 256];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        let result = self
            .program(program)?
            .test_run(options)
            .map_err(|source| BpfError::Verify { program, source })?;
        out.truncate(result.data_size_out as usize);
        let verdict = match result.return_value {
            1 => Verdict::Drop,
            2 => Verdict::Pass,
            3 => Verdict::Transmit,
            4 => Verdict::Redirect,
            _ => Verdict::Aborted,
        };
        Ok((verdict, out))
    }

    fn program(&mut self, name: &'static str) -> Result<&mut Xdp, BpfError> {
        self.ebpf
            .program_mut(name)
            .and_then(|program| program.try_into().ok())
            .ok_or(BpfError::Missing(name))
    }
}

/// Attaches an XDP program, waiting for what another process has only just let go of.
pub(crate) fn attach_xdp(
    program: &mut Xdp,
    name: &'static str,
    index: u32,
    mode: XdpMode,
) -> Result<FdLink, BpfError> {
    let failed = |source| BpfError::Attach {
        program: name,
        device: index,
        source,
    };
    let id = while_busy(
        || program.attach_to_if_index(index, mode),
        |error| {
            let ProgramError::SyscallError(call) = error else {
                return None;
            };
            call.io_error.raw_os_error()
        },
    )
    .map_err(failed)?;
    let link = program.take_link(id).map_err(failed)?;
    // What older kernels have instead would stay on the device after a crash, lease or not.
    FdLink::try_from(link).map_err(|_| BpfError::NoLink)
}
