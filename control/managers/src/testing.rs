//! Help for this crate's tests: a directory that goes away with its guard, managers on free ports, short requests.

use crate::http::{Answer, Client};
use crate::{Access, RootConfig, root};
use hyper::Method;
use serde_json::Value;
use sluice_wire::AddressPlan;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

static MADE: AtomicU32 = AtomicU32::new(0);

/// Far longer than anything here takes, for a failing test to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An empty directory of this test alone.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("sluice-managers-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A root manager of the test, on loopback.
pub(crate) struct RunningRoot {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), root::RootError>>,
}

pub(crate) fn root_config(directory: &Path) -> RootConfig {
    RootConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        access: Access::default(),
        data_dir: directory.to_owned(),
        admin_socket: None,
        plan: AddressPlan::oakestra(),
    }
}

pub(crate) async fn start_root(config: RootConfig) -> RunningRoot {
    let server = root::Server::bind(config).await.unwrap();
    let address = server.address();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(server.run(async move {
        let _ = stopped.await;
    }));
    RunningRoot {
        address,
        stop,
        task,
    }
}

impl RunningRoot {
    pub(crate) async fn end(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

/// One request to one manager.
pub(crate) struct Caller {
    client: Client,
    authority: String,
}

impl Caller {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            client: Client::new(None, PATIENCE),
            authority: address.to_string(),
        }
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        self.client
            .call(method, &self.authority, path, body.into(), PATIENCE)
            .await
            .unwrap()
    }

    /// Status and body as text.
    pub(crate) async fn text(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Vec<u8>>,
    ) -> (u16, String) {
        let answer = self.call(method, path, body).await;
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        (answer.status.as_u16(), text)
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.call(Method::GET, path, "").await;
        assert_eq!(answer.status, 200, "{path}: {:?}", answer.body);
        serde_json::from_slice(&answer.body).unwrap()
    }
}
