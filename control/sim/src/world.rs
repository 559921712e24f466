//! All parties, the network between them, and virtual time.

use crate::bus::Packet;
use crate::manager::{Cluster, RootShell, signer_of};
use crate::network::{Network, Weather};
use crate::node::Node;
use crate::planted::Bug;
use crate::probes::Failover;
use crate::traffic::Traffic;
use crate::truth::Truth;
use rand::SeedableRng;
use rand::rngs::StdRng;
use sluice_proto::ServiceName;
use sluice_proto::broker::{SessionId, Transmit};
use sluice_proto::message::NodeId;
use sluice_proto::table_query::answerer::{self, RootRequest};
use sluice_proto::table_query::asker;
use sluice_proto::table_query::notifier::Notice;
use sluice_wire::AddressPlan;
use std::time::Duration;

/// What travels.
#[derive(Clone, Debug)]
pub enum Message {
    ToBroker(SessionId, Packet),
    ToClient(SessionId, Transmit),
    /// A datagram of the tunnel, node to node.
    Packet(Vec<u8>),
    Request(RootRequest),
    Reply {
        id: u64,
        status: u16,
        body: Vec<u8>,
        /// Identity of the root's store.
        store: String,
        /// The root's life.
        incarnation: u64,
        /// How often its revoked keys have changed.
        revocations: u64,
    },
    Notice(u64, Notice),
    NoticeReply {
        id: u64,
        cluster: String,
    },
}

/// The size and the settings of a world.
#[derive(Clone, Debug)]
pub struct Shape {
    pub clusters: usize,
    pub nodes_per_cluster: usize,
    /// Rows per answer; small values make pruning happen.
    pub instances_max: usize,
    pub interest_idle: Duration,
    pub failover: Failover,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            clusters: 2,
            nodes_per_cluster: 3,
            instances_max: 24,
            interest_idle: Duration::from_secs(60),
            failover: Failover::Reported,
        }
    }
}

/// All parties, the network between them, and the truth.
#[derive(Debug)]
pub struct World {
    pub now: Duration,
    pub random: StdRng,
    pub network: Network<Message>,
    pub root: RootShell,
    pub clusters: Vec<Cluster>,
    pub nodes: Vec<Node>,
    pub truth: Truth,
    pub traffic: Traffic,
    pub bug: Option<Bug>,
    pub services: Vec<ServiceName>,
    pub(crate) applied: u64,
    pub(crate) notices: u64,
    /// What happened, for a failing seed.
    pub log: Vec<String>,
}

impl World {
    #[must_use]
    pub fn new(seed: u64, shape: &Shape, weather: Weather) -> Self {
        let plan = AddressPlan::oakestra();
        let now = Duration::ZERO;
        let clusters = (0..shape.clusters)
            .map(|index| {
                let id = format!("cluster{index}");
                let mut settings =
                    answerer::Settings::new(&id, "192.0.2.200", 10110, 1 + seed % 1000);
                settings.instances_max = shape.instances_max;
                settings.signer = Some(signer_of(seed ^ (index as u64 + 1) << 32));
                Cluster::new(settings, seed ^ 0xc1, now)
            })
            .collect();
        let nodes = (0..shape.clusters * shape.nodes_per_cluster)
            .map(|index| {
                let id = NodeId::new(format!("{index:024x}")).expect("as Oakestra's");
                let settings = asker::Settings {
                    interest_idle: shape.interest_idle,
                    ..asker::Settings::default()
                };
                let cluster = index % shape.clusters;
                let mut node = Node::new(id, index, cluster, settings, seed ^ index as u64);
                node.failover = shape.failover;
                node
            })
            .collect();
        let mut world = Self {
            now,
            random: StdRng::seed_from_u64(seed),
            network: Network::new(seed ^ 0x5eed, weather),
            root: RootShell::new(&plan, seed),
            clusters,
            nodes,
            truth: Truth::default(),
            traffic: Traffic::default(),
            bug: None,
            services: Vec::new(),
            applied: 0,
            notices: 0,
            log: Vec::new(),
        };
        for index in 0..world.nodes.len() {
            world.connect(index, true);
        }
        world
    }

    /// Makes everybody make a mistake.
    pub fn plant(&mut self, bug: Bug) {
        self.bug = Some(bug);
        self.root.bug = Some(bug);
        for node in &mut self.nodes {
            node.bug = Some(bug);
        }
    }

    /// Lets the world go on until `until`.
    pub fn run_until(&mut self, until: Duration) {
        self.drain();
        loop {
            let next = self.next_event().filter(|at| *at <= until);
            let Some(next) = next else {
                self.now = until;
                return;
            };
            self.now = self.now.max(next);
            self.step();
            self.drain();
        }
    }

    pub fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    pub fn note(&mut self, text: impl AsRef<str>) {
        self.log
            .push(format!("{:>9.3} {}", self.now.as_secs_f64(), text.as_ref()));
    }

    /// Lets what is on its way arrive.
    pub fn settle(&mut self) {
        while self.network.next().is_some()
            || self.clusters.iter().any(|it| it.up && it.bus.is_waiting())
        {
            self.run_for(Duration::from_millis(1));
        }
    }

    fn next_event(&self) -> Option<Duration> {
        let nodes = self
            .nodes
            .iter()
            .flat_map(|node| {
                [
                    node.asker.poll_timeout(),
                    node.repeat_at,
                    Some(node.tick_at),
                    node.poll_probes(),
                ]
            })
            .flatten();
        let clusters = self
            .clusters
            .iter()
            .filter(|cluster| cluster.up)
            .flat_map(|cluster| {
                cluster
                    .answerer
                    .poll_timeout()
                    .into_iter()
                    .chain(cluster.http.values().copied())
                    .chain(cluster.bus.poll_timeout())
            });
        let root = self
            .root
            .notifier
            .poll_timeout()
            .into_iter()
            .chain(self.root.http.values().map(|(_, at)| *at))
            .filter(|_| self.root.up);
        nodes
            .chain(clusters)
            .chain(root)
            .chain(self.network.next())
            .chain(self.traffic.poll_timeout())
            .min()
    }

    fn step(&mut self) {
        let now = self.now;
        while let Some((from, to, message)) = self.network.receive(now) {
            self.deliver(from, to, message);
        }
        for index in 0..self.nodes.len() {
            self.nodes[index].asker.handle_timeout(now);
            if self.nodes[index].repeat_at.is_some_and(|at| at <= now) {
                self.nodes[index].repeat_at = None;
                if self.nodes[index].is_connected() {
                    let said = self.nodes[index].announce(now);
                    for message in said {
                        self.send(index, message);
                    }
                }
            }
        }
        for index in 0..self.nodes.len() {
            if self.nodes[index].tick_at <= now {
                let left = self.nodes[index].tick(now);
                self.carry(index, left);
            }
            let probes = self.nodes[index].probe(now);
            self.carry(index, probes);
        }
        self.send_requests();
        for cluster in self.clusters.iter_mut().filter(|cluster| cluster.up) {
            cluster.answerer.handle_timeout(now);
            let late: Vec<u64> = due(&cluster.http, now);
            for id in late {
                cluster.http.remove(&id);
                cluster.answerer.handle_root_reply(id, None, now);
            }
        }
        if self.root.up {
            self.root.notifier.handle_timeout(now);
            let late: Vec<String> = self
                .root
                .http
                .iter()
                .filter(|(_, (_, at))| *at <= now)
                .map(|(cluster, _)| cluster.clone())
                .collect();
            for cluster in late {
                self.root.http.remove(&cluster);
                self.root.notifier.handle_reply(&cluster, false, now);
            }
        }
    }
}

fn due<K: Clone + Ord>(
    deadlines: &std::collections::BTreeMap<K, Duration>,
    now: Duration,
) -> Vec<K> {
    deadlines
        .iter()
        .filter(|(_, at)| **at <= now)
        .map(|(key, _)| key.clone())
        .collect()
}
