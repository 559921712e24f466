//! The router beside a naive one: a list of clients, each with a list of filters, all looked through for every message.

use super::*;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::time::Duration;

const NODES: [&str; 2] = ["0123456789abcdef01234567", "ffffffffffffffffffffffff"];
const CLIENTS: [&str; 5] = [
    NODES[0],
    NODES[1],
    "0123456789abcdef01234567-ne",
    "manager",
    "person",
];
const FILTERS: [&str; 12] = [
    "#",
    "nodes/+/net/#",
    "nodes/0123456789abcdef01234567/net/subnet",
    "nodes/0123456789abcdef01234567/#",
    "nodes/ffffffffffffffffffffffff/+/subnet",
    "jobs/a.b.c.d/updates_available",
    "jobs/+/updates_available",
    "jobs/#",
    "+/+/+",
    "$SYS/#",
    "a#",
    "",
];
const TOPICS: [&str; 7] = [
    "nodes/0123456789abcdef01234567/net/subnet",
    "nodes/ffffffffffffffffffffffff/net/subnet",
    "nodes/ffffffffffffffffffffffff/net",
    "jobs/a.b.c.d/updates_available",
    "jobs/a.b.c.d",
    "$SYS/x",
    "jobs/+",
];
const LIMITS: Limits = Limits {
    messages_max: 4,
    bytes_max: 200,
    in_flight_max: Some(2),
};

struct Client {
    session: SessionId,
    name: &'static str,
    filters: Vec<(&'static str, Qos)>,
    waiting: Vec<(&'static str, Bytes, Qos)>,
    in_flight: Vec<u16>,
    /// The router said that something waits, and was not asked to the end since.
    ready: bool,
}

impl Client {
    fn node(&self) -> Option<&'static str> {
        self.name.starts_with(['0', 'f']).then(|| &self.name[..24])
    }

    fn may_publish(&self, topic: &str) -> bool {
        let levels: Vec<_> = topic.split('/').collect();
        match self.node() {
            Some(node) => levels.len() > 2 && levels[..2] == ["nodes", node],
            None => levels[0] != "$SYS",
        }
    }

    fn may_subscribe(&self, filter: &str) -> bool {
        let job = "jobs/a.b.c.d/updates_available";
        self.node().is_none() || filter == job || self.may_publish(filter)
    }

    fn wants(&self, topic: &str) -> Option<Qos> {
        let taken = self
            .filters
            .iter()
            .filter(|(filter, _)| takes(filter, topic));
        taken.map(|(_, qos)| *qos).max()
    }

    /// Whether there is room.
    fn take(&mut self, topic: &'static str, payload: &Bytes, qos: Qos) -> bool {
        let size = |topic: &str, payload: &Bytes| topic.len() + payload.len();
        let held = self
            .waiting
            .iter()
            .map(|(topic, payload, _)| size(topic, payload));
        let fits = self.waiting.len() < 4 && held.sum::<usize>() + size(topic, payload) <= 200;
        if fits {
            self.waiting.push((topic, payload.clone(), qos));
        }
        fits
    }
}

/// MQTT 3.1.1 section 4.7, level by level from the front.
fn takes(filter: &str, topic: &str) -> bool {
    fn levels(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) | ([], []) => true,
            (["+", filter @ ..], [_, topic @ ..]) => levels(filter, topic),
            ([wanted, filter @ ..], [level, topic @ ..]) => {
                wanted == level && levels(filter, topic)
            }
            ([], _) | (_, []) => false,
        }
    }
    let (filter, topic): (Vec<_>, Vec<_>) =
        (filter.split('/').collect(), topic.split('/').collect());
    let hidden = topic[0].starts_with('$') && matches!(filter[0], "+" | "#");
    !hidden && levels(&filter, &topic)
}

#[derive(Default)]
struct Pair {
    router: Router,
    clients: Vec<Client>,
    /// All sessions there ever were.
    sessions: BTreeSet<SessionId>,
    now: Duration,
}

impl Pair {
    fn connect(&mut self, name: &'static str) {
        let connect = Connect {
            client_id: name,
            user: None,
            keep_alive: None,
            will: None,
            limits: LIMITS,
        };
        let session = self.router.connect(connect, self.now).unwrap();
        assert!(
            self.sessions.insert(session),
            "numbers are never used again"
        );
        if let Some(earlier) = self.clients.iter().position(|client| client.name == name) {
            let earlier = self.clients.remove(earlier).session;
            let closed = Event::Closed(earlier, Close::TakenOver);
            assert_eq!(self.router.poll_event(), Some(closed));
        }
        self.clients.push(Client {
            session,
            name,
            filters: Vec::new(),
            waiting: Vec::new(),
            in_flight: Vec::new(),
            ready: false,
        });
    }

    fn subscribe(&mut self, which: usize, filter: &'static str, qos: Qos) {
        let client = &mut self.clients[which];
        let valid = !["a#", ""].contains(&filter);
        let expected = match (valid, client.may_subscribe(filter)) {
            (false, _) => Err(Refused::Invalid),
            (true, false) => Err(Refused::NotGranted),
            (true, true) => Ok(()),
        };
        assert_eq!(self.router.subscribe(client.session, filter, qos), expected);
        if expected.is_ok() {
            client.filters.retain(|(held, _)| *held != filter);
            client.filters.push((filter, qos));
        }
    }

    fn publish(&mut self, which: usize, topic: &'static str, size: u8, qos: Qos) {
        let payload = Bytes::from(vec![size; usize::from(size)]);
        let publisher = &self.clients[which];
        let expected = if topic.contains('+') {
            Err(Refused::Invalid)
        } else if publisher.may_publish(topic) {
            let mut routed = Routed::default();
            for client in &mut self.clients {
                if let Some(granted) = client.wants(topic) {
                    let took = client.take(topic, &payload, granted.min(qos));
                    routed.delivered += usize::from(took);
                    routed.dropped += usize::from(!took);
                }
            }
            Ok(routed)
        } else {
            Err(Refused::NotGranted)
        };
        let session = self.clients[which].session;
        let routed = self.router.publish(session, topic, &payload, qos);
        assert_eq!(routed, expected);
    }

    /// Takes up to `count` messages that may be sent.
    fn send(&mut self, which: usize, count: usize) {
        let client = &mut self.clients[which];
        for _ in 0..count {
            let sent = self.router.poll_transmit(client.session, self.now);
            if client.waiting.is_empty() || client.in_flight.len() == 2 {
                assert_eq!(sent, None);
                client.ready = false;
                return;
            }
            let (topic, payload, qos) = client.waiting.remove(0);
            let sent = sent.expect("one waits and may be sent");
            assert_eq!((&*sent.topic, &sent.payload), (topic, &payload));
            assert_eq!(sent.id.is_some(), qos == Qos::AtLeastOnce);
            if let Some(id) = sent.id {
                assert!(!client.in_flight.contains(&id));
                client.in_flight.push(id);
            }
        }
    }

    fn acknowledge(&mut self, which: usize, id: u16) {
        let client = &mut self.clients[which];
        let id = client.in_flight.first().copied().unwrap_or(id);
        client.in_flight.retain(|held| *held != id);
        self.router.acknowledge(client.session, id, self.now);
    }

    fn check(&mut self) {
        while let Some(event) = self.router.poll_event() {
            let Event::Ready(session) = event else {
                panic!("{event:?}");
            };
            let client = self
                .clients
                .iter_mut()
                .find(|client| client.session == session);
            let client = client.expect("only of sessions that are there");
            assert!(!client.ready, "said twice");
            client.ready = true;
        }
        for client in &self.clients {
            let may_be_sent = !client.waiting.is_empty() && client.in_flight.len() < 2;
            assert!(client.ready || !may_be_sent, "{} is not told", client.name);
            let full = client.in_flight.len() == 2;
            let timeout = self.router.poll_timeout(client.session);
            assert_eq!(timeout.is_some(), full, "{}", client.name);
        }
        let mut names: Vec<_> = self.clients.iter().map(|client| client.name).collect();
        names.sort_unstable();
        assert_eq!(self.router.client_ids().collect::<Vec<_>>(), names);
    }
}

#[test]
fn the_router_does_what_a_list_of_subscriptions_does() {
    bolero::check!()
        .with_type::<Vec<(u8, u8, u8, u8)>>()
        .for_each(|steps| {
            let mut pair = Pair::default();
            for name in CLIENTS {
                pair.connect(name);
            }
            for (verb, which, what, size) in steps {
                pair.now += Duration::from_millis(1);
                let (which, what) = (usize::from(*which), usize::from(*what));
                let qos = if size % 2 == 0 {
                    Qos::AtLeastOnce
                } else {
                    Qos::AtMostOnce
                };
                let client = which % pair.clients.len().max(1);
                match verb % 8 {
                    0 => pair.connect(CLIENTS[which % CLIENTS.len()]),
                    _ if pair.clients.is_empty() => {}
                    1 => {
                        let gone = pair.clients.remove(client);
                        pair.router.disconnect(gone.session, *size > 0);
                    }
                    2 | 3 => pair.subscribe(client, FILTERS[what % FILTERS.len()], qos),
                    4 => {
                        let filter = FILTERS[what % FILTERS.len()];
                        let client = &mut pair.clients[client];
                        client.filters.retain(|(held, _)| *held != filter);
                        pair.router.unsubscribe(client.session, filter);
                    }
                    5 | 6 => pair.publish(client, TOPICS[what % TOPICS.len()], *size, qos),
                    _ if what % 3 == 0 => pair.acknowledge(client, u16::from(*size)),
                    _ => pair.send(client, what),
                }
                pair.check();
            }
        });
}

#[test]
fn naive_matching_is_what_the_router_does() {
    for filter in FILTERS.iter().filter(|filter| topic::is_filter(filter)) {
        for topic in TOPICS.iter().filter(|topic| topic::is_name(topic)) {
            assert_eq!(
                topic::matches(filter, topic),
                takes(filter, topic),
                "{filter} {topic}"
            );
        }
    }
}
