//! ICMP errors: translated outside and in the quote, matched to flows, and what they say about instances.

use crate::batch::{Kind, Lane, Step, Turn, drop_as};
use crate::engine::{Engine, limit_key};
use crate::flow::Flow;
use crate::translate;
use sluice_memory::{Endpoint, Frame};
use sluice_tables::{Placement, Suspicion, Tables, Upcall};
use sluice_wire::{Class, DropReason, Family, FlowKey, IcmpError, IcmpKind, NsIp, Parsed, Rewrite};

/// Rewrites an error: its quote to what its receiver once sent, its own addresses like any packet of the flow. Its
/// ports do not exist.
pub(crate) fn rewrite(frame: &mut Frame, lane: &Lane, as_sent: &Rewrite, to: &Rewrite) -> Step<()> {
    let quote = lane.quote(frame.bytes())?;
    let complete = translate::is_complete(frame);
    let addresses = Rewrite {
        src_port: None,
        dst_port: None,
        ..*to
    };
    let bytes = frame.bytes_mut();
    sluice_wire::rewrite_quote(bytes, &lane.packet, &quote, complete, as_sent);
    sluice_wire::rewrite(bytes, &lane.packet, complete, &addresses);
    Ok(())
}

impl Engine {
    /// The flow that an error from a peer's gateway is about.
    ///
    /// Its quote names the receiver by NsIP only, and there is no map from those, for good reason. So the instances that the
    /// tables place on that very node under that NsIP are tried. This is a search, therefore limited per outer source.
    pub(crate) fn find_for_gateway(
        &mut self,
        frame: &Frame,
        lane: &Lane,
        outer: Endpoint,
        turn: &Turn<'_>,
    ) -> Step<Flow> {
        let is_peer = !turn.tables.peers_at(outer.ip).is_empty();
        if !is_peer || !self.searches.allows(limit_key(outer.ip), turn.now) {
            return drop_as(DropReason::IcmpUnmatched);
        }
        let quote = lane.quote(frame.bytes())?;
        let key = quote.flow_key().reversed();
        let flows = &self.shared.flows;
        let found = placed_at(turn.tables, outer, NsIp::new(quote.dst)).find_map(|ip| {
            let reverse = FlowKey {
                src: ip,
                dst: lane.packet.dst,
                ..key
            };
            flows.find_reverse(&reverse).ok().flatten()
        });
        found.ok_or(crate::batch::Stop::Drop(DropReason::IcmpUnmatched))
    }

    /// Tells control when the error says that the flow's instance is not there. An error about a port says that it is, and a
    /// policy says nothing about it.
    pub(crate) fn suspect_unreachable(&mut self, lane: &Lane, flow: &Flow, turn: &Turn<'_>) {
        if lane.kind != Kind::Error {
            return;
        }
        let Some(IcmpKind::Error(IcmpError::Unreachable { code })) = lane.packet.icmp else {
            return;
        };
        // RFC 792: protocol, port; RFC 1122 section 3.2.2.1 and RFC 1812 section 5.2.7.1: prohibited. RFC 4443 section 3.1:
        // prohibited, port, and the two that a host's own policy sends.
        let instance_answered = match lane.packet.family {
            Family::V4 => matches!(code, 2 | 3 | 9 | 10 | 13),
            Family::V6 => matches!(code, 1 | 4..=6),
        };
        if !instance_answered {
            self.suspect(flow.remote, Suspicion::Unreachable, turn);
        }
    }

    /// Tells control about an instance, once a second.
    pub(crate) fn suspect(&mut self, instance: crate::flow::Pin, why: Suspicion, turn: &Turn<'_>) {
        use sluice_tables::slots::Slot;
        let key = u128::from(instance.slot.index()) << 2 | (why == Suspicion::Elsewhere) as u128;
        if self.suspicions.allows(key, turn.now) {
            self.counters.suspicions.add(1);
            self.tell(Upcall::Suspect {
                instance: instance.slot,
                epoch: instance.epoch,
                why,
            });
        }
    }
}

/// Whether an inbound packet is from some node's gateway rather than from an instance.
pub(crate) fn is_from_gateway(packet: &Parsed, tables: &Tables) -> bool {
    tables.plan.class(packet.src) == Class::Node
}

/// The InstanceIPs of the instances that the tables place on a node at that address under that NsIP.
fn placed_at(
    tables: &Tables,
    outer: Endpoint,
    ns_ip: NsIp,
) -> impl Iterator<Item = sluice_wire::Ip> {
    let family = ns_ip.ip().family();
    tables.instances().filter_map(move |(_, row)| {
        let Placement::Peer(peer) = row.placement else {
            return None;
        };
        let here = row.ns_ip.of(family) == Some(ns_ip)
            && tables.peer(peer).is_some_and(|peer| peer.ip == outer.ip);
        let ip = row.instance_ip.of(family)?;
        here.then_some(ip.ip())
    })
}
