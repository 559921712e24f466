//! Ends and restarts: processes die, namespaces go, the gateway is killed.
//!
//! ```text
//!  caller, a ── gateway 1 ── wire ── gateway 2 ── echo b
//! ```

use crate::world::{
    CALLER, ECHO, World, again, connect, one_site, serve, service_ip, tcp, tcp_impatient,
};
use sluice_perf::lab::clock::{now, wait_for};
use sluice_perf::lab::sites::{Layout, Target};
use sluice_perf::lab::{NetNs, Program};
use std::io::ErrorKind;
use std::time::Duration;

/// The instances of a service that a gateway knows.
fn known(world: &World, gateway: usize, service: &str) -> usize {
    let rows = world.sites.gateways[gateway]
        .role
        .ask("/v1/instances")
        .unwrap();
    rows.as_array()
        .unwrap()
        .iter()
        .filter(|row| row["service"] == service)
        .count()
}

#[test]
#[ignore = "needs root"]
fn a_dead_process_leaves_the_tables_without_an_undeploy_call() {
    let world = World::new("dead-process");
    let namespace = NetNs::new("mortal").unwrap();
    serve(&namespace, "mortal");
    let log = world.sites.scratch.path().join("sleep.log");
    let mut process = namespace
        .start(&Program::new("sleep").arg("1000"), &log)
        .unwrap();
    world
        .sites
        .attach(1, ECHO, Target::Pid(process.pid()))
        .unwrap();
    let caller = world.caller(0);
    assert_eq!(
        tcp(&caller.namespace, service_ip(0)).unwrap().name,
        "mortal"
    );
    assert_eq!(known(&world, 1, ECHO), 1);
    process.kill();
    let died = now();
    for gateway in [1, 0] {
        wait_for(
            "the instance to leave the tables",
            Duration::from_secs(5),
            || match known(&world, gateway, ECHO) {
                0 => Ok(()),
                left => Err(format!("{left} at gateway {}", gateway + 1)),
            },
        )
        .unwrap();
        println!("gateway {}: {} ms", gateway + 1, died.elapsed().as_millis());
    }
    assert!(tcp(&caller.namespace, service_ip(0)).is_err());
    world.check();
}

/// Managers stopped, gateway killed: a restart adopts what is there, and requests work within a second.
#[test]
#[ignore = "needs root"]
fn a_killed_gateway_adopts_what_it_finds() {
    let mut world = World::new("restart");
    let (caller, a, b) = (world.caller(0), world.echo(0, "a"), world.echo(1, "b"));
    for family in [0, 1] {
        for to in [service_ip(family), a.ip(family), b.ip(family)] {
            tcp(&caller.namespace, to).unwrap();
        }
    }
    let links = |world: &World| {
        let show = Program::new("ip").args(["-o", "link", "show", "type", "veth"]);
        let text = world.sites.gateways[0].namespace().succeed(&show).unwrap();
        let mut names: Vec<String> = text
            .lines()
            .filter_map(|line| Some(line.split(": ").nth(1)?.to_owned()))
            .collect();
        names.sort();
        names
    };
    let before = links(&world);
    // What was learnt is on disk a moment later.
    let file = world.sites.gateways[0].state_dir.join("gateway.json");
    let host = world.sites.gateways[1].address[0];
    wait_for("the routes on disk", Duration::from_secs(5), || {
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        let known = |ip: std::net::IpAddr| text.contains(&format!("\"{ip}\""));
        // Where it runs comes a moment after that it exists.
        let placed = known(host);
        if placed && [0, 1].iter().all(|&family| known(b.ip(family))) {
            Ok(())
        } else {
            Err(text)
        }
    })
    .unwrap();
    world.sites.stop_managers();
    world.sites.gateways[0].role.kill();
    world.sites.gateways[0].role.start().unwrap();
    let begin = now();
    for family in [0, 1] {
        for (to, name) in [(a.ip(family), "a"), (b.ip(family), "b")] {
            wait_for(
                &format!("requests to {to}"),
                Duration::from_secs(5),
                || match tcp_impatient(&caller.namespace, to) {
                    Ok(answer) if answer.name == name => Ok(()),
                    other => Err(format!("{other:?}")),
                },
            )
            .unwrap_or_else(|error| panic!("{error}\n{}", world.sites.gateways[0].role.said()));
        }
        tcp(&caller.namespace, service_ip(family)).unwrap();
    }
    println!(
        "all addresses answered after {} ms",
        begin.elapsed().as_millis()
    );
    assert_eq!(links(&world), before, "devices are adopted, not made anew");
    world.sites.start_managers().unwrap();
    // The addresses are the same, nothing was given out twice.
    let late = world.caller(0);
    assert!(
        [&caller, &a]
            .iter()
            .all(|old| old.ip(0) != late.ip(0) && old.ns_ip(0) != late.ns_ip(0))
    );
    tcp(&late.namespace, b.ip(0)).unwrap();
    world.check();
}

#[test]
#[ignore = "needs root"]
fn known_services_talk_while_every_manager_is_away() {
    let mut world = World::new("managers-away");
    let (caller, _a, b) = (world.caller(0), world.echo(0, "a"), world.echo(1, "b"));
    for family in [0, 1] {
        tcp(&caller.namespace, service_ip(family)).unwrap();
        tcp(&caller.namespace, b.ip(family)).unwrap();
    }
    world.sites.stop_managers();
    for family in [0, 1] {
        for _ in 0..20 {
            tcp(&caller.namespace, service_ip(family)).unwrap();
            tcp(&caller.namespace, b.ip(family)).unwrap();
        }
    }
    world.sites.start_managers().unwrap();
    tcp(&caller.namespace, service_ip(0)).unwrap();
    world.check();
}

/// A planned stop leaves the node as it was found, but for what is attached.
#[test]
#[ignore = "needs root"]
fn detaching_removes_the_devices() {
    let world = World::new("detach");
    let caller = world.attach(0, CALLER, "short-lived");
    let devices = |namespace: &NetNs| {
        let show = Program::new("ip").args(["-o", "link", "show"]);
        namespace.succeed(&show).unwrap().lines().count()
    };
    assert!(devices(&caller.namespace) >= 2);
    world.sites.detach(0, &caller.attached).unwrap();
    wait_for(
        "the device to go",
        Duration::from_secs(5),
        || match devices(&caller.namespace) {
            1 => Ok(()),
            more => Err(format!("{more} devices")),
        },
    )
    .unwrap();
    assert_eq!(known(&world, 0, CALLER), 0);
    world.check();
}

/// Nobody but the root knows what an address means that no gateway has dialled before. While it is away the cluster
/// says so, and the caller's connect ends with an error of its own instead of waiting.
#[test]
#[ignore = "needs root"]
fn without_the_root_an_unknown_service_is_unavailable_and_found_when_it_is_back() {
    let mut world = World::new("root-away");
    let (caller, _b) = (world.caller(0), world.echo(1, "b"));
    world.sites.root.kill();
    let error = tcp(&caller.namespace, "10.30.99.99".parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{error}");
    assert!(world.accounts(0).dropped("unavailable") > 0);
    world.sites.root.ready().unwrap();
    wait_for(
        "the root's answer about the same address",
        Duration::from_secs(20),
        || {
            let error = tcp(&caller.namespace, "10.30.99.99".parse().unwrap()).unwrap_err();
            match world.accounts(0).dropped("absent") {
                0 => Err(error.to_string()),
                _ => Ok(()),
            }
        },
    )
    .unwrap();
    tcp(&caller.namespace, service_ip(0)).unwrap();
    world.check();
}

/// A root without its store knows no service and gives taken addresses away. Its cluster does not believe it: nothing is
/// detached, and what is asked for waits for the root that knows.
#[test]
#[ignore = "needs root"]
fn a_root_that_lost_its_store_ends_nothing() {
    let mut world = World::new("root-wiped");
    let (caller, a, b) = (world.caller(0), world.echo(0, "a"), world.echo(1, "b"));
    let talk = || {
        for family in [0, 1] {
            for to in [service_ip(family), a.ip(family), b.ip(family)] {
                tcp(&caller.namespace, to).unwrap();
            }
        }
    };
    talk();
    let mut to_b = connect(&caller.namespace, b.ip(0)).unwrap();
    let store = world.sites.scratch.path().join("root/root.redb");
    let kept = store.with_extension("kept");
    world.sites.root.stop();
    std::fs::rename(&store, &kept).unwrap();
    world.sites.root.ready().unwrap();
    wait_for(
        "the cluster to notice",
        Duration::from_secs(20),
        || match world.sites.clusters[0].said() {
            said if said.contains("the root has another store") => Ok(()),
            said => Err(said),
        },
    )
    .unwrap();
    let admin = world.sites.root.admin.to_string_lossy().into_owned();
    let pattern = "*.*.*.*";
    let refused = world
        .sites
        .sluice(["rule", "add", "--socket", &admin, pattern, pattern])
        .unwrap_err();
    assert!(refused.to_string().contains("another store"), "{refused}");
    world.sites.clusters[0].kill();
    world.sites.clusters[0].start().unwrap();
    wait_for(
        "the restarted cluster to notice",
        Duration::from_secs(20),
        || match world.sites.clusters[0].said() {
            said if said.matches("the root has another store").count() >= 2 => Ok(()),
            said => Err(said),
        },
    )
    .unwrap();
    talk();
    again(&mut to_b).unwrap();
    for gateway in [0, 1] {
        assert_eq!(known(&world, gateway, ECHO), 2, "gateway {gateway}");
    }
    world.sites.root.stop();
    std::fs::rename(&kept, &store).unwrap();
    world.sites.root.ready().unwrap();
    world.sites.clusters[0].ready().unwrap();
    let late = world.echo(1, "late");
    assert!([&caller, &a, &b].iter().all(|old| old.ip(0) != late.ip(0)));
    assert_eq!(tcp(&caller.namespace, late.ip(0)).unwrap().name, "late");
    talk();
    again(&mut to_b).unwrap();
    world.check();
}

/// Who deletes a service takes its instances off the network, wherever they are attached.
#[test]
#[ignore = "needs root"]
fn deleting_a_service_detaches_its_instances() {
    let world = World::new("delete");
    let (caller, a, b) = (world.caller(0), world.echo(0, "a"), world.echo(1, "b"));
    let mut to_a = connect(&caller.namespace, a.ip(0)).unwrap();
    let mut to_b = connect(&caller.namespace, b.ip(1)).unwrap();
    for stream in [&mut to_a, &mut to_b] {
        again(stream).unwrap();
    }
    let admin = world.sites.root.admin.to_string_lossy().into_owned();
    world
        .sites
        .sluice(["delete", "--socket", &admin, ECHO])
        .unwrap();
    for (gateway, instance) in [(0, &a), (1, &b)] {
        wait_for(
            "the instance to be detached",
            Duration::from_secs(5),
            || {
                let links = Program::new("ip").args(["-o", "link", "show", "type", "veth"]);
                let left = instance.namespace.succeed(&links).unwrap();
                match (known(&world, gateway, ECHO), left.as_str()) {
                    (0, "") => Ok(()),
                    (rows, left) => Err(format!("{rows} rows, devices {left:?}")),
                }
            },
        )
        .unwrap();
    }
    for stream in [&mut to_a, &mut to_b] {
        again(stream).unwrap_err();
    }
    let error = tcp(&caller.namespace, service_ip(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{error}");
    // Its neighbours stay.
    assert_eq!(known(&world, 0, CALLER), 1);
    world.check();
}

/// A node of five NsIPs, all of which were used a moment ago. A gateway that forgot that would give one of them again.
#[test]
#[ignore = "needs root"]
fn an_ns_ip_rests_over_a_restart_of_the_gateway() {
    let layout = Layout {
        fastpath: "\n[plan]\nnode_length_v4 = 29\n".to_owned(),
        ..one_site()
    };
    let mut world = World::laid("rest", &layout);
    let mut used = std::collections::BTreeSet::new();
    for round in 0..5 {
        let caller = world.caller(0);
        assert!(used.insert(caller.ns_ip(0)), "{used:?}");
        world.sites.detach(0, &caller.attached).unwrap();
        // After the first one: it is killed, and stops in order.
        if round < 2 {
            let role = &mut world.sites.gateways[0].role;
            if round == 0 {
                role.kill();
            } else {
                role.stop();
            }
            role.start().unwrap();
            role.ready().unwrap();
        }
    }
    let role = &mut world.sites.gateways[0].role;
    role.kill();
    role.start().unwrap();
    role.ready().unwrap();
    let namespace = NetNs::new("early").unwrap();
    let refused = world
        .sites
        .attach(0, CALLER, Target::Namespace(&namespace))
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("0 are in use and 5 rest after use; the next is free in"),
        "{refused}"
    );
    world.check();
}
