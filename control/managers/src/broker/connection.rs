//! One connection of the broker: CONNECT and its checks, then packets both ways until either side ends it.

use super::{Broker, Peer, count_published, count_refused};
use crate::log_limit::warn_limited;
use crate::mqtt::wire::next_packet;
use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{self, QoS, v4};
use sluice_proto::broker::{
    Close, Connect, ConnectError, Limits, Qos, Refused, SessionId, Transmit, Will,
};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

/// A packet may be this long: a table query's answer with a thousand instances takes half of it.
const PACKET_MAX: usize = 1 << 20;
/// A CONNECT packet may be this long: ours take 100 bytes, and nobody is authenticated yet.
const CONNECT_MAX: usize = 16 << 10;
/// A client has this long to send CONNECT.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// A client that takes no bytes for this long is gone.
const WRITE_WAIT: Duration = Duration::from_secs(10);
/// Stop gathering and write: keeps the buffer small.
const WRITE_SIZE: usize = 64 << 10;
const READ_SIZE: usize = 4 << 10;

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
    #[error(transparent)]
    Told(#[from] Close),
    #[error("the broker stops")]
    Stopped,
    #[error("no CONNECT within {} s", CONNECT_WAIT.as_secs())]
    NoConnect,
    #[error("takes no bytes for {} s", WRITE_WAIT.as_secs())]
    NotReading,
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
    id: SessionId,
    peer: Arc<Peer>,
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
                End::Told(_) | End::NotReading => {
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
        let session = match self.admit(connect) {
            Ok(session) => session,
            Err(code) => {
                v4::ConnAck::new(code, false).write(&mut output)?;
                write(stream, &mut output).await?;
                return Err(End::Refused(code));
            }
        };
        v4::ConnAck::new(v4::ConnectReturnCode::Success, false).write(&mut output)?;
        let end = self.serve(stream, &session, &mut input, &mut output).await;
        let farewell = matches!(end, Err(End::Disconnected));
        self.broker.disconnect(session.id, farewell);
        end
    }

    /// Checks who it is and opens a session, or says why not.
    fn admit(&self, connect: v4::Connect) -> Result<Session, v4::ConnectReturnCode> {
        if connect.protocol != mqttbytes::Protocol::V4 {
            return Err(v4::ConnectReturnCode::RefusedProtocolVersion);
        }
        let client_id = match connect.client_id {
            id if !id.is_empty() => id,
            // MQTT 3.1.1 section 3.1.3.1: an empty id is allowed with a clean session only.
            _ if connect.clean_session => format!("anonymous-{}", self.peer),
            _ => return Err(v4::ConnectReturnCode::BadClientId),
        };
        let login = connect.login.as_ref();
        let login = login.map(|login| (login.username.as_str(), login.password.as_bytes()));
        let access = &self.broker.0.access;
        if !access.admits(self.peer.ip(), &client_id, login) {
            return Err(v4::ConnectReturnCode::NotAuthorized);
        }
        // MQTT 3.1.1 section 3.1.2.10: one and a half times the interval.
        let keep_alive = Duration::from_millis(u64::from(connect.keep_alive) * 1500);
        let connect = Connect {
            client_id: &client_id,
            user: connect.login.as_ref().map(|login| login.username.as_str()),
            keep_alive: (!keep_alive.is_zero()).then_some(keep_alive),
            will: connect.last_will.map(|will| Will {
                topic: will.topic,
                payload: will.message,
                qos: delivered_as(will.qos),
            }),
            limits: Limits::CLIENT,
        };
        match self.broker.connect(connect) {
            Ok((id, peer)) => Ok(Session { id, peer }),
            Err(ConnectError::ClientId) => Err(v4::ConnectReturnCode::BadClientId),
            Err(ConnectError::User) => Err(v4::ConnectReturnCode::NotAuthorized),
        }
    }

    async fn serve(
        &mut self,
        stream: &mut TcpStream,
        session: &Session,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> Result<(), End> {
        let mut heard = false;
        let mut sending: Vec<Transmit> = Vec::new();
        loop {
            while let Some(packet) = next_packet(input, PACKET_MAX)? {
                self.take(session, packet, output)?;
                if output.len() >= WRITE_SIZE {
                    write(stream, output).await?;
                }
            }
            let now = self.broker.now();
            let deadline = self.broker.with(|shell| {
                if heard {
                    shell.router.hear(session.id, now);
                }
                shell.router.handle_timeout(session.id, now);
                let mut size = output.len();
                while size < WRITE_SIZE
                    && let Some(next) = shell.router.poll_transmit(session.id, now)
                {
                    size += next.size();
                    sending.push(next);
                }
                shell.router.poll_timeout(session.id)
            });
            heard = false;
            for next in sending.drain(..) {
                encode(next, output)?;
            }
            if let Some(why) = session.peer.closed.get() {
                return Err(End::Told(*why));
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
                biased;
                _ = self.stop.wait_for(|stop| *stop) => return Err(End::Stopped),
                // Before time is judged: a broker that was busy has not heard yet what came meanwhile.
                read = stream.read_buf(input) => {
                    if read? == 0 {
                        return Err(End::Closed);
                    }
                    heard = true;
                }
                () = session.peer.changed.notified() => {}
                () = self.broker.0.clock.reaches(deadline) => {}
            }
        }
    }

    fn take(
        &self,
        session: &Session,
        packet: v4::Packet,
        output: &mut BytesMut,
    ) -> Result<(), End> {
        match packet {
            v4::Packet::Publish(publish) => {
                self.publish(session, &publish)?;
                match publish.qos {
                    QoS::AtMostOnce => {}
                    QoS::AtLeastOnce => {
                        v4::PubAck::new(publish.pkid).write(output)?;
                    }
                    QoS::ExactlyOnce => {
                        v4::PubRec::new(publish.pkid).write(output)?;
                    }
                }
            }
            v4::Packet::PubRel(release) => {
                self.broker
                    .with(|shell| shell.router.release(session.id, release.pkid));
                v4::PubComp::new(release.pkid).write(output)?;
            }
            v4::Packet::PubAck(ack) => {
                let now = self.broker.now();
                self.broker
                    .with(|shell| shell.router.acknowledge(session.id, ack.pkid, now));
            }
            v4::Packet::Subscribe(subscribe) => {
                let filters = subscribe.filters.into_iter();
                let codes = filters
                    .map(|filter| self.subscribe(session, &filter))
                    .collect();
                v4::SubAck::new(subscribe.pkid, codes).write(output)?;
            }
            v4::Packet::Unsubscribe(unsubscribe) => {
                for filter in &unsubscribe.topics {
                    self.broker
                        .with(|shell| shell.router.unsubscribe(session.id, filter));
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

    /// Routes what the client published, if it may.
    fn publish(&self, session: &Session, publish: &v4::Publish) -> Result<(), End> {
        // A copy: the slice would keep the whole read buffer alive in every queue.
        let payload = Bytes::copy_from_slice(&publish.payload);
        let (id, topic) = (session.id, publish.topic.as_str());
        let outcome = self.broker.with(|shell| match publish.qos {
            QoS::ExactlyOnce => shell.router.publish_once(id, publish.pkid, topic, &payload),
            qos @ (QoS::AtMostOnce | QoS::AtLeastOnce) => {
                let qos = delivered_as(qos);
                Some(shell.router.publish(id, topic, &payload, qos))
            }
        });
        match outcome {
            Some(Err(Refused::Invalid)) => {
                Err(End::Protocol("PUBLISH to something that is no topic name"))
            }
            Some(outcome) => {
                count_published(topic, outcome);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn subscribe(
        &self,
        session: &Session,
        filter: &v4::SubscribeFilter,
    ) -> v4::SubscribeReasonCode {
        let qos = delivered_as(filter.qos);
        let stands = self
            .broker
            .with(|shell| shell.router.subscribe(session.id, &filter.path, qos));
        match stands {
            Ok(()) => v4::SubscribeReasonCode::Success(match qos {
                Qos::AtMostOnce => QoS::AtMostOnce,
                Qos::AtLeastOnce => QoS::AtLeastOnce,
            }),
            Err(why) => {
                metrics::counter!("sluice_broker_filters_refused_total", "reason" => why.name())
                    .increment(1);
                warn_limited!(peer = %self.peer, filter = filter.path, %why, "subscription refused");
                v4::SubscribeReasonCode::Failure
            }
        }
    }
}

/// What a client publishes with QoS 2 is delivered with QoS 1.
const fn delivered_as(qos: QoS) -> Qos {
    match qos {
        QoS::AtMostOnce => Qos::AtMostOnce,
        QoS::AtLeastOnce | QoS::ExactlyOnce => Qos::AtLeastOnce,
    }
}

fn encode(message: Transmit, output: &mut BytesMut) -> Result<(), End> {
    let qos = match message.id {
        Some(_) => QoS::AtLeastOnce,
        None => QoS::AtMostOnce,
    };
    let mut publish = v4::Publish::from_bytes(&*message.topic, qos, message.payload);
    publish.pkid = message.id.unwrap_or_default();
    publish.write(output)?;
    Ok(())
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

async fn write(stream: &mut TcpStream, output: &mut BytesMut) -> Result<(), End> {
    if !output.is_empty() {
        timeout(WRITE_WAIT, stream.write_all(output))
            .await
            .map_err(|_| End::NotReading)??;
        output.clear();
    }
    Ok(())
}
