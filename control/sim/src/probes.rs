//! How a simulated gateway finds out that another one is gone: the real prober, with datagrams in place of sockets.

use crate::node::Node;
use crate::plane::{Left, Plane, TUNNEL_PORT};
use sluice_memory::Endpoint;
use sluice_proto::liveness::{Event, NodeAddress};
use sluice_wire::{Dual, Family, Ip, icmp_echo};
use std::time::Duration;

/// How often it is looked at which nodes are in use.
const LOOK: Duration = Duration::from_millis(250);
/// In every probe.
const IDENTIFIER: u16 = 0x51;

/// How a gateway learns that delivery fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Failover {
    /// Not at all: callers stay with whom they chose, and new flows go anywhere.
    Off,
    /// By ICMP errors alone.
    Reported,
    /// Also by probes, as gateways do.
    Probed,
}

impl Node {
    /// When [`Node::probe`] is next due.
    pub(crate) fn poll_probes(&self) -> Option<Duration> {
        if self.failover != Failover::Probed {
            return None;
        }
        let due = self.prober.poll_timeout().map(Plane::of_clock);
        due.into_iter().chain([self.look_at]).min()
    }

    /// Looks who is in use, judges, and gives the probes that are due.
    pub(crate) fn probe(&mut self, now: Duration) -> Vec<Left> {
        if self.poll_probes().is_none_or(|due| due > now) {
            return Vec::new();
        }
        let clock = Plane::clock(now);
        if self.look_at <= now {
            self.look_at = now + LOOK;
            let nodes = self.plane.routes.nodes_in_use(Plane::used_since_s(now));
            for node in nodes {
                self.prober
                    .handle_used(node.address, node.answers_probes, clock);
                self.gateways.insert(node.address, node.gateway);
            }
            let routes = &self.plane.routes;
            self.prober.retain(|node| routes.is_node(*node));
            for node in self.prober.lost_nodes().collect::<Vec<_>>() {
                self.routes_changed |= !self.plane.routes.set_lost(node, true).is_empty();
            }
        }
        let routes = &self.plane.routes;
        self.prober
            .handle_timeout(clock, |node| routes.heard(*node));
        let own = self.plane.routes.tables().gateway;
        let mut left = Vec::new();
        while let Some(probe) = self.prober.poll_transmit() {
            let to = self.gateways.get(&probe.node).copied();
            left.extend(to.and_then(|to| request(probe.node, own, to, probe.sequence)));
        }
        self.take_prober_events(now);
        left
    }

    /// Whether the datagram of `from` is an answer to a probe; it ends here then.
    pub(crate) fn take_answer(&mut self, from: Ip, bytes: &[u8], now: Duration) -> bool {
        match icmp_echo::reply(bytes) {
            Some((IDENTIFIER, sequence)) => {
                self.prober
                    .handle_answer((from, TUNNEL_PORT), sequence, Plane::clock(now));
                self.take_prober_events(now);
                true
            }
            _ => false,
        }
    }

    /// The kernel of the node at `from` says that nobody listens.
    pub(crate) fn handle_refused(&mut self, from: Ip, now: Duration) {
        self.prober
            .handle_refused((from, TUNNEL_PORT), Plane::clock(now));
        self.take_prober_events(now);
    }

    fn take_prober_events(&mut self, now: Duration) {
        while let Some(event) = self.prober.poll_event() {
            let (node, lost) = match event {
                Event::Lost { node, .. } => (node, true),
                Event::Found { node } => (node, false),
            };
            let jobs = self.plane.routes.set_lost(node, lost);
            self.routes_changed |= !jobs.is_empty();
            for job in jobs.iter().filter(|_| lost) {
                let suspects = self.plane.routes.suspects_of(job);
                self.asker.handle_failure(job, suspects, now);
            }
        }
    }
}

/// A probe of `node`, from our gateway's own address to that node's.
fn request(node: NodeAddress, own: Dual<Ip>, to: Dual<Ip>, sequence: u16) -> Option<Left> {
    let mut bytes = [0; icmp_echo::REQUEST_LEN_MAX];
    let len = [Family::V4, Family::V6].into_iter().find_map(|family| {
        let (own, to) = (own.of(family)?, to.of(family)?);
        icmp_echo::request(own, to, IDENTIFIER, sequence, &mut bytes)
    })?;
    let (ip, port) = node;
    Some(Left::Tunnel(
        Endpoint { ip, port },
        bytes.get(..len)?.to_vec(),
    ))
}
