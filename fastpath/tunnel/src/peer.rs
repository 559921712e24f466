//! One peer on one lane: its sessions, its handshake, and what its [timers](crate::timers) do.
//!
//! ```text
//!  we began:     request ─► initiate ─► response ──────────────────────────────► current ─► previous ─► older
//!  it began:                initiation ─► next ─► first packet in it ──────────► current
//! ```
//!
//! Packets are opened with any of them and sealed with the current one. The responder's new session waits as `next`: only a
//! packet in it shows that the initiation was not a recorded one, and that the initiator has the keys.

use crate::activity::Activity;
use crate::address::Address;
use crate::cookie::CookieJar;
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::lane::{Event, Lane};
use crate::noise::{
    CookieReply, Initiator, MacKeys, Responder, Response, Timestamp, TransportKeys,
};
use crate::refusal::Refusal;
use crate::session::{Opened, Session};
use crate::timers::{
    FORGET_AFTER_TIME, FORMER_KEY_LASTS, KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_ATTEMPT_TIME,
    REKEY_JITTER_MAX, REKEY_TIMEOUT,
};
use sluice_tables::PeerSlot;
use std::sync::Arc;
use std::time::Duration;

/// Initiations of one peer that are answered are at least so far apart.
const INITIATION_INTERVAL: Duration = Duration::from_millis(20);

/// What is to be known about a peer before.
#[derive(Clone, Debug)]
pub struct PeerSettings {
    pub key: PublicKey,
    pub preshared: PresharedKey,
    /// Where it is said to be; `None` if only it can begin. Authentic packets say better.
    pub address: Option<Address>,
    /// Sends an empty packet after each silence of this length, and keeps a session always.
    pub keepalive: Option<Duration>,
}

/// The sessions in which a peer's packets may come. Workers may keep them.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    /// What we answered, and nothing came in yet: not to be sent with.
    pub next: Option<Arc<Session>>,
    /// To be sent with.
    pub current: Option<Arc<Session>>,
    /// For packets that are late, the youngest first. When both sides begin at once, each sends with the session that it
    /// began: then there are two of this time and two of the time before, one of which is current.
    pub previous: [Option<Arc<Session>>; 3],
}

impl Sessions {
    /// All of them, the current one first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Session>> {
        let first = [&self.current, &self.next];
        first.into_iter().chain(&self.previous).flatten()
    }

    /// The session of a receiver index.
    #[must_use]
    pub fn by_index(&self, index: u32) -> Option<&Arc<Session>> {
        self.iter().find(|session| session.local_index() == index)
    }

    /// Makes another one current.
    fn replace_current(&mut self, session: Arc<Session>, lane: &mut Lane) {
        if let Some(was) = self.current.replace(session) {
            self.retire(was, lane);
        }
    }

    /// Keeps a session for packets that are late; the oldest of those goes.
    fn retire(&mut self, session: Arc<Session>, lane: &mut Lane) {
        self.previous.rotate_right(1);
        free(self.previous[0].replace(session), lane);
    }
}

/// An initiation of ours that waits for its response.
#[derive(Debug)]
struct Handshake {
    initiator: Initiator,
    /// When the first attempt was made, or a packet last waited for it.
    began: Duration,
    repeat_at: Duration,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Peer {
    slot: PeerSlot,
    settings: PeerSettings,
    macs: MacKeys,
    cookies: CookieJar,
    address: Option<Address>,
    pub(crate) sessions: Sessions,
    handshake: Option<Handshake>,
    activity: Arc<Activity>,
    /// The latest initiation of the peer that was answered, by its clock and by ours.
    answered: Option<(Timestamp, Duration)>,
    /// Our latest initiation, by the wall clock and by `now`.
    initiated: Option<(Timestamp, Duration)>,
    /// When the last handshake ended; `None` if there is nothing left to forget.
    established: Option<Duration>,
    /// When the peer was added: where it is kept alive the first handshake begins then.
    added: Duration,
    /// When it got its key, if it had another before and may have sessions of then.
    rekeyed: Option<Duration>,
}

impl Peer {
    pub(crate) fn new(slot: PeerSlot, settings: PeerSettings, now: Duration) -> Self {
        Self {
            slot,
            macs: MacKeys::new(&settings.key),
            cookies: CookieJar::default(),
            address: settings.address,
            settings,
            sessions: Sessions::default(),
            handshake: None,
            activity: Arc::default(),
            answered: None,
            initiated: None,
            established: None,
            added: now,
            rekeyed: None,
        }
    }

    /// The same node with other keys. [`Peer::begin_anew`], or what it begins, follows.
    pub(crate) fn change_key(&mut self, settings: PeerSettings, lane: &mut Lane, now: Duration) {
        self.macs = MacKeys::new(&settings.key);
        self.cookies = CookieJar::default();
        if settings.address.is_some() && settings.address != self.settings.address {
            self.address = settings.address;
        }
        self.settings = settings;
        // Its former half may be somebody else's by now: what it said of time, and what it answered only, says nothing.
        self.answered = None;
        free(self.sessions.next.take(), lane);
        self.rekeyed = Some(now);
        lane.tell(Event::SessionsChanged { peer: self.slot });
    }

    /// One side has another key. What goes on in sessions goes on; a handshake begins anew, and if there is a session, at once.
    pub(crate) fn begin_anew(&mut self, lane: &mut Lane, now: Duration) {
        if self.sessions.current.is_some() || self.handshake.is_some() {
            self.end_handshake(lane);
            self.initiate(lane, now, now);
        }
    }

    /// Takes other settings, which do not end sessions if the keys are the same: then true. Only an address that is said to be
    /// another than before counts more than where packets came from.
    pub(crate) fn update(&mut self, settings: &PeerSettings) -> bool {
        if settings.key != self.settings.key || settings.preshared != self.settings.preshared {
            return false;
        }
        if settings.address.is_some() && settings.address != self.settings.address {
            self.address = settings.address;
        }
        self.settings = settings.clone();
        true
    }

    pub(crate) const fn key(&self) -> &PublicKey {
        &self.settings.key
    }

    pub(crate) const fn address(&self) -> Option<Address> {
        self.address
    }

    /// The session to send with, if there is one.
    #[inline]
    pub(crate) fn sending(&self, now: Duration) -> Option<&Arc<Session>> {
        self.sessions
            .current
            .as_ref()
            .filter(|session| !session.ended(now))
    }

    /// A new session is wanted: by a packet that waits, or because the current one is old.
    pub(crate) fn request(&mut self, lane: &mut Lane, now: Duration) {
        if let Some(handshake) = &mut self.handshake {
            handshake.began = now;
        } else if now >= self.may_initiate() {
            self.initiate(lane, now, now);
        }
    }

    /// Answers an initiation of the peer's.
    ///
    /// # Errors
    /// [`Refusal::OldInitiation`], [`Refusal::TooMany`], [`Refusal::LowOrderKey`].
    pub(crate) fn handle_initiation(
        &mut self,
        responder: Responder,
        from: Address,
        lane: &mut Lane,
        now: Duration,
    ) -> Result<(), Refusal> {
        if let Some((timestamp, at)) = self.answered {
            if responder.timestamp() <= timestamp {
                return Err(Refusal::OldInitiation);
            }
            if now.saturating_sub(at) < INITIATION_INTERVAL {
                return Err(Refusal::TooMany);
            }
        }
        let timestamp = responder.timestamp();
        let ephemeral = lane.entropy.private_key();
        let index = lane.draw_index(self.slot);
        let (keys, response) = responder
            .respond(&self.settings.preshared, &ephemeral, index)
            .inspect_err(|_| lane.free_index(index))?;
        self.answered = Some((timestamp, now));
        self.log_keys(&ephemeral, lane);

        let session = self.session(&keys, now);
        let gone = self.sessions.next.replace(session);
        free(gone, lane);
        self.activity.received(false, now);
        lane.tell(Event::SessionsChanged { peer: self.slot });

        let mut datagram = response.to_bytes();
        self.cookies.stamp(&self.macs, &mut datagram, now);
        self.activity.sent(false, now);
        // To where it came from: our packets go there only when a packet in the new session came from there.
        lane.transmit(from, &datagram);
        Ok(())
    }

    /// Whether an initiation of ours waits under this index.
    pub(crate) fn awaits_response(&self, index: u32) -> bool {
        self.handshake
            .as_ref()
            .is_some_and(|handshake| handshake.initiator.index() == index)
    }

    /// Takes the response to our initiation.
    ///
    /// # Errors
    /// [`Refusal::UnknownSession`], [`Refusal::Forged`], [`Refusal::LowOrderKey`].
    pub(crate) fn handle_response(
        &mut self,
        response: &Response,
        from: Address,
        lane: &mut Lane,
        now: Duration,
    ) -> Result<(), Refusal> {
        let handshake = self.handshake.as_ref().ok_or(Refusal::UnknownSession)?;
        if handshake.initiator.index() != response.receiver {
            return Err(Refusal::UnknownSession);
        }
        let keys =
            handshake
                .initiator
                .finish(&lane.identity, &self.settings.preshared, response)?;
        self.handshake = None;
        let session = self.session(&keys, now);
        self.sessions.replace_current(session, lane);
        // Both sides began: each sends with its own, lest each takes the other's and none is left to renew its own.
        if let Some(theirs) = self.sessions.next.take() {
            self.sessions.retire(theirs, lane);
        }
        self.activity.received(false, now);
        self.roam(from, lane);
        lane.tell(Event::SessionsChanged { peer: self.slot });
        lane.tell(Event::Established { peer: self.slot });
        // The responder may not send before it got something.
        self.send_keepalive(lane, now);
        Ok(())
    }

    /// Takes a cookie for the next initiation or response.
    ///
    /// # Errors
    /// [`Refusal::Forged`].
    pub(crate) fn handle_cookie_reply(
        &mut self,
        reply: &CookieReply,
        now: Duration,
    ) -> Result<(), Refusal> {
        self.cookies.take(&self.macs, reply, now)
    }

    /// A packet was opened with the session of this index.
    #[inline]
    pub(crate) fn handle_opened(
        &mut self,
        index: u32,
        opened: Opened,
        from: Address,
        lane: &mut Lane,
        now: Duration,
    ) {
        let next = self.sessions.next.as_ref();
        if next.is_some_and(|session| session.local_index() == index) {
            self.promote_next(lane);
        }
        self.roam(from, lane);
        let current = self.sessions.current.as_ref();
        if opened.rekey_due && current.is_some_and(|session| session.local_index() == index) {
            self.request(lane, now);
        }
    }

    /// When [`Peer::handle_timeout`] has something to do. Changes with every packet, also with those that workers seal and
    /// open.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        [
            self.handshake.as_ref().map(|handshake| handshake.repeat_at),
            self.keepalive_due(),
            self.renewal_due(),
            self.established.map(|at| at + FORGET_AFTER_TIME),
            self.rekeyed.map(|at| at + FORMER_KEY_LASTS),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, lane: &mut Lane, now: Duration) {
        let due = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        if due(self.established.map(|at| at + FORGET_AFTER_TIME)) {
            self.forget(lane);
        }
        if due(self.rekeyed.map(|at| at + FORMER_KEY_LASTS)) {
            self.end_former(lane);
        }
        if let Some(handshake) = &self.handshake
            && due(Some(handshake.repeat_at))
        {
            if now.saturating_sub(handshake.began) >= REKEY_ATTEMPT_TIME {
                self.give_up(lane);
            } else {
                self.initiate(lane, handshake.began, now);
            }
        }
        if due(self.renewal_due()) {
            self.request(lane, now);
        }
        if due(self.keepalive_due()) {
            self.send_keepalive(lane, now);
        }
    }

    /// Frees all names; the peer is no more.
    pub(crate) fn remove(mut self, lane: &mut Lane) {
        self.end_handshake(lane);
        self.forget(lane);
    }

    /// When the peer is owed a keepalive, or a NAT on the way is.
    fn keepalive_due(&self) -> Option<Duration> {
        self.address?;
        let owed = self
            .activity
            .owing_since()
            .map(|since| since + KEEPALIVE_TIMEOUT);
        let regular = self.settings.keepalive.map(|interval| {
            self.activity
                .last()
                .map_or(self.added, |last| last + interval)
        });
        let due = owed.into_iter().chain(regular).min()?;
        let sendable = self
            .sessions
            .current
            .as_ref()
            .is_some_and(|session| due < session.established() + REJECT_AFTER_TIME);
        match &self.handshake {
            _ if sendable => Some(due),
            // Its keepalive follows.
            Some(_) => None,
            None => Some(due.max(self.may_initiate())),
        }
    }

    /// When the peer's silence has lasted long enough for a handshake.
    fn renewal_due(&self) -> Option<Duration> {
        self.address?;
        if self.handshake.is_some() {
            return None;
        }
        let since = self.activity.unheard_since()?;
        Some((since + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT).max(self.may_initiate()))
    }

    fn may_initiate(&self) -> Duration {
        self.initiated
            .map_or(Duration::ZERO, |(_, at)| at + REKEY_TIMEOUT)
    }

    /// Sends an initiation, the first that began at `began` or one more.
    fn initiate(&mut self, lane: &mut Lane, began: Duration, now: Duration) {
        let Some(address) = self.address else {
            return;
        };
        self.end_handshake(lane);
        let timestamp = lane
            .timestamp(now)
            .after(self.initiated.map(|(timestamp, _)| timestamp));
        let ephemeral = lane.entropy.private_key();
        let index = lane.draw_index(self.slot);
        self.log_keys(&ephemeral, lane);
        let Ok((initiator, initiation)) = Initiator::start(
            &lane.identity,
            &self.settings.key,
            ephemeral,
            index,
            timestamp,
        ) else {
            unreachable!("a peer is added only if its key shares secrets");
        };
        self.initiated = Some((timestamp, now));
        self.handshake = Some(Handshake {
            initiator,
            began,
            repeat_at: now + REKEY_TIMEOUT + lane.entropy.jitter(REKEY_JITTER_MAX),
        });
        let mut datagram = initiation.to_bytes();
        self.cookies.stamp(&self.macs, &mut datagram, now);
        self.activity.sent(false, now);
        lane.transmit(address, &datagram);
    }

    /// Sends an empty packet, or begins the handshake that ends with one.
    fn send_keepalive(&mut self, lane: &mut Lane, now: Duration) {
        let sealed = self.sending(now).map(|session| session.seal_keepalive(now));
        match (sealed, self.address) {
            (Some(Ok((datagram, rekey_due))), Some(address)) => {
                lane.transmit(address, &datagram);
                if rekey_due {
                    self.request(lane, now);
                }
            }
            _ => {
                self.request(lane, now);
                // What is owed comes with the handshake. Else it would be due, and fail, again and again until then.
                self.activity.sent(false, now);
            }
        }
    }

    fn log_keys(&self, ephemeral: &PrivateKey, lane: &mut Lane) {
        let Self { settings, .. } = self;
        let Lane {
            key_log, identity, ..
        } = lane;
        key_log.note(identity, &settings.key, ephemeral, &settings.preshared);
    }

    fn promote_next(&mut self, lane: &mut Lane) {
        let Some(session) = self.sessions.next.take() else {
            return;
        };
        self.sessions.replace_current(session, lane);
        // The peer's handshake came first; a response to ours would only make one more session.
        self.end_handshake(lane);
        lane.tell(Event::SessionsChanged { peer: self.slot });
        lane.tell(Event::Established { peer: self.slot });
    }

    fn roam(&mut self, from: Address, lane: &mut Lane) {
        if self.address != Some(from) {
            self.address = Some(from);
            lane.tell(Event::Roamed {
                peer: self.slot,
                address: from,
            });
        }
    }

    fn session(&mut self, keys: &TransportKeys, now: Duration) -> Arc<Session> {
        self.established = Some(now);
        Arc::new(Session::new(keys, Arc::clone(&self.activity), now))
    }

    fn give_up(&mut self, lane: &mut Lane) {
        self.end_handshake(lane);
        self.activity.give_up();
        lane.tell(Event::Unreachable { peer: self.slot });
    }

    fn end_handshake(&mut self, lane: &mut Lane) {
        if let Some(handshake) = self.handshake.take() {
            lane.free_index(handshake.initiator.index());
        }
    }

    /// Ends the sessions of the time before the peer had its key.
    fn end_former(&mut self, lane: &mut Lane) {
        let Some(rekeyed) = self.rekeyed.take() else {
            return;
        };
        let Sessions {
            next: _,
            current,
            previous,
        } = &mut self.sessions;
        for place in std::iter::once(current).chain(previous) {
            let former = place.take_if(|session| session.established() < rekeyed);
            free(former, lane);
        }
        lane.tell(Event::SessionsChanged { peer: self.slot });
    }

    fn forget(&mut self, lane: &mut Lane) {
        let sessions = std::mem::take(&mut self.sessions);
        for session in sessions.iter() {
            lane.free_index(session.local_index());
        }
        self.established = None;
        lane.tell(Event::SessionsChanged { peer: self.slot });
    }
}

fn free(session: Option<Arc<Session>>, lane: &mut Lane) {
    if let Some(session) = session {
        lane.free_index(session.local_index());
    }
}
