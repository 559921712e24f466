//! A node engine says an instance's InstanceIP itself (the thesis's API), while the rules of its service are still on their way.

use super::{TELLER, is_refused, laid, rule};
use crate::node_engine::{Container, instance_ip};
use crate::world::{CALLER, ECHO, Instance, cut, join, tcp, udp, udp_socket};
use sluice_perf::lab::sites::Layout;
use std::time::Duration;

/// How far the managers are: what is called at once is called before their answer.
const ROUND_TRIP: Duration = Duration::from_millis(80);

/// Another tenant beside it calls as soon as the node engine is answered.
#[test]
#[ignore = "needs root"]
fn a_call_waits_for_the_rules_of_a_service_that_begins() {
    let layout = Layout {
        clusters: 1,
        gateways: vec![0, 0],
        managers_away: Some(ROUND_TRIP),
        ..Layout::two_sites()
    };
    let world = laid("newcomer", "enforce", layout);
    rule(&world, "add", TELLER, CALLER);
    world.schedule(CALLER, 0);
    let to = instance_ip(&world, CALLER);
    let teller: Instance = world.attach(0, TELLER, "teller");
    let v6 = udp_socket(&teller.namespace, 1, 0);
    let container = Container::run(&world, "newcomer");
    container.deploy(&world, CALLER, to);
    assert_eq!(tcp(&teller.namespace, to[0]).unwrap().name, "newcomer");
    assert_eq!(udp(&v6, to[1]).unwrap().name, "newcomer");
    assert_eq!(world.accounts(0).dropped("not-allowed"), 0);

    // Nobody says the rules of this one: it does not wait for ever.
    world.schedule(ECHO, 0);
    let to = instance_ip(&world, ECHO);
    let container = Container::run(&world, "silent");
    let gateway = world.sites.gateways[0].namespace();
    cut(gateway, &["mgmt0"]);
    container.deploy(&world, ECHO, to);
    for to in to {
        let answer = tcp(&teller.namespace, to);
        assert!(is_refused(&answer), "{answer:?}");
    }
    assert!(world.accounts(0).dropped("not-allowed") >= 2);
    join(gateway);
    world.check();
}
