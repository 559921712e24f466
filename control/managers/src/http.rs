//! HTTP both ways: listeners with their access rule, and a client with kept-alive connections and a deadline.

use crate::access::{Access, Token};
use crate::log_limit::warn_limited;
use axum::Router;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Method;
use hyper_util::client::legacy::Client as LegacyClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use sluice_proto::message::MESSAGE_LENGTH_MAX;
use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;

/// How long open requests may take after the listener stopped.
const DRAIN_WAIT: Duration = Duration::from_secs(2);

/// With the root's answer to a registration: changes with every start of the root.
pub(crate) const INCARNATION: HeaderName = HeaderName::from_static("sluice-incarnation");

/// With every answer of the root: how often its revoked keys have changed.
pub(crate) const REVOCATIONS: HeaderName = HeaderName::from_static("sluice-revocations");

/// With every answer of the root: from which store it comes, so that a root that lost its store is not believed. With every
/// request of a cluster that has heard it: to which one it belongs.
pub(crate) const STORE: HeaderName = HeaderName::from_static("sluice-store");

/// Opens a TCP listener and says where it listens, which the kernel decides for port 0.
pub(crate) async fn bind(listen: SocketAddr) -> Result<(TcpListener, SocketAddr), ListenError> {
    let failed = |source| ListenError::Tcp { listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

#[derive(Debug, Error)]
pub enum ListenError {
    #[error("cannot listen on {listen}: {source}")]
    Tcp {
        listen: SocketAddr,
        source: std::io::Error,
    },
    #[error("cannot listen on {path}: {source}")]
    Unix {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("another process answers on {path}; stop it, or choose another admin socket")]
    InUse { path: PathBuf },
}

/// Serves `routes` to whom one of `access` admits, and `guarded` to everyone, because they check callers themselves,
/// until `stop` becomes true.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: Router,
    guarded: Router,
    access: Vec<Access>,
    stop: watch::Receiver<bool>,
) {
    let listener = listener.tap_io(|stream| {
        // Small requests and answers: waiting for more bytes only adds delay.
        let _ = stream.set_nodelay(true);
    });
    let admit = middleware::from_fn_with_state(Arc::new(access), admit);
    // In this order: what no route knows is asked for a token, too.
    let routes = limited(guarded.merge(routes.layer(admit)));
    let service = routes.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, service).with_graceful_shutdown(stopped(stop.clone()));
    drain(server.into_future(), stop).await;
}

/// Serves `routes` on the admin socket, which only this user may open, until `stop` becomes true.
pub(crate) async fn serve_admin(socket: AdminSocket, routes: Router, stop: watch::Receiver<bool>) {
    let AdminSocket { listener, path } = socket;
    let server =
        axum::serve(listener, limited(routes)).with_graceful_shutdown(stopped(stop.clone()));
    drain(server.into_future(), stop).await;
    let _ = std::fs::remove_file(path);
}

fn limited(routes: Router) -> Router {
    routes.layer(DefaultBodyLimit::max(MESSAGE_LENGTH_MAX))
}

async fn drain(server: impl Future<Output = std::io::Result<()>>, stop: watch::Receiver<bool>) {
    let late = async {
        stopped(stop).await;
        tokio::time::sleep(DRAIN_WAIT).await;
    };
    tokio::select! {
        // axum's accept loop handles its errors itself and never returns one.
        _ = server => {}
        () = late => {}
    }
}

/// Returns when `stop` is true, or nobody is left to say so.
pub(crate) async fn stopped(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn admit(
    State(access): State<Arc<Vec<Access>>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if access.iter().any(|access| access.admits(peer.ip(), token)) {
        return next.run(request).await;
    }
    metrics::counter!("sluice_http_refused_total").increment(1);
    warn_limited!(%peer, path = request.uri().path(), "request without a valid token refused");
    (StatusCode::UNAUTHORIZED, "a token is needed").into_response()
}

/// A bound admin socket.
pub(crate) struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Binds `path`, replacing what a process that died left behind.
    pub(crate) async fn bind(path: &Path) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Unix {
            path: path.to_owned(),
            source,
        };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        if UnixStream::connect(path).await.is_ok() {
            return Err(ListenError::InUse {
                path: path.to_owned(),
            });
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }
}

/// A client for one peer or many; connections are kept and reused.
#[derive(Clone)]
pub(crate) struct Client {
    inner: LegacyClient<HttpConnector, Full<Bytes>>,
    token: Option<Token>,
    /// Said with every request.
    store: Option<HeaderValue>,
}

#[derive(Debug, Error)]
pub(crate) enum CallError {
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("too many requests wait for it")]
    Full,
    #[error("`{0}` is no address to call")]
    Address(String),
    #[error("cannot reach it: {0}")]
    Reach(#[from] hyper_util::client::legacy::Error),
    #[error("the answer broke off or is too long")]
    Body,
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Connections that wait for the next request.
pub(crate) const IDLE_MAX: usize = 64;

impl Client {
    /// `connect_wait` bounds the time a new connection may take, and half of it that for which nothing on an old one is
    /// acknowledged, which the kernel judges from its first repetition on: after a cut TCP would try again ever more seldom,
    /// and whoever waits is not told that the peer is back.
    pub(crate) fn new(token: Option<Token>, connect_wait: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(connect_wait));
        connector.set_tcp_user_timeout(Some(connect_wait / 2));
        connector.set_keepalive(Some(Duration::from_secs(30)));
        let inner = LegacyClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            // As many as a cluster manager has requests at a time: each one closed too soon leaves a port in TIME_WAIT, and
            // looking for a free one among those becomes most of a busy manager's work.
            .pool_max_idle_per_host(IDLE_MAX)
            .build(connector);
        Self {
            inner,
            token,
            store: None,
        }
    }

    /// From now on says with every request that it belongs to this store.
    pub(crate) fn set_store(&mut self, identity: &str) {
        // One that fits no header has not come in one.
        self.store = HeaderValue::from_str(identity).ok();
    }

    /// One request to `http://{authority}{path}`; `body` is JSON.
    pub(crate) async fn call(
        &self,
        method: Method,
        authority: &str,
        path: &str,
        body: Vec<u8>,
        wait: Duration,
    ) -> Result<Answer, CallError> {
        let mut request = hyper::Request::builder()
            .method(method)
            .uri(format!("http://{authority}{path}"))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.secret()));
        }
        if let Some(store) = &self.store {
            request = request.header(STORE, store.clone());
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| CallError::Address(format!("{authority}{path}")))?;
        let exchange = async {
            let response = self.inner.request(request).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MESSAGE_LENGTH_MAX)
                .collect()
                .await
                .map_err(|_| CallError::Body)?
                .to_bytes();
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
            })
        };
        tokio::time::timeout(wait, exchange)
            .await
            .map_err(|_| CallError::Timeout(wait))?
    }
}
