//! The node API of the thesis (section 3.5.2): `POST /api/register`, `POST` and `DELETE /api/<technology>`.
//!
//! Unlike Oakestra's, it names containers by their id, and its caller says the subnet and the instance's addresses.
//! The statuses are those of `/v1`, with a sentence as the body.

use super::UndeployBody;
use crate::admin_api::{ask, parse};
use crate::command::{Command, Commands, Deploy, DeployKind, Detach, InstanceName, Refusal};
use crate::container;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use sluice_wire::{Dual, Family, InstanceIp, Ip, Subnet};
use std::net::{IpAddr, Ipv4Addr};

pub(super) fn routes() -> Router<Commands> {
    Router::new()
        .route("/api/register", post(register))
        .route("/api/{technology}", post(deploy).delete(undeploy))
}

#[derive(Deserialize)]
pub(super) struct RegisterBody {
    /// `address/length`.
    subnetwork: String,
    /// Ours: the thesis knows IPv4 only.
    #[serde(default)]
    subnetwork_v6: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeployBody {
    #[serde(rename = "containerID", default)]
    container_id: String,
    service_name: String,
    instance_number: u32,
    #[serde(rename = "serviceIP", default)]
    service_ip: Vec<ServiceIp>,
}

/// A ServiceIP, or the InstanceIP, which passes as a ServiceIP whose policy is always the same instance.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceIp {
    ip_type: String,
    address: IpAddr,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeployAnswer {
    service_name: String,
    ns_address: Option<Ipv4Addr>,
}

async fn register(State(commands): State<Commands>, body: Bytes) -> Response {
    let answer = async {
        let body: RegisterBody = parse(&body)?;
        let mut subnet = Dual::default();
        for text in std::iter::once(body.subnetwork).chain(body.subnetwork_v6) {
            let given: Subnet = text.parse().map_err(|error| {
                Refusal::BadRequest(format!("`{text}` is no subnetwork: {error}"))
            })?;
            let place = match given.network().family() {
                Family::V4 => &mut subnet.v4,
                Family::V6 => &mut subnet.v6,
            };
            if place.replace(given).is_some() {
                return Err(Refusal::BadRequest(
                    "`subnetwork` and `subnetwork_v6` are of one family".to_owned(),
                ));
            }
        }
        ask(&commands, |reply| Command::RegisterSubnet(subnet, reply)).await
    };
    match answer.await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(refusal) => refused("/api/register", &refusal),
    }
}

async fn deploy(
    State(commands): State<Commands>,
    Path(technology): Path<String>,
    body: Bytes,
) -> Response {
    let answer = async {
        let technology = Technology::parse(&technology)?;
        let body: DeployBody = parse(&body)?;
        let instance_ip = instance_ip(&body.service_ip)?;
        let kind = match technology {
            Technology::Container if body.container_id.is_empty() => {
                return Err(Refusal::BadRequest("`containerID` is missing".to_owned()));
            }
            Technology::Container => DeployKind::Container {
                pid: container::pid(&body.container_id)
                    .await
                    .map_err(|error| Refusal::NoTarget(error.to_string()))?,
            },
            Technology::Unikernel => DeployKind::Unikernel,
        };
        let deploy = Deploy {
            kind,
            instance_ip,
            instance: InstanceName {
                service: body.service_name,
                instance_number: body.instance_number,
            },
            port_mappings: String::new(),
        };
        ask(&commands, |reply| Command::Deploy(deploy, reply)).await
    };
    match answer.await {
        Ok(deployed) => Json(DeployAnswer {
            service_name: deployed.service,
            ns_address: deployed.ns_address,
        })
        .into_response(),
        Err(refusal) => refused(&format!("/api/{technology}"), &refusal),
    }
}

/// Ends every instance of the service on this node: in the thesis there is at most one.
async fn undeploy(
    State(commands): State<Commands>,
    Path(technology): Path<String>,
    body: Bytes,
) -> Response {
    let answer = async {
        Technology::parse(&technology)?;
        let body: UndeployBody = parse(&body)?;
        let detach = Detach {
            service: body.service_name,
            instance_number: None,
            target: None,
        };
        ask(&commands, |reply| Command::Detach(detach, reply)).await
    };
    match answer.await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(refusal) => refused(&format!("/api/{technology}"), &refusal),
    }
}

/// Policies of ServiceIPs: Oakestra's, and the two of its branch that monitors. What they mean is the managers' to say.
const SERVICE_TYPES: [&str; 4] = ["RR", "Closest", "underutilized", "fps"];
/// The thesis's word for an InstanceIP, and Oakestra's two.
const INSTANCE_TYPES: [&str; 3] = ["instance", "instance_ip", "InstanceNumber"];

/// The address of type `instance`, one of each family at most; the ServiceIPs are the managers' to say.
fn instance_ip(addresses: &[ServiceIp]) -> Result<Dual<InstanceIp>, Refusal> {
    let mut found = Dual::default();
    for given in addresses {
        let ip = Ip::from(given.address);
        let is_one_of = |words: &[&str]| {
            words
                .iter()
                .any(|word| given.ip_type.eq_ignore_ascii_case(word))
        };
        if is_one_of(&SERVICE_TYPES) {
            continue;
        }
        if !is_one_of(&INSTANCE_TYPES) {
            return Err(Refusal::BadRequest(format!(
                "`serviceIP` has {} with the unknown `IpType` `{}`: it is one of {} for a ServiceIP, {} for the InstanceIP",
                given.address,
                given.ip_type,
                SERVICE_TYPES.join(", "),
                INSTANCE_TYPES.join(", "),
            )));
        }
        let place = match ip.family() {
            Family::V4 => &mut found.v4,
            Family::V6 => &mut found.v6,
        };
        if place.replace(InstanceIp::new(ip)).is_some() {
            return Err(Refusal::BadRequest(format!(
                "`serviceIP` has a second address of type `{}`: {}",
                given.ip_type, given.address
            )));
        }
    }
    Ok(found)
}

/// Who made the workload.
#[derive(Clone, Copy)]
enum Technology {
    Container,
    Unikernel,
}

impl Technology {
    fn parse(name: &str) -> Result<Self, Refusal> {
        match name {
            "docker" | "container" => Ok(Self::Container),
            "unikernel" => Ok(Self::Unikernel),
            other => Err(Refusal::NoTarget(format!(
                "`{other}` is no technology of this gateway: docker, container or unikernel"
            ))),
        }
    }
}

fn refused(path: &str, refusal: &Refusal) -> Response {
    tracing::warn!(path, %refusal, "the node API refused a call");
    let status =
        StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, format!("{refusal}\n")).into_response()
}
