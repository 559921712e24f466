//! The broker spoken to by another implementation of the protocol.

use super::*;
use crate::access::{Access, Token};
use crate::credential::NodeCredentials;
use crate::testing::Directory;
use rumqttc::mqttbytes::{QoS, v4};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NODE: &str = "0123456789abcdef01234567";

/// A broker on a free port of this machine, stopped and joined at the end of the test.
struct Running {
    broker: Broker,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

async fn start(access: Access) -> Running {
    start_for(BrokerAccess {
        access,
        nodes: None,
    })
    .await
}

async fn start_for(access: BrokerAccess) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let broker = Broker::new(access);
    let task = tokio::spawn(broker.clone().serve(listener, stopped));
    Running {
        broker,
        address,
        stop,
        task,
    }
}

impl Running {
    async fn end(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap();
    }

    fn client(&self, id: &str) -> (AsyncClient, EventLoop) {
        let options = MqttOptions::new(id, self.address.ip().to_string(), self.address.port());
        AsyncClient::new(options, 16)
    }

    async fn connect(&self, connect: &v4::Connect) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut bytes = bytes::BytesMut::new();
        connect.write(&mut bytes).unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream
    }

    /// The return code of CONNACK.
    async fn code(&self, connect: &v4::Connect) -> u8 {
        let mut stream = self.connect(connect).await;
        let mut reply = [0; 4];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply[0], 0x20);
        reply[3]
    }
}

async fn until(events: &mut EventLoop, wanted: impl Fn(&Packet) -> bool) -> Packet {
    loop {
        if let Event::Incoming(packet) = events.poll().await.unwrap()
            && wanted(&packet)
        {
            return packet;
        }
    }
}

async fn closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // A reset is as good an end as any.
    let _ = stream.read_to_end(&mut rest).await;
}

#[tokio::test]
async fn messages_pass_between_a_client_and_a_link() {
    let running = start(Access::default()).await;
    let link = running.broker.link("$manager");
    link.subscribe("nodes/+/net/#");
    let (client, mut events) = running.client(NODE);
    let result = format!("nodes/{NODE}/net/subnetwork/result");
    client.subscribe(&result, QoS::AtLeastOnce).await.unwrap();
    until(&mut events, |packet| matches!(packet, Packet::SubAck(_))).await;
    client
        .publish(
            format!("nodes/{NODE}/net/subnet"),
            QoS::AtLeastOnce,
            false,
            "get",
        )
        .await
        .unwrap();
    until(&mut events, |packet| matches!(packet, Packet::PubAck(_))).await;
    let message = link.receive().await;
    assert_eq!(&*message.topic, format!("nodes/{NODE}/net/subnet"));
    assert_eq!(&message.payload[..], b"get");
    link.publish(&result, &Bytes::from_static(b"answer"));
    let packet = until(&mut events, |packet| matches!(packet, Packet::Publish(_))).await;
    let Packet::Publish(publish) = packet else {
        unreachable!("waited for a PUBLISH");
    };
    assert_eq!(publish.topic, result);
    assert_eq!(&publish.payload[..], b"answer");
    running.end().await;
}

#[tokio::test]
async fn garbage_closes_that_connection_and_no_other() {
    let running = start(Access::default()).await;
    let link = running.broker.link("$manager");
    link.subscribe("x");
    let healthy = running.connect(&v4::Connect::new("healthy")).await;
    let connected = {
        let mut bytes = bytes::BytesMut::new();
        v4::Connect::new("garbage").write(&mut bytes).unwrap();
        bytes
    };
    for (_, bytes) in corpus() {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        closed(stream).await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(&connected).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        closed(stream).await;
    }
    let mut healthy = healthy;
    healthy
        .write_all(b"\x30\x04\x00\x01xy\xc0\x00")
        .await
        .unwrap();
    let mut reply = [0; 6];
    healthy.read_exact(&mut reply).await.unwrap();
    assert_eq!(reply, *b"\x20\x02\x00\x00\xd0\x00");
    assert_eq!(&link.receive().await.payload[..], b"y");
    running.end().await;
}

/// Inputs worth keeping, by file name.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz-corpus/mqtt");
    let mut inputs: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    inputs.sort();
    inputs
}

/// Every packet of the bytes, until one cannot be read; the name of the first.
fn decode(input: &[u8]) -> Result<Packet, rumqttc::mqttbytes::Error> {
    let mut bytes = bytes::BytesMut::from(input);
    let first = Packet::read(&mut bytes, 1 << 16);
    while let Ok(packet) = Packet::read(&mut bytes, 1 << 16) {
        let mut written = bytes::BytesMut::new();
        let _ = packet.write(&mut written, 1 << 20);
    }
    first
}

/// Bytes of any kind give a packet, an error or a wish for more; never a panic, never an endless loop.
#[test]
fn any_bytes_are_decoded_or_refused() {
    bolero::check!().for_each(|input: &[u8]| {
        let _ = decode(input);
    });
}

#[test]
fn the_corpus_is_decoded_or_refused() {
    let inputs = corpus();
    assert!(inputs.len() >= 16);
    for (name, input) in inputs {
        let is_packet =
            name.starts_with("connect") && !name.contains("3.1") && !name.contains("cut")
                || name == "connack-from-a-client.bin"
                || name == "publish-to-a-wildcard.bin";
        assert_eq!(decode(&input).is_ok(), is_packet, "{name}");
    }
}

#[tokio::test]
async fn a_token_is_the_password_and_the_user_is_the_node() {
    let running = start(Access {
        token: Some(Token::new("correct-horse").unwrap()),
        allow_without_token: vec![],
    })
    .await;
    let login = |user: &str, password: &str| {
        let mut connect = v4::Connect::new(NODE);
        connect.set_login(user, password);
        connect
    };
    assert_eq!(running.code(&v4::Connect::new(NODE)).await, 5);
    assert_eq!(running.code(&login(NODE, "wrong-horse")).await, 5);
    assert_eq!(running.code(&login("somebody", "correct-horse")).await, 5);
    assert_eq!(running.code(&login(NODE, "correct-horse")).await, 0);
    running.end().await;
}

#[tokio::test]
async fn a_node_cannot_speak_for_another() {
    let running = start(Access::default()).await;
    let link = running.broker.link("$manager");
    link.subscribe("nodes/#");
    let (client, mut events) = running.client(NODE);
    for topic in [
        "nodes/ffffffffffffffffffffffff/net/subnet".to_owned(),
        format!("nodes/{NODE}/net/subnet"),
    ] {
        client
            .publish(topic, QoS::AtLeastOnce, false, "x")
            .await
            .unwrap();
        until(&mut events, |packet| matches!(packet, Packet::PubAck(_))).await;
    }
    assert_eq!(
        &*link.receive().await.topic,
        format!("nodes/{NODE}/net/subnet")
    );
    running.end().await;
}

/// What the counters with this name, and this text in their labels, are together.
fn counted(name: &str, label: &str) -> u64 {
    let text = crate::admin::recorder().unwrap().render();
    let lines = text
        .lines()
        .filter(|line| line.starts_with(name) && line.contains(label));
    let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    values.sum()
}

/// With a credential of its own a node is who it is: nobody else connects as it, and what it says or would hear for another is
/// refused, and each counted.
#[tokio::test]
async fn a_node_with_a_credential_is_itself_and_nobody_else() {
    const OTHER: &str = "ffffffffffffffffffffffff";
    crate::admin::recorder().unwrap();
    let files = Directory::new();
    let nodes = NodeCredentials::of_manager(files.path()).unwrap();
    let own = nodes.of(NODE);
    let shared = Token::new("correct-horse").unwrap();
    let running = start_for(BrokerAccess {
        access: Access {
            token: Some(shared.clone()),
            allow_without_token: vec![],
        },
        nodes: Some(nodes),
    })
    .await;
    let login = |client_id: &str, user: &str, password: &Token| {
        let mut connect = v4::Connect::new(client_id);
        connect.set_login(user, password.secret());
        connect
    };
    let refused = |reason: &str| counted("sluice_broker_refused_total", reason);
    let before = refused("not_authorised");
    for connect in [
        v4::Connect::new(NODE),
        login(OTHER, OTHER, &own),
        login(OTHER, NODE, &own),
        login(NODE, NODE, &shared),
        login("manager", NODE, &own),
    ] {
        assert_eq!(running.code(&connect).await, 5, "{connect:?}");
    }
    // Counted after the answer, by the connection's task.
    let all = async {
        while refused("not_authorised") < before + 5 {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all)
        .await
        .unwrap();
    assert_eq!(running.code(&login("manager", "manager", &shared)).await, 0);

    let link = running.broker.link("$manager");
    link.subscribe("nodes/#");
    let mut options = MqttOptions::new(
        NODE,
        running.address.ip().to_string(),
        running.address.port(),
    );
    options.set_credentials(NODE, own.secret());
    let (client, mut events) = AsyncClient::new(options, 16);
    let denied = || counted("sluice_broker_denied_total", "not_granted");
    let filters = || counted("sluice_broker_filters_refused_total", "not_granted");
    let before = (denied(), filters());
    for id in [OTHER, NODE] {
        let topic = format!("nodes/{id}/net/service/deployed");
        client
            .publish(&topic, QoS::AtLeastOnce, false, "x")
            .await
            .unwrap();
        until(&mut events, |packet| matches!(packet, Packet::PubAck(_))).await;
        let filter = format!("nodes/{id}/net/#");
        client.subscribe(&filter, QoS::AtLeastOnce).await.unwrap();
        let Packet::SubAck(ack) =
            until(&mut events, |packet| matches!(packet, Packet::SubAck(_))).await
        else {
            unreachable!("waited for a SUBACK");
        };
        let stands = ack.return_codes != [v4::SubscribeReasonCode::Failure];
        assert_eq!(stands, id == NODE);
    }
    assert_eq!((denied(), filters()), (before.0 + 1, before.1 + 1));
    let own_topic = format!("nodes/{NODE}/net/service/deployed");
    assert_eq!(&*link.receive().await.topic, own_topic);
    assert!(link.try_receive().is_none());
    running.end().await;
}

#[tokio::test]
async fn the_second_connection_with_an_id_ends_the_first() {
    let running = start(Access::default()).await;
    let first = running.connect(&v4::Connect::new("same")).await;
    let mut first_ack = [0; 4];
    let mut first = first;
    first.read_exact(&mut first_ack).await.unwrap();
    assert_eq!(running.code(&v4::Connect::new("same")).await, 0);
    closed(first).await;
    running.end().await;
}

#[tokio::test]
async fn a_will_is_published_when_the_connection_breaks_but_not_after_disconnect() {
    let running = start(Access::default()).await;
    let link = running.broker.link("$manager");
    link.subscribe("gone/+");
    for (id, farewell) in [("polite", true), ("broken", false)] {
        let mut connect = v4::Connect::new(id);
        connect.last_will = Some(v4::LastWill::new(
            format!("gone/{id}"),
            "x",
            QoS::AtLeastOnce,
            false,
        ));
        let mut stream = running.connect(&connect).await;
        let mut ack = [0; 4];
        stream.read_exact(&mut ack).await.unwrap();
        if farewell {
            stream.write_all(b"\xe0\x00").await.unwrap();
        }
        stream.shutdown().await.unwrap();
        closed(stream).await;
    }
    assert_eq!(&*link.receive().await.topic, "gone/broken");
    running.end().await;
}

#[tokio::test]
async fn a_silent_client_is_closed_after_one_and_a_half_intervals() {
    let running = start(Access::default()).await;
    let mut connect = v4::Connect::new("silent");
    connect.keep_alive = 1;
    let stream = running.connect(&connect).await;
    tokio::time::timeout(Duration::from_secs(20), closed(stream))
        .await
        .expect("the broker closes it");
    running.end().await;
}

#[tokio::test]
async fn a_client_that_acknowledges_nothing_is_closed() {
    let running = start(Access::default()).await;
    let mut stream = running.connect(&v4::Connect::new("mute")).await;
    stream
        .write_all(b"\x82\x06\x00\x01\x00\x01x\x01")
        .await
        .unwrap();
    let mut replies = [0; 9];
    stream.read_exact(&mut replies).await.unwrap();
    assert_eq!(replies, *b"\x20\x02\x00\x00\x90\x03\x00\x01\x01");
    let link = running.broker.link("$manager");
    for _ in 0..1024 {
        link.publish("x", &Bytes::from_static(b"y"));
    }
    tokio::time::timeout(Duration::from_secs(60), closed(stream))
        .await
        .expect("the broker closes it");
    running.end().await;
}

#[tokio::test]
async fn qos_2_is_acknowledged_in_four_steps_and_routed_once() {
    let running = start(Access::default()).await;
    let link = running.broker.link("$manager");
    link.subscribe("x");
    let mut stream = running.connect(&v4::Connect::new("exact")).await;
    let publish = b"\x34\x06\x00\x01x\x00\x07y";
    stream.write_all(publish).await.unwrap();
    stream.write_all(publish).await.unwrap();
    stream.write_all(b"\x62\x02\x00\x07\xc0\x00").await.unwrap();
    let mut reply = [0; 18];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(
        reply,
        *b"\x20\x02\x00\x00\x50\x02\x00\x07\x50\x02\x00\x07\x70\x02\x00\x07\xd0\x00"
    );
    link.publish("x", &Bytes::from_static(b"z"));
    assert_eq!(&link.receive().await.payload[..], b"y");
    assert_eq!(&link.receive().await.payload[..], b"z");
    running.end().await;
}
