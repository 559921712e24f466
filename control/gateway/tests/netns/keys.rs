//! The key of a node and the one of its cluster: both can be replaced while services talk.
//!
//! ```text
//!  root, cluster ── management
//!  instances ── gateway 1 ── wire ── gateway 2 ── instances
//! ```

use crate::world::{World, sluice, tcp};
use serde_json::Value;
use sluice_perf::lab::Program;
use sluice_perf::lab::clock::wait_for;
use sluice_perf::lab::sites::Role;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// A field of a daemon's status.
fn field(role: &Role, name: &str) -> Value {
    role.ask("/v1/status").unwrap()[name].take()
}

pub(crate) fn key(role: &Role, command: &str) -> String {
    let program = Program::new(sluice()).args(["key", command, "-o", "json", "--config"]);
    let said = role.namespace.succeed(&program.arg(&role.config)).unwrap();
    let answer: Value = serde_json::from_str(&said).unwrap();
    answer["public_key"].as_str().unwrap().to_owned()
}

/// The keys of the cluster's nodes, as it knows them.
fn told(world: &World) -> Vec<Value> {
    let rows = world.sites.clusters[0].ask("/v1/nodes").unwrap();
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| row["public_key"].clone()).collect()
}

#[test]
#[ignore = "needs root"]
fn keys_are_replaced_while_services_talk() {
    let mut world = World::new("keys");
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    tcp(&caller.namespace, b.ip(0)).unwrap();
    let node = &world.sites.gateways[1].role;
    let before = key(node, "show");
    assert_eq!(field(node, "public_key"), before.as_str());
    assert!(told(&world).contains(&before.as_str().into()));
    let after = key(node, "rotate");
    assert_ne!(after, before);
    assert_eq!(key(node, "show"), after);
    assert_eq!(field(node, "public_key"), after.as_str());
    wait_for("the cluster to know the key", LIMIT, || {
        let told = told(&world);
        let knows = told.contains(&after.as_str().into());
        knows.then_some(()).ok_or_else(|| format!("{told:?}"))
    })
    .unwrap();
    tcp(&caller.namespace, b.ip(0)).unwrap();

    let signing = field(&world.sites.clusters[0], "signing_key");
    for gateway in &world.sites.gateways {
        assert_eq!(field(&gateway.role, "cluster_key"), signing);
    }
    world.sites.clusters[0].stop();
    let data_dir = world.sites.clusters[0].admin.with_extension("");
    std::fs::remove_file(data_dir.join("signing.key")).unwrap();
    world.sites.clusters[0].start().unwrap();
    world.sites.clusters[0].ready().unwrap();
    let another = field(&world.sites.clusters[0], "signing_key");
    assert_ne!(another, signing);
    for gateway in &world.sites.gateways {
        wait_for("the gateway to know the cluster's key", LIMIT, || {
            let known = field(&gateway.role, "cluster_key");
            (known == another)
                .then_some(())
                .ok_or_else(|| known.to_string())
        })
        .unwrap();
        assert_eq!(field(&gateway.role, "rows_outdated"), 0);
    }
    // What begins after that is told by rows of the new key only.
    let c = world.echo(1, "c");
    for family in [0, 1] {
        assert_eq!(tcp(&caller.namespace, b.ip(family)).unwrap().name, "b");
        assert_eq!(tcp(&caller.namespace, c.ip(family)).unwrap().name, "c");
    }
    world.check();
}
