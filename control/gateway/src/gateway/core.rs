//! The core: one value that owns registration, table query, routes and attachments, and reacts to one event at a time.
//!
//! Whatever happens (a command, a message, a question of a worker, the end of an instance, a timer) goes through a
//! `handle_*` method and then [`Core::settle`], which sends what the table query wants sent, writes its answers into
//! the tables, publishes them and remembers them on disk.

use super::Error;
use super::mqtt::{Mqtt, MqttConfig, MqttEvent};
use super::plane::Plane;
use super::routes::{LocalInstance, Routes};
use super::state::{EndedState, LocalState, Registration, State, StateFile};
use crate::admin_api::GatewayState;
use crate::command::{
    Attach, AttachTarget, Attached, Command, Deploy, DeployKind, Deployed, Detach, InstanceName,
    Refusal, Register, Reply,
};
use crate::config::Config;
use crate::container;
use crate::node::NodeNet;
use crate::node::attach::{Attachment, Request};
use crate::node::namespace::{NamespaceId, Workload};
use crate::node::port_mapping::PortMapping;
use crate::node::thread::{Node, since_1970};
use crate::node::watch::Watch;
use sluice_proto::ServiceName;
use sluice_proto::message::{
    self, InstanceRequest, InstanceResult, NodeId, SubnetRequest, SubnetResult, TableQueryResult,
    Topic, Undeployed, UpdatesAvailable, Verb,
};
use sluice_proto::table_query::asker::{self, Asker, Event, Mqtt as Outgoing};
use sluice_proto::table_query::{Key, Row};
use sluice_tables::{InstanceSlot, Known, Question, Suspicion, Upcall};
use sluice_wire::{Dual, InstanceIp, Ip, NsIp, Subnet};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How long a registration waits for a subnet: the node engine gives up at the same time (OAKESTRA-WIRE 1.2).
const REGISTER_WAIT: Duration = Duration::from_millis(9_500);
/// A subnet that does not come is asked for again.
const SUBNET_RETRY: Duration = Duration::from_secs(2);
/// How long an attachment waits for the managers: longer than the cluster waits for the root (8 s), so that an instance
/// that is given late is not given to nobody.
const ATTACH_WAIT: Duration = Duration::from_secs(10);
/// How long a deployment waits for its InstanceIP before it answers all the same.
const DEPLOY_WAIT: Duration = Duration::from_secs(2);
/// How long the cluster is told of an end again and again, and how often.
const TELL_AGAIN: Duration = Duration::from_secs(30);
const TELL_PAUSE_S: u64 = 5;
/// How long a suspect takes no new flow.
const SUSPECT: Duration = Duration::from_secs(5);
/// Uses are looked at so often.
const TICK: Duration = Duration::from_secs(1);
/// The state file is written at most so often.
const WRITE_PAUSE: Duration = Duration::from_millis(50);

/// An attachment that waits for the managers' instance.
#[derive(Debug)]
struct Attaching {
    service: ServiceName,
    instance_number: Option<u32>,
    port_mappings: Vec<PortMapping>,
    workload: Workload,
    reply: Reply<Attached>,
    until: Duration,
}

/// An instance that ended. The cluster is told again for a while: a message that was on its way when a connection or
/// the cluster died is lost, and an instance that nobody withdraws is called for ever.
#[derive(Debug)]
struct Ended {
    epoch: u64,
    /// Since it was told first on a connection that stands.
    told_until: Option<Duration>,
}

/// A request whose target was looked up outside the core: a container runtime may take its time to answer.
#[derive(Debug)]
pub(crate) enum Found {
    Attach(Attach, Reply<Attached>, Result<Workload, Refusal>),
    Detach(Detach, Reply<()>, Result<Option<NamespaceId>, Refusal>),
}

/// An instance that is wired, but whose InstanceIP is not known yet.
#[derive(Debug)]
struct Nameless {
    attachment: Attachment,
    reply: Option<(Reply<Deployed>, Duration)>,
}

/// See the module.
pub(crate) struct Core {
    config: Config,
    token: Option<String>,
    asker: Asker,
    routes: Routes,
    plane: Plane,
    file: StateFile,
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
    attaching: BTreeMap<String, Attaching>,
    nameless: BTreeMap<(ServiceName, u32), Nameless>,
    /// Instances whose end the cluster may not know yet.
    ended: BTreeMap<(String, u32), Ended>,
    /// Instances that take no new flow, and until when.
    suspects: BTreeMap<InstanceSlot, Duration>,
    /// Why the broker cannot be reached, as last said in the log.
    broker_away: String,
    /// Where targets that were looked up elsewhere come back.
    found: mpsc::Sender<Found>,
    /// InstanceIPs of instances that an earlier life of this gateway attached.
    remembered: Vec<LocalState>,
    requests: u64,
    routes_changed: bool,
    state_changed: bool,
    written_at: Duration,
    tick_at: Duration,
    view: watch::Sender<GatewayState>,
}

impl Core {
    pub(crate) fn new(
        config: Config,
        token: Option<String>,
        (file, state): (StateFile, State),
        (plane, routes): (Plane, Routes),
        (watch, mqtt_events, found): (Watch, mpsc::Sender<MqttEvent>, mpsc::Sender<Found>),
        view: watch::Sender<GatewayState>,
        now: Duration,
    ) -> Self {
        let mut asker = Asker::new(asker::Settings::default(), plane.seed());
        asker.restore(&state.routes, now);
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
            asker,
            routes,
            plane,
            file,
            registration: state.registration,
            node_id: None,
            own_ip: None,
            mqtt: None,
            mqtt_events,
            connected: false,
            node: None,
            watch,
            registering: Vec::new(),
            subnet_asked_at: None,
            attaching: BTreeMap::new(),
            nameless: BTreeMap::new(),
            ended,
            suspects: BTreeMap::new(),
            broker_away: String::new(),
            found,
            remembered: state.local,
            requests: 0,
            routes_changed: false,
            state_changed: false,
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
            let subnet = known.and_then(|known| known.subnet);
            self.registration = Some(Registration {
                node_id,
                host,
                port,
                subnet,
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
        sooner(
            self.attaching
                .values()
                .map(|attaching| attaching.until)
                .min(),
        );
        sooner(
            self.nameless
                .values()
                .filter_map(|nameless| nameless.reply.as_ref().map(|(_, until)| *until))
                .min(),
        );
        sooner(self.registering.iter().map(|(_, until)| *until).min());
        sooner(self.state_changed.then(|| self.written_at + WRITE_PAUSE));
        due
    }

    pub(crate) fn handle_timeout(&mut self, now: Duration) {
        self.asker.handle_timeout(now);
        let late: Vec<String> = self
            .attaching
            .iter()
            .filter(|(_, attaching)| attaching.until <= now)
            .map(|(request, _)| request.clone())
            .collect();
        for request in late {
            if let Some(attaching) = self.attaching.remove(&request) {
                let away = format!(
                    "no instance of {} within {} s",
                    attaching.service,
                    ATTACH_WAIT.as_secs()
                );
                let _ = attaching.reply.send(Err(Refusal::ManagersAway(away)));
            }
        }
        for nameless in self.nameless.values_mut() {
            if let Some((reply, _)) = nameless.reply.take_if(|(_, until)| *until <= now) {
                let instance = &nameless.attachment.instance;
                tracing::warn!(%instance, "deployed, but the managers have not said its InstanceIP yet");
                let _ = reply.send(Ok(deployed(&nameless.attachment)));
            }
        }
        for (reply, _) in self.registering.extract_if(.., |(_, until)| *until <= now) {
            let away = format!("no subnet within {} s", REGISTER_WAIT.as_secs());
            let _ = reply.send(Err(Refusal::ManagersAway(away)));
        }
        if self.tick_at <= now {
            self.tick_at = now + TICK;
            self.tick(now);
        }
    }

    fn tick(&mut self, now: Duration) {
        // The workers' clock is ours in whole seconds; one second of overlap so that no use falls between two ticks.
        let since_s = u32::try_from(now.as_secs().saturating_sub(2)).unwrap_or(u32::MAX);
        let used: Vec<ServiceName> = self.routes.used_since(since_s).cloned().collect();
        for job in used {
            self.asker.handle_used(&job, now);
        }
        if self
            .subnet_asked_at
            .is_some_and(|at| at + SUBNET_RETRY <= now)
        {
            self.ask_subnet(now);
        }
        self.look_at_own_address();
        self.suspects.retain(|slot, until| {
            let keep = *until > now;
            if !keep {
                self.routes.trust(*slot);
                self.routes_changed = true;
            }
            keep
        });
        if now.as_secs().is_multiple_of(TELL_PAUSE_S) {
            self.tell_ended(now);
        }
    }

    /// Carries out one command; replies may come later.
    pub(crate) async fn handle_command(&mut self, command: Command, now: Duration) {
        match command {
            Command::Register(register, reply) => self.register(register, reply, now).await,
            Command::Deploy(deploy, reply) => self.deploy(deploy, reply, now).await,
            Command::Undeploy(instance, reply) => {
                let result = match parse_name(&instance.service) {
                    Ok(service) => self.end(&service, instance.instance_number, now).await,
                    Err(refusal) => Err(refusal),
                };
                let _ = reply.send(result);
            }
            Command::Attach(attach, reply) => {
                let found = self.found.clone();
                tokio::spawn(async move {
                    let workload = find(&attach.target).await;
                    // The core is gone only when the gateway stops; then the caller hears that from its dropped reply.
                    let _ = found.send(Found::Attach(attach, reply, workload)).await;
                });
            }
            Command::Detach(detach, reply) => {
                let found = self.found.clone();
                tokio::spawn(async move {
                    let namespace = match &detach.target {
                        Some(target) => find(target).await.map(|it| Some(it.namespace.id())),
                        None => Ok(None),
                    };
                    let _ = found.send(Found::Detach(detach, reply, namespace)).await;
                });
            }
        }
    }

    /// A target was looked up.
    pub(crate) async fn handle_found(&mut self, found: Found, now: Duration) {
        match found {
            Found::Attach(attach, reply, workload) => self.attach(attach, reply, workload, now),
            Found::Detach(detach, reply, namespace) => {
                let result = match namespace {
                    Ok(namespace) => self.detach(detach, namespace, now).await,
                    Err(refusal) => Err(refusal),
                };
                let _ = reply.send(result);
            }
        }
    }

    pub(crate) async fn handle_mqtt(&mut self, event: MqttEvent, now: Duration) {
        match event {
            MqttEvent::Connected => self.handle_connected(now),
            MqttEvent::Disconnected(why) => {
                if std::mem::take(&mut self.connected) {
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
            MqttEvent::Message { topic, payload } => {
                if let Err(error) = self.handle_message(&topic, &payload, now).await {
                    tracing::warn!(topic, %error, "a message of the cluster is not understood");
                }
            }
        }
    }

    /// A worker asks, or saw something.
    pub(crate) fn handle_upcall(&mut self, upcall: Upcall, now: Duration) {
        match upcall {
            Upcall::Ask(Question::Dialled(ip) | Question::InnerSource { source: ip, .. }) => {
                self.asker.handle_question(&Key::Address(ip), now);
            }
            Upcall::Suspect {
                instance,
                epoch,
                why,
            } => {
                // That an instance speaks from elsewhere may be forged: it is a reason to ask, not to avoid it.
                let job = match why {
                    Suspicion::Unreachable => self.routes.suspect(instance, epoch),
                    Suspicion::Elsewhere => self.routes.job_of(instance),
                };
                if let Some(job) = job {
                    if why == Suspicion::Unreachable {
                        self.suspects.insert(instance, now + SUSPECT);
                    }
                    tracing::debug!(%job, ?why, "delivery to an instance failed");
                    self.routes_changed = true;
                    self.asker
                        .handle_update_available(&job, &UpdatesAvailable::default(), now);
                }
            }
        }
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
            self.handle_event(event);
        }
        while let Some(transmit) = self.asker.poll_transmit() {
            self.transmit(&transmit);
        }
        if std::mem::take(&mut self.routes_changed) {
            self.routes.publish();
            self.plane.wake();
        }
        if self.state_changed && self.written_at + WRITE_PAUSE <= now {
            self.remember(now);
        }
        self.show();
    }

    /// Writes the state file a last time. The wiring stays: a restart adopts it.
    pub(crate) fn stop(&mut self, now: Duration) {
        self.remember(now);
        self.plane.stop();
    }

    fn handle_event(&mut self, event: Event) {
        self.routes_changed = true;
        let negative = matches!(
            event,
            Event::Absent { .. } | Event::Unknown { .. } | Event::Unanswered { .. }
        );
        self.state_changed |= !negative;
        match event {
            Event::Routes(routes) | Event::Unavailable(routes) => {
                self.routes.set_job(&routes);
                for row in &routes.instances {
                    self.name_instance(&routes.job, row);
                    self.disown(&routes.job, row);
                }
            }
            Event::Absent {
                key: Key::Address(ip),
            } => self.routes.set_negative(ip, Known::Absent),
            Event::Unknown {
                key: Key::Address(ip),
            } => self.routes.clear_negative(ip),
            Event::Withdrawn { job, number, .. } => self.routes.withdraw(&job, number),
            Event::Forgotten { job } => self.routes.forget(&job),
            Event::Absent { key: Key::Name(_) }
            | Event::Unknown { key: Key::Name(_) }
            | Event::Unanswered { .. } => {}
        }
    }

    fn transmit(&self, transmit: &asker::Transmit) {
        let (Some(mqtt), Some(node_id)) = (&self.mqtt, &self.node_id) else {
            return;
        };
        let queued = match transmit.mqtt(node_id) {
            Outgoing::Publish { topic, payload } => mqtt.publish(&topic, payload),
            Outgoing::Subscribe { topic } => mqtt.subscribe(&topic),
            Outgoing::Unsubscribe { topic } => mqtt.unsubscribe(&topic),
        };
        if !queued {
            tracing::debug!("the queue to the broker is full; the table query repeats itself");
        }
    }

    fn say<T: serde::Serialize>(&self, verb: Verb, body: &T) {
        if let (Some(mqtt), Some(node_id)) = (&self.mqtt, &self.node_id)
            && self.connected
        {
            mqtt.publish(
                &Topic::node(node_id.clone(), verb).to_string(),
                message::write(body),
            );
        }
    }

    // Registration.

    async fn register(&mut self, register: Register, reply: Reply<()>, now: Duration) {
        if let Some(known) = &self.registration {
            if known.node_id != register.client_id {
                let registered = known.node_id.clone();
                let _ = reply.send(Err(Refusal::OtherNode {
                    registered,
                    asked: register.client_id,
                }));
                return;
            }
            if self.node.is_some() {
                let _ = reply.send(Ok(()));
                return;
            }
            self.registering.push((reply, now + REGISTER_WAIT));
            return;
        }
        let host = register.cluster_address;
        if host.is_empty() || host == "0.0.0.0" {
            let missing = "cluster_address is empty and gateway.cluster is not set".to_owned();
            let _ = reply.send(Err(Refusal::BadRequest(missing)));
            return;
        }
        self.registration = Some(Registration {
            node_id: register.client_id,
            host,
            port: super::BROKER_PORT,
            subnet: None,
        });
        self.registering.push((reply, now + REGISTER_WAIT));
        if let Err(error) = self.begin(now).await {
            tracing::error!(%error, "registration failed");
            self.registration = None;
            for (reply, _) in self.registering.drain(..) {
                let _ = reply.send(Err(Refusal::Wiring(error.to_string())));
            }
        }
    }

    /// Connects, opens the links, and wires the node if its subnet is known.
    async fn begin(&mut self, now: Duration) -> Result<(), Error> {
        let Some(registration) = self.registration.clone() else {
            return Ok(());
        };
        self.node_id = Some(NodeId::new(&registration.node_id)?);
        self.look_at_own_address();
        self.plane.start()?;
        let broker = MqttConfig {
            node_id: registration.node_id.clone(),
            host: registration.host.clone(),
            port: registration.port,
            token: self.token.clone(),
        };
        self.mqtt = Some(Mqtt::start(&broker, self.mqtt_events.clone()));
        self.state_changed = true;
        tracing::info!(
            node = registration.node_id,
            cluster = format!("{}:{}", registration.host, registration.port),
            "registered"
        );
        if let Some(subnet) = registration.subnet {
            self.wire(&subnet, now).await?;
        }
        Ok(())
    }

    /// The address that other nodes reach us at: configured, or the source of packets towards the cluster. A cluster on
    /// this machine, or one with a name (resolving it would hold up everything else), says nothing: then it is the source
    /// of the default route.
    fn look_at_own_address(&mut self) {
        let Some(registration) = &self.registration else {
            return;
        };
        let cluster = registration
            .host
            .parse::<IpAddr>()
            .ok()
            .filter(|ip| !ip.is_loopback());
        let found = self
            .config
            .gateway
            .node_address
            .or_else(|| super::source_towards(cluster))
            .or_else(|| registration.host.parse::<IpAddr>().ok().map(Ip::from));
        let Some(ip) = found.filter(|ip| self.own_ip != Some(*ip)) else {
            return;
        };
        if let Some(old) = self.own_ip.replace(ip) {
            tracing::info!(%old, new = %ip, "the node's address changed");
        }
        self.routes.set_own((ip, self.config.gateway.exposed_port));
        self.announce_all();
    }

    fn ask_subnet(&mut self, now: Duration) {
        self.subnet_asked_at = Some(now);
        self.say(Verb::Subnet, &SubnetRequest::get());
    }

    /// Makes or adopts bridge, uplink and instances.
    async fn wire(&mut self, granted: &SubnetResult, now: Duration) -> Result<(), Error> {
        let plan = self.config.plan;
        let subnet = |ip: Option<Ip>, length: u8| ip.map(|ip| Subnet::new(ip, length)).transpose();
        let subnet = Dual {
            v4: subnet(granted.address, plan.node_length_v4)?,
            v6: subnet(granted.addressv6, plan.node_length_v6)?,
        };
        let wiring = super::wiring(&self.config);
        let net = tokio::task::spawn_blocking(move || {
            NodeNet::adopt_or_create(wiring, subnet, since_1970())
        })
        .await
        .map_err(|_| Error::NodePanicked)??;
        self.routes.set_gateway(net.gateway());
        let attachments = net.attachments().to_vec();
        let node = Node::start(net)?;
        node.wire_tun().await?;
        self.node = Some(node);
        self.subnet_asked_at = None;
        let remembered = std::mem::take(&mut self.remembered);
        for attachment in attachments {
            self.adopt(attachment, &remembered, now);
        }
        for local in remembered {
            if ServiceName::parse(&local.service)
                .is_ok_and(|service| !self.lives_here(&service, local.number))
            {
                self.end_of(local.service, local.number, local.epoch);
            }
        }
        self.tell_ended(now);
        self.routes_changed = true;
        self.state_changed = true;
        for (reply, _) in self.registering.drain(..) {
            let _ = reply.send(Ok(()));
        }
        tracing::info!(subnet_v4 = ?subnet.v4, subnet_v6 = ?subnet.v6, "the node is wired");
        Ok(())
    }

    // The cluster's messages.

    fn handle_connected(&mut self, now: Duration) {
        let Some(node_id) = self.node_id.clone() else {
            return;
        };
        self.connected = true;
        tracing::info!("connected to the cluster's broker");
        if let Some(mqtt) = &self.mqtt {
            for verb in [
                Verb::SubnetResult,
                Verb::TableQueryResult,
                Verb::InstanceResult,
            ] {
                mqtt.subscribe(&Topic::node(node_id.clone(), verb).to_string());
            }
        }
        self.asker.handle_connection(true, now);
        if self.node.is_none() {
            self.ask_subnet(now);
        }
        let waiting: Vec<String> = self.attaching.keys().cloned().collect();
        for request in waiting {
            self.ask_instance(&request);
        }
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
                    registration.subnet = Some(granted.clone());
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

    // Instances of this node.

    async fn deploy(&mut self, deploy: Deploy, reply: Reply<Deployed>, now: Duration) {
        let prepared = parse_name(&deploy.instance.service).and_then(|service| {
            Ok((
                service,
                PortMapping::list(&deploy.port_mappings).map_err(bad_mapping)?,
                self.node()?,
            ))
        });
        let (service, port_mappings, node) = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => {
                let _ = reply.send(Err(refusal));
                return;
            }
        };
        let number = deploy.instance.instance_number;
        let request = Request {
            instance: deploy.instance,
            port_mappings,
            note: String::new(),
        };
        let attached = match deploy.kind {
            DeployKind::Container { pid } => match Workload::of_process(pid) {
                Ok(workload) => node.attach(request, workload).await,
                Err(error) => Err(error.into()),
            },
            DeployKind::Unikernel => node.attach_unikernel(request).await,
        };
        match attached {
            Ok(attachment) => {
                self.watch.add(&attachment);
                self.announce(&attachment, 0);
                let nameless = Nameless {
                    attachment,
                    reply: Some((reply, now + DEPLOY_WAIT)),
                };
                self.nameless.insert((service.clone(), number), nameless);
                self.asker.handle_local(&service, number, true, now);
                self.name_known(&service, number);
            }
            Err(error) => {
                let _ = reply.send(Err(error.into()));
            }
        }
    }

    fn attach(
        &mut self,
        attach: Attach,
        reply: Reply<Attached>,
        workload: Result<Workload, Refusal>,
        now: Duration,
    ) {
        let prepared = parse_name(&attach.service).and_then(|service| {
            self.node()?;
            Ok((
                service,
                PortMapping::list(&attach.port_mappings).map_err(bad_mapping)?,
                workload?,
            ))
        });
        let (service, port_mappings, workload) = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => {
                let _ = reply.send(Err(refusal));
                return;
            }
        };
        if let Some(number) = attach.instance_number
            && self.lives_here(&service, number)
        {
            let instance = InstanceName {
                service: attach.service,
                instance_number: number,
            };
            let _ = reply.send(Err(Refusal::AlreadyAttached(instance)));
            return;
        }
        self.requests += 1;
        // Unique across restarts: a repeated request must not be taken for an earlier one.
        let request = format!("{:x}-{}", now.as_nanos(), self.requests);
        self.attaching.insert(
            request.clone(),
            Attaching {
                service,
                instance_number: attach.instance_number,
                port_mappings,
                workload,
                reply,
                until: now + ATTACH_WAIT,
            },
        );
        self.ask_instance(&request);
    }

    fn ask_instance(&self, request: &str) {
        if let Some(attaching) = self.attaching.get(request) {
            let body = InstanceRequest {
                request_id: request.to_owned(),
                service: attaching.service.clone(),
                instance_number: attaching.instance_number,
            };
            self.say(Verb::InstanceRequest, &body);
        }
    }

    /// The managers gave an instance: wire it.
    async fn handle_instance(&mut self, result: InstanceResult, now: Duration) {
        let Some(attaching) = self.attaching.remove(&result.request_id) else {
            return;
        };
        if let Some(error) = result.error {
            let refusal = if result.retry {
                Refusal::ManagersAway(error)
            } else {
                Refusal::ManagersRefused(error)
            };
            let _ = attaching.reply.send(Err(refusal));
            return;
        }
        let number = result.instance_number;
        let instance = InstanceName {
            service: attaching.service.to_string(),
            instance_number: number,
        };
        let request = Request {
            instance: instance.clone(),
            port_mappings: attaching.port_mappings,
            note: String::new(),
        };
        let attached = match self.node() {
            Ok(node) => node
                .attach(request, attaching.workload)
                .await
                .map_err(Refusal::from),
            Err(refusal) => Err(refusal),
        };
        match attached {
            Ok(attachment) => {
                self.watch.add(&attachment);
                let instance_ip = Dual {
                    v4: result.instance_ip,
                    v6: result.instance_ip_v6,
                };
                self.list(
                    &attaching.service,
                    &attachment,
                    result.epoch,
                    map(instance_ip, InstanceIp::new),
                    now,
                );
                let attached = Attached {
                    instance,
                    instance_ip: instance_ip.v4.and_then(v4),
                    instance_ip_v6: instance_ip.v6.and_then(v6),
                    ns_address: attachment.ns_address,
                    ns_address_v6: attachment.ns_address_v6,
                };
                let _ = attaching.reply.send(Ok(attached));
            }
            Err(refusal) => {
                // The managers believe that it exists: take it back.
                self.end_of(instance.service, number, result.epoch);
                self.tell_ended(now);
                let _ = attaching.reply.send(Err(refusal));
            }
        }
    }

    async fn detach(
        &mut self,
        detach: Detach,
        namespace: Option<NamespaceId>,
        now: Duration,
    ) -> Result<(), Refusal> {
        let service = parse_name(&detach.service)?;
        let node = self.node()?;
        let attachments = node.run(|net| net.attachments().to_vec()).await?;
        let meant: Vec<u32> = attachments
            .iter()
            .filter(|attachment| {
                ServiceName::parse(&attachment.instance.service).is_ok_and(|name| name == service)
            })
            .filter(|attachment| {
                detach
                    .instance_number
                    .is_none_or(|n| attachment.instance.instance_number == n)
            })
            .filter(|attachment| namespace.is_none_or(|id| attachment.namespace == id))
            .map(|attachment| attachment.instance.instance_number)
            .collect();
        if meant.is_empty() {
            return Err(Refusal::UnknownInstance(format!(
                "an instance of {service}{}",
                detach
                    .target
                    .map(|target| format!(" in {target}"))
                    .unwrap_or_default()
            )));
        }
        for number in meant {
            self.end(&service, number, now).await?;
        }
        Ok(())
    }

    /// Ends a local instance on purpose.
    async fn end(
        &mut self,
        service: &ServiceName,
        number: u32,
        now: Duration,
    ) -> Result<(), Refusal> {
        self.node()?;
        let instance = InstanceName {
            service: service.to_string(),
            instance_number: number,
        };
        self.watch.remove(&instance);
        let was_listed = self.unlist(service, number, now);
        self.settle(now);
        let was_wired = self.unwire(instance.clone()).await?;
        if was_listed || was_wired {
            Ok(())
        } else {
            Err(Refusal::UnknownInstance(instance.to_string()))
        }
    }

    /// Takes an instance out of routes, interests and the cluster's knowledge.
    fn unlist(&mut self, service: &ServiceName, number: u32, now: Duration) -> bool {
        let known = self.routes.remove_local(service, number);
        let listed = known.is_some();
        let nameless = self.nameless.remove(&(service.clone(), number)).is_some();
        if listed || nameless {
            self.asker.handle_local(service, number, false, now);
            self.end_of(
                service.to_string(),
                number,
                known.map_or(0, |local| local.epoch),
            );
            self.tell_ended(now);
            self.routes_changed = true;
            self.state_changed = true;
        }
        listed || nameless
    }

    async fn unwire(&mut self, instance: InstanceName) -> Result<bool, Refusal> {
        Ok(self.node()?.detach(instance).await?.is_some())
    }

    /// A wired instance has its InstanceIP: it takes part from now on.
    fn list(
        &mut self,
        service: &ServiceName,
        attachment: &Attachment,
        epoch: u64,
        instance_ip: Dual<InstanceIp>,
        now: Duration,
    ) {
        let number = attachment.instance.instance_number;
        self.ended.remove(&(service.to_string(), number));
        let ns_ip = attachment.ns_ip();
        self.routes.add_local(LocalInstance {
            job: service.clone(),
            number,
            epoch,
            instance_ip,
            ns_ip,
        });
        self.announce(attachment, epoch);
        self.asker.handle_local(service, number, true, now);
        self.routes_changed = true;
        self.state_changed = true;
    }

    /// An instance that an earlier life of this gateway attached.
    fn adopt(&mut self, attachment: Attachment, remembered: &[LocalState], now: Duration) {
        let Ok(service) = ServiceName::parse(&attachment.instance.service) else {
            return;
        };
        let number = attachment.instance.instance_number;
        self.watch.add(&attachment);
        let known = remembered.iter().find(|local| {
            local.number == number
                && ServiceName::parse(&local.service).is_ok_and(|name| name == service)
        });
        if let Some(known) = known {
            let instance_ip = Dual {
                v4: known.instance_ip.map(|ip| InstanceIp::new(ip.into())),
                v6: known.instance_ip_v6.map(|ip| InstanceIp::new(ip.into())),
            };
            self.list(&service, &attachment, known.epoch, instance_ip, now);
        } else {
            self.announce(&attachment, 0);
            self.nameless.insert(
                (service.clone(), number),
                Nameless {
                    attachment,
                    reply: None,
                },
            );
            self.asker.handle_local(&service, number, true, now);
            self.name_known(&service, number);
        }
    }

    /// Looks whether the managers have told the InstanceIP before.
    fn name_known(&mut self, service: &ServiceName, number: u32) {
        let row = self.asker.routes(service).and_then(|routes| {
            routes
                .instances
                .iter()
                .find(|row| row.number == number)
                .cloned()
        });
        if let Some(row) = row {
            self.name_instance(service, &row);
        }
    }

    /// The managers told an InstanceIP; if that instance waits for it here, it takes part from now on.
    fn name_instance(&mut self, service: &ServiceName, row: &Row) {
        let Some(nameless) = self.nameless.remove(&(service.clone(), row.number)) else {
            return;
        };
        self.routes.add_local(LocalInstance {
            job: service.clone(),
            number: row.number,
            epoch: row.epoch,
            instance_ip: row.instance_ip,
            ns_ip: nameless.attachment.ns_ip(),
        });
        self.routes_changed = true;
        self.state_changed = true;
        // Workers see it before the caller does.
        self.routes.publish();
        if let Some((reply, _)) = nameless.reply {
            let _ = reply.send(Ok(deployed(&nameless.attachment)));
        }
    }

    fn lives_here(&self, service: &ServiceName, number: u32) -> bool {
        self.routes.local(service, number).is_some()
            || self.nameless.contains_key(&(service.clone(), number))
    }

    /// Tells the cluster where an instance runs.
    fn announce(&self, attachment: &Attachment, epoch: u64) {
        let InstanceName {
            service,
            instance_number,
        } = &attachment.instance;
        self.announce_at(service, *instance_number, epoch, &attachment.ns_ip());
    }

    fn announce_at(&self, service: &str, number: u32, epoch: u64, ns_ip: &Dual<NsIp>) {
        let deployed = message::Deployed {
            appname: service.to_owned(),
            status: "DEPLOYED".to_owned(),
            instance_number: number,
            nsip: ns_ip.v4.map(NsIp::ip),
            nsipv6: ns_ip.v6.map(NsIp::ip),
            host_port: self.config.gateway.exposed_port,
            host_ip: self.own_ip,
            epoch,
        };
        self.say(Verb::Deployed, &deployed);
    }

    /// Tells the cluster about every instance again: it may have forgotten, or we have another address.
    fn announce_all(&self) {
        for local in self.routes.locals() {
            self.announce_at(
                &local.job.to_string(),
                local.number,
                local.epoch,
                &local.ns_ip,
            );
        }
        for nameless in self.nameless.values() {
            self.announce(&nameless.attachment, 0);
        }
    }

    fn end_of(&mut self, service: String, number: u32, epoch: u64) {
        self.ended.insert(
            (service, number),
            Ended {
                epoch,
                told_until: None,
            },
        );
        self.state_changed = true;
    }

    /// The managers place an instance here that is not here: it ended while nobody could be told.
    fn disown(&mut self, job: &ServiceName, row: &Row) {
        let here = row.place.as_ref().and_then(|place| place.node.as_deref());
        let ours = here.is_some() && here == self.node_id.as_ref().map(NodeId::as_str);
        let key = (job.to_string(), row.number);
        if ours
            && row.epoch != 0
            && self.node.is_some()
            && !self.lives_here(job, row.number)
            && !self.ended.contains_key(&key)
        {
            self.end_of(key.0, key.1, row.epoch);
        }
    }

    /// Tells the cluster about ends; one whose epoch is not known only once, as the number may be another's by then.
    fn tell_ended(&mut self, now: Duration) {
        if !self.connected {
            return;
        }
        let mut ended = std::mem::take(&mut self.ended);
        for ((appname, instance_number), it) in &mut ended {
            let undeployed = Undeployed {
                appname: appname.clone(),
                instance_number: *instance_number,
                epoch: it.epoch,
            };
            self.say(Verb::Undeployed, &undeployed);
            it.told_until.get_or_insert(now + TELL_AGAIN);
        }
        ended.retain(|_, it| it.epoch != 0 && it.told_until.is_none_or(|until| now < until));
        self.state_changed |= ended.len() != self.ended.len();
        self.ended = ended;
    }

    fn node(&self) -> Result<Node, Refusal> {
        self.node.clone().ok_or(Refusal::NotRegistered)
    }

    // What others see.

    fn remember(&mut self, now: Duration) {
        let local = self
            .routes
            .locals()
            .map(|local| LocalState {
                service: local.job.to_string(),
                number: local.number,
                epoch: local.epoch,
                instance_ip: local.instance_ip.v4.map(|ip| IpAddr::from(ip.ip())),
                instance_ip_v6: local.instance_ip.v6.map(|ip| IpAddr::from(ip.ip())),
            })
            .chain(self.remembered.iter().cloned())
            .collect();
        let ended = self
            .ended
            .iter()
            .map(|((service, number), it)| EndedState {
                service: service.clone(),
                number: *number,
                epoch: it.epoch,
            })
            .collect();
        let state = State {
            registration: self.registration.clone(),
            local,
            ended,
            routes: self.asker.snapshot(),
        };
        self.written_at = now;
        self.state_changed = false;
        if let Err(error) = self.file.write(&state) {
            tracing::warn!(%error, "a restart will know less");
            self.state_changed = true;
        }
    }

    fn show(&self) {
        let registration = self.registration.as_ref();
        let not_ready = match (registration, &self.node) {
            (None, _) => "not registered: POST /register, or set gateway.cluster",
            (Some(_), None) => "waiting for the cluster to give this node a subnet",
            (Some(_), Some(_)) => "",
        };
        let subnet = registration.and_then(|known| known.subnet.as_ref());
        let plan = &self.config.plan;
        let state = GatewayState {
            node_id: registration
                .map(|known| known.node_id.clone())
                .unwrap_or_default(),
            node_address: self.own_ip,
            tunnel_port: self.config.fastpath.tunnel_port,
            exposed_port: self.config.gateway.exposed_port,
            subnet: Dual {
                v4: subnet.and_then(|it| Subnet::new(it.address?, plan.node_length_v4).ok()),
                v6: subnet.and_then(|it| Subnet::new(it.addressv6?, plan.node_length_v6).ok()),
            },
            cluster: registration
                .map(|known| format!("{}:{}", known.host, known.port))
                .unwrap_or_default(),
            cluster_connected: self.connected,
            questions_open: self.asker.queries(),
            tunnels: self.plane.tunnels(),
            workers: self.plane.workers(),
            not_ready: not_ready.to_owned(),
        };
        self.view.send_replace(state);
    }
}

fn parse_name(text: &str) -> Result<ServiceName, Refusal> {
    ServiceName::parse(text).map_err(|_| Refusal::ServiceName(text.to_owned()))
}

fn bad_mapping(error: crate::node::port_mapping::PortMappingError) -> Refusal {
    Refusal::BadRequest(error.to_string())
}

async fn find(target: &AttachTarget) -> Result<Workload, Refusal> {
    let pid = match target {
        AttachTarget::Pid(pid) => *pid,
        AttachTarget::Netns(path) => {
            return Workload::of_namespace(path)
                .map_err(|error| Refusal::NoTarget(error.to_string()));
        }
        AttachTarget::Container(id) => container::pid(id)
            .await
            .map_err(|error| Refusal::NoTarget(error.to_string()))?,
    };
    Workload::of_process(pid).map_err(|error| Refusal::NoTarget(error.to_string()))
}

fn deployed(attachment: &Attachment) -> Deployed {
    Deployed {
        service: attachment.instance.service.clone(),
        ns_address: attachment.ns_address,
        ns_address_v6: attachment.ns_address_v6,
    }
}

fn map<T: Copy, U>(pair: Dual<T>, make: impl Fn(T) -> U) -> Dual<U> {
    Dual {
        v4: pair.v4.map(&make),
        v6: pair.v6.map(&make),
    }
}

fn v4(ip: Ip) -> Option<std::net::Ipv4Addr> {
    match IpAddr::from(ip) {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

fn v6(ip: Ip) -> Option<std::net::Ipv6Addr> {
    match IpAddr::from(ip) {
        IpAddr::V6(ip) => Some(ip),
        IpAddr::V4(_) => None,
    }
}
