//! The key with which a cluster manager signs rows: who is told it, and how long it stays.

use super::super::Server;
use super::*;
use sluice_proto::message::InstanceEntry;
use sluice_proto::signature::{ClusterKey, Signed};
use std::os::unix::fs::PermissionsExt;

/// A gateway learns the key from the manager itself, and it is the same after a restart.
#[tokio::test]
async fn rows_are_signed_with_the_key_that_the_manager_says() {
    let mut system = System::start(1).await;
    apply(&system.root()).await;
    let mut keys = Vec::new();
    for nsip in ["10.18.0.2", "10.18.0.3"] {
        let caller = Caller::new(system.clusters[0].2.address);
        let said = caller.get("/v1/signing_key").await;
        assert_eq!(said["cluster_id"], "site-0");
        let key: ClusterKey = said["signing_key"].as_str().unwrap().parse().unwrap();
        let mut node = Node::join(system.broker(0), FIRST, JOB).await;
        attach(&mut node, nsip, "fc00::2").await;
        let row: InstanceEntry = loop {
            let mut answer = node.query(JOB, "").await;
            let rows: Vec<InstanceEntry> =
                serde_json::from_value(answer["instance_list"].take()).unwrap();
            let placed = |row: &InstanceEntry| row.namespace_ip == nsip.parse().ok();
            match rows.into_iter().find(placed) {
                Some(row) => break row,
                None => drop(node.hear(&format!("jobs/{JOB}/updates_available")).await),
            }
        };
        let signed = Signed::of(&JOB.parse().unwrap(), &row);
        assert!(key.verifies(&signed, &row.signature.unwrap()), "{row:?}");
        keys.push(key);
        let (files, config, running) = system.clusters.pop().unwrap();
        running.end().await;
        let running = start_cluster(config.clone()).await;
        system.clusters.push((files, config, running));
    }
    assert_eq!(keys[0], keys[1]);
    system.end().await;
}

#[tokio::test]
async fn a_signing_key_that_others_may_read_stops_the_start() {
    let files = Directory::new();
    let config = cluster_config(files.path(), "site", "127.0.0.1:1".parse().unwrap());
    let path = files.path().join("signing.key");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let Err(error) = Server::bind(config).await else {
        panic!("it starts");
    };
    let error = error.to_string();
    assert!(error.contains("its mode 0644"), "{error}");
    assert!(error.contains("remove it, and the next start"), "{error}");
}
