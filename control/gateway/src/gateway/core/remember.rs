//! What others see: the state file for a restart, and the view for status.

use super::Core;
use crate::admin_api::GatewayState;
use crate::gateway::state::{EndedState, LocalState, State};
use sluice_managers::wall_clock;
use sluice_wire::{Dual, Subnet};
use std::net::IpAddr;
use std::time::Duration;

/// The state file is written at most so often.
pub(super) const WRITE_PAUSE: Duration = Duration::from_millis(50);
/// At most so often when nothing but routes changed: there may be many, and they change often.
pub(super) const ROUTES_PAUSE: Duration = Duration::from_secs(1);
/// A question that is open for so long shows that the managers do not answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

impl Core {
    pub(super) fn remember(&mut self, now: Duration) {
        let local = self
            .routes
            .locals()
            .map(|local| LocalState {
                service: local.job.to_string(),
                number: local.number,
                epoch: local.epoch,
                instance_ip: local.instance_ip.v4.map(|ip| IpAddr::from(ip.ip())),
                instance_ip_v6: local.instance_ip.v6.map(|ip| IpAddr::from(ip.ip())),
            })
            .chain(self.remembered.iter().cloned())
            .collect();
        let ended = self
            .ended
            .iter()
            .map(|((service, number), it)| EndedState {
                service: service.clone(),
                number: *number,
                epoch: it.epoch,
            })
            .collect();
        let state = State {
            registration: self.registration.clone(),
            local,
            ended,
            routes: self.asker.snapshot(),
            confirmed_unix_s: Some(wall_clock().saturating_sub(self.routes_age(now)).as_secs()),
            ..State::default()
        };
        self.written_at = now;
        self.state_changed = false;
        self.routes_to_write = false;
        self.file.remember(state);
    }

    /// For how long nobody has stood by the routes; zero while the managers are there. A restart does not make them
    /// younger.
    fn routes_age(&self, now: Duration) -> Duration {
        let waits = self.asker.unanswered_since();
        let answers = waits.is_none_or(|since| now < since + ANSWER_PATIENCE);
        if self.connected && answers {
            return Duration::ZERO;
        }
        match self.asker.heard_at().max(self.connected_until) {
            Some(at) => now.saturating_sub(at),
            None => self.age_at_start + now.saturating_sub(self.started_at),
        }
    }

    pub(super) fn show(&self, now: Duration) {
        let registration = self.registration.as_ref();
        let not_ready = match (registration, &self.node) {
            (None, _) => "not registered: POST /register, or set gateway.cluster",
            (Some(_), None) => "waiting for the cluster to give this node a subnet",
            (Some(_), Some(_)) => "",
        };
        let subnet = registration.and_then(|known| known.subnet.as_ref());
        let plan = &self.config.plan;
        let (offload, flows_offloaded) = self.plane.offloader().status();
        let state = GatewayState {
            node_id: registration
                .map(|known| known.node_id.clone())
                .unwrap_or_default(),
            public_key: self.identity.public().to_string(),
            node_address: self.own_ip,
            tunnel_port: self.config.fastpath.tunnel_port,
            exposed_port: self.config.gateway.exposed_port,
            subnet: Dual {
                v4: subnet.and_then(|it| Subnet::new(it.address?, plan.node_length_v4).ok()),
                v6: subnet.and_then(|it| Subnet::new(it.addressv6?, plan.node_length_v6).ok()),
            },
            cluster: registration
                .map(|known| format!("{}:{}", known.host, known.port))
                .unwrap_or_default(),
            cluster_connected: self.connected,
            cluster_key: self.asker.cluster_key().map(ToString::to_string),
            refused: self.asker.refused(),
            routes_age: self.routes_age(now),
            questions_open: self.asker.queries(),
            tunnels: self.plane.tunnels(),
            encrypts: self.config.tunnel.encrypt,
            unspoken: self.routes.unspoken(),
            workers: self.plane.workers(),
            sockets: self.plane.sockets().to_vec(),
            offload,
            flows_offloaded,
            isolation: self.config.gateway.isolation.word(),
            flows_observed: self.plane.observed(),
            kept: self.routes.kept(),
            frames_relayed: self.plane.relayed(),
            not_ready: not_ready.to_owned(),
        };
        self.view.send_replace(state);
    }
}
