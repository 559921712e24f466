//! The public interface over real sockets, with a key server of the test.

use super::testing::{PUBLIC_KEY, SIGNING_KEY, claims, token};
use crate::clock::wall_clock;
use crate::testing::{Caller, Directory, PATIENCE, root_config, start_root};
use crate::{Access, Token};
use axum::Router;
use axum::routing::get;
use hyper::Method;
use serde_json::{Value, json};
use std::net::SocketAddr;

const NETINFO: &str = "/api/pubnet/service/netinfo";
const JOB: &str = "64b8f0c9d2a1e3f405162738";

async fn key_server() -> SocketAddr {
    let body = json!({ "public_key": PUBLIC_KEY }).to_string();
    let routes = Router::new().route("/key", get(async move || body.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, routes).into_future());
    address
}

fn bearer(now_s: u64) -> Token {
    Token::new(&token(SIGNING_KEY, &claims(now_s))).unwrap()
}

/// Status and body of `netinfo` + `path`, with this token.
async fn ask(root: SocketAddr, token: Option<Token>, path: &str) -> (u16, String) {
    let client = crate::http::Client::new(token, PATIENCE);
    let (root, path) = (root.to_string(), format!("{NETINFO}{path}"));
    let answer = client
        .call(Method::GET, &root, &path, vec![], PATIENCE)
        .await
        .unwrap();
    let body = String::from_utf8(answer.body.to_vec()).unwrap();
    (answer.status.as_u16(), body)
}

/// The texts are those that Oakestra's root sends for the same service.
#[tokio::test]
async fn services_and_free_addresses_are_told_as_oakestra_tells_them() {
    let directory = Directory::new();
    let mut config = root_config(directory.path());
    config.jwt_key_server = Some(key_server().await.to_string());
    let running = start_root(config).await;
    let root = Caller::new(running.address);
    let descriptor = json!({"_id": JOB, "deployment_descriptor": {
        "applicationID": "64b8f0c9d2a1e3f405160000", "app_name": "demo", "app_ns": "default",
        "microservice_name": "server", "microservice_namespace": "test", "service_name": "server",
        "service_ns": "test", "RR_ip": "10.30.0.9", "code": "nginx",
    }});
    let instance = json!({"_id": JOB, "instance_number": 0, "cluster_id": "c"});
    for (path, body) in [
        ("/api/net/service/deploy", descriptor),
        ("/api/net/instance/deploy", instance),
    ] {
        let answer = root.text(Method::POST, path, body.to_string()).await;
        assert_eq!(answer.0, 200, "{path}: {}", answer.1);
    }
    let token = || Some(bearer(wall_clock().as_secs()));
    let known = concat!(
        r#"{"_id":"64b8f0c9d2a1e3f405162738","app_name":"demo","app_ns":"default","#,
        r#""applicationID":"64b8f0c9d2a1e3f405160000","instance_list":[{"cluster_id":"c","#,
        r#""instance_ip":"10.30.0.1","instance_ip_v6":"fdff::1","instance_number":0}],"#,
        r#""service_ip_list":[{"Address":"10.30.0.9","Address_v6":"fdff:2000::1","IpType":"RR"}],"#,
        r#""service_job_id":"64b8f0c9d2a1e3f405162738","service_name":"server","service_ns":"test"}"#,
        "\n"
    );
    let unknown = "{\"instance_list\":[],\"service_ip_list\":[]}\n";
    let one_v4 = "{\"available_service_ips\":[{\"Address\":\"10.30.0.2\",\"Address_v6\":null,\"IpType\":\"IPv4\"}]}\n";
    for (path, body) in [
        ("/demo_default_server_test", known),
        ("/demo.default.server.test", known),
        ("/ip/10_30_0_9", known),
        ("/ip/10_30_0_1", known),
        ("/ip/fdff:2000::1", known),
        ("/nobody_default_server_test", unknown),
        ("/ip/10_30_99_99", unknown),
        ("/no-name", unknown),
        ("/available-ip/?v=4", one_v4),
        ("/available-ip?v=4", one_v4),
        ("/available-ip/1?v=4", one_v4),
        ("/available-ip/0", "{\"available_service_ips\":[]}\n"),
    ] {
        let answer = ask(running.address, token(), path).await;
        assert_eq!(answer, (200, body.to_owned()), "{path}");
    }
    let addresses = async |path: &str| -> Vec<String> {
        let (status, body) = ask(running.address, token(), path).await;
        assert_eq!(status, 200, "{path}: {body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        let entries = body["available_service_ips"].as_array().unwrap().iter();
        entries
            .map(|entry| {
                let field = if entry["IpType"] == "IPv4" {
                    "Address"
                } else {
                    "Address_v6"
                };
                entry[field].as_str().unwrap().to_owned()
            })
            .collect()
    };
    assert_eq!(
        addresses("/available-ip/").await,
        ["10.30.0.2", "fdff:2000::2"]
    );
    // 10.30.0.9 is taken.
    let eight = addresses("/available-ip/8?v=4").await;
    assert_eq!(eight.last().unwrap(), "10.30.0.10");
    assert_eq!(
        addresses("/available-ip/999999999").await.len(),
        2 * super::AVAILABLE_MAX
    );
    assert_eq!(
        addresses("/available-ip/").await,
        ["10.30.0.2", "fdff:2000::2"],
        "asking reserves nothing"
    );
    assert_eq!(
        ask(running.address, token(), "/available-ip/-1").await.0,
        400
    );
    running.end().await;
}

/// The token of this interface and the root's own open nothing of each other.
#[tokio::test]
async fn only_a_valid_token_of_the_issuer_opens_it() {
    let directory = Directory::new();
    let mut config = root_config(directory.path());
    config.jwt_key_server = Some(key_server().await.to_string());
    let own = Token::new("correct-horse").unwrap();
    config.access = Access {
        token: Some(own.clone()),
        allow_without_token: vec![],
    };
    let running = start_root(config).await;
    let refused = (401, "{}\n".to_owned());
    let now_s = wall_clock().as_secs();
    let forged = super::testing::sign(None, &json!({"alg": "none"}), &claims(now_s));
    for token in [
        None,
        Some(own),
        Some(bearer(now_s - 601)),
        Some(Token::new(&forged).unwrap()),
    ] {
        for path in [
            "/demo_default_server_test",
            "/ip/10_30_0_1",
            "/available-ip/",
            "/available-ip/3",
        ] {
            assert_eq!(
                ask(running.address, token.clone(), path).await,
                refused,
                "{path}"
            );
        }
    }
    assert_eq!(
        ask(running.address, Some(bearer(now_s)), "/available-ip/")
            .await
            .0,
        200
    );
    let client = crate::http::Client::new(Some(bearer(now_s)), PATIENCE);
    for path in ["/api/net/subnet", "/v1/services", "/nowhere"] {
        let root = running.address.to_string();
        let answer = client
            .call(Method::GET, &root, path, vec![], PATIENCE)
            .await;
        assert_eq!(answer.unwrap().status, 401, "{path}");
    }
    running.end().await;
}

/// A root that starts before the key server serves everything else meanwhile.
#[tokio::test]
async fn a_key_server_that_comes_late_is_found() {
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let directory = Directory::new();
    let mut config = root_config(directory.path());
    config.jwt_key_server = Some(address.to_string());
    let running = start_root(config).await;
    let now_s = wall_clock().as_secs();
    let (status, body) = ask(running.address, Some(bearer(now_s)), "/available-ip/").await;
    assert_eq!(status, 503, "{body}");
    assert_eq!(ask(running.address, None, "/available-ip/").await.0, 401);
    let root = Caller::new(running.address);
    assert_eq!(root.text(Method::GET, "/v1/services", "").await.0, 200);
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let body = json!({ "public_key": PUBLIC_KEY }).to_string();
    let routes = Router::new().route("/key", get(async move || body.clone()));
    tokio::spawn(axum::serve(listener, routes).into_future());
    let opens = async {
        while ask(running.address, Some(bearer(now_s)), "/available-ip/")
            .await
            .0
            != 200
        {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, opens).await.unwrap();
    running.end().await;
}

#[tokio::test]
async fn without_a_key_server_there_is_no_such_interface() {
    let directory = Directory::new();
    let running = start_root(root_config(directory.path())).await;
    let token = bearer(wall_clock().as_secs());
    assert_eq!(
        ask(running.address, Some(token), "/available-ip/").await.0,
        404
    );
    running.end().await;
}
