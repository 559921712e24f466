//! Door 2, up: what a worker asks and observes, in a bounded queue that control drains.

use crate::slots::{InstanceSlot, ServiceSlot};
use crossbeam_queue::ArrayQueue;
use sluice_wire::Ip;

/// What the tables do not say.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Question {
    /// A local instance dials this semantic address.
    Dialled(Ip),
    /// A tunnelled packet came from this inner source, sent by the node at `outer`.
    InnerSource { source: Ip, outer: Ip },
    /// Nothing allows a call from or to this service yet, which began to run here a moment ago.
    Rules(ServiceSlot),
}

/// Why an instance may not be reachable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Suspicion {
    /// Its node said so with an ICMP error whose quote matches a live flow.
    Unreachable,
    /// Tunnelled packets with its InstanceIP come from a node on which it is not placed: it may have moved.
    Elsewhere,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Upcall {
    Ask(Question),
    Suspect {
        instance: InstanceSlot,
        epoch: u32,
        why: Suspicion,
    },
    /// An instance that is suspect sent a packet.
    Heard {
        instance: InstanceSlot,
    },
    /// A conversation began that no rule allows, where that is only observed.
    NotAllowed {
        caller: InstanceSlot,
        callee: InstanceSlot,
    },
    /// Somebody who has the private half of this key (Curve25519) wants a session, and no peer's row says the key. For some seconds
    /// its initiation waits for a row that does.
    Initiator {
        key: [u8; 32],
    },
    /// An established flow is worth being offloaded: entry and generation of the flow table.
    Offload {
        flow: u32,
        generation: u16,
    },
}

/// The queue. Full means that the caller counts and goes on: a question is asked again by the next packet.
#[derive(Debug)]
pub struct Upcalls(ArrayQueue<Upcall>);

impl Upcalls {
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self(ArrayQueue::new(capacity.max(1)))
    }

    /// Returns false when the queue is full.
    pub fn push(&self, upcall: Upcall) -> bool {
        self.0.push(upcall).is_ok()
    }

    pub fn pop(&self) -> Option<Upcall> {
        self.0.pop()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
