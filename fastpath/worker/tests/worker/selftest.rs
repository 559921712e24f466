//! The checks of the kernel's own test of WireGuard (tools/testing/selftests/wireguard/netns.sh), as far as a gateway has what they
//! are about, with wireguard-go as the other node. fastpath/README.md lists which check is where.

use crate::encrypted::{encrypted, key, speaker};
use crate::namespaces::{Case, FULL, Lab, Node, address, finish, ip, start_with, stream};
use crate::site::{Site, TUNNEL_PORT, instance_ip, ns_ip, service_ip};
use crate::stock::{FAMILIES, Other, Stock, wait_until};
use sluice_memory::Endpoint;
use sluice_tables::Upcalls;
use sluice_tunnel::key::Identity;
use sluice_wire::{DropReason, Family, Ip};
use sluice_worker::{Orders, Tunnel};
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// A worker as node 1, wireguard-go as node 2.
struct World {
    lab: Lab,
    node: Node,
    site: Site,
    orders: Orders,
    stock: Stock,
}

impl World {
    fn new(underlay: Family) -> Self {
        let lab = Lab::new();
        let case = Case {
            underlay,
            encrypted: true,
            ..FULL
        };
        let (tell, told) = std::sync::mpsc::channel();
        let (node, site) = start_with(&lab, 1, case, move |now| {
            let upcalls = Arc::new(Upcalls::new(64));
            let (orders, tunnels) = Tunnel::of_workers(speaker(1, now), 1, upcalls).unwrap();
            tell.send(orders).unwrap();
            tunnels
        });
        let stock = Stock::start(&lab, Other::WireGuardGo);
        stock.meet(underlay);
        Self {
            lab,
            node,
            site,
            orders: told.recv().unwrap(),
            stock,
        }
    }

    /// `count` echo requests in quick succession, each answered within a second.
    #[track_caller]
    fn ping(&self, node: u8, from: Ip, to: Ip, count: u32) {
        let output = self.try_ping(node, from, to, count);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{from} to {to}: {said}");
        assert!(said.contains(&format!(" {count} received")), "{said}");
    }

    fn try_ping(&self, node: u8, from: Ip, to: Ip, count: u32) -> std::process::Output {
        let namespace = &self.lab.names[usize::from(node) - 1];
        let words = format!("netns exec {namespace} ping -n -f -c {count} -W 1 -I {from} {to}");
        Command::new("ip")
            .args(words.split_whitespace())
            .output()
            .unwrap()
    }

    /// Node 1's instance pings the service, whose instance is on node 2.
    #[track_caller]
    fn ping_there(&self, family: Family, count: u32) {
        self.ping(1, ns_ip(family, 1), service_ip(family), count);
    }

    /// Node 2's instance pings that of node 1.
    #[track_caller]
    fn ping_back(&self, family: Family, count: u32) {
        self.ping(2, instance_ip(family, 2), ns_ip(family, 1), count);
    }

    /// A stream each way, which arrive whole.
    fn streams(&self, family: Family) {
        let len = 3_000_000;
        let [here, there] = [(1, ns_ip(family, 1)), (2, instance_ip(family, 2))];
        stream(&self.lab, here, service_ip(family), there, len);
        stream(&self.lab, there, ns_ip(family, 1), here, len);
    }

    /// Many at once.
    fn parallel(&self, count: usize) {
        let to = SocketAddr::new(instance_ip(Family::V4, 2).into(), 8081);
        let service = SocketAddr::new(service_ip(Family::V4).into(), 8081);
        let listen = move || TcpListener::bind(to).unwrap();
        let listener = self.lab.inside(2, listen).join().unwrap();
        let callee = std::thread::spawn(move || {
            let streams: Vec<_> = (0..count)
                .map(|_| {
                    let (mut stream, _) = listener.accept().unwrap();
                    std::thread::spawn(move || {
                        let mut bytes = Vec::new();
                        stream.read_to_end(&mut bytes).unwrap();
                        stream.write_all(&bytes).unwrap();
                    })
                })
                .collect();
            streams
                .into_iter()
                .for_each(|stream| stream.join().unwrap());
        });
        let callers: Vec<_> = (0..count)
            .map(|number| {
                self.lab.inside(1, move || {
                    let patience = Duration::from_secs(20);
                    let mut stream = TcpStream::connect_timeout(&service, patience).unwrap();
                    let sent: Vec<u8> = (0..=255).cycle().take(100_000 + number).collect();
                    stream.write_all(&sent).unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                    let mut came = Vec::new();
                    stream.read_to_end(&mut came).unwrap();
                    assert!(came == sent, "stream {number}");
                })
            })
            .collect();
        callers
            .into_iter()
            .for_each(|caller| caller.join().unwrap());
        callee.join().unwrap();
    }

    /// Datagrams from a node, each echoed before the next.
    fn datagrams(&self, (from_node, from): (u8, Ip), dialled: Ip, (to_node, to): (u8, Ip)) {
        const COUNT: usize = 500;
        let bound = |node, ip: Ip, port| {
            let address = SocketAddr::new(ip.into(), port);
            let bind = move || UdpSocket::bind(address).unwrap();
            self.lab.inside(node, bind).join().unwrap()
        };
        let callee = bound(to_node, to, 5353);
        let echo = std::thread::spawn(move || {
            let mut buffer = [0; 2_000];
            for _ in 0..COUNT {
                let (len, from) = callee.recv_from(&mut buffer).unwrap();
                callee.send_to(&buffer[..len], from).unwrap();
            }
        });
        let caller = bound(from_node, from, 0);
        caller.connect((IpAddr::from(dialled), 5353)).unwrap();
        caller
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        for number in 0..COUNT {
            let sent = vec![u8::try_from(number % 256).unwrap(); 1 + number * 1_371 / COUNT];
            caller.send(&sent).unwrap();
            let mut came = [0; 2_000];
            let len = caller.recv(&mut came).unwrap();
            assert!(came[..len] == sent, "datagram {number}");
        }
        echo.join().unwrap();
    }

    /// The other node believes this one to be there.
    #[track_caller]
    fn assert_seen_at(&self, expected: &str) {
        assert_eq!(self.stock.show("endpoints"), [expected]);
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        let accounts = self.node.accounts();
        accounts.total(|account| account.dropped(reason))
    }

    fn finish(self) {
        drop(self.stock);
        finish(self.node);
    }
}

#[test]
#[ignore = "needs root"]
fn everything_crosses_over_either_underlay_and_the_other_side_counts_what_we_sent() {
    for underlay in FAMILIES {
        let world = World::new(underlay);
        world.ping_back(Family::V4, 10);
        // An initiation and 10 sealed packets there; a response and 10 sealed packets back. A keepalive shows that a session stands.
        let [received, sent] = <[String; 2]>::try_from(world.stock.show("transfer")).unwrap();
        assert_eq!(received, "1372", "{underlay:?}");
        assert!(matches!(sent.as_str(), "1428" | "1460"), "{sent}");
        assert_ne!(world.stock.show("latest-handshakes"), ["0"]);
        for family in FAMILIES {
            world.ping_back(family, 10);
            world.ping_there(family, 10);
            world.streams(family);
            let [here, there] = [(1, ns_ip(family, 1)), (2, instance_ip(family, 2))];
            world.datagrams(here, service_ip(family), there);
            world.datagrams(there, ns_ip(family, 1), here);
        }
        for count in [4, 5, 50] {
            world.parallel(count);
        }
        world.finish();
    }
}

#[test]
#[ignore = "needs root"]
fn either_side_may_have_another_address_and_port_and_the_other_follows() {
    let world = World::new(Family::V4);
    world.ping_there(Family::V4, 1);
    world.assert_seen_at("192.0.2.1:50103");
    // We have another address, as we had none of that family before, and then one of the other family.
    let [here, there] = &world.lab.names;
    ip(&format!("-n {here} addr add 192.0.2.99/24 dev wire"));
    ip(&format!("-n {here} addr del 192.0.2.1/24 dev wire"));
    ip(&format!("-n {here} addr replace 192.0.2.99/24 dev wire"));
    world.ping_there(Family::V6, 1);
    world.assert_seen_at("192.0.2.99:50103");
    // It sends from another port, and from another address.
    world.stock.set("listen-port 9998", "");
    world.ping_back(Family::V4, 1);
    world.ping_there(Family::V4, 1);
    ip(&format!("-n {there} addr add 192.0.2.77/24 dev wire"));
    ip(&format!("-n {there} addr del 192.0.2.2/24 dev wire"));
    ip(&format!("-n {there} addr replace 192.0.2.77/24 dev wire"));
    let ours = key(1).public().to_string();
    let seek = |endpoint| {
        let words = format!("peer {ours} endpoint {endpoint}");
        world.stock.set(&words, "");
    };
    // Else it sticks to the address that is gone until it wonders at the silence.
    seek("192.0.2.99:50103");
    world.ping_back(Family::V4, 1);
    world.ping_there(Family::V6, 1);
    // It finds us over the other family.
    seek("[2001:db8::1]:50103");
    world.ping_back(Family::V6, 1);
    world.assert_seen_at("[2001:db8::1]:50103");
    // Whose answers follow, also when our address goes.
    ip(&format!(
        "-n {here} addr add 2001:db8::10/64 dev wire nodad"
    ));
    ip(&format!("-n {here} addr del 2001:db8::1/64 dev wire"));
    world.ping_there(Family::V4, 1);
    world.assert_seen_at("[2001:db8::10]:50103");
    world.finish();
}

#[test]
#[ignore = "needs root"]
fn what_is_said_from_an_address_that_is_placed_elsewhere_reaches_nobody() {
    let mut world = World::new(Family::V4);
    let family = Family::V4;
    world.ping_back(family, 1);
    // The instance is on another node now, as a more specific prefix would have it.
    let elsewhere = Endpoint {
        ip: "192.0.2.3".parse().unwrap(),
        port: TUNNEL_PORT,
    };
    world.site.learn_of(1, elsewhere, encrypted(3));
    let before = world.dropped(DropReason::SourceForged);
    let output = world.try_ping(2, instance_ip(family, 2), ns_ip(family, 1), 1);
    assert!(!output.status.success());
    assert_eq!(world.dropped(DropReason::SourceForged), before + 1);
    // And here again.
    let peer = address(family, 2);
    world.site.learn_of(1, peer, encrypted(2));
    world.ping_back(family, 1);
    world.finish();
}

#[test]
#[ignore = "needs root"]
fn keys_are_replaced_on_either_side_and_the_next_packet_goes() {
    let mut world = World::new(Family::V4);
    let family = Family::V4;
    world.ping_there(family, 1);
    // The other side's.
    world.site.learn_of(1, address(family, 2), encrypted(4));
    world.stock.set("private-key /dev/stdin", &key(4).to_text());
    world.ping_there(family, 1);
    world.ping_back(family, 1);
    // Ours.
    world.orders.set_identity(Identity::new(key(5)));
    let former = key(1).public().to_string();
    world.stock.set(&format!("peer {former} remove"), "");
    world
        .stock
        .meet_as(family, &key(5).public().to_string(), "");
    world.ping_back(family, 1);
    world.ping_there(family, 1);
    world.finish();
}

#[test]
#[ignore = "needs root"]
fn who_is_no_peer_is_not_answered() {
    let mut world = World::new(Family::V4);
    let family = Family::V4;
    // It has a key that nobody told us.
    world.stock.set("private-key /dev/stdin", &key(6).to_text());
    let output = world.try_ping(2, instance_ip(family, 2), ns_ip(family, 1), 1);
    assert!(!output.status.success());
    assert_eq!(world.stock.show("latest-handshakes"), ["0"]);
    let [received, sent] = <[String; 2]>::try_from(world.stock.show("transfer")).unwrap();
    assert_eq!((received.as_str(), sent.as_str()), ("0", "148"));
    assert_eq!(world.dropped(DropReason::PeerUnknown), 1);
    // Somebody tells, and the initiation that waited is answered.
    world.site.learn_of(1, address(family, 2), encrypted(6));
    wait_until("session", || world.stock.show("latest-handshakes") != ["0"]);
    world.ping_back(family, 1);
    world.finish();
}

/// Lets time pass that others measure.
#[expect(
    clippy::disallowed_methods,
    reason = "the kernel forgets by its own clock"
)]
fn wait(time: Duration) {
    std::thread::sleep(time);
}

#[test]
#[ignore = "needs root"]
fn a_node_behind_a_translator_that_it_keeps_alive_can_be_called_after_silence() {
    let world = World::new(Family::V4);
    let [_, there] = &world.lab.names;
    let run = |words: &[&str]| {
        let status = Command::new("ip")
            .args(["netns", "exec", there])
            .args(words)
            .status()
            .unwrap();
        assert!(status.success(), "{words:?}");
    };
    run(&[
        "nft",
        "table ip nat { chain out { type nat hook postrouting priority srcnat; \
         udp sport 50103 snat to 192.0.2.2:61000; }; }",
    ]);
    // What nothing maps is for nobody.
    run(&[
        "nft",
        "table ip only { chain in { type filter hook input priority filter; iifname wire udp dport 50103 ct state new drop; }; }",
    ]);
    let settings = ["udp_timeout", "udp_timeout_stream"]
        .map(|name| format!("net.netfilter.nf_conntrack_{name}=2"));
    for setting in &settings {
        run(&["sysctl", "-q", "-w", setting]);
    }
    let ours = key(1).public().to_string();
    world
        .stock
        .set(&format!("peer {ours} persistent-keepalive 1"), "");
    world.ping_back(Family::V4, 1);
    world.ping_there(Family::V4, 1);
    wait(Duration::from_secs(4));
    world.ping_there(Family::V4, 1);
    // Without, the mapping is gone.
    world
        .stock
        .set(&format!("peer {ours} persistent-keepalive 0"), "");
    wait(Duration::from_secs(4));
    let output = world.try_ping(1, ns_ip(Family::V4, 1), service_ip(Family::V4), 1);
    assert!(!output.status.success());
    world.finish();
}
