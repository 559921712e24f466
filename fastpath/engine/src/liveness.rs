//! What tells that a node lives: packets that come from it, and the echo that every gateway answers through the tunnel.

use crate::admit::Sender;
use crate::batch::{Kind, Lane, Step, Stop, Turn, drop_as};
use crate::engine::{Engine, limit_key};
use sluice_memory::{Batch, Frame};
use sluice_tables::slots::Slot;
use sluice_tables::{InstanceState, Tables, Upcall};
use sluice_wire::{Class, DropReason, Fragment, IcmpKind, checksum, icmp_echo};

/// Notes the nodes that a batch came from. NAT may change a port; then all nodes at the address count as heard.
pub(crate) fn hear(batch: &Batch, tables: &Tables, now_ns: u64) {
    let mut last = None;
    for outer in batch.iter().filter_map(|frame| frame.outer) {
        // A search by address costs as much as a packet, and neighbours in a batch are often from one node.
        if last.replace(outer) == Some(outer) {
            continue;
        }
        let peers = || {
            let slots = tables.peers_at(outer.ip).iter();
            slots.filter_map(|&slot| tables.peer(slot))
        };
        let knows_port = peers().any(|peer| peer.port == outer.port);
        for peer in peers().filter(|peer| !knows_port || peer.port == outer.port) {
            peer.heard.note(now_ns);
        }
    }
}

/// An echo request from another gateway to this one's own address, through the tunnel.
pub(crate) fn is_for_gateway(frame: &Frame, lane: &Lane, tables: &Tables) -> bool {
    let packet = &lane.packet;
    packet.icmp == Some(IcmpKind::EchoRequest)
        && lane.kind == Kind::Own
        && packet.fragment == Fragment::Whole
        && frame.outer.is_some()
        && tables.gateway(packet.family) == Some(packet.dst)
        && tables.plan.class(packet.src) == Class::Node
}

impl Engine {
    /// Tells control that an instance it suspects speaks, once a second. Errors may be somebody else's about it.
    pub(crate) fn hear_suspect(&mut self, lane: &Lane, sender: &Sender<'_>, turn: &Turn<'_>) {
        if sender.row.state != InstanceState::Suspect || lane.kind != Kind::Own {
            return;
        }
        let instance = sender.slot;
        // The low bits tell this apart from suspicions about the same instance.
        if self
            .suspicions
            .allows(u128::from(instance.index()) << 2 | 3, turn.now)
        {
            self.tell(Upcall::Heard { instance });
        }
    }

    /// Sends an echo request back to where it came from, as its reply. Nodes that are not known are answered, too: who
    /// calls us need not be one that we call. Limited per address.
    pub(crate) fn answer_echo(
        &mut self,
        frame: &mut Frame,
        lane: &Lane,
        turn: &Turn<'_>,
    ) -> Step<()> {
        let Some(outer) = frame.outer else {
            return drop_as(DropReason::SourceNotLocal);
        };
        if !checksum::verify_l4(frame.bytes(), &lane.packet) {
            return drop_as(DropReason::BadChecksum);
        }
        if !self.errors.allows(limit_key(outer.ip), turn.now)
            || !icmp_echo::turn_round(frame.bytes_mut(), &lane.packet)
        {
            return drop_as(DropReason::SourceLimit);
        }
        Err(Stop::Back(outer))
    }
}
