//! What goes to the cluster through the broker.

use super::Core;
use sluice_proto::message::{self, Topic, Verb};
use sluice_proto::table_query::asker::{self, Mqtt as Outgoing};
use std::time::Duration;

/// While the queue to the broker is full, it is looked at this often.
const SEND_PAUSE: Duration = Duration::from_millis(20);

impl Core {
    /// Hands on what the table query has to say, as far as the queue to the broker has room: questions repeat themselves,
    /// but a subscription that is lost would be missed for as long as the connection lasts.
    pub(super) fn send_asked(&mut self, now: Duration) {
        self.send_at = None;
        loop {
            let is_full = self.mqtt.as_ref().is_some_and(|mqtt| !mqtt.has_room());
            // Without a connection nothing is kept for the next one, which begins with everything anew.
            if is_full && self.connected {
                self.send_at = Some(now + SEND_PAUSE);
                return;
            }
            let Some(transmit) = self.asker.poll_transmit() else {
                return;
            };
            self.transmit(&transmit);
        }
    }

    fn transmit(&self, transmit: &asker::Transmit) {
        let (Some(mqtt), Some(node_id)) = (&self.mqtt, &self.node_id) else {
            return;
        };
        let queued = match transmit.mqtt(node_id) {
            Outgoing::Publish { topic, payload } => mqtt.publish(&topic, payload),
            Outgoing::Subscribe { topic } => mqtt.subscribe(&topic),
            Outgoing::Unsubscribe { topic } => mqtt.unsubscribe(&topic),
        };
        if !queued {
            tracing::debug!("without a connection the queue to the broker is full");
        }
    }

    /// Publishes a message about this node, if there is a connection and room; what must be heard is said again later.
    pub(super) fn say<T: serde::Serialize>(&self, verb: Verb, body: &T) {
        if let (Some(mqtt), Some(node_id)) = (&self.mqtt, &self.node_id)
            && self.connected
        {
            mqtt.publish(
                &Topic::node(node_id.clone(), verb).to_string(),
                message::write(body),
            );
        }
    }
}
