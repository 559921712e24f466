//! The way of nearly every packet: TCP or UDP of a flow that goes on, between instances that are where they should be.
//!
//! A batch is looked up in two passes, so that memory is waited for once: a glance at each packet asks for its line of
//! the index, and that line for the flow's entry. Then a packet is either sent on here, with what the stages would
//! decide, or not touched and left to them: whatever begins, ends, changes, is too big, looks wrong or is traced. A test
//! sends everything both ways (`tests/shortcut.rs`).

use crate::batch::Turn;
use crate::engine::Engine;
use crate::flow::{Hit, Lookups, Pin, Probe, Table};
use crate::outbound::Exit;
use crate::translate::is_complete;
use arrayvec::ArrayVec;
use sluice_memory::{BATCH_MAX, Batch, Endpoint, Frame, Gso};
use sluice_tables::{Placement, Route, Routed};
use sluice_wire::{Family, Glance, glance_at, glance_family};

/// A packet for which a glance was enough, and where its flow is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Glanced {
    glance: Glance,
    probe: Probe,
}

/// One per frame of a batch.
pub(crate) type Glances = ArrayVec<Option<Glanced>, BATCH_MAX>;

/// Glances at a whole batch, into the empty `glances`, and asks the caches for its flows.
#[inline(always)]
pub(crate) fn look_up(batch: &Batch, flows: &Table, outbound: bool, glances: &mut Glances) {
    let lookups = flows.lookups();
    for frame in batch {
        let bytes = frame.bytes();
        match glance_family(bytes) {
            Some(Family::V4) => glances.push(look_at::<u32>(bytes, &lookups, outbound)),
            Some(Family::V6) => glances.push(look_at::<[u64; 2]>(bytes, &lookups, outbound)),
            None => glances.push(None),
        }
    }
    for glanced in glances.iter_mut().flatten() {
        lookups.prefetch_entry(&mut glanced.probe, glanced.glance.family);
    }
}

#[inline(always)]
fn look_at<A: Routed>(bytes: &[u8], lookups: &Lookups<'_>, outbound: bool) -> Option<Glanced> {
    let glance = glance_at::<A>(bytes)?;
    if !outbound && !glance.verifies_ipv4_header(bytes) {
        return None;
    }
    let probe = lookups.prefetch_index(&glance.key, outbound);
    Some(Glanced { glance, probe })
}

impl Engine {
    /// Sends a packet of a local instance on; `None`, and nothing done, when the stages must decide.
    #[inline(always)]
    pub(crate) fn shortcut_outbound(
        &mut self,
        frame: &mut Frame,
        glanced: &Glanced,
        turn: &Turn<'_>,
    ) -> Option<Exit> {
        match glanced.glance.family {
            Family::V4 => self.send_on::<u32>(frame, glanced, turn),
            Family::V6 => self.send_on::<[u64; 2]>(frame, glanced, turn),
        }
    }

    #[inline(always)]
    fn send_on<A: Routed>(
        &mut self,
        frame: &mut Frame,
        glanced: &Glanced,
        turn: &Turn<'_>,
    ) -> Option<Exit> {
        let Glanced { glance, probe } = glanced;
        let hit = self.shared.flows.hit(probe, &glance.key, A::FAMILY, true)?;
        let ports = hit.wire_ports();
        let (local, remote) = ends::<A>(&hit, glance, frame, turn)?;
        let [src, _] = A::ends(&glance.key);
        if local.placement() != Placement::Local || local.ns_ip != src {
            return None;
        }
        let tunnel = match remote.placement() {
            Placement::Local => None,
            Placement::Peer(slot) => {
                let peer = turn.tables.peer_route(slot)?;
                if longest(frame) > usize::from(peer.mtu) {
                    return None;
                }
                Some((slot, peer))
            }
            Placement::Nowhere => return None,
        };
        self.see(&hit, frame, turn)?;
        let to = A::words(local.instance_ip, remote.ns_ip, ports.into());
        let complete = is_complete(frame);
        glance.rewrite::<A>(frame.bytes_mut(), complete, &to);
        let Some((slot, peer)) = tunnel else {
            frame.outer = None;
            return Some(Exit::Beside);
        };
        self.use_tunnel(slot, peer.epoch, turn);
        frame.outer = Some(Endpoint {
            ip: peer.ip,
            port: peer.port,
        });
        Some(Exit::Tunnel)
    }

    /// Delivers a packet for a local instance; `None`, and nothing done, when the stages must decide.
    #[inline(always)]
    pub(crate) fn shortcut_inbound(
        &mut self,
        frame: &mut Frame,
        glanced: &Glanced,
        turn: &Turn<'_>,
    ) -> Option<()> {
        match glanced.glance.family {
            Family::V4 => self.deliver::<u32>(frame, glanced, turn),
            Family::V6 => self.deliver::<[u64; 2]>(frame, glanced, turn),
        }
    }

    #[inline(always)]
    fn deliver<A: Routed>(
        &mut self,
        frame: &mut Frame,
        glanced: &Glanced,
        turn: &Turn<'_>,
    ) -> Option<()> {
        let Glanced { glance, probe } = glanced;
        let hit = self
            .shared
            .flows
            .hit(probe, &glance.key, A::FAMILY, false)?;
        let forward = hit.forward(A::FAMILY);
        let (local, remote) = ends::<A>(&hit, glance, frame, turn)?;
        let [_, dst] = A::ends(&glance.key);
        if local.placement() != Placement::Local || local.ns_ip != dst {
            return None;
        }
        // The sender's node is the one where the tables have the sender.
        match (remote.placement(), frame.outer) {
            (Placement::Local, None) => {}
            (Placement::Peer(slot), Some(outer))
                if turn.tables.peer_route(slot)?.ip == outer.ip => {}
            (Placement::Local | Placement::Peer(_) | Placement::Nowhere, _) => return None,
        }
        if longest(frame) > usize::from(self.shared.service_mtu.get()) {
            return None;
        }
        self.see(&hit, frame, turn)?;
        // What was dialled answers the port that dialled it.
        let [_, dialled] = A::ends(&forward);
        let ports = (forward[4] & 0xffff) << 16 | forward[4] >> 16 & 0xffff;
        let to = A::words(dialled, dst, ports);
        let complete = is_complete(frame);
        glance.rewrite::<A>(frame.bytes_mut(), complete, &to);
        frame.outer = None;
        Some(())
    }

    /// Notes once a second that the flow is used; `None` when it changed meanwhile, or may be worth being offloaded.
    #[inline(always)]
    fn see(&self, hit: &Hit<'_>, frame: &Frame, turn: &Turn<'_>) -> Option<()> {
        let is_seen = hit.is_seen(turn.now_s);
        if is_seen && frame.gso.is_none() && !turn.samples {
            return Some(());
        }
        if self.settings.offload && hit.may_be_offloaded() {
            return None;
        }
        if is_seen {
            return Some(());
        }
        see_now(*hit, turn)
    }
}

#[inline(never)]
fn see_now(hit: Hit<'_>, turn: &Turn<'_>) -> Option<()> {
    let (instances, service) = ([hit.local(), hit.remote()], hit.service());
    if !hit.see(turn.now_s) {
        return None;
    }
    for row in instances
        .into_iter()
        .filter_map(|pin| turn.tables.instance_at(pin.slot, pin.epoch))
    {
        row.used.touch(turn.now_s);
        row.busy.touch(turn.now_s);
    }
    if let Some(service) = service.and_then(|slot| turn.tables.service(slot)) {
        service.used.touch(turn.now_s);
    }
    Some(())
}

/// The bytes of the frame, or of the longest segment of a super-frame.
#[inline(always)]
fn longest(frame: &Frame) -> usize {
    frame.gso.as_ref().map_or(frame.len(), longest_segment)
}

/// Not inlined, so that it is jumped over: computing it for every frame costs more.
#[cold]
#[inline(never)]
fn longest_segment(gso: &Gso) -> usize {
    usize::from(gso.header_len) + usize::from(gso.segment_size)
}

/// The routes of both ends of a flow that goes on with this packet. To be called after all else is read from `hit`.
#[inline(always)]
fn ends<'a, A: Routed>(
    hit: &Hit<'_>,
    glance: &Glance,
    frame: &Frame,
    turn: &Turn<'a>,
) -> Option<(&'a Route<A>, &'a Route<A>)> {
    let (local, remote) = (hit.local(), hit.remote());
    if frame.trace != 0 || !hit.goes_on(glance.tcp_flags) || !hit.is_intact() {
        return None;
    }
    let route = |pin: Pin| {
        let route = turn.tables.route(pin.slot)?;
        (route.epoch == pin.epoch).then_some(route)
    };
    Some((route(local)?, route(remote)?))
}
