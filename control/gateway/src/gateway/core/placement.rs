//! What the cluster is told about this node: which instances run here, and which ended.

use super::Core;
use crate::command::InstanceName;
use crate::node::attach::Wired;
use crate::node_key;
use sluice_proto::ServiceName;
use sluice_proto::message::{self, NodeId, NodeKey, Undeployed, Verb};
use sluice_proto::table_query::Row;
use sluice_tunnel::key::Identity;
use sluice_wire::{Dual, NsIp};
use std::time::Duration;

/// How long the cluster is told of an end again and again, and how often.
const TELL_AGAIN: Duration = Duration::from_secs(30);
pub(super) const TELL_PAUSE_S: u64 = 5;

/// An instance that ended. The cluster is told again for a while: a message that was on its way when a connection or
/// the cluster died is lost, and an instance that nobody withdraws is called for ever.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) epoch: u64,
    /// Since it was told first on a connection that stands.
    pub(super) told_until: Option<Duration>,
}

impl Core {
    /// Tells the cluster where an instance runs.
    pub(super) fn announce(&self, wired: &Wired, epoch: u64) {
        let InstanceName {
            service,
            instance_number,
        } = &wired.instance;
        self.announce_at(service, *instance_number, epoch, &wired.ns_ip);
    }

    fn announce_at(&self, service: &str, number: u32, epoch: u64, ns_ip: &Dual<NsIp>) {
        let deployed = message::Deployed {
            appname: service.to_owned(),
            status: "DEPLOYED".to_owned(),
            instance_number: number,
            nsip: ns_ip.v4.map(NsIp::ip),
            nsipv6: ns_ip.v6.map(NsIp::ip),
            host_port: self.config.gateway.exposed_port,
            host_ip: self.own_ip,
            epoch,
            public_key: self.said_key(),
            answers_probes: self.routes.is_probed_beside(ns_ip),
        };
        self.say(Verb::Deployed, &deployed);
    }

    /// The key that the cluster is told: none where this node speaks in plain.
    pub(super) fn said_key(&self) -> Option<NodeKey> {
        let encrypts = self.config.tunnel.encrypt;
        encrypts.then(|| node_key::public(&self.identity))
    }

    /// Goes on with another key. The rows of the instances here say it to everybody who calls them.
    pub(super) fn set_identity(&mut self, identity: Identity) {
        self.plane.set_identity(&identity);
        self.identity = identity;
        tracing::info!(public_key = %self.identity.public(), "the node has another key");
        self.announce_all();
    }

    /// Tells the cluster about every instance again: it may have forgotten, or we have another address.
    pub(super) fn announce_all(&self) {
        for local in self.routes.locals() {
            self.announce_at(
                &local.job.to_string(),
                local.number,
                local.epoch,
                &local.ns_ip,
            );
        }
        for nameless in self.nameless.values() {
            self.announce(&Wired::from(&nameless.attachment), 0);
        }
    }

    pub(super) fn end_of(&mut self, service: String, number: u32, epoch: u64) {
        self.ended.insert(
            (service, number),
            Ended {
                epoch,
                told_until: None,
            },
        );
        self.state_changed = true;
    }

    /// The managers place an instance here that is not here: it ended while nobody could be told.
    pub(super) fn disown(&mut self, job: &ServiceName, row: &Row) {
        let here = row.place.as_ref().and_then(|place| place.node.as_deref());
        let ours = here.is_some() && here == self.node_id.as_ref().map(NodeId::as_str);
        let key = (job.to_string(), row.number);
        if ours
            && row.epoch != 0
            && self.node.is_some()
            && !self.lives_here(job, row.number)
            && !self.ended.contains_key(&key)
        {
            self.end_of(key.0, key.1, row.epoch);
        }
    }

    /// Tells the cluster about ends; one whose epoch is not known only once, as the number may be another's by then.
    pub(super) fn tell_ended(&mut self, now: Duration) {
        if !self.connected {
            return;
        }
        let mut ended = std::mem::take(&mut self.ended);
        for ((appname, instance_number), it) in &mut ended {
            let undeployed = Undeployed {
                appname: appname.clone(),
                instance_number: *instance_number,
                epoch: it.epoch,
            };
            self.say(Verb::Undeployed, &undeployed);
            it.told_until.get_or_insert(now + TELL_AGAIN);
        }
        ended.retain(|_, it| it.epoch != 0 && it.told_until.is_none_or(|until| now < until));
        self.state_changed |= ended.len() != self.ended.len();
        self.ended = ended;
    }
}
