//! One flow as plain words: identities and slot hints, never a location, and one word of state.

use sluice_memory::Line;
use sluice_tables::slots::Slot;
use sluice_tables::{InstanceSlot, PeerSlot, ServiceSlot};
use sluice_wire::{Family, FlowKey, InstanceIp, Ip, Protocol};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

// The first line has all of a flow of IPv4, in the order in which packets of either direction ask.
/// The addresses of an outbound packet of IPv4, as in [`FlowKey::words`].
const FORWARD: usize = 0;
/// The addresses of an inbound packet of IPv4.
const REVERSE: usize = 1;
/// The last of [`FlowKey::words`], outbound.
const REST: usize = 2;
/// [`State`].
const STATE: usize = 3;
const LOCAL: usize = 4;
const REMOTE: usize = 5;
/// `service << 32 | wire_dst_port << 16 | wire_src_port`: the ports as inbound packets have them.
const WIRE: usize = 6;
/// `peer << 32 | created_s`; while the entry is free, the next free one.
const PEER_CREATED: usize = 7;

// The second line has the addresses of a flow of IPv6, high and low halves, and nothing of one of IPv4.
const SRC: usize = 0;
const DST: usize = 2;
const REMOTE_IP: usize = 4;

/// The words of one flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(super) first: &'a Line,
    /// Where the second line is, among all lines of the table; looked for only when it is needed.
    pub(super) second: (&'a [Line], usize),
}

impl<'a> Entry<'a> {
    #[inline(always)]
    pub(crate) const fn state(self) -> &'a AtomicU64 {
        &self.first[STATE]
    }

    /// The entry after this one in the list of free ones, if this one is free.
    pub(crate) const fn link(self) -> &'a AtomicU64 {
        &self.first[PEER_CREATED]
    }

    #[inline(always)]
    pub(crate) fn local(self) -> Pin {
        Pin::from_word(self.word(LOCAL))
    }

    #[inline(always)]
    pub(crate) fn remote(self) -> Pin {
        Pin::from_word(self.word(REMOTE))
    }

    /// The service that was dialled, when it was a ServiceIP; and the ports on the wire, of inbound packets, as in the last
    /// of [`FlowKey::words`].
    #[inline(always)]
    pub(crate) fn wire(self) -> (Option<ServiceSlot>, u32) {
        let word = self.word(WIRE);
        (slot_of(word), low(word))
    }

    /// The [`FlowKey::words`] of outbound packets, which are of that family.
    #[inline(always)]
    pub(crate) fn forward(self, family: Family) -> [u64; 5] {
        let rest = self.word(REST);
        match family {
            Family::V4 => [self.word(FORWARD), 0, 0, 0, rest],
            Family::V6 => {
                let [src_high, src] = self.address(SRC);
                let [dst_high, dst] = self.address(DST);
                [src_high, src, dst_high, dst, rest]
            }
        }
    }

    /// Whether outbound packets have these [`FlowKey::words`], of that family.
    #[inline(always)]
    pub(crate) fn matches_forward(self, key: &[u64; 5], family: Family) -> bool {
        self.word(REST) == key[4]
            && match family {
                Family::V4 => self.word(FORWARD) == key[0],
                Family::V6 => {
                    self.address(SRC) == [key[0], key[1]] && self.address(DST) == [key[2], key[3]]
                }
            }
    }

    /// Whether inbound packets have these [`FlowKey::words`], of that family.
    #[inline(always)]
    pub(crate) fn matches_reverse(self, key: &[u64; 5], family: Family) -> bool {
        low(self.word(WIRE)) == low(key[4])
            && high(self.word(REST)) == high(key[4])
            && match family {
                Family::V4 => self.word(REVERSE) == key[0],
                Family::V6 => {
                    self.address(REMOTE_IP) == [key[0], key[1]]
                        && self.address(SRC) == [key[2], key[3]]
                }
            }
    }

    fn family(self) -> Family {
        family_of(self.word(REST))
    }

    #[inline(always)]
    fn word(self, at: usize) -> u64 {
        self.first[at].load(Relaxed)
    }

    /// The halves of an address of IPv6.
    #[inline(always)]
    fn address(self, at: usize) -> [u64; 2] {
        let second = self.second();
        let half = |at: usize| second.map_or(0, |line| line[at].load(Relaxed));
        [half(at), half(at + 1)]
    }

    #[inline(always)]
    fn second(self) -> Option<&'a Line> {
        let (lines, at) = self.second;
        lines.get(at)
    }

    /// The remote instance's identity.
    fn remote_ip(self) -> Ip {
        match self.family() {
            Family::V4 => Ip::v4(high(self.word(REVERSE)).to_be_bytes()),
            Family::V6 => {
                let [high, low] = self.address(REMOTE_IP);
                Ip::from_bits(u128::from(high) << 64 | u128::from(low))
            }
        }
    }
}

/// An instance as a flow remembers it: good while the slot still has that epoch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pin {
    pub slot: InstanceSlot,
    pub epoch: u32,
}

impl Pin {
    fn word(self) -> u64 {
        u64::from(self.slot.index()) << 32 | u64::from(self.epoch)
    }

    #[inline(always)]
    fn from_word(word: u64) -> Self {
        Self {
            slot: InstanceSlot::from_index(high(word)),
            epoch: low(word),
        }
    }
}

/// A flow between a local instance and another one, as one worker read it.
///
/// Outbound packets match `forward` and leave as `InstanceIP of local : wire_src_port -> NsIP of remote :
/// wire_dst_port`. Inbound packets match [`Flow::reverse`] and are delivered as `forward` reversed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Flow {
    /// Local NsIP and port, the address dialled and its port.
    pub forward: FlowKey,
    /// The remote instance's identity.
    pub remote_ip: InstanceIp,
    /// The local port as the wire carries it; differs from `forward.src_port` only after a collision.
    pub wire_src_port: u16,
    /// The remote port as the wire carries it; differs from `forward.dst_port` only after a collision.
    pub wire_dst_port: u16,
    pub local: Pin,
    pub remote: Pin,
    /// The service that was dialled, when it was a ServiceIP.
    pub service: Option<ServiceSlot>,
    /// Where the remote instance was when the flow began, or the node that relayed its packets: whom its quota is charged
    /// to. Used to send only while that node relays.
    pub peer: Option<PeerSlot>,
    pub created_s: u32,
    pub state: State,
    /// The entry's position.
    pub index: u32,
}

impl Flow {
    /// What an inbound packet of this flow looks like on the wire.
    #[must_use]
    pub fn reverse(&self) -> FlowKey {
        FlowKey {
            src: self.remote_ip.ip(),
            dst: self.forward.src,
            src_port: self.wire_dst_port,
            dst_port: self.wire_src_port,
            protocol: self.forward.protocol,
        }
    }

    pub(crate) fn load(entry: Entry<'_>, index: u32, state: State) -> Self {
        let ((service, wire_ports), peer_created) = (entry.wire(), entry.word(PEER_CREATED));
        Self {
            forward: FlowKey::from_words(entry.forward(entry.family())),
            remote_ip: InstanceIp::new(entry.remote_ip()),
            wire_src_port: port(wire_ports.into()),
            wire_dst_port: port(u64::from(wire_ports) >> 16),
            local: entry.local(),
            remote: entry.remote(),
            service,
            peer: slot_of(peer_created),
            created_s: low(peer_created),
            state,
            index,
        }
    }

    /// Writes all but the state into an entry that nobody can reach.
    pub(crate) fn store(&self, entry: Entry<'_>) {
        let (forward, reverse) = (self.forward.words(), self.reverse().words());
        let is_v4 = family_of(forward[4]) == Family::V4;
        for (at, word) in [
            (FORWARD, if is_v4 { forward[0] } else { 0 }),
            (REVERSE, if is_v4 { reverse[0] } else { 0 }),
            (REST, forward[4]),
            (LOCAL, self.local.word()),
            (REMOTE, self.remote.word()),
            (WIRE, slot_word(self.service) | u64::from(low(reverse[4]))),
            (
                PEER_CREATED,
                slot_word(self.peer) | u64::from(self.created_s),
            ),
        ] {
            entry.first[at].store(word, Relaxed);
        }
        if let Some(second) = entry.second().filter(|_| !is_v4) {
            let [src_high, src, dst_high, dst, _] = forward;
            let [remote_high, remote, ..] = reverse;
            for (at, word) in [
                (SRC, src_high),
                (SRC + 1, src),
                (DST, dst_high),
                (DST + 1, dst),
                (REMOTE_IP, remote_high),
                (REMOTE_IP + 1, remote),
            ] {
                second[at].store(word, Relaxed);
            }
        }
    }
}

/// The family of a key, by the last of its [`FlowKey::words`].
pub(crate) const fn family_of(rest: u64) -> Family {
    if rest & FlowKey::V4 != 0 {
        Family::V4
    } else {
        Family::V6
    }
}

/// A slot in the upper half of a word; 0 is none.
fn slot_word<S: Slot>(slot: Option<S>) -> u64 {
    slot.map_or(0, |slot| u64::from(slot.index()) + 1) << 32
}

/// The inverse of [`slot_word`].
fn slot_of<S: Slot>(word: u64) -> Option<S> {
    high(word).checked_sub(1).map(S::from_index)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the field is the low 16 bits"
)]
const fn port(word: u64) -> u16 {
    word as u16
}

const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the field is the low 32 bits"
)]
const fn low(word: u64) -> u32 {
    word as u32
}

/// How long idle flows live, in seconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// RFC 5382 REQ-5: at least 2 hours 4 minutes.
    pub tcp_established_s: u32,
    /// Half-open or half-closed for which RFC 5382 REQ-5 asks 4 minutes.
    pub tcp_transitory_s: u32,
    /// Only a SYN seen. Linux gives up connecting after 127 s, and repeats the SYN at least every 64 s.
    pub tcp_embryonic_s: u32,
    /// Both sides closed: two maximum segment lifetimes (RFC 9293 section 3.4.2) as Linux counts them.
    pub tcp_closed_s: u32,
    /// Established and then reset, if the RST was believed where it went: RFC 7857 section 2.2 asks 4 minutes.
    pub tcp_reset_s: u32,
    /// RFC 4787 REQ-5: at least 2, better 5 minutes.
    pub udp_s: u32,
    /// Neither answered nor used again: a scan, or one datagram for ever. As Linux's connection tracking has it.
    pub udp_embryonic_s: u32,
    /// RFC 5508 REQ-1: at least 60 seconds.
    pub icmp_s: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_established_s: 2 * 3600 + 4 * 60,
            tcp_transitory_s: 240,
            tcp_embryonic_s: 70,
            tcp_closed_s: 60,
            tcp_reset_s: 240,
            udp_s: 300,
            udp_embryonic_s: 30,
            icmp_s: 60,
        }
    }
}

/// The one word of a flow that changes: `last seen (s) << 32 | generation << 16 | flags`. Changed by compare and swap, so
/// that a worker that holds an old reading cannot touch the entry's next flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct State(u64);

const LIVE: u64 = 1;
/// The side that did not begin has sent something.
const ANSWERED: u64 = 1 << 1;
/// No longer embryonic.
const ESTABLISHED: u64 = 1 << 2;
const FIN_OUT: u64 = 1 << 3;
const FIN_IN: u64 = 1 << 4;
const RESET_OUT: u64 = 1 << 5;
/// The remote side began.
const PASSIVE: u64 = 1 << 6;
const UDP: u64 = 1 << 7;
const ICMP: u64 = 1 << 8;
const RESET_IN: u64 = 1 << 9;
const RESET: u64 = RESET_OUT | RESET_IN;
/// Control has been asked to offload it.
const OFFLOAD_ASKED: u64 = 1 << 10;
/// It is offloaded: the kernel forwards its packets.
const OFFLOADED: u64 = 1 << 11;
/// Its packets come and go by the node that its local instance moved away from.
const RELAYED: u64 = 1 << 12;
const FLAGS: u64 = 0xffff;

/// How far a flow's offload has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Offloading {
    /// Not asked for; the next packet worth it asks.
    No,
    Asked,
    Done,
}

impl State {
    /// A flow that begins now; not yet in an entry.
    #[must_use]
    pub fn new(protocol: Protocol, passive: bool, now_s: u32) -> Self {
        let kind = match protocol {
            Protocol::Tcp | Protocol::Other(_) => 0,
            Protocol::Udp => UDP,
            Protocol::Icmp => ICMP,
        };
        let passive = if passive { PASSIVE } else { 0 };
        Self(u64::from(now_s) << 32 | LIVE | kind | passive)
    }

    /// Which of the flows that had this entry it is.
    #[must_use]
    pub const fn generation(self) -> u16 {
        port(self.0 >> 16)
    }

    pub(crate) fn with_generation(self, generation: u16) -> Self {
        Self(self.0 & !(0xffff << 16) | u64::from(generation) << 16)
    }

    pub(crate) const fn is_live(self) -> bool {
        self.0 & LIVE != 0
    }

    /// The entry's state between two flows.
    pub(crate) fn dead(self) -> Self {
        Self(u64::from(self.generation().wrapping_add(1)) << 16)
    }

    /// When a packet of it came or went last, in seconds of the workers' clock; of a relayed flow, when one came.
    #[must_use]
    pub const fn last_s(self) -> u32 {
        high(self.0)
    }

    #[must_use]
    pub const fn is_established(self) -> bool {
        self.0 & ESTABLISHED != 0
    }

    /// Established, nobody said RST, and its packets take the straight way.
    pub(crate) const fn is_undisturbed(self) -> bool {
        self.0 & (ESTABLISHED | RESET | RELAYED) == ESTABLISHED
    }

    #[must_use]
    pub const fn is_relayed(self) -> bool {
        self.0 & RELAYED != 0
    }

    pub(crate) const fn with_relayed(self, relayed: bool) -> Self {
        let flag = if relayed { RELAYED } else { 0 };
        Self(self.0 & !RELAYED | flag)
    }

    #[must_use]
    pub const fn is_passive(self) -> bool {
        self.0 & PASSIVE != 0
    }

    #[must_use]
    pub const fn is_tcp(self) -> bool {
        self.0 & (UDP | ICMP) == 0
    }

    /// Both sides said FIN, or one said RST: a SYN begins something new.
    #[must_use]
    pub const fn is_closed(self) -> bool {
        self.0 & RESET != 0 || self.0 & (FIN_IN | FIN_OUT) == FIN_IN | FIN_OUT
    }

    #[must_use]
    pub const fn is_offloaded(self) -> bool {
        self.0 & OFFLOADED != 0
    }

    /// Its packets only go to and fro, and nobody has asked for its offload yet.
    #[must_use]
    pub const fn may_be_offloaded(self) -> bool {
        const ASIDE: u64 = FIN_OUT | FIN_IN | RESET | ICMP | OFFLOAD_ASKED | RELAYED;
        self.0 & (ESTABLISHED | ASIDE) == ESTABLISHED
    }

    pub(crate) const fn with_offloading(self, offloading: Offloading) -> Self {
        let flags = match offloading {
            Offloading::No => 0,
            Offloading::Asked => OFFLOAD_ASKED,
            Offloading::Done => OFFLOAD_ASKED | OFFLOADED,
        };
        Self(self.0 & !(OFFLOAD_ASKED | OFFLOADED) | flags)
    }

    /// A name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match (self.is_closed(), self.0 & (FIN_IN | FIN_OUT) != 0) {
            (true, _) => "closed",
            (false, true) => "closing",
            (false, false) if self.is_established() => "established",
            (false, false) if self.0 & ANSWERED != 0 => "opening",
            (false, false) => "embryonic",
        }
    }

    /// The state after a packet. Equal to `self` in all but one packet a second of an established flow.
    #[must_use]
    #[inline]
    pub fn after(self, outbound: bool, tcp_flags: u8, now_s: u32) -> Self {
        use sluice_wire::tcp_flag::{FIN, RST};
        let mut flags = self.0 & FLAGS;
        let by_beginner = outbound != self.is_passive();
        if self.is_tcp() {
            let (fin, reset) = if outbound {
                (FIN_OUT, RESET_OUT)
            } else {
                (FIN_IN, RESET_IN)
            };
            if tcp_flags & FIN != 0 {
                flags |= fin;
            }
            // Who resets a connection says nothing more in it. Who does was imitated, or reset with a sequence number
            // that the other side ignored (RFC 5961 section 3.2): the flow goes on, as in RFC 6146 section 3.5.2.2.
            if tcp_flags & RST != 0 {
                flags |= reset;
            } else {
                flags &= !reset;
            }
        }
        if flags & ESTABLISHED == 0 {
            if !by_beginner {
                flags |= ANSWERED;
            }
            // A handshake takes three packets. Of other protocols an answer is enough, and so is being used again in
            // another second: a stream that is never answered must not be evicted like a scan.
            let established = if self.is_tcp() {
                by_beginner && flags & ANSWERED != 0
            } else {
                flags & ANSWERED != 0 || now_s > self.last_s()
            };
            if established {
                flags |= ESTABLISHED;
            }
        }
        // What is sent back by an old node says nothing about whether that node is still there.
        let last_s = if outbound && self.is_relayed() {
            self.last_s()
        } else {
            now_s.max(self.last_s())
        };
        Self(u64::from(last_s) << 32 | self.0 & !FLAGS & 0xffff_ffff | flags)
    }

    /// The state after a packet that changes nothing else.
    pub(crate) fn seen(self, now_s: u32) -> Self {
        Self(u64::from(now_s.max(self.last_s())) << 32 | self.0 & 0xffff_ffff)
    }

    /// Whether the flow has been idle for longer than its state allows.
    #[must_use]
    pub fn is_expired(self, timeouts: &Timeouts, now_s: u32) -> bool {
        let timeout_s = if self.0 & UDP != 0 && !self.is_established() {
            timeouts.udp_embryonic_s
        } else if self.0 & UDP != 0 {
            timeouts.udp_s
        } else if self.0 & ICMP != 0 {
            timeouts.icmp_s
        } else if self.0 & RESET != 0 && self.is_established() {
            timeouts.tcp_reset_s
        } else if self.is_closed() {
            timeouts.tcp_closed_s
        } else if self.0 & (FIN_IN | FIN_OUT) != 0 {
            timeouts.tcp_transitory_s
        } else if self.is_established() {
            timeouts.tcp_established_s
        } else if self.0 & ANSWERED != 0 {
            timeouts.tcp_transitory_s
        } else {
            timeouts.tcp_embryonic_s
        };
        now_s.saturating_sub(self.last_s()) > timeout_s
    }

    pub(crate) fn read(word: &AtomicU64) -> Self {
        Self(word.load(Acquire))
    }

    pub(crate) fn publish(self, word: &AtomicU64) {
        word.store(self.0, Release);
    }

    /// Changes the word from `self` to `to`, unless somebody else changed it.
    pub(crate) fn swap(self, word: &AtomicU64, to: Self) -> Result<(), Self> {
        word.compare_exchange(self.0, to.0, Release, Acquire)
            .map(|_| ())
            .map_err(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_wire::tcp_flag::{ACK, FIN, RST, SYN};

    /// What the flow is called after each packet: direction (true is outbound) and flags.
    #[test]
    fn tcp_flows_open_and_close() {
        let names = |passive, packets: &[(bool, u8)]| {
            let mut state = State::new(Protocol::Tcp, passive, 5);
            packets
                .iter()
                .map(|&(outbound, flags)| {
                    state = state.after(outbound, flags, 5);
                    state.name()
                })
                .collect::<Vec<_>>()
        };
        let opening = ["embryonic", "opening", "established"];
        assert_eq!(
            names(false, &[(true, SYN), (false, SYN | ACK), (true, ACK)]),
            opening
        );
        assert_eq!(
            names(true, &[(false, SYN), (true, SYN | ACK), (false, ACK)]),
            opening
        );
        assert_eq!(
            names(
                false,
                &[
                    (true, ACK),
                    (false, ACK),
                    (true, ACK),
                    (true, FIN | ACK),
                    (false, FIN | ACK)
                ]
            ),
            ["embryonic", "opening", "established", "closing", "closed"]
        );
        assert_eq!(
            names(false, &[(true, SYN), (false, RST)]),
            ["embryonic", "closed"]
        );
    }

    /// A forged or misplaced RST is answered by the side that it was said to come from (RFC 5961 section 3.2).
    #[test]
    fn a_reset_that_its_sender_contradicts_ends_nothing() {
        let opened = State::new(Protocol::Tcp, false, 5)
            .after(true, SYN, 5)
            .after(false, SYN | ACK, 5)
            .after(true, ACK, 5);
        for outbound in [false, true] {
            let reset = opened.after(outbound, RST, 6);
            assert!(reset.is_closed() && !reset.is_undisturbed());
            // The other side has not heard of it yet, or does not believe it.
            let pending = reset.after(!outbound, ACK, 7);
            assert!(pending.is_closed());
            let contradicted = pending.after(outbound, ACK, 8);
            assert_eq!(contradicted.name(), "established");
            assert!(contradicted.is_undisturbed());
        }
    }

    #[test]
    fn a_datagram_flow_is_established_by_an_answer_or_by_lasting() {
        let state = State::new(Protocol::Udp, false, 5);
        assert!(!state.after(true, 0, 5).is_established());
        assert!(state.after(true, 0, 6).is_established());
        assert!(state.after(false, 0, 5).is_established());
    }

    #[test]
    fn each_state_has_its_own_patience() {
        let timeouts = Timeouts::default();
        let idle = |state: State, s: u32| {
            !state.is_expired(&timeouts, s) && state.is_expired(&timeouts, s + 1)
        };
        let tcp = State::new(Protocol::Tcp, false, 0);
        assert!(idle(tcp, timeouts.tcp_embryonic_s));
        assert!(idle(
            tcp.after(false, SYN | ACK, 0),
            timeouts.tcp_transitory_s
        ));
        let established = tcp.after(false, SYN | ACK, 0).after(true, ACK, 0);
        assert!(idle(established, 7440));
        assert!(idle(established.after(true, RST, 0), timeouts.tcp_reset_s));
        assert!(idle(tcp.after(false, RST, 0), timeouts.tcp_closed_s));
        let udp = State::new(Protocol::Udp, false, 0);
        assert!(idle(udp, 30));
        assert!(idle(udp.after(false, 0, 0), 300));
        assert!(idle(State::new(Protocol::Icmp, false, 0), 60));
    }
}
