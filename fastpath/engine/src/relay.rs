//! Detours of instances that moved: what still comes to the old node is sent on to the new one, and its answers go back
//! the same way, because the caller's node believes neither an answer nor an address from a node it does not expect.
//!
//! Between the two nodes such a packet names both instances by InstanceIP, which no other packet does: `A -> B`. So it is
//! known for what it is, and goes to B through at most one old node. Nodes whose beliefs about both ends contradict each other may
//! send an answer round; the hop limit of what is sent on is low, and ends it.
//!
//! ```text
//!   A's node ── A -> old NsIP of B ──► old node ── A -> B ──► new node    delivered to B's NsIP; the flow is marked
//!            ◄── B -> NsIP of A ─────           ◄── B -> A ──             until A's node sends by itself, or nothing
//!                                                                          has come by the old node since it stopped
//! ```

use crate::batch::{Kind, Lane, Step, Stop, Turn, drop_as};
use crate::engine::{Engine, Side};
use crate::flow::{Ends, Flow};
use crate::locate::{self, Location};
use crate::{deliver, flow, fragment, translate};
use sluice_memory::{Endpoint, Frame};
use sluice_tables::{InstanceSlot, Known, PeerSlot, Placement, Tables, Target};
use sluice_tunnel::plain;
use sluice_wire::{Class, DropReason, InstanceIp, Ip, NsIp, Rewrite, hop_limit, rewrite};

/// The highest hop limit of a packet that is sent on. Enough for two ends that both moved a few times, and still more than one,
/// so that a host's own kernel takes it to the instance.
const HOPS_MAX: u8 = 8;

/// Where a packet of a moved instance goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Detour {
    /// To an instance of this node, under the NsIP that it has now.
    Here { ns_ip: Ip, relay: Option<PeerSlot> },
    /// To another node, with that destination.
    Onward {
        to: Ip,
        peer: PeerSlot,
        instance: InstanceSlot,
    },
}

/// Whether the packet is for, or from, an instance that moved a moment ago.
pub(crate) fn detour(frame: &Frame, lane: &Lane, tables: &Tables) -> Option<Detour> {
    let packet = &lane.packet;
    let outer = frame.outer?;
    // What a gateway says is about a way that it took part in, and is not sent on.
    if matches!(lane.kind, Kind::Unfit(_)) || tables.plan.class(packet.src) != Class::Semantic {
        return None;
    }
    let (slot, by_instance_ip) = match tables.plan.class(packet.dst) {
        Class::Node => (tables.left(NsIp::new(packet.dst))?, false),
        Class::Semantic => (instance_at(packet.dst, tables)?, true),
        Class::Foreign => return None,
    };
    let row = tables.instance(slot)?;
    let ns_ip = row.ns_ip.of(packet.family).map(NsIp::ip);
    match row.placement {
        Placement::Local if by_instance_ip => {
            let relay = tables.came_from(slot, outer.ip)?;
            Some(Detour::Here {
                ns_ip: ns_ip?,
                relay: Some(relay),
            })
        }
        // It came back.
        Placement::Local => Some(Detour::Here {
            ns_ip: ns_ip?,
            relay: None,
        }),
        // An answer to what was sent on.
        Placement::Peer(peer) if by_instance_ip => {
            let sender = instance_at(packet.src, tables)?;
            tables.has_left(sender).then_some(Detour::Onward {
                to: ns_ip?,
                peer,
                instance: slot,
            })
        }
        Placement::Peer(peer) => Some(Detour::Onward {
            to: row.instance_ip.of(packet.family).map(InstanceIp::ip)?,
            peer,
            instance: slot,
        }),
        Placement::Nowhere => None,
    }
}

fn instance_at(ip: Ip, tables: &Tables) -> Option<InstanceSlot> {
    match tables.semantic(ip)? {
        Known::Target(Target::Instance(slot)) => Some(slot),
        Known::Target(Target::Service { .. }) | Known::Unavailable | Known::Absent => None,
    }
}

/// Whether the node that sent the packet may send it although its source is not placed there.
pub(crate) fn vouches(lane: &Lane, known: Option<&Flow>, outer: Endpoint, tables: &Tables) -> bool {
    // A later fragment is known by its first one.
    let of_flow = |flow: &Flow| {
        let relays = || relay_of(flow, tables).is_some_and(|peer| peer.0 == outer.ip);
        // An answer that was on its way when this node heard that the instance is elsewhere, or came to its old node then.
        let was_there = || tables.came_from(flow.remote.slot, outer.ip).is_some();
        flow.state.is_relayed() && relays() || was_there()
    };
    lane.relay.is_some() || known.is_some_and(of_flow)
}

/// The node that relays the flow's packets.
fn relay_of(flow: &Flow, tables: &Tables) -> Option<(Ip, PeerSlot)> {
    let slot = flow
        .peer
        .filter(|peer| tables.came_by(flow.local.slot, *peer))?;
    Some((tables.peer(slot)?.ip, slot))
}

/// Where packets of a relayed flow go; `None` when they take the straight way.
pub(crate) fn location<'a>(
    flow: &Flow,
    ends: &Ends<'_>,
    tables: &'a Tables,
) -> Option<Location<'a>> {
    let Placement::Peer(_) = ends.remote.placement else {
        return None;
    };
    let (_, slot) = relay_of(flow, tables)?;
    let src = ends.local.instance_ip.of(flow.forward.src.family())?;
    Some(Location {
        src: src.ip(),
        dst: flow.remote_ip.ip(),
        peer: Some((slot, tables.peer(slot)?)),
    })
}

impl Engine {
    #[cold]
    pub(crate) fn take_detour(
        &mut self,
        frame: &mut Frame,
        lane: &Lane,
        detour: Detour,
        turn: &Turn<'_>,
    ) -> Step<()> {
        match detour {
            Detour::Here { ns_ip, relay } => {
                let complete = translate::is_complete(frame);
                let to = |dst: Ip| Rewrite {
                    dst: Some(dst),
                    ..Rewrite::default()
                };
                rewrite(frame.bytes_mut(), &lane.packet, complete, &to(ns_ip));
                let here = Lane {
                    packet: lane.packet.rewritten(&to(ns_ip)),
                    relay,
                    ..*lane
                };
                let received = self.receive(frame, &here, turn);
                if received.is_err() {
                    // It is held as it came, or told of so.
                    let back = to(lane.packet.dst);
                    rewrite(frame.bytes_mut(), &here.packet, complete, &back);
                }
                received
            }
            Detour::Onward { to, peer, instance } => {
                self.relay(frame, lane, (to, peer, instance), turn)
            }
        }
    }

    fn relay(
        &mut self,
        frame: &mut Frame,
        lane: &Lane,
        (to, slot, instance): (Ip, PeerSlot, InstanceSlot),
        turn: &Turn<'_>,
    ) -> Step<()> {
        let sender = self.admit(frame, lane, None, turn)?;
        // Their rows are used here as long as packets come, so that the next move is heard of.
        sender.row.used.touch(turn.now_s);
        if let Some(row) = turn.tables.instance(instance) {
            row.used.touch(turn.now_s);
        }
        self.end_former(frame, lane, turn);
        let peer = match turn.tables.peer(slot) {
            Some(peer) if peer.can_be_reached() => peer,
            Some(_) | None => return drop_as(DropReason::NoTunnel),
        };
        let location = Location {
            src: lane.packet.src,
            dst: to,
            peer: Some((slot, peer)),
        };
        locate::check_size(frame, &lane.packet, &location)
            .map_err(|stop| deliver::told_afar(stop, sender, lane, turn.tables))?;
        plain::seal(frame.bytes()).map_err(Stop::Drop)?;
        if !hop_limit::lower(frame.bytes_mut(), &lane.packet, HOPS_MAX) {
            return drop_as(DropReason::TtlExpired);
        }
        let complete = translate::is_complete(frame);
        let to = Rewrite {
            dst: Some(to),
            ..Rewrite::default()
        };
        rewrite(frame.bytes_mut(), &lane.packet, complete, &to);
        self.use_tunnel(slot, peer.epoch, turn);
        self.counters.relayed.add(1);
        Err(Stop::Onward {
            outer: Endpoint {
                ip: peer.ip,
                port: peer.port,
            },
            mtu: peer.mtu,
        })
    }

    /// Ends the flow that the packet had while the instance was here.
    fn end_former(&self, frame: &Frame, lane: &Lane, turn: &Turn<'_>) {
        if lane.kind == Kind::Own
            && let Ok(Some(former)) = self.find(frame, lane, false, turn)
            && flow::local(&former, turn.tables).is_none()
            && !flow::is_ahead(&former, turn.tables)
        {
            self.shared.flows.remove(&former);
        }
    }

    /// Sends a frame through the tunnel, cut where it does not fit.
    pub(crate) fn send_onward(
        &self,
        mut frame: Frame,
        outer: Endpoint,
        mtu: u16,
        turn: &mut Turn<'_>,
    ) {
        frame.outer = Some(outer);
        if frame.gso.is_none() && frame.len() > usize::from(mtu) {
            fragment::cut(frame, mtu, Side::Outbound, turn);
        } else {
            turn.out.to_underlay.push(frame);
        }
    }

    /// Nothing has come by the old node for so long that it sends nothing on any more: the flow takes the straight way, and
    /// if the caller's node does not expect that, it asks anew.
    #[cold]
    pub(crate) fn end_silent_detour(&self, flow: Flow, turn: &Turn<'_>) -> Flow {
        if turn.now_s.saturating_sub(flow.state.last_s()) <= turn.tables.sent_on_s() {
            return flow;
        }
        self.shared.flows.end_relay(&flow);
        Flow {
            state: flow.state.with_relayed(false),
            ..flow
        }
    }

    /// A packet of a relayed flow that came by itself: the caller's node knows the new place, and expects answers from it.
    pub(crate) fn end_detour(
        &self,
        frame: &Frame,
        lane: &Lane,
        known: Option<&Flow>,
        turn: &Turn<'_>,
    ) {
        if let Some(flow) = known
            && flow.state.is_relayed()
            && lane.relay.is_none()
            && frame.outer.map(|outer| outer.ip)
                != relay_of(flow, turn.tables).map(|(relay, _)| relay)
        {
            self.shared.flows.end_relay(flow);
        }
    }
}
