//! What a gateway remembers on disk, so that a restart works before any manager answers: who it is, its subnet and its routes.

use crate::config::HostPort;
use serde::{Deserialize, Serialize};
use sluice_proto::ServiceName;
use sluice_proto::message::{SubnetResult, TableQueryResult};
use sluice_proto::signature::ClusterKey;
use sluice_wire::{Dual, InstanceIp};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;
use thiserror::Error;

const FILE: &str = "gateway.json";
/// A file that cannot be understood is kept under this name.
const DAMAGED: &str = "gateway.json.damaged";
/// Raised when an older gateway would misunderstand the file.
const VERSION: u32 = 1;

/// Who this node is to its cluster.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registration {
    pub node_id: String,
    /// Host and port of the cluster's broker.
    pub host: String,
    pub port: u16,
    /// This node's subnet, once given: network addresses, as in a subnet result.
    pub subnet: Option<SubnetResult>,
    /// Whose rows are believed, once its cluster manager has said that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_key: Option<ClusterKey>,
}

/// An instance of this node, as the managers named it; its lease is kept beside the wiring.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LocalState {
    pub service: String,
    pub number: u32,
    #[serde(default)]
    pub epoch: u64,
    pub instance_ip: Option<IpAddr>,
    pub instance_ip_v6: Option<IpAddr>,
}

impl LocalState {
    /// The one that is this instance.
    pub(crate) fn find<'a>(
        all: &'a [Self],
        service: &ServiceName,
        number: u32,
    ) -> Option<&'a Self> {
        all.iter().find(|local| {
            local.number == number
                && ServiceName::parse(&local.service).is_ok_and(|name| name == *service)
        })
    }

    pub(crate) fn instance_ip(&self) -> Dual<InstanceIp> {
        Dual {
            v4: self.instance_ip.map(|ip| InstanceIp::new(ip.into())),
            v6: self.instance_ip_v6.map(|ip| InstanceIp::new(ip.into())),
        }
    }
}

/// An instance that ended, as the cluster is told.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndedState {
    pub(crate) service: String,
    pub(crate) number: u32,
    pub(crate) epoch: u64,
}

/// Everything in the file.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// Of the format. Files of before there were versions have none.
    #[serde(default = "first_version")]
    pub(crate) version: u32,
    pub registration: Option<Registration>,
    /// The node is leaving, and its cluster may not know it yet.
    #[serde(default)]
    pub(crate) leaving: bool,
    #[serde(default)]
    pub local: Vec<LocalState>,
    /// Instances that ended here and of which the cluster may not know yet.
    #[serde(default)]
    pub(crate) ended: Vec<EndedState>,
    /// The table query's snapshot.
    #[serde(default)]
    pub routes: Vec<TableQueryResult>,
    /// When the managers last stood by these routes, in seconds since 1970.
    #[serde(default)]
    pub(crate) confirmed_unix_s: Option<u64>,
}

const fn first_version() -> u32 {
    VERSION
}

impl Default for State {
    fn default() -> Self {
        Self {
            version: VERSION,
            registration: None,
            leaving: false,
            local: Vec::new(),
            ended: Vec::new(),
            routes: Vec::new(),
            confirmed_unix_s: None,
        }
    }
}

fn understood(bytes: &[u8]) -> Result<State, String> {
    #[derive(Deserialize)]
    struct Versioned {
        #[serde(default = "first_version")]
        version: u32,
    }
    let text = |error: serde_json::Error| error.to_string();
    let Versioned { version } = serde_json::from_slice(bytes).map_err(text)?;
    if version != VERSION {
        return Err(format!(
            "its format is {version}, this gateway's is {VERSION}"
        ));
    }
    serde_json::from_slice(bytes).map_err(text)
}

/// What a stopped gateway remembers about others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remembered {
    /// `host:port` of the cluster's broker.
    pub(crate) cluster: Option<String>,
    /// Where the tunnels of the nodes in its routes end.
    pub(crate) peers: Vec<SocketAddr>,
}

/// Reads the state file in `dir` and leaves it alone; nothing where it is absent or cannot be read.
pub(crate) fn remembered(dir: &Path) -> Remembered {
    let state: State = fs::read(dir.join(FILE))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let instances = state.routes.iter().flat_map(|route| &route.instance_list);
    let mut peers: Vec<SocketAddr> = instances
        .filter_map(|row| Some(SocketAddr::new(row.host_ip?.into(), row.host_port?)))
        .collect();
    peers.sort_unstable();
    peers.dedup();
    Remembered {
        cluster: state.registration.map(|registration| {
            HostPort {
                host: registration.host,
                port: registration.port,
            }
            .to_string()
        }),
        peers,
    }
}

#[derive(Debug, Error)]
pub enum StateError {
    #[error("{path}: {source}; check `gateway.state_dir` and its permissions")]
    Io { path: PathBuf, source: io::Error },
}

/// A failed write is tried again after so long, unless a newer state comes first.
const RETRY: Duration = Duration::from_secs(1);

/// The file, written whole: a reader sees the old or the new state, never half of one.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    written: Vec<u8>,
}

impl StateFile {
    /// Reads `gateway.json` in `dir` (made when missing, mode 0700 as it names tenants and addresses). What cannot be
    /// understood is put aside, and the gateway starts without it: it asks the managers for everything.
    ///
    /// # Errors
    /// When the directory or file cannot be used.
    pub(crate) fn open(dir: &Path) -> Result<(Self, State), StateError> {
        let path = dir.join(FILE);
        let io = |source| StateError::Io {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(dir).map_err(io)?;
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .map_err(io)?;
        let state = match fs::read(&path) {
            Ok(bytes) => match understood(&bytes) {
                Ok(state) => state,
                Err(why) => {
                    let kept = dir.join(DAMAGED);
                    fs::rename(&path, &kept).map_err(io)?;
                    tracing::error!(
                        path = %path.display(), kept = %kept.display(), why,
                        "the state file cannot be understood; starting without known routes"
                    );
                    State::default()
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(error) => return Err(io(error)),
        };
        Ok((
            Self {
                path,
                written: Vec::new(),
            },
            state,
        ))
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// When the file is there and cannot be removed.
    pub(crate) fn remove(dir: &Path) -> Result<(), StateError> {
        let path = dir.join(FILE);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StateError::Io { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Writes the state if it differs from what was written last.
    ///
    /// # Errors
    /// When the disk refuses; the old file then still stands.
    pub(crate) fn write(&mut self, state: &State) -> Result<(), StateError> {
        let bytes = serde_json::to_vec_pretty(state).unwrap_or_default();
        if bytes == self.written {
            return Ok(());
        }
        let io = |source| StateError::Io {
            path: self.path.clone(),
            source,
        };
        let fresh = self.path.with_extension("json.new");
        let mut file = File::create(&fresh).map_err(io)?;
        file.write_all(&bytes).map_err(io)?;
        file.sync_all().map_err(io)?;
        fs::rename(&fresh, &self.path).map_err(io)?;
        self.written = bytes;
        Ok(())
    }
}

/// Writes states on a thread of its own, because a disk may take long and the core must not wait for it. Only the newest
/// state matters: one that a newer one overtakes is never written.
#[derive(Debug)]
pub(crate) struct StateWriter {
    states: Option<mpsc::Sender<State>>,
    thread: Option<JoinHandle<()>>,
}

impl StateWriter {
    /// # Errors
    /// When no thread can be made.
    pub(crate) fn start(file: StateFile) -> io::Result<Self> {
        let (states, newest) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("sluice-state".to_owned())
            .spawn(move || write_newest(file, &newest))?;
        Ok(Self {
            states: Some(states),
            thread: Some(thread),
        })
    }

    /// Has `state` written soon.
    pub(crate) fn remember(&self, state: State) {
        if let Some(states) = &self.states {
            // The thread ends only after this sender.
            let _ = states.send(state);
        }
    }
}

/// Waits until the last state was written, or its write failed.
impl Drop for StateWriter {
    fn drop(&mut self) {
        self.states = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("writing the state file panicked");
        }
    }
}

fn write_newest(mut file: StateFile, states: &mpsc::Receiver<State>) {
    let mut failed: Option<State> = None;
    loop {
        let state = match &failed {
            None => states.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(_) => states.recv_timeout(RETRY),
        };
        let state = match (state, failed.take()) {
            (Ok(state), _) => states.try_iter().last().unwrap_or(state),
            (Err(RecvTimeoutError::Timeout), Some(state)) => state,
            (Err(_), _) => return,
        };
        if let Err(error) = file.write(&state) {
            tracing::warn!(%error, "a restart will know less");
            failed = Some(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_and_a_foreign_file_is_put_aside() {
        let dir = std::env::temp_dir().join(format!("sluice-state-{}", std::process::id()));
        let (mut file, state) = StateFile::open(&dir).unwrap();
        assert_eq!(state, State::default());
        let routes = vec![TableQueryResult {
            app_name: "a.b.c.d".to_owned(),
            ..TableQueryResult::default()
        }];
        let local = LocalState {
            service: "a.b.c.d".to_owned(),
            number: 0,
            epoch: 7,
            instance_ip: Some("10.30.0.1".parse().unwrap()),
            instance_ip_v6: None,
        };
        let state = State {
            confirmed_unix_s: Some(1_000_000),
            local: vec![local],
            ended: vec![EndedState {
                service: "a.b.c.d".to_owned(),
                number: 1,
                epoch: 3,
            }],
            routes,
            ..State::default()
        };
        file.write(&state).unwrap();
        assert_eq!(StateFile::open(&dir).unwrap().1, state);
        let writer = StateWriter::start(file).unwrap();
        writer.remember(State::default());
        writer.remember(state.clone());
        drop(writer);
        assert_eq!(StateFile::open(&dir).unwrap().1, state);
        let whole = fs::read(dir.join(FILE)).unwrap();
        let half = &whole[..whole.len() / 2];
        for damaged in [b"{\"x\":1}".as_slice(), b"{\"version\":2}", b"", half] {
            fs::write(dir.join(FILE), damaged).unwrap();
            assert_eq!(StateFile::open(&dir).unwrap().1, State::default());
            assert_eq!(fs::read(dir.join(DAMAGED)).unwrap(), damaged);
            assert!(!dir.join(FILE).exists());
        }
        let text = String::from_utf8(whole).unwrap();
        fs::write(dir.join(FILE), text.replace("\"version\": 1,", "")).unwrap();
        assert_eq!(StateFile::open(&dir).unwrap().1, state, "before versions");
        fs::remove_dir_all(&dir).unwrap();
    }
}
