//! Nodes that want a session before any row places an instance there: for a while they are peers.

use super::Routes;
use sluice_proto::message::NodeKey;
use sluice_tables::{PeerSlot, TunnelFormat};
use sluice_wire::Ip;
use std::collections::BTreeMap;
use std::time::Duration;

/// For so long: its first packet makes this node ask for the instance that sent it, whose row then says that it is there.
const GUEST_LASTS: Duration = Duration::from_secs(60);

/// More are not taken in at once; each was vouched for by the managers.
const GUESTS_MAX: usize = 1_024;

/// Until when each is one.
pub(super) type Guests = BTreeMap<PeerSlot, Duration>;

impl Routes {
    /// The managers say that the node with this key is at this address. True when the tables changed.
    pub fn introduce(&mut self, key: NodeKey, host: Ip, port: u16, now: Duration) -> bool {
        let Some(format @ TunnelFormat::WireGuard { .. }) = self.format(Some(key), host, port)
        else {
            return false;
        };
        if self.own == Some((host, port)) || self.guests.len() >= GUESTS_MAX {
            return false;
        }
        let mtu = (self.peer_mtu)(host, port, format);
        let peer = self.writer.upsert_peer(host, port, format, mtu);
        if self.guests.insert(peer, now + GUEST_LASTS).is_none() {
            *self.peers.entry(peer).or_default() += 1;
        }
        true
    }

    pub(super) fn guests_due(&self) -> Option<Duration> {
        self.guests.values().min().copied()
    }

    /// Ends those whose time is over. True when the tables changed.
    pub(super) fn end_guests(&mut self, now: Duration) -> bool {
        let is_over = |(&peer, &until): (&PeerSlot, &Duration)| (until <= now).then_some(peer);
        let over: Vec<PeerSlot> = self.guests.iter().filter_map(is_over).collect();
        for &peer in &over {
            self.guests.remove(&peer);
            self.release_peer(peer);
        }
        !over.is_empty()
    }
}
