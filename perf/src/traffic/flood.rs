//! A flood of TCP SYNs, each of another pair of ports, at a fixed rate: by an instance itself, or by a whole node.

use super::mmsg::Burst;
use crate::lab::clock::{now, pause};
use crate::lab::priority::before_all_others;
use crate::lab::{LabError, NetNs};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, connect, setsockopt, socket,
    sockopt,
};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// Source ports of the pairs: all but the privileged ones.
const SOURCE_PORTS: u32 = 65536 - 1024;
/// The first destination port: nothing listens there, nor on the ports that follow.
const FIRST_PORT: u16 = 10_000;
/// Bytes of the IPv4 header.
const IP_LEN: usize = 20;
const TCP_LEN: usize = 20;

/// A sender of SYNs that differ in their ports only.
#[derive(Debug)]
pub struct Flood {
    socket: OwnedFd,
    burst: Burst,
    /// Bytes of one message, and where its TCP header begins.
    len: usize,
    tcp_at: usize,
    /// The folded sum of the TCP pseudo-header and header without ports.
    sum: u32,
}

/// What became of a flood.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Flooded {
    /// SYNs that the sender's kernel took.
    pub sent: u32,
    /// SYNs per second.
    pub rate: f64,
}

impl Flood {
    /// From `source`, an address of `namespace`.
    ///
    /// # Errors
    /// When the kernel gives no raw socket.
    pub fn by_host(
        namespace: &NetNs,
        source: Ipv4Addr,
        destination: Ipv4Addr,
    ) -> Result<Self, LabError> {
        let to = SockaddrIn::from(SocketAddrV4::new(destination, 0));
        let socket = namespace
            .run(move || {
                let socket = socket(
                    AddressFamily::Inet,
                    SockType::Raw,
                    SockFlag::SOCK_CLOEXEC,
                    SockProtocol::Raw,
                )?;
                connect(socket.as_raw_fd(), &to)?;
                Ok::<_, nix::Error>(socket)
            })
            .map_err(|errno| LabError::Socket {
                what: format!("a raw socket towards {destination}"),
                source: errno.into(),
            })?;
        Ok(Self::new(socket, &[], source, destination))
    }

    /// In datagrams from the node `namespace` to another node's tunnel; `headers` precede each packet.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn by_node(
        namespace: &NetNs,
        to: SocketAddrV4,
        headers: &[u8],
        source: Ipv4Addr,
        destination: Ipv4Addr,
    ) -> Result<Self, LabError> {
        let socket = namespace
            .run(move || {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
                socket.connect(to)?;
                Ok(socket)
            })
            .map_err(LabError::socket(format!("a UDP socket towards {to}")))?;
        Ok(Self::new(socket.into(), headers, source, destination))
    }

    fn new(socket: OwnedFd, headers: &[u8], source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        let (packet, sum) = syn(source, destination);
        let message = [headers, &packet].concat();
        // Without room for many, the sender waits until the flooded side has looked at some.
        let _ = setsockopt(&socket, sockopt::SndBufForce, &(64 << 20));
        Self {
            socket,
            burst: Burst::of(&message),
            len: message.len(),
            tcp_at: headers.len() + IP_LEN,
            sum,
        }
    }

    /// Sends one SYN for each pair of ports of these numbers, rounded up to whole bursts: `rate` in a second, or as many as
    /// this thread can. Ends early after `limit`.
    ///
    /// # Errors
    /// When its thread cannot be put before all others: a flood does not wait for whom it floods.
    pub fn run(
        &mut self,
        pairs: Range<u32>,
        rate: f64,
        limit: Duration,
    ) -> Result<Flooded, LabError> {
        let sending = std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                before_all_others()?;
                Ok(self.send(pairs, rate, limit))
            });
            sending.join()
        });
        sending.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn send(&mut self, pairs: Range<u32>, rate: f64, limit: Duration) -> Flooded {
        let begin = now();
        let (mut next, mut sent) = (pairs.start, 0);
        while next < pairs.end && begin.elapsed() < limit {
            let due = f64::from(next - pairs.start) / rate;
            let early = due - begin.elapsed().as_secs_f64();
            if early > 0.0 {
                pause(Duration::from_secs_f64(early).max(SHORTEST_PAUSE));
                continue;
            }
            for message in self.burst.messages(self.len) {
                let [source, destination] = ports(next);
                if let Some(tcp) = message.get_mut(self.tcp_at..self.tcp_at + TCP_LEN) {
                    let sum = self.sum + u32::from(source) + u32::from(destination);
                    tcp[0..2].copy_from_slice(&source.to_be_bytes());
                    tcp[2..4].copy_from_slice(&destination.to_be_bytes());
                    tcp[16..18].copy_from_slice(&(!fold(sum)).to_be_bytes());
                }
                next += 1;
            }
            // What the kernel refuses was not sent.
            if let Ok(taken) = self.burst.send(&self.socket, self.len) {
                sent += u32::try_from(taken).unwrap_or_default();
            }
        }
        let seconds = begin.elapsed().as_secs_f64();
        Flooded {
            sent,
            rate: f64::from(sent) / seconds,
        }
    }
}

/// Sleeping for less costs more than it gives.
const SHORTEST_PAUSE: Duration = Duration::from_micros(100);

/// The ports of pair `number`.
#[expect(clippy::cast_possible_truncation, reason = "below 65,536")]
const fn ports(number: u32) -> [u16; 2] {
    [
        (1024 + number % SOURCE_PORTS) as u16,
        FIRST_PORT.wrapping_add((number / SOURCE_PORTS) as u16),
    ]
}

/// An IPv4 packet with a SYN whose ports and checksum are 0, and the sum of what the latter covers.
fn syn(source: Ipv4Addr, destination: Ipv4Addr) -> ([u8; IP_LEN + TCP_LEN], u32) {
    let mut packet = [0; IP_LEN + TCP_LEN];
    let (ip, tcp) = packet.split_at_mut(IP_LEN);
    ip[..4].copy_from_slice(&[0x45, 0, 0, 40]);
    ip[8..10].copy_from_slice(&[64, 6]);
    ip[12..16].copy_from_slice(&source.octets());
    ip[16..20].copy_from_slice(&destination.octets());
    let checksum = !fold(sum(ip));
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    // Five words of header, SYN, a window.
    tcp[12..16].copy_from_slice(&[0x50, 0x02, 0xff, 0xff]);
    // RFC 9293 section 3.1: addresses, protocol 6, and the length of the segment.
    let covered = sum(&ip[12..20]) + 6 + sum(&20_u16.to_be_bytes()) + sum(tcp);
    (packet, covered)
}

/// The sum of 16-bit words; `bytes` are even in number, and few.
fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum()
}

/// Adds the carries (RFC 1071).
#[expect(
    clippy::cast_possible_truncation,
    reason = "twice folded, 16 bits are left"
)]
const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No two SYNs of five million are of one flow, and every checksum is right.
    #[test]
    fn pairs_differ_and_checksums_hold() {
        let all: std::collections::BTreeSet<[u16; 2]> =
            (0..5_000_000).step_by(997).map(ports).collect();
        assert_eq!(all.len(), 5_000_000_usize.div_ceil(997));
        assert_eq!(ports(0), [1024, FIRST_PORT]);
        assert_eq!(ports(SOURCE_PORTS - 1), [65535, FIRST_PORT]);
        assert_eq!(ports(SOURCE_PORTS), [1024, FIRST_PORT + 1]);

        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        let addresses = [[10, 0, 0, 1], [10, 0, 0, 2]].map(Ipv4Addr::from);
        let mut flood = Flood::new(sender.into(), b"head", addresses[0], addresses[1]);
        assert_eq!(flood.send(0..64, 1e6, Duration::MAX).sent, 64);
        for number in 0..64 {
            let mut message = [0; 100];
            let len = receiver.recv(&mut message).unwrap();
            let (ip, tcp) = message[4..len].split_at(IP_LEN);
            assert_eq!((&message[..4], tcp.len()), (&b"head"[..], TCP_LEN));
            assert_eq!(fold(sum(ip)), 0xffff);
            assert_eq!(fold(sum(&ip[12..20]) + 6 + 20 + sum(tcp)), 0xffff);
            let [source, destination] = ports(number);
            assert_eq!(tcp[..2], source.to_be_bytes());
            assert_eq!(tcp[2..4], destination.to_be_bytes());
        }
    }
}
