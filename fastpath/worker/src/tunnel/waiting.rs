//! Packets held until there is a session with their peer: bounded, each peer for itself, and not for long.

use sluice_engine::Now;
use sluice_memory::Frame;
use sluice_tables::PeerSlot;
use std::collections::VecDeque;

/// Packets that one worker holds, and those of one peer among them: the first of a few connections.
const HELD_MAX: usize = 128;
const HELD_PER_PEER_MAX: usize = 32;

/// A handshake over any path takes less, with one repetition after 5 seconds; later its packets are of no use.
const HELD_MS: u64 = 7_000;

#[derive(Debug)]
struct Held {
    peer: PeerSlot,
    epoch: u32,
    since: Now,
    frame: Frame,
}

/// See the module. In order of arrival.
#[derive(Debug)]
pub(super) struct Waiting(VecDeque<Held>);

impl Waiting {
    pub(super) fn new() -> Self {
        Self(VecDeque::with_capacity(HELD_MAX))
    }

    /// Holds a packet; gives it back when too many wait.
    pub(super) fn push(
        &mut self,
        peer: PeerSlot,
        epoch: u32,
        frame: Frame,
        since: Now,
    ) -> Result<(), Frame> {
        let alike = self.0.iter().filter(|held| held.peer == peer).count();
        if self.0.len() >= HELD_MAX || alike >= HELD_PER_PEER_MAX {
            return Err(frame);
        }
        self.0.push_back(Held {
            peer,
            epoch,
            since,
            frame,
        });
        Ok(())
    }

    /// The first packet to a peer that is `ready`.
    pub(super) fn take(
        &mut self,
        ready: impl Fn(PeerSlot, u32) -> bool,
    ) -> Option<(PeerSlot, u32, Frame)> {
        let at = self
            .0
            .iter()
            .position(|held| ready(held.peer, held.epoch))?;
        let held = self.0.remove(at)?;
        Some((held.peer, held.epoch, held.frame))
    }

    pub(super) fn take_overdue(&mut self, now: Now) -> Option<Frame> {
        if self.poll_timeout()? > now {
            return None;
        }
        self.0.pop_front().map(|held| held.frame)
    }

    pub(super) fn poll_timeout(&self) -> Option<Now> {
        self.0.front().map(|held| held.since.plus_ms(HELD_MS))
    }
}
