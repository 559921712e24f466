//! What the root allots: instances, subnets, and the registration that makes it listen.

use super::upward::{Asked, Method, Single};
use super::{Answerer, Attached, REQUEST_WAIT, Timer};
use crate::message::{
    ClusterRegistration, InstanceDeploy, InstanceDeployed, InstanceResult, NodeId, SubnetGrant,
    Verb, read, write,
};
use crate::table_query::Key;
use std::time::Duration;

impl Answerer {
    /// Lets the root allot an instance.
    pub(super) fn ask_instance(&mut self, key: &(NodeId, String)) {
        let Some(ask) = self.instances.get_mut(key) else {
            return;
        };
        let Some(known) = self.jobs.get(&ask.request.service) else {
            return;
        };
        let body = write(&InstanceDeploy {
            id: known.job.id.clone(),
            instance_number: ask.request.instance_number.map_or(-1, i64::from),
            cluster_id: self.settings.cluster_id.clone(),
            // Two nodes may choose the same id.
            request_id: Some(format!("{}-{}", key.0, key.1)),
            migrate: ask.request.migrate,
        });
        ask.attempts = ask.attempts.saturating_add(1);
        let deadline = ask.deadline;
        if let Some(id) = ask.sent.take() {
            self.asked.remove(&id);
        }
        let asked = Asked::Instance(key.0.clone(), key.1.clone());
        let path = format!("/api/net/instance/deploy{}", self.as_cluster());
        let id = self.send(asked, Method::Post, path, Some(body));
        if let Some(ask) = self.instances.get_mut(key) {
            ask.sent = Some(id);
        }
        self.timers
            .set(Timer::Instance(key.0.clone(), key.1.clone()), deadline);
    }

    pub(super) fn instance_due(&mut self, key: &(NodeId, String), now: Duration) {
        let Some(ask) = self.instances.get(key) else {
            return;
        };
        if now < ask.deadline {
            self.ask_instance(key);
            return;
        }
        if let Some(id) = ask.sent {
            self.asked.remove(&id);
        }
        self.instances.remove(key);
        self.instance_failed(&key.0, &key.1, "the root manager does not answer", true);
    }

    pub(super) fn instance_replied(
        &mut self,
        key: (NodeId, String),
        status: u16,
        body: &[u8],
        now: Duration,
    ) {
        if status > 500 {
            self.repeat_later(Asked::Instance(key.0, key.1), now);
            return;
        }
        let Some(ask) = self.instances.remove(&key) else {
            return;
        };
        self.timers
            .cancel(&Timer::Instance(key.0.clone(), key.1.clone()));
        let name = ask.request.service;
        if status != 200 {
            let problem: String = String::from_utf8_lossy(body).chars().take(256).collect();
            self.instance_failed(&key.0, &key.1, &problem, false);
            if status == 404 {
                self.refetch(Key::Name(name), now);
            }
            return;
        }
        match read::<InstanceDeployed>("allotted instance", body) {
            Ok(instance) => {
                if let Some(known) = self.jobs.get_mut(&name) {
                    let attached = Attached {
                        node: Some(key.0.clone()),
                        epoch: instance.epoch,
                        after: self.requests,
                    };
                    known.attached.insert(instance.instance_number, attached);
                    known.left.end(instance.instance_number, &key.0);
                    self.dirty.job(&name);
                    self.await_taking(&name, instance.instance_number, now);
                }
                // Before the node has it: it must not hear any more that the service is none of its business.
                self.note_residents(&name);
                let result = InstanceResult {
                    request_id: key.1,
                    instance_number: instance.instance_number,
                    instance_ip: instance.instance_ip,
                    instance_ip_v6: instance.instance_ip_v6,
                    epoch: instance.epoch,
                    kept_ip: instance.kept_ip,
                    kept_ip_v6: instance.kept_ip_v6,
                    error: None,
                    retry: false,
                };
                self.publish(&key.0, Verb::InstanceResult, write(&result));
                self.refetch(Key::Name(name), now);
            }
            Err(error) => self.instance_failed(&key.0, &key.1, &error.to_string(), false),
        }
    }

    /// Gives nodes that wait what the reserve has.
    pub(super) fn give_subnets(&mut self) {
        while !self.nodes_waiting.is_empty() {
            let Some(grant) = self.spare.pop_front() else {
                return;
            };
            let Some(node) = self.nodes_waiting.pop_first() else {
                return;
            };
            self.dirty.spare(&grant);
            self.dirty.node(&node);
            self.nodes.insert(node.clone(), grant);
            self.tell_subnet(&node);
        }
    }

    /// Fills the reserve, one request at a time.
    pub(super) fn ask_subnet(&mut self, now: Duration) {
        let enough =
            self.nodes_waiting.is_empty() && self.spare.len() >= self.settings.subnets_spare;
        if self.subnet.sent.is_some() || enough && self.subnet_request.is_none() {
            return;
        }
        self.subnet.attempts = 0;
        self.send_subnet(now);
    }

    fn send_subnet(&mut self, now: Duration) {
        if let Some(id) = self.subnet.sent {
            self.asked.remove(&id);
        }
        let id = self.subnet_request_id();
        let path = format!("/api/net/subnet{}&request_id={id}", self.as_cluster());
        self.subnet.attempts = self.subnet.attempts.saturating_add(1);
        self.subnet.sent = Some(self.send(Asked::Subnet, Method::Get, path, None));
        self.timers.set(Timer::Subnet, now + REQUEST_WAIT);
    }

    pub(super) fn subnet_due(&mut self, now: Duration) {
        if self.subnet.sent.is_some() {
            self.send_subnet(now);
        } else {
            self.ask_subnet(now);
        }
    }

    pub(super) fn subnet_replied(&mut self, status: u16, body: &[u8], now: Duration) {
        let grant = (status == 200)
            .then(|| read::<SubnetGrant>("subnet", body).ok())
            .flatten()
            .filter(|grant| grant.subnet_addr.is_some() || grant.subnet_addr_v6.is_some());
        let Some(grant) = grant else {
            if status == 409 {
                // It was given for this request, and came back: this manager goes on from an older state.
                self.end_subnet_request();
            }
            // Used up, or the root has a problem.
            self.repeat_later(Asked::Subnet, now);
            return;
        };
        self.subnet = Single::default();
        self.end_subnet_request();
        self.timers.cancel(&Timer::Subnet);
        self.dirty.spare(&grant);
        self.spare.push_back(grant);
        self.give_subnets();
        self.ask_subnet(now);
    }

    pub(super) fn register_due(&mut self, now: Duration) {
        if let Some(id) = self.register.sent {
            // The last one was not answered.
            self.asked.remove(&id);
            self.lose_root(now);
        }
        let body = write(&ClusterRegistration {
            cluster_id: self.settings.cluster_id.clone(),
            cluster_address: self.settings.address.clone(),
            cluster_port: self.settings.port,
        });
        let path = "/api/net/cluster".to_owned();
        self.register.attempts = self.register.attempts.saturating_add(1);
        self.register.sent = Some(self.send(Asked::Register, Method::Post, path, Some(body)));
        self.timers.set(Timer::Register, now + REQUEST_WAIT);
    }

    pub(super) fn register_replied(&mut self, status: u16, now: Duration) {
        if status == 200 {
            self.register = Single::default();
            self.timers
                .set(Timer::Register, now + self.settings.register_every);
        } else {
            self.repeat_later(Asked::Register, now);
        }
    }
}
