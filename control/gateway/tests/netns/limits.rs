//! What is refused, and how the caller learns it.
//!
//! ```text
//!  caller ── gateway 1 ── wire ── gateway 2 ── echo b
//! ```

use crate::world::{
    CALLER, ECHO, PORT, World, again, connect, one_site, service_ip, tcp, udp, udp_socket,
};
use sluice_perf::lab::Program;
use sluice_perf::lab::clock::wait_for;
use sluice_perf::lab::sites::Layout;
use std::io;
use std::time::Duration;

/// An address that means nothing is answered, not swallowed.
#[test]
#[ignore = "needs root"]
fn unknown_addresses_are_unreachable() {
    let world = World::new("unknown");
    let caller = world.caller(0);
    for to in ["10.30.99.99", "fdff:2000::9999"] {
        let error = connect(&caller.namespace, to.parse().unwrap())
            .map(drop)
            .unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::TimedOut, "{to}: {error}");
    }
    // The namespace addresses of another node are no way in.
    let b = world.echo(1, "b");
    for family in [0, 1] {
        assert!(connect(&caller.namespace, b.ns_ip(family)).is_err());
    }
    world.check();
}

/// A service without instances is unavailable now, and reachable as soon as it has one.
#[test]
#[ignore = "needs root"]
fn a_service_that_gets_its_first_instance_becomes_reachable() {
    let world = World::new("first-instance");
    let caller = world.caller(0);
    assert!(tcp(&caller.namespace, service_ip(0)).is_err());
    let _b = world.echo(1, "b");
    wait_for(
        "the service to be reachable",
        Duration::from_secs(10),
        || tcp(&caller.namespace, service_ip(0)).map_err(|error| error.to_string()),
    )
    .unwrap();
    world.check();
}

/// Detaching ends the instance's flows at once: a caller is told, and its next connection goes elsewhere.
#[test]
#[ignore = "needs root"]
fn a_withdrawn_instance_takes_its_flows_with_it() {
    let world = World::new("withdrawn");
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    let mut stream = connect(&caller.namespace, service_ip(0)).unwrap();
    assert_eq!(again(&mut stream).unwrap().name, "b");
    let _c = world.echo(1, "c");
    world
        .sites
        .detach(1, &b.attached)
        .unwrap_or_else(|error| panic!("{error}"));
    wait_for(
        "new connections to go to c",
        Duration::from_secs(5),
        || match tcp(&caller.namespace, service_ip(0)) {
            Ok(answer) if answer.name == "c" => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .unwrap();
    let error = again(&mut stream).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    world.check();
}

/// Two instances of one node meet only through the gateway, and only under their own addresses.
#[test]
#[ignore = "needs root"]
fn an_instance_cannot_take_another_address() {
    let world = World::new("spoof");
    let (caller, a, b) = (world.caller(0), world.echo(0, "a"), world.echo(1, "b"));
    tcp(&caller.namespace, service_ip(0)).unwrap();
    // Next to it on the bridge, but not for it.
    assert!(connect(&caller.namespace, a.ns_ip(0)).is_err());
    // Under the neighbour's address nothing of it gets out.
    let device = Program::new("ip").args(["-o", "-4", "route", "show", "default"]);
    let route = caller.namespace.succeed(&device).unwrap();
    let device = route
        .split_whitespace()
        .skip_while(|word| *word != "dev")
        .nth(1)
        .unwrap()
        .to_owned();
    caller
        .namespace
        .ip(&format!("address add {}/32 dev {device}", a.ns_ip(0)))
        .unwrap();
    let forged = a.ns_ip(0);
    let socket = caller
        .namespace
        .run(move || std::net::UdpSocket::bind((forged, 0)))
        .unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    assert!(udp(&socket, b.ip(0)).is_err());
    world.check();
}

/// Port 65535 is a port like any other.
#[test]
#[ignore = "needs root"]
fn the_highest_port_works() {
    let world = World::new("port-65535");
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    for family in [0, 1] {
        let socket = udp_socket(&caller.namespace, family, 65535);
        for to in [service_ip(family), b.ip(family)] {
            assert_eq!(udp(&socket, to).unwrap().from.port(), PORT);
        }
    }
    world.check();
}

/// Used-up ranges are named.
#[test]
#[ignore = "needs root"]
fn a_used_up_node_range_is_named() {
    let mut world = World::built("used-up", &one_site());
    let plan = "[plan]\nnodes_v4 = \"10.18.0.0/26\"\n\n";
    let roles = world
        .sites
        .clusters
        .iter()
        .chain([&world.sites.root])
        .chain(world.sites.gateways.iter().map(|gateway| &gateway.role));
    for role in roles {
        role.configure(|text| format!("{plan}{text}")).unwrap();
    }
    let error = world.sites.start().unwrap_err().to_string();
    let said: Vec<String> = world
        .sites
        .clusters
        .iter()
        .chain([&world.sites.root])
        .map(sluice_perf::lab::sites::Role::said)
        .collect();
    assert!(
        format!("{error}{}", said.concat()).contains("10.18.0.0/26"),
        "{error}\n{said:?}"
    );
}

/// One address of a subnet is the gateway's, one the network's, one the broadcast's: a /29 holds five instances.
#[test]
#[ignore = "needs root"]
fn a_used_up_subnet_is_named() {
    let mut world = World::built(
        "used-up-subnet",
        &Layout {
            gateways: vec![0],
            ..one_site()
        },
    );
    let plan = "[plan]\nnode_length_v4 = 29\n\n";
    let roles = world
        .sites
        .clusters
        .iter()
        .chain([&world.sites.root])
        .chain(world.sites.gateways.iter().map(|gateway| &gateway.role));
    for role in roles {
        role.configure(|text| format!("{plan}{text}")).unwrap();
    }
    world.start();
    let _instances: Vec<_> = (0..5)
        .map(|number| world.attach(0, CALLER, &format!("i{number}")))
        .collect();
    let one_more = sluice_perf::lab::NetNs::new("one-more").unwrap();
    let error = world
        .sites
        .attach(
            0,
            ECHO,
            sluice_perf::lab::sites::Target::Namespace(&one_more),
        )
        .unwrap_err()
        .to_string();
    assert!(error.contains("/29"), "{error}");
    world.check();
}
