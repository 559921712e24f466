//! Which instance? Only for packets that begin a flow.

use crate::batch::{Answer, Lane, Step, Stop, Turn, drop_as};
use crate::engine::Engine;
use crate::flow::{self, Flow, Inserted, Pin, State};
use crate::policy::{self, Verdict};
use crate::trace::Decision;
use arrayvec::ArrayVec;
use sluice_memory::Frame;
use sluice_tables::slots::Slot;
use sluice_tables::{
    Instance, InstanceSlot, InstanceState, Placement, Policy, Question, Service, ServiceSlot,
    Tables, Target,
};
use sluice_wire::{DropReason, IcmpKind, InstanceIp, NsIp, Protocol};
use std::sync::atomic::Ordering::Relaxed;

/// Candidates tried before ports are rewritten. More than one is taken only for callers that reach the same instance
/// by several addresses from one port.
const TRIES_MAX: usize = 64;
/// Source ports tried: with 99 of 100 ports taken, all of these fail for one flow in 150.
const PORT_TRIES: usize = 512;

/// An instance that could be chosen.
type Candidate<'a> = (InstanceSlot, &'a Instance);

impl Engine {
    /// Chooses an instance for a new flow and enters the flow.
    #[inline(never)]
    pub(crate) fn select(&mut self, frame: &Frame, lane: &Lane, turn: &Turn<'_>) -> Step<Flow> {
        let tables = turn.tables;
        let packet = &lane.packet;
        policy::check_dialled(packet, tables)?;
        let Some(caller) = tables.local(NsIp::new(packet.src)) else {
            return drop_as(DropReason::SourceNotLocal);
        };
        if packet.protocol == Protocol::Tcp && !flow::is_syn(packet) {
            // The middle of a connection that is not known here: never rebalanced.
            return Err(Stop::Refuse(DropReason::NoSuchConnection, Answer::Reset));
        }
        if packet.icmp == Some(IcmpKind::EchoReply) {
            return drop_as(DropReason::IcmpUnmatched);
        }
        let Some(row) = tables.instance(caller) else {
            return drop_as(DropReason::SourceNotLocal);
        };
        let new = NewFlow {
            lane,
            caller: Pin {
                slot: caller,
                epoch: row.epoch,
            },
            now_s: turn.now_s,
        };
        let (flow, decision) = match policy::meaning(packet.dst, tables)? {
            Target::Instance(slot) => {
                let flow = self.begin_to_instance(&new, row, slot, tables)?;
                self.counters.begun_instance.add(1);
                (flow, Decision::ChosenByAddress(slot))
            }
            Target::Service { service, policy } => {
                let flow = self.begin_to_service(&new, row, service, policy, tables)?;
                self.counters.begun_round_robin.add(1);
                (flow, Decision::Chosen(flow.remote.slot))
            }
        };
        let chosen = tables.instance(flow.remote.slot);
        if chosen.is_some_and(|it| policy::may_begin(row, it, tables) == Verdict::Observed) {
            self.observe(caller, flow.remote.slot, turn);
        }
        flow::touch(&flow, turn);
        self.note(frame, decision);
        Ok(flow)
    }

    fn begin_to_instance(
        &mut self,
        new: &NewFlow<'_>,
        caller: &Instance,
        slot: InstanceSlot,
        tables: &Tables,
    ) -> Step<Flow> {
        let Some(row) = tables.instance(slot) else {
            return policy::refuse(DropReason::Unavailable);
        };
        match policy::may_begin(caller, row, tables) {
            Verdict::Allowed | Verdict::Observed => {}
            Verdict::Awaited(service) => return Err(Stop::Ask(Question::Rules(service))),
            Verdict::Refused => return policy::refuse(DropReason::NotAllowed),
        }
        // An instance known by identity only is asked for again, by the address that was dialled.
        if row.placement == Placement::Nowhere {
            return Err(Stop::Ask(Question::Dialled(new.lane.packet.dst)));
        }
        if row.ns_ip.of(new.lane.packet.family).is_none() {
            return policy::refuse(DropReason::NoAddress);
        }
        self.begin(new, None, &[(slot, row)], 0)
    }

    fn begin_to_service(
        &mut self,
        new: &NewFlow<'_>,
        caller: &Instance,
        slot: ServiceSlot,
        policy: Policy,
        tables: &Tables,
    ) -> Step<Flow> {
        let Some(service) = tables.service(slot) else {
            return policy::refuse(DropReason::Unavailable);
        };
        let family = new.lane.packet.family;
        let rows = || {
            service
                .candidates
                .iter()
                .filter_map(|&slot| Some((slot, tables.instance(slot)?)))
                .filter(|(_, row)| policy::is_usable(row) && row.ns_ip.of(family).is_some())
        };
        let verdict = |(_, row): Candidate<'_>| policy::may_begin(caller, row, tables);
        let allowed =
            |row: &Candidate<'_>| matches!(verdict(*row), Verdict::Allowed | Verdict::Observed);
        let live = |row: &Candidate<'_>| allowed(row) && row.1.state == InstanceState::Live;
        // A suspect takes no new flow while another instance lives.
        let live_only = rows().any(|row| live(&row));
        let eligible = |row: &Candidate<'_>| if live_only { live(row) } else { allowed(row) };
        let count = rows().filter(eligible).count();
        if count == 0 {
            let awaited = rows().map(verdict).find_map(|verdict| match verdict {
                Verdict::Awaited(service) => Some(service),
                Verdict::Allowed | Verdict::Observed | Verdict::Refused => None,
            });
            if let Some(service) = awaited {
                return Err(Stop::Ask(Question::Rules(service)));
            }
            let forbidden = rows().next().is_some();
            let mut all = service.candidates.iter();
            let of_other_family =
                all.any(|&slot| tables.instance(slot).is_some_and(policy::is_usable));
            return policy::refuse(if forbidden {
                DropReason::NotAllowed
            } else if of_other_family {
                DropReason::NoAddress
            } else {
                DropReason::Unavailable
            });
        }
        let start = match policy {
            Policy::RoundRobin if self.shared.flows.is_crowded() => {
                repeatable(new, rows().filter(eligible))
            }
            Policy::RoundRobin => service.cursor.fetch_add(1, Relaxed) as usize % count,
        };
        let tried: ArrayVec<Candidate<'_>, TRIES_MAX> = rows()
            .filter(eligible)
            .cycle()
            .skip(start)
            .take(count.min(TRIES_MAX))
            .collect();
        self.begin(new, Some((slot, service)), &tried, 0)
    }

    /// Enters the flow with the first candidate whose reverse key is free, and failing that with another source port.
    fn begin(
        &mut self,
        new: &NewFlow<'_>,
        service: Option<(ServiceSlot, &Service)>,
        candidates: &[Candidate<'_>],
        first: usize,
    ) -> Step<Flow> {
        let service = service.map(|(slot, _)| slot);
        for &candidate in candidates.iter().skip(first) {
            let Some(flow) = new.flow(candidate, service, new.lane.packet.src_port) else {
                continue;
            };
            if let Some(flow) = self.enter(&flow)? {
                return Ok(flow);
            }
        }
        self.counters.ports_rewritten.add(1);
        for (&candidate, _) in candidates.iter().cycle().zip(0..PORT_TRIES) {
            let Some(flow) = new.flow(candidate, service, self.random.port()) else {
                continue;
            };
            if let Some(flow) = self.enter(&flow)? {
                return Ok(flow);
            }
        }
        policy::refuse(DropReason::NoPortLeft)
    }

    /// Enters a flow; `None` when its reverse key is taken. When its forward key is, that flow is the one.
    fn enter(&mut self, flow: &Flow) -> Step<Option<Flow>> {
        match self.shared.flows.insert(flow, self.random.next()) {
            Inserted::Created(flow) => Ok(Some(flow)),
            Inserted::ReverseTaken => Ok(None),
            Inserted::ForwardTaken => match self.shared.flows.find_forward(&flow.forward) {
                // Another worker saw a packet of the same flow at the same moment.
                Ok(Some(flow)) => Ok(Some(flow)),
                Ok(None) | Err(_) => drop_as(DropReason::FlowBusy),
            },
            other @ (Inserted::Full | Inserted::Quota | Inserted::Busy) => {
                drop_as(reason_of(other))
            }
        }
    }
}

/// Why a flow could not be entered, where trying another key would not help.
pub(crate) const fn reason_of(inserted: Inserted) -> DropReason {
    match inserted {
        Inserted::Full => DropReason::FlowTableFull,
        Inserted::Quota => DropReason::FlowQuota,
        Inserted::Created(_) | Inserted::ForwardTaken | Inserted::ReverseTaken | Inserted::Busy => {
            DropReason::FlowBusy
        }
    }
}

/// A choice that depends on nothing but the caller's address and port and the instances, by highest random weight
/// (Thaler and Ravishankar 1998): a SYN repeated after its embryonic flow was evicted goes to the same instance. Like
/// Maglev in effect, without a table per service: the work is one multiplication per candidate of a new flow.
fn repeatable<'a>(new: &NewFlow<'_>, candidates: impl Iterator<Item = Candidate<'a>>) -> usize {
    let key = new
        .lane
        .packet
        .flow_key()
        .words()
        .into_iter()
        .fold(0_u64, |mixed, word| {
            (mixed ^ word)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(31)
        });
    let weight = |slot: InstanceSlot| {
        let mixed = (key ^ u64::from(slot.index()).wrapping_mul(0xd6e8_feb8_6659_fd93))
            .wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ mixed >> 29
    };
    candidates
        .enumerate()
        .max_by_key(|(_, (slot, _))| weight(*slot))
        .map_or(0, |(at, _)| at)
}

/// What is known of a flow before its instance is.
struct NewFlow<'a> {
    lane: &'a Lane,
    caller: Pin,
    now_s: u32,
}

impl NewFlow<'_> {
    /// The flow towards a candidate, with the source port that the wire is to carry. `None` when that cannot be.
    fn flow(
        &self,
        (slot, row): Candidate<'_>,
        service: Option<ServiceSlot>,
        wire_src_port: u16,
    ) -> Option<Flow> {
        let packet = &self.lane.packet;
        // An echo has one identifier in the place of both ports.
        let wire_dst_port = match packet.protocol {
            Protocol::Icmp => wire_src_port,
            Protocol::Tcp | Protocol::Udp | Protocol::Other(_) => packet.dst_port,
        };
        // An instance that reaches itself with equal ports: request and reply would look the same on the way in.
        if slot == self.caller.slot
            && wire_src_port == wire_dst_port
            && packet.protocol != Protocol::Icmp
        {
            return None;
        }
        Some(Flow {
            forward: packet.flow_key(),
            remote_ip: row
                .instance_ip
                .of(packet.family)
                .map(InstanceIp::ip)
                .map(InstanceIp::new)?,
            wire_src_port,
            wire_dst_port,
            local: self.caller,
            remote: Pin {
                slot,
                epoch: row.epoch,
            },
            service,
            peer: match row.placement {
                Placement::Peer(peer) => Some(peer),
                Placement::Local | Placement::Nowhere => None,
            },
            created_s: self.now_s,
            state: State::new(packet.protocol, false, self.now_s),
            index: 0,
        })
    }
}
