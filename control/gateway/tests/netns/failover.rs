//! Delivery failures: nodes that die, fall silent or are busy, instances that go while nobody can say so; and what a
//! gateway still knows when it is killed then.
//!
//! ```text
//!  caller ── gateway 1 ──┬── gateway 2 ── echo b
//!                        └── gateway 3 ── echo c
//! ```

use crate::world::{
    Instance, PORT, World, again, connect, many_address, one_site, serve, service_ip, tcp,
    tcp_impatient, udp_socket,
};
use sluice_perf::lab::clock::{now, pause, wait_for};
use sluice_perf::lab::sites::Layout;
use sluice_perf::lab::{NetNs, Program};
use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

fn three_nodes() -> Layout {
    Layout {
        gateways: vec![0, 0, 0],
        ..one_site()
    }
}

/// Who answers new connections, until both do; then the caller's gateway has probed both nodes for a while.
fn meet(caller: &NetNs) {
    let mut names = BTreeSet::new();
    wait_for("both instances", Duration::from_secs(20), || {
        names.insert(tcp(caller, service_ip(0)).unwrap().name);
        if names.len() == 2 {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        }
    })
    .unwrap();
    let begin = now();
    while begin.elapsed() < Duration::from_secs(3) {
        tcp(caller, service_ip(0)).unwrap();
        pause(Duration::from_millis(50));
    }
}

/// When, after `since`, a new connection failed last, in a run of 3 s.
fn last_failure(caller: &NetNs, since: Instant) -> Duration {
    let mut last = Duration::ZERO;
    while since.elapsed() < Duration::from_secs(3) {
        let begun = since.elapsed();
        if tcp_impatient(caller, service_ip(0)).is_err() {
            last = begun;
        }
        pause(Duration::from_millis(5));
    }
    last
}

fn signal(pid: u32, name: &str) {
    let kill = std::process::Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status();
    assert!(kill.unwrap().success());
}

/// Its kernel goes on, its sockets fill: nothing says that it is gone. Then it goes on, and so do its flows.
#[test]
#[ignore = "needs root"]
fn a_silent_node_gets_no_new_flow_after_a_second_and_comes_back() {
    let world = World::laid("silent-node", &three_nodes());
    let caller = world.caller(0);
    let (_b, c) = (world.echo(1, "b"), world.echo(2, "c"));
    meet(&caller.namespace);
    let mut to_c = connect(&caller.namespace, c.ip(0)).unwrap();
    again(&mut to_c).unwrap();
    let pid = world.sites.gateways[2].role.pid().unwrap();
    signal(pid, "STOP");
    let last = last_failure(&caller.namespace, now());
    println!(
        "last new flow towards the silent node: {} ms",
        last.as_millis()
    );
    signal(pid, "CONT");
    assert!(last < Duration::from_secs(1), "{last:?}");
    assert!(last > Duration::ZERO, "nothing was tried there");
    wait_for(
        "c to get new flows again",
        Duration::from_secs(5),
        || match tcp(&caller.namespace, service_ip(0)).unwrap().name.as_str() {
            "c" => Ok(()),
            other => Err(other.to_owned()),
        },
    )
    .unwrap();
    again(&mut to_c).unwrap();
    world.check();
}

/// As when a gateway starts beside a node that is dead already: nobody here ever heard it, but it had said that it answers.
#[test]
#[ignore = "needs root"]
fn a_node_that_was_silent_before_it_was_called_gets_no_new_flow_after_a_second() {
    let world = World::laid("silent-before", &three_nodes());
    let caller = world.caller(0);
    let (_b, _c) = (world.echo(1, "b"), world.echo(2, "c"));
    wait_for("both places to be known", Duration::from_secs(5), || {
        let rows = world.sites.root.ask("/v1/instances").unwrap();
        let nodes: BTreeSet<String> = rows
            .as_array()
            .into_iter()
            .flatten()
            .map(|row| row["node"].to_string())
            .collect();
        // The caller's, and both of the service.
        if nodes.len() == 3 && !nodes.contains("null") {
            Ok(())
        } else {
            Err(rows.to_string())
        }
    })
    .unwrap();
    let pid = world.sites.gateways[2].role.pid().unwrap();
    signal(pid, "STOP");
    let last = last_failure(&caller.namespace, now());
    println!(
        "last new flow towards the silent node: {} ms",
        last.as_millis()
    );
    signal(pid, "CONT");
    assert!(last < Duration::from_secs(1), "{last:?}");
    assert!(last > Duration::ZERO, "nothing was tried there");
    wait_for("c to get new flows", Duration::from_secs(5), || match tcp(
        &caller.namespace,
        service_ip(0),
    )
    .unwrap()
    .name
    .as_str()
    {
        "c" => Ok(()),
        other => Err(other.to_owned()),
    })
    .unwrap();
    world.check();
}

/// Its gateway is killed: its kernel says so at once.
#[test]
#[ignore = "needs root"]
fn a_node_whose_gateway_died_gets_no_new_flow_after_a_moment() {
    let mut world = World::laid("dead-gateway", &three_nodes());
    let caller = world.caller(0);
    let (_b, _c) = (world.echo(1, "b"), world.echo(2, "c"));
    meet(&caller.namespace);
    world.sites.gateways[2].role.kill();
    let last = last_failure(&caller.namespace, now());
    println!(
        "last new flow towards the dead gateway: {} ms",
        last.as_millis()
    );
    assert!(last < Duration::from_secs(1), "{last:?}");
    world.sites.gateways[2].role.ready().unwrap();
    wait_for(
        "c to get new flows again",
        Duration::from_secs(10),
        || match tcp(&caller.namespace, service_ip(0)).unwrap().name.as_str() {
            "c" => Ok(()),
            other => Err(other.to_owned()),
        },
    )
    .unwrap();
    world.check();
}

/// The managers are away, so that only the far gateway can say that its instance is gone. The caller's gateway sends the
/// next flows elsewhere.
#[test]
#[ignore = "needs root"]
fn a_dead_instance_gets_no_new_flow_after_a_tenth_of_a_second_without_managers() {
    let mut world = World::laid("dead-instance", &three_nodes());
    let caller = world.caller(0);
    let (_b, c) = (world.echo(1, "b"), world.echo(2, "c"));
    meet(&caller.namespace);
    world.sites.stop_managers();
    world.sites.detach(2, &c.attached).unwrap();
    let last = last_failure(&caller.namespace, now());
    println!(
        "last new flow towards the dead instance: {} ms",
        last.as_millis()
    );
    assert!(last < Duration::from_millis(100), "{last:?}");
    world.sites.start_managers().unwrap();
    world.check();
}

/// Seconds of the test below; `SLUICE_LOAD_S` sets more.
const LOAD_S: u64 = 20;

/// More busy processes than cores, new flows all the while: nobody is suspected, and nothing fails.
#[test]
#[ignore = "needs root"]
fn a_busy_machine_loses_no_node() {
    let seconds = std::env::var("SLUICE_LOAD_S").map_or(LOAD_S, |text| text.parse().unwrap());
    let world = World::laid("busy", &three_nodes());
    let caller = world.caller(0);
    let (_b, _c) = (world.echo(1, "b"), world.echo(2, "c"));
    meet(&caller.namespace);
    let busy = Program::new("sh").args(["-c", "while :; do :; done"]);
    let log = world.sites.scratch.path().join("busy.log");
    let cores = std::thread::available_parallelism().unwrap().get();
    let mut hogs: Vec<_> = (0..2 * cores)
        .map(|_| caller.namespace.start(&busy, &log).unwrap())
        .collect();
    let begin = now();
    let mut flows = 0;
    while begin.elapsed() < Duration::from_secs(seconds) {
        tcp(&caller.namespace, service_ip(0)).unwrap();
        flows += 1;
        pause(Duration::from_millis(20));
    }
    for hog in &mut hogs {
        hog.kill();
    }
    println!("{flows} flows in {seconds} s");
    for gateway in &world.sites.gateways {
        let said = gateway.role.said();
        assert!(!said.contains("a node is lost"), "{said}");
    }
    world.check();
}

const MANY: usize = 30;
/// Where their ServiceIPs are.
const NET: u8 = 71;
/// From the start of the process until it forwards to whom it knew.
const RESTART: Duration = Duration::from_secs(1);
/// Whatever else runs on the machine only delays it: so the best of these counts.
const RESTARTS: u32 = 5;
/// So long it is looked on, to say how late a late one is.
const RESTART_WATCHED: Duration = Duration::from_secs(5);

/// For each of the many services, when after `begin` it answered first. They are asked all the time, so that nobody waits for
/// the repetition of a packet that was lost while the gateway was away.
fn first_answers(caller: &NetNs, begin: Instant) -> Vec<Duration> {
    let sockets: Vec<UdpSocket> = (0..MANY).map(|_| udp_socket(caller, 0, 0)).collect();
    for socket in &sockets {
        socket.set_nonblocking(true).unwrap();
    }
    let mut answered = vec![Duration::MAX; MANY];
    while answered.contains(&Duration::MAX) && begin.elapsed() < RESTART_WATCHED {
        for (number, socket) in sockets.iter().enumerate() {
            if answered[number] < Duration::MAX {
                continue;
            }
            if socket.recv(&mut [0; 200]).is_ok() {
                answered[number] = begin.elapsed();
            } else {
                // Nobody may be there yet.
                let _ = socket.send_to(b"?", (many_address(NET, number), PORT));
            }
        }
        pause(Duration::from_millis(10));
    }
    answered
}

/// Its snapshot is all it has: managers away, gateway killed. Within a second of the start of its process it forwards to
/// every service that it knew, by ServiceIP, and says how old that knowledge is.
#[test]
#[ignore = "needs root"]
fn a_killed_gateway_forwards_its_former_routes_without_managers() {
    let mut world = World::new("snapshot");
    let names = world.apply_many("many", NET, 0..MANY);
    let caller = world.caller(0);
    let instances: Vec<_> = names
        .iter()
        .map(|name| {
            let instance = world.attach(1, &format!("many.sluice.{name}.prod"), name);
            serve(&instance.namespace, name);
            instance
        })
        .collect();
    for (number, name) in names.iter().enumerate() {
        let to = many_address(NET, number);
        assert_eq!(tcp(&caller.namespace, to).unwrap().name, *name);
    }
    let file = world.sites.gateways[0].state_dir.join("gateway.json");
    wait_for("the routes on disk", Duration::from_secs(5), || {
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        let known = |instance: &Instance| text.contains(&format!("\"{}\"", instance.ns_ip(0)));
        if instances.iter().all(known) {
            Ok(())
        } else {
            Err(text)
        }
    })
    .unwrap();
    world.sites.stop_managers();
    let mut tried = Vec::new();
    let in_time = (0..RESTARTS).any(|_| {
        let role = &mut world.sites.gateways[0].role;
        role.kill();
        let begin = now();
        role.start().unwrap();
        let answered = first_answers(&caller.namespace, begin);
        let in_time = answered.iter().filter(|at| **at <= RESTART).count();
        let (first, last) = (answered.iter().min(), answered.iter().max());
        let said = format!("{in_time} of {MANY} in time, the first {first:?}, the last {last:?}");
        println!("{said}");
        tried.push(said);
        in_time * 100 >= MANY * 99
    });
    assert!(in_time, "after the start of the process: {tried:#?}");
    world.sites.gateways[0].role.ready().unwrap();
    for number in 0..MANY {
        tcp(&caller.namespace, many_address(NET, number)).unwrap();
    }
    pause(Duration::from_secs(2));
    let status = world.sites.gateways[0].role.ask("/v1/status").unwrap();
    assert!(status["routes_age_s"].as_u64().unwrap() >= 2, "{status}");
    world.sites.start_managers().unwrap();
    wait_for("the routes to be young", Duration::from_secs(20), || {
        let status = world.sites.gateways[0].role.ask("/v1/status").unwrap();
        match status["routes_age_s"].as_u64() {
            Some(0) => Ok(()),
            age => Err(format!("{age:?}")),
        }
    })
    .unwrap();
    world.check();
}
