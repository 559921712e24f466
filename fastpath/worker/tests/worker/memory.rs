//! Turns without a thread, and the loop with one, on links in memory.

use crate::site::{Site, TUNNEL_PORT, assert_balanced, instance_ip, ns_ip, service_ip};
use etherparse::PacketBuilder;
use sluice_engine::Now;
use sluice_link::MemLink;
use sluice_link::mem::{Far, Memory, Packet};
use sluice_link::sys::wait_readable;
use sluice_memory::Endpoint;
use sluice_tables::{Question, Upcall};
use sluice_wire::{Family, Ip, parse};
use sluice_worker::{Ended, Ready, Settings, Worker, spawn};
use std::os::fd::AsFd;

struct Links {
    service: Far,
    underlay: Far,
}

fn worker(site: &Site, memory: Memory) -> (Worker<MemLink, MemLink>, Links) {
    let (service, service_far) = MemLink::new("service", 256, memory).unwrap();
    let (underlay, underlay_far) = MemLink::new("underlay", 256, memory).unwrap();
    let links = Links {
        service: service_far,
        underlay: underlay_far,
    };
    (site.worker(service, underlay), links)
}

fn udp(from: (Ip, u16), to: (Ip, u16), payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = if from.0.is_v4() {
        PacketBuilder::ipv4(from.0.octets_v4(), to.0.octets_v4(), 64)
    } else {
        PacketBuilder::ipv6(from.0.octets_v6(), to.0.octets_v6(), 64)
    };
    let builder = builder.udp(from.1, to.1);
    builder.write(&mut bytes, payload).unwrap();
    bytes
}

fn question(from: Ip, to: Ip) -> Vec<u8> {
    udp((from, 4000), (to, 53), b"question")
}

fn reply(from: Ip, to: Ip) -> Vec<u8> {
    udp((from, 53), (to, 4000), b"reply")
}

fn peer() -> Endpoint {
    Endpoint {
        ip: "192.0.2.2".parse().unwrap(),
        port: TUNNEL_PORT,
    }
}

#[test]
fn a_packet_goes_out_translated_and_its_reply_comes_back_as_dialled() {
    for family in [Family::V4, Family::V6] {
        for memory in [Memory::Own, Memory::Foreign, Memory::Chained(30)] {
            let mut site = Site::new(1);
            site.learn(1, peer());
            let (mut worker, links) = worker(&site, memory);
            links
                .service
                .push(question(ns_ip(family, 1), service_ip(family)));
            let turn = worker.turn(Ready::BOTH, Now::from_s(1)).unwrap();
            assert_eq!(turn.received, 1);
            let sent = links.underlay.pop().expect("it is for the other node");
            assert_eq!(sent.outer, Some(peer()));
            let parsed = parse(&sent.bytes).unwrap();
            assert_eq!(
                (parsed.src, parsed.dst),
                (instance_ip(family, 1), ns_ip(family, 2))
            );

            links.underlay.push(Packet {
                bytes: reply(instance_ip(family, 2), ns_ip(family, 1)),
                outer: Some(peer()),
                ..Packet::default()
            });
            worker.turn(Ready::BOTH, Now::from_s(1)).unwrap();
            let came = links.service.pop().expect("it is for the caller");
            let parsed = parse(&came.bytes).unwrap();
            assert_eq!(
                (parsed.src, parsed.dst),
                (service_ip(family), ns_ip(family, 1))
            );
            assert_balanced(&worker.accounts);
            assert_eq!(worker.pool.outstanding(), 0);
        }
    }
}

#[test]
fn an_unknown_address_rings_the_bell_and_the_answer_releases_what_was_held() {
    let mut site = Site::new(1);
    let (worker, links) = worker(&site, Memory::Own);
    let accounts = std::sync::Arc::clone(&worker.accounts);
    let handle = spawn("worker-0".to_owned(), worker, Settings::default()).unwrap();
    site.learn(1, peer());
    handle.wake();
    let unknown: Ip = "10.30.1.200".parse().unwrap();
    links.service.push(question(ns_ip(Family::V4, 1), unknown));
    assert_ne!(
        wait_readable(&[site.bell.as_fd()], Some(10_000_000_000)).unwrap(),
        0,
        "the bell rings"
    );
    site.bell.answer();
    assert_eq!(
        site.upcalls.pop(),
        Some(Upcall::Ask(Question::Dialled(unknown)))
    );
    assert_eq!(
        wait_readable(&[site.bell.as_fd()], Some(0)).unwrap(),
        0,
        "and only once"
    );
    site.writer
        .set_negative(unknown, sluice_tables::Known::Absent);
    site.writer.publish();
    handle.wake();
    links
        .service
        .push(question(ns_ip(Family::V4, 1), service_ip(Family::V4)));
    while links.underlay.pop().is_none() {
        assert!(!handle.is_finished());
        std::thread::yield_now();
    }
    handle.stop();
    let Ended { mut worker, result } = handle.join().unwrap();
    result.unwrap();
    worker.turn(Ready::BOTH, Now::from_s(100_000)).unwrap();
    assert_eq!(accounts.engine.held.value(), 0);
    assert_balanced(&accounts);
    assert_eq!(worker.pool.outstanding(), 0);
}

#[test]
fn spinning_and_sleeping_workers_deliver_the_same_and_stop_at_once() {
    for spin_us in [0, 1000] {
        let mut site = Site::new(1);
        site.learn(1, peer());
        let (worker, links) = worker(&site, Memory::Own);
        let settings = Settings {
            core: sluice_worker::cores().first().copied(),
            spin_us,
        };
        let handle = spawn("worker-0".to_owned(), worker, settings).unwrap();
        let mut sent = 0;
        let mut came = 0;
        while came < 1000 {
            // No more on the way than the queues hold.
            if sent < 1000 && sent - came < 200 {
                let packet = question(ns_ip(Family::V4, 1), service_ip(Family::V4));
                sent += u32::from(links.service.push(packet));
            }
            came += u32::from(links.underlay.pop().is_some());
            assert!(!handle.is_finished());
        }
        handle.stop();
        let Ended { worker, result } = handle.join().unwrap();
        result.unwrap();
        // Each link has its own account, and the engine's has neither end of a frame's way.
        let accounts = &worker.accounts;
        assert_eq!(accounts.service.received.value(), 1000);
        assert_eq!(accounts.underlay.forwarded.value(), 1000);
        assert_eq!(accounts.total(|account| account.received.value()), 1000);
        assert_eq!(accounts.total(|account| account.forwarded.value()), 1000);
        assert_balanced(&worker.accounts);
    }
}

#[test]
fn a_core_that_does_not_exist_is_refused_before_a_thread_is_made() {
    let site = Site::new(1);
    let (worker, _links) = worker(&site, Memory::Own);
    let settings = Settings {
        core: Some(4096),
        spin_us: 0,
    };
    let error = spawn("worker-0".to_owned(), worker, settings).unwrap_err();
    assert!(error.to_string().contains("core 4096"), "{error}");
}

#[test]
fn an_idle_engine_lets_its_worker_sleep() {
    let mut site = Site::new(1);
    site.learn(1, peer());
    let (mut worker, _links) = worker(&site, Memory::Own);
    let turn = worker.turn(Ready::BOTH, Now::from_s(1)).unwrap();
    assert_eq!(turn.received, 0);
    assert!(!turn.more.service && !turn.more.underlay);
    assert_eq!(worker.poll_timeout(), None);
}
