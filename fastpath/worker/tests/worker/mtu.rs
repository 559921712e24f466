//! Transfers over underlays of every width, none of whose datagrams may be a fragment.

use crate::namespaces::{Case, FULL, Lab, TRANSFER, finish, ip, start, transfer};
use crate::site::{ns_ip, service_ip};
use sluice_wire::{DropReason, Family};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

/// What a datagram has around a packet: IP, UDP, and in the encrypted format a header and a tag.
fn around(underlay: Family, encrypted: bool) -> u16 {
    let headers = match underlay {
        Family::V4 => 28,
        Family::V6 => 48,
    };
    headers + if encrypted { 32 } else { 0 }
}

/// From now on fragments are lost on the wire.
fn refuse_fragments(lab: &Lab) {
    for namespace in &lab.names {
        let rules = "table inet wire { chain come { type filter hook prerouting priority raw; \
                     iifname wire ip frag-off & 0x3fff != 0 drop; iifname wire exthdr frag exists drop; }; }";
        let status = Command::new("ip")
            .args(["netns", "exec", namespace, "nft", rules])
            .status()
            .unwrap();
        assert!(status.success());
    }
}

/// Sends datagrams from node 1 to the service, which come back as they are.
fn echo(lab: &Lab, family: Family, lens: &[usize]) {
    let callee = SocketAddr::new(IpAddr::from(ns_ip(family, 2)), 5353);
    let bind = move || UdpSocket::bind(callee).unwrap();
    let callee = lab.inside(2, bind).join().unwrap();
    let caller = SocketAddr::new(IpAddr::from(ns_ip(family, 1)), 0);
    let bind = move || UdpSocket::bind(caller).unwrap();
    let caller = lab.inside(1, bind).join().unwrap();
    for socket in [&caller, &callee] {
        let patience = Some(Duration::from_secs(10));
        socket.set_read_timeout(patience).unwrap();
    }
    let service = SocketAddr::new(IpAddr::from(service_ip(family)), 5353);
    caller.connect(service).unwrap();
    for &len in lens {
        let sent: Vec<u8> = (0..=255).cycle().take(len).collect();
        let mut came = vec![0; 65_535];
        caller.send(&sent).unwrap();
        let (received, from) = callee.recv_from(&mut came).unwrap();
        assert!(came[..received] == sent, "{len}");
        callee.send_to(&sent, from).unwrap();
        let received = caller.recv(&mut came).unwrap();
        assert!(came[..received] == sent, "{len}");
    }
}

#[test]
#[ignore = "needs root"]
fn transfers_work_over_every_underlay_mtu() {
    for encrypted in [true, false] {
        for underlay in [Family::V4, Family::V6] {
            for wire in [1280_u16, 1281, 1350, 1492, 1500, 4000, 9000] {
                let lab = Lab::new();
                for namespace in &lab.names {
                    ip(&format!("-n {namespace} link set wire mtu {wire}"));
                }
                refuse_fragments(&lab);
                // What control finds for the path; no peer is sent more than 1,450.
                let mtu = (wire - around(underlay, encrypted)).min(1450);
                let case = Case {
                    underlay,
                    encrypted,
                    mtu,
                    ..FULL
                };
                let nodes = [start(&lab, 1, case), start(&lab, 2, case)];
                for family in [Family::V4, Family::V6] {
                    transfer(&lab, family, TRANSFER / 10);
                    // Up to what fills a datagram to the last byte, if the device towards services takes it.
                    let headers = if family == Family::V4 { 28 } else { 48 };
                    let most = usize::from(mtu.min(1420)) - headers;
                    echo(&lab, family, &[1, most - 15, most - 1, most]);
                }
                // Connections knew before what fits.
                for node in &nodes {
                    let dropped =
                        |account: &sluice_memory::Account| account.dropped(DropReason::TooBig);
                    assert_eq!(node.accounts().total(dropped), 0, "{underlay:?} {wire}");
                }
                for node in nodes {
                    finish(node);
                }
            }
        }
    }
}
