//! What the stages pass to each other: the turn's surroundings, a packet on its way, and how its way ends.

use crate::engine::Output;
use arrayvec::ArrayVec;
use sluice_memory::{Account, BATCH_MAX, Endpoint, Pool};
use sluice_tables::{InstanceSlot, PeerSlot, Question, Tables};
use sluice_wire::icmp_error::Unreachable;
use sluice_wire::{DropReason, Family, Fragment, FragmentKey, Ip, Parsed, Protocol, parse};

/// The worker's monotonic clock, read once per turn.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Now {
    pub ns: u64,
}

impl Now {
    #[must_use]
    pub const fn from_s(s: u32) -> Self {
        Self {
            ns: s as u64 * 1_000_000_000,
        }
    }

    /// Whole seconds; enough for 136 years.
    #[must_use]
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "136 years")]
    pub const fn s(self) -> u32 {
        (self.ns / 1_000_000_000) as u32
    }

    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self {
            ns: self.ns.saturating_add(ms.saturating_mul(1_000_000)),
        }
    }
}

/// What a turn works with.
pub(crate) struct Turn<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) now: Now,
    pub(crate) now_s: u32,
    pub(crate) pool: &'a mut Pool,
    pub(crate) account: &'a Account,
    pub(crate) out: &'a mut Output,
    /// Flows of this batch's packets are worth being offloaded, however young they are.
    pub(crate) samples: bool,
}

impl<'a> Turn<'a> {
    pub(crate) fn new(
        tables: &'a Tables,
        now: Now,
        pool: &'a mut Pool,
        account: &'a Account,
        out: &'a mut Output,
    ) -> Self {
        Self {
            tables,
            now,
            now_s: now.s(),
            pool,
            account,
            out,
            samples: false,
        }
    }
}

/// How a packet finds its flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// By its own addresses and ports.
    Own,
    /// An ICMP error: by the packet it quotes.
    Error,
    /// A later fragment: by the binding that its first fragment left.
    Later,
    /// Not at all: it cannot be parsed, or is not for us.
    Unfit(DropReason),
}

/// A parsed packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane {
    pub(crate) packet: Parsed,
    pub(crate) kind: Kind,
    /// The node that sent it on, because its instance came from there.
    pub(crate) relay: Option<PeerSlot>,
}

impl Lane {
    /// A frame whose way ends before it has a flow.
    #[cold]
    pub(crate) const fn unfit(reason: DropReason, packet: Parsed) -> Self {
        Self {
            packet,
            kind: Kind::Unfit(reason),
            relay: None,
        }
    }

    /// The packet that an ICMP error quotes. Of `bytes` as they were parsed.
    pub(crate) fn quote(&self, bytes: &[u8]) -> Step<Parsed> {
        parse::quoted(bytes, &self.packet).map_err(Stop::Drop)
    }
}

/// A packet's way ends here, or is interrupted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stop {
    Drop(DropReason),
    /// Dropped, and its sender is told.
    Refuse(DropReason, Answer),
    /// Held until control has answered.
    Ask(Question),
    /// A later fragment, held until its first one has been here.
    AwaitFirst(FragmentKey),
    /// It became its own answer, to the node at that address.
    Back(Endpoint),
    /// It goes on to another node, in pieces of at most so many bytes.
    Onward {
        outer: Endpoint,
        mtu: u16,
    },
    /// Delivered to that instance, in pieces of at most so many bytes.
    Pieces {
        to: InstanceSlot,
        mtu: u16,
    },
}

/// What the sender of a dropped packet is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Answer {
    /// To the local caller.
    Unreachable(Unreachable),
    /// To the local caller: the packet size that fits.
    TooBig { mtu: u16 },
    /// To the local caller: its TCP connection is gone.
    Reset,
    /// To the remote instance with that NsIP, through the tunnel.
    Remote {
        ns_ip: Ip,
        outer: Endpoint,
        reason: Unreachable,
    },
    /// The same: the packet size that fits the way onward.
    RemoteTooBig {
        ns_ip: Ip,
        outer: Endpoint,
        mtu: u16,
    },
}

/// Which frames of a batch stopped, with what they were and why, in the batch's order.
pub(crate) type Stops = ArrayVec<(usize, Lane, Stop), BATCH_MAX>;

/// What stands in a lane for a packet that could not be parsed.
pub(crate) const UNPARSED: Parsed = Parsed {
    src: Ip::UNSPECIFIED,
    dst: Ip::UNSPECIFIED,
    total_len: 0,
    l3_len: 0,
    l4_len: 0,
    src_port: 0,
    dst_port: 0,
    family: Family::V6,
    protocol: Protocol::Other(59),
    hop_limit: 0,
    tcp_flags: 0,
    dont_fragment: true,
    fragment: Fragment::Whole,
    icmp: None,
};

pub(crate) type Step<T> = Result<T, Stop>;

pub(crate) const fn drop_as<T>(reason: DropReason) -> Step<T> {
    Err(Stop::Drop(reason))
}
