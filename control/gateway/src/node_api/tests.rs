//! Real requests on a real socket, and a core that answers like the gateway's.

use super::*;
use crate::command::Deployed;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

#[tokio::test]
async fn the_second_register_with_another_id_is_400() {
    let api = Api::start("register", core()).await;
    let register = |id: &str| json!({"client_id": id, "cluster_address": "10.0.0.1"});
    assert_eq!(api.post("/register", register("a")).await.0, 200);
    assert_eq!(api.post("/register", register("a")).await.0, 200);
    let (status, body) = api.post("/register", register("b")).await;
    assert_eq!(status, 400);
    assert!(body.contains("registered as a"), "{body}");
}

#[tokio::test]
async fn bad_json_is_400_and_reaches_nobody() {
    let (commands, mut received) = mpsc::channel(8);
    let api = Api::start("bad-json", commands).await;
    for path in [
        "/register",
        "/container/deploy",
        "/container/undeploy",
        "/docker/undeploy",
        "/unikernel/deploy",
        "/unikernel/undeploy",
        "/v1/attach",
        "/v1/detach",
    ] {
        for body in ["", "{", "7", "[]", "\"x\"", "{\"instanceNumber\": -1}"] {
            let (status, _) = api.call("POST", path, body.to_owned()).await;
            assert_eq!(status, 400, "{path} {body}");
        }
        for method in ["GET", "DELETE"] {
            assert_eq!(api.call(method, path, String::new()).await.0, 405, "{path}");
        }
    }
    assert!(received.try_recv().is_err());
    assert_eq!(api.call("POST", "/nothing", String::new()).await.0, 404);
}

#[tokio::test]
async fn deploy_answers_as_the_net_manager_does() {
    let api = Api::start("deploy", core()).await;
    let body = json!({"pid": 7, "serviceName": "demo.default.client.test", "instanceNumber": 0, "portMappings": ""});
    assert_eq!(api.post("/container/deploy", body.clone()).await.0, 400);
    api.post("/register", json!({"client_id": "a"})).await;
    let (status, answer) = api.post("/container/deploy", body.clone()).await;
    assert_eq!(status, 200);
    assert_eq!(
        answer,
        r#"{"serviceName":"demo.default.client.test","nsAddress":"10.18.0.2","nsAddressv6":"fc00::2"}"#
    );
    let (_, answer) = api.post("/unikernel/deploy", body.clone()).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["nsAddressv6"], "<nil>");
    let bad = json!({"pid": 7, "serviceName": "a.b.c"});
    assert_eq!(api.post("/container/deploy", bad).await.0, 500);
    let unknown =
        json!({"pid": -1, "serviceName": "a.b.c.d", "instanceNumber": 3, "portMappings": ""});
    for path in [
        "/container/undeploy",
        "/docker/undeploy",
        "/unikernel/undeploy",
    ] {
        assert_eq!(api.post(path, unknown.clone()).await, (200, String::new()));
    }
}

/// As Oakestra's versions write them, in any case.
#[tokio::test]
async fn every_type_of_address_that_exists_is_taken() {
    let api = Api::start("thesis-types", core()).await;
    let register = json!({"subnetwork": "10.18.0.0/26"});
    assert_eq!(api.post("/api/register", register).await.0, 200);
    for name in [
        "RR",
        "rr",
        "Closest",
        "closest",
        "underutilized",
        "fps",
        "FPS",
        "instance",
        "instance_ip",
        "InstanceNumber",
    ] {
        let deploy = json!({"serviceName": "a.b.c.d", "instanceNumber": 0,
                            "serviceIP": [{"IpType": name, "Address": "10.30.1.0"}]});
        let (status, answer) = api.post("/api/unikernel", deploy).await;
        assert_eq!(status, 200, "{name}: {answer}");
    }
}

/// The bodies and answers of the thesis, section 3.5.2; a unikernel needs no container that runs here.
#[tokio::test]
async fn the_api_of_the_thesis_from_register_to_undeploy() {
    let api = Api::start("thesis", core()).await;
    let deploy = json!({"containerID": "none-of-this-name", "serviceName": "demo.default.client.test",
                        "instanceNumber": 0, "serviceIP": [{"IpType": "RR", "Address": "10.30.1.0"},
                                                           {"IpType": "instance", "Address": "10.30.0.1"}]});
    let undeploy = json!({"serviceName": "demo.default.client.test"}).to_string();
    assert_eq!(api.post("/api/unikernel", deploy.clone()).await.0, 503);
    assert_eq!(
        api.call("DELETE", "/api/docker", undeploy.clone()).await.0,
        503
    );
    let register = json!({"subnetwork": "10.18.0.0/26"});
    assert_eq!(
        api.post("/api/register", register).await,
        (200, String::new())
    );
    let (status, answer) = api.post("/api/unikernel", deploy.clone()).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        answer,
        r#"{"serviceName":"demo.default.client.test","nsAddress":"10.18.0.2"}"#
    );
    for technology in ["docker", "container"] {
        let path = format!("/api/{technology}");
        let (status, answer) = api.post(&path, deploy.clone()).await;
        assert_eq!(status, 404, "{answer}");
        assert!(answer.contains("none-of-this-name"), "{answer}");
    }
    let done = api.call("DELETE", "/api/docker", undeploy.clone()).await;
    assert_eq!(done, (200, String::new()));
    let unknown = json!({"serviceName": "a.b.c.d"}).to_string();
    assert_eq!(api.call("DELETE", "/api/docker", unknown).await.0, 404);
}

#[tokio::test]
async fn a_wrong_call_of_the_thesis_api_is_named_and_reaches_nobody() {
    let (commands, mut received) = mpsc::channel(8);
    let api = Api::start("thesis-wrong", commands).await;
    let two = json!({"serviceName": "a.b.c.d", "instanceNumber": 0, "serviceIP": [
        {"IpType": "instance", "Address": "10.30.0.1"}, {"IpType": "instance", "Address": "10.30.0.2"}]});
    let unknown = json!({"containerID": "none", "serviceName": "a.b.c.d", "instanceNumber": 0, "serviceIP": [
        {"IpType": "RR", "Address": "10.30.1.0"}, {"IpType": "Nearest", "Address": "10.30.1.1"}]});
    for (method, path, body, status, said) in [
        ("POST", "/api/register", json!({}), 400, "subnetwork"),
        (
            "POST",
            "/api/register",
            json!({"subnetwork": "10.18.0.1/26"}),
            400,
            "10.18.0.1/26",
        ),
        (
            "POST",
            "/api/register",
            json!({"subnetwork": "10.18.0.0/26", "subnetwork_v6": "10.18.0.64/26"}),
            400,
            "one family",
        ),
        (
            "POST",
            "/api/docker",
            json!({"serviceName": "a.b.c.d"}),
            400,
            "instanceNumber",
        ),
        (
            "POST",
            "/api/docker",
            json!({"serviceName": "a.b.c.d", "instanceNumber": 0}),
            400,
            "containerID",
        ),
        ("POST", "/api/unikernel", two, 400, "10.30.0.2"),
        (
            "POST",
            "/api/docker",
            unknown.clone(),
            400,
            "10.30.1.1 with the unknown `IpType` `Nearest`",
        ),
        (
            "POST",
            "/api/unikernel",
            unknown,
            400,
            "RR, Closest, underutilized, fps for a ServiceIP, instance, instance_ip, InstanceNumber for",
        ),
        (
            "POST",
            "/api/zone",
            json!({"serviceName": "a.b.c.d"}),
            404,
            "zone",
        ),
        (
            "DELETE",
            "/api/zone",
            json!({"serviceName": "a.b.c.d"}),
            404,
            "zone",
        ),
        ("DELETE", "/api/docker", json!({}), 400, "serviceName"),
    ] {
        let (got, answer) = api.call(method, path, body.to_string()).await;
        assert_eq!(got, status, "{method} {path} {body}: {answer}");
        assert!(answer.contains(said), "{answer}");
    }
    for (method, path) in [("GET", "/api/docker"), ("DELETE", "/api/register")] {
        let (status, _) = api.call(method, path, String::new()).await;
        assert_eq!(status, 405, "{method} {path}");
    }
    assert!(received.try_recv().is_err());
}

#[tokio::test]
async fn the_socket_is_made_anew_and_only_for_its_group() {
    let path = std::env::temp_dir().join(format!("sluice-node-api-{}.sock", std::process::id()));
    let first = bind(&path).unwrap();
    let second = bind(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    drop(first);
    let (_stream, accepted) = tokio::join!(UnixStream::connect(&path), second.accept());
    accepted.unwrap();
    std::fs::remove_file(&path).unwrap();
    let error = bind(Path::new("/dev/null/x.sock")).unwrap_err();
    assert!(error.to_string().contains("/dev/null/x.sock"), "{error}");
}

fn take(body: &[u8]) {
    let _ = parse::<RegisterBody>(body).is_ok();
    let _ = parse::<DeployBody>(body).is_ok();
    let _ = parse::<UndeployBody>(body).is_ok();
    let _ = parse::<thesis::RegisterBody>(body).is_ok();
    let _ = parse::<thesis::DeployBody>(body).is_ok();
}

#[test]
fn any_body_is_parsed_or_refused() {
    bolero::check!().for_each(take);
    let kept = crate::node::corpus("node-api");
    for bytes in &kept {
        for length in 0..=bytes.len() {
            take(&bytes[..length]);
        }
    }
    assert!(kept.len() >= 6, "the corpus is there");
}

/// A core that knows registration and names, and attaches everything.
fn core() -> Commands {
    let (commands, mut received) = mpsc::channel::<Command>(8);
    tokio::spawn(async move {
        let mut registered: Option<String> = None;
        while let Some(command) = received.recv().await {
            match command {
                Command::Register(Register { client_id, .. }, reply) => {
                    let known = registered.get_or_insert_with(|| client_id.clone());
                    let _ = reply.send(if *known == client_id {
                        Ok(())
                    } else {
                        Err(Refusal::OtherNode {
                            registered: known.clone(),
                            asked: client_id,
                        })
                    });
                }
                Command::RegisterSubnet(subnet, reply) => {
                    registered = subnet.v4.map(|subnet| subnet.to_string());
                    let _ = reply.send(Ok(()));
                }
                Command::Deploy(deploy, reply) => {
                    let service = deploy.instance.service;
                    let _ = reply.send(if registered.is_none() {
                        Err(Refusal::NotRegistered)
                    } else if service.split('.').count() == 4 {
                        Ok(Deployed {
                            service,
                            ns_address: "10.18.0.2".parse().ok(),
                            ns_address_v6: (deploy.kind != DeployKind::Unikernel)
                                .then(|| "fc00::2".parse().ok())
                                .flatten(),
                        })
                    } else {
                        Err(Refusal::ServiceName(service))
                    });
                }
                Command::Undeploy(instance, reply) => {
                    let _ = reply.send(Err(Refusal::UnknownInstance(instance.to_string())));
                }
                Command::Attach(_, reply) => {
                    let _ = reply.send(Err(Refusal::Stopping));
                }
                Command::SetIdentity(_, reply) => {
                    let _ = reply.send(Err(Refusal::Stopping));
                }
                Command::Detach(detach, reply) => {
                    let _ = reply.send(match registered {
                        None => Err(Refusal::NotRegistered),
                        Some(_) if detach.service == "demo.default.client.test" => Ok(()),
                        Some(_) => Err(Refusal::UnknownInstance(detach.service)),
                    });
                }
            }
        }
    });
    commands
}

struct Api {
    path: PathBuf,
    server: tokio::task::JoinHandle<()>,
}

impl Api {
    async fn start(name: &str, commands: Commands) -> Self {
        let path = std::env::temp_dir().join(format!(
            "sluice-node-api-{name}-{}.sock",
            std::process::id()
        ));
        let listener = bind(&path).unwrap();
        tokio::task::yield_now().await;
        Self {
            path,
            server: tokio::spawn(serve(listener, commands)),
        }
    }

    async fn post(&self, path: &str, body: Value) -> (u16, String) {
        self.call("POST", path, body.to_string()).await
    }

    async fn call(&self, method: &str, path: &str, body: String) -> (u16, String) {
        let stream = TokioIo::new(UnixStream::connect(&self.path).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        connection.abort();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.server.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}
