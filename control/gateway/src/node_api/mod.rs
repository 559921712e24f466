//! The node API: what an Oakestra NodeEngine asks of its NetManager, on a unix socket, and `/v1` attach and detach.
//!
//! Paths, bodies and status codes are the NetManager's, as the unmodified NodeEngine uses them: only POST, only the
//! status code matters to it, and anything but 200 makes it give the workload up.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::net::UnixListener;

use crate::admin_api::{self, parse};
use crate::command::{Command, Commands, Deploy, DeployKind, InstanceName, Refusal, Register};

/// Bodies are one small JSON object.
const BODY_LENGTH_MAX: usize = 64 * 1024;

/// The node socket could not be bound.
#[derive(Debug, Error)]
#[error("cannot listen on {}: {source}", path.display())]
pub struct SocketError {
    path: PathBuf,
    source: io::Error,
}

/// Binds `path` with mode 0660 in the place of whatever socket was there.
///
/// # Errors
/// Names the path and what stands in the way.
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |source| SocketError {
        path: path.to_owned(),
        source,
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    // Bound beside and moved over: the path never names a socket with a wider mode, and never nothing.
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => (),
    }
    let listener = UnixListener::bind(&beside).map_err(failed)?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)?;
    Ok(listener)
}

/// Serves until the future is dropped.
pub async fn serve(listener: UnixListener, commands: Commands) {
    // axum's accept loop handles its errors itself and never returns one.
    let _ = axum::serve(listener, router(commands)).await;
}

/// The routes of the node API.
pub fn router(commands: Commands) -> Router {
    Router::new()
        .route("/register", post(register))
        .route("/container/deploy", post(deploy_container))
        .route("/container/undeploy", post(undeploy))
        .route("/docker/undeploy", post(undeploy))
        .route("/unikernel/deploy", post(deploy_unikernel))
        .route("/unikernel/undeploy", post(undeploy))
        .layer(DefaultBodyLimit::max(BODY_LENGTH_MAX))
        .merge(admin_api::attach_routes(commands.clone()))
        .with_state(commands)
}

// Missing fields but the name are empty, as Go decodes them; unknown ones are the NodeEngine's business.

#[derive(Default, Deserialize)]
#[serde(default)]
struct RegisterBody {
    client_id: String,
    cluster_address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeployBody {
    #[serde(default)]
    pid: i32,
    service_name: String,
    #[serde(default)]
    instance_number: u32,
    #[serde(default)]
    port_mappings: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UndeployBody {
    service_name: String,
    #[serde(default)]
    instance_number: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeployAnswer {
    service_name: String,
    ns_address: String,
    #[serde(rename = "nsAddressv6")]
    ns_address_v6: String,
}

async fn register(State(commands): State<Commands>, body: Bytes) -> Response {
    let answer = async {
        let body: RegisterBody = parse(&body)?;
        if body.client_id.is_empty() {
            return Err(Refusal::BadRequest("`client_id` is missing".to_owned()));
        }
        let register = Register {
            client_id: body.client_id,
            cluster_address: body.cluster_address,
        };
        admin_api::ask(&commands, |reply| Command::Register(register, reply)).await
    };
    match answer.await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(refusal) => refused("/register", &refusal),
    }
}

async fn deploy_container(State(commands): State<Commands>, body: Bytes) -> Response {
    deploy(&commands, &body, "/container/deploy", |body| {
        DeployKind::Container { pid: body.pid }
    })
    .await
}

async fn deploy_unikernel(State(commands): State<Commands>, body: Bytes) -> Response {
    deploy(&commands, &body, "/unikernel/deploy", |_| {
        DeployKind::Unikernel
    })
    .await
}

async fn deploy(
    commands: &Commands,
    body: &[u8],
    path: &str,
    kind: impl FnOnce(&DeployBody) -> DeployKind,
) -> Response {
    let answer = async {
        let body: DeployBody = parse(body)?;
        let deploy = Deploy {
            kind: kind(&body),
            instance: InstanceName {
                service: body.service_name,
                instance_number: body.instance_number,
            },
            port_mappings: body.port_mappings,
        };
        admin_api::ask(commands, |reply| Command::Deploy(deploy, reply)).await
    };
    match answer.await {
        Ok(deployed) => Json(DeployAnswer {
            service_name: deployed.service,
            ns_address: go_text(deployed.ns_address),
            ns_address_v6: go_text(deployed.ns_address_v6),
        })
        .into_response(),
        Err(refusal) => refused(path, &refusal),
    }
}

/// 200 whatever happens after registration: the NodeEngine has removed the workload already and cannot act on more.
async fn undeploy(State(commands): State<Commands>, body: Bytes) -> Response {
    let answer = async {
        let body: UndeployBody = parse(&body)?;
        let instance = InstanceName {
            service: body.service_name,
            instance_number: body.instance_number,
        };
        admin_api::ask(&commands, |reply| Command::Undeploy(instance, reply)).await
    };
    match answer.await {
        Ok(()) | Err(Refusal::UnknownInstance(_)) => StatusCode::OK.into_response(),
        Err(refusal @ (Refusal::BadRequest(_) | Refusal::NotRegistered)) => {
            refused("undeploy", &refusal)
        }
        Err(refusal) => {
            tracing::warn!(%refusal, "undeploy");
            StatusCode::OK.into_response()
        }
    }
}

/// An absent address as Go prints a nil one; the NodeEngine knows no other spelling.
fn go_text(ip: Option<impl Into<IpAddr>>) -> String {
    ip.map_or_else(|| "<nil>".to_owned(), |ip| ip.into().to_string())
}

/// The body is for people; the NodeEngine reads the status only.
fn refused(path: &str, refusal: &Refusal) -> Response {
    tracing::warn!(path, %refusal, "the node API refused a call");
    let status = if matches!(
        refusal,
        Refusal::BadRequest(_) | Refusal::NotRegistered | Refusal::OtherNode { .. }
    ) {
        StatusCode::BAD_REQUEST
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    (status, format!("{refusal}\n")).into_response()
}

#[cfg(test)]
mod tests {
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

    #[tokio::test]
    async fn the_socket_is_made_anew_and_only_for_its_group() {
        let path =
            std::env::temp_dir().join(format!("sluice-node-api-{}.sock", std::process::id()));
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
                    Command::Detach(_, reply) => {
                        let _ = reply.send(Err(Refusal::Stopping));
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
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(stream).await.unwrap();
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
}
