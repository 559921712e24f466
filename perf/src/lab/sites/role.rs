//! One `sluice` process of the laboratory: started in its namespace, waited for, asked, ended.

use super::super::clock::wait_for;
use super::super::error::LabError;
use super::super::http;
use super::super::netns::NetNs;
use super::super::process::{Process, Program};
use super::super::scratch::Scratch;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a role may take to be ready.
const READY: Duration = Duration::from_secs(15);

/// One `sluice` process with its namespace, configuration and admin socket. Dropping it ends the process.
#[derive(Debug)]
pub struct Role {
    /// `root`, `cluster` or `gateway`.
    role: &'static str,
    process: Option<Process>,
    pub namespace: NetNs,
    sluice: PathBuf,
    pub config: PathBuf,
    pub admin: PathBuf,
    log: PathBuf,
    starts: u32,
}

impl Role {
    /// `sluice <role>` in a namespace of its own, not started yet: `config` is its configuration, its admin socket is
    /// `NAME.sock` in the scratch directory.
    pub(super) fn new(
        role: &'static str,
        name: &str,
        sluice: &Path,
        scratch: &Scratch,
        config: &str,
    ) -> Result<Self, LabError> {
        Ok(Self {
            role,
            process: None,
            namespace: NetNs::new(name)?,
            sluice: sluice.to_owned(),
            config: scratch.file(&format!("{name}.toml"), config)?,
            admin: scratch.path().join(format!("{name}.sock")),
            log: scratch.path().join(format!("{name}.log")),
            starts: 0,
        })
    }

    /// Starts the process; [`Role::ready`] waits for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self) -> Result<(), LabError> {
        self.starts += 1;
        let log = if self.starts == 1 {
            self.log.clone()
        } else {
            self.log.with_extension(format!("{}.log", self.starts))
        };
        let program = Program::new(&self.sluice)
            .arg(self.role)
            .arg("--config")
            .arg(&self.config);
        self.process = Some(self.namespace.start(&program, &log)?);
        Ok(())
    }

    /// Waits until its admin socket says that it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready in time.
    pub fn ready(&mut self) -> Result<(), LabError> {
        let Some(process) = &mut self.process else {
            return self.start().and_then(|()| self.ready());
        };
        let admin = &self.admin;
        let what = format!("{} to be ready", self.namespace.name());
        let waited = wait_for(&what, READY, || {
            if process.ended().is_some() {
                return Ok(());
            }
            let seen = match http::request(admin, "GET", "/readyz", None, Duration::from_secs(1)) {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(answer) => format!("{} {}", answer.status, answer.body.trim()),
                Err(error) => error.to_string(),
            };
            Err(format!("{seen}; it said:\n{}", process.said_last()))
        });
        process.alive()?;
        waited
    }

    /// Changes its configuration, for its next start.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn configure(&self, change: impl FnOnce(String) -> String) -> Result<(), LabError> {
        let text = fs::read_to_string(&self.config).map_err(LabError::file(&self.config))?;
        fs::write(&self.config, change(text)).map_err(LabError::file(&self.config))
    }

    /// Ends it with SIGTERM, as a service manager does.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(Duration::from_secs(5));
        }
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// What it logged since it was last started.
    #[must_use]
    pub fn said(&self) -> String {
        self.process.as_ref().map(Process::said).unwrap_or_default()
    }

    /// Fails when it is not running.
    ///
    /// # Errors
    /// With the last lines it said.
    pub fn alive(&mut self) -> Result<(), LabError> {
        match &mut self.process {
            Some(process) => process.alive(),
            None => Ok(()),
        }
    }

    /// Asks its admin socket.
    ///
    /// # Errors
    /// When it does not answer with JSON.
    pub fn ask(&self, path: &str) -> Result<serde_json::Value, LabError> {
        http::json(&self.admin, path)
    }
}

/// A gateway and where the others reach it.
#[derive(Debug)]
pub struct Gateway {
    pub role: Role,
    pub cluster: usize,
    /// On the wire between the sites.
    pub address: [IpAddr; 2],
    pub node_socket: PathBuf,
    pub state_dir: PathBuf,
}

impl Gateway {
    #[must_use]
    pub const fn namespace(&self) -> &NetNs {
        &self.role.namespace
    }
}
