//! Which nodes speak in the encrypted format with which, and what goes on while their keys and sessions change.
//!
//! ```text
//!  root, cluster ── management
//!  instances ── gateway 1 ── wire ── gateway 2 ── instances
//! ```

use crate::bad_input::{inner, send};
use crate::keys::key;
use crate::world::{World, again, connect, one_site, service_ip, tcp, udp, udp_socket};
use serde_json::Value;
use sluice_perf::lab::account::Accounts;
use sluice_perf::lab::clock::{now, pause, wait_for};
use sluice_perf::lab::sites::PLAIN;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

fn status(world: &World, gateway: usize, field: &str) -> Value {
    let role = &world.sites.gateways[gateway].role;
    role.ask("/v1/status").unwrap()[field].take()
}

/// `[tunnel]` of one gateway.
fn configure(world: &World, gateway: usize, lines: &str) {
    let role = &world.sites.gateways[gateway].role;
    let section = format!("[tunnel]\n{lines}\n");
    role.configure(|text| text.replace("[tunnel]\n", &section))
        .unwrap();
}

/// A node without a key, which gateway 1 may or may not speak to.
#[test]
#[ignore = "needs root"]
fn a_node_without_a_key_is_spoken_to_only_where_plain_is_allowed() {
    for allowed in [true, false] {
        let mut world = World::built("keyless", &one_site());
        configure(&world, 1, PLAIN);
        if allowed {
            configure(&world, 0, "plain_peers = [\"192.168.77.0/24\"]");
        }
        world.start();
        let (caller, b) = (world.caller(0), world.echo(1, "b"));
        let answer = tcp(&caller.namespace, service_ip(0));
        let peer = Value::from(vec!["192.168.77.12:50103"]);
        let none = Value::from(Vec::<String>::new());
        if allowed {
            assert_eq!(answer.unwrap().name, "b");
            assert_eq!(tcp(&caller.namespace, b.ip(1)).unwrap().name, "b");
            assert_eq!(status(&world, 0, "peers_plain"), peer);
            assert_eq!(status(&world, 0, "peers_refused"), none);
        } else {
            assert!(answer.is_err(), "{answer:?}");
            assert_eq!(status(&world, 0, "peers_plain"), none);
            assert_eq!(status(&world, 0, "peers_refused"), peer);
        }
        assert_eq!(status(&world, 1, "encrypt"), false);
        world.check();
    }
}

/// In the name of the node and of the instance that has a connection, in plain.
#[test]
#[ignore = "needs root"]
fn plain_packets_in_the_name_of_an_encrypted_node_reach_nobody() {
    let world = World::new("encrypted-forged");
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    tcp(&caller.namespace, b.ip(0)).unwrap();
    let spy = udp_socket(&b.namespace, 0, 4444);
    spy.set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let packet = inner(caller.ip(0), b.ns_ip(0), 4444, b"forged");
    let before = world.accounts(1);
    let node = world.sites.gateways[0].namespace().clone();
    send(&node, world.sites.gateways[1].address[0], vec![packet]);
    let mut bytes = [0; 100];
    assert!(spy.recv_from(&mut bytes).is_err());
    let refused = |accounts: &Accounts| accounts.dropped("source-forged");
    let after = world.accounts(1);
    assert!(refused(&after) > refused(&before), "{after:?}");
    tcp(&caller.namespace, b.ip(0)).unwrap();
    world.check();
}

/// Each node in turn, again and again, under connections of both families and datagrams both ways.
#[test]
#[ignore = "needs root"]
fn keys_are_rotated_again_and_again_and_nothing_is_lost() {
    let world = World::new("encrypted-rotation");
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    tcp(&caller.namespace, service_ip(0)).unwrap();
    let mut streams = [0, 1].map(|family| connect(&caller.namespace, b.ip(family)).unwrap());
    let sockets = [0, 1].map(|family| udp_socket(&caller.namespace, family, 0));
    let mut talk = || {
        for family in [0, 1] {
            assert_eq!(again(&mut streams[family]).unwrap().name, "b");
            // Datagrams are not repeated: one that is lost fails the test.
            assert_eq!(udp(&sockets[family], b.ip(family)).unwrap().name, "b");
        }
    };
    talk();
    for round in 0..6 {
        let node = &world.sites.gateways[round % 2].role;
        let (before, after) = (key(node, "show"), key(node, "rotate"));
        assert_ne!(before, after);
        let begin = now();
        while begin.elapsed() < Duration::from_secs(2) {
            talk();
            pause(Duration::from_millis(5));
        }
    }
    for gateway in [0, 1] {
        let accounts = world.accounts(gateway);
        for reason in ["no-session", "peer-silent", "not-authentic"] {
            assert_eq!(accounts.dropped(reason), 0, "{reason}: {accounts:?}");
        }
    }
    world.check();
}

/// Killed and started again, it has no session, and the other end does not know that.
#[test]
#[ignore = "needs root"]
fn a_gateway_that_starts_anew_is_spoken_to_within_a_second() {
    let mut world = World::new("encrypted-restart");
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    let socket = udp_socket(&caller.namespace, 0, 0);
    let to: IpAddr = b.ip(0);
    // The first packet waits for answers and for a session.
    udp(&socket, to).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    for _ in 0..3 {
        // State is on disk within a moment.
        pause(Duration::from_secs(2));
        world.sites.stop_managers();
        let gateway = &mut world.sites.gateways[1].role;
        gateway.kill();
        gateway.start().unwrap();
        gateway.ready().unwrap();
        wait_for("an answer", Duration::from_secs(1), || {
            udp(&socket, to).map_err(|error| error.to_string())
        })
        .unwrap();
        world.sites.start_managers().unwrap();
    }
    world.check();
}

/// What Wireshark reads captures with; fastpath/worker's tests do.
#[test]
#[ignore = "needs root"]
fn the_keys_of_sessions_are_written_to_a_file_only_if_it_is_configured() {
    let mut world = World::built("key-log", &one_site());
    let path = std::env::temp_dir().join(format!("sluice-keys-{}", std::process::id()));
    configure(&world, 0, &format!("key_log = {path:?}\ndscp = 10"));
    world.start();
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    assert_eq!(tcp(&caller.namespace, b.ip(0)).unwrap().name, "b");
    let log = std::fs::read_to_string(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(mode & 0o777, 0o600);
    let other = key(&world.sites.gateways[1].role, "show");
    let expected = format!("REMOTE_STATIC_PUBLIC_KEY = {other}\nLOCAL_EPHEMERAL_PRIVATE_KEY = ");
    assert!(log.contains(&expected), "{} lines", log.lines().count());
    world.check();
}
