//! A small HTTP client for the daemons' sockets: one connection per call.

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use sluice_managers::Token;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;
use tokio::net::{TcpStream, UnixStream};

/// Answers are tables; a million flows are cut before this.
const ANSWER_LENGTH_MAX: usize = 64 << 20;
/// An attach goes through gateway, cluster and root; each gives up earlier.
const ANSWER_WAIT: Duration = Duration::from_secs(40);
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// Which of the three daemons.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    Root,
    Cluster,
    Gateway,
}

impl Role {
    /// The command that starts it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Cluster => "cluster",
            Self::Gateway => "gateway",
        }
    }

    /// The key of its socket in the configuration.
    const fn socket_key(self) -> &'static str {
        match self {
            Self::Root => "root.admin_socket",
            Self::Cluster => "cluster.admin_socket",
            Self::Gateway => "gateway.admin_socket",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("the root manager"),
            Self::Cluster => f.write_str("the cluster manager"),
            Self::Gateway => f.write_str("the gateway"),
        }
    }
}

/// Where a daemon answers.
#[derive(Clone, Debug)]
pub enum Endpoint {
    Unix(PathBuf),
    Tcp {
        /// `host:port`
        authority: String,
        token: Option<Token>,
    },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp { authority, .. } => write!(f, "http://{authority}"),
        }
    }
}

/// Calls one daemon.
#[derive(Clone, Debug)]
pub struct Client {
    pub role: Role,
    pub endpoint: Endpoint,
}

#[derive(Debug, Error)]
pub enum ClientError {
    #[error("{role} does not answer on {endpoint}: {source}; {}", way_out(*role, endpoint, source))]
    NotThere {
        role: Role,
        endpoint: String,
        source: io::Error,
    },
    #[error("{role} on {endpoint} broke off: {reason}")]
    Broken {
        role: Role,
        endpoint: String,
        reason: String,
    },
    #[error("{role} on {endpoint} did not answer within {} s", .wait.as_secs())]
    Late {
        role: Role,
        endpoint: String,
        wait: Duration,
    },
    #[error("{role} refused: {message}")]
    Refused {
        role: Role,
        status: StatusCode,
        message: String,
    },
}

fn way_out(role: Role, endpoint: &str, source: &io::Error) -> String {
    let name = role.name();
    if source.kind() == io::ErrorKind::PermissionDenied {
        return "only the user it runs as may open this socket: try with sudo".to_owned();
    }
    if endpoint.starts_with("http://") {
        return "check the address, and that something listens there".to_owned();
    }
    format!(
        "start it with `sluice {name}`, or say where it is: `--socket PATH`, or `{}` in the file of `--config`",
        role.socket_key()
    )
}

/// What to send.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: Method,
    /// With the query, percent-encoded.
    pub path: String,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

impl Call {
    /// A read.
    #[must_use]
    pub fn read(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            content_type: "application/json",
            body: Vec::new(),
        }
    }

    /// A command with a JSON body.
    #[must_use]
    pub fn post(path: impl Into<String>, body: &impl serde::Serialize) -> Self {
        Self {
            method: Method::POST,
            path: path.into(),
            content_type: "application/json",
            body: serde_json::to_vec(body).unwrap_or_default(),
        }
    }
}

impl Client {
    /// One call whose answer is JSON; null when the daemon answered with nothing.
    ///
    /// # Errors
    /// See [`ClientError`]. A status other than success is [`ClientError::Refused`].
    pub async fn json(&self, call: Call) -> Result<Value, ClientError> {
        let exchange = async {
            let response = self.send(call).await?;
            self.body(response).await
        };
        let body = tokio::time::timeout(ANSWER_WAIT, exchange)
            .await
            .map_err(|_| ClientError::Late {
                role: self.role,
                endpoint: self.endpoint.to_string(),
                wait: ANSWER_WAIT,
            })??;
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|error| self.broken(&error))
    }

    /// One call whose answer is an endless stream of lines; `line` says whether to go on.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn lines(
        &self,
        call: Call,
        mut line: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), ClientError> {
        let mut body = self.send(call).await?.into_body();
        let mut partial = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(&error))?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            partial.extend_from_slice(data);
            while let Some(end) = partial.iter().position(|&byte| byte == b'\n') {
                let rest = partial.split_off(end + 1);
                let whole = std::mem::replace(&mut partial, rest);
                if !line(&whole[..end]) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Sends, and turns an answer that is no success into an error.
    async fn send(&self, call: Call) -> Result<Response<Incoming>, ClientError> {
        let request = self.request(call)?;
        let response = match &self.endpoint {
            Endpoint::Unix(path) => {
                let stream = self.connect(UnixStream::connect(path)).await?;
                self.exchange(TokioIo::new(stream), request).await?
            }
            Endpoint::Tcp { authority, .. } => {
                let stream = self.connect(TcpStream::connect(authority.as_str())).await?;
                self.exchange(TokioIo::new(stream), request).await?
            }
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.body(response).await?;
        let message = serde_json::from_slice::<Value>(&body)
            .ok()
            .and_then(|json| json["error"].as_str().map(str::to_owned))
            .unwrap_or_else(|| String::from_utf8_lossy(&body).trim().to_owned());
        Err(ClientError::Refused {
            role: self.role,
            status,
            message: if message.is_empty() {
                status.to_string()
            } else {
                message
            },
        })
    }

    fn request(&self, call: Call) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(CONTENT_TYPE, call.content_type);
        request = match &self.endpoint {
            Endpoint::Unix(_) => request.header(HOST, "localhost"),
            Endpoint::Tcp { authority, token } => {
                let request = request.header(HOST, authority);
                match token {
                    Some(token) => {
                        request.header(AUTHORIZATION, format!("Bearer {}", token.secret()))
                    }
                    None => request,
                }
            }
        };
        request
            .body(Full::new(Bytes::from(call.body)))
            .map_err(|error| self.broken(&error))
    }

    async fn connect<S>(
        &self,
        connect: impl Future<Output = io::Result<S>>,
    ) -> Result<S, ClientError> {
        tokio::time::timeout(CONNECT_WAIT, connect)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| ClientError::NotThere {
                role: self.role,
                endpoint: self.endpoint.to_string(),
                source,
            })
    }

    async fn exchange<S>(
        &self,
        stream: TokioIo<S>,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ClientError>
    where
        TokioIo<S>: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream)
            .await
            .map_err(|error| self.broken(&error))?;
        // Its errors show at the sender and the body.
        tokio::spawn(connection);
        sender
            .send_request(request)
            .await
            .map_err(|error| self.broken(&error))
    }

    async fn body(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = Limited::new(response.into_body(), ANSWER_LENGTH_MAX);
        body.collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .map_err(|error| {
                if error.is::<LengthLimitError>() {
                    self.broken(&format!(
                        "the answer is longer than {ANSWER_LENGTH_MAX} bytes"
                    ))
                } else {
                    self.broken(&error)
                }
            })
    }

    fn broken(&self, reason: &impl ToString) -> ClientError {
        ClientError::Broken {
            role: self.role,
            endpoint: self.endpoint.to_string(),
            reason: reason.to_string(),
        }
    }
}
