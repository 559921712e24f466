//! One connection to a broker, from CONNECT to its end.

use super::wire::next_packet;
use super::{MqttConfig, MqttEvent, Request};
use crate::clock::Clock;
use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{self, QoS, v4};
use rustix::net::sockopt::set_tcp_user_timeout;
use sluice_proto::connection::{Keeper, Step};
use sluice_proto::packet_ids::PacketIds;
use std::convert::Infallible;
use std::io;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// In CONNECT, in seconds: as the legacy worker's (OAKESTRA-WIRE section 2.1).
pub(super) const KEEP_ALIVE_S: u16 = 30;
/// The longest message taken; a table-query result of 1,000 instances has about 300 KB.
const PACKET_MAX: usize = 4 << 20;
/// Packets that the broker has not acknowledged. They fit the kernel's buffers, so that a broker which is only slow never
/// makes TCP wait, and its user timeout with it.
const IN_FLIGHT_MAX: usize = 128;
/// Stop gathering and write: keeps the buffer small.
const WRITE_SIZE: usize = 64 << 10;
const READ_SIZE: usize = 4 << 10;

/// Why a connection is over.
#[derive(Debug, Error)]
pub(super) enum End {
    #[error("the broker refused the connection: {0:?}")]
    Refused(v4::ConnectReturnCode),
    #[error("the broker does not answer CONNECT within {} ms", .0.as_millis())]
    NoAnswer(Duration),
    #[error("closed by the broker")]
    Closed,
    #[error("the broker says nothing, although its machine can be reached")]
    Silent,
    #[error("the broker breaks the protocol: {0}")]
    Protocol(&'static str),
    #[error("malformed: {0}")]
    Malformed(#[from] mqttbytes::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("nobody takes the messages any more")]
    Unheard,
}

impl End {
    /// The broker, which was reached, does not want us: not the way ended the connection.
    pub(super) const fn is_refusal(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Closed | Self::Protocol(_) | Self::Malformed(_) => true,
            Self::NoAnswer(_) | Self::Silent | Self::Io(_) | Self::Unheard => false,
        }
    }
}

/// An open connection.
pub(super) struct Session {
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
    ids: PacketIds,
    has_subscribed: bool,
}

impl Session {
    /// Introduces us; the broker has `patience` for its answer.
    pub(super) async fn open(
        stream: TcpStream,
        config: &MqttConfig,
        patience: Duration,
    ) -> Result<Self, End> {
        stream.set_nodelay(true)?;
        // From the first repetition on, which is 200 ms after a loss on short ways.
        let half = u32::try_from((config.silence / 2).as_millis()).unwrap_or(u32::MAX);
        set_tcp_user_timeout(&stream, half).map_err(io::Error::from)?;
        let mut session = Self {
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            ids: PacketIds::default(),
            has_subscribed: false,
        };
        let mut connect = v4::Connect::new(&config.client_id);
        connect.keep_alive = KEEP_ALIVE_S;
        if let Some((user, token)) = &config.login {
            connect.set_login(user, token.secret());
        }
        connect.write(&mut session.output)?;
        session.write().await?;
        let first = timeout(patience, session.first_packet()).await;
        let v4::Packet::ConnAck(answer) = first.map_err(|_| End::NoAnswer(patience))?? else {
            return Err(End::Protocol("its first packet is not CONNACK"));
        };
        if answer.code != v4::ConnectReturnCode::Success {
            return Err(End::Refused(answer.code));
        }
        Ok(session)
    }

    async fn first_packet(&mut self) -> Result<v4::Packet, End> {
        loop {
            if let Some(packet) = next_packet(&mut self.input, PACKET_MAX)? {
                return Ok(packet);
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(End::Closed);
            }
        }
    }

    /// Carries packets both ways until the connection is over.
    pub(super) async fn talk(
        &mut self,
        (keeper, clock): (&mut Keeper, Clock),
        requests: &mut mpsc::Receiver<Request>,
        events: &mpsc::Sender<MqttEvent>,
    ) -> Result<Infallible, End> {
        loop {
            while let Some(packet) = next_packet(&mut self.input, PACKET_MAX)? {
                if let Some(message) = self.take(packet)? {
                    events.send(message).await.map_err(|_| End::Unheard)?;
                }
            }
            while self.output.len() < WRITE_SIZE
                && self.has_room()
                && let Ok(request) = requests.try_recv()
            {
                self.put(request)?;
            }
            match keeper.poll_step() {
                Some(Step::Ask) => {
                    v4::PingReq.write(&mut self.output)?;
                }
                Some(Step::GiveUp) => return Err(End::Silent),
                Some(Step::Connect) => unreachable!("nobody connects while there is a connection"),
                None => {}
            }
            self.write().await?;
            self.input.reserve(READ_SIZE);
            tokio::select! {
                read = self.stream.read_buf(&mut self.input) => {
                    if read? == 0 {
                        return Err(End::Closed);
                    }
                    keeper.handle_heard(clock.now());
                }
                Some(request) = requests.recv(), if self.has_room() => self.put(request)?,
                () = clock.reaches(Some(keeper.poll_timeout())) => keeper.handle_timeout(clock.now()),
            }
        }
    }

    /// What the broker says; gives what has to be told.
    fn take(&mut self, packet: v4::Packet) -> Result<Option<MqttEvent>, End> {
        match packet {
            v4::Packet::Publish(publish) => {
                match publish.qos {
                    QoS::AtMostOnce => {}
                    QoS::AtLeastOnce => {
                        v4::PubAck::new(publish.pkid).write(&mut self.output)?;
                    }
                    QoS::ExactlyOnce => {
                        return Err(End::Protocol(
                            "a message with QoS 2 to a subscription with 1",
                        ));
                    }
                }
                return Ok(Some(MqttEvent::Message {
                    topic: publish.topic,
                    payload: publish.payload.to_vec(),
                }));
            }
            // Whoever waits for something repeats it; a subscription that is refused is for the broker's log.
            v4::Packet::PubAck(v4::PubAck { pkid, .. })
            | v4::Packet::UnsubAck(v4::UnsubAck { pkid, .. }) => self.acknowledged(pkid)?,
            v4::Packet::SubAck(v4::SubAck { pkid, .. }) => {
                self.acknowledged(pkid)?;
                if !std::mem::replace(&mut self.has_subscribed, true) {
                    return Ok(Some(MqttEvent::Subscribed));
                }
            }
            v4::Packet::PingResp => {}
            v4::Packet::Connect(_)
            | v4::Packet::ConnAck(_)
            | v4::Packet::PubRec(_)
            | v4::Packet::PubRel(_)
            | v4::Packet::PubComp(_)
            | v4::Packet::Subscribe(_)
            | v4::Packet::Unsubscribe(_)
            | v4::Packet::PingReq
            | v4::Packet::Disconnect => return Err(End::Protocol("a packet out of place")),
        }
        Ok(None)
    }

    fn acknowledged(&mut self, id: u16) -> Result<(), End> {
        if self.ids.end(id) {
            Ok(())
        } else {
            Err(End::Protocol("an acknowledgement of nothing"))
        }
    }

    fn has_room(&self) -> bool {
        self.ids.count() < IN_FLIGHT_MAX
    }

    /// Puts a request behind what is to be written.
    fn put(&mut self, request: Request) -> Result<(), End> {
        let id = self.ids.begin();
        match request {
            Request::Publish { topic, payload } => {
                let payload = Bytes::from(payload);
                let mut publish = v4::Publish::from_bytes(topic, QoS::AtLeastOnce, payload);
                publish.pkid = id;
                publish.write(&mut self.output)?;
            }
            Request::Subscribe(filter) => {
                let mut subscribe = v4::Subscribe::new(filter, QoS::AtLeastOnce);
                subscribe.pkid = id;
                subscribe.write(&mut self.output)?;
            }
            Request::Unsubscribe(filter) => {
                let mut unsubscribe = v4::Unsubscribe::new(filter);
                unsubscribe.pkid = id;
                unsubscribe.write(&mut self.output)?;
            }
        }
        Ok(())
    }

    /// Without a deadline of its own: TCP's user timeout ends it when the broker's machine takes nothing.
    async fn write(&mut self) -> io::Result<()> {
        self.stream.write_all_buf(&mut self.output).await
    }
}
