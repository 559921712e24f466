//! What a restarted gateway must know to adopt the node as it is: one JSON file, replaced atomically.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sluice_wire::{Dual, Subnet};
use thiserror::Error;

use super::attach::Attachment;
use super::lan::Host;
use super::leases::Leases;

const FILE: &str = "node.json";
/// Raised when the meaning of a field changes.
const VERSION: u32 = 1;

/// The state file could not be used.
#[derive(Debug, Error)]
pub enum StateError {
    #[error("state file {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("state file {} cannot be read ({why}); remove it to start anew", path.display())]
    Content { path: PathBuf, why: String },
}

/// Everything that is remembered.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct State {
    version: u32,
    subnet_v4: Option<String>,
    subnet_v6: Option<String>,
    pub(crate) leases: Leases,
    pub(crate) attachments: Vec<Attachment>,
    /// The device towards `hosts`, when it is the service side.
    #[serde(default)]
    lan: Option<String>,
    #[serde(default)]
    pub(crate) hosts: Vec<Host>,
}

impl State {
    pub(crate) fn new(subnet: &Dual<Subnet>, lan: Option<&str>) -> Self {
        Self {
            version: VERSION,
            subnet_v4: subnet.v4.map(|subnet| subnet.to_string()),
            subnet_v6: subnet.v6.map(|subnet| subnet.to_string()),
            leases: Leases::default(),
            attachments: Vec::new(),
            lan: lan.map(str::to_owned),
            hosts: Vec::new(),
        }
    }

    pub(crate) fn subnet(&self) -> Dual<Subnet> {
        let parsed = |text: &Option<String>| text.as_ref().and_then(|text| text.parse().ok());
        Dual {
            v4: parsed(&self.subnet_v4),
            v6: parsed(&self.subnet_v6),
        }
    }

    /// The device towards hosts, when that was the service side.
    pub(crate) fn lan(&self) -> Option<&str> {
        self.lan.as_deref()
    }

    /// `None` when there is no file: a new node.
    pub(crate) fn load(state_dir: &Path) -> Result<Option<Self>, StateError> {
        let path = state_dir.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::Io { path, source }),
        };
        let content = |why: String| StateError::Content {
            path: path.clone(),
            why,
        };
        let state: Self =
            serde_json::from_str(&text).map_err(|error| content(error.to_string()))?;
        if state.version != VERSION {
            return Err(content(format!(
                "version {}, this program knows {VERSION}",
                state.version
            )));
        }
        Ok(Some(state))
    }

    /// On disk when this returns.
    pub(crate) fn save(&self, state_dir: &Path) -> Result<(), StateError> {
        let path = state_dir.join(FILE);
        let io = |source| StateError::Io {
            path: path.clone(),
            source,
        };
        let text = serde_json::to_vec_pretty(self).map_err(|error| io(error.into()))?;
        fs::create_dir_all(state_dir).map_err(io)?;
        let new = state_dir.join(format!("{FILE}.new"));
        let mut file = File::create(&new).map_err(io)?;
        file.write_all(&text).map_err(io)?;
        file.sync_all().map_err(io)?;
        fs::rename(&new, &path).map_err(io)?;
        // The rename itself is durable only with the directory.
        File::open(state_dir)
            .and_then(|directory| directory.sync_all())
            .map_err(io)
    }

    pub(crate) fn remove(state_dir: &Path) -> Result<(), StateError> {
        let path = state_dir.join(FILE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StateError::Io {
                path,
                source: error,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_proto::alloc::Reading;
    use std::time::Duration;

    /// A gateway that stops a moment after an instance ended, and starts again.
    #[test]
    fn an_ns_ip_goes_on_resting_after_a_restart() {
        const REST: Duration = Duration::from_secs(200);
        let at = |seconds| Reading {
            boot: Some("a".to_owned()),
            uptime: Duration::from_secs(seconds),
            wall: Duration::from_secs(seconds),
        };
        let dir = std::env::temp_dir().join(format!("sluice-rest-{}", std::process::id()));
        let subnet = Dual {
            v4: "10.18.0.0/30".parse().ok(),
            v6: None,
        };
        let mut before = State::new(&subnet, None);
        let only = before.leases.take(&subnet, REST, &at(1000)).unwrap();
        before.leases.give_back(only, &at(1000));
        before.save(&dir).unwrap();
        let mut after = State::load(&dir).unwrap().unwrap();
        let early = after.leases.take(&subnet, REST, &at(1199));
        assert!(
            early
                .unwrap_err()
                .to_string()
                .contains("the next is free in 1 s")
        );
        assert_eq!(after.leases.take(&subnet, REST, &at(1200)), Ok(only));
        fs::remove_dir_all(&dir).unwrap();
    }
}
