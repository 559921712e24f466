//! The simulation's broker is the one that cluster managers run: its sessions are taken over, and end when nobody
//! acknowledges.

use sluice_proto::message::{Topic, Verb};
use sluice_sim::network::Weather;
use sluice_sim::world::{Shape, World};
use std::time::Duration;

fn world() -> World {
    let mut world = World::new(
        1,
        &Shape::default(),
        Weather::calm(Duration::from_millis(1)),
    );
    world.run_for(Duration::from_secs(1));
    world
}

/// The lines in which a cluster's broker ended a session.
fn closed(world: &World) -> Vec<&str> {
    let lines = world.log.iter().filter(|line| line.contains("closes"));
    lines.map(|line| line.trim_start()).collect()
}

#[test]
fn a_node_that_was_cut_off_takes_its_session_over() {
    let mut world = world();
    world.cut_node(0);
    world.run_for(Duration::from_secs(1));
    assert_eq!(closed(&world), [""; 0], "the broker knows nothing of it");
    world.rejoin_node(0);
    world.run_for(Duration::from_secs(1));
    assert_eq!(
        closed(&world),
        ["2.000 cluster0 closes node0: another connection took over the client id"]
    );
    assert!(world.nodes[0].is_connected());
}

#[test]
fn a_session_that_acknowledges_nothing_ends_after_ten_seconds() {
    let mut world = world();
    world.cut_node(0);
    let topic = Topic::node(world.nodes[0].id.clone(), Verb::SubnetResult).to_string();
    let payload = b"{}".to_vec();
    let say = |world: &mut World| {
        let now = world.now;
        world.clusters[0]
            .bus
            .say(now, topic.clone(), payload.clone());
    };
    for _ in 0..1023 {
        say(&mut world);
    }
    world.run_for(Duration::from_secs(20));
    assert_eq!(closed(&world), [""; 0], "one more may be on its way");
    say(&mut world);
    world.run_for(Duration::from_secs(20));
    assert_eq!(
        closed(&world),
        ["31.000 cluster0 closes node0: acknowledges none of the messages on their way for 10 s"]
    );
}
