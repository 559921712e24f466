//! Two tenants on two nodes of two clusters: who may call whom, and what a revoked rule does to a connection that lives.
//!
//! ```text
//!          shop: caller ── gateway 1 ── wire ── gateway 2 ── echo, bank
//!          bank: teller ──┘
//! ```

mod healed;
mod newcomer;
mod wide;

use crate::offload::{ask_until_offloaded, status};
use crate::world::{
    Answer, CALLER, Instance, PORT, World, again, connect, serve, tcp, udp, udp_socket,
};
use sluice_perf::lab::clock::{now, pause, wait_for};
use sluice_perf::lab::sites::{Layout, Microservice, PLAIN, descriptor};
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::time::Duration;

const BANK: &str = "bank.money.api.prod";
const TELLER: &str = "bank.money.teller.prod";
const VAULT: &str = "bank.money.vault.prod";
/// The ServiceIPs of [`BANK`].
const BANK_IP: [&str; 2] = ["10.30.71.1", "fdff:2000::71"];
/// A new rule shows by then: the root writes it and tells the clusters, each asks the root again and tells the nodes that it
/// refused, and the next try waits for one table query. All that is milliseconds; the rest is for a machine that has more to do.
const LIMIT: Duration = Duration::from_secs(2);

fn bank_ip(family: usize) -> IpAddr {
    BANK_IP[family].parse().unwrap()
}

/// The roles, with this in the cluster's and gateways' sections.
fn world(name: &str, isolation: &str) -> World {
    let layout = Layout {
        gateways: vec![0, 1],
        ..Layout::two_sites()
    };
    laid(name, isolation, layout)
}

fn laid(name: &str, isolation: &str, layout: Layout) -> World {
    let line = format!("isolation = \"{isolation}\"");
    let layout = Layout {
        gateway: line.clone(),
        ..layout
    };
    let mut world = World::built(name, &layout);
    for cluster in &world.sites.clusters {
        let configured =
            cluster.configure(|text| text.replace("[cluster]\n", &format!("[cluster]\n{line}\n")));
        configured.unwrap();
    }
    world.start();
    let service = |name, rr_ip| Microservice {
        name,
        namespace: "prod",
        rr_ip,
    };
    let bank = [
        service("api", Some(BANK_IP)),
        service("teller", None),
        service("vault", None),
    ];
    let applied = world.sites.apply(&descriptor("bank", "money", &bank));
    applied.unwrap();
    world
}

/// An instance of the bank, which answers.
fn bank(world: &World) -> Instance {
    let instance = world.attach(1, BANK, "bank");
    serve(&instance.namespace, "bank");
    instance
}

fn rule(world: &World, verb: &str, from: &str, to: &str) -> String {
    let admin = world.sites.root.admin.to_string_lossy().into_owned();
    let done = world
        .sites
        .sluice(["rule", verb, from, to, "--socket", &admin]);
    done.unwrap_or_else(|error| panic!("{error}"))
}

/// Tries until a new rule has reached both gateways.
fn wait_for_call(mut call: impl FnMut() -> io::Result<Answer>) {
    wait_for("a call that a rule allows", LIMIT, || {
        call().map(drop).map_err(|error| error.to_string())
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

/// Refused by an ICMP error: as unreachable or, by IPv6 and a policy, as not permitted. Not by waiting.
fn is_refused(answer: &io::Result<Answer>) -> bool {
    let kinds = [
        ErrorKind::HostUnreachable,
        ErrorKind::NetworkUnreachable,
        ErrorKind::PermissionDenied,
    ];
    answer
        .as_ref()
        .is_err_and(|error| kinds.contains(&error.kind()))
}

#[test]
#[ignore = "needs root"]
fn another_tenant_cannot_be_called_and_a_connect_fails_at_once() {
    let world = world("tenants", "enforce");
    let (caller, bank) = (world.caller(0), bank(&world));
    for family in [0, 1] {
        for to in [bank_ip(family), bank.ip(family)] {
            // As if it did not exist.
            let answer = tcp(&caller.namespace, to);
            assert!(is_refused(&answer), "{answer:?}");
        }
    }
    assert!(world.accounts(0).dropped("absent") > 0);
    // A teller beside the caller: now their gateway knows the bank, but not for everybody.
    let teller = world.attach(0, TELLER, "teller");
    for family in [0, 1] {
        let to = bank_ip(family);
        wait_for_call(|| tcp(&teller.namespace, to));
        let answer = tcp(&caller.namespace, to);
        assert!(is_refused(&answer), "{answer:?}");
        let socket = udp_socket(&caller.namespace, family, 0);
        socket.connect((to, PORT)).unwrap();
        socket.send(b"?").unwrap();
        let refused = socket.recv(&mut [0; 10]).unwrap_err();
        assert!(is_refused(&Err(refused)));
    }
    assert!(world.accounts(0).dropped("not-allowed") >= 4);
    world.check();
}

#[test]
#[ignore = "needs root"]
fn a_rule_allows_one_direction_and_replies() {
    let world = world("rule", "enforce");
    let (caller, bank) = (world.caller(0), bank(&world));
    serve(&caller.namespace, "caller");
    let shown = rule(&world, "add", "test.sluice.*.prod", BANK);
    assert!(shown.contains("test.sluice.*.prod"), "{shown}");
    for family in [0, 1] {
        wait_for_call(|| tcp(&caller.namespace, bank_ip(family)));
        let socket = udp_socket(&caller.namespace, family, 0);
        let answer = udp(&socket, bank.ip(family)).unwrap();
        assert_eq!(
            (answer.name.as_str(), answer.peer),
            ("bank", caller.ip(family))
        );
        let back = tcp(&bank.namespace, caller.ip(family));
        assert!(is_refused(&back), "{back:?}");
    }
    assert!(world.accounts(1).dropped("not-allowed") >= 2);
    world.check();
}

/// The longer somebody asks in vain, the longer a gateway believes that there is nothing: here for 4 s, when the rule comes.
#[test]
#[ignore = "needs root"]
fn a_rule_ends_what_was_believed_before() {
    let world = world("believed", "enforce");
    let (caller, _bank) = (world.caller(0), bank(&world));
    let begin = now();
    while begin.elapsed() < Duration::from_secs(4) {
        for family in [0, 1] {
            let answer = tcp(&caller.namespace, bank_ip(family));
            assert!(is_refused(&answer), "{answer:?}");
        }
        pause(Duration::from_millis(100));
    }
    rule(&world, "add", CALLER, BANK);
    for family in [0, 1] {
        wait_for_call(|| tcp(&caller.namespace, bank_ip(family)));
    }
    world.check();
}

/// With the caller's own tenant still beside it, whose connection to the same instance goes on.
#[test]
#[ignore = "needs root"]
fn a_revoked_rule_cuts_connections_that_live() {
    cuts_connections_that_live("revoked", "");
    cuts_connections_that_live("revoked-plain", PLAIN);
}

/// In plain one is offloaded, too.
fn cuts_connections_that_live(name: &str, tunnel: &str) {
    let layout = Layout {
        gateways: vec![0, 1],
        tunnel: tunnel.to_owned(),
        ..Layout::two_sites()
    };
    let world = laid(name, "enforce", layout);
    let (caller, bank) = (world.caller(0), bank(&world));
    let teller = world.attach(0, TELLER, "teller");
    rule(&world, "add", CALLER, BANK);
    for family in [0, 1] {
        let to = bank.ip(family);
        wait_for_call(|| tcp(&caller.namespace, to));
        let mut stream = connect(&caller.namespace, to).unwrap();
        let mut friend = connect(&teller.namespace, to).unwrap();
        if family == 0 && tunnel == PLAIN {
            ask_until_offloaded(&world, 2, || {
                again(&mut friend)?;
                again(&mut stream)
            });
        }
        again(&mut stream).unwrap();
        rule(&world, "delete", CALLER, BANK);
        let mut error = None;
        wait_for("the connection to be cut", Duration::from_secs(1), || {
            error = again(&mut stream).err();
            let cut = error.is_some();
            cut.then_some(()).ok_or_else(|| "it goes on".to_owned())
        })
        .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(error.unwrap().kind(), ErrorKind::ConnectionReset);
        assert!(is_refused(&tcp(&caller.namespace, to)));
        assert_eq!(again(&mut friend).unwrap().name, "bank");
        if family == 0 {
            rule(&world, "add", CALLER, BANK);
        }
    }
    world.check();
}

#[test]
#[ignore = "needs root"]
fn observing_lets_pass_logs_and_counts() {
    let world = world("observe", "observe");
    let (caller, _bank) = (world.caller(0), bank(&world));
    for family in [0, 1] {
        // The news of the bank's place comes from another cluster.
        let answer = wait_for("the bank to answer", LIMIT, || {
            tcp(&caller.namespace, bank_ip(family)).map_err(|error| error.to_string())
        })
        .unwrap();
        assert_eq!(answer.name, "bank");
    }
    for gateway in [0, 1] {
        wait_for("the observed flows", LIMIT, || {
            let observed = status(&world, gateway, "flows_observed");
            (observed == 2)
                .then_some(())
                .ok_or_else(|| observed.to_string())
        })
        .unwrap_or_else(|error| panic!("{error}"));
        let said = world.sites.gateways[gateway].role.said();
        assert!(said.contains("no rule allows this call"), "{said}");
        assert!(said.contains(BANK) && said.contains(CALLER), "{said}");
        assert_eq!(world.accounts(gateway).dropped("not-allowed"), 0);
    }
    world.check();
}
