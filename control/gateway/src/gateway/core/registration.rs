//! Becoming a node: the registration, the connection to the cluster, the subnet, and the wiring.

use super::Core;
use crate::command::{Refusal, Register, Reply};
use crate::config::LinkKind;
use crate::gateway::state::Registration;
use crate::gateway::{self, Error};
use crate::hardware;
use crate::node::devices::LinkState;
use crate::node::thread::Node;
use crate::node::{self, NodeError, NodeNet, hops};
use sluice_hw_profiles::Link;
use sluice_managers::clocks;
use sluice_managers::mqtt::{Mqtt, MqttConfig};
use sluice_proto::ServiceName;
use sluice_proto::message::{NodeId, SubnetRequest, SubnetResult, Verb};
use sluice_wire::{Dual, Ip, Subnet};
use std::net::IpAddr;
use std::time::Duration;

/// How long a registration waits for a subnet: the node engine gives up at the same time (OAKESTRA-WIRE 1.2).
const REGISTER_WAIT: Duration = Duration::from_millis(9_500);
/// A subnet that does not come is asked for again.
pub(super) const SUBNET_RETRY: Duration = Duration::from_secs(2);

impl Core {
    pub(super) async fn register(&mut self, register: Register, reply: Reply<()>, now: Duration) {
        if let Some(known) = &self.registration {
            if known.node_id != register.client_id {
                let registered = known.node_id.clone();
                let _ = reply.send(Err(Refusal::OtherNode {
                    registered,
                    asked: register.client_id,
                }));
                return;
            }
            if self.node.is_some() {
                let _ = reply.send(Ok(()));
                return;
            }
            self.registering.push((reply, now + REGISTER_WAIT));
            return;
        }
        let host = register.cluster_address;
        if host.is_empty() || host == "0.0.0.0" {
            let missing = "cluster_address is empty and gateway.cluster is not set".to_owned();
            let _ = reply.send(Err(Refusal::BadRequest(missing)));
            return;
        }
        self.registration = Some(Registration {
            node_id: register.client_id,
            host,
            port: gateway::BROKER_PORT,
            subnet: None,
            cluster_key: None,
        });
        self.registering.push((reply, now + REGISTER_WAIT));
        if let Err(error) = self.begin(now).await {
            tracing::error!(%error, "registration failed");
            self.registration = None;
            for (reply, _) in self.registering.drain(..) {
                let _ = reply.send(Err(Refusal::Wiring(error.to_string())));
            }
        }
    }

    /// Connects, opens the links, and wires the node if its subnet is known.
    pub(super) async fn begin(&mut self, now: Duration) -> Result<(), Error> {
        let Some(registration) = self.registration.clone() else {
            return Ok(());
        };
        self.node_id = Some(NodeId::new(&registration.node_id)?);
        self.look_at_own_address(now);
        // Other links need the wiring first, see `wire`.
        if self.config.fastpath.link == LinkKind::Tun {
            self.plane.start_tun()?;
        }
        self.fresh = self.fresh_start()?;
        self.trust_and_connect(&registration, now);
        self.state_changed = true;
        tracing::info!(
            node = registration.node_id,
            cluster = format!("{}:{}", registration.host, registration.port),
            "registered"
        );
        if let Some(subnet) = registration.subnet {
            self.wire(&subnet, now).await?;
        }
        Ok(())
    }

    /// Names this start when nothing is known of an earlier one, neither by the managers' names nor by the wiring.
    fn fresh_start(&self) -> Result<Option<u64>, Error> {
        let has_subnet = self
            .registration
            .as_ref()
            .is_some_and(|known| known.subnet.is_some());
        let wired = node::remembered_subnet(&gateway::wiring(&self.config));
        if has_subnet || wired.map_err(NodeError::from)?.is_some() {
            return Ok(None);
        }
        let start = clocks().wall.as_micros();
        Ok(Some(u64::try_from(start).unwrap_or(u64::MAX)))
    }

    pub(super) fn connect(&mut self, registration: &Registration) {
        let broker = MqttConfig {
            client_id: registration.node_id.clone(),
            login: (self.token.clone()).map(|token| (registration.node_id.clone(), token)),
            host: registration.host.clone(),
            port: registration.port,
            silence: Duration::from_millis(self.config.gateway.broker_silence_ms.into()),
        };
        self.mqtt = Some(Mqtt::start(broker, self.mqtt_events.clone()));
    }

    /// The address that other nodes reach us at: configured, or the source of packets towards the cluster. A cluster on
    /// this machine, or one with a name (resolving it would hold up everything else), says nothing: then it is the source
    /// of the default route. Where no way leads to the cluster for a moment, it stays what it was.
    pub(super) fn look_at_own_address(&mut self, now: Duration) {
        let Some(registration) = self.registration.clone() else {
            return;
        };
        let cluster = registration
            .host
            .parse::<IpAddr>()
            .ok()
            .filter(|ip| !ip.is_loopback());
        let found = self
            .config
            .gateway
            .node_address
            .or_else(|| gateway::source_towards(cluster))
            .or_else(|| loopback(&registration.host));
        let Some(ip) = found.filter(|ip| self.own_ip != Some(*ip)) else {
            return;
        };
        if let Some(old) = self.own_ip.replace(ip) {
            tracing::info!(%old, new = %ip, "the node's address changed");
            // The connection is from the former address, whose end nobody tells it.
            self.lose_broker("the node's address changed".to_owned(), now);
            self.connect(&registration);
        }
        self.routes.set_own((ip, self.config.gateway.exposed_port));
    }

    pub(super) fn ask_subnet(&mut self, now: Duration) {
        self.subnet_asked_at = Some(now);
        let request = SubnetRequest {
            fresh: self.fresh,
            public_key: self.said_key(),
            ..SubnetRequest::get()
        };
        self.say(Verb::Subnet, &request);
    }

    /// Makes or adopts bridge, uplink and instances.
    pub(super) async fn wire(
        &mut self,
        granted: &SubnetResult,
        now: Duration,
    ) -> Result<(), Error> {
        let plan = self.config.plan;
        let subnet = |ip: Option<Ip>, length: u8| ip.map(|ip| Subnet::new(ip, length)).transpose();
        let subnet = Dual {
            v4: subnet(granted.address, plan.node_length_v4)?,
            v6: subnet(granted.addressv6, plan.node_length_v6)?,
        };
        let wiring = gateway::wiring(&self.config);
        let held = granted.held.clone();
        let net = tokio::task::spawn_blocking(move || {
            NodeNet::adopt_or_create(wiring, subnet, &held, &clocks())
        })
        .await
        .map_err(|_| Error::NodePanicked)??;
        self.routes.set_gateway(net.gateway());
        self.dns.listen(net.gateway());
        let (attachments, hosts) = (net.attachments().to_vec(), net.hosts().to_vec());
        let service = net.service_link()?;
        let node = Node::start(net)?;
        // First the kernel finishes checksums, then frames are taken before it does.
        let is_xdp = self.config.fastpath.link != LinkKind::Tun && {
            node.wire_xdp().await?;
            self.start_xdp(service)?
        };
        if !is_xdp {
            self.plane.start_tun()?;
            node.wire_tun().await?;
        }
        self.node = Some(node);
        self.plane.offload(&self.config.gateway.uplink);
        self.subnet_asked_at = None;
        let remembered = std::mem::take(&mut self.remembered);
        for attachment in attachments {
            self.adopt(attachment, &remembered, now);
        }
        for host in hosts {
            self.adopt_host(host, &remembered, now);
        }
        for local in remembered {
            if ServiceName::parse(&local.service)
                .is_ok_and(|service| !self.lives_here(&service, local.number))
            {
                self.end_of(local.service, local.number, local.epoch);
            }
        }
        self.tell_ended(now);
        self.routes_changed = true;
        self.state_changed = true;
        for (reply, _) in self.registering.drain(..) {
            let _ = reply.send(Ok(()));
        }
        tracing::info!(subnet_v4 = ?subnet.v4, subnet_v6 = ?subnet.v6, "the node is wired");
        Ok(())
    }

    /// Starts workers on AF_XDP links; false when they do not work here and it may be TUN instead.
    fn start_xdp(&mut self, service: LinkState) -> Result<bool, Error> {
        let kind = self.config.fastpath.link;
        let started = self.find_underlay().and_then(|underlay| {
            let ranges = self.config.plan.semantic;
            let sockets = hardware::choose(&self.config, Some(&underlay.name))?
                .settings(&self.config, Link::AfXdp);
            self.plane.start_xdp(service, ranges, underlay, &sockets)
        });
        match started {
            Ok(()) => Ok(true),
            Err(error) if kind == LinkKind::Auto => {
                tracing::warn!(%error, "AF_XDP does not work here; the link is TUN");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The device towards other nodes.
    fn find_underlay(&self) -> Result<LinkState, Error> {
        let name = self.config.hardware.interface.clone();
        let own = self.own_ip.unwrap_or(Ip::UNSPECIFIED);
        hops::underlay(name.as_deref(), own)
            .map_err(NodeError::from)?
            .ok_or(Error::NoUnderlay { name, own })
    }

    /// Registrations that waited too long are refused.
    pub(super) fn end_registrations(&mut self, now: Duration) {
        for (reply, _) in self.registering.extract_if(.., |(_, until)| *until <= now) {
            let away = format!("no subnet within {} s", REGISTER_WAIT.as_secs());
            let _ = reply.send(Err(Refusal::ManagersAway(away)));
        }
    }
}

/// The address of a cluster on this machine that other machines cannot reach.
fn loopback(host: &str) -> Option<Ip> {
    let ip = host.parse::<IpAddr>().ok();
    ip.filter(IpAddr::is_loopback).map(Ip::from)
}
