//! Nodes at the cluster's broker: they join and leave, and instances are attached to them and end.

use crate::ledger::{Instance, ips};
use crate::orchestrator::{Service, rows};
use crate::random::Random;
use crate::{PATIENCE, Shared};
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

const LIVE_MAX: usize = 6;
/// A request that was not answered is sent again.
const REPEAT: Duration = Duration::from_millis(300);
/// The broker is looked for again.
const RECONNECT: Duration = Duration::from_millis(10);

pub(crate) fn work(
    shared: &Shared,
    root: SocketAddr,
    broker: SocketAddr,
    worker: u32,
    mut random: Random,
) {
    let service = Service::new(100 + worker, 0);
    shared.ledger.service(&service.name, service.deploy(root));
    let driver = Driver::connect(broker, worker);
    let mut nodes: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let mut live: Vec<Live> = Vec::new();
    let mut count = 0_u64;
    shared.repeat(|| {
        count += 1;
        let choice = random.below(12);
        if nodes.is_empty() || choice == 0 {
            let node = format!("{worker:012x}{count:012x}");
            let networks = driver.subnet(&node);
            shared.ledger.subnet(&node, &networks);
            nodes.insert(node, networks);
            return;
        }
        let chosen = usize::try_from(random.below(nodes.len() as u64)).unwrap();
        let (node, networks) = nodes.iter().nth(chosen).unwrap();
        if choice == 1 {
            assert_eq!(&driver.subnet(node), networks, "the subnet of {node}");
        } else if choice == 2 && !live.iter().any(|other| other.node == *node) {
            // Its id is not used again: what was asked for twice is answered twice.
            let node = node.clone();
            let networks = nodes.remove(&node).unwrap();
            shared.ledger.subnet_ends(&networks);
            driver.leave(&node, &networks);
        } else if live.len() < LIVE_MAX && choice < 8 {
            let id = format!("{worker}-{count}");
            let given = driver.attach(node, &service.name, &id);
            let number = u32::try_from(given["instance_number"].as_u64().unwrap()).unwrap();
            let instance = (service.name.clone(), number);
            let given_ips = ips(&given, &["instance_ip", "instance_ip_v6"]);
            shared.ledger.instance(instance.clone(), given_ips);
            let instance = Live {
                instance,
                node: node.clone(),
                epoch: given["epoch"].as_u64().unwrap(),
                ns_ip: free_ns_ip(networks[0], &live),
            };
            driver.deployed(&instance);
            live.push(instance);
        } else if !live.is_empty() {
            let chosen = usize::try_from(random.below(live.len() as u64)).unwrap();
            let ended = live.swap_remove(chosen);
            let Live {
                instance,
                node,
                epoch,
                ..
            } = &ended;
            shared.ledger.instance_ends(instance);
            // Nobody answers this: it is said until the root has heard it, as a gateway does.
            let began = Instant::now();
            loop {
                assert!(
                    began.elapsed() < PATIENCE,
                    "{instance:?} of epoch {epoch} on {node} does not end"
                );
                driver.undeployed(&ended);
                thread::sleep(Duration::from_millis(20));
                let is_it = |row: &Value| {
                    row["service"] == *instance.0 && row["instance"] == u64::from(instance.1)
                };
                if !rows(root, "/v1/instances").iter().any(is_it) {
                    break;
                }
            }
        }
    });
}

/// An instance that runs.
struct Live {
    instance: Instance,
    node: String,
    epoch: u64,
    ns_ip: IpAddr,
}

/// The lowest address of the subnet that no other instance holds: one that is deployed on another's ends the other.
fn free_ns_ip(network: IpAddr, live: &[Live]) -> IpAddr {
    let IpAddr::V4(network) = network else {
        panic!("{network} is no IPv4 subnet");
    };
    // The first one is the bridge's.
    (2..)
        .map(|host| IpAddr::V4(Ipv4Addr::from_bits(network.to_bits() + host)))
        .find(|ip| live.iter().all(|other| other.ns_ip != *ip))
        .unwrap()
}

/// One connection that speaks for all nodes of a worker.
struct Driver {
    client: Client,
    heard: Receiver<(String, Value)>,
}

impl Driver {
    fn connect(broker: SocketAddr, worker: u32) -> Self {
        let id = format!("driver-{worker}");
        let mut options = MqttOptions::new(id, broker.ip().to_string(), broker.port());
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut connection) = Client::new(options, 64);
        let (sender, heard) = mpsc::channel();
        let subscriber = client.clone();
        thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        for verb in ["subnetwork/result", "v1/instance/result", "v1/leave/result"] {
                            let filter = format!("nodes/+/net/{verb}");
                            let _ = subscriber.try_subscribe(filter, QoS::AtLeastOnce);
                        }
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let message = serde_json::from_slice(&publish.payload).unwrap();
                        if sender.send((publish.topic, message)).is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => thread::sleep(RECONNECT),
                }
            }
        });
        Self { client, heard }
    }

    /// The subnet of a node, as often as it asks.
    fn subnet(&self, node: &str) -> Vec<IpAddr> {
        let request = json!({"METHOD": "GET"});
        let result = self.ask(node, "subnet", &request, "subnetwork/result", |_| true);
        ips(&result, &["address", "addressv6"])
    }

    /// The node gives its subnet back.
    fn leave(&self, node: &str, networks: &[IpAddr]) {
        let request = json!({"address": networks[0], "addressv6": networks[1]});
        self.ask(
            node,
            "v1/leave/request",
            &request,
            "v1/leave/result",
            |_| true,
        );
    }

    /// A new instance of the service on the node.
    fn attach(&self, node: &str, service: &str, id: &str) -> Value {
        let request = json!({"request_id": id, "service": service});
        self.ask(
            node,
            "v1/instance/request",
            &request,
            "v1/instance/result",
            |result| {
                let error = &result["error"];
                let ours = result["request_id"] == id;
                assert!(
                    !ours || error.is_null() || result["retry"] == true,
                    "{service} on {node}: {error}"
                );
                ours && error.is_null()
            },
        )
    }

    fn deployed(&self, live: &Live) {
        let (service, number) = &live.instance;
        let message = json!({"appname": service, "status": "DEPLOYED", "instance_number": number, "nsip": live.ns_ip,
                             "host_port": "50103", "host_ip": "192.0.2.1", "epoch": live.epoch});
        self.say(&live.node, "service/deployed", &message);
    }

    fn undeployed(&self, live: &Live) {
        let (service, number) = &live.instance;
        let message = json!({"appname": service, "instance_number": number, "epoch": live.epoch});
        self.say(&live.node, "service/undeployed", &message);
    }

    /// Asks until the wanted answer comes.
    fn ask(
        &self,
        node: &str,
        verb: &str,
        request: &Value,
        answer: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let topic = format!("nodes/{node}/net/{answer}");
        let began = Instant::now();
        loop {
            let waited = began.elapsed();
            assert!(
                waited < PATIENCE,
                "no answer to {request} on {verb} of {node}"
            );
            self.say(node, verb, request);
            let until = Instant::now() + REPEAT;
            loop {
                let left = until.saturating_duration_since(Instant::now());
                match self.heard.recv_timeout(left) {
                    Ok((heard, message)) if heard == topic && wanted(&message) => return message,
                    Ok(_) => {}
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => panic!("the connection's thread ended"),
                }
            }
        }
    }

    /// What is lost with a connection is said again by whoever waits for its effect.
    fn say(&self, node: &str, verb: &str, message: &Value) {
        let topic = format!("nodes/{node}/net/{verb}");
        let payload = message.to_string();
        let _ = self
            .client
            .try_publish(topic, QoS::AtLeastOnce, false, payload);
    }
}
