//! AF_XDP: frames straight from and to the queues of two devices, without the kernel's network stack.
//!
//! Read [`ring`] (one end of a ring), [`lent`] (whose buffer is it), [`queue`] (a socket with its four rings), [`port`]
//! (the queues of a device that one worker serves), then [`service`] and [`underlay`], which are the links. All links of
//! a worker show the kernel the memory of the worker's pool, so that a frame crosses from one to the other as it is.

pub mod directory;
mod cut;
pub mod headers;
mod lent;
mod port;
mod queue;
mod ring;
pub mod service;
pub mod underlay;

pub use directory::{Directory, DirectoryReader, DirectoryWriter, Hop, Neighbour};
pub use service::XdpServiceLink;
pub use underlay::XdpUnderlayLink;

use crate::Merge;
use crate::bpf::abi::QUEUES_MAX;
use crate::bpf::{BpfError, Mode, ProgramSettings, Programs, Side, SourceLimit};
use crate::offload::{Offload, OffloadSettings};
use crate::sys::xsk::{Binding, Missed, XskSocket};
use crate::sys::{ethtool, page_bytes};
use crate::udp::{self, UdpError, UdpSettings};
use port::Port;
use queue::Queue;
use sluice_memory::{BATCH_MAX, HEADROOM, Pages, Pool, PoolError, TAILROOM};
use sluice_wire::{Dual, Subnet};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use thiserror::Error;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Bytes the kernel keeps free before each received frame (`XDP_PACKET_HEADROOM`); no less than [`HEADROOM`].
const KERNEL_HEADROOM: usize = 256;
/// Ethernet header and one VLAN tag, bytes.
const ETHERNET_MAX: usize = 18;
/// The chunk that holds frames of the usual MTU, and the largest one: chunks must not cross a page.
const CHUNK: usize = 2048;
const CHUNK_MAX: usize = 4096;
/// Buffers beside those on loan to the kernel: what the engine holds, makes and cuts.
const BUFFERS_BESIDE: usize = 1024;
/// Buffers of one worker: 256 MiB of the largest chunks.
const BUFFERS_MAX: usize = 65_536;

const _: () = assert!(KERNEL_HEADROOM >= HEADROOM);

/// A device as netlink describes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Device {
    pub name: String,
    pub index: u32,
    pub mac: Mac,
    /// The longest IP packet, bytes.
    pub mtu: u32,
}

/// How the sockets of a queue are made.
#[derive(Clone, Copy, Debug)]
pub struct QueueSettings {
    /// Entries of each of the four rings: a power of two.
    pub ring_entries: u32,
    /// Zero-copy where the driver can.
    pub zero_copy: bool,
    /// Look for frames in the driver instead of leaving them to interrupts.
    pub busy_poll: Option<BusyPoll>,
    /// Frames per call of a link, 1..=64.
    pub batch: usize,
}

/// How long one call looks, and for how many frames.
#[derive(Clone, Copy, Debug)]
pub struct BusyPoll {
    pub microseconds: u32,
    pub budget: u32,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            // 2 ms of a million packets per second.
            ring_entries: 2048,
            zero_copy: true,
            busy_poll: None,
            batch: BATCH_MAX,
        }
    }
}

/// What a gateway wants of its AF_XDP links.
#[derive(Clone, Debug)]
pub struct XdpSettings {
    pub service: Device,
    pub underlay: Device,
    pub service_ranges: Dual<Subnet>,
    pub tunnel_port: u16,
    /// Pairs of links, 1 or more.
    pub workers: usize,
    pub queue: QueueSettings,
    /// Frames of a known local instance are dropped when they come from another Ethernet address than its own.
    pub guard_sources: bool,
    /// Try the driver's own XDP before the generic one.
    pub native: bool,
    /// Large ones are used as far as there are any.
    pub pages: Pages,
    /// Sources whose tunnel datagrams are dropped.
    pub blocked: Vec<Subnet>,
    pub source_limit: Option<SourceLimit>,
    /// Established flows are forwarded without a worker, where both devices have the program in their driver.
    pub offload: Option<XdpOffload>,
}

/// What the offload of established flows needs beside the links.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct XdpOffload {
    /// 1 or more.
    pub flows_max: u32,
    /// Name and index of the bridge's port towards the service device, if that is behind a bridge.
    pub port: Option<(String, u32)>,
}

#[derive(Debug, Error)]
pub enum XskError {
    #[error(
        "AF_XDP on queue {queue} of {device}: {what} failed: {source}{}",
        hint(source)
    )]
    Open {
        device: String,
        queue: u32,
        what: &'static str,
        source: io::Error,
    },
    #[error(
        "{device} has {queues} receive queues for {workers} workers; lower `fastpath.workers`, or give it more (`ethtool -L {device} combined {workers}`)"
    )]
    Queues {
        device: String,
        queues: u32,
        workers: usize,
    },
    #[error("{device} has an MTU of {mtu}; AF_XDP carries at most {max} in one buffer")]
    Mtu {
        device: String,
        mtu: u32,
        max: usize,
    },
    #[error(
        "{device} has {queues} receive queues, and {max} are served at most; give it fewer (`ethtool -L {device} combined {max}`, or `hardware.set.queues`)"
    )]
    ManyQueues {
        device: String,
        queues: u32,
        max: u32,
    },
    #[error(
        "the outer source port {port} of worker {worker}: {source}; end what has it, or use fewer workers"
    )]
    Lane {
        port: u16,
        worker: usize,
        source: io::Error,
    },
    #[error("waiting for several sockets: {0}")]
    Wait(#[from] io::Error),
    #[error(transparent)]
    Bpf(#[from] BpfError),
    #[error(transparent)]
    Udp(#[from] UdpError),
    #[error(transparent)]
    Pool(#[from] PoolError),
}

const fn hint_of(errno: i32) -> &'static str {
    match errno {
        libc::EBUSY => "; another program has the queue (`ss --xdp`)",
        libc::EPERM | libc::EACCES => {
            "; it needs CAP_NET_RAW, and CAP_IPC_LOCK or a higher RLIMIT_MEMLOCK"
        }
        libc::ENOBUFS => "; raise RLIMIT_MEMLOCK, or lower `hardware.set.xsk_ring`",
        libc::EAFNOSUPPORT => "; this kernel is built without AF_XDP (CONFIG_XDP_SOCKETS)",
        _ => "",
    }
}

fn hint(error: &io::Error) -> &'static str {
    hint_of(error.raw_os_error().unwrap_or(0))
}

/// What one worker is given.
#[derive(Debug)]
pub struct Pair {
    pub service: XdpServiceLink,
    pub underlay: XdpUnderlayLink,
    /// The memory its frames live in.
    pub pool: Pool,
}

/// The links of a gateway, and what control keeps of them.
#[derive(Debug)]
pub struct XdpLinks {
    pub pairs: Vec<Pair>,
    pub control: XdpControl,
    pub offload: Option<Redirected>,
}

/// The flows that the programs forward themselves.
#[derive(Debug)]
pub struct Redirected {
    pub offload: Offload,
    /// Whether TCP is forwarded in super-frames, or why not: then it is by frames, as datagrams are.
    pub joined: Result<(), BpfError>,
}

/// Control's side of the links. Dropping it detaches the programs.
#[derive(Debug)]
pub struct XdpControl {
    pub programs: Programs,
    /// Where local instances are.
    pub neighbours: DirectoryWriter<Neighbour>,
    /// Next hops towards other nodes.
    pub hops: DirectoryWriter<Hop>,
    pub sides: [SideState; 2],
    /// Bound, so that the kernel knows whose packets an ICMP error quotes: without them it would not learn path MTUs.
    _lanes: Vec<UdpSocket>,
}

/// One side as it runs.
#[derive(Debug)]
pub struct SideState {
    pub device: Device,
    pub mode: Mode,
    pub binding: Binding,
    /// Bound queues.
    pub queues: u32,
    /// Of each ring.
    pub ring_entries: u32,
    /// Bytes of a page of the frames' memory.
    pub page_bytes: u64,
    sockets: Vec<XskSocket>,
}

impl SideState {
    /// Frames lost between device and workers, over all queues.
    #[must_use]
    pub fn missed(&self) -> Missed {
        let mut sum = Missed::default();
        for missed in self
            .sockets
            .iter()
            .filter_map(|socket| socket.missed().ok())
        {
            sum.ring_full += missed.ring_full;
            sum.no_buffer += missed.no_buffer;
            sum.refused += missed.refused;
            sum.fill_empty += missed.fill_empty;
        }
        sum
    }

    /// As [`XskSocket::busy_polling`]; the sockets of a side are made alike.
    ///
    /// # Errors
    /// As there.
    pub fn busy_polling(&self) -> io::Result<(u32, bool)> {
        match self.sockets.first() {
            Some(socket) => socket.busy_polling(),
            None => Ok((0, false)),
        }
    }
}

impl fmt::Display for SideState {
    /// The line of `sluice status`, such as `af_xdp eth0 (native, copy, 1 queue)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binding = self.binding;
        let plural = if self.queues == 1 { "" } else { "s" };
        write!(
            f,
            "af_xdp {} ({}, {binding}, {} queue{plural})",
            self.device.name, self.mode, self.queues
        )
    }
}

/// Loads and attaches the programs, binds a socket to every queue of both devices, and shares the queues out.
///
/// # Errors
/// Names the device and what it, the kernel or our privileges lack.
pub fn open(settings: &XdpSettings) -> Result<XdpLinks, XskError> {
    let chunk = chunk_for(&[&settings.service, &settings.underlay])?;
    let mut programs = Programs::load(&ProgramSettings {
        service_mac: settings.service.mac,
        service_ranges: settings.service_ranges,
        underlay_mac: settings.underlay.mac,
        tunnel_port: settings.tunnel_port,
        blocked: settings.blocked.clone(),
        source_limit: settings.source_limit,
        offload: settings.offload.as_ref().map(|offload| OffloadSettings {
            tunnel_port: settings.tunnel_port,
            uplink: (settings.service.index, settings.service.mac),
            flows_max: offload.flows_max,
        }),
    })?;
    let counts = [
        queues_of(&settings.service, settings.workers)?,
        queues_of(&settings.underlay, settings.workers)?,
    ];
    let modes = [
        programs.attach(Side::Service, settings.service.index, settings.native)?,
        programs.attach(Side::Underlay, settings.underlay.index, settings.native)?,
    ];
    let (neighbours, hops) = (DirectoryWriter::default(), DirectoryWriter::default());
    let mut sides = [
        SideState::new(&settings.service, modes[0], counts[0]),
        SideState::new(&settings.underlay, modes[1], counts[1]),
    ];
    let sockets = udp::open(&UdpSettings {
        address: None,
        port: settings.tunnel_port,
        workers: settings.workers,
        // Buffers are too small for runs, and little comes this way.
        gso: false,
        merge: Merge::default(),
        one_packet_per_syscall: false,
    })?;
    let (mut pairs, mut lanes) = (Vec::new(), Vec::new());
    for (worker, socket) in sockets.into_iter().enumerate() {
        let mine =
            |count| (0..count).filter(move |queue| *queue as usize % settings.workers == worker);
        let queues = mine(counts[0]).count() + mine(counts[1]).count();
        let queue_settings = QueueSettings {
            ring_entries: ring_entries(settings.queue.ring_entries, queues),
            ..settings.queue
        };
        // Each queue may hold a full fill ring and a full transmit ring.
        let buffers = 2 * queues * queue_settings.ring_entries as usize + BUFFERS_BESIDE;
        let mut pool = match Pool::of_chunks(buffers, chunk, settings.pages) {
            // Large pages are better, and usually not there.
            Err(PoolError::Map { .. }) if settings.pages == Pages::Large => {
                Pool::of_chunks(buffers, chunk, Pages::Small)?
            }
            result => result?,
        };
        let mut opened = |side: Side, state: &mut SideState| {
            let mut queues = Vec::new();
            for number in mine(state.queues) {
                let mut queue = Queue::open(&state.device, number, pool.region(), &queue_settings)?;
                state.binding = queue.binding();
                state.ring_entries = queue.ring_entries();
                state.page_bytes = page_bytes(pool.region().address()).unwrap_or_default();
                state.sockets.push(queue.try_clone_socket()?);
                // Frames come from here on, before the worker runs.
                queue.fill(&mut pool);
                programs.set_socket(side, number, std::os::fd::AsFd::as_fd(&queue))?;
                queues.push(queue);
            }
            Ok::<_, XskError>(queues)
        };
        let source_port = lane_port(settings.tunnel_port, worker);
        if worker > 0 {
            lanes.push(hold_lane(source_port, worker)?);
        }
        let [service_side, underlay_side] = &mut sides;
        let service = opened(Side::Service, service_side)?;
        let underlay = opened(Side::Underlay, underlay_side)?;
        let batch = settings.queue.batch;
        let service = Port::new(settings.service.name.clone(), service, batch, None)?;
        let beside = crate::Link::fd(&socket);
        let underlay = Port::new(settings.underlay.name.clone(), underlay, batch, beside)?;
        pairs.push(Pair {
            service: XdpServiceLink::new(
                service,
                settings.service.mac,
                neighbours.reader(),
                settings.guard_sources,
            ),
            underlay: XdpUnderlayLink::new(
                underlay,
                socket,
                settings.underlay.mac,
                hops.reader(),
                source_port,
                settings.tunnel_port,
            ),
            pool,
        });
    }
    let offload = match &settings.offload {
        Some(offload) if modes == [Mode::Native; 2] => {
            let (service, underlay) = (&settings.service, &settings.underlay);
            let port = offload.port.as_ref().map(|(name, index)| (&**name, *index));
            Some(Redirected {
                offload: programs.redirect(service.index, underlay.index)?,
                joined: programs.attach_joined(port, (&underlay.name, underlay.index)),
            })
        }
        Some(_) | None => None,
    };
    Ok(XdpLinks {
        pairs,
        offload,
        control: XdpControl {
            programs,
            neighbours,
            hops,
            sides,
            _lanes: lanes,
        },
    })
}

impl SideState {
    fn new(device: &Device, mode: Mode, queues: u32) -> Self {
        Self {
            device: device.clone(),
            mode,
            binding: Binding::Copy,
            queues,
            ring_entries: 0,
            page_bytes: 0,
            sockets: Vec::new(),
        }
    }
}

/// The chunk that holds a frame of either device with the room that links promise.
fn chunk_for(devices: &[&Device]) -> Result<usize, XskError> {
    let around = KERNEL_HEADROOM + ETHERNET_MAX + TAILROOM;
    let mut chunk = CHUNK;
    for device in devices {
        let needed = device.mtu as usize + around;
        if needed > CHUNK_MAX {
            return Err(XskError::Mtu {
                device: device.name.clone(),
                mtu: device.mtu,
                max: CHUNK_MAX - around,
            });
        }
        if needed > CHUNK {
            chunk = CHUNK_MAX;
        }
    }
    Ok(chunk)
}

fn queues_of(device: &Device, workers: usize) -> Result<u32, XskError> {
    // A device that does not say has one.
    let queues = ethtool::receive_queues(&device.name).unwrap_or(1);
    if (queues as usize) < workers {
        return Err(XskError::Queues {
            device: device.name.clone(),
            queues,
            workers,
        });
    }
    if queues > QUEUES_MAX {
        return Err(XskError::ManyQueues {
            device: device.name.clone(),
            queues,
            max: QUEUES_MAX,
        });
    }
    Ok(queues)
}

/// The wanted entries, or fewer, so that the rings of `queues` queues never hold all of a worker's buffers.
fn ring_entries(wanted: u32, queues: usize) -> u32 {
    let mut entries = wanted;
    while entries > 1 && 2 * queues * entries as usize + BUFFERS_BESIDE > BUFFERS_MAX {
        entries /= 2;
    }
    entries
}

/// A socket for which nothing is ever received, as the first worker's alone has the tunnel port.
fn hold_lane(port: u16, worker: usize) -> Result<UdpSocket, XskError> {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
        .map_err(|source| XskError::Lane {
            port,
            worker,
            source,
        })
}

/// The outer source port of a worker: the tunnel port for the first one, which is what a NAT and a stock peer expect;
/// dynamic ports (RFC 6335 section 6) for the others, so that receivers spread a node's traffic over their queues.
#[must_use]
pub fn lane_port(tunnel_port: u16, worker: usize) -> u16 {
    const DYNAMIC: u16 = 49_152;
    const APART: u16 = 257;
    let worker = u16::try_from(worker).unwrap_or(u16::MAX);
    if worker == 0 {
        return tunnel_port;
    }
    DYNAMIC | (tunnel_port.wrapping_add(worker.wrapping_mul(APART)) & !DYNAMIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_differ_and_the_first_is_the_tunnel_port() {
        assert_eq!(lane_port(50103, 0), 50103);
        let lanes: std::collections::BTreeSet<u16> =
            (0..64).map(|worker| lane_port(50103, worker)).collect();
        assert_eq!(lanes.len(), 64);
        assert!(lanes.iter().all(|&port| port >= 49_152));
    }

    #[test]
    fn the_rings_of_many_queues_leave_buffers_for_frames() {
        assert_eq!(ring_entries(2048, 2), 2048);
        for queues in [1, 2, 15, 16, 64, 128] {
            for wanted in [64, 2048, 32_768] {
                let entries = ring_entries(wanted, queues);
                assert!(entries.is_power_of_two() && entries <= wanted);
                let lent = 2 * queues * entries as usize;
                assert!(lent + BUFFERS_BESIDE <= BUFFERS_MAX, "{queues} {wanted}");
            }
        }
        assert_eq!(ring_entries(32_768, 128), 128, "no fewer than fit");
    }

    #[test]
    fn a_lane_is_held_until_it_is_dropped_and_one_in_use_is_named() {
        let taken = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
            .or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))
            .unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = hold_lane(port, 3).unwrap_err().to_string();
        assert!(error.contains(&format!("{port} of worker 3")), "{error}");
        drop(taken);
        let held = hold_lane(port, 3).unwrap();
        assert!(hold_lane(port, 3).is_err());
        drop(held);
    }

    #[test]
    fn the_chunk_fits_the_wider_device_or_says_what_does() {
        let device = |mtu| Device {
            name: "eth0".into(),
            index: 1,
            mac: [2; 6],
            mtu,
        };
        let chunk = |a, b| chunk_for(&[&device(a), &device(b)]);
        assert_eq!(chunk(1450, 1500).unwrap(), 2048);
        assert_eq!(chunk(1450, 1742).unwrap(), 2048);
        assert_eq!(chunk(1450, 1743).unwrap(), 4096);
        assert_eq!(chunk(3790, 1500).unwrap(), 4096);
        let error = chunk(1450, 9000).unwrap_err().to_string();
        assert!(error.contains("eth0") && error.contains("3790"), "{error}");
    }
}
