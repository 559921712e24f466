//! One end of encrypted tunnels: all peers of one UDP port (a lane), as a value.
//!
//! The caller brings datagrams ([`Speaker::handle_datagram`]), packets to be sealed ([`Speaker::seal`]), time
//! ([`Speaker::handle_timeout`]) and random bytes, and takes away what is to be sent and told. Times are since an origin of the
//! caller's choice and never go back.
//!
//! Workers may do the packets' part themselves, without the speaker and at the same time: they keep the [`Sessions`] of its
//! peers by index, seal and open with them, and tell the speaker only what it must act on ([`Speaker::request`],
//! [`Speaker::handle_opened`]). Its timers see what they did.
//!
//! A speaker knows of no other lane: an initiation that was recorded on one can be played to another of the same node, once. It
//! makes a session there in which nothing ever comes, and moves no packets, but takes the place of one that was just agreed on.

use crate::address::Address;
use crate::cookie::{self, CookieSecret};
use crate::entropy::{Entropy, Fill};
use crate::key::{Identity, PublicKey};
use crate::key_log::{self, KeyLog};
use crate::lane::{Event, Lane, Transmit};
use crate::load::Load;
use crate::noise::message::TransportHeader;
use crate::noise::{CookieReply, Initiation, Kind, MacKeys, Responder, Response, mac};
use crate::peer::{Peer, PeerSettings, Sessions};
use crate::refusal::Refusal;
use crate::session::{Opened, SealError};
use crate::timers::REKEY_TIMEOUT;
use sluice_tables::PeerSlot;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Initiations of unknown keys that are kept. At the rate at which they are admitted, that is more than a second's.
const UNKNOWN_MAX: usize = 64;

/// How long such an initiation is kept: then its sender repeats it.
const UNKNOWN_LASTS: Duration = REKEY_TIMEOUT;

/// What a datagram held.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Received {
    /// Nothing to deliver: a handshake message, or a keepalive.
    Nothing,
    /// A packet of the peer's, [`crate::session::HEADROOM`] bytes into the datagram, with zeros behind it up to `len`: its own
    /// header says where it ends.
    Packet { peer: PeerSlot, len: usize },
}

/// A packet was sealed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Outgoing {
    pub to: Address,
    /// Length of the datagram, which begins where the buffer does.
    pub len: usize,
}

/// Why a packet could not be sealed for a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SendError {
    #[error("there is no such peer")]
    NoPeer,
    #[error("the peer's address is not known before it sends something")]
    NoAddress,
    /// A handshake is under way: hold the packet until [`Event::Established`] or [`Event::Unreachable`].
    #[error("there is no session with the peer yet")]
    NoSession,
    #[error(transparent)]
    Seal(SealError),
}

/// Why a peer could not be added.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AddError {
    #[error("the key {0} is this node's own; give each node a key of its own")]
    OwnKey(PublicKey),
    #[error("the key {0} belongs to another peer already; give each node a key of its own")]
    KeyInUse(PublicKey),
    #[error("{0} is no key with which a secret can be shared; make another one")]
    BadKey(PublicKey),
}

/// An initiation of somebody who is no peer, or not yet.
#[derive(Debug)]
struct UnknownInitiator {
    responder: Responder,
    from: Address,
    at: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Speaker {
    lane: Lane,
    macs: MacKeys,
    secret: CookieSecret,
    load: Load,
    peers: BTreeMap<PeerSlot, Peer>,
    by_key: BTreeMap<PublicKey, PeerSlot>,
    unknown: VecDeque<UnknownInitiator>,
    refused: [u64; Refusal::ALL.len()],
}

impl Speaker {
    /// `unix` is the time since 1970 at `now`; `fill` gives random bytes that nobody can predict.
    #[must_use]
    pub fn new(identity: Identity, fill: Fill, unix: Duration, now: Duration) -> Self {
        Self {
            macs: MacKeys::new(identity.public()),
            lane: Lane::new(identity, Entropy::new(fill), unix, now),
            secret: CookieSecret::default(),
            load: Load::new(),
            peers: BTreeMap::new(),
            by_key: BTreeMap::new(),
            unknown: VecDeque::new(),
            refused: [0; Refusal::ALL.len()],
        }
    }

    /// Tells the keys of every handshake from now on to `sink`: to read a capture with, see [`crate::key_log`].
    pub fn set_key_log(&mut self, sink: key_log::Sink) {
        self.lane.key_log = KeyLog::new(sink);
    }

    /// The wall clock was set. Initiations of a node whose clock was far ahead once are refused by those who heard it then.
    pub const fn set_wall_clock(&mut self, unix: Duration, now: Duration) {
        self.lane.set_wall_clock(unix, now);
    }

    /// Goes on as somebody else. Sessions stay what they are; peers that have one are asked for another at once, which shows them
    /// the new key. Who does not know it yet keeps the initiation until somebody tells.
    pub fn set_identity(&mut self, identity: Identity, now: Duration) {
        self.macs = MacKeys::new(identity.public());
        self.lane.identity = identity;
        // They are for the former key.
        self.unknown.clear();
        for peer in self.peers.values_mut() {
            peer.begin_anew(&mut self.lane, now);
        }
    }

    /// Adds a peer, in the place of what was in the slot. The same keys again keep their sessions, as does a node that has another
    /// public key now: for a while ([`crate::timers::FORMER_KEY_LASTS`]), and what is sent asks for a new one. An initiation of its
    /// key that waits is answered.
    ///
    /// # Errors
    /// [`AddError`]; then nothing changed.
    pub fn add(
        &mut self,
        peer: PeerSlot,
        settings: PeerSettings,
        now: Duration,
    ) -> Result<(), AddError> {
        let key = settings.key;
        if key == *self.lane.identity.public() {
            return Err(AddError::OwnKey(key));
        }
        if self.by_key.get(&key).is_some_and(|&owner| owner != peer) {
            return Err(AddError::KeyInUse(key));
        }
        if self.lane.identity.private().agree(&key).is_none() {
            return Err(AddError::BadKey(key));
        }
        if let Some(known) = self.peers.get_mut(&peer) {
            if known.update(&settings) {
                return Ok(());
            }
            self.by_key.remove(known.key());
            known.change_key(settings, &mut self.lane, now);
        } else {
            self.peers.insert(peer, Peer::new(peer, settings, now));
        }
        self.by_key.insert(key, peer);
        let waits = |unknown: &UnknownInitiator| *unknown.responder.initiator() == key;
        if let Some(at) = self.unknown.iter().position(waits)
            && let Some(unknown) = self.unknown.remove(at)
            && now.saturating_sub(unknown.at) < UNKNOWN_LASTS
        {
            let answered = self.handle_introduced(unknown.responder, unknown.from, now);
            self.count(&answered);
        } else if let Some(peer) = self.peers.get_mut(&peer) {
            peer.begin_anew(&mut self.lane, now);
        }
        Ok(())
    }

    /// Removes a peer with its sessions; workers that keep them must let go of them, too.
    pub fn remove(&mut self, peer: PeerSlot) {
        if let Some(removed) = self.peers.remove(&peer) {
            self.by_key.remove(removed.key());
            removed.remove(&mut self.lane);
        }
    }

    /// A peer's sessions; [`Event::SessionsChanged`] tells when they are others.
    #[must_use]
    pub fn sessions(&self, peer: PeerSlot) -> Option<&Sessions> {
        self.peers.get(&peer).map(|peer| &peer.sessions)
    }

    /// Where the peer's packets go.
    #[must_use]
    pub fn address(&self, peer: PeerSlot) -> Option<Address> {
        self.peers.get(&peer)?.address()
    }

    /// Datagrams refused for this reason so far.
    #[must_use]
    pub const fn refused(&self, refusal: Refusal) -> u64 {
        self.refused[refusal as usize]
    }

    /// Takes a datagram in the encrypted format; a packet is opened in place. Afterwards there may be something to send and to
    /// tell.
    ///
    /// # Errors
    /// Why it was refused; it is counted.
    pub fn handle_datagram(
        &mut self,
        datagram: &mut [u8],
        from: Address,
        now: Duration,
    ) -> Result<Received, Refusal> {
        let received = match Kind::of(datagram) {
            Ok(Kind::Transport) => self.handle_transport(datagram, from, now),
            Ok(Kind::Initiation) => self.handle_initiation(datagram, from, now),
            Ok(Kind::Response) => self.handle_response(datagram, from, now),
            Ok(Kind::CookieReply) => self.handle_cookie_reply(datagram, now),
            Err(refusal) => Err(refusal),
        };
        self.count(&received);
        received
    }

    /// Seals a packet in place, as [`crate::Session::seal`], or begins a handshake if there is no session.
    ///
    /// # Errors
    /// [`SendError`]; the packet is as it was then.
    pub fn seal(
        &mut self,
        peer: PeerSlot,
        buffer: &mut [u8],
        packet_len: usize,
        mtu: usize,
        now: Duration,
    ) -> Result<Outgoing, SendError> {
        let peer = self.peers.get_mut(&peer).ok_or(SendError::NoPeer)?;
        let to = peer.address().ok_or(SendError::NoAddress)?;
        let Some(session) = peer.sending(now) else {
            peer.request(&mut self.lane, now);
            return Err(SendError::NoSession);
        };
        let sealed = session
            .seal(buffer, packet_len, mtu, now)
            .map_err(SendError::Seal)?;
        if sealed.rekey_due {
            peer.request(&mut self.lane, now);
        }
        Ok(Outgoing {
            to,
            len: sealed.len,
        })
    }

    /// A worker has a packet for the peer and no session, or one whose renewal is due.
    pub fn request(&mut self, peer: PeerSlot, now: Duration) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.request(&mut self.lane, now);
        }
    }

    /// A worker opened a datagram with the session of this index. Need be told only if it was the session's first, if renewal is
    /// due, or if it came from elsewhere than [`Speaker::address`].
    pub fn handle_opened(&mut self, index: u32, opened: Opened, from: Address, now: Duration) {
        if let Some(peer) = self.lane.peer_of(index)
            && let Some(peer) = self.peers.get_mut(&peer)
        {
            peer.handle_opened(index, opened, from, &mut self.lane, now);
        }
    }

    /// The next datagram to be sent; there may be some after every call that takes `&mut self`.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.lane.transmits.pop_front()
    }

    /// What happened next; there may be something after every call that takes `&mut self`.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.lane.events.pop_front()
    }

    /// When [`Speaker::handle_timeout`] is to be called. Changes with every call that takes `&mut self`, and with every packet
    /// that a worker seals or opens: a shell with workers asks at least once a second.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let unknown = self
            .unknown
            .front()
            .map(|unknown| unknown.at + UNKNOWN_LASTS);
        let peers = self.peers.values().filter_map(Peer::poll_timeout);
        peers.chain(unknown).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.unknown
            .retain(|unknown| now.saturating_sub(unknown.at) < UNKNOWN_LASTS);
        for peer in self.peers.values_mut() {
            peer.handle_timeout(&mut self.lane, now);
        }
    }

    fn handle_transport(
        &mut self,
        datagram: &mut [u8],
        from: Address,
        now: Duration,
    ) -> Result<Received, Refusal> {
        let index = TransportHeader::parse(datagram)?.receiver;
        let slot = self.lane.peer_of(index).ok_or(Refusal::UnknownSession)?;
        let peer = self.peers.get_mut(&slot).ok_or(Refusal::UnknownSession)?;
        let session = peer
            .sessions
            .by_index(index)
            .ok_or(Refusal::UnknownSession)?;
        let opened = session.open(datagram, now)?;
        peer.handle_opened(index, opened, from, &mut self.lane, now);
        Ok(match opened.len {
            0 => Received::Nothing,
            len => Received::Packet { peer: slot, len },
        })
    }

    fn handle_initiation(
        &mut self,
        datagram: &[u8],
        from: Address,
        now: Duration,
    ) -> Result<Received, Refusal> {
        let initiation = Initiation::parse(datagram)?;
        self.admit(datagram, initiation.sender, from, now)?;
        if !self.load.admit_initiation(now) {
            return Err(Refusal::TooMany);
        }
        let responder = Responder::read(&self.lane.identity, &initiation)?;
        self.handle_introduced(responder, from, now)
    }

    /// An initiation whose author is known by key.
    fn handle_introduced(
        &mut self,
        responder: Responder,
        from: Address,
        now: Duration,
    ) -> Result<Received, Refusal> {
        let key = *responder.initiator();
        if let Some(peer) = self.by_key.get(&key)
            && let Some(peer) = self.peers.get_mut(peer)
        {
            peer.handle_initiation(responder, from, &mut self.lane, now)?;
            return Ok(Received::Nothing);
        }
        self.unknown
            .retain(|unknown| *unknown.responder.initiator() != key);
        if self.unknown.len() >= UNKNOWN_MAX {
            self.unknown.pop_front();
        }
        self.unknown.push_back(UnknownInitiator {
            responder,
            from,
            at: now,
        });
        self.lane.tell(Event::Unknown { key, from });
        Err(Refusal::UnknownInitiator)
    }

    fn handle_response(
        &mut self,
        datagram: &[u8],
        from: Address,
        now: Duration,
    ) -> Result<Received, Refusal> {
        let response = Response::parse(datagram)?;
        let slot = self.lane.peer_of(response.receiver);
        let waits = |peer: &PeerSlot| {
            let peer = self.peers.get(peer);
            peer.is_some_and(|peer| peer.awaits_response(response.receiver))
        };
        let slot = slot.filter(waits).ok_or(Refusal::UnknownSession)?;
        self.admit(datagram, response.sender, from, now)?;
        let peer = self.peers.get_mut(&slot).ok_or(Refusal::UnknownSession)?;
        peer.handle_response(&response, from, &mut self.lane, now)?;
        Ok(Received::Nothing)
    }

    fn handle_cookie_reply(&mut self, datagram: &[u8], now: Duration) -> Result<Received, Refusal> {
        let reply = CookieReply::parse(datagram)?;
        let slot = self
            .lane
            .peer_of(reply.receiver)
            .ok_or(Refusal::UnknownSession)?;
        let peer = self.peers.get_mut(&slot).ok_or(Refusal::UnknownSession)?;
        peer.handle_cookie_reply(&reply, now)?;
        Ok(Received::Nothing)
    }

    /// Whether a handshake message may cost a key agreement: it knows our key and, under load, comes from where it says. If
    /// only the latter is missing, it is answered by a cookie, in a message shorter than itself.
    fn admit(
        &mut self,
        datagram: &[u8],
        sender: u32,
        from: Address,
        now: Duration,
    ) -> Result<(), Refusal> {
        let mac1 = self.macs.mac1(datagram).ok_or(Refusal::WrongMac1)?;
        if !self.load.note(now) {
            return Ok(());
        }
        let cookie = self.secret.cookie(from, now, &mut self.lane.entropy);
        if !mac::has_mac2(datagram, &cookie) {
            let reply = cookie::reply(&self.macs, sender, &mac1, &cookie, &mut self.lane.entropy);
            self.lane.transmit(from, &reply.to_bytes());
            return Err(Refusal::CookieSent);
        }
        if !self.load.admit_source(from, now) {
            return Err(Refusal::TooMany);
        }
        Ok(())
    }

    const fn count(&mut self, received: &Result<Received, Refusal>) {
        if let Err(refusal) = received {
            self.refused[*refusal as usize] += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{PresharedKey, PrivateKey};
    use crate::testing;
    use sluice_tables::slots::Slot;
    use sluice_wire::Ip;

    #[test]
    fn names_of_sessions_that_are_gone_are_free_again() {
        let peer = PeerSlot::from_index(0);
        let keys = [[1; 32], [2; 32]].map(|bytes| PrivateKey::from_bytes(&bytes));
        let address = Address {
            ip: Ip::v4([192, 0, 2, 1]),
            port: 1,
        };
        let mut ends = [0, 1].map(|end: usize| {
            let identity = Identity::new(keys[end].clone());
            let fill = testing::fill(end as u64);
            let mut speaker = Speaker::new(identity, fill, Duration::ZERO, Duration::ZERO);
            let settings = PeerSettings {
                key: keys[1 - end].public(),
                preshared: PresharedKey::none(),
                address: Some(address),
                keepalive: None,
            };
            speaker.add(peer, settings, Duration::ZERO).unwrap();
            speaker
        });
        for round in 0..40 {
            let now = Duration::from_secs(10) * round;
            // One of them, the other, or both; and every third time an initiation is lost.
            for (end, speaker) in ends.iter_mut().enumerate() {
                if round as usize % 3 != end {
                    speaker.request(peer, now);
                }
                if round % 3 == 1 {
                    speaker.poll_transmit();
                }
            }
            loop {
                let carried = [0, 1].map(|end| ends[end].poll_transmit());
                if carried.iter().all(Option::is_none) {
                    break;
                }
                for (from, transmit) in carried.into_iter().enumerate() {
                    if let Some(transmit) = transmit {
                        let mut datagram = transmit.datagram().to_vec();
                        ends[1 - from]
                            .handle_datagram(&mut datagram, address, now)
                            .unwrap();
                    }
                }
            }
            for end in &mut ends {
                // What was lost is repeated, under another name, and lost again.
                end.handle_timeout(now + Duration::from_secs(6));
                while end.poll_transmit().is_some() {}
                let sessions = end.sessions(peer).unwrap().iter().count();
                let waiting = end.lane.indices() - sessions;
                assert!(waiting <= 1, "round {round}: names of {waiting} handshakes");
            }
        }
        for end in &mut ends {
            assert!(end.lane.indices() >= 4);
            end.remove(peer);
            assert_eq!(end.lane.indices(), 0);
        }
    }
}
