//! Beside others: a NAT, firewall rules of Docker and of the legacy backend, Oakestra's node engine.

use crate::world::{
    ECHO, PORT, World, one_site, serve, service_ip, services, tcp, udp, udp_socket,
};
use sluice_perf::lab::clock::wait_for;
use sluice_perf::lab::sites::Layout;
use sluice_perf::lab::wire::veth;
use sluice_perf::lab::{NetNs, Program, http, tools};
use std::time::Duration;

/// Two nodes behind one public address, each with its own exposed port (thesis figure 4.7).
///
/// ```text
///  a ── gateway 1 ──┐
///                   nat ── wire ── gateway 3 ── c
///  b ── gateway 2 ──┘ 192.168.77.50, ports 50103 and 50104
/// ```
#[test]
#[ignore = "needs root"]
fn two_nodes_behind_one_address() {
    let layout = Layout {
        gateways: vec![0, 0, 0],
        ..one_site()
    };
    let mut world = World::built("nat", &layout);
    let nat = NetNs::new("nat").unwrap();
    world
        .sites
        .wire
        .as_mut()
        .unwrap()
        .join(&nat, "eth0", 1500)
        .unwrap();
    nat.ip("address add 192.168.77.50/24 dev eth0").unwrap();
    nat.sysctl("net/ipv4/ip_forward", "1").unwrap();
    for (index, port) in [(0, 50103), (1, 50104)] {
        let gateway = &world.sites.gateways[index];
        let host = gateway.namespace();
        let inside = index + 1;
        host.ip("link del eth0").unwrap();
        veth((host, "eth0"), (&nat, &format!("in{inside}")), 1500).unwrap();
        host.ip(&format!(
            "address add 10.0.{inside}.2/24 dev eth0\nroute add default via 10.0.{inside}.1"
        ))
        .unwrap();
        nat.ip(&format!("address add 10.0.{inside}.1/24 dev in{inside}"))
            .unwrap();
        let own = gateway.address[0].to_string();
        gateway
            .role
            .configure(|text| {
                text.replace(
                    &format!("node_address = \"{own}\""),
                    &format!("node_address = \"192.168.77.50\"\nexposed_port = {port}"),
                )
            })
            .unwrap();
    }
    // The router also lets its inside reach its own public address, under that address (hairpinning, RFC 4787 REQ-9).
    nat.nft(
        "table ip nat {\n\
         chain pre {\ntype nat hook prerouting priority -100\n\
         ip daddr 192.168.77.50 udp dport 50103 dnat to 10.0.1.2:50103\n\
         ip daddr 192.168.77.50 udp dport 50104 dnat to 10.0.2.2:50103\n}\n\
         chain post {\ntype nat hook postrouting priority 100\n\
         ip saddr 10.0.0.0/16 snat to 192.168.77.50\n}\n}\n",
    )
    .unwrap();
    world.start();
    let [a, b, c] = [(0, "a"), (1, "b"), (2, "c")].map(|(gateway, name)| world.echo(gateway, name));
    for family in [0, 1] {
        for from in [&a, &b, &c] {
            for (to, name) in [(&a, "a"), (&b, "b"), (&c, "c")] {
                let answer = tcp(&from.namespace, to.ip(family))
                    .unwrap_or_else(|error| panic!("{} to {name}: {error}", from.namespace.name()));
                assert_eq!((answer.name.as_str(), answer.peer), (name, from.ip(family)));
            }
        }
    }
    world.check();
}

/// Docker's FORWARD policy of drop, its jump chains, and strict reverse path filters.
#[test]
#[ignore = "needs root"]
fn dockers_rules_break_nothing() {
    let mut world = World::built("docker", &one_site());
    for gateway in &world.sites.gateways {
        let host = gateway.namespace();
        for tool in ["iptables", "ip6tables"] {
            let iptables = tools::find(tool).unwrap();
            for arguments in [
                "-w 5 -P FORWARD DROP",
                "-w 5 -N DOCKER-USER",
                "-w 5 -I FORWARD -j DOCKER-USER",
            ] {
                let program = Program::new(&iptables).args(arguments.split(' '));
                host.succeed(&program).unwrap();
            }
        }
        for key in ["all", "default", "eth0"] {
            host.sysctl(&format!("net/ipv4/conf/{key}/rp_filter"), "1")
                .unwrap();
        }
    }
    world.start();
    let (caller, a, b) = (world.caller(0), world.echo(0, "a"), world.echo(1, "b"));
    for family in [0, 1] {
        for to in [service_ip(family), a.ip(family), b.ip(family)] {
            tcp(&caller.namespace, to).unwrap_or_else(|error| panic!("{to}: {error}"));
            udp(&udp_socket(&caller.namespace, family, 0), to).unwrap();
        }
    }
    let host = world.sites.gateways[0].namespace();
    let list = Program::new(tools::find("iptables").unwrap()).args(["-S", "FORWARD"]);
    let rules = host.succeed(&list).unwrap();
    assert!(
        rules.contains("-P FORWARD DROP") && rules.contains("DOCKER-USER"),
        "{rules}"
    );
    world.check();
}

/// The calls of Oakestra's node engine, in its order: register, deploy, undeploy.
#[test]
#[ignore = "needs root"]
fn a_node_engine_deploys_over_the_unix_socket() {
    let mut world = World::built("oakestra", &one_site());
    let id = "5f0c5e0d6b1e4c0001234567";
    world.sites.clusters[0]
        .configure(|text| {
            text.replace(
                "[cluster]\n",
                "[cluster]\nallow_without_token = [\"192.168.78.0/24\"]\n",
            )
        })
        .unwrap();
    world
        .sites
        .root
        .configure(|text| {
            text.replace(
                "[root]\n",
                "[root]\nallow_without_token = [\"192.168.78.0/24\"]\n",
            )
        })
        .unwrap();
    let legacy = &world.sites.gateways[1];
    let own = format!(
        "node_id = \"{:024x}\"\ncluster = \"192.168.78.2:10003\"",
        0xed6e_0002_u64
    );
    legacy
        .role
        .configure(|text| text.replace(&own, "node_id = \"\"\ncluster = \"\""))
        .unwrap();
    let socket = legacy.node_socket.clone();
    // Without a cluster it is not ready, but it takes calls.
    world.sites.root.ready().unwrap();
    world.sites.clusters[0].ready().unwrap();
    world.sites.gateways[0].role.ready().unwrap();
    world.sites.gateways[1].role.start().unwrap();
    wait_for("the node socket", Duration::from_secs(5), || {
        http::request(
            &socket,
            "POST",
            "/container/undeploy",
            Some("{}"),
            Duration::from_secs(1),
        )
        .map_err(|error| error.to_string())
    })
    .unwrap();
    let call = |path: &str, body: serde_json::Value| {
        http::request(
            &socket,
            "POST",
            path,
            Some(&body.to_string()),
            Duration::from_secs(15),
        )
        .unwrap()
    };
    let namespace = NetNs::new("container").unwrap();
    serve(&namespace, "container");
    let log = world.sites.scratch.path().join("container.log");
    let process = namespace
        .start(&Program::new("sleep").arg("1000"), &log)
        .unwrap();
    let deploy = serde_json::json!({
        "pid": process.pid(), "serviceName": ECHO, "instanceNumber": 0, "portMappings": "",
    });
    assert_eq!(
        call("/container/deploy", deploy.clone()).status,
        400,
        "not registered yet"
    );
    let register = serde_json::json!({"client_id": id, "cluster_address": "192.168.78.2"});
    assert_eq!(call("/register", register).status, 200);

    world
        .sites
        .apply(&services())
        .unwrap_or_else(|error| panic!("{error}"));
    world.schedule(ECHO, 0);
    let deployed = call("/container/deploy", deploy);
    assert_eq!(deployed.status, 200, "{deployed:?}");
    let body: serde_json::Value = serde_json::from_str(&deployed.body).unwrap();
    assert_eq!(body["serviceName"], ECHO);
    assert!(
        body["nsAddress"].is_string() && body["nsAddressv6"].is_string(),
        "{body}"
    );

    let caller = world.caller(0);
    for family in [0, 1] {
        let answer = tcp(&caller.namespace, service_ip(family)).unwrap();
        assert_eq!(answer.name, "container");
    }
    let undeploy = serde_json::json!({
        "pid": -1, "serviceName": ECHO, "instanceNumber": 0, "portMappings": "",
    });
    assert_eq!(call("/container/undeploy", undeploy.clone()).status, 200);
    assert_eq!(
        call("/container/undeploy", undeploy).status,
        200,
        "again is fine"
    );
    world.check();
}

/// A published port of the node leads to the instance and answers.
#[test]
#[ignore = "needs root"]
fn a_published_port_leads_to_the_instance() {
    let world = World::new("published");
    let namespace = NetNs::new("published").unwrap();
    serve(&namespace, "published");
    let admin = world.sites.gateways[0]
        .role
        .admin
        .to_string_lossy()
        .into_owned();
    let path = namespace.path().to_string_lossy().into_owned();
    let ports = format!("8080:{PORT}");
    world
        .sites
        .sluice([
            "attach",
            "--service",
            ECHO,
            "--netns",
            &path,
            "--ports",
            &ports,
            "--socket",
            &admin,
        ])
        .unwrap_or_else(|error| panic!("{error}"));
    // From another node, over the wire, to the node's own address.
    let other = world.sites.gateways[1].namespace().clone();
    let to = std::net::SocketAddr::new(world.sites.gateways[0].address[0], 8080);
    let answer = other.run(move || {
        let mut stream = std::net::TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
        crate::world::again(&mut stream)
    });
    assert_eq!(answer.unwrap().name, "published");
    world.check();
}

/// The legacy backend's chain cannot be opened without replacing it whole: the log says that it is in the way.
#[test]
#[ignore = "needs root"]
fn a_legacy_chain_that_drops_is_named_in_the_log_and_so_is_its_end() {
    let mut world = World::built("legacy-iptables", &one_site());
    let command = tools::find("ip6tables-legacy").unwrap();
    let run = |world: &World, rule: &str| {
        // Its lock is the machine's.
        let program = Program::new(&command)
            .args(["-w", "5"])
            .args(rule.split(' '));
        let gateway = world.sites.gateways[0].namespace();
        gateway.succeed(&program).unwrap();
    };
    run(&world, "-P FORWARD DROP");
    world.start();
    let says = |text: &str| {
        wait_for(text, Duration::from_secs(20), || {
            let said = world.sites.gateways[0].role.said();
            said.contains(text).then_some(()).ok_or(said)
        })
        .unwrap();
    };
    says("the FORWARD chain of ip6tables-legacy drops forwarded packets");
    run(&world, "-P FORWARD ACCEPT");
    says("ip6tables-legacy no longer drops our packets");
    assert!(
        !world.sites.gateways[1]
            .role
            .said()
            .contains("tables-legacy")
    );
    world.check();
}
