//! One engine with its tables and flows, and the timed loop.

use crate::lab::LabError;
use crate::lab::clock::{CpuClock, now, pause};
use sluice_engine::flow::{Flow, Inserted, Pin, State};
use sluice_engine::{Engine, Limits, Now, Output, Shared};
use sluice_link::af_xdp::headers::{unwrap, wrap};
use sluice_link::af_xdp::{Hop, Mac};
use sluice_memory::{Account, BATCH_MAX, Batch, Endpoint, Frame, Pool};
use sluice_tables::publish::InstanceUpdate;
use sluice_tables::{
    InstanceSlot, Known as Meaning, Placement, Policy, Reach, Reader, Tables, Target, TunnelFormat,
    Upcalls, Writer,
};
use sluice_wire::{AddressPlan, Dual, FlowKey, InstanceIp, Ip, NsIp, Protocol, ServiceIp};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Local instances that call, enough for 16 million ports of theirs, and remote ones that are called.
const CALLERS: u16 = 320;
const CALLED: u8 = 64;
/// Services that nobody uses here, so that the tables are not empty beside ours.
const OTHERS: u16 = 1000;
const SERVICE: [u8; 4] = [10, 30, 200, 1];
const GATEWAY: [u8; 4] = [10, 18, 0, 1];
const PEER: [u8; 4] = [192, 0, 2, 2];
const PORT: u16 = 7000;
/// Bytes of UDP payload: 64-byte packets.
const PAYLOAD: usize = 36;
const PACKET: usize = 28 + PAYLOAD;
const FROM: Mac = [2, 0, 0, 0, 0, 1];
const TO: Mac = [2, 0, 0, 0, 0, 2];
const TUNNEL_PORT: u16 = 50103;

/// Which half of the path is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    Outbound,
    Inbound,
}

/// What is beside the engine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Underlay {
    /// Nothing: packets leave with their outer destination.
    Bare,
    /// Ethernet, IP and UDP headers are put on and taken off, as an AF_XDP link does it.
    Ethernet,
}

/// What is needed to write a packet of a flow in either direction.
#[derive(Clone, Copy, Debug)]
struct Known {
    caller: u16,
    called: u8,
    port: u16,
}

/// An engine whose flows exist.
pub struct Path {
    engine: Engine,
    shared: Arc<Shared>,
    writer: Option<Writer>,
    reader: Reader,
    pool: Pool,
    account: Account,
    out: Output,
    flows: Arc<Vec<Known>>,
    at: usize,
    underlay: Underlay,
    now: Now,
    clock: CpuClock,
}

impl std::fmt::Debug for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Path")
            .field("flows", &self.flows.len())
            .finish_non_exhaustive()
    }
}

const fn ns_ip(caller: u16) -> Ip {
    let [high, low] = (caller + 2).to_be_bytes();
    Ip::v4([10, 18, 100 + high, low])
}

const fn caller_ip(caller: u16) -> Ip {
    let [high, low] = caller.to_be_bytes();
    Ip::v4([10, 30, high, low])
}

const fn called_ip(called: u8) -> Ip {
    Ip::v4([10, 30, 20, 1 + called])
}

const fn remote_ns_ip(called: u8) -> Ip {
    Ip::v4([10, 18, 1, 2 + called])
}

impl Path {
    /// Makes the tables and `flows` flows, each of which has seen a packet both ways.
    ///
    /// # Errors
    /// When memory cannot be mapped.
    ///
    /// # Panics
    /// When the table does not take every flow: then the engine's speed would mean nothing.
    pub fn new(flows: usize, underlay: Underlay) -> Result<Self, LabError> {
        let limits = Limits {
            flows_max: u32::try_from(flows * 2).unwrap_or(u32::MAX),
            // Which flows share a bucket differs between seeds, and with it the instructions of a packet.
            seed: Some(7),
            ..Limits::default()
        };
        let shared = Shared::new(&limits).map_err(|error| memory(&error))?;
        let writer = tables();
        let mut known: Vec<Known> = (0..flows).map(known).collect();
        make(&known, &shared, writer.tables());
        shuffle(&mut known);
        let reader = writer.publisher().reader();
        let mut path = Self::of(shared, reader, Arc::new(known), underlay)?;
        path.writer = Some(writer);
        path.idle();
        Ok(path)
    }

    /// Another worker of the same gateway, half of all flows away.
    ///
    /// # Errors
    /// When memory cannot be mapped.
    pub fn beside(&self) -> Result<Self, LabError> {
        let writer = self.writer.as_ref();
        let reader = writer.unwrap_or_else(|| unreachable!("nobody publishes now"));
        let mut path = Self::of(
            Arc::clone(&self.shared),
            reader.publisher().reader(),
            Arc::clone(&self.flows),
            self.underlay,
        )?;
        path.at = self.flows.len() / 2;
        path.now = self.now;
        Ok(path)
    }

    fn of(
        shared: Arc<Shared>,
        reader: Reader,
        flows: Arc<Vec<Known>>,
        underlay: Underlay,
    ) -> Result<Self, LabError> {
        Ok(Self {
            engine: Engine::new(
                Arc::clone(&shared),
                Arc::new(Upcalls::new(1024)),
                &sluice_engine::Settings::default(),
                1,
            ),
            shared,
            writer: None,
            reader,
            pool: Pool::new(4 * BATCH_MAX, 1700).map_err(|error| memory(&error))?,
            account: Account::default(),
            out: Output::default(),
            flows,
            at: 0,
            underlay,
            now: BEGIN,
            clock: CpuClock::new(),
        })
    }

    /// Half a minute without packets, in which a worker's timers bring the tables into order.
    fn idle(&mut self) {
        let tables = Arc::clone(self.reader.load());
        let until = self.now.plus_ms(30_000);
        while self.now < until {
            self.now = self.now.plus_ms(50);
            self.engine.handle_timeout(
                &tables,
                self.now,
                &mut self.pool,
                &self.account,
                &mut self.out,
            );
        }
    }

    fn frame(&mut self, bytes: &[u8; PACKET], outer: Option<[u8; 4]>) -> Frame {
        let buffer = self
            .pool
            .take()
            .unwrap_or_else(|| unreachable!("the pool holds four batches"));
        let mut frame = Frame::new(buffer);
        frame.fill(bytes);
        frame.outer = outer.map(|ip| Endpoint {
            ip: Ip::v4(ip),
            port: TUNNEL_PORT,
        });
        frame
    }

    fn call(&mut self, direction: Direction, batch: &mut Batch) {
        let tables = Arc::clone(self.reader.load());
        match direction {
            Direction::Outbound => self.engine.outbound(
                batch,
                &tables,
                self.now,
                &mut self.pool,
                &self.account,
                &mut self.out,
            ),
            Direction::Inbound => self.engine.inbound(
                batch,
                &tables,
                self.now,
                &mut self.pool,
                &self.account,
                &mut self.out,
            ),
        }
    }

    fn empty(&mut self) {
        let out = &mut self.out;
        for frame in out
            .to_underlay
            .drain(..)
            .chain(out.to_service.drain(..))
            .chain(out.done.drain(..))
        {
            self.pool.release(frame.into_buffer());
        }
    }

    /// Not inlined, so that making packets costs the same whoever is called with them: instructions are a difference.
    #[inline(never)]
    fn next_batch(&mut self, direction: Direction) -> Batch {
        let mut batch = Batch::new();
        for _ in 0..BATCH_MAX {
            let known = self.flows[self.at];
            self.at = (self.at + 1) % self.flows.len();
            let frame = match direction {
                Direction::Outbound => self.frame(&outbound(&known), None),
                Direction::Inbound => self.frame(&inbound(&known), Some(PEER)),
            };
            batch.push(frame);
        }
        batch
    }

    /// Sends at least `packets` through one half of the path.
    ///
    /// # Panics
    /// When the engine does not pass every packet.
    pub fn ns_per_packet(&mut self, direction: Direction, packets: usize) -> f64 {
        let mut spent = Duration::ZERO;
        let batches = packets.div_ceil(BATCH_MAX);
        for _ in 0..batches {
            let mut batch = self.next_batch(direction);
            spent += self.timed(direction, &mut batch);
            self.check(direction);
            self.empty();
        }
        spent.as_secs_f64() * 1e9 / (batches * BATCH_MAX) as f64
    }

    /// Sends at least `packets` through one half of the path while its clock stands, so that no flow's use is noted: how
    /// often that happens is a matter of the machine's speed.
    ///
    /// # Panics
    /// When the engine does not pass every packet.
    #[inline(never)]
    pub(super) fn only_send(&mut self, direction: Direction, packets: usize) {
        for _ in 0..packets.div_ceil(BATCH_MAX) {
            let mut batch = self.next_batch(direction);
            self.call(direction, &mut batch);
            self.check(direction);
            self.empty();
        }
    }

    /// Makes the packets of [`Path::only_send`], but does not send them.
    #[inline(never)]
    pub(super) fn only_make(&mut self, direction: Direction, packets: usize) {
        for _ in 0..packets.div_ceil(BATCH_MAX) {
            for frame in self.next_batch(direction) {
                self.out.done.push(frame);
            }
            self.empty();
        }
    }

    fn timed(&mut self, direction: Direction, batch: &mut Batch) -> Duration {
        let outgoing = self.underlay == Underlay::Ethernet && direction == Direction::Outbound;
        let incoming = self.underlay == Underlay::Ethernet && direction == Direction::Inbound;
        if incoming {
            for frame in batch.iter_mut() {
                frame.outer = None;
                wrap(frame, &hop(PEER), TUNNEL_PORT, endpoint(GATEWAY), TO).expect(FITS);
            }
        }
        let begin = self.clock.now();
        if incoming {
            for frame in batch.iter_mut() {
                frame.outer = Some(unwrap(frame).expect(FITS));
            }
        }
        self.call(direction, batch);
        if outgoing {
            for frame in &mut self.out.to_underlay {
                let to = frame.outer.expect(FITS);
                wrap(frame, &hop(GATEWAY), TUNNEL_PORT, to, FROM).expect(FITS);
            }
        }
        let spent = self.clock.since(begin);
        // A flow is noted as used once a second, so the engine's clock goes as fast as the packets.
        self.now.ns += u64::try_from(spent.as_nanos()).unwrap_or_default();
        spent
    }

    /// Packets per second of this thread's CPU time, outbound, in a run of about `ms`.
    pub fn rate(&mut self, ms: u64) -> f64 {
        let (begin, mut spent, mut packets) = (now(), Duration::ZERO, 0);
        while begin.elapsed() < Duration::from_millis(ms) {
            for _ in 0..64 {
                let mut batch = self.next_batch(Direction::Outbound);
                spent += self.timed(Direction::Outbound, &mut batch);
                self.empty();
                packets += BATCH_MAX;
            }
        }
        packets as f64 / spent.as_secs_f64()
    }

    fn check(&self, direction: Direction) {
        let passed = match direction {
            Direction::Outbound => self.out.to_underlay.len(),
            Direction::Inbound => self.out.to_service.len(),
        };
        assert_eq!(passed, BATCH_MAX, "every packet passes; {:?}", self.account);
    }

    /// Packets per second outbound in half a second, while another thread publishes an unrelated change so many times
    /// per second.
    ///
    /// # Panics
    /// When the publishing thread does.
    pub fn rate_while_publishing(&mut self, per_s: u32) -> f64 {
        let stop = Arc::new(AtomicBool::new(false));
        let publisher = self.writer.take().map(|writer| {
            let told = Arc::clone(&stop);
            std::thread::spawn(move || publish(writer, per_s, &told))
        });
        let rate = self.rate(500);
        stop.store(true, Ordering::Relaxed);
        self.writer = publisher.map(|thread| thread.join().expect("publishing does not panic"));
        rate
    }
}

/// Moves an instance that nobody here uses, again and again.
fn publish(mut writer: Writer, per_s: u32, stop: &AtomicBool) -> Writer {
    let begin: Instant = now();
    let mut published = 0;
    while !stop.load(Ordering::Relaxed) {
        pause(Duration::from_millis(1));
        let due = begin.elapsed().as_secs_f64() * f64::from(per_s);
        while f64::from(published) < due {
            let number = u16::try_from(published % u32::from(OTHERS)).unwrap_or_default();
            unrelated(&mut writer, number, published);
            writer.publish();
            published += 1;
        }
    }
    writer
}

const FITS: &str = "a small packet of our own making";
/// When flows begin.
const BEGIN: Now = Now::from_s(1000);

fn memory(error: &dyn std::fmt::Display) -> LabError {
    LabError::Privilege(error.to_string())
}

fn endpoint(ip: [u8; 4]) -> Endpoint {
    Endpoint {
        ip: Ip::v4(ip),
        port: TUNNEL_PORT,
    }
}

fn hop(source: [u8; 4]) -> Hop {
    Hop {
        mac: TO,
        source: Ip::v4(source),
        mtu: 1500,
    }
}

/// The flow of that number: callers take turns, and so do the called.
fn known(index: usize) -> Known {
    let callers = usize::from(CALLERS);
    Known {
        caller: u16::try_from(index % callers).unwrap_or_default(),
        called: u8::try_from(index % usize::from(CALLED)).unwrap_or_default(),
        port: u16::try_from(1024 + index / callers).unwrap_or_default(),
    }
}

/// Enters the flows as their first packet and its answer would, without the packets, on two threads: 16 million of them
/// take seconds.
fn make(flows: &[Known], shared: &Shared, tables: &Tables) {
    let pin = |ip: Ip| match tables.semantic(ip) {
        Some(Meaning::Target(Target::Instance(slot))) => Pin {
            slot,
            epoch: tables.instance(slot).map_or(0, |row| row.epoch),
        },
        other => unreachable!("{ip} is an instance of these tables, not {other:?}"),
    };
    let callers: Vec<Pin> = (0..CALLERS).map(|number| pin(caller_ip(number))).collect();
    let called: Vec<Pin> = (0..CALLED).map(|number| pin(called_ip(number))).collect();
    let peer = tables.peers_at(Ip::v4(PEER)).first().copied();
    let now_s = BEGIN.s();
    let enter = |random: u64, known: &Known| {
        let flow = Flow {
            forward: FlowKey {
                src: ns_ip(known.caller),
                dst: Ip::v4(SERVICE),
                src_port: known.port,
                dst_port: PORT,
                protocol: Protocol::Udp.key(),
            },
            remote_ip: InstanceIp::new(called_ip(known.called)),
            wire_src_port: known.port,
            wire_dst_port: PORT,
            local: callers[usize::from(known.caller)],
            remote: called[usize::from(known.called)],
            service: None,
            peer,
            created_s: now_s,
            state: State::new(Protocol::Udp, false, now_s),
            index: 0,
        };
        loop {
            match shared.flows().insert(&flow, random) {
                Inserted::Created(flow) => {
                    shared.flows().update(&flow, false, 0, now_s);
                    break;
                }
                // The other thread was taken off its core in the middle of it.
                Inserted::Busy => {}
                other @ (Inserted::ForwardTaken
                | Inserted::ReverseTaken
                | Inserted::Full
                | Inserted::Quota) => {
                    panic!("the table takes every flow, but said {other:?}")
                }
            }
        }
    };
    let enter = &enter;
    std::thread::scope(|scope| {
        for half in flows.chunks(flows.len().div_ceil(2)) {
            scope.spawn(move || {
                (1..)
                    .zip(half)
                    .for_each(|(random, known)| enter(random, known));
            });
        }
    });
}

/// An order without pattern (xorshift64*), the same in every run.
fn shuffle(flows: &mut [Known]) {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for last in (1..flows.len()).rev() {
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        let number = random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        let other = usize::try_from(number).unwrap_or_default() % (last + 1);
        flows.swap(last, other);
    }
}

fn v4<T>(value: T) -> Dual<T> {
    Dual {
        v4: Some(value),
        v6: None,
    }
}

fn tables() -> Writer {
    let mut writer = Writer::new(AddressPlan::oakestra(), v4(Ip::v4(GATEWAY)));
    let peer = writer.upsert_peer(Ip::v4(PEER), 50103, TunnelFormat::Plain, 1450);
    let callers = writer.upsert_service("bench.sluice.caller.perf", &[]);
    let called = writer.upsert_service(
        "bench.sluice.called.perf",
        &[(Policy::RoundRobin, v4(ServiceIp::new(Ip::v4(SERVICE))))],
    );
    let mut instance = |service, number: u16, ip, ns, placement| {
        writer.upsert_instance(InstanceUpdate {
            service,
            number: number.into(),
            instance_ip: v4(InstanceIp::new(ip)),
            ns_ip: v4(NsIp::new(ns)),
            placement,
            reach: Reach::Any,
        })
    };
    for number in 0..CALLERS {
        instance(
            callers,
            number,
            caller_ip(number),
            ns_ip(number),
            Placement::Local,
        );
    }
    let candidates: Vec<InstanceSlot> = (0..CALLED)
        .map(|number| {
            let (ip, ns) = (called_ip(number), remote_ns_ip(number));
            instance(called, number.into(), ip, ns, Placement::Peer(peer))
        })
        .collect();
    writer.set_candidates(called, &candidates);
    for number in 0..OTHERS {
        unrelated(&mut writer, number, 0);
    }
    writer.publish();
    writer
}

/// A service with one instance on some other node, which `version` names.
fn unrelated(writer: &mut Writer, number: u16, version: u32) {
    let [high, low] = number.to_be_bytes();
    let name = format!("bench.sluice.other{number}.perf");
    let service = writer.upsert_service(
        &name,
        &[(
            Policy::RoundRobin,
            v4(ServiceIp::new(Ip::v4([10, 30, 100 + high, low]))),
        )],
    );
    let node = u8::try_from(10 + version % 200).unwrap_or_default();
    let peer = writer.upsert_peer(Ip::v4([192, 0, 2, node]), 50103, TunnelFormat::Plain, 1450);
    let slot = writer.upsert_instance(InstanceUpdate {
        service,
        number: 0,
        instance_ip: v4(InstanceIp::new(Ip::v4([10, 30, 110 + high, low]))),
        ns_ip: v4(NsIp::new(Ip::v4([10, 19, high, low]))),
        placement: Placement::Peer(peer),
        reach: Reach::Any,
    });
    writer.set_candidates(service, &[slot]);
}

/// From the caller to the ServiceIP, as the kernel delivers it.
fn outbound(known: &Known) -> [u8; PACKET] {
    packet(ns_ip(known.caller), Ip::v4(SERVICE), known.port, PORT)
}

/// The answer, as the tunnel delivers it: from the called instance's InstanceIP to the caller's NsIP.
fn inbound(known: &Known) -> [u8; PACKET] {
    packet(
        called_ip(known.called),
        ns_ip(known.caller),
        PORT,
        known.port,
    )
}

/// A UDP packet with correct checksums, written by hand: the bench must not lean on what it measures.
fn packet(src: Ip, dst: Ip, src_port: u16, dst_port: u16) -> [u8; PACKET] {
    let mut bytes = [0x5a; PACKET];
    let total = u16::try_from(PACKET).unwrap_or_default();
    let length = u16::try_from(8 + PAYLOAD).unwrap_or_default();
    bytes[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 63, 17, 0, 0]);
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    bytes[12..16].copy_from_slice(&src.octets_v4());
    bytes[16..20].copy_from_slice(&dst.octets_v4());
    let header = checksum(&bytes[..20], 0);
    bytes[10..12].copy_from_slice(&header.to_be_bytes());
    bytes[20..22].copy_from_slice(&src_port.to_be_bytes());
    bytes[22..24].copy_from_slice(&dst_port.to_be_bytes());
    bytes[24..26].copy_from_slice(&length.to_be_bytes());
    bytes[26..28].copy_from_slice(&[0, 0]);
    let pseudo = bytes[12..20]
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum::<u32>()
        + 17
        + u32::from(length);
    let sum = checksum(&bytes[20..], pseudo);
    bytes[26..28].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// RFC 1071, the slow way.
fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or_default());
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}
