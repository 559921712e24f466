//! Leaving for good (`sluice gateway --remove`): the cluster hears it, and nothing stays on the node.
//!
//! That the node leaves is on its disk before anybody is told, and until the cluster has acknowledged it: a gateway that
//! starts in between tells it first, and then joins as a new node.

use super::state::{EndedState, State, StateFile};
use super::{Error, MESSAGES_MAX, pins, wiring};
use crate::config::{Config, HostPort};
use crate::hardware::{self, HardwareError};
use crate::node::{self, NodeError, NodeNet};
use crate::node_key;
use sluice_managers::clocks;
use sluice_managers::mqtt::{Mqtt, MqttConfig, MqttEvent};
use sluice_proto::message::{self, LeaveRequest, LeaveResult, NodeId, Topic, Undeployed, Verb};
use std::fmt;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout_at};

/// How long the cluster may take to acknowledge that the node leaves.
const PATIENCE: Duration = Duration::from_secs(5);
/// It is told again so often.
const REPEAT: Duration = Duration::from_secs(1);

/// Who knows that the node has left.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Heard {
    /// It was not registered anywhere.
    Nobody,
    /// The cluster with this broker, `host:port`, has it on disk.
    Cluster(String),
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("removed; the node was not registered at a cluster"),
            Self::Cluster(cluster) => write!(
                f,
                "removed; the cluster at {cluster} knows that the node has left: its instances end and its subnet goes back"
            ),
        }
    }
}

/// Tells the cluster that the node leaves, and removes what a stopped gateway left on it: instances' devices, bridge,
/// uplink, TUN device, routes, rules, settings of the underlay interface, BPF programs and what it remembers.
///
/// # Errors
/// When a gateway runs, or names what could not be removed. [`Error::Unheard`] when all is removed, but the cluster does
/// not know it yet; a repetition tells it again.
pub async fn leave(config: &Config) -> Result<Heard, Error> {
    let socket = &config.gateway.admin_socket;
    if UnixStream::connect(socket).is_ok() {
        return Err(Error::Running(socket.clone()));
    }
    let (mut file, mut state) = StateFile::open(&config.gateway.state_dir)?;
    if state.registration.is_none() {
        clear(config)?;
        forget(config)?;
        return Ok(Heard::Nobody);
    }
    state.leaving = true;
    file.write(&state)?;
    let told = tell(config, &state).await;
    clear(config)?;
    let cluster = told?;
    forget(config)?;
    Ok(Heard::Cluster(cluster))
}

/// What a gateway starts from: its state, or nothing when it is a node that was leaving. A cluster that cannot be told
/// now holds nothing up: it gives the node the subnet that it still has for it, and hears later what ended.
pub(super) async fn finish(
    config: &Config,
    file: &mut StateFile,
    state: State,
) -> Result<State, Error> {
    if !state.leaving {
        return Ok(state);
    }
    let untold = match tell(config, &state).await {
        Ok(cluster) => {
            tracing::info!(cluster, "the node had left, and joins anew");
            Vec::new()
        }
        Err(error) => {
            tracing::warn!(%error, "the node joins again");
            ended(&state).collect()
        }
    };
    clear(config)?;
    let mut registration = state.registration;
    if let Some(registration) = &mut registration {
        registration.subnet = None;
    }
    let state = State {
        registration,
        ended: untold,
        ..State::default()
    };
    file.write(&state)?;
    Ok(state)
}

/// Takes everything away that the gateway made on this node, but for what it remembers about its cluster.
fn clear(config: &Config) -> Result<(), Error> {
    let wiring = wiring(config);
    if let Some(subnet) = node::remembered_subnet(&wiring).map_err(NodeError::from)? {
        NodeNet::adopt_or_create(wiring, subnet, &[], &clocks())?.teardown()?;
    }
    node::remove_device(&config.gateway.tun)?;
    pins::remove(&config.gateway.state_dir)?;
    hardware::remove(&config.gateway.state_dir).map_err(HardwareError::from)?;
    Ok(())
}

/// What the node was is gone: its state, and its key unless somebody keeps it elsewhere.
fn forget(config: &Config) -> Result<(), Error> {
    StateFile::remove(&config.gateway.state_dir)?;
    if let Some(key) = node_key::own_file(config) {
        key.remove()?;
    }
    Ok(())
}

/// Says it until the cluster has acknowledged it, and which one that is.
async fn tell(config: &Config, state: &State) -> Result<String, Error> {
    let Some(registration) = &state.registration else {
        return Ok(String::new());
    };
    let node = NodeId::new(&registration.node_id)?;
    let cluster = HostPort {
        host: registration.host.clone(),
        port: registration.port,
    }
    .to_string();
    let token = config.gateway_token()?;
    let broker = MqttConfig {
        client_id: registration.node_id.clone(),
        login: token.map(|token| (registration.node_id.clone(), token)),
        host: registration.host.clone(),
        port: registration.port,
        silence: Duration::from_millis(config.gateway.broker_silence_ms.into()),
    };
    let subnet = registration.subnet.as_ref();
    let leave = LeaveRequest {
        address: subnet.and_then(|subnet| subnet.address),
        addressv6: subnet.and_then(|subnet| subnet.addressv6),
    };
    let (sender, mut events) = mpsc::channel(MESSAGES_MAX);
    let mqtt = Mqtt::start(broker, sender);
    let deadline = Instant::now() + PATIENCE;
    let mut repeat = interval(REPEAT);
    let mut connected = false;
    let mut why = "it does not answer, as a cluster manager of Oakestra's never does".to_owned();
    let answer = Topic::node(node.clone(), Verb::LeaveResult).to_string();
    loop {
        let event = tokio::select! {
            event = timeout_at(deadline, events.recv()) => event,
            _ = repeat.tick() => {
                if connected {
                    say(&mqtt, &node, state, &leave);
                }
                continue;
            }
        };
        match event {
            Ok(Some(MqttEvent::Connected)) => {
                mqtt.subscribe(&answer);
                say(&mqtt, &node, state, &leave);
                connected = true;
            }
            Ok(Some(MqttEvent::Subscribed)) => {}
            Ok(Some(MqttEvent::Message { topic, payload })) => {
                let result = message::read::<LeaveResult>("leave result", &payload);
                let is_ours = |result: LeaveResult| {
                    (result.address, result.addressv6) == (leave.address, leave.addressv6)
                };
                if topic == answer && result.is_ok_and(is_ours) {
                    return Ok(cluster);
                }
            }
            Ok(Some(MqttEvent::Disconnected(text))) => {
                connected = false;
                why = text;
            }
            Ok(None) | Err(_) => return Err(Error::Unheard { cluster, why }),
        }
    }
}

/// All instances that the cluster may believe to be here: none of them is any more.
fn ended(state: &State) -> impl Iterator<Item = EndedState> {
    let local = state.local.iter().map(|it| EndedState {
        service: it.service.clone(),
        number: it.number,
        epoch: it.epoch,
    });
    local.chain(state.ended.iter().cloned())
}

/// The instances one by one, as some may have been allotted and never run, and then the node.
fn say(mqtt: &Mqtt, node: &NodeId, state: &State, leave: &LeaveRequest) {
    for it in ended(state) {
        let undeployed = Undeployed {
            appname: it.service,
            instance_number: it.number,
            epoch: it.epoch,
        };
        let topic = Topic::node(node.clone(), Verb::Undeployed).to_string();
        mqtt.publish(&topic, message::write(&undeployed));
    }
    let topic = Topic::node(node.clone(), Verb::LeaveRequest).to_string();
    mqtt.publish(&topic, message::write(leave));
}
