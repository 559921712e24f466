//! The loop of the name server's thread: sockets on one side, the protocol on the other.

use super::upstream::{self, Resolvers};
use super::{PORT, Shared, State, stream};
use crate::config::NameServer;
use sluice_proto::dns::{Forward, Names, Question, Reply, Server, Settings, Transport};
use sluice_wire::{Dual, Ip};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

/// Datagrams taken before other events get their turn.
const DATAGRAMS_PER_TURN: usize = 64;
/// A longer datagram is no query.
const DATAGRAM_MAX: usize = 4096;
/// Queries of connections that wait for this loop.
const STREAM_QUERIES_MAX: usize = 64;
/// An address that cannot be bound is tried again so often: whoever holds the port may go.
const BIND_RETRY: Duration = Duration::from_secs(2);

/// Where a reply goes.
#[derive(Debug)]
enum Client {
    Udp {
        socket: Arc<UdpSocket>,
        peer: SocketAddr,
    },
    Tcp(oneshot::Sender<Vec<u8>>),
}

/// A query of a connection.
#[derive(Debug)]
pub(super) struct StreamQuery {
    pub(super) bytes: Vec<u8>,
    pub(super) from: Ip,
    pub(super) reply: oneshot::Sender<Vec<u8>>,
}

/// The sockets of one address.
struct Endpoint {
    address: IpAddr,
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
}

/// Everything that the thread owns.
pub(super) struct Serving {
    server: Server<Client>,
    resolvers: Resolvers,
    shared: Arc<Shared>,
    questions: mpsc::Sender<Question>,
    clock: fn() -> Duration,
    random: RandomState,
    forwarded: u64,
    wanted: Dual<Ip>,
    endpoints: [Option<Endpoint>; 2],
    bind_at: Option<Instant>,
    places: stream::Places,
}

/// An exchange that ended.
type Ended = (Forward<Client>, Option<Vec<u8>>);

impl Serving {
    pub(super) fn new(
        config: &NameServer,
        shared: Arc<Shared>,
        questions: mpsc::Sender<Question>,
        clock: fn() -> Duration,
    ) -> Self {
        let counts = Arc::clone(&shared.counts);
        Self {
            server: Server::new(config.zones.clone(), Settings::default(), counts),
            resolvers: Resolvers::new(&config.upstream),
            shared,
            questions,
            clock,
            random: RandomState::new(),
            forwarded: 0,
            wanted: Dual::default(),
            endpoints: [None, None],
            bind_at: None,
            places: stream::Places::default(),
        }
    }

    /// Serves until `addresses` is closed.
    pub(super) async fn run(
        mut self,
        mut names: watch::Receiver<Arc<Names>>,
        mut addresses: watch::Receiver<Dual<Ip>>,
    ) {
        let (queries, mut stream_queries) = mpsc::channel::<StreamQuery>(STREAM_QUERIES_MAX);
        let (ended, mut ended_exchanges) = mpsc::unbounded_channel::<Ended>();
        let mut room = vec![0; DATAGRAM_MAX];
        loop {
            let due = self.due();
            let [first, second] = &self.endpoints;
            tokio::select! {
                changed = addresses.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.wanted = *addresses.borrow_and_update();
                    self.bind().await;
                }
                Ok(()) = names.changed() => {
                    let latest = Arc::clone(&names.borrow_and_update());
                    self.server.handle_names(latest);
                }
                () = readable(first.as_ref()) => self.take_datagrams(0, &mut room),
                () = readable(second.as_ref()) => self.take_datagrams(1, &mut room),
                accepted = accept(first.as_ref()) => self.converse(accepted, &queries),
                accepted = accept(second.as_ref()) => self.converse(accepted, &queries),
                Some(StreamQuery { bytes, from, reply }) = stream_queries.recv() => {
                    let to = Client::Tcp(reply);
                    self.server.handle_query(&bytes, from, Transport::Tcp, to, (self.clock)());
                }
                Some((forward, answer)) = ended_exchanges.recv() => {
                    self.server.handle_forwarded(forward, answer);
                }
                () = sleep_until(due) => {
                    self.server.handle_timeout((self.clock)());
                    if self.bind_at.is_some_and(|at| at <= Instant::now()) {
                        self.bind().await;
                    }
                }
            }
            self.settle(&ended);
        }
    }

    fn due(&self) -> Instant {
        let now = Instant::now();
        let clock = (self.clock)();
        let far = now + Duration::from_secs(3600);
        let server = self
            .server
            .poll_timeout()
            .map(|at| now + at.saturating_sub(clock));
        [server, self.bind_at]
            .into_iter()
            .flatten()
            .fold(far, Instant::min)
    }

    /// Sends, asks and passes on whatever the last event left to be done.
    fn settle(&mut self, ended: &mpsc::UnboundedSender<Ended>) {
        while let Some(reply) = self.server.poll_reply() {
            send(reply);
        }
        while let Some(question) = self.server.poll_question() {
            // Control is behind: the query fails in time, and whoever asked asks again.
            let _ = self.questions.try_send(question);
        }
        while let Some(forward) = self.server.poll_forward() {
            let exchange = forward.exchange(self.resolvers.get(self.wanted), (self.clock)());
            self.forwarded += 1;
            // Keyed by the kernel's randomness: nobody outside can tell the next one from those before.
            let ids = self.random.hash_one(self.forwarded).to_be_bytes();
            let (clock, ended) = (self.clock, ended.clone());
            tokio::spawn(async move {
                let answer = upstream::run(exchange, ids, clock).await;
                // The loop ends only with the gateway.
                let _ = ended.send((forward, answer));
            });
        }
    }

    fn take_datagrams(&mut self, index: usize, room: &mut [u8]) {
        let Some(endpoint) = &self.endpoints[index] else {
            return;
        };
        let udp = Arc::clone(&endpoint.udp);
        for _ in 0..DATAGRAMS_PER_TURN {
            // An error is that of an earlier reply (its receiver has gone), or that nothing is left.
            let Ok((len, peer)) = udp.try_recv_from(room) else {
                return;
            };
            let to = Client::Udp {
                socket: Arc::clone(&udp),
                peer,
            };
            let from = Ip::from(peer.ip());
            self.server
                .handle_query(&room[..len], from, Transport::Udp, to, (self.clock)());
            while let Some(reply) = self.server.poll_reply() {
                send(reply);
            }
        }
    }

    /// Serves a connection, if an instance made it and has not too many.
    fn converse(
        &self,
        (stream, peer): (TcpStream, SocketAddr),
        queries: &mpsc::Sender<StreamQuery>,
    ) {
        let from = Ip::from(peer.ip());
        if self.server.serves(from)
            && let Some(place) = self.places.take(from)
        {
            tokio::spawn(stream::converse(stream, from, place, queries.clone()));
        }
    }

    /// Binds what is wanted and not bound yet.
    async fn bind(&mut self) {
        self.bind_at = None;
        let mut state = State::default();
        let wanted = [self.wanted.v4, self.wanted.v6];
        for (endpoint, wanted) in self.endpoints.iter_mut().zip(wanted) {
            let wanted = wanted.map(IpAddr::from);
            if endpoint.as_ref().map(|it| it.address) != wanted {
                *endpoint = None;
            }
            let Some(address) = wanted else { continue };
            if endpoint.is_none() {
                match Endpoint::bind(address).await {
                    Ok(bound) => *endpoint = Some(bound),
                    Err(error) => {
                        self.bind_at = Some(Instant::now() + BIND_RETRY);
                        let at = SocketAddr::new(address, PORT);
                        state.problem = format!(
                            "{at} cannot be bound: {error}; `sluice doctor` says who holds the port, \
                             `names.enabled` = false does without names"
                        );
                        continue;
                    }
                }
            }
            state.listening.push(address.to_string());
        }
        let mut shown = self
            .shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if shown.problem != state.problem && !state.problem.is_empty() {
            tracing::warn!(problem = state.problem, "names are not resolved");
        }
        *shown = state;
    }
}

impl Endpoint {
    async fn bind(address: IpAddr) -> std::io::Result<Self> {
        let udp = UdpSocket::bind((address, PORT)).await?;
        let tcp = TcpListener::bind((address, PORT)).await?;
        tracing::info!(%address, "answers names");
        Ok(Self {
            address,
            udp: Arc::new(udp),
            tcp,
        })
    }
}

fn send(Reply { to, bytes }: Reply<Client>) {
    match to {
        // A datagram that finds no room in the socket is lost as on any wire: its client asks again.
        Client::Udp { socket, peer } => drop(socket.try_send_to(&bytes, peer)),
        // Whoever has hung up needs no reply.
        Client::Tcp(reply) => drop(reply.send(bytes)),
    }
}

/// Completes when a datagram waits; never without a socket.
async fn readable(endpoint: Option<&Endpoint>) {
    match endpoint {
        // An error shows itself at the read.
        Some(endpoint) => drop(endpoint.udp.readable().await),
        None => std::future::pending().await,
    }
}

/// Completes with a connection; never without a socket.
async fn accept(endpoint: Option<&Endpoint>) -> (TcpStream, SocketAddr) {
    loop {
        match endpoint {
            Some(endpoint) => match endpoint.tcp.accept().await {
                Ok(accepted) => return accepted,
                // The connection has gone again, or descriptors are short.
                Err(error) => {
                    tracing::debug!(%error, "a connection to the name server");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            None => std::future::pending().await,
        }
    }
}
