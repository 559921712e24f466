//! What goes wrong in the world, and how it is put right.

use crate::bus::Bus;
use crate::manager::RootShell;
use crate::network::{Party, Weather};
use crate::planted::Bug;
use crate::world::World;
use rand::Rng;
use sluice_wire::AddressPlan;
use std::time::Duration;

impl World {
    /// The connection of a node to its broker comes up or goes.
    pub fn connect(&mut self, index: usize, up: bool) {
        let now = self.now;
        if self.nodes[index].is_connected() == up {
            return;
        }
        if up {
            self.tell_key(index);
        }
        self.nodes[index].asker.handle_connection(up, now);
        self.note(format!("node{index} connected: {up}"));
        if up {
            self.open(index);
            let said = self.nodes[index].announce(now);
            for message in said {
                self.send(index, message);
            }
        } else {
            self.close(index);
        }
    }

    /// The node's cluster manager itself says with which key it signs.
    fn tell_key(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let key = self.clusters[node.cluster].answerer.signing_key();
        if self.bug != Some(Bug::SignatureIgnored) {
            let key = key.expect("clusters sign");
            node.asker.handle_cluster_key(key, self.now);
        }
    }

    /// A gateway is killed. Its instances go on, unheard; its kernel refuses what comes through the tunnel.
    pub fn stop_node(&mut self, index: usize) {
        self.note(format!("node{index} stops"));
        self.connect(index, false);
        self.network.reset(Party::Node(index));
        self.nodes[index].up = false;
    }

    pub fn restart_node(&mut self, index: usize) {
        if self.nodes[index].leaving.is_some() {
            return;
        }
        self.connect(index, false);
        self.network.reset(Party::Node(index));
        self.nodes[index].up = true;
        let seed = self.random.random();
        let now = self.now;
        self.note(format!("node{index} restarts"));
        self.nodes[index].restart(seed, now);
        let truth = &self.truth;
        self.traffic
            .forget_node(index, |identity| truth.living.get(identity).copied());
        self.drain();
        self.connect(index, !self.cut_off(index));
    }

    /// A gateway that was stopped starts with an empty state directory.
    pub fn start_node_empty(&mut self, index: usize) {
        self.note(format!("node{index} starts with an empty state directory"));
        self.forget_state(index);
        self.nodes[index].up = true;
        self.connect(index, !self.cut_off(index));
    }

    /// A gateway is killed, and starts with an empty state directory.
    pub fn wipe_node(&mut self, index: usize) {
        if self.nodes[index].leaving.is_none() {
            self.stop_node(index);
            self.start_node_empty(index);
        }
    }

    pub fn stop_cluster(&mut self, index: usize) {
        self.note(format!("cluster{index} stops"));
        self.clusters[index].store.crash(self.now);
        self.clusters[index].up = false;
        self.network.reset(Party::Cluster(index));
        for node in 0..self.nodes.len() {
            if self.nodes[node].cluster == index {
                self.connect(node, false);
            }
        }
    }

    pub fn start_cluster(&mut self, index: usize) {
        self.note(format!("cluster{index} starts"));
        let seed = self.random.random();
        self.clusters[index].restart(seed, self.now);
        self.connect_nodes_of(index);
    }

    /// A cluster manager that was stopped starts with an empty store.
    pub fn start_cluster_empty(&mut self, index: usize) {
        self.note(format!("cluster{index} starts with an empty store"));
        let seed = self.random.random();
        self.clusters[index].wipe(seed, self.now);
        self.connect_nodes_of(index);
    }

    /// A cluster manager is killed, and starts with an empty store.
    pub fn wipe_cluster(&mut self, index: usize) {
        if self.clusters[index].up {
            self.stop_cluster(index);
        }
        self.start_cluster_empty(index);
    }

    /// The broker of a cluster, as a process of its own, is killed; the cluster manager goes on.
    pub fn stop_broker(&mut self, index: usize) {
        self.note(format!("the broker of cluster{index} stops"));
        self.clusters[index].bus.up = false;
        for node in 0..self.nodes.len() {
            if self.nodes[node].cluster == index {
                self.connect(node, false);
            }
        }
    }

    /// It starts, and knows nothing: sessions are clean.
    pub fn start_broker(&mut self, index: usize) {
        self.note(format!("the broker of cluster{index} starts"));
        self.clusters[index].bus = Bus::start(self.now);
        self.connect_nodes_of(index);
    }

    fn connect_nodes_of(&mut self, cluster: usize) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].cluster == cluster && !self.cut_off(node) {
                self.connect(node, true);
            }
        }
    }

    pub fn stop_root(&mut self) {
        self.note("root stops");
        self.root.store.crash(self.now);
        self.root.up = false;
        self.network.reset(Party::Root);
    }

    pub fn start_root(&mut self) {
        self.note("root starts");
        let seed = self.random.random();
        self.root.restart(seed);
    }

    /// Every cluster manager that runs knows which store its root has. One that does not, because it lost its own, would take
    /// an empty one for it: a double fault that operators have to mend.
    pub fn clusters_know_the_store(&self) -> bool {
        let mut running = self.clusters.iter().filter(|cluster| cluster.up);
        running.all(|cluster| cluster.answerer.root_store().is_some())
    }

    /// The root starts without its store; gives the root as it was.
    pub fn wipe_root(&mut self) -> RootShell {
        self.stop_root();
        self.note("root starts with an empty store");
        let empty = RootShell::new(&AddressPlan::oakestra(), self.random.random());
        std::mem::replace(&mut self.root, empty)
    }

    /// The root starts with a store that was kept.
    pub fn bring_back_root(&mut self, kept: RootShell) {
        self.stop_root();
        self.root = kept;
        self.start_root();
    }

    pub fn restart_cluster(&mut self, index: usize) {
        if self.clusters[index].up {
            self.stop_cluster(index);
        }
        self.start_cluster(index);
    }

    pub fn restart_root(&mut self) {
        if self.root.up {
            self.stop_root();
        }
        self.start_root();
    }

    /// What is stopped starts, and what is cut from the root is joined to it.
    pub fn repair(&mut self) {
        for party in self.network.speed_up(self.now) {
            self.reconnect(party);
        }
        if !self.root.up {
            self.start_root();
        }
        for index in 0..self.clusters.len() {
            self.network.join(Party::Cluster(index), Party::Root);
            if !self.clusters[index].up {
                self.start_cluster(index);
            }
        }
    }

    /// The connections between nodes and brokers that end at the party are made anew.
    fn reconnect(&mut self, party: Party) {
        for node in 0..self.nodes.len() {
            let ends = [Party::Node(node), Party::Cluster(self.nodes[node].cluster)];
            if ends.contains(&party) {
                self.connect(node, false);
                self.connect(node, !self.cut_off(node));
            }
        }
    }

    /// A node that was cut off reaches its broker again.
    pub fn rejoin_node(&mut self, index: usize) {
        let cluster = Party::Cluster(self.nodes[index].cluster);
        self.network.join(Party::Node(index), cluster);
        self.connect(index, !self.cut_off(index));
    }

    /// Cuts a node from its broker. The node notices; the broker has its session until it comes again.
    pub fn cut_node(&mut self, index: usize) {
        let cluster = Party::Cluster(self.nodes[index].cluster);
        self.network.cut(Party::Node(index), cluster);
        self.connect(index, false);
    }

    /// Cuts the way of packets between two nodes, which nobody notices.
    pub fn cut_tunnel(&mut self, one: usize, other: usize) {
        if one != other {
            self.note(format!("tunnel between node{one} and node{other} cut"));
            self.network.cut(Party::Node(one), Party::Node(other));
        }
    }

    /// A party takes seconds for everything, until the next repair.
    pub fn slow_down(&mut self, party: Party, by: Duration) {
        self.note(format!("{party:?} is slow by {by:?}"));
        self.network.slow_down(party, by);
    }

    /// The root's clock on the wall jumps to `ahead` of time.
    pub fn jump(&mut self, ahead: Duration) {
        self.note(format!("the root's clock is {ahead:?} ahead"));
        self.root.ahead = ahead;
    }

    /// Cuts a cluster from the root; requests end in failure after a while.
    pub fn cut_cluster(&mut self, index: usize) {
        self.note(format!("cluster{index} cut from the root"));
        self.network.cut(Party::Cluster(index), Party::Root);
    }

    /// Everything runs, nothing is cut, and the network loses nothing any more. Sessions and requests during which
    /// messages were lost end, as those of TCP do.
    pub fn heal(&mut self, delay: Duration) {
        self.note("heal");
        self.network.join_all();
        self.network.speed_up(self.now);
        self.network.weather = Weather::calm(delay);
        if !self.root.up {
            self.start_root();
        }
        for cluster in 0..self.clusters.len() {
            if !self.clusters[cluster].up {
                self.start_cluster(cluster);
            }
        }
        for node in 0..self.nodes.len() {
            self.reconnect(Party::Node(node));
        }
        let now = self.now;
        let requests = self.clusters.iter_mut().flat_map(|it| it.http.values_mut());
        let notices = self.root.http.values_mut().map(|(_, at)| at);
        for at in requests.chain(notices) {
            *at = now;
        }
    }

    pub(crate) fn cut_off(&self, node: usize) -> bool {
        let cluster = self.nodes[node].cluster;
        !(self.nodes[node].up || self.nodes[node].leaving.is_some())
            || !self.clusters[cluster].up
            || !self.clusters[cluster].bus.up
            || self
                .network
                .is_cut(Party::Node(node), Party::Cluster(cluster))
    }
}
