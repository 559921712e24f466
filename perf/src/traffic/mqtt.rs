//! A node's connection to its cluster's broker, as plain as can be: thousands of them fit on one thread.

use crate::lab::{LabError, NetNs};
use bytes::BytesMut;
use rumqttc::mqttbytes::{self, QoS, v4};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// As long as the broker's own limit.
const PACKET_MAX: usize = 1 << 20;
const READ_SIZE: usize = 16 << 10;
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// Longer than any suite: nothing has to be sent to keep a connection.
const KEEP_ALIVE_S: u16 = 3600;

/// A clean session. Messages are published with QoS 1 and acknowledged as they are read; what is published waits for
/// [`Connection::flush`] or [`Connection::next`].
#[derive(Debug)]
pub struct Connection {
    node: String,
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
    last_id: u16,
}

impl Connection {
    /// Connects from inside a namespace, to be used on the calling runtime. `token` is the broker's password.
    ///
    /// # Errors
    /// When the broker cannot be reached, or refuses.
    pub async fn open(
        from: &NetNs,
        to: SocketAddr,
        node: &str,
        token: &str,
    ) -> Result<Self, LabError> {
        let failed = || LabError::socket(format!("node {node} on its way to the broker at {to}"));
        let stream = from
            .run(move || {
                let stream = std::net::TcpStream::connect_timeout(&to, CONNECT_WAIT)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                Ok(stream)
            })
            .and_then(TcpStream::from_std)
            .map_err(failed())?;
        let mut connection = Self {
            node: node.to_owned(),
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            last_id: 0,
        };
        let mut connect = v4::Connect::new(node);
        connect.keep_alive = KEEP_ALIVE_S;
        connect.clean_session = true;
        connect.set_login(node, token);
        connect
            .write(&mut connection.output)
            .map_err(|error| connection.broken(&error))?;
        let packet = connection.packet().await?;
        if let v4::Packet::ConnAck(ack) = &packet
            && ack.code == v4::ConnectReturnCode::Success
        {
            return Ok(connection);
        }
        Err(connection.broken(&format!("{packet:?}")))
    }

    /// Subscribes, and waits until the broker has said that it will deliver. Messages that come before are passed over.
    ///
    /// # Errors
    /// When it refuses, or says something else.
    pub async fn subscribe(&mut self, filter: &str) -> Result<(), LabError> {
        self.want(filter)?;
        loop {
            let packet = self.packet().await?;
            if let v4::Packet::SubAck(ack) = &packet {
                if ack.return_codes.contains(&v4::SubscribeReasonCode::Failure) {
                    return Err(self.broken(&format!("{filter} was refused")));
                }
                return Ok(());
            }
        }
    }

    /// Subscribes without waiting.
    ///
    /// # Errors
    /// When the filter is too long.
    pub fn want(&mut self, filter: &str) -> Result<(), LabError> {
        let mut subscribe = v4::Subscribe::new(filter, QoS::AtLeastOnce);
        subscribe.pkid = self.id();
        let written = subscribe.write(&mut self.output);
        written.map(drop).map_err(|error| self.broken(&error))
    }

    /// Publishes to `topic`.
    ///
    /// # Errors
    /// When the message is too long.
    pub fn publish(&mut self, topic: &str, payload: &[u8]) -> Result<(), LabError> {
        let mut publish = v4::Publish::new(topic, QoS::AtLeastOnce, payload);
        publish.pkid = self.id();
        let written = publish.write(&mut self.output);
        written.map(drop).map_err(|error| self.broken(&error))
    }

    /// Hands everything to the kernel. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn flush(&mut self) -> Result<(), LabError> {
        while !self.output.is_empty() {
            let written = self.stream.write_buf(&mut self.output).await;
            written.map_err(LabError::socket(format!("the broker, to {}", self.node)))?;
        }
        Ok(())
    }

    /// The next message. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn next(&mut self) -> Result<v4::Publish, LabError> {
        loop {
            if let v4::Packet::Publish(publish) = self.packet().await? {
                return Ok(publish);
            }
        }
    }

    async fn packet(&mut self) -> Result<v4::Packet, LabError> {
        loop {
            match v4::Packet::read(&mut self.input, PACKET_MAX) {
                Ok(packet) => {
                    if let v4::Packet::Publish(publish) = &packet
                        && publish.qos == QoS::AtLeastOnce
                    {
                        let ack = v4::PubAck::new(publish.pkid).write(&mut self.output);
                        ack.map_err(|error| self.broken(&error))?;
                    }
                    return Ok(packet);
                }
                Err(mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => return Err(self.broken(&error)),
            }
            self.flush().await?;
            self.input.reserve(READ_SIZE);
            let read = self.stream.read_buf(&mut self.input).await;
            if read.map_err(LabError::socket(format!("the broker, to {}", self.node)))? == 0 {
                return Err(self.broken(&"the broker closed the connection"));
            }
        }
    }

    /// Far fewer messages are on their way than there are ids.
    fn id(&mut self) -> u16 {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.last_id
    }

    fn broken(&self, error: &impl ToString) -> LabError {
        LabError::Reply {
            what: format!("what node {} and the broker say", self.node),
            text: error.to_string(),
        }
    }
}
