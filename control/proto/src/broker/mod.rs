//! The broker as a value: who is let in as whom, who has subscribed to what, what is sent to whom, and who has to go.
//!
//! It is what MQTT 3.1.1 asks of a server beyond the wire: clean sessions, QoS 0 and 1 (a publish with QoS 2 is taken
//! once and delivered with QoS 1), wildcards, keep-alive, wills, takeover of a client id; and beyond MQTT a
//! [`Grant`](topic::Grant) per client and a bound for all that a client can make the broker hold ([`Limits`]). It keeps no
//! retained message and no session beyond a connection; nobody here asks for either, and gateways ask again what they
//! missed.
//!
//! A shell owns sockets, the wire format and the clock: it calls the [`Router`] with what clients say, and then asks
//! [`Router::poll_event`] whose turn it is. Payloads are shared, never copied.

pub mod topic;
mod session;
mod router;

pub use router::{Connect, ConnectError, Event, Refused, Routed, Router};
pub use session::{
    ACKNOWLEDGE_WAIT, Close, FILTER_BYTES_MAX, FILTERS_MAX, Limits, SessionId, Transmit, Will,
};

/// How surely a message arrives (MQTT 3.1.1 section 4.3), as far as the broker delivers.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Qos {
    AtMostOnce,
    AtLeastOnce,
}

#[cfg(test)]
mod model;
