//! Small datagrams: a generator that sends 64-byte payloads with sendmmsg (no segmentation offload), and a counter.

use super::mmsg::Burst;
use crate::lab::clock::now;
use crate::lab::{LabError, NetNs};
use nix::sys::socket::{setsockopt, sockopt};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes of payload.
pub const PAYLOAD: usize = 64;

/// A socket that counts what it receives.
#[derive(Debug)]
pub struct Counter {
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Counter {
    /// Counts at `port` (both families) in `namespace`.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn new(namespace: &NetNs, port: u16) -> Result<Self, LabError> {
        let socket = namespace
            .run(move || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)))
            .map_err(LabError::socket(format!("UDP port {port}")))?;
        // A burst must find room while the counter waits for a core.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20));
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .map_err(LabError::socket("a receive time limit"))?;
        let received = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (count, told) = (Arc::clone(&received), Arc::clone(&stop));
        let thread = std::thread::spawn(move || count_datagrams(&socket, &count, &told));
        Ok(Self {
            received,
            stop,
            thread: Some(thread),
        })
    }

    /// Datagrams received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It holds nothing that a panic could leave behind.
            let _ = thread.join();
        }
    }
}

fn count_datagrams(socket: &UdpSocket, count: &AtomicU64, stop: &AtomicBool) {
    let mut burst = Burst::new();
    while !stop.load(Ordering::Relaxed) {
        // A time limit that passed is a look at `stop`.
        if let Ok(received) = burst.receive(socket) {
            count.fetch_add(received as u64, Ordering::Relaxed);
        }
    }
}

/// What was sent.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Sent {
    /// Datagrams that the sender's kernel took.
    pub datagrams: u64,
    pub seconds: f64,
}

/// Sends as fast as one thread can, for `duration`.
///
/// # Errors
/// When the socket cannot be made.
pub fn send(namespace: &NetNs, to: SocketAddr, duration: Duration) -> Result<Sent, LabError> {
    let any = if to.is_ipv4() {
        IpAddr::from([0; 4])
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = namespace
        .run(move || {
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(to)?;
            Ok(socket)
        })
        .map_err(LabError::socket(format!("a UDP socket towards {to}")))?;
    Ok(send_for(&socket, duration))
}

fn send_for(socket: &UdpSocket, duration: Duration) -> Sent {
    let mut burst = Burst::new();
    let begin = now();
    let mut datagrams = 0;
    while begin.elapsed() < duration {
        // What the kernel refuses was not sent, and a refusal by an ICMP error is reported here.
        if let Ok(taken) = burst.send(socket, PAYLOAD) {
            datagrams += taken as u64;
        }
    }
    Sent {
        datagrams,
        seconds: begin.elapsed().as_secs_f64(),
    }
}
