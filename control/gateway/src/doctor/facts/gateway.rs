//! The gateway of this machine, if it runs: asked on its admin socket. If not, what it remembers on disk.

use crate::client::{Call, Client};
use crate::config::Config;
use crate::gateway::remembered;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;

/// What is known of the gateway.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gateway {
    pub(crate) running: bool,
    /// Its process, when it runs and this command may see it.
    pub(crate) pid: Option<u32>,
    /// Cores that workers are pinned to: those in use, else those configured.
    pub(crate) pinned: Vec<usize>,
    /// `host:port` of the cluster's broker, as registered or configured.
    pub(crate) cluster: Option<String>,
    /// Where other nodes' tunnels end.
    pub(crate) peers: Vec<SocketAddr>,
}

/// Asks the running gateway, or reads what a stopped one remembers.
pub(crate) async fn look(config: &Config, client: &Client) -> Gateway {
    let configured = config.gateway.cluster.as_ref().map(ToString::to_string);
    let Ok(status) = client.json(Call::read("/v1/status")).await else {
        let remembered = remembered(&config.gateway.state_dir);
        return Gateway {
            pinned: config.fastpath.cores.clone(),
            cluster: configured.or(remembered.cluster),
            peers: remembered.peers,
            ..Gateway::default()
        };
    };
    let peers = client
        .json(Call::read("/v1/peers"))
        .await
        .unwrap_or_default();
    Gateway {
        running: true,
        pid: process_behind(config),
        pinned: numbers(&status),
        cluster: status["cluster"]
            .as_str()
            .filter(|cluster| !cluster.is_empty())
            .map(str::to_owned)
            .or(configured),
        peers: addresses(&peers),
    }
}

fn process_behind(config: &Config) -> Option<u32> {
    let socket = UnixStream::connect(&config.gateway.admin_socket).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&socket).ok()?;
    u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
}

/// The cores of the workers in a status.
fn numbers(status: &Value) -> Vec<usize> {
    status["workers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|worker| usize::try_from(worker["core"].as_u64()?).ok())
        .collect()
}

/// The nodes of a list of peers.
fn addresses(peers: &Value) -> Vec<SocketAddr> {
    let list = peers.as_array().or_else(|| peers["peers"].as_array());
    list.into_iter()
        .flatten()
        .filter_map(|peer| {
            let (ip, port) = peer["node"].as_str()?.rsplit_once(':')?;
            let ip: IpAddr = ip.trim_matches(['[', ']']).parse().ok()?;
            Some(SocketAddr::new(ip, port.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn peers_of_both_families_are_read() {
        let peers = json!([{"node": "10.0.0.1:50103"}, {"node": "[fd00::1]:1"}, {"node": "?"}]);
        let expected = ["10.0.0.1:50103", "[fd00::1]:1"].map(|text| text.parse().unwrap());
        assert_eq!(addresses(&peers), expected);
        assert_eq!(addresses(&json!({"peers": peers})), expected);
    }

    #[test]
    fn only_pinned_workers_have_cores() {
        let status = json!({"workers": [{"core": 3}, {"core": null}, {}]});
        assert_eq!(numbers(&status), [3]);
    }
}
