//! Gateways without links: packets in, packets out, in both families, with the account checked after every call.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    unreachable_pub,
    reason = "each test binary uses its own part of this module"
)]

pub mod packet;

#[allow(unused_imports, reason = "each test binary uses its own part")]
pub use packet::{Content, Packet, ack, echo, syn, tcp, udp};

use sluice_engine::{Engine, Limits, Now, Output, Settings, Shared};
use sluice_memory::{Account, Batch, Checksum, Endpoint, Frame, Pool};
use sluice_tables::publish::InstanceUpdate;
use sluice_tables::{
    InstanceSlot, Placement, Policy, Publisher, Reach, ServiceSlot, Tables, TunnelFormat, Upcall,
    Upcalls, Writer,
};
use sluice_wire::{AddressPlan, DropReason, Dual, Family, InstanceIp, Ip, NsIp, ServiceIp};
use std::sync::Arc;

pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
pub const TUNNEL_PORT: u16 = 50103;

/// Runs a test in both families.
pub fn both(test: impl Fn(Family)) {
    for family in FAMILIES {
        test(family);
    }
}

/// The InstanceIP of instance `n`.
pub fn instance_ip(family: Family, n: u8) -> Ip {
    match family {
        Family::V4 => Ip::v4([10, 30, 0, n]),
        Family::V6 => format!("fdff::{n:x}").parse().unwrap(),
    }
}

/// The round-robin ServiceIP of service `n`.
pub fn service_ip(family: Family, n: u8) -> Ip {
    match family {
        Family::V4 => Ip::v4([10, 30, 1, n]),
        Family::V6 => format!("fdff:2000::{n:x}").parse().unwrap(),
    }
}

/// Another ServiceIP of the same service.
pub fn other_service_ip(family: Family, n: u8) -> Ip {
    match family {
        Family::V4 => Ip::v4([10, 30, 2, n]),
        Family::V6 => format!("fdff:2800::{n:x}").parse().unwrap(),
    }
}

/// The NsIP `n` on node `node`.
pub fn ns_ip(family: Family, node: u8, n: u8) -> Ip {
    match family {
        Family::V4 => Ip::v4([10, 18, node, n]),
        Family::V6 => format!("fc00::{node:x}:{n:x}").parse().unwrap(),
    }
}

/// The gateway's own address on node `node`.
pub fn gateway_ip(family: Family, node: u8) -> Ip {
    ns_ip(family, node, 1)
}

/// Node `node` as others reach it.
pub fn node(node: u8) -> Endpoint {
    Endpoint {
        ip: Ip::v4([192, 0, 2, node]),
        port: TUNNEL_PORT,
    }
}

pub fn dual<T: Copy>(of: impl Fn(Family) -> T) -> Dual<T> {
    Dual::both(of(Family::V4), of(Family::V6))
}

/// What left a gateway.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Left {
    /// Through the tunnel.
    To(Endpoint, Packet),
    /// To a local service.
    In(Packet),
}

/// One gateway with its tables.
pub struct Gateway {
    pub node: u8,
    pub engine: Engine,
    pub shared: Arc<Shared>,
    pub writer: Writer,
    pub publisher: Publisher,
    pub upcalls: Arc<Upcalls>,
    pub pool: Pool,
    pub account: Account,
    pub now: Now,
    output: Output,
    checksum: Checksum,
}

impl Gateway {
    pub fn new(node: u8) -> Self {
        Self::with(node, &Settings::default(), &small())
    }

    pub fn with(node: u8, settings: &Settings, limits: &Limits) -> Self {
        let shared = Shared::new(limits).unwrap();
        Self::sharing(node, settings, shared)
    }

    /// Another worker of the gateway whose flows are `shared`; its tables are its own.
    pub fn sharing(node: u8, settings: &Settings, shared: Arc<Shared>) -> Self {
        let upcalls = Arc::new(Upcalls::new(64));
        let engine = Engine::new(Arc::clone(&shared), Arc::clone(&upcalls), settings, 7);
        let writer = Writer::new(
            AddressPlan::oakestra(),
            dual(|family| gateway_ip(family, node)),
        );
        let publisher = writer.publisher();
        Self {
            node,
            engine,
            shared,
            writer,
            publisher,
            upcalls,
            pool: Pool::new(600, 65_535).unwrap(),
            account: Account::default(),
            now: Now::from_s(1000),
            output: Output::default(),
            checksum: Checksum::Unknown,
        }
    }

    /// Makes service `n` known, with two ServiceIPs.
    pub fn service(&mut self, n: u8) -> ServiceSlot {
        let ips = |of: fn(Family, u8) -> Ip| dual(|family| ServiceIp::new(of(family, n)));
        self.writer.upsert_service(
            &format!("app.ns.service{n}.ns"),
            &[
                (Policy::RoundRobin, ips(service_ip)),
                (Policy::RoundRobin, ips(other_service_ip)),
            ],
        )
    }

    /// Places instance `n` of `service` on a node, this one or another, under NsIP `n`.
    pub fn place(&mut self, service: ServiceSlot, n: u8, node: u8) -> InstanceSlot {
        self.place_at(service, n, node, self::node(node), n)
    }

    pub fn place_at(
        &mut self,
        service: ServiceSlot,
        n: u8,
        node: u8,
        outer: Endpoint,
        ns: u8,
    ) -> InstanceSlot {
        self.place_with(service, n, node, outer, ns, Reach::Any)
    }

    pub fn place_with(
        &mut self,
        service: ServiceSlot,
        n: u8,
        node: u8,
        outer: Endpoint,
        ns: u8,
        reach: Reach,
    ) -> InstanceSlot {
        let placement = if node == self.node {
            Placement::Local
        } else {
            let peer = self
                .writer
                .upsert_peer(outer.ip, outer.port, TunnelFormat::Plain, 1450);
            Placement::Peer(peer)
        };
        self.writer.upsert_instance(InstanceUpdate {
            service,
            number: u32::from(n),
            instance_ip: dual(|family| InstanceIp::new(instance_ip(family, n))),
            ns_ip: dual(|family| NsIp::new(ns_ip(family, node, ns))),
            placement,
            reach,
        })
    }

    /// Places instance `n` of `service` on node 2, which has addresses of one family only.
    pub fn place_in(&mut self, service: ServiceSlot, n: u8, v4: bool) -> InstanceSlot {
        let outer = node(2);
        let peer = self
            .writer
            .upsert_peer(outer.ip, outer.port, TunnelFormat::Plain, 1450);
        let address = |family| NsIp::new(ns_ip(family, 2, n));
        self.writer.upsert_instance(InstanceUpdate {
            service,
            number: u32::from(n),
            instance_ip: dual(|family| InstanceIp::new(instance_ip(family, n))),
            ns_ip: Dual {
                v4: v4.then(|| address(Family::V4)),
                v6: (!v4).then(|| address(Family::V6)),
            },
            placement: Placement::Peer(peer),
            reach: Reach::Any,
        })
    }

    pub fn publish(&mut self) {
        self.writer.publish();
    }

    /// A packet from a local service.
    pub fn out(&mut self, packet: &Packet) -> Vec<Left> {
        self.out_bytes(&[packet.build()])
    }

    /// As [`Gateway::out`], by a worker that has these tables.
    pub fn out_by(&mut self, tables: &Tables, packet: &Packet) -> Vec<Left> {
        let mut batch = self.batch(&[packet.build()], None);
        let (engine, pool) = (&mut self.engine, &mut self.pool);
        let (account, output) = (&self.account, &mut self.output);
        engine.outbound(&mut batch, tables, self.now, pool, account, output);
        self.settle()
    }

    pub fn out_bytes(&mut self, packets: &[Vec<u8>]) -> Vec<Left> {
        self.run(packets, None, |_| {})
    }

    /// A packet from the tunnel.
    pub fn inn(&mut self, from: Endpoint, packet: &Packet) -> Vec<Left> {
        self.in_bytes(from, &[packet.build()])
    }

    pub fn in_bytes(&mut self, from: Endpoint, packets: &[Vec<u8>]) -> Vec<Left> {
        self.run(packets, Some(from), |_| {})
    }

    /// As [`Gateway::out_bytes`], with offload metadata of the caller's choice.
    pub fn out_as(&mut self, packet: &[u8], set: impl Fn(&mut Frame)) -> Vec<Frame> {
        let mut batch = self.batch(&[packet.to_vec()], None);
        set(&mut batch[0]);
        let tables = self.publisher.snapshot();
        self.engine.outbound(
            &mut batch,
            &tables,
            self.now,
            &mut self.pool,
            &self.account,
            &mut self.output,
        );
        let frames: Vec<Frame> = self.output.to_underlay.drain(..).collect();
        self.account.forwarded.add(frames.len() as u64);
        assert!(self.settle().is_empty());
        frames
    }

    /// As [`Gateway::out_as`] where nothing is to be tunnelled; how many frames go to services.
    pub fn out_as_any(&mut self, packet: &[u8], set: impl Fn(&mut Frame)) -> usize {
        let left = self.run(&[packet.to_vec()], None, set);
        assert!(left.iter().all(|left| matches!(left, Left::In(_))));
        left.len()
    }

    pub fn give_back(&mut self, frames: Vec<Frame>) {
        for frame in frames {
            self.pool.release(frame.into_buffer());
        }
    }

    /// A packet whose bytes may be anything: nothing is read from what leaves.
    pub fn carry(&mut self, outbound: bool, bytes: &[u8]) {
        let from = (!outbound).then(|| node(2));
        let mut batch = self.batch(&[bytes.to_vec()], from);
        let tables = self.publisher.snapshot();
        let (engine, pool) = (&mut self.engine, &mut self.pool);
        let (account, output) = (&self.account, &mut self.output);
        if outbound {
            engine.outbound(&mut batch, &tables, self.now, pool, account, output);
        } else {
            engine.inbound(&mut batch, &tables, self.now, pool, account, output);
        }
        self.settle_with(|_| ());
    }

    /// As [`Gateway::out_bytes`] and, with `from`, [`Gateway::in_bytes`], for packets that may be damaged: in the order
    /// tunnelled, delivered, each as it is, with its outer destination.
    pub fn carry_all(
        &mut self,
        from: Option<Endpoint>,
        packets: &[Vec<u8>],
        set: impl Fn(&mut Frame),
    ) -> Vec<(Option<Endpoint>, Vec<u8>)> {
        let mut batch = self.batch(packets, from);
        batch.iter_mut().for_each(set);
        let tables = self.publisher.snapshot();
        let (engine, pool) = (&mut self.engine, &mut self.pool);
        let (account, output) = (&self.account, &mut self.output);
        if from.is_some() {
            engine.inbound(&mut batch, &tables, self.now, pool, account, output);
        } else {
            engine.outbound(&mut batch, &tables, self.now, pool, account, output);
        }
        self.settle_with(|frame| (frame.outer, frame.bytes().to_vec()))
    }

    /// As [`Gateway::wait_ms`], whatever leaves.
    pub fn wait_quietly(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        let tables = self.publisher.snapshot();
        self.engine.handle_timeout(
            &tables,
            self.now,
            &mut self.pool,
            &self.account,
            &mut self.output,
        );
        self.settle_with(|_| ());
    }

    /// Control has published: what was held goes on.
    pub fn release(&mut self) -> Vec<Left> {
        let tables = self.publisher.snapshot();
        self.engine.release_held(
            &tables,
            self.now,
            &mut self.pool,
            &self.account,
            &mut self.output,
        );
        self.settle()
    }

    /// Time passes, then the engine's timers run.
    pub fn wait_ms(&mut self, ms: u64) -> Vec<Left> {
        self.now = self.now.plus_ms(ms);
        let tables = self.publisher.snapshot();
        self.engine.handle_timeout(
            &tables,
            self.now,
            &mut self.pool,
            &self.account,
            &mut self.output,
        );
        self.settle()
    }

    /// What control was told, oldest first.
    pub fn told(&self) -> Vec<Upcall> {
        std::iter::from_fn(|| self.upcalls.pop()).collect()
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.account.dropped(reason)
    }

    /// All drops by name, for messages.
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        DropReason::ALL
            .iter()
            .map(|reason| (reason.name(), self.account.dropped(*reason)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    fn batch(&mut self, packets: &[Vec<u8>], from: Option<Endpoint>) -> Batch {
        let mut batch = Batch::new();
        for packet in packets {
            let mut frame = Frame::new(self.pool.take().expect("the pool is large enough"));
            frame.fill(packet);
            frame.outer = from;
            frame.checksum = self.checksum;
            batch.push(frame);
        }
        self.account.received.add(packets.len() as u64);
        batch
    }

    fn run(
        &mut self,
        packets: &[Vec<u8>],
        from: Option<Endpoint>,
        set: impl Fn(&mut Frame),
    ) -> Vec<Left> {
        let tables = self.publisher.snapshot();
        let mut left = Vec::new();
        for chunk in packets.chunks(sluice_memory::BATCH_MAX) {
            let mut batch = self.batch(chunk, from);
            batch.iter_mut().for_each(&set);
            let (engine, pool) = (&mut self.engine, &mut self.pool);
            let (account, output) = (&self.account, &mut self.output);
            if from.is_some() {
                engine.inbound(&mut batch, &tables, self.now, pool, account, output);
            } else {
                engine.outbound(&mut batch, &tables, self.now, pool, account, output);
            }
            left.extend(self.settle());
        }
        left
    }

    fn settle(&mut self) -> Vec<Left> {
        self.settle_with(|frame| match frame.outer {
            Some(to) => Left::To(to, Packet::read(frame.bytes())),
            None => Left::In(Packet::read(frame.bytes())),
        })
    }

    /// Plays the links: everything in the output is sent, its buffers come back, and the account must balance.
    fn settle_with<T>(&mut self, read: impl Fn(&Frame) -> T) -> Vec<T> {
        let mut left = Vec::new();
        let Output {
            to_underlay,
            to_service,
            done,
        } = &mut self.output;
        assert!(to_underlay.iter().all(|frame| frame.outer.is_some()));
        assert!(to_service.iter().all(|frame| frame.outer.is_none()));
        for frame in to_underlay.drain(..).chain(to_service.drain(..)) {
            self.account.forwarded.add(1);
            left.push(read(&frame));
            self.pool.release(frame.into_buffer());
        }
        for frame in done.drain(..) {
            self.pool.release(frame.into_buffer());
        }
        let (came, went) = self.account.balance();
        assert_eq!(
            came,
            went,
            "the account balances; drops: {:?}",
            self.drops()
        );
        left
    }
}

pub fn small() -> Limits {
    Limits {
        flows_max: 1 << 12,
        embryonic_max: 1 << 12,
        fragments_max: 64,
        seed: Some(1),
        ..Limits::default()
    }
}

/// Two gateways: a caller (instance 1 of service 1) on node 1; service 2 with instances 2, 3, 4 on node 2, of which
/// node 1 knows all. Node 2 knows the caller too.
pub fn two_sites() -> (Gateway, Gateway) {
    let mut gateways = [Gateway::new(1), Gateway::new(2)];
    for gateway in &mut gateways {
        let callers = gateway.service(1);
        gateway.place(callers, 1, 1);
        let servers = gateway.service(2);
        let slots: Vec<InstanceSlot> = (2..5).map(|n| gateway.place(servers, n, 2)).collect();
        gateway.writer.set_candidates(servers, &slots);
        gateway.publish();
    }
    gateways.into()
}

/// The only packet that left through the tunnel.
pub fn tunnelled(left: &[Left]) -> (Endpoint, Packet) {
    match left {
        [Left::To(to, packet)] => (*to, packet.clone()),
        other => panic!("one tunnelled packet expected, got {other:#?}"),
    }
}

/// The only packet that was delivered.
pub fn delivered(left: &[Left]) -> Packet {
    match left {
        [Left::In(packet)] => packet.clone(),
        other => panic!("one delivered packet expected, got {other:#?}"),
    }
}

pub fn is_v4(family: Family) -> bool {
    family == Family::V4
}

/// What an ICMP error says: type and code.
pub fn says(packet: &Packet) -> (u8, u8) {
    match packet.content {
        Content::Error { kind, code, .. } => (kind, code),
        _ => panic!("{packet:?} is no ICMP error"),
    }
}

pub fn host_unreachable(family: Family) -> (u8, u8) {
    if is_v4(family) { (3, 1) } else { (1, 3) }
}

/// Node 1 with a caller, knowing nothing of service 2.
pub fn alone() -> Gateway {
    let mut one = Gateway::new(1);
    let callers = one.service(1);
    one.place(callers, 1, 1);
    one.publish();
    one
}

/// Node 1 learns of service 2, all of it on node 2.
pub fn learn_servers(one: &mut Gateway) {
    let servers = one.service(2);
    let slots: Vec<_> = (2..5).map(|n| one.place(servers, n, 2)).collect();
    one.writer.set_candidates(servers, &slots);
    one.publish();
}
