//! Does the node that sent this own its inner source? And the entry that fixes the reply to a first-time caller.

use crate::batch::{Answer, Kind, Lane, Step, Stop, Turn, drop_as};
use crate::engine::{Engine, limit_key};
use crate::flow::{self, Flow, Inserted, Pin, State};
use crate::policy::{self, Verdict};
use crate::trace::Decision;
use crate::{icmp, relay, select};
use sluice_memory::{Endpoint, Frame};
use sluice_tables::{
    Instance, InstanceSlot, Known, Placement, Question, Suspicion, Tables, Target,
};
use sluice_wire::icmp_error::Unreachable;
use sluice_wire::tcp_flag::{ACK, RST, SYN};
use sluice_wire::{Class, DropReason, FlowKey, IcmpKind, InstanceIp, Ip, NsIp, Parsed, Protocol};

/// Apparent source ports tried when a local instance's own flow has the pair already.
const PORT_TRIES: usize = 64;

/// An admitted sender.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<'a> {
    pub(crate) slot: InstanceSlot,
    pub(crate) row: &'a Instance,
}

impl Engine {
    /// The live flow of a packet from a remote instance; `None` when a first-time caller's may begin.
    pub(crate) fn known_inbound(
        &mut self,
        frame: &Frame,
        lane: &Lane,
        turn: &Turn<'_>,
    ) -> Step<Option<Flow>> {
        let from_gateway =
            lane.kind == Kind::Error && icmp::is_from_gateway(&lane.packet, turn.tables);
        let found = match frame.outer {
            Some(outer) if from_gateway => Some(self.find_for_gateway(frame, lane, outer, turn)?),
            _ => self.find(frame, lane, false, turn)?,
        };
        let Some(flow) = found else {
            return flow::missing(lane);
        };
        // Either end may be gone, or the slot used anew: then the packet is judged as if there had been no flow.
        if flow::local(&flow, turn.tables).is_none() || flow::remote(&flow, turn.tables).is_none() {
            self.end_stale(&flow, false, turn)?;
            return match lane.kind {
                Kind::Own => Ok(None),
                Kind::Error => drop_as(DropReason::IcmpUnmatched),
                Kind::Later | Kind::Unfit(_) => drop_as(DropReason::InstanceWithdrawn),
            };
        }
        // Not noted as a use before the sender is admitted.
        Ok(Some(flow))
    }

    /// Checks that the sender's node is the one that the tables name. The outer port does not matter: NAT changes it.
    pub(crate) fn admit<'a>(
        &mut self,
        frame: &Frame,
        lane: &Lane,
        known: Option<&Flow>,
        turn: &Turn<'a>,
    ) -> Step<Sender<'a>> {
        let tables = turn.tables;
        let sender = match known {
            Some(flow) => tables
                .instance_at(flow.remote.slot, flow.remote.epoch)
                .map(|row| Sender {
                    slot: flow.remote.slot,
                    row,
                })
                .ok_or(Stop::Drop(DropReason::InstanceWithdrawn))?,
            None => self.sender_of(lane, frame.outer, tables)?,
        };
        match (sender.row.placement, frame.outer) {
            (Placement::Local, None) => {}
            (Placement::Peer(peer), Some(outer))
                if tables.peer(peer).is_some_and(|peer| peer.ip == outer.ip) => {}
            (Placement::Peer(_), Some(outer)) if relay::vouches(lane, known, outer, tables) => {}
            (Placement::Nowhere, Some(outer)) => {
                return Err(Stop::Ask(Question::InnerSource {
                    source: lane.packet.src,
                    outer: outer.ip,
                }));
            }
            (Placement::Local, Some(_)) => {
                // Ours, and for somebody else: it came back. Ours and for us: somebody pretends.
                let for_us = tables.local(NsIp::new(lane.packet.dst)).is_some();
                return drop_as(if for_us {
                    DropReason::SourceForged
                } else {
                    DropReason::LoopDetected
                });
            }
            (Placement::Peer(_) | Placement::Nowhere, _) => {
                let pin = Pin {
                    slot: sender.slot,
                    epoch: sender.row.epoch,
                };
                self.suspect(pin, Suspicion::Elsewhere, turn);
                return drop_as(DropReason::SourceForged);
            }
        }
        self.note(frame, Decision::Admitted(sender.slot));
        Ok(sender)
    }

    /// The instance that an inner source address names.
    fn sender_of<'a>(
        &self,
        lane: &Lane,
        outer: Option<Endpoint>,
        tables: &'a Tables,
    ) -> Step<Sender<'a>> {
        let source = lane.packet.src;
        check_speaker(&lane.packet, outer, tables)?;
        match tables.semantic(source) {
            Some(Known::Target(Target::Instance(slot))) => tables
                .instance(slot)
                .map(|row| Sender { slot, row })
                .ok_or(Stop::Drop(DropReason::SourceForged)),
            // A ServiceIP never sends.
            Some(Known::Target(Target::Service { .. })) => drop_as(DropReason::SourceForged),
            Some(Known::Unavailable) => drop_as(DropReason::Unavailable),
            Some(Known::Absent) => drop_as(DropReason::Absent),
            None => match outer {
                Some(outer) => Err(Stop::Ask(Question::InnerSource {
                    source,
                    outer: outer.ip,
                })),
                None => drop_as(DropReason::SourceNotLocal),
            },
        }
    }

    /// The flow of an admitted packet: the known one goes on, or a first-time caller gets a passive one, which fixes the
    /// reply.
    pub(crate) fn accept(
        &mut self,
        frame: &Frame,
        lane: &Lane,
        known: Option<Flow>,
        sender: Sender<'_>,
        turn: &Turn<'_>,
    ) -> Step<Flow> {
        match known {
            Some(flow) if self.goes_on(frame, lane, &flow, false, turn) => Ok(flow),
            _ => self.accept_first(frame, lane, sender, turn),
        }
    }

    fn accept_first(
        &mut self,
        frame: &Frame,
        lane: &Lane,
        sender: Sender<'_>,
        turn: &Turn<'_>,
    ) -> Step<Flow> {
        let packet = &lane.packet;
        let Some(local) = turn.tables.local(NsIp::new(packet.dst)) else {
            // The sender's route is old: it is told so, and asks anew.
            let reason = DropReason::DestinationNotLocal;
            return Err(tell_sender(reason, Unreachable::Host, sender, lane, turn));
        };
        let Some(row) = turn.tables.instance(local) else {
            return drop_as(DropReason::DestinationNotLocal);
        };
        // A segment from the middle of a connection is taken up: after a restart of this gateway the caller's next
        // segment brings the connection back. What opens nothing and continues nothing is not.
        let answers = packet.tcp_flags & RST != 0 || packet.tcp_flags & (SYN | ACK) == SYN | ACK;
        if packet.protocol == Protocol::Tcp && answers {
            return drop_as(DropReason::NoSuchConnection);
        }
        if packet.icmp == Some(IcmpKind::EchoReply) {
            return drop_as(DropReason::IcmpUnmatched);
        }
        let verdict = policy::may_accept(sender.row, row, turn.tables);
        if let Verdict::Awaited(service) = verdict {
            return Err(Stop::Ask(Question::Rules(service)));
        }
        if verdict == Verdict::Refused {
            let reason = DropReason::NotAllowed;
            return Err(tell_sender(
                reason,
                Unreachable::Prohibited,
                sender,
                lane,
                turn,
            ));
        }
        let new = Flow {
            forward: packet.flow_key().reversed(),
            remote_ip: InstanceIp::new(packet.src),
            wire_src_port: packet.dst_port,
            wire_dst_port: packet.src_port,
            local: Pin {
                slot: local,
                epoch: row.epoch,
            },
            remote: Pin {
                slot: sender.slot,
                epoch: sender.row.epoch,
            },
            service: None,
            peer: match sender.row.placement {
                Placement::Peer(peer) => Some(lane.relay.unwrap_or(peer)),
                Placement::Local | Placement::Nowhere => None,
            },
            created_s: turn.now_s,
            state: State::new(packet.protocol, true, turn.now_s).with_relayed(lane.relay.is_some()),
            index: 0,
        };
        let flow = self.enter_passive(new)?;
        if verdict == Verdict::Observed {
            self.observe(sender.slot, local, turn);
        }
        self.counters.begun_passive.add(1);
        flow::touch(&flow, turn);
        self.note(frame, Decision::Accepted(flow.index));
        Ok(flow)
    }

    /// Enters a passive flow. When the local instance has a flow of its own with that pair of addresses and ports, the
    /// caller appears under another port, so that replies can be told apart.
    fn enter_passive(&mut self, mut new: Flow) -> Step<Flow> {
        for _ in 0..PORT_TRIES {
            match self.shared.flows.insert(&new, self.random.next()) {
                Inserted::Created(flow) => return Ok(flow),
                Inserted::ReverseTaken => {
                    // Another worker saw a packet of the same flow at the same moment.
                    return match self.shared.flows.find_reverse(&new.reverse()) {
                        Ok(Some(flow)) => Ok(flow),
                        Ok(None) | Err(_) => drop_as(DropReason::FlowBusy),
                    };
                }
                Inserted::ForwardTaken => {
                    let port = self.random.port();
                    let is_echo = new.forward.protocol == Protocol::Icmp.key();
                    new.forward = FlowKey {
                        src_port: if is_echo { port } else { new.forward.src_port },
                        dst_port: port,
                        ..new.forward
                    };
                }
                other @ (Inserted::Full | Inserted::Quota | Inserted::Busy) => {
                    return drop_as(select::reason_of(other));
                }
            }
        }
        drop_as(DropReason::NoPortLeft)
    }

    /// Whether one more question about the inner sources of an outer address may be asked.
    pub(crate) fn may_ask(&mut self, question: Question, turn: &Turn<'_>) -> bool {
        match question {
            Question::Dialled(_) | Question::Rules(_) => true,
            Question::InnerSource { outer, .. } => {
                self.questions.allows(limit_key(outer), turn.now)
            }
        }
    }
}

/// Drops a packet of an admitted sender, which is told why, through the tunnel. One on this node has been told on the way out.
fn tell_sender(
    reason: DropReason,
    why: Unreachable,
    sender: Sender<'_>,
    lane: &Lane,
    turn: &Turn<'_>,
) -> Stop {
    match way_back(sender, lane, turn.tables) {
        Some((ns_ip, outer)) => Stop::Refuse(
            reason,
            Answer::Remote {
                ns_ip,
                outer,
                reason: why,
            },
        ),
        None => Stop::Drop(reason),
    }
}

/// The NsIP and the node of an admitted sender elsewhere.
pub(crate) fn way_back(sender: Sender<'_>, lane: &Lane, tables: &Tables) -> Option<(Ip, Endpoint)> {
    let Placement::Peer(peer) = sender.row.placement else {
        return None;
    };
    let ns_ip = sender.row.ns_ip.of(lane.packet.family)?;
    let peer = tables.peer(peer)?;
    let outer = Endpoint {
        ip: peer.ip,
        port: peer.port,
    };
    Some((ns_ip.ip(), outer))
}

/// Only instances speak, and gateways where they report an error.
pub(crate) fn check_speaker(packet: &Parsed, outer: Option<Endpoint>, tables: &Tables) -> Step<()> {
    let is_error = matches!(packet.icmp, Some(IcmpKind::Error(_)));
    match tables.plan.class(packet.src) {
        Class::Semantic => Ok(()),
        Class::Node if is_error => Ok(()),
        Class::Node | Class::Foreign => {
            let known = outer.is_some_and(|outer| !tables.peers_at(outer.ip).is_empty());
            drop_as(if known {
                DropReason::SourceForged
            } else {
                DropReason::PeerUnknown
            })
        }
    }
}
