//! Other implementations of the encrypted format: a device at each of two nodes, as their own documents set it up.

use super::vxlan::Node;
use crate::lab::clock::wait_for;
use crate::lab::scratch::Scratch;
use crate::lab::{LabError, NetNs, Process, Program, tools};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

/// Where they have the sockets by which `wg` talks to them.
const SOCKETS: &str = "/var/run/wireguard";
/// What an IPv4 datagram of 1500 bytes leaves, and what `wg-quick` sets.
const MTU: u16 = 1420;

/// Which one.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Implementation {
    /// boringtun-cli from crates.io, with its default of four threads.
    Boringtun,
    /// wireguard-go of Debian.
    WireguardGo,
    /// gotatun-cli from crates.io.
    Gotatun,
}

impl Implementation {
    pub const ALL: [Self; 3] = [Self::Boringtun, Self::WireguardGo, Self::Gotatun];

    /// As in rows.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Boringtun => "boringtun",
            Self::WireguardGo => "wireguard_go",
            Self::Gotatun => "gotatun",
        }
    }

    /// The program's name.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Boringtun => "boringtun-cli",
            Self::WireguardGo => "wireguard-go",
            Self::Gotatun => "gotatun",
        }
    }

    /// Devices of several stand in one namespace.
    const fn number(self) -> u8 {
        match self {
            Self::Boringtun => 1,
            Self::WireguardGo => 2,
            Self::Gotatun => 3,
        }
    }

    fn device(self) -> String {
        format!("wg{}", self.number())
    }

    fn port(self) -> u16 {
        51_820 + u16::from(self.number())
    }

    fn address(self, node: usize) -> Ipv4Addr {
        let host = if node == 0 { 1 } else { 2 };
        Ipv4Addr::new(10, 97, self.number(), host)
    }

    fn command(self) -> Result<Program, LabError> {
        let program = Program::new(tools::find(self.program())?);
        let program = match self {
            Self::Boringtun | Self::Gotatun => program.args(["-f", "--disable-drop-privileges"]),
            Self::WireguardGo => program.arg("-f"),
        };
        Ok(program.arg(self.device()))
    }
}

/// Gives nodes a directory of their own for control sockets: what is started there from now on leaves none behind.
///
/// # Errors
/// When the kernel refuses.
pub fn prepare(nodes: [&NetNs; 2]) -> Result<(), LabError> {
    nodes
        .iter()
        .try_for_each(|node| node.mount_empty(Path::new(SOCKETS)))
}

/// One implementation at both nodes, with the tunnel up. Dropping it takes it away.
#[derive(Debug)]
pub struct WireGuard {
    _processes: [Process; 2],
    /// The second node's address within the tunnel.
    pub server: IpAddr,
}

impl WireGuard {
    /// Starts it at two nodes that were [prepared](prepare), and waits until a handshake was made.
    ///
    /// # Errors
    /// When a program is missing or says no, or no packet comes through.
    pub fn new(
        which: Implementation,
        nodes: [Node<'_>; 2],
        scratch: &Scratch,
    ) -> Result<Self, LabError> {
        let wg = Program::new(tools::find("wg")?);
        let mut keys = Vec::new();
        for (node, at) in nodes.iter().enumerate() {
            let private = at.namespace.succeed(&wg.clone().arg("genkey"))?;
            let public = wg.clone().arg("pubkey").input(private.as_str());
            let public = at.namespace.succeed(&public)?.trim().to_owned();
            let file = scratch.file(&format!("{}-{node}.key", which.name()), &private)?;
            keys.push((file, public));
        }
        let start = |node: usize| -> Result<Process, LabError> {
            let at = nodes[node].namespace;
            let log = scratch.path().join(format!("{}-{node}.log", which.name()));
            let mut process = at.start(&which.command()?, &log)?;
            let (device, other) = (which.device(), 1 - node);
            let show = wg.clone().args(["show", &device]);
            wait_for(which.program(), Duration::from_secs(5), || {
                if process.ended().is_some() {
                    return Ok(());
                }
                at.succeed(&show)
                    .map(drop)
                    .map_err(|error| error.to_string())
            })?;
            process.alive()?;
            let set = wg
                .clone()
                .args(["set", &device, "private-key"])
                .arg(&keys[node].0)
                .args(["listen-port", &which.port().to_string()])
                .args(["peer", &keys[other].1, "allowed-ips"])
                .arg(format!("{}/32", which.address(other)))
                .arg("endpoint")
                .arg(format!("{}:{}", nodes[other].address, which.port()));
            at.succeed(&set)?;
            at.ip(&format!(
                "address add {}/24 dev {device}\nlink set {device} mtu {MTU} up",
                which.address(node)
            ))?;
            Ok(process)
        };
        let processes = [start(0)?, start(1)?];
        let server = IpAddr::from(which.address(1));
        let ping = Program::new(tools::find("ping")?)
            .args(["-q", "-c", "1", "-W", "2"])
            .arg(server.to_string());
        wait_for(
            "a packet through the tunnel",
            Duration::from_secs(10),
            || {
                let answer = nodes[0].namespace.succeed(&ping);
                answer.map(drop).map_err(|error| error.to_string())
            },
        )?;
        Ok(Self {
            _processes: processes,
            server,
        })
    }
}
