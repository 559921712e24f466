//! Into the tunnel: the outer destination, and the pieces of what does not fit whole.

use crate::batch::{Step, Stop, Turn};
use crate::engine::Engine;
use crate::locate::{Location, Place};
use crate::outbound::Exit;
use crate::trace::Decision;
use sluice_memory::Frame;
use sluice_tunnel::plain;

impl Engine {
    #[inline(always)]
    pub(crate) fn encap(
        &mut self,
        frame: &mut Frame,
        location: &Location,
        turn: &Turn<'_>,
    ) -> Step<Exit> {
        match location.place {
            Place::Beside => {
                frame.outer = None;
                self.note(frame, Decision::Beside);
                Ok(Exit::Beside)
            }
            Place::Peer {
                peer,
                epoch,
                outer,
                mtu,
            } => {
                plain::seal(frame.bytes()).map_err(Stop::Drop)?;
                let flows = &self.shared.flows;
                self.tunnels
                    .touch(peer, epoch, turn.now_s, |peer| flows.live_of_peer(peer));
                frame.outer = Some(outer);
                self.note(frame, Decision::Tunnelled(outer));
                if frame.gso.is_none() && frame.len() > usize::from(mtu) {
                    return Ok(Exit::Pieces { mtu });
                }
                Ok(Exit::Tunnel)
            }
        }
    }
}
