//! The flow table against a map, filled to the brim, and under several threads at once.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests, where a panic is the message"
)]

use sluice_engine::flow::{Inserted, Pin, Table};
use sluice_engine::{Flow, Limits, State, Timeouts};
use sluice_tables::slots::Slot;
use sluice_tables::{InstanceSlot, PeerSlot};
use sluice_wire::{FlowKey, InstanceIp, Ip, Protocol};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

fn table(flows_max: u32) -> Table {
    Table::new(&Limits {
        flows_max,
        embryonic_max: flows_max,
        embryonic_per_owner_max: u32::MAX,
        flows_per_owner_max: u32::MAX,
        seed: Some(1),
        ..Limits::default()
    })
    .unwrap()
}

/// Flow `n` of both families in turn. Flows with equal `n / 4` share a reverse key when they share an instance.
fn flow(port: u16, dialled: u8, instance: u8, now_s: u32) -> Flow {
    let ip = |last: u8, kind: u8| {
        if port.is_multiple_of(2) {
            Ip::v4([10, 30, kind, last])
        } else {
            Ip::v6([0xfd, 0xff, kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
        }
    };
    let pin = |slot: u8| Pin {
        slot: InstanceSlot::from_index(u32::from(slot)),
        epoch: 1,
    };
    Flow {
        forward: FlowKey {
            src: ip(1, 0),
            dst: ip(dialled, 1),
            src_port: port,
            dst_port: 80,
            protocol: Protocol::Udp.key(),
        },
        remote_ip: InstanceIp::new(ip(instance, 2)),
        wire_src_port: port,
        wire_dst_port: 80,
        local: pin(0),
        remote: pin(instance),
        service: None,
        peer: Some(PeerSlot::from_index(0)),
        created_s: now_s,
        state: State::new(Protocol::Udp, false, now_s),
        index: 0,
    }
}

#[derive(Clone, Copy, Debug, bolero::TypeGenerator)]
enum Operation {
    Insert {
        port: u8,
        dialled: u8,
        instance: u8,
    },
    Remove {
        port: u8,
        dialled: u8,
    },
    Use {
        port: u8,
        dialled: u8,
        inbound: bool,
    },
    Wait {
        s: u8,
    },
}

#[derive(Clone, Copy, Debug)]
struct Modelled {
    flow: Flow,
    last_s: u32,
    established: bool,
}

/// A table of 32 flows and a map of what should be in it.
#[derive(Debug)]
struct Model {
    table: Table,
    flows: BTreeMap<FlowKey, Modelled>,
    now_s: u32,
}

impl Model {
    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Insert {
                port,
                dialled,
                instance,
            } => self.insert(port, dialled, instance),
            Operation::Remove { port, dialled } => {
                let key = flow(u16::from(port % 16), dialled % 4, 0, 0).forward;
                if let Some(known) = self.flows.remove(&key) {
                    assert!(self.table.remove(&known.flow));
                    assert!(!self.table.remove(&known.flow), "only once");
                }
            }
            Operation::Use {
                port,
                dialled,
                inbound,
            } => {
                let key = flow(u16::from(port % 16), dialled % 4, 0, 0).forward;
                if let Some(known) = self.flows.get_mut(&key) {
                    self.table.update(&known.flow, !inbound, 0, self.now_s);
                    known.established |= inbound || self.now_s > known.last_s;
                    known.last_s = self.now_s;
                }
            }
            Operation::Wait { s } => {
                self.now_s += u32::from(s);
                self.table
                    .sweep(32, &Timeouts::default(), self.now_s, |_| true);
                let now_s = self.now_s;
                let timeout_s = |known: &Modelled| if known.established { 300 } else { 30 };
                self.flows
                    .retain(|_, known| now_s - known.last_s <= timeout_s(known));
            }
        }
        self.check();
    }

    fn insert(&mut self, port: u8, dialled: u8, instance: u8) {
        let new = flow(u16::from(port % 16), dialled % 4, instance % 4, self.now_s);
        let by_reverse = self
            .flows
            .values()
            .any(|known| known.flow.reverse() == new.reverse());
        match self
            .table
            .insert(&new, u64::from(port) << 56 | u64::from(dialled) << 40)
        {
            Inserted::Created(created) => {
                assert!(!by_reverse && !self.flows.contains_key(&new.forward));
                assert_eq!(created.forward, new.forward);
                let known = Modelled {
                    flow: created,
                    last_s: self.now_s,
                    established: false,
                };
                self.flows.insert(new.forward, known);
                // The embryonic space may have made room for it.
                self.flows.retain(|key, known| {
                    known.established || self.table.find_forward(key).unwrap().is_some()
                });
            }
            Inserted::ForwardTaken => assert!(self.flows.contains_key(&new.forward)),
            Inserted::ReverseTaken => assert!(by_reverse),
            Inserted::Full => assert_eq!(self.flows.len(), 32),
            other @ (Inserted::Quota | Inserted::Busy) => panic!("{other:?}"),
        }
    }

    fn check(&self) {
        assert_eq!(self.table.live(), self.flows.len() as u64);
        assert_eq!(
            self.table.embryonic(),
            self.flows
                .values()
                .filter(|known| !known.established)
                .count() as u64
        );
        assert_eq!(self.table.iter_from(0).count(), self.flows.len());
        assert_eq!(
            self.table.live_of_peer(PeerSlot::from_index(0)) as usize,
            self.flows.len()
        );
        for known in self.flows.values() {
            let found = [
                self.table.find_forward(&known.flow.forward),
                self.table.find_reverse(&known.flow.reverse()),
            ];
            for found in found {
                let found = found
                    .unwrap()
                    .unwrap_or_else(|| panic!("{known:?} is not found"));
                assert_eq!(
                    (found.forward, found.remote),
                    (known.flow.forward, known.flow.remote)
                );
                assert_eq!(found.state.last_s(), known.last_s);
                assert_eq!(found.state.is_established(), known.established);
            }
        }
    }
}

#[test]
fn the_table_is_a_map_with_two_keys() {
    bolero::check!()
        .with_type::<Vec<Operation>>()
        .with_max_len(4096)
        .for_each(|operations| {
            let mut model = Model {
                table: table(32),
                flows: BTreeMap::new(),
                now_s: 1000,
            };
            for &operation in operations {
                model.apply(operation);
            }
        });
}

/// Every entry can be used: two choices of ten slots leave none out at the index's load.
#[test]
fn a_table_can_be_filled_to_the_last_flow() {
    let table = table(1 << 16);
    for port in 0..=u16::MAX {
        let new = flow(port, 1, 1, 1);
        match table.insert(&new, u64::from(port) << 48) {
            Inserted::Created(created) => table.update(&created, false, 0, 1),
            other => panic!("flow {port}: {other:?}"),
        }
    }
    assert_eq!((table.live(), table.embryonic()), (1 << 16, 0));
    assert_eq!(table.insert(&flow(1, 2, 2, 1), 0), Inserted::Full);
    for n in 0..=u16::MAX {
        let known = flow(n, 1, 1, 1);
        assert!(table.find_forward(&known.forward).unwrap().is_some());
        assert!(table.find_reverse(&known.reverse()).unwrap().is_some());
    }
}

/// Four threads insert, use, find and remove the same flows. Whoever finds a flow finds it whole, both keys lead
/// to the same one, and in the end the table knows exactly what was not removed.
#[test]
fn threads_never_see_half_a_flow() {
    const PORTS: u16 = 64;
    let table = Arc::new(table(256));
    let (created, removed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = (0..4_u64)
        .map(|seed| {
            let table = Arc::clone(&table);
            let (created, removed) = (Arc::clone(&created), Arc::clone(&removed));
            std::thread::spawn(move || {
                let mut random = seed * 2 + 1;
                for _ in 0..30_000 {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let port = u16::try_from(random >> 58).unwrap() % PORTS;
                    let instance = u8::try_from(random >> 40 & 3).unwrap();
                    let new = flow(port, 1, instance, 1);
                    match random >> 33 & 3 {
                        0 => {
                            if let Inserted::Created(_) = table.insert(&new, random) {
                                created.fetch_add(1, Relaxed);
                            }
                        }
                        1 => {
                            if let Ok(Some(found)) = table.find_forward(&new.forward) {
                                removed.fetch_add(u64::from(table.remove(&found)), Relaxed);
                            }
                        }
                        2 => {
                            if let Ok(Some(found)) = table.find_forward(&new.forward) {
                                assert_eq!(found.forward, new.forward);
                                let instance = u8::try_from(found.remote.slot.index()).unwrap();
                                assert_eq!(found.remote_ip, flow(port, 1, instance, 1).remote_ip);
                                table.update(&found, false, 0, 2);
                            }
                        }
                        _ => {
                            if let Ok(Some(found)) = table.find_reverse(&new.reverse()) {
                                assert_eq!(found.reverse(), new.reverse());
                                assert_eq!(found.forward, new.forward);
                            }
                        }
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let live = created.load(Relaxed) - removed.load(Relaxed) - table.evicted();
    assert_eq!(table.live(), live);
    let flows: Vec<Flow> = table.iter_from(0).collect();
    assert_eq!(flows.len() as u64, live);
    let embryonic = flows
        .iter()
        .filter(|flow| !flow.state.is_established())
        .count();
    assert_eq!(table.embryonic(), embryonic as u64);
    for known in &flows {
        assert_eq!(
            table.find_forward(&known.forward).unwrap().unwrap().index,
            known.index
        );
        assert_eq!(
            table.find_reverse(&known.reverse()).unwrap().unwrap().index,
            known.index
        );
        assert!(table.remove(known));
    }
    assert_eq!((table.live(), table.embryonic()), (0, 0));
    assert_eq!(table.live_of_peer(PeerSlot::from_index(0)), 0);
}
