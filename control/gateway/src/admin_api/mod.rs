//! The gateway's admin interface: HTTP on a unix socket for health, metrics, reads, attach, detach and trace.

mod key;
mod rows;
mod socket;
mod view;

pub use socket::{AdminSocket, SocketError};
pub use view::{
    FlowRow, GatewayState, GatewayView, SocketRow, TraceFilter, TraceRecord, WorkerState,
};

use crate::command::{
    Attach, AttachTarget, Attached, Command, Commands, Detach, InstanceName, Refusal, Reply,
};
use crate::metrics::Exporter;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sluice_wire::{Dual, Family, Ip};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Bodies are one small JSON object.
const BODY_LENGTH_MAX: usize = 64 * 1024;
/// Flows in one answer, so that listing a million of them does not hold up the control thread.
const FLOWS_SHOWN_MAX: usize = 10_000;
/// Attaching asks the managers; they give up earlier than this.
const COMMAND_WAIT: Duration = Duration::from_secs(30);

/// The routes over a running gateway.
pub fn router(view: GatewayView) -> Router {
    let exporter = Exporter::new();
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route(
            "/metrics",
            get(async move |State(view): State<Arc<GatewayView>>| metrics(&exporter, &view)),
        )
        .route(
            "/v1/status",
            get(async |State(view): View| Json(rows::status(&view))),
        )
        .route("/v1/instances", get(instances))
        .route(
            "/v1/peers",
            get(async |State(view): View| Json(rows::peers(&view.publisher.snapshot()))),
        )
        .route("/v1/flows", get(flows))
        .route("/v1/tables", get(tables))
        .route(
            "/v1/drops",
            get(async |State(view): View| Json(rows::drops(&view.running()))),
        )
        .route("/v1/trace", post(trace))
        .route("/v1/key/rotate", post(key::rotate))
        .layer(DefaultBodyLimit::max(BODY_LENGTH_MAX))
        .merge(attach_routes(view.commands.clone()))
        .with_state(Arc::new(view))
}

/// The calls by which workloads come and go; the node API offers them too.
pub(crate) fn attach_routes<S>(commands: Commands) -> Router<S> {
    Router::new()
        .route("/v1/attach", post(attach))
        .route("/v1/detach", post(detach))
        .layer(DefaultBodyLimit::max(BODY_LENGTH_MAX))
        .with_state(commands)
}

type View = State<Arc<GatewayView>>;

async fn ready(State(view): View) -> Response {
    let why = view.state.borrow().not_ready.clone();
    match why.as_str() {
        "" => "ready\n".into_response(),
        why => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {why}\n"),
        )
            .into_response(),
    }
}

fn metrics(exporter: &Exporter, view: &GatewayView) -> Response {
    match exporter.render(view) {
        Some(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        None => failure(
            StatusCode::NOT_FOUND,
            "another part of this process records metrics",
        ),
    }
}

async fn instances(State(view): View) -> Json<Vec<Value>> {
    let kept = view.state.borrow().kept.clone();
    let tables = view.publisher.snapshot();
    Json(rows::instances(&tables, &kept, (view.now_s)()))
}

async fn tables(State(view): View) -> Json<Value> {
    Json(rows::tables(&view.publisher.snapshot(), (view.now_s)()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowsQuery {
    limit: Option<usize>,
}

/// At most `limit` flows, with the number there are in all.
async fn flows(State(view): View, Query(query): Query<FlowsQuery>) -> Json<Value> {
    let limit = query.limit.unwrap_or(1000).min(FLOWS_SHOWN_MAX);
    let (rows, total) = (view.flows)(limit);
    Json(json!({ "total": total, "flows": rows }))
}

/// The body of `POST /v1/attach` and `/v1/detach`: where the workload is, by exactly one of four.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttachBody {
    /// `app.appns.service.servicens`.
    pub service: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_number: Option<u32>,
    /// The instance, which has a number, runs elsewhere and moves here. Attach only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub migrate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// One address of the host, or one of each family.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host: Vec<IpAddr>,
    /// `host[:container][/tcp|/udp]` separated by `;`. Attach only.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub port_mappings: String,
}

impl AttachBody {
    fn target(&self) -> Result<Option<AttachTarget>, Refusal> {
        let host = match self.host[..] {
            [] => None,
            [_] | [_, _] => Some(self.host_addresses()?),
            _ => return Err(two_addresses()),
        };
        let mut given = [
            self.pid.map(AttachTarget::Pid),
            self.netns.clone().map(AttachTarget::Netns),
            self.container.clone().map(AttachTarget::Container),
            host.map(AttachTarget::Host),
        ]
        .into_iter()
        .flatten();
        match (given.next(), given.next()) {
            (target, None) => Ok(target),
            (_, Some(_)) => Err(Refusal::BadRequest(
                "only one of `pid`, `netns`, `container` and `host` can be given".to_owned(),
            )),
        }
    }

    fn host_addresses(&self) -> Result<Dual<Ip>, Refusal> {
        let mut addresses = Dual::default();
        for &address in &self.host {
            let ip = Ip::from(address);
            let place = match ip.family() {
                Family::V4 => &mut addresses.v4,
                Family::V6 => &mut addresses.v6,
            };
            if place.replace(ip).is_some() {
                return Err(two_addresses());
            }
        }
        Ok(addresses)
    }
}

fn two_addresses() -> Refusal {
    Refusal::BadRequest("`host` is one address, or one of each family".to_owned())
}

/// The answer to `POST /v1/attach`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AttachAnswer {
    pub service: String,
    pub instance_number: u32,
    pub instance_ip: Option<Ipv4Addr>,
    pub instance_ip_v6: Option<Ipv6Addr>,
    pub ns_ip: Option<Ipv4Addr>,
    pub ns_ip_v6: Option<Ipv6Addr>,
    /// What it has inside in place of `ns_ip`, where it moved here with its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_ip: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_ip_v6: Option<Ipv6Addr>,
    /// Who resolves names for it; absent where names are off.
    pub name_server: Option<Ipv4Addr>,
    pub name_server_v6: Option<Ipv6Addr>,
}

impl From<Attached> for AttachAnswer {
    fn from(attached: Attached) -> Self {
        let InstanceName {
            service,
            instance_number,
        } = attached.instance;
        Self {
            service,
            instance_number,
            instance_ip: attached.instance_ip,
            instance_ip_v6: attached.instance_ip_v6,
            ns_ip: attached.ns_address,
            ns_ip_v6: attached.ns_address_v6,
            kept_ip: attached.kept_address,
            kept_ip_v6: attached.kept_address_v6,
            name_server: attached.name_server,
            name_server_v6: attached.name_server_v6,
        }
    }
}

async fn attach(State(commands): State<Commands>, body: Bytes) -> Response {
    let command = async {
        let body: AttachBody = parse(&body)?;
        let target = body.target()?.ok_or_else(|| {
            Refusal::BadRequest(
                "one of `pid`, `netns`, `container` and `host` is needed".to_owned(),
            )
        })?;
        if body.migrate && body.instance_number.is_none() {
            return Err(Refusal::BadRequest(
                "`migrate` needs the `instance_number` of the instance that moves".to_owned(),
            ));
        }
        let attach = Attach {
            service: body.service,
            migrate: body.migrate,
            instance_number: body.instance_number,
            target,
            port_mappings: body.port_mappings,
        };
        ask(&commands, |reply| Command::Attach(attach, reply)).await
    };
    answer(command.await.map(AttachAnswer::from))
}

async fn detach(State(commands): State<Commands>, body: Bytes) -> Response {
    let command = async {
        let body: AttachBody = parse(&body)?;
        let detach = Detach {
            target: body.target()?,
            service: body.service,
            instance_number: body.instance_number,
        };
        ask(&commands, |reply| Command::Detach(detach, reply)).await
    };
    answer(command.await.map(|()| json!({})))
}

/// A JSON object. An array would pass as one too, field by field in order, which nobody means.
pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    if body
        .trim_ascii_start()
        .first()
        .is_some_and(|&first| first != b'{')
    {
        return Err(Refusal::BadRequest(
            "the body is not a JSON object".to_owned(),
        ));
    }
    serde_json::from_slice(body).map_err(|error| Refusal::BadRequest(error.to_string()))
}

/// Sends a command to the core and waits for its reply.
pub(crate) async fn ask<T>(
    commands: &Commands,
    command: impl FnOnce(Reply<T>) -> Command,
) -> Result<T, Refusal> {
    let (reply, answer) = oneshot::channel();
    let exchange = async {
        commands
            .send(command(reply))
            .await
            .map_err(|_| Refusal::Stopping)?;
        answer.await.map_err(|_| Refusal::Stopping)?
    };
    tokio::time::timeout(COMMAND_WAIT, exchange)
        .await
        .unwrap_or_else(|_| {
            Err(Refusal::ManagersAway(format!(
                "nothing within {} s",
                COMMAND_WAIT.as_secs()
            )))
        })
}

fn answer(result: Result<impl Serialize, Refusal>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(refusal) => failure(
            StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            &refusal.to_string(),
        ),
    }
}

fn failure(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}

/// The body of `POST /v1/trace`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct TraceBody {
    #[serde(flatten)]
    pub filter: TraceFilter,
    /// Packets to follow before the answer ends.
    pub count: u64,
}

/// Streams one JSON object per line until `count` packets have met their fate, or the caller leaves.
async fn trace(State(view): View, body: Bytes) -> Response {
    let body: TraceBody = match parse(&body) {
        Ok(body) => body,
        Err(refusal) => return answer(Err::<(), _>(refusal)),
    };
    match (view.trace)(body.filter) {
        Ok(records) => (
            [(header::CONTENT_TYPE, "application/x-ndjson")],
            Body::new(TraceLines {
                records,
                left: body.count.max(1),
            }),
        )
            .into_response(),
        Err(why) => failure(StatusCode::CONFLICT, &why),
    }
}

/// A body that is the records as they come.
struct TraceLines {
    records: mpsc::Receiver<TraceRecord>,
    /// Packets whose fate is still to be seen.
    left: u64,
}

impl hyper::body::Body for TraceLines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.records.poll_recv(context).map(|record| {
            let record = record?;
            if record.last {
                self.left -= 1;
            }
            let mut line = serde_json::to_vec(&record).unwrap_or_default();
            line.push(b'\n');
            Some(Ok(hyper::body::Frame::data(line.into())))
        })
    }
}

#[cfg(test)]
mod tests;
