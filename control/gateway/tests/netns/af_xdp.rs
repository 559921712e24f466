//! The gateway over AF_XDP: the uplink and `eth0` of each gateway have an XDP program and sockets on their queues.
//!
//! ```text
//!  caller, a ── sluice0 gateway 1 eth0 ── wire ── eth0 gateway 2 sluice0 ── b
//!                                 mgmt0 ── management ── mgmt0
//! ```

use crate::world::{
    World, again, connect, one_site, ping, service_ip, sluice, tcp, tcp_impatient, udp, udp_socket,
};
use sluice_perf::lab::clock::{now, wait_for};
use sluice_perf::lab::sites::Layout;
use sluice_perf::lab::{NetNs, Program};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);
const TUNNEL_PORT: u16 = 50103;

fn layout(fastpath: &str) -> Layout {
    Layout {
        fastpath: fastpath.to_owned(),
        ..one_site()
    }
}

fn over_af_xdp(name: &str) -> World {
    World::laid(name, &layout("link = \"af_xdp\"\n"))
}

/// Two workers per gateway, on cores of the kernel's choice; nothing is started yet. The NIC has one queue, and another one
/// if the hardware profile gives it.
fn two_workers(name: &str, link: &str, profile: &str) -> World {
    let fastpath = format!("link = \"{link}\"\nworkers = 2\n[hardware]\nprofile = \"{profile}\"\n");
    let world = World::built(name, &layout(&fastpath));
    for gateway in &world.sites.gateways {
        let without_cores = |text: String| {
            let lines = text.lines().filter(|line| !line.starts_with("cores"));
            lines.map(|line| format!("{line}\n")).collect()
        };
        gateway.role.configure(without_cores).unwrap();
    }
    world
}

/// The lines of `sluice status` about a gateway's links.
fn links(world: &World, gateway: usize) -> Vec<String> {
    let status = world.sites.gateways[gateway]
        .role
        .ask("/v1/status")
        .unwrap();
    let links = status["workers"][0]["links"].as_array().unwrap().clone();
    links
        .iter()
        .map(|line| line.as_str().unwrap().to_owned())
        .collect()
}

fn ip(namespace: &NetNs, arguments: &str) -> String {
    namespace
        .succeed(&Program::new("ip").args(arguments.split_whitespace()))
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Every way between instances, over both families.
fn all_paths_work(world: &World) {
    let (caller, a, b) = (world.caller(0), world.echo(0, "a"), world.echo(1, "b"));
    for family in [0, 1] {
        // That there is an instance on the other node is heard of a moment later.
        wait_for("both instances to be chosen", LIMIT, || {
            let name = || tcp(&caller.namespace, service_ip(family)).unwrap().name;
            match [name(), name()] {
                [one, other] if one != other => Ok(()),
                names => Err(format!("{names:?}")),
            }
        })
        .unwrap();
        for (to, name) in [(&a, "a"), (&b, "b")] {
            let answer = tcp(&caller.namespace, to.ip(family)).unwrap();
            assert_eq!(
                (answer.name.as_str(), answer.peer),
                (name, caller.ip(family))
            );
            let socket = udp_socket(&caller.namespace, family, 0);
            assert_eq!(udp(&socket, to.ip(family)).unwrap().name, name);
            // A datagram of 20 fragments, there and back.
            let long: Vec<u8> = (0..=255).cycle().take(28_000).collect();
            socket.send_to(&long, (to.ip(family), 7000)).unwrap();
            let mut back = vec![0; 65_536];
            let (len, _) = socket.recv_from(&mut back).unwrap();
            assert_eq!(back[..len], long);
        }
        // An instance that dials its own address.
        assert_eq!(tcp(&a.namespace, a.ip(family)).unwrap().name, "a");
        let said = ping(&caller.namespace, b.ip(family), &[]);
        assert!(said.contains("5 received"), "{said}");
    }
}

#[test]
#[ignore = "needs root"]
fn every_path_works_over_af_xdp() {
    let world = over_af_xdp("xdp-paths");
    for gateway in [0, 1] {
        assert_eq!(
            links(&world, gateway),
            [
                "af_xdp sluice0 (native, copy, 1 queue)",
                "af_xdp eth0 (native, copy, 1 queue)"
            ]
        );
        let routes = ip(
            world.sites.gateways[gateway].namespace(),
            "route show type unreachable",
        );
        assert!(routes.contains("10.30.0.0/16"), "{routes}");
    }
    all_paths_work(&world);
    world.check();
}

/// As many workers as queues; each has its lane, and a flow may arrive at either.
#[test]
#[ignore = "needs root"]
fn two_workers_share_the_queues() {
    let mut world = two_workers("xdp-workers", "af_xdp", "auto");
    world.start();
    assert_eq!(
        links(&world, 0)[0],
        "af_xdp sluice0 (native, copy, 2 queues)"
    );
    all_paths_work(&world);
    world.check();
}

/// One queue is too few for two workers: said in the log, and done without.
#[test]
#[ignore = "needs root"]
fn auto_falls_back_to_tun_and_says_why() {
    let mut world = two_workers("xdp-auto", "auto", "none");
    world.start();
    assert!(
        links(&world, 0)[0].starts_with("tun "),
        "{:?}",
        links(&world, 0)
    );
    let said = world.sites.gateways[0].role.said();
    assert!(said.contains("AF_XDP does not work here"), "{said}");
    assert!(said.contains("1 receive queues for 2 workers"), "{said}");
    all_paths_work(&world);
    world.check();
}

/// Behind the driver, as on a NIC without XDP of its own.
#[test]
#[ignore = "needs root"]
fn generic_mode_works_too() {
    let world = World::laid(
        "xdp-generic",
        &layout("link = \"af_xdp\"\nxdp.mode = \"generic\"\n"),
    );
    assert_eq!(links(&world, 1)[1], "af_xdp eth0 (generic, copy, 1 queue)");
    all_paths_work(&world);
    world.check();
}

/// The underlay is a device on top of another one, as a VLAN's or a bond is; the kernel at hand has macvlan. Its MTU is
/// lowered while frames go: what does not fit any more is a named drop, and what fits goes on.
#[test]
#[ignore = "needs root"]
fn a_device_on_top_of_another_is_an_underlay() {
    let mut world = World::built(
        "xdp-stacked",
        &layout("link = \"af_xdp\"\noffload = false\n"),
    );
    let [v4, v6] = world.sites.gateways[0].address;
    let near = world.sites.gateways[0].namespace().clone();
    near.ip(&format!(
        "address del {v4}/24 dev eth0\naddress del {v6}/64 dev eth0\n\
         link add link eth0 name up0 type macvlan mode bridge\n\
         address add {v4}/24 dev up0\naddress add {v6}/64 dev up0 nodad\nlink set up0 up"
    ))
    .unwrap();
    world.start();
    assert_eq!(links(&world, 0)[1], "af_xdp up0 (generic, copy, 1 queue)");
    all_paths_work(&world);
    let (caller, c) = (world.caller(0), world.echo(1, "c"));
    let socket = udp_socket(&caller.namespace, 0, 0);
    let long = [7; 1372];
    let send = || socket.send_to(&long, (c.ip(0), 7000)).unwrap();
    send();
    assert_eq!(socket.recv_from(&mut [0; 2000]).unwrap().0, long.len());
    near.ip("link set up0 mtu 1400").unwrap();
    wait_for("the MTU to be followed", LIMIT, || {
        send();
        match world.accounts(0).dropped("too-big") {
            0 => Err(format!("{:?}", world.accounts(0))),
            _ => Ok(()),
        }
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", world.sites.gateways[0].role.said()));
    let another = udp_socket(&caller.namespace, 0, 0);
    assert_eq!(udp(&another, c.ip(0)).unwrap().name, "c");
    world.check();
}

/// The kernel says that the neighbour has another address: frames go there, and come back when it is right again.
#[test]
#[ignore = "needs root"]
fn a_neighbour_that_changes_is_followed() {
    let world = over_af_xdp("xdp-neighbour");
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    let mut stream = connect(&caller.namespace, b.ip(0)).unwrap();
    assert_eq!(again(&mut stream).unwrap().name, "b");
    let (near, far) = (
        world.sites.gateways[0].namespace(),
        &world.sites.gateways[1],
    );
    let shown = ip(far.namespace(), "-o link show dev eth0");
    let mac = shown.split("link/ether ").nth(1).unwrap()[..17].to_owned();
    let neighbour = |mac: &str| {
        let address = far.address[0];
        ip(
            near,
            &format!("neigh replace {address} lladdr {mac} dev eth0 nud permanent"),
        );
    };
    neighbour("02:00:00:00:00:77");
    let socket = udp_socket(&caller.namespace, 0, 0);
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    wait_for("frames to go astray", LIMIT, || {
        match udp(&socket, b.ip(0)) {
            Err(_) => Ok(()),
            Ok(answer) => Err(format!("{answer:?}")),
        }
    })
    .unwrap();
    neighbour(&mac);
    let changed = now();
    wait_for("frames to arrive again", LIMIT, || {
        udp(&socket, b.ip(0)).map_err(|error| error.to_string())
    })
    .unwrap();
    println!("followed after {} ms", changed.elapsed().as_millis());
    assert_eq!(again(&mut stream).unwrap().name, "b");
    world.check();
}

/// The kernel's route leads over another device: packets take it, through the kernel, and come back when it does not.
#[test]
#[ignore = "needs root"]
fn a_route_that_changes_is_followed() {
    let world = over_af_xdp("xdp-route");
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    let mut stream = connect(&caller.namespace, b.ip(0)).unwrap();
    assert_eq!(again(&mut stream).unwrap().name, "b");
    let [near, far] = [0, 1].map(|index| &world.sites.gateways[index]);
    let sent = |device: &str| -> u64 {
        let text = ip(near.namespace(), &format!("-s -o link show dev {device}"));
        let counters = text.split("TX:").nth(1).unwrap();
        let packets = counters.split('\\').nth(1).unwrap();
        packets.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let far_address = ip(far.namespace(), "-o -4 addr show dev mgmt0");
    let via = far_address.split("inet ").nth(1).unwrap();
    let via = via.split('/').next().unwrap();
    let route = format!(
        "{}/32 via {via} dev mgmt0 src {}",
        far.address[0], near.address[0]
    );
    ip(near.namespace(), &format!("route add {route}"));
    wait_for("packets to take the other device", LIMIT, || {
        let before = sent("mgmt0");
        for _ in 0..50 {
            again(&mut stream).map_err(|error| error.to_string())?;
        }
        match sent("mgmt0") - before {
            50.. => Ok(()),
            few => Err(format!("{few} packets over mgmt0")),
        }
    })
    .unwrap();
    ip(near.namespace(), &format!("route del {route}"));
    wait_for("packets to take the wire again", LIMIT, || {
        let before = sent("mgmt0");
        for _ in 0..50 {
            again(&mut stream).map_err(|error| error.to_string())?;
        }
        match sent("mgmt0") - before {
            few @ 0..50 => Ok(few),
            many => Err(format!("{many} packets over mgmt0")),
        }
    })
    .unwrap();
    world.check();
}

/// The NIC goes down and comes up again: sockets and programs live on, and the next hop is learnt anew.
#[test]
#[ignore = "needs root"]
fn a_device_that_was_down_works_again() {
    let world = over_af_xdp("xdp-down");
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    let socket = udp_socket(&caller.namespace, 0, 0);
    assert_eq!(udp(&socket, b.ip(0)).unwrap().name, "b");
    let near = world.sites.gateways[0].namespace();
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    ip(near, "link set eth0 down");
    assert!(udp(&socket, b.ip(0)).is_err());
    ip(near, "link set eth0 up");
    wait_for("answers again", LIMIT, || {
        udp(&socket, b.ip(0)).map_err(|error| error.to_string())
    })
    .unwrap();
    assert!(links(&world, 0)[1].starts_with("af_xdp eth0 (native, copy, 1 queue)"));
    world.check();
}

/// What the program drops shows among the drops, and in the account.
#[test]
#[ignore = "needs root"]
fn early_drops_are_counted_by_reason() {
    let world = World::laid(
        "xdp-drops",
        &layout("link = \"af_xdp\"\nxdp.blocked_sources = [\"203.0.113.0/24\"]\n"),
    );
    let [near, far] = [0, 1].map(|index| &world.sites.gateways[index]);
    let to = SocketAddr::new(near.address[0], TUNNEL_PORT);
    ip(far.namespace(), "addr add 203.0.113.5/32 dev eth0");
    for (from, bytes) in [
        (far.address[0], &[][..]),
        ("203.0.113.5".parse().unwrap(), &[0x45; 40][..]),
    ] {
        let socket = far
            .namespace()
            .run(move || UdpSocket::bind((from, 0)).unwrap());
        socket.send_to(bytes, to).unwrap();
    }
    world.wait_for_drop(0, "empty");
    world.wait_for_drop(0, "blocked-source");
    world.check();
}

/// ping, TCP and UDP between the nodes' own kernels, on the device that has the program.
fn kernels_talk(near: &NetNs, far: &NetNs, address: IpAddr) {
    let said = ping(near, address, &[]);
    assert!(said.contains("5 received"), "{said}");
    let listener = far.run(move || TcpListener::bind((address, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let bytes: Vec<u8> = (0..=255).cycle().take(500_000).collect();
    let expected = bytes.clone();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        got
    });
    let mut stream = near.run(move || TcpStream::connect((address, port)).unwrap());
    stream.write_all(&bytes).unwrap();
    drop(stream);
    assert!(server.join().unwrap() == expected, "the bytes are the same");
}

/// Killed, the process leaves the devices to the kernel at once; started again, it takes them over.
#[test]
#[ignore = "needs root"]
fn a_killed_gateway_leaves_the_devices_to_the_kernel() {
    let mut world = over_af_xdp("xdp-crash");
    let (caller, a, b) = (world.caller(0), world.echo(0, "a"), world.echo(1, "b"));
    let (near, far) = (
        world.sites.gateways[0].namespace().clone(),
        world.sites.gateways[1].namespace().clone(),
    );
    let address = world.sites.gateways[1].address;
    for family in [0, 1] {
        kernels_talk(&near, &far, address[family]);
        tcp(&caller.namespace, b.ip(family)).unwrap();
    }
    world.sites.gateways[0].role.kill();
    kernels_talk(&near, &far, address[0]);
    world.sites.gateways[0].role.start().unwrap();
    for family in [0, 1] {
        for (to, name) in [(a.ip(family), "a"), (b.ip(family), "b")] {
            wait_for(&format!("requests to {to}"), LIMIT, || match tcp_impatient(
                &caller.namespace,
                to,
            ) {
                Ok(answer) if answer.name == name => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .unwrap_or_else(|error| panic!("{error}\n{}", world.sites.gateways[0].role.said()));
        }
    }
    assert_eq!(links(&world, 0)[1], "af_xdp eth0 (native, copy, 1 queue)");
    kernels_talk(&near, &far, address[1]);
    world.check();
}

/// Another link kind at the next start: what the first one set up does not stand in the way, and nothing is left over.
#[test]
#[ignore = "needs root"]
fn the_link_kind_changes_at_a_restart() {
    let mut world = over_af_xdp("xdp-change");
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    for (from, to, kind) in [("af_xdp", "tun", "tun "), ("tun", "af_xdp", "af_xdp ")] {
        let role = &mut world.sites.gateways[0].role;
        role.stop();
        role.configure(|text| {
            text.replace(&format!("link = \"{from}\""), &format!("link = \"{to}\""))
        })
        .unwrap();
        role.start().unwrap();
        role.ready().unwrap();
        assert!(
            links(&world, 0)[0].starts_with(kind),
            "{:?}",
            links(&world, 0)
        );
        for family in [0, 1] {
            wait_for("requests", LIMIT, || {
                tcp_impatient(&caller.namespace, b.ip(family)).map_err(|error| error.to_string())
            })
            .unwrap_or_else(|error| panic!("{error}\n{}", world.sites.gateways[0].role.said()));
        }
    }
    let role = &mut world.sites.gateways[0].role;
    role.stop();
    let remove = Program::new(sluice()).args(["gateway", "--remove", "--config"]);
    role.namespace.succeed(&remove.arg(&role.config)).unwrap();
    let left = ip(&role.namespace, "route show") + &ip(&role.namespace, "-6 route show");
    assert!(
        !left.contains("10.30.0.0/16") && !left.contains("fdff::/16"),
        "{left}"
    );
    let role = &mut world.sites.gateways[0].role;
    role.start().unwrap();
    role.ready().unwrap();
    world.check();
}
