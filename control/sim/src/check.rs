//! What must be the case when the network has been whole for a while.

use crate::node::{Node, own_ip};
use crate::plane::Plane;
use crate::traffic::{Dialled, Flow};
use crate::world::World;
use sluice_proto::ServiceName;
use sluice_proto::message::{NodeId, NodeKey};
use sluice_proto::table_query::asker::Event;
use sluice_proto::table_query::{Key, Row};
use sluice_tables::{InstanceState, Placement};
use sluice_wire::NsIp;
use std::collections::BTreeMap;
use std::time::Duration;

/// Every gateway holds exactly the rows that its cluster manager has for it.
///
/// # Panics
/// Names the gateway and the job.
pub fn gateways_agree_with_their_clusters(world: &World) {
    for node in &world.nodes {
        let answerer = &world.clusters[node.cluster].answerer;
        for job in node.asker.jobs() {
            let have = node.asker.routes(job).expect("a known job has routes");
            let Some(view) = answerer.view(job, &node.id) else {
                panic!("{} holds {job}, its cluster does not", node.id);
            };
            let rows: Vec<Row> = view
                .instance_list
                .iter()
                .filter_map(Row::of_entry)
                .collect();
            assert_eq!(have.instances, rows, "{} about {job}", node.id);
            for row in &have.instances {
                let used = node.rows.get(&(job.clone(), row.number));
                assert_eq!(used, Some(row), "{} routes to {job}", node.id);
            }
        }
    }
}

/// Every cluster manager knows of its jobs which instances live, and where; the root knows it too.
///
/// # Panics
/// Names the cluster and the job.
pub fn clusters_know_the_truth(world: &World) {
    for job in world.root.root.jobs() {
        let live: Vec<(u32, u64)> = job
            .instance_list
            .iter()
            .map(|entry| (entry.instance_number, entry.epoch))
            .collect();
        placed_as_in_truth(world, &job.job_name, &job.instance_list, &live, "the root");
    }
    for cluster in &world.clusters {
        let jobs: Vec<ServiceName> = cluster.answerer.jobs().cloned().collect();
        for job in jobs {
            // A node without instances may know everything.
            let nobody = NodeId::new("nobody").expect("letters");
            let view = cluster
                .answerer
                .view(&job, &nobody)
                .expect("a known job has a view");
            let live = view.live.expect("a view says what lives");
            let who = &cluster.settings.cluster_id;
            placed_as_in_truth(world, &job, &view.instance_list, &live, who);
        }
    }
}

fn placed_as_in_truth(
    world: &World,
    job: &ServiceName,
    entries: &[sluice_proto::message::InstanceEntry],
    live: &[(u32, u64)],
    who: &str,
) {
    for entry in entries {
        let identity = (job.clone(), entry.instance_number, entry.epoch);
        let lives = world.truth.living.get(&identity);
        let place = entry.worker_id.as_deref();
        let expected = lives.map(|node| world.nodes[*node].id.as_str());
        assert_eq!(place, expected, "{who} about {identity:?}");
        let key = lives.map(|node| world.nodes[*node].key);
        assert_eq!(
            entry.public_key, key,
            "{who} about the key of {identity:?}'s node"
        );
    }
    for identity in world.truth.living_of(job) {
        assert!(
            live.contains(&identity),
            "{who} misses {identity:?} of {job}"
        );
    }
}

/// Neither managers nor gateways know of an instance behind the present key of a node.
///
/// # Panics
/// Names who does.
pub fn nothing_runs_behind_the_key_of(world: &World, node: usize) {
    let key = world.nodes[node].key;
    assert_eq!(world.root.root.node_with(&key), None, "the root");
    let nobody = NodeId::new("nobody").expect("a word is a topic level");
    for cluster in &world.clusters {
        for job in cluster.answerer.jobs() {
            let view = cluster.answerer.view(job, &nobody);
            let rows = view.into_iter().flat_map(|view| view.instance_list);
            let mut keys = rows.filter_map(|row| row.public_key);
            let who = &cluster.settings.cluster_id;
            assert!(keys.all(|it| it != key), "{who} about {job}");
        }
    }
    for gateway in &world.nodes {
        for routes in gateway
            .asker
            .jobs()
            .filter_map(|job| gateway.asker.routes(job))
        {
            let places = routes.instances.iter().filter_map(|row| row.place.as_ref());
            let mut keys = places.filter_map(|place| place.key);
            assert!(
                keys.all(|it| it != key),
                "{} about {}",
                gateway.id,
                routes.job
            );
        }
    }
}

/// Every gateway can resolve every service by name and by ServiceIP within `wait`, if its instances have to do with it, and every
/// node on which something runs by its key, and hears that nothing has another tenant's address, or one that nothing has, or a
/// key that no node has.
///
/// # Panics
/// Names the gateway and the key.
pub fn everything_resolves(world: &mut World, wait: Duration) {
    let nothing = Key::Address(sluice_wire::Ip::v4([10, 30, 250, 250]));
    let mut keys = vec![(nothing, None)];
    for job in world.root.root.jobs() {
        let name = || Some(job.job_name.clone());
        keys.push((Key::Name(job.job_name.clone()), name()));
        let entries = job.service_ip_list.iter();
        let addresses = entries.filter_map(|entry| entry.address_v6);
        keys.extend(addresses.map(|ip| (Key::Address(ip), name())));
    }
    let seen: Vec<usize> = world.nodes.iter().map(|node| node.events.len()).collect();
    let now = world.now;
    let nodes = node_keys(world);
    for node in &mut world.nodes {
        let asked = keys.iter().map(|(key, _)| key);
        for key in asked.chain(nodes.keys()) {
            node.asker.handle_question(key, now);
        }
    }
    world.run_for(wait);
    for (node, seen) in world.nodes.iter().zip(&seen) {
        for (key, exists) in &nodes {
            let mut events = node.events[*seen..].iter().map(|(_, event)| event);
            assert!(
                events.any(|event| answers(event, key, *exists)),
                "{} hears of the node with {key} not what it should, exists: {exists}",
                node.id
            );
        }
    }
    for (node, seen) in world.nodes.iter().zip(seen) {
        for (key, job) in &keys {
            let mut events = node.events[seen..].iter().map(|(_, event)| event);
            let exists = job.as_ref().is_some_and(|job| may_know(world, node, job));
            if let Some(job) = job
                && (node.locals.is_empty() || !exists && may_be_allotted(world, node, job))
            {
                // Without an instance it may know everything; and what an instance may that was allotted to it and never ran.
                continue;
            }
            assert!(
                events.any(|event| answers(event, key, exists)),
                "{} hears of {key} not what it should, exists: {exists}",
                node.id
            );
        }
    }
}

/// The keys of nodes, and whether something runs there; and one that is nobody's.
fn node_keys(world: &World) -> BTreeMap<Key, bool> {
    let keys = world.nodes.iter().map(|node| {
        let mut living = world.truth.living.values();
        (Key::Node(node.key), living.any(|home| *home == node.index))
    });
    let nobodys = (Key::Node(NodeKey::from_bytes([0xfe; 32])), false);
    keys.chain([nobodys]).collect()
}

/// Whether a job is any business of the instances of a node.
fn may_know(world: &World, node: &Node, job: &ServiceName) -> bool {
    let rules = &world.truth.rules;
    let mut residents = node.locals.keys().map(|(resident, _)| resident);
    residents.any(|resident| rules.allow(resident, job) || rules.allow(job, resident))
}

/// Whether an instance that the node's cluster was given and that runs nowhere may call the job, or be called by it.
fn may_be_allotted(world: &World, node: &Node, job: &ServiceName) -> bool {
    let cluster_id = &world.clusters[node.cluster].settings.cluster_id;
    let rules = &world.truth.rules;
    world.root.root.jobs().any(|allotted| {
        let name = &allotted.job_name;
        let mut entries = allotted.instance_list.iter();
        (rules.allow(name, job) || rules.allow(job, name))
            && entries.any(|it| it.cluster_id.as_ref() == Some(cluster_id) && !it.is_placed())
    })
}

/// No gateway believes that a node is lost.
///
/// # Panics
/// Names the gateway and the node.
pub fn nobody_is_suspected(world: &World) {
    for node in &world.nodes {
        let lost: Vec<_> = node.prober.lost_nodes().collect();
        assert!(lost.is_empty(), "{} has lost {lost:?}", node.id);
    }
}

/// No gateway believes that a node is lost, but for one; what that one believes does not matter.
///
/// # Panics
/// Names the gateway and the node.
pub fn only_one_is_suspected(world: &World, silent: usize) {
    for node in world.nodes.iter().filter(|node| node.index != silent) {
        let others: Vec<_> = (node.prober.lost_nodes())
            .filter(|lost| lost.0 != own_ip(silent))
            .collect();
        assert!(others.is_empty(), "{} has lost {others:?}", node.id);
    }
}

/// Flows from the one numbered `begun` on were answered, if their node had a flow to the same service among the last ones
/// `before`, and the service runs somewhere else than on the node that is silent. A flow that dialled an instance on its own
/// node does not count: no packet of it says that the service is called from there.
///
/// # Panics
/// Names the flow.
pub fn new_flows_avoid(world: &World, silent: usize, before: usize, begun: usize) {
    let flows = &world.traffic.flows;
    let used = |node: usize, job: &ServiceName| {
        let since = world.now.saturating_sub(Duration::from_secs(5));
        let calls = |flow: &Flow| match &flow.dialled {
            Dialled::Service => true,
            Dialled::Instance(identity) => world.truth.living.get(identity) != Some(&node),
        };
        let mut own = flows[..before].iter().filter(|flow| flow.node == node);
        own.any(|flow| {
            flow.job == *job && flow.answered_at.is_some_and(|at| at >= since) && calls(flow)
        })
    };
    for (id, flow) in flows.iter().enumerate().skip(begun) {
        let mut living = world.truth.living.iter();
        let elsewhere = living.any(|(identity, node)| identity.0 == flow.job && *node != silent);
        let answered = flow.answered > 0;
        assert!(
            answered
                || flow.dialled != Dialled::Service
                || !elsewhere
                || !used(flow.node, &flow.job)
                || !world.truth.rules.allow(&flow.caller.0, &flow.job),
            "flow {id} of node{} to {} went to a silent node",
            flow.node,
            flow.address,
        );
    }
}

/// Every flow whose caller runs was answered in the last three seconds, if anybody could answer it and it is
/// allowed.
///
/// # Panics
/// Names the flow.
pub fn every_flow_is_answered(world: &World) {
    let since = world.now.saturating_sub(Duration::from_secs(3));
    for (id, flow) in world.traffic.open() {
        let lives = match &flow.dialled {
            Dialled::Service => !world.truth.living_of(&flow.job).is_empty(),
            Dialled::Instance(identity) => world.truth.living.contains_key(identity),
        };
        let somebody = lives && world.truth.rules.allow(&flow.caller.0, &flow.job);
        let answered = flow.answered_at.is_some_and(|at| at >= since);
        assert!(
            answered || !somebody,
            "flow {id} of node{} to {} has no answer since {:?}; drops at the nodes: {:?}",
            flow.node,
            flow.address,
            flow.answered_at,
            world
                .nodes
                .iter()
                .map(|node| node.plane.drops())
                .collect::<Vec<_>>()
        );
    }
}

/// No gateway's tables place an instance anywhere but where it lives, but for one that the gateway is not shown because there
/// are many, and that no packet uses.
///
/// # Panics
/// Names the gateway and the instance.
pub fn every_route_is_true(world: &World) {
    for node in &world.nodes {
        let tables = node.plane.tables();
        for (_, row) in tables.instances() {
            let Placement::Peer(peer) = row.placement else {
                continue;
            };
            if row.state == InstanceState::Withdrawn {
                continue;
            }
            let host = tables.peer(peer).map(|peer| peer.node);
            let job = tables.service(row.service).map(|it| &*it.name);
            let known = job.and_then(|job| node.asker.routes(&job.parse().ok()?));
            let mut shown = known.iter().flat_map(|known| &known.instances);
            let is_shown = shown.any(|shown| shown.number == row.number);
            if !is_shown && row.used.last_s() < Plane::used_since_s(world.now) {
                continue;
            }
            let truly = world.nodes.iter().any(|other| {
                let is_it = |ip: NsIp| other.local_at(ip.ip()).is_some();
                host == Some(other.own_ip()) && row.ns_ip.iter().all(is_it)
            });
            assert!(truly, "{} has a route to {row:?} at {host:?}", node.id);
        }
    }
}

/// Since `since`, no request came to a node where nobody has its address.
///
/// # Panics
/// When one did.
pub fn nothing_went_astray_since(world: &World, since: Duration) {
    let last = world.traffic.misdirected_at;
    assert!(
        last.is_none_or(|at| at < since),
        "a request went astray at {last:?}, after {since:?}"
    );
}

/// True when the event is the answer to `key`, which means something or not.
fn answers(event: &Event, key: &Key, exists: bool) -> bool {
    match event {
        Event::Routes(routes) | Event::Unavailable(routes) if exists => match key {
            Key::Name(name) => routes.job == *name,
            Key::Address(ip) => routes
                .service_ips
                .iter()
                .any(|address| address.ip.v6.is_some_and(|v6| v6.ip() == *ip)),
            Key::Node(_) => false,
        },
        Event::Node(place) => *key == Key::Node(place.key) && exists,
        Event::Absent { key: absent } => absent == key && !exists,
        Event::Routes(_)
        | Event::Unavailable(_)
        | Event::Unresolved { .. }
        | Event::Unknown { .. }
        | Event::Unanswered { .. }
        | Event::Withdrawn { .. }
        | Event::Forgotten { .. } => false,
    }
}
