//! A small MQTT 3.1.1 broker for one site: the sockets around [`sluice_proto::broker`], which says what it offers and decides.
//!
//! Why not an existing broker crate: `rumqttd` 0.20 brings 170 crates even without default features (a second axum,
//! hyper and metrics stack and parsers of four configuration languages), starts a thread per listener and one for
//! routing, cannot be stopped, and has no rule for who may publish where. The wire format is `rumqttc`'s, which is
//! the MQTT client of this workspace already.

mod connection;

use crate::clock::Clock;
use crate::credential::BrokerAccess;
use crate::log_limit::warn_limited;
use bytes::Bytes;
use connection::Connection;
use sluice_proto::broker::{
    Close, Connect, ConnectError, Event, Qos, Refused, Routed, Router, SessionId,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

/// Connections at a time: several times the nodes of a large site, far below the usual limit of descriptors.
const CONNECTIONS_MAX: usize = 8192;

/// The broker; clones are the same one.
#[derive(Clone)]
pub(crate) struct Broker(Arc<Shared>);

struct Shared {
    shell: Mutex<Shell>,
    clock: Clock,
    access: BrokerAccess,
    connections: Arc<Semaphore>,
}

/// The router, and who waits for it.
#[derive(Default)]
struct Shell {
    router: Router,
    peers: BTreeMap<SessionId, Arc<Peer>>,
}

/// What a session's task waits for.
#[derive(Default)]
struct Peer {
    /// Something was queued, or the session was ended, since this was last seen.
    changed: Notify,
    closed: OnceLock<Close>,
}

impl Shell {
    fn open(&mut self, session: SessionId) -> Arc<Peer> {
        let peer = Arc::default();
        self.peers.insert(session, Arc::clone(&peer));
        peer
    }

    /// Passes on what the router has to say.
    fn follow(&mut self) {
        while let Some(event) = self.router.poll_event() {
            match event {
                Event::Ready(session) => {
                    if let Some(peer) = self.peers.get(&session) {
                        peer.changed.notify_one();
                    }
                }
                Event::Closed(session, why) => {
                    if let Some(peer) = self.peers.remove(&session) {
                        // A session ends once.
                        let _ = peer.closed.set(why);
                        peer.changed.notify_one();
                    }
                }
                Event::Will { topic, outcome } => count_published(&topic, outcome),
            }
        }
    }
}

impl Broker {
    pub(crate) fn new(access: BrokerAccess) -> Self {
        Self(Arc::new(Shared {
            shell: Mutex::default(),
            clock: Clock::start(),
            access,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }))
    }

    /// A client inside this process, allowed everything. Its id begins with `$`, so that no connection can take it over.
    pub(crate) fn link(&self, client_id: &str) -> Link {
        let (session, peer) = self.with(|shell| {
            let session = shell.router.link(client_id, self.now());
            (session, shell.open(session))
        });
        Link {
            broker: self.clone(),
            session,
            peer,
        }
    }

    /// A client that connects.
    fn connect(&self, connect: Connect<'_>) -> Result<(SessionId, Arc<Peer>), ConnectError> {
        self.with(|shell| {
            let session = shell.router.connect(connect, self.now())?;
            Ok((session, shell.open(session)))
        })
    }

    /// The connection of a session ended, after a `farewell` or without.
    fn disconnect(&self, session: SessionId, farewell: bool) {
        self.with(|shell| {
            shell.peers.remove(&session);
            shell.router.disconnect(session, farewell);
        });
    }

    /// Serves `listener` until `stop` becomes true, then closes every connection.
    pub(crate) async fn serve(self, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let mut open = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            while open.try_join_next().is_some() {}
            match accepted {
                Ok((stream, peer)) => {
                    let Ok(permit) = Arc::clone(&self.0.connections).try_acquire_owned() else {
                        count_refused("connections_max");
                        continue;
                    };
                    let connection = Connection::new(self.clone(), peer, stop.clone());
                    open.spawn(async move {
                        connection.run(stream).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    warn_limited!(%error, "cannot accept an MQTT connection");
                    // Out of descriptors: without a pause this loop would spin until one is free.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(listener);
        while open.join_next().await.is_some() {}
    }

    pub(crate) fn clients(&self) -> Vec<String> {
        self.with(|shell| shell.router.client_ids().map(str::to_owned).collect())
    }

    fn now(&self) -> Duration {
        self.0.clock.now()
    }

    /// Asks or tells the router something, and wakes whom that concerns.
    fn with<T>(&self, act: impl FnOnce(&mut Shell) -> T) -> T {
        let locked = self.0.shell.lock();
        let mut shell = locked.unwrap_or_else(PoisonError::into_inner);
        let outcome = act(&mut shell);
        shell.follow();
        outcome
    }
}

fn count_published(topic: &str, outcome: Result<Routed, Refused>) {
    match outcome {
        Ok(routed) => {
            metrics::counter!("sluice_broker_published_total").increment(1);
            metrics::counter!("sluice_broker_delivered_total").increment(routed.delivered as u64);
            if routed.dropped > 0 {
                metrics::counter!("sluice_broker_dropped_total").increment(routed.dropped as u64);
                warn_limited!(
                    topic,
                    clients = routed.dropped,
                    "messages dropped: a client does not read"
                );
            }
        }
        Err(why) => {
            metrics::counter!("sluice_broker_denied_total", "reason" => why.name()).increment(1);
            warn_limited!(topic, %why, "publish refused");
        }
    }
}

fn count_refused(reason: &'static str) {
    metrics::counter!("sluice_broker_refused_total", "reason" => reason).increment(1);
}

/// A message as a subscriber sees it.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Bytes,
}

/// A client of the broker inside this process.
pub(crate) struct Link {
    broker: Broker,
    session: SessionId,
    peer: Arc<Peer>,
}

impl Link {
    pub(crate) fn subscribe(&self, filter: &str) {
        let stands = self.broker.with(|shell| {
            shell
                .router
                .subscribe(self.session, filter, Qos::AtLeastOnce)
        });
        debug_assert!(
            stands.is_ok(),
            "{filter} is a filter and a link may subscribe"
        );
    }

    pub(crate) fn publish(&self, topic: &str, payload: &Bytes) {
        let publish = |shell: &mut Shell| {
            let router = &mut shell.router;
            router.publish(self.session, topic, payload, Qos::AtLeastOnce)
        };
        count_published(topic, self.broker.with(publish));
    }

    /// The next message; nothing is lost when the future is dropped.
    pub(crate) async fn receive(&self) -> Message {
        loop {
            if let Some(message) = self.try_receive() {
                return message;
            }
            self.peer.changed.notified().await;
        }
    }

    /// The next message, if it is there.
    pub(crate) fn try_receive(&self) -> Option<Message> {
        let now = self.broker.now();
        let next = self
            .broker
            .with(|shell| shell.router.poll_transmit(self.session, now))?;
        Some(Message {
            topic: next.topic,
            payload: next.payload,
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.broker.disconnect(self.session, true);
    }
}

#[cfg(test)]
mod tests;
