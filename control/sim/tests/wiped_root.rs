//! A root that starts without its store: what is known stays, nobody is detached, nothing is given twice.

use sluice_proto::table_query::asker::Event;
use sluice_sim::check;
use sluice_sim::network::Weather;
use sluice_sim::world::{Shape, World};
use std::time::Duration;

const HOP: Duration = Duration::from_millis(1);

/// Services with instances on every node, known everywhere.
fn world(seed: u64) -> World {
    let mut world = World::new(seed, &Shape::default(), Weather::calm(HOP));
    world.run_for(Duration::from_secs(2));
    for _ in 0..3 {
        world.apply_service();
    }
    for node in 0..world.nodes.len() {
        world.attach(node, node);
    }
    world.run_for(Duration::from_secs(2));
    for node in 0..world.nodes.len() {
        for service in 0..3 {
            world.ask(node, service, 0);
        }
    }
    world.run_for(Duration::from_secs(2));
    check::clusters_know_the_truth(&world);
    assert_eq!(world.truth.living.len(), world.nodes.len());
    world
}

fn routes(world: &World) -> Vec<String> {
    let nodes = world.nodes.iter();
    nodes.map(|node| format!("{:?}", node.rows)).collect()
}

/// Longer than every refresh, with restarts of everything else in between.
#[test]
fn it_is_not_believed_until_its_store_is_back() {
    for seed in 0..8 {
        let mut world = world(seed);
        let before = routes(&world);
        let lost = world.wipe_root();
        for round in 0..12 {
            world.run_for(Duration::from_secs(10));
            let node = round % world.nodes.len();
            match round % 3 {
                0 => world.restart_cluster(node % world.clusters.len()),
                1 => world.restart_node(node),
                _ => world.restart_root(),
            }
            // The interest lives while the routes are used.
            for node in 0..world.nodes.len() {
                for job in world.services.clone() {
                    let now = world.now;
                    world.nodes[node].asker.handle_used(&job, now);
                }
            }
        }
        world.run_for(Duration::from_secs(10));
        assert_eq!(routes(&world), before, "seed {seed}");
        let withdrawn = world.nodes.iter().flat_map(|node| &node.events);
        let withdrawn = withdrawn.filter(|(_, event)| matches!(event, Event::Withdrawn { .. }));
        assert_eq!(withdrawn.count(), 0, "seed {seed}");
        assert_eq!(world.root.root.jobs().count(), 0, "it is a wiped root");

        world.bring_back_root(lost);
        world.run_for(Duration::from_secs(20));
        check::clusters_know_the_truth(&world);
        check::gateways_agree_with_their_clusters(&world);
        check::everything_resolves(&mut world, Duration::from_secs(5));
    }
}

/// A node that attaches or joins meanwhile waits, and is served by the root that knows what is taken.
#[test]
fn who_joins_meanwhile_is_served_once_the_store_is_back() {
    let mut world = world(99);
    let lost = world.wipe_root();
    world.run_for(Duration::from_secs(2));
    world.attach(0, 0);
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.truth.living.len(), world.nodes.len(), "it waits");
    world.bring_back_root(lost);
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.truth.living.len(), world.nodes.len() + 1);
    check::clusters_know_the_truth(&world);
}
