//! The bus between nodes and their cluster manager: connections to the real router, and what they carry.

use crate::network::Party;
use crate::planted::Bug;
use crate::world::{Message, World};
use sluice_proto::broker::{Connect, Event, Limits, Qos, Refused, Router, SessionId, Transmit};
use sluice_proto::message::{Topic, Verb};
use sluice_proto::table_query::answerer::PublishError;
use sluice_proto::table_query::asker::Mqtt;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What a node sends to its broker.
#[derive(Clone, Debug)]
pub enum Packet {
    Say(Mqtt),
    Acknowledge(u16),
}

/// A cluster's broker, and the manager's place on it.
#[derive(Debug)]
pub struct Bus {
    pub up: bool,
    router: Router,
    manager: SessionId,
    /// The node at the other end of each connection, also when the node has lost it and nobody could say so.
    connections: BTreeMap<SessionId, usize>,
    /// What the manager says when its disk has what it shows.
    waiting: VecDeque<(Duration, String, Vec<u8>)>,
}

impl Bus {
    #[must_use]
    pub fn start(now: Duration) -> Self {
        let mut router = Router::default();
        let manager = router.link("$cluster-manager", now);
        router
            .subscribe(manager, Topic::ALL_NODES, Qos::AtLeastOnce)
            .expect("a manager may hear all nodes");
        Self {
            up: true,
            router,
            manager,
            connections: BTreeMap::new(),
            waiting: VecDeque::new(),
        }
    }

    /// The manager says something at `at`.
    pub fn say(&mut self, at: Duration, topic: String, payload: Vec<u8>) {
        self.waiting.push_back((at, topic, payload));
    }

    /// Whether the manager has something to say that waits for its disk.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// When something happens that no message causes.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let sessions = self.connections.keys();
        let timeouts = sessions.filter_map(|session| self.router.poll_timeout(*session));
        let said = self.waiting.front().map(|(at, ..)| *at);
        said.into_iter().chain(timeouts).min()
    }
}

impl World {
    /// A node connects to its broker. An earlier session of it that the broker still has ends.
    pub(crate) fn open(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let bus = &mut self.clusters[node.cluster].bus;
        let connect = Connect {
            client_id: node.id.as_str(),
            user: Some(node.id.as_str()),
            // Who is away is for the network to say.
            keep_alive: None,
            will: None,
            limits: Limits::CLIENT,
        };
        let session = bus.router.connect(connect, self.now);
        let session = session.expect("a node may connect as itself");
        bus.connections.insert(session, index);
        node.session = Some(session);
        let (cluster, id) = (node.cluster, node.id.clone());
        let topics = match &node.leaving {
            Some(_) => vec![Topic::node(id, Verb::LeaveResult)],
            None => Topic::of_gateway(&id).to_vec(),
        };
        for topic in topics {
            let topic = topic.to_string();
            self.send(index, Mqtt::Subscribe { topic });
        }
        self.follow_bus(cluster);
    }

    /// A node's connection ends, and what was on its way is lost. The broker hears of it, unless nothing passes between
    /// them.
    pub(crate) fn close(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(session) = node.session.take() else {
            return;
        };
        let cluster = node.cluster;
        let ends = (Party::Node(index), Party::Cluster(cluster));
        self.network.lose_between(ends.0, ends.1);
        let bus = &mut self.clusters[cluster].bus;
        if !self.network.is_cut(ends.0, ends.1) && bus.connections.remove(&session).is_some() {
            bus.router.disconnect(session, false);
        }
    }

    /// A node says something, if it is connected.
    pub fn send(&mut self, node: usize, mqtt: Mqtt) {
        self.send_packet(node, Packet::Say(mqtt));
    }

    fn send_packet(&mut self, node: usize, packet: Packet) {
        let cluster = Party::Cluster(self.nodes[node].cluster);
        if let Some(session) = self.nodes[node].session {
            let message = Message::ToBroker(session, packet);
            self.network
                .send_in_order(Party::Node(node), cluster, message, self.now);
        }
    }

    pub(crate) fn broker_receives(&mut self, index: usize, session: SessionId, packet: Packet) {
        let router = &mut self.clusters[index].bus.router;
        let outcome = match packet {
            Packet::Say(Mqtt::Publish { topic, payload }) => router
                .publish(session, &topic, &payload.into(), Qos::AtLeastOnce)
                .map(|routed| assert_eq!(routed.delivered, 1, "the manager hears {topic}")),
            Packet::Say(Mqtt::Subscribe { topic }) => {
                router.subscribe(session, &topic, Qos::AtLeastOnce)
            }
            Packet::Say(Mqtt::Unsubscribe { topic }) => {
                router.unsubscribe(session, &topic);
                Ok(())
            }
            Packet::Acknowledge(id) => {
                router.acknowledge(session, id, self.now);
                Ok(())
            }
        };
        // What a connection carries ends with it, so that only the broker itself can have ended the session meanwhile.
        assert!(
            matches!(outcome, Ok(()) | Err(Refused::Ended)),
            "{session:?} of cluster{index}: {outcome:?}"
        );
        self.follow_bus(index);
    }

    /// A message that the broker sent reaches a node.
    pub(crate) fn client_receives(&mut self, index: usize, session: SessionId, message: &Transmit) {
        if self.nodes[index].session != Some(session) {
            return;
        }
        if let Some(id) = message.id {
            self.send_packet(index, Packet::Acknowledge(id));
        }
        self.node_receives(index, &message.topic, &message.payload);
    }

    /// Lets the manager say what is due, and the broker close whom it has to.
    pub(crate) fn follow_bus_timers(&mut self, index: usize) {
        let now = self.now;
        let bus = &mut self.clusters[index].bus;
        while bus.waiting.front().is_some_and(|(at, ..)| *at <= now)
            && let Some((_, topic, payload)) = bus.waiting.pop_front()
        {
            // Without its broker it says nothing: whoever waits asks again.
            if bus.up {
                bus.router
                    .publish(bus.manager, &topic, &payload.into(), Qos::AtLeastOnce)
                    .expect("a manager may say everything");
            }
        }
        let sessions: Vec<SessionId> = bus.connections.keys().copied().collect();
        for session in sessions {
            bus.router.handle_timeout(session, now);
        }
        self.follow_bus(index);
    }

    fn follow_bus(&mut self, index: usize) {
        while let Some(event) = self.clusters[index].bus.router.poll_event() {
            match event {
                Event::Ready(session) if session == self.clusters[index].bus.manager => {
                    self.manager_hears(index);
                }
                Event::Ready(session) => {
                    let bus = &mut self.clusters[index].bus;
                    let node = bus.connections[&session];
                    while let Some(message) = bus.router.poll_transmit(session, self.now) {
                        let message = Message::ToClient(session, message);
                        let (from, to) = (Party::Cluster(index), Party::Node(node));
                        self.network.send(from, to, message, self.now);
                    }
                }
                Event::Closed(session, why) => {
                    let node = self.clusters[index].bus.connections.remove(&session);
                    let node = node.expect("a session ends once");
                    self.note(format!("cluster{index} closes node{node}: {why}"));
                    if self.nodes[node].session == Some(session) {
                        self.connect(node, false);
                        self.connect(node, !self.cut_off(node));
                    }
                }
                Event::Will { topic, .. } => panic!("nobody has a will: {topic}"),
            }
        }
    }

    fn manager_hears(&mut self, index: usize) {
        let now = self.now;
        let cluster = &mut self.clusters[index];
        let bus = &mut cluster.bus;
        while let Some(message) = bus.router.poll_transmit(bus.manager, now) {
            let ended = matches!(
                Topic::parse(&message.topic),
                Ok(Topic::Node {
                    verb: Verb::Undeployed,
                    ..
                })
            );
            if ended && self.bug == Some(Bug::WithdrawnIsAnswered) {
                continue;
            }
            let said = (cluster.answerer).handle_publish(&message.topic, &message.payload, now);
            // An operator may revoke a key; anything else was badly written.
            if let Err(error) = said
                && !matches!(error, PublishError::Revoked { .. })
            {
                panic!("gateways write well: {error}");
            }
        }
    }
}
