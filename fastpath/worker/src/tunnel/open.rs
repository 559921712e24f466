//! In: datagrams of the encrypted format are opened in place, and get the address of the session they came in as their outer one.

use super::shared::{Incoming, Note, Published};
use super::{Surroundings, Tunnel, time};
use sluice_link::Link;
use sluice_memory::{Batch, Checksum, Endpoint, Frame, Train};
use sluice_tables::{PeerSlot, session_address};
use sluice_tunnel::noise::message::{INITIATION_LEN, TransportHeader};
use sluice_tunnel::{Format, Refusal, session};
use sluice_wire::{DropReason, traffic_class};
use std::ops::Range;
use std::sync::Arc;

/// Packets of one peer and one length, one after the other in a buffer; the last may be shorter.
#[derive(Clone, Debug)]
pub(super) struct Group {
    peer: PeerSlot,
    epoch: u32,
    /// In the frame.
    at: Range<usize>,
    /// Bytes of every packet but the last.
    stride: usize,
    /// Nothing can follow.
    closed: bool,
}

/// What a datagram held.
enum Content {
    /// A packet, at that place in the datagram.
    Packet(PeerSlot, u32, Range<usize>),
    /// It was for the gateway itself.
    Taken,
}

/// Of one call.
struct Opening<'a> {
    sessions: &'a Published,
    /// What the keeper was told of last: once is enough.
    noted: Option<(u32, Endpoint)>,
}

/// Whether anything in `batch` is to be opened.
#[inline]
pub(crate) fn concerns_tunnel(batch: &Batch) -> bool {
    batch.iter().any(is_encrypted)
}

#[inline]
fn is_encrypted(frame: &Frame) -> bool {
    matches!(Format::of(frame.bytes()), Ok(Format::WireGuard { .. }))
}

impl Tunnel {
    /// Opens what came encrypted. Packets stay in `batch`, or go to the link first, to be joined: then true, and they come with
    /// the next [`Link::receive`].
    pub(crate) fn open<U: Link>(
        &mut self,
        batch: &mut Batch,
        around: &mut Surroundings<'_, U>,
    ) -> bool {
        let sessions = Arc::clone(self.sessions.load());
        let mut opening = Opening {
            sessions: &sessions,
            noted: None,
        };
        let mut went_back = false;
        for frame in std::mem::take(batch) {
            if is_encrypted(&frame) {
                went_back |= self.open_frame(frame, &mut opening, batch, around);
            } else {
                batch.push(frame);
            }
        }
        went_back
    }

    /// Opens all datagrams of a frame, and moves the packets together. True when any went back to the link.
    fn open_frame<U: Link>(
        &mut self,
        mut frame: Frame,
        opening: &mut Opening<'_>,
        batch: &mut Batch,
        around: &mut Surroundings<'_, U>,
    ) -> bool {
        let Some(from) = frame.outer else {
            around.drop_frame(frame, DropReason::NotAuthentic);
            return false;
        };
        let mut groups = std::mem::take(&mut self.groups);
        let stride = frame
            .train
            .take()
            .map_or(frame.len(), |train| train.stride.into());
        // What is inside goes on without it.
        let class = std::mem::take(&mut frame.class);
        let (mut at, mut end, mut outcomes) = (0, 0, 0_u64);
        while at < frame.len() {
            let bytes = frame.bytes_mut();
            let next = bytes.len().min(at + stride.max(1));
            match self.open_datagram(&mut bytes[at..next], (from, class), opening, around) {
                Ok(Content::Packet(peer, epoch, place)) => {
                    let len = place.len();
                    let place = at + place.start..at + place.end;
                    // The first stays where it is.
                    let to = if end == 0 { place.start } else { end };
                    if to != place.start {
                        bytes.copy_within(place, to);
                    }
                    end = to + len;
                    if !joins(groups.last_mut(), peer, epoch, len) {
                        groups.push(Group {
                            peer,
                            epoch,
                            at: to..end,
                            stride: len,
                            closed: false,
                        });
                        outcomes += 1;
                    }
                }
                Ok(Content::Taken) => {
                    around.accounts.engine.taken.add(1);
                    outcomes += 1;
                }
                Err(reason) => {
                    around.accounts.engine.drop_frame(reason);
                    outcomes += 1;
                }
            }
            at = next;
        }
        around.accounts.engine.split.add(outcomes.saturating_sub(1));
        let mut went_back = false;
        // The first stays in its buffer; others, which are rare, get their own.
        for group in groups.get(1..).unwrap_or_default() {
            let Some(buffer) = around.pool.take() else {
                around.accounts.engine.drop_frame(DropReason::PoolEmpty);
                continue;
            };
            let mut copy = Frame::new(buffer);
            copy.fill(&frame.bytes()[group.at.clone()]);
            around.accounts.engine.copied.add(1);
            went_back |= hand_on(copy, group, batch, around);
        }
        match groups.first() {
            Some(group) => {
                frame.set_range(frame.headroom() + group.at.start, group.at.len());
                went_back |= hand_on(frame, group, batch, around);
            }
            None => around.pool.release(frame.into_buffer()),
        }
        groups.clear();
        self.groups = groups;
        went_back
    }

    fn open_datagram<U: Link>(
        &mut self,
        datagram: &mut [u8],
        (from, class): (Endpoint, u8),
        opening: &mut Opening<'_>,
        around: &mut Surroundings<'_, U>,
    ) -> Result<Content, DropReason> {
        match Format::of(datagram)? {
            Format::WireGuard { message: 4 } => {}
            Format::WireGuard { .. } => return self.take_message(datagram, from, around),
            // In one run with datagrams that are.
            Format::Plain => return Err(DropReason::NotAuthentic),
        }
        let now = time(around.now);
        let index = TransportHeader::parse(datagram)
            .map_err(reason_of)?
            .receiver;
        let incoming: Option<&Incoming> = opening.sessions.incoming.get(&index);
        let Some(incoming) = incoming else {
            self.tell_stray(from, around.now);
            return Err(DropReason::NoSession);
        };
        let opened = incoming.session.open(datagram, now).map_err(reason_of)?;
        let is_news =
            opened.first || opened.rekey_due || incoming.is_next || incoming.from != Some(from);
        if is_news && opening.noted.replace((index, from)) != Some((index, from)) {
            // Without room it is said by a later packet.
            self.note(Note::Opened {
                index,
                opened,
                from,
            });
        }
        if opened.len == 0 {
            return Ok(Content::Taken);
        }
        let packet = datagram
            .get_mut(session::HEADROOM..session::HEADROOM + opened.len)
            .ok_or(DropReason::Malformed)?;
        let len = packet_len(packet).ok_or(DropReason::Malformed)?;
        traffic_class::decapsulate(class, packet)?;
        let place = session::HEADROOM..session::HEADROOM + len;
        Ok(Content::Packet(incoming.peer, incoming.epoch, place))
    }

    /// A handshake message: the keeper's.
    fn take_message<U: Link>(
        &mut self,
        datagram: &[u8],
        from: Endpoint,
        around: &mut Surroundings<'_, U>,
    ) -> Result<Content, DropReason> {
        if let Some(keeper) = &mut self.keeper {
            return keeper
                .take_message(datagram, from, around.tables, around.now)
                .map(|()| Content::Taken)
                .map_err(reason_of);
        }
        let mut bytes = [0; INITIATION_LEN];
        let place = bytes.get_mut(..datagram.len());
        place
            .ok_or(DropReason::NotAuthentic)?
            .copy_from_slice(datagram);
        let len = datagram.len();
        if self.note(Note::Message { bytes, len, from }) {
            Ok(Content::Taken)
        } else {
            Err(DropReason::HandshakeLimit)
        }
    }
}

/// Whether the packet continues the group, which then is longer.
fn joins(group: Option<&mut Group>, peer: PeerSlot, epoch: u32, len: usize) -> bool {
    let Some(group) = group else {
        return false;
    };
    if group.closed || (group.peer, group.epoch) != (peer, epoch) || len > group.stride {
        return false;
    }
    group.at.end += len;
    group.closed = len < group.stride;
    true
}

/// To the link, which joins packets, or where it does not, to the engine.
fn hand_on<U: Link>(
    mut frame: Frame,
    group: &Group,
    batch: &mut Batch,
    around: &mut Surroundings<'_, U>,
) -> bool {
    frame.checksum = Checksum::Unknown;
    frame.outer = Some(Endpoint {
        ip: session_address(group.peer, group.epoch),
        port: 0,
    });
    if group.stride < group.at.len() {
        frame.train = u16::try_from(group.stride).ok().map(|stride| Train {
            stride,
            header_len: 0,
        });
    }
    match around.underlay.take_opened(frame) {
        None => true,
        Some(frame) => {
            if batch.is_full() {
                around.drop_frame(frame, DropReason::LinkFull);
            } else {
                batch.push(frame);
            }
            false
        }
    }
}

/// The length of the IP packet at the front, as its header says.
fn packet_len(bytes: &[u8]) -> Option<usize> {
    let field = |at: usize| {
        let bytes = bytes.get(at..)?.first_chunk()?;
        Some(usize::from(u16::from_be_bytes(*bytes)))
    };
    let len = match bytes.first()? >> 4 {
        4 => field(2)?,
        6 => 40 + field(4)?,
        _ => return None,
    };
    (1..=bytes.len()).contains(&len).then_some(len)
}

/// Under which reason a refused datagram is counted.
pub(super) const fn reason_of(refusal: Refusal) -> DropReason {
    match refusal {
        Refusal::Malformed | Refusal::WrongMac1 | Refusal::Forged | Refusal::LowOrderKey => {
            DropReason::NotAuthentic
        }
        Refusal::UnknownSession | Refusal::SessionEnded => DropReason::NoSession,
        Refusal::Replayed | Refusal::TooOld | Refusal::OldInitiation => DropReason::Replayed,
        Refusal::CookieSent | Refusal::TooMany => DropReason::HandshakeLimit,
        Refusal::UnknownInitiator => DropReason::PeerUnknown,
    }
}
