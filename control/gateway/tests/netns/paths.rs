//! Every way a packet can take (thesis figures 3.9 and 3.10), in both families.
//!
//! ```text
//!  caller ── gateway 1 ── wire ── gateway 2 ── echo b
//!  echo a ──┘
//! ```

use crate::world::{
    PORT, World, again, connect, one_plain_site, one_site, ping, ping_whole, service_ip, tcp, udp,
    udp_socket,
};
use sluice_perf::lab::clock::wait_for;
use sluice_perf::lab::sites::Layout;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::time::Duration;

/// Nobody at gateway 2 ever asked about the caller: its InstanceIP is resolved when the first packet arrives, and the
/// instance sees that address.
#[test]
#[ignore = "needs root"]
fn a_first_time_caller_is_resolved_on_arrival() {
    let world = World::new("first-time");
    let (caller, _echo) = (world.caller(0), world.echo(1, "b"));
    for family in [0, 1] {
        let answer = tcp(&caller.namespace, service_ip(family)).unwrap();
        assert_eq!(
            (answer.name.as_str(), answer.peer),
            ("b", caller.ip(family))
        );
        let socket = udp_socket(&caller.namespace, family, 0);
        let answer = udp(&socket, service_ip(family)).unwrap();
        assert_eq!(answer.peer, caller.ip(family));
        assert_eq!(
            answer.from.ip(),
            service_ip(family),
            "the reply comes from what was dialled"
        );
    }
    world.check();
}

#[test]
#[ignore = "needs root"]
fn an_instance_ip_reaches_that_instance_and_answers_come_from_it() {
    let world = World::new("instance-ip");
    let (caller, a, b) = (world.caller(0), world.echo(0, "a"), world.echo(1, "b"));
    for family in [0, 1] {
        for (instance, name) in [(&a, "a"), (&b, "b")] {
            let to = instance.ip(family);
            let answer = tcp(&caller.namespace, to).unwrap();
            assert_eq!(
                (answer.name.as_str(), answer.peer),
                (name, caller.ip(family))
            );
            let answer = udp(&udp_socket(&caller.namespace, family, 0), to).unwrap();
            assert_eq!((answer.name.as_str(), answer.from.ip()), (name, to));
        }
    }
    world.check();
}

/// The address an instance sees is one it can call.
#[test]
#[ignore = "needs root"]
fn the_called_calls_back() {
    let world = World::new("call-back");
    let (a, b) = (world.echo(0, "a"), world.echo(1, "b"));
    for family in [0, 1] {
        let seen = tcp(&a.namespace, b.ip(family)).unwrap().peer;
        assert_eq!(seen, a.ip(family));
        let back = tcp(&b.namespace, seen).unwrap();
        assert_eq!((back.name.as_str(), back.peer), ("a", b.ip(family)));
    }
    world.check();
}

/// B beside A, an instance that chooses itself, and one that dials its own InstanceIP.
#[test]
#[ignore = "needs root"]
fn same_node_and_hairpin() {
    let world = World::new("hairpin");
    let (caller, a) = (world.caller(0), world.echo(0, "a"));
    for family in [0, 1] {
        for to in [service_ip(family), a.ip(family)] {
            for from in [&caller, &a] {
                let answer = tcp(&from.namespace, to).unwrap();
                assert_eq!((answer.name.as_str(), answer.peer), ("a", from.ip(family)));
                let answer = udp(&udp_socket(&from.namespace, family, 0), to).unwrap();
                assert_eq!((answer.peer, answer.from.ip()), (from.ip(family), to));
            }
        }
    }
    world.check();
}

/// `a:p -> ServiceIP` and `a:p -> InstanceIP` would be the same packet on the wire.
#[test]
#[ignore = "needs root"]
fn one_unconnected_socket_asks_two_addresses_of_one_instance() {
    let world = World::new("two-addresses");
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    for family in [0, 1] {
        let socket = udp_socket(&caller.namespace, family, 5000);
        for _ in 0..3 {
            for to in [service_ip(family), b.ip(family)] {
                let answer = udp(&socket, to).unwrap();
                assert_eq!((answer.name.as_str(), answer.from.ip()), ("b", to));
            }
        }
    }
    world.check();
}

#[test]
#[ignore = "needs root"]
fn round_robin_takes_turns_and_a_flow_stays() {
    let world = World::new("round-robin");
    let caller = world.caller(0);
    let _instances = [world.echo(0, "a"), world.echo(1, "b"), world.echo(1, "c")];
    for family in [0, 1] {
        // The first answer may know fewer instances than there are.
        let mut names = BTreeSet::new();
        wait_for("all to be known", Duration::from_secs(10), || {
            names.insert(tcp(&caller.namespace, service_ip(family)).unwrap().name);
            (names.len() == 3)
                .then_some(())
                .ok_or_else(|| format!("{names:?}"))
        })
        .unwrap();
        let mut shares = BTreeMap::new();
        for _ in 0..30 {
            let mut stream = connect(&caller.namespace, service_ip(family)).unwrap();
            let first = again(&mut stream).unwrap();
            assert_eq!(again(&mut stream).unwrap(), first);
            *shares.entry(first.name).or_insert(0) += 1;
        }
        assert_eq!(
            shares.values().copied().collect::<Vec<_>>(),
            [10, 10, 10],
            "{shares:?}"
        );
    }
    world.check();
}

#[test]
#[ignore = "needs root"]
fn ping_reaches_services_and_instances() {
    let world = World::new("ping");
    let (caller, a, b) = (world.caller(0), world.echo(0, "a"), world.echo(1, "b"));
    for family in [0, 1] {
        for to in [
            service_ip(family),
            a.ip(family),
            b.ip(family),
            caller.ip(family),
        ] {
            let said = ping(&caller.namespace, to, &[]);
            assert!(said.contains(" 0% packet loss"), "{said}");
            // Real ping complains about answers from elsewhere; they would not count as received.
            assert!(said.contains("5 received"), "{said}");
        }
    }
    world.check();
}

/// What the called kernel says about a closed port reaches the caller, translated outside and in the quote.
#[test]
#[ignore = "needs root"]
fn closed_ports_refuse() {
    let world = World::new("closed");
    let caller = world.caller(0);
    // Nothing listens in these.
    let silent = [
        world.attach(0, crate::world::ECHO, "a"),
        world.attach(1, crate::world::ECHO, "b"),
    ];
    for family in [0, 1] {
        for instance in &silent {
            let to = instance.ip(family);
            let refused = connect(&caller.namespace, to).map(drop).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{to}");
            let socket = udp_socket(&caller.namespace, family, 0);
            socket.connect((to, PORT)).unwrap();
            socket.send(b"?").unwrap();
            let refused = socket.recv(&mut [0; 10]).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{to}");
        }
    }
    world.check();
}

/// 60,000 bytes travel as fragments; only the first of them has ports.
#[test]
#[ignore = "needs root"]
fn large_datagrams_come_whole() {
    let world = World::new("large");
    let (caller, a, b) = (world.caller(0), world.echo(0, "a"), world.echo(1, "b"));
    let sent: Vec<u8> = (0..60_000u32)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect();
    for family in [0, 1] {
        for to in [a.ip(family), b.ip(family), service_ip(family)] {
            let socket = udp_socket(&caller.namespace, family, 0);
            for size in [1393, 1500, 3000, 60_000] {
                socket.send_to(&sent[..size], (to, PORT)).unwrap();
                let mut back = vec![0; 65_536];
                let (len, from) = socket
                    .recv_from(&mut back)
                    .unwrap_or_else(|error| panic!("{size} bytes to {to}: {error}"));
                assert_eq!((len, from.ip()), (size, to));
                assert_eq!(back[..len], sent[..size]);
            }
        }
    }
    world.check();
}

/// The wire carries 1400 bytes, so 1372 of an inner packet in plain, and 32 less encrypted. The caller's kernel knows nothing of it, and the gateway
/// says what fits, in an error about the packet that was sent.
#[test]
#[ignore = "needs root"]
fn what_must_not_be_cut_and_does_not_fit_is_answered_with_the_size_that_does() {
    answered_with_the_size("too-big", &one_site(), 32);
    answered_with_the_size("too-big-plain", &one_plain_site(), 0);
}

/// `sealing`: bytes that the format adds to a packet.
fn answered_with_the_size(name: &str, layout: &Layout, sealing: u32) {
    let mut world = World::built(name, layout);
    for gateway in &world.sites.gateways {
        gateway.namespace().ip("link set eth0 mtu 1400").unwrap();
    }
    world.start();
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    forget_route_mtu(&caller.namespace);
    for family in [0, 1] {
        let mut stream = connect(&caller.namespace, b.ip(family)).unwrap();
        let said = ping_whole(&caller.namespace, b.ip(family), "1380");
        let sizes = ["mtu = ", "mtu="].map(|text| format!("{text}{}", 1372 - sealing));
        assert!(sizes.iter().any(|size| said.contains(size)), "{said}");
        // What fits still goes, and so does TCP, whose segments were agreed before.
        let said = ping(&caller.namespace, b.ip(family), &["-M", "do", "-s", "1000"]);
        assert!(said.contains("5 received"), "{said}");
        stream.write_all(&[b'x'; 300_000]).unwrap();
        assert_eq!(again(&mut stream).unwrap().name, "b");
    }
    // The path becomes narrower while it is used; nobody tells the gateway.
    for gateway in &world.sites.gateways {
        gateway.namespace().ip("link set eth0 mtu 1380").unwrap();
    }
    wait_for("the new size", Duration::from_secs(5), || {
        let said = ping_whole(&caller.namespace, b.ip(0), &(1330 - sealing).to_string());
        let size = (1352 - sealing).to_string();
        said.contains(&size).then_some(()).ok_or(said)
    })
    .unwrap();
    let mut stream = connect(&caller.namespace, b.ip(0)).unwrap();
    stream.write_all(&[b'x'; 300_000]).unwrap();
    assert_eq!(again(&mut stream).unwrap().name, "b");
    world.check();
}

/// Replaces every route of the namespace that has an MTU by one without.
fn forget_route_mtu(namespace: &sluice_perf::lab::NetNs) {
    for flag in ["-4", "-6"] {
        let list = sluice_perf::lab::Program::new("ip").args([flag, "route", "show"]);
        let routes = namespace.succeed(&list).unwrap();
        for route in routes.lines().filter(|route| route.contains(" mtu ")) {
            let words: Vec<&str> = route.split_whitespace().collect();
            let at = words.iter().position(|word| *word == "mtu").unwrap();
            let kept = [&words[..at], &words[at + 2..]].concat();
            let kept = kept
                .iter()
                .filter(|word| **word != "lock" && **word != "pref" && **word != "medium");
            let change = sluice_perf::lab::Program::new("ip")
                .args([flag, "route", "replace"])
                .args(kept);
            namespace.succeed(&change).unwrap();
        }
    }
}

/// Nodes that reach each other over IPv6 only: services of both families go through.
#[test]
#[ignore = "needs root"]
fn an_underlay_of_ipv6_alone_carries_both_families() {
    let mut world = World::built("underlay-v6", &one_site());
    for gateway in &world.sites.gateways {
        let [v4, v6] = gateway.address;
        let host = gateway.namespace();
        host.ip(&format!("address del {v4}/24 dev eth0")).unwrap();
        let address = |ip| format!("node_address = \"{ip}\"");
        let configured = |text: String| text.replace(&address(v4), &address(v6));
        gateway.role.configure(configured).unwrap();
    }
    world.start();
    let (caller, a, b) = (world.caller(0), world.echo(0, "a"), world.echo(1, "b"));
    for family in [0, 1] {
        for (to, name) in [(a.ip(family), "a"), (b.ip(family), "b")] {
            let answer = tcp(&caller.namespace, to).unwrap();
            assert_eq!(
                (answer.name.as_str(), answer.peer),
                (name, caller.ip(family))
            );
        }
        // Cut where it does not fit, and answered by the far side.
        let socket = udp_socket(&caller.namespace, family, 0);
        let sent = vec![7; 3000];
        socket.send_to(&sent, (b.ip(family), PORT)).unwrap();
        let mut back = vec![0; 65_536];
        let (len, _) = socket.recv_from(&mut back).unwrap();
        assert_eq!(back[..len], sent);
        let said = ping(&caller.namespace, b.ip(family), &[]);
        assert!(said.contains("5 received"), "{said}");
    }
    world.check();
}
