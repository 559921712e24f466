//! Who sends what to whom: messages that the values want sent, and messages that arrive.

use crate::manager::{HTTP_WAIT, command_of};
use crate::network::Party;
use crate::planted::{self, Bug};
use crate::world::{Message, World};
use sluice_proto::message::Topic;
use sluice_proto::table_query::{answerer, asker};
use std::time::Duration;

impl World {
    pub(crate) fn deliver(&mut self, from: Party, to: Party, message: Message) {
        let now = self.now;
        match (to, message) {
            (Party::Cluster(index), Message::ToBroker(session, packet)) => {
                self.broker_receives(index, session, packet);
            }
            (Party::Node(index), Message::ToClient(session, message)) => {
                self.client_receives(index, session, &message);
            }
            (Party::Root, Message::Request(request)) => {
                let command = command_of(&request);
                let mut sync = self.network.sync_time();
                if self.bug == Some(Bug::AcknowledgeBeforeSync) {
                    // Nobody waits for it, so the disk takes its time, as the cache of a kernel does.
                    sync *= 25;
                }
                let applied = self.root.apply(&command, now, sync);
                let mut body = applied.reply.bytes();
                if self.bug == Some(Bug::EpochNotBumped) {
                    body = planted::without_epochs(&body);
                }
                let reply = Message::Reply {
                    id: request.id,
                    status: applied.reply.status,
                    body,
                    store: self.root.identity.clone(),
                    incarnation: self.root.incarnation,
                    revocations: self.root.root.revocations(),
                };
                // An answer waits for the disk. A crash before takes it along.
                let mut wait = self.root.store.wait(now);
                if self.bug == Some(Bug::AcknowledgeBeforeSync) {
                    wait = Duration::ZERO;
                }
                self.network.send(Party::Root, from, reply, now + wait);
            }
            (
                Party::Cluster(index),
                Message::Reply {
                    id,
                    status,
                    body,
                    store,
                    incarnation,
                    revocations,
                },
            ) => {
                let cluster = &mut self.clusters[index];
                if cluster.http.remove(&id).is_some() {
                    let believed = cluster.answerer.handle_root_store(&store);
                    let reply = believed.then_some((status, &body[..]));
                    cluster.answerer.handle_root_reply(id, reply, now);
                    if believed {
                        cluster.take_incarnation(incarnation, now);
                        cluster.answerer.handle_revocations(revocations, now);
                    }
                }
            }
            (Party::Cluster(index), Message::Notice(id, notice)) => {
                let cluster = &mut self.clusters[index];
                cluster.answerer.handle_job_update(&notice.update, now);
                let reply = Message::NoticeReply {
                    id,
                    cluster: notice.cluster,
                };
                self.network
                    .send(Party::Cluster(index), Party::Root, reply, now);
            }
            (Party::Root, Message::NoticeReply { id, cluster }) => {
                let sent = self.root.http.get(&cluster);
                if sent.is_some_and(|(sent, _)| *sent == id) {
                    self.root.http.remove(&cluster);
                    self.root.notifier.handle_reply(&cluster, true, now);
                }
            }
            (Party::Node(index), Message::Packet(bytes)) => {
                if let Party::Node(from) = from {
                    self.inbound(from, index, &bytes);
                }
            }
            (to, message) => panic!("{message:?} reached {to:?}"),
        }
    }

    pub(crate) fn node_receives(&mut self, index: usize, topic: &str, payload: &[u8]) {
        let now = self.now;
        let topic = Topic::parse(topic).expect("managers know the topics");
        let newest = (self.bug == Some(Bug::RevisionIgnored))
            .then(|| planted::as_newest(payload, self.network.arrivals()));
        let payload = newest.as_deref().unwrap_or(payload);
        let node = &mut self.nodes[index];
        let leaves = node.leaving.is_some();
        let (begun, said) = node.receive(&topic, payload, now);
        let has_left = leaves && node.leaving.is_none();
        let local = begun
            .as_ref()
            .and_then(|(job, number, _)| node.locals.get(&(job.clone(), *number)));
        let addresses: Vec<_> = local
            .iter()
            .flat_map(|local| local.instance_ip.iter())
            .collect();
        if let Some(subnet) = node.subnet {
            for network in subnet.iter() {
                self.truth.subnet_given(network, index);
            }
        }
        if let Some(identity) = begun {
            for ip in addresses {
                self.truth.address_given(ip.ip(), &format!("{identity:?}"));
            }
            self.note(format!("node{index} runs {identity:?}"));
            self.truth.living.insert(identity, index);
        }
        for message in said {
            self.send(index, message);
        }
        if has_left {
            self.join_anew(index);
        }
        // A gateway has done all that a message means before it looks at the next one.
        self.drain_node(index);
    }

    /// Moves everything that the values want to send.
    pub fn drain(&mut self) {
        for index in 0..self.nodes.len() {
            self.drain_node(index);
        }
        for index in 0..self.clusters.len() {
            self.drain_cluster(index);
        }
        while let Some(notice) = self.root.notifier.poll_transmit() {
            let index = cluster_index(&notice.cluster);
            self.notices += 1;
            let request = (self.notices, self.now + HTTP_WAIT);
            self.root.http.insert(notice.cluster.clone(), request);
            self.network.send(
                Party::Root,
                Party::Cluster(index),
                Message::Notice(self.notices, notice),
                self.now,
            );
        }
    }

    /// A packet let go may make an instance answer, and its gateway ask.
    fn drain_node(&mut self, index: usize) {
        loop {
            self.drain_control(index);
            let left = self.nodes[index].settle(self.now);
            self.carry(index, left);
            if !self.nodes[index].plane.has_upcalls() {
                return;
            }
        }
    }

    fn drain_control(&mut self, index: usize) {
        let now = self.now;
        self.nodes[index].follow_upcalls(now);
        self.nodes[index].tell_suspects(now);
        while let Some(transmit) = self.nodes[index].asker.poll_transmit() {
            if let asker::Transmit::Query(request) = &transmit {
                let count = self.nodes[index]
                    .queries
                    .entry(request.key().to_owned())
                    .or_default();
                *count += 1;
            }
            let mqtt = transmit.mqtt(&self.nodes[index].id);
            self.send(index, mqtt);
        }
        for identity in self.nodes[index].follow_events(now) {
            let lives = self.truth.living.contains_key(&identity);
            // What is none of its tenants' business is withdrawn, too; which ones it has is known a moment later.
            let concerned = self.nodes[index].has_been_of(&identity.0);
            assert!(
                !(lives && concerned),
                "node{index} hears that {identity:?} is withdrawn"
            );
        }
    }

    fn drain_cluster(&mut self, index: usize) {
        if !self.clusters[index].up {
            return;
        }
        let now = self.now;
        let sync = self.network.sync_time();
        self.clusters[index].write(now, sync);
        // What is said waits for the disk.
        let at = now + self.clusters[index].store.wait(now);
        while let Some(transmit) = self.clusters[index].answerer.poll_transmit() {
            match transmit {
                answerer::Transmit::Root(request) => {
                    let cluster = &mut self.clusters[index];
                    cluster.root_requests += 1;
                    cluster.http.insert(request.id, at + HTTP_WAIT);
                    if self.root.up {
                        let request = Message::Request(request);
                        self.network
                            .send(Party::Cluster(index), Party::Root, request, at);
                    }
                }
                answerer::Transmit::Publish { topic, payload } => {
                    self.clusters[index].bus.say(at, topic, payload);
                }
            }
        }
        while self.clusters[index].answerer.poll_event().is_some() {}
        self.follow_bus_timers(index);
    }
}

fn cluster_index(id: &str) -> usize {
    id.trim_start_matches("cluster").parse().unwrap_or(0)
}
