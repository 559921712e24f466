//! Shells of the managers as the simulation needs them: a store, a broker's subscriptions, requests on their way.

use sluice_proto::ServiceName;
use sluice_proto::message::{JobUpdate, NodeId, read};
use sluice_proto::record::Change;
use sluice_proto::table_query::Key;
use sluice_proto::table_query::answerer::{Answerer, Method, RootRequest, Settings};
use sluice_proto::table_query::notifier::Notifier;
use sluice_proto::table_query::root::{Applied, Caller, Command, Effect, Root};
use sluice_wire::AddressPlan;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a store keeps.
pub type Records = BTreeMap<String, Vec<u8>>;

fn keep(records: &mut Records, change: Change) {
    match change {
        Change::Put { key, value } => {
            records.insert(key, value);
        }
        Change::Delete { key } => {
            records.remove(&key);
        }
    }
}

fn borrowed(records: &Records) -> impl Iterator<Item = (&str, &[u8])> {
    records
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_slice()))
}

/// A cluster manager with its embedded broker.
#[derive(Debug)]
pub struct Cluster {
    pub settings: Settings,
    pub answerer: Answerer,
    pub records: Records,
    /// The broker's subscriptions to `jobs/J/updates_available`.
    pub subscriptions: BTreeSet<(ServiceName, NodeId)>,
    pub up: bool,
    /// When an unanswered HTTP request ends in failure.
    pub http: BTreeMap<u64, Duration>,
    pub root_requests: u64,
}

/// How long the shells wait for an HTTP answer.
pub const HTTP_WAIT: Duration = Duration::from_secs(2);

impl Cluster {
    #[must_use]
    pub fn new(settings: Settings, seed: u64, now: Duration) -> Self {
        Self {
            answerer: Answerer::new(settings.clone(), seed, now),
            settings,
            records: Records::new(),
            subscriptions: BTreeSet::new(),
            up: true,
            http: BTreeMap::new(),
            root_requests: 0,
        }
    }

    /// Writes what changed; a shell does so before it sends.
    pub fn store(&mut self) {
        while let Some(change) = self.answerer.poll_change() {
            keep(&mut self.records, change);
        }
    }

    /// The process starts anew from its store.
    ///
    /// # Panics
    /// When the store's contents are not a state.
    pub fn restart(&mut self, seed: u64, now: Duration) {
        self.settings.incarnation += 1;
        self.answerer =
            Answerer::restore(self.settings.clone(), seed, borrowed(&self.records), now)
                .expect("a store holds a state");
        self.subscriptions.clear();
        self.http.clear();
        self.up = true;
    }
}

/// The root manager.
#[derive(Clone, Debug)]
pub struct RootShell {
    pub root: Root,
    pub notifier: Notifier,
    pub records: Records,
    /// The store's identity.
    pub store: String,
    pub up: bool,
    /// The notice on its way to each cluster: its number, and when it ends in failure.
    pub http: BTreeMap<String, (u64, Duration)>,
    /// Something was written since this was last cleared.
    pub changed: bool,
    plan: AddressPlan,
}

impl RootShell {
    #[must_use]
    pub fn new(plan: &AddressPlan, seed: u64) -> Self {
        Self {
            root: Root::new(plan),
            notifier: Notifier::new(seed),
            records: Records::new(),
            store: format!("store{seed}"),
            up: true,
            http: BTreeMap::new(),
            changed: false,
            plan: *plan,
        }
    }

    /// Does a command as a shell does: state, store, then effects and the answer.
    pub fn apply(&mut self, command: &Command, now: Duration) -> Applied {
        let applied = self.root.apply(command, now.as_secs());
        self.changed |= !applied.changes.is_empty();
        for change in applied.changes.clone() {
            keep(&mut self.records, change);
        }
        for effect in &applied.effects {
            match effect {
                Effect::Notify { cluster, update } => self.notifier.handle_update(cluster, update),
                Effect::NoInstanceLeft { .. } => {}
            }
        }
        if let Command::ClusterRegister(registration) = command {
            self.notifier.handle_registered(&registration.cluster_id);
        }
        applied
    }

    /// The process starts anew from its store, which must be exactly the state it had.
    ///
    /// # Panics
    /// When it is not.
    pub fn restart(&mut self, seed: u64) {
        let restored =
            Root::restore(&self.plan, borrowed(&self.records)).expect("a store holds a state");
        assert_eq!(restored, self.root, "the store is the state");
        self.root = restored;
        self.notifier = Notifier::new(seed);
        let interests: Vec<_> = self
            .root
            .interests()
            .map(|(job, cluster)| (job.clone(), cluster.to_owned()))
            .collect();
        for (job_name, cluster) in interests {
            let update = JobUpdate {
                job_name,
                instance_number: -1,
                kind: sluice_proto::message::UpdateKind::Deployment,
            };
            self.notifier.handle_update(&cluster, &update);
        }
        self.http.clear();
        self.up = true;
    }
}

/// The command that an HTTP request means.
///
/// # Panics
/// When our own answerer sends what our own root has no path for.
#[must_use]
pub fn command_of(request: &RootRequest) -> Command {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let parameter = |name: &str| {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find_map(|(key, value)| (key == name).then(|| value.to_owned()))
    };
    let caller = Caller {
        cluster_id: parameter("cluster_id"),
        address: None,
    };
    let body = request.body.as_deref().unwrap_or_default();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let name =
        |text: &str| -> ServiceName { text.replace('_', ".").parse().expect("a service name") };
    match (request.method, parts.as_slice()) {
        (Method::Post, ["api", "net", "cluster"]) => {
            Command::ClusterRegister(read("registration", body).expect("a registration"))
        }
        (Method::Post, ["api", "net", "instance", "deploy"]) => {
            Command::InstanceDeploy(read("instance", body).expect("an instance"))
        }
        (Method::Post, ["api", "net", "service", "net_deploy_status"]) => {
            Command::Status(read("status", body).expect("a status"))
        }
        (Method::Get, ["api", "net", "service", "ip", ip, "instances"]) => Command::Query {
            key: Key::parse(&ip.replace('_', ".")).expect("an address"),
            caller,
        },
        (Method::Get, ["api", "net", "service", job, "instances"]) => Command::Query {
            key: Key::Name(name(job)),
            caller,
        },
        (Method::Delete, ["api", "net", "interest", job]) => Command::InterestRemove {
            job: name(job),
            caller,
        },
        (Method::Get, ["api", "net", "subnet"]) => Command::Subnet {
            caller,
            request_id: parameter("request_id"),
        },
        (Method::Delete, ["api", "net", id, number]) => Command::InstanceDelete {
            id: (*id).to_owned(),
            number: number.parse().expect("a number"),
            epoch: parameter("epoch").and_then(|epoch| epoch.parse().ok()),
        },
        other => panic!("the answerer asked for {other:?}"),
    }
}
