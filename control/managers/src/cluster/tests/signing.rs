//! The key with which a cluster manager signs rows: who is told it, and how long it stays.

use super::super::Server;
use super::*;
use sluice_proto::message::{InstanceEntry, NodeEntry};
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

/// A node of one cluster is found by its key in the other, by way of the root, and what is said of it is signed.
#[tokio::test]
async fn a_node_is_found_by_its_public_key_in_both_clusters() {
    const KEY: &str = "//////////////////////////////////////////8=";
    let system = System::start(2).await;
    apply(&system.root()).await;
    let mut server = Node::join(system.broker(0), FIRST, JOB).await;
    let (number, _) = attach(&mut server, "10.18.0.2", "fc00::2").await;
    let deployed = json!({"appname": JOB, "status": "DEPLOYED", "instance_number": number, "nsip": "10.18.0.2",
        "nsipv6": "fc00::2", "host_port": "50103", "host_ip": "192.0.2.1", "public_key": KEY});
    let question = json!({"sname": "", "sip": "", "node_key": KEY}).to_string();
    for cluster in 0..2 {
        let mut asking = Node::join(system.broker(cluster), SECOND, JOB).await;
        asking.say("tablequery/request", question.as_str()).await;
        if cluster == 0 {
            let nobody = asking.hear("tablequery/result").await;
            assert_eq!(nobody["query_key"], KEY);
            assert_eq!(nobody["instance_list"], json!([]));
            // It is told when the node says that the key is its own.
            server.say("service/deployed", deployed.to_string()).await;
        }
        let mut answer = asking.hear("tablequery/result").await;
        while answer["node"].is_null() {
            // The report is on its way to the root: the other cluster hears it then.
            answer = asking.hear("tablequery/result").await;
        }
        let node: NodeEntry = serde_json::from_value(answer["node"].take()).unwrap();
        assert_eq!(node.public_key.to_string(), KEY);
        assert_eq!(node.worker_id.as_deref(), Some(FIRST));
        assert_eq!(
            (node.host_ip.to_string(), node.host_port),
            ("192.0.2.1".to_owned(), 50103)
        );
        let manager = Caller::new(system.clusters[cluster].2.address);
        let said = manager.get("/v1/signing_key").await;
        let key: ClusterKey = said["signing_key"].as_str().unwrap().parse().unwrap();
        assert!(key.verifies(&Signed::of_node(&node), &node.signature.unwrap()));
    }
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
