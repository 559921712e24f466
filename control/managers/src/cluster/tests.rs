//! Cluster and root over real sockets, with nodes that speak MQTT as Oakestra's do.

mod external;
mod revocation;
mod signing;

use crate::testing::{
    Caller, Directory, Node, PATIENCE, RunningCluster, RunningRoot, cluster_config, root_config,
    start_cluster, start_root,
};
use crate::{ClusterConfig, Token, WebhookConfig};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use hyper::Method;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const FIRST: &str = "64b8f0c9d2a1e3f405162738";
const SECOND: &str = "75b8f0c9d2a1e3f405162738";
const JOB: &str = "demo.default.web.test";
const YAML: &str = "api_version: v0.2\napp_name: demo\napp_ns: default\nservice_name: web\nservice_ns: test\naddresses:\n  RR_ip: 10.30.50.2\n";

/// A root and clusters of one test.
struct System {
    root_files: Directory,
    root: RunningRoot,
    clusters: Vec<(Directory, ClusterConfig, RunningCluster)>,
}

impl System {
    async fn start(clusters: usize) -> Self {
        let root_files = Directory::new();
        let root = start_root(root_config(root_files.path())).await;
        let mut system = Self {
            root_files,
            root,
            clusters: vec![],
        };
        for number in 0..clusters {
            let files = Directory::new();
            let id = format!("site-{number}");
            let config = cluster_config(files.path(), &id, system.root.address);
            let running = start_cluster(config.clone()).await;
            system.clusters.push((files, config, running));
        }
        system
    }

    fn broker(&self, cluster: usize) -> SocketAddr {
        self.clusters[cluster].2.broker.unwrap()
    }

    fn root(&self) -> Caller {
        Caller::new(self.root.address)
    }

    async fn end(self) {
        for (_, _, cluster) in self.clusters {
            cluster.end().await;
        }
        self.root.end().await;
    }
}

async fn apply(root: &Caller) {
    let answer = root.call(Method::POST, "/v1/services", YAML).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
}

/// The whole way of an instance without an orchestrator; returns its InstanceIP.
async fn attach(node: &mut Node, nsip: &str, nsipv6: &str) -> (u64, String) {
    node.say(
        "v1/instance/request",
        json!({"request_id": "r", "service": JOB}).to_string(),
    )
    .await;
    let result = node.hear("v1/instance/result").await;
    assert_eq!(result["error"], Value::Null, "{result}");
    let number = result["instance_number"].as_u64().unwrap();
    let deployed = json!({"appname": JOB, "status": "DEPLOYED", "instance_number": number, "nsip": nsip,
        "nsipv6": nsipv6, "host_port": "50103", "host_ip": "192.0.2.1"});
    node.say("service/deployed", deployed.to_string()).await;
    (number, result["instance_ip"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_service_is_found_by_address_and_by_name_in_both_clusters() {
    let system = System::start(2).await;
    apply(&system.root()).await;
    let mut server = Node::join(system.broker(0), FIRST, JOB).await;
    server.say("subnet", r#"{"METHOD":"GET"}"#).await;
    let subnet = server.hear("subnetwork/result").await;
    assert!(subnet["address"].as_str().unwrap().starts_with("10.18.0."));
    assert!(subnet["addressv6"].as_str().unwrap().starts_with("fc00::"));
    let (number, instance_ip) = attach(&mut server, "10.18.0.2", "fc00::2").await;

    for cluster in 0..2 {
        let mut client = Node::join(system.broker(cluster), SECOND, JOB).await;
        let by_name = loop {
            let answer = client.query(JOB, "").await;
            if answer["instance_list"][0]["host_port"] == 50103 {
                break answer;
            }
            // The deployment is still on its way through the root: an update will tell.
            client.hear(&format!("jobs/{JOB}/updates_available")).await;
        };
        let row = &by_name["instance_list"][0];
        assert_eq!(by_name["app_name"], JOB);
        assert_eq!(row["instance_number"], number);
        assert_eq!(row["instance_ip"], instance_ip);
        assert_eq!(row["namespace_ip"], "10.18.0.2");
        assert_eq!(row["namespace_ip_v6"], "fc00::2");
        assert_eq!(row["host_ip"], "192.0.2.1");
        let types: Vec<_> = row["service_ip"]
            .as_array()
            .unwrap()
            .iter()
            .map(|ip| ip["IpType"].as_str().unwrap())
            .collect();
        assert_eq!(types, ["RR", "instance_ip"]);
        for address in [
            "10.30.50.2",
            row["service_ip"][0]["Address_v6"].as_str().unwrap(),
            row["instance_ip"].as_str().unwrap(),
            row["instance_ip_v6"].as_str().unwrap(),
        ] {
            let answer = client.query("", address).await;
            assert_eq!(answer["query_key"], address);
            assert_eq!(answer["instance_list"], by_name["instance_list"]);
        }
    }
    system.end().await;
}

/// Oakestra's fields exactly; those that are ours come beside them.
#[tokio::test]
async fn what_does_not_exist_is_an_empty_list() {
    let system = System::start(1).await;
    let mut node = Node::join(system.broker(0), FIRST, JOB).await;
    for (sname, sip) in [("", "10.30.99.99"), ("no.such.service.here", "")] {
        let unknown = node.query(sname, sip).await;
        assert_eq!(unknown["app_name"], sname, "{unknown}");
        assert_eq!(unknown["instance_list"], json!([]), "{unknown}");
        assert_eq!(unknown["query_key"], format!("{sname}{sip}"), "{unknown}");
    }
    system.end().await;
}

/// A moment after a gateway heard that a name means nothing, the service is created and attached in another cluster.
#[tokio::test]
async fn a_node_that_heard_of_no_service_hears_when_there_is_one() {
    let system = System::start(2).await;
    let mut caller = Node::join(system.broker(1), SECOND, JOB).await;
    let question = json!({"sname": JOB, "sip": "", "interest_s": 180}).to_string();
    caller.say("tablequery/request", question).await;
    let nothing = caller.hear("tablequery/result").await;
    assert_eq!(nothing["instance_list"], json!([]), "{nothing}");
    apply(&system.root()).await;
    let something = caller.hear("tablequery/result").await;
    assert_eq!(something["query_key"], JOB, "{something}");
    let ip = &something["service_ip_list"][0]["Address"];
    assert_eq!(ip, "10.30.50.2", "{something}");
    system.end().await;
}

#[tokio::test]
async fn an_end_is_told_to_interested_nodes_of_another_cluster() {
    let system = System::start(2).await;
    let root = system.root();
    apply(&root).await;
    let mut server = Node::join(system.broker(0), FIRST, JOB).await;
    let (number, _) = attach(&mut server, "10.18.0.2", "fc00::2").await;
    let mut client = Node::join(system.broker(1), SECOND, JOB).await;
    let updates = format!("jobs/{JOB}/updates_available");
    while client.query(JOB, "").await["instance_list"][0]["host_port"] != 50103 {
        client.hear(&updates).await;
    }
    let undeployed = json!({"appname": JOB, "instance_number": number});
    server
        .say("service/undeployed", undeployed.to_string())
        .await;
    while client.hear(&updates).await["type"] != "UNDEPLOYMENT" {}
    assert_eq!(client.query(JOB, "").await["instance_list"], json!([]));
    assert_eq!(root.get("/v1/instances").await, json!([]));
    system.end().await;
}

#[tokio::test]
async fn oakestra_paths_of_the_cluster_answer_with_its_texts() {
    let system = System::start(1).await;
    let cluster = Caller::new(system.clusters[0].2.address);
    apply(&system.root()).await;
    for (method, path, body, expected) in [
        (
            Method::POST,
            "/api/net/deployment",
            format!(r#"{{"job_name":"{JOB}"}}"#),
            (200, "job stored succesfully"),
        ),
        (
            Method::POST,
            "/api/net/deployment",
            r#"{"job_name":"no.such.service.here"}"#.to_owned(),
            (500, "Service resolution failed"),
        ),
        (
            Method::POST,
            "/api/net/job/update",
            format!(r#"{{"job_name":"{JOB}","instance_number":0,"type":"DEPLOYMENT"}}"#),
            (200, "update notification received"),
        ),
        (
            Method::DELETE,
            "/api/net/deployment/demo.default.web.test",
            String::new(),
            (200, "job removed succesfully"),
        ),
    ] {
        let (status, text) = cluster.text(method.clone(), path, body).await;
        assert_eq!((status, text.as_str()), expected, "{method} {path}");
    }
    for (method, path, body) in [
        (Method::POST, "/api/net/deployment", "{"),
        (Method::POST, "/api/net/job/update", r#"{"job_name":"x"}"#),
        (
            Method::POST,
            "/api/net/job/update",
            r#"{"job_name":"a.b.c.d","instance_number":-2,"type":"DEPLOYMENT"}"#,
        ),
        (Method::DELETE, "/api/net/deployment/nonsense", ""),
    ] {
        assert_eq!(
            cluster.text(method.clone(), path, body).await.0,
            400,
            "{method} {path}"
        );
    }
    assert_eq!(cluster.get("/v1/status").await["role"], "cluster");
    system.end().await;
}

/// One malformed payload per topic; the manager of Oakestra is deaf after the first.
#[tokio::test]
async fn nonsense_on_every_topic_changes_nothing() {
    let system = System::start(1).await;
    apply(&system.root()).await;
    let mut node = Node::join(system.broker(0), FIRST, JOB).await;
    for verb in [
        "subnet",
        "service/deployed",
        "service/undeployed",
        "service/address-changed",
        "tablequery/request",
        "interest/remove",
        "v1/instance/request",
        "no/such/verb",
    ] {
        for payload in [
            &b""[..],
            b"{",
            b"[]",
            b"null",
            b"\xff\xfe",
            br#"{"appname":"x","instance_number":-1,"host_port":"70000","sip":7}"#,
            br#"{"appname":"a.b.c.d","instance_number":0,"nsip":"","host_port":"1","host_ip":"x"}"#,
        ] {
            node.say(verb, payload).await;
        }
    }
    let answer = node.query("", "10.30.50.2").await;
    assert_eq!(answer["app_name"], JOB);
    system.end().await;
}

#[tokio::test]
async fn with_the_root_gone_known_services_are_answered_and_nodes_join() {
    let system = System::start(1).await;
    apply(&system.root()).await;
    let mut node = Node::join(system.broker(0), FIRST, JOB).await;
    node.say("subnet", r#"{"METHOD":"GET"}"#).await;
    let subnet = node.hear("subnetwork/result").await;
    attach(&mut node, "10.18.0.2", "fc00::2").await;
    while node.query(JOB, "").await["instance_list"][0]["host_port"] != 50103 {}
    let yaml = YAML.replace("web", "late").replace("50.2", "50.3");
    system.root().call(Method::POST, "/v1/services", yaml).await;
    let System {
        root_files,
        root,
        mut clusters,
    } = system;
    let address = root.address;
    root.end().await;

    assert_eq!(
        node.query("", "10.30.50.2").await["instance_list"][0]["host_port"],
        50103
    );
    let (files, config, running) = clusters.remove(0);
    let mut second = Node::join(running.broker.unwrap(), SECOND, JOB).await;
    second.say("subnet", r#"{"METHOD":"GET"}"#).await;
    let other = second.hear("subnetwork/result").await;
    assert_ne!(other["address"], subnet["address"]);
    // The same after the manager was started again.
    running.end().await;
    let running = start_cluster(config).await;
    let mut node = Node::join(running.broker.unwrap(), FIRST, JOB).await;
    assert_eq!(
        node.query("", "10.30.50.2").await["instance_list"][0]["host_port"],
        50103
    );
    node.say("subnet", r#"{"METHOD":"GET"}"#).await;
    assert_eq!(node.hear("subnetwork/result").await, subnet);
    // What only the root knows is answered all the same: that it cannot be said now.
    let unknown = node.query("", "10.30.50.3").await;
    assert_eq!(unknown["unavailable"], true, "{unknown}");
    assert_eq!(unknown["instance_list"], json!([]), "{unknown}");
    // And when the root is back, the answer comes without another question.
    let mut root = root_config(root_files.path());
    root.listen = address;
    let root = start_root(root).await;
    let known = loop {
        let answer = node.hear("tablequery/result").await;
        if answer["query_key"] == "10.30.50.3" {
            break answer;
        }
    };
    assert_eq!(known["app_name"], "demo.default.late.test", "{known}");
    running.end().await;
    root.end().await;
    drop(files);
}

/// A root without its store would give away what its clusters have: they tell it, and it changes nothing for anybody, until
/// it has its store back, or a cluster of its own.
#[tokio::test]
async fn a_root_that_lost_its_store_refuses_changes() {
    let system = System::start(1).await;
    let before = system.root();
    while before.get("/v1/clusters").await[0]["state"] != "registered" {}
    let System {
        root_files,
        root,
        clusters,
    } = system;
    let address = root.address;
    root.end().await;
    let empty_files = Directory::new();
    let mut empty = root_config(empty_files.path());
    empty.listen = address;
    let wiped = start_root(empty).await;
    let root = Caller::new(address);
    let told = async {
        while root.get("/v1/clusters").await[0]["state"] != "of another store" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    let deploy = json!({"_id": FIRST, "deployment_descriptor": {}}).to_string();
    for (method, path, body) in [
        (Method::POST, "/v1/services", YAML),
        (Method::DELETE, "/v1/services/demo.default.web.test", ""),
        (Method::POST, "/v1/rules", "{}"),
        (Method::POST, "/api/net/service/deploy", &deploy),
        (Method::GET, "/api/net/subnet?request_id=any", ""),
    ] {
        let (status, text) = root.text(method, path, body).await;
        assert_eq!(status, 409, "{path}: {text}");
        assert!(text.contains("they call from 127.0.0.1"), "{path}: {text}");
    }
    assert_eq!(root.get("/v1/services").await, json!([]));
    let status = root.get("/v1/status").await;
    assert_eq!(status["clusters_of_another_store"], 1, "{status}");
    assert_eq!(status["clusters"], 0, "it registers nobody: {status}");

    // To begin anew: a cluster that belongs to no other store.
    let new_files = Directory::new();
    let new = start_cluster(cluster_config(new_files.path(), "new", address)).await;
    while root.get("/v1/status").await["clusters"] != 1 {}
    apply(&root).await;
    new.end().await;
    wiped.end().await;

    // With its own store back, it is believed and believes.
    let mut kept = root_config(root_files.path());
    kept.listen = address;
    let running = start_root(kept).await;
    apply(&root).await;
    running.end().await;
    for (_, _, cluster) in clusters {
        cluster.end().await;
    }
}

#[tokio::test]
async fn tokens_join_the_parts_and_keep_others_out() {
    let root_files = Directory::new();
    let mut root = root_config(root_files.path());
    root.access.token = Some(Token::new("token-of-the-root").unwrap());
    let root = start_root(root).await;
    let files = Directory::new();
    let mut config = cluster_config(files.path(), "site", root.address);
    config.access.token = Some(Token::new("token-of-the-cluster").unwrap());
    config.root_token = Some(Token::new("token-of-the-root").unwrap());
    let running = start_cluster(config).await;
    let stranger = Caller::new(running.address);
    assert_eq!(stranger.text(Method::GET, "/v1/status", "").await.0, 401);
    let mut node = Node::join(running.broker.unwrap(), FIRST, JOB).await;
    node.say("subnet", r#"{"METHOD":"GET"}"#).await;
    node.hear("subnetwork/result").await;
    running.end().await;
    root.end().await;
}

/// The client id of one that is no node.
const ORCHESTRATOR: &str = "orchestrator";

/// An orchestrator's webhook on a real socket; it refuses the first `refusals` events.
async fn receiver(refusals: usize) -> (SocketAddr, mpsc::UnboundedReceiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, events) = mpsc::unbounded_channel();
    let left = Arc::new(AtomicUsize::new(refusals));
    let take = move |headers: HeaderMap, Json(event): Json<Value>| {
        let (sender, left) = (sender.clone(), Arc::clone(&left));
        async move {
            assert_eq!(
                headers["authorization"],
                "Bearer secret-of-sixteen-characters"
            );
            let refuse = |count: usize| count.checked_sub(1);
            let refused = left.fetch_update(Relaxed, Relaxed, refuse).is_ok();
            sender.send(event).unwrap();
            if refused {
                StatusCode::SERVICE_UNAVAILABLE
            } else {
                StatusCode::OK
            }
        }
    };
    let routes = Router::new().route("/events", post(take));
    tokio::spawn(async { axum::serve(listener, routes).await });
    (address, events)
}

async fn told(events: &mut mpsc::UnboundedReceiver<Value>) -> Value {
    let event = tokio::time::timeout(PATIENCE, events.recv()).await;
    event.expect("the event comes").unwrap()
}

fn with_webhook(mut config: ClusterConfig, address: SocketAddr) -> ClusterConfig {
    config.webhook = Some(WebhookConfig {
        authority: address.to_string(),
        path: "/events".to_owned(),
        token: Some(Token::new("secret-of-sixteen-characters").unwrap()),
    });
    config
}

/// Each loss of the last instance is told until it is taken, and once; also by MQTT.
#[tokio::test]
async fn an_orchestrator_hears_that_no_instance_is_left() {
    let (address, mut events) = receiver(1).await;
    let root_files = Directory::new();
    let root = start_root(root_config(root_files.path())).await;
    let files = Directory::new();
    let config = with_webhook(cluster_config(files.path(), "site", root.address), address);
    let cluster = start_cluster(config).await;
    apply(&Caller::new(root.address)).await;
    let mut node = Node::join(cluster.broker.unwrap(), FIRST, JOB).await;
    let mut orchestrator = Node::join(cluster.broker.unwrap(), ORCHESTRATOR, JOB).await;
    let topic = format!("jobs/{JOB}/no_instance_left");
    orchestrator.subscribe(&topic).await;
    let (first, _) = attach(&mut node, "10.18.0.2", "fc00::2").await;
    let (second, _) = attach(&mut node, "10.18.0.3", "fc00::3").await;
    let undeployed = |number: u64| json!({"appname": JOB, "instance_number": number}).to_string();
    node.say("service/undeployed", undeployed(first)).await;
    node.say("service/undeployed", undeployed(second)).await;
    let (refused, event) = (told(&mut events).await, told(&mut events).await);
    assert_eq!(refused, event, "told again");
    assert_eq!(event["version"], 1);
    assert_eq!(event["event"], "no_instance_left");
    assert_eq!(
        (&event["service"], &event["cluster_id"]),
        (&json!(JOB), &json!("site"))
    );
    assert_eq!(event["service_ip_list"][0]["Address"], "10.30.50.2");
    assert_eq!(orchestrator.hear(&topic).await, event);
    // It runs again, and is lost again: the next event, and nothing was said in between.
    let (third, _) = attach(&mut node, "10.18.0.4", "fc00::4").await;
    node.say("service/undeployed", undeployed(third)).await;
    let next = told(&mut events).await;
    assert_ne!(next["id"], event["id"]);
    assert_eq!(next["service"], JOB);
    assert!(events.try_recv().is_err());
    cluster.end().await;
    root.end().await;
}

/// Nobody took the event in the manager's first life; its second tells it.
#[tokio::test]
async fn an_event_that_nobody_took_outlives_the_manager() {
    let root_files = Directory::new();
    let root = start_root(root_config(root_files.path())).await;
    let files = Directory::new();
    let config = cluster_config(files.path(), "site", root.address);
    // Bound and closed: nobody listens there.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = nobody.local_addr().unwrap();
    drop(nobody);
    let cluster = start_cluster(with_webhook(config.clone(), closed)).await;
    apply(&Caller::new(root.address)).await;
    let mut node = Node::join(cluster.broker.unwrap(), FIRST, JOB).await;
    let mut orchestrator = Node::join(cluster.broker.unwrap(), ORCHESTRATOR, JOB).await;
    let topic = format!("jobs/{JOB}/no_instance_left");
    orchestrator.subscribe(&topic).await;
    let (number, _) = attach(&mut node, "10.18.0.2", "fc00::2").await;
    let undeployed = json!({"appname": JOB, "instance_number": number}).to_string();
    node.say("service/undeployed", undeployed).await;
    let by_mqtt = orchestrator.hear(&topic).await;
    cluster.end().await;
    let (address, mut events) = receiver(0).await;
    let cluster = start_cluster(with_webhook(config, address)).await;
    assert_eq!(told(&mut events).await, by_mqtt);
    cluster.end().await;
    root.end().await;
}
