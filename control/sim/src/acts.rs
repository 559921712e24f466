//! What developers, operators and applications do to the world.

use crate::planted::Bug;
use crate::tenants::namespaces;
use crate::world::World;
use sluice_proto::ServiceName;
use sluice_proto::message::ServiceDeploy;
use sluice_proto::table_query::Key;
use sluice_proto::table_query::root::Command;
use std::time::Duration;

impl World {
    /// A developer applies a new service; the root answers on the spot, as its command line does.
    ///
    /// # Panics
    /// When the root refuses it.
    pub fn apply_service(&mut self) {
        if !self.root.up {
            return;
        }
        self.applied += 1;
        let name = format!("app{}", self.applied % 7);
        let service = format!("svc{}", self.applied);
        let (app_ns, service_ns) = namespaces(self.applied);
        let descriptor = serde_json::json!({
            "app_name": name, "app_ns": app_ns, "service_name": service, "service_ns": service_ns,
            "microservice_name": service, "microservice_namespace": service_ns, "port": "80"});
        let job: ServiceName = format!("{name}.{app_ns}.{service}.{service_ns}")
            .parse()
            .expect("a service name");
        let deploy = ServiceDeploy {
            id: self.root.root.id_for(&job),
            deployment_descriptor: descriptor,
        };
        let command = Command::ServiceDeploy(deploy);
        let applied = self.root.apply(&command, self.now, Duration::ZERO);
        assert_eq!(applied.reply.status, 200, "{:?}", applied.reply);
        self.note(format!("apply {job}"));
        let given = self.root.root.job(&Key::Name(job.clone()));
        for entry in given.iter().flat_map(|job| &job.service_ip_list) {
            for ip in entry.ips().iter() {
                self.truth.address_given(ip, &job.to_string());
            }
        }
        self.services.push(job);
        self.wait_for_the_roots_disk();
    }

    /// Whoever says something at the root's command line hears the answer when it is on disk, and with it all that was
    /// written before. Only then he goes on.
    pub(crate) fn wait_for_the_roots_disk(&mut self) {
        let wait = self.root.store.wait(self.now);
        if !wait.is_zero() && self.bug != Some(Bug::AcknowledgeBeforeSync) {
            self.run_for(wait);
        }
    }

    /// A developer deletes a service, which the root allows when nothing of it is left.
    pub fn delete_service(&mut self, which: usize) {
        let Some(job) = self
            .services
            .get(which % self.services.len().max(1))
            .cloned()
        else {
            return;
        };
        if !self.root.up {
            return;
        }
        let id = self.root.root.id_for(&job);
        let command = Command::ServiceDelete { id };
        let applied = self.root.apply(&command, self.now, Duration::ZERO);
        if applied.reply.status == 200 {
            self.note(format!("delete {job}"));
            self.services.retain(|other| *other != job);
            self.wait_for_the_roots_disk();
        }
    }

    pub fn attach(&mut self, node: usize, service: usize) {
        let Some(job) = self
            .services
            .get(service % self.services.len().max(1))
            .cloned()
        else {
            return;
        };
        if self.nodes[node].leaving.is_some() {
            return;
        }
        self.note(format!("attach {job} at node{node}"));
        self.nodes[node].attach(&job, self.now);
    }

    pub fn detach(&mut self, node: usize, which: usize) {
        let now = self.now;
        if let Some((identity, message)) = self.nodes[node].detach(which, now) {
            self.note(format!("detach {identity:?} at node{node}"));
            self.truth.living.remove(&identity);
            self.send(node, message);
        }
    }

    /// An operator revokes a node's key at the root, which is up, and knows it.
    pub(crate) fn revoke_key(&mut self, node: usize) {
        let key = self.nodes[node].key;
        self.note(format!("node{node}'s key is revoked"));
        let (now, sync) = (self.now, self.network.sync_time());
        self.root.apply(&Command::KeyRevoke(key), now, sync);
        self.drain();
    }

    /// A node says once more where its instances run.
    pub(crate) fn say_places(&mut self, node: usize) {
        let said: Vec<_> = self.nodes[node].places().collect();
        for message in said {
            self.send(node, message);
        }
    }

    /// An operator gives a node another key.
    pub fn rotate_key(&mut self, node: usize) {
        if self.nodes[node].leaving.is_some() {
            return;
        }
        self.note(format!("node{node} has another key"));
        for message in self.nodes[node].rotate_key() {
            self.send(node, message);
        }
    }

    /// A node needs to know a service: by name, ServiceIP or InstanceIP, or an address that nothing has.
    pub fn ask(&mut self, node: usize, service: usize, how: u32) {
        let Some(job) = self
            .services
            .get(service % self.services.len().max(1))
            .cloned()
        else {
            return;
        };
        if self.nodes[node].leaving.is_some() {
            return;
        }
        let known = self.root.root.job(&Key::Name(job.clone()));
        let service_ip = known.and_then(|job| job.service_ip_list.first()?.address);
        let instance_ip = known.and_then(|job| job.instance_list.last()?.instance_ip_v6);
        let key = match how % 4 {
            0 => Key::Name(job),
            1 => service_ip.map_or(Key::Name(job), Key::Address),
            2 => instance_ip.map_or(
                Key::Address(sluice_wire::Ip::v4([10, 30, 99, 99])),
                Key::Address,
            ),
            _ => Key::Address(sluice_wire::Ip::v4([10, 30, 200, 7])),
        };
        self.note(format!("node{node} asks {key}"));
        self.nodes[node].asker.handle_question(&key, self.now);
    }
}
