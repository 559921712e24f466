//! Who has subscribed to what, and what of it goes to whom.

use super::Qos;
use super::session::{
    Close, FILTER_BYTES_MAX, FILTERS_MAX, Limits, Session, SessionId, Transmit, Will,
};
use super::topic::{self, Grant};
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// What a client says of itself when it connects, and what it may make the broker hold.
#[derive(Clone, Debug)]
pub struct Connect<'a> {
    pub client_id: &'a str,
    /// The user it logs in as, if it says one: a node's is the node.
    pub user: Option<&'a str>,
    /// Nothing heard for so long: the client is gone. MQTT 3.1.1 section 3.1.2.10: one and a half times the interval.
    pub keep_alive: Option<Duration>,
    pub will: Option<Will>,
    pub limits: Limits,
}

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum ConnectError {
    #[error("a client id is not empty, and begins with `$` inside the broker's process only")]
    ClientId,
    #[error("a node logs in as itself")]
    User,
}

/// Why a publish is not routed, or a subscription does not stand.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Refused {
    #[error("the session has ended")]
    Ended,
    #[error("no topic name, or no topic filter")]
    Invalid,
    #[error("not granted to this client")]
    NotGranted,
    #[error("more than {FILTERS_MAX} filters")]
    Filters,
    #[error("more than {FILTER_BYTES_MAX} bytes of filters")]
    FilterBytes,
}

impl Refused {
    /// For counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Invalid => "invalid",
            Self::NotGranted => "not_granted",
            Self::Filters => "filters_max",
            Self::FilterBytes => "filter_bytes_max",
        }
    }
}

/// What came of a publish.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Routed {
    /// Subscribers for whom it waits now.
    pub delivered: usize,
    /// Subscribers whose queue was full.
    pub dropped: usize,
}

/// What the shell has to know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// [`Router::poll_transmit`] has something for this session. Said again only after that had nothing more.
    Ready(SessionId),
    /// The broker ended this session: its connection has to be closed.
    Closed(SessionId, Close),
    /// A client went without a farewell, and its will was published.
    Will {
        topic: String,
        outcome: Result<Routed, Refused>,
    },
}

/// All sessions of a broker. See the module of [`crate::broker`].
#[derive(Clone, Debug, Default)]
pub struct Router {
    sessions: BTreeMap<SessionId, Session>,
    /// The session of each client that is connected.
    clients: BTreeMap<Arc<str>, SessionId>,
    /// Subscribers of filters without wildcards: the common case costs one look-up.
    exact: Index,
    /// Subscribers of filters with wildcards: a few managers.
    wild: Index,
    connected: u64,
    events: VecDeque<Event>,
    /// Of the publish under way; kept for its memory.
    wanted: Vec<(SessionId, Qos)>,
}

/// The QoS granted to each subscriber, by filter.
type Index = BTreeMap<Arc<str>, BTreeMap<SessionId, Qos>>;

impl Router {
    /// Lets a client in; an earlier session with that id ends, and its will is published (MQTT 3.1.1 section 3.1.4).
    ///
    /// # Errors
    /// When its id or its user is wrong.
    pub fn connect(
        &mut self,
        connect: Connect<'_>,
        now: Duration,
    ) -> Result<SessionId, ConnectError> {
        let client_id = connect.client_id;
        if client_id.is_empty() || client_id.starts_with('$') {
            return Err(ConnectError::ClientId);
        }
        let grant = Grant::of_client(client_id);
        if !grant.admits_user(connect.user) {
            return Err(ConnectError::User);
        }
        let mut session = Session::new(
            client_id.into(),
            grant,
            connect.limits,
            connect.keep_alive,
            now,
        );
        session.will = connect.will;
        Ok(self.open(session))
    }

    /// A client inside the broker's process, allowed everything. `client_id` begins with `$`, so that no connection can
    /// take it over.
    pub fn link(&mut self, client_id: &str, now: Duration) -> SessionId {
        debug_assert!(
            client_id.starts_with('$'),
            "{client_id} could be taken over"
        );
        let session = Session::new(client_id.into(), Grant::All, Limits::LINK, None, now);
        self.open(session)
    }

    fn open(&mut self, session: Session) -> SessionId {
        if let Some(earlier) = self.clients.get(&session.client_id).copied() {
            self.close(earlier, Close::TakenOver);
        }
        self.connected += 1;
        let id = SessionId(self.connected);
        self.clients.insert(Arc::clone(&session.client_id), id);
        self.sessions.insert(id, session);
        id
    }

    /// Something came from the client.
    pub fn hear(&mut self, session: SessionId, now: Duration) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.hear(now);
        }
    }

    /// The QoS is the one that the subscriber gets at most. A filter that it has already changes its QoS.
    ///
    /// # Errors
    /// When the filter is not valid, not granted, or beyond the client's bounds.
    pub fn subscribe(&mut self, session: SessionId, filter: &str, qos: Qos) -> Result<(), Refused> {
        let client = self.sessions.get_mut(&session).ok_or(Refused::Ended)?;
        if !topic::is_filter(filter) {
            return Err(Refused::Invalid);
        }
        if !client.grant.may_subscribe(filter) {
            return Err(Refused::NotGranted);
        }
        let index = if topic::has_wildcard(filter) {
            &mut self.wild
        } else {
            &mut self.exact
        };
        if !client.filters.contains(filter) {
            if client.filters.len() >= FILTERS_MAX {
                return Err(Refused::Filters);
            }
            if client.filter_bytes + filter.len() > FILTER_BYTES_MAX {
                return Err(Refused::FilterBytes);
            }
            let known = index.get_key_value(filter);
            let shared = known.map_or_else(|| Arc::from(filter), |(known, _)| Arc::clone(known));
            client.filter_bytes += filter.len();
            client.filters.insert(Arc::clone(&shared));
            index.entry(shared).or_default();
        }
        if let Some(subscribers) = index.get_mut(filter) {
            subscribers.insert(session, qos);
        }
        Ok(())
    }

    pub fn unsubscribe(&mut self, session: SessionId, filter: &str) {
        if let Some(client) = self.sessions.get_mut(&session)
            && client.filters.remove(filter)
        {
            client.filter_bytes -= filter.len();
            self.forget(filter, session);
        }
    }

    fn forget(&mut self, filter: &str, session: SessionId) {
        let index = if topic::has_wildcard(filter) {
            &mut self.wild
        } else {
            &mut self.exact
        };
        if let Some(subscribers) = index.get_mut(filter) {
            subscribers.remove(&session);
            if subscribers.is_empty() {
                index.remove(filter);
            }
        }
    }

    /// A client publishes. MQTT 3.1.1 (section 3.3.5) has no answer that says no, so that it is acknowledged either way.
    ///
    /// # Errors
    /// When `topic` is no topic's name, or not one that the client may publish to.
    pub fn publish(
        &mut self,
        session: SessionId,
        topic: &str,
        payload: &Bytes,
        qos: Qos,
    ) -> Result<Routed, Refused> {
        let client = self.sessions.get(&session).ok_or(Refused::Ended)?;
        may_publish(&client.grant, topic)?;
        Ok(self.route(topic, payload, qos))
    }

    /// As [`Router::publish`] with QoS 2: none when it is the repetition of a publish that the client has not released.
    /// The subscribers get it with QoS 1.
    pub fn publish_once(
        &mut self,
        session: SessionId,
        id: u16,
        topic: &str,
        payload: &Bytes,
    ) -> Option<Result<Routed, Refused>> {
        let Some(client) = self.sessions.get_mut(&session) else {
            return Some(Err(Refused::Ended));
        };
        let is_new = client.begin(id);
        is_new.then(|| self.publish(session, topic, payload, Qos::AtLeastOnce))
    }

    /// The client will not repeat the publish with this id.
    pub fn release(&mut self, session: SessionId, id: u16) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.release(id);
        }
    }

    /// Queues the message for each subscriber once, with the highest QoS that its filters and the publisher allow.
    fn route(&mut self, topic: &str, payload: &Bytes, qos: Qos) -> Routed {
        let wild = self
            .wild
            .iter()
            .filter(|(filter, _)| topic::matches(filter, topic))
            .map(|(_, subscribers)| subscribers);
        let exact = self.exact.get(topic);
        self.wanted.clear();
        let subscribers = exact.into_iter().chain(wild).flatten();
        self.wanted
            .extend(subscribers.map(|(session, granted)| (*session, *granted)));
        self.wanted
            .sort_unstable_by_key(|(session, granted)| (*session, Reverse(*granted)));
        self.wanted.dedup_by_key(|(session, _)| *session);
        let topic: Arc<str> = topic.into();
        let mut routed = Routed::default();
        for (id, granted) in &self.wanted {
            let Some(session) = self.sessions.get_mut(id) else {
                unreachable!("a session leaves the indexes when it ends");
            };
            if session.push(&topic, payload, qos.min(*granted)) {
                routed.delivered += 1;
                if !std::mem::replace(&mut session.announced, true) {
                    self.events.push_back(Event::Ready(*id));
                }
            } else {
                routed.dropped += 1;
            }
        }
        routed
    }

    /// The client has taken the message with this id.
    pub fn acknowledge(&mut self, session: SessionId, id: u16, now: Duration) {
        let Some(client) = self.sessions.get_mut(&session) else {
            return;
        };
        if client.acknowledge(id, now) && !std::mem::replace(&mut client.announced, true) {
            self.events.push_back(Event::Ready(session));
        }
    }

    /// The connection ended, after a `farewell` or without. A session that has ended stays ended.
    pub fn disconnect(&mut self, session: SessionId, farewell: bool) {
        if let Some(ended) = self.remove(session)
            && !farewell
        {
            self.execute(ended);
        }
    }

    fn close(&mut self, session: SessionId, why: Close) {
        if let Some(ended) = self.remove(session) {
            self.events.push_back(Event::Closed(session, why));
            self.execute(ended);
        }
    }

    fn remove(&mut self, id: SessionId) -> Option<Session> {
        let session = self.sessions.remove(&id)?;
        self.clients.remove(&session.client_id);
        for filter in &session.filters {
            self.forget(filter, id);
        }
        Some(session)
    }

    /// Publishes the will of a session that has ended.
    fn execute(&mut self, ended: Session) {
        if let Some(Will {
            topic,
            payload,
            qos,
        }) = ended.will
        {
            let outcome =
                may_publish(&ended.grant, &topic).map(|()| self.route(&topic, &payload, qos));
            self.events.push_back(Event::Will { topic, outcome });
        }
    }

    /// When [`Router::handle_timeout`] has something to do for the session. Changes with [`Router::hear`],
    /// [`Router::acknowledge`] and [`Router::poll_transmit`].
    #[must_use]
    pub fn poll_timeout(&self, session: SessionId) -> Option<Duration> {
        let deadlines = self.sessions.get(&session)?.deadlines();
        deadlines.into_iter().filter_map(|(at, _)| at).min()
    }

    /// Ends the session if it is time.
    pub fn handle_timeout(&mut self, session: SessionId, now: Duration) {
        let deadlines = self.sessions.get(&session).map(Session::deadlines);
        let mut due = deadlines.into_iter().flatten();
        if let Some((_, why)) = due.find(|(at, _)| at.is_some_and(|at| at <= now)) {
            self.close(session, why);
        }
    }

    /// The next message to send to a session, if it may be sent.
    pub fn poll_transmit(&mut self, session: SessionId, now: Duration) -> Option<Transmit> {
        let session = self.sessions.get_mut(&session)?;
        let next = session.pop(now);
        session.announced = next.is_some();
        next
    }

    /// What the shell has to know; to be asked after every call.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Ids of the clients that are connected, in order.
    pub fn client_ids(&self) -> impl Iterator<Item = &str> {
        self.clients.keys().map(|client_id| &**client_id)
    }
}

fn may_publish(grant: &Grant, topic: &str) -> Result<(), Refused> {
    if !topic::is_name(topic) {
        return Err(Refused::Invalid);
    }
    if !grant.may_publish(topic) {
        return Err(Refused::NotGranted);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "0123456789abcdef01234567";
    const NOW: Duration = Duration::ZERO;

    fn client(client_id: &str) -> Connect<'_> {
        Connect {
            client_id,
            user: None,
            keep_alive: None,
            will: None,
            limits: Limits {
                messages_max: 2,
                ..Limits::CLIENT
            },
        }
    }

    fn join(router: &mut Router, client_id: &str) -> SessionId {
        router.connect(client(client_id), NOW).unwrap()
    }

    /// The router, and a manager that publishes.
    fn routed() -> (Router, SessionId) {
        let mut router = Router::default();
        let manager = router.link("$manager", NOW);
        (router, manager)
    }

    fn events(router: &mut Router) -> Vec<Event> {
        std::iter::from_fn(|| router.poll_event()).collect()
    }

    fn publish(router: &mut Router, from: SessionId, topic: &str) -> Routed {
        let payload = Bytes::from_static(b"x");
        let routed = router.publish(from, topic, &payload, Qos::AtLeastOnce);
        routed.unwrap()
    }

    #[test]
    fn a_subscriber_of_two_matching_filters_gets_one_copy_at_the_higher_qos() {
        let (mut router, manager) = routed();
        let a = join(&mut router, "a");
        router.subscribe(a, "x/y", Qos::AtLeastOnce).unwrap();
        router.subscribe(a, "x/+", Qos::AtMostOnce).unwrap();
        assert_eq!(publish(&mut router, manager, "x/y").delivered, 1);
        assert_eq!(router.poll_transmit(a, NOW).unwrap().id, Some(1));
        assert_eq!(router.poll_transmit(a, NOW), None);
        router.unsubscribe(a, "x/y");
        publish(&mut router, manager, "x/y");
        assert_eq!(router.poll_transmit(a, NOW).unwrap().id, None);
    }

    #[test]
    fn payloads_are_shared() {
        let (mut router, manager) = routed();
        let payload = Bytes::from(vec![7; 100]);
        for id in ["a", "b"] {
            let session = join(&mut router, id);
            router.subscribe(session, "#", Qos::AtMostOnce).unwrap();
            let sent = router.publish(manager, "x", &payload, Qos::AtMostOnce);
            sent.unwrap();
            let received = router.poll_transmit(session, NOW).unwrap();
            assert_eq!(received.payload.as_ptr(), payload.as_ptr());
        }
    }

    #[test]
    fn a_full_queue_drops_and_says_so() {
        let (mut router, manager) = routed();
        let a = join(&mut router, "a");
        router.subscribe(a, "#", Qos::AtLeastOnce).unwrap();
        let dropped: Vec<_> = (0..3)
            .map(|_| publish(&mut router, manager, "x").dropped)
            .collect();
        assert_eq!(dropped, [0, 0, 1]);
        router.poll_transmit(a, NOW).unwrap();
        assert_eq!(publish(&mut router, manager, "x").dropped, 0);
    }

    #[test]
    fn a_shell_is_told_once_until_it_has_looked() {
        let (mut router, manager) = routed();
        let a = join(&mut router, "a");
        router.subscribe(a, "x", Qos::AtLeastOnce).unwrap();
        publish(&mut router, manager, "x");
        publish(&mut router, manager, "x");
        assert_eq!(events(&mut router), [Event::Ready(a)]);
        router.poll_transmit(a, NOW).unwrap();
        publish(&mut router, manager, "x");
        assert_eq!(events(&mut router), [], "it is looking");
        while router.poll_transmit(a, NOW).is_some() {}
        publish(&mut router, manager, "x");
        assert_eq!(events(&mut router), [Event::Ready(a)]);
    }

    #[test]
    fn an_acknowledgement_that_makes_room_is_told() {
        let (mut router, manager) = routed();
        let mut connect = client("a");
        connect.limits.in_flight_max = Some(1);
        let a = router.connect(connect, NOW).unwrap();
        router.subscribe(a, "x", Qos::AtLeastOnce).unwrap();
        publish(&mut router, manager, "x");
        publish(&mut router, manager, "x");
        let first = router.poll_transmit(a, NOW).unwrap();
        assert_eq!(router.poll_transmit(a, NOW), None);
        events(&mut router);
        router.acknowledge(a, first.id.unwrap(), NOW);
        assert_eq!(events(&mut router), [Event::Ready(a)]);
        assert!(router.poll_transmit(a, NOW).is_some());
    }

    #[test]
    fn a_client_id_taken_over_ends_the_earlier_session_only() {
        let (mut router, manager) = routed();
        let first = join(&mut router, "a");
        router.subscribe(first, "x", Qos::AtLeastOnce).unwrap();
        let second = join(&mut router, "a");
        assert_eq!(
            events(&mut router),
            [Event::Closed(first, Close::TakenOver)]
        );
        router.disconnect(first, true);
        assert_eq!(router.client_ids().collect::<Vec<_>>(), ["$manager", "a"]);
        assert_eq!(
            publish(&mut router, manager, "x").delivered,
            0,
            "subscriptions are gone"
        );
        assert_eq!(
            router.subscribe(first, "x", Qos::AtLeastOnce),
            Err(Refused::Ended)
        );
        router.disconnect(second, true);
        assert_eq!(router.client_ids().collect::<Vec<_>>(), ["$manager"]);
        assert!(router.exact.is_empty());
    }

    #[test]
    fn a_will_is_published_unless_there_was_a_farewell_and_only_where_the_client_may() {
        let (mut router, manager) = routed();
        router.subscribe(manager, "#", Qos::AtLeastOnce).unwrap();
        let own = format!("nodes/{NODE}/gone");
        for (topic, farewell, expected) in [
            (own.as_str(), true, None),
            (&own, false, Some(Ok(1))),
            ("nodes/other/gone", false, Some(Err(Refused::NotGranted))),
            ("#", false, Some(Err(Refused::Invalid))),
        ] {
            let mut connect = client(NODE);
            connect.will = Some(Will {
                topic: topic.to_owned(),
                payload: Bytes::new(),
                qos: Qos::AtLeastOnce,
            });
            let session = router.connect(connect, NOW).unwrap();
            router.disconnect(session, farewell);
            let outcome = events(&mut router)
                .into_iter()
                .find_map(|event| match event {
                    Event::Will { outcome, .. } => Some(outcome.map(|routed| routed.delivered)),
                    Event::Ready(_) | Event::Closed(..) => None,
                });
            assert_eq!(outcome, expected, "{topic}");
        }
    }

    #[test]
    fn who_is_silent_or_acknowledges_nothing_is_closed() {
        let (mut router, manager) = routed();
        let s = Duration::from_secs;
        let mut connect = client("a");
        connect.keep_alive = Some(s(15));
        connect.limits.in_flight_max = Some(1);
        let a = router.connect(connect.clone(), s(1)).unwrap();
        assert_eq!(router.poll_timeout(a), Some(s(16)));
        router.hear(a, s(2));
        assert_eq!(router.poll_timeout(a), Some(s(17)));
        router.handle_timeout(a, s(16));
        assert_eq!(events(&mut router), []);
        router.handle_timeout(a, s(17));
        assert_eq!(events(&mut router), [Event::Closed(a, Close::Silent)]);
        assert_eq!(router.poll_timeout(a), None);
        let a = router.connect(connect, s(20)).unwrap();
        router.subscribe(a, "x", Qos::AtLeastOnce).unwrap();
        publish(&mut router, manager, "x");
        router.poll_transmit(a, s(21)).unwrap();
        assert_eq!(router.poll_timeout(a), Some(s(31)));
        router.handle_timeout(a, s(31));
        assert!(events(&mut router).contains(&Event::Closed(a, Close::NotAcknowledging)));
    }

    #[test]
    fn a_publish_with_qos_2_is_routed_once_until_it_is_released() {
        let (mut router, manager) = routed();
        router.subscribe(manager, "x", Qos::AtLeastOnce).unwrap();
        let a = join(&mut router, "a");
        let payload = Bytes::from_static(b"x");
        let once = |router: &mut Router| router.publish_once(a, 7, "x", &payload);
        assert_eq!(once(&mut router).unwrap().unwrap().delivered, 1);
        assert_eq!(once(&mut router), None);
        router.release(a, 7);
        assert_eq!(once(&mut router).unwrap().unwrap().delivered, 1);
    }

    #[test]
    fn who_may_connect() {
        let mut router = Router::default();
        for (client_id, user, expected) in [
            ("manager", None, None),
            ("manager", Some("anybody"), None),
            (NODE, None, None),
            (NODE, Some(""), None),
            (NODE, Some(NODE), None),
            (NODE, Some("somebody"), Some(ConnectError::User)),
            ("", None, Some(ConnectError::ClientId)),
            ("$manager", None, Some(ConnectError::ClientId)),
        ] {
            let mut connect = client(client_id);
            connect.user = user;
            assert_eq!(
                router.connect(connect, NOW).err(),
                expected,
                "{client_id} {user:?}"
            );
        }
    }

    #[test]
    fn filters_that_are_wrong_or_not_granted_do_not_stand() {
        let mut router = Router::default();
        let node = join(&mut router, NODE);
        for (filter, expected) in [
            ("#", Err(Refused::NotGranted)),
            ("jobs/#/x", Err(Refused::Invalid)),
            ("", Err(Refused::Invalid)),
            ("jobs/+/updates_available", Err(Refused::NotGranted)),
            ("jobs/a.b.c.d/updates_available", Ok(())),
        ] {
            assert_eq!(
                router.subscribe(node, filter, Qos::AtLeastOnce),
                expected,
                "{filter}"
            );
        }
    }

    #[test]
    fn filters_are_bounded_in_number_and_in_bytes() {
        let (mut router, manager) = routed();
        for number in 0..FILTERS_MAX {
            let stands = router.subscribe(manager, &number.to_string(), Qos::AtMostOnce);
            stands.unwrap();
        }
        let subscribe =
            |router: &mut Router, filter: &str| router.subscribe(manager, filter, Qos::AtLeastOnce);
        assert_eq!(subscribe(&mut router, "x"), Err(Refused::Filters));
        assert_eq!(subscribe(&mut router, "7"), Ok(()), "it stands already");
        router.unsubscribe(manager, "7");
        assert_eq!(subscribe(&mut router, "x"), Ok(()));
        let a = join(&mut router, "a");
        let long = |number: usize| format!("{number:0>1024}");
        let fitting = FILTER_BYTES_MAX / 1024;
        for number in 0..fitting {
            router.subscribe(a, &long(number), Qos::AtMostOnce).unwrap();
        }
        assert_eq!(
            router.subscribe(a, "x", Qos::AtMostOnce),
            Err(Refused::FilterBytes)
        );
        router.unsubscribe(a, &long(0));
        router.unsubscribe(a, &long(0));
        assert_eq!(router.subscribe(a, &long(fitting), Qos::AtMostOnce), Ok(()));
        assert_eq!(
            router.subscribe(a, "x", Qos::AtMostOnce),
            Err(Refused::FilterBytes)
        );
    }
}
