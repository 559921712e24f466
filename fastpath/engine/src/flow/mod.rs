//! Does the packet belong to a flow? The stage; the table it asks has its own files.

mod embryonic;
pub mod entry;
mod free;
mod hit;
pub(crate) mod index;
mod layout;
pub(crate) mod limits;
mod lookup;
pub(crate) mod quota;
pub mod table;

pub use entry::{Flow, Offloading, Pin, State, Timeouts};
pub(crate) use hit::Hit;
pub use limits::{FLOWS_MAX, Limits, SharedError};
pub(crate) use lookup::{Lookups, Probe};
pub use table::{Inserted, Table};

use crate::batch::{Answer, Kind, Lane, Step, Stop, Turn, drop_as};
use crate::engine::Engine;
use crate::parse;
use crate::trace::Decision;
use sluice_memory::Frame;
use sluice_tables::{Instance, PeerSlot, Placement, Question, Tables, TunnelFormat, Upcall};
use sluice_wire::tcp_flag::{ACK, FIN, RST, SYN};
use sluice_wire::{DropReason, NsIp, Parsed, Protocol};

impl Engine {
    /// The live flow of a packet from a local instance; `None` when one may begin.
    pub(crate) fn known_outbound(
        &mut self,
        frame: &Frame,
        lane: &Lane,
        turn: &Turn<'_>,
    ) -> Step<Option<Flow>> {
        let Some(flow) = self.find(frame, lane, true, turn)? else {
            return missing(lane);
        };
        if local(&flow, turn.tables).is_none() {
            self.end_stale(&flow, true, turn)?;
            return missing(lane);
        }
        if remote(&flow, turn.tables).is_none() {
            self.end_stale(&flow, true, turn)?;
            return match lane.kind {
                // Nothing but a SYN can go to another instance: the rest is in the middle of a conversation.
                Kind::Own if lane.packet.protocol == Protocol::Tcp && !is_syn(&lane.packet) => {
                    Err(Stop::Refuse(DropReason::InstanceWithdrawn, Answer::Reset))
                }
                Kind::Own => Ok(None),
                Kind::Error | Kind::Later | Kind::Unfit(_) => {
                    drop_as(DropReason::InstanceWithdrawn)
                }
            };
        }
        Ok(self.goes_on(frame, lane, &flow, true, turn).then_some(flow))
    }

    /// Ends a flow whose instance is gone. One that another worker made from newer tables than this turn's stays. Its
    /// outbound packet is held for those tables, which are there at the next turn; an inbound one is lost, as nothing
    /// here says who may have sent it.
    pub(crate) fn end_stale(&self, flow: &Flow, outbound: bool, turn: &Turn<'_>) -> Step<()> {
        if is_ahead(flow, turn.tables) {
            return if outbound {
                Err(Stop::Ask(Question::Dialled(flow.forward.dst)))
            } else {
                drop_as(DropReason::FlowBusy)
            };
        }
        self.shared.flows.remove(flow);
        Ok(())
    }

    /// Reads the packet's flow.
    pub(crate) fn find(
        &self,
        frame: &Frame,
        lane: &Lane,
        outbound: bool,
        turn: &Turn<'_>,
    ) -> Step<Option<Flow>> {
        match lane.kind {
            Kind::Own | Kind::Error => {}
            Kind::Later => return self.bound_flow(lane, turn).map(Some),
            Kind::Unfit(reason) => return drop_as(reason),
        }
        let sought = parse::sought(frame, lane, outbound)?;
        self.shared
            .flows
            .find(&sought)
            .map_err(|table::Busy| Stop::Drop(DropReason::FlowBusy))
    }

    /// A packet of a flow whose both ends are there: notes what it changes. False when it begins another one.
    pub(crate) fn goes_on(
        &mut self,
        frame: &Frame,
        lane: &Lane,
        flow: &Flow,
        outbound: bool,
        turn: &Turn<'_>,
    ) -> bool {
        if lane.kind == Kind::Own {
            let flags = lane.packet.tcp_flags;
            let after = flow.state.after(outbound, flags, turn.now_s);
            if flow.state.is_closed() && flow.state.is_tcp() && is_syn(&lane.packet) {
                self.shared.flows.remove(flow);
                return false;
            }
            let is_busy = frame.gso.is_some() || turn.samples;
            if after != flow.state || (is_busy && flow.state.may_be_offloaded()) {
                self.change(frame, flow, outbound, flags, turn);
            }
        }
        self.note(frame, Decision::Known(flow.index));
        true
    }

    fn change(&self, frame: &Frame, flow: &Flow, outbound: bool, tcp_flags: u8, turn: &Turn<'_>) {
        let flows = &self.shared.flows;
        flows.update(flow, outbound, tcp_flags, turn.now_s);
        if flow.state.last_s() < turn.now_s {
            touch(flow, turn);
        }
        // A super-frame is the sign of a transfer; one packet in many is likely to be of a flow with many, and a flow
        // that lasts into another second may last longer.
        let is_worth_it = frame.gso.is_some() || turn.samples || flow.created_s < turn.now_s;
        if self.settings.offload
            && is_worth_it
            && frame.trace == 0
            && flow.state.may_be_offloaded()
            && flow.state.after(outbound, tcp_flags, turn.now_s).may_be_offloaded()
            && flows.set_offloading(flow, Offloading::Asked)
            // What began on one node stays with the worker, and so does what is encrypted.
            && flow.peer.is_some_and(|peer| is_plain(peer, turn.tables))
        {
            let generation = flow.state.generation();
            // When the queue is full the flow stays with the worker.
            self.tell(Upcall::Offload {
                flow: flow.index,
                generation,
            });
        }
    }
}

fn is_plain(peer: PeerSlot, tables: &Tables) -> bool {
    let row = tables.peer(peer);
    row.is_some_and(|row| row.format == TunnelFormat::Plain)
}

/// A packet without a flow: errors have nothing to be about.
pub(crate) fn missing(lane: &Lane) -> Step<Option<Flow>> {
    match lane.kind {
        Kind::Own => Ok(None),
        Kind::Error => drop_as(DropReason::IcmpUnmatched),
        Kind::Later => await_first(lane),
        Kind::Unfit(reason) => drop_as(reason),
    }
}

/// A later fragment whose first has not been here.
pub(crate) fn await_first<T>(lane: &Lane) -> Step<T> {
    match lane.packet.fragment_key() {
        Some(key) => Err(Stop::AwaitFirst(key)),
        None => drop_as(DropReason::FragmentUnmatched),
    }
}

/// The rows of both ends of a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends<'a> {
    pub(crate) local: &'a Instance,
    pub(crate) remote: &'a Instance,
}

/// Both ends, while both are there.
pub(crate) fn ends<'a>(flow: &Flow, tables: &'a Tables) -> Step<Ends<'a>> {
    match (local(flow, tables), remote(flow, tables)) {
        (Some(local), Some(remote)) => Ok(Ends { local, remote }),
        // Only a flow that another worker made from an older snapshot gets here.
        _ => drop_as(DropReason::InstanceWithdrawn),
    }
}

/// The flow's local instance, while it lives here with the NsIP that the flow was made for.
#[inline]
pub(crate) fn local<'a>(flow: &Flow, tables: &'a Tables) -> Option<&'a Instance> {
    let family = flow.forward.src.family();
    tables
        .instance_at(flow.local.slot, flow.local.epoch)
        .filter(|row| {
            row.placement == Placement::Local
                && row.ns_ip.of(family).map(NsIp::ip) == Some(flow.forward.src)
        })
}

/// The flow's remote instance, unless it was withdrawn. One that is merely not a candidate any more stays.
#[inline]
pub(crate) fn remote<'a>(flow: &Flow, tables: &'a Tables) -> Option<&'a Instance> {
    tables.instance_at(flow.remote.slot, flow.remote.epoch)
}

/// Whether the flow was made from newer tables than these.
pub(crate) fn is_ahead(flow: &Flow, tables: &Tables) -> bool {
    let newer = |pin: Pin| {
        tables
            .instance(pin.slot)
            .is_none_or(|row| row.epoch < pin.epoch)
    };
    newer(flow.local) || newer(flow.remote)
}

/// Notes the use of both instances and of the service.
pub(crate) fn touch(flow: &Flow, turn: &Turn<'_>) {
    touch_rows(flow, turn.tables, turn.now_s);
    for row in [local(flow, turn.tables), remote(flow, turn.tables)]
        .into_iter()
        .flatten()
    {
        row.busy.touch(turn.now_s);
    }
}

/// The same outside of a packet.
pub(crate) fn touch_rows(flow: &Flow, tables: &Tables, now_s: u32) {
    for row in [local(flow, tables), remote(flow, tables)]
        .into_iter()
        .flatten()
    {
        row.used.touch(now_s);
    }
    if let Some(service) = flow.service.and_then(|slot| tables.service(slot)) {
        service.used.touch(now_s);
    }
}

/// Opens a connection and does nothing else.
pub(crate) const fn is_syn(packet: &Parsed) -> bool {
    packet.tcp_flags & (SYN | ACK | RST | FIN) == SYN
}
