//! Shells of the managers as the simulation needs them: a store, a place on the bus, requests on their way.

use crate::bus::Bus;
use crate::planted::Bug;
use sluice_proto::ServiceName;
use sluice_proto::alloc::{Calendar, Reading};
use sluice_proto::message::{JobUpdate, read};
use sluice_proto::record::Change;
use sluice_proto::signature::Signer;
use sluice_proto::table_query::Key;
use sluice_proto::table_query::answerer::{Answerer, Method, RootRequest, Settings};
use sluice_proto::table_query::notifier::Notifier;
use sluice_proto::table_query::root::{Applied, Caller, Command, Effect, Root};
use sluice_wire::AddressPlan;
use std::collections::{BTreeMap, VecDeque};
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

/// A store: what is on disk, and what is being written. A crash loses the latter, and nobody has been told of it.
#[derive(Clone, Debug, Default)]
pub struct Store {
    durable: Records,
    tail: VecDeque<(Duration, Change)>,
    synced_at: Duration,
    lost: bool,
}

impl Store {
    /// Writes; the disk takes `sync`, and earlier writes come first.
    pub fn write(&mut self, change: Change, now: Duration, sync: Duration) {
        self.synced_at = self.synced_at.max(now + sync);
        self.tail.push_back((self.synced_at, change));
    }

    /// How long what is said now has to wait for the disk.
    #[must_use]
    pub fn wait(&self, now: Duration) -> Duration {
        self.synced_at.saturating_sub(now)
    }

    /// The process is killed: what was not on disk is lost.
    pub fn crash(&mut self, now: Duration) {
        while self.tail.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, change)) = self.tail.pop_front() {
                keep(&mut self.durable, change);
            }
        }
        self.synced_at = now;
        self.lost |= !self.tail.is_empty();
        self.tail.clear();
    }
}

fn borrowed(records: &Records) -> impl Iterator<Item = (&str, &[u8])> {
    records
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_slice()))
}

/// The signing key of a seed.
pub(crate) fn signer_of(seed: u64) -> Signer {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    Signer::from_seed(&bytes)
}

/// A cluster manager with its embedded broker.
#[derive(Debug)]
pub struct Cluster {
    pub settings: Settings,
    pub answerer: Answerer,
    pub store: Store,
    /// Of the root, when it last answered.
    root_incarnation: Option<u64>,
    pub bus: Bus,
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
            store: Store::default(),
            root_incarnation: None,
            bus: Bus::start(now),
            up: true,
            http: BTreeMap::new(),
            root_requests: 0,
        }
    }

    /// Writes what changed; a shell does so before it sends.
    pub fn write(&mut self, now: Duration, sync: Duration) {
        while let Some(change) = self.answerer.poll_change() {
            self.store.write(change, now, sync);
        }
    }

    /// A root that started anew may have lost what it had to tell us.
    pub fn take_incarnation(&mut self, incarnation: u64, now: Duration) {
        let before = self.root_incarnation.replace(incarnation);
        if before.is_some_and(|before| before != incarnation) {
            self.answerer.handle_root_restarted(now);
        }
    }

    /// The process starts anew from its store.
    ///
    /// # Panics
    /// When the store's contents are not a state.
    pub fn restart(&mut self, seed: u64, now: Duration) {
        self.root_incarnation = None;
        self.settings.incarnation += 1;
        self.answerer = Answerer::restore(
            self.settings.clone(),
            seed,
            borrowed(&self.store.durable),
            now,
        )
        .expect("a store holds a state");
        self.bus = Bus::start(now);
        self.http.clear();
        self.up = true;
    }
}

impl Cluster {
    /// The process starts anew without its store.
    pub fn wipe(&mut self, seed: u64, now: Duration) {
        self.store = Store::default();
        self.settings.signer = Some(signer_of(seed));
        self.restart(seed, now);
    }
}

/// The root manager.
#[derive(Clone, Debug)]
pub struct RootShell {
    pub root: Root,
    pub notifier: Notifier,
    pub store: Store,
    /// The store's identity.
    pub identity: String,
    /// Another number in every life.
    pub incarnation: u64,
    pub up: bool,
    /// The notice on its way to each cluster: its number, and when it ends in failure.
    pub http: BTreeMap<String, (u64, Duration)>,
    /// What its clock on the wall is ahead.
    pub ahead: Duration,
    calendar: Calendar,
    pub bug: Option<Bug>,
    plan: AddressPlan,
}

impl RootShell {
    #[must_use]
    pub fn new(plan: &AddressPlan, seed: u64) -> Self {
        Self {
            root: Root::new(plan),
            notifier: Notifier::new(seed),
            store: Store::default(),
            identity: format!("store{seed}"),
            incarnation: seed,
            up: true,
            http: BTreeMap::new(),
            ahead: Duration::ZERO,
            calendar: Calendar::new(clocks(Duration::ZERO, Duration::ZERO)),
            bug: None,
            plan: *plan,
        }
    }

    /// Does a command as a shell does: state, store, then effects and the answer.
    pub fn apply(&mut self, command: &Command, now: Duration, sync: Duration) -> Applied {
        let reading = clocks(now, self.ahead);
        let now_s = self.calendar.now(reading).as_secs();
        let applied = self.root.apply(command, now_s);
        for change in applied.changes.clone() {
            self.store.write(change, now, sync);
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

    /// The process starts anew from its store, which is exactly the state it had if all of that was on disk.
    ///
    /// # Panics
    /// When it is not.
    pub fn restart(&mut self, seed: u64) {
        let lost = std::mem::take(&mut self.store.lost);
        let restored = Root::restore(&self.plan, borrowed(&self.store.durable))
            .expect("a store holds a state");
        assert!(lost || restored == self.root, "the store is the state");
        self.root = restored;
        self.notifier = Notifier::new(seed);
        self.http.clear();
        self.up = true;
        if self.bug == Some(Bug::NoticeLostOnRestart) {
            return;
        }
        self.incarnation = seed;
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
    }
}

/// What the clocks of the root's machine show, which stays up all the time.
fn clocks(now: Duration, ahead: Duration) -> Reading {
    Reading {
        boot: Some("only".to_owned()),
        uptime: now,
        wall: now + ahead,
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
        (Method::Get, ["api", "net", "node"]) => {
            let text = parameter("public_key").expect("a key");
            let text = text.replace("%2B", "+").replace("%2F", "/");
            let key = text.replace("%3D", "=").parse().expect("a key");
            Command::Query {
                key: Key::Node(key),
                caller,
            }
        }
        (Method::Delete, ["api", "net", "interest", job]) => Command::InterestRemove {
            job: name(job),
            caller,
        },
        (Method::Get, ["api", "net", "revoked_keys"]) => Command::RevokedKeys,
        (Method::Get, ["api", "net", "subnet"]) => Command::Subnet {
            caller,
            request_id: parameter("request_id"),
        },
        (Method::Delete, ["api", "net", "subnet", network]) => Command::SubnetReturn {
            network: network.parse().expect("a network"),
            grant_id: parameter("grant_id").and_then(|id| id.parse().ok()),
            caller,
        },
        (Method::Delete, ["api", "net", id, number]) => Command::InstanceDelete {
            id: (*id).to_owned(),
            number: number.parse().expect("a number"),
            epoch: parameter("epoch").and_then(|epoch| epoch.parse().ok()),
            cluster_id: parameter("cluster_id"),
        },
        other => panic!("the answerer asked for {other:?}"),
    }
}
