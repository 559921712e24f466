//! A node leaves for good and joins again as a new one: `sluice gateway --remove`, and a gateway that starts after it.

use crate::node::Node;
use crate::truth::Identity;
use crate::world::World;
use rand::Rng;
use sluice_proto::message::{LeaveRequest, LeaveResult};

impl Node {
    /// Its cluster has on disk that the node left with the subnet that it leaves; a late word about an earlier one means nothing.
    pub(crate) fn take_leave_result(&mut self, result: &LeaveResult) {
        let named = (result.address, result.addressv6);
        let is_this = |leave: &LeaveRequest| (leave.address, leave.addressv6) == named;
        if self.leaving.as_ref().is_some_and(is_this) {
            self.leaving = None;
            self.ended.clear();
        }
    }
}

impl World {
    /// The gateway of a node is stopped, and the node leaves: its instances end. It tells its cluster until that knows.
    pub fn leave(&mut self, index: usize) {
        if self.nodes[index].leaving.is_some() {
            return;
        }
        self.note(format!("node{index} leaves"));
        let subnet = self.nodes[index].subnet.unwrap_or_default();
        self.stop_node(index);
        let mut ended = self.nodes[index].ended.clone();
        let gone = self.forget_state(index);
        ended.extend(
            gone.into_iter()
                .map(|(job, number, epoch)| ((job, number), epoch)),
        );
        self.nodes[index].ended = ended;
        self.nodes[index].leaving = Some(LeaveRequest {
            address: subnet.v4,
            addressv6: subnet.v6,
        });
        self.connect(index, !self.cut_off(index));
    }

    /// The node has left, and a gateway starts on it.
    pub(crate) fn join_anew(&mut self, index: usize) {
        self.note(format!("node{index} has left, and joins"));
        self.connect(index, false);
        self.nodes[index].up = true;
        self.connect(index, !self.cut_off(index));
    }

    /// All that a stopped gateway had on its disk is gone, and with it its instances, which it gives.
    pub(crate) fn forget_state(&mut self, index: usize) -> Vec<Identity> {
        let seed = self.random.random();
        let gone = self.nodes[index].wipe(seed, self.now);
        for identity in &gone {
            self.truth.living.remove(identity);
        }
        self.drain();
        gone
    }
}
