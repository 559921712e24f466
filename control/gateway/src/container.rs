//! From a container's id to its main process, by asking Docker and by reading containerd's own directory.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use thiserror::Error;
use tokio::net::UnixStream;

/// Docker answers in milliseconds unless it is stuck.
const DOCKER_WAIT: Duration = Duration::from_secs(5);
/// A container's description is some tens of kilobytes.
const ANSWER_LENGTH_MAX: usize = 4 << 20;

/// Where the runtimes are.
#[derive(Clone, Debug)]
pub struct Runtimes {
    pub docker_socket: PathBuf,
    /// `<namespace>/<id>/init.pid` below it.
    pub containerd_tasks: PathBuf,
}

impl Default for Runtimes {
    fn default() -> Self {
        Self {
            docker_socket: "/var/run/docker.sock".into(),
            containerd_tasks: "/run/containerd/io.containerd.runtime.v2.task".into(),
        }
    }
}

/// Why a container's process is not known.
#[derive(Debug, Error)]
pub enum ContainerError {
    #[error("`{0}` is no container id or name: letters, digits, `.`, `_` and `-` are allowed")]
    Id(String),
    #[error("container {0} is unknown to Docker and to containerd")]
    Unknown(String),
    #[error("container {0} is not running")]
    Stopped(String),
    #[error("container {id} is ambiguous: {candidates} begin with it")]
    Ambiguous { id: String, candidates: String },
    #[error("asking Docker at {} about container {id}: {why}", socket.display())]
    Docker {
        socket: PathBuf,
        id: String,
        why: String,
    },
    #[error("reading {}: {source}", path.display())]
    Containerd { path: PathBuf, source: io::Error },
}

/// The main process of a container that runs here, found by id, unique prefix of an id, or Docker name.
///
/// # Errors
/// Names the container and what is wrong with it.
pub async fn pid(id: &str) -> Result<i32, ContainerError> {
    Runtimes::default().pid(id).await
}

impl Runtimes {
    /// As [`pid`], of these runtimes.
    ///
    /// # Errors
    /// As there.
    pub async fn pid(&self, id: &str) -> Result<i32, ContainerError> {
        let sound = !id.is_empty()
            && id.len() <= 255
            && !id.starts_with('.')
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        if !sound {
            return Err(ContainerError::Id(id.to_owned()));
        }
        let docker = self.docker(id).await;
        match docker {
            Ok(Some(pid)) => Ok(pid),
            // containerd is asked also when Docker cannot answer: it may be the one that has it.
            Ok(None) | Err(ContainerError::Docker { .. }) => match self.containerd(id) {
                Err(ContainerError::Unknown(_)) if docker.is_err() => {
                    docker.map(Option::unwrap_or_default)
                }
                found => found,
            },
            Err(error) => Err(error),
        }
    }

    /// `None` when there is no Docker, or it does not know the container.
    async fn docker(&self, id: &str) -> Result<Option<i32>, ContainerError> {
        let failed = |why: String| ContainerError::Docker {
            socket: self.docker_socket.clone(),
            id: id.to_owned(),
            why,
        };
        let stream = match UnixStream::connect(&self.docker_socket).await {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(failed(error.to_string())),
        };
        let (status, body) = tokio::time::timeout(DOCKER_WAIT, inspect(stream, id))
            .await
            .map_err(|_| failed(format!("no answer within {} s", DOCKER_WAIT.as_secs())))?
            .map_err(|error| failed(error.to_string()))?;
        match status {
            200 => {
                let container: Container =
                    serde_json::from_slice(&body).map_err(|error| failed(error.to_string()))?;
                if container.state.running && container.state.pid > 0 {
                    Ok(Some(container.state.pid))
                } else {
                    Err(ContainerError::Stopped(id.to_owned()))
                }
            }
            404 => Ok(None),
            status => {
                let answer: Message = serde_json::from_slice(&body).unwrap_or_default();
                Err(failed(format!("{status} {}", answer.message)))
            }
        }
    }

    fn containerd(&self, id: &str) -> Result<i32, ContainerError> {
        let mut found: Vec<PathBuf> = Vec::new();
        for namespace in directories(&self.containerd_tasks)? {
            for task in directories(&namespace)? {
                let name = task.file_name().unwrap_or_default().to_string_lossy();
                if name == id {
                    return init_pid(&task, id);
                }
                if name.starts_with(id) {
                    found.push(task);
                }
            }
        }
        match found.as_slice() {
            [] => Err(ContainerError::Unknown(id.to_owned())),
            [task] => init_pid(task, id),
            several => {
                let mut names: Vec<_> = several
                    .iter()
                    .map(|task| task.file_name().unwrap_or_default().to_string_lossy())
                    .collect();
                names.sort();
                Err(ContainerError::Ambiguous {
                    id: id.to_owned(),
                    candidates: names.join(" and "),
                })
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    state: ContainerState,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerState {
    running: bool,
    pid: i32,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Message {
    message: String,
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn inspect(stream: UnixStream, id: &str) -> Result<(u16, Bytes), AnyError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(format!("/containers/{id}/json"))
        .header("host", "docker")
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_LENGTH_MAX)
            .collect()
            .await?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = connection => {
            ended?;
            exchange.await
        }
    }
}

fn directories(path: &Path) -> Result<Vec<PathBuf>, ContainerError> {
    let failed = |source| ContainerError::Containerd {
        path: path.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    entries
        .map(|entry| Ok(entry.map_err(failed)?.path()))
        .collect()
}

fn init_pid(task: &Path, id: &str) -> Result<i32, ContainerError> {
    let path = task.join("init.pid");
    match std::fs::read_to_string(&path) {
        Ok(text) => text
            .trim()
            .parse()
            .ok()
            .filter(|pid| *pid > 0)
            .ok_or_else(|| ContainerError::Stopped(id.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(ContainerError::Stopped(id.to_owned()))
        }
        Err(source) => Err(ContainerError::Containerd { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::extract::Path as UrlPath;
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use axum::routing::get;

    #[tokio::test]
    async fn docker_is_asked_by_id_prefix_or_name() {
        let place = Place::new("docker");
        let runtimes = place.with_docker();
        assert_eq!(runtimes.pid("web").await.unwrap(), 4711);
        for (id, error) in [
            ("stopped", "container stopped is not running"),
            (
                "nobody",
                "container nobody is unknown to Docker and to containerd",
            ),
            ("a", "500 multiple IDs found with provided prefix"),
            ("garbage", "expected"),
        ] {
            let text = runtimes.pid(id).await.unwrap_err().to_string();
            assert!(text.contains(error), "{id}: {text}");
        }
    }

    #[tokio::test]
    async fn containerd_is_read_by_id_or_unique_prefix() {
        let place = Place::new("containerd");
        for (task, pid) in [
            ("k8s.io/abc123", Some("100")),
            ("k8s.io/abd456", Some("200\n")),
            ("default/ab", Some("300")),
            ("default/new", None),
        ] {
            place.task(task, pid);
        }
        let runtimes = place.runtimes();
        for (id, pid) in [("abc123", 100), ("abc", 100), ("abd4", 200), ("ab", 300)] {
            assert_eq!(runtimes.pid(id).await.unwrap(), pid, "{id}");
        }
        for (id, error) in [
            (
                "a",
                "container a is ambiguous: ab and abc123 and abd456 begin with it",
            ),
            ("new", "container new is not running"),
            (
                "zzz",
                "container zzz is unknown to Docker and to containerd",
            ),
        ] {
            assert_eq!(runtimes.pid(id).await.unwrap_err().to_string(), error);
        }
    }

    #[tokio::test]
    async fn what_docker_does_not_know_may_be_containerds() {
        let place = Place::new("both");
        place.task("moby/nobody", Some("7"));
        place.task("moby/a", Some("8"));
        let runtimes = place.with_docker();
        assert_eq!(runtimes.pid("nobody").await.unwrap(), 7);
        assert_eq!(runtimes.pid("a").await.unwrap(), 8);
    }

    #[tokio::test]
    async fn an_id_is_no_path() {
        let runtimes = Place::new("path").runtimes();
        for id in ["", "../x", "a/b", "..", "a b", "a?b", "\u{e9}"] {
            assert!(
                matches!(runtimes.pid(id).await, Err(ContainerError::Id(_))),
                "{id}"
            );
        }
    }

    /// A directory with a socket that answers as Docker does, and tasks as containerd lays them out.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("sluice-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn runtimes(&self) -> Runtimes {
            Runtimes {
                docker_socket: self.0.join("docker.sock"),
                containerd_tasks: self.0.join("tasks"),
            }
        }

        fn task(&self, name: &str, pid: Option<&str>) {
            let path = self.0.join("tasks").join(name);
            std::fs::create_dir_all(&path).unwrap();
            if let Some(pid) = pid {
                std::fs::write(path.join("init.pid"), pid).unwrap();
            }
        }

        fn with_docker(&self) -> Runtimes {
            let runtimes = self.runtimes();
            let listener = tokio::net::UnixListener::bind(&runtimes.docker_socket).unwrap();
            let answer = async |UrlPath(id): UrlPath<String>| match id.as_str() {
                "web" => r#"{"Id":"f00","State":{"Status":"running","Running":true,"Pid":4711}}"#
                    .into_response(),
                "stopped" => {
                    r#"{"State":{"Status":"exited","Running":false,"Pid":0}}"#.into_response()
                }
                "garbage" => "x".into_response(),
                "a" => (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    r#"{"message":"multiple IDs found with provided prefix: a"}"#,
                )
                    .into_response(),
                _ => (StatusCode::NOT_FOUND, r#"{"message":"No such container"}"#).into_response(),
            };
            let router = Router::new().route("/containers/{id}/json", get(answer));
            tokio::spawn(async move { axum::serve(listener, router).await });
            runtimes
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
