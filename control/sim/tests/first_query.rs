//! What a first question costs: round trips, and messages. No loss, every message takes one millisecond.

use sluice_proto::table_query::Key;
use sluice_proto::table_query::asker::Event;
use sluice_sim::check;
use sluice_sim::network::Weather;
use sluice_sim::world::{Shape, World};
use std::time::Duration;

const HOP: Duration = Duration::from_millis(1);

/// Two clusters with three nodes each; one service with an instance at node 1, in cluster 1.
fn world() -> (World, Key) {
    let mut world = World::new(7, &Shape::default(), Weather::calm(HOP));
    world.run_for(Duration::from_secs(2));
    world.apply_service();
    world.attach(1, 0);
    world.run_for(Duration::from_secs(2));
    check::clusters_know_the_truth(&world);
    let job = world.root.root.jobs().next().expect("one service");
    let ip = job.service_ip_list[0].address.expect("an IPv4 ServiceIP");
    (world, Key::Address(ip))
}

/// Asks and gives the time until the routes are there.
fn ask(world: &mut World, node: usize, key: &Key) -> Duration {
    let (begin, seen) = (world.now, world.nodes[node].events.len());
    world.nodes[node].asker.handle_question(key, begin);
    world.run_for(Duration::from_secs(1));
    let (at, event) = &world.nodes[node].events[seen];
    assert!(matches!(event, Event::Routes(_)), "{event:?}");
    *at - begin
}

/// One round trip per hop of the hierarchy: the goal is at most two.
#[test]
fn a_first_question_takes_one_round_trip_per_hop() {
    let (mut world, key) = world();
    assert_eq!(ask(&mut world, 3, &key), 2 * HOP, "same cluster");
    assert_eq!(ask(&mut world, 0, &key), 4 * HOP, "other cluster");
    assert_eq!(
        ask(&mut world, 2, &key),
        2 * HOP,
        "its cluster knows it now"
    );
    assert_eq!(ask(&mut world, 2, &key), Duration::ZERO, "known");
}

#[test]
fn a_thousand_questions_are_one_query_and_two_nodes_one_request_to_the_root() {
    let (mut world, key) = world();
    let before = world.clusters[0].root_requests;
    for _ in 0..1000 {
        let now = world.now;
        world.nodes[0].asker.handle_question(&key, now);
        world.nodes[2].asker.handle_question(&key, now);
    }
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.nodes[0].queries.values().sum::<u64>(), 1);
    assert_eq!(world.nodes[2].queries.values().sum::<u64>(), 1);
    assert_eq!(world.clusters[0].root_requests - before, 1);
}

/// A change reaches an interested node without a question: root to cluster, cluster to root and back, cluster to node.
#[test]
fn a_change_is_pushed_to_exactly_the_interested_nodes() {
    let (mut world, key) = world();
    ask(&mut world, 0, &key);
    ask(&mut world, 3, &key);
    let queries = |world: &World| -> Vec<u64> {
        world
            .nodes
            .iter()
            .map(|node| node.queries.values().sum())
            .collect()
    };
    let (before, begin) = (queries(&world), world.now);
    let job = world.services[0].clone();
    let (_, undeployed) = world.nodes[1].detach(0, begin).expect("an instance");
    world.truth.living.clear();
    world.nodes[1].asker.handle_used(&job, begin);
    world.send(1, undeployed);
    world.run_for(Duration::from_secs(1));
    for (node, hops) in [(3, 2), (0, 6)] {
        let withdrawn = world.nodes[node]
            .events
            .iter()
            .find(|(_, event)| matches!(event, Event::Withdrawn { .. }));
        let (at, _) = withdrawn.expect("the end of the instance is told");
        assert_eq!(*at - begin, hops * HOP, "node{node}");
    }
    assert_eq!(queries(&world), before, "nobody asked");
    assert!(world.nodes[2].events.is_empty(), "not interested, not told");
}

/// The managers are gone for an hour: what is known stays, whether it is used or not.
#[test]
fn losing_the_managers_loses_no_route() {
    let (mut world, key) = world();
    ask(&mut world, 0, &key);
    world.stop_root();
    world.stop_cluster(0);
    world.run_for(Duration::from_secs(3600));
    assert_eq!(world.nodes[0].rows.len(), 1);
    assert_eq!(ask(&mut world, 0, &key), Duration::ZERO);
    world.restart_node(0);
    world.run_for(Duration::from_secs(10));
    assert_eq!(ask(&mut world, 0, &key), Duration::ZERO);
}

/// An idle interest ends everywhere: at the gateway, at its cluster and at the root.
#[test]
fn an_idle_interest_ends() {
    let (mut world, key) = world();
    ask(&mut world, 0, &key);
    let job = world.services[0].clone();
    assert!(
        world
            .root
            .root
            .interested(&job)
            .is_some_and(|clusters| clusters.contains("cluster0"))
    );
    world.run_for(Duration::from_secs(70));
    assert!(world.nodes[0].rows.is_empty());
    assert_eq!(world.clusters[0].answerer.jobs().count(), 0);
    assert!(
        world
            .root
            .root
            .interested(&job)
            .is_some_and(|clusters| !clusters.contains("cluster0"))
    );
    assert_eq!(
        world.nodes[1].rows.len(),
        1,
        "a local instance keeps its own"
    );
}
