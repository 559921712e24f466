//! An instance moves between nodes while others talk to it.
//!
//! ```text
//!  caller 1 ── gateway 1 ┐
//!      echo old ─────────┤ wire                moves to gateway 2 (same cluster), and to gateway 3 (another cluster)
//!  caller 3 ── gateway 3 ┴ gateway 2 ── echo new
//! ```

use crate::offload::status;
use crate::world::{
    ECHO, Instance, World, again, connect, serve, serve_at, sluice, tcp, udp, udp_socket,
};
use sluice_perf::lab::clock::wait_for;
use sluice_perf::lab::sites::{Layout, PLAIN};
use sluice_perf::lab::{NetNs, Program};
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

/// The old node sends on for 30 s.
const WINDOW: Duration = Duration::from_secs(45);
const LIMIT: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_millis(500);

/// Attaches `namespace` as instance 0, which runs elsewhere.
fn migrate(world: &World, gateway: usize, namespace: &NetNs) -> serde_json::Value {
    let admin = &world.sites.gateways[gateway].role.admin;
    let attach = Program::new(sluice())
        .args(["attach", "--service", ECHO, "--instance", "0", "--migrate"])
        .args(["--netns", &namespace.path().to_string_lossy()])
        .args(["--socket", &admin.to_string_lossy(), "-o", "json"]);
    serde_json::from_str(&namespace.succeed(&attach).unwrap()).unwrap()
}

/// Waits until a caller is led to the place of that name. A question that nobody answers soon is asked again.
fn led(socket: &UdpSocket, to: IpAddr, name: &str) {
    socket.set_read_timeout(Some(SOON)).unwrap();
    wait_for("a caller to be led to the new place", LIMIT, || {
        match udp(socket, to) {
            Ok(answer) if answer.name == name => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_moved_instance_keeps_its_addresses_and_its_callers() {
    let layout = Layout {
        gateways: vec![0, 0, 1],
        ..Layout::two_sites()
    };
    let world = World::laid("migration", &layout);
    let old = world.echo(0, "old");
    let callers = [world.caller(0), world.caller(2)];
    let sockets = [0, 1].map(|family| {
        [0, 1].map(|caller: usize| udp_socket(&callers[caller].namespace, family, 0))
    });
    let asked = |name: &str| {
        for family in [0, 1] {
            for socket in &sockets[family] {
                let answer = udp(socket, old.ip(family)).unwrap();
                assert_eq!(answer.name, name);
                assert_eq!(answer.from.ip(), old.ip(family), "as it was dialled");
            }
        }
    };
    asked("old");
    let mut connection = connect(&callers[1].namespace, old.ip(0)).unwrap();
    again(&mut connection).unwrap();
    let mut former = (0, old.attached.clone());
    for (gateway, name) in [(1, "new"), (2, "far")] {
        let namespace = NetNs::new(name).unwrap();
        serve(&namespace, name);
        let attached = migrate(&world, gateway, &namespace);
        assert_eq!(attached["instance_number"], 0);
        for (family, field) in ["instance_ip", "instance_ip_v6"].into_iter().enumerate() {
            let kept: IpAddr = attached[field].as_str().unwrap().parse().unwrap();
            assert_eq!(kept, old.ip(family));
        }
        // No question is lost while the news spreads: both places answer.
        for (caller, at) in [0, 2].into_iter().enumerate() {
            // Who calls from beside the old place stays with it until it ends.
            if at != former.0 {
                led(&sockets[0][caller], old.ip(0), name);
            }
        }
        world.sites.detach(former.0, &former.1).unwrap();
        for socket in sockets.iter().flatten() {
            let family = usize::from(socket.local_addr().unwrap().is_ipv6());
            led(socket, old.ip(family), name);
        }
        asked(name);
        for caller in &callers {
            assert_eq!(tcp(&caller.namespace, old.ip(0)).unwrap().name, name);
        }
        let rows = world.sites.root.ask("/v1/instances").unwrap();
        let rows = rows.as_array().unwrap().iter();
        assert_eq!(rows.filter(|row| row["service"] == ECHO).count(), 1);
        former.0 = gateway;
    }
    // Its state was not moved: the new place's kernel says so.
    let lost = again(&mut connection).unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::ConnectionReset);
    world.check();
}

/// An instance that moved while the caller's node could not hear of it.
struct Unheard {
    world: World,
    /// As it was attached where it ran first.
    old: Instance,
    caller: Instance,
    /// One of each family.
    sockets: [UdpSocket; 2],
}

/// The cluster of the caller's node is away while the instance moves within the other one: callers reach it by the old node.
fn moved_unheard(name: &str, fastpath: &str) -> Unheard {
    let layout = Layout {
        gateways: vec![0, 0, 1],
        fastpath: fastpath.to_owned(),
        ..Layout::two_sites()
    };
    let mut world = World::laid(name, &layout);
    let old = world.echo(0, "old");
    let caller = world.caller(2);
    let sockets = [0, 1].map(|family| udp_socket(&caller.namespace, family, 0));
    for (family, socket) in sockets.iter().enumerate() {
        assert_eq!(udp(socket, old.ip(family)).unwrap().name, "old");
    }
    let mut connection = connect(&caller.namespace, old.ip(0)).unwrap();
    again(&mut connection).unwrap();
    world.sites.clusters[1].kill();
    let namespace = NetNs::new("new").unwrap();
    serve(&namespace, "new");
    migrate(&world, 1, &namespace);
    world.sites.detach(0, &old.attached).unwrap();
    wait_for("the old node to hear of the move", LIMIT, || {
        let answer = tcp(&caller.namespace, old.ip(0)).map_err(|error| error.to_string())?;
        (answer.name == "new").then_some(()).ok_or(answer.name)
    })
    .unwrap();
    for _ in 0..3 {
        for (family, socket) in sockets.iter().enumerate() {
            let answer = udp(socket, old.ip(family)).unwrap();
            assert_eq!(answer.name, "new");
            assert_eq!(answer.from.ip(), old.ip(family), "as it was dialled");
            assert_eq!(answer.peer, caller.ip(family), "as it is known");
            let answer = tcp(&caller.namespace, old.ip(family)).unwrap();
            assert_eq!(answer.name, "new", "a new connection");
        }
    }
    // Its state was not moved: the new place's kernel says so, by the old node.
    let lost = again(&mut connection).unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::ConnectionReset);
    let status = world.sites.gateways[0].role.ask("/v1/status").unwrap();
    assert!(status["frames_relayed"].as_u64().unwrap() > 0, "{status}");
    Unheard {
        world,
        old,
        caller,
        sockets,
    }
}

#[test]
#[ignore = "needs root"]
fn a_caller_whose_node_has_not_heard_reaches_it_by_the_old_node_over_af_xdp() {
    moved_unheard("stragglers-xdp", "link = \"af_xdp\"\n")
        .world
        .check();
}

/// When the old node stops, callers are told, and once managers are there again, their node is led to the new place.
#[test]
#[ignore = "needs root"]
fn a_caller_whose_node_has_not_heard_reaches_it_by_the_old_node() {
    let Unheard {
        mut world,
        old,
        caller,
        sockets,
    } = moved_unheard("stragglers", "");
    wait_for("the old node to stop", WINDOW, || {
        match tcp(&caller.namespace, old.ip(0)) {
            Err(error) if error.kind() == ErrorKind::HostUnreachable => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .unwrap();
    world.sites.clusters[1].start().unwrap();
    world.sites.clusters[1].ready().unwrap();
    wait_for(
        "the caller to be led to the new place",
        LIMIT,
        || match tcp(&caller.namespace, old.ip(0)) {
            Ok(answer) if answer.name == "new" => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .unwrap();
    for (family, socket) in sockets.iter().enumerate() {
        assert_eq!(udp(socket, old.ip(family)).unwrap().name, "new");
    }
    world.check();
}

/// A workload whose sockets are bound to the address that it had where it began, as those of a restored process are. In plain
/// its flows are offloaded, too.
fn bound_to_the_first_address(name: &str, fastpath: &str, tunnel: &str) {
    let layout = Layout {
        gateways: vec![0, 0, 1],
        fastpath: fastpath.to_owned(),
        tunnel: tunnel.to_owned(),
        ..Layout::two_sites()
    };
    let mut world = World::laid(name, &layout);
    let old = world.attach(0, ECHO, "old");
    let bound = |namespace: &NetNs, name: &str| {
        for family in [0, 1] {
            serve_at(namespace, name, old.ns_ip(family));
        }
    };
    bound(&old.namespace, "old");
    let (beside, callers) = (world.echo(1, "beside"), [world.caller(0), world.caller(2)]);
    let mut former = (0, old.attached.clone());
    let mut places = Vec::new();
    for (gateway, name) in [(1, "new"), (2, "far")] {
        let namespace = NetNs::new(name).unwrap();
        let attached = migrate(&world, gateway, &namespace);
        for (family, field) in ["kept_ip", "kept_ip_v6"].into_iter().enumerate() {
            let kept: IpAddr = attached[field].as_str().unwrap().parse().unwrap();
            assert_eq!(kept, old.ns_ip(family), "of the first place");
        }
        bound(&namespace, name);
        world.sites.detach(former.0, &former.1).unwrap();
        for caller in &callers {
            for family in [0, 1] {
                let socket = udp_socket(&caller.namespace, family, 0);
                led(&socket, old.ip(family), name);
                let answer = udp(&socket, old.ip(family)).unwrap();
                assert_eq!(answer.from.ip(), old.ip(family), "as it was dialled");
                assert_eq!(answer.peer, caller.ip(family), "as it is known");
                let answer = tcp(&caller.namespace, old.ip(family)).unwrap();
                assert_eq!(answer.name, name);
                // It calls, too, by the only address it has.
                let answer = tcp(&namespace, beside.ip(family)).unwrap();
                assert_eq!(answer.peer, old.ip(family));
            }
        }
        former.0 = gateway;
        places.push(namespace);
    }
    let far = &places[1];
    // A connection that the kernel forwards by itself.
    let mut connection = connect(&callers[0].namespace, old.ip(0)).unwrap();
    wait_for("an offloaded flow", LIMIT, || {
        assert_eq!(again(&mut connection).unwrap().name, "far");
        match status(&world, 2, "flows_offloaded").as_u64() {
            Some(0) | None if tunnel == PLAIN => Err(status(&world, 2, "offload").to_string()),
            _ => Ok(()),
        }
    })
    .unwrap();
    // What nobody listens for is refused, to either side: the errors quote the address that their reader knows.
    for family in [0, 1] {
        for (from, to) in [
            (&callers[0].namespace, old.ip(family)),
            (far, beside.ip(family)),
        ] {
            let socket = udp_socket(from, family, 0);
            socket.connect((to, 7001)).unwrap();
            socket.send(b"?").unwrap();
            let refused = socket.recv(&mut [0; 16]).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}");
        }
    }
    let role = &mut world.sites.gateways[2].role;
    role.kill();
    role.start().unwrap();
    role.ready().unwrap();
    for family in [0, 1] {
        wait_for("an answer after the restart", LIMIT, || {
            match tcp(&callers[0].namespace, old.ip(family)) {
                Ok(answer) if answer.name == "far" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .unwrap();
        tcp(far, beside.ip(family)).unwrap();
    }
    let rows = world.sites.gateways[2].role.ask("/v1/instances").unwrap();
    let mut rows = rows.as_array().unwrap().iter();
    let row = rows.find(|row| row["service"] == ECHO && row["node"] == "here");
    assert_eq!(row.unwrap()["kept_ip"], old.ns_ip(0).to_string());
    world.check();
}

#[test]
#[ignore = "needs root"]
fn sockets_bound_to_the_first_address_go_on_at_every_place() {
    bound_to_the_first_address("kept-address", "", "");
    bound_to_the_first_address("kept-address-plain", "", PLAIN);
}

#[test]
#[ignore = "needs root"]
fn sockets_bound_to_the_first_address_go_on_at_every_place_over_af_xdp() {
    let link = "link = \"af_xdp\"\n";
    bound_to_the_first_address("kept-address-xdp", link, "");
    bound_to_the_first_address("kept-address-xdp-plain", link, PLAIN);
}
