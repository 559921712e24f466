//! One client while it is connected: what it may, what waits for it, what it has not acknowledged, and when it has to go.

use super::Qos;
use super::topic::Grant;
use crate::packet_ids::PacketIds;
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// With [`Limits::in_flight_max`] messages on their way, a client that acknowledges none for this long is broken; it may
/// come back and begin anew.
pub const ACKNOWLEDGE_WAIT: Duration = Duration::from_secs(10);
/// How many filters one client may hold: one per interest, and a node has at most some thousands.
pub const FILTERS_MAX: usize = 65_536;
/// And so many bytes of them: each of [`FILTERS_MAX`] may be as long as filters of long service names are.
pub const FILTER_BYTES_MAX: usize = 8 << 20;

/// A connection of a client. Numbers are never used again.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionId(pub(super) u64);

/// How much may wait for a client, and be on its way to it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages that wait; what comes beyond is dropped.
    pub messages_max: usize,
    /// Bytes of their topics and payloads.
    pub bytes_max: usize,
    /// Messages sent with QoS 1 that are not acknowledged yet, below 65,535 (ids have 16 bits); the others wait. `None`: none
    /// has to be acknowledged.
    pub in_flight_max: Option<usize>,
}

impl Limits {
    /// A client that reads slowly, beyond what the kernel buffers.
    pub const CLIENT: Self = Self {
        messages_max: 4096,
        bytes_max: 8 << 20,
        in_flight_max: Some(1024),
    };
    /// A manager inside the broker's process: it subscribes to everything, never drops in practice, and loses nothing
    /// that it was handed.
    pub const LINK: Self = Self {
        messages_max: 65_536,
        bytes_max: 64 << 20,
        in_flight_max: None,
    };
}

/// What is published when a client goes without a farewell (MQTT 3.1.1 section 3.1.2.5).
#[derive(Clone, Debug)]
pub struct Will {
    pub topic: String,
    pub payload: Bytes,
    pub qos: Qos,
}

/// A message to send to a client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transmit {
    pub topic: Arc<str>,
    pub payload: Bytes,
    /// With QoS 1 the packet's id, which the client has to acknowledge; QoS 0 without.
    pub id: Option<u16>,
}

impl Transmit {
    /// Bytes of topic and payload.
    #[must_use]
    pub fn size(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

/// Why the broker ends a session.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Close {
    #[error("another connection took over the client id")]
    TakenOver,
    #[error("silent for longer than its keep-alive")]
    Silent,
    #[error("acknowledges none of the messages on their way for {} s", ACKNOWLEDGE_WAIT.as_secs())]
    NotAcknowledging,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) client_id: Arc<str>,
    pub(super) grant: Grant,
    pub(super) will: Option<Will>,
    pub(super) filters: BTreeSet<Arc<str>>,
    pub(super) filter_bytes: usize,
    /// The shell was told that something waits, and has not found the end of it yet.
    pub(super) announced: bool,
    limits: Limits,
    keep_alive: Option<Duration>,
    heard: Duration,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    in_flight: PacketIds,
    /// When the number of those last changed.
    in_flight_since: Duration,
    /// QoS 2 publishes between PUBLISH and PUBREL: a repeated PUBLISH is the same message.
    half_done: BTreeSet<u16>,
}

#[derive(Clone, Debug)]
struct Waiting {
    topic: Arc<str>,
    payload: Bytes,
    qos: Qos,
}

impl Waiting {
    fn size(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

impl Session {
    pub(super) fn new(
        client_id: Arc<str>,
        grant: Grant,
        limits: Limits,
        keep_alive: Option<Duration>,
        now: Duration,
    ) -> Self {
        Self {
            client_id,
            grant,
            will: None,
            filters: BTreeSet::new(),
            filter_bytes: 0,
            announced: false,
            limits,
            keep_alive,
            heard: now,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            in_flight: PacketIds::default(),
            in_flight_since: now,
            half_done: BTreeSet::new(),
        }
    }

    pub(super) const fn hear(&mut self, now: Duration) {
        self.heard = now;
    }

    /// Whether there was room.
    pub(super) fn push(&mut self, topic: &Arc<str>, payload: &Bytes, qos: Qos) -> bool {
        let size = topic.len() + payload.len();
        if self.waiting.len() >= self.limits.messages_max
            || self.waiting_bytes + size > self.limits.bytes_max
        {
            return false;
        }
        self.waiting_bytes += size;
        self.waiting.push_back(Waiting {
            topic: Arc::clone(topic),
            payload: payload.clone(),
            qos,
        });
        true
    }

    /// The next message, unless too many are on their way.
    pub(super) fn pop(&mut self, now: Duration) -> Option<Transmit> {
        if self.is_full() {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.waiting_bytes -= next.size();
        let acknowledged = self.limits.in_flight_max.is_some() && next.qos == Qos::AtLeastOnce;
        let id = acknowledged.then(|| self.send(now));
        Some(Transmit {
            topic: next.topic,
            payload: next.payload,
            id,
        })
    }

    /// Notes one more message as on its way; its id.
    fn send(&mut self, now: Duration) -> u16 {
        self.in_flight_since = now;
        self.in_flight.begin()
    }

    /// Whether something can be sent now that could not before. An id that is not on its way acknowledges nothing, and
    /// gives no more time.
    pub(super) fn acknowledge(&mut self, id: u16, now: Duration) -> bool {
        let was_full = self.is_full();
        if self.in_flight.end(id) {
            self.in_flight_since = now;
        }
        was_full && !self.is_full() && !self.waiting.is_empty()
    }

    /// Whether a publish with QoS 2 and this id is not the repetition of another.
    pub(super) fn begin(&mut self, id: u16) -> bool {
        self.half_done.insert(id)
    }

    pub(super) fn release(&mut self, id: u16) {
        self.half_done.remove(&id);
    }

    /// No message can be sent before one is acknowledged.
    fn is_full(&self) -> bool {
        let max = self.limits.in_flight_max;
        max.is_some_and(|max| self.in_flight.count() >= max)
    }

    /// When the client has to go if it says nothing, and if it acknowledges nothing.
    pub(super) fn deadlines(&self) -> [(Option<Duration>, Close); 2] {
        let silent = self.keep_alive.map(|limit| self.heard + limit);
        let mute = self
            .is_full()
            .then_some(self.in_flight_since + ACKNOWLEDGE_WAIT);
        [(silent, Close::Silent), (mute, Close::NotAcknowledging)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(in_flight_max: usize) -> Session {
        let limits = Limits {
            in_flight_max: Some(in_flight_max),
            ..Limits::CLIENT
        };
        Session::new("a".into(), Grant::All, limits, None, Duration::ZERO)
    }

    fn ids(session: &mut Session, now: Duration) -> Vec<Option<u16>> {
        std::iter::from_fn(|| session.pop(now))
            .map(|sent| sent.id)
            .collect()
    }

    #[test]
    fn an_acknowledgement_of_nothing_gives_no_more_time() {
        let mut session = session(2);
        for _ in 0..3 {
            session.push(&"x".into(), &Bytes::new(), Qos::AtLeastOnce);
        }
        let s = Duration::from_secs;
        assert_eq!(ids(&mut session, s(1)), [Some(1), Some(2)]);
        let deadline = |session: &Session| session.deadlines()[1].0;
        assert_eq!(deadline(&session), Some(s(11)));
        assert!(!session.acknowledge(7, s(9)));
        assert_eq!(deadline(&session), Some(s(11)));
        assert!(session.acknowledge(1, s(9)), "the third can go");
        assert_eq!(deadline(&session), None);
        assert_eq!(ids(&mut session, s(9)), [Some(3)]);
        assert_eq!(deadline(&session), Some(s(19)));
    }

    #[test]
    fn what_needs_no_acknowledgement_has_no_id_and_no_end() {
        let mut session = session(1);
        session.push(&"x".into(), &Bytes::new(), Qos::AtMostOnce);
        session.push(&"x".into(), &Bytes::new(), Qos::AtMostOnce);
        assert_eq!(ids(&mut session, Duration::ZERO), [None, None]);
        let mut link = Session::new("$a".into(), Grant::All, Limits::LINK, None, Duration::ZERO);
        link.push(&"x".into(), &Bytes::new(), Qos::AtLeastOnce);
        assert_eq!(ids(&mut link, Duration::ZERO), [None]);
    }

    #[test]
    fn bytes_and_messages_that_wait_are_bounded() {
        let limits = Limits {
            messages_max: 3,
            bytes_max: 10,
            in_flight_max: None,
        };
        let mut session = Session::new("a".into(), Grant::All, limits, None, Duration::ZERO);
        let mut push =
            |length: usize| session.push(&"x".into(), &vec![0; length].into(), Qos::AtMostOnce);
        assert!(push(4), "5 bytes");
        assert!(!push(5), "11");
        assert!(push(4), "10");
        session.pop(Duration::ZERO);
        session.pop(Duration::ZERO);
        let mut push =
            |length: usize| session.push(&"x".into(), &vec![0; length].into(), Qos::AtMostOnce);
        assert_eq!(
            [push(0), push(0), push(0), push(0)],
            [true, true, true, false]
        );
    }
}
