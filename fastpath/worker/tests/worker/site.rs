//! What two nodes know of each other: one service with instance 1 on node 1 and instance 2 on node 2.

use sluice_engine::{Engine, Limits, Settings, Shared};
use sluice_link::Link;
use sluice_memory::{Accounts, Endpoint, FRAME_LEN_MAX, Pool};
use sluice_tables::publish::InstanceUpdate;
use sluice_tables::{Placement, Policy, Reach, TunnelFormat, Upcalls, Writer};
use sluice_wire::{AddressPlan, DropReason, Dual, Family, InstanceIp, Ip, NsIp, ServiceIp};
use sluice_worker::{Bell, Worker};
use std::sync::Arc;

pub(crate) const TUNNEL_PORT: u16 = 50103;

/// The NsIP of the instance on `node`.
pub(crate) fn ns_ip(family: Family, node: u8) -> Ip {
    match family {
        Family::V4 => Ip::v4([10, 18, node, 2]),
        Family::V6 => format!("fc00::{node:x}:2").parse().unwrap(),
    }
}

pub(crate) fn instance_ip(family: Family, node: u8) -> Ip {
    match family {
        Family::V4 => Ip::v4([10, 30, 0, node]),
        Family::V6 => format!("fdff::{node:x}").parse().unwrap(),
    }
}

pub(crate) fn service_ip(family: Family) -> Ip {
    match family {
        Family::V4 => Ip::v4([10, 30, 1, 1]),
        Family::V6 => "fdff:2000::1".parse().unwrap(),
    }
}

fn dual<T: Copy>(of: impl Fn(Family) -> T) -> Dual<T> {
    Dual::both(of(Family::V4), of(Family::V6))
}

/// Control's half of one node.
pub(crate) struct Site {
    pub(crate) writer: Writer,
    pub(crate) bell: Arc<Bell>,
    pub(crate) upcalls: Arc<Upcalls>,
    shared: Arc<Shared>,
    /// Of packets to the other node.
    pub(crate) mtu: u16,
}

impl Site {
    /// Node `node` that knows nothing yet.
    pub(crate) fn new(node: u8) -> Self {
        let upcalls = Arc::new(Upcalls::new(64));
        let limits = Limits {
            flows_max: 1024,
            ..Limits::default()
        };
        Self {
            writer: Writer::new(AddressPlan::oakestra(), dual(|family| ns_ip(family, node))),
            bell: Arc::new(Bell::new(Arc::clone(&upcalls)).unwrap()),
            upcalls,
            shared: Shared::new(&limits).unwrap(),
            mtu: 1420,
        }
    }

    /// Learns both instances; those not on node `here` are behind `peer`. Publishes.
    pub(crate) fn learn(&mut self, here: u8, peer: Endpoint) {
        self.learn_of(here, peer, TunnelFormat::Plain);
    }

    /// The same of a peer that speaks `format`.
    pub(crate) fn learn_of(&mut self, here: u8, peer: Endpoint, format: TunnelFormat) {
        let ips = dual(|family| ServiceIp::new(service_ip(family)));
        let service = self
            .writer
            .upsert_service("app.ns.web.prod", &[(Policy::RoundRobin, ips)]);
        let peer = self
            .writer
            .upsert_peer(peer.ip, peer.port, format, self.mtu);
        for node in [1, 2] {
            let slot = self.writer.upsert_instance(InstanceUpdate {
                service,
                number: u32::from(node),
                instance_ip: dual(|family| InstanceIp::new(instance_ip(family, node))),
                ns_ip: dual(|family| NsIp::new(ns_ip(family, node))),
                placement: if node == here {
                    Placement::Local
                } else {
                    Placement::Peer(peer)
                },
                reach: Reach::Any,
            });
            if node == 2 {
                self.writer.set_candidates(service, &[slot]);
            }
        }
        self.writer.publish();
    }

    pub(crate) fn worker<S: Link, U: Link>(&self, service: S, underlay: U) -> Worker<S, U> {
        self.worker_of(service, underlay, Pool::new(512, FRAME_LEN_MAX).unwrap())
    }

    /// A worker whose frames live in `pool`.
    pub(crate) fn worker_of<S: Link, U: Link>(
        &self,
        service: S,
        underlay: U,
        pool: Pool,
    ) -> Worker<S, U> {
        let settings = Settings::default();
        let engine = Engine::new(
            Arc::clone(&self.shared),
            Arc::clone(&self.upcalls),
            &settings,
            7,
        );
        Worker::new(
            service,
            underlay,
            engine,
            self.writer.publisher().reader(),
            Arc::clone(&self.bell),
            pool,
            Arc::new(Accounts::default()),
        )
    }
}

/// The account's identity, with everything it counted in the message.
pub(crate) fn assert_balanced(accounts: &Accounts) {
    let (left, right) = accounts.balance();
    assert_eq!(left, right, "{accounts:?} {:?}", drops(accounts));
}

pub(crate) fn drops(accounts: &Accounts) -> Vec<(&'static str, u64)> {
    DropReason::ALL
        .iter()
        .map(|reason| {
            let count = accounts.total(|account| account.dropped(*reason));
            (reason.name(), count)
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}
