//! The client over real sockets: with the embedded broker, and with one that is played.

use super::*;
use crate::broker::Broker;
use crate::testing::PATIENCE;
use bytes::BytesMut;
use rumqttc::mqttbytes::v4;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

const NODE: &str = "64b8f0c9d2a1e3f405162738";

fn start(address: SocketAddr, silence: Duration) -> (Mqtt, mpsc::Receiver<MqttEvent>) {
    let (sender, events) = mpsc::channel(16);
    let config = MqttConfig {
        client_id: NODE.to_owned(),
        login: None,
        host: address.ip().to_string(),
        port: address.port(),
        silence,
    };
    (Mqtt::start(config, sender), events)
}

async fn next(events: &mut mpsc::Receiver<MqttEvent>) -> MqttEvent {
    let event = timeout(PATIENCE, events.recv()).await;
    event.expect("something happens").expect("the client runs")
}

async fn connected(events: &mut mpsc::Receiver<MqttEvent>) {
    while !matches!(next(events).await, MqttEvent::Connected) {}
}

async fn heard(events: &mut mpsc::Receiver<MqttEvent>) -> Vec<u8> {
    loop {
        if let MqttEvent::Message { payload, .. } = next(events).await {
            return payload;
        }
    }
}

async fn broker(listen: SocketAddr) -> (SocketAddr, watch::Sender<bool>, JoinHandle<()>) {
    let (stop, stopped) = watch::channel(false);
    let (listener, address) = crate::http::bind(listen).await.unwrap();
    let broker = Broker::new(crate::credential::BrokerAccess::default());
    (address, stop, tokio::spawn(broker.serve(listener, stopped)))
}

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// More than may be on their way at a time.
#[tokio::test]
async fn messages_go_both_ways_in_order_and_end_with_the_subscription() {
    let (address, stop, task) = broker(anywhere()).await;
    let (mqtt, mut events) = start(address, Duration::from_secs(1));
    connected(&mut events).await;
    let topic = format!("nodes/{NODE}/net/tablequery/result");
    assert!(mqtt.subscribe(&topic));
    for number in 0..600_u32 {
        assert!(mqtt.publish(&topic, number.to_string().into_bytes()));
    }
    for number in 0..600_u32 {
        assert_eq!(heard(&mut events).await, number.to_string().into_bytes());
    }
    let other = format!("nodes/{NODE}/net/v1/instance/result");
    assert!(mqtt.unsubscribe(&topic));
    assert!(mqtt.subscribe(&other));
    assert!(mqtt.publish(&topic, b"unheard".to_vec()));
    assert!(mqtt.publish(&other, b"heard".to_vec()));
    assert_eq!(heard(&mut events).await, b"heard");
    stop.send(true).unwrap();
    task.await.unwrap();
}

#[tokio::test]
async fn a_broker_that_comes_back_is_found_and_hears_nothing_of_before() {
    let (address, stop, task) = broker(anywhere()).await;
    let (mqtt, mut events) = start(address, Duration::from_secs(1));
    connected(&mut events).await;
    stop.send(true).unwrap();
    task.await.unwrap();
    assert!(matches!(
        next(&mut events).await,
        MqttEvent::Disconnected(_)
    ));
    let topic = format!("nodes/{NODE}/net/tablequery/result");
    assert!(mqtt.publish(&topic, b"before".to_vec()));
    let (_, stop, task) = broker(address).await;
    connected(&mut events).await;
    assert!(mqtt.subscribe(&topic));
    assert!(mqtt.publish(&topic, b"after".to_vec()));
    assert_eq!(heard(&mut events).await, b"after");
    stop.send(true).unwrap();
    task.await.unwrap();
}

/// A broker that is played: the next packet of its client.
async fn packet(stream: &mut TcpStream, input: &mut BytesMut) -> v4::Packet {
    let read = async {
        loop {
            if let Some(packet) = wire::next_packet(input, 1000).unwrap() {
                return packet;
            }
            assert_ne!(stream.read_buf(input).await.unwrap(), 0, "the client left");
        }
    };
    timeout(PATIENCE, read).await.expect("a packet comes")
}

async fn say(stream: &mut TcpStream, packet: v4::Packet) {
    let mut output = BytesMut::new();
    packet.write(&mut output, 1000).unwrap();
    stream.write_all(&output).await.unwrap();
}

#[tokio::test]
async fn a_silent_broker_is_asked_for_a_word_but_keeps_its_connection() {
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let (_mqtt, mut events) = start(listener.local_addr().unwrap(), Duration::from_millis(20));
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut input = BytesMut::new();
    let v4::Packet::Connect(connect) = packet(&mut stream, &mut input).await else {
        panic!("the first packet is CONNECT");
    };
    assert_eq!(connect.client_id, NODE);
    assert_eq!(connect.keep_alive, 30, "what any broker understands");
    assert!(connect.clean_session);
    let welcome = v4::ConnAck::new(v4::ConnectReturnCode::Success, false);
    say(&mut stream, v4::Packet::ConnAck(welcome)).await;
    connected(&mut events).await;
    // Its machine acknowledges, so that the process may take its time.
    for _ in 0..20 {
        assert_eq!(packet(&mut stream, &mut input).await, v4::Packet::PingReq);
    }
    assert!(events.try_recv().is_err());
    drop(stream);
    assert!(matches!(
        next(&mut events).await,
        MqttEvent::Disconnected(_)
    ));
}

#[tokio::test]
async fn a_refusal_is_told_once_and_tried_again() {
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let (_mqtt, mut events) = start(listener.local_addr().unwrap(), Duration::from_secs(1));
    for _ in 0..3 {
        let (mut stream, _) = listener.accept().await.unwrap();
        packet(&mut stream, &mut BytesMut::new()).await;
        let refusal = v4::ConnAck::new(v4::ConnectReturnCode::NotAuthorized, false);
        say(&mut stream, v4::Packet::ConnAck(refusal)).await;
    }
    let MqttEvent::Disconnected(why) = next(&mut events).await else {
        panic!("it was refused");
    };
    assert!(why.contains("NotAuthorized"), "{why}");
    assert!(events.try_recv().is_err());
}
