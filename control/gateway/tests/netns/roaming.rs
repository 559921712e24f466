//! A node gets another address while others talk to its instances: the same node, the same instances, the same flows.
//!
//! ```text
//!  caller ── gateway 1 ── management ── gateway 2 ── echo        gateway 2 gets another address there
//! ```

use crate::world::{ECHO, World, again, connect, one_site, tcp, udp, udp_socket};
use sluice_perf::lab::clock::{now, wait_for};
use sluice_perf::lab::sites::Role;
use std::time::Duration;

const FORMER: &str = "192.168.78.12";
const LATTER: &str = "192.168.78.112";
/// A gateway looks at its address every second; then its cluster hears it, and everybody who is concerned.
const BOUND: Duration = Duration::from_secs(5);

/// Where the echo instance is, as a manager says it.
fn places(manager: &Role) -> Vec<String> {
    let rows = manager.ask("/v1/instances").unwrap();
    let rows = rows.as_array().unwrap().iter();
    rows.filter(|row| row["service"] == ECHO)
        .map(|row| row["address"].as_str().unwrap_or("nowhere").to_owned())
        .collect()
}

#[test]
#[ignore = "needs root"]
fn a_node_with_another_address_keeps_its_callers_flows() {
    let mut world = World::built("roaming", &one_site());
    for gateway in &world.sites.gateways {
        // The source of packets towards the cluster, then.
        let own = format!("node_address = \"{}\"", gateway.address[0]);
        let without = |text: String| text.replace(&own, "node_address = \"\"");
        gateway.role.configure(without).unwrap();
    }
    world.start();
    let (caller, echo) = (world.caller(0), world.echo(1, "b"));
    let mut flow = connect(&caller.namespace, echo.ip(0)).unwrap();
    again(&mut flow).unwrap();
    let socket = udp_socket(&caller.namespace, 0, 0);
    udp(&socket, echo.ip(0)).unwrap();
    let managers = |world: &World| [places(&world.sites.clusters[0]), places(&world.sites.root)];
    let at = |address: &str| vec![format!("{address}:50103")];
    assert_eq!(managers(&world), [at(FORMER), at(FORMER)]);

    let gateway = world.sites.gateways[1].namespace();
    let begin = now();
    gateway
        .ip(&format!(
            "address del {FORMER}/24 dev mgmt0\naddress add {LATTER}/24 dev mgmt0"
        ))
        .unwrap();
    wait_for("the managers to know it", BOUND, || {
        match managers(&world) {
            rows if rows == [at(LATTER), at(LATTER)] => Ok(()),
            rows => Err(format!("{rows:?}")),
        }
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", world.sites.gateways[1].role.said()));
    println!("known after {} ms", begin.elapsed().as_millis());
    assert_eq!(again(&mut flow).unwrap().name, "b");
    println!("the flow goes on after {} ms", begin.elapsed().as_millis());
    assert_eq!(udp(&socket, echo.ip(0)).unwrap().name, "b");
    assert_eq!(tcp(&caller.namespace, echo.ip(0)).unwrap().name, "b");
    let peers = world.sites.gateways[0].role.ask("/v1/peers").unwrap();
    let peers = peers.to_string();
    assert!(
        peers.contains(LATTER) && !peers.contains(&format!("{FORMER}:")),
        "{peers}"
    );
    world.check();
}
