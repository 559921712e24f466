//! Whether the managers answer, how far their clock is from ours, and how wide the path to each peer is.

use crate::config::Config;
use crate::gateway::path_mtu::route_mtu;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Long enough for three SYNs.
const PATIENCE: Duration = Duration::from_secs(3);
/// Peers looked at; each costs a socket, not a packet.
const PEERS_MAX: usize = 256;

/// A manager that was called.
#[derive(Clone, Debug)]
pub(crate) struct Manager {
    /// `the cluster's broker` or `the root manager`.
    pub(crate) role: &'static str,
    /// `host:port`.
    pub(crate) address: String,
    /// The key of the configuration that says where it is.
    pub(crate) key: &'static str,
    /// Why it was not reached, if it was not.
    pub(crate) failure: Option<String>,
}

/// The way to a peer, by the kernel's word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerPath {
    pub(crate) peer: SocketAddr,
    /// Bytes of the outer packet.
    pub(crate) mtu: u32,
    /// Bytes of outer headers.
    pub(crate) overhead: u32,
}

/// Calls the broker that the gateway uses, and the root when a cluster manager runs here.
pub(crate) fn call(config: &Config, broker: Option<&str>) -> Vec<Manager> {
    let mut called = Vec::new();
    if let Some(address) = broker {
        called.push(Manager {
            role: "the cluster's broker",
            address: address.to_owned(),
            key: "gateway.cluster",
            failure: connect(address).err().map(|error| error.to_string()),
        });
    }
    if UnixStream::connect(&config.cluster.admin_socket).is_ok() {
        let address = config.cluster.root.to_string();
        called.push(Manager {
            role: "the root manager",
            key: "cluster.root",
            failure: speak_http(&address).err().map(|error| error.to_string()),
            address,
        });
    }
    called
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for to in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&to, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Any HTTP answer will do: it is the one program that speaks there.
fn speak_http(address: &str) -> io::Result<()> {
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("HEAD / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    if answer == *b"HTTP/1." {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "what answers there does not speak HTTP",
        ))
    }
}

/// Those that have a route.
pub(crate) fn paths(peers: &[SocketAddr]) -> Vec<PeerPath> {
    peers
        .iter()
        .take(PEERS_MAX)
        .filter_map(|&peer| {
            let (mtu, overhead) = route_mtu(peer.ip(), peer.port()).ok()?;
            Some(PeerPath {
                peer,
                mtu,
                overhead,
            })
        })
        .collect()
}
