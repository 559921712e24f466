//! Attempts to reach a broker by TCP, side by side: the first one that succeeds counts.

use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

/// An attempt may take so long: a way on which a handshake takes longer carries no control.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);

/// The attempts under way.
pub(super) struct Reach {
    host: String,
    port: u16,
    /// Where the host is; attempts take turns.
    addresses: Vec<SocketAddr>,
    turn: usize,
    /// One at a time: each holds a thread for as long as name servers cannot be reached.
    lookup: JoinSet<io::Result<Vec<SocketAddr>>>,
    attempts: JoinSet<io::Result<TcpStream>>,
}

impl Reach {
    pub(super) fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            addresses: Vec::new(),
            turn: 0,
            lookup: JoinSet::new(),
            attempts: JoinSet::new(),
        }
    }

    /// Begins another attempt, at the addresses that the host had last; they are looked up again meanwhile.
    pub(super) fn begin(&mut self) {
        let (host, port) = (self.host.clone(), self.port);
        if let Ok(ip) = host.parse::<IpAddr>() {
            self.addresses = vec![SocketAddr::new(ip, port)];
        } else if self.lookup.is_empty() {
            self.lookup
                .spawn(async move { Ok(lookup_host((host, port)).await?.collect()) });
        }
        self.attempt();
    }

    fn attempt(&mut self) {
        let mut addresses = self.addresses.iter().cycle();
        let Some(address) = addresses.nth(self.turn).copied() else {
            return;
        };
        self.turn = (self.turn + 1) % self.addresses.len();
        self.attempts.spawn(async move {
            let connect = timeout(ATTEMPT_MAX, TcpStream::connect(address));
            connect.await.map_err(|_| io::ErrorKind::TimedOut)?
        });
    }

    /// What comes of the next attempt that ends; never, while there is none. Nothing is lost when the future is dropped.
    pub(super) async fn reached(&mut self) -> io::Result<TcpStream> {
        loop {
            tokio::select! {
                Some(attempt) = self.attempts.join_next() => return ended(attempt),
                Some(lookup) = self.lookup.join_next() => match ended(lookup) {
                    Ok(addresses) => {
                        self.addresses = addresses;
                        if self.attempts.is_empty() {
                            self.attempt();
                        }
                    }
                    // The former addresses may still be right.
                    Err(_) if !self.addresses.is_empty() => {}
                    Err(error) => return Err(error),
                },
                else => pending().await,
            }
        }
    }

    /// Ends all attempts.
    pub(super) fn stop(&mut self) {
        self.attempts = JoinSet::new();
    }
}

fn ended<T>(task: Result<io::Result<T>, JoinError>) -> io::Result<T> {
    task.unwrap_or_else(|error| Err(io::Error::other(error)))
}
