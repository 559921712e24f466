//! Gateways that others set up on two hosts: each is restarted by commands, with a configuration changed for the run and put
//! back at its end.

use super::{KernelPath, Nodes};
use crate::lab::clock::wait_for;
use crate::lab::wire::{Carried, carried};
use crate::lab::{Host, LabError, Program};
use crate::peers::vxlan::{self, VxlanBetweenHosts};
use crate::suites::places::Places;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Table;

/// How long a gateway may take to be ready after it was started.
const READY: Duration = Duration::from_secs(30);
/// What the configuration as it was is called meanwhile.
const KEPT: &str = ".before-sluice-perf";
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// The device under test and the sink, with a gateway each. Both gateways are stopped when this is dropped.
#[derive(Debug)]
pub(in crate::suites) struct HostNodes {
    nodes: [Node; 2],
    machines: Vec<Host>,
    /// At the sink.
    underlay: String,
    sluice: PathBuf,
    start: Vec<String>,
    stop: Vec<String>,
}

#[derive(Debug)]
struct Node {
    host: Host,
    /// Its address on the underlay.
    address: Ipv4Addr,
    /// Its configuration file, and what was in it.
    file: String,
    own: Table,
}

impl HostNodes {
    /// `sluice` is where that program is on both hosts.
    pub(in crate::suites) fn new(places: &Places, sluice: &Path) -> Result<Self, LabError> {
        let [dut, sink] = [&places.dut, &places.sink].map(|place| place.machine(&places.shell));
        let last = |interfaces: &[String]| interfaces.last().cloned().unwrap_or_default();
        let underlays = [last(&places.dut.interfaces), last(&places.sink.interfaces)];
        let file = &places.gateway.config;
        let nodes = [
            Node::new(dut, &underlays[0], file)?,
            Node::new(sink, &underlays[1], file)?,
        ];
        let mut machines = Vec::new();
        let mut boots = BTreeSet::new();
        for node in &nodes {
            if boots.insert(node.host.read(BOOT)?) {
                machines.push(node.host.clone());
            }
        }
        let [_, underlay] = underlays;
        Ok(Self {
            nodes,
            machines,
            underlay,
            sluice: sluice.to_owned(),
            start: places.gateway.start.clone(),
            stop: places.gateway.stop.clone(),
        })
    }
}

impl Nodes for HostNodes {
    fn restart(&mut self, fastpath: &str) -> Result<(), LabError> {
        for node in &self.nodes {
            run(&node.host, &self.stop)?;
            node.configure(fastpath)?;
            run(&node.host, &self.start)?;
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let what = format!("the gateway of {} to be ready", node.host.name());
            wait_for(&what, READY, || match self.status(index) {
                Ok(status) if status["ready"] == true => Ok(()),
                Ok(status) => Err(status["not_ready"].to_string()),
                Err(error) => Err(error.to_string()),
            })?;
        }
        Ok(())
    }

    fn ask(&self, gateway: usize, about: &str) -> Result<Value, LabError> {
        let node = &self.nodes[gateway];
        let words = match about {
            "status" => vec![about],
            _ => vec!["get", about],
        };
        let program = Program::new(&self.sluice)
            .args(["--config", &node.file])
            .args(words)
            .args(["--at", "gateway", "-o", "json"]);
        let text = node.host.succeed(&program)?;
        let value: Option<Value> = serde_json::from_str(&text).ok();
        let mut said = value.ok_or_else(|| LabError::Reply {
            what: format!("`{program}` at {}", node.host.name()),
            text,
        })?;
        // The status is of all roles.
        Ok(match said.get_mut("gateway") {
            Some(gateway) => gateway.take(),
            None => said,
        })
    }

    fn hosts(&self) -> [(Host, Ipv4Addr); 2] {
        [0, 1].map(|node: usize| (self.nodes[node].host.clone(), self.nodes[node].address))
    }

    fn machines(&self) -> &[Host] {
        &self.machines
    }

    fn carried(&self) -> Result<Carried, LabError> {
        carried(&self.nodes[1].host, &self.underlay)
    }

    fn kernel(&self) -> Result<KernelPath, LabError> {
        let path = VxlanBetweenHosts::new(self.hosts())?;
        Ok(KernelPath {
            client: path.client.clone(),
            server: path.server.clone(),
            other_client: path.other_client.clone(),
            other_address: vxlan::OTHER_CLIENT,
            service: vxlan::SERVICE,
            server_address: vxlan::SERVER,
            headers: path.headers()?,
            _between_hosts: Some(path),
        })
    }
}

impl Drop for HostNodes {
    fn drop(&mut self) {
        for node in &self.nodes {
            // Whatever went wrong before has been said.
            let _ = run(&node.host, &self.stop);
            let _ = node.put_back();
        }
    }
}

fn run(host: &Host, words: &[String]) -> Result<(), LabError> {
    let Some((program, arguments)) = words.split_first() else {
        return Ok(());
    };
    host.succeed(&Program::new(program).args(arguments))
        .map(drop)
}

impl Node {
    fn new(host: Host, underlay: &str, file: &str) -> Result<Self, LabError> {
        let address = host.address(underlay)?;
        let mut node = Self {
            host,
            address,
            file: file.to_owned(),
            own: Table::new(),
        };
        let kept = format!("{file}{KEPT}");
        if node.host.read(&kept).is_ok() {
            // A run that was killed.
            node.put_back()?;
        }
        let text = node.host.read(file)?;
        node.own = text.parse().map_err(|error: toml::de::Error| {
            LabError::Request(format!("{file} at {}: {error}", node.host.name()))
        })?;
        let copy = Program::new("cp").args(["-p", file, &kept]);
        node.host.succeed(&copy)?;
        Ok(node)
    }

    fn put_back(&self) -> Result<(), LabError> {
        let kept = format!("{}{KEPT}", self.file);
        let program = Program::new("mv").args([&kept, &self.file]);
        self.host.succeed(&program).map(drop)
    }

    fn configure(&self, fastpath: &str) -> Result<(), LabError> {
        let lines: Table = fastpath
            .parse()
            .unwrap_or_else(|error| unreachable!("lines of a suite: {error}"));
        let text = changed(&self.own, lines).to_string();
        let program = Program::new("tee").arg(&self.file).input(text);
        self.host.succeed(&program).map(drop)
    }
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
