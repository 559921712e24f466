//! The sockets of the probes: one per node in use, connected, so that its kernel's refusal is told apart from silence.
//!
//! A probe is a plain tunnelled packet from a port of its own; the other gateway's workers answer it to that port.

use sluice_proto::liveness::{NodeAddress, Probe};
use sluice_routes::NodeInUse;
use sluice_wire::{Dual, Family, Ip, icmp_echo};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Longer answers are none.
const ANSWER_BYTES_MAX: usize = 128;

/// What came back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ProbeResult {
    Answered {
        node: NodeAddress,
        sequence: u16,
    },
    /// The node's kernel says that nobody listens.
    Refused {
        node: NodeAddress,
    },
}

#[derive(Debug)]
struct Line {
    socket: Arc<UdpSocket>,
    /// The other gateway's own address.
    gateway: Dual<Ip>,
    reader: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Probes {
    lines: BTreeMap<NodeAddress, Line>,
    results: mpsc::Sender<ProbeResult>,
    identifier: u16,
}

impl Probes {
    /// `identifier` is in every probe of this process.
    pub(crate) const fn new(results: mpsc::Sender<ProbeResult>, identifier: u16) -> Self {
        Self {
            lines: BTreeMap::new(),
            results,
            identifier,
        }
    }

    /// Opens a socket towards a node, unless there is one. False when there is none now: probes do not leave.
    pub(crate) fn open(&mut self, node: &NodeInUse) -> bool {
        if let Some(line) = self.lines.get_mut(&node.address) {
            line.gateway = node.gateway;
            return true;
        }
        match connected(node.address) {
            Ok(socket) => {
                let socket = Arc::new(socket);
                let reader = read(
                    Arc::clone(&socket),
                    node.address,
                    self.identifier,
                    self.results.clone(),
                );
                let line = Line {
                    socket,
                    gateway: node.gateway,
                    reader: tokio::spawn(reader),
                };
                self.lines.insert(node.address, line);
                true
            }
            Err(error) => {
                tracing::debug!(node = %node.address.0, %error, "no socket for probes");
                false
            }
        }
    }

    /// Closes the sockets of all other nodes.
    pub(crate) fn retain(&mut self, nodes: &BTreeSet<NodeAddress>) {
        self.lines.retain(|node, _| nodes.contains(node));
    }

    /// Sends a probe from our gateway's own address. False when it did not leave for a reason that is this node's, as its
    /// firewall; that no way leads to the other one is its silence.
    pub(crate) fn send(&self, probe: Probe, own: Dual<Ip>) -> bool {
        let Some(line) = self.lines.get(&probe.node) else {
            return false;
        };
        let mut bytes = [0; icmp_echo::REQUEST_LEN_MAX];
        let len = [Family::V4, Family::V6].into_iter().find_map(|family| {
            let (from, to) = (own.of(family)?, line.gateway.of(family)?);
            icmp_echo::request(from, to, self.identifier, probe.sequence, &mut bytes)
        });
        let Some(request) = len.and_then(|len| bytes.get(..len)) else {
            return false;
        };
        let error = line.socket.try_send(request).err().map(|it| it.kind());
        if error == Some(ErrorKind::ConnectionRefused) {
            let node = probe.node;
            // A full queue to the core: the next probe is refused, too.
            let _ = self.results.try_send(ProbeResult::Refused { node });
        }
        error != Some(ErrorKind::PermissionDenied)
    }
}

fn connected((ip, port): NodeAddress) -> io::Result<UdpSocket> {
    let any: IpAddr = if ip.is_v4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.connect(SocketAddr::new(ip.into(), port))?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

async fn read(
    socket: Arc<UdpSocket>,
    node: NodeAddress,
    identifier: u16,
    results: mpsc::Sender<ProbeResult>,
) {
    let mut bytes = [0; ANSWER_BYTES_MAX];
    loop {
        let result = match socket.recv(&mut bytes).await {
            Ok(len) => match icmp_echo::reply(&bytes[..len]) {
                Some((ours, sequence)) if ours == identifier => {
                    ProbeResult::Answered { node, sequence }
                }
                _ => continue,
            },
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                ProbeResult::Refused { node }
            }
            // Other errors of a datagram socket concern one datagram.
            Err(_) => continue,
        };
        if results.send(result).await.is_err() {
            return;
        }
    }
}
