//! Everything that is looked at, gathered in one place: plain data, so that a rule is a function and its test a table.

pub(crate) mod root;
pub(crate) mod kernel;
pub(crate) mod host;
pub(crate) mod process;
pub(crate) mod settings;
pub(crate) mod network;
pub(crate) mod gateway;
pub(crate) mod files;
pub(crate) mod managers;
mod clock;

use super::finding::Severity;
use crate::client::{Client, Endpoint, Role};
use crate::config::{Config, LinkKind};
use crate::node::devices::LinkState;
use files::{Resolver, StateDir, TokenFile};
use gateway::Gateway;
use host::{Card, Cores, Memory};
use kernel::Kernel;
use managers::{Manager, PeerPath};
use network::Network;
use process::{PortHolder, Process};
use root::Root;
use settings::Settings;
use sluice_wire::Subnet;
use std::net::SocketAddr;
use std::path::Path;

/// The machine, as far as it concerns the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) config: Config,
    /// Why the file is refused, if it is; `config` are then the defaults.
    pub(crate) config_error: Option<String>,
    pub(crate) tokens: Vec<TokenFile>,
    pub(crate) state_dir: StateDir,
    pub(crate) gateway: Gateway,
    pub(crate) managers: Vec<Manager>,
    pub(crate) peers: Vec<PeerPath>,
    pub(crate) clock_synchronised: Option<bool>,
    pub(crate) network: Network,
    pub(crate) kernel: Kernel,
    pub(crate) cores: Cores,
    pub(crate) memory: Memory,
    /// Of the underlay's device.
    pub(crate) card: Option<Card>,
    /// Of the NIC towards hosts.
    pub(crate) lan_card: Option<Card>,
    pub(crate) process: Process,
    pub(crate) port_holders: Vec<PortHolder>,
    /// Who answers DNS on every address.
    pub(crate) name_servers: Vec<PortHolder>,
    pub(crate) settings: Settings,
    /// Tracked connections that are tunnels.
    pub(crate) tracked_tunnels: Option<usize>,
    pub(crate) resolver: Resolver,
    pub(crate) docker_pools: Vec<Subnet>,
}

/// What is not in a file: it is asked, called or read by netlink.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) gateway: Gateway,
    pub(crate) managers: Vec<Manager>,
    pub(crate) peers: Vec<PeerPath>,
    pub(crate) clock_synchronised: Option<bool>,
    pub(crate) network: Network,
}

impl Asked {
    /// Of the machine and namespace this command runs in. Takes some seconds where a manager does not answer.
    pub(crate) async fn here(config: &Config) -> Self {
        let client = Client {
            role: Role::Gateway,
            endpoint: Endpoint::Unix(config.gateway.admin_socket.clone()),
        };
        let gateway = gateway::look(config, &client).await;
        let cluster = gateway
            .cluster
            .as_deref()
            .and_then(|cluster| cluster.parse::<SocketAddr>().ok())
            .map(|cluster| cluster.ip())
            .filter(|ip| !ip.is_loopback());
        let own_address = config
            .gateway
            .node_address
            .or_else(|| crate::gateway::source_towards(cluster));
        Self {
            managers: managers::call(config, gateway.cluster.as_deref()),
            peers: managers::paths(&gateway.peers),
            clock_synchronised: clock::synchronised(),
            network: Network::read(config, own_address),
            gateway,
        }
    }
}

impl Facts {
    /// The NIC towards hosts that are instances, where the configuration names one.
    pub(crate) fn lan(&self) -> Option<&LinkState> {
        self.network.link(self.config.fastpath.service.lan()?)
    }

    /// How bad it is when AF_XDP does not work: nobody asked for it, it would be taken, or it must be.
    pub(crate) const fn without_af_xdp(&self) -> Severity {
        match self.config.fastpath.link {
            LinkKind::Tun => Severity::Note,
            LinkKind::Auto => Severity::Warning,
            LinkKind::AfXdp => Severity::Error,
        }
    }

    /// Everything about the machine this command runs on.
    pub(crate) async fn gather(config_file: Option<&Path>) -> Self {
        let (config, config_error) = match Config::load(config_file) {
            Ok(config) => (config, None),
            Err(error) => (Config::default(), Some(error.to_string())),
        };
        let asked = Asked::here(&config).await;
        Self::read(&Root::new("/"), config, config_error, asked)
    }

    /// Adds what is in files.
    pub(crate) fn read(
        root: &Root,
        config: Config,
        config_error: Option<String>,
        asked: Asked,
    ) -> Self {
        let status_of = |pid| root.text(format!("proc/{}/status", process::directory(pid)));
        // Another PID namespace may hide the gateway; then this command stands for it.
        let pid = asked
            .gateway
            .pid
            .filter(|&pid| status_of(Some(pid)).is_some());
        let status = status_of(pid).unwrap_or_default();
        let underlay = asked.network.underlay();
        let lan = config.fastpath.service.lan();
        let lan = lan.and_then(|name| asked.network.link(name));
        let devices = [&config.gateway.uplink, &config.gateway.tun]
            .map(String::as_str)
            .into_iter()
            .chain(underlay.map(|link| link.name.as_str()));
        Self {
            tokens: files::tokens(&config),
            state_dir: StateDir::read(&config.gateway.state_dir),
            kernel: Kernel::read(root),
            cores: Cores::read(root, &status),
            memory: Memory::read(root),
            card: underlay.and_then(|link| Card::read(root, &link.name, link.index)),
            lan_card: lan.and_then(|link| Card::read(root, &link.name, link.index)),
            process: Process::read(root, pid, &status),
            port_holders: process::port_holders(root, config.fastpath.tunnel_port),
            name_servers: process::everywhere_holders(root, crate::dns::PORT),
            settings: Settings::read(root, devices),
            tracked_tunnels: settings::tracked_tunnels(root, config.fastpath.tunnel_port),
            resolver: Resolver::read(root),
            docker_pools: files::docker_pools(root),
            config,
            config_error,
            gateway: asked.gateway,
            managers: asked.managers,
            peers: asked.peers,
            clock_synchronised: asked.clock_synchronised,
            network: asked.network,
        }
    }
}
