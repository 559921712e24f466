//! A small MQTT 3.1.1 broker for one site: what cluster managers and gateways exchange passes through it.
//!
//! It offers what the nodes of a site use: clean sessions, QoS 0 and 1 (a publish with QoS 2 is taken and acknowledged
//! as such, and delivered with QoS 1), wildcards, keep-alive, wills, takeover of a client id, a queue per client with
//! a limit, a grant per client. It keeps no retained message and no session beyond a connection; nobody here asks
//! for either, and gateways ask again what they missed.
//!
//! Why not an existing broker crate: `rumqttd` 0.20 brings 170 crates even without default features (a second axum,
//! hyper and metrics stack and parsers of four configuration languages), starts a thread per listener and one for
//! routing, cannot be stopped, and has no rule for who may publish where. The wire format is `rumqttc`'s, which is
//! the MQTT client of this workspace already.

mod connection;
mod router;
mod topic;

use crate::access::Access;
use bytes::Bytes;
use connection::Connection;
use router::{Outbox, QueueLimit, Routed, Router};
use rumqttc::mqttbytes::QoS;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use topic::Grant;

/// Connections at a time: several times the nodes of a large site, far below the usual limit of descriptors.
const CONNECTIONS_MAX: usize = 8192;

/// The managers of the site subscribe to everything and never drop in practice.
const LINK_LIMIT: QueueLimit = QueueLimit {
    messages_max: 65_536,
    bytes_max: 64 << 20,
};

/// The broker; clones are the same one.
#[derive(Clone)]
pub(crate) struct Broker(Arc<Shared>);

struct Shared {
    router: Mutex<Router>,
    access: Access,
    connections: Arc<Semaphore>,
}

impl Broker {
    pub(crate) fn new(access: Access) -> Self {
        Self(Arc::new(Shared {
            router: Mutex::default(),
            access,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }))
    }

    /// A client inside this process, allowed everything. Its id begins with `$`, so that no connection can take it over.
    pub(crate) fn link(&self, client_id: &str) -> Link {
        let (session, outbox) = self.router().join(client_id, Grant::All, LINK_LIMIT);
        Link {
            broker: self.clone(),
            client_id: client_id.to_owned(),
            session,
            outbox,
        }
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
                    crate::log_limit::warn_limited!(%error, "cannot accept an MQTT connection");
                    // Out of descriptors: without a pause this loop would spin until one is free.
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
        drop(listener);
        while open.join_next().await.is_some() {}
    }

    pub(crate) fn clients(&self) -> Vec<String> {
        self.router().client_ids().map(str::to_owned).collect()
    }

    fn publish(&self, topic: &str, payload: &Bytes, qos: QoS) -> Routed {
        let routed = self.router().publish(topic, payload, qos);
        metrics::counter!("sluice_broker_published_total").increment(1);
        metrics::counter!("sluice_broker_delivered_total").increment(routed.delivered as u64);
        if routed.dropped > 0 {
            metrics::counter!("sluice_broker_dropped_total").increment(routed.dropped as u64);
            crate::log_limit::warn_limited!(
                topic,
                clients = routed.dropped,
                "messages dropped: a client does not read"
            );
        }
        routed
    }

    fn router(&self) -> MutexGuard<'_, Router> {
        self.0.router.lock().unwrap_or_else(PoisonError::into_inner)
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
    client_id: String,
    session: u64,
    outbox: Arc<Outbox>,
}

impl Link {
    pub(crate) fn subscribe(&self, filter: &str) {
        let stands = self
            .broker
            .router()
            .subscribe(&self.client_id, filter, QoS::AtLeastOnce);
        debug_assert!(stands, "{filter} is a filter and a link may subscribe");
    }

    pub(crate) fn publish(&self, topic: &str, payload: &Bytes) {
        self.broker.publish(topic, payload, QoS::AtLeastOnce);
    }

    /// The next message; nothing is lost when the future is dropped.
    pub(crate) async fn receive(&self) -> Message {
        loop {
            if let Some(message) = self.try_receive() {
                return message;
            }
            self.outbox.changed().await;
        }
    }

    /// The next message, if it is there.
    pub(crate) fn try_receive(&self) -> Option<Message> {
        let delivery = self.outbox.pop()?;
        Some(Message {
            topic: delivery.topic,
            payload: delivery.payload,
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.broker.router().leave(&self.client_id, self.session);
    }
}

#[cfg(test)]
mod tests;
