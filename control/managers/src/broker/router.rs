//! Who has subscribed to what, and one bounded queue per client.

use super::topic::{self, Grant};
use bytes::Bytes;
use rumqttc::mqttbytes::QoS;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// A message on its way to one subscriber.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Bytes,
    pub(crate) qos: QoS,
}

/// How much may wait for a client that does not read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimit {
    pub(crate) messages_max: usize,
    pub(crate) bytes_max: usize,
}

/// What waits for one client. Filled by the router, emptied by the client's own task.
#[derive(Debug)]
pub(crate) struct Outbox {
    limit: QueueLimit,
    waiting: Mutex<Waiting>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Delivery>,
    bytes: usize,
    /// Set when the client has to go: its id was taken over.
    closed: bool,
}

impl Outbox {
    fn new(limit: QueueLimit) -> Self {
        Self {
            limit,
            waiting: Mutex::default(),
            ready: Notify::new(),
        }
    }

    /// Whether there was room.
    fn push(&self, delivery: Delivery) -> bool {
        let mut waiting = lock(&self.waiting);
        let size = delivery.topic.len() + delivery.payload.len();
        if waiting.messages.len() >= self.limit.messages_max
            || waiting.bytes + size > self.limit.bytes_max
        {
            return false;
        }
        waiting.bytes += size;
        waiting.messages.push_back(delivery);
        drop(waiting);
        self.ready.notify_one();
        true
    }

    pub(crate) fn pop(&self) -> Option<Delivery> {
        let mut waiting = lock(&self.waiting);
        let delivery = waiting.messages.pop_front()?;
        waiting.bytes -= delivery.topic.len() + delivery.payload.len();
        Some(delivery)
    }

    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.waiting).closed
    }

    /// Waits until something was pushed or the box was closed since the last call returned.
    pub(crate) async fn changed(&self) {
        self.ready.notified().await;
    }

    fn close(&self) {
        lock(&self.waiting).closed = true;
        self.ready.notify_one();
    }
}

/// All sessions of the broker. Sessions end with their connection ("clean session").
#[derive(Debug, Default)]
pub(crate) struct Router {
    clients: BTreeMap<String, Client>,
    /// Subscribers of filters without wildcards: the common case costs one look-up.
    exact: BTreeMap<String, Subscribers>,
    /// Subscribers of filters with wildcards: a few managers.
    wild: BTreeMap<String, Subscribers>,
    joined: u64,
}

/// The QoS granted to each client, by client id.
type Subscribers = BTreeMap<String, QoS>;

#[derive(Debug)]
struct Client {
    session: u64,
    outbox: Arc<Outbox>,
    grant: Grant,
    filters: BTreeSet<String>,
}

/// What came of a publish.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Routed {
    pub(crate) delivered: usize,
    /// Subscribers whose queue was full.
    pub(crate) dropped: usize,
}

/// How many filters one client may hold: one per interest, and a node has at most some thousands.
const FILTERS_MAX: usize = 65_536;

impl Router {
    /// Lets a client in; an earlier session with that id ends (MQTT 3.1.1 section 3.1.4). Returns the session's
    /// number, which [`Router::leave`] wants back, and its queue.
    pub(crate) fn join(
        &mut self,
        client_id: &str,
        grant: Grant,
        limit: QueueLimit,
    ) -> (u64, Arc<Outbox>) {
        self.remove(client_id);
        self.joined += 1;
        let outbox = Arc::new(Outbox::new(limit));
        let client = Client {
            session: self.joined,
            outbox: Arc::clone(&outbox),
            grant,
            filters: BTreeSet::new(),
        };
        self.clients.insert(client_id.to_owned(), client);
        (self.joined, outbox)
    }

    /// Ends `session` of that client; a later session with the same id stays.
    pub(crate) fn leave(&mut self, client_id: &str, session: u64) {
        if self
            .clients
            .get(client_id)
            .is_some_and(|client| client.session == session)
        {
            self.remove(client_id);
        }
    }

    fn remove(&mut self, client_id: &str) {
        let Some(client) = self.clients.remove(client_id) else {
            return;
        };
        client.outbox.close();
        for filter in &client.filters {
            self.forget(filter, client_id);
        }
    }

    fn index(&mut self, filter: &str) -> &mut BTreeMap<String, Subscribers> {
        if topic::has_wildcard(filter) {
            &mut self.wild
        } else {
            &mut self.exact
        }
    }

    fn forget(&mut self, filter: &str, client_id: &str) {
        let index = self.index(filter);
        if let Some(subscribers) = index.get_mut(filter) {
            subscribers.remove(client_id);
            if subscribers.is_empty() {
                index.remove(filter);
            }
        }
    }

    /// Whether the subscription stands: the filter is valid, granted and within the client's limit.
    pub(crate) fn subscribe(&mut self, client_id: &str, filter: &str, qos: QoS) -> bool {
        let Some(client) = self.clients.get_mut(client_id) else {
            return false;
        };
        if !topic::is_filter(filter)
            || !client.grant.may_subscribe(filter)
            || (client.filters.len() >= FILTERS_MAX && !client.filters.contains(filter))
        {
            return false;
        }
        client.filters.insert(filter.to_owned());
        self.index(filter)
            .entry(filter.to_owned())
            .or_default()
            .insert(client_id.to_owned(), qos);
        true
    }

    pub(crate) fn unsubscribe(&mut self, client_id: &str, filter: &str) {
        if let Some(client) = self.clients.get_mut(client_id) {
            client.filters.remove(filter);
            self.forget(filter, client_id);
        }
    }

    /// Queues the message for each subscriber once, with the highest QoS that its filters and the publisher allow.
    pub(crate) fn publish(&self, topic: &str, payload: &Bytes, qos: QoS) -> Routed {
        let wild = self
            .wild
            .iter()
            .filter(|(filter, _)| topic::matches(filter, topic))
            .map(|(_, subscribers)| subscribers);
        let mut wanted: BTreeMap<&str, QoS> = BTreeMap::new();
        for (client_id, granted) in self.exact.get(topic).into_iter().chain(wild).flatten() {
            let highest = wanted.entry(client_id).or_insert(*granted);
            if *granted > *highest {
                *highest = *granted;
            }
        }
        let name: Arc<str> = topic.into();
        let mut routed = Routed::default();
        for (client_id, granted) in wanted {
            let Some(client) = self.clients.get(client_id) else {
                unreachable!("a client leaves the indexes when it leaves the clients");
            };
            let delivery = Delivery {
                topic: Arc::clone(&name),
                payload: payload.clone(),
                qos: lower(granted, qos),
            };
            if client.outbox.push(delivery) {
                routed.delivered += 1;
            } else {
                routed.dropped += 1;
            }
        }
        routed
    }

    /// Ids of the clients that are connected, in order.
    pub(crate) fn client_ids(&self) -> impl Iterator<Item = &str> {
        self.clients.keys().map(String::as_str)
    }
}

fn lower(a: QoS, b: QoS) -> QoS {
    if a < b { a } else { b }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: QueueLimit = QueueLimit {
        messages_max: 2,
        bytes_max: 1 << 20,
    };

    fn publish(router: &Router, topic: &str) -> Routed {
        router.publish(topic, &Bytes::from_static(b"x"), QoS::AtLeastOnce)
    }

    #[test]
    fn a_subscriber_of_two_matching_filters_gets_one_copy_at_the_higher_qos() {
        let mut router = Router::default();
        let (_, outbox) = router.join("a", Grant::All, LIMIT);
        assert!(router.subscribe("a", "x/+", QoS::AtMostOnce));
        assert!(router.subscribe("a", "x/y", QoS::AtLeastOnce));
        assert_eq!(
            publish(&router, "x/y"),
            Routed {
                delivered: 1,
                dropped: 0
            }
        );
        let delivery = outbox.pop().unwrap();
        assert_eq!(delivery.qos, QoS::AtLeastOnce);
        assert!(outbox.pop().is_none());
        router.unsubscribe("a", "x/y");
        publish(&router, "x/y");
        assert_eq!(outbox.pop().unwrap().qos, QoS::AtMostOnce);
    }

    #[test]
    fn a_full_queue_drops_and_says_so() {
        let mut router = Router::default();
        let (_, outbox) = router.join("a", Grant::All, LIMIT);
        router.subscribe("a", "#", QoS::AtLeastOnce);
        let routed: Vec<_> = (0..3).map(|_| publish(&router, "x").dropped).collect();
        assert_eq!(routed, [0, 0, 1]);
        outbox.pop().unwrap();
        assert_eq!(publish(&router, "x").dropped, 0);
    }

    #[test]
    fn a_client_id_taken_over_ends_the_earlier_session_only() {
        let mut router = Router::default();
        let (first, old) = router.join("a", Grant::All, LIMIT);
        router.subscribe("a", "x", QoS::AtLeastOnce);
        let (second, new) = router.join("a", Grant::All, LIMIT);
        assert!(old.is_closed());
        router.leave("a", first);
        assert!(!new.is_closed());
        assert_eq!(publish(&router, "x").delivered, 0, "subscriptions are gone");
        router.leave("a", second);
        assert_eq!(router.client_ids().count(), 0);
    }

    #[test]
    fn filters_that_are_wrong_or_not_granted_do_not_stand() {
        let mut router = Router::default();
        let id = "0123456789abcdef01234567";
        router.join(id, Grant::of_client(id), LIMIT);
        assert!(!router.subscribe(id, "#", QoS::AtLeastOnce));
        assert!(!router.subscribe(id, "jobs/#/x", QoS::AtLeastOnce));
        assert!(router.subscribe(id, "jobs/a.b.c.d/updates_available", QoS::AtLeastOnce));
        assert!(!router.subscribe("nobody", "x", QoS::AtLeastOnce));
    }
}
