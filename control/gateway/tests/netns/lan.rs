//! A gateway in front of a rack: hosts behind its LAN device are its instances, with the addresses they have anyway.
//!
//! ```text
//!  host r1, host r2 ── rack ── lan0 gateway 1 eth0 ── wire ── eth0 gateway 2 sluice0 ── b, caller
//! ```

use crate::offload::ask_until_offloaded;
use crate::world::{
    CALLER, ECHO, Instance, World, one_plain_site, one_site, ping, ping_whole, serve, service_ip,
    tcp, tcp_impatient, udp, udp_socket,
};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use sluice_perf::lab::clock::wait_for;
use sluice_perf::lab::sites::{Layout, Target};
use sluice_perf::lab::wire::{Switch, offload};
use sluice_perf::lab::{NetNs, Program};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);
/// Longer than the kernel and the gateway need to believe that a host is gone.
const LIMIT_GONE: Duration = Duration::from_secs(30);

struct Rack {
    world: World,
    switch: Switch,
}

fn address(number: u8) -> [IpAddr; 2] {
    [
        Ipv4Addr::new(10, 50, 0, number).into(),
        Ipv6Addr::new(0xfd50, 0, 0, 0, 0, 0, 0, number.into()).into(),
    ]
}

impl Rack {
    fn new(name: &str) -> Self {
        Self::laid(name, one_site())
    }

    fn laid(name: &str, layout: Layout) -> Self {
        let layout = Layout {
            fastpath: "link = \"af_xdp\"\n".to_owned(),
            ..layout
        };
        let mut world = World::built(name, &layout);
        let gateway = &world.sites.gateways[0];
        gateway
            .role
            .configure(|text| {
                text.replace("link = \"af_xdp\"", "link = \"af_xdp\"\nservice = \"lan0\"")
            })
            .unwrap();
        let mut switch = Switch::new("rack").unwrap();
        switch.join(gateway.namespace(), "lan0", 1500).unwrap();
        let [v4, v6] = address(1);
        gateway
            .namespace()
            .ip(&format!(
                "address add {v4}/24 dev lan0\naddress add {v6}/64 dev lan0 nodad"
            ))
            .unwrap();
        world.start();
        Self { world, switch }
    }

    /// A host that knows one thing of us: the route to the services.
    fn host(&mut self, name: &str, number: u8) -> NetNs {
        let host = NetNs::new(name).unwrap();
        self.switch.join(&host, "eth0", 1500).unwrap();
        // A cable carries complete checksums.
        offload(&host, "eth0", &["tx", "off"]).unwrap();
        let ([v4, v6], [gateway_v4, gateway_v6]) = (address(number), address(1));
        host.ip(&format!(
            "address add {v4}/24 dev eth0\naddress add {v6}/64 dev eth0 nodad\n\
             route add 10.30.0.0/16 via {gateway_v4} mtu 1420\nroute add fdff::/16 via {gateway_v6} mtu 1420"
        ))
        .unwrap();
        host
    }

    fn attach(&self, service: &str, namespace: NetNs, number: u8) -> Instance {
        let attached = self
            .world
            .sites
            .attach(0, service, Target::Host(address(number)))
            .unwrap_or_else(|error| panic!("{error}\n{}", self.said()));
        Instance {
            namespace,
            attached,
        }
    }

    fn said(&self) -> String {
        self.world.sites.gateways[0].role.said()
    }
}

/// A connection that carries a megabyte each way; what arrives is what was sent.
fn transfers(from: &NetNs, at: &NetNs, to: IpAddr) {
    let any: IpAddr = Ipv6Addr::UNSPECIFIED.into();
    let listener = at.run(move || TcpListener::bind((any, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let bytes: Vec<u8> = (0..250_u8).cycle().take(1_000_003).collect();
    let expected = bytes.clone();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut got = vec![0; expected.len()];
        stream.read_exact(&mut got).unwrap();
        assert!(got == expected, "the server got other bytes");
        stream.write_all(&got).unwrap();
    });
    let mut stream = from.run(move || TcpStream::connect((to, port)).unwrap());
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(&bytes).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    server.join().unwrap();
    assert!(back == bytes, "the caller got other bytes");
}

fn neighbours(namespace: &NetNs) -> String {
    namespace
        .succeed(&Program::new("ip").args(["neigh", "show", "dev", "lan0"]))
        .unwrap()
}

/// Hosts serve and call, over the tunnel and beside each other; what else they say to the gateway's machine is its kernel's.
#[test]
#[ignore = "needs root"]
fn hosts_behind_the_lan_device_are_instances() {
    let mut rack = Rack::new("lan");
    let (r1, r2) = (rack.host("r1", 11), rack.host("r2", 12));
    serve(&r1, "r1");
    let r1 = rack.attach(ECHO, r1, 11);
    let r2 = rack.attach(CALLER, r2, 12);
    assert_eq!(r1.attached.ns_address, address(11));
    let far = rack.world.caller(1);
    let status = rack.world.sites.gateways[0].role.ask("/v1/status").unwrap();
    let link = status["workers"][0]["links"][0].to_string();
    assert!(
        link.contains("af_xdp lan0 (native, copy, 1 queue)"),
        "{link}"
    );
    let b = rack.world.echo(1, "b");
    for family in [0, 1] {
        // A host is called by ServiceIP and by InstanceIP, and calls the same.
        for (caller, callee) in [(&far, "r1"), (&r2, "r1"), (&r2, "b"), (&far, "b")] {
            wait_for("the instance to be chosen", LIMIT, || {
                match tcp(&caller.namespace, service_ip(family)) {
                    Ok(answer) if answer.name == callee => {
                        assert_eq!(answer.peer, caller.ip(family));
                        Ok(())
                    }
                    other => Err(format!("{other:?}")),
                }
            })
            .unwrap_or_else(|error| panic!("{error}\n{}", rack.said()));
        }
        let socket = udp_socket(&far.namespace, family, 0);
        assert_eq!(udp(&socket, r1.ip(family)).unwrap().name, "r1");
        // A datagram of 20 fragments, there and back.
        let long: Vec<u8> = (0..=255).cycle().take(28_000).collect();
        socket.send_to(&long, (r1.ip(family), 7000)).unwrap();
        let mut back = vec![0; 65_536];
        let (len, _) = socket.recv_from(&mut back).unwrap();
        assert!(back[..len] == long);
        transfers(&far.namespace, &r1.namespace, r1.ip(family));
        transfers(&r2.namespace, &b.namespace, b.ip(family));
        transfers(&r2.namespace, &r1.namespace, r1.ip(family));
        let said = ping(&r2.namespace, b.ip(family), &[]);
        assert!(said.contains("5 received"), "{said}");
        // Not for a service: between the host and the gateway's machine, as ever.
        let gateway = rack.world.sites.gateways[0].namespace();
        transfers(&r1.namespace, gateway, address(1)[family]);
        let said = ping(&r1.namespace, address(1)[family], &[]);
        assert!(said.contains("5 received"), "{said}");
    }
    rack.world.sites.detach(0, &r1.attached).unwrap();
    wait_for("only b to be left", LIMIT, || {
        let names: Vec<String> = (0..4)
            .map(|_| tcp(&far.namespace, service_ip(0)).map_or_else(|e| e.to_string(), |a| a.name))
            .collect();
        if names.iter().all(|name| name == "b") {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        }
    })
    .unwrap();
    rack.world.check();
}

/// The rack's cables take 1300 bytes, the tunnel more. Callers elsewhere are told so, unless the packet may be cut.
#[test]
#[ignore = "needs root"]
fn what_does_not_fit_the_lan_is_answered_with_the_size_that_does() {
    let mut rack = Rack::new("lan-mtu");
    let r1 = rack.host("r1", 11);
    let gateway = rack.world.sites.gateways[0].namespace().clone();
    serve(&r1, "r1");
    let r1 = rack.attach(ECHO, r1, 11);
    let far = rack.world.caller(1);
    for (namespace, device) in [(&gateway, "lan0"), (&r1.namespace, "eth0")] {
        namespace
            .ip(&format!("link set {device} mtu 1300"))
            .unwrap();
    }
    let [via_v4, via_v6] = address(1);
    r1.namespace
        .ip(&format!(
            "route replace 10.30.0.0/16 via {via_v4} mtu 1300\nroute replace fdff::/16 via {via_v6} mtu 1300"
        ))
        .unwrap();
    for family in [0, 1] {
        let to = r1.ip(family);
        wait_for("the size that fits", LIMIT, || {
            let said = ping_whole(&far.namespace, to, "1320");
            let told = said.contains("mtu = 1300") || said.contains("mtu=1300");
            told.then_some(()).ok_or(said)
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", rack.said()));
        let said = ping(&far.namespace, to, &["-M", "do", "-s", "1200"]);
        assert!(said.contains("5 received"), "{said}");
        transfers(&far.namespace, &r1.namespace, to);
    }
    // Nobody has to be told: the gateway cuts.
    let said = ping(&far.namespace, r1.ip(0), &["-M", "dont", "-s", "1320"]);
    assert!(said.contains("5 received"), "{said}");
    rack.world.check();
}

/// What cannot be attached is refused with the reason, and nothing of it stays.
#[test]
#[ignore = "needs root"]
fn what_is_no_host_of_the_lan_is_refused() {
    let mut rack = Rack::new("lan-refused");
    let host = rack.host("r1", 11);
    for (target, why) in [
        (Target::Host(address(1)), "is this machine's"),
        (
            Target::Host(["192.168.77.12".parse().unwrap(), address(11)[1]]),
            "is not reached over lan0",
        ),
        (
            Target::Host([service_ip(0), address(11)[1]]),
            "is in a service range",
        ),
        (Target::Namespace(&host), "attach one with --host ADDRESS"),
    ] {
        let error = rack.world.sites.attach(0, ECHO, target).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    let error = rack
        .world
        .sites
        .attach(1, ECHO, Target::Host(address(11)))
        .unwrap_err();
    assert!(error.to_string().contains("`fastpath.service`"), "{error}");
    rack.attach(ECHO, host.clone(), 11);
    let error = rack
        .world
        .sites
        .attach(0, CALLER, Target::Host(address(11)))
        .unwrap_err();
    assert!(error.to_string().contains("is attached as"), "{error}");
    rack.world.check();
}

/// A host that dies is chosen no more; when it answers again it is back. Both survive a restart of the gateway.
#[test]
#[ignore = "needs root"]
fn a_host_that_does_not_answer_is_absent_until_it_does() {
    let mut rack = Rack::new("lan-gone");
    let host = rack.host("r1", 11);
    serve(&host, "r1");
    rack.attach(ECHO, host.clone(), 11);
    let far = rack.world.caller(1);
    let b = rack.world.echo(1, "b");
    let near = rack.world.sites.gateways[0].namespace().clone();
    let chosen = |rack: &Rack, wanted: &[&str]| {
        wait_for(&format!("{wanted:?} to be chosen"), LIMIT_GONE, || {
            let mut names: Vec<String> = (0..6)
                .map(|_| {
                    tcp_impatient(&far.namespace, service_ip(0))
                        .map_or_else(|error| error.to_string(), |answer| answer.name)
                })
                .collect();
            names.sort();
            names.dedup();
            if names == wanted {
                Ok(())
            } else {
                Err(format!("{names:?}"))
            }
        })
        .unwrap_or_else(|error| panic!("{error}\n{}\n{}", rack.said(), neighbours(&near)));
    };
    chosen(&rack, &["b", "r1"]);
    // One address is enough to be missed, though the other answers.
    let v4 = address(11)[0];
    host.ip(&format!("address del {v4}/24 dev eth0")).unwrap();
    chosen(&rack, &["b"]);
    host.ip(&format!(
        "address add {v4}/24 dev eth0\nroute replace 10.30.0.0/16 via {} mtu 1420",
        address(1)[0]
    ))
    .unwrap();
    chosen(&rack, &["b", "r1"]);
    host.ip("link set eth0 down").unwrap();
    chosen(&rack, &["b"]);
    assert!(
        rack.said().contains("a host does not answer"),
        "{}",
        rack.said()
    );
    rack.world.sites.gateways[0].role.stop();
    rack.world.sites.gateways[0].role.start().unwrap();
    rack.world.sites.gateways[0].role.ready().unwrap();
    host.ip(&format!(
        "link set eth0 up\naddress replace {}/64 dev eth0 nodad\nroute replace 10.30.0.0/16 via {} mtu 1420",
        address(11)[1],
        address(1)[0]
    ))
    .unwrap();
    chosen(&rack, &["b", "r1"]);
    rack.world.sites.gateways[0].role.stop();
    rack.world.sites.gateways[0].role.start().unwrap();
    rack.world.sites.gateways[0].role.ready().unwrap();
    chosen(&rack, &["b", "r1"]);
    drop(b);
    rack.world.check();
}

/// A LAN that takes less than the tunnels bring, since just now: what does not fit is a named drop, by the offload as by the
/// worker, and what fits goes on. Connections that begin after a restart know.
#[test]
#[ignore = "needs root"]
fn what_does_not_fit_the_lan_is_a_counted_drop() {
    let mut rack = Rack::laid("lan-narrow", one_plain_site());
    let host = rack.host("r1", 11);
    serve(&host, "r1");
    let r1 = rack.attach(ECHO, host, 11);
    let far = rack.world.caller(1);
    let long = vec![7; 1340];
    let sockets = [0, 1].map(|family| udp_socket(&far.namespace, family, 0));
    // They go on sending what they were told does not fit.
    set_ip_mtu_discover(&sockets[0], Ipv4PathMtuDiscovery::PROBE).unwrap();
    set_ipv6_mtu_discover(&sockets[1], Ipv6PathMtuDiscovery::PROBE).unwrap();
    let echoed = |family: usize| {
        let socket: &std::net::UdpSocket = &sockets[family];
        socket.send_to(&long, (r1.ip(family), 7000)).unwrap();
        let mut bytes = [0; 2000];
        let (len, _) = socket.recv_from(&mut bytes).unwrap();
        assert_eq!(bytes[..len], long);
    };
    for (flows, family) in [(1, 0), (2, 1)] {
        ask_until_offloaded(&rack.world, flows, || udp(&sockets[family], r1.ip(family)));
        echoed(family);
    }
    let near = rack.world.sites.gateways[0].namespace().clone();
    near.ip("link set lan0 mtu 1300").unwrap();
    let send = |family: usize| {
        let to = (r1.ip(family), 7000);
        sockets[family].send_to(&long, to).unwrap();
    };
    wait_for("the MTU to be followed", LIMIT, || {
        send(0);
        match rack.world.accounts(0).dropped("too-big") {
            0 => Err("no drop".to_owned()),
            _ => Ok(()),
        }
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", rack.said()));
    let before = rack.world.accounts(0).dropped("too-big");
    for _ in 0..5 {
        send(0);
        send(1);
    }
    wait_for("every one to be counted", LIMIT, || {
        match rack.world.accounts(0).dropped("too-big") - before {
            10 => Ok(()),
            other => Err(format!("{other} of 10")),
        }
    })
    .unwrap();
    for family in [0, 1] {
        let socket = udp_socket(&far.namespace, family, 0);
        assert_eq!(udp(&socket, r1.ip(family)).unwrap().name, "r1");
    }
    rack.world.sites.gateways[0].role.stop();
    rack.world.sites.gateways[0].role.start().unwrap();
    rack.world.sites.gateways[0].role.ready().unwrap();
    for family in [0, 1] {
        wait_for("the host to be back", LIMIT, || {
            let answer = tcp_impatient(&far.namespace, r1.ip(family));
            answer.map_err(|error| error.to_string())
        })
        .unwrap();
        transfers(&far.namespace, &r1.namespace, r1.ip(family));
    }
    rack.world.check();
}

/// The NIC towards hosts gets its profile as the underlay does, status reads it back, and an orderly stop takes it back.
#[test]
#[ignore = "needs root"]
fn the_lan_device_is_set_up_by_its_profile() {
    let mut rack = Rack::new("lan-profile");
    let role = &mut rack.world.sites.gateways[0].role;
    let near = role.namespace.clone();
    let gro = || {
        let show = Program::new("ethtool").args(["-k", "lan0"]);
        let text = near.succeed(&show).unwrap();
        text.contains("generic-receive-offload: on")
    };
    role.stop();
    let before = gro();
    role.configure(|text| format!("{text}\n[hardware.set]\ngro = {}\n", !before))
        .unwrap();
    role.start().unwrap();
    role.ready().unwrap();
    assert_eq!(gro(), !before);
    let status = role.ask("/v1/status").unwrap();
    let service = &status["hardware"]["service"];
    assert_eq!(service["interface"], "lan0", "{status:#}");
    assert_eq!(service["profile"], "veth");
    let settings = service["settings"].as_array().unwrap();
    let row = settings.iter().find(|row| row["setting"] == "gro").unwrap();
    assert_eq!(
        (&row["as_wanted"], &row["by"]),
        (&true.into(), &"configuration".into()),
        "{row}"
    );
    // What the driver says it offers, where it is known what it does.
    let socket = &status["sockets"][0];
    assert_eq!(socket["device"], "lan0");
    assert_eq!(socket["tx_metadata"], serde_json::json!([]), "{socket}");
    let read = socket["rx_metadata"].as_array().unwrap();
    assert!(read.contains(&"hash".into()), "{socket}");
    role.stop();
    assert_eq!(gro(), before);
    role.start().unwrap();
    role.ready().unwrap();
    rack.world.check();
}

/// A host that uses another one's address speaks for nobody: what it sends in that name is dropped, and counted.
#[test]
#[ignore = "needs root"]
fn a_host_cannot_speak_in_anothers_name() {
    let mut rack = Rack::new("lan-forged");
    let (r1, r2) = (rack.host("r1", 11), rack.host("r2", 12));
    let r1 = rack.attach(CALLER, r1, 11);
    let far = rack.world.echo(1, "b");
    // Its own address stays the one it answers for on the LAN.
    r2.sysctl("net/ipv4/conf/all/arp_ignore", "1").unwrap();
    r2.sysctl("net/ipv4/conf/all/arp_announce", "2").unwrap();
    let [v4, v6] = address(11);
    r2.ip(&format!(
        "address add {v4}/32 dev lo\naddress add {v6}/128 dev lo nodad"
    ))
    .unwrap();
    for (family, port) in [(0, 6000), (1, 6001)] {
        // An established flow, too, of whose ports the forger knows.
        let own = udp_socket(&r1.namespace, family, port);
        for _ in 0..200 {
            assert_eq!(udp(&own, far.ip(family)).unwrap().name, "b");
        }
        let from = (address(11)[family], port);
        let forger = r2.run(move || std::net::UdpSocket::bind(from)).unwrap();
        let before = rack.world.accounts(0).dropped("source-forged");
        for _ in 0..5 {
            forger.send_to(b"?", (far.ip(family), 7000)).unwrap();
        }
        wait_for("each to be counted", LIMIT, || {
            match rack.world.accounts(0).dropped("source-forged") - before {
                5 => Ok(()),
                other => Err(format!("{other} of 5")),
            }
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", rack.said()));
        assert_eq!(udp(&own, far.ip(family)).unwrap().name, "b");
    }
    rack.world.check();
}
