//! Asking the resolvers that this host uses: their addresses, and the sockets of one exchange.

use super::PORT;
use super::stream::{read_message, write_message};
use sluice_proto::dns::{Exchange, Step, Transport, Verdict};
use sluice_wire::{Dual, Ip};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};
use std::{fs, io};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Resolvers taken from [`RESOLV_CONF`]: as many as the C library takes (resolv.conf(5)).
const SERVERS_MAX: usize = 3;
/// The longest answer over UDP: a query asks for less.
const ANSWER_MAX: usize = 4096;

/// Who is asked about names that are not ours.
#[derive(Debug)]
pub(super) struct Resolvers {
    /// Empty: those of this host.
    configured: Vec<SocketAddr>,
    /// Those of this host, as of this version of the file.
    of_host: Vec<SocketAddr>,
    read: Option<SystemTime>,
}

impl Resolvers {
    pub(super) fn new(configured: &[SocketAddr]) -> Self {
        Self {
            configured: configured.to_vec(),
            of_host: Vec::new(),
            read: None,
        }
    }

    /// The resolvers in force. `own`: our own addresses, which would ask us again.
    pub(super) fn get(&mut self, own: Dual<Ip>) -> &[SocketAddr] {
        if !self.configured.is_empty() {
            return &self.configured;
        }
        // One system call per query; the file is read only when it changed.
        let changed = fs::metadata(RESOLV_CONF)
            .and_then(|file| file.modified())
            .ok();
        if self.read != changed {
            self.read = changed;
            self.of_host = name_servers(&fs::read_to_string(RESOLV_CONF).unwrap_or_default());
            self.of_host
                .retain(|server| !own.iter().any(|ip| IpAddr::from(ip) == server.ip()));
        }
        &self.of_host
    }
}

/// The name servers of a resolv.conf. One with a zone (`fe80::1%eth0`) is left out.
fn name_servers(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = (words.next()? == "nameserver").then(|| words.next())??;
        let ip: IpAddr = address.parse().ok()?;
        Some(SocketAddr::new(ip, PORT))
    };
    text.lines().filter_map(server).take(SERVERS_MAX).collect()
}

/// Carries out an exchange. Each attempt takes two bytes of `ids` as its id.
pub(super) async fn run(
    mut exchange: Exchange,
    ids: [u8; 8],
    clock: fn() -> Duration,
) -> Option<Vec<u8>> {
    let mut ids = ids
        .chunks_exact(2)
        .map(|id| u16::from_be_bytes([id[0], id[1]]))
        .cycle();
    loop {
        let id = ids.next().unwrap_or_default();
        let (server, over, until) = match exchange.poll_step(id, clock()) {
            Step::Ask {
                server,
                over,
                until,
            } => (server, over, until),
            Step::Done(answer) => return answer,
        };
        let wait = until.saturating_sub(clock());
        // Neither an error nor a timeout says more than that the next attempt is due.
        let _ = match over {
            Transport::Udp => timeout(wait, over_udp(&mut exchange, server)).await,
            Transport::Tcp => timeout(wait, over_tcp(&mut exchange, server)).await,
        };
    }
}

/// From a port that the kernel chooses at random, closed with the attempt; the kernel passes only what comes from the
/// server.
async fn over_udp(exchange: &mut Exchange, server: SocketAddr) -> io::Result<()> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(exchange.query()).await?;
    let mut room = vec![0; ANSWER_MAX];
    loop {
        let len = socket.recv(&mut room).await?;
        if exchange.handle_answer(&room[..len], Transport::Udp) == Verdict::Taken {
            return Ok(());
        }
    }
}

async fn over_tcp(exchange: &mut Exchange, server: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, exchange.query()).await?;
    let answer = read_message(&mut stream).await?;
    exchange.handle_answer(&answer, Transport::Tcp);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolv_conf_is_read_as_the_c_library_does() {
        let text = "# nameserver 192.0.2.9\nsearch example\n nameserver 192.0.2.1\nnameserver\t2001:db8::1 \n\
                    nameserver fe80::1%eth0\nnameservers 192.0.2.8\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let servers: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(
            servers,
            ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.2:53"]
        );
    }
}
