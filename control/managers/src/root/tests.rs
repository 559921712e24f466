//! The root over real sockets: every path with its codes and texts, and what a crash leaves.

use crate::clock::clocks;
use crate::http::AdminSocket;
use crate::store::{Batch, Store};
use crate::testing::{Caller, Directory, PATIENCE, root_config, start_root};
use crate::{Access, Token};
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use hyper::Method;
use serde_json::{Value, json};
use sluice_proto::alloc::{Calendar, Reading};
use sluice_proto::record::Change;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

const JOB: &str = "64b8f0c9d2a1e3f405162738";
const DESCRIPTOR: &str = r#"{"_id":"64b8f0c9d2a1e3f405162738","deployment_descriptor":{"app_name":"demo","app_ns":"default","microservice_name":"server","microservice_namespace":"test","service_name":"server","service_ns":"test"}}"#;

/// Registers a cluster at 127.0.0.1:`port`, where these tests call from.
async fn register(root: &Caller, id: &str, port: u16) {
    let body =
        json!({"cluster_id": id, "cluster_address": "::ffff:127.0.0.1", "cluster_port": port});
    let answer = root
        .text(Method::POST, "/api/net/cluster", body.to_string())
        .await;
    assert_eq!(answer, (200, "cluster registered".to_owned()));
}

async fn deploy(root: &Caller) {
    let answer = root
        .text(Method::POST, "/api/net/service/deploy", DESCRIPTOR)
        .await;
    assert_eq!(answer, (200, "Instance info added".to_owned()));
    let body = json!({"_id": JOB, "instance_number": 0, "cluster_id": "c"});
    let answer = root
        .text(Method::POST, "/api/net/instance/deploy", body.to_string())
        .await;
    assert_eq!(answer, (200, "Instance info added".to_owned()));
}

fn status() -> Value {
    json!({"job_id": JOB, "instances": [{"instance_number": 0, "namespace_ip": "10.18.0.2",
        "namespace_ip_v6": "fc00::2", "host_ip": "192.0.2.1", "host_port": "50103"}]})
}

#[tokio::test]
async fn paths_answer_with_the_codes_and_texts_of_oakestra() {
    let directory = Directory::new();
    let running = start_root(root_config(directory.path())).await;
    let root = Caller::new(running.address);
    let unregistered = "Invalid cluster address, is the cluster registered?";
    for (method, path, body, expected) in [
        (Method::POST, "/api/net/cluster", "{", None),
        (
            Method::GET,
            "/api/net/service/demo_default_server_test/instances",
            "",
            Some((400, unregistered)),
        ),
        (
            Method::DELETE,
            "/api/net/interest/demo.default.server.test",
            "",
            Some((404, "Cluster not registered")),
        ),
        (Method::POST, "/api/net/service/deploy", "[]", None),
        (
            Method::POST,
            "/api/net/service/deploy",
            r#"{"_id":"short","deployment_descriptor":{}}"#,
            Some((400, "Invalid _id")),
        ),
        (Method::POST, "/api/net/instance/deploy", "nonsense", None),
        (Method::DELETE, "/api/net/64b8/x", "", None),
        (
            Method::POST,
            "/api/net/service/net_deploy_status",
            "{}",
            None,
        ),
    ] {
        let (status, text) = root.text(method.clone(), path, body).await;
        match expected {
            Some(expected) => assert_eq!((status, text.as_str()), expected, "{method} {path}"),
            None => assert_eq!(status, 400, "{method} {path}: {text}"),
        }
    }
    register(&root, "c", 1).await;
    for path in [
        "/api/net/service/nobody_default_server_test/instances",
        "/api/net/service/ip/10_30_99_99/instances",
        "/api/net/service/ip/not an address/instances"
            .replace(' ', "%20")
            .as_str(),
        "/api/net/service/no-name/instances",
    ] {
        assert_eq!(
            root.text(Method::GET, path, "").await,
            (200, "{}".to_owned()),
            "{path}"
        );
    }
    deploy(&root).await;
    let answer = root
        .text(
            Method::POST,
            "/api/net/service/net_deploy_status",
            status().to_string(),
        )
        .await;
    assert_eq!(answer, (200, "Status updated".to_owned()));
    let key = "//////////////////////////////////////////8=";
    let path = format!("/api/net/node?public_key={}", key.replace('/', "%2F"));
    assert_eq!(root.get(&path).await, json!({}), "nobody's");
    let mut keyed = status();
    keyed["instances"][0]["public_key"] = key.into();
    let path_of_status = "/api/net/service/net_deploy_status";
    root.call(Method::POST, path_of_status, keyed.to_string())
        .await;
    let node = json!({"public_key": key, "host_ip": "192.0.2.1", "host_port": 50103});
    assert_eq!(root.get(&path).await, node);
    let wrong = root.text(Method::GET, "/api/net/node?public_key=x", "");
    assert_eq!(wrong.await.0, 400);
    let job = root
        .get("/api/net/service/demo_default_server_test/instances")
        .await;
    assert_eq!(job["_id"], JOB);
    assert_eq!(job["instance_list"][0]["host_port"], 50103);
    let rr = &job["service_ip_list"][0];
    assert_eq!(rr["IpType"], "RR");
    for address in [
        &rr["Address"],
        &rr["Address_v6"],
        &job["instance_list"][0]["instance_ip"],
    ] {
        let path = address.as_str().unwrap().replace('.', "_");
        let path = format!("/api/net/service/ip/{path}/instances?cluster_ip=127.0.0.1");
        assert_eq!(
            root.get(&path).await["job_name"],
            "demo.default.server.test"
        );
    }
    assert_eq!(
        root.get("/api/net/subnet").await,
        json!({"subnet_addr": "10.18.0.0", "subnet_addr_v6": "fc00::"})
    );
    assert_eq!(
        root.get("/api/net/subnet").await["subnet_addr"],
        "10.18.0.64"
    );
    let path = format!("/api/net/service/{JOB}");
    assert_eq!(
        root.text(Method::DELETE, &path, "").await,
        (400, "There are services still deployed".to_owned())
    );
    assert_eq!(
        root.text(Method::DELETE, &format!("/api/net/{JOB}/-1"), "")
            .await,
        (200, "Instance info cleared".to_owned())
    );
    assert_eq!(
        root.text(
            Method::DELETE,
            "/api/net/interest/demo.default.server.test?cluster_id=c",
            ""
        )
        .await,
        (200, "deregistered".to_owned())
    );
    assert_eq!(
        root.text(Method::DELETE, &path, "").await,
        (200, "Job removed successfully".to_owned())
    );
    running.end().await;
}

/// The file as it is the moment after the answer is all that a killed process leaves.
#[tokio::test]
async fn what_was_answered_survives_a_crash_and_no_address_is_given_twice() {
    let directory = Directory::new();
    let running = start_root(root_config(directory.path())).await;
    let root = Caller::new(running.address);
    register(&root, "c", 1).await;
    deploy(&root).await;
    let before = root
        .get("/api/net/service/demo_default_server_test/instances")
        .await;
    let subnet = root.get("/api/net/subnet").await;
    let crashed = Directory::new();
    std::fs::copy(
        directory.path().join("root.redb"),
        crashed.path().join("root.redb"),
    )
    .unwrap();
    running.end().await;

    let running = start_root(root_config(crashed.path())).await;
    let root = Caller::new(running.address);
    let after = root
        .get("/api/net/service/demo_default_server_test/instances")
        .await;
    assert_eq!(after, before);
    assert_ne!(root.get("/api/net/subnet").await, subnet);
    let other = DESCRIPTOR
        .replace("64b8", "75b8")
        .replace("server", "other");
    root.call(Method::POST, "/api/net/service/deploy", other)
        .await;
    let body = json!({"_id": JOB.replace("64b8", "75b8"), "instance_number": 0, "cluster_id": "c"});
    root.call(Method::POST, "/api/net/instance/deploy", body.to_string())
        .await;
    let mut seen = std::collections::BTreeSet::new();
    for job in [
        after,
        root.get("/api/net/service/demo_default_other_test/instances")
            .await,
    ] {
        for address in [
            &job["service_ip_list"][0]["Address"],
            &job["service_ip_list"][0]["Address_v6"],
            &job["instance_list"][0]["instance_ip"],
            &job["instance_list"][0]["instance_ip_v6"],
        ] {
            let address = address.as_str().unwrap().to_owned();
            assert!(seen.insert(address.clone()), "{address} was given twice");
        }
    }
    running.end().await;
}

/// A calendar of 1970 in the store, which the wall clock is far ahead of: a rest is as long as it is, over a restart, too.
#[tokio::test]
async fn what_rests_does_so_by_the_calendar_of_the_store() {
    let directory = Directory::new();
    let (mut store, _) = Store::open(&directory.path().join("root.redb")).unwrap();
    let calendar = Calendar::new(Reading {
        wall: Duration::from_secs(5000),
        ..clocks()
    });
    let mut batch = Batch::default();
    batch.push(Change::put("calendar".to_owned(), &calendar));
    store.write(batch);
    drop(store);
    for is_new in [true, false] {
        let running = start_root(root_config(directory.path())).await;
        let root = Caller::new(running.address);
        if is_new {
            let grant = root.get("/api/net/subnet").await;
            let network = grant["subnet_addr"].as_str().unwrap();
            let path = format!("/api/net/subnet/{network}");
            assert_eq!(root.text(Method::DELETE, &path, "").await.0, 200);
        }
        let rows = root.get("/v1/nodes").await;
        let rest_s = rows[0]["rest_s"].as_u64().unwrap();
        assert!((1..=600).contains(&rest_s), "{rows}");
        running.end().await;
    }
}

#[tokio::test]
async fn a_descriptor_is_applied_listed_and_deleted() {
    let directory = Directory::new();
    let running = start_root(root_config(directory.path())).await;
    let root = Caller::new(running.address);
    let yaml = "api_version: v0.2\napp_name: demo\napp_ns: default\nservice_name: web\nservice_ns: test\naddresses:\n  RR_ip: 10.30.50.2\n";
    for _ in 0..2 {
        let answer = root.call(Method::POST, "/v1/services", yaml).await;
        let rows: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(answer.status, 200, "{rows}");
        assert_eq!(rows[0]["service"], "demo.default.web.test");
        assert_eq!(rows[0]["service_ips"][0]["service_ip"], "10.30.50.2");
    }
    assert_eq!(root.get("/v1/services").await.as_array().unwrap().len(), 1);
    let (status, text) = root
        .text(
            Method::POST,
            "/v1/services",
            "api_version: v0.2\napp_name: d-mo\n",
        )
        .await;
    assert_eq!(status, 400);
    assert!(text.contains("d-mo"), "{text}");
    let taken = yaml.replace("web", "other");
    let (status, text) = root.text(Method::POST, "/v1/services", taken).await;
    assert_eq!(status, 500);
    assert!(text.contains("10.30.50.2 is taken"), "{text}");
    let path = "/v1/services/demo.default.web.test";
    assert_eq!(root.text(Method::DELETE, path, "").await.0, 200);
    assert_eq!(root.text(Method::DELETE, path, "").await.0, 404);
    assert_eq!(root.get("/v1/services").await, json!([]));
    assert_eq!(root.get("/v1/status").await["services"], 0);
    running.end().await;
}

/// Added twice, listed, kept over a crash, deleted; what is wrong is named.
#[tokio::test]
async fn rules_are_added_kept_and_deleted() {
    let directory = Directory::new();
    let running = start_root(root_config(directory.path())).await;
    let root = Caller::new(running.address);
    deploy(&root).await;
    let body = r#"{"from":"Shop.acme.*.prod","to":"*.default.*.test"}"#;
    let row =
        json!({"from": "shop.acme.*.prod", "to": "*.default.*.test", "callers": 0, "callees": 1});
    for _ in 0..2 {
        let (status, text) = root.text(Method::POST, "/v1/rules", body).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, answer), (200, row.clone()));
    }
    for (body, named) in [
        (r#"{"from":"a.b.c","to":"a.b.c.d"}"#, "`a.b.c` has 3 parts"),
        (r#"{"from":"a.b.c.d","to":"a.b.w*b.d"}"#, "`w*b`"),
        (r#"{"from":"a.b.c.d"}"#, "`to`"),
        (r#"{"from":"a.b.c.d","to":"a.b.c.d","both":true}"#, "`both`"),
    ] {
        let (status, text) = root.text(Method::POST, "/v1/rules", body).await;
        assert_eq!(status, 400, "{text}");
        assert!(text.contains(named), "{text}");
    }
    let crashed = Directory::new();
    std::fs::copy(
        directory.path().join("root.redb"),
        crashed.path().join("root.redb"),
    )
    .unwrap();
    running.end().await;

    let running = start_root(root_config(crashed.path())).await;
    let root = Caller::new(running.address);
    assert_eq!(root.get("/v1/rules").await, json!([row]));
    register(&root, "c", 1).await;
    let job = root
        .get("/api/net/service/demo_default_server_test/instances")
        .await;
    assert_eq!(job["rules"][0]["from"], "shop.acme.*.prod");
    let path = "/v1/rules?from=shop.acme.%2A.prod&to=*.default.*.test";
    assert_eq!(root.text(Method::DELETE, path, "").await.0, 200);
    let (status, text) = root.text(Method::DELETE, path, "").await;
    assert_eq!(status, 404);
    assert!(
        text.contains("shop.acme.*.prod -> *.default.*.test"),
        "{text}"
    );
    assert_eq!(root.get("/v1/rules").await, json!([]));
    running.end().await;
}

/// A stand-in for a cluster manager that passes on what it is told.
async fn cluster() -> (u16, mpsc::UnboundedReceiver<Value>) {
    let (sender, told) = mpsc::unbounded_channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let routes = Router::new()
        .route(
            "/api/net/job/update",
            post(
                async |State(sender): State<mpsc::UnboundedSender<Value>>, body: String| {
                    sender.send(serde_json::from_str(&body).unwrap()).unwrap();
                    "update notification received"
                },
            ),
        )
        .with_state(sender);
    tokio::spawn(axum::serve(listener, routes).into_future());
    (port, told)
}

#[tokio::test]
async fn interested_clusters_are_told_and_a_dead_one_delays_nobody() {
    let directory = Directory::new();
    let running = start_root(root_config(directory.path())).await;
    let root = Caller::new(running.address);
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, mut told) = cluster().await;
    // Never accepted from: its calls hang until their deadline.
    register(&root, "dead", dead.local_addr().unwrap().port()).await;
    register(&root, "well", port).await;
    deploy(&root).await;
    for id in ["dead", "well"] {
        let path = format!("/api/net/service/demo_default_server_test/instances?cluster_id={id}");
        root.get(&path).await;
    }
    root.call(
        Method::POST,
        "/api/net/service/net_deploy_status",
        status().to_string(),
    )
    .await;
    let notice = tokio::time::timeout(PATIENCE, told.recv()).await.unwrap();
    assert_eq!(
        notice.unwrap(),
        json!({"job_name": "demo.default.server.test", "instance_number": 0, "type": "DEPLOYMENT"})
    );
    // The dead cluster comes back elsewhere.
    let (port, mut told) = cluster().await;
    register(&root, "dead", port).await;
    let notice = tokio::time::timeout(PATIENCE, told.recv()).await.unwrap();
    assert_eq!(notice.unwrap()["type"], "DEPLOYMENT");
    running.end().await;
}

#[tokio::test]
async fn a_token_is_asked_for_on_http_but_not_inside_the_allowed_networks() {
    let directory = Directory::new();
    let mut config = root_config(directory.path());
    config.access = Access {
        token: Some(Token::new("correct-horse").unwrap()),
        allow_without_token: vec![],
    };
    let running = start_root(config.clone()).await;
    let root = Caller::new(running.address);
    assert_eq!(root.text(Method::GET, "/v1/services", "").await.0, 401);
    let client = crate::http::Client::new(config.access.token.clone(), PATIENCE);
    let authority = running.address.to_string();
    let answer = client
        .call(Method::GET, &authority, "/v1/services", vec![], PATIENCE)
        .await
        .unwrap();
    assert_eq!(answer.status, 200);
    running.end().await;
    config.access.allow_without_token = vec!["127.0.0.0/8".parse().unwrap()];
    let running = start_root(config).await;
    let root = Caller::new(running.address);
    assert_eq!(root.text(Method::GET, "/v1/services", "").await.0, 200);
    running.end().await;
}

#[tokio::test]
async fn others_can_reach_it_only_with_a_token() {
    let directory = Directory::new();
    let mut config = root_config(directory.path());
    config.listen = "0.0.0.0:0".parse().unwrap();
    let error = super::Server::bind(config).await.err().unwrap();
    assert!(error.to_string().contains("token_file"), "{error}");
}

#[tokio::test]
async fn the_admin_socket_answers_and_is_taken_over_only_from_the_dead() {
    let directory = Directory::new();
    let path = directory.path().join("root.sock");
    // What a killed process leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut config = root_config(directory.path());
    config.admin_socket = Some(path.clone());
    let running = start_root(config).await;
    let socket = path.clone();
    let ask = async |target: &str| {
        let mut stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    for target in ["/healthz", "/readyz", "/metrics", "/v1/status"] {
        let answer = ask(target).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{target}: {answer}");
    }
    assert!(AdminSocket::bind(&path).await.is_err(), "it is in use");
    running.end().await;
    assert!(!path.exists());
}

/// Many requests at once share few syncs, and each waits for its own.
#[tokio::test]
async fn a_hundred_subnets_at_once_are_a_hundred_subnets() {
    let directory = Directory::new();
    let running = start_root(root_config(directory.path())).await;
    let root = Arc::new(Caller::new(running.address));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let root = Arc::clone(&root);
        calls.spawn(async move { root.get("/api/net/subnet").await.to_string() });
    }
    let given: std::collections::BTreeSet<_> = calls.join_all().await.into_iter().collect();
    assert_eq!(given.len(), 100);
    drop(root);
    running.end().await;
}
