//! The node API: what an Oakestra NodeEngine asks of its NetManager, on a unix socket, and `/v1` attach and detach.
//!
//! Paths, bodies and status codes are the NetManager's, as the unmodified NodeEngine uses them: only POST, only the
//! status code matters to it, and anything but 200 makes it give the workload up. The API of the thesis, which came
//! before, is beside it under `/api`: [`thesis`].

mod thesis;

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
use sluice_wire::Dual;

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
        .merge(thesis::routes())
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
            instance_ip: Dual::default(),
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
mod tests;
