//! Following chosen packets through the stages: what each stage decided, in a bounded queue.
//!
//! Off, it costs one branch per batch and one per frame and stage that is never taken.

use crate::batch::Stop;
use arc_swap::ArcSwapOption;
use crossbeam_queue::ArrayQueue;
use sluice_memory::{Batch, Endpoint};
use sluice_tables::slots::Slot;
use sluice_tables::{InstanceSlot, Question};
use sluice_wire::{DropReason, Ip, Parsed, Protocol, parse};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Records kept until somebody reads them; when it is full, new ones are lost and counted.
const RECORDS_MAX: usize = 4096;

/// Which packets to follow. What is `None` matches everything.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Filter {
    /// One end, as the packet carries it where it enters the gateway. With [`Filter::dst`] the packets of one
    /// conversation, both ways.
    pub src: Option<Ip>,
    /// The other end.
    pub dst: Option<Ip>,
    /// Source or destination port, or ICMP echo identifier.
    pub port: Option<u16>,
    pub protocol: Option<Protocol>,
    /// Packets to follow.
    pub count: u64,
}

impl Filter {
    fn matches(&self, packet: &Parsed) -> bool {
        let is = |wanted: Option<Ip>, ip: Ip| wanted.is_none_or(|wanted| wanted == ip);
        let forth = is(self.src, packet.src) && is(self.dst, packet.dst);
        let back = is(self.src, packet.dst) && is(self.dst, packet.src);
        (forth || back)
            && self
                .port
                .is_none_or(|port| packet.src_port == port || packet.dst_port == port)
            && self
                .protocol
                .is_none_or(|protocol| packet.protocol == protocol)
    }
}

/// Where a packet entered the gateway.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Entry {
    /// From a local instance.
    Outbound,
    /// Through the tunnel.
    Inbound,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        })
    }
}

/// One decision about one packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Record {
    /// Numbers the followed packets, from 1.
    pub packet: u32,
    pub decision: Decision,
}

/// What a stage decided about a traced packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// The packet as it entered from that side: the first record of each.
    Entered(Entry, Parsed),
    /// It belongs to the flow in that entry.
    Known(u32),
    /// A new flow to that instance, by the service's policy.
    Chosen(InstanceSlot),
    /// A new flow to the instance that was dialled.
    ChosenByAddress(InstanceSlot),
    /// Its sender's node owns the inner source, which is that instance.
    Admitted(InstanceSlot),
    /// A first-time caller's flow, in that entry.
    Accepted(u32),
    /// To an instance of this node; inbound follows.
    Beside,
    Tunnelled(Endpoint),
    Delivered(InstanceSlot),
    /// Held until control answers.
    Held(Question),
    /// A later fragment before its first one.
    AwaitsFirst,
    Dropped(DropReason),
    /// Dropped, and its sender told, unless a limit forbade it.
    Refused(DropReason),
}

impl Decision {
    /// The packet's way ends here, or leaves the gateway.
    #[must_use]
    pub const fn is_last(&self) -> bool {
        match self {
            Self::Tunnelled(_) | Self::Delivered(_) | Self::Dropped(_) | Self::Refused(_) => true,
            Self::Entered(..)
            | Self::Known(_)
            | Self::Chosen(_)
            | Self::ChosenByAddress(_)
            | Self::Admitted(_)
            | Self::Accepted(_)
            | Self::Beside
            | Self::Held(_)
            | Self::AwaitsFirst => false,
        }
    }

    /// The stage that decides so.
    #[must_use]
    pub const fn stage(&self) -> &'static str {
        match self {
            Self::Entered(..) => "parse",
            Self::Known(_) => "flow",
            Self::Chosen(_) | Self::ChosenByAddress(_) => "select",
            Self::Admitted(_) => "admit",
            Self::Accepted(_) => "accept",
            Self::Beside | Self::Tunnelled(_) => "encap",
            Self::Delivered(_) => "deliver",
            Self::Held(_) => "hold",
            Self::AwaitsFirst => "fragment",
            Self::Dropped(_) | Self::Refused(_) => "drop",
        }
    }
}

impl From<Stop> for Decision {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Drop(reason) => Self::Dropped(reason),
            Stop::Refuse(reason, _) => Self::Refused(reason),
            Stop::Ask(question) => Self::Held(question),
            Stop::AwaitFirst(_) => Self::AwaitsFirst,
            Stop::Pieces { to, .. } => Self::Delivered(to),
            Stop::Back(outer) | Stop::Onward { outer, .. } => Self::Tunnelled(outer),
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entered(entry, packet) => write!(
                f,
                "{entry}: {}:{} -> {}:{} {:?}, {} bytes",
                packet.src,
                packet.src_port,
                packet.dst,
                packet.dst_port,
                packet.protocol,
                packet.total_len
            ),
            Self::Known(index) => write!(f, "flow {index}"),
            Self::Chosen(slot) => write!(f, "instance in slot {} by policy", slot.index()),
            Self::ChosenByAddress(slot) => {
                write!(f, "instance in slot {} as dialled", slot.index())
            }
            Self::Admitted(slot) => {
                write!(f, "its node owns the instance in slot {}", slot.index())
            }
            Self::Accepted(index) => write!(f, "new passive flow {index}"),
            Self::Beside => f.write_str("to an instance of this node"),
            Self::Tunnelled(outer) => write!(f, "tunnelled to {} port {}", outer.ip, outer.port),
            Self::Delivered(slot) => {
                write!(f, "delivered to the instance in slot {}", slot.index())
            }
            Self::Held(Question::Dialled(ip)) => write!(f, "held until control knows {ip}"),
            Self::Held(Question::InnerSource { source, outer }) => {
                write!(f, "held until control knows {source}, sent by {outer}")
            }
            Self::Held(Question::Rules(service)) => {
                let slot = service.index();
                write!(
                    f,
                    "held until control knows the rules of the service in slot {slot}"
                )
            }
            Self::AwaitsFirst => f.write_str("waits for the first fragment"),
            Self::Dropped(reason) => write!(f, "dropped: {reason}"),
            Self::Refused(reason) => write!(f, "dropped: {reason}; the sender is told"),
        }
    }
}

/// The one switch, filter and queue of a gateway. Control sets and reads, workers mark and record.
#[derive(Debug)]
pub struct Tracer {
    on: AtomicBool,
    filter: ArcSwapOption<Filter>,
    left: AtomicU64,
    packets: AtomicU32,
    records: ArrayQueue<Record>,
    lost: AtomicU64,
}

impl Default for Tracer {
    fn default() -> Self {
        Self {
            on: AtomicBool::new(false),
            filter: ArcSwapOption::empty(),
            left: AtomicU64::new(0),
            packets: AtomicU32::new(0),
            records: ArrayQueue::new(RECORDS_MAX),
            lost: AtomicU64::new(0),
        }
    }
}

impl Tracer {
    /// Follows the next `filter.count` packets that match.
    pub fn start(&self, filter: Filter) {
        self.left.store(filter.count, Relaxed);
        self.filter.store(Some(Arc::new(filter)));
        self.on.store(filter.count > 0, Relaxed);
    }

    pub fn stop(&self) {
        self.on.store(false, Relaxed);
        self.filter.store(None);
    }

    /// The oldest record not yet read. Records of packets on different workers may alternate.
    pub fn pop(&self) -> Option<Record> {
        self.records.pop()
    }

    /// Packets still to be followed.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left.load(Relaxed)
    }

    /// Records lost because nobody read them in time.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Marks the frames to follow.
    #[inline]
    pub(crate) fn mark(&self, batch: &mut Batch, entry: Entry) {
        if self.on.load(Relaxed) {
            self.mark_matching(batch, entry);
        }
    }

    #[cold]
    fn mark_matching(&self, batch: &mut Batch, entry: Entry) {
        let filter = self.filter.load();
        let Some(filter) = filter.as_ref() else {
            return;
        };
        for frame in batch {
            let Ok(packet) = parse(frame.bytes()) else {
                continue;
            };
            let quoted = parse::quoted(frame.bytes(), &packet).ok();
            let matches =
                filter.matches(&packet) || quoted.is_some_and(|quote| filter.matches(&quote));
            let spend = |left: u64| left.checked_sub(1);
            if matches && self.left.fetch_update(Relaxed, Relaxed, spend).is_ok() {
                frame.trace = self.packets.fetch_add(1, Relaxed).wrapping_add(1).max(1);
                self.record(frame.trace, Decision::Entered(entry, packet));
            }
        }
        if self.left() == 0 {
            self.on.store(false, Relaxed);
        }
    }

    #[cold]
    pub(crate) fn record(&self, packet: u32, decision: Decision) {
        if self.records.push(Record { packet, decision }).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}
