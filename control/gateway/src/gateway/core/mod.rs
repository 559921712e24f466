//! The core: one value that owns registration, table query, routes and attachments, and reacts to one event at a time.
//!
//! Whatever happens (a command, a message, a question of a worker, the end of an instance, a timer) goes through a
//! `handle_*` method and then [`Core::settle`], which sends what the table query wants sent, writes its answers into
//! the tables, publishes them and remembers them on disk. What then takes time, the detaching of an instance that the
//! answers withdrew, is [`Core::detach_withdrawn`].

mod failover;
mod hosts;
mod instances;
mod isolation;
mod names;
mod newcomers;
mod placement;
mod registration;
mod remember;
mod sending;
mod subnet_by_caller;
mod trust;
mod vouched;

use super::Error;
use super::plane::Plane;
use super::probes::{ProbeResult, Probes};
use super::state::{LocalState, Registration, State, StateWriter};
use crate::admin_api::GatewayState;
use crate::command::{Attach, Attached, Command, Detach, InstanceName, Refusal, Reply};
use crate::config::Config;
use crate::dns::Dns;
use crate::metrics::MALFORMED;
use crate::node::thread::Node;
use crate::node::watch::Watch;
use hosts::Hosts;
use instances::{Attaching, Nameless, Place, find, parse_name};
use isolation::Forbidden;
use newcomers::Newcomers;
use placement::{Ended, TELL_PAUSE_S};
use registration::SUBNET_RETRY;
use remember::{ROUTES_PAUSE, WRITE_PAUSE};
use sluice_managers::mqtt::{Mqtt, MqttEvent};
use sluice_managers::{Token, wall_clock};
use sluice_proto::ServiceName;
use sluice_proto::dns::Names;
use sluice_proto::liveness::{self, Prober};
use sluice_proto::message::{
    self, InstanceResult, NodeId, NodeKey, SubnetResult, TableQueryResult, Topic, UpdatesAvailable,
    Verb,
};
use sluice_proto::table_query::Key;
use sluice_proto::table_query::asker::{self, Asker, Event};
use sluice_routes::{Routes, Suspects};
use sluice_tables::{Question, Upcall};
use sluice_tunnel::key::Identity;
use sluice_wire::Ip;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use trust::{Said, Trust};
use vouched::Unvouched;

/// The kernel's tables are read at most so often: a routing daemon may change thousands of routes at once.
const FOLLOW_PAUSE: Duration = Duration::from_millis(20);
/// Uses are looked at so often.
const TICK: Duration = Duration::from_secs(1);
/// A request whose target was looked up outside the core: a container runtime may take its time to answer.
#[derive(Debug)]
pub(crate) enum Found {
    Attach(Attach, Reply<Attached>, Result<Place, Refusal>),
    Detach(Detach, Reply<()>, Result<Option<Place>, Refusal>),
    /// What the cluster manager said about the key with which it signs.
    ClusterKey(Said),
}

/// See the module.
pub(crate) struct Core {
    config: Config,
    token: Option<Token>,
    identity: Identity,
    asker: Asker,
    routes: Routes,
    plane: Plane,
    dns: Dns,
    names: Names,
    names_changed: bool,
    file: StateWriter,
    registration: Option<Registration>,
    node_id: Option<NodeId>,
    own_ip: Option<Ip>,
    mqtt: Option<Mqtt>,
    mqtt_events: mpsc::Sender<MqttEvent>,
    connected: bool,
    node: Option<Node>,
    watch: Watch,
    registering: Vec<(Reply<()>, Duration)>,
    subnet_asked_at: Option<Duration>,
    /// Names this start for the cluster while the node has no subnet and knows nothing of an earlier life.
    fresh: Option<u64>,
    /// Until when each of them is waited for stands beside it.
    attaching: BTreeMap<String, (Attaching, Duration)>,
    nameless: BTreeMap<(ServiceName, u32), Nameless>,
    unvouched: Unvouched,
    newcomers: Newcomers,
    hosts: Hosts,
    /// Instances whose end the cluster may not know yet.
    ended: BTreeMap<(String, u32), Ended>,
    /// Instances of this node that the managers withdrew, to be detached by [`Core::detach_withdrawn`].
    withdrawn: VecDeque<(ServiceName, u32)>,
    suspects: Suspects,
    prober: Prober,
    probes: Probes,
    look_at: Duration,
    forbidden: Forbidden,
    /// Why the broker cannot be reached, as last said in the log.
    broker_away: String,
    trust: Trust,
    /// Where targets that were looked up elsewhere come back.
    found: mpsc::Sender<Found>,
    /// InstanceIPs of instances that an earlier life of this gateway attached.
    remembered: Vec<LocalState>,
    requests: u64,
    routes_changed: bool,
    /// The kernel's routes or neighbours may have changed since they were read.
    ways_changed: bool,
    followed_at: Duration,
    state_changed: bool,
    /// The same, but nothing else than routes.
    routes_to_write: bool,
    started_at: Duration,
    /// How old the remembered routes were at the start.
    age_at_start: Duration,
    /// When to look whether the queue to the broker has room again.
    send_at: Option<Duration>,
    /// When the connection to the cluster's broker was last lost.
    connected_until: Option<Duration>,
    written_at: Duration,
    tick_at: Duration,
    view: watch::Sender<GatewayState>,
}

impl Core {
    pub(crate) fn new(
        config: Config,
        (token, identity): (Option<Token>, Identity),
        (file, state): (StateWriter, State),
        (plane, routes, dns): (Plane, Routes, Dns),
        (watch, mqtt_events, found, probe_results): (
            Watch,
            mpsc::Sender<MqttEvent>,
            mpsc::Sender<Found>,
            mpsc::Sender<ProbeResult>,
        ),
        view: watch::Sender<GatewayState>,
        now: Duration,
    ) -> Self {
        let names = Names::new(config.gateway.isolation);
        let mut asker = Asker::new(asker::Settings::default(), plane.seed());
        let prober = Prober::new(liveness::Settings::default());
        let [.., high, low] = plane.seed().to_be_bytes();
        let probes = Probes::new(probe_results, u16::from_be_bytes([high, low]));
        asker.restore(&state.routes, now);
        let age_at_start = state.confirmed_unix_s.map_or(Duration::ZERO, |at_s| {
            wall_clock().saturating_sub(Duration::from_secs(at_s))
        });
        let ended = state
            .ended
            .into_iter()
            .map(|it| {
                (
                    (it.service, it.number),
                    Ended {
                        epoch: it.epoch,
                        told_until: None,
                    },
                )
            })
            .collect();
        Self {
            config,
            token,
            identity,
            asker,
            routes,
            plane,
            dns,
            names,
            names_changed: false,
            file,
            registration: state.registration,
            node_id: None,
            own_ip: None,
            mqtt: None,
            send_at: None,
            mqtt_events,
            connected: false,
            node: None,
            watch,
            registering: Vec::new(),
            subnet_asked_at: None,
            fresh: None,
            attaching: BTreeMap::new(),
            nameless: BTreeMap::new(),
            unvouched: Unvouched::default(),
            newcomers: Newcomers::default(),
            hosts: Hosts::default(),
            ended,
            withdrawn: VecDeque::new(),
            suspects: Suspects::default(),
            prober,
            probes,
            look_at: now,
            forbidden: Forbidden::default(),
            broker_away: String::new(),
            trust: Trust::default(),
            found,
            remembered: state.local,
            requests: 0,
            routes_changed: false,
            ways_changed: false,
            followed_at: Duration::ZERO,
            state_changed: false,
            routes_to_write: false,
            started_at: now,
            age_at_start,
            connected_until: None,
            written_at: Duration::ZERO,
            tick_at: now,
            view,
        }
    }

    /// Goes on as the node this gateway was before, or as the one the configuration names. Without either it waits
    /// for a registration.
    pub(crate) async fn start(&mut self, now: Duration) -> Result<(), Error> {
        if let Some(cluster) = &self.config.gateway.cluster {
            let node_id = self
                .config
                .gateway
                .node_id
                .clone()
                .map_or_else(super::machine_node_id, Ok)?;
            let (host, port) = (cluster.host.clone(), cluster.port);
            let known = self
                .registration
                .take()
                .filter(|known| known.node_id == node_id);
            let is_same = |known: &&Registration| (&known.host, known.port) == (&host, port);
            let cluster_key = known.as_ref().filter(is_same).and_then(|it| it.cluster_key);
            let subnet = known.and_then(|known| known.subnet);
            self.registration = Some(Registration {
                node_id,
                host,
                port,
                subnet,
                cluster_key,
            });
        }
        if self.registration.is_some() {
            self.begin(now).await?;
        }
        Ok(())
    }

    /// When [`Core::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Duration {
        let mut due = self.tick_at;
        let mut sooner = |at: Option<Duration>| due = at.map_or(due, |at| due.min(at));
        sooner(self.asker.poll_timeout());
        sooner(self.send_at);
        sooner(self.prober.poll_timeout());
        sooner(self.routes.poll_timeout());
        sooner(Some(self.look_at));
        sooner(self.waits_until());
        sooner(self.unvouched.poll_timeout());
        sooner(self.newcomers.poll_timeout());
        sooner(self.registering.iter().map(|(_, until)| *until).min());
        sooner(self.forbidden.poll_timeout());
        sooner(self.ways_changed.then(|| self.followed_at + FOLLOW_PAUSE));
        sooner(self.state_changed.then(|| self.written_at + WRITE_PAUSE));
        sooner(self.routes_to_write.then(|| self.written_at + ROUTES_PAUSE));
        due
    }

    pub(crate) fn handle_timeout(&mut self, now: Duration) {
        self.asker.handle_timeout(now);
        self.routes_changed |= self.routes.handle_timeout(now);
        self.look_at_failures(now);
        self.probe_nodes(now);
        self.end_waits(now);
        self.end_registrations(now);
        if self.tick_at <= now {
            self.tick_at = now + TICK;
            self.tick(now);
        }
    }

    fn tick(&mut self, now: Duration) {
        self.plane.tick();
        // The workers' clock is ours in whole seconds; one second of overlap so that no use falls between two ticks.
        let since_s = u32::try_from(now.as_secs().saturating_sub(2)).unwrap_or(u32::MAX);
        let used: Vec<ServiceName> = self.routes.used_since(since_s).cloned().collect();
        for job in used {
            self.asker.handle_used(&job, now);
        }
        for (job, number) in self.routes.used_unlisted(since_s) {
            self.asker.handle_used_instance(&job, number, now);
        }
        self.use_named(now);
        self.asker.forget_idle(now);
        if self
            .subnet_asked_at
            .is_some_and(|at| at + SUBNET_RETRY <= now)
        {
            self.ask_subnet(now);
        }
        self.look_at_own_address(now);
        self.look_for_cluster_key(now);
        self.look_at_hosts(now);
        self.routes_changed |= self.routes.look_at_paths();
        self.plane.offloader().tick();
        if now.as_secs().is_multiple_of(TELL_PAUSE_S) {
            self.tell_ended(now);
        }
    }

    /// Carries out one command; replies may come later.
    pub(crate) async fn handle_command(&mut self, command: Command, now: Duration) {
        match command {
            Command::Register(register, reply) => self.register(register, reply, now).await,
            Command::RegisterSubnet(subnet, reply) => {
                let _ = reply.send(self.register_subnet(&subnet, now).await);
            }
            Command::Deploy(deploy, reply) => self.deploy(deploy, reply, now).await,
            Command::Undeploy(instance, reply) => {
                let result = match parse_name(&instance.service) {
                    Ok(service) => self.end(&service, instance.instance_number, now).await,
                    Err(refusal) => Err(refusal),
                };
                let _ = reply.send(result);
            }
            Command::SetIdentity(identity, reply) => {
                self.set_identity(identity);
                let _ = reply.send(Ok(()));
            }
            Command::Attach(attach, reply) => {
                let found = self.found.clone();
                tokio::spawn(async move {
                    let place = find(&attach.target).await;
                    // The core is gone only when the gateway stops; then the caller hears that from its dropped reply.
                    let _ = found.send(Found::Attach(attach, reply, place)).await;
                });
            }
            Command::Detach(detach, reply) => {
                let found = self.found.clone();
                tokio::spawn(async move {
                    let place = match &detach.target {
                        Some(target) => find(target).await.map(Some),
                        None => Ok(None),
                    };
                    let _ = found.send(Found::Detach(detach, reply, place)).await;
                });
            }
        }
    }

    /// A target was looked up.
    pub(crate) async fn handle_found(&mut self, found: Found, now: Duration) {
        match found {
            Found::Attach(attach, reply, place) => self.attach(attach, reply, place, now),
            Found::Detach(detach, reply, place) => {
                let result = match place {
                    Ok(place) => self.detach(detach, place, now).await,
                    Err(refusal) => Err(refusal),
                };
                let _ = reply.send(result);
            }
            Found::ClusterKey(said) => self.take_cluster_key(said, now),
        }
    }

    pub(crate) async fn handle_mqtt(&mut self, event: MqttEvent, now: Duration) {
        match event {
            MqttEvent::Connected => self.handle_connected(now),
            MqttEvent::Subscribed => {}
            MqttEvent::Disconnected(why) => self.lose_broker(why, now),
            MqttEvent::Message { topic, payload } => {
                if let Err(error) = self.handle_message(&topic, &payload, now).await {
                    metrics::counter!(MALFORMED).increment(1);
                    tracing::warn!(topic, %error, "a message of the cluster is not understood");
                }
            }
        }
    }

    fn lose_broker(&mut self, why: String, now: Duration) {
        if std::mem::take(&mut self.connected) {
            self.connected_until = Some(now);
            tracing::warn!(why, "lost the cluster's broker; known routes go on working");
        } else if self.broker_away != why {
            tracing::warn!(why, "the cluster's broker cannot be reached");
        }
        self.broker_away = why;
        for ended in self.ended.values_mut() {
            ended.told_until = None;
        }
        self.asker.handle_connection(false, now);
    }

    /// A worker asks, or saw something.
    pub(crate) fn handle_upcall(&mut self, upcall: Upcall, now: Duration) {
        match upcall {
            Upcall::Ask(Question::Dialled(ip) | Question::InnerSource { source: ip, .. }) => {
                self.asker.handle_question(&Key::Address(ip), now);
            }
            // They have been asked for since it began to run here.
            Upcall::Ask(Question::Rules(_)) => {}
            Upcall::Initiator { key } => self.resolve_initiator(NodeKey::from_bytes(key), now),
            Upcall::Offload { flow, generation } => {
                self.plane.offloader().install(flow, generation)
            }
            Upcall::NotAllowed { caller, callee } => self.observe(caller, callee, now),
            Upcall::Suspect {
                instance,
                epoch,
                why,
            } => self.handle_suspicion(instance, epoch, why, now),
            Upcall::Heard { instance } => self.handle_heard(instance),
        }
    }

    /// The kernel's links, addresses, routes, neighbours or IPsec policies have changed.
    pub(crate) fn handle_changes(&mut self) {
        self.ways_changed = self.plane.follows() || self.plane.offloader().is_running();
    }

    /// An instance ended by itself.
    pub(crate) async fn handle_gone(&mut self, instance: InstanceName, now: Duration) {
        tracing::info!(%instance, "an instance ended");
        if let Ok(service) = parse_name(&instance.service) {
            // Its flows must not wait for the device to be removed.
            self.unlist(&service, instance.instance_number, now);
            self.settle(now);
            if let Err(refusal) = self.unwire(instance).await {
                tracing::warn!(%refusal, "after an instance ended");
            }
        }
    }

    /// Why the process must end, if a worker did.
    pub(crate) fn worker_exit(&mut self) -> Option<Error> {
        self.plane.take_exit()
    }

    /// Sends, writes, publishes and remembers whatever the last event left to be done.
    pub(crate) fn settle(&mut self, now: Duration) {
        while let Some(event) = self.asker.poll_event() {
            self.handle_event(event, now);
        }
        self.tell_suspects(now);
        self.look_at_refused(now);
        self.send_asked(now);
        self.end_awaiting(now);
        if std::mem::take(&mut self.routes_changed) {
            self.publish();
            self.plane.wake();
            self.name_callers();
        }
        self.end_forbidden(now);
        // After the tables: whoever is told an address may dial it.
        self.publish_names();
        self.answer_vouched(now);
        if self.ways_changed && self.followed_at + FOLLOW_PAUSE <= now {
            self.ways_changed = false;
            self.followed_at = now;
            self.plane.follow(&self.routes.nodes());
        }
        let write_routes = self.routes_to_write && self.written_at + ROUTES_PAUSE <= now;
        if write_routes || self.state_changed && self.written_at + WRITE_PAUSE <= now {
            self.remember(now);
        }
        self.show(now);
    }

    /// Makes all edits of the routes visible to the workers. The kernel stops believing in what they replace first.
    /// Ethernet links learn before what they need for them.
    pub(super) fn publish(&mut self) {
        self.plane
            .offloader()
            .revoke(self.routes.tables(), self.routes.veths());
        if self.plane.follows() {
            self.plane.set_neighbours(self.routes.neighbours());
            self.ways_changed = true;
        }
        self.routes.publish();
    }

    /// Writes the state file a last time. The wiring stays: a restart adopts it.
    pub(crate) fn stop(&mut self, now: Duration) {
        self.remember(now);
        self.plane.offloader().stop();
        self.plane.stop();
    }

    fn handle_event(&mut self, event: Event, now: Duration) {
        if let Event::Node(place) = &event {
            let is_new = self
                .routes
                .introduce(place.key, place.host, place.port, now);
            self.routes_changed |= is_new;
            return;
        }
        self.name(&event);
        if matches!(
            event,
            Event::Absent {
                key: Key::Name(_) | Key::Node(_)
            } | Event::Unresolved {
                key: Key::Name(_) | Key::Node(_)
            } | Event::Unknown {
                key: Key::Name(_) | Key::Node(_)
            } | Event::Unanswered { .. }
                | Event::Node(_)
        ) {
            return;
        }
        self.routes_changed = true;
        let negative = matches!(
            event,
            Event::Absent { .. } | Event::Unresolved { .. } | Event::Unknown { .. }
        );
        self.routes_to_write |= !negative;
        self.withdrawn.extend(self.routes.handle_event(&event));
        if let Event::Routes(routes) | Event::Unavailable(routes) = event {
            for row in &routes.instances {
                self.name_instance(&routes.job, row);
                self.disown(&routes.job, row);
            }
        }
    }

    fn handle_connected(&mut self, now: Duration) {
        let Some(node_id) = self.node_id.clone() else {
            return;
        };
        self.connected = true;
        tracing::info!("connected to the cluster's broker");
        if let Some(mqtt) = &self.mqtt {
            for topic in Topic::of_gateway(&node_id) {
                mqtt.subscribe(&topic.to_string());
            }
        }
        self.ask_cluster_key(now);
        self.asker.handle_connection(true, now);
        if self.node.is_none() && !self.config.gateway.subnet_by_caller {
            self.ask_subnet(now);
        }
        self.ask_instances();
        self.tell_ended(now);
        self.announce_all();
    }

    async fn handle_message(
        &mut self,
        topic: &str,
        payload: &[u8],
        now: Duration,
    ) -> Result<(), Error> {
        match Topic::parse(topic)? {
            Topic::Node {
                verb: Verb::TableQueryResult,
                ..
            } => {
                let result: TableQueryResult = message::read("table-query result", payload)?;
                self.asker.handle_result(&result, now)?;
            }
            Topic::Node {
                verb: Verb::SubnetResult,
                ..
            } => {
                let granted: SubnetResult = message::read("subnet result", payload)?;
                if self.node.is_none()
                    && let Some(registration) = &mut self.registration
                {
                    registration.subnet = Some(SubnetResult {
                        held: Vec::new(),
                        ..granted.clone()
                    });
                    self.wire(&granted, now).await?;
                }
            }
            Topic::Node {
                verb: Verb::InstanceResult,
                ..
            } => {
                let result: InstanceResult = message::read("instance result", payload)?;
                self.handle_instance(result, now).await;
            }
            Topic::Updates { job } => {
                let update: UpdatesAvailable = message::read("update", payload)?;
                // A legacy manager may be told of interests by address; nothing is ever said about those.
                if let Ok(job) = ServiceName::parse(&job) {
                    self.asker.handle_update_available(&job, &update, now);
                }
            }
            Topic::Node { .. } => {}
        }
        Ok(())
    }
}
