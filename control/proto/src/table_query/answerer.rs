//! The cluster manager's side of the table query: answers nodes at once from what it knows, asks the root for the rest,
//! and pushes every change to the nodes that are interested.
//!
//! What nodes say about their own instances is passed up and shown down at once; the root's answers are laid under it.
//! The shell writes the [`Change`]s it polls before it sends anything else it polls.
//!
//! Timers, in words: a request to the root is repeated with back-off until it is answered. An *absent* key is
//! asked again only after its answer expired. *Refusals* are looked through while there are some. The *interest* of a Sluice node ends when it was not renewed; that of a
//! legacy node when it says so. What was *allotted* and that no node has taken goes back. The *registration* at the root is repeated, which also finds a root that came back.

mod absence;
mod allot;
mod answer;
mod body;
mod fetch;
mod interest;
mod interface;
mod isolation;
mod leave;
mod migration;
mod nodes;
mod refusal;
mod report;
mod resync;
mod revocation;
mod signing;
mod start;
mod store;
mod succession;
mod tell;
mod untaken;
mod upward;
mod vacancy;

pub use answer::INSTANCES_MAX_DEFAULT;
pub use interface::{ABSENT_MAX, Event, PublishError, REFRESH_EVERY, Settings, Transmit};
pub use upward::{Method, RootRequest};
pub use vacancy::Vacancy;

use super::Key;
use super::backoff::{Backoff, Random};
use super::timers::Timers;
use crate::isolation::Isolation;
use crate::message::{
    Deployed, InstanceRequest, InstanceStatus, InterestRemove, Job, JobUpdate, NodeId, NodeKey,
    SubnetGrant, SubnetRequest, TableQueryRequest, TableQueryResult, Topic, Undeployed, UpdateKind,
    Verb, read,
};
use crate::names::ServiceName;
use crate::record::Change;
use sluice_wire::Ip;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use upward::Asked;

/// The shell says within this time what became of a request; if it does not, the request is repeated all the same.
pub const REQUEST_WAIT: Duration = Duration::from_secs(10);
/// After so long without an instance the node is told to try again later.
const INSTANCE_WAIT: Duration = Duration::from_secs(8);
/// An answer of the root that says "no instance runs" is believed for so long without asking again.
const UNAVAILABLE_FRESH: Duration = Duration::from_secs(1);
/// The interest of a restored or re-attached node before its first renewal.
const INTEREST_DEFAULT: Duration = Duration::from_secs(180);

#[derive(Clone, Debug)]
struct Interest {
    /// `None`: until the node says so (legacy).
    until: Option<Duration>,
    /// Instances that the node asked for by address; never pruned for it.
    asked: BTreeSet<u32>,
    /// Instances that the node cannot reach. Not kept: it says so again when it connects.
    unreachable: BTreeSet<u32>,
}

/// What a node said about one of its instances.
#[derive(Clone, Debug, PartialEq)]
struct Placement {
    status: InstanceStatus,
    node: NodeId,
    /// The epoch that the instance had when the root first named it to us; 0 before.
    epoch: u64,
    /// The last request to the root before this was said: answers up to there do not know it.
    after: u64,
}

#[derive(Clone, Debug)]
struct Known {
    /// As the root said it.
    job: Job,
    /// Grows with everything that shows in an answer.
    revision: u64,
    fetched_at: Duration,
    interests: BTreeMap<NodeId, Interest>,
    placements: BTreeMap<u32, Placement>,
    /// Instances that were attached here without an orchestrator: their end is their deletion.
    attached: BTreeMap<u32, Attached>,
    /// Deleted here; the root may not know it yet. Number to epoch and the last request before the deletion.
    removed: BTreeMap<u32, (u64, u64)>,
    /// An orchestrator scheduled it to this cluster.
    scheduled: bool,
    /// Nodes that an instance moved away from and that have not ended it yet.
    left: migration::Left,
    /// Nodes that ended one so a moment ago, and send on what still comes for it.
    sending_on: migration::Left,
    /// Instances that nobody is told to run, because the key of their node was revoked. They are the node's still: what it may know
    /// follows from them, and it goes on with them under another key.
    suspended: BTreeMap<u32, NodeId>,
    tenancy: vacancy::Tenancy,
    bodies: body::Bodies,
    signatures: signing::Signatures,
}

/// Who waits for a job.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Waiter {
    Node {
        node: NodeId,
        request: TableQueryRequest,
    },
    /// It asks about another job: the one that it waits for is its own.
    Caller {
        node: NodeId,
        request: TableQueryRequest,
    },
    Deployment(u64),
    Instance(NodeId, String),
    /// An instance of the job has ended on the node.
    Ended {
        node: NodeId,
        undeployed: Undeployed,
    },
}

#[derive(Clone, Debug, Default)]
struct Fetch {
    attempts: u32,
    /// The request on its way.
    sent: Option<u64>,
    /// The job changed after the request left.
    again: bool,
    waiters: Vec<Waiter>,
    /// So many of the first waiters were told that the root cannot be asked now.
    told: usize,
}

/// What the root still has to be told about an instance.
#[derive(Clone, Debug, PartialEq)]
enum Report {
    Placed(InstanceStatus),
    Removed { epoch: u64 },
}

#[derive(Clone, Debug)]
struct Outgoing {
    report: Report,
    attempts: u32,
    sent: Option<u64>,
    /// The report changed after the request left.
    again: bool,
}

/// An instance that was allotted to a node of ours.
#[derive(Clone, Debug, Default)]
struct Attached {
    /// Whom it was allotted to; `None` after a restart, when the nodes say what runs there.
    node: Option<NodeId>,
    /// 0 after a restart: the root's.
    epoch: u64,
    /// The last request before the allotment: the answer to it, or to an earlier one, does not know the instance.
    after: u64,
}

#[derive(Clone, Debug)]
struct InstanceAsk {
    request: InstanceRequest,
    deadline: Duration,
    attempts: u32,
    sent: Option<u64>,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Timer {
    Fetch(Key),
    Refresh(ServiceName),
    Report(ServiceName, u32),
    Instance(NodeId, String),
    Allotted(ServiceName, u32),
    Interest(ServiceName, NodeId),
    Node(NodeKey),
    SendingOn(ServiceName, NodeId),
    Refusals,
    Subnet,
    /// By where it begins.
    Return(Ip),
    Register,
}

/// The cluster manager's side of the table query. See the module.
#[derive(Clone, Debug)]
pub struct Answerer {
    settings: Settings,
    random: Random,
    jobs: BTreeMap<ServiceName, Known>,
    addresses: BTreeMap<Ip, ServiceName>,
    /// The highest revision of a job that was forgotten. One that is fetched again goes on above it: a node that still
    /// has its rows would take every answer for an overtaken one otherwise.
    forgotten_revision: u64,
    residents: isolation::Residents,
    /// The jobs that each node is interested in.
    interested: interest::Interested,
    refusals: refusal::Refusals,
    nodes_by_key: nodes::Nodes,
    absent: absence::Absences,
    fetches: BTreeMap<Key, Fetch>,
    resync: resync::Resync,
    reports: BTreeMap<(ServiceName, u32), Outgoing>,
    instances: BTreeMap<(NodeId, String), InstanceAsk>,
    nodes: BTreeMap<NodeId, SubnetGrant>,
    /// Of nodes that started without knowing anything, until they leave.
    starts: BTreeMap<NodeId, start::Start>,
    /// The public keys of the nodes that have a subnet.
    node_keys: BTreeMap<NodeId, NodeKey>,
    revoked: revocation::Revoked,
    spare: VecDeque<SubnetGrant>,
    nodes_waiting: BTreeSet<NodeId>,
    /// Subnets of nodes that left, which the root has not yet taken back.
    returning: BTreeMap<Ip, leave::Returning>,
    subnet: upward::Single,
    register: upward::Single,
    /// Subnet requests so far: each has its own id.
    subnet_requests: u64,
    /// The id of the one that has not been answered. It goes on over restarts: the root may have given a subnet for it.
    subnet_request: Option<String>,
    asked: BTreeMap<u64, Asked>,
    requests: u64,
    /// The last attempt to reach the root failed.
    root_lost: bool,
    /// The root's store that this manager's jobs and subnets are from, once it has said so.
    root_store: Option<String>,
    /// Services without an instance, of which nobody has taken the event yet.
    owing: BTreeSet<ServiceName>,
    dirty: store::Dirty,
    timers: Timers<Timer>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

impl Answerer {
    /// A manager that knows nothing yet; it registers at the root and fills its reserve of subnets.
    #[must_use]
    pub fn new(settings: Settings, seed: u64, now: Duration) -> Self {
        let mut answerer = Self {
            settings,
            random: Random::new(seed),
            jobs: BTreeMap::new(),
            addresses: BTreeMap::new(),
            forgotten_revision: 0,
            residents: isolation::Residents::default(),
            interested: interest::Interested::default(),
            refusals: refusal::Refusals::default(),
            nodes_by_key: nodes::Nodes::default(),
            absent: absence::Absences::default(),
            fetches: BTreeMap::new(),
            resync: resync::Resync::default(),
            reports: BTreeMap::new(),
            instances: BTreeMap::new(),
            nodes: BTreeMap::new(),
            starts: BTreeMap::new(),
            node_keys: BTreeMap::new(),
            revoked: revocation::Revoked::default(),
            spare: VecDeque::new(),
            nodes_waiting: BTreeSet::new(),
            returning: BTreeMap::new(),
            subnet: upward::Single::default(),
            register: upward::Single::default(),
            subnet_requests: 0,
            subnet_request: None,
            asked: BTreeMap::new(),
            requests: 0,
            root_lost: false,
            root_store: None,
            owing: BTreeSet::new(),
            dirty: store::Dirty::default(),
            timers: Timers::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        };
        answerer.timers.set(Timer::Register, now);
        answerer.timers.set(Timer::Subnet, now);
        answerer
    }

    /// A message on `nodes/+/net/#`. What this manager sent itself is ignored.
    ///
    /// # Errors
    /// Names the topic, or what is wrong with the payload. Nothing changed then.
    pub fn handle_publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        now: Duration,
    ) -> Result<(), PublishError> {
        let Topic::Node { node, verb } = Topic::parse(topic)? else {
            return Ok(());
        };
        match verb {
            Verb::TableQueryRequest => {
                let request: TableQueryRequest = read("table query", payload)?;
                self.handle_request(&node, &request.bounded(), now);
            }
            Verb::Deployed => self.handle_deployed(&node, &read("deployment", payload)?, now)?,
            Verb::Undeployed => {
                self.handle_undeployed(&node, &read("undeployment", payload)?, now)?;
            }
            Verb::AddressChanged => {
                self.handle_address_changed(&node, &read("address change", payload)?, now);
            }
            Verb::InterestRemove => {
                self.handle_interest_remove(&node, &read("interest removal", payload)?);
            }
            Verb::Subnet => {
                let request: SubnetRequest = read("subnet request", payload)?;
                self.check_key(&node, request.public_key)?;
                if request.method == "GET" {
                    self.handle_subnet_request(&node, &request, now);
                }
            }
            Verb::InstanceRequest => {
                self.handle_instance_request(&node, read("instance request", payload)?, now);
            }
            Verb::LeaveRequest => self.handle_leave(&node, &read("leave", payload)?, now),
            Verb::SubnetResult
            | Verb::TableQueryResult
            | Verb::InstanceResult
            | Verb::LeaveResult => {}
        }
        Ok(())
    }

    /// A node asks, and is interested from now on in the service it asks about.
    pub fn handle_request(&mut self, node: &NodeId, request: &TableQueryRequest, now: Duration) {
        let Some(key) = Key::parse(request.key()) else {
            self.answer_absent(node, request);
            return;
        };
        if let Key::Node(key) = key {
            self.handle_node_question(node, request, key, now);
            return;
        }
        if let Some(name) = self.name_of(&key) {
            if self.awaits_resident(&name, node, request, now) {
                return;
            }
            self.interest(&name, node, &key, request, now);
            if self.root_lost || self.is_usable(&name, &key, now) {
                self.answer(&name, node, request, now);
                return;
            }
            // Known, but of no use: the root may know more (thesis 3.6.6, exception 1).
            self.fetch(Key::Name(name), Some(self.waiter(node, request)), now);
        } else if self.is_absent(&key, now) {
            self.tell_absent(node, request, now);
        } else if self.may_fetch(&key) {
            self.fetch(key.clone(), Some(self.waiter(node, request)), now);
            self.answer_while_lost(&key, node, request);
        } else {
            self.answer_unavailable(node, request);
        }
    }

    /// An instance runs on the node.
    ///
    /// # Errors
    /// When the name breaks the grammar, no address is given, or the node's key is revoked.
    pub fn handle_deployed(
        &mut self,
        node: &NodeId,
        deployed: &Deployed,
        now: Duration,
    ) -> Result<(), PublishError> {
        self.check_key(node, deployed.public_key)?;
        let job = ServiceName::parse(&deployed.appname)?;
        let number = deployed.instance_number;
        if (deployed.nsip.is_none() && deployed.nsipv6.is_none()) || deployed.host_ip.is_none() {
            return Err(PublishError::NoPlace {
                node: node.clone(),
                job,
                number,
            });
        }
        let status = InstanceStatus {
            instance_number: number,
            namespace_ip: deployed.nsip,
            namespace_ip_v6: deployed.nsipv6,
            host_ip: deployed.host_ip,
            host_port: deployed.host_port,
            worker_id: Some(node.as_str().to_owned()),
            epoch: deployed.epoch,
            public_key: deployed.public_key,
            answers_probes: deployed.answers_probes,
        };
        if deployed.public_key.is_some() {
            self.note_key(node, deployed.public_key);
        }
        if self.has_left(&job, number, node, deployed.epoch) {
            return Ok(());
        }
        if !self.is_late(&job, number, deployed.epoch) {
            self.end_predecessors(&job, node, &status, now);
            self.place(&job, node, status, now);
        }
        Ok(())
    }

    /// An instance of the node is gone. A node can only speak for the instances that it has.
    ///
    /// # Errors
    /// When the name breaks the grammar.
    pub fn handle_undeployed(
        &mut self,
        node: &NodeId,
        undeployed: &Undeployed,
        now: Duration,
    ) -> Result<(), PublishError> {
        let name = ServiceName::parse(&undeployed.appname)?;
        if self.jobs.contains_key(&name) {
            self.undeploy(&name, node, undeployed, now);
            return Ok(());
        }
        self.unsay(&(name.clone(), undeployed.instance_number), node);
        self.undeploy_unknown(name, node, undeployed.clone(), now);
        Ok(())
    }

    /// An instance of a job that is not known is gone from the node. A store that was lost knew where it ran; the root may know
    /// it still.
    fn undeploy_unknown(
        &mut self,
        name: ServiceName,
        node: &NodeId,
        undeployed: Undeployed,
        now: Duration,
    ) {
        let key = Key::Name(name);
        if self.may_fetch(&key) {
            let node = node.clone();
            self.fetch(key, Some(Waiter::Ended { node, undeployed }), now);
        }
    }

    /// An instance of a job that is known is gone from the node.
    fn undeploy(
        &mut self,
        name: &ServiceName,
        node: &NodeId,
        undeployed: &Undeployed,
        now: Duration,
    ) {
        let number = undeployed.instance_number;
        let Some(known) = self.jobs.get_mut(name) else {
            return;
        };
        if known.suspended.get(&number) == Some(node) {
            known.suspended.remove(&number);
            self.dirty.job(name);
            self.note_residents(name);
        }
        let Some(known) = self.jobs.get_mut(name) else {
            return;
        };
        if known.left.end(number, node) {
            self.begin_sending_on(name, number, node, now);
            return;
        }
        let mine = known.placements.get(&number).is_some_and(|placement| {
            placement.node == *node
                && (undeployed.epoch == 0 || undeployed.epoch >= placement.epoch)
        });
        // Allotted, but its gateway could not attach it: the number and its addresses go back. A late word about an
        // earlier instance of the number says nothing about this one.
        let epoch = undeployed.epoch;
        let allotted = known.allotted_epoch(number);
        if !known.placements.contains_key(&number)
            && epoch != 0
            && allotted.is_some_and(|allotted| allotted <= epoch)
        {
            self.end_allotted(name, number, epoch, now);
            return;
        }
        if mine {
            self.end_placement(name, number, now);
        } else if let Some(former) = known.only_root_places(number, node, epoch) {
            self.unplace(name, number, former, now);
        }
    }

    /// An instance that was allotted to a node of ours will never run there.
    fn end_allotted(&mut self, name: &ServiceName, number: u32, epoch: u64, now: Duration) {
        let after = self.requests;
        let Some(known) = self.jobs.get_mut(name) else {
            return;
        };
        known.attached.remove(&number);
        known.removed.insert(number, (epoch, after));
        self.changed(name, UpdateKind::Undeployment);
        self.report(name.clone(), number, Report::Removed { epoch }, now);
    }

    /// An instance of a node of ours does not run any more.
    fn end_placement(&mut self, name: &ServiceName, number: u32, now: Duration) {
        let after = self.requests;
        let Some(known) = self.jobs.get_mut(name) else {
            return;
        };
        let Some(placement) = known.placements.remove(&number) else {
            return;
        };
        if known.attached.remove(&number).is_some() {
            let epoch = placement.epoch;
            known.removed.insert(number, (epoch, after));
            self.changed(name, UpdateKind::Undeployment);
            self.report(name.clone(), number, Report::Removed { epoch }, now);
        } else {
            self.unplace(name, number, placement.status, now);
        }
    }

    /// An instance that an orchestrator scheduled ended; it may start it again, here or elsewhere, with the same InstanceIP.
    fn unplace(&mut self, name: &ServiceName, number: u32, former: InstanceStatus, now: Duration) {
        if let Some(known) = self.jobs.get_mut(name) {
            known.unplace(number);
        }
        let status = InstanceStatus {
            namespace_ip: None,
            namespace_ip_v6: None,
            worker_id: None,
            public_key: None,
            answers_probes: false,
            ..former
        };
        self.changed(name, UpdateKind::Undeployment);
        self.report(name.clone(), number, Report::Placed(status), now);
    }

    /// The node has another address. Legacy nodes name only the application here, so it counts for all their instances.
    pub fn handle_address_changed(&mut self, node: &NodeId, change: &Deployed, now: Duration) {
        let mut moved = Vec::new();
        for (name, known) in &mut self.jobs {
            for (number, placement) in &mut known.placements {
                let status = &mut placement.status;
                let same = status.host_ip == change.host_ip && status.host_port == change.host_port;
                if placement.node == *node && change.host_ip.is_some() && !same {
                    status.host_ip = change.host_ip;
                    status.host_port = change.host_port;
                    moved.push((name.clone(), *number, status.clone()));
                }
            }
        }
        for (name, number, status) in moved {
            self.changed(&name, UpdateKind::Deployment);
            self.report(name, number, Report::Placed(status), now);
        }
    }

    /// The node no longer uses a job. Address texts, which legacy nodes send too, mean nothing.
    pub fn handle_interest_remove(&mut self, node: &NodeId, removal: &InterestRemove) {
        if let Ok(name) = ServiceName::parse(&removal.appname) {
            self.interest_ended(&name, node);
        }
    }

    /// A node wants a new instance, without an orchestrator (extension).
    pub fn handle_instance_request(
        &mut self,
        node: &NodeId,
        request: InstanceRequest,
        now: Duration,
    ) {
        let key = (node.clone(), request.request_id.clone());
        if self.instances.contains_key(&key) {
            return;
        }
        if self.instances.len() >= self.settings.keys_max {
            self.instance_failed(node, &request.request_id, "too many requests at once", true);
            return;
        }
        let name = request.service.clone();
        self.instances.insert(
            key.clone(),
            InstanceAsk {
                request,
                deadline: now + INSTANCE_WAIT,
                attempts: 0,
                sent: None,
            },
        );
        self.timers.set(
            Timer::Instance(key.0.clone(), key.1.clone()),
            now + INSTANCE_WAIT,
        );
        if self.jobs.contains_key(&name) {
            self.ask_instance(&key);
        } else {
            // Without the negative cache: the developer may have applied the service a second ago.
            self.fetch(Key::Name(name), Some(Waiter::Instance(key.0, key.1)), now);
        }
    }

    /// The root says that a job changed (POST `/api/net/job/update`).
    pub fn handle_job_update(&mut self, update: &JobUpdate, now: Duration) {
        let key = Key::Name(update.job_name.clone());
        if self.jobs.contains_key(&update.job_name) || self.fetches.contains_key(&key) {
            self.refetch(key, now);
        } else if self.doubt_absences() || self.believes_absences(now) {
            // It may have been created a moment ago.
            self.fetch(key, None, now);
        } else {
            self.remove_interest(&update.job_name);
        }
    }

    /// An orchestrator scheduled a job to this cluster (POST `/api/net/deployment`); answered by an event.
    pub fn handle_deployment(&mut self, ticket: u64, job: &ServiceName, now: Duration) {
        if let Some(known) = self.jobs.get_mut(job) {
            known.scheduled = true;
        }
        self.fetch(
            Key::Name(job.clone()),
            Some(Waiter::Deployment(ticket)),
            now,
        );
    }

    /// The job left this cluster (DELETE `/api/net/deployment/<job>`).
    pub fn handle_deployment_removed(&mut self, job: &ServiceName) {
        if let Some(known) = self.jobs.get_mut(job) {
            known.scheduled = false;
            self.drop_unused(job);
        }
    }

    /// Does what is due. Call it when [`Answerer::poll_timeout`] says so; earlier or later is harmless.
    pub fn handle_timeout(&mut self, now: Duration) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Fetch(key) => self.send_fetch(&key, now),
                Timer::Refresh(job) => self.refresh_due(job, now),
                Timer::Report(job, number) => self.send_report(&(job, number), now),
                Timer::Instance(node, id) => self.instance_due(&(node, id), now),
                Timer::Allotted(job, number) => self.allotment_due(job, number, now),
                Timer::Interest(job, node) => self.interest_due(&job, &node, now),
                Timer::Node(key) => self.node_unsaid(&key),
                Timer::SendingOn(job, node) => self.end_sending_on(&job, &node),
                Timer::Refusals => self.refusals_due(now),
                Timer::Subnet => self.subnet_due(now),
                Timer::Return(network) => self.send_return(network, now),
                Timer::Register => self.register_due(now),
            }
        }
        self.go_on_resyncing(now);
    }

    /// When [`Answerer::handle_timeout`] is next due. Every `handle_*` may change it.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// The next thing to send. Every `handle_*` may add some.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next answer for somebody outside. Every `handle_*` may add some.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next write. Every `handle_*` may add some.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.next_change()
    }

    /// The answer that `node` would get about a job, without asking.
    #[must_use]
    pub fn view(&self, job: &ServiceName, node: &NodeId) -> Option<TableQueryResult> {
        self.result(self.jobs.get(job)?, node, "")
    }

    /// The jobs that are known, in name order.
    pub fn jobs(&self) -> impl Iterator<Item = &ServiceName> {
        self.jobs.keys()
    }

    /// The nodes that are told of a job's changes.
    pub fn interested(&self, job: &ServiceName) -> impl Iterator<Item = &NodeId> {
        self.jobs
            .get(job)
            .into_iter()
            .flat_map(|known| known.interests.keys())
    }

    /// The nodes that have a subnet.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeId, &SubnetGrant)> {
        self.nodes.iter()
    }

    /// The public key that a node with a subnet last said; `None` of nodes that have none.
    #[must_use]
    pub fn node_key(&self, node: &NodeId) -> Option<&NodeKey> {
        self.node_keys.get(node)
    }

    /// False while the root cannot be reached.
    #[must_use]
    pub const fn root_answers(&self) -> bool {
        !self.root_lost
    }

    /// True when a message about an instance was overtaken: the number is another's by now, or this one's end was told.
    fn is_late(&self, job: &ServiceName, number: u32, epoch: u64) -> bool {
        let Some(known) = self.jobs.get(job) else {
            return false;
        };
        let removed = known.removed.get(&number).map_or(0, |(epoch, _)| epoch + 1);
        let placed = known
            .placements
            .get(&number)
            .map_or(0, |placement| placement.epoch);
        epoch != 0 && epoch < removed.max(placed).max(known.epoch_of(number))
    }

    /// Whether the key is being fetched, or one more may be: nodes name what they like.
    fn may_fetch(&self, key: &Key) -> bool {
        self.fetches.len() < self.settings.keys_max || self.fetches.contains_key(key)
    }

    fn waiter(&self, node: &NodeId, request: &TableQueryRequest) -> Waiter {
        Waiter::Node {
            node: node.clone(),
            request: request.clone(),
        }
    }

    fn name_of(&self, key: &Key) -> Option<ServiceName> {
        match key {
            Key::Address(ip) => self.addresses.get(ip).cloned(),
            Key::Name(name) => self.jobs.get_key_value(name).map(|(name, _)| name.clone()),
            Key::Node(_) => None,
        }
    }

    /// True when an answer can be given without the root: something runs, or the root was asked a moment ago.
    fn is_usable(&self, name: &ServiceName, key: &Key, now: Duration) -> bool {
        self.jobs
            .get(name)
            .is_some_and(|known| known.runs(key) || now < known.fetched_at + UNAVAILABLE_FRESH)
    }

    fn place(&mut self, job: &ServiceName, node: &NodeId, status: InstanceStatus, now: Duration) {
        let number = status.instance_number;
        let report = Report::Placed(status.clone());
        let after = self.requests;
        match self.jobs.get_mut(job) {
            Some(known) => {
                let epoch = match status.epoch {
                    0 => known.epoch_of(number),
                    epoch => epoch,
                };
                let placement = Placement {
                    status,
                    node: node.clone(),
                    epoch,
                    after,
                };
                // An earlier instance of the number stays removed until the root says so, too.
                if known.removed.get(&number).is_some_and(|it| it.0 >= epoch) {
                    known.removed.remove(&number);
                }
                known.suspended.remove(&number);
                let former = known.placements.insert(number, placement);
                known.left.moved(number, former.as_ref(), node, epoch);
                let exists = known.exists(number) && known.epoch_of(number) >= epoch;
                self.changed(job, UpdateKind::Deployment);
                if !exists {
                    self.refetch(Key::Name(job.clone()), now);
                }
            }
            None => self.refetch(Key::Name(job.clone()), now),
        }
        self.report(job.clone(), number, report, now);
    }

    const fn backoff(&self) -> Backoff {
        Backoff {
            first: self.settings.retry_first,
            max: self.settings.retry_max,
        }
    }
}

#[cfg(test)]
mod tests;
