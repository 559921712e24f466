//! What the simulation's shells do as those of gateways and managers do it: one message after the other, and no answer before
//! the disk has it.

use sluice_proto::message::{InstanceDeploy, InstanceResult, TableQueryResult, Topic, Verb, write};
use sluice_proto::table_query::Key;
use sluice_proto::table_query::root::{Caller, Command};
use sluice_sim::network::Weather;
use sluice_sim::node::Attaching;
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

/// Its address was told to the developer, so it must never be another's, although the disk was behind.
#[test]
fn what_was_applied_outlives_a_root_that_is_killed_behind_earlier_writes() {
    let mut world = world();
    let earlier = Command::Subnet {
        caller: Caller::default(),
        request_id: Some("slow".to_owned()),
    };
    let sync = Duration::from_millis(200);
    world.root.apply(&earlier, world.now, sync);
    world.apply_service();
    world.restart_root();
    let job = Key::Name(world.services[0].clone());
    assert!(world.root.root.job(&job).is_some());
}

/// Two messages arrive in one instant: the service is none of the node's business, and an instance of it is to run there.
#[test]
fn a_gateway_is_done_with_a_message_before_it_reads_the_next() {
    let mut world = world();
    world.apply_service();
    let job = world.services[0].clone();
    let deploy = InstanceDeploy {
        id: world.root.root.id_for(&job),
        instance_number: -1,
        cluster_id: "cluster0".to_owned(),
        request_id: Some("node0-r9".to_owned()),
        migrate: false,
    };
    world
        .root
        .apply(&Command::InstanceDeploy(deploy), world.now, Duration::ZERO);
    let known = world.root.root.job(&Key::Name(job.clone())).unwrap();
    let entry = known.instance_list[0].clone();
    let now = world.now;
    world.nodes[0]
        .asker
        .handle_question(&Key::Name(job.clone()), now);
    world.run_for(Duration::from_millis(100));
    assert_eq!(
        world.nodes[0].asker.routes(&job).unwrap().instances.len(),
        1
    );
    world.nodes[0].attaching.insert(
        "r9".to_owned(),
        Attaching {
            job: job.clone(),
            moving: None,
        },
    );
    let result = InstanceResult {
        request_id: "r9".to_owned(),
        instance_number: entry.instance_number,
        instance_ip: entry.instance_ip,
        instance_ip_v6: entry.instance_ip_v6,
        epoch: entry.epoch,
        ..InstanceResult::default()
    };
    for (verb, payload) in [
        (Verb::TableQueryResult, write(&TableQueryResult::gone(&job))),
        (Verb::InstanceResult, write(&result)),
    ] {
        let topic = Topic::node(world.nodes[0].id.clone(), verb).to_string();
        let now = world.now;
        world.clusters[0].bus.say(now, topic, payload);
    }
    world.run_for(Duration::from_secs(1));
    assert!(world.nodes[0].locals.contains_key(&(job, 0)));
}
