//! One seed: a minute of trouble, then peace, and what must be the case then.

use crate::check;
use crate::network::{Party, Weather};
use crate::planted::Bug;
use crate::probes::Failover;
use crate::traffic::PATIENCE;
use crate::world::{Shape, World};
use rand::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

const TROUBLE: Duration = Duration::from_secs(60);
/// After healing, a route to what has ended is older than this nowhere.
const REVOKED: Duration = Duration::from_secs(1);
/// The same for what a revoked rule allowed. Of the second that a way's healing takes, half is for connections to be there
/// again, which here are at once.
const RULED: Duration = Duration::from_millis(500);
/// What is newly allowed has begun by then, and was answered in the last three seconds: a flow tries once a second, and the
/// first try after the rule tells of it anew. That it does not exist would have been believed for 8 s.
const ALLOWED: Duration = Duration::from_secs(5);
/// What a slow party takes for everything.
const SLOW: Duration = Duration::from_secs(10);
/// A node from which nothing came for so long gets no new flow.
const SILENCE: Duration = Duration::from_secs(1);
/// After healing, all caches are equal.
const EQUAL: Duration = Duration::from_secs(5);

/// What came of a seed.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    /// What happened, a line per event; the same for the same seed, to the byte.
    pub log: Vec<String>,
    /// What must not be, if it was.
    pub violation: Option<String>,
    /// Requests of applications that were answered.
    pub answered: u64,
}

/// Runs a seed. What it finds wrong is in the outcome; nothing is printed if the process' panic hook prints nothing.
#[must_use]
pub fn run(seed: u64, bug: Option<Bug>) -> Outcome {
    let mut world = world_of(seed);
    if let Some(bug) = bug {
        world.plant(bug);
    }
    let ended = catch_unwind(AssertUnwindSafe(|| live(&mut world)));
    let violation = ended.err().map(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        text.unwrap_or_else(|| "a panic without a message".to_owned())
    });
    let answered = world
        .traffic
        .flows
        .iter()
        .map(|flow| u64::from(flow.answered));
    Outcome {
        seed,
        answered: answered.sum(),
        violation,
        log: world.log,
    }
}

fn world_of(seed: u64) -> World {
    let shape = Shape {
        instances_max: if seed.is_multiple_of(3) { 2 } else { 24 },
        interest_idle: Duration::from_secs(if seed.is_multiple_of(2) { 10 } else { 60 }),
        failover: Failover::Probed,
        ..Shape::default()
    };
    World::new(seed, &shape, Weather::calm(Duration::from_millis(1)))
}

fn live(world: &mut World) {
    world.run_for(Duration::from_secs(1));
    for _ in 0..4 {
        world.apply_service();
    }
    world.network.weather = Weather::storm();
    let end = world.now + TROUBLE;
    while world.now < end {
        let pause = world.random.random_range(0..2000);
        world.run_for(Duration::from_millis(pause));
        act(world);
    }
    leave_a_change_half_told(world);
    world.heal(Duration::from_millis(1));
    let healed = world.now;
    world.run_until(healed + RULED);
    world.truth.rules.have_reached_all();
    world.run_until(healed + REVOKED);
    check::every_route_is_true(world);
    world.run_until(healed + EQUAL);
    check::nobody_is_suspected(world);
    check::gateways_agree_with_their_clusters(world);
    check::clusters_know_the_truth(world);
    world.run_for(Duration::from_secs(10));
    world.settle();
    check::clusters_know_the_truth(world);
    check::gateways_agree_with_their_clusters(world);
    check::every_flow_is_answered(world);
    check::nothing_went_astray_since(world, healed + REVOKED);
    check::everything_resolves(world, Duration::from_secs(5));
    rules_come_and_go(world);
    a_node_falls_silent(world);
    an_instance_is_replaced(world);
    world.heal(Duration::from_millis(1));
    world.run_for(EQUAL);
    instances_move(world);
    a_key_is_revoked(world);
}

/// In peace: everybody may call everybody, and then nobody across tenants any more.
fn rules_come_and_go(world: &mut World) {
    world.add_rule_for_all();
    for node in 0..world.nodes.len() {
        world.open_flow(node, node);
    }
    world.run_for(ALLOWED);
    check::every_flow_is_answered(world);
    world.revoke_all_rules();
    world.run_for(REVOKED);
    world.truth.rules.have_reached_all();
    world.run_for(Duration::from_secs(4));
    check::every_flow_is_answered(world);
}

/// In peace: nothing comes through the tunnels of one node any more. Who talks with a service that runs there and elsewhere
/// chooses others for new flows a second later, and nobody else is suspected.
fn a_node_falls_silent(world: &mut World) {
    let silent = world.random.random_range(0..world.nodes.len());
    let before = world.traffic.flows.len();
    for other in (0..world.nodes.len()).filter(|other| *other != silent) {
        world.cut_tunnel(silent, other);
    }
    world.run_for(SILENCE);
    let begun = world.traffic.flows.len();
    for node in (0..world.nodes.len()).filter(|node| *node != silent) {
        for _ in 0..4 {
            let which = world.random.random_range(0..1000);
            world.open_flow(node, which);
        }
    }
    world.run_for(PATIENCE);
    check::new_flows_avoid(world, silent, before, begun);
    check::only_one_is_suspected(world, silent);
    world.heal(Duration::from_millis(1));
    world.run_for(EQUAL);
    check::nobody_is_suspected(world);
}

/// In peace: an instance ends, and the next one of its service begins on its node at once, while the callers' nodes are cut
/// from their clusters. What they go on sending to its NsIP is not for the next one.
fn an_instance_is_replaced(world: &mut World) {
    let node = world.random.random_range(0..world.nodes.len());
    let Some((job, _)) = world.nodes[node].locals.keys().next().cloned() else {
        return;
    };
    let Some(service) = world.services.iter().position(|name| *name == job) else {
        return;
    };
    for other in (0..world.nodes.len()).filter(|other| *other != node) {
        world.cut_node(other);
    }
    world.detach(node, 0);
    world.attach(node, service);
    world.run_for(Duration::from_secs(3));
}

/// In peace: instances move within their cluster and to the other one, also while a cluster of callers hears of nothing.
fn instances_move(world: &mut World) {
    for node in 0..world.nodes.len() {
        world.open_flow(node, node);
    }
    world.run_for(ALLOWED);
    for unheard in [false, true] {
        let which = world.random.random_range(0..1000);
        let to = world.random.random_range(0..world.nodes.len());
        world.move_in_peace(which, to, unheard);
        check::clusters_know_the_truth(world);
        check::gateways_agree_with_their_clusters(world);
        check::every_route_is_true(world);
        check::every_flow_is_answered(world);
    }
}

/// In peace: the key of a node is revoked. Nobody is told any more that something runs behind it, whatever the node says, until it has
/// another one.
fn a_key_is_revoked(world: &mut World) {
    let node = world.random.random_range(0..world.nodes.len());
    world.revoke_key(node);
    world.run_for(EQUAL);
    check::nothing_runs_behind_the_key_of(world, node);
    let cluster = world.nodes[node].cluster;
    let refused = world.clusters[cluster].answerer.refused_keys();
    world.say_places(node);
    world.run_for(EQUAL);
    check::nothing_runs_behind_the_key_of(world, node);
    let said = world.nodes[node].locals.len() as u64;
    let refused = world.clusters[cluster].answerer.refused_keys() - refused;
    assert!(refused >= said, "{refused} of {said} messages are refused");
    world.rotate_key(node);
    world.run_for(EQUAL);
    check::clusters_know_the_truth(world);
    check::gateways_agree_with_their_clusters(world);
}

/// A cluster does not hear of an end, and the root dies before it can: chance alone brings that too seldom.
fn leave_a_change_half_told(world: &mut World) {
    let cluster = world.random.random_range(0..world.clusters.len());
    world.cut_cluster(cluster);
    for node in 0..world.nodes.len() {
        if world.nodes[node].cluster != cluster {
            let which = world.random.random_range(0..1000);
            world.detach(node, which);
        }
    }
    let pause = world.random.random_range(0..2000);
    world.run_for(Duration::from_millis(pause));
    world.restart_root();
}

/// A fault of the rarer kind.
fn disturb(world: &mut World, node: usize, cluster: usize) {
    let other = world.random.random_range(0..world.nodes.len());
    match world.random.random_range(0..6) {
        0 => world.slow_down(Party::Node(node), SLOW),
        1 => world.slow_down(Party::Cluster(cluster), SLOW),
        2 => world.slow_down(Party::Root, SLOW),
        3 => {
            let ahead = Duration::from_secs(world.random.random_range(0..7200));
            world.jump(ahead);
        }
        _ => world.cut_tunnel(node, other),
    }
}

/// A node leaves, or a party begins anew without what it had on its disk; the root's is put back, because it alone knows who
/// has which address.
fn lose_something(world: &mut World, node: usize, cluster: usize) {
    match world.random.random_range(0..5) {
        0 | 1 => world.leave(node),
        2 => world.wipe_node(node),
        4 if world.clusters_know_the_store() => {
            let kept = world.wipe_root();
            let noticed = world.random.random_range(0..3000);
            world.run_for(Duration::from_millis(noticed));
            world.bring_back_root(kept);
        }
        _ => world.wipe_cluster(cluster),
    }
}

/// One random act. Weights are by repetition.
fn act(world: &mut World) {
    let node = world.random.random_range(0..world.nodes.len());
    let cluster = world.random.random_range(0..world.clusters.len());
    let which = world.random.random_range(0..1000);
    match world.random.random_range(0..100) {
        0..6 => world.apply_service(),
        6..9 => world.delete_service(which),
        9..30 => world.attach(node, which),
        30..42 => world.detach(node, which),
        42..54 => world.open_flow(node, which),
        54..55 => world.rotate_key(node),
        55..56 => {
            let how = world.random.random();
            world.forge(node, which, how);
        }
        56..70 => {
            let how = world.random.random();
            world.ask(node, which, how);
        }
        70..74 => {
            let (to, is_wide) = (world.random.random_range(0..1000), world.random.random());
            world.add_rule(which, to, is_wide);
        }
        74..76 => world.revoke_rule(which),
        76..79 => world.restart_node(node),
        79..80 => lose_something(world, node, cluster),
        80..84 => world.cut_node(node),
        84..88 => world.rejoin_node(node),
        88..89 => world.stop_cluster(cluster),
        89..91 => world.restart_cluster(cluster),
        91..92 => world.stop_root(),
        92..94 => world.restart_root(),
        94..95 => world.cut_cluster(cluster),
        95..97 => disturb(world, node, cluster),
        _ => world.repair(),
    }
}
