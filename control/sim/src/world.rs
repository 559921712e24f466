//! The whole control plane on virtual time: who sends what to whom, and what happens to them.

use crate::manager::{Cluster, HTTP_WAIT, RootShell, command_of};
use crate::network::{Network, Party, Weather};
use crate::node::Node;
use crate::truth::Truth;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sluice_proto::ServiceName;
use sluice_proto::message::{NodeId, ServiceDeploy, Topic, Verb};
use sluice_proto::table_query::Key;
use sluice_proto::table_query::answerer::{self, RootRequest};
use sluice_proto::table_query::asker::{self, Mqtt};
use sluice_proto::table_query::notifier::Notice;
use sluice_proto::table_query::root::Command;
use sluice_wire::AddressPlan;
use std::time::Duration;

/// What travels.
#[derive(Clone, Debug)]
pub enum Message {
    /// Node to broker.
    Mqtt(NodeId, Mqtt),
    /// Broker to node.
    Deliver {
        topic: String,
        payload: Vec<u8>,
    },
    Request(RootRequest),
    Reply {
        id: u64,
        status: u16,
        body: Vec<u8>,
        /// Identity of the root's store.
        store: String,
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
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            clusters: 2,
            nodes_per_cluster: 3,
            instances_max: 24,
            interest_idle: Duration::from_secs(60),
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
    pub services: Vec<ServiceName>,
    applied: u64,
    notices: u64,
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
                Cluster::new(settings, seed ^ 0xc1, now)
            })
            .collect();
        let nodes = (0..shape.clusters * shape.nodes_per_cluster)
            .map(|index| {
                let id = NodeId::new(format!("node{index}")).expect("letters and digits");
                let settings = asker::Settings {
                    interest_idle: shape.interest_idle,
                    ..asker::Settings::default()
                };
                let cluster = index % shape.clusters;
                Node::new(id, index, cluster, settings, seed ^ index as u64)
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

    /// A developer applies a new service; the root answers on the spot, as its command line does.
    ///
    /// # Panics
    /// When the root refuses it.
    pub fn apply_service(&mut self) {
        self.applied += 1;
        let name = format!("app{}", self.applied % 7);
        let service = format!("svc{}", self.applied);
        let descriptor = serde_json::json!({
            "app_name": name, "app_ns": "ns", "service_name": service, "service_ns": "test",
            "microservice_name": service, "microservice_namespace": "test", "port": "80"});
        let job: ServiceName = format!("{name}.ns.{service}.test")
            .parse()
            .expect("a service name");
        let deploy = ServiceDeploy {
            id: self.root.root.id_for(&job),
            deployment_descriptor: descriptor,
        };
        let applied = self.root.apply(&Command::ServiceDeploy(deploy), self.now);
        assert_eq!(applied.reply.status, 200, "{:?}", applied.reply);
        self.note(format!("apply {job}"));
        self.services.push(job);
    }

    /// A developer deletes a service, which the root allows when nothing of it is left.
    pub fn delete_service(&mut self, which: usize) {
        let Some(job) = self
            .services
            .get(which % self.services.len().max(1))
            .cloned()
        else {
            return;
        };
        let id = self.root.root.id_for(&job);
        let applied = self.root.apply(&Command::ServiceDelete { id }, self.now);
        if applied.reply.status == 200 {
            self.note(format!("delete {job}"));
            self.services.retain(|other| *other != job);
        }
    }

    pub fn attach(&mut self, node: usize, service: usize) {
        let Some(job) = self
            .services
            .get(service % self.services.len().max(1))
            .cloned()
        else {
            return;
        };
        self.note(format!("attach {job} at node{node}"));
        self.nodes[node].attach(&job, self.now);
    }

    pub fn detach(&mut self, node: usize, which: usize) {
        let now = self.now;
        if let Some((identity, message)) = self.nodes[node].detach(which, now) {
            self.note(format!("detach {identity:?} at node{node}"));
            self.truth.living.remove(&identity);
            self.send(node, message);
        }
    }

    /// A node needs to know a service: by name, ServiceIP or InstanceIP, or an address that nothing has.
    pub fn ask(&mut self, node: usize, service: usize, how: u32) {
        let Some(job) = self
            .services
            .get(service % self.services.len().max(1))
            .cloned()
        else {
            return;
        };
        let known = self.root.root.job(&Key::Name(job.clone()));
        let service_ip = known.and_then(|job| job.service_ip_list.first()?.address);
        let instance_ip = known.and_then(|job| job.instance_list.last()?.instance_ip_v6);
        let key = match how % 4 {
            0 => Key::Name(job),
            1 => service_ip.map_or(Key::Name(job), Key::Address),
            2 => instance_ip.map_or(
                Key::Address(sluice_wire::Ip::v4([10, 30, 99, 99])),
                Key::Address,
            ),
            _ => Key::Address(sluice_wire::Ip::v4([10, 30, 200, 7])),
        };
        self.note(format!("node{node} asks {key}"));
        self.nodes[node].asker.handle_question(&key, self.now);
    }

    /// The connection of a node to its broker comes up or goes.
    pub fn connect(&mut self, index: usize, up: bool) {
        let now = self.now;
        let node = &mut self.nodes[index];
        if node.connected == up {
            return;
        }
        let cluster = node.cluster;
        node.connected = up;
        node.asker.handle_connection(up, now);
        let id = node.id.clone();
        self.note(format!("node{index} connected: {up}"));
        if up {
            let said = self.nodes[index].announce(now);
            for message in said {
                self.send(index, message);
            }
        } else {
            // A clean session ends with its connection.
            self.clusters[cluster]
                .subscriptions
                .retain(|(_, node)| *node != id);
        }
    }

    pub fn restart_node(&mut self, index: usize) {
        self.connect(index, false);
        self.network.reset(Party::Node(index));
        let seed = self.random.random();
        let now = self.now;
        self.note(format!("node{index} restarts"));
        self.nodes[index].restart(seed, now);
        self.drain();
        self.connect(index, !self.cut_off(index));
    }

    pub fn stop_cluster(&mut self, index: usize) {
        self.note(format!("cluster{index} stops"));
        self.clusters[index].up = false;
        self.network.reset(Party::Cluster(index));
        for node in 0..self.nodes.len() {
            if self.nodes[node].cluster == index {
                self.connect(node, false);
            }
        }
    }

    pub fn start_cluster(&mut self, index: usize) {
        self.note(format!("cluster{index} starts"));
        let seed = self.random.random();
        self.clusters[index].restart(seed, self.now);
        for node in 0..self.nodes.len() {
            if self.nodes[node].cluster == index && !self.cut_off(node) {
                self.connect(node, true);
            }
        }
    }

    pub fn stop_root(&mut self) {
        self.note("root stops");
        self.root.up = false;
        self.network.reset(Party::Root);
    }

    pub fn start_root(&mut self) {
        self.note("root starts");
        let seed = self.random.random();
        self.root.restart(seed);
    }

    /// The root starts without its store; gives the root as it was.
    pub fn wipe_root(&mut self) -> RootShell {
        self.stop_root();
        self.note("root starts with an empty store");
        let empty = RootShell::new(&AddressPlan::oakestra(), self.random.random());
        std::mem::replace(&mut self.root, empty)
    }

    /// The root starts with a store that was kept.
    pub fn bring_back_root(&mut self, kept: RootShell) {
        self.stop_root();
        self.root = kept;
        self.start_root();
    }

    pub fn restart_cluster(&mut self, index: usize) {
        if self.clusters[index].up {
            self.stop_cluster(index);
        }
        self.start_cluster(index);
    }

    pub fn restart_root(&mut self) {
        if self.root.up {
            self.stop_root();
        }
        self.start_root();
    }

    /// What is stopped starts, and what is cut from the root is joined to it.
    pub fn repair(&mut self) {
        if !self.root.up {
            self.start_root();
        }
        for index in 0..self.clusters.len() {
            self.network.join(Party::Cluster(index), Party::Root);
            if !self.clusters[index].up {
                self.start_cluster(index);
            }
        }
    }

    /// A node that was cut off reaches its broker again.
    pub fn rejoin_node(&mut self, index: usize) {
        let cluster = Party::Cluster(self.nodes[index].cluster);
        self.network.join(Party::Node(index), cluster);
        self.connect(index, !self.cut_off(index));
    }

    /// Lets what is on its way arrive.
    pub fn settle(&mut self) {
        while self.network.next().is_some() {
            self.run_for(Duration::from_millis(1));
        }
    }

    /// Cuts a node from its broker; both notice.
    pub fn cut_node(&mut self, index: usize) {
        let cluster = Party::Cluster(self.nodes[index].cluster);
        self.network.cut(Party::Node(index), cluster);
        self.connect(index, false);
    }

    /// Cuts a cluster from the root; requests end in failure after a while.
    pub fn cut_cluster(&mut self, index: usize) {
        self.note(format!("cluster{index} cut from the root"));
        self.network.cut(Party::Cluster(index), Party::Root);
    }

    /// Everything runs, nothing is cut, and the network loses nothing any more. Sessions during which messages were
    /// lost end, as those of TCP do.
    pub fn heal(&mut self, delay: Duration) {
        self.note("heal");
        self.network.join_all();
        self.network.weather = Weather::calm(delay);
        if !self.root.up {
            self.start_root();
        }
        for cluster in 0..self.clusters.len() {
            if !self.clusters[cluster].up {
                self.start_cluster(cluster);
            }
        }
        for node in 0..self.nodes.len() {
            self.connect(node, false);
            self.connect(node, true);
        }
    }

    fn cut_off(&self, node: usize) -> bool {
        let cluster = self.nodes[node].cluster;
        !self.clusters[cluster].up
            || self
                .network
                .is_cut(Party::Node(node), Party::Cluster(cluster))
    }

    fn next_event(&self) -> Option<Duration> {
        let nodes = self
            .nodes
            .iter()
            .flat_map(|node| [node.asker.poll_timeout(), node.repeat_at])
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
                if self.nodes[index].connected {
                    let said = self.nodes[index].announce(now);
                    for message in said {
                        self.send(index, message);
                    }
                }
            }
        }
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

    fn deliver(&mut self, from: Party, to: Party, message: Message) {
        let now = self.now;
        match (to, message) {
            (Party::Cluster(index), Message::Mqtt(node, mqtt)) => {
                self.broker_receives(index, node, mqtt);
            }
            (Party::Node(index), Message::Deliver { topic, payload }) => {
                self.node_receives(index, &topic, &payload);
            }
            (Party::Root, Message::Request(request)) => {
                let command = command_of(&request);
                let applied = self.root.apply(&command, now);
                let reply = Message::Reply {
                    id: request.id,
                    status: applied.reply.status,
                    body: applied.reply.bytes(),
                    store: self.root.store.clone(),
                };
                self.network.send(Party::Root, from, reply, now);
            }
            (
                Party::Cluster(index),
                Message::Reply {
                    id,
                    status,
                    body,
                    store,
                },
            ) => {
                let cluster = &mut self.clusters[index];
                if cluster.http.remove(&id).is_some() {
                    let believed = cluster.answerer.handle_root_store(&store);
                    let reply = believed.then_some((status, &body[..]));
                    cluster.answerer.handle_root_reply(id, reply, now);
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
            (to, message) => panic!("{message:?} reached {to:?}"),
        }
    }

    fn broker_receives(&mut self, index: usize, node: NodeId, mqtt: Mqtt) {
        let now = self.now;
        let cluster = &mut self.clusters[index];
        let job_of = |topic: &str| match Topic::parse(topic) {
            Ok(Topic::Updates { job }) => job.parse::<ServiceName>().ok(),
            _ => None,
        };
        match mqtt {
            Mqtt::Publish { topic, payload } => {
                cluster
                    .answerer
                    .handle_publish(&topic, &payload, now)
                    .expect("gateways write well");
            }
            Mqtt::Subscribe { topic } => {
                let job = job_of(&topic).expect("gateways subscribe to jobs");
                cluster.subscriptions.insert((job, node));
            }
            Mqtt::Unsubscribe { topic } => {
                let job = job_of(&topic).expect("gateways subscribe to jobs");
                cluster.subscriptions.remove(&(job, node));
            }
        }
    }

    fn node_receives(&mut self, index: usize, topic: &str, payload: &[u8]) {
        let now = self.now;
        let topic = Topic::parse(topic).expect("managers know the topics");
        let node = &mut self.nodes[index];
        if !node.connected {
            return;
        }
        let (begun, said) = node.receive(&topic, payload, now);
        if let Some(subnet) = node.subnet {
            for network in subnet.iter() {
                self.truth.subnet_given(network, index);
            }
        }
        if let Some(identity) = begun {
            self.note(format!("node{index} runs {identity:?}"));
            self.truth.living.insert(identity, index);
        }
        for message in said {
            self.send(index, message);
        }
    }

    /// A node publishes, if it is connected.
    pub fn send(&mut self, node: usize, mqtt: Mqtt) {
        let id = self.nodes[node].id.clone();
        let cluster = Party::Cluster(self.nodes[node].cluster);
        if self.nodes[node].connected {
            self.network.send(
                Party::Node(node),
                cluster,
                Message::Mqtt(id, mqtt),
                self.now,
            );
        }
    }

    /// Moves everything that the values want to send.
    pub fn drain(&mut self) {
        for index in 0..self.nodes.len() {
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
            let now = self.now;
            for identity in self.nodes[index].follow_events(now) {
                let lives = self.truth.living.contains_key(&identity);
                assert!(!lives, "node{index} hears that {identity:?} is withdrawn");
            }
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
        if std::mem::take(&mut self.root.changed) {
            self.see_addresses();
        }
    }

    fn drain_cluster(&mut self, index: usize) {
        if !self.clusters[index].up {
            return;
        }
        self.clusters[index].store();
        while let Some(transmit) = self.clusters[index].answerer.poll_transmit() {
            match transmit {
                answerer::Transmit::Root(request) => {
                    let cluster = &mut self.clusters[index];
                    cluster.root_requests += 1;
                    cluster.http.insert(request.id, self.now + HTTP_WAIT);
                    if self.root.up {
                        self.network.send(
                            Party::Cluster(index),
                            Party::Root,
                            Message::Request(request),
                            self.now,
                        );
                    }
                }
                answerer::Transmit::Publish { topic, payload } => {
                    self.fan_out(index, &topic, &payload);
                }
            }
        }
        while self.clusters[index].answerer.poll_event().is_some() {}
    }

    fn fan_out(&mut self, index: usize, topic: &str, payload: &[u8]) {
        let receivers: Vec<NodeId> = match Topic::parse(topic).expect("managers know the topics") {
            Topic::Node { node, verb } => {
                assert_ne!(verb, Verb::Subnet);
                vec![node]
            }
            Topic::Updates { job } => {
                let job: ServiceName = job.parse().expect("managers spell names well");
                let subscriptions = &self.clusters[index].subscriptions;
                subscriptions
                    .iter()
                    .filter(|(subscribed, _)| *subscribed == job)
                    .map(|(_, node)| node.clone())
                    .collect()
            }
        };
        for receiver in receivers {
            let Some(node) = self.nodes.iter().position(|node| node.id == receiver) else {
                continue;
            };
            let message = Message::Deliver {
                topic: topic.to_owned(),
                payload: payload.to_vec(),
            };
            self.network
                .send(Party::Cluster(index), Party::Node(node), message, self.now);
        }
    }

    /// Every address that the root gives is looked at.
    fn see_addresses(&mut self) {
        for job in self.root.root.jobs() {
            for entry in &job.service_ip_list {
                for ip in entry.ips().iter() {
                    self.truth.address_given(ip, &job.job_name.to_string());
                }
            }
            for entry in &job.instance_list {
                for ip in entry.instance_ips().iter() {
                    let owner =
                        format!("{} {} {}", job.job_name, entry.instance_number, entry.epoch);
                    self.truth.address_given(ip.ip(), &owner);
                }
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

fn cluster_index(id: &str) -> usize {
    id.trim_start_matches("cluster").parse().unwrap_or(0)
}
