//! Small datagrams: a generator that sends 64-byte payloads with sendmmsg (no segmentation offload), and a counter.

use super::mmsg::Burst;
use crate::lab::clock::now;
use crate::lab::{LabError, NetNs};
use nix::sys::socket::{setsockopt, sockopt};
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

/// What a blast came to.
#[derive(Clone, Copy, Debug)]
pub struct Blast {
    /// Datagrams per second that the sender's kernel took.
    pub sent_s: f64,
    /// Datagrams per second that arrived while it sent.
    pub received_s: f64,
}

/// Sends as fast as one thread can, for `duration`, and counts what arrives meanwhile.
///
/// # Errors
/// When the socket cannot be made.
pub fn blast(
    namespace: &NetNs,
    to: SocketAddr,
    counter: &Counter,
    duration: Duration,
) -> Result<Blast, LabError> {
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
    // The first datagram may have to ask the managers; the others must not be measured waiting for it.
    let first = counter.received();
    let begin = now();
    while counter.received() == first && begin.elapsed() < Duration::from_secs(3) {
        // A refusal by an ICMP error is reported at the next send; the next round sees whether it lasts.
        let _ = socket.send(&[0; PAYLOAD]);
        crate::lab::clock::pause(Duration::from_millis(20));
    }
    let before = counter.received();
    let begin = now();
    let sent = std::thread::spawn(move || send_for(&socket, duration))
        .join()
        .unwrap_or_default();
    let seconds = begin.elapsed().as_secs_f64();
    let received = counter.received() - before;
    Ok(Blast {
        sent_s: sent as f64 / seconds,
        received_s: received as f64 / seconds,
    })
}

fn send_for(socket: &UdpSocket, duration: Duration) -> u64 {
    let mut burst = Burst::new();
    let begin = now();
    let mut sent = 0;
    while begin.elapsed() < duration {
        // What the kernel refuses was not sent.
        if let Ok(taken) = burst.send(socket, PAYLOAD) {
            sent += taken as u64;
        }
    }
    sent
}
