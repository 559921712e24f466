//! Out: packets to a session's address are sealed and get the outer address of the peer. A super-frame becomes runs of datagrams.

use super::shared::{OutgoingSession, Published};
use super::{Surroundings, Tunnel, time};
use arrayvec::ArrayVec;
use sluice_link::{Link, Pieces, complete_checksum};
use sluice_memory::{Checksum, Frame, HEADROOM, Train};
use sluice_tables::{PeerSlot, Tables, session_of};
use sluice_tunnel::session::{self, SealError, Sealed};
use sluice_wire::DropReason;
use std::sync::Arc;

/// Datagrams in one run, and their bytes: what one send with UDP_SEGMENT takes everywhere (64 segments, an IPv4 packet).
const RUN_MAX: usize = 64;
const RUN_BYTES_MAX: usize = 65_507;

/// Room that sealing adds to a packet at most.
const OVERHEAD_MAX: usize = session::HEADROOM + session::TAILROOM;

/// What became of a frame that was to be sealed.
enum Outcome {
    /// It leaves; the session may be due for renewal.
    Sealed { rekey_due: bool },
    /// There is no session that can be used: nothing was done.
    NoSession(Frame),
}

impl Tunnel {
    /// Sends all `frames`, those to sessions sealed, and leaves it empty. What has no session yet is held.
    pub(crate) fn transmit<U: Link, const N: usize>(
        &mut self,
        frames: &mut ArrayVec<Frame, N>,
        around: &mut Surroundings<'_, U>,
    ) {
        if !frames.iter().any(is_to_session) {
            around.transmit(frames);
            return;
        }
        let sessions = Arc::clone(self.sessions.load());
        for frame in frames.drain(..) {
            match frame.outer.and_then(|outer| session_of(outer.ip)) {
                Some((peer, epoch)) => self.send(peer, epoch, frame, &sessions, around),
                None => self.push(frame, around),
            }
        }
        around.transmit(&mut self.sealed);
    }

    /// Sends held packets to peers that have a session now.
    pub(super) fn send_held<U: Link>(
        &mut self,
        sessions: &Published,
        around: &mut Surroundings<'_, U>,
    ) {
        let is_ready = |peer, epoch| {
            let outgoing = sessions.outgoing(peer, epoch);
            outgoing.is_some_and(|outgoing| !outgoing.session.ended(time(around.now)))
        };
        let mut ready = Vec::new();
        while let Some(held) = self.waiting.take(is_ready) {
            ready.push(held);
        }
        for (peer, epoch, frame) in ready {
            around.accounts.engine.held.sub(1);
            self.send(peer, epoch, frame, sessions, around);
        }
        around.transmit(&mut self.sealed);
    }

    /// Seals one frame, or holds it.
    fn send<U: Link>(
        &mut self,
        peer: PeerSlot,
        epoch: u32,
        frame: Frame,
        sessions: &Published,
        around: &mut Surroundings<'_, U>,
    ) {
        let outcome = match sessions.outgoing(peer, epoch) {
            Some(outgoing) => self.seal(frame, outgoing, mtu_of(peer, around.tables), around),
            None => Outcome::NoSession(frame),
        };
        match outcome {
            Outcome::Sealed { rekey_due: false } => {}
            Outcome::Sealed { rekey_due: true } => self.request(peer, around.now),
            Outcome::NoSession(frame) => {
                match self.waiting.push(peer, epoch, frame, around.now) {
                    Ok(()) => around.accounts.engine.held.add(1),
                    Err(frame) => around.drop_frame(frame, DropReason::PeerSilent),
                }
                self.request(peer, around.now);
            }
        }
    }

    fn seal<U: Link>(
        &mut self,
        mut frame: Frame,
        outgoing: &OutgoingSession,
        mtu: usize,
        around: &mut Surroundings<'_, U>,
    ) -> Outcome {
        if frame.gso.is_some() {
            return self.seal_pieces(frame, outgoing, mtu, around);
        }
        if let Err(reason) = complete_checksum(&mut frame) {
            around.drop_frame(frame, reason);
            return Outcome::Sealed { rekey_due: false };
        }
        frame.class = self.dscp.class_of(frame.bytes());
        match seal_whole(&mut frame, outgoing, mtu, around.now) {
            Ok(Sealed { rekey_due, .. }) => {
                frame.outer = Some(outgoing.to);
                self.push(frame, around);
                Outcome::Sealed { rekey_due }
            }
            Err(SealError::Ended) => Outcome::NoSession(frame),
            Err(SealError::NoRoom { .. }) => {
                around.drop_frame(frame, DropReason::TooBig);
                Outcome::Sealed { rekey_due: false }
            }
        }
    }

    /// Cuts a super-frame into packets and seals each, into as few frames as the link sends at once.
    fn seal_pieces<U: Link>(
        &mut self,
        frame: Frame,
        outgoing: &OutgoingSession,
        mtu: usize,
        around: &mut Surroundings<'_, U>,
    ) -> Outcome {
        if outgoing.session.ended(time(around.now)) {
            return Outcome::NoSession(frame);
        }
        let mut rekey_due = false;
        let result = Pieces::of(&frame).map(|pieces| {
            let mut next = 0;
            while next < pieces.len() {
                if next > 0 {
                    around.accounts.engine.split.add(1);
                }
                match self.seal_run(&frame, &pieces, &mut next, outgoing, mtu, around) {
                    Ok(is_due) => rekey_due |= is_due,
                    Err(reason) => {
                        // The rest of them.
                        around.accounts.engine.drop_frame(reason);
                        break;
                    }
                }
            }
        });
        match result {
            Ok(()) => around.pool.release(frame.into_buffer()),
            Err(reason) => around.drop_frame(frame, reason),
        }
        Outcome::Sealed { rekey_due }
    }

    /// Seals pieces from `next` on, as many as go into one frame. True when the session is due for renewal.
    fn seal_run<U: Link>(
        &mut self,
        frame: &Frame,
        pieces: &Pieces<'_>,
        next: &mut usize,
        outgoing: &OutgoingSession,
        mtu: usize,
        around: &mut Surroundings<'_, U>,
    ) -> Result<bool, DropReason> {
        let most = if around.underlay.takes_runs() {
            RUN_MAX
        } else {
            1
        };
        let mut run = Frame::new(around.pool.take().ok_or(DropReason::PoolEmpty)?);
        let result = fill_run(&mut run, pieces, next, most, |buffer, len| {
            outgoing.session.seal(buffer, len, mtu, time(around.now))
        });
        match result {
            Ok(rekey_due) => {
                run.outer = Some(outgoing.to);
                run.trace = frame.trace;
                // All pieces have the header of the whole.
                run.class = self.dscp.class_of(frame.bytes());
                self.push(run, around);
                Ok(rekey_due)
            }
            Err(reason) => {
                around.pool.release(run.into_buffer());
                Err(reason)
            }
        }
    }

    /// To the link, when enough have come together.
    fn push<U: Link>(&mut self, frame: Frame, around: &mut Surroundings<'_, U>) {
        if self.sealed.is_full() {
            around.transmit(&mut self.sealed);
        }
        self.sealed.push(frame);
    }
}

fn is_to_session(frame: &Frame) -> bool {
    frame
        .outer
        .is_some_and(|outer| session_of(outer.ip).is_some())
}

/// The longest packet that the peer takes: no packet is filled up beyond it.
fn mtu_of(peer: PeerSlot, tables: &Tables) -> usize {
    tables.peer_route(peer).map_or(0, |route| route.mtu.into())
}

fn seal_whole(
    frame: &mut Frame,
    outgoing: &OutgoingSession,
    mtu: usize,
    now: sluice_engine::Now,
) -> Result<Sealed, SealError> {
    let (start, len) = (frame.headroom(), frame.len());
    let no_room = SealError::NoRoom {
        packet_len: len,
        buffer_len: frame.buffer_mut().len(),
    };
    let at = start.checked_sub(session::HEADROOM).ok_or(no_room)?;
    let buffer = frame.buffer_mut().get_mut(at..).ok_or(no_room)?;
    let sealed = outgoing.session.seal(buffer, len, mtu, time(now))?;
    frame.set_range(at, sealed.len);
    frame.checksum = Checksum::Unknown;
    Ok(sealed)
}

/// Writes pieces from `next` on into the empty `run`, sealed, one datagram after the other, at most `most`.
fn fill_run(
    run: &mut Frame,
    pieces: &Pieces<'_>,
    next: &mut usize,
    most: usize,
    seal: impl Fn(&mut [u8], usize) -> Result<Sealed, SealError>,
) -> Result<bool, DropReason> {
    let header_len = pieces.header_len();
    let end = run.buffer_mut().len().min(HEADROOM + RUN_BYTES_MAX);
    let (mut at, mut count, mut stride, mut rekey_due) = (HEADROOM, 0, 0, false);
    while *next < pieces.len() && count < most {
        let payload = pieces.payload(*next);
        let len = header_len + payload.len();
        if at + len + OVERHEAD_MAX > end {
            break;
        }
        let buffer = &mut run.buffer_mut()[at..end];
        let (header, rest) = buffer[session::HEADROOM..].split_at_mut(header_len);
        pieces.header(*next, header)?;
        rest[..payload.len()].copy_from_slice(payload);
        let sealed = seal(buffer, len).map_err(|_| DropReason::PeerSilent)?;
        if count == 0 {
            stride = sealed.len;
        }
        rekey_due |= sealed.rekey_due;
        at += sealed.len;
        count += 1;
        *next += 1;
    }
    if count == 0 {
        return Err(DropReason::TooBig);
    }
    run.set_range(HEADROOM, at - HEADROOM);
    if count > 1 {
        run.train = u16::try_from(stride).ok().map(|stride| Train {
            stride,
            header_len: 0,
        });
    }
    Ok(rekey_due)
}
