//! Help for this crate's tests: a directory that goes away with its guard, managers on free ports, short requests.

use crate::http::{Answer, Client};
use crate::{Access, BrokerConfig, ClusterConfig, RootConfig, Token, cluster, root};
use hyper::Method;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::Value;
use sluice_proto::alloc::Rests;
use sluice_proto::isolation::Isolation;
use sluice_wire::AddressPlan;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

static MADE: AtomicU32 = AtomicU32::new(0);

/// Far longer than anything here takes, for a failing test to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An empty directory of this test alone.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("sluice-managers-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A root manager of the test, on loopback.
pub(crate) struct RunningRoot {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), root::RootError>>,
}

pub(crate) fn root_config(directory: &Path) -> RootConfig {
    RootConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        access: Access::default(),
        jwt_key_server: None,
        data_dir: directory.to_owned(),
        admin_socket: None,
        rests: Rests::default(),
        plan: AddressPlan::oakestra(),
    }
}

pub(crate) async fn start_root(config: RootConfig) -> RunningRoot {
    let server = root::Server::bind(config).await.unwrap();
    let address = server.address();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(server.run(async move {
        let _ = stopped.await;
    }));
    RunningRoot {
        address,
        stop,
        task,
    }
}

impl RunningRoot {
    pub(crate) async fn end(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

/// A cluster manager of the test, on loopback.
pub(crate) struct RunningCluster {
    pub(crate) address: SocketAddr,
    pub(crate) broker: Option<SocketAddr>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), cluster::ClusterError>>,
}

pub(crate) fn cluster_config(directory: &Path, id: &str, root: SocketAddr) -> ClusterConfig {
    ClusterConfig {
        id: id.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        access: Access::default(),
        root: root.to_string(),
        root_token: None,
        advertise: None,
        data_dir: directory.to_owned(),
        admin_socket: None,
        broker: BrokerConfig::Embedded {
            listen: "127.0.0.1:0".parse().unwrap(),
            access: Access::default(),
            node_credentials: false,
        },
        isolation: Isolation::default(),
        instances_max: 24,
        webhook: None,
        plan: AddressPlan::oakestra(),
    }
}

pub(crate) async fn start_cluster(config: ClusterConfig) -> RunningCluster {
    let server = cluster::Server::bind(config).await.unwrap();
    let (address, broker) = (server.address(), server.broker_address());
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(server.run(async move {
        let _ = stopped.await;
    }));
    RunningCluster {
        address,
        broker,
        stop,
        task,
    }
}

impl RunningCluster {
    pub(crate) async fn end(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

/// A node as Oakestra's network manager is one: subscribed to its results, QoS 1, no password.
pub(crate) struct Node {
    pub(crate) id: String,
    client: AsyncClient,
    packets: mpsc::UnboundedReceiver<Packet>,
    task: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Node {
    /// Connects, and subscribes to everything under `nodes/<id>/net/` and to the updates of `job`.
    pub(crate) async fn join(broker: SocketAddr, id: &str, job: &str) -> Self {
        Self::join_as(broker, id, None, job).await
    }

    /// The same with a client id of its own choice, its id as the user name, and a password.
    pub(crate) async fn join_as(
        broker: SocketAddr,
        id: &str,
        login: Option<(&str, &Token)>,
        job: &str,
    ) -> Self {
        let client_id = login.map_or(id, |(client_id, _)| client_id);
        let mut options = MqttOptions::new(client_id, broker.ip().to_string(), broker.port());
        if let Some((_, password)) = login {
            options.set_credentials(id, password.secret());
        }
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut events) = AsyncClient::new(options, 16);
        events.network_options.set_tcp_nodelay(true);
        let (sender, packets) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            while let Ok(event) = events.poll().await {
                if let Event::Incoming(packet) = event {
                    // The test may have heard enough.
                    let _ = sender.send(packet);
                }
            }
        });
        let mut node = Self {
            id: id.to_owned(),
            client,
            packets,
            task,
        };
        node.subscribe(&format!("nodes/{id}/net/#")).await;
        node.subscribe(&format!("jobs/{job}/updates_available"))
            .await;
        node
    }

    /// Subscribes to one more topic.
    pub(crate) async fn subscribe(&mut self, filter: &str) {
        self.client
            .subscribe(filter, QoS::AtLeastOnce)
            .await
            .unwrap();
        self.packet(|packet| matches!(packet, Packet::SubAck(_)))
            .await;
    }

    async fn packet(&mut self, wanted: impl Fn(&Packet) -> bool) -> Packet {
        let wait = async {
            loop {
                let packet = self.packets.recv().await.expect("the connection lives");
                if wanted(&packet) {
                    return packet;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("the packet comes")
    }

    /// The topics of what comes up to the next message on `last`.
    pub(crate) async fn topics_until(&mut self, last: &str) -> BTreeSet<String> {
        let mut topics = BTreeSet::new();
        while !topics.contains(last) {
            let packet = self.packet(|packet| matches!(packet, Packet::Publish(_)));
            if let Packet::Publish(publish) = packet.await {
                topics.insert(publish.topic);
            }
        }
        topics
    }

    /// Publishes on a whole topic, and waits until the broker has acknowledged that.
    pub(crate) async fn say_on(&mut self, topic: &str, payload: impl Into<Vec<u8>>) {
        self.client
            .publish(topic, QoS::AtLeastOnce, false, payload)
            .await
            .unwrap();
        self.packet(|packet| matches!(packet, Packet::PubAck(_)))
            .await;
    }

    /// Publishes on `nodes/<id>/net/<verb>`.
    pub(crate) async fn say(&self, verb: &str, payload: impl Into<Vec<u8>>) {
        let topic = format!("nodes/{}/net/{verb}", self.id);
        self.client
            .publish(topic, QoS::AtLeastOnce, false, payload)
            .await
            .unwrap();
    }

    /// The next message on `nodes/<id>/net/<verb>`, or on the whole topic given.
    pub(crate) async fn hear(&mut self, verb: &str) -> Value {
        let topic = if verb.starts_with("jobs/") {
            verb.to_owned()
        } else {
            format!("nodes/{}/net/{verb}", self.id)
        };
        let packet = self
            .packet(|packet| matches!(packet, Packet::Publish(publish) if publish.topic == topic))
            .await;
        let Packet::Publish(publish) = packet else {
            unreachable!("waited for a PUBLISH");
        };
        serde_json::from_slice(&publish.payload).unwrap()
    }

    /// A table query and its answer.
    pub(crate) async fn query(&mut self, sname: &str, sip: &str) -> Value {
        let request = serde_json::json!({"sname": sname, "sip": sip});
        self.say("tablequery/request", request.to_string()).await;
        loop {
            let result = self.hear("tablequery/result").await;
            // Pushed results of other keys may come between.
            let key = if sip.is_empty() { sname } else { sip };
            if result["query_key"] == key {
                return result;
            }
        }
    }
}

/// One request to one manager.
pub(crate) struct Caller {
    client: Client,
    authority: String,
}

impl Caller {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            client: Client::new(None, PATIENCE),
            authority: address.to_string(),
        }
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        self.client
            .call(method, &self.authority, path, body.into(), PATIENCE)
            .await
            .unwrap()
    }

    /// Status and body as text.
    pub(crate) async fn text(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Vec<u8>>,
    ) -> (u16, String) {
        let answer = self.call(method, path, body).await;
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        (answer.status.as_u16(), text)
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.call(Method::GET, path, "").await;
        assert_eq!(answer.status, 200, "{path}: {:?}", answer.body);
        serde_json::from_slice(&answer.body).unwrap()
    }
}
