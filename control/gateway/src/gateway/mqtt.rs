//! The MQTT shell: one connection to the cluster's broker, kept up with back-off, as a stream of events.

use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, NetworkOptions, Packet, QoS,
};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Keep-alive as the legacy worker's (OAKESTRA-WIRE section 2.1).
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Delays between attempts to connect: doubled from the first to the last.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(2);
/// Requests that may wait for the connection; above it, publishing fails and the protocol asks again later.
const QUEUE_MAX: usize = 1024;
/// The longest message taken; a table-query result of 1,000 instances has about 300 KB.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Where the broker is, and as whom to speak.
#[derive(Clone, Debug)]
pub(crate) struct MqttConfig {
    /// The worker id; also the client id (it must not collide with the node engine's `<id>-ne`).
    pub node_id: String,
    pub host: String,
    pub port: u16,
    /// Password for a broker that asks for one; the user is the node id.
    pub token: Option<String>,
}

#[derive(Debug)]
pub(crate) enum MqttEvent {
    /// A fresh session: nothing is subscribed.
    Connected,
    /// The connection failed or ended; it is being retried.
    Disconnected(String),
    Message {
        topic: String,
        payload: Vec<u8>,
    },
}

/// The connection. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Mqtt {
    client: AsyncClient,
    task: JoinHandle<()>,
}

impl Mqtt {
    /// Starts connecting; what happens arrives on `events`.
    pub(crate) fn start(config: &MqttConfig, events: mpsc::Sender<MqttEvent>) -> Self {
        let mut options = MqttOptions::new(&config.node_id, &config.host, config.port);
        options.set_keep_alive(KEEP_ALIVE);
        options.set_clean_session(true);
        options.set_max_packet_size(MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX);
        if let Some(token) = &config.token {
            options.set_credentials(&config.node_id, token);
        }
        let (client, mut connection) = AsyncClient::new(options, QUEUE_MAX);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(5);
        connection.set_network_options(network);
        let task = tokio::spawn(run(connection, events));
        Self { client, task }
    }

    /// Queues a message; false when the queue is full, which the protocol above treats like a lost message.
    pub(crate) fn publish(&self, topic: &str, payload: Vec<u8>) -> bool {
        self.client
            .try_publish(topic, QoS::AtLeastOnce, false, payload)
            .is_ok()
    }

    pub(crate) fn subscribe(&self, topic: &str) -> bool {
        self.client.try_subscribe(topic, QoS::AtLeastOnce).is_ok()
    }

    pub(crate) fn unsubscribe(&self, topic: &str) -> bool {
        self.client.try_unsubscribe(topic).is_ok()
    }
}

impl Drop for Mqtt {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(mut connection: EventLoop, events: mpsc::Sender<MqttEvent>) {
    let mut retry = RETRY_FIRST;
    loop {
        let event = match connection.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                retry = RETRY_FIRST;
                MqttEvent::Connected
            }
            Ok(Event::Incoming(Packet::Publish(message))) => MqttEvent::Message {
                topic: message.topic,
                payload: message.payload.to_vec(),
            },
            Ok(_) => continue,
            Err(error) => {
                // What was queued before belongs to a session that is gone; the protocol asks again.
                connection.clean();
                connection.pending.clear();
                let text = describe(&error);
                if events.send(MqttEvent::Disconnected(text)).await.is_err() {
                    return;
                }
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY_LAST);
                continue;
            }
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(code) => {
            format!("the broker refused the connection: {code:?}")
        }
        ConnectionError::MqttState(_)
        | ConnectionError::NetworkTimeout
        | ConnectionError::FlushTimeout
        | ConnectionError::Io(_)
        | ConnectionError::NotConnAck(_)
        | ConnectionError::RequestsDone => error.to_string(),
    }
}
