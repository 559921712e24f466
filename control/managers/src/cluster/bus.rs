//! The cluster manager's place on the message bus: inside the embedded broker, or a client of an external one.

use crate::access::Token;
use crate::broker::{Broker, Link, Message};
use crate::config::{ConfigError, host_port};
use crate::http::stopped;
use crate::log_limit::warn_limited;
use bytes::Bytes;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Messages that wait for the manager; a burst of a large site fits.
const WAITING_MAX: usize = 4096;
/// Messages that wait for an external broker.
const SENDING_MAX: usize = 4096;
const PACKET_MAX: usize = 1 << 20;
/// As Oakestra's cluster service manager: a dead broker is noticed soon.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// Where messages come from and go to.
pub(super) enum Bus {
    Embedded(Link),
    External(External),
}

impl Bus {
    /// Joins the embedded broker and subscribes to `filter`.
    pub(super) fn embedded(broker: &Broker, filter: &str) -> Self {
        let link = broker.link("$cluster-manager");
        link.subscribe(filter);
        Self::Embedded(link)
    }

    /// Starts a task that keeps a connection to the broker at `address` until `stop`.
    pub(super) fn external(
        address: &str,
        login: Option<&(String, Token)>,
        client_id: &str,
        filter: &str,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, ConfigError> {
        let (host, port) = host_port(address)?;
        let mut options = MqttOptions::new(client_id, host, port);
        options.set_keep_alive(KEEP_ALIVE);
        options.set_max_packet_size(PACKET_MAX, PACKET_MAX);
        if let Some((user, token)) = login {
            options.set_credentials(user, token.secret());
        }
        let (client, mut events) = AsyncClient::new(options, SENDING_MAX);
        events.network_options.set_tcp_nodelay(true);
        events.network_options.set_connection_timeout(5);
        let (sender, messages) = mpsc::channel(WAITING_MAX);
        let (connected, watched) = watch::channel(false);
        let connection = Connection {
            address: address.to_owned(),
            client: client.clone(),
            filter: filter.to_owned(),
            sender,
            connected,
        };
        tokio::spawn(connection.keep(events, stop));
        Ok(Self::External(External {
            client,
            messages: tokio::sync::Mutex::new(messages),
            connected: watched,
        }))
    }

    /// The next message; nothing is lost when the future is dropped. Never returns once an external bus has stopped.
    pub(super) async fn receive(&self) -> Message {
        match self {
            Self::Embedded(link) => link.receive().await,
            Self::External(external) => match external.messages.lock().await.recv().await {
                Some(message) => message,
                None => std::future::pending().await,
            },
        }
    }

    /// The next message, if it is there.
    pub(super) fn try_receive(&self) -> Option<Message> {
        match self {
            Self::Embedded(link) => link.try_receive(),
            Self::External(external) => external.messages.try_lock().ok()?.try_recv().ok(),
        }
    }

    /// Sends, or drops and counts while the broker is away: whoever waits asks again.
    pub(super) fn publish(&self, topic: &str, payload: Vec<u8>) {
        match self {
            Self::Embedded(link) => link.publish(topic, &Bytes::from(payload)),
            Self::External(external) => {
                let sent = *external.connected.borrow()
                    && external
                        .client
                        .try_publish(topic, QoS::AtLeastOnce, false, payload)
                        .is_ok();
                if !sent {
                    metrics::counter!("sluice_bus_dropped_total").increment(1);
                    warn_limited!(topic, "message dropped: the broker is away or slow");
                }
            }
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        match self {
            Self::Embedded(_) => true,
            Self::External(external) => *external.connected.borrow(),
        }
    }
}

/// Our end of the connection to an external broker.
pub(super) struct External {
    client: AsyncClient,
    messages: tokio::sync::Mutex<mpsc::Receiver<Message>>,
    connected: watch::Receiver<bool>,
}

struct Connection {
    address: String,
    client: AsyncClient,
    filter: String,
    sender: mpsc::Sender<Message>,
    connected: watch::Sender<bool>,
}

impl Connection {
    async fn keep(self, mut events: EventLoop, stop: watch::Receiver<bool>) {
        let mut retry = RETRY_FIRST;
        loop {
            let event = tokio::select! {
                event = events.poll() => event,
                () = stopped(stop.clone()) => return,
            };
            match event {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    retry = RETRY_FIRST;
                    tracing::info!(broker = self.address, "connected to the broker");
                    // The channel is empty after a reconnection, so that this cannot fail for lack of room.
                    let _ = self
                        .client
                        .try_subscribe(self.filter.as_str(), QoS::AtLeastOnce);
                }
                Ok(Event::Incoming(Packet::SubAck(_))) => {
                    self.connected.send_replace(true);
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    let message = Message {
                        topic: Arc::from(publish.topic.as_str()),
                        payload: publish.payload,
                    };
                    if self.sender.try_send(message).is_err() {
                        metrics::counter!("sluice_bus_overrun_total").increment(1);
                        warn_limited!("messages dropped: more come than can be answered");
                    }
                }
                Ok(Event::Incoming(_) | Event::Outgoing(_)) => {}
                Err(error) => {
                    self.connected.send_replace(false);
                    warn_limited!(broker = self.address, %error, "the broker is away");
                    tokio::select! {
                        () = tokio::time::sleep(retry) => {}
                        () = stopped(stop.clone()) => return,
                    }
                    retry = (retry * 2).min(RETRY_LAST);
                }
            }
        }
    }
}
