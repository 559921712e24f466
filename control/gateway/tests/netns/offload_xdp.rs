//! Established flows with AF_XDP links: forwarded by the links' own programs, and what a crash leaves of it.
//!
//! ```text
//!  caller ── sluice0p (tc) sluice0 (XDP) gateway 1 eth0 (XDP, tc) ── wire ── gateway 2 ── echo b, sink
//! ```

use crate::offload::{
    SIZES, a_withdrawn_instance_takes_its_flows, all_sizes_come_back, ask_until_offloaded,
    both_ways_are_offloaded, content, forwarded, over_ipv6, status,
};
use crate::world::{PORT, World, one_plain_site, service_ip, sluice, udp, udp_socket};
use sluice_perf::lab::Program;
use sluice_perf::lab::clock::{now, wait_for};
use sluice_perf::lab::sites::{Cable, Layout};
use std::net::UdpSocket;
use std::time::Duration;

const TUNNEL_PORT: u16 = 50103;
const LIMIT: Duration = Duration::from_secs(10);

/// With a cable the devices are each other's ends, and take redirected frames; a switch's ports do not.
fn over_af_xdp(name: &str, cable: Cable) -> World {
    World::laid(
        name,
        &Layout {
            cable,
            fastpath: "link = \"af_xdp\"\n".to_owned(),
            ..one_plain_site()
        },
    )
}

/// Both directions of both families, bytes compared, without loss and with. Most of it went by the kernel.
#[test]
#[ignore = "needs root"]
fn transfers_over_af_xdp_are_offloaded_and_arrive_whole() {
    let mut world = over_af_xdp("xdp-offload-transfer", Cable::Switch);
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    for (percent, len) in [(0, 100 << 20), (2, 8 << 20)] {
        world.sites.wire.as_mut().unwrap().lose(percent).unwrap();
        both_ways_are_offloaded(&world, &caller, &b, len);
    }
    world.check();
}

/// Datagrams are redirected within XDP: what they are counted by is in the programs, and the sockets hear nothing of
/// them. Fragments go to the worker as before.
#[test]
#[ignore = "needs root"]
fn datagrams_are_redirected_and_keep_their_addresses() {
    let world = over_af_xdp("xdp-offload-datagrams", Cable::Pair);
    let (caller, _b) = (world.caller(0), world.echo(1, "b"));
    for family in [0, 1] {
        let socket = udp_socket(&caller.namespace, family, 5000);
        let to = service_ip(family);
        ask_until_offloaded(&world, family as u64 + 1, || udp(&socket, to));
        for gateway in [0, 1] {
            let how = status(&world, gateway, "offload");
            assert_eq!(
                how,
                "sluice0 to eth0 by XDP, back by XDP, TCP super-frames by tc"
            );
        }
        let before = [0, 1].map(|gateway| forwarded(&world, gateway));
        let answer = udp(&socket, to).unwrap();
        assert_eq!((answer.peer, answer.from.ip()), (caller.ip(family), to));
        all_sizes_come_back(&socket, to);
        // Questions and answers.
        for gateway in [0, 1] {
            let expected = before[gateway] + 2 * (1 + SIZES.len() as u64);
            wait_for("the offload's counters", LIMIT, || {
                let now = forwarded(&world, gateway);
                (now == expected)
                    .then_some(())
                    .ok_or_else(|| format!("{now}, expected {expected}"))
            })
            .unwrap_or_else(|error| panic!("{error}"));
        }
        let sent = content(4000);
        socket.send_to(&sent, (to, PORT)).unwrap();
        let mut bytes = vec![0; 5000];
        let (received, _) = socket.recv_from(&mut bytes).unwrap();
        assert_eq!(&bytes[..received], &sent[..]);
    }
    world.check();
}

#[test]
#[ignore = "needs root"]
fn a_withdrawn_instance_takes_its_redirected_flows_with_it() {
    a_withdrawn_instance_takes_its_flows(over_af_xdp("xdp-offload-withdrawn", Cable::Pair));
}

/// What is pinned at the first gateway.
fn pinned(world: &World) -> usize {
    let find = Program::new("find").args(["/sys/fs/bpf", "-type", "f", "-path", "*/sluice/*"]);
    let found = world.sites.gateways[0].namespace().succeed(&find).unwrap();
    found.lines().count()
}

/// Killed, a gateway goes on forwarding what is established, until its lease ends. Its sockets get nothing from the moment
/// it is dead: a datagram of no established flow is the kernel's. A restart takes the programs over, and an orderly
/// stop leaves none.
#[test]
#[ignore = "needs root"]
fn a_killed_gateway_forwards_for_a_lease_and_is_taken_over() {
    let mut world = over_af_xdp("xdp-offload-crash", Cable::Pair);
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    let socket = udp_socket(&caller.namespace, 0, 5000);
    ask_until_offloaded(&world, 1, || udp(&socket, b.ip(0)));
    // XDP on both devices, tc on the port and on the underlay.
    assert_eq!(pinned(&world), 4);

    world.sites.gateways[0].role.kill();
    let died = now();
    let (near, far) = (
        world.sites.gateways[0].namespace().clone(),
        world.sites.gateways[1].namespace().clone(),
    );
    let address = world.sites.gateways[0].address[0];
    let kernel = near.run(move || UdpSocket::bind((address, TUNNEL_PORT)).unwrap());
    kernel.set_read_timeout(Some(LIMIT)).unwrap();
    let sender = far.run(|| UdpSocket::bind(("0.0.0.0", 0)).unwrap());
    // The very first one: none is lost to the dead.
    sender.send_to(&[0x45; 40], (address, TUNNEL_PORT)).unwrap();
    assert_eq!(kernel.recv(&mut [0; 100]).unwrap(), 40);
    println!(
        "the kernel has the device after {} ms",
        died.elapsed().as_millis()
    );
    for _ in 0..10 {
        assert_eq!(udp(&socket, b.ip(0)).unwrap().name, "b", "within the lease");
    }
    drop(kernel);
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    wait_for("the lease to end", LIMIT, || match udp(&socket, b.ip(0)) {
        Ok(answer) => Err(format!("{answer:?}")),
        Err(_) => Ok(()),
    })
    .unwrap();
    println!("forwarded for {} ms", died.elapsed().as_millis());
    assert_eq!(pinned(&world), 4, "what passes everything may stay");

    let role = &mut world.sites.gateways[0].role;
    role.start().unwrap();
    role.ready().unwrap();
    wait_for("answers of the next process", LIMIT, || {
        udp(&socket, b.ip(0)).map_err(|error| error.to_string())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", world.sites.gateways[0].role.said()));
    assert_eq!(pinned(&world), 4);
    world.sites.gateways[0].role.stop();
    assert_eq!(pinned(&world), 0);

    // Killed for good: `--remove` takes the programs away.
    let role = &mut world.sites.gateways[0].role;
    role.start().unwrap();
    role.ready().unwrap();
    role.kill();
    assert_eq!(pinned(&world), 4);
    let role = &world.sites.gateways[0].role;
    let remove = Program::new(sluice()).args(["gateway", "--remove", "--config"]);
    near.succeed(&remove.arg(&role.config)).unwrap();
    assert_eq!(pinned(&world), 0);
    let role = &mut world.sites.gateways[0].role;
    role.start().unwrap();
    role.ready().unwrap();
    world.check();
}

/// The same with TUN links, whose programs are in tc and XDP.
#[test]
#[ignore = "needs root"]
fn a_killed_gateway_forwards_for_a_lease_with_tun_links_too() {
    let mut world = World::laid("tun-offload-crash", &one_plain_site());
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    let socket = udp_socket(&caller.namespace, 0, 5000);
    ask_until_offloaded(&world, 1, || udp(&socket, b.ip(0)));
    // tc on the uplink, tc and XDP on the underlay.
    assert_eq!(pinned(&world), 3);
    world.sites.gateways[0].role.kill();
    for _ in 0..10 {
        assert_eq!(udp(&socket, b.ip(0)).unwrap().name, "b", "within the lease");
    }
    let role = &mut world.sites.gateways[0].role;
    role.start().unwrap();
    role.ready().unwrap();
    wait_for("answers of the next process", LIMIT, || {
        udp(&socket, b.ip(0)).map_err(|error| error.to_string())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", world.sites.gateways[0].role.said()));
    world.sites.gateways[0].role.stop();
    assert_eq!(pinned(&world), 0);
    let role = &mut world.sites.gateways[0].role;
    role.start().unwrap();
    role.ready().unwrap();
    world.check();
}

/// Over an IPv6 underlay, datagrams within XDP and TCP in super-frames.
#[test]
#[ignore = "needs root"]
fn flows_are_redirected_over_ipv6() {
    let layout = Layout {
        cable: Cable::Pair,
        fastpath: "link = \"af_xdp\"\n".to_owned(),
        ..one_plain_site()
    };
    let world = over_ipv6("xdp-offload-ipv6", &layout);
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    both_ways_are_offloaded(&world, &caller, &b, 50 << 20);
    for family in [0, 1] {
        let socket = udp_socket(&caller.namespace, family, 0);
        let to = b.ip(family);
        ask_until_offloaded(&world, family as u64 + 1, || udp(&socket, to));
        let before = [0, 1].map(|gateway| forwarded(&world, gateway));
        all_sizes_come_back(&socket, to);
        for gateway in [0, 1] {
            wait_for("the offload's counters", LIMIT, || {
                match forwarded(&world, gateway) - before[gateway] {
                    all if all == 2 * SIZES.len() as u64 => Ok(()),
                    other => Err(other.to_string()),
                }
            })
            .unwrap();
        }
    }
    world.check();
}
