//! One connection of the broker: CONNECT and its checks, then packets both ways until either side ends it.

use super::router::{Outbox, QueueLimit};
use super::topic::{self, Grant};
use super::{Broker, count_refused};
use crate::log_limit::warn_limited;
use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{self, QoS, v4};
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// A packet may be this long: a table query's answer with a thousand instances takes half of it.
const PACKET_MAX: usize = 1 << 20;
/// A CONNECT packet may be this long: ours take 100 bytes, and nobody is authenticated yet.
const CONNECT_MAX: usize = 16 << 10;
/// A client has this long to send CONNECT.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// A client that takes no bytes for this long is gone.
const WRITE_WAIT: Duration = Duration::from_secs(10);
/// Messages sent with QoS 1 that the client has not acknowledged yet.
const IN_FLIGHT_MAX: usize = 1024;
/// With so many of them on their way, a client that acknowledges none for this long is broken; it may come back and begin anew.
const ACKNOWLEDGE_WAIT: Duration = Duration::from_secs(10);
/// Stop gathering and write: keeps the buffer small.
const WRITE_SIZE: usize = 64 << 10;
const READ_SIZE: usize = 4 << 10;

/// What may wait for a client that reads slowly, beyond what the kernel buffers.
const CLIENT_LIMIT: QueueLimit = QueueLimit {
    messages_max: 4096,
    bytes_max: 8 << 20,
};

pub(super) struct Connection {
    broker: Broker,
    peer: SocketAddr,
    stop: watch::Receiver<bool>,
}

#[derive(Debug, Error)]
enum End {
    #[error("closed by the peer")]
    Closed,
    #[error("DISCONNECT")]
    Disconnected,
    #[error("another connection took over the client id")]
    TakenOver,
    #[error("the broker stops")]
    Stopped,
    #[error("no CONNECT within {} s", CONNECT_WAIT.as_secs())]
    NoConnect,
    #[error("silent for longer than its keep-alive")]
    Silent,
    #[error("takes no bytes for {} s", WRITE_WAIT.as_secs())]
    NotReading,
    #[error("acknowledges none of {IN_FLIGHT_MAX} messages for {} s", ACKNOWLEDGE_WAIT.as_secs())]
    NotAcknowledging,
    #[error("refused: {0:?}")]
    Refused(v4::ConnectReturnCode),
    #[error("breaks the protocol: {0}")]
    Protocol(&'static str),
    #[error("malformed: {0}")]
    Malformed(#[from] mqttbytes::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A client that was let in.
struct Session {
    client_id: String,
    number: u64,
    outbox: Arc<Outbox>,
    grant: Grant,
    keep_alive: Option<Duration>,
    will: Option<v4::LastWill>,
    in_flight: BTreeSet<u16>,
    /// When the number of those last changed.
    in_flight_since: Instant,
    last_id: u16,
    /// QoS 2 publishes between PUBLISH and PUBREL: a repeated PUBLISH is the same message.
    half_done: BTreeSet<u16>,
}

impl Connection {
    pub(super) fn new(broker: Broker, peer: SocketAddr, stop: watch::Receiver<bool>) -> Self {
        Self { broker, peer, stop }
    }

    /// Serves the connection to its end.
    pub(super) async fn run(mut self, mut stream: TcpStream) {
        metrics::gauge!("sluice_broker_connections").increment(1.0);
        if let Err(end) = self.talk(&mut stream).await {
            match &end {
                End::Closed | End::Disconnected | End::Stopped | End::Io(_) => {
                    tracing::debug!(peer = %self.peer, %end, "MQTT connection ended");
                }
                End::TakenOver | End::Silent | End::NotReading | End::NotAcknowledging => {
                    warn_limited!(peer = %self.peer, %end, "MQTT connection ended");
                }
                End::NoConnect => count_refused("no_connect"),
                End::Refused(_) => {
                    count_refused("not_authorised");
                    warn_limited!(peer = %self.peer, %end, "MQTT connection refused");
                }
                End::Protocol(_) | End::Malformed(_) => {
                    count_refused("malformed");
                    warn_limited!(peer = %self.peer, %end, "MQTT connection closed");
                }
            }
        }
        metrics::gauge!("sluice_broker_connections").decrement(1.0);
    }

    async fn talk(&mut self, stream: &mut TcpStream) -> Result<(), End> {
        stream.set_nodelay(true)?;
        let mut input = BytesMut::new();
        let mut output = BytesMut::new();
        let connect = tokio::select! {
            connect = timeout(CONNECT_WAIT, first_packet(stream, &mut input)) => {
                connect.map_err(|_| End::NoConnect)??
            }
            _ = self.stop.wait_for(|stop| *stop) => return Err(End::Stopped),
        };
        let mut session = match self.admit(connect) {
            Ok(session) => session,
            Err(code) => {
                v4::ConnAck::new(code, false).write(&mut output)?;
                write(stream, &mut output).await?;
                return Err(End::Refused(code));
            }
        };
        v4::ConnAck::new(v4::ConnectReturnCode::Success, false).write(&mut output)?;
        let end = self
            .serve(stream, &mut session, &mut input, &mut output)
            .await;
        self.broker
            .router()
            .leave(&session.client_id, session.number);
        if let (Some(will), false) = (&session.will, matches!(end, Err(End::Disconnected))) {
            self.publish(&session, &will.topic, &will.message, will.qos);
        }
        end
    }

    /// Checks who it is and opens a session, or says why not.
    fn admit(&self, connect: v4::Connect) -> Result<Session, v4::ConnectReturnCode> {
        if connect.protocol != mqttbytes::Protocol::V4 {
            return Err(v4::ConnectReturnCode::RefusedProtocolVersion);
        }
        let client_id = match connect.client_id {
            // Those belong to links inside this process.
            id if id.starts_with('$') => return Err(v4::ConnectReturnCode::BadClientId),
            id if !id.is_empty() => id,
            // MQTT 3.1.1 section 3.1.3.1: an empty id is allowed with a clean session only.
            _ if connect.clean_session => format!("anonymous-{}", self.peer),
            _ => return Err(v4::ConnectReturnCode::BadClientId),
        };
        let password = connect
            .login
            .as_ref()
            .map(|login| login.password.as_bytes());
        if !self.broker.0.access.admits(self.peer.ip(), password) {
            return Err(v4::ConnectReturnCode::NotAuthorized);
        }
        let grant = Grant::of_client(&client_id);
        let user = connect.login.as_ref().map(|login| login.username.as_str());
        if let (Grant::Node(node), Some(user)) = (&grant, user)
            && !user.is_empty()
            && user != node
        {
            return Err(v4::ConnectReturnCode::NotAuthorized);
        }
        let (number, outbox) = self
            .broker
            .router()
            .join(&client_id, grant.clone(), CLIENT_LIMIT);
        // MQTT 3.1.1 section 3.1.2.10: one and a half times the interval.
        let keep_alive = Duration::from_millis(u64::from(connect.keep_alive) * 1500);
        Ok(Session {
            client_id,
            number,
            outbox,
            grant,
            keep_alive: (!keep_alive.is_zero()).then_some(keep_alive),
            will: connect.last_will,
            in_flight: BTreeSet::new(),
            in_flight_since: Instant::now(),
            last_id: 0,
            half_done: BTreeSet::new(),
        })
    }

    async fn serve(
        &mut self,
        stream: &mut TcpStream,
        session: &mut Session,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> Result<(), End> {
        let mut heard = Instant::now();
        loop {
            while let Some(packet) = next_packet(input, PACKET_MAX)? {
                self.take(session, packet, output)?;
                if output.len() >= WRITE_SIZE {
                    write(stream, output).await?;
                }
            }
            while output.len() < WRITE_SIZE
                && let Some(id) = session.free_id()
                && let Some(delivery) = session.outbox.pop()
            {
                let mut publish =
                    v4::Publish::from_bytes(&*delivery.topic, delivery.qos, delivery.payload);
                if delivery.qos != QoS::AtMostOnce {
                    publish.pkid = id;
                    session.last_id = id;
                    session.in_flight.insert(id);
                    session.in_flight_since = Instant::now();
                }
                publish.write(output)?;
            }
            if session.outbox.is_closed() {
                return Err(End::TakenOver);
            }
            let full = output.len() >= WRITE_SIZE;
            write(stream, output).await?;
            if full {
                // More may be waiting; give others a turn first.
                tokio::task::yield_now().await;
                continue;
            }
            input.reserve(READ_SIZE);
            tokio::select! {
                read = stream.read_buf(input) => {
                    if read? == 0 {
                        return Err(End::Closed);
                    }
                    heard = Instant::now();
                }
                () = session.outbox.changed() => {}
                () = silence(heard, session.keep_alive) => return Err(End::Silent),
                () = silence(session.in_flight_since, session.acknowledge_wait()) => {
                    return Err(End::NotAcknowledging);
                }
                _ = self.stop.wait_for(|stop| *stop) => return Err(End::Stopped),
            }
        }
    }

    fn take(
        &self,
        session: &mut Session,
        packet: v4::Packet,
        output: &mut BytesMut,
    ) -> Result<(), End> {
        match packet {
            v4::Packet::Publish(publish) => {
                if !topic::is_name(&publish.topic) {
                    return Err(End::Protocol("PUBLISH to something that is no topic name"));
                }
                let id = publish.pkid;
                let repeated =
                    publish.qos == QoS::ExactlyOnce && !session.half_done.insert(publish.pkid);
                if !repeated {
                    self.publish(session, &publish.topic, &publish.payload, publish.qos);
                }
                match publish.qos {
                    QoS::AtMostOnce => {}
                    QoS::AtLeastOnce => {
                        v4::PubAck::new(id).write(output)?;
                    }
                    QoS::ExactlyOnce => {
                        v4::PubRec::new(id).write(output)?;
                    }
                }
            }
            v4::Packet::PubRel(release) => {
                session.half_done.remove(&release.pkid);
                v4::PubComp::new(release.pkid).write(output)?;
            }
            v4::Packet::PubAck(ack) => {
                session.acknowledge(ack.pkid, Instant::now());
            }
            v4::Packet::Subscribe(subscribe) => {
                let mut router = self.broker.router();
                let codes = subscribe
                    .filters
                    .into_iter()
                    .map(|filter| {
                        let qos = match filter.qos {
                            QoS::AtMostOnce => QoS::AtMostOnce,
                            QoS::AtLeastOnce | QoS::ExactlyOnce => QoS::AtLeastOnce,
                        };
                        if router.subscribe(&session.client_id, &filter.path, qos) {
                            v4::SubscribeReasonCode::Success(qos)
                        } else {
                            v4::SubscribeReasonCode::Failure
                        }
                    })
                    .collect();
                v4::SubAck::new(subscribe.pkid, codes).write(output)?;
            }
            v4::Packet::Unsubscribe(unsubscribe) => {
                let mut router = self.broker.router();
                for filter in &unsubscribe.topics {
                    router.unsubscribe(&session.client_id, filter);
                }
                v4::UnsubAck::new(unsubscribe.pkid).write(output)?;
            }
            v4::Packet::PingReq => {
                v4::PingResp.write(output)?;
            }
            v4::Packet::Disconnect => return Err(End::Disconnected),
            v4::Packet::Connect(_) => return Err(End::Protocol("a second CONNECT")),
            v4::Packet::ConnAck(_)
            | v4::Packet::PubRec(_)
            | v4::Packet::PubComp(_)
            | v4::Packet::SubAck(_)
            | v4::Packet::UnsubAck(_)
            | v4::Packet::PingResp => return Err(End::Protocol("a packet only brokers send")),
        }
        Ok(())
    }

    /// Routes what the client published, if it may. MQTT 3.1.1 (section 3.3.5) has no answer that says no, so the
    /// acknowledgement is sent either way.
    fn publish(&self, session: &Session, topic: &str, payload: &Bytes, qos: QoS) {
        if !topic::is_name(topic) || !session.grant.may_publish(topic) {
            metrics::counter!("sluice_broker_denied_total").increment(1);
            warn_limited!(client = session.client_id, topic, "may not publish there");
            return;
        }
        // A copy: the slice would keep the whole read buffer alive in every queue.
        let payload = Bytes::copy_from_slice(payload);
        self.broker.publish(topic, &payload, qos);
    }
}

impl Session {
    /// An id that is not on its way acknowledges nothing, and gives no more time.
    fn acknowledge(&mut self, id: u16, now: Instant) {
        if self.in_flight.remove(&id) {
            self.in_flight_since = now;
        }
    }

    /// How long the next acknowledgement may take; as long as it likes, while messages can be sent.
    fn acknowledge_wait(&self) -> Option<Duration> {
        (self.in_flight.len() >= IN_FLIGHT_MAX).then_some(ACKNOWLEDGE_WAIT)
    }

    /// A packet id to send with, unless too many are on their way.
    fn free_id(&self) -> Option<u16> {
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            return None;
        }
        let mut id = self.last_id;
        loop {
            id = id.checked_add(1).unwrap_or(1);
            if !self.in_flight.contains(&id) {
                return Some(id);
            }
        }
    }
}

async fn first_packet(stream: &mut TcpStream, input: &mut BytesMut) -> Result<v4::Connect, End> {
    loop {
        if let Some(packet) = next_packet(input, CONNECT_MAX)? {
            let v4::Packet::Connect(connect) = packet else {
                return Err(End::Protocol("the first packet is not CONNECT"));
            };
            return Ok(connect);
        }
        input.reserve(READ_SIZE);
        if stream.read_buf(input).await? == 0 {
            return Err(End::Closed);
        }
    }
}

fn next_packet(input: &mut BytesMut, size_max: usize) -> Result<Option<v4::Packet>, End> {
    match v4::Packet::read(input, size_max) {
        Ok(packet) => Ok(Some(packet)),
        Err(mqttbytes::Error::InsufficientBytes(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn write(stream: &mut TcpStream, output: &mut BytesMut) -> Result<(), End> {
    if !output.is_empty() {
        timeout(WRITE_WAIT, stream.write_all(output))
            .await
            .map_err(|_| End::NotReading)??;
        output.clear();
    }
    Ok(())
}

/// Ends when nothing was heard for `limit`; never, without one.
async fn silence(heard: Instant, limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep_until(heard + limit).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::router::Router;

    #[test]
    fn an_acknowledgement_of_nothing_gives_no_more_time() {
        let (number, outbox) = Router::default().join("mute", Grant::All, CLIENT_LIMIT);
        let since = Instant::now();
        let mut session = Session {
            client_id: "mute".to_owned(),
            number,
            outbox,
            grant: Grant::All,
            keep_alive: None,
            will: None,
            in_flight: (1..=1024).collect(),
            in_flight_since: since,
            last_id: 1024,
            half_done: BTreeSet::new(),
        };
        let later = since + Duration::from_secs(9);
        session.acknowledge(2000, later);
        assert_eq!(session.in_flight_since, since);
        assert_eq!(session.acknowledge_wait(), Some(ACKNOWLEDGE_WAIT));
        session.acknowledge(7, later);
        assert_eq!(session.in_flight_since, later);
        assert_eq!(session.acknowledge_wait(), None);
        assert_eq!(session.free_id(), Some(1025));
    }
}
