//! The cluster manager's place on the message bus: inside the embedded broker, or a client of an external one.

use super::notices::Notices;
use crate::access::Token;
use crate::broker::{Broker, Link, Message};
use crate::clock::Clock;
use crate::config::{ConfigError, host_port};
use crate::http::stopped;
use crate::log_limit::warn_limited;
use crate::mqtt::{Mqtt, MqttConfig, MqttEvent};
use bytes::Bytes;
use sluice_proto::message::Topic;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Messages that wait for the manager; a burst of a large site fits.
const WAITING_MAX: usize = 4096;
/// Events of the connection that wait to be sorted.
const EVENTS_MAX: usize = 64;
/// As for gateways by default: `gateway.broker_silence_ms`.
const SILENCE: Duration = Duration::from_secs(1);
/// How often it is tried to repeat notices that found no room.
const REPEAT_PAUSE: Duration = Duration::from_secs(1);

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
        let config = MqttConfig {
            client_id: client_id.to_owned(),
            login: login.cloned(),
            host: host.to_owned(),
            port,
            silence: SILENCE,
        };
        let (told, events) = mpsc::channel(EVENTS_MAX);
        let sender = Arc::new(Sender {
            mqtt: Mqtt::start(config, told),
            clock: Clock::start(),
            notices: Mutex::default(),
        });
        let (waiting, messages) = mpsc::channel(WAITING_MAX);
        let (connected, watched) = watch::channel(false);
        let connection = Connection {
            address: address.to_owned(),
            sender: Arc::clone(&sender),
            filter: filter.to_owned(),
            waiting,
            connected,
        };
        tokio::spawn(connection.keep(events, stop));
        Ok(Self::External(External {
            sender,
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

    /// Sends, or drops and counts while the broker is away: whoever waits asks again, and notices are repeated.
    pub(super) fn publish(&self, topic: &str, payload: Vec<u8>) {
        match self {
            Self::Embedded(link) => link.publish(topic, &Bytes::from(payload)),
            Self::External(external) => {
                let connected = *external.connected.borrow();
                if !external.sender.send(topic, payload, connected) {
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
    sender: Arc<Sender>,
    messages: tokio::sync::Mutex<mpsc::Receiver<Message>>,
    connected: watch::Receiver<bool>,
}

struct Sender {
    mqtt: Mqtt,
    clock: Clock,
    notices: Mutex<Notices>,
}

impl Sender {
    /// False when it is not on its way.
    fn send(&self, topic: &str, payload: Vec<u8>, connected: bool) -> bool {
        let notice = Topic::tells_of_a_job(topic).then(|| payload.clone());
        let sent = connected && self.mqtt.publish(topic, payload);
        if let Some(notice) = notice {
            self.notices().note(topic, &notice, sent, self.clock.now());
        }
        sent
    }

    /// Publishes again what may have been lost, as far as there is room.
    fn repeat(&self) {
        while self.mqtt.has_room() {
            let Some((topic, payload)) = self.notices().poll_owed() else {
                return;
            };
            self.send(&topic, payload, true);
        }
    }

    fn notices(&self) -> MutexGuard<'_, Notices> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Connection {
    address: String,
    sender: Arc<Sender>,
    filter: String,
    waiting: mpsc::Sender<Message>,
    connected: watch::Sender<bool>,
}

impl Connection {
    async fn keep(self, mut events: mpsc::Receiver<MqttEvent>, stop: watch::Receiver<bool>) {
        let mut pause = tokio::time::interval(REPEAT_PAUSE);
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                _ = pause.tick() => {
                    self.sender.repeat();
                    continue;
                }
                () = stopped(stop.clone()) => return,
            };
            match event {
                Some(MqttEvent::Connected) => {
                    tracing::info!(broker = self.address, "connected to the broker");
                    // The queue of a connection that is new has room.
                    self.sender.mqtt.subscribe(&self.filter);
                }
                Some(MqttEvent::Subscribed) => {
                    self.connected.send_replace(true);
                    self.sender.notices().handle_up(self.sender.clock.now());
                    self.sender.repeat();
                }
                Some(MqttEvent::Message { topic, payload }) => {
                    let message = Message {
                        topic: Arc::from(topic),
                        payload: Bytes::from(payload),
                    };
                    if self.waiting.try_send(message).is_err() {
                        metrics::counter!("sluice_bus_overrun_total").increment(1);
                        warn_limited!("messages dropped: more come than can be answered");
                    }
                }
                Some(MqttEvent::Disconnected(why)) => {
                    self.connected.send_replace(false);
                    self.sender.notices().handle_down();
                    warn_limited!(broker = self.address, why, "the broker is away");
                }
                None => return,
            }
        }
    }
}
