//! A gateway as the simulation needs it: an asker, the routes its events leave behind, and instances of its own.

use crate::truth::Identity;
use sluice_proto::ServiceName;
use sluice_proto::message::{
    Deployed, InstanceRequest, InstanceResult, NodeId, SubnetRequest, TableQueryResult, Topic,
    Undeployed, Verb, read, write,
};
use sluice_proto::table_query::asker::{Asker, Event, Mqtt, Settings};
use sluice_proto::table_query::{Key, Row};
use sluice_wire::{Dual, Ip};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How often a node repeats what nobody acknowledges.
const REPEAT: Duration = Duration::from_secs(2);

/// An instance on the node.
#[derive(Clone, Debug)]
pub struct Local {
    pub epoch: u64,
    pub ns_ip: Dual<Ip>,
}

/// A gateway. See the module.
#[derive(Debug)]
pub struct Node {
    pub id: NodeId,
    pub index: usize,
    pub cluster: usize,
    pub asker: Asker,
    pub connected: bool,
    pub subnet: Option<Dual<Ip>>,
    /// Rows that flows may use: listed, or not listed and not withdrawn.
    pub rows: BTreeMap<(ServiceName, u32), Row>,
    pub absent: BTreeSet<Key>,
    pub unanswered: u64,
    pub locals: BTreeMap<(ServiceName, u32), Local>,
    /// Attachments that wait for an instance, by request id.
    pub attaching: BTreeMap<String, ServiceName>,
    /// Ended instances of which the manager must hear.
    pub ended: BTreeMap<(ServiceName, u32), u64>,
    requests: u64,
    addresses: u128,
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
            asker: Asker::new(settings.clone(), seed),
            connected: false,
            subnet: None,
            rows: BTreeMap::new(),
            absent: BTreeSet::new(),
            unanswered: 0,
            locals: BTreeMap::new(),
            attaching: BTreeMap::new(),
            ended: BTreeMap::new(),
            requests: 0,
            addresses: 1,
            repeat_at: None,
            settings,
            queries: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    fn publish<T: serde::Serialize>(&self, verb: Verb, message: &T) -> Mqtt {
        Mqtt::Publish {
            topic: Topic::node(self.id.clone(), verb).to_string(),
            payload: write(message),
        }
    }

    /// What the node says on its own when it connects, and again while something is not settled.
    pub fn announce(&mut self, now: Duration) -> Vec<Mqtt> {
        let mut said = Vec::new();
        if self.subnet.is_none() {
            said.push(self.publish(Verb::Subnet, &SubnetRequest::get()));
        }
        for ((job, number), local) in &self.locals {
            said.push(self.publish(Verb::Deployed, &self.deployed(job, *number, local)));
        }
        for ((job, number), epoch) in &self.ended {
            let undeployed = Undeployed {
                appname: job.to_string(),
                instance_number: *number,
                epoch: *epoch,
            };
            said.push(self.publish(Verb::Undeployed, &undeployed));
        }
        for (request_id, service) in &self.attaching {
            let request = InstanceRequest {
                request_id: request_id.clone(),
                service: service.clone(),
                instance_number: None,
            };
            said.push(self.publish(Verb::InstanceRequest, &request));
        }
        let open = self.subnet.is_none() || !self.attaching.is_empty();
        self.repeat_at = open.then(|| now + REPEAT);
        said
    }

    fn deployed(&self, job: &ServiceName, number: u32, local: &Local) -> Deployed {
        let host = u8::try_from(self.index + 1).unwrap_or(255);
        Deployed {
            appname: job.to_string(),
            status: "DEPLOYED".to_owned(),
            instance_number: number,
            nsip: local.ns_ip.v4,
            nsipv6: local.ns_ip.v6,
            host_port: 50103,
            host_ip: Some(Ip::v4([192, 0, 2, host])),
            epoch: local.epoch,
        }
    }

    /// Begins to attach an instance.
    pub fn attach(&mut self, service: &ServiceName, now: Duration) {
        self.requests += 1;
        let id = format!("r{}", self.requests);
        self.attaching.insert(id, service.clone());
        self.repeat_at = Some(now);
    }

    /// An instance's process ends.
    pub fn detach(&mut self, which: usize, now: Duration) -> Option<(Identity, Mqtt)> {
        let key = self
            .locals
            .keys()
            .nth(which % self.locals.len().max(1))?
            .clone();
        let local = self.locals.remove(&key)?;
        self.ended.insert(key.clone(), local.epoch);
        let (job, number) = key;
        self.asker.handle_local(&job, number, false, now);
        let undeployed = Undeployed {
            appname: job.to_string(),
            instance_number: number,
            epoch: local.epoch,
        };
        let message = self.publish(Verb::Undeployed, &undeployed);
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
                    let known = *self.subnet.get_or_insert(subnet);
                    assert_eq!(known, subnet, "{} got another subnet", self.id);
                }
                Verb::InstanceResult => {
                    let result: InstanceResult =
                        read("instance", payload).expect("managers write well");
                    return self.attached(&result, now);
                }
                Verb::Subnet
                | Verb::Deployed
                | Verb::Undeployed
                | Verb::AddressChanged
                | Verb::TableQueryRequest
                | Verb::InterestRemove
                | Verb::InstanceRequest => panic!("a manager sent {topic}"),
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
        let Some(job) = self.attaching.remove(&result.request_id) else {
            return (None, Vec::new());
        };
        if result.error.is_some() {
            return (None, Vec::new());
        }
        self.addresses += 1;
        let local = Local {
            epoch: result.epoch,
            ns_ip: Dual {
                v4: subnet.v4.map(|ip| ip.offset(self.addresses % 60 + 2)),
                v6: subnet.v6.map(|ip| ip.offset(self.addresses % 250 + 2)),
            },
        };
        let number = result.instance_number;
        // A number that comes back is another instance: what was said about the old one is void.
        self.ended.remove(&(job.clone(), number));
        let message = self.publish(Verb::Deployed, &self.deployed(&job, number, &local));
        self.locals.insert((job.clone(), number), local);
        self.asker.handle_local(&job, number, true, now);
        (Some((job, number, result.epoch)), vec![message])
    }

    /// The process is killed and starts from its snapshot; its instances go on.
    pub fn restart(&mut self, seed: u64, now: Duration) {
        let snapshot = self.asker.snapshot();
        self.asker = Asker::new(self.settings.clone(), seed);
        self.rows.clear();
        self.absent.clear();
        self.asker.restore(&snapshot, now);
        for (job, number) in self.locals.keys() {
            self.asker.handle_local(job, *number, true, now);
        }
    }

    /// Follows the asker's events as the tables of a gateway do; gives withdrawn instances.
    ///
    /// # Panics
    /// When a known route is lost while the managers cannot be reached.
    pub fn follow_events(&mut self, now: Duration) -> Vec<Identity> {
        let mut withdrawn = Vec::new();
        while let Some(event) = self.asker.poll_event() {
            match &event {
                Event::Routes(routes) | Event::Unavailable(routes) => {
                    for row in &routes.instances {
                        let key = (routes.job.clone(), row.number);
                        self.rows.insert(key, row.clone());
                    }
                }
                Event::Withdrawn { job, number, epoch } => {
                    assert!(self.connected, "{job} withdrawn while cut off");
                    self.rows.remove(&(job.clone(), *number));
                    withdrawn.push((job.clone(), *number, *epoch));
                }
                Event::Forgotten { job } => {
                    assert!(self.connected, "{job} forgotten while cut off");
                    self.rows.retain(|(other, _), _| other != job);
                }
                Event::Absent { key } => {
                    self.absent.insert(key.clone());
                }
                Event::Unknown { key } => {
                    self.absent.remove(key);
                }
                Event::Unresolved { .. } | Event::Unanswered { .. } => self.unanswered += 1,
            }
            self.events.push((now, event));
        }
        withdrawn
    }
}
