//! Nodes that join and leave: the subnets that they get, and what becomes of those that they give back.
//!
//! ```text
//!  root, cluster ── management
//!  instances ── gateway 1 ── wire ── gateway 2 ── instances
//! ```

use crate::world::{ECHO, World, serve, service_ip, sluice, tcp};
use serde_json::{Value, json};
use sluice_perf::lab::clock::wait_for;
use sluice_perf::lab::sites::Role;
use sluice_perf::lab::{NetNs, Program, http};
use sluice_wire::Subnet;
use std::collections::BTreeSet;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

fn remove(role: &Role) -> Result<String, String> {
    let remove = Program::new(sluice()).args(["gateway", "--remove", "--config"]);
    let said = role.namespace.succeed(&remove.arg(&role.config));
    said.map_err(|error| error.to_string())
}

fn subnet(role: &Role) -> String {
    let status = role.ask("/v1/status").unwrap();
    let subnet = status["subnet_v4"].as_str();
    subnet.unwrap_or_else(|| panic!("{status}")).to_owned()
}

/// A manager's rows of nodes with this state.
fn nodes(role: &Role, state: &str) -> Vec<Value> {
    let rows = role.ask("/v1/nodes").unwrap();
    let rows = rows.as_array().unwrap().iter();
    rows.filter(|row| row["state"] == state).cloned().collect()
}

/// The network address of the only subnet that rests at the root.
fn resting(world: &World) -> String {
    let root = &world.sites.root;
    wait_for("the root to have the subnet back", LIMIT, || {
        let rows = nodes(root, "resting");
        match &rows[..] {
            [row] if (1..=600).contains(&row["rest_s"].as_u64().unwrap()) => {
                Ok(row["subnet_v4"].as_str().unwrap().to_owned())
            }
            _ => Err(format!("{rows:?}")),
        }
    })
    .unwrap()
}

#[test]
#[ignore = "needs root"]
fn a_node_that_leaves_takes_its_rows_along_and_its_subnet_rests() {
    let mut world = World::new("leaves");
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    tcp(&caller.namespace, b.ip(0)).unwrap();
    let before = subnet(&world.sites.gateways[1].role);
    world.sites.gateways[1].role.stop();
    let said = remove(&world.sites.gateways[1].role).unwrap();
    assert!(said.contains("knows that the node has left"), "{said}");
    let error = tcp(&caller.namespace, b.ip(0)).unwrap_err();
    println!("a call to the node that left: {error}");
    assert!(before.starts_with(&resting(&world)), "{before}");
    let root = &world.sites.root;
    let told = root.ask("/v1/instances").unwrap();
    let runs = |row: &&Value| row["service"] == b.attached.service.as_str();
    assert_eq!(
        told.as_array().unwrap().iter().filter(runs).count(),
        0,
        "{told}"
    );
    // Twice is as once, and nobody is asked: it is no node any more.
    let again = remove(&world.sites.gateways[1].role).unwrap();
    assert!(again.contains("not registered"), "{again}");

    world.sites.gateways[1].role.ready().unwrap();
    let after = subnet(&world.sites.gateways[1].role);
    assert_ne!(after, before, "it rests");
    let c = world.echo(1, "c");
    tcp(&caller.namespace, c.ip(0)).unwrap();
    world.check();
}

/// The root is away, then the cluster, too: each says what it still owes, and nothing of it is lost by `kill -9`.
#[test]
#[ignore = "needs root"]
fn what_a_leaving_node_could_not_say_is_said_later() {
    let mut world = World::new("leaves-alone");
    let before: Vec<String> = world
        .sites
        .gateways
        .iter()
        .map(|it| subnet(&it.role))
        .collect();
    world.sites.root.kill();
    world.sites.gateways[0].role.stop();
    remove(&world.sites.gateways[0].role).unwrap();
    let left = nodes(&world.sites.clusters[0], "left");
    assert!(
        before[0].starts_with(left[0]["subnet_v4"].as_str().unwrap()),
        "{left:?}"
    );
    world.sites.clusters[0].kill();

    world.sites.gateways[1].role.stop();
    let error = remove(&world.sites.gateways[1].role).unwrap_err();
    assert!(
        error.contains("does not know yet that it has left"),
        "{error}"
    );

    world.sites.start_managers().unwrap();
    assert!(before[0].starts_with(&resting(&world)));
    // The first goes on with a subnet of the reserve; the second says first that it had left.
    for gateway in [0, 1] {
        world.sites.gateways[gateway].role.ready().unwrap();
        let after = subnet(&world.sites.gateways[gateway].role);
        assert!(!before.contains(&after), "{after} of {before:?}");
    }
    let said = world.sites.gateways[1].role.said();
    assert!(said.contains("the node had left, and joins anew"), "{said}");
    let root = &world.sites.root;
    wait_for("both subnets to rest", LIMIT, || {
        match nodes(root, "resting") {
            rows if rows.len() == 2 => Ok(()),
            rows => Err(format!("{rows:?}")),
        }
    })
    .unwrap();
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    tcp(&caller.namespace, b.ip(0)).unwrap();
    world.check();
}

/// The cluster has subnets in reserve, and knows what is scheduled to it.
#[test]
#[ignore = "needs root"]
fn a_node_joins_and_runs_what_is_scheduled_while_the_root_is_away() {
    let mut world = World::new("joins-alone");
    let (caller, a) = (world.caller(0), world.echo(0, "a"));
    world.schedule(ECHO, 1);
    world.sites.gateways[1].role.stop();
    remove(&world.sites.gateways[1].role).unwrap();
    resting(&world);
    world.sites.root.kill();

    world.sites.gateways[1].role.ready().unwrap();
    let network = subnet(&world.sites.gateways[1].role);
    let namespace = NetNs::new("late").unwrap();
    serve(&namespace, "late");
    let log = world.sites.scratch.path().join("late.log");
    let workload = Program::new("sleep").arg("1000");
    let workload = namespace.start(&workload, &log).unwrap();
    let deploy = json!({"pid": workload.pid(), "serviceName": ECHO, "instanceNumber": 1, "portMappings": ""});
    let socket = &world.sites.gateways[1].node_socket;
    let deployed = http::request(
        socket,
        "POST",
        "/container/deploy",
        Some(&deploy.to_string()),
        LIMIT,
    )
    .unwrap();
    assert_eq!(deployed.status, 200, "{deployed:?}");
    // Both instances, by the ServiceIP; the root is still away.
    let mut names = BTreeSet::new();
    wait_for("both instances to answer", LIMIT, || {
        names.insert(tcp(&caller.namespace, service_ip(0)).unwrap().name);
        (names.len() == 2)
            .then_some(())
            .ok_or_else(|| format!("{names:?}"))
    })
    .unwrap();
    let status = world.sites.clusters[0].ask("/v1/status").unwrap();
    assert_eq!(status["root_answers"], false);

    world.sites.root.ready().unwrap();
    let rows = |role: &Role| {
        let rows = role.ask("/v1/instances").unwrap();
        let rows = rows.as_array().unwrap().iter();
        let fields = [
            "instance",
            "state",
            "node",
            "address",
            "instance_ip",
            "ns_ip",
        ];
        rows.filter(|row| row["service"] == ECHO)
            .map(|row| fields.map(|field| row[field].clone()))
            .collect::<Vec<_>>()
    };
    wait_for("root and cluster to say the same", LIMIT, || {
        let said = [&world.sites.root, &world.sites.clusters[0]].map(rows);
        let both = said[0] == said[1] && said[0].iter().all(|row| row[1] == "running");
        (both && said[0].len() == 2)
            .then_some(())
            .ok_or_else(|| format!("{said:?}"))
    })
    .unwrap();
    let ns_ip = rows(&world.sites.root)[1][5].as_str().unwrap().to_owned();
    let network: Subnet = network.parse().unwrap();
    assert!(
        network.contains(ns_ip.parse().unwrap()),
        "{ns_ip} in {network}"
    );
    tcp(&caller.namespace, a.ip(0)).unwrap();
    world.check();
}

/// Its instances go on running, but nobody can reach them, and nobody is sent there; their NsIPs rest.
#[test]
#[ignore = "needs root"]
fn what_ran_on_a_node_that_lost_its_state_ends() {
    let mut world = World::new("node-wiped");
    let (caller, a, b) = (world.caller(0), world.echo(0, "a"), world.echo(1, "b"));
    tcp(&caller.namespace, b.ip(0)).unwrap();
    let before = subnet(&world.sites.gateways[1].role);
    world.sites.gateways[1].role.kill();
    for file in ["gateway.json", "node.json"] {
        std::fs::remove_file(world.sites.gateways[1].state_dir.join(file)).unwrap();
    }
    world.sites.gateways[1].role.start().unwrap();
    world.sites.gateways[1].role.ready().unwrap();
    assert_eq!(subnet(&world.sites.gateways[1].role), before);
    let runs = |row: &&Value| row["service"] == b.attached.service.as_str();
    wait_for("the root to know its end", LIMIT, || {
        let told = world.sites.root.ask("/v1/instances").unwrap();
        match told.as_array().unwrap().iter().filter(runs).count() {
            1 => Ok(()),
            count => Err(format!("{count} instances")),
        }
    })
    .unwrap();
    wait_for(
        "the caller's gateway to know its end",
        LIMIT,
        || match tcp(&caller.namespace, b.ip(0)) {
            Err(_) => Ok(()),
            Ok(answer) => Err(answer.name),
        },
    )
    .unwrap();
    for _ in 0..20 {
        assert_eq!(tcp(&caller.namespace, service_ip(0)).unwrap().name, "a");
    }
    let c = world.echo(1, "c");
    for family in [0, 1] {
        assert_ne!(c.ns_ip(family), b.ns_ip(family), "it rests");
        assert_eq!(tcp(&caller.namespace, c.ip(family)).unwrap().name, "c");
    }
    tcp(&caller.namespace, a.ip(0)).unwrap();
    world.check();
}
