//! A gateway that others set up at a host: started and stopped by commands, with a configuration that is changed for a run and
//! put back at its end.

use super::places;
use crate::lab::clock::wait_for;
use crate::lab::{Host, LabError, Program};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Table;

/// How long a gateway may take to be ready after it was started.
const READY: Duration = Duration::from_secs(30);
/// What the configuration as it was is called meanwhile.
const KEPT: &str = ".before-sluice-perf";

/// The gateway of one host. It is stopped, and its configuration as it was, when this is dropped.
#[derive(Debug)]
pub(super) struct GatewayAt {
    host: Host,
    /// Its configuration file, and what was in it.
    file: String,
    own: Table,
    start: Vec<String>,
    stop: Vec<String>,
    /// Where that program is on the host.
    sluice: PathBuf,
}

impl GatewayAt {
    pub(super) fn new(
        host: Host,
        gateway: &places::Gateway,
        sluice: &Path,
    ) -> Result<Self, LabError> {
        let file = gateway.config.clone();
        let kept = format!("{file}{KEPT}");
        if host.read(&kept).is_ok() {
            // A run that was killed.
            put_back(&host, &file)?;
        }
        let text = host.read(&file)?;
        let own = text.parse().map_err(|error: toml::de::Error| {
            LabError::Request(format!("{file} at {}: {error}", host.name()))
        })?;
        let copy = Program::new("cp").args(["-p", &file, &kept]);
        host.succeed(&copy)?;
        Ok(Self {
            host,
            file,
            own,
            start: gateway.start.clone(),
            stop: gateway.stop.clone(),
            sluice: sluice.to_owned(),
        })
    }

    pub(super) const fn host(&self) -> &Host {
        &self.host
    }

    /// Starts it with these lines in its `[fastpath]` section, in place of what the last ones said; does not wait for it.
    pub(super) fn restart(&self, fastpath: &str) -> Result<(), LabError> {
        self.stop()?;
        let lines: Table = fastpath
            .parse()
            .unwrap_or_else(|error| unreachable!("lines of a suite: {error}"));
        let text = changed(&self.own, lines).to_string();
        let program = Program::new("tee").arg(&self.file).input(text);
        self.host.succeed(&program)?;
        self.command(&self.start)
    }

    pub(super) fn stop(&self) -> Result<(), LabError> {
        self.command(&self.stop)
    }

    /// Waits until it says that it is ready.
    pub(super) fn ready(&self) -> Result<(), LabError> {
        let what = format!("the gateway of {} to be ready", self.host.name());
        wait_for(&what, READY, || match self.ask("status") {
            Ok(status) if status["ready"] == true => Ok(()),
            Ok(status) => Err(status["not_ready"].to_string()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// What it says about `status`, `drops` or `instances`: the rows of its admin socket.
    pub(super) fn ask(&self, about: &str) -> Result<Value, LabError> {
        let words = match about {
            "status" => vec![about],
            _ => vec!["get", about],
        };
        let program = Program::new(&self.sluice)
            .args(["--config", &self.file])
            .args(words)
            .args(["--at", "gateway", "-o", "json"]);
        let text = self.host.succeed(&program)?;
        let value: Option<Value> = serde_json::from_str(&text).ok();
        let mut said = value.ok_or_else(|| LabError::Reply {
            what: format!("`{program}` at {}", self.host.name()),
            text,
        })?;
        // The status is of all roles.
        Ok(match said.get_mut("gateway") {
            Some(gateway) => gateway.take(),
            None => said,
        })
    }

    fn command(&self, words: &[String]) -> Result<(), LabError> {
        let Some((program, arguments)) = words.split_first() else {
            return Ok(());
        };
        let program = Program::new(program).args(arguments);
        self.host.succeed(&program).map(drop)
    }
}

impl Drop for GatewayAt {
    fn drop(&mut self) {
        // Whatever went wrong before has been said.
        let _ = self.stop();
        let _ = put_back(&self.host, &self.file);
    }
}

fn put_back(host: &Host, file: &str) -> Result<(), LabError> {
    let kept = format!("{file}{KEPT}");
    let program = Program::new("mv").args([&kept, file]);
    host.succeed(&program).map(drop)
}

/// A configuration with these keys in its `[fastpath]` section.
fn changed(own: &Table, lines: Table) -> Table {
    let mut table = own.clone();
    let section = table
        .entry("fastpath")
        .or_insert_with(|| Table::new().into());
    if let Some(section) = section.as_table_mut() {
        section.extend(lines);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_changes_only_the_keys_it_names() {
        let own: Table = "[gateway]\ncluster = \"c:1\"\n[fastpath]\nlink = \"tun\"\ncores = [1]\n"
            .parse()
            .unwrap();
        let table = changed(&own, "link = \"af_xdp\"\noffload = false".parse().unwrap());
        let expected: Table = "[gateway]\ncluster = \"c:1\"\n[fastpath]\nlink = \"af_xdp\"\ncores = [1]\noffload = false\n"
            .parse()
            .unwrap();
        assert_eq!(table, expected);
        let empty = changed(&Table::new(), "offload = true".parse().unwrap());
        assert_eq!(empty.to_string(), "[fastpath]\noffload = true\n");
    }
}
