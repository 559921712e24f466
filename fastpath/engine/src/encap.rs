//! Into the tunnel: the outer destination, and the pieces of what does not fit whole.

use crate::batch::{Step, Stop, Turn};
use crate::engine::Engine;
use crate::locate::Location;
use crate::outbound::Exit;
use crate::trace::Decision;
use sluice_memory::{Endpoint, Frame};
use sluice_tables::PeerSlot;
use sluice_tunnel::plain;

impl Engine {
    #[inline(always)]
    pub(crate) fn encap(
        &mut self,
        frame: &mut Frame,
        location: &Location<'_>,
        turn: &Turn<'_>,
    ) -> Step<Exit> {
        let Some((slot, peer)) = location.peer else {
            frame.outer = None;
            self.note(frame, Decision::Beside);
            return Ok(Exit::Beside);
        };
        plain::seal(frame.bytes()).map_err(Stop::Drop)?;
        self.use_tunnel(slot, peer.epoch, turn);
        let outer = Endpoint {
            ip: peer.ip,
            port: peer.port,
        };
        frame.outer = Some(outer);
        self.note(frame, Decision::Tunnelled(outer));
        if frame.gso.is_none() && frame.len() > usize::from(peer.mtu) {
            return Ok(Exit::Pieces { mtu: peer.mtu });
        }
        Ok(Exit::Tunnel)
    }

    /// Notes a packet to the peer of that slot and epoch.
    #[inline(always)]
    pub(crate) fn use_tunnel(&mut self, slot: PeerSlot, epoch: u32, turn: &Turn<'_>) {
        let flows = &self.shared.flows;
        self.tunnels
            .touch(slot, epoch, turn.now_s, |peer| flows.live_of_peer(peer));
    }
}
