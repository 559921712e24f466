//! A gateway as the simulation needs it: the real asker, tables and engine, and instances of its own.

use crate::plane::{Left, Plane, TUNNEL_PORT};
use crate::planted::Bug;
use crate::probes::Failover;
use crate::truth::Identity;
use sluice_proto::ServiceName;
use sluice_proto::broker::SessionId;
use sluice_proto::isolation::same_namespaces;
use sluice_proto::liveness::{self, NodeAddress, Prober};
use sluice_proto::message::{
    Deployed, InstanceRequest, InstanceResult, LeaveRequest, NodeId, NodeKey, SubnetRequest,
    TableQueryResult, Topic, Undeployed, Verb, read, write,
};
use sluice_proto::table_query::asker::{Asker, Event, Mqtt, Routes, Settings};
use sluice_proto::table_query::{Key, Row};
use sluice_routes::{LocalInstance, Suspects};
use sluice_tables::{Question, Suspicion, Upcall};
use sluice_wire::{Dual, InstanceIp, Ip, NsIp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How often a node repeats what nobody acknowledges.
const REPEAT: Duration = Duration::from_secs(2);
/// Uses and timers of the engine are looked at so often.
const TICK: Duration = Duration::from_secs(1);
/// How long an NsIP rests before another instance has it.
const REST: Duration = Duration::from_secs(600);

/// An instance on the node.
#[derive(Clone, Debug)]
pub struct Local {
    pub epoch: u64,
    pub instance_ip: Dual<InstanceIp>,
    pub ns_ip: Dual<Ip>,
}

/// What a node asks its cluster for.
#[derive(Clone, Debug)]
pub struct Attaching {
    pub job: ServiceName,
    /// The number of an instance that runs elsewhere and moves here.
    pub moving: Option<u32>,
}

/// A gateway. See the module.
#[derive(Debug)]
pub struct Node {
    pub id: NodeId,
    pub index: usize,
    pub cluster: usize,
    pub key: NodeKey,
    /// Keys that it had before.
    keys: u64,
    pub asker: Asker,
    pub plane: Plane,
    /// Its session at the broker, while it is connected.
    pub session: Option<SessionId>,
    /// Its gateway runs. While it does not, its kernel refuses what comes through the tunnel.
    pub up: bool,
    pub failover: Failover,
    /// Its gateway was stopped, and its cluster is being told that it leaves.
    pub leaving: Option<LeaveRequest>,
    pub subnet: Option<Dual<Ip>>,
    /// Names its last start without its state.
    start: u64,
    /// Rows that flows may use: listed, or not listed and not withdrawn.
    pub rows: BTreeMap<(ServiceName, u32), Row>,
    pub absent: BTreeSet<Key>,
    pub unanswered: u64,
    pub locals: BTreeMap<(ServiceName, u32), Local>,
    /// Attachments that wait for an instance, by request id.
    pub attaching: BTreeMap<String, Attaching>,
    /// Ended instances of which the manager must hear.
    pub ended: BTreeMap<(ServiceName, u32), u64>,
    requests: u64,
    /// NsIPs by their position in the subnet, and from when on they can be given.
    resting: BTreeMap<u128, Duration>,
    /// The services that ever had an instance here, or were to have one.
    residents: BTreeSet<ServiceName>,
    suspects: Suspects,
    pub(crate) prober: Prober,
    /// The own addresses of the gateways that are probed.
    pub(crate) gateways: BTreeMap<NodeAddress, Dual<Ip>>,
    /// When it is next looked at which nodes are in use.
    pub(crate) look_at: Duration,
    pub(crate) routes_changed: bool,
    pub tick_at: Duration,
    pub bug: Option<Bug>,
    pub repeat_at: Option<Duration>,
    settings: Settings,
    /// Queries sent, by key.
    pub queries: BTreeMap<String, u64>,
    pub events: Vec<(Duration, Event)>,
}

impl Node {
    #[must_use]
    pub fn new(id: NodeId, index: usize, cluster: usize, settings: Settings, seed: u64) -> Self {
        Self {
            id,
            index,
            cluster,
            key: key_of(index, 0),
            keys: 0,
            asker: Asker::new(settings.clone(), seed),
            plane: Plane::new(own_ip(index), seed),
            session: None,
            up: true,
            failover: Failover::Reported,
            leaving: None,
            subnet: None,
            start: seed,
            rows: BTreeMap::new(),
            absent: BTreeSet::new(),
            unanswered: 0,
            locals: BTreeMap::new(),
            attaching: BTreeMap::new(),
            ended: BTreeMap::new(),
            requests: 0,
            resting: BTreeMap::new(),
            residents: BTreeSet::new(),
            suspects: Suspects::default(),
            prober: Prober::new(liveness::Settings::default()),
            gateways: BTreeMap::new(),
            look_at: TICK,
            routes_changed: false,
            tick_at: TICK,
            bug: None,
            repeat_at: None,
            settings,
            queries: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// The address that other nodes reach this one at.
    #[must_use]
    pub fn own_ip(&self) -> Ip {
        own_ip(self.index)
    }

    #[must_use]
    pub const fn is_connected(&self) -> bool {
        self.session.is_some()
    }

    /// The instance that has this NsIP.
    #[must_use]
    pub fn local_at(&self, ns_ip: Ip) -> Option<Identity> {
        let mut locals = self.locals.iter();
        let ((job, number), local) =
            locals.find(|(_, local)| local.ns_ip.iter().any(|ip| ip == ns_ip))?;
        Some((job.clone(), *number, local.epoch))
    }

    /// Whether all instances that were ever here, or were to be, are of the job's tenant.
    #[must_use]
    pub fn has_been_of(&self, job: &ServiceName) -> bool {
        let mut residents = self.residents.iter();
        residents.all(|resident| same_namespaces(resident, job))
    }

    fn publish<T: serde::Serialize>(&self, verb: Verb, message: &T) -> Mqtt {
        Mqtt::Publish {
            topic: Topic::node(self.id.clone(), verb).to_string(),
            payload: write(message),
        }
    }

    /// What the node says on its own when it connects, and again while something is not settled.
    pub fn announce(&mut self, now: Duration) -> Vec<Mqtt> {
        if let Some(leave) = &self.leaving {
            self.repeat_at = Some(now + REPEAT);
            let leave = self.publish(Verb::LeaveRequest, leave);
            return self.ends().chain([leave]).collect();
        }
        let mut said = Vec::new();
        if self.subnet.is_none() {
            let request = SubnetRequest {
                fresh: Some(self.start),
                public_key: Some(self.key),
                ..SubnetRequest::get()
            };
            said.push(self.publish(Verb::Subnet, &request));
        }
        said.extend(self.places());
        said.extend(self.ends());
        for (request_id, attaching) in &self.attaching {
            let request = InstanceRequest {
                request_id: request_id.clone(),
                service: attaching.job.clone(),
                instance_number: attaching.moving,
                migrate: attaching.moving.is_some(),
            };
            said.push(self.publish(Verb::InstanceRequest, &request));
        }
        let open = self.subnet.is_none() || !self.attaching.is_empty();
        self.repeat_at = open.then(|| now + REPEAT);
        said
    }

    /// Where its instances run.
    pub(crate) fn places(&self) -> impl Iterator<Item = Mqtt> {
        let locals = self.locals.iter();
        locals.map(|((job, number), local)| {
            self.publish(Verb::Deployed, &self.deployed(job, *number, local))
        })
    }

    /// Goes on with another key, and gives what is to be said of it.
    pub(crate) fn rotate_key(&mut self) -> Vec<Mqtt> {
        self.keys += 1;
        self.key = key_of(self.index, self.keys);
        self.places().collect()
    }

    /// What it says of the instances that ended.
    fn ends(&self) -> impl Iterator<Item = Mqtt> {
        let ended = self.ended.iter();
        ended.map(|((job, number), epoch)| self.end_of(job, *number, *epoch))
    }

    fn end_of(&self, job: &ServiceName, number: u32, epoch: u64) -> Mqtt {
        let undeployed = Undeployed {
            appname: job.to_string(),
            instance_number: number,
            epoch,
        };
        self.publish(Verb::Undeployed, &undeployed)
    }

    fn deployed(&self, job: &ServiceName, number: u32, local: &Local) -> Deployed {
        Deployed {
            appname: job.to_string(),
            status: "DEPLOYED".to_owned(),
            instance_number: number,
            nsip: local.ns_ip.v4,
            nsipv6: local.ns_ip.v6,
            host_port: TUNNEL_PORT,
            host_ip: Some(self.own_ip()),
            epoch: local.epoch,
            public_key: Some(self.key),
            answers_probes: true,
        }
    }

    /// Begins to attach an instance.
    pub fn attach(&mut self, service: &ServiceName, now: Duration) {
        self.request(service, None, now);
    }

    /// Begins to attach an instance that runs elsewhere, and goes on there until it is detached.
    pub(crate) fn take_over(&mut self, service: &ServiceName, number: u32, now: Duration) {
        self.request(service, Some(number), now);
    }

    fn request(&mut self, service: &ServiceName, moving: Option<u32>, now: Duration) {
        self.residents.insert(service.clone());
        self.requests += 1;
        let id = format!("r{}", self.requests);
        let job = service.clone();
        self.attaching.insert(id, Attaching { job, moving });
        self.repeat_at = Some(now);
    }

    /// An instance's process ends.
    pub fn detach(&mut self, which: usize, now: Duration) -> Option<(Identity, Mqtt)> {
        let key = self
            .locals
            .keys()
            .nth(which % self.locals.len().max(1))?
            .clone();
        self.end(key, now)
    }

    /// An instance's process ends here. Where it moved to, as far as this gateway knows, takes over its flows.
    pub(crate) fn end(
        &mut self,
        key: (ServiceName, u32),
        now: Duration,
    ) -> Option<(Identity, Mqtt)> {
        let local = self.locals.remove(&key)?;
        self.ended.insert(key.clone(), local.epoch);
        let (job, number) = key;
        self.rest(&local, now);
        let known = self.asker.routes(&job);
        let rows = known.iter().flat_map(|known| &known.instances);
        match rows.into_iter().find(|row| row.number == number) {
            Some(row) => self.plane.routes.move_local(&job, row),
            None => self.plane.routes.remove_local(&job, number),
        };
        self.plane.publish(now);
        self.asker.handle_local(&job, number, false, now);
        let message = self.end_of(&job, number, local.epoch);
        Some(((job, number, local.epoch), message))
    }

    /// A message from the broker. Gives the instance that began to live by it, and what to say.
    ///
    /// # Panics
    /// When a manager sends what a gateway cannot read.
    pub fn receive(
        &mut self,
        topic: &Topic,
        payload: &[u8],
        now: Duration,
    ) -> (Option<Identity>, Vec<Mqtt>) {
        let is_leave_result =
            matches!(topic, Topic::Node { verb, .. } if *verb == Verb::LeaveResult);
        if self.leaving.is_some() && !is_leave_result {
            // The gateway does not run.
            return (None, Vec::new());
        }
        match topic {
            Topic::Updates { job } => {
                let job: ServiceName = job.parse().expect("managers spell names well");
                let update = read("update", payload).expect("managers write well");
                self.asker.handle_update_available(&job, &update, now);
            }
            Topic::Node { verb, .. } => match verb {
                Verb::TableQueryResult => {
                    let result: TableQueryResult =
                        read("result", payload).expect("managers write well");
                    self.asker
                        .handle_result(&result, now)
                        .expect("managers spell names well");
                }
                Verb::SubnetResult => {
                    let result: sluice_proto::message::SubnetResult =
                        read("subnet", payload).expect("managers write well");
                    let subnet = Dual {
                        v4: result.address,
                        v6: result.addressv6,
                    };
                    if self.subnet.is_none() {
                        self.rest_former(&subnet, &result.held, now);
                    }
                    let known = *self.subnet.get_or_insert(subnet);
                    assert_eq!(known, subnet, "{} got another subnet", self.id);
                    self.set_gateway();
                }
                Verb::InstanceResult => {
                    let result: InstanceResult =
                        read("instance", payload).expect("managers write well");
                    return self.attached(&result, now);
                }
                Verb::LeaveResult => {
                    let result = read("leave result", payload).expect("managers write well");
                    self.take_leave_result(&result);
                }
                Verb::Subnet
                | Verb::Deployed
                | Verb::Undeployed
                | Verb::AddressChanged
                | Verb::TableQueryRequest
                | Verb::InterestRemove
                | Verb::InstanceRequest
                | Verb::LeaveRequest => panic!("a manager sent {topic}"),
            },
        }
        (None, Vec::new())
    }

    fn attached(
        &mut self,
        result: &InstanceResult,
        now: Duration,
    ) -> (Option<Identity>, Vec<Mqtt>) {
        let Some(subnet) = self.subnet else {
            return (None, Vec::new());
        };
        if result.retry {
            return (None, Vec::new());
        }
        let Some(Attaching { job, .. }) = self.attaching.remove(&result.request_id) else {
            return (None, Vec::new());
        };
        if result.error.is_some() {
            return (None, Vec::new());
        }
        let offset = self.free_offset(now);
        let local = Local {
            epoch: result.epoch,
            instance_ip: Dual {
                v4: result.instance_ip.map(InstanceIp::new),
                v6: result.instance_ip_v6.map(InstanceIp::new),
            },
            ns_ip: Dual {
                v4: subnet.v4.map(|ip| ip.offset(offset)),
                v6: subnet.v6.map(|ip| ip.offset(offset)),
            },
        };
        let number = result.instance_number;
        // A number that comes back is another instance: what was said about the old one is void.
        self.ended.remove(&(job.clone(), number));
        let message = self.publish(Verb::Deployed, &self.deployed(&job, number, &local));
        self.plane.routes.add_local(local.row(&job, number));
        self.routes_changed = true;
        self.locals.insert((job.clone(), number), local);
        self.asker.handle_local(&job, number, true, now);
        (Some((job, number, result.epoch)), vec![message])
    }

    /// The first position that nobody has or had lately.
    fn free_offset(&mut self, now: Duration) -> u128 {
        if self.bug == Some(Bug::AddressWithoutRest) {
            self.resting.retain(|_, until| *until == Duration::MAX);
        }
        self.resting.retain(|_, until| *until > now);
        let offset = (2..60).find(|offset| !self.resting.contains_key(offset));
        let offset = offset.expect("a subnet is large enough for a run");
        self.resting.insert(offset, Duration::MAX);
        offset
    }

    /// What was in use before this gateway lost its state rests.
    fn rest_former(&mut self, subnet: &Dual<Ip>, held: &[Ip], now: Duration) {
        for offset in 2..60 {
            let mut here = subnet.iter().map(|ip| ip.offset(offset));
            if here.any(|ip| held.contains(&ip)) {
                self.resting.insert(offset, now + REST);
            }
        }
    }

    fn rest(&mut self, local: &Local, now: Duration) {
        let Some(subnet) = self.subnet else { return };
        let is_it = |offset: u128| subnet.v4.map(|ip| ip.offset(offset)) == local.ns_ip.v4;
        for (_, until) in self.resting.iter_mut().filter(|(at, _)| is_it(**at)) {
            *until = now + REST;
        }
    }

    /// The process is killed and starts from its snapshot; its instances go on.
    pub fn restart(&mut self, seed: u64, now: Duration) {
        let snapshot = self.asker.snapshot();
        self.asker = Asker::new(self.settings.clone(), seed);
        self.rows.clear();
        self.absent.clear();
        self.plane = Plane::new(self.own_ip(), seed);
        self.suspects = Suspects::default();
        self.prober = Prober::new(liveness::Settings::default());
        self.gateways.clear();
        self.set_gateway();
        self.asker.restore(&snapshot, now);
        for ((job, number), local) in &self.locals {
            self.plane.routes.add_local(local.row(job, *number));
            self.plane.routes.settle(job, *number);
            self.asker.handle_local(job, *number, true, now);
        }
        self.routes_changed = true;
    }

    /// The process is killed and starts without its state: it knows neither its subnet nor its instances, which it gives.
    pub fn wipe(&mut self, seed: u64, now: Duration) -> Vec<Identity> {
        let locals = std::mem::take(&mut self.locals);
        self.asker = Asker::new(self.settings.clone(), seed);
        self.subnet = None;
        self.start = seed;
        self.attaching.clear();
        self.ended.clear();
        self.resting.clear();
        self.rotate_key();
        self.restart(seed, now);
        let gone = locals.into_iter();
        gone.map(|((job, number), local)| (job, number, local.epoch))
            .collect()
    }

    /// Follows the asker's events as the tables of a gateway do; gives withdrawn instances.
    ///
    /// # Panics
    /// When a known route is lost while the managers cannot be reached.
    pub fn follow_events(&mut self, now: Duration) -> Vec<Identity> {
        let mut withdrawn = Vec::new();
        while let Some(event) = self.asker.poll_event() {
            self.routes_changed = true;
            let believes = self.bug == Some(Bug::NegativeForEver);
            if believes && matches!(event, Event::Unknown { .. }) {
                continue;
            }
            let local = self.plane.routes.handle_event(&event);
            assert_eq!(
                local, None,
                "{}: an instance that runs here is withdrawn",
                self.id
            );
            match &event {
                Event::Routes(routes) | Event::Unavailable(routes) => {
                    if self.bug == Some(Bug::PrunedIsWithdrawn) {
                        self.withdraw_unlisted(routes);
                    }
                    for row in &routes.instances {
                        has_a_key_of_its_node(row);
                        let key = (routes.job.clone(), row.number);
                        self.rows.insert(key, row.clone());
                    }
                }
                Event::Withdrawn { job, number, epoch } => {
                    assert!(self.is_connected(), "{job} withdrawn while cut off");
                    self.rows.remove(&(job.clone(), *number));
                    withdrawn.push((job.clone(), *number, *epoch));
                }
                Event::Forgotten { job } => {
                    assert!(self.is_connected(), "{job} forgotten while cut off");
                    self.rows.retain(|(other, _), _| other != job);
                }
                Event::Absent { key } => {
                    self.absent.insert(key.clone());
                }
                Event::Unknown { key } => {
                    self.absent.remove(key);
                }
                Event::Node(place) => has_its_key(place.key, place.host),
                Event::Unresolved { .. } | Event::Unanswered { .. } => self.unanswered += 1,
            }
            self.events.push((now, event));
        }
        withdrawn
    }

    /// As [`Bug::PrunedIsWithdrawn`] has it.
    fn withdraw_unlisted(&mut self, routes: &Routes) {
        for (job, number) in self.rows.keys() {
            let mut listed = routes.instances.iter();
            if *job == routes.job && !listed.any(|row| row.number == *number) {
                self.plane.routes.withdraw(job, *number);
            }
        }
    }

    fn set_gateway(&mut self) {
        if let Some(subnet) = self.subnet {
            let first = |ip: Ip| ip.offset(1);
            self.plane.routes.set_gateway(Dual {
                v4: subnet.v4.map(first),
                v6: subnet.v6.map(first),
            });
            self.routes_changed = true;
        }
    }

    /// Hears what the engine asks and saw.
    pub fn follow_upcalls(&mut self, now: Duration) {
        while let Some(upcall) = self.plane.poll_upcall() {
            match upcall {
                Upcall::Ask(Question::Dialled(ip) | Question::InnerSource { source: ip, .. }) => {
                    self.asker.handle_question(&Key::Address(ip), now);
                }
                // They have been asked for since it began to run here.
                // Packets here are not sealed.
                Upcall::Ask(Question::Rules(_)) | Upcall::Initiator { .. } => {}
                Upcall::Suspect { .. } if self.failover == Failover::Off => {}
                Upcall::Suspect {
                    instance,
                    epoch,
                    why,
                } => {
                    let job = match why {
                        Suspicion::Unreachable => self.plane.routes.suspect(instance, epoch),
                        Suspicion::Elsewhere => self.plane.routes.job_of(instance),
                    };
                    let Some(job) = job else { continue };
                    if why == Suspicion::Unreachable {
                        self.suspects.add(instance, now);
                    }
                    self.routes_changed = true;
                    let suspects = self.plane.routes.suspects_of(&job);
                    self.asker.handle_failure(&job, suspects, now);
                }
                Upcall::Heard { instance } => {
                    if self.suspects.clear(instance) {
                        self.plane.routes.trust(instance);
                        self.routes_changed = true;
                    }
                }
                // These gateways enforce, and offload nothing.
                Upcall::NotAllowed { .. } | Upcall::Offload { .. } => {}
            }
        }
    }

    /// Where answers leave instances out, others are to be listed in place of suspects.
    pub(crate) fn tell_suspects(&mut self, now: Duration) {
        for (job, suspects) in self.plane.routes.take_doubted() {
            self.asker.handle_suspects(&job, suspects, now);
        }
    }

    /// Makes what changed visible to the engine, and gives what had waited for it.
    pub fn settle(&mut self, now: Duration) -> Vec<Left> {
        if std::mem::take(&mut self.routes_changed) {
            self.plane.publish(now)
        } else {
            Vec::new()
        }
    }

    /// What a gateway does every second.
    pub fn tick(&mut self, now: Duration) -> Vec<Left> {
        self.tick_at = now + TICK;
        let since_s = Plane::used_since_s(now);
        let used: Vec<ServiceName> = self.plane.routes.used_since(since_s).cloned().collect();
        let forgets = self.bug == Some(Bug::UsedInterestExpires);
        for job in used.into_iter().filter(|_| !forgets) {
            self.asker.handle_used(&job, now);
        }
        for (job, number) in self.plane.routes.used_unlisted(since_s) {
            self.asker.handle_used_instance(&job, number, now);
        }
        self.asker.forget_idle(now);
        for slot in self.suspects.due(now) {
            self.plane.routes.trust(slot);
            self.routes_changed = true;
        }
        let due = self
            .plane
            .routes
            .poll_timeout()
            .is_some_and(|due| due <= now);
        self.routes_changed |= due && self.plane.routes.handle_timeout(now);
        self.plane.handle_timeout(now)
    }
}

/// The address that other nodes reach a node at.
pub(crate) fn own_ip(index: usize) -> Ip {
    Ip::v4([192, 0, 2, u8::try_from(index + 1).unwrap_or(u8::MAX)])
}

/// The key of a node that had so many before. Whose it is can be seen.
fn key_of(index: usize, before: u64) -> NodeKey {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(index as u64).to_be_bytes());
    bytes[8..16].copy_from_slice(&before.to_be_bytes());
    NodeKey::from_bytes(bytes)
}

/// The node where the instance runs has or had the key that the row says, whatever was lost, late or repeated on its way.
fn has_a_key_of_its_node(row: &Row) {
    let Some(place) = &row.place else { return };
    has_its_key(place.key.expect("all nodes have keys"), place.host);
}

/// The node with this address has or had the key.
fn has_its_key(key: NodeKey, host: Ip) {
    let owner = (0..usize::from(u8::MAX)).find(|index| own_ip(*index) == host);
    let owner = owner.expect("instances run on nodes");
    assert_eq!(
        key.as_bytes()[..8],
        (owner as u64).to_be_bytes(),
        "{host} has the key of another node"
    );
}

impl Local {
    fn row(&self, job: &ServiceName, number: u32) -> LocalInstance {
        LocalInstance {
            job: job.clone(),
            number,
            epoch: self.epoch,
            instance_ip: self.instance_ip,
            ns_ip: Dual {
                v4: self.ns_ip.v4.map(NsIp::new),
                v6: self.ns_ip.v6.map(NsIp::new),
            },
            veth: None,
        }
    }
}
